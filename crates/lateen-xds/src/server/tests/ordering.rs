//! Make before break, and warming.

use super::*;

/// A client that is subscribed to everything a sidecar is.
fn sidecar(types: &[(TypeUrl, &str)], endpoints: &str, routes: &str) -> DeltaStream {
    let mut stream = DeltaStream::new();
    stream.set(types);
    stream.subscribe(Lds, "");
    stream.subscribe(Rds, routes);
    stream.subscribe(Eds, endpoints);
    stream.subscribe(Cds, "");
    stream
}

#[test]
fn whatever_order_a_client_asks_in_clusters_come_first() {
    let all = [(Cds, "a"), (Eds, "a"), (Lds, "l"), (Rds, "80")];
    let mut stream = sidecar(&all, "a", "80");
    assert_eq!(stream.drain(), ["CDS +a", "EDS +a", "LDS +l", "RDS +80"]);
}

#[test]
fn routes_wait_until_new_clusters_have_their_endpoints() {
    let mut stream = sidecar(&[(Cds, "a"), (Eds, "a"), (Rds, "80")], "a", "80");
    stream.drain();
    stream.set(&[(Cds, "a b"), (Eds, "a b"), (Rds, "80=2")]);
    let clusters = stream.next().unwrap();
    assert_eq!(shape(&clusters), "CDS +b");
    assert_eq!(stream.next(), None, "not before the ACK");
    stream.ack(&clusters);
    assert_eq!(stream.next(), None, "not before the endpoints");
    stream.subscribe(Eds, "b");
    let endpoints = stream.next().unwrap();
    assert_eq!(shape(&endpoints), "EDS +b");
    assert_eq!(stream.next(), None, "not before their ACK");
    stream.ack(&endpoints);
    assert_eq!(stream.drain(), ["RDS +80"]);
}

#[test]
fn endpoints_that_do_not_exist_are_not_waited_for() {
    let mut stream = sidecar(&[(Cds, "a"), (Lds, "l")], "", "80");
    stream.drain();
    stream.set(&[(Cds, "a b"), (Lds, "l=2")]);
    assert_eq!(stream.drain(), ["CDS +b", "LDS +l"]);
}

#[test]
fn endpoints_that_vanish_are_no_longer_waited_for() {
    let mut stream = sidecar(&[(Cds, "a"), (Eds, "a"), (Lds, "l")], "", "80");
    assert_eq!(stream.drain(), ["CDS +a"]);
    stream.set(&[(Cds, "a"), (Lds, "l")]);
    assert_eq!(stream.drain(), ["LDS +l", "RDS -80"]);
}

#[test]
fn a_client_that_never_asks_for_endpoints_waits_no_longer_than_told() {
    let mut stream = sidecar(&[(Cds, "a"), (Eds, "a"), (Lds, "l")], "", "80");
    stream.drain();
    let wait = SessionConfig::default().make_wait;
    assert_eq!(stream.session.deadline(), Some(stream.now + wait));
    stream.now += wait;
    assert_eq!(stream.drain(), ["LDS +l", "RDS -80"]);
    assert_eq!(stream.session.deadline(), None);
}

#[test]
fn a_client_that_never_acknowledges_clusters_still_gets_listeners() {
    let mut stream = DeltaStream::new();
    stream.set(&[(Cds, "a"), (Lds, "l")]);
    stream.subscribe(Cds, "");
    stream.subscribe(Lds, "");
    stream.next().unwrap();
    assert_eq!(stream.next(), None);
    stream.now += SessionConfig::default().make_wait;
    assert_eq!(stream.acked(), "LDS +l");
    stream.set(&[(Cds, "a=2"), (Lds, "l=2")]);
    assert_eq!(stream.next(), None, "each change waits anew");
    stream.now += SessionConfig::default().make_wait;
    assert_eq!(stream.acked(), "LDS +l");
}

#[test]
fn moving_endpoints_hold_up_nothing() {
    let mut stream = sidecar(&[(Cds, "a"), (Eds, "a"), (Lds, "l")], "a", "80");
    stream.drain();
    stream.set(&[(Cds, "a"), (Eds, "a=2"), (Lds, "l=2")]);
    assert_eq!(shape(&stream.next().unwrap()), "EDS +a");
    assert_eq!(shape(&stream.next().unwrap()), "LDS +l");
}

#[test]
fn the_endpoints_of_a_changed_cluster_are_sent_again() {
    let mut stream = sidecar(&[(Cds, "a b"), (Eds, "a b")], "a b", "80");
    stream.drain();
    stream.set(&[(Cds, "a=2 b"), (Eds, "a b")]);
    assert_eq!(stream.drain(), ["CDS +a", "EDS +a"]);
}

#[test]
fn endpoints_are_found_under_the_service_name_of_the_cluster() {
    let mut stream = DeltaStream::new();
    stream.subscribe(Cds, "");
    stream.subscribe(Eds, "service");
    let named = |version: &str| {
        let mut set = set(&[(Eds, "service")]);
        let eds = EdsClusterConfig {
            service_name: "service".to_owned(),
            ..EdsClusterConfig::default()
        };
        let cluster = Cluster {
            eds_cluster_config: Some(eds),
            ..eds_cluster("c", version)
        };
        set.insert(Cds, Resource::new("c", &cluster));
        set
    };
    stream.session.set_resources(named("1"));
    stream.drain();
    stream.session.set_resources(named("2"));
    assert_eq!(stream.drain(), ["CDS +c", "EDS +service"]);
}

#[test]
fn clusters_with_endpoints_of_their_own_are_followed_by_none() {
    let mut stream = DeltaStream::new();
    stream.subscribe(Cds, "");
    stream.subscribe(Eds, "c");
    for version in ["1", "2"] {
        let mut set = set(&[(Eds, "c")]);
        let kind = Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns.into()));
        let cluster = Cluster {
            cluster_discovery_type: kind,
            ..eds_cluster("c", version)
        };
        set.insert(Cds, Resource::new("c", &cluster));
        stream.session.set_resources(set);
        let expected: &[&str] = if version == "1" {
            &["CDS +c", "EDS +c"]
        } else {
            &["CDS +c"]
        };
        assert_eq!(stream.drain(), expected);
    }
}

#[test]
fn a_removed_cluster_stays_until_its_users_are_acknowledged() {
    let mut stream = sidecar(
        &[(Cds, "a b"), (Eds, "a b"), (Lds, "l"), (Rds, "80")],
        "a b",
        "80",
    );
    stream.drain();
    stream.set(&[(Cds, "a"), (Eds, "a"), (Lds, "l"), (Rds, "80=2")]);
    let routes = stream.next().unwrap();
    assert_eq!(shape(&routes), "RDS +80");
    assert_eq!(stream.next(), None, "the client still routes to b");
    stream.ack(&routes);
    assert_eq!(stream.drain(), ["CDS -b", "EDS -b"]);
}

#[test]
fn additions_of_clusters_do_not_wait_with_removals() {
    let mut stream = sidecar(&[(Cds, "a"), (Rds, "80")], "", "80");
    stream.drain();
    stream.set(&[(Cds, "b"), (Rds, "80=2")]);
    assert_eq!(stream.drain(), ["CDS +b", "RDS +80", "CDS -a"]);
}

#[test]
fn a_removal_is_forgotten_if_the_cluster_comes_back() {
    let mut stream = sidecar(&[(Cds, "a"), (Rds, "80")], "", "80");
    stream.drain();
    stream.set(&[(Rds, "80=2")]);
    let routes = stream.next().unwrap();
    stream.set(&[(Cds, "a"), (Rds, "80=2")]);
    stream.ack(&routes);
    assert_eq!(stream.drain(), [""; 0]);
    assert_eq!(stream.session.deadline(), None);
}

#[test]
fn a_client_that_rejects_its_routes_keeps_the_clusters_for_a_while() {
    let mut stream = sidecar(&[(Cds, "a"), (Rds, "80")], "", "80");
    stream.drain();
    stream.set(&[(Rds, "80=2")]);
    let routes = stream.next().unwrap();
    stream.nack(&routes, "bad route");
    assert_eq!(
        stream.next(),
        None,
        "its last good routes may use the cluster"
    );
    let wait = SessionConfig::default().break_wait;
    assert_eq!(stream.session.deadline(), Some(stream.now + wait));
    stream.now += wait;
    assert_eq!(stream.drain(), ["CDS -a"]);
    assert_eq!(stream.session.deadline(), None);
}

#[test]
fn routes_go_after_the_listeners_that_used_them() {
    let mut stream = sidecar(&[(Lds, "l"), (Rds, "80")], "", "80");
    stream.drain();
    stream.set(&[(Lds, "l=2")]);
    let listeners = stream.next().unwrap();
    assert_eq!(shape(&listeners), "LDS +l");
    assert_eq!(stream.next(), None);
    stream.ack(&listeners);
    assert_eq!(stream.drain(), ["RDS -80"]);
}

#[test]
fn extensions_are_never_removed() {
    let ecds = TypeUrl::TypedExtensionConfig;
    let mut stream = DeltaStream::new();
    stream.set(&[(ecds, "wasm")]);
    stream.subscribe(ecds, "wasm");
    stream.drain();
    stream.set(&[]);
    assert_eq!(stream.drain(), [""; 0]);
    assert_eq!(stream.session.deadline(), None);
}

#[test]
fn a_reconnecting_client_keeps_what_it_brought_until_it_has_asked_for_the_rest() {
    let held = set(&[(Cds, "gone")]);
    let mut stream = DeltaStream::new();
    stream.set(&[(Lds, "l=2"), (Rds, "80=2")]);
    stream.request(DeltaDiscoveryRequest {
        initial_resource_versions: [("gone".to_owned(), held.get(Cds)["gone"].version_string())]
            .into(),
        ..delta_request(Cds)
    });
    assert_eq!(stream.drain(), ["CDS"]);
    stream.subscribe(Lds, "");
    stream.subscribe(Rds, "80");
    assert_eq!(stream.drain(), ["LDS +l", "RDS +80", "CDS -gone"]);
}

#[test]
fn endpoints_that_come_back_are_waited_for_again() {
    let mut stream = sidecar(&[(Cds, "a"), (Eds, "a"), (Rds, "80")], "", "80");
    stream.drain();
    stream.set(&[(Cds, "a"), (Rds, "80")]);
    assert_eq!(stream.drain(), ["LDS", "RDS +80"]);
    stream.set(&[(Cds, "a"), (Eds, "a"), (Rds, "80=2")]);
    assert_eq!(stream.next(), None);
    stream.subscribe(Eds, "a");
    assert_eq!(stream.drain(), ["EDS +a", "RDS +80"]);
}

#[test]
fn endpoints_asked_for_on_a_new_stream_are_waited_for() {
    let held = set(&[(Cds, "a")]);
    let mut stream = DeltaStream::new();
    stream.set(&[(Cds, "a"), (Eds, "a"), (Rds, "80")]);
    stream.request(DeltaDiscoveryRequest {
        initial_resource_versions: [("a".to_owned(), held.get(Cds)["a"].version_string())].into(),
        ..delta_request(Cds)
    });
    assert_eq!(stream.drain(), ["CDS"]);
    stream.subscribe(Eds, "a");
    stream.subscribe(Rds, "80");
    let endpoints = stream.next().unwrap();
    assert_eq!(shape(&endpoints), "EDS +a");
    assert_eq!(stream.next(), None);
    stream.ack(&endpoints);
    assert_eq!(stream.drain(), ["RDS +80"]);
}

#[test]
fn endpoints_sent_before_the_cluster_do_not_count() {
    // The client drops a cluster and with it the subscription; endpoints that cross this on the way are dropped as well.
    let mut stream = sidecar(&[(Cds, "a"), (Eds, "a"), (Rds, "80")], "a", "80");
    stream.drain();
    stream.set(&[(Rds, "80")]);
    assert_eq!(shape(&stream.next().unwrap()), "CDS -a");
    let removal = stream.session.status().types[&Cds]
        .sent
        .clone()
        .unwrap()
        .nonce;
    stream.set(&[(Cds, "a=2"), (Eds, "a=2"), (Rds, "80=2")]);
    let crossing = stream.next().unwrap();
    assert_eq!(shape(&crossing), "EDS +a");
    stream.request(DeltaDiscoveryRequest {
        response_nonce: removal,
        ..delta_request(Cds)
    });
    stream.unsubscribe(Eds, "a");
    let cluster = stream.next().unwrap();
    assert_eq!(shape(&cluster), "CDS +a");
    stream.ack(&crossing);
    stream.ack(&cluster);
    assert_eq!(
        stream.next(),
        None,
        "the client has yet to ask for the endpoints"
    );
    stream.subscribe(Eds, "a");
    assert_eq!(stream.drain(), ["EDS +a", "RDS +80"]);
}
