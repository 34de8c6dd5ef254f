//! Draining by the admin interface: who is told to go, who is let in, what health checks hear.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::json;
use support::*;
use tokio::net::TcpStream;

async fn proxy(drain: Duration) -> Running {
    let app = backend(|_| async { text("ok") }).await;
    let chains = json!([{"filters": [hcm(route_to("app", json!({})), json!({}))]}]);
    let mut inbound = listener("inbound", chains.clone());
    merge(&mut inbound, json!({"traffic_direction": "INBOUND"}));
    let mut outbound = listener("outbound", chains);
    merge(&mut outbound, json!({"traffic_direction": "OUTBOUND"}));
    let app = cluster("app", &[app], json!({}));
    start_with(vec![inbound, outbound, app], None, |config| {
        config.drain.listener = drain;
    })
    .await
}

async fn post(proxy: &Running, path: &str) -> (u16, String) {
    let admin = proxy.handle.admin_address().unwrap();
    let request = Request::post(path)
        .header("host", "a")
        .body(Full::default());
    let (status, _, body) = send(admin, request.unwrap()).await;
    (status, body)
}

async fn ready(proxy: &Running) -> (u16, String) {
    let (status, _, body) = get(proxy.handle.admin_address().unwrap(), "/ready").await;
    (status, body)
}

/// Whether a new connection is closed with its first answer.
async fn is_told_to_go(address: SocketAddr) -> bool {
    let (status, headers, _) = get(address, "/").await;
    assert_eq!(status, 200);
    headers.get("connection").is_some_and(|v| v == "close")
}

async fn accepts(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_ok()
}

#[tokio::test]
async fn stopping_inbound_listeners_lets_open_connections_and_everything_outbound_go_on() {
    let proxy = proxy(Duration::from_secs(45)).await;
    let (inbound, outbound) = (proxy.address("inbound"), proxy.address("outbound"));
    let mut open = client(inbound).await;
    let ask = || {
        let request = Request::get("/").header("host", "a");
        request.body(Full::<Bytes>::default()).unwrap()
    };
    let first = open.send_request(ask()).await.unwrap();
    first.into_body().collect().await.unwrap();
    assert_eq!(post(&proxy, "/drain_listeners?inboundonly").await.0, 200);
    wait_for(|| async { !accepts(inbound).await }).await;
    let second = open.send_request(ask()).await.unwrap();
    assert!(!second.headers().contains_key("connection"));
    assert!(!is_told_to_go(outbound).await);
    assert_eq!(ready(&proxy).await, (200, "LIVE\n".to_owned()));
    assert_eq!(post(&proxy, "/drain_listeners").await.0, 200);
    wait_for(|| async { !accepts(outbound).await }).await;
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn a_graceful_drain_tells_clients_to_go_and_stops_after_its_time_unless_it_is_to_skip_that() {
    let proxy = proxy(Duration::from_millis(300)).await;
    let (inbound, outbound) = (proxy.address("inbound"), proxy.address("outbound"));
    let path = "/drain_listeners?graceful&skip_exit&inboundonly";
    assert_eq!(post(&proxy, path).await.0, 200);
    wait_for(|| is_told_to_go(inbound)).await;
    assert!(!is_told_to_go(outbound).await);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(is_told_to_go(inbound).await, "it goes on accepting");
    assert_eq!(post(&proxy, "/drain_listeners?graceful").await.0, 200);
    wait_for(|| async { !accepts(inbound).await && !accepts(outbound).await }).await;
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn what_means_nothing_is_refused() {
    let proxy = proxy(Duration::from_secs(45)).await;
    let (status, body) = post(&proxy, "/drain_listeners?skip_exit").await;
    assert_eq!(
        (status, body.as_str()),
        (400, "skip_exit requires graceful\n")
    );
    let admin = proxy.handle.admin_address().unwrap();
    assert_eq!(get(admin, "/drain_listeners").await.0, 405);
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn failing_health_checks_show_as_draining_until_they_pass_again() {
    let proxy = proxy(Duration::from_secs(45)).await;
    post(&proxy, "/healthcheck/fail").await;
    assert_eq!(ready(&proxy).await, (503, "DRAINING\n".to_owned()));
    assert!(!is_told_to_go(proxy.address("inbound")).await);
    post(&proxy, "/healthcheck/ok").await;
    assert_eq!(ready(&proxy).await, (200, "LIVE\n".to_owned()));
    proxy.handle.shutdown().await;
}

#[tokio::test]
async fn an_idle_connection_is_told_that_it_ends_before_it_is_closed() {
    let proxy = proxy(Duration::from_secs(45)).await;
    let mut idle = client(proxy.address("outbound")).await;
    let ask = || {
        let request = Request::get("/").header("host", "a");
        request.body(Full::<Bytes>::default()).unwrap()
    };
    let first = idle.send_request(ask()).await.unwrap();
    assert!(!first.headers().contains_key("connection"));
    let _ = first.into_body().collect().await;
    let handle = proxy.handle;
    let drained = tokio::spawn(async move { handle.drain().await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    idle.ready().await.unwrap();
    let last = idle.send_request(ask()).await.unwrap();
    assert_eq!(last.headers()["connection"], "close");
    drained.await.unwrap();
}

#[tokio::test]
async fn the_log_is_whole_when_the_proxy_has_ended() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("access.log");
    let app = backend(|_| async { text("ok") }).await;
    let log = filter(
        "envoy.access_loggers.file",
        json!({
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path.to_string_lossy(),
            "log_format": {"text_format_source": {"inline_string": "%REQ(:path)%\n"}},
        }),
    );
    let manager = hcm(route_to("app", json!({})), json!({"access_log": [log]}));
    let listener = listener("outbound", json!([{"filters": [manager]}]));
    let proxy = start(vec![listener, cluster("app", &[app], json!({}))]).await;
    let address = proxy.address("outbound");
    for n in 0..300 {
        assert_eq!(get(address, &format!("/{n}")).await.0, 200);
    }
    proxy.handle.shutdown().await;
    let log = std::fs::read_to_string(&path).unwrap();
    assert_eq!(log.lines().count(), 300);
}
