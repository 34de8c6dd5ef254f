//! The HTTP server under the applications: HTTP/1.1 and HTTP/2 without TLS on one port, IPv4 and IPv6, and an orderly
//! end: no new connection, answers to what is in flight, then out.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::RunError;

/// A response body.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// How long requests in flight may take after SIGTERM: within Kubernetes' default grace of 30 s.
const DRAIN: Duration = Duration::from_secs(25);
/// Connections at a time. More wait in the backlog.
const CONNECTIONS: usize = 4096;
/// The largest request body that is read.
pub(crate) const LARGEST_BODY: usize = 16 << 20;

/// What answers requests.
pub(crate) trait Service: Send + Sync + 'static {
    /// Answers one request from `peer`.
    fn call(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// Listens on `port` of every address; port 0 lets the system choose.
pub(crate) fn listen(port: u16) -> Result<TcpListener, RunError> {
    let listener = match dual_stack(port) {
        // Without IPv6 in the kernel, or without an address family for it here.
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => ipv4(port),
        other => other,
    };
    listener.map_err(|source| RunError::Listen { port, source })
}

fn dual_stack(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    bind(socket, (Ipv6Addr::UNSPECIFIED, port).into())
}

fn ipv4(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    bind(socket, (Ipv4Addr::UNSPECIFIED, port).into())
}

fn bind(socket: Socket, address: SocketAddr) -> io::Result<TcpListener> {
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// Serves `service` on `listener` until `stop` is cancelled and the requests in flight are answered.
pub(crate) async fn serve<S: Service>(
    listener: TcpListener,
    service: Arc<S>,
    stop: CancellationToken,
) {
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((stream, peer, slot)) = accepted else {
            continue;
        };
        let connection = connection(stream, peer, Arc::clone(&service));
        let watched = graceful.watch(connection);
        connections.spawn(async move {
            // A connection that breaks concerns only its client.
            let _ = watched.await;
            drop(slot);
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
}

type Slot = tokio::sync::OwnedSemaphorePermit;

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, Slot)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            let _ = stream.set_nodelay(true);
            Some((stream, unmapped(peer), slot))
        }
        Err(_) => {
            // Out of descriptors, most likely: give others time to return some.
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

/// An IPv4 peer of a dual-stack socket as an IPv4 address.
fn unmapped(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

fn connection<S: Service>(
    stream: TcpStream,
    peer: SocketAddr,
    service: Arc<S>,
) -> impl hyper_util::server::graceful::GracefulConnection<
    Error = Box<dyn std::error::Error + Send + Sync>,
> + Send {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    let timer = TokioTimer::new();
    builder
        .http1()
        .timer(timer.clone())
        .header_read_timeout(Duration::from_secs(60));
    builder.http2().timer(timer).max_concurrent_streams(1000);
    let answer = move |request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, std::convert::Infallible>(service.call(request, peer).await) }
    };
    builder
        .serve_connection_with_upgrades(TokioIo::new(stream), hyper::service::service_fn(answer))
        .into_owned()
}

/// A body that is there.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A response with a body of this content type.
pub(crate) fn reply(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A JSON response.
pub(crate) fn json(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    reply(status, "application/json", body.to_string())
}

/// A response of plain text.
pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    reply(status, "text/plain; charset=utf-8", body)
}

/// Reads a request's body; the answer to give instead if it is too large or breaks off.
pub(crate) async fn read(request: Request<Incoming>) -> Result<Bytes, Box<Response<Body>>> {
    match Limited::new(request.into_body(), LARGEST_BODY)
        .collect()
        .await
    {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Box::new(text(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body too large\n",
        ))),
        Err(_) => Err(Box::new(text(StatusCode::BAD_REQUEST, "body broke off\n"))),
    }
}
