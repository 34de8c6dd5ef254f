//! The decisions on a request's path: route, filter chain, host.

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue};
use lateen_envoy::pb::envoy::config::{
    cluster::v3 as cds, endpoint::v3 as eds, listener::v3 as lds, route::v3 as rds,
};
use lateen_envoy::{json, pack};
use lateen_traffic::from_xds;
use lateen_traffic::lb::{HostSet, LbState, PickRequest};
use lateen_traffic::request::{
    ConnectionInfo, FilterState, PeerTls, RequestView, TransportProtocol,
};
use lateen_traffic::value::Metadata;
use serde_json::{Value, json};

/// A thousand routes: half exact paths, the rest prefixes and expressions in turn, and one for everything at the end.
fn routes() -> Value {
    let matcher = |index: usize| match index % 4 {
        0 | 1 => json!({ "path": format!("/service-{index}/items") }),
        2 => json!({ "prefix": format!("/service-{index}/") }),
        _ => json!({ "safe_regex": { "regex": format!("/service-{index}/[0-9]+/.*") } }),
    };
    let mut routes: Vec<Value> = (0..1000)
        .map(
            |index| json!({ "match": matcher(index), "route": { "cluster": format!("c{index}") } }),
        )
        .collect();
    routes.push(
        json!({ "match": { "prefix": "/" }, "route": { "weighted_clusters": { "clusters": [
        { "name": "v1", "weight": 80 }, { "name": "v2", "weight": 20 } ] } } }),
    );
    json!({ "name": "80", "virtual_hosts": [{ "name": "all", "domains": ["*.example.com"], "routes": routes }] })
}

fn route(criterion: &mut Criterion) {
    let message: rds::RouteConfiguration = json::from_value(routes()).expect("valid JSON");
    let config = from_xds::route_config(&pack(&message)).expect("valid routes");
    let address = SocketAddr::from(([10, 0, 0, 1], 80));
    let (connection, peer) = (ConnectionInfo::plain(address, address), PeerTls::default());
    let (metadata, state) = (Metadata::default(), FilterState::new());
    let mut headers = HeaderMap::new();
    headers.insert("user-agent", HeaderValue::from_static("bench"));
    let mut group = criterion.benchmark_group("route");
    for (name, path) in [
        ("exact_of_1000", "/service-900/items"),
        ("prefix_of_1000", "/service-902/items?page=3"),
        ("regex_of_1000", "/service-903/42/items"),
        ("fallback_of_1000", "/elsewhere/entirely"),
    ] {
        let request = RequestView {
            method: "GET",
            scheme: "http",
            authority: "shop.example.com",
            path,
            protocol: None,
            headers: &headers,
            client: address,
            connection: &connection,
            peer: &peer,
            dynamic_metadata: &metadata,
            filter_state: &state,
        };
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(config.route(black_box(&request), black_box(42))))
        });
    }
    group.finish();
}

/// Istio's inbound listener with ten ports: mTLS and plain, HTTP and TCP.
fn inbound() -> Value {
    let echo = json!([{ "name": "echo", "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo" } }]);
    let chains: Vec<Value> = (0..10)
        .flat_map(|index| {
            let port = 8000 + index;
            [
                json!({ "destination_port": port, "transport_protocol": "tls", "application_protocols": ["istio-http/1.1", "istio-h2"] }),
                json!({ "destination_port": port, "transport_protocol": "tls", "application_protocols": ["istio-peer-exchange", "istio"] }),
                json!({ "destination_port": port, "transport_protocol": "raw_buffer", "application_protocols": ["http/1.1", "h2c"] }),
                json!({ "destination_port": port, "transport_protocol": "raw_buffer" }),
            ]
        })
        .map(|conditions| json!({ "filter_chain_match": conditions, "filters": echo }))
        .collect();
    json!({ "name": "virtualInbound", "address": { "socket_address": { "address": "0.0.0.0", "port_value": 15006 } }, "filter_chains": chains })
}

fn filter_chain(criterion: &mut Criterion) {
    let message: lds::Listener = json::from_value(inbound()).expect("valid JSON");
    let listener = from_xds::listener(&pack(&message), "virtualInbound").expect("valid listener");
    let (remote, local) = (
        SocketAddr::from(([10, 0, 0, 1], 4000)),
        SocketAddr::from(([10, 0, 0, 2], 8005)),
    );
    let connection = ConnectionInfo {
        server_name: Some("outbound_.8005_._.shop.default.svc.cluster.local"),
        transport_protocol: TransportProtocol::Tls,
        application_protocols: &["istio-h2", "istio"],
        ..ConnectionInfo::plain(remote, local)
    };
    criterion.bench_function("filter_chain_of_40", |bencher| {
        bencher.iter(|| {
            black_box(
                listener
                    .match_filter_chain(black_box(&connection))
                    .chain()
                    .is_some(),
            )
        });
    });
}

fn hosts() -> eds::ClusterLoadAssignment {
    let endpoint = |index: u32| json!({ "endpoint": { "address": { "socket_address": { "address": format!("10.1.0.{index}"), "port_value": 80 } } }, "load_balancing_weight": 1 + index % 3 });
    let endpoints: Vec<Value> = (0..100).map(endpoint).collect();
    json::from_value(json!({ "cluster_name": "c", "endpoints": [{ "lb_endpoints": endpoints }] }))
        .expect("valid JSON")
}

fn pick(criterion: &mut Criterion) {
    let endpoints = from_xds::endpoints(&pack(&hosts())).expect("valid endpoints");
    let mut group = criterion.benchmark_group("pick_of_100");
    for policy in [
        "ROUND_ROBIN",
        "LEAST_REQUEST",
        "RANDOM",
        "RING_HASH",
        "MAGLEV",
    ] {
        let message: cds::Cluster =
            json::from_value(json!({ "name": "c", "type": "EDS", "lb_policy": policy }))
                .expect("valid JSON");
        let cluster = from_xds::cluster(&pack(&message)).expect("valid cluster");
        let set = HostSet::new(&cluster, &endpoints, &[]);
        let mut state = LbState::new(&set, 1);
        let mut random = 0_u64;
        group.bench_function(policy.to_ascii_lowercase(), |bencher| {
            bencher.iter(|| {
                random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let load = |host: usize| u32::try_from(host % 7).unwrap_or(0);
                let request = PickRequest {
                    random,
                    hash: Some(random),
                    avoid: &[],
                    attempts: 0,
                    load: &load,
                    avoid_priorities: &[],
                };
                black_box(state.pick(&set, &request).is_ok())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, route, filter_chain, pick);
criterion_main!(benches);
