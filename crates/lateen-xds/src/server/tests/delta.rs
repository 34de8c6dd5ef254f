//! Subscriptions, answers and reconnects of delta streams.

use super::*;

#[test]
fn a_wildcard_gets_everything_and_then_only_changes() {
    let mut stream = DeltaStream::new();
    stream.set(&[(Lds, "a b c")]);
    stream.subscribe(Lds, "");
    assert_eq!(stream.drain(), ["LDS +a +b +c"]);
    stream.set(&[(Lds, "a b=2 d")]);
    assert_eq!(stream.drain(), ["LDS +b +d -c"]);
    stream.set(&[(Lds, "a b=2 d")]);
    assert_eq!(stream.drain(), [""; 0]);
}

#[test]
fn the_first_request_is_answered_even_with_nothing() {
    let mut stream = DeltaStream::new();
    stream.set(&[]);
    stream.subscribe(Cds, "");
    assert_eq!(stream.drain(), ["CDS"]);
    assert_eq!(stream.sync(Cds), SyncState::Synced);
}

#[test]
fn names_get_what_they_name() {
    let mut stream = DeltaStream::new();
    stream.set(&[(Eds, "a b c")]);
    stream.subscribe(Eds, "b");
    assert_eq!(stream.drain(), ["EDS +b"]);
    stream.subscribe(Eds, "c");
    assert_eq!(stream.drain(), ["EDS +c"]);
    stream.set(&[(Eds, "a=2 b=2 c")]);
    assert_eq!(stream.drain(), ["EDS +b"]);
}

#[test]
fn an_unknown_name_is_said_to_be_absent_once_and_sent_when_it_appears() {
    let mut stream = DeltaStream::new();
    stream.set(&[(Sds, "default")]);
    stream.subscribe(Sds, "kubernetes://cert");
    assert_eq!(stream.drain(), ["SDS -kubernetes://cert"]);
    stream.set(&[(Sds, "default=2")]);
    assert_eq!(stream.drain(), [""; 0]);
    stream.set(&[(Sds, "kubernetes://cert")]);
    assert_eq!(stream.drain(), ["SDS +kubernetes://cert"]);
    stream.set(&[]);
    assert_eq!(stream.drain(), ["SDS -kubernetes://cert"]);
}

#[test]
fn a_name_subscribed_to_again_is_sent_again() {
    // The client may have dropped it; the protocol demands it.
    let mut stream = DeltaStream::new();
    stream.set(&[(Rds, "80 90")]);
    stream.subscribe(Rds, "80 90");
    assert_eq!(stream.drain(), ["RDS +80 +90"]);
    stream.subscribe(Rds, "80");
    assert_eq!(stream.drain(), ["RDS +80"]);
}

#[test]
fn what_is_unsubscribed_is_neither_sent_nor_removed() {
    let mut stream = DeltaStream::new();
    stream.set(&[(Eds, "a b")]);
    stream.subscribe(Eds, "a b");
    stream.drain();
    stream.unsubscribe(Eds, "a");
    stream.set(&[(Eds, "b=2")]);
    assert_eq!(stream.drain(), ["EDS +b"]);
}

#[test]
fn a_wildcard_can_be_given_back_while_names_stay() {
    let mut stream = DeltaStream::new();
    stream.set(&[(Cds, "a b")]);
    stream.subscribe(Cds, "* a");
    assert_eq!(stream.drain(), ["CDS +a +b"]);
    stream.unsubscribe(Cds, "*");
    stream.set(&[(Cds, "a=2 b=2")]);
    assert_eq!(stream.drain(), ["CDS +a"]);
}

#[test]
fn an_initial_request_without_names_is_no_wildcard_for_types_asked_for_by_name() {
    let mut stream = DeltaStream::new();
    stream.set(&[(Eds, "a")]);
    stream.subscribe(Eds, "");
    assert_eq!(stream.drain(), [""; 0]);
}

#[test]
fn one_response_is_in_flight_and_newer_states_coalesce() {
    let mut stream = DeltaStream::new();
    stream.set(&[(Lds, "a")]);
    stream.subscribe(Lds, "");
    let first = stream.next().unwrap();
    for version in 2..6 {
        stream.set(&[(Lds, &format!("a={version} b"))]);
        assert_eq!(stream.next(), None);
    }
    assert_eq!(stream.sync(Lds), SyncState::Stale);
    stream.ack(&first);
    assert_eq!(stream.drain(), ["LDS +a +b"]);
}

#[test]
fn what_changes_and_changes_back_while_in_flight_is_not_sent() {
    let mut stream = DeltaStream::new();
    stream.set(&[(Lds, "a")]);
    stream.subscribe(Lds, "");
    let first = stream.next().unwrap();
    stream.set(&[(Lds, "a=2")]);
    stream.set(&[(Lds, "a=1")]);
    stream.ack(&first);
    assert_eq!(stream.next(), None);
}

#[test]
fn types_wait_for_answers_independently() {
    let mut stream = DeltaStream::new();
    stream.set(&[(Nds, "table"), (Sds, "default")]);
    stream.subscribe(Nds, "");
    stream.subscribe(Sds, "default");
    assert_eq!(shape(&stream.next().unwrap()), "SDS +default");
    assert_eq!(shape(&stream.next().unwrap()), "NDS +table");
}

#[test]
fn a_rejected_version_is_not_sent_again_until_it_changes() {
    let mut stream = DeltaStream::new();
    stream.set(&[(Lds, "good bad")]);
    stream.subscribe(Lds, "");
    let response = stream.next().unwrap();
    assert_eq!(
        stream.nack(&response, "no such filter"),
        Answer::Nack("no such filter".to_owned())
    );
    assert_eq!(stream.sync(Lds), SyncState::Error);
    assert_eq!(stream.next(), None);

    stream.set(&[(Lds, "good=2 bad")]);
    assert_eq!(stream.drain(), ["LDS +good"], "the bad one stays out");
    stream.set(&[(Lds, "good=2 bad=2")]);
    assert_eq!(stream.drain(), ["LDS +bad"]);
}

#[test]
fn the_error_is_kept_until_a_later_response_is_accepted() {
    let mut stream = DeltaStream::new();
    stream.set(&[(Lds, "a")]);
    stream.subscribe(Lds, "");
    stream.acked();
    stream.set(&[(Lds, "a=2")]);
    let second = stream.next().unwrap();
    stream.nack(&second, "bad");
    let status = stream.session.status().types[&Lds].clone();
    let error = status.error.unwrap();
    assert_eq!(
        (error.of.nonce.as_str(), error.message.as_str()),
        (second.nonce.as_str(), "bad")
    );
    assert_ne!(status.acked.unwrap().nonce, second.nonce);

    stream.set(&[(Lds, "a=3")]);
    assert_eq!(stream.drain(), ["LDS +a"]);
    let status = stream.session.status().types[&Lds].clone();
    assert_eq!((status.sync(), status.error), (SyncState::Synced, None));
}

#[test]
fn a_rejected_change_that_is_taken_back_is_sent() {
    // The client may have applied a part of the response.
    let mut stream = DeltaStream::new();
    stream.set(&[(Lds, "a")]);
    stream.subscribe(Lds, "");
    stream.acked();
    stream.set(&[(Lds, "a=2")]);
    let second = stream.next().unwrap();
    stream.nack(&second, "bad");
    stream.set(&[(Lds, "a")]);
    assert_eq!(stream.drain(), ["LDS +a"]);
}

#[test]
fn stale_nonces_acknowledge_nothing_but_their_subscriptions_count() {
    let mut stream = DeltaStream::new();
    stream.set(&[(Eds, "a b")]);
    stream.subscribe(Eds, "a");
    let first = stream.next().unwrap();
    let received = stream.request(DeltaDiscoveryRequest {
        response_nonce: "no such nonce".to_owned(),
        resource_names_subscribe: words("b"),
        error_detail: rejected("of something long gone"),
        ..delta_request(Eds)
    });
    assert_eq!(
        (received.answer, received.resubscribed),
        (Answer::Stale, true)
    );
    assert_eq!(stream.sync(Eds), SyncState::Stale);
    assert_eq!(stream.next(), None, "the first response is still in flight");
    assert_eq!(stream.ack(&first), Answer::Ack(Duration::ZERO));
    assert_eq!(stream.ack(&first), Answer::Stale);
    assert_eq!(stream.drain(), ["EDS +b"]);
}

#[test]
fn a_reconnecting_client_gets_what_changed_and_hears_what_is_gone() {
    let before = set(&[(Cds, "same changed gone")]);
    let versions = before
        .get(Cds)
        .values()
        .map(|r| (r.name.to_string(), r.version_string()))
        .collect();
    let mut stream = DeltaStream::new();
    stream.set(&[(Cds, "same changed=2 new")]);
    stream.subscribe(Lds, "");
    stream.subscribe(Rds, "80");
    stream.drain();
    stream.request(DeltaDiscoveryRequest {
        initial_resource_versions: versions,
        response_nonce: "from an earlier stream".to_owned(),
        ..delta_request(Cds)
    });
    assert_eq!(stream.drain(), ["CDS +changed +new -gone"]);
}

#[test]
fn a_reconnecting_client_that_has_everything_gets_an_empty_answer() {
    let versions = set(&[(Rds, "80")]).get(Rds)["80"].version_string();
    let mut stream = DeltaStream::new();
    stream.set(&[(Rds, "80")]);
    stream.request(DeltaDiscoveryRequest {
        resource_names_subscribe: words("80"),
        initial_resource_versions: [("80".to_owned(), versions)].into(),
        ..delta_request(Rds)
    });
    assert_eq!(stream.drain(), ["RDS"]);
    assert_eq!(stream.sync(Rds), SyncState::Synced);
}

#[test]
fn versions_of_another_control_plane_are_replaced() {
    let mut stream = DeltaStream::new();
    stream.set(&[(Lds, "a")]);
    stream.request(DeltaDiscoveryRequest {
        initial_resource_versions: [("a", "2025-01-01/7"), ("old", "x")]
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .into(),
        ..delta_request(Lds)
    });
    assert_eq!(stream.drain(), ["LDS +a -old"]);
}

#[test]
fn versions_on_the_wire_are_hashes_of_content() {
    let mut one = DeltaStream::new();
    let mut other = DeltaStream::new();
    for stream in [&mut one, &mut other] {
        stream.set(&[(Lds, "a b")]);
        stream.subscribe(Lds, "");
    }
    let (one, other) = (one.next().unwrap(), other.next().unwrap());
    assert_eq!(one.system_version_info, other.system_version_info);
    assert_eq!(
        one.resources[0].version,
        set(&[(Lds, "a")]).get(Lds)["a"].version_string()
    );
}

#[test]
fn the_control_plane_names_itself_if_told_to() {
    let config = SessionConfig {
        identifier: "istiod".into(),
        ..SessionConfig::default()
    };
    let mut stream = DeltaStream::with(config);
    stream.set(&[]);
    stream.subscribe(Cds, "");
    assert_eq!(
        stream.next().unwrap().control_plane.unwrap().identifier,
        "istiod"
    );
}
