//! An HTTP/1.1 client: one connection per request, as most of the samples do so that load balancing shows, or a pool.

use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;

/// The largest response body that is read.
const LARGEST_BODY: usize = 64 << 20;

/// How long a pool keeps a connection that nobody uses: as long as Go's `http.DefaultTransport`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("`{0}` is not an http URL with a host")]
    Url(String),
    #[error("resolving {host}")]
    Resolve {
        host: String,
        #[source]
        source: std::io::Error,
    },
    #[error("connecting to {target}")]
    Connect {
        target: String,
        #[source]
        source: std::io::Error,
    },
    #[error("exchanging with {target}")]
    Exchange {
        target: String,
        #[source]
        source: hyper::Error,
    },
    #[error("exchanging with {target}")]
    Pooled {
        target: String,
        #[source]
        source: hyper_util::client::legacy::Error,
    },
    #[error("reading the response's body")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no complete response within {0:?}")]
    Timeout(Duration),
}

impl ClientError {
    /// A word for counting.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            ClientError::Url(_) => "url",
            ClientError::Resolve { .. } => "resolve",
            ClientError::Connect { .. } => "connect",
            ClientError::Exchange { .. } | ClientError::Pooled { .. } => "exchange",
            ClientError::Body(_) => "body",
            ClientError::Timeout(_) => "timeout",
        }
    }
}

/// An error with everything that led to it, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

/// Where a URL leads.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    host: String,
    port: u16,
    /// As the `host` header says it: without the default port.
    authority: HeaderValue,
    /// Path and query.
    pub(crate) path: String,
}

impl Target {
    /// Reads `http://host[:port][/path]`; the scheme may be left out, as for `curl`.
    pub(crate) fn parse(url: &str) -> Result<Target, ClientError> {
        let wrong = || ClientError::Url(url.to_owned());
        let whole = if url.contains("://") {
            url.to_owned()
        } else {
            format!("http://{url}")
        };
        let uri: Uri = whole.parse().map_err(|_| wrong())?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong());
        }
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or_else(wrong)?;
        let port = uri.port_u16().unwrap_or(80);
        let authority = match uri.port_u16() {
            None | Some(80) => host.to_owned(),
            Some(port) => format!("{host}:{port}"),
        };
        Ok(Target {
            // `lookup_host` wants an IPv6 address without its brackets.
            host: host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            port,
            authority: HeaderValue::from_str(&authority).map_err(|_| wrong())?,
            path: uri
                .path_and_query()
                .map_or("/", |path| path.as_str())
                .to_owned(),
        })
    }

    fn name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The whole URL, from which a pool learns whom to connect to.
    fn uri(&self) -> Result<Uri, ClientError> {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let url = format!("http://{}{}", text(&self.authority), self.path);
        url.parse().map_err(|_| ClientError::Url(url))
    }
}

/// A request to send.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Call {
    pub(crate) fn get(target: Target) -> Call {
        Call {
            method: Method::GET,
            target,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        // `Target::parse` took the path from a URI.
        *request.uri_mut() = self.target.path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(HOST, self.target.authority.clone());
        headers.extend(self.headers.clone());
        request
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Aborted with the connection.
    _driver: tokio_util::task::AbortOnDropHandle<()>,
}

impl Connection {
    /// Connects to the first address of `target` that answers.
    pub(crate) async fn open(target: &Target) -> Result<Connection, ClientError> {
        let host = target.host.clone();
        let addresses = tokio::net::lookup_host((target.host.as_str(), target.port)).await;
        let addresses = addresses.map_err(|source| ClientError::Resolve { host, source })?;
        let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "no address");
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Connection::over(stream, target).await,
                Err(error) => last = error,
            }
        }
        Err(ClientError::Connect {
            target: target.name(),
            source: last,
        })
    }

    async fn over(stream: TcpStream, target: &Target) -> Result<Connection, ClientError> {
        let _ = stream.set_nodelay(true);
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|source| ClientError::Exchange {
            target: target.name(),
            source,
        })?;
        let driver = tokio::spawn(async move {
            // What breaks shows in the request that it broke.
            let _ = connection.with_upgrades().await;
        });
        let driver = tokio_util::task::AbortOnDropHandle::new(driver);
        Ok(Connection {
            sender,
            _driver: driver,
        })
    }

    /// Whether the server has closed it.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits until a request may be sent; false if the server has closed the connection.
    pub(crate) async fn ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends one request and waits for the head of its response.
    pub(crate) async fn send(&mut self, call: &Call) -> Result<Response<Incoming>, ClientError> {
        let exchanged = self.sender.send_request(call.request()).await;
        exchanged.map_err(|source| ClientError::Exchange {
            target: call.target.name(),
            source,
        })
    }

    /// Sends one request and reads its response.
    pub(crate) async fn exchange(&mut self, call: &Call) -> Result<Response<Bytes>, ClientError> {
        read(self.send(call).await?).await
    }
}

async fn read(response: Response<Incoming>) -> Result<Response<Bytes>, ClientError> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, LARGEST_BODY)
        .collect()
        .await
        .map_err(ClientError::Body)?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

fn pooled(target: &Target, source: legacy::Error) -> ClientError {
    let target = target.name();
    if source.is_connect() {
        let source = std::io::Error::other(source);
        return ClientError::Connect { target, source };
    }
    ClientError::Pooled { target, source }
}

/// Connections kept open between requests, as Go's default client keeps them.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    client: legacy::Client<HttpConnector, Full<Bytes>>,
}

impl Pool {
    pub(crate) fn new() -> Pool {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector);
        Pool { client }
    }

    /// Sends `call` on a free connection, and reads the response, within `timeout` in all.
    pub(crate) async fn send(
        &self,
        call: &Call,
        timeout: Duration,
    ) -> Result<Response<Bytes>, ClientError> {
        let mut request = call.request();
        *request.uri_mut() = call.target.uri()?;
        let exchange = async {
            let response = self.client.request(request).await;
            read(response.map_err(|error| pooled(&call.target, error))?).await
        };
        tokio::time::timeout(timeout, exchange)
            .await
            .map_err(|_| ClientError::Timeout(timeout))?
    }
}

/// Sends `call` on a connection of its own, and reads the response, within `timeout` in all.
pub(crate) async fn send(call: &Call, timeout: Duration) -> Result<Response<Bytes>, ClientError> {
    let exchange = async { Connection::open(&call.target).await?.exchange(call).await };
    tokio::time::timeout(timeout, exchange)
        .await
        .map_err(|_| ClientError::Timeout(timeout))?
}
