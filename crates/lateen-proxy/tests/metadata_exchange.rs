//! Two proxies that tell each other who they are over TCP, and what metrics make of it; peers that do not take part.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "support/exchange.rs"]
mod exchange;
mod support;

use exchange::{Pair, counts, greeter, inbound, named, outbound};
use support::identity::Root;
use support::*;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

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

#[tokio::test]
async fn both_sides_label_open_and_closed_connections_with_both_workloads() {
    let inbound = inbound(greeter().await, true);
    let pair = Pair::of(inbound, |server| outbound(server, true), false).await;
    both_know(&pair, 0).await;
    pair.stop().await;
}

#[tokio::test]
async fn connections_that_share_one_are_labelled_alike() {
    let pair = Pair::start(true, true).await;
    // The only connection has one of its own.
    let lone = pair.talk().await;
    both_know(&pair, 1).await;
    drop(lone);
    pair.stop().await;
}

/// Talks, where so many do already.
async fn both_know(pair: &Pair, others: u64) {
    let all = others + 1;
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
        counts(proxy, "istio_tcp_connections_opened_total", all, labels).await;
        counts(proxy, "istio_tcp_connections_closed_total", 0, labels).await;
        // The introductions are the proxies' own and not counted: the bytes are the applications'.
        counts(proxy, "istio_tcp_received_bytes_total", 4 * all, labels).await;
        counts(proxy, "istio_tcp_sent_bytes_total", 15 * all, labels).await;
    }
    drop(stream);
    for (proxy, labels) in [(&pair.client, &source), (&pair.server, &destination)] {
        counts(proxy, "istio_tcp_connections_closed_total", 1, labels).await;
        counts(proxy, "istio_tcp_connections_opened_total", all, labels).await;
        counts(proxy, "istio_tcp_connections_opened_total", all, &[]).await;
    }
    counts(
        &pair.server,
        "envoy_metadata_exchange_alpn_protocol_found",
        all,
        &[],
    )
    .await;
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
