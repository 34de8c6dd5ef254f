//! Two proxies that tell each other who they are over TCP, and what metrics make of it; peers that do not take part.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use lateen_proxy::ProxyConfig;
use serde_json::{Value, json};
use support::identity::{Root, common, spiffe};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const TCP: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const EXCHANGE: &str = "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange";
const STATS: &str = "type.googleapis.com/stats.PluginConfig";

fn exchange() -> Value {
    filter(
        "istio.metadata_exchange",
        json!({"@type": EXCHANGE, "protocol": "istio-peer-exchange"}),
    )
}

fn tcp_proxy(cluster: &str) -> Vec<Value> {
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
fn service(name: &str) -> Value {
    json!({"filter_metadata": {"istio": {"services": [{
        "host": format!("{name}.shop.svc.cluster.local"), "name": name, "namespace": "shop",
    }]}}})
}

/// The server's side: mutual TLS in front of an application.
fn inbound(app: SocketAddr, takes_part: bool) -> Vec<Value> {
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
fn outbound(server: SocketAddr, takes_part: bool) -> Vec<Value> {
    let mut tls = common(spiffe("server"));
    merge(
        &mut tls,
        json!({"alpn_protocols": ["istio-peer-exchange", "istio"]}),
    );
    let mut extra = json!({
        "metadata": service("ratings"),
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

fn named(workload: &'static str) -> impl FnOnce(&mut ProxyConfig) {
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
async fn greeter() -> SocketAddr {
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

struct Pair {
    client: Running,
    server: Running,
}

impl Pair {
    async fn start(client_takes_part: bool, server_takes_part: bool) -> Self {
        let root = Root::new();
        let app = greeter().await;
        let server = start_with(
            inbound(app, server_takes_part),
            Some(root.workload("server")),
            named("ratings-v1"),
        )
        .await;
        let client = start_with(
            outbound(server.address("inbound"), client_takes_part),
            Some(root.workload("client")),
            named("productpage-v1"),
        )
        .await;
        Self { client, server }
    }

    /// Hears the greeting without having said a word, then talks.
    async fn talk(&self) -> TcpStream {
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

    async fn stop(self) {
        self.client.handle.shutdown().await;
        self.server.handle.shutdown().await;
    }
}

/// The labels both sides agree on where both know each other.
const AGREED: [(&str, &str); 19] = [
    ("source_workload", "productpage-v1"),
    ("source_canonical_service", "productpage"),
    ("source_canonical_revision", "v1"),
    ("source_workload_namespace", "default"),
    (
        "source_principal",
        "spiffe://cluster.local/ns/default/sa/client",
    ),
    ("source_app", "productpage"),
    ("source_version", "v1"),
    ("source_cluster", "Kubernetes"),
    ("destination_workload", "ratings-v1"),
    (
        "destination_principal",
        "spiffe://cluster.local/ns/default/sa/server",
    ),
    ("destination_app", "ratings"),
    ("destination_version", "v1"),
    ("destination_service", "ratings.shop.svc.cluster.local"),
    ("destination_canonical_service", "ratings"),
    ("destination_canonical_revision", "v1"),
    ("destination_service_name", "ratings"),
    ("destination_service_namespace", "shop"),
    ("destination_cluster", "Kubernetes"),
    ("request_protocol", "tcp"),
];

async fn counts(proxy: &Running, name: &str, value: u64, labels: &[(&str, &str)]) {
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

#[tokio::test]
async fn both_sides_label_open_and_closed_connections_with_both_workloads() {
    let pair = Pair::start(true, true).await;
    let stream = pair.talk().await;
    // A namespace is what the certificate says where there is one: these say `default`, whatever the peers say.
    let source = [
        &AGREED[..],
        &[
            ("reporter", "source"),
            ("source_workload_namespace", "shop"),
            ("destination_workload_namespace", "default"),
            ("connection_security_policy", "unknown"),
            ("response_flags", "-"),
        ],
    ]
    .concat();
    let source: Vec<_> = source
        .into_iter()
        .filter(|label| *label != ("source_workload_namespace", "default"))
        .collect();
    let destination = [
        &AGREED[..],
        &[
            ("reporter", "destination"),
            ("destination_workload_namespace", "shop"),
            ("connection_security_policy", "mutual_tls"),
            ("response_flags", "-"),
        ],
    ]
    .concat();
    for (proxy, labels) in [(&pair.client, &source), (&pair.server, &destination)] {
        counts(proxy, "istio_tcp_connections_opened_total", 1, labels).await;
        counts(proxy, "istio_tcp_connections_closed_total", 0, labels).await;
        // The introductions are the proxies' own and not counted: the bytes are the applications'.
        counts(proxy, "istio_tcp_received_bytes_total", 4, labels).await;
        counts(proxy, "istio_tcp_sent_bytes_total", 15, labels).await;
    }
    drop(stream);
    for (proxy, labels) in [(&pair.client, &source), (&pair.server, &destination)] {
        counts(proxy, "istio_tcp_connections_closed_total", 1, labels).await;
        counts(proxy, "istio_tcp_connections_opened_total", 1, labels).await;
        counts(proxy, "istio_tcp_connections_opened_total", 1, &[]).await;
    }
    counts(
        &pair.server,
        "envoy_metadata_exchange_alpn_protocol_found",
        1,
        &[],
    )
    .await;
    pair.stop().await;
}

/// Whoever of two does not take part is sent nothing; the client still knows what the configuration says of the endpoint.
async fn one_sided(client_takes_part: bool, server_takes_part: bool) {
    let pair = Pair::start(client_takes_part, server_takes_part).await;
    let stream = pair.talk().await;
    let source = [
        ("reporter", "source"),
        ("destination_workload", "ratings-ep"),
        ("destination_workload_namespace", "default"),
        ("destination_canonical_service", "ratings"),
        ("destination_canonical_revision", "v9"),
        ("destination_app", "unknown"),
        ("destination_version", "unknown"),
        ("destination_cluster", "Kubernetes"),
    ];
    let destination = [
        ("reporter", "destination"),
        ("source_workload", "unknown"),
        ("source_canonical_service", "unknown"),
        ("source_canonical_revision", "latest"),
        ("source_workload_namespace", "default"),
        (
            "source_principal",
            "spiffe://cluster.local/ns/default/sa/client",
        ),
        ("source_cluster", "unknown"),
    ];
    counts(
        &pair.client,
        "istio_tcp_connections_opened_total",
        1,
        &source,
    )
    .await;
    counts(
        &pair.server,
        "istio_tcp_connections_opened_total",
        1,
        &destination,
    )
    .await;
    counts(
        &pair.server,
        "istio_tcp_received_bytes_total",
        4,
        &destination,
    )
    .await;
    if server_takes_part {
        let name = "envoy_metadata_exchange_alpn_protocol_not_found";
        counts(&pair.server, name, 1, &[]).await;
    }
    drop(stream);
    pair.stop().await;
}

#[tokio::test]
async fn a_server_that_does_not_take_part_is_told_nothing() {
    one_sided(true, false).await;
}

#[tokio::test]
async fn a_client_that_does_not_take_part_is_told_nothing() {
    one_sided(false, true).await;
}

#[tokio::test]
async fn a_connection_without_an_upstream_counts_as_opened_and_closed_with_its_flags() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let root = Root::new();
    let client = start_with(
        outbound(nobody, true),
        Some(root.workload("client")),
        named("productpage-v1"),
    )
    .await;
    let mut stream = TcpStream::connect(client.address("outbound"))
        .await
        .unwrap();
    assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
    let labels = [
        ("reporter", "source"),
        ("response_flags", "UF,URX"),
        ("destination_workload", "ratings-ep"),
        ("destination_workload_namespace", "shop"),
        ("destination_service", "ratings.shop.svc.cluster.local"),
        ("destination_principal", "unknown"),
    ];
    counts(&client, "istio_tcp_connections_opened_total", 1, &labels).await;
    counts(&client, "istio_tcp_connections_closed_total", 1, &labels).await;
    client.handle.shutdown().await;
}
