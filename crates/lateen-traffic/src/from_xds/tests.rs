//! Tests of the translation, on messages written as JSON.

use std::time::Duration;

use lateen_envoy::pb::google::protobuf::Any;
use lateen_envoy::{json, pack};
use serde_json::{Value as Json, json};

use super::*;
use crate::cluster::{Discovery, DnsFamily, LbPolicy, TransportSocket, UpstreamProtocol};
use crate::endpoint::EndpointAddress;
use crate::filter::{FilterOverride, HttpFilterKind, NetworkFilterKind};
use crate::hcm::RouteSource;
use crate::route::{RouteOutcome, Target};
use crate::tcp::TcpTarget;
use crate::testing::Request;
use crate::tls::ValidationSource;

fn listener_of(value: Json) -> Result<Listener, XdsError> {
    listener(
        &pack(&json::from_value::<lds::Listener>(value).unwrap()),
        "unnamed",
    )
}

fn routes_of(value: Json) -> Result<RouteConfig, XdsError> {
    route_config(&pack(
        &json::from_value::<rds::RouteConfiguration>(value).unwrap(),
    ))
}

fn cluster_of(value: Json) -> Result<Cluster, XdsError> {
    cluster(&pack(&json::from_value::<cds::Cluster>(value).unwrap()))
}

fn endpoints_of(value: Json) -> Result<EndpointSet, XdsError> {
    endpoints(&pack(
        &json::from_value::<eds::ClusterLoadAssignment>(value).unwrap(),
    ))
}

const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

fn manager(http_filters: Json) -> Json {
    json!({
        "name": "hcm",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "outbound_0.0.0.0_9080",
            "rds": { "route_config_name": "9080", "config_source": { "ads": {} } },
            "http_filters": http_filters,
            "stream_idle_timeout": "0s",
            "normalize_path": true,
            "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
            "upgrade_configs": [{ "upgrade_type": "websocket" }],
            "forward_client_cert_details": "APPEND_FORWARD",
            "set_current_client_cert_details": { "subject": true, "dns": true, "uri": true },
        }
    })
}

fn with_filters(filters: Json) -> Json {
    json!({
        "name": "0.0.0.0_9080",
        "address": { "socket_address": { "address": "0.0.0.0", "port_value": 9080 } },
        "bind_to_port": false,
        "traffic_direction": "OUTBOUND",
        "filter_chains": [{ "filters": filters }],
    })
}

fn router() -> Json {
    json!({ "name": "envoy.filters.http.router", "typed_config": { "@type": ROUTER } })
}

#[test]
fn an_outbound_http_listener_compiles() {
    let istio = json!([
        { "name": "istio.metadata_exchange", "typed_config": {
            "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
            "type_url": "type.googleapis.com/io.istio.http.peer_metadata.Config",
            "value": {
                "upstream_discovery": [{ "istio_headers": {} }, { "workload_discovery": {} }],
                "upstream_propagation": [{ "istio_headers": { "skip_external_clusters": true } }],
            } } },
        { "name": "istio.alpn", "typed_config": {
            "@type": "type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
            "alpn_override": [{ "upstream_protocol": "HTTP2", "alpn_override": ["istio-h2", "istio"] }] } },
        { "name": "envoy.filters.http.fault", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault" } },
        { "name": "envoy.filters.http.cors", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors" } },
        { "name": "istio.stats", "typed_config": {
            "@type": "type.googleapis.com/stats.PluginConfig", "disable_host_header_fallback": true } },
        router(),
    ]);
    let listener = listener_of(with_filters(json!([manager(istio)]))).unwrap();
    assert_eq!(&*listener.name, "0.0.0.0_9080");
    assert!(!listener.bind_to_port && listener.reuse_port);
    let NetworkFilterKind::Http(manager) = &listener.chains[0].filters[0].kind else {
        panic!("no manager")
    };
    assert!(matches!(&manager.routes, RouteSource::Rds(name) if &**name == "9080"));
    assert_eq!(manager.timeouts.stream_idle, None);
    assert_eq!(manager.timeouts.idle, Some(Duration::from_secs(3600)));
    assert!(manager.path.normalize && !manager.path.merge_slashes);
    assert!(manager.client_cert_details.uri && !manager.client_cert_details.cert);
    let HttpFilterKind::PeerMetadata(peers) = &manager.filters[0].kind else {
        panic!("no peer metadata")
    };
    assert_eq!(peers.upstream_discovery.len(), 2);
    let HttpFilterKind::Alpn(alpn) = &manager.filters[1].kind else {
        panic!("no alpn")
    };
    assert_eq!(
        alpn.http2.iter().map(|text| &**text).collect::<Vec<_>>(),
        ["istio-h2", "istio"]
    );
}

#[test]
fn a_filter_that_is_not_known_is_refused_unless_it_is_optional() {
    let lua = |optional: bool| {
        json!([{
            "name": "envoy.filters.http.lua",
            "is_optional": optional,
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua" },
        }, router()])
    };
    let error = listener_of(with_filters(json!([manager(lua(false))]))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "filter_chains[0].filters[0].typed_config.http_filters[0].typed_config: filter \"envoy.filters.http.lua\" of type \
         envoy.extensions.filters.http.lua.v3.Lua is not supported"
    );
    let listener = listener_of(with_filters(json!([manager(lua(true))]))).unwrap();
    let NetworkFilterKind::Http(manager) = &listener.chains[0].filters[0].kind else {
        panic!("no manager")
    };
    assert_eq!(manager.filters.len(), 1);
}

#[test]
fn a_known_filter_with_wrong_settings_is_refused_even_if_it_is_optional() {
    let rbac = json!([{
        "name": "rbac",
        "is_optional": true,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": { "policies": { "p": { "permissions": [{ "url_path": { "path": { "safe_regex": { "regex": "(" } } } }], "principals": [{ "any": true }] } } },
        },
    }, router()]);
    let error = listener_of(with_filters(json!([manager(rbac)]))).unwrap_err();
    assert!(
        error
            .path()
            .ends_with("rules.policies[\"p\"].permissions[0].url_path.path.safe_regex.regex"),
        "{error}"
    );
}

#[test]
fn the_router_is_the_last_filter_and_there_is_one() {
    for filters in [json!([]), json!([router(), router()])] {
        let error = listener_of(with_filters(json!([manager(filters)]))).unwrap_err();
        assert!(error.to_string().contains("must be the router"), "{error}");
    }
}

#[test]
fn terminal_filters_are_last() {
    let tcp = |name: &str| {
        json!({ "name": name, "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "x", "cluster": "BlackHoleCluster" } })
    };
    let error = listener_of(with_filters(json!([tcp("a"), tcp("b")]))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "filter_chains[0].filters: filter \"a\" is terminal and must be the last"
    );
    let rbac = json!({ "name": "rbac", "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC", "stat_prefix": "x" } });
    assert!(listener_of(with_filters(json!([rbac.clone()]))).is_err());
    assert!(listener_of(with_filters(json!([rbac, tcp("b")]))).is_ok());
}

#[test]
fn a_tcp_proxy_draws_its_cluster_by_weight() {
    let tcp = json!({ "name": "tcp", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "x",
        "weighted_clusters": { "clusters": [{ "name": "a", "weight": 90 }, { "name": "b", "weight": 10 }] },
        "idle_timeout": "0s",
    } });
    let listener = listener_of(with_filters(json!([tcp]))).unwrap();
    let NetworkFilterKind::Tcp(proxy) = &listener.chains[0].filters[0].kind else {
        panic!("no proxy")
    };
    assert!(matches!(
        &proxy.target,
        TcpTarget::Weighted { total: 100, .. }
    ));
    assert_eq!(proxy.idle_timeout, None);
    assert_eq!(
        [0, 89, 90, 99, 100].map(|random| proxy.pick_cluster(random).to_string()),
        ["a", "a", "b", "b", "a"]
    );
}

#[test]
fn inbound_chains_have_tls_by_sds_and_matches() {
    let listener = listener_of(json!({
        "name": "virtualInbound",
        "address": { "socket_address": { "address": "0.0.0.0", "port_value": 15006 } },
        "use_original_dst": true,
        "listener_filters": [
            { "name": "envoy.filters.listener.original_dst", "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst" } },
            { "name": "envoy.filters.listener.tls_inspector", "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" } },
            { "name": "envoy.filters.listener.http_inspector", "filter_disabled": { "destination_port_range": { "start": 3306, "end": 3307 } },
              "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector" } },
        ],
        "filter_chains": [{
            "name": "0.0.0.0_9080",
            "filter_chain_match": { "destination_port": 9080, "transport_protocol": "tls", "application_protocols": ["istio-h2"] },
            "metadata": { "filter_metadata": { "istio": { "config": "/apis/security.istio.io/v1/namespaces/default/peer-authentication/strict" } } },
            "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "require_client_certificate": true,
                "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_params": { "tls_minimum_protocol_version": "TLSv1_2" },
                    "tls_certificate_sds_secret_configs": [{ "name": "default", "sds_config": { "ads": {} } }],
                    "combined_validation_context": {
                        "default_validation_context": { "match_subject_alt_names": [{ "prefix": "spiffe://cluster.local/" }] },
                        "validation_context_sds_secret_config": { "name": "ROOTCA", "sds_config": { "ads": {} } },
                    },
                } } },
            "filters": [{ "name": "tcp", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "x", "cluster": "inbound|9080||" } }],
        }],
    }))
    .unwrap();
    assert!(listener.use_original_dst);
    assert!(
        listener.listener_filters[2]
            .disabled
            .as_ref()
            .unwrap()
            .holds(3306)
    );
    let chain = &listener.chains[0];
    assert!(
        chain
            .provenance
            .to_string()
            .ends_with("peer-authentication/strict")
    );
    let tls = chain.tls.as_ref().unwrap();
    assert!(tls.require_client_certificate);
    assert!(
        matches!(&tls.common.validation, ValidationSource::Combined { default, .. } if default.san_matchers.len() == 1)
    );
    assert_eq!(
        tls.common
            .sds_names()
            .map(|name| &**name)
            .collect::<Vec<_>>(),
        ["default", "ROOTCA"]
    );
}

#[test]
fn duplicate_filter_chains_are_refused_by_name() {
    let chain = |name: &str| {
        json!({ "name": name, "filter_chain_match": { "destination_port": 80 }, "filters": [{ "name": "echo", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo" } }] })
    };
    let error = listener_of(json!({
        "name": "l",
        "address": { "socket_address": { "address": "::", "port_value": 1 } },
        "filter_chains": [chain("a"), chain("b")],
    }))
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "filter_chains[1].filter_chain_match: filter chains \"a\" and \"b\" have the same matching rules"
    );
}

fn reviews(routes: Json) -> Json {
    json!({
        "name": "9080",
        "virtual_hosts": [{
            "name": "reviews.default.svc.cluster.local:9080",
            "domains": ["reviews.default.svc.cluster.local", "reviews", "10.96.0.7"],
            "include_request_attempt_count": true,
            "routes": routes,
        }],
        "validate_clusters": false,
        "max_direct_response_body_size_bytes": 1_048_576,
        "ignore_port_in_host_matching": true,
    })
}

#[test]
fn istios_weighted_routes_compile_and_route() {
    let config = routes_of(reviews(json!([
        {
            "name": "jason",
            "match": { "prefix": "/", "case_sensitive": true, "headers": [{ "name": "end-user", "string_match": { "exact": "jason" } }] },
            "route": { "cluster": "outbound|9080|v2|reviews.default.svc.cluster.local", "timeout": "0s" },
            "metadata": { "filter_metadata": {
                "istio": { "config": "/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews" },
                "lateen": { "object": "VirtualService/default/reviews", "field": "spec.http[0]", "source": "reviews.yaml:7:5", "retries": "default" },
            } },
        },
        {
            "match": { "prefix": "/" },
            "route": {
                "weighted_clusters": { "clusters": [
                    { "name": "v1", "weight": 80, "response_headers_to_add": [{ "header": { "key": "x-v", "value": "1" }, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD" }] },
                    { "name": "v3", "weight": 20 },
                ] },
                "retry_policy": { "retry_on": "connect-failure,refused-stream", "num_retries": 2, "host_selection_retry_max_attempts": "5",
                    "retry_host_predicate": [{ "name": "envoy.retry_host_predicates.previous_hosts" }] },
                "prefix_rewrite": "/api/",
            },
        },
    ])))
    .unwrap();
    let jason = Request::new("GET", "reviews:9080", "/x").header("end-user", "jason");
    let view = jason.view();
    let RouteOutcome::Route(decision) = config.route(&view, 0) else {
        panic!("no route")
    };
    assert_eq!(
        decision.cluster.as_deref(),
        Some("outbound|9080|v2|reviews.default.svc.cluster.local")
    );
    assert_eq!(decision.forward().unwrap().timeouts.request, None);
    assert_eq!(
        decision.route.provenance.to_string(),
        "VirtualService/default/reviews spec.http[0] (reviews.yaml:7:5)"
    );
    let anyone = Request::new("GET", "REVIEWS", "/x?y=1");
    let view = anyone.view();
    for (random, cluster) in [(0, "v1"), (79, "v1"), (80, "v3"), (199, "v3")] {
        let RouteOutcome::Route(decision) = config.route(&view, random) else {
            panic!("no route")
        };
        assert_eq!(decision.cluster.as_deref(), Some(cluster), "{random}");
        assert_eq!(
            decision.rewritten_path(&view).as_deref(),
            Some("/api/x?y=1")
        );
        let retry = decision.retry_policy().unwrap();
        assert!(retry.avoid_previous_hosts && !retry.is_mesh_default && retry.num_retries == 2);
        assert_eq!(
            decision.response_headers().count(),
            usize::from(cluster == "v1")
        );
    }
    let other = Request::new("GET", "ratings", "/");
    assert!(matches!(
        config.route(&other.view(), 0),
        RouteOutcome::NoVirtualHost
    ));
}

#[test]
fn the_explanation_agrees_with_the_fast_path_and_gives_reasons() {
    let config = routes_of(reviews(json!([
        { "name": "a", "match": { "path": "/a" }, "direct_response": { "status": 200 } },
        { "name": "b", "match": { "prefix": "/", "headers": [{ "name": "x", "string_match": { "exact": "1" } }] }, "direct_response": { "status": 200 } },
        { "name": "c", "match": { "prefix": "/", "runtime_fraction": { "default_value": { "numerator": 10 } } }, "direct_response": { "status": 200 } },
    ])))
    .unwrap();
    let request = Request::new("GET", "reviews", "/b").header("x", "2");
    let view = request.view();
    let (outcome, trace) = config.explain(&view, 50);
    assert!(
        matches!(outcome, RouteOutcome::NoRoute(_))
            && matches!(config.route(&view, 50), RouteOutcome::NoRoute(_))
    );
    let reasons: Vec<String> = trace
        .vhost
        .unwrap()
        .rejected
        .into_iter()
        .map(|route| route.reason)
        .collect();
    assert_eq!(
        reasons,
        [
            "wants path = \"/a\", the path is \"/b\"",
            "wants header x = \"1\", it is \"2\"",
            "holds for 10 of 100 requests, and not for this one",
        ]
    );
}

fn redirected(redirect: Json, scheme: &'static str, authority: &str, path: &str) -> String {
    let routes = json!([{ "match": { "prefix": "/old" }, "redirect": redirect }]);
    let vhost = json!({ "name": "all", "domains": ["*"], "routes": routes });
    let config = routes_of(json!({ "name": "r", "virtual_hosts": [vhost] })).unwrap();
    let mut request = Request::new("GET", authority, path);
    request.scheme = scheme;
    let view = request.view();
    let RouteOutcome::Route(decision) = config.route(&view, 0) else {
        panic!("no route")
    };
    let crate::route::RouteAction::Redirect(redirect) = &decision.route.action else {
        panic!("no redirect")
    };
    decision.redirect_location(redirect, &view)
}

#[test]
fn redirects_lead_where_envoy_leads() {
    for (redirect, scheme, authority, path, location) in [
        (
            json!({ "https_redirect": true }),
            "http",
            "a.com:80",
            "/old?x=1",
            "https://a.com/old?x=1",
        ),
        (
            json!({ "https_redirect": true }),
            "http",
            "a.com:8080",
            "/old",
            "https://a.com:8080/old",
        ),
        (
            json!({ "host_redirect": "b.com" }),
            "http",
            "a.com:81",
            "/old",
            "http://b.com/old",
        ),
        (
            json!({ "port_redirect": 8443, "scheme_redirect": "https" }),
            "http",
            "[::1]:80",
            "/old",
            "https://[::1]:8443/old",
        ),
        (
            json!({ "path_redirect": "/new" }),
            "http",
            "a.com",
            "/old/x?y=1",
            "http://a.com/new?y=1",
        ),
        (
            json!({ "path_redirect": "/new?z=2", "strip_query": true }),
            "http",
            "a.com",
            "/old?y=1",
            "http://a.com/new?z=2",
        ),
        (
            json!({ "prefix_rewrite": "/new", "strip_query": true }),
            "http",
            "a.com",
            "/old/x?y=1",
            "http://a.com/new/x",
        ),
        (
            json!({ "regex_rewrite": { "pattern": { "regex": "^/old/(.*)$" }, "substitution": "/n/\\1" } }),
            "http",
            "a.com",
            "/old/x?y",
            "http://a.com/n/x?y",
        ),
    ] {
        assert_eq!(
            redirected(redirect.clone(), scheme, authority, path),
            location,
            "{redirect}"
        );
    }
}

#[test]
fn what_routes_ask_for_and_is_not_done_is_refused() {
    for (routes, field) in [
        (
            json!([{ "match": { "prefix": "/" }, "route": { "cluster_specifier_plugin": "x" } }]),
            "virtual_hosts[0].routes[0].route",
        ),
        (
            json!([{ "match": { "path_separated_prefix": "/a/" }, "route": { "cluster": "c" } }]),
            "virtual_hosts[0].routes[0].match.path_separated_prefix",
        ),
        (
            json!([{ "match": { "prefix": "/" }, "route": { "weighted_clusters": { "clusters": [{ "name": "a", "weight": 0 }] } } }]),
            "virtual_hosts[0].routes[0].route.weighted_clusters",
        ),
        (
            json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 42 } }]),
            "virtual_hosts[0].routes[0].direct_response.status",
        ),
        (
            json!([{ "match": { "prefix": "/" } }]),
            "virtual_hosts[0].routes[0]",
        ),
        (
            json!([{ "match": { "prefix": "/" }, "route": { "cluster": "c" }, "request_headers_to_remove": ["host"] }]),
            "virtual_hosts[0].routes[0].request_headers_to_remove[0]",
        ),
        (
            json!([{ "match": { "prefix": "/" }, "route": { "cluster": "c", "timeout": "-1s" } }]),
            "virtual_hosts[0].routes[0].route.timeout",
        ),
    ] {
        assert_eq!(
            routes_of(reviews(routes.clone())).unwrap_err().path(),
            field,
            "{routes}"
        );
    }
    let twice = json!({ "name": "r", "virtual_hosts": [{ "name": "a", "domains": ["x"] }, { "name": "b", "domains": ["X"] }] });
    assert_eq!(
        routes_of(twice).unwrap_err().to_string(),
        "virtual_hosts[1].domains[0]: the domain \"X\" is already that of virtual host \"a\""
    );
}

#[test]
fn filter_overrides_are_most_specific_first() {
    let disabled = json!({ "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true });
    let open = json!({ "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute" });
    let config = routes_of(json!({ "name": "r", "virtual_hosts": [{
        "name": "all", "domains": ["*"],
        "typed_per_filter_config": { "rbac": disabled },
        "routes": [
            { "match": { "path": "/open" }, "route": { "cluster": "c" }, "typed_per_filter_config": { "rbac": open } },
            { "match": { "prefix": "/" }, "route": { "cluster_header": "x-cluster" } },
        ],
    }] }))
    .unwrap();
    let request = Request::path("/open");
    let view = request.view();
    let RouteOutcome::Route(decision) = config.route(&view, 0) else {
        panic!("no route")
    };
    assert!(matches!(
        decision.filter_override("rbac"),
        Some(FilterOverride::Rbac(None))
    ));
    let request = Request::path("/").header("x-cluster", "chosen");
    let view = request.view();
    let RouteOutcome::Route(decision) = config.route(&view, 0) else {
        panic!("no route")
    };
    assert!(matches!(
        decision.filter_override("rbac"),
        Some(FilterOverride::Disabled)
    ));
    assert!(matches!(
        decision.forward().unwrap().target,
        Target::Header(_)
    ));
    assert_eq!(decision.cluster.as_deref(), Some("chosen"));
    assert!(decision.filter_override("other").is_none());
}

#[test]
fn an_istio_cluster_compiles() {
    let cluster = cluster_of(json!({
        "name": "outbound|9080||reviews.default.svc.cluster.local",
        "type": "EDS",
        "eds_cluster_config": { "eds_config": { "ads": {} }, "service_name": "outbound|9080||reviews.default.svc.cluster.local" },
        "connect_timeout": "10s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": { "thresholds": [{ "max_connections": 4_294_967_295u32, "max_retries": 4_294_967_295u32 }] },
        "common_lb_config": { "healthy_panic_threshold": {}, "locality_weighted_lb_config": {} },
        "transport_socket_matches": [
            { "name": "tlsMode-istio", "match": { "tlsMode": "istio" }, "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": "outbound_.9080_._.reviews.default.svc.cluster.local",
                "common_tls_context": { "tls_certificate_sds_secret_configs": [{ "name": "default" }], "alpn_protocols": ["istio-peer-exchange", "istio"] } } } },
            { "name": "tlsMode-disabled", "match": {}, "transport_socket": { "name": "envoy.transport_sockets.raw_buffer", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" } } },
        ],
        "filters": [{ "name": "istio.metadata_exchange", "typed_config": {
            "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
            "type_url": "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange",
            "value": { "protocol": "istio-peer-exchange", "enable_discovery": true } } }],
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "use_downstream_protocol_config": { "http_protocol_options": {}, "http2_protocol_options": { "max_concurrent_streams": 7 } } } },
    }))
    .unwrap();
    assert!(
        matches!(&cluster.discovery, Discovery::Eds { service_name } if **service_name == *cluster.name)
    );
    assert_eq!(cluster.connect_timeout, Duration::from_secs(10));
    assert!(matches!(
        cluster.lb_policy,
        LbPolicy::LeastRequest {
            choice_count: 2,
            ..
        }
    ));
    assert!(cluster.common_lb.locality_weighted && cluster.common_lb.panic_threshold == 0.0);
    assert_eq!(cluster.circuit_breakers[0].max_connections, u32::MAX);
    assert_eq!(cluster.circuit_breakers[0].max_requests, 1024);
    assert_eq!(cluster.http.protocol, UpstreamProtocol::Downstream);
    assert_eq!(cluster.http.http2.max_concurrent_streams, Some(7));
    assert_eq!(cluster.filters.len(), 1);
    let labelled = |mode: &str| {
        let labels = crate::value::Value::Struct(
            [("tlsMode".into(), crate::value::Value::String(mode.into()))].into(),
        );
        let mut metadata = crate::value::Metadata::default();
        metadata.set(crate::cluster::TRANSPORT_SOCKET_MATCH, labels);
        metadata
    };
    let nothing = crate::value::Metadata::default();
    let (transport, name) = cluster.transport_for(&labelled("istio"), &nothing);
    assert!(
        matches!(transport, TransportSocket::Tls(_))
            && name.is_some_and(|name| &**name == "tlsMode-istio")
    );
    for metadata in [&nothing, &labelled("disabled")] {
        let (transport, name) = cluster.transport_for(metadata, &nothing);
        assert!(
            matches!(transport, TransportSocket::Raw)
                && name.is_some_and(|name| &**name == "tlsMode-disabled")
        );
    }
}

#[test]
fn inbound_and_passthrough_clusters_compile() {
    let inbound = cluster_of(json!({
        "name": "inbound|9080||",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "original_dst_lb_config": { "upstream_port_override": 8080 },
        "upstream_bind_config": { "source_address": { "address": "127.0.0.6", "port_value": 0 }, "extra_source_addresses": [{ "address": { "address": "::6" } }] },
    }))
    .unwrap();
    let Discovery::OriginalDst(original) = &inbound.discovery else {
        panic!("no original destination")
    };
    assert_eq!(
        (original.port_override, original.header.clone()),
        (Some(8080), None)
    );
    assert_eq!(inbound.bind.source, Some("127.0.0.6:0".parse().unwrap()));
    assert_eq!(
        inbound.bind.additional_sources,
        ["[::6]:0".parse().unwrap()]
    );
    let dns = cluster_of(json!({
        "name": "outbound|443||api.example.com", "type": "STRICT_DNS", "dns_lookup_family": "V4_ONLY", "respect_dns_ttl": true, "dns_refresh_rate": "60s",
        "load_assignment": { "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": { "socket_address": { "address": "api.example.com", "port_value": 443 } } } }] }] },
    }))
    .unwrap();
    let Discovery::StrictDns(set, options) = &dns.discovery else {
        panic!("no dns")
    };
    assert_eq!(
        (options.family, options.respect_ttl),
        (DnsFamily::V4Only, true)
    );
    let resolved = set.resolved(|name| match name {
        "api.example.com" => vec!["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()],
        _ => vec![],
    });
    assert_eq!(resolved.endpoints.len(), 2);
    assert_eq!(
        resolved.endpoints[1].address,
        EndpointAddress::Socket("192.0.2.2:443".parse().unwrap())
    );
    assert_eq!(&*resolved.endpoints[1].hostname, "api.example.com");
    assert_eq!(resolved.localities[0].endpoints, 0..2);
}

#[test]
fn clusters_that_ask_for_more_than_there_is_are_refused() {
    for (extra, field) in [
        (json!({ "lb_subset_config": {} }), "lb_subset_config"),
        (
            json!({ "lb_policy": "MAGLEV", "maglev_lb_config": { "table_size": "100" } }),
            "table_size",
        ),
        (
            // A prime, but a table for it would take 5000077 places.
            json!({ "lb_policy": "MAGLEV", "maglev_lb_config": { "table_size": "5000077" } }),
            "table_size",
        ),
        (
            json!({ "lb_policy": "RING_HASH", "ring_hash_lb_config": { "minimum_ring_size": "10", "maximum_ring_size": "5" } }),
            "maximum_ring_size",
        ),
        (
            json!({ "transport_socket": { "name": "x" } }),
            "transport_socket",
        ),
        (
            json!({ "cluster_type": { "name": "envoy.clusters.redis" } }),
            "cluster_type",
        ),
    ] {
        let mut message = extra.clone();
        message["name"] = json!("c");
        assert_eq!(cluster_of(message).unwrap_err().path(), field, "{extra}");
    }
}

#[test]
fn typed_load_balancing_policies_are_read() {
    let policy = |config: Json| {
        cluster_of(
            json!({ "name": "c", "load_balancing_policy": { "policies": [
            { "typed_extension_config": { "name": "p", "typed_config": config } },
        ] } }),
        )
    };
    let of =
        |name: &str| format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{name}");
    let maglev = policy(json!({ "@type": of("maglev.v3.Maglev"), "table_size": "97", "locality_weighted_lb_config": {} })).unwrap();
    assert!(
        matches!(maglev.lb_policy, LbPolicy::Maglev { table_size: 97, .. })
            && maglev.common_lb.locality_weighted
    );
    let wrapped = policy(json!({ "@type": of("wrr_locality.v3.WrrLocality"), "endpoint_picking_policy": { "policies": [
        { "typed_extension_config": { "name": "r", "typed_config": { "@type": of("round_robin.v3.RoundRobin") } } } ] } }))
    .unwrap();
    assert!(
        matches!(wrapped.lb_policy, LbPolicy::RoundRobin { .. })
            && wrapped.common_lb.locality_weighted
    );
}

#[test]
fn endpoints_are_in_order_of_priority() {
    let endpoint = |ip: &str| json!({ "endpoint": { "address": { "socket_address": { "address": ip, "port_value": 80 } } }, "load_balancing_weight": 2 });
    let set = endpoints_of(json!({
        "cluster_name": "c",
        "endpoints": [
            { "priority": 1, "lb_endpoints": [endpoint("10.0.0.1")] },
            { "locality": { "region": "r", "zone": "z" }, "load_balancing_weight": 3, "lb_endpoints": [endpoint("10.0.0.2"), endpoint("fd00::2")] },
        ],
        "policy": { "overprovisioning_factor": 200 },
    }))
    .unwrap();
    let addresses: Vec<String> = set
        .endpoints
        .iter()
        .map(|endpoint| endpoint.address.to_string())
        .collect();
    assert_eq!(addresses, ["10.0.0.2:80", "[fd00::2]:80", "10.0.0.1:80"]);
    assert_eq!(
        set.localities
            .iter()
            .map(|group| (group.priority, group.weight, group.endpoints.clone()))
            .collect::<Vec<_>>(),
        [(0, 3, 0..2), (1, 0, 2..3)]
    );
    assert_eq!(set.overprovisioning_factor, 200);
    let named =
        json!({ "cluster_name": "c", "endpoints": [{ "lb_endpoints": [endpoint("host.name")] }] });
    assert_eq!(
        endpoints_of(named).unwrap_err().to_string(),
        "endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: \"host.name\" is no IP address"
    );
}

#[test]
fn another_message_than_expected_is_refused() {
    let any: Any = pack(&eds::ClusterLoadAssignment::default());
    assert!(
        cluster(&any)
            .unwrap_err()
            .to_string()
            .contains("expected envoy.config.cluster.v3.Cluster")
    );
    let broken = Any {
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned(),
        value: vec![0xff, 1, 2],
    };
    assert!(cluster(&broken).is_err());
}

#[test]
fn a_forward_proxy_cluster_goes_wherever_it_is_asked_to() {
    let json = json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": "anywhere",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {
            "name": "envoy.clusters.dynamic_forward_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
                "dns_cache_config": {"name": "cache", "dns_lookup_family": "V4_ONLY"}
            }
        }
    });
    let any = lateen_envoy::json::any_from_value(json.clone()).unwrap();
    let cluster = cluster(&any).unwrap();
    assert!(matches!(
        cluster.discovery,
        crate::cluster::Discovery::DynamicForwardProxy(crate::cluster::DnsFamily::V4Only)
    ));
    let mut without = json;
    without["cluster_type"]["typed_config"]
        .as_object_mut()
        .unwrap()
        .remove("dns_cache_config");
    let any = lateen_envoy::json::any_from_value(without).unwrap();
    assert!(super::cluster(&any).is_err());
}
