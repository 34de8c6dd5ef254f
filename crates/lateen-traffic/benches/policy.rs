//! What access rules and header changes cost a request.

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue};
use lateen_envoy::pb::envoy::config::listener::v3 as lds;
use lateen_envoy::{json, pack};
use lateen_traffic::filter::{HttpFilterKind, NetworkFilterKind};
use lateen_traffic::format::{Command, Format, Values};
use lateen_traffic::from_xds;
use lateen_traffic::headers::{AppendAction, HeaderAdd, HeaderMutations};
use lateen_traffic::rbac::{Rules, Subject};
use lateen_traffic::request::{ConnectionInfo, FilterState, PeerTls, RequestView};
use lateen_traffic::value::Metadata;
use serde_json::{Value, json};

/// Rules as AuthorizationPolicy makes them: callers by identity, operations by method and path. None is met by the request.
fn rules(count: usize) -> Arc<Rules> {
    let policies: serde_json::Map<String, Value> = (0..count)
        .map(|index| {
            let caller = format!("spiffe://cluster.local/ns/default/sa/stranger-{index}");
            let policy = json!({
                "permissions": [{ "and_rules": { "rules": [
                    { "or_rules": { "rules": [{ "header": { "name": ":method", "string_match": { "exact": "POST" } } }] } },
                    { "or_rules": { "rules": [{ "url_path": { "path": { "prefix": format!("/private/{index}/") } } }] } },
                ] } }],
                "principals": [{ "and_ids": { "ids": [{ "or_ids": { "ids": [
                    { "authenticated": { "principal_name": { "exact": caller } } },
                ] } }] } }],
            });
            (format!("ns[default]-policy[rules]-rule[{index}]"), policy)
        })
        .collect();
    let filter = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
    let manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let listener = json!({
        "name": "l",
        "address": { "socket_address": { "address": "0.0.0.0", "port_value": 80 } },
        "filter_chains": [{ "filters": [{ "name": "hcm", "typed_config": {
            "@type": manager,
            "stat_prefix": "l",
            "route_config": { "name": "r" },
            "http_filters": [
                { "name": "envoy.filters.http.rbac", "typed_config": { "@type": filter, "rules": { "action": "DENY", "policies": policies } } },
                { "name": "envoy.filters.http.router", "typed_config": { "@type": router } },
            ],
        } }] }],
    });
    let message: lds::Listener = json::from_value(listener).expect("valid JSON");
    let listener = from_xds::listener(&pack(&message), "l").expect("a valid listener");
    let NetworkFilterKind::Http(manager) = &listener.chains[0].filters[0].kind else {
        unreachable!("it is a connection manager");
    };
    let HttpFilterKind::Rbac(config) = &manager.filters[0].kind else {
        unreachable!("it is RBAC");
    };
    config.rules.clone().expect("there are rules")
}

fn rbac(criterion: &mut Criterion) {
    let address = SocketAddr::from(([10, 0, 0, 1], 80));
    let (connection, peer) = (ConnectionInfo::plain(address, address), PeerTls::default());
    let (metadata, state, headers) = (Metadata::default(), FilterState::new(), HeaderMap::new());
    let request = RequestView {
        method: "GET",
        scheme: "http",
        authority: "shop.example.com",
        path: "/items/42",
        protocol: None,
        headers: &headers,
        client: address,
        connection: &connection,
        peer: &peer,
        dynamic_metadata: &metadata,
        filter_state: &state,
    };
    let subject = Subject {
        connection: &connection,
        peer: &peer,
        request: Some(&request),
        dynamic_metadata: &metadata,
        filter_state: &state,
    };
    let mut group = criterion.benchmark_group("rbac");
    for count in [1, 10, 100] {
        let rules = rules(count);
        group.bench_function(format!("{count}_rules"), |bencher| {
            bencher.iter(|| black_box(rules.decide(black_box(&subject)).allowed));
        });
    }
    group.finish();
}

struct Fixed;

impl Values for Fixed {
    fn write(&self, _command: &Command, out: &mut String) -> bool {
        out.write_str("value").is_ok()
    }
}

fn mutations(criterion: &mut Criterion) {
    let name = |index: usize| HeaderName::try_from(format!("x-header-{index}")).expect("a name");
    let add = |index: usize| HeaderAdd {
        name: name(index),
        value: Format::parse(if index.is_multiple_of(2) {
            "fixed"
        } else {
            "%REQ(x)%"
        })
        .expect("a format"),
        action: AppendAction::OverwriteIfExistsOrAdd,
        keep_empty: false,
    };
    let mutations = HeaderMutations {
        remove: (0..4).map(name).collect(),
        add: (4..12).map(add).collect(),
    };
    let mut headers = HeaderMap::new();
    for index in 0..16 {
        headers.insert(name(index), HeaderValue::from_static("as it came"));
    }
    criterion.bench_function("header_mutations/12", |bencher| {
        bencher.iter_batched(
            || headers.clone(),
            |mut headers| {
                mutations.apply(&mut headers, &Fixed);
                headers
            },
            criterion::BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, rbac, mutations);
criterion_main!(benches);
