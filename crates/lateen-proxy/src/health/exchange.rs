//! One check of one host: a request, a connection or a call, and what its answer means.
//!
//! Source: Envoy's `health_checker_impl.cc`, `grpc_health_checker_impl.cc`, `tcp_health_checker_impl.cc`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use lateen_traffic::cluster::ProxyVersion;
use lateen_traffic::health_check::{
    Answer, Checker, GrpcCheck, HealthCheck, HttpCheck, TcpCheck, holds, is_in,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Subject;
use crate::inspect::proxy_protocol;
use crate::net::Stream;
use crate::shared::{Live, Shared};
use crate::upstream::{connect, target};

/// Who asks. Source: Envoy.
const AGENT: HeaderValue = HeaderValue::from_static("Envoy/HC");
/// By which a host says that it is better not asked.
const DEGRADED: HeaderName = HeaderName::from_static("x-envoy-degraded");
/// By which a host says which cluster it is of.
const CLUSTER: HeaderName = HeaderName::from_static("x-envoy-upstream-healthchecked-cluster");
/// The method of gRPC's health service.
const GRPC_METHOD: &str = "/grpc.health.v1.Health/Check";
/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;
/// The most of an answer's body that is read where nothing in it matters, in bytes: with more the connection is not kept.
const DRAINED: usize = 64 * 1024;
/// The most of a TCP answer that is read.
const LONGEST_REPLY: usize = 64 * 1024;

/// Runs what a connection leaves to others, on the control runtime's own thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// A connection that is kept from one check to the next.
pub(super) enum Kept {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
    /// An open TCP connection.
    Tcp(Box<Stream>),
}

/// Why there is no answer.
struct NoAnswer;

impl<E: std::error::Error> From<E> for NoAnswer {
    fn from(error: E) -> Self {
        tracing::debug!(%error, "health check without an answer");
        Self
    }
}

/// Asks a host. A connection that is fit for another check is left in `kept`.
pub(super) async fn ask(
    shared: &Shared,
    live: &Live,
    subject: &Subject,
    check: &HealthCheck,
    kept: &mut Option<Kept>,
) -> Answer {
    let asked = match &check.checker {
        Checker::Http(http) => ask_http(shared, live, subject, check, http, kept).await,
        Checker::Grpc(grpc) => ask_grpc(shared, live, subject, check, grpc, kept).await,
        Checker::Tcp(tcp) => ask_tcp(shared, live, subject, check, tcp, kept).await,
    };
    asked.unwrap_or_else(|NoAnswer| {
        *kept = None;
        Answer::Network
    })
}

async fn open(
    shared: &Shared,
    live: &Live,
    subject: &Subject,
    check: &HealthCheck,
    proxy: Option<ProxyVersion>,
) -> Result<Stream, NoAnswer> {
    let mut target = target::of_health_check(shared, live, subject, check)?;
    if proxy.is_some() {
        target.header = proxy.map(|version| proxy_protocol::write(version, None));
    }
    Ok(connect::connect(&target).await?)
}

/// A connection to send on: the one that was kept, if it is still good.
async fn sender(
    shared: &Shared,
    live: &Live,
    subject: &Subject,
    check: &HealthCheck,
    http2: bool,
    kept: &mut Option<Kept>,
) -> Result<Kept, NoAnswer> {
    if let Some(mut kept) = kept.take() {
        let good = match &mut kept {
            Kept::Http1(sender) => !http2 && sender.ready().await.is_ok(),
            Kept::Http2(sender) => http2 && sender.ready().await.is_ok(),
            Kept::Tcp(_) => false,
        };
        if good {
            return Ok(kept);
        }
    }
    let stream = TokioIo::new(open(shared, live, subject, check, None).await?);
    if http2 {
        let (sender, connection) = http2::handshake(LocalExecutor, stream).await?;
        tokio::task::spawn_local(connection);
        return Ok(Kept::Http2(sender));
    }
    let (sender, connection) = http1::handshake(stream).await?;
    tokio::task::spawn_local(connection);
    Ok(Kept::Http1(sender))
}

async fn send(
    kept: &mut Kept,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, NoAnswer> {
    Ok(match kept {
        Kept::Http1(sender) => sender.send_request(request).await?,
        Kept::Http2(sender) => sender.send_request(request).await?,
        Kept::Tcp(_) => return Err(NoAnswer),
    })
}

/// What is asked for: the endpoint's own name, the check's, or the cluster's.
fn authority(subject: &Subject, configured: Option<&str>) -> String {
    let own = Some(&*subject.endpoint.health_check.hostname).filter(|name| !name.is_empty());
    own.or(configured)
        .unwrap_or(&subject.cluster.name)
        .to_owned()
}

/// A request in the form that a version of HTTP wants. A cluster's name that cannot be an authority stays out of the URI.
fn request(
    http2: bool,
    method: &Method,
    authority: &str,
    path: &str,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, NoAnswer> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method.clone();
    let whole = format!("http://{authority}{path}").parse::<Uri>();
    match whole {
        Ok(uri) if http2 => *request.uri_mut() = uri,
        _ => *request.uri_mut() = path.parse()?,
    }
    if !http2 {
        request.headers_mut().insert(HOST, authority.parse()?);
    }
    request.headers_mut().insert(USER_AGENT, AGENT);
    Ok(request)
}

fn add(headers: &mut HeaderMap, added: &[(HeaderName, HeaderValue, bool)]) {
    for (name, value, append) in added {
        match append {
            true => drop(headers.append(name, value.clone())),
            false => drop(headers.insert(name, value.clone())),
        }
    }
}

async fn ask_http(
    shared: &Shared,
    live: &Live,
    subject: &Subject,
    check: &HealthCheck,
    http: &HttpCheck,
    kept: &mut Option<Kept>,
) -> Result<Answer, NoAnswer> {
    let mut connection = sender(shared, live, subject, check, http.http2, kept).await?;
    let authority = authority(subject, http.host.as_deref());
    let body = Bytes::copy_from_slice(&http.send);
    let mut request = request(http.http2, &http.method, &authority, &http.path, body)?;
    add(request.headers_mut(), &http.headers);
    for name in &http.without_headers {
        request.headers_mut().remove(name);
    }
    let (head, body) = send(&mut connection, request).await?.into_parts();
    let looked_at = match (http.receive.is_empty(), http.response_buffer) {
        (true, _) => DRAINED,
        (false, None) => usize::MAX,
        (false, Some(size)) => size.max(DRAINED),
    };
    let (bytes, whole) = read(body, looked_at).await?;
    let closes = head
        .headers
        .get(http::header::CONNECTION)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
    if whole && !closes {
        *kept = Some(connection);
    }
    let seen = &bytes[..bytes.len().min(http.response_buffer.unwrap_or(usize::MAX))];
    Ok(judge(http, head.status.as_u16(), &head.headers, seen))
}

/// Source: Envoy, `HttpActiveHealthCheckSession::healthCheckResult`.
fn judge(http: &HttpCheck, status: u16, headers: &HeaderMap, body: &[u8]) -> Answer {
    if !is_in(status, &http.expected) {
        let retriable = is_in(status, &http.retriable);
        return if retriable {
            Answer::Retriable
        } else {
            Answer::Unhealthy
        };
    }
    if !holds(body, &http.receive) {
        return Answer::Unhealthy;
    }
    let named = http.service.as_ref().is_none_or(|service| {
        let name = headers.get(CLUSTER);
        name.is_some_and(|name| service.matches(name.as_bytes()))
    });
    if named {
        let degraded = headers.contains_key(DEGRADED);
        Answer::Healthy { degraded }
    } else {
        Answer::Unhealthy
    }
}

/// A body up to a size, and whether that is all of it.
async fn read(mut body: Incoming, most: usize) -> Result<(Bytes, bool), NoAnswer> {
    let mut out = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        let left = most.saturating_sub(out.len());
        out.extend_from_slice(&data[..data.len().min(left)]);
        if data.len() > left {
            return Ok((out.freeze(), false));
        }
    }
    Ok((out.freeze(), true))
}

async fn ask_grpc(
    shared: &Shared,
    live: &Live,
    subject: &Subject,
    check: &HealthCheck,
    grpc: &GrpcCheck,
    kept: &mut Option<Kept>,
) -> Result<Answer, NoAnswer> {
    let mut connection = sender(shared, live, subject, check, true, kept).await?;
    let authority = authority(subject, grpc.authority.as_deref());
    let body = grpc_request(&grpc.service);
    let mut request = request(true, &Method::POST, &authority, GRPC_METHOD, body)?;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    add(headers, &grpc.headers);
    let (head, body) = send(&mut connection, request).await?.into_parts();
    let answer = Limited::new(body, DRAINED).collect().await;
    let answer = answer.map_err(|_| NoAnswer)?;
    *kept = Some(connection);
    let ok = |headers: &HeaderMap| headers.get("grpc-status").map(|status| status == "0");
    let status = answer.trailers().and_then(ok).or_else(|| ok(&head.headers));
    let serves = head.status == 200 && status == Some(true) && is_serving(answer.to_bytes());
    Ok(match serves {
        true => Answer::Healthy {
            degraded: head.headers.contains_key(DEGRADED),
        },
        false => Answer::Unhealthy,
    })
}

/// `HealthCheckRequest { service }` in a frame.
fn grpc_request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a); // field 1, length-delimited
        prost::encoding::encode_varint(service.len() as u64, &mut message);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put(message);
    frame.freeze()
}

/// Whether a frame with a `HealthCheckResponse` says that the service serves.
fn is_serving(mut frame: Bytes) -> bool {
    if frame.len() < 5 || frame.get_u8() != 0 {
        return false;
    }
    let length = usize::try_from(frame.get_u32()).unwrap_or(usize::MAX);
    if frame.len() != length {
        return false;
    }
    let mut status = 0;
    while frame.has_remaining() {
        // Field 1 is a number; a server may add others one day, and then says so in a way that is not guessed at here.
        if frame.get_u8() != 0x08 {
            return false;
        }
        match prost::encoding::decode_varint(&mut frame) {
            Ok(number) => status = number,
            Err(_) => return false,
        }
    }
    status == SERVING
}

async fn ask_tcp(
    shared: &Shared,
    live: &Live,
    subject: &Subject,
    check: &HealthCheck,
    tcp: &TcpCheck,
    kept: &mut Option<Kept>,
) -> Result<Answer, NoAnswer> {
    let healthy = Answer::Healthy { degraded: false };
    if tcp.send.is_empty() && tcp.receive.is_empty() {
        open(shared, live, subject, check, tcp.proxy).await?;
        return Ok(healthy);
    }
    if let Some(Kept::Tcp(mut stream)) = kept.take()
        && converse(&mut stream, tcp).await.is_ok()
    {
        *kept = Some(Kept::Tcp(stream));
        return Ok(healthy);
    }
    // A host may close a connection between two checks; that says nothing of how it is.
    let mut stream = Box::new(open(shared, live, subject, check, tcp.proxy).await?);
    converse(&mut stream, tcp).await?;
    *kept = Some(Kept::Tcp(stream));
    Ok(healthy)
}

/// Says what is to be said and hears what has to come back.
async fn converse(stream: &mut Stream, tcp: &TcpCheck) -> Result<(), NoAnswer> {
    stream.write_all(&tcp.send).await?;
    stream.flush().await?;
    let mut heard = Vec::new();
    while !holds(&heard, &tcp.receive) {
        let read = stream.read_buf(&mut heard).await?;
        if read == 0 || heard.len() > LONGEST_REPLY {
            return Err(NoAnswer);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(message: &[u8]) -> Bytes {
        let mut frame = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
        frame.extend_from_slice(message);
        frame.into()
    }

    #[test]
    fn a_service_serves_only_if_it_says_so() {
        assert!(is_serving(frame(&[8, 1])));
        for other in [&[][..], &[8, 0], &[8, 2], &[8], &[9, 1], &[8, 0xff]] {
            assert!(!is_serving(frame(other)), "{other:?}");
        }
        assert!(!is_serving(Bytes::from_static(&[1, 0, 0, 0, 2, 8, 1])));
        assert!(!is_serving(Bytes::from_static(&[0, 0, 0, 0, 9, 8, 1])));
        assert_eq!(&*grpc_request(""), [0, 0, 0, 0, 0]);
        assert_eq!(&*grpc_request("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
    }
}
