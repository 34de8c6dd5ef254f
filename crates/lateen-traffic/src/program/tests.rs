//! Tests of updates: what is shared, what is refused, what is referred to; and of original-destination dispatch.

use lateen_envoy::json;
use lateen_envoy::pb::envoy::config::{
    cluster::v3 as cds, endpoint::v3 as eds, listener::v3 as lds, route::v3 as rds,
};
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;

use super::*;

fn cluster(name: &str, extra: Json) -> Change {
    let mut message = json!({ "name": name, "type": "EDS" });
    message
        .as_object_mut()
        .unwrap()
        .extend(extra.as_object().cloned().unwrap_or_default());
    let message: cds::Cluster = json::from_value(message).unwrap();
    Change::Upsert(TypeUrl::Cluster, Resource::new(name, &message))
}

fn listener(name: &str, address: &str, port: u16, extra: Json) -> Change {
    let mut message = json!({
        "name": name,
        "address": { "socket_address": { "address": address, "port_value": port } },
        "filter_chains": [{ "filters": [{ "name": "hcm", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "rds": { "route_config_name": format!("routes-{port}"), "config_source": { "ads": {} } },
            "http_filters": [{ "name": "router", "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }],
        } }] }],
    });
    message
        .as_object_mut()
        .unwrap()
        .extend(extra.as_object().cloned().unwrap_or_default());
    let message: lds::Listener = json::from_value(message).unwrap();
    Change::Upsert(TypeUrl::Listener, Resource::new(name, &message))
}

fn updated(program: &Program, changes: &[Change]) -> Program {
    let (program, rejections) = program.update(changes);
    assert_eq!(rejections, []);
    program
}

#[test]
fn an_update_shares_what_did_not_change() {
    let first = updated(
        &Program::new(),
        &[cluster("a", json!({})), cluster("b", json!({}))],
    );
    let second = updated(&first, &[cluster("b", json!({ "connect_timeout": "1s" }))]);
    assert!(Arc::ptr_eq(
        first.cluster("a").unwrap(),
        second.cluster("a").unwrap()
    ));
    assert!(!Arc::ptr_eq(
        first.cluster("b").unwrap(),
        second.cluster("b").unwrap()
    ));
    assert!(Arc::ptr_eq(&first.listeners, &second.listeners));
    let third = updated(&second, &[Change::Remove(TypeUrl::Cluster, "a".into())]);
    assert!(third.cluster("a").is_none() && second.cluster("a").is_some());
    assert_eq!(
        third
            .clusters()
            .iter()
            .map(|(name, _)| &**name)
            .collect::<Vec<_>>(),
        ["b"]
    );
}

#[test]
fn a_refused_resource_keeps_its_last_good_version_and_the_rest_moves_on() {
    let first = updated(&Program::new(), &[cluster("a", json!({}))]);
    let (second, rejections) = first.update(&[
        cluster("a", json!({ "lb_subset_config": {} })),
        cluster("b", json!({})),
    ]);
    assert!(Arc::ptr_eq(
        first.cluster("a").unwrap(),
        second.cluster("a").unwrap()
    ));
    assert!(second.cluster("b").is_some());
    let reason = "lb_subset_config: is not supported".to_owned();
    assert_eq!(
        rejections,
        [Rejection {
            type_url: TypeUrl::Cluster,
            name: "a".into(),
            reason
        }]
    );
}

#[test]
fn references_are_what_to_subscribe_to() {
    let tls = json!({ "transport_socket": { "name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": { "tls_certificate_sds_secret_configs": [{ "name": "default" }], "validation_context_sds_secret_config": { "name": "ROOTCA" } } } } });
    let program = updated(
        &Program::new(),
        &[
            cluster("a", tls),
            cluster(
                "b",
                json!({ "eds_cluster_config": { "service_name": "other" } }),
            ),
            cluster("c", json!({ "type": "STATIC" })),
            listener("l", "0.0.0.0", 80, json!({})),
        ],
    );
    let names = |type_url| {
        let names = program.references(type_url).into_iter();
        let names: BTreeSet<String> = names.map(ToString::to_string).collect();
        names.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(names(TypeUrl::ClusterLoadAssignment), ["a", "other"]);
    assert_eq!(names(TypeUrl::RouteConfiguration), ["routes-80"]);
    assert_eq!(names(TypeUrl::Secret), ["ROOTCA", "default"]);
    assert!(names(TypeUrl::Cluster).is_empty());
}

#[test]
fn endpoints_and_routes_are_found_through_what_refers_to_them() {
    let endpoints: eds::ClusterLoadAssignment =
        json::from_value(json!({ "cluster_name": "other" })).unwrap();
    let routes: rds::RouteConfiguration = json::from_value(json!({ "name": "routes-80" })).unwrap();
    let program = updated(
        &Program::new(),
        &[
            cluster(
                "b",
                json!({ "eds_cluster_config": { "service_name": "other" } }),
            ),
            cluster("late", json!({})),
            listener("l", "0.0.0.0", 80, json!({})),
            Change::Upsert(
                TypeUrl::ClusterLoadAssignment,
                Resource::new("other", &endpoints),
            ),
            Change::Upsert(
                TypeUrl::RouteConfiguration,
                Resource::new("routes-80", &routes),
            ),
        ],
    );
    assert!(
        program
            .endpoints_of(program.cluster("b").unwrap())
            .is_some()
    );
    assert!(
        program
            .endpoints_of(program.cluster("late").unwrap())
            .is_none()
    );
    let chain = &program.listener("l").unwrap().chains[0];
    let NetworkFilterKind::Http(manager) = &chain.filters[0].kind else {
        panic!("no manager")
    };
    assert_eq!(
        program
            .routes_of(&manager.routes)
            .map(|routes| &*routes.name),
        Some("routes-80")
    );
}

#[test]
fn a_redirected_connection_goes_to_the_listener_of_its_destination() {
    let virtual_one = json!({ "use_original_dst": true });
    let unbound = || json!({ "bind_to_port": false });
    let program = updated(
        &Program::new(),
        &[
            listener("virtualOutbound", "0.0.0.0", 15001, virtual_one),
            listener("0.0.0.0_9080", "0.0.0.0", 9080, unbound()),
            listener("10.96.0.7_443", "10.96.0.7", 443, unbound()),
            listener("[::]_9080", "::", 9080, unbound()),
        ],
    );
    let accepting = program.listener("virtualOutbound").unwrap();
    for (destination, name, reason) in [
        (
            "10.96.0.7:443",
            "10.96.0.7_443",
            DispatchReason::ExactAddress,
        ),
        (
            "10.96.0.8:443",
            "virtualOutbound",
            DispatchReason::Accepting,
        ),
        (
            "10.96.0.8:9080",
            "0.0.0.0_9080",
            DispatchReason::WildcardPort,
        ),
        ("[fd00::1]:9080", "[::]_9080", DispatchReason::WildcardPort),
        (
            "[::ffff:10.96.0.7]:443",
            "10.96.0.7_443",
            DispatchReason::ExactAddress,
        ),
        (
            "[fd00::1]:443",
            "virtualOutbound",
            DispatchReason::Accepting,
        ),
    ] {
        let found = program.dispatch(accepting, destination.parse().unwrap());
        assert_eq!(
            (&*found.listener.name, found.reason),
            (name, reason),
            "{destination}"
        );
    }
    let plain = program.listener("0.0.0.0_9080").unwrap();
    assert_eq!(
        program
            .dispatch(plain, "10.96.0.7:443".parse().unwrap())
            .reason,
        DispatchReason::NotRedirected
    );
}

#[test]
fn an_address_belongs_to_one_listener() {
    let first = updated(&Program::new(), &[listener("a", "0.0.0.0", 80, json!({}))]);
    let (second, rejections) = first.update(&[listener("b", "0.0.0.0", 80, json!({}))]);
    assert_eq!(
        rejections[0].reason,
        "address: address 0.0.0.0:80 is already that of listener \"a\""
    );
    assert!(second.listener("b").is_none());
    // Within one update an address may move on, and a listener may be replaced by itself.
    let moved = updated(
        &first,
        &[
            listener("b", "0.0.0.0", 80, json!({})),
            Change::Remove(TypeUrl::Listener, "a".into()),
        ],
    );
    assert_eq!(
        moved
            .listener_at("0.0.0.0:80".parse().unwrap())
            .map(|listener| &*listener.name),
        Some("b")
    );
    let same = updated(&moved, &[listener("b", "0.0.0.0", 81, json!({}))]);
    assert!(same.listener_at("0.0.0.0:80".parse().unwrap()).is_none());
    assert!(same.listener_at("0.0.0.0:81".parse().unwrap()).is_some());
}

fn route_config(name: &str, hosts: usize) -> Change {
    let host = |index: usize| {
        json!({ "name": format!("h{index}"), "domains": [format!("h{index}.example")], "routes": [
            { "match": { "prefix": "/" }, "route": { "cluster": format!("c{index}") } },
        ] })
    };
    let hosts: Vec<Json> = (0..hosts).map(host).collect();
    let message =
        json!({ "name": name, "virtual_hosts": hosts, "ignore_port_in_host_matching": true });
    let message: rds::RouteConfiguration = json::from_value(message).unwrap();
    Change::Upsert(TypeUrl::RouteConfiguration, Resource::new(name, &message))
}

#[test]
fn what_nobody_uses_is_not_kept_compiled() {
    let mut changes: Vec<Change> = (0..50)
        .map(|index| cluster(&format!("c{index}"), json!({})))
        .collect();
    changes.push(route_config("80", 50));
    let program = updated(&Program::new(), &changes);
    let used = |program: &Program| {
        let clusters = program.clusters().iter();
        clusters.filter(|(_, cluster)| cluster.is_used()).count()
    };
    assert_eq!(used(&program), 0);
    let routes = program.route_config("80").unwrap();
    let few = routes.vhosts.compiled();
    assert!(few < 10, "{few}");
    crate::testing::Request::new("GET", "h40.example:80", "/").with(|request| {
        let crate::route::RouteOutcome::Route(decision) = routes.route(request, 0) else {
            panic!("no route");
        };
        let name = decision.cluster.unwrap();
        assert_eq!(&*program.cluster(&name).unwrap().name, "c40");
    });
    assert_eq!((used(&program), routes.vhosts.compiled()), (1, few + 1));
    // What replaces a cluster in use is compiled at once, so that no request waits for it.
    let next = updated(
        &program,
        &[cluster("c40", json!({ "connect_timeout": "1s" }))],
    );
    assert_eq!(used(&next), 1);
    assert_eq!(next.clusters().get("c1").unwrap().peek().name, "c1".into());
    assert_eq!(used(&next), 1, "to look at it is not to use it");
}

#[test]
fn a_virtual_host_that_cannot_be_compiled_is_refused_when_it_comes() {
    let Change::Upsert(ty, resource) = route_config("80", 20) else {
        unreachable!("it is one");
    };
    let mut message: rds::RouteConfiguration = lateen_envoy::unpack(&resource.body).unwrap();
    message.virtual_hosts[17].routes[0].action = None;
    let change = Change::Upsert(ty, Resource::new("80", &message));
    let (program, rejections) = Program::new().update(&[change]);
    assert!(program.route_config("80").is_none());
    assert!(
        rejections[0].reason.contains("virtual_hosts[17]"),
        "{rejections:?}"
    );
}

/// A message of a resource that has something at its end that cannot be read.
fn broken(change: Change) -> Change {
    let Change::Upsert(ty, mut resource) = change else {
        unreachable!("it is one");
    };
    let mut body = (*resource.body).clone();
    // `metadata.filter_metadata` with half of an entry.
    body.value
        .extend_from_slice(&[0xca, 0x01, 3, 0x0a, 5, 0x0a]);
    resource.body = Arc::new(body);
    Change::Upsert(ty, resource)
}

#[test]
fn what_is_like_another_has_the_same_facts_and_reasons_as_by_itself() {
    let socket = json!({ "name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": { "tls_certificate_sds_secret_configs": [{ "name": "default" }] } } });
    let check = json!([{ "timeout": "1s", "interval": "1s", "tcp_health_check": {}, "healthy_threshold": 1, "unhealthy_threshold": 1 }]);
    let kinds = [
        json!({}),
        json!({ "eds_cluster_config": { "service_name": "other" } }),
        json!({ "transport_socket_matches": [{ "name": "m", "match": {}, "transport_socket": socket }] }),
        json!({ "type": "STRICT_DNS" }),
        json!({ "health_checks": check }),
        json!({ "lb_subset_config": {} }),
    ];
    let mut changes: Vec<Change> = (0..60)
        .map(|n| cluster(&format!("c{n}"), kinds[n % kinds.len()].clone()))
        .collect();
    changes.push(broken(cluster("c60", json!({}))));
    let (together, refused) = Program::new().update(&changes);
    let mut reasons = Vec::new();
    for change in &changes {
        let (alone, rejections) = Program::new().update(std::slice::from_ref(change));
        for (name, cluster) in alone.clusters().iter() {
            let same = together.clusters().get(name).unwrap();
            assert_eq!(same.facts, cluster.facts);
            assert_eq!(same.service_name, cluster.service_name);
        }
        reasons.extend(rejections);
    }
    assert_eq!((refused.len(), together.clusters().len()), (11, 50));
    assert_eq!(refused, reasons);
    let reason = &refused[10].reason;
    assert!(
        reason.contains("envoy.config.cluster.v3.Cluster"),
        "{reason}"
    );
}

#[test]
fn what_is_only_checked_is_complete_when_it_is_used() {
    let origin = |n: usize| json!({ "metadata": { "filter_metadata": { "lateen": { "object": format!("Service/n/{n}") } } } });
    let changes: Vec<Change> = (0..20)
        .map(|n| cluster(&format!("c{n}"), origin(n)))
        .collect();
    let program = updated(&Program::new(), &changes);
    let found = program.cluster("c13").unwrap();
    assert_eq!(found.provenance.to_string(), "Service/n/13");
    assert_eq!(found.discovery.service_name(), Some("c13"));
}
