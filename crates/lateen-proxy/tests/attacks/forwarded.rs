//! Trust in what clients say about themselves and about earlier hops.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::Full;

use super::*;

/// A proxy that tells what its upstream was told.
async fn telling(extra: Value) -> Running {
    let backend = backend(|request| async move {
        let mut lines: Vec<String> = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        lines.sort();
        text(lines.join("\n"))
    })
    .await;
    guarded(backend, extra).await
}

async fn told(proxy: &Running, headers: &[(&str, &str)]) -> String {
    let mut request = Request::get("/").header("host", "a.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let (status, _, body): (u16, HeaderMap, String) = send(proxy.address("in"), request).await;
    assert_eq!(status, 200, "{body}");
    body
}

const INTERNAL: [&str; 14] = [
    "x-envoy-retry-on",
    "x-envoy-max-retries",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-retriable-status-codes",
    "x-envoy-force-trace",
    "x-envoy-ip-tags",
    "x-envoy-original-path",
    "x-envoy-original-host",
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-internal",
];

/// Class: internal headers from strangers (CVE-2023-27487, CVE-2024-45806). Outcome: none of them passes an edge, whatever address the client
/// has: no address is internal by default.
#[tokio::test]
async fn internal_headers_do_not_pass_an_edge() {
    let proxy = telling(json!({"use_remote_address": true})).await;
    let sent: Vec<(&str, &str)> = INTERNAL.iter().map(|name| (*name, "forged-1")).collect();
    for forwarded in [None, Some(("x-forwarded-for", "10.0.0.1"))] {
        let headers: Vec<_> = sent.iter().copied().chain(forwarded).collect();
        let got = told(&proxy, &headers).await;
        assert!(!got.contains("forged"), "{got}");
    }
    proxy.handle.shutdown().await;
}

/// Class: forged client addresses. Limit: `xff_num_trusted_hops` (Istio: `numTrustedProxies`). Outcome: at an edge only the connection, and as
/// many hops before it as are trusted, say who the client is.
#[tokio::test]
async fn only_trusted_hops_say_who_the_client_is() {
    for (hops, sent, external) in [
        (0, "6.6.6.6", "127.0.0.1"),
        (0, "1.1.1.1, 6.6.6.6", "127.0.0.1"),
        (1, "1.1.1.1, 6.6.6.6", "6.6.6.6"),
        (2, "1.1.1.1, 6.6.6.6", "1.1.1.1"),
        (2, "6.6.6.6", "127.0.0.1"),
        (1, "not-an-address", "127.0.0.1"),
    ] {
        let proxy =
            telling(json!({"use_remote_address": true, "xff_num_trusted_hops": hops})).await;
        let got = told(&proxy, &[("x-forwarded-for", sent)]).await;
        assert!(
            got.contains(&format!("x-envoy-external-address: {external}")),
            "{hops} {sent}: {got}"
        );
        assert!(
            got.contains(&format!("x-forwarded-for: {sent},127.0.0.1")),
            "{hops} {sent}: {got}"
        );
        proxy.handle.shutdown().await;
    }
}

/// Class: forged client addresses. Limit: `xff_num_trusted_hops`. Outcome: a client that begins the header with bytes that are no text (or
/// with more entries than anybody counts) does not make what a trusted hop appended to it unreadable, which would leave that hop's own
/// address: one that a policy may allow.
#[tokio::test]
async fn what_a_trusted_hop_appended_stays_readable_whatever_stands_before() {
    let proxy = telling(json!({"use_remote_address": true, "xff_num_trusted_hops": 1})).await;
    let many = "1.1.1.1,".repeat(5_000);
    for before in [&b"\xff\xfe"[..], b"\x80, 10.0.0.1", b",,,", many.as_bytes()] {
        let value = [before, b", 6.6.6.6"].concat();
        let value = http::HeaderValue::from_bytes(&value).unwrap();
        let request = Request::get("/")
            .header("host", "a.example")
            .header("x-forwarded-for", value)
            .body(Full::<Bytes>::default())
            .unwrap();
        let (status, _, told): (u16, HeaderMap, String) = send(proxy.address("in"), request).await;
        assert_eq!(status, 200, "{told}");
        let client = "x-envoy-external-address: 6.6.6.6";
        assert!(told.contains(client), "{told}");
    }
    proxy.handle.shutdown().await;
}

/// Class: forged scheme. Outcome: `x-forwarded-proto` is the connection's, unless hops before are trusted, and only `http` or `https`.
#[tokio::test]
async fn the_scheme_is_the_connections() {
    let edge = telling(json!({"use_remote_address": true})).await;
    for forged in ["https", "HTTPS", "gopher", ""] {
        let got = told(&edge, &[("x-forwarded-proto", forged)]).await;
        assert!(
            got.contains("x-forwarded-proto: http\n") || got.ends_with("x-forwarded-proto: http"),
            "{got}"
        );
    }
    edge.handle.shutdown().await;
    let behind = telling(json!({"use_remote_address": true, "xff_num_trusted_hops": 1})).await;
    let got = told(&behind, &[("x-forwarded-proto", "https")]).await;
    assert!(got.contains("x-forwarded-proto: https"), "{got}");
    behind.handle.shutdown().await;
}

/// Class: forged client certificates. Outcome: without mTLS `x-forwarded-client-cert` survives only `ALWAYS_FORWARD_ONLY`.
#[tokio::test]
async fn a_client_without_a_certificate_cannot_forward_one() {
    for (mode, passes) in [
        ("SANITIZE", false),
        ("FORWARD_ONLY", false),
        ("APPEND_FORWARD", false),
        ("SANITIZE_SET", false),
        ("ALWAYS_FORWARD_ONLY", true),
    ] {
        let proxy = telling(json!({"forward_client_cert_details": mode})).await;
        let got = told(
            &proxy,
            &[("x-forwarded-client-cert", "URI=spiffe://forged")],
        )
        .await;
        assert_eq!(got.contains("forged"), passes, "{mode}: {got}");
        proxy.handle.shutdown().await;
    }
}

/// Class: identity in headers that are not text (CVE-2026-73552) or come twice (CVE-2026-26308). Outcome: a rule that denies by a header's value
/// still denies; one that allows does not.
#[tokio::test]
async fn values_that_are_not_text_do_not_open_a_deny() {
    let rbac = |action: &str, header: Value| {
        filter(
            "envoy.filters.http.rbac",
            json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
                "rules": {"action": action, "policies": {"p": {
                    "permissions": [{"header": header}],
                    "principals": [{"any": true}],
                }}},
            }),
        )
    };
    let matching = |kind: &str, value: &str| json!({"name": "x-role", "string_match": {kind: if kind == "safe_regex" { json!({"regex": value}) } else { json!(value) }}});
    let router = || filter("envoy.filters.http.router", json!({"@type": ROUTER}));
    let cases: [(&str, Value, &[u8], &str); 5] = [
        (
            "DENY",
            matching("safe_regex", "guest.*"),
            b"x-role: guest\xff\r\n",
            "403",
        ),
        (
            "DENY",
            matching("prefix", "guest"),
            b"x-role: guest\xff\r\n",
            "403",
        ),
        (
            "DENY",
            matching("contains", "guest"),
            b"x-role: a\r\nx-role: guest\r\n",
            "403",
        ),
        (
            "ALLOW",
            matching("exact", "admin"),
            b"x-role: admin\xff\r\n",
            "403",
        ),
        (
            "ALLOW",
            matching("safe_regex", "admin"),
            b"x-role: admin\r\n",
            "200",
        ),
    ];
    for (action, header, sent, expected) in cases {
        let (backend, _) = recorder(OK).await;
        let filters = json!({"http_filters": [rbac(action, header.clone()), router()]});
        let proxy = guarded(backend, filters).await;
        let request = [
            b"GET / HTTP/1.1\r\nhost: a\r\n",
            sent,
            b"connection: close\r\n\r\n",
        ]
        .concat();
        let answered = raw(proxy.address("in"), &request).await;
        assert!(
            answered.starts_with(&format!("HTTP/1.1 {expected}")),
            "{action} {header} {sent:?}: {answered}"
        );
        proxy.handle.shutdown().await;
    }
}

/// Class: host confusion in routing. Outcome: hosts are compared without regard to case; the configured port and dot rules hold.
#[tokio::test]
async fn hosts_are_compared_as_configured() {
    let manager = |extra: Value| {
        let mut config = json!({
            "route_config": {"name": "r", "virtual_hosts": [
                {"name": "secret", "domains": ["secret.example"], "routes": [
                    {"match": {"prefix": "/"}, "direct_response": {"status": 403}}]},
                {"name": "all", "domains": ["*"], "routes": [
                    {"match": {"prefix": "/"}, "direct_response": {"status": 200}}]},
            ]},
        });
        merge(&mut config, extra);
        hcm(json!([]), config)
    };
    let strict = json!({"strip_any_host_port": true, "strip_trailing_host_dot": true});
    for (extra, host, status) in [
        (json!({}), "secret.example", 403),
        (json!({}), "SECRET.example", 403),
        (strict.clone(), "secret.example:80", 403),
        (strict.clone(), "secret.example.", 403),
        (strict.clone(), "Secret.Example.:8443", 403),
        (strict, "other.example", 200),
    ] {
        let proxy = start(vec![listener("in", json!([{"filters": [manager(extra)]}]))]).await;
        let request = Request::get("/")
            .header("host", host)
            .body(Full::<Bytes>::default())
            .unwrap();
        let (got, ..) = send(proxy.address("in"), request).await;
        assert_eq!(got, status, "{host}");
        proxy.handle.shutdown().await;
    }
}
