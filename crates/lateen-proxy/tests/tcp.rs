//! TCP through the proxy on loopback: half-close, servers that speak first, detection, refusals.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const TCP: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

fn tcp_proxy(cluster: &str) -> Value {
    filter(
        "envoy.filters.network.tcp_proxy",
        json!({"@type": TCP, "stat_prefix": cluster, "cluster": cluster, "idle_timeout": "60s"}),
    )
}

/// A listener that takes HTTP one way and everything else the other, as Istio's for ports without a protocol.
fn sniffing(http: &str, tcp: &str) -> Value {
    let inspector =
        "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector";
    let tls = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
    let mut listener = listener(
        "sniffing",
        json!([
            {
                "filter_chain_match": {"application_protocols": ["http/1.1", "h2c"]},
                "filters": [hcm(route_to(http, json!({})), json!({}))],
            },
            {"filters": [tcp_proxy(tcp)]},
        ]),
    );
    merge(
        &mut listener,
        json!({
            "listener_filters": [
                filter("envoy.filters.listener.tls_inspector", json!({"@type": tls})),
                filter("envoy.filters.listener.http_inspector", json!({"@type": inspector})),
            ],
            "listener_filters_timeout": "0s",
            "continue_on_listener_filters_timeout": true,
        }),
    );
    listener
}

/// A server that greets, then echoes until the end of input, then says goodbye.
async fn greeter(greeting: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let _ = stream.write_all(greeting.as_bytes()).await;
                let mut all = Vec::new();
                let _ = stream.read_to_end(&mut all).await;
                all.extend_from_slice(b" bye");
                let _ = stream.write_all(&all).await;
            });
        }
    });
    address
}

async fn talk(address: SocketAddr, words: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(words.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn bytes_go_both_ways_and_a_half_closed_client_hears_the_end() {
    let server = greeter("hi ").await;
    let proxy = start(vec![
        listener("tcp", json!([{"filters": [tcp_proxy("up")]}])),
        cluster("up", &[server], json!({})),
    ])
    .await;
    assert_eq!(talk(proxy.address("tcp"), "ping").await, "hi ping bye");
    wait_for(|| async {
        proxy
            .handle
            .metrics()
            .counter("envoy_tcp_downstream_cx_rx_bytes_total", &[])
            == 4
    })
    .await;
    assert_eq!(
        proxy
            .handle
            .metrics()
            .counter("envoy_tcp_downstream_cx_tx_bytes_total", &[]),
        11
    );
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn on_a_sniffed_port_http_tcp_and_servers_that_speak_first_all_work() {
    let server = greeter("220 ready\r\n").await;
    let web = backend(|_| async { text("web") }).await;
    let proxy = start(vec![
        sniffing("web", "up"),
        cluster("web", &[web], json!({})),
        cluster("up", &[server], json!({})),
    ])
    .await;
    let address = proxy.address("sniffing");
    // A server that speaks first is heard without the client having said a word.
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut greeting = [0; 11];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut greeting)).await;
    read.unwrap().unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    stream.write_all(b"QUIT").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "QUIT bye");
    // HTTP, at once.
    assert_eq!(get(address, "/").await.2, "web");
    // Something else, at once.
    assert_eq!(
        talk(address, "*1\r\n$4\r\nPING\r\n").await,
        "220 ready\r\n*1\r\n$4\r\nPING\r\n bye"
    );
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn a_client_that_hesitates_is_still_taken_for_what_it_speaks() {
    // An upstream that says nothing until it hears something.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap();
    let heard = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        all
    });
    let web = backend(|_| async { text("web") }).await;
    let proxy = start(vec![
        sniffing("web", "up"),
        cluster("web", &[web], json!({})),
        cluster("up", &[silent], json!({})),
    ])
    .await;
    let mut sender = client(proxy.address("sniffing")).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let request = http::Request::get("/")
        .header("host", "a")
        .body(http_body_util::Full::default())
        .unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    assert_eq!(
        heard.await.unwrap(),
        b"",
        "the connection made in vain carried nothing"
    );
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn access_rules_close_connections_and_dead_hosts_end_them() {
    let server = greeter("hi ").await;
    let dead = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let rbac = filter(
        "envoy.filters.network.rbac",
        json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
            "stat_prefix": "tcp.",
            "rules": {"action": "DENY", "policies": {"all": {
                "permissions": [{"any": true}], "principals": [{"any": true}],
            }}},
        }),
    );
    let proxy = start(vec![
        listener("denied", json!([{"filters": [rbac, tcp_proxy("up")]}])),
        listener("dead", json!([{"filters": [tcp_proxy("dead")]}])),
        cluster("up", &[server], json!({})),
        cluster("dead", &[dead], json!({})),
    ])
    .await;
    for name in ["denied", "dead"] {
        let mut stream = TcpStream::connect(proxy.address(name)).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer))
            .await
            .unwrap();
        assert!(answer.is_empty());
    }
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn a_rule_that_comes_to_deny_ends_the_open_connections_it_denies_and_no_others() {
    let server = greeter("hi ").await;
    let rules = |denied: &str| {
        filter(
            "envoy.filters.network.rbac",
            json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
                "stat_prefix": "tcp.",
                "rules": {"action": "DENY", "policies": {"some": {
                    "permissions": [{"any": true}],
                    "principals": [{"direct_remote_ip": {"address_prefix": denied, "prefix_len": 32}}],
                }}},
            }),
        )
    };
    let resources = |denied: &str| {
        vec![
            listener(
                "tcp",
                json!([{"filters": [rules(denied), tcp_proxy("up")]}]),
            ),
            cluster("up", &[server], json!({})),
        ]
    };
    let proxy = start(resources("127.0.0.77")).await;
    let connect = |from: [u8; 4]| {
        let address = proxy.address("tcp");
        async move {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind((from, 0).into()).unwrap();
            let mut stream = socket.connect(address).await.unwrap();
            let mut greeting = [0; 3];
            stream.read_exact(&mut greeting).await.unwrap();
            stream
        }
    };
    let mut denied = connect([127, 0, 0, 5]).await;
    let mut allowed = connect([127, 0, 0, 6]).await;
    proxy.replace(resources("127.0.0.5"));
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(5), denied.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection is ended");
    allowed.write_all(b"still").await.unwrap();
    allowed.shutdown().await.unwrap();
    let mut back = Vec::new();
    allowed.read_to_end(&mut back).await.unwrap();
    assert!(back.starts_with(b"still"), "{back:?}");
    proxy.handle.shutdown().await;
}
