//! mTLS between two proxies: identities, refusals, rotation, what the application and metrics are told.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "support/mtls.rs"]
mod mtls;
mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use mtls::{inbound, outbound};
use support::identity::Root;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn two_proxies_speak_mtls_and_the_application_learns_who_calls() {
    let root = Root::new();
    let app = backend(|request| async move {
        text(
            request.headers()["x-forwarded-client-cert"]
                .to_str()
                .unwrap()
                .to_owned(),
        )
    })
    .await;
    let server = start_with(inbound(app), Some(root.workload("server")), |_| {}).await;
    let client = start_with(
        outbound(server.address("inbound"), "server"),
        Some(root.workload("client")),
        |_| {},
    )
    .await;
    let (status, _, told) = get(client.address("outbound"), "/").await;
    assert_eq!(status, 200, "{told}");
    assert!(
        told.starts_with("By=spiffe://cluster.local/ns/default/sa/server;Hash="),
        "{told}"
    );
    assert!(
        told.ends_with("URI=spiffe://cluster.local/ns/default/sa/client"),
        "{told}"
    );

    let labels = [
        ("reporter", "destination"),
        (
            "source_principal",
            "spiffe://cluster.local/ns/default/sa/client",
        ),
        (
            "destination_principal",
            "spiffe://cluster.local/ns/default/sa/server",
        ),
        ("connection_security_policy", "mutual_tls"),
        ("response_code", "200"),
    ];
    assert_eq!(
        server
            .handle
            .metrics()
            .counter("istio_requests_total", &labels),
        1
    );
    client.handle.shutdown().await;
    server.handle.shutdown().await;
}

#[tokio::test]
async fn strangers_are_refused_on_either_side() {
    let (root, other) = (Root::new(), Root::new());
    let app = backend(|_| async { text("in") }).await;
    let server = start_with(inbound(app), Some(root.workload("server")), |_| {}).await;
    let address = server.address("inbound");

    // The server is not who it has to be.
    let client = start_with(
        outbound(address, "somebody-else"),
        Some(root.workload("client")),
        |_| {},
    )
    .await;
    let (status, _, body) = get(client.address("outbound"), "/").await;
    assert_eq!(status, 503);
    assert!(body.contains("remote connection failure"), "{body}");
    client.handle.shutdown().await;

    // The client's root is not the server's.
    let client = start_with(
        outbound(address, "server"),
        Some(other.workload("client")),
        |_| {},
    )
    .await;
    assert_eq!(get(client.address("outbound"), "/").await.0, 503);
    client.handle.shutdown().await;

    // Plain text.
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(
        !answer.starts_with(b"HTTP"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    server.handle.shutdown().await;
}

#[tokio::test]
async fn a_rotated_certificate_is_used_and_open_connections_stay() {
    let root = Root::new();
    let app = backend(|request| async move {
        text(
            request.headers()["x-forwarded-client-cert"]
                .to_str()
                .unwrap()
                .to_owned(),
        )
    })
    .await;
    let server = start_with(inbound(app), Some(root.workload("server")), |_| {}).await;
    let proxy = start_with(
        outbound(server.address("inbound"), "server"),
        Some(root.workload("before")),
        |_| {},
    )
    .await;
    let mut kept = client(proxy.address("outbound")).await;
    let ask = || {
        Request::get("/")
            .header("host", "a")
            .body(Full::<Bytes>::default())
            .unwrap()
    };
    let first = kept
        .send_request(ask())
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes();
    assert!(String::from_utf8_lossy(&first).contains("sa/before"));

    proxy.identity.send_replace(Some(root.workload("after")));
    wait_for(|| async {
        get(proxy.address("outbound"), "/")
            .await
            .2
            .contains("sa/after")
    })
    .await;
    kept.ready().await.unwrap();
    let again = kept.send_request(ask()).await.unwrap();
    assert_eq!(again.status(), 200);
    proxy.handle.shutdown().await;
    server.handle.shutdown().await;
}

#[tokio::test]
async fn without_an_identity_the_proxy_does_not_become_ready() {
    let root = Root::new();
    let app = backend(|_| async { text("in") }).await;
    let set = Arc::new(resources(inbound(app)));
    let (sender, identity) = tokio::sync::watch::channel(None);
    let source = lateen_proxy::ConfigSource::Resources(tokio::sync::watch::channel(set).1);
    let mut config = lateen_proxy::ProxyConfig::new(Default::default(), source, identity);
    (config.admin, config.prometheus, config.health) = (None, None, None);
    let handle = lateen_proxy::Proxy::start(config).unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(300), handle.ready())
            .await
            .is_err()
    );
    sender.send_replace(Some(root.workload("server")));
    assert!(
        tokio::time::timeout(Duration::from_secs(10), handle.ready())
            .await
            .unwrap()
    );
    handle.shutdown().await;
}
