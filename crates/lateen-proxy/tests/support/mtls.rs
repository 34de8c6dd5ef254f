//! The resources of two proxies with mTLS between them.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::identity::{common, spiffe};
use crate::support::{ROUTER, cluster, filter, hcm, listener, merge, route_to};

/// The server's side: mTLS in front of an application.
pub(crate) fn inbound(app: SocketAddr) -> Vec<Value> {
    let extra = json!({
        "stat_prefix": "inbound",
        "forward_client_cert_details": "APPEND_FORWARD",
        "set_current_client_cert_details": {"subject": true, "dns": true, "uri": true},
        "http_filters": [
            filter("envoy.filters.http.rbac", json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
                "rules": {"action": "ALLOW", "policies": {"mesh": {
                    "permissions": [{"any": true}],
                    "principals": [{"authenticated": {"principal_name": {"prefix": "spiffe://cluster.local/ns/default/"}}}],
                }}},
            })),
            filter("istio.stats", json!({"@type": "type.googleapis.com/stats.PluginConfig"})),
            filter("envoy.filters.http.router", json!({"@type": ROUTER})),
        ],
    });
    let mut tls = common(json!([]));
    merge(&mut tls, json!({"alpn_protocols": ["h2", "http/1.1"]}));
    let chain = json!({
        "filters": [hcm(route_to("app", json!({})), extra)],
        "transport_socket": filter("envoy.transport_sockets.tls", json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": tls,
            "require_client_certificate": true,
        })),
    });
    let mut listener = listener("inbound", json!([chain]));
    merge(&mut listener, json!({"traffic_direction": "INBOUND"}));
    vec![listener, cluster("app", &[app], json!({}))]
}

/// The client's side: plain text in, mTLS out to a server that has to be `account`.
pub(crate) fn outbound(server: SocketAddr, account: &str) -> Vec<Value> {
    let mut tls = common(spiffe(account));
    merge(&mut tls, json!({"alpn_protocols": ["istio"]}));
    let socket = json!({"transport_socket": filter("envoy.transport_sockets.tls", json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": tls,
        "sni": "outbound_.80_._.server.default.svc.cluster.local",
    }))});
    vec![
        listener(
            "outbound",
            json!([{"filters": [hcm(route_to("server", json!({})), json!({}))]}]),
        ),
        cluster("server", &[server], socket),
    ]
}
