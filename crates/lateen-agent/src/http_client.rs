//! One HTTP/1.1 request to something on this machine: Envoy's admin port, a metrics endpoint, an application's probe.
//!
//! One connection per request, as kubelet does for probes; everything is bounded in time and size. Not a client for the traffic of
//! the mesh.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};

/// Most of an answer that is read, in bytes: a large proxy's metrics.
const MAX_BODY: usize = 64 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No connection.
    #[error("cannot connect to {address}")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The request cannot be written: its path, say, is none.
    #[error("request cannot be made")]
    Request(#[source] http::Error),
    /// The exchange failed.
    #[error("HTTP exchange with {address} failed")]
    Exchange {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// The body failed or is too long.
    #[error("answer of {address} cannot be read")]
    Body {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("no answer from {address} within {timeout:?}")]
    Timeout {
        /// The address.
        address: SocketAddr,
        /// How long was waited.
        timeout: Duration,
    },
}

/// Where a request goes and how.
#[derive(Clone, Debug)]
pub struct Target {
    /// The address.
    pub address: SocketAddr,
    /// The address to connect from, if it matters. If this machine does not have it, any other serves.
    pub source: Option<IpAddr>,
    /// TLS.
    pub tls: Option<Arc<ClientConfig>>,
    /// The mark of the socket.
    pub mark: Option<u32>,
}

impl Target {
    /// A port of the loopback interface.
    pub fn loopback(port: u16) -> Self {
        Self::plain(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// An address, in plain text.
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            source: None,
            tls: None,
            mark: None,
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(&self) -> Result<TcpStream, HttpError> {
        let failed = |source| HttpError::Connect {
            address: self.address,
            source,
        };
        let socket = match self.address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }
        .map_err(failed)?;
        if let Some(source) = self.source {
            // An address this machine does not have (`::6` without the injector's help) is no reason to fail a probe.
            let _ = socket.bind(SocketAddr::new(source, 0));
        }
        if let Some(mark) = self.mark {
            socket2::SockRef::from(&socket)
                .set_mark(mark)
                .map_err(failed)?;
        }
        socket.connect(self.address).await.map_err(failed)
    }
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// GET.
///
/// # Errors
/// See [`HttpError`]; a status of failure is none.
pub async fn get(target: &Target, path: &str, timeout: Duration) -> Result<Answer, HttpError> {
    send(target, Method::GET, path, HeaderMap::new(), timeout).await
}

/// POST without a body.
///
/// # Errors
/// See [`HttpError`]; a status of failure is none.
pub async fn post(target: &Target, path: &str, timeout: Duration) -> Result<Answer, HttpError> {
    send(target, Method::POST, path, HeaderMap::new(), timeout).await
}

/// Any request without a body. `Host` is the address unless `headers` has another.
///
/// # Errors
/// See [`HttpError`]; a status of failure is none.
pub async fn send(
    target: &Target,
    method: Method,
    path: &str,
    headers: HeaderMap,
    timeout: Duration,
) -> Result<Answer, HttpError> {
    let address = target.address;
    let mut request = Request::builder().method(method).uri(path);
    if let Some(map) = request.headers_mut() {
        *map = headers;
        map.entry(header::CONNECTION)
            .or_insert(header::HeaderValue::from_static("close"));
        if !map.contains_key(header::HOST)
            && let Ok(host) = address.to_string().parse()
        {
            map.insert(header::HOST, host);
        }
    }
    let request = request.body(Empty::new()).map_err(HttpError::Request)?;
    let exchanged = tokio::time::timeout(timeout, exchange(target, request)).await;
    exchanged.unwrap_or(Err(HttpError::Timeout { address, timeout }))
}

async fn exchange(target: &Target, request: Request<Empty<Bytes>>) -> Result<Answer, HttpError> {
    let stream = target.connect().await?;
    let Some(config) = &target.tls else {
        return over(target.address, stream, request).await;
    };
    let name = target.address.ip().into();
    let connector = tokio_rustls::TlsConnector::from(config.clone());
    let stream = connector.connect(name, stream).await;
    let failed = |source| HttpError::Connect {
        address: target.address,
        source,
    };
    over(target.address, stream.map_err(failed)?, request).await
}

async fn over<S>(
    address: SocketAddr,
    stream: S,
    request: Request<Empty<Bytes>>,
) -> Result<Answer, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |source| HttpError::Exchange { address, source };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let exchanging = async move {
        let answer = sender.send_request(request).await.map_err(failed)?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await;
        let body = body
            .map_err(|source| HttpError::Body { address, source })?
            .to_bytes();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
        })
    };
    tokio::pin!(exchanging);
    tokio::select! {
        answer = &mut exchanging => answer,
        ended = connection => match ended {
            // The other side has closed; what it sent before is still read.
            Ok(()) => exchanging.await,
            Err(source) => Err(failed(source)),
        },
    }
}
