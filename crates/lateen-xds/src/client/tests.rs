//! The client's half, without sockets.

use lateen_envoy::TypeUrl::{
    Cluster as Cds, ClusterLoadAssignment as Eds, Listener as Lds, Secret as Sds,
};
use lateen_envoy::pb::envoy::service::discovery::v3::Resource as WireResource;
use lateen_envoy::pb::google::protobuf::Any;

use super::*;

fn session() -> ClientSession {
    ClientSession::new(Node {
        id: "sidecar~10.0.0.1~a.b~b.svc".to_owned(),
        ..Node::default()
    })
}

/// A response of `resources`, written as `name=version`, and `removed`.
fn response(ty: TypeUrl, nonce: &str, resources: &str, removed: &str) -> DeltaDiscoveryResponse {
    let resource = |word: &str| {
        let (name, version) = word.split_once('=').unwrap();
        let body = Any {
            type_url: ty.as_str().to_owned(),
            value: word.as_bytes().to_vec(),
        };
        WireResource {
            name: name.to_owned(),
            version: version.to_owned(),
            resource: Some(body),
            ..WireResource::default()
        }
    };
    DeltaDiscoveryResponse {
        type_url: ty.as_str().to_owned(),
        nonce: nonce.to_owned(),
        resources: resources.split_whitespace().map(resource).collect(),
        removed_resources: removed.split_whitespace().map(str::to_owned).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn update(session: &mut ClientSession, response: DeltaDiscoveryResponse) -> Update {
    match session.on_response(response) {
        Incoming::Update(update) => update,
        other => panic!("{other:?}"),
    }
}

fn versions(request: &DeltaDiscoveryRequest) -> BTreeMap<&str, &str> {
    request
        .initial_resource_versions
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect()
}

#[test]
fn a_stream_opens_with_all_subscriptions_in_push_order_and_the_node_once() {
    let mut session = session();
    assert_eq!(
        session.subscribe(Sds, ["default"]),
        None,
        "there is no stream yet"
    );
    session.subscribe_all(Lds);
    session.subscribe_all(Cds);
    session.subscribe_all(Eds);
    let opening = session.restart();
    let asked: Vec<_> = opening
        .iter()
        .map(|r| {
            (
                TypeUrl::parse(&r.type_url).unwrap(),
                r.resource_names_subscribe.join(" "),
            )
        })
        .collect();
    let expected = [(Cds, ""), (Eds, "*"), (Lds, ""), (Sds, "default")];
    assert_eq!(asked, expected.map(|(ty, names)| (ty, names.to_owned())));
    let nodes: Vec<_> = opening.iter().map(|r| r.node.is_some()).collect();
    assert_eq!(nodes, [true, false, false, false]);
}

#[test]
fn only_new_names_are_asked_for() {
    let mut session = session();
    session.restart();
    assert_eq!(
        session
            .subscribe(Eds, ["a", "b"])
            .unwrap()
            .resource_names_subscribe,
        ["a", "b"]
    );
    assert_eq!(
        session
            .subscribe(Eds, ["b", "c"])
            .unwrap()
            .resource_names_subscribe,
        ["c"]
    );
    assert_eq!(session.subscribe(Eds, ["a"]), None);
    assert_eq!(
        session
            .unsubscribe(Eds, ["a", "x"])
            .unwrap()
            .resource_names_unsubscribe,
        ["a"]
    );
    assert_eq!(session.unsubscribe(Eds, ["a"]), None);
}

#[test]
fn a_later_wildcard_is_written_out() {
    let mut session = session();
    session.restart();
    session.subscribe(Cds, ["a"]);
    assert_eq!(
        session.subscribe_all(Cds).unwrap().resource_names_subscribe,
        ["*"]
    );
    assert_eq!(session.subscribe_all(Cds), None);
}

#[test]
fn a_type_without_subscriptions_is_not_mentioned_on_a_new_stream() {
    let mut session = session();
    session.subscribe(Cds, ["a"]);
    session.unsubscribe(Cds, ["a"]);
    assert_eq!(session.restart(), []);
}

#[test]
fn a_new_stream_continues_with_the_accepted_versions() {
    let mut session = session();
    session.subscribe_all(Lds);
    session.restart();
    let first = update(&mut session, response(Lds, "1", "a=1 b=1", ""));
    let ack = session.ack(&first.ticket).unwrap();
    assert_eq!((ack.response_nonce.as_str(), ack.error_detail), ("1", None));

    let second = update(&mut session, response(Lds, "2", "a=2 c=2", "b"));
    let nack = session.nack(&second.ticket, "cannot bind").unwrap();
    assert_eq!(nack.error_detail.unwrap().message, "cannot bind");

    session.disconnected();
    assert_eq!(
        versions(&session.restart()[0]),
        BTreeMap::from([("a", "1"), ("b", "1")])
    );
}

#[test]
fn a_part_of_an_update_can_be_refused() {
    let mut session = session();
    session.subscribe_all(Lds);
    session.restart();
    let first = update(&mut session, response(Lds, "1", "a=1 b=1", ""));
    session.ack(&first.ticket);
    let second = update(&mut session, response(Lds, "2", "a=2 c=2", "b"));
    let refused = BTreeSet::from([Arc::from("c")]);
    let nack = session
        .nack_some(&second.ticket, "c is bad", &refused)
        .unwrap();
    assert!(nack.error_detail.is_some());
    assert_eq!(
        versions(&session.restart()[0]),
        BTreeMap::from([("a", "2")])
    );
}

#[test]
fn verdicts_on_an_earlier_stream_are_void() {
    let mut session = session();
    session.subscribe_all(Lds);
    session.restart();
    let old = update(&mut session, response(Lds, "1", "a=1", ""));
    session.disconnected();
    assert_eq!(session.ack(&old.ticket), None);
    session.restart();
    // The new server counts its nonces from one, too.
    let new = update(&mut session, response(Lds, "1", "a=7", ""));
    assert_eq!(session.ack(&old.ticket), None);
    assert!(session.ack(&new.ticket).is_some());
    assert_eq!(session.ack(&new.ticket), None, "once is enough");
    assert_eq!(
        versions(&session.restart()[0]),
        BTreeMap::from([("a", "7")])
    );
}

#[test]
fn subscriptions_made_without_a_stream_are_said_on_the_next() {
    let mut session = session();
    session.subscribe(Eds, ["a"]);
    session.restart();
    session.disconnected();
    assert_eq!(session.subscribe(Eds, ["b"]), None);
    assert_eq!(session.restart()[0].resource_names_subscribe, ["a", "b"]);
}

#[test]
fn unsubscribed_resources_are_not_claimed() {
    let mut session = session();
    session.subscribe(Eds, ["a", "b"]);
    session.restart();
    let first = update(&mut session, response(Eds, "1", "a=1 b=1", ""));
    session.ack(&first.ticket);
    let crossing = update(&mut session, response(Eds, "2", "a=2 b=2", ""));
    session.unsubscribe(Eds, ["a"]);
    session.ack(&crossing.ticket);
    let crossing = update(&mut session, response(Eds, "3", "a=2 b=2", ""));
    assert_eq!(crossing.changed.len(), 1, "nobody wants a any more");
    assert_eq!(
        versions(&session.restart()[0]),
        BTreeMap::from([("b", "2")])
    );
}

#[test]
fn malformed_responses_are_rejected() {
    let mut session = session();
    session.subscribe_all(Lds);
    session.restart();
    let mut bare = response(Lds, "1", "a=1", "");
    bare.resources[0].resource = None;
    let mut wrong = response(Lds, "2", "a=1", "");
    wrong.resources[0].resource.as_mut().unwrap().type_url = Cds.as_str().to_owned();
    for (response, nonce) in [(bare, "1"), (wrong, "2")] {
        let Incoming::Refused(request) = session.on_response(response) else {
            panic!("accepted")
        };
        assert_eq!(request.response_nonce, nonce);
        assert!(request.error_detail.unwrap().message.contains("\"a\""));
    }
    assert_eq!(
        session.on_response(response(Cds, "3", "", "")),
        Incoming::Ignored
    );
}

#[test]
fn a_server_that_does_not_wait_for_answers_is_held_off() {
    let mut session = session();
    session.subscribe_all(Lds);
    session.restart();
    for nonce in 0..MAX_PENDING {
        update(&mut session, response(Lds, &nonce.to_string(), "a=1", ""));
    }
    let more = session.on_response(response(Lds, "more", "a=1", ""));
    assert!(matches!(more, Incoming::Refused(_)), "{more:?}");
}

#[test]
fn a_stream_that_opens_without_a_word_says_who_we_are_with_the_first() {
    let mut session = session();
    assert!(session.is_idle());
    assert_eq!(session.restart(), []);
    assert!(session.subscribe(Eds, ["a"]).unwrap().node.is_some());
    assert!(session.subscribe(Eds, ["b"]).unwrap().node.is_none());
    assert!(!session.is_idle());
}
