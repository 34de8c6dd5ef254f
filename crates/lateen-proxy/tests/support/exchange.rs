//! Two sidecars that carry TCP between them, and tell each other who they are.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::net::SocketAddr;
use std::time::Duration;

use lateen_proxy::ProxyConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::identity::{Root, common, spiffe};
use crate::support::*;

const TCP: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const EXCHANGE: &str = "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange";
const STATS: &str = "type.googleapis.com/stats.PluginConfig";

pub(crate) fn exchange() -> Value {
    filter(
        "istio.metadata_exchange",
        json!({"@type": EXCHANGE, "protocol": "istio-peer-exchange"}),
    )
}

pub(crate) fn tcp_proxy(cluster: &str) -> Vec<Value> {
    vec![
        filter(
            "istio.stats",
            json!({"@type": STATS, "tcp_reporting_duration": "0.05s"}),
        ),
        filter(
            "envoy.filters.network.tcp_proxy",
            json!({"@type": TCP, "stat_prefix": cluster, "cluster": cluster}),
        ),
    ]
}

/// Metadata that says which service a cluster stands for.
pub(crate) fn service(name: &str) -> Value {
    json!({"filter_metadata": {"istio": {"services": [{
        "host": format!("{name}.shop.svc.cluster.local"), "name": name, "namespace": "shop",
    }]}}})
}

/// The server's side: mutual TLS in front of an application.
pub(crate) fn inbound(app: SocketAddr, takes_part: bool) -> Vec<Value> {
    let mut tls = common(json!([]));
    merge(
        &mut tls,
        json!({"alpn_protocols": ["istio-peer-exchange", "h2", "http/1.1"]}),
    );
    let mut filters = tcp_proxy("app");
    if takes_part {
        filters.insert(0, exchange());
    }
    let chain = json!({
        "filters": filters,
        "transport_socket": filter("envoy.transport_sockets.tls", json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": tls,
            "require_client_certificate": true,
        })),
    });
    let mut listener = listener("inbound", json!([chain]));
    merge(&mut listener, json!({"traffic_direction": "INBOUND"}));
    let app = cluster("app", &[app], json!({"metadata": service("ratings")}));
    vec![listener, app]
}

/// The client's side: plain text in, mutual TLS out.
pub(crate) fn outbound(server: SocketAddr, takes_part: bool) -> Vec<Value> {
    let mut tls = common(spiffe("server"));
    merge(
        &mut tls,
        json!({"alpn_protocols": ["istio-peer-exchange", "istio"]}),
    );
    let mut extra = json!({
        "metadata": service("ratings"),
        // As Istio's control plane has it.
        "circuit_breakers": {"thresholds": [{"max_connections": u32::MAX}]},
        "transport_socket": filter("envoy.transport_sockets.tls", json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": tls,
            "sni": "outbound_.80_._.ratings.shop.svc.cluster.local",
        })),
    });
    if takes_part {
        merge(&mut extra, json!({"filters": [exchange()]}));
    }
    let mut server = cluster("server", &[server], extra);
    server["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["metadata"] = json!({"filter_metadata": {"istio": {"workload": "ratings-ep;shop;ratings;v9;Kubernetes"}}});
    let chains = json!([{"filters": tcp_proxy("server")}]);
    let mut listener = listener("outbound", chains);
    merge(&mut listener, json!({"traffic_direction": "OUTBOUND"}));
    vec![listener, server]
}

pub(crate) fn named(workload: &'static str) -> impl FnOnce(&mut ProxyConfig) {
    move |config| {
        let app = workload.split('-').next().unwrap();
        let metadata = json!({
            "WORKLOAD_NAME": workload, "NAMESPACE": "shop", "CLUSTER_ID": "Kubernetes",
            "LABELS": {
                "app": app, "version": "v1",
                "service.istio.io/canonical-name": app, "service.istio.io/canonical-revision": "v1",
            },
        });
        config.node.metadata = metadata.as_object().map(lateen_envoy::struct_from_json);
    }
}

/// A server that greets before it is spoken to, and echoes.
pub(crate) async fn greeter() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let _ = stream.write_all(b"220 ready\r\n").await;
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

pub(crate) struct Pair {
    pub(crate) client: Running,
    pub(crate) server: Running,
}

impl Pair {
    /// Two that share connections if both take part.
    pub(crate) async fn start(client_takes_part: bool, server_takes_part: bool) -> Self {
        let inbound = inbound(greeter().await, server_takes_part);
        Self::of(inbound, |server| outbound(server, client_takes_part), true).await
    }

    /// Two with these resources; connections are shared if `shares`.
    pub(crate) async fn of(
        inbound: Vec<Value>,
        outbound: impl FnOnce(SocketAddr) -> Vec<Value>,
        shares: bool,
    ) -> Self {
        let root = Root::new();
        let server = start_with(inbound, Some(root.workload("server")), |config| {
            named("ratings-v1")(config);
            config.share_connections = shares;
        })
        .await;
        let outbound = outbound(server.address("inbound"));
        let client = start_with(outbound, Some(root.workload("client")), |config| {
            named("productpage-v1")(config);
            config.concurrency = 1;
        })
        .await;
        Self { client, server }
    }

    /// Hears the greeting without having said a word, then talks.
    pub(crate) async fn talk(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.client.address("outbound"))
            .await
            .unwrap();
        let mut greeting = [0; 11];
        let heard = stream.read_exact(&mut greeting);
        tokio::time::timeout(Duration::from_secs(10), heard)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&greeting, b"220 ready\r\n");
        stream.write_all(b"ping").await.unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"ping");
        stream
    }

    pub(crate) async fn stop(self) {
        self.client.handle.shutdown().await;
        self.server.handle.shutdown().await;
    }
}

pub(crate) async fn counts(proxy: &Running, name: &str, value: u64, labels: &[(&str, &str)]) {
    let mut found = 0;
    for _ in 0..400 {
        found = proxy.handle.metrics().counter(name, labels);
        if found == value {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let metrics = proxy.handle.metrics();
    let mut text = String::new();
    let filter = lateen_telemetry::metrics::render::Filter::default();
    lateen_telemetry::metrics::render::prometheus(&metrics, &filter, &mut text);
    let lines: Vec<&str> = text.lines().filter(|l| l.starts_with(name)).collect();
    panic!(
        "{name} is {found}, not {value}, for {labels:?}:\n{}",
        lines.join("\n")
    );
}
