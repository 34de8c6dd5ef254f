//! Configurations: xDS resources for Lateen and Envoy, and what the others read.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Hop, Wire};

const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str =
    "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const OPTIONS: &str = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

const TLS: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const RATE_LIMIT: &str =
    "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";

/// The certificate that all subjects present, with its key.
pub(super) struct Certificate {
    chain: String,
    key: String,
    chain_file: PathBuf,
    key_file: PathBuf,
    both_file: PathBuf,
}

impl Certificate {
    /// Makes one and writes it down, unless there is one already: an ECDSA key on P-256, as workloads of a mesh have.
    ///
    /// # Errors
    /// It cannot be made or written.
    pub(super) fn write(dir: &Path) -> Result<Self> {
        let [chain_file, key_file, both_file] =
            ["tls.crt", "tls.key", "tls.pem"].map(|name| dir.join(name));
        if !both_file.exists() {
            let made = rcgen::generate_simple_self_signed(vec!["origin.example".to_owned()]);
            let made = made.context("making a certificate")?;
            let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
            fs::write(&chain_file, &chain).context("writing a certificate")?;
            fs::write(&key_file, &key).context("writing a key")?;
            fs::write(&both_file, chain + &key).context("writing a certificate with its key")?;
        }
        let read = |path: &Path| {
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
        };
        Ok(Self {
            chain: read(&chain_file)?,
            key: read(&key_file)?,
            chain_file,
            key_file,
            both_file,
        })
    }

    fn context(&self) -> Value {
        json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": { "@type": TLS, "common_tls_context": { "tls_certificates": [{
                "certificate_chain": { "inline_string": self.chain },
                "private_key": { "inline_string": self.key },
            }] } },
        })
    }
}

/// The resources, each with `@type`, as Lateen reads them.
pub(super) fn resources(hop: &Hop, tls: Option<&Certificate>) -> Value {
    json!([
        typed(LISTENER, listener(hop, tls)),
        typed(CLUSTER, cluster(hop))
    ])
}

/// The same as Envoy's bootstrap.
pub(super) fn bootstrap(hop: &Hop, tls: Option<&Certificate>) -> Value {
    json!({
        "node": { "id": "bench", "cluster": "bench" },
        "static_resources": { "listeners": [listener(hop, tls)], "clusters": [cluster(hop)] },
    })
}

fn typed(ty: &str, mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.insert("@type".to_owned(), json!(ty));
    }
    value
}

fn listener(hop: &Hop, tls: Option<&Certificate>) -> Value {
    let filter = match hop.wire {
        Wire::Tcp => json!({
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": { "@type": TCP_PROXY, "stat_prefix": "hop", "cluster": "origin" },
        }),
        wire => json!({
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": manager(wire, hop.rate_limited),
        }),
    };
    let mut chain = json!({ "filters": [filter] });
    if let Some(tls) = tls {
        chain["transport_socket"] = tls.context();
    }
    json!({
        "name": "hop",
        "address": address(hop.listen),
        "filter_chains": [chain],
    })
}

fn manager(wire: Wire, rate_limited: bool) -> Value {
    let router =
        json!({ "name": "envoy.filters.http.router", "typed_config": { "@type": ROUTER } });
    let limit = rate_limited.then(|| {
        let all = json!({ "default_value": { "numerator": 100, "denominator": "HUNDRED" } });
        json!({ "name": "envoy.filters.http.local_ratelimit", "typed_config": {
            "@type": RATE_LIMIT,
            "stat_prefix": "hop",
            "token_bucket": { "max_tokens": 1_000_000_000, "tokens_per_fill": 1_000_000_000, "fill_interval": "1s" },
            "filter_enabled": all,
            "filter_enforced": all,
        } })
    });
    let filters: Vec<Value> = limit.into_iter().chain([router]).collect();
    json!({
        "@type": MANAGER,
        "stat_prefix": "hop",
        "codec_type": if matches!(wire, Wire::Http1 | Wire::Https) { "HTTP1" } else { "HTTP2" },
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
        "route_config": {
            "name": "hop",
            "virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "origin", "timeout": "15s" } }],
            }],
        },
        "http_filters": filters,
    })
}

fn cluster(hop: &Hop) -> Value {
    let mut cluster = json!({
        "name": "origin",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": { "thresholds": [{
            "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000,
        }] },
        "load_assignment": {
            "cluster_name": "origin",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(hop.origin) } }] }],
        },
    });
    if matches!(hop.wire, Wire::Http2 | Wire::Grpc) {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": OPTIONS,
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        });
    }
    cluster
}

fn address(at: std::net::SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } })
}

/// nginx: one worker in the foreground.
pub(super) fn nginx(hop: &Hop, tls: Option<&Certificate>, dir: &Path) -> String {
    let (listen, origin) = (hop.listen, hop.origin);
    let (http2, pass) = match hop.wire {
        Wire::Grpc => (" http2", "grpc_pass grpc://origin;"),
        _ => ("", "proxy_pass http://origin;"),
    };
    let tls = tls.map(|tls| {
        let (chain, key) = (tls.chain_file.display(), tls.key_file.display());
        let own = format!("ssl_certificate {chain};\n    ssl_certificate_key {key};\n    ");
        (" ssl", own)
    });
    let (ssl, certificate) = tls.unwrap_or_default();
    let dir = dir.display();
    format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid {dir}/nginx.pid;\nerror_log {dir}/nginx-error.log warn;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  client_body_temp_path {dir}/body;\n  \
         proxy_temp_path {dir}/proxy;\n  fastcgi_temp_path {dir}/fastcgi;\n  uwsgi_temp_path {dir}/uwsgi;\n  \
         scgi_temp_path {dir}/scgi;\n  proxy_max_temp_file_size 0;\n  \
         map $http_upgrade $connection_out {{ default upgrade; '' ''; }}\n  \
         upstream origin {{ server {origin}; keepalive 2048; keepalive_requests 1000000000; }}\n  \
         server {{\n    listen {listen}{http2}{ssl};\n    {certificate}location / {{\n      proxy_http_version 1.1;\n      \
         proxy_set_header Connection $connection_out;\n      proxy_set_header Upgrade $http_upgrade;\n      {pass}\n    \
         }}\n  }}\n}}\n"
    )
}

/// HAProxy: one thread.
pub(super) fn haproxy(hop: &Hop, tls: Option<&Certificate>) -> String {
    let (listen, origin) = (hop.listen, hop.origin);
    let mode = if hop.wire == Wire::Tcp { "tcp" } else { "http" };
    let proto = match hop.wire {
        Wire::Http2 | Wire::Grpc => " proto h2",
        Wire::Http1 | Wire::Https | Wire::Tcp => "",
    };
    let crt = tls.map(|tls| format!(" ssl crt {}", tls.both_file.display()));
    let crt = crt.unwrap_or_default();
    let reuse = if hop.wire == Wire::Tcp {
        "  option splice-auto\n"
    } else {
        "  http-reuse always\n"
    };
    format!(
        "global\n  nbthread 1\n  maxconn 4000\ndefaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 60s\n  \
         timeout server 60s\n  timeout tunnel 60s\nfrontend hop\n  bind {listen}{proto}{crt}\n  default_backend origin\n\
         backend origin\n{reuse}  server origin {origin}{proto}\n"
    )
}
