//! The echo application over HTTP/2, as a gRPC client sees it.

use bytes::{BufMut as _, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;

use super::*;

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
struct Health {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Forward {
    #[prost(int32, tag = "1")]
    count: i32,
    #[prost(string, tag = "4")]
    url: String,
}

#[derive(Clone, PartialEq, Message)]
struct Output {
    #[prost(string, repeated, tag = "1")]
    output: Vec<String>,
}

fn service(stop: CancellationToken) -> Running {
    let options = options::Options::default();
    let echo = Arc::new(echo::Echo::new(&options, &Environment::new(), stop.clone()));
    Running::start_until(echo, stop)
}

fn frame(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.encoded_len() as u32);
    frame.put_slice(&message.encode_to_vec());
    frame.freeze()
}

/// The messages and the status of one call.
async fn call(running: &Running, path: &str, body: Bytes) -> (Vec<Bytes>, String) {
    let stream = TcpStream::connect(("127.0.0.1", running.port))
        .await
        .unwrap();
    let io = TokioIo::new(stream);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
    let (mut sender, connection) = handshake.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::post(running.url(path))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(body))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let early = response.headers().get("grpc-status").cloned();
    let collected = response.into_body().collect().await.unwrap();
    let late = collected
        .trailers()
        .and_then(|trailers| trailers.get("grpc-status"))
        .cloned();
    let status = early.or(late).unwrap().to_str().unwrap().to_owned();
    let mut rest = collected.to_bytes();
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
        let mut message = rest.split_to(5 + length);
        messages.push(message.split_off(5));
    }
    drop(sender);
    driver.abort();
    (messages, status)
}

#[tokio::test]
async fn unary_and_streamed_echoes_come_back() {
    let running = service(CancellationToken::new());
    let asked = frame(&Text {
        text: "one\ntwo".to_owned(),
    });
    let (messages, status) = call(&running, "/proto.EchoTestService/Echo", asked.clone()).await;
    assert_eq!((messages.len(), status.as_str()), (1, "0"));
    let said = Text::decode(messages[0].clone()).unwrap().text;
    assert!(
        said.contains("Echo=one\ntwo") && said.contains("StatusCode=200"),
        "{said}"
    );

    let (messages, status) = call(&running, "/proto.EchoTestService/EchoStream", asked).await;
    let said: Vec<_> = messages
        .into_iter()
        .map(|m| Text::decode(m).unwrap().text)
        .collect();
    assert_eq!(
        (said, status.as_str()),
        (vec!["one".to_owned(), "two".to_owned()], "0")
    );
}

#[tokio::test]
async fn health_is_checked_and_watched_until_the_end() {
    let stop = CancellationToken::new();
    let running = service(stop.clone());
    let empty = frame(&Text::default());
    let (messages, status) = call(&running, "/grpc.health.v1.Health/Check", empty.clone()).await;
    assert_eq!(Health::decode(messages[0].clone()).unwrap().status, 1);
    assert_eq!(status, "0");
    let unknown = frame(&Text {
        text: "unknown".to_owned(),
    });
    assert_eq!(
        call(&running, "/grpc.health.v1.Health/Check", unknown)
            .await
            .1,
        "5"
    );
    let ((messages, status), ()) = tokio::join!(
        call(&running, "/grpc.health.v1.Health/Watch", empty),
        async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            stop.cancel();
        }
    );
    assert_eq!((messages.len(), status.as_str()), (1, "0"));
}

#[tokio::test]
async fn calls_are_forwarded_over_http() {
    let backend = Running::start(hello::Hello::new("1.0.0", &Environment::new()));
    let running = service(CancellationToken::new());
    let asked = frame(&Forward {
        count: 2,
        url: backend.url("/"),
    });
    let (messages, status) = call(&running, "/proto.EchoTestService/ForwardEcho", asked).await;
    assert_eq!(status, "0");
    let output = Output::decode(messages[0].clone()).unwrap().output;
    assert_eq!(output.len(), 2);
    assert!(
        output[1].starts_with("[1] StatusCode=200\n[1 body] Hello, world!\n"),
        "{output:?}"
    );
    let wrong = frame(&Forward {
        count: 1,
        url: "xds:///echo:7070".to_owned(),
    });
    assert_eq!(
        call(&running, "/proto.EchoTestService/ForwardEcho", wrong)
            .await
            .1,
        "3"
    );
}

#[tokio::test]
async fn what_is_no_call_is_refused_by_status() {
    let running = service(CancellationToken::new());
    let good = frame(&Text::default());
    assert_eq!(
        call(&running, "/proto.EchoTestService/Nothing", good)
            .await
            .1,
        "12"
    );
    for (body, status) in [
        (&b""[..], "3"),
        (b"\x00\x00\x00\x00\x09short", "3"),
        (b"\x01\x00\x00\x00\x00", "12"),
        (b"\x00\x00\x00\x00\x02\x0a\xff", "3"),
    ] {
        let body = Bytes::from_static(body);
        assert_eq!(
            call(&running, "/proto.EchoTestService/Echo", body).await.1,
            status
        );
    }
}
