//! The hosts both proxies send to: they do what the request's `x-do` header says and remember what they saw.
//!
//! `x-do` is a list of actions with commas: `status=503`, `delay=100` (milliseconds), `close` (no answer), `cut` (the answer breaks
//! off), `trailers`, `body=N` (bytes), `set:NAME=VALUE` (a header), `early` (answers without reading the body), `grpc` (one message). An action may be limited: `first2/status=503` (the first two requests of
//! the case), `host0/delay=100` (the first host).

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

/// HTTP hosts there are.
const HOSTS: usize = 10;

type Body = BoxBody<Bytes, std::io::Error>;

/// All hosts, and what they saw.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    pub(crate) http: Vec<u16>,
    pub(crate) tcp: Vec<u16>,
    pub(crate) dead: u16,
    pub(crate) mute: u16,
    pub(crate) unix: PathBuf,
    seen: Arc<Mutex<HashMap<String, Vec<Seen>>>>,
}

/// One request as a host saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) host: String,
    pub(crate) what: Value,
}

impl Upstream {
    pub(crate) async fn start(directory: &std::path::Path) -> Self {
        let mut this = Self {
            http: Vec::new(),
            tcp: Vec::new(),
            dead: 0,
            mute: 0,
            unix: directory.join("host.sock"),
            seen: Arc::default(),
        };
        for index in 0..HOSTS {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            this.http.push(listener.local_addr().unwrap().port());
            let host = this.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    host.clone().serve(index.to_string(), stream);
                }
            });
        }
        for index in 0..4 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            this.tcp.push(listener.local_addr().unwrap().port());
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(echo(index, stream));
                }
            });
        }
        let listener = UnixListener::bind(&this.unix).unwrap();
        let host = this.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                host.clone().serve("unix".to_owned(), stream);
            }
        });
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        this.mute = mute.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((stream, _)) = mute.accept().await {
                kept.push(stream);
            }
        });
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
        this.dead = dead.local_addr().unwrap().port();
        this
    }

    /// What hosts saw of a case so far.
    pub(crate) fn seen(&self, key: &str) -> Vec<Seen> {
        self.seen
            .lock()
            .unwrap()
            .get(key)
            .cloned()
            .unwrap_or_default()
    }

    fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, host: String, stream: S) {
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let (this, host) = (self.clone(), host.clone());
                async move { this.answer(&host, request).await }
            });
            let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            builder.http2().enable_connect_protocol();
            let _ = builder
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .await;
        });
    }

    async fn answer(
        self,
        host: &str,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, std::io::Error> {
        let upgrade = (request.headers().contains_key("upgrade")
            || request.method() == http::Method::CONNECT)
            .then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let text = |name: &str| {
            parts
                .headers
                .get(name)
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .unwrap_or_default()
        };
        let key = text("x-case");
        let mut what = describe(&parts);
        let number = {
            let mut seen = self.seen.lock().unwrap();
            let list = seen.entry(key.clone()).or_default();
            list.push(Seen {
                host: host.to_owned(),
                what: what.clone(),
            });
            list.len()
        };
        let actions = Actions::of(&text("x-do"), host, number);
        if let Some(upgrade) = upgrade.filter(|_| !actions.has("refuse")) {
            return Ok(tunnel(&parts, upgrade));
        }
        if !actions.has("early") {
            let collected = body
                .collect()
                .await
                .map_err(|error| std::io::Error::other(error.to_string()))?;
            let trailers = collected.trailers().cloned().unwrap_or_default();
            let bytes = collected.to_bytes();
            what["body"] = json!(bytes.len());
            if bytes.len() < 200 {
                what["text"] = json!(String::from_utf8_lossy(&bytes));
            }
            if !trailers.is_empty() {
                what["trailers"] = lines(&trailers);
            }
            if let Some(entry) = self.seen.lock().unwrap().get_mut(&key)
                && let Some(seen) = entry.get_mut(number - 1)
            {
                seen.what = what;
            }
        }
        actions.respond(host).await
    }
}

fn describe(parts: &http::request::Parts) -> Value {
    let protocol = parts.extensions.get::<hyper::ext::Protocol>();
    json!({
        "method": parts.method.as_str(),
        "path": parts.uri.path_and_query().map(ToString::to_string),
        "authority": parts.uri.authority().map(ToString::to_string),
        "scheme": parts.uri.scheme_str(),
        "protocol": protocol.map(hyper::ext::Protocol::as_str),
        "version": format!("{:?}", parts.version),
        "headers": lines(&parts.headers),
    })
}

/// Headers as a map of lists.
pub(crate) fn lines(headers: &HeaderMap) -> Value {
    let mut map = serde_json::Map::new();
    let mut names: Vec<_> = headers.keys().collect();
    names.sort_by_key(|name| name.as_str());
    for name in names {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect();
        map.insert(name.to_string(), json!(values));
    }
    Value::Object(map)
}

fn tunnel(parts: &http::request::Parts, upgrade: hyper::upgrade::OnUpgrade) -> Response<Body> {
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    });
    let mut response = Response::new(Full::default().map_err(never).boxed());
    if parts.version == http::Version::HTTP_11 && parts.method != http::Method::CONNECT {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert("connection", "upgrade".parse().unwrap());
        if let Some(token) = parts.headers.get("upgrade") {
            headers.insert("upgrade", token.clone());
        }
    }
    response
}

fn never(error: Infallible) -> std::io::Error {
    match error {}
}

struct Actions(Vec<String>);

impl Actions {
    fn of(text: &str, host: &str, number: usize) -> Self {
        let applies = |limit: &str| {
            let first = limit
                .strip_prefix("first")
                .and_then(|n| n.parse::<usize>().ok());
            let only = limit.strip_prefix("host");
            first.is_some_and(|n| number <= n) || only.is_some_and(|h| h == host)
        };
        let list = text
            .split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty());
        let list = list.filter_map(|action| match action.split_once('/') {
            Some((limit, action)) if limit.starts_with("first") || limit.starts_with("host") => {
                applies(limit).then(|| action.to_owned())
            }
            _ => Some(action.to_owned()),
        });
        Self(list.collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|action| action == name)
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find_map(|action| action.strip_prefix(name)?.strip_prefix('='))
    }

    async fn respond(&self, host: &str) -> Result<Response<Body>, std::io::Error> {
        if let Some(delay) = self.value("delay") {
            tokio::time::sleep(Duration::from_millis(delay.parse().unwrap())).await;
        }
        if self.has("close") {
            return Err(std::io::Error::other("told to"));
        }
        let status = self
            .value("status")
            .map_or(200, |status| status.parse().unwrap());
        let size = self.value("body").map(|size| size.parse().unwrap());
        let text = match size {
            Some(size) => Bytes::from(vec![b'x'; size]),
            None if self.has("grpc") => Bytes::from_static(b"\0\0\0\0\x02hi"),
            None => Bytes::from_static(b"hello from the host"),
        };
        let mut frames = vec![Ok(Frame::data(text.clone()))];
        if self.has("cut") {
            frames.push(Err(std::io::Error::other("told to")));
        }
        if self.has("trailers") {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-trailer", "yes".parse().unwrap());
            frames.push(Ok(Frame::trailers(trailers)));
        }
        let body: Body = if frames.len() > 1 {
            let pause = Duration::from_millis(if self.has("cut") { 30 } else { 0 });
            let stream =
                futures_util::stream::unfold(frames.into_iter(), move |mut frames| async move {
                    let frame = frames.next()?;
                    if frame.is_err() {
                        tokio::time::sleep(pause).await;
                    }
                    Some((frame, frames))
                });
            BodyExt::boxed(StreamBody::new(Box::pin(stream).map_sync()))
        } else if status == 204 || status == 304 {
            Full::default().map_err(never).boxed()
        } else {
            Full::new(text).map_err(never).boxed()
        };
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        let headers = response.headers_mut();
        headers.insert("x-host", host.parse().unwrap());
        for action in &self.0 {
            if let Some((name, value)) = action.strip_prefix("set:").and_then(|s| s.split_once('='))
            {
                headers.append(
                    http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    value.parse().unwrap(),
                );
            }
        }
        Ok(response)
    }
}

/// A stream that claims `Sync`, by never being shared.
trait MapSync: Sized {
    fn map_sync(self) -> sync::SyncStream<Self>;
}

impl<S> MapSync for S {
    fn map_sync(self) -> sync::SyncStream<Self> {
        sync::SyncStream(Mutex::new(self))
    }
}

mod sync {
    use std::pin::Pin;
    use std::sync::Mutex;
    use std::task::{Context, Poll};

    /// Makes a stream `Sync` by a lock nobody contends for.
    pub(crate) struct SyncStream<S>(pub(crate) Mutex<S>);

    impl<S: futures_util::Stream + Unpin> futures_util::Stream for SyncStream<S> {
        type Item = S::Item;

        fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
            let stream = self.get_mut().0.get_mut().unwrap();
            Pin::new(stream).poll_next(cx)
        }
    }
}

async fn echo(index: usize, mut stream: tokio::net::TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    let _ = stream.write_all(format!("host {index}\n").as_bytes()).await;
    while let Ok(n) = stream.read(&mut buffer).await {
        if n == 0 || stream.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
