//! The admin interface (15000), Prometheus' view (15090) and the readiness port (15021), as Envoy and Istio have them.
//!
//! Everything is served on the control runtime. `istioctl` and people's scripts read these pages, so paths, parameters and formats
//! are Envoy's; what a page shows comes from the published configuration and the statistics, never from a worker.

mod clusters;
mod config_dump;
mod logging;
mod pages;

pub use logging::LOGGERS;

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::config::ProxyConfig;
use crate::control::Dump;
use crate::handle::StartError;
use crate::shared::Shared;
use crate::worker::Orders;

/// A client of these ports that is slower than this is not one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What the pages are made of.
#[derive(Debug)]
pub(crate) struct Context {
    shared: Arc<Shared>,
    dump: Arc<Mutex<Dump>>,
    orders: Orders,
    started: Instant,
}

impl Context {
    /// The pages of a proxy.
    pub(crate) fn new(shared: Arc<Shared>, dump: Arc<Mutex<Dump>>, orders: Orders) -> Self {
        Self {
            shared,
            dump,
            orders,
            started: Instant::now(),
        }
    }
}

/// Which port a request came to; each serves its own pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Admin,
    Prometheus,
    Health,
}

/// The proxy's own ports, open.
#[derive(Debug)]
pub(crate) struct Ports(Vec<(Port, StdListener)>);

impl Ports {
    /// Opens them.
    ///
    /// # Errors
    /// One is taken.
    pub(crate) fn open(config: &ProxyConfig) -> Result<Self, StartError> {
        let wanted = [
            (Port::Admin, "admin", config.admin),
            (Port::Prometheus, "Prometheus", config.prometheus),
            (Port::Health, "health", config.health),
        ];
        let open = |(port, purpose, address): (Port, &'static str, Option<SocketAddr>)| {
            let address = address?;
            let listener =
                StdListener::bind(address).and_then(|l| l.set_nonblocking(true).map(|()| l));
            Some(
                listener
                    .map(|l| (port, l))
                    .map_err(|source| StartError::Listen {
                        address,
                        purpose,
                        source,
                    }),
            )
        };
        wanted
            .into_iter()
            .filter_map(open)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Where the admin interface listens.
    pub(crate) fn admin_address(&self) -> Option<SocketAddr> {
        let (_, listener) = self.0.iter().find(|(port, _)| *port == Port::Admin)?;
        listener.local_addr().ok()
    }
}

/// Serves the ports until the runtime stops.
pub(crate) async fn serve(ports: Ports, context: Context) {
    let context = Arc::new(context);
    let serving = ports
        .0
        .into_iter()
        .map(|(port, listener)| accept(port, listener, Arc::clone(&context)));
    futures_util::future::join_all(serving).await;
}

async fn accept(port: Port, listener: StdListener, context: Arc<Context>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(?port, %error, "cannot serve a port of the proxy's own");
            return;
        }
    };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let context = Arc::clone(&context);
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| answer(port, request, Arc::clone(&context)));
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            let _ = served.await; // the client went away
        });
    }
}

async fn answer(
    port: Port,
    request: Request<Incoming>,
    context: Arc<Context>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let query = Query::of(request.uri().query().unwrap_or_default());
    let path = request.uri().path().trim_end_matches('/');
    let page = match port {
        Port::Admin => pages::admin(&context, request.method(), path, &query),
        Port::Prometheus if path == "/stats/prometheus" || path == "/metrics" => {
            pages::prometheus(&context, &query)
        }
        Port::Health if path == "/healthz/ready" => pages::ready(&context),
        Port::Prometheus | Port::Health => Page::not_found(),
    };
    // Printing messages takes their descriptors, tens of megabytes that nothing else in a proxy needs.
    lateen_envoy::descriptor::forget();
    let mut response = Response::new(Full::new(Bytes::from(page.body)));
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    headers.insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static(page.kind),
    );
    headers.insert(
        http::header::CACHE_CONTROL,
        http::HeaderValue::from_static("no-cache, max-age=0"),
    );
    headers.insert(
        "x-content-type-options",
        http::HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        http::header::SERVER,
        http::HeaderValue::from_static("envoy"),
    );
    Ok(response)
}

/// One answer.
#[derive(Debug)]
struct Page {
    status: http::StatusCode,
    kind: &'static str,
    body: String,
}

impl Page {
    const fn text(body: String) -> Self {
        Self {
            status: http::StatusCode::OK,
            kind: "text/plain; charset=UTF-8",
            body,
        }
    }

    fn json(value: &serde_json::Value) -> Self {
        let body = serde_json::to_string_pretty(value).unwrap_or_default();
        Self {
            status: http::StatusCode::OK,
            kind: "application/json",
            body,
        }
    }

    fn refused(status: http::StatusCode, body: impl Into<String>) -> Self {
        Self {
            status,
            kind: "text/plain; charset=UTF-8",
            body: body.into(),
        }
    }

    fn not_found() -> Self {
        Self::refused(
            http::StatusCode::NOT_FOUND,
            "invalid path. admin commands are listed at /help\n",
        )
    }
}

/// Query parameters, decoded.
#[derive(Debug, Default)]
struct Query(Vec<(String, String)>);

impl Query {
    fn of(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                at += 3;
            }
            (b'+', ..) => {
                out.push(b' ');
                at += 1;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::of("format=json&filter=a%7Cb+c&usedonly");
        assert_eq!(query.get("format"), Some("json"));
        assert_eq!(query.get("filter"), Some("a|b c"));
        assert!(query.has("usedonly") && !query.has("x"));
        assert_eq!(decode("%"), "%");
        assert_eq!(decode("%4"), "%4");
    }
}
