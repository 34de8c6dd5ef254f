//! The buffer filter: bodies are held until they are whole, and refused where they are too long.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use serde_json::json;
use support::*;
use tokio::net::TcpStream;

/// Sends a body in chunks, without a length.
async fn post(address: std::net::SocketAddr, chunks: Vec<&'static [u8]>) -> (u16, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(driver);
    let frames = chunks
        .into_iter()
        .map(|chunk| Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(chunk))));
    let body = StreamBody::new(tokio_stream::iter(frames));
    let request = Request::post("/").header("host", "a").body(body).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn a_buffered_body_arrives_whole_and_with_a_length() {
    let address = backend(|request| async move {
        let length = request.headers().get("content-length").cloned();
        let length = length.map_or("none".to_owned(), |v| v.to_str().unwrap().to_owned());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        text(format!("{length} {}", String::from_utf8_lossy(&body)))
    })
    .await;
    let buffer = filter(
        "envoy.filters.http.buffer",
        json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer", "max_request_bytes": 8}),
    );
    let router = filter("envoy.filters.http.router", json!({"@type": ROUTER}));
    let manager = hcm(
        route_to("up", json!({})),
        json!({"http_filters": [buffer, router]}),
    );
    let proxy = start(vec![
        listener("in", json!([{"filters": [manager]}])),
        cluster("up", &[address], json!({})),
    ])
    .await;
    let to = proxy.address("in");
    assert_eq!(post(to, vec![b"ab", b"cd"]).await, (200, "4 abcd".into()));
    assert_eq!(
        post(to, vec![b"abcd", b"efgh"]).await,
        (200, "8 abcdefgh".into())
    );
    assert_eq!(
        post(to, vec![b"abcd", b"efgh", b"i"]).await,
        (413, "Payload Too Large".into())
    );
    assert_eq!(get(to, "/").await.2, "none ");
    proxy.handle.shutdown().await;
}
