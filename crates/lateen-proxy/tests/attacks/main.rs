//! What an attacker does to a proxy, by class; each test says what is tried, what has to come of it, and which limit holds.
//!
//! The classes are those of the security history of proxies like this one. Limits are `lateen_proxy::Limits` and the settings of the
//! connection manager; `docs/reference/limits.md` lists them. What needs no socket stands beside its parser: `tls/verify`, `inspect`,
//! `http/head`, `http/headers`, `path` and `matcher` of the traffic engine.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "../support/exchange.rs"]
mod exchange;
mod forwarded;
mod frames;
mod http1;
mod http2;
#[path = "../support/mtls.rs"]
mod mtls;
mod servers;
mod shared;
mod shared_tcp;
#[path = "../support/mod.rs"]
mod support;
mod tls;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A proxy in front of a backend: `/admin` is refused by the proxy, everything else goes on.
pub(crate) async fn guarded(backend: SocketAddr, extra: Value) -> Running {
    let routes = json!([
        {"match": {"prefix": "/admin"}, "direct_response": {"status": 403}},
        {"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "0s",
            "upgrade_configs": [{"upgrade_type": "websocket"}]}},
    ]);
    start(vec![
        listener("in", json!([{"filters": [hcm(routes, extra)]}])),
        cluster("up", &[backend], json!({})),
    ])
    .await
}

/// A backend that answers each connection's every read with `answer` and keeps all it was sent.
pub(crate) async fn recorder(answer: &'static [u8]) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let kept = Arc::clone(&kept);
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                    kept.lock().unwrap().extend_from_slice(&buffer[..n]);
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, seen)
}

/// Sends bytes and gives back what comes until the other side closes or is silent for half a second.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    String::from_utf8_lossy(&read_all(&mut stream).await).into_owned()
}

pub(crate) async fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut out = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let quiet = Duration::from_millis(500);
    while let Ok(Ok(n @ 1..)) = tokio::time::timeout(quiet, stream.read(&mut buffer)).await {
        out.extend_from_slice(&buffer[..n]);
    }
    out
}

/// How many answers with a status are in a text.
pub(crate) fn answers(text: &str, status: u16) -> usize {
    text.matches(&format!("HTTP/1.1 {status} ")).count()
}

pub(crate) fn text_of(seen: &Arc<Mutex<Vec<u8>>>) -> String {
    String::from_utf8_lossy(&seen.lock().unwrap()).into_owned()
}

pub(crate) const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
