//! What the proxies under test are told: a listener for each path, all to the same few hosts.

use std::net::SocketAddr;
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use rcgen::{Certificate, KeyPair as CertificateKey};
use serde_json::{Map, Value, json};

use crate::support::{ROUTER, cluster, filter, hcm, http2, listener, merge, route_to};

/// The hosts.
pub(crate) struct Hosts {
    pub(crate) web: SocketAddr,
    pub(crate) grpc: SocketAddr,
    pub(crate) echo: SocketAddr,
}

/// Rules, and routes.
const RULES: usize = 100;
const ROUTES: usize = 1000;

/// Listeners and clusters.
pub(crate) fn all(
    hosts: &Hosts,
    token: &Token,
    log: &Path,
    certificate: (&Certificate, &CertificateKey),
) -> Vec<Value> {
    let h1 = json!({"codec_type": "HTTP1"});
    let h2 = json!({"codec_type": "HTTP2"});
    let web = || to("web");
    let filtered = |filter| json!({"codec_type": "HTTP1", "http_filters": [filter, router()]});
    let logged = json!({"codec_type": "HTTP1", "access_log": [filter("log", json!({
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": log,
    }))]});
    let stats = filter(
        "istio.stats",
        json!({"@type": "type.googleapis.com/stats.PluginConfig"}),
    );
    vec![
        http("http1", web(), h1.clone()),
        http("http2", web(), h2.clone()),
        http("grpc", to("grpc"), h2),
        http("rules", web(), filtered(rules())),
        http("token", web(), filtered(token.filter())),
        http("log", web(), logged),
        http("metrics", web(), filtered(stats)),
        http("routes", routes(), h1.clone()),
        gateway(hcm(web(), h1), certificate),
        listener("tcp", json!([{"filters": [tcp()]}])),
        cluster("web", &[hosts.web], json!({})),
        cluster("grpc", &[hosts.grpc], http2()),
        cluster("echo", &[hosts.echo], json!({})),
    ]
}

fn to(cluster: &str) -> Value {
    route_to(cluster, json!({"timeout": "15s"}))
}

fn router() -> Value {
    filter("envoy.filters.http.router", json!({"@type": ROUTER}))
}

fn http(name: &str, routes: Value, extra: Value) -> Value {
    listener(name, json!([{"filters": [hcm(routes, extra)]}]))
}

fn tcp() -> Value {
    filter(
        "tcp",
        json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "tcp", "cluster": "echo",
        }),
    )
}

fn gateway(manager: Value, (certificate, key): (&Certificate, &CertificateKey)) -> Value {
    let socket = filter(
        "envoy.transport_sockets.tls",
        json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {"tls_certificates": [{
                "certificate_chain": {"inline_string": certificate.pem()},
                "private_key": {"inline_string": key.serialize_pem()},
            }]},
        }),
    );
    let mut chain = json!({"filters": [manager]});
    merge(&mut chain, json!({"transport_socket": socket}));
    listener("tls", json!([chain]))
}

/// Rules that deny as AuthorizationPolicy makes them, none of which is met.
fn rules() -> Value {
    let rule = |index: usize| {
        let caller = format!("spiffe://cluster.local/ns/default/sa/stranger-{index}");
        let path = format!("/private/{index}/");
        let policy = json!({
            "permissions": [{"and_rules": {"rules": [
                {"or_rules": {"rules": [{"header": {"name": ":method", "string_match": {"exact": "POST"}}}]}},
                {"or_rules": {"rules": [{"url_path": {"path": {"prefix": path}}}]}},
            ]}}],
            "principals": [{"and_ids": {"ids": [
                {"or_ids": {"ids": [{"authenticated": {"principal_name": {"exact": caller}}}]}},
            ]}}],
        });
        (format!("ns[default]-policy[rules]-rule[{index}]"), policy)
    };
    let policies: Map<String, Value> = (0..RULES).map(rule).collect();
    filter(
        "envoy.filters.http.rbac",
        json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"action": "DENY", "policies": policies},
        }),
    )
}

/// Routes by path and by prefix, and one for everything, which is taken.
fn routes() -> Value {
    let matcher = |index: usize| match index % 2 {
        0 => json!({"path": format!("/somewhere/{index}")}),
        _ => json!({"prefix": format!("/somewhere/{index}/")}),
    };
    let route =
        |matcher: Value| json!({"match": matcher, "route": {"cluster": "web", "timeout": "15s"}});
    let mut all: Vec<Value> = (1..ROUTES).map(|index| route(matcher(index))).collect();
    all.push(route(json!({"prefix": "/"})));
    Value::Array(all)
}

/// A token, and the key that verifies it.
pub(crate) struct Token {
    text: String,
    keys: String,
}

impl Token {
    pub(crate) fn new() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        // An uncompressed point: 4, then both coordinates.
        let point = key.public_key().as_ref();
        let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..65]));
        let header = BASE64.encode(r#"{"alg":"ES256","kid":"test","typ":"JWT"}"#);
        let claims =
            r#"{"iss":"https://issuer.example","sub":"test","exp":4102444800,"groups":["a","b"]}"#;
        let signed = format!("{header}.{}", BASE64.encode(claims));
        let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        let keys = json!({"keys": [
            {"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "test", "x": x, "y": y},
        ]});
        Self {
            text: format!("{signed}.{}", BASE64.encode(signature.as_ref())),
            keys: keys.to_string(),
        }
    }

    /// A request that shows it.
    pub(crate) fn request(&self) -> String {
        let token = &self.text;
        format!(
            "GET /path HTTP/1.1\r\nhost: a.example\r\nuser-agent: test\r\naccept: */*\r\nauthorization: Bearer {token}\r\n\r\n"
        )
    }

    fn filter(&self) -> Value {
        filter(
            "envoy.filters.http.jwt_authn",
            json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
                "providers": {"origins-0": {
                    "issuer": "https://issuer.example",
                    "local_jwks": {"inline_string": self.keys},
                    "payload_in_metadata": "payload",
                }},
                "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "origins-0"}}],
            }),
        )
    }
}
