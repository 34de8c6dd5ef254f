//! Tunnels: TCP inside HTTP, CONNECT that ends here or is passed on, and WebSockets over HTTP/2.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response, Version};
use http_body_util::{BodyExt, Empty};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const TCP: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

/// A server that answers each byte with the next one, until the end of input, and then says goodbye.
async fn next_bytes() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                while let Ok(byte) = stream.read_u8().await {
                    let _ = stream.write_u8(byte + 1).await;
                }
                let _ = stream.write_all(b"bye").await;
            });
        }
    });
    address
}

/// Says three bytes in turn, hearing each answer before the next, and hears the end.
async fn converse(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) {
    for byte in [b'a', b'k', b'x'] {
        stream.write_u8(byte).await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), byte + 1);
    }
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "bye");
}

/// A listener that takes CONNECT for `up` and, under another name, passes it on.
fn connect_listener(name: &str, upgrade: Value) -> Value {
    let route = json!([{
        "name": "tunnel",
        "match": {"connect_matcher": {}},
        "route": {"cluster": "up", "timeout": "0s", "upgrade_configs": [upgrade]},
    }]);
    let manager = json!({
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "http2_protocol_options": {"allow_connect": true},
    });
    listener(name, json!([{"filters": [hcm(route, manager)]}]))
}

/// A proxy that ends tunnels and connects to `server`.
async fn tunnel_end(server: SocketAddr) -> Running {
    start(vec![
        connect_listener(
            "end",
            json!({"upgrade_type": "CONNECT", "connect_config": {}}),
        ),
        cluster("up", &[server], json!({})),
    ])
    .await
}

fn tunnelling(settings: Value) -> Value {
    let proxy = json!({
        "@type": TCP,
        "stat_prefix": "tunnel",
        "cluster": "tunnels",
        "tunneling_config": settings,
    });
    listener(
        "client",
        json!([{"filters": [filter("envoy.filters.network.tcp_proxy", proxy)]}]),
    )
}

#[tokio::test]
async fn bytes_go_through_connect_over_both_versions_of_http() {
    let end = tunnel_end(next_bytes().await).await;
    for protocol in [json!({}), http2()] {
        let client = start(vec![
            tunnelling(json!({"hostname": "db.example:5432"})),
            cluster("tunnels", &[end.address("end")], protocol),
        ])
        .await;
        for _ in 0..2 {
            let mut stream = TcpStream::connect(client.address("client")).await.unwrap();
            converse(&mut stream).await;
        }
        client.handle.shutdown().await;
    }
    end.handle.shutdown().await;
}

#[tokio::test]
async fn bytes_go_through_the_bodies_of_a_post() {
    for protocol in [json!({}), http2()] {
        let echo = backend(|request| async move {
            assert_eq!(request.method(), Method::POST);
            assert_eq!(request.uri().path(), "/");
            assert_eq!(request.headers()["x-port"], "client");
            let body = request.into_body().map_err(|_| unreachable!());
            let body = body.map_frame(|frame| {
                frame.map_data(|data| data.iter().map(|byte| byte + 1).collect::<Bytes>())
            });
            Response::new(body.boxed())
        })
        .await;
        let header = json!([{"header": {"key": "x-port", "value": "client"}}]);
        let client = start(vec![
            tunnelling(json!({
                "hostname": "db.example:5432", "use_post": true, "headers_to_add": header,
            })),
            cluster("tunnels", &[echo], protocol),
        ])
        .await;
        let mut stream = TcpStream::connect(client.address("client")).await.unwrap();
        for byte in [b'a', b'k'] {
            stream.write_u8(byte).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), byte + 1);
        }
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        client.handle.shutdown().await;
    }
}

#[tokio::test]
async fn a_tunnel_that_the_host_refuses_closes_the_connection() {
    let refusing = backend(|_| async {
        let mut answer = text("no");
        *answer.status_mut() = http::StatusCode::FORBIDDEN;
        answer
    })
    .await;
    let client = start(vec![
        tunnelling(json!({"hostname": "db.example:5432"})),
        cluster("tunnels", &[refusing], json!({})),
    ])
    .await;
    let mut stream = TcpStream::connect(client.address("client")).await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
    client.handle.shutdown().await;
}

/// An HTTP/2 client of an address.
async fn h2(address: SocketAddr) -> hyper::client::conn::http2::SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(driver);
    sender
}

#[tokio::test]
async fn connect_is_passed_on_between_versions_of_http() {
    let end = tunnel_end(next_bytes().await).await;
    for protocol in [json!({}), http2()] {
        let proxy = start(vec![
            connect_listener("pass", json!({"upgrade_type": "CONNECT"})),
            cluster("up", &[end.address("end")], protocol),
        ])
        .await;
        // HTTP/1.
        let mut stream = TcpStream::connect(proxy.address("pass")).await.unwrap();
        let head = b"CONNECT db.example:5432 HTTP/1.1\r\nhost: db.example:5432\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        let answer = String::from_utf8(answer).unwrap().to_lowercase();
        assert!(answer.starts_with("http/1.1 200"), "{answer}");
        assert!(!answer.contains("content-length"), "{answer}");
        assert!(!answer.contains("transfer-encoding"), "{answer}");
        converse(&mut stream).await;
        // HTTP/2.
        let mut sender = h2(proxy.address("pass")).await;
        let request = Request::connect("db.example:5432")
            .body(Empty::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        converse(&mut stream).await;
        proxy.handle.shutdown().await;
    }
    end.handle.shutdown().await;
}

#[tokio::test]
async fn connect_without_a_host_that_answers_gets_503() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = dead.local_addr().unwrap();
    drop(dead);
    let end = tunnel_end(address).await;
    let mut sender = h2(end.address("end")).await;
    let request = Request::connect("db.example:5432")
        .body(Empty::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 503);
    end.handle.shutdown().await;
}

/// A WebSocket server of HTTP/1.1, as far as the handshake goes.
async fn websockets() -> SocketAddr {
    backend(|mut request| async move {
        assert_eq!(request.version(), Version::HTTP_11);
        assert_eq!(request.headers()["upgrade"], "websocket");
        assert_eq!(request.headers()["sec-websocket-version"], "13");
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            while let Ok(byte) = stream.read_u8().await {
                let _ = stream.write_u8(byte + 1).await;
            }
            let _ = stream.write_all(b"bye").await;
            let _ = stream.shutdown().await;
        });
        let mut answer = text("");
        *answer.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        answer
            .headers_mut()
            .insert("upgrade", "websocket".parse().unwrap());
        answer
            .headers_mut()
            .insert("connection", "upgrade".parse().unwrap());
        answer
    })
    .await
}

fn websocket_listener(name: &str) -> Value {
    let manager = json!({"upgrade_configs": [{"upgrade_type": "websocket"}]});
    listener(
        name,
        json!([{"filters": [hcm(route_to("up", json!({})), manager)]}]),
    )
}

#[tokio::test]
async fn a_websocket_over_http2_reaches_a_server_of_http1_through_two_proxies() {
    let far = start(vec![
        websocket_listener("far"),
        cluster("up", &[websockets().await], json!({})),
    ])
    .await;
    let near = start(vec![
        websocket_listener("near"),
        cluster("up", &[far.address("far")], http2()),
    ])
    .await;
    let mut sender = h2(near.address("near")).await;
    let request = Request::connect("http://chat.example/room")
        .header("sec-websocket-version", "13")
        .extension(Protocol::from_static("websocket"))
        .body(Empty::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    converse(&mut stream).await;
    // And from HTTP/1.1 over HTTP/2 to HTTP/1.1.
    let mut stream = TcpStream::connect(near.address("near")).await.unwrap();
    let head = b"GET /room HTTP/1.1\r\nhost: chat.example\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"));
    converse(&mut stream).await;
    near.handle.shutdown().await;
    far.handle.shutdown().await;
}
