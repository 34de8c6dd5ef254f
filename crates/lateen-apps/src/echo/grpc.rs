//! The echo application's gRPC side: messages, framing and statuses, on the HTTP server that is there anyway.
//!
//! Source: gRPC over HTTP/2 (`PROTOCOL-HTTP2.md`); `proto.EchoTestService` of Istio's `echo.proto`;
//! `grpc.health.v1`. `EchoStream` is an addition: one answer for every line of the message.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream::{self, StreamExt as _};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use prost::Message;

use super::{Echo, Head};
use crate::client::{self, Call, Target};
use crate::server::{self, Body};

/// Statuses. Source: gRPC status codes.
const OK: Status = Status {
    code: 0,
    message: "",
};
const INVALID_ARGUMENT: u16 = 3;
const NOT_FOUND: u16 = 5;
const UNIMPLEMENTED: u16 = 12;

/// Calls that one `ForwardEcho` may ask for.
const MOST_FORWARDS: i32 = 10_000;
/// How long one forwarded call may take, unless the request says otherwise.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, PartialEq, Message)]
struct EchoRequest {
    #[prost(string, tag = "1")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct EchoResponse {
    #[prost(string, tag = "1")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// The fields of Istio's message that concern plain HTTP.
#[derive(Clone, PartialEq, Message)]
struct ForwardEchoRequest {
    #[prost(int32, tag = "1")]
    count: i32,
    #[prost(int64, tag = "3")]
    timeout_micros: i64,
    #[prost(string, tag = "4")]
    url: String,
    #[prost(message, repeated, tag = "5")]
    headers: Vec<Header>,
    #[prost(string, tag = "6")]
    message: String,
    #[prost(string, tag = "9")]
    method: String,
}

#[derive(Clone, PartialEq, Message)]
struct ForwardEchoResponse {
    #[prost(string, repeated, tag = "1")]
    output: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    /// 1 is `SERVING`.
    #[prost(int32, tag = "1")]
    status: i32,
}

struct Status {
    code: u16,
    message: &'static str,
}

pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers
        .get(CONTENT_TYPE)
        .map_or(&b""[..], HeaderValue::as_bytes);
    match content_type.strip_prefix(b"application/grpc") {
        Some(rest) => rest.is_empty() || rest[0] == b'+' || rest[0] == b';',
        None => false,
    }
}

impl Echo {
    pub(super) async fn grpc(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Response<Body> {
        let (head, body) = request.into_parts();
        let request = Request::from_parts(head.clone(), body);
        let message = match server::read(request).await {
            Ok(body) => unframed(&body),
            Err(_) => Err(Status {
                code: INVALID_ARGUMENT,
                message: "the message broke off",
            }),
        };
        let message = match message {
            Ok(message) => message,
            Err(status) => return failed(&status),
        };
        match head.uri.path() {
            "/proto.EchoTestService/Echo" => self.echo(&head, peer, &message),
            "/proto.EchoTestService/EchoStream" => echo_stream(&message),
            "/proto.EchoTestService/ForwardEcho" => forward(&message).await,
            "/grpc.health.v1.Health/Check" => health(&message),
            "/grpc.health.v1.Health/Watch" => self.watch(),
            _ => failed(&Status {
                code: UNIMPLEMENTED,
                message: "unknown method",
            }),
        }
    }

    fn echo(
        &self,
        head: &http::request::Parts,
        peer: SocketAddr,
        message: &[u8],
    ) -> Response<Body> {
        let Ok(request) = EchoRequest::decode(message) else {
            return undecodable();
        };
        let mut lines = self.fields(
            "GRPC",
            peer,
            &Head {
                headers: &head.headers,
                host: head.uri.host().unwrap_or_default(),
                url: head.uri.path(),
                method: head.method.as_str(),
            },
        );
        lines.push(format!("Echo={}", request.message));
        lines.push("StatusCode=200".to_owned());
        answered([EchoResponse {
            message: lines.join("\n"),
        }])
    }

    /// `SERVING` at once, and the end when this process ends.
    fn watch(&self) -> Response<Body> {
        let stop = self.stop.clone();
        let first = Frame::data(framed(&HealthCheckResponse { status: 1 }));
        let last = async move {
            stop.cancelled().await;
            Ok(Frame::trailers(trailers(&OK)))
        };
        streamed(stream::iter([Ok(first)]).chain(stream::once(last)))
    }
}

fn echo_stream(message: &[u8]) -> Response<Body> {
    let Ok(request) = EchoRequest::decode(message) else {
        return undecodable();
    };
    answered(request.message.lines().map(|line| EchoResponse {
        message: line.to_owned(),
    }))
}

fn health(message: &[u8]) -> Response<Body> {
    let Ok(request) = HealthCheckRequest::decode(message) else {
        return undecodable();
    };
    match request.service.as_str() {
        "" | "proto.EchoTestService" => answered([HealthCheckResponse { status: 1 }]),
        _ => failed(&Status {
            code: NOT_FOUND,
            message: "unknown service",
        }),
    }
}

async fn forward(message: &[u8]) -> Response<Body> {
    let Ok(request) = ForwardEchoRequest::decode(message) else {
        return undecodable();
    };
    let Some(call) = forwarded_call(&request) else {
        let message = "only http URLs, valid methods and headers can be forwarded";
        return failed(&Status {
            code: INVALID_ARGUMENT,
            message,
        });
    };
    let timeout = u64::try_from(request.timeout_micros).unwrap_or(0);
    let timeout = if timeout == 0 {
        FORWARD_TIMEOUT
    } else {
        Duration::from_micros(timeout)
    };
    let mut output = Vec::new();
    for index in 0..request.count.clamp(1, MOST_FORWARDS) {
        let said = match client::send(&call, timeout).await {
            Ok(response) => {
                let body = String::from_utf8_lossy(response.body()).into_owned();
                let lines = body.lines().map(|line| format!("[{index} body] {line}\n"));
                format!(
                    "[{index}] StatusCode={}\n{}",
                    response.status().as_u16(),
                    lines.collect::<String>()
                )
            }
            Err(error) => format!("[{index}] Error={error}\n"),
        };
        output.push(said);
    }
    answered([ForwardEchoResponse { output }])
}

fn forwarded_call(request: &ForwardEchoRequest) -> Option<Call> {
    let mut call = Call::get(Target::parse(&request.url).ok()?);
    if !request.method.is_empty() {
        call.method = Method::from_bytes(request.method.as_bytes()).ok()?;
    }
    for header in &request.headers {
        let name = HeaderName::from_bytes(header.key.as_bytes()).ok()?;
        call.headers
            .append(name, HeaderValue::from_str(&header.value).ok()?);
    }
    call.body = Bytes::from(request.message.clone());
    Some(call)
}

/// The one message of a unary request.
fn unframed(body: &[u8]) -> Result<Vec<u8>, Status> {
    let malformed = Status {
        code: INVALID_ARGUMENT,
        message: "not one whole message",
    };
    let Some((prefix, message)) = body.split_first_chunk::<5>() else {
        return Err(malformed);
    };
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        return Err(Status {
            code: UNIMPLEMENTED,
            message: "compression is not supported",
        });
    }
    if u32::from_be_bytes(length) as usize != message.len() {
        return Err(malformed);
    }
    Ok(message.to_vec())
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(length + 5);
    frame.put_u8(0);
    // Messages here are made of requests that were limited to `LARGEST_BODY`.
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.put_slice(&message.encode_to_vec());
    frame.freeze()
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(status.code));
    if !status.message.is_empty() {
        trailers.insert("grpc-message", HeaderValue::from_static(status.message));
    }
    trailers
}

/// Messages, and then success.
fn answered<M: Message>(messages: impl IntoIterator<Item = M>) -> Response<Body> {
    let mut frames: Vec<Result<Frame<Bytes>, Infallible>> = messages
        .into_iter()
        .map(|message| Ok(Frame::data(framed(&message))))
        .collect();
    frames.push(Ok(Frame::trailers(trailers(&OK))));
    streamed(stream::iter(frames))
}

fn streamed(
    frames: impl stream::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + 'static,
) -> Response<Body> {
    let body = StreamBody::new(frames).map_err(|never| -> io::Error { match never {} });
    let mut response = Response::new(body.boxed_unsync());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A failure without messages: the status is in the headers.
fn failed(status: &Status) -> Response<Body> {
    let mut response = server::reply(StatusCode::OK, "application/grpc", "");
    response.headers_mut().extend(trailers(status));
    response
}

fn undecodable() -> Response<Body> {
    failed(&Status {
        code: INVALID_ARGUMENT,
        message: "the message does not decode",
    })
}
