//! External authorization over HTTP and gRPC, on requests and on connections: our proxy and a real Envoy do the same.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::net::SocketAddr;

use bytes::Bytes;
use core::header_value_option::HeaderAppendAction as Action;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use lateen_envoy::pb::envoy::config::core::v3 as core;
use lateen_envoy::pb::envoy::service::auth::v3 as auth;
use lateen_envoy::pb::envoy::r#type::v3::HttpStatus;
use lateen_envoy::pb::google::rpc::Status;
use prost::Message;
use serde_json::{Value, json};
use support::twins::Twins;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const EXT_AUTHZ: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";
const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";

/// What every upstream here answers: the request's line and the headers that begin with `x-`.
async fn mirror() -> SocketAddr {
    backend(|request| async move {
        let mut out = format!(
            "{} {}",
            request.method(),
            request.uri().path_and_query().unwrap()
        );
        for (name, value) in request.headers() {
            let name = name.as_str();
            let noise = name.starts_with("x-envoy-")
                && name != "x-envoy-auth-partial-body"
                && name != "x-envoy-auth-failure-mode-allowed";
            if name.starts_with("x-")
                && !noise
                && !name.starts_with("x-forwarded")
                && name != "x-request-id"
            {
                out += &format!("\n{name}: {}", value.to_str().unwrap());
            }
        }
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut answer = text(format!("{out}\n{}", String::from_utf8_lossy(&body)));
        for name in ["x-body", "x-body-set"] {
            let value = http::HeaderValue::from_static("upstream");
            answer.headers_mut().insert(name, value);
        }
        answer
    })
    .await
}

/// Allows what has `x-ext-authz: allow`, as Istio's sample does, and says what it was asked.
async fn http_authorizer() -> SocketAddr {
    backend(|request: Request<_>| async move {
        let (parts, body) = request.into_parts();
        let body = BodyExt::collect(body).await.unwrap().to_bytes();
        let header = |name: &str| {
            let value = parts.headers.get(name);
            value.map_or("none".to_owned(), |v| v.to_str().unwrap().to_owned())
        };
        let asked = format!(
            "{} {} host={} authorization={} secret={} added={} partial={} length={} body={}",
            parts.method,
            parts.uri,
            header("host"),
            header("authorization"),
            header("x-secret"),
            header("x-added"),
            header("x-envoy-auth-partial-body"),
            header("content-length"),
            String::from_utf8_lossy(&body)
        );
        let status = match header("x-ext-authz").as_str() {
            "allow" => 200,
            "broken" => 503,
            "redirect" => 302,
            "created" => 201,
            _ => 403,
        };
        Response::builder()
            .status(status)
            .header(
                "x-check-result",
                if status == 200 { "allowed" } else { "denied" },
            )
            .header("x-asked", asked)
            .header("x-hidden", "h")
            .header("location", "/login")
            .header("x-envoy-auth-headers-to-remove", "x-drop")
            .body(Full::new(Bytes::from("denied by the authorizer")).boxed())
            .unwrap()
    })
    .await
}

fn http_filter(address_cluster: &str, extra: Value) -> Value {
    let mut config = json!({
        "@type": EXT_AUTHZ,
        "transport_api_version": "V3",
        "http_service": {
            "server_uri": {"uri": "http://authz", "cluster": address_cluster, "timeout": "1s"},
            "authorization_request": {"headers_to_add": [{"key": "x-added", "value": "yes"}]},
            "authorization_response": {
                "allowed_upstream_headers": {"patterns": [{"exact": "X-Check-Result", "ignore_case": true}, {"exact": "x-asked"}]},
                "allowed_client_headers": {"patterns": [{"prefix": "x-check", "ignore_case": true}, {"exact": "x-asked"}]},
                "allowed_client_headers_on_success": {"patterns": [{"exact": "x-check-result"}]},
            },
        },
        "allowed_headers": {"patterns": [{"exact": "x-ext-authz", "ignore_case": true}]},
    });
    merge(&mut config, extra);
    filter("envoy.filters.http.ext_authz", config)
}

fn manager(filters: Vec<Value>) -> Value {
    let mut filters = filters;
    filters.push(filter(
        "envoy.filters.http.router",
        json!({"@type": ROUTER}),
    ));
    hcm(route_to("up", json!({})), json!({"http_filters": filters}))
}

fn resources_of(listeners: Vec<(&str, Vec<Value>)>, clusters: Vec<Value>) -> Vec<Value> {
    let mut out: Vec<Value> = listeners
        .into_iter()
        .map(|(name, filters)| listener(name, json!([{"filters": [manager(filters)]}])))
        .collect();
    out.extend(clusters);
    out
}

/// One request with headers and a body.
async fn ask(
    address: SocketAddr,
    headers: &[(&'static str, &'static str)],
    body: &'static [u8],
) -> (u16, http::HeaderMap, String) {
    let method = if body.is_empty() { "GET" } else { "POST" };
    let mut request = Request::builder()
        .method(method)
        .uri("/a/b?c=d")
        .header("host", "shop.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(
        address,
        request.body(Full::new(Bytes::from_static(body))).unwrap(),
    )
    .await
}

fn shown(headers: &http::HeaderMap, name: &str) -> String {
    let values: Vec<_> = headers
        .get_all(name)
        .iter()
        .map(|v| v.to_str().unwrap())
        .collect();
    values.join("|")
}

#[tokio::test]
async fn an_http_authorizer_decides_and_changes_headers_both_ways() {
    let clusters = vec![
        cluster("up", &[mirror().await], json!({})),
        cluster("authz", &[http_authorizer().await], json!({})),
    ];
    let prefixed = json!({"http_service": {
        "server_uri": {"uri": "http://authz", "cluster": "authz", "timeout": "1s"},
        "path_prefix": "/check",
        "authorization_response": {"allowed_upstream_headers": {"patterns": [{"exact": "x-asked"}]}},
    }});
    let twins = Twins::start(resources_of(
        vec![
            ("plain", vec![http_filter("authz", json!({}))]),
            ("prefix", vec![http_filter("authz", prefixed)]),
        ],
        clusters,
    ))
    .await;
    for (who, address) in twins.addresses("plain") {
        let sent = [
            ("x-ext-authz", "allow"),
            ("x-secret", "s"),
            ("x-drop", "d"),
            ("x-check-result", "forged"),
            ("authorization", "token"),
        ];
        let (status, headers, body) = ask(address, &sent, b"").await;
        assert_eq!(status, 200, "{who}: {body}");
        let asked = "GET /a/b?c=d host=shop.example authorization=token secret=none added=yes partial=none length=0 body=";
        assert!(
            body.contains(&format!("x-asked: {asked}\n")),
            "{who}: {body}"
        );
        assert!(body.contains("x-check-result: allowed\n"), "{who}: {body}");
        assert!(
            body.contains("x-secret: s") && !body.contains("x-drop"),
            "{who}: {body}"
        );
        assert_eq!(shown(&headers, "x-check-result"), "allowed", "{who}");
        assert_eq!(shown(&headers, "x-asked"), "", "{who}");

        let (status, headers, body) = ask(address, &[], b"").await;
        assert_eq!(
            (status, body.as_str()),
            (403, "denied by the authorizer"),
            "{who}"
        );
        assert_eq!(shown(&headers, "x-check-result"), "denied", "{who}");
        assert_eq!(shown(&headers, "x-hidden"), "", "{who}");
        assert_eq!(shown(&headers, "location"), "/login", "{who}");
        assert_eq!(shown(&headers, "content-length"), "24", "{who}");

        assert_eq!(
            ask(address, &[("x-ext-authz", "redirect")], b"").await.0,
            302,
            "{who}"
        );
        assert_eq!(
            ask(address, &[("x-ext-authz", "created")], b"").await.0,
            201,
            "{who}"
        );
        let (status, _, body) = ask(address, &[("x-ext-authz", "broken")], b"").await;
        assert_eq!((status, body.as_str()), (403, ""), "{who}");
    }
    for (who, address) in twins.addresses("prefix") {
        let (_, _, body) = ask(address, &[("x-ext-authz", "allow")], b"").await;
        assert!(
            body.contains("x-asked: GET /check/a/b?c=d host=shop.example"),
            "{who}: {body}"
        );
    }
    twins.ours.handle.shutdown().await;
}

#[tokio::test]
async fn an_authorizer_that_cannot_be_asked_denies_unless_it_is_told_otherwise() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = {
        let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        taken.local_addr().unwrap()
    };
    let clusters = vec![
        cluster("up", &[mirror().await], json!({})),
        cluster("gone", &[nobody], json!({})),
        cluster("silent", &[silent.local_addr().unwrap()], json!({})),
    ];
    let slow = json!({"http_service": {"server_uri": {"uri": "http://a", "cluster": "silent", "timeout": "0.2s"}}});
    let twins = Twins::start(resources_of(
        vec![
            ("closed", vec![http_filter("gone", json!({}))]),
            (
                "status",
                vec![http_filter(
                    "gone",
                    json!({"status_on_error": {"code": 503}}),
                )],
            ),
            (
                "open",
                vec![http_filter(
                    "gone",
                    json!({"failure_mode_allow": true, "failure_mode_allow_header_add": true}),
                )],
            ),
            ("missing", vec![http_filter("nowhere", json!({}))]),
            ("slow", vec![http_filter("silent", slow)]),
        ],
        clusters,
    ))
    .await;
    for (listener, expected) in [
        ("closed", 403),
        ("status", 503),
        ("missing", 403),
        ("slow", 403),
    ] {
        if listener == "missing" {
            // Envoy refuses a static configuration with an unknown cluster only for routes, not for authorizers.
        }
        for (who, address) in twins.addresses(listener) {
            let (status, _, body) = ask(address, &[], b"").await;
            assert_eq!((status, body.as_str()), (expected, ""), "{who} {listener}");
        }
    }
    for (who, address) in twins.addresses("open") {
        let (status, _, body) = ask(address, &[], b"").await;
        assert_eq!(status, 200, "{who}");
        assert!(
            body.contains("x-envoy-auth-failure-mode-allowed: true"),
            "{who}: {body}"
        );
    }
    for (who, counted) in twins
        .counters(|line| line.starts_with("http.test.ext_authz."))
        .await
    {
        let expected = [
            "http.test.ext_authz.error: 5",
            "http.test.ext_authz.failure_mode_allowed: 1",
        ];
        assert_eq!(counted, expected, "{who}");
    }
    twins.ours.handle.shutdown().await;
}

#[tokio::test]
async fn a_body_goes_to_the_authorizer_whole_or_in_part() {
    let clusters = vec![
        cluster("up", &[mirror().await], json!({})),
        cluster("authz", &[http_authorizer().await], json!({})),
    ];
    let body = |partial: bool| json!({"with_request_body": {"max_request_bytes": 8, "allow_partial_message": partial}});
    let twins = Twins::start(resources_of(
        vec![
            ("whole", vec![http_filter("authz", body(false))]),
            ("part", vec![http_filter("authz", body(true))]),
        ],
        clusters,
    ))
    .await;
    for (who, address) in twins.addresses("whole") {
        let (status, _, answer) = ask(address, &[("x-ext-authz", "allow")], b"12345678").await;
        assert_eq!(status, 200, "{who}");
        assert!(
            answer.contains("partial=false length=8 body=12345678\n"),
            "{who}: {answer}"
        );
        assert!(answer.ends_with("\n12345678"), "{who}: {answer}");
        let (status, _, answer) = ask(address, &[("x-ext-authz", "allow")], b"123456789").await;
        assert_eq!(
            (status, answer.as_str()),
            (413, "Payload Too Large"),
            "{who}"
        );
    }
    for (who, address) in twins.addresses("part") {
        let (status, _, answer) = ask(address, &[("x-ext-authz", "allow")], b"123456789").await;
        assert_eq!(status, 200, "{who}");
        assert!(
            answer.contains("partial=true length=8 body=12345678\n"),
            "{who}: {answer}"
        );
        assert!(answer.ends_with("\n123456789"), "{who}: {answer}");
    }
    twins.ours.handle.shutdown().await;
}

#[tokio::test]
async fn an_authorizer_is_asked_about_what_the_rules_before_it_match() {
    let clusters = vec![
        cluster("up", &[mirror().await], json!({})),
        cluster("authz", &[http_authorizer().await], json!({})),
    ];
    let rules = filter(
        "envoy.filters.http.rbac",
        json!({
            "@type": RBAC,
            "shadow_rules_stat_prefix": "istio_ext_authz_",
            "shadow_rules": {"action": "DENY", "policies": {"istio-ext-authz-sample-ns[a]-policy[b]-rule[0]": {
                "permissions": [{"url_path": {"path": {"prefix": "/a"}}}],
                "principals": [{"any": true}],
            }}},
        }),
    );
    let asked = |prefix: &str| {
        json!({"filter_enabled_metadata": {
            "filter": "envoy.filters.http.rbac",
            "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}],
            "value": {"string_match": {"prefix": prefix}},
        }})
    };
    let twins = Twins::start(resources_of(
        vec![
            (
                "ours",
                vec![
                    rules.clone(),
                    http_filter("authz", asked("istio-ext-authz-sample")),
                ],
            ),
            (
                "others",
                vec![rules, http_filter("authz", asked("istio-ext-authz-other"))],
            ),
        ],
        clusters,
    ))
    .await;
    for (who, address) in twins.addresses("ours") {
        assert_eq!(get(address, "/a").await.0, 403, "{who}");
        assert_eq!(get(address, "/b").await.0, 200, "{who}");
    }
    for (who, address) in twins.addresses("others") {
        assert_eq!(get(address, "/a").await.0, 200, "{who}");
    }
    twins.ours.handle.shutdown().await;
}

fn option(key: &str, value: &str, append: Option<bool>) -> core::HeaderValueOption {
    #[expect(deprecated, reason = "what authorizers write")]
    core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            ..Default::default()
        }),
        append: append.map(|value| lateen_envoy::pb::google::protobuf::BoolValue { value }),
        ..Default::default()
    }
}

fn acting(key: &str, action: Action) -> core::HeaderValueOption {
    core::HeaderValueOption {
        append_action: action as i32,
        ..option(key, "authz", None)
    }
}

/// Decides by `x-ext-authz`, or by the peer's address family for connections.
fn decide(check: &auth::CheckRequest) -> auth::CheckResponse {
    use auth::check_response::HttpResponse;
    let attributes = check.attributes.clone().unwrap_or_default();
    let http = attributes
        .request
        .and_then(|request| request.http)
        .unwrap_or_default();
    let code = |code: i32| {
        Some(Status {
            code,
            ..Default::default()
        })
    };
    let said = http.headers.get("x-ext-authz").map_or("", String::as_str);
    if said == "allow" {
        let asked = format!(
            "{} {} host={} scheme={} protocol={} body={}",
            http.method,
            http.path,
            http.host,
            http.scheme,
            http.protocol,
            http.body.clone() + &String::from_utf8_lossy(&http.raw_body)
        );
        let ok = auth::OkHttpResponse {
            headers: vec![
                option("x-asked", &asked, Some(false)),
                option("x-set", "authz", Some(false)),
                option("x-append", "authz", Some(true)),
                option("x-append-none", "authz", Some(true)),
                option("x-default", "authz", None),
                acting("x-absent", Action::AddIfAbsent),
                acting("x-present", Action::OverwriteIfExists),
            ],
            headers_to_remove: vec!["x-drop".to_owned(), "host".to_owned()],
            response_headers_to_add: vec![
                option("x-to-client", "authz", None),
                option("x-body", "authz", None),
                option("x-body-set", "authz", Some(false)),
            ],
            query_parameters_to_set: vec![core::QueryParameter {
                key: "e".to_owned(),
                value: "f".to_owned(),
            }],
            ..Default::default()
        };
        return auth::CheckResponse {
            status: code(0),
            http_response: Some(HttpResponse::OkResponse(ok)),
            ..Default::default()
        };
    }
    let denied = auth::DeniedHttpResponse {
        status: Some(HttpStatus {
            code: if said == "teapot" { 418 } else { 0 },
        }),
        headers: vec![option("x-why", "no", None)],
        body: if said == "teapot" {
            "short and stout".to_owned()
        } else {
            String::new()
        },
    };
    auth::CheckResponse {
        status: code(7),
        http_response: (!said.is_empty()).then_some(HttpResponse::DeniedResponse(denied)),
        ..Default::default()
    }
}

async fn grpc_authorizer() -> SocketAddr {
    backend(|request: Request<_>| async move {
        assert_eq!(
            request.uri().path(),
            "/envoy.service.auth.v3.Authorization/Check"
        );
        let body = BodyExt::collect(request.into_body())
            .await
            .unwrap()
            .to_bytes();
        let check = auth::CheckRequest::decode(&body[5..]).unwrap();
        let is_connection = check.attributes.as_ref().unwrap().request.is_none();
        let response = if is_connection {
            let source = check.attributes.clone().unwrap().source.unwrap();
            assert!(source.address.is_some());
            auth::CheckResponse {
                status: Some(Status {
                    code: 7,
                    ..Default::default()
                }),
                ..Default::default()
            }
        } else {
            decide(&check)
        };
        let mut message = vec![0];
        message.extend(u32::try_from(response.encoded_len()).unwrap().to_be_bytes());
        message.extend(response.encode_to_vec());
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames = [
            Ok(Frame::data(Bytes::from(message))),
            Ok(Frame::trailers(trailers)),
        ];
        Response::builder()
            .header("content-type", "application/grpc")
            .body(StreamBody::new(tokio_stream::iter(frames)).boxed())
            .unwrap()
    })
    .await
}

fn grpc_filter(extra: Value) -> Value {
    let mut config = json!({
        "@type": EXT_AUTHZ,
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "authz", "authority": "authz.example"}, "timeout": "1s"},
    });
    merge(&mut config, extra);
    filter("envoy.filters.http.ext_authz", config)
}

#[tokio::test]
async fn a_grpc_authorizer_decides_and_changes_requests_and_answers() {
    let clusters = vec![
        cluster("up", &[mirror().await], json!({})),
        cluster("authz", &[grpc_authorizer().await], http2()),
    ];
    let body = |bytes: bool| json!({"with_request_body": {"max_request_bytes": 64, "pack_as_bytes": bytes}});
    let twins = Twins::start(resources_of(
        vec![
            ("plain", vec![grpc_filter(json!({}))]),
            ("body", vec![grpc_filter(body(false))]),
            ("bytes", vec![grpc_filter(body(true))]),
        ],
        clusters,
    ))
    .await;
    let mut seen: Vec<String> = Vec::new();
    for (who, address) in twins.addresses("plain") {
        let sent = [
            ("x-ext-authz", "allow"),
            ("x-set", "mine"),
            ("x-append", "mine"),
            ("x-drop", "d"),
            ("x-default", "mine"),
            ("x-absent", "mine"),
        ];
        let (status, headers, body) = ask(address, &sent, b"").await;
        assert_eq!(status, 200, "{who}");
        let mut lines: Vec<&str> = body.lines().collect();
        lines.sort_unstable();
        let client = ["x-to-client", "x-body", "x-body-set"].map(|name| shown(&headers, name));
        seen.push(format!("{lines:?} {client:?}"));
        let (status, headers, body) = ask(address, &[("x-ext-authz", "teapot")], b"").await;
        assert_eq!((status, body.as_str()), (418, "short and stout"), "{who}");
        assert_eq!(shown(&headers, "x-why"), "no", "{who}");
        let (status, _, body) = ask(address, &[], b"").await;
        assert_eq!((status, body.as_str()), (403, ""), "{who}");
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "{seen:#?}");
    for listener in ["body", "bytes"] {
        for (who, address) in twins.addresses(listener) {
            let (_, _, answer) = ask(address, &[("x-ext-authz", "allow")], b"hello").await;
            assert!(
                answer.contains("protocol=HTTP/1.1 body=hello\n"),
                "{who}: {answer}"
            );
        }
    }
    twins.ours.handle.shutdown().await;
}

#[tokio::test]
async fn a_grpc_authorizer_decides_about_connections() {
    let tcp = |name: &str, policy: &str| {
        let rbac = filter(
            "envoy.filters.network.rbac",
            json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
                "stat_prefix": "tcp.",
                "shadow_rules_stat_prefix": "istio_ext_authz_",
                "shadow_rules": {"action": "DENY", "policies": {policy: {
                    "permissions": [{"any": true}], "principals": [{"any": true}],
                }}},
            }),
        );
        let authz = filter(
            "envoy.filters.network.ext_authz",
            json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz",
                "stat_prefix": "tcp.",
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": "authz"}, "timeout": "1s"},
                "filter_enabled_metadata": {
                    "filter": "envoy.filters.network.rbac",
                    "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}],
                    "value": {"string_match": {"prefix": "istio-ext-authz-sample"}},
                },
            }),
        );
        let proxy = filter(
            "envoy.filters.network.tcp_proxy",
            json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": "t", "cluster": "up",
            }),
        );
        listener(name, json!([{"filters": [rbac, authz, proxy]}]))
    };
    let twins = Twins::start(vec![
        tcp("asked", "istio-ext-authz-sample-ns[a]-policy[b]-rule[0]"),
        tcp(
            "let-through",
            "istio-ext-authz-other-ns[a]-policy[b]-rule[0]",
        ),
        cluster("up", &[mirror().await], json!({})),
        cluster("authz", &[grpc_authorizer().await], http2()),
    ])
    .await;
    for (listener, through) in [("asked", false), ("let-through", true)] {
        for (who, address) in twins.addresses(listener) {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(request).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert_eq!(!answer.is_empty(), through, "{who} {listener}");
        }
    }
    twins.ours.handle.shutdown().await;
}

/// The class of CVE-2026-47205 and CVE-2026-50572: a client that goes away while somebody is asked about it leaves nothing behind.
#[tokio::test]
async fn a_client_that_leaves_while_its_authorizer_thinks_leaves_nothing_behind() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authz = silent.local_addr().unwrap();
    let slow = json!({"http_service": {"server_uri": {"uri": "http://a", "cluster": "silent", "timeout": "60s"}}});
    let proxy = start(resources_of(
        vec![("in", vec![http_filter("silent", slow)])],
        vec![
            cluster("up", &[mirror().await], json!({})),
            cluster("silent", &[authz], json!({})),
        ],
    ))
    .await;
    let address = proxy.address("in");
    for patience in 0..20 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        stream.write_all(request).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(patience * 3)).await;
    }
    let admin = proxy.handle.admin_address().unwrap();
    let stats = || async move { get(admin, "/stats").await.2 };
    wait_for(|| async move {
        let stats = stats().await;
        let active = |name: &str| stats.contains(&format!("{name}: 0\n"));
        active("http.test.downstream_rq_active") && active("http.test.downstream_cx_active")
    })
    .await;
    let stats = stats().await;
    assert!(
        !stats.contains("cluster.up.upstream_rq_total: 1"),
        "{stats}"
    );
    proxy.handle.shutdown().await;
}
