//! The client of the corpus: HTTP/1, HTTP/2 and raw bytes.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::case::Send;
use super::tls;
use super::upstream::lines;

/// How long raw bytes are waited for after the last.
const QUIET: Duration = Duration::from_millis(400);
/// How long anything may take.
const LONGEST: Duration = Duration::from_secs(8);

/// What the client got, in comparable form.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) host: Option<String>,
    pub(crate) body: String,
    pub(crate) what: Value,
}

type Body = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

/// Sends all on one connection. Returns what came back.
pub(crate) async fn exchange(
    address: SocketAddr,
    requests: &[Send],
    key: &str,
    from: Ipv4Addr,
) -> Vec<Reply> {
    let mut replies = Vec::new();
    let mut connection: Option<(Sender, Value)> = None;
    for request in requests {
        tokio::time::sleep(Duration::from_millis(request.after)).await;
        if let Some(bytes) = &request.raw {
            replies.push(raw(address, request, bytes, key, from).await);
            continue;
        }
        let usable = connection
            .as_mut()
            .filter(|(sender, _)| !sender.is_closed());
        if usable.is_none() {
            connection = match connect(address, request, from).await {
                Ok(connection) => Some(connection),
                Err(why) => {
                    replies.push(failure(&why));
                    continue;
                }
            };
        }
        let (sender, learned) = connection.as_mut().unwrap();
        let sent = tokio::time::timeout(LONGEST, sender.send(build(request, key, address))).await;
        replies.push(match sent {
            Ok(Ok(response)) => match &request.tunnel {
                Some(bytes) if response.status().as_u16() == 200 => tunnel(response, bytes).await,
                _ => read(response).await,
            },
            Ok(Err(error)) => failure(&kind(&error)),
            Err(_) => failure("no answer"),
        });
        let answered = replies.last_mut().filter(|reply| reply.status != 0);
        if let Some(reply) = answered.filter(|_| !learned.is_null()) {
            reply.what["tls"] = learned.clone();
        }
    }
    replies
}

/// A connection from an address of the case's own, by which its lines in the access log are found.
async fn dial(address: SocketAddr, from: Ipv4Addr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket
        .connect(address)
        .await
        .expect("a proxy that has not died takes connections")
}

enum Sender {
    One(hyper::client::conn::http1::SendRequest<Body>),
    Two(hyper::client::conn::http2::SendRequest<Body>),
}

impl Sender {
    fn is_closed(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_closed(),
            Self::Two(sender) => sender.is_closed(),
        }
    }

    async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Two(sender) => sender.send_request(request).await,
        }
    }
}

trait Io: AsyncRead + AsyncWrite + Unpin + std::marker::Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + std::marker::Send> Io for T {}

/// A connection for a request, and what was learned in its TLS handshake.
async fn connect(
    address: SocketAddr,
    request: &Send,
    from: Ipv4Addr,
) -> Result<(Sender, Value), String> {
    let socket = dial(address, from).await;
    let (stream, learned): (Box<dyn Io>, Value) = match &request.tls {
        None => (Box::new(socket), Value::Null),
        Some(hello) => {
            let (stream, learned) = tls::handshake(socket, hello).await?;
            (Box::new(stream), learned)
        }
    };
    let io = TokioIo::new(stream);
    if request.http == Some(2) {
        let (sender, driver) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
            .await
            .unwrap();
        tokio::spawn(driver);
        return Ok((Sender::Two(sender), learned));
    }
    let (sender, driver) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(driver.with_upgrades());
    Ok((Sender::One(sender), learned))
}

fn build(from: &Send, key: &str, address: SocketAddr) -> Request<Body> {
    let h2 = from.http == Some(2);
    let path = from.path.as_deref().unwrap_or("/");
    let host = from.host.as_deref().unwrap_or("test.example");
    let connects = from.method.as_deref() == Some("CONNECT") && from.protocol.is_none();
    let uri = if h2 && connects {
        host.to_owned()
    } else if h2 {
        format!("http://{host}{path}")
    } else {
        path.to_owned()
    };
    let _ = address;
    let mut request = Request::builder()
        .method(from.method.as_deref().unwrap_or("GET"))
        .uri(uri);
    let headers = request.headers_mut().unwrap();
    if !h2 {
        headers.insert("host", host.parse().unwrap());
    }
    headers.insert("x-case", key.parse().unwrap());
    if let Some(actions) = &from.upstream {
        headers.insert("x-do", actions.parse().unwrap());
    }
    for line in &from.headers {
        let (name, value) = line.split_once(':').unwrap();
        headers.append(
            HeaderName::from_bytes(name.trim().as_bytes()).unwrap(),
            value.trim().parse().unwrap(),
        );
    }
    if let Some(protocol) = &from.protocol {
        let protocol = Protocol::from(protocol.as_str());
        request = request.extension(protocol);
    }
    request.body(body(from)).unwrap()
}

fn body(from: &Send) -> Body {
    let bytes = match (&from.body, from.body_bytes) {
        (Some(text), _) => Bytes::from(text.clone()),
        (None, Some(size)) => Bytes::from(vec![b'b'; size]),
        (None, None) => return http_body_util::Empty::new().boxed(),
    };
    if from.trailers.is_empty() {
        return http_body_util::Full::new(bytes).boxed();
    }
    let mut trailers = HeaderMap::new();
    for line in &from.trailers {
        let (name, value) = line.split_once(':').unwrap();
        trailers.insert(
            HeaderName::from_bytes(name.trim().as_bytes()).unwrap(),
            value.trim().parse().unwrap(),
        );
    }
    let frames = vec![Ok(Frame::data(bytes)), Ok(Frame::trailers(trailers))];
    StreamBody::new(futures_util::stream::iter(frames)).boxed()
}

/// Sends bytes in a tunnel, closes it and returns what came back.
async fn tunnel(response: Response<Incoming>, bytes: &str) -> Reply {
    let (status, headers) = (response.status().as_u16(), lines(response.headers()));
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let _ = stream.write_all(bytes.as_bytes()).await;
    let _ = stream.shutdown().await;
    let mut got = Vec::new();
    let ended = tokio::time::timeout(QUIET, stream.read_to_end(&mut got)).await;
    let text = String::from_utf8_lossy(&got).into_owned();
    Reply {
        status,
        host: None,
        what: json!({"status": status, "headers": headers, "body": text, "ended": ended.is_ok()}),
        body: text,
    }
}

async fn read(response: Response<Incoming>) -> Reply {
    let (parts, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    let mut trailers = HeaderMap::new();
    let mut broke = Value::Null;
    loop {
        match tokio::time::timeout(LONGEST, body.frame()).await {
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
            },
            Ok(Some(Err(error))) => {
                broke = json!(kind(&error));
                break;
            }
            Ok(None) => break,
            Err(_) => {
                broke = json!("stalled");
                break;
            }
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let host = parts
        .headers
        .get("x-host")
        .and_then(|host| host.to_str().ok().map(str::to_owned));
    let mut what = json!({
        "status": parts.status.as_u16(),
        "headers": lines(&parts.headers),
        "body": if bytes.len() > 4096 { json!(bytes.len()) } else { json!(text) },
    });
    if !trailers.is_empty() {
        what["trailers"] = lines(&trailers);
    }
    if !broke.is_null() {
        what["broke"] = broke;
    }
    Reply {
        status: parts.status.as_u16(),
        host,
        body: text,
        what,
    }
}

fn failure(text: &str) -> Reply {
    Reply {
        status: 0,
        host: None,
        body: String::new(),
        what: json!({"failure": text}),
    }
}

/// What kind of failure an error of hyper's is; its words say which side of a race was lost.
fn kind(error: &hyper::Error) -> String {
    let reset = std::error::Error::source(error)
        .and_then(|cause| cause.downcast_ref::<h2::Error>())
        .and_then(h2::Error::reason);
    match reset {
        Some(reason) => format!("reset {reason:?}"),
        None => "closed".to_owned(),
    }
}

async fn raw(address: SocketAddr, from: &Send, bytes: &str, key: &str, source: Ipv4Addr) -> Reply {
    let mut stream = dial(address, source).await;
    let mut bytes = bytes.replace("{case}", key);
    if from.lines {
        bytes = bytes.replace('\n', "\r\n");
    }
    let _ = stream.write_all(bytes.as_bytes()).await;
    if from.half_close {
        let _ = stream.shutdown().await;
    }
    let mut got = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let end = loop {
        match tokio::time::timeout(QUIET, stream.read(&mut buffer)).await {
            Err(_) => break "open",
            Ok(Ok(0)) => break "closed",
            Ok(Err(_)) => break "reset",
            Ok(Ok(n)) => got.extend_from_slice(&buffer[..n]),
        }
    };
    let text = String::from_utf8_lossy(&got).into_owned();
    let status = text
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5)?.parse().ok())
        .unwrap_or(0);
    Reply {
        status,
        host: None,
        what: json!({"bytes": heads(&text), "end": end}),
        body: text,
    }
}

/// The bytes with each head's lines sorted and without those that say when or by whom.
fn heads(text: &str) -> Vec<String> {
    text.split("\r\n\r\n")
        .map(|part| {
            let mut list: Vec<&str> = part.split("\r\n").collect();
            let from = usize::from(list.first().is_some_and(|line| line.starts_with("HTTP/1")));
            list.retain(|line| {
                let name = line.split(':').next().unwrap_or_default();
                !["date", "x-envoy-upstream-service-time", "x-host"].contains(&name)
            });
            let from = from.min(list.len());
            list[from..].sort_unstable();
            list.join("\n")
        })
        .collect()
}
