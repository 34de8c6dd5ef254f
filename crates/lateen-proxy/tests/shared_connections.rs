//! Connections that requests share between two of our own sidecars: when they do, when they do not, and that nothing else changes.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "support/mtls.rs"]
mod mtls;
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use lateen_proxy::ProxyConfig;
use mtls::inbound;
use serde_json::{Value, json};
use support::identity::Root;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Requests at a time.
const AT_ONCE: usize = 24;

/// Two sidecars, and the application behind the second: it takes a moment, and answers with the path and the body it got.
struct Pair {
    client: Running,
    server: Running,
}

impl Pair {
    async fn start(cluster: Value, change: fn(&mut ProxyConfig)) -> Self {
        let root = Root::new();
        let app = backend(|request| async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await;
            let mut answer = Bytes::from(path).to_vec();
            answer.extend(body.map(|body| body.to_bytes()).unwrap_or_default());
            Response::new(Full::new(Bytes::from(answer)).boxed())
        })
        .await;
        let server = start_with(inbound(app), Some(root.workload("server")), change).await;
        let outbound = outbound(server.address("inbound"), cluster);
        let client = start_with(outbound, Some(root.workload("client")), |config| {
            config.concurrency = 1;
        })
        .await;
        Self { client, server }
    }

    /// Connections the client's proxy made to the server's.
    fn connections(&self) -> u64 {
        counted(&self.client, "envoy_cluster_upstream_cx_total")
    }

    async fn burst(&self) {
        for (n, (status, body)) in burst(&self.client).await.into_iter().enumerate() {
            assert_eq!((status, body), (200, format!("/{n}")));
        }
    }

    async fn end(self) {
        self.client.handle.shutdown().await;
        self.server.handle.shutdown().await;
    }
}

/// A statistic of the client's cluster.
fn counted(client: &Running, name: &str) -> u64 {
    let labels = [("cluster_name", "server")];
    client.handle.metrics().counter(name, &labels)
}

/// Asks for one path each, all at once.
async fn burst(client: &Running) -> Vec<(u16, String)> {
    let address = client.address("outbound");
    let asked = (0..AT_ONCE).map(|n| {
        tokio::spawn(async move {
            let (status, _, body) = get(address, &format!("/{n}")).await;
            (status, body)
        })
    });
    let mut answers = Vec::new();
    for asked in asked.collect::<Vec<_>>() {
        answers.push(asked.await.unwrap());
    }
    answers
}

/// The client's side as Istio's control plane makes it: its ALPN filter, and upgrades.
fn outbound(server: SocketAddr, extra: Value) -> Vec<Value> {
    let mut resources = mtls::outbound(server, "server");
    let manager = &mut resources[0]["filter_chains"][0]["filters"][0]["typed_config"];
    let alpn = filter(
        "istio.alpn",
        json!({
            "@type": "type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
            "alpn_override": [
                {"upstream_protocol": "HTTP11", "alpn_override": ["istio-http/1.1", "istio", "http/1.1"]},
            ],
        }),
    );
    let filters = manager["http_filters"].as_array_mut().unwrap();
    filters.insert(0, alpn);
    manager["upgrade_configs"] = json!([{"upgrade_type": "websocket"}]);
    let unlimited = json!({"circuit_breakers": {"thresholds": [{
        "max_connections": u32::MAX, "max_pending_requests": u32::MAX, "max_requests": u32::MAX,
    }]}});
    merge(&mut resources[1], unlimited);
    merge(&mut resources[1], extra);
    resources
}

#[tokio::test]
async fn requests_of_many_clients_share_a_few_connections() {
    let pair = Pair::start(json!({}), |_| {}).await;
    pair.burst().await;
    pair.burst().await;
    let made = pair.connections();
    assert!((1..=3).contains(&made), "{made} connections");
    pair.end().await;
}

#[tokio::test]
async fn a_sidecar_that_does_not_agree_is_spoken_to_in_http1() {
    let pair = Pair::start(json!({}), |config| config.share_connections = false).await;
    pair.burst().await;
    assert!(pair.connections() >= AT_ONCE as u64 / 2);
    pair.end().await;
}

#[tokio::test]
async fn what_limits_connections_keeps_requests_on_their_own() {
    let two = json!({"circuit_breakers": {"thresholds": [{
        "max_connections": 2, "max_pending_requests": 100, "max_requests": 100,
    }]}});
    let pair = Pair::start(two, |_| {}).await;
    pair.burst().await;
    assert_eq!(pair.connections(), 2);
    pair.end().await;
}

#[tokio::test]
async fn bodies_of_any_size_pass_both_ways() {
    let pair = Pair::start(json!({}), |_| {}).await;
    let address = pair.client.address("outbound");
    for size in [0, 1, 5_000, 70_000, 3_000_000] {
        let body = "b".repeat(size);
        let request = Request::post("/")
            .header("host", "server")
            .body(Full::from(body.clone()))
            .unwrap();
        let (status, _, answer) = send(address, request).await;
        assert_eq!(status, 200);
        assert_eq!(answer.len(), size + 1);
        assert!(answer.ends_with(&body));
    }
    pair.end().await;
}

#[tokio::test]
async fn a_websocket_has_a_connection_of_its_own() {
    let pair = Pair::start(json!({}), |_| {}).await;
    pair.burst().await;
    let before = pair.connections();
    let mut socket = TcpStream::connect(pair.client.address("outbound"))
        .await
        .unwrap();
    socket
        .write_all(b"GET /ws HTTP/1.1\r\nhost: server\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 256];
    let n = socket.read(&mut answer).await.unwrap();
    // The application knows no WebSockets and answers as to any request; what counts is how it was asked.
    assert!(answer[..n].starts_with(b"HTTP/1.1 "), "{:?}", &answer[..n]);
    assert_eq!(pair.connections(), before + 1);
    pair.end().await;
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_request_at_the_server() {
    let pair = Pair::start(json!({}), |_| {}).await;
    pair.burst().await;
    let mut socket = TcpStream::connect(pair.client.address("outbound"))
        .await
        .unwrap();
    let head = b"POST /x HTTP/1.1\r\nhost: server\r\ncontent-length: 10\r\n\r\nhalf";
    socket.write_all(head).await.unwrap();
    let active = || {
        let metrics = pair.server.handle.metrics();
        let labels = [("http_conn_manager_prefix", "inbound")];
        metrics.value("envoy_http_downstream_rq_active", &labels)
    };
    let idle = active();
    wait_for(|| async { active() != idle }).await;
    drop(socket);
    wait_for(|| async { active() == idle }).await;
    pair.burst().await;
    pair.end().await;
}

#[tokio::test]
async fn a_server_that_drains_loses_no_request() {
    let pair = Pair::start(json!({}), |_| {}).await;
    pair.burst().await;
    let address = pair.client.address("outbound");
    let asked = tokio::spawn(async move {
        for n in 0..60 {
            let path = format!("/{n}");
            let (status, _, body) = get(address, &path).await;
            assert_eq!((status, body), (200, path));
        }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    pair.server.handle.drain().await;
    asked.await.unwrap();
    pair.end().await;
}

#[tokio::test]
async fn a_connection_that_fails_is_counted_once_however_many_requests_wait_for_it() {
    let root = Root::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let closer = tokio::spawn(async move {
        let socket = listener.accept().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(socket); // in the midst of the handshake; whoever comes later is refused
    });
    let identity = Some(root.workload("client"));
    let client = start_with(outbound(server, json!({})), identity, |config| {
        config.concurrency = 1;
    })
    .await;
    let answers = burst(&client).await;
    assert!(answers.iter().all(|(status, _)| *status == 503));
    closer.await.unwrap();
    let failed = counted(&client, "envoy_cluster_upstream_cx_connect_fail");
    assert_eq!(counted(&client, "envoy_cluster_upstream_cx_total"), failed);
    assert!((1..=3).contains(&failed), "{failed} for {AT_ONCE} requests");
    client.handle.shutdown().await;
}

#[tokio::test]
async fn a_server_that_closes_shared_connections_at_once_fails_the_request() {
    let root = Root::new();
    let mut refusing = inbound("127.0.0.1:9".parse().unwrap());
    let nobody = filter(
        "envoy.filters.network.rbac",
        json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
            "stat_prefix": "tcp.",
            "rules": {"action": "ALLOW"},
        }),
    );
    let filters = &mut refusing[0]["filter_chains"][0]["filters"];
    filters.as_array_mut().unwrap().insert(0, nobody);
    let server = start_with(refusing, Some(root.workload("server")), |_| {}).await;
    let resources = outbound(server.address("inbound"), json!({}));
    let client = start_with(resources, Some(root.workload("client")), |_| {}).await;
    let answers = tokio::time::timeout(Duration::from_secs(10), burst(&client)).await;
    assert!(answers.unwrap().iter().all(|(status, _)| *status == 503));
    client.handle.shutdown().await;
    server.handle.shutdown().await;
}

/// The action of the only route.
fn route_of(resources: &mut [Value]) -> &mut Value {
    let manager = &mut resources[0]["filter_chains"][0]["filters"][0]["typed_config"];
    &mut manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]
}

/// Two servers with the same identity, of which the first has lost its application, and a client that takes turns with them under a
/// retry policy.
async fn half_gone(retry_on: &str) -> (Running, [Running; 2]) {
    let root = Root::new();
    let app = backend(|_| async { Response::new(Full::new(Bytes::from("served")).boxed()) }).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = gone.local_addr().unwrap();
    drop(gone);
    let mut lost = inbound(nobody);
    // As Istio has it on the server's side: the application is asked three times before it is given up.
    let again = json!({"retry_policy": {"retry_on": "reset-before-request", "num_retries": 2}});
    merge(route_of(&mut lost), again);
    let first = start_with(lost, Some(root.workload("server")), |_| {}).await;
    let second = start_with(inbound(app), Some(root.workload("server")), |_| {}).await;
    let hosts = [first.address("inbound"), second.address("inbound")];
    let mut resources = outbound(hosts[0], json!({"lb_policy": "ROUND_ROBIN"}));
    resources[1]["load_assignment"] =
        cluster("server", &hosts, json!({}))["load_assignment"].take();
    let previous = filter(
        "envoy.retry_host_predicates.previous_hosts",
        json!({"@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}),
    );
    let policy = json!({"retry_policy": {
        "retry_on": retry_on, "num_retries": 2, "retry_host_predicate": [previous], "host_selection_retry_max_attempts": 5,
    }});
    merge(route_of(&mut resources), policy);
    let client = start_with(resources, Some(root.workload("client")), |config| {
        config.concurrency = 1;
    })
    .await;
    (client, [first, second])
}

async fn post(client: &Running) -> (u16, String) {
    let request = Request::post("/").header("host", "server");
    let request = request.body(Full::from("order")).unwrap();
    let (status, _, body) = send(client.address("outbound"), request).await;
    (status, body)
}

#[tokio::test]
async fn a_sidecar_that_lost_its_application_is_left_for_another_one() {
    let (client, servers) = half_gone("connect-failure").await;
    for _ in 0..8 {
        assert_eq!(post(&client).await, (200, "served".to_owned()));
    }
    let retried = counted(&client, "envoy_cluster_upstream_rq_retry");
    assert!(retried > 0, "the first server was never asked");
    client.handle.shutdown().await;
    for server in servers {
        server.handle.shutdown().await;
    }
}

#[tokio::test]
async fn without_a_policy_for_it_the_answer_of_a_sidecar_that_lost_its_application_is_passed_on() {
    let (client, servers) = half_gone("retriable-status-codes").await;
    let mut answers = [post(&client).await, post(&client).await];
    answers.sort();
    assert_eq!(answers[0], (200, "served".to_owned()));
    assert_eq!(answers[1].0, 503);
    assert!(
        answers[1].1.contains("remote connection failure"),
        "{}",
        answers[1].1
    );
    client.handle.shutdown().await;
    for server in servers {
        server.handle.shutdown().await;
    }
}
