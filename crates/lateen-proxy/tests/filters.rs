//! Filters that count, limit or note: what users of Istio set by EnvoyFilter, and what a proxy must not pass over in silence.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use support::*;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

fn http(name: &str, kind: &str, mut config: Value) -> Value {
    config["@type"] = json!(format!(
        "type.googleapis.com/envoy.extensions.filters.http.{kind}"
    ));
    filter(name, config)
}

fn network(name: &str, kind: &str, mut config: Value) -> Value {
    config["@type"] = json!(format!(
        "type.googleapis.com/envoy.extensions.filters.network.{kind}"
    ));
    filter(name, config)
}

fn router() -> Value {
    filter("envoy.filters.http.router", json!({"@type": ROUTER}))
}

/// A proxy with filters in front of the router, and routes to a backend that tells its headers.
async fn with_filters(filters: Vec<Value>, routes: Value) -> Running {
    let backend = backend(|request| async move {
        let lines: Vec<String> = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("?")))
            .collect();
        text(lines.join("\n"))
    })
    .await;
    let filters: Vec<Value> = filters.into_iter().chain([router()]).collect();
    start(vec![
        listener(
            "in",
            json!([{"filters": [hcm(routes, json!({"http_filters": filters}))]}]),
        ),
        cluster("up", &[backend], json!({})),
    ])
    .await
}

async fn ask(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, http::HeaderMap, String) {
    let mut request = Request::get(path).header("host", "a.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(address, request.body(Full::<Bytes>::default()).unwrap()).await
}

fn bucket(tokens: u32) -> Value {
    json!({"max_tokens": tokens, "tokens_per_fill": tokens, "fill_interval": "600s"})
}

fn always() -> Value {
    json!({"default_value": {"numerator": 100}})
}

#[tokio::test]
async fn a_local_rate_limit_counts_by_descriptor_and_tells_what_is_left() {
    let limit = http(
        "limit",
        "local_ratelimit.v3.LocalRateLimit",
        json!({
            "stat_prefix": "limited",
            "token_bucket": bucket(100),
            "filter_enabled": always(), "filter_enforced": always(),
            "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
            "response_headers_to_add": [{"header": {"key": "x-limited", "value": "%REQ(x-user)%"}}],
            "descriptors": [
                {"entries": [{"key": "user", "value": ""}], "token_bucket": bucket(2)},
                {"entries": [{"key": "user", "value": "vip"}], "token_bucket": bucket(3)},
            ],
        }),
    );
    let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "up", "rate_limits": [
        {"actions": [{"request_headers": {"header_name": "x-user", "descriptor_key": "user"}}]},
    ]}}]);
    let proxy = with_filters(vec![limit], routes).await;
    let to = proxy.address("in");
    for (user, allowed) in [("a", 2), ("b", 2), ("vip", 3)] {
        for n in 0..allowed {
            let (status, headers, _) = ask(to, "/", &[("x-user", user)]).await;
            assert_eq!(status, 200, "{user} {n}");
            assert_eq!(
                headers["x-ratelimit-remaining"],
                (allowed - n - 1).to_string()
            );
        }
        let (status, headers, body) = ask(to, "/", &[("x-user", user)]).await;
        assert_eq!((status, body.as_str()), (429, "local_rate_limited"));
        assert_eq!(headers["x-limited"], user);
        assert_eq!(headers["x-ratelimit-limit"], allowed.to_string());
    }
    assert_eq!(
        ask(to, "/", &[]).await.0,
        200,
        "without a descriptor only the common bucket counts"
    );
    let count = |what: &str| {
        let name = format!("envoy_http_local_rate_limit_{what}");
        proxy
            .handle
            .metrics()
            .counter(&name, &[("local_http_ratelimit_prefix", "limited")])
    };
    assert_eq!(
        (count("rate_limited"), count("enforced"), count("ok")),
        (3, 3, 8)
    );
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn a_limit_that_is_not_enforced_only_says_so() {
    let limit = http(
        "limit",
        "local_ratelimit.v3.LocalRateLimit",
        json!({
            "stat_prefix": "dry",
            "token_bucket": bucket(1),
            "filter_enabled": always(),
            "request_headers_to_add_when_not_enforced": [{"header": {"key": "x-would-limit", "value": "yes"}}],
        }),
    );
    let proxy = with_filters(vec![limit], route_to("up", json!({}))).await;
    let to = proxy.address("in");
    assert!(!ask(to, "/", &[]).await.2.contains("x-would-limit"));
    let (status, _, told) = ask(to, "/", &[]).await;
    assert!(
        status == 200 && told.contains("x-would-limit: yes"),
        "{told}"
    );
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn a_limit_per_connection_has_a_bucket_for_each() {
    let limit = http(
        "limit",
        "local_ratelimit.v3.LocalRateLimit",
        json!({
            "stat_prefix": "each", "token_bucket": bucket(1), "filter_enabled": always(), "filter_enforced": always(),
            "local_rate_limit_per_downstream_connection": true,
        }),
    );
    let proxy = with_filters(vec![limit], route_to("up", json!({}))).await;
    for _ in 0..3 {
        let mut kept = client(proxy.address("in")).await;
        for expected in [200, 429] {
            let request = Request::get("/")
                .header("host", "a")
                .body(Full::default())
                .unwrap();
            let answer = kept.send_request(request).await.unwrap();
            assert_eq!(answer.status(), expected);
            let _ = http_body_util::BodyExt::collect(answer.into_body()).await;
            kept.ready().await.unwrap();
        }
    }
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn headers_are_mutated_on_the_way_and_on_the_way_back() {
    let set = |key: &str, value: &str| json!({"append": {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}});
    let mutate = http(
        "mutate",
        "header_mutation.v3.HeaderMutation",
        json!({"mutations": {
            "request_mutations": [{"remove": "x-secret"}, set("x-who", "chain %REQ(:path)%")],
            "response_mutations": [set("x-answer", "chain")],
        }}),
    );
    let per_route = json!({"mutate": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
        "mutations": {"request_mutations": [set("x-who", "route")], "response_mutations": [set("x-answer", "route")]},
    }});
    let routes = json!([
        {"match": {"prefix": "/route"}, "route": {"cluster": "up"}, "typed_per_filter_config": per_route},
        {"match": {"prefix": "/own"}, "direct_response": {"status": 418}},
        {"match": {"prefix": "/"}, "route": {"cluster": "up"}},
    ]);
    let proxy = with_filters(vec![mutate], routes).await;
    let to = proxy.address("in");
    let (_, headers, told) = ask(to, "/x", &[("x-secret", "s")]).await;
    assert!(
        told.contains("x-who: chain /x") && !told.contains("x-secret"),
        "{told}"
    );
    assert_eq!(headers["x-answer"], "chain");
    let (_, headers, told) = ask(to, "/route", &[]).await;
    assert!(told.contains("x-who: route"), "{told}");
    assert_eq!(headers["x-answer"], "route");
    let (status, headers, _) = ask(to, "/own", &[]).await;
    assert_eq!(
        (status, &headers["x-answer"]),
        (418, &http::HeaderValue::from_static("chain"))
    );
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn the_filter_state_passes_from_connections_to_requests() {
    let format = |text: &str| json!({"text_format_source": {"inline_string": text}});
    let on_connection = network(
        "state",
        "set_filter_state.v3.Config",
        json!({"on_new_connection": [
            {"object_key": "my.client", "factory_key": "envoy.string", "format_string": format("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%")},
        ]}),
    );
    let on_request = http(
        "state",
        "set_filter_state.v3.Config",
        json!({"on_request_headers": [
            {"object_key": "my.path", "factory_key": "envoy.string", "format_string": format("%REQ(:path)%!")},
        ]}),
    );
    let mutate = http(
        "mutate",
        "header_mutation.v3.HeaderMutation",
        json!({"mutations": {"request_mutations": [
            {"append": {"header": {"key": "x-state", "value": "%FILTER_STATE(my.client)% %FILTER_STATE(my.path)%"}}},
        ]}}),
    );
    let backend = backend(|request| async move {
        text(request.headers()["x-state"].to_str().unwrap().to_owned())
    })
    .await;
    let manager = hcm(
        route_to("up", json!({})),
        json!({"http_filters": [on_request, mutate, router()]}),
    );
    let proxy = start(vec![
        listener("in", json!([{"filters": [on_connection, manager]}])),
        cluster("up", &[backend], json!({})),
    ])
    .await;
    assert_eq!(get(proxy.address("in"), "/p").await.2, "127.0.0.1 /p!");
    proxy.handle.shutdown().await;
}

/// Whether a connection is let in: an echo answers, a refusal closes.
async fn enters(address: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"x")
        .await
        .ok()?;
    let mut answer = [0];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut answer)).await;
    matches!(read, Ok(Ok(1))).then_some(stream)
}

#[tokio::test]
async fn connections_are_limited_in_number_and_places_become_free() {
    let limit = network(
        "limit",
        "connection_limit.v3.ConnectionLimit",
        json!({
            "stat_prefix": "few", "max_connections": 2, "delay": "0.2s",
        }),
    );
    let echo = network("echo", "echo.v3.Echo", json!({}));
    let proxy = start(vec![listener("in", json!([{"filters": [limit, echo]}]))]).await;
    let to = proxy.address("in");
    let first = enters(to).await.unwrap();
    let _second = enters(to).await.unwrap();
    let began = std::time::Instant::now();
    assert!(enters(to).await.is_none());
    assert!(
        began.elapsed() >= Duration::from_millis(150),
        "it is kept waiting"
    );
    let limited = || {
        proxy.handle.metrics().counter(
            "envoy_connection_limit_limited_connections",
            &[("connection_limit_prefix", "few")],
        )
    };
    assert_eq!(limited(), 1);
    drop(first);
    wait_for(|| async { enters(to).await.is_some() }).await;
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn connections_are_limited_in_rate() {
    let limit = network(
        "limit",
        "local_ratelimit.v3.LocalRateLimit",
        json!({"stat_prefix": "slow", "token_bucket": bucket(2)}),
    );
    let echo = network("echo", "echo.v3.Echo", json!({}));
    let proxy = start(vec![listener("in", json!([{"filters": [limit, echo]}]))]).await;
    let to = proxy.address("in");
    assert!(enters(to).await.is_some() && enters(to).await.is_some());
    assert!(enters(to).await.is_none());
    let count = proxy.handle.metrics().counter(
        "envoy_local_rate_limit_rate_limited",
        &[("local_network_ratelimit_prefix", "slow")],
    );
    assert_eq!(count, 1);
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn a_dry_run_of_access_rules_is_counted_and_lets_everything_pass() {
    let policy = json!({"permissions": [{"url_path": {"path": {"prefix": "/admin"}}}], "principals": [{"any": true}]});
    let rbac = http(
        "rbac",
        "rbac.v3.RBAC",
        json!({
            "shadow_rules": {"action": "DENY", "policies": {"ns[a]-policy[p]-rule[0]": policy}},
            "shadow_rules_stat_prefix": "istio_dry_run_deny_",
        }),
    );
    let mutate = http(
        "mutate",
        "header_mutation.v3.HeaderMutation",
        json!({"mutations": {"request_mutations": [{"append": {"header": {
        "key": "x-dry", "value": "%DYNAMIC_METADATA(envoy.filters.http.rbac:istio_dry_run_deny_shadow_engine_result)%"}}}]}}),
    );
    let proxy = with_filters(vec![rbac, mutate], route_to("up", json!({}))).await;
    let to = proxy.address("in");
    let (status, _, told) = ask(to, "/admin", &[]).await;
    assert!(status == 200 && told.contains("x-dry: denied"), "{told}");
    assert!(ask(to, "/", &[]).await.2.contains("x-dry: allowed"));
    let count = |what: &str| {
        let name = format!("envoy_http_rbac_istio_dry_run_deny_shadow_{what}");
        proxy
            .handle
            .metrics()
            .counter(&name, &[("http_conn_manager_prefix", "test")])
    };
    assert_eq!((count("denied"), count("allowed")), (1, 1));
    proxy.handle.shutdown().await;
}
