//! The status server on 15020: readiness, the application's own probes, merged metrics, and the ends of a pod's life.
//!
//! Paths are those of `pilot-agent`. What changes something (`/quitquitquit`, `/drain`) is open to this machine only.

mod metrics;
pub(crate) mod probe;
mod probers;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lateen_envoy::with_causes;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::data_plane::{DataPlane, NotReady};

pub use metrics::{AgentMetrics, ScrapeConfig, ScrapeConfigError, ScrapeTarget};
pub(crate) use probers::WrittenProbe;
pub use probers::{Action, AppProbers, ProbeError, Prober};

/// Connections at once: kubelet, Prometheus and Envoy's health check are a handful.
const MAX_CONNECTIONS: usize = 128;
/// How long a client may take to say what it wants.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// What else has to be ready beside the proxy.
pub type Check = Arc<dyn Fn() -> Result<(), NotReady> + Send + Sync>;

/// What the server answers from.
pub struct StatusOptions {
    /// The proxy.
    pub data_plane: Arc<dyn DataPlane>,
    /// What else has to be ready.
    pub checks: Vec<Check>,
    /// The application's probes.
    pub probers: AppProbers,
    /// The application's metrics, if they are merged.
    pub scrape: Option<ScrapeConfig>,
    /// The agent's own metrics.
    pub metrics: AgentMetrics,
    /// Cancelled by `/quitquitquit`.
    pub quit: CancellationToken,
}

/// The server.
pub struct StatusServer {
    listeners: Vec<TcpListener>,
    options: Arc<StatusOptions>,
}

type Answer = Response<Full<Bytes>>;

impl StatusServer {
    /// Listens on `port` (0 for any) of every address, IPv6 too where there is IPv6.
    ///
    /// # Errors
    /// The port is taken.
    pub async fn bind(port: u16, options: StatusOptions) -> io::Result<Self> {
        let v4 = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await?;
        let port = v4.local_addr()?.port();
        // A machine without IPv6 is served over IPv4 alone.
        let v6 = bind_v6_only(port).ok();
        let listeners = std::iter::once(v4).chain(v6).collect();
        Ok(Self {
            listeners,
            options: Arc::new(options),
        })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        let address = self
            .listeners
            .first()
            .and_then(|listener| listener.local_addr().ok());
        address.map_or(0, |address| address.port())
    }

    /// Serves until dropped; every connection's task is its own and ends with it.
    pub async fn run(self) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            accepting.spawn(serve(listener, self.options.clone(), permits.clone()));
        }
        while accepting.join_next().await.is_some() {}
    }
}

fn bind_v6_only(port: u16) -> io::Result<TcpListener> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(true)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from(([0_u16; 8], port)).into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

async fn serve(listener: TcpListener, options: Arc<StatusOptions>, permits: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = permits.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors, say: give what holds them time to end.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let options = options.clone();
        connections.spawn(async move {
            let handle = service_fn(|request| {
                let options = options.clone();
                async move { Ok::<_, Infallible>(handle(&options, peer, request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), handle);
            if let Err(error) = connection.await {
                tracing::debug!(%error, %peer, "status connection ended");
            }
            drop(permit);
        });
    }
}

async fn handle(options: &StatusOptions, peer: SocketAddr, request: Request<Incoming>) -> Answer {
    let (head, _) = request.into_parts();
    match head.uri.path() {
        "/healthz/ready" => ready(options).await,
        "/stats/prometheus" | "/metrics" => metrics::merged(options, head.uri.query()).await,
        "/quitquitquit" => local_post(peer, &head.method).unwrap_or_else(|| {
            tracing::info!("told to quit");
            options.quit.cancel();
            text(StatusCode::OK, "OK")
        }),
        "/drain" => match local_post(peer, &head.method) {
            Some(refusal) => refusal,
            None => drain(options).await,
        },
        path if path.starts_with("/app-health/") || path.starts_with("/app-lifecycle/") => {
            probe::run(&options.probers, path, &head.headers).await
        }
        _ => text(StatusCode::NOT_FOUND, "no such page"),
    }
}

async fn ready(options: &StatusOptions) -> Answer {
    let failed = options.checks.iter().find_map(|check| check().err());
    let verdict = match failed {
        Some(reason) => Err(reason),
        None => options.data_plane.ready().await,
    };
    match verdict {
        Ok(()) => text(StatusCode::OK, ""),
        Err(NotReady(reason)) => text(StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}

async fn drain(options: &StatusOptions) -> Answer {
    match options.data_plane.drain().await {
        Ok(()) => text(StatusCode::OK, "OK"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, with_causes(&error)),
    }
}

/// The refusal, unless it is a POST from this machine.
fn local_post(peer: SocketAddr, method: &Method) -> Option<Answer> {
    if !peer.ip().to_canonical().is_loopback() {
        return Some(text(
            StatusCode::FORBIDDEN,
            "Only requests from localhost are allowed",
        ));
    }
    (method != Method::POST).then(|| text(StatusCode::METHOD_NOT_ALLOWED, "POST this"))
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    answer
}

impl std::fmt::Debug for StatusServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatusServer")
            .field("port", &self.port())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
