//! HTTP/2 connections to one host: one, shared by all requests of the worker, and another when its streams are used up.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared};
use http::{Method, Request, Response, header};
use http_body::Body as _;
use lateen_traffic::cluster::UpstreamHttp;
use tokio::time::Instant;

use super::connect::{self, ConnectError, Target};
use super::h1::{ConnectionFacts, is_over};
use super::plain::Plain;
use super::{SendError, UpstreamError, multiplexed};
use crate::clock;
use crate::h2::Settings;
use crate::h2::Tunnel;
use crate::h2::head::{self, Limits};
use crate::h2::hpack::Encoder;
use crate::h2::link::{Incoming, Link, Outgoing};
use crate::http::body::RequestBody;
use crate::net::Stream;
use crate::streams::upload::Upload;

/// Streams on one connection unless the peer or the cluster allow fewer; also Envoy's default since 1.36.
const MAX_STREAMS: usize = 1024;
/// Flow-control windows: Envoy's defaults are 16 MiB per stream and 24 MiB per connection since 1.36, 256 MiB before; 1 MiB
/// keeps one slow reader from holding more, at 100 ms round-trip still 80 Mbit/s.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Bytes of a response's head, as in Envoy.
const MOST_HEAD: usize = 60 * 1024;
/// Time for the answer to a ping, unless the cluster says otherwise.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The connections to a host over one transport.
#[derive(Default)]
pub(crate) struct Connections {
    open: RefCell<Vec<Connection>>,
    opening: RefCell<Option<Opening>>,
}

type Opening = Shared<LocalBoxFuture<'static, Result<Connection, ConnectError>>>;

/// A connection; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    link: Rc<Link>,
    active: Rc<Cell<usize>>,
    idle_since: Rc<Cell<Instant>>,
    limit: usize,
    /// Requests that it carries before another one takes its place.
    most: u64,
    /// Facts about it.
    pub(crate) info: Rc<ConnectionFacts>,
}

/// One stream's place on a connection, given back when dropped.
#[derive(Debug)]
pub(crate) struct StreamPlace(Connection);

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let connection = &self.0;
        connection.active.set(connection.active.get() - 1);
        connection.idle_since.set(clock::now());
        if connection.active.get() == 0 && connection.is_spent() {
            connection.link.retire();
        }
    }
}

/// A request that began.
#[derive(Debug)]
pub(crate) struct Begun {
    incoming: Incoming,
    upload: Option<Upload<Outgoing, RequestBody>>,
    /// Where a tunnel's bytes would go.
    tunnel: Option<Outgoing>,
    /// Bytes queued on the connection before it.
    queued: u64,
}

/// A response's body.
#[derive(Debug)]
pub(crate) struct Body {
    body: multiplexed::Body<Incoming>,
    /// Where a tunnel's bytes go, if the response grants one.
    outgoing: Option<Outgoing>,
}

impl Body {
    /// The tunnel that the response grants.
    pub(crate) fn into_tunnel(self) -> Option<Tunnel> {
        let outgoing = self.outgoing?;
        Some(Tunnel::new(self.body.into_incoming(), outgoing))
    }
}

impl StreamPlace {
    /// Facts about the connection.
    pub(crate) fn info(&self) -> &Rc<ConnectionFacts> {
        &self.0.info
    }

    /// Whether the connection carried a request before.
    pub(crate) fn is_reused(&self) -> bool {
        self.0.info.requests.get() > 1
    }

    /// Sends a request and waits for its response's head.
    ///
    /// # Errors
    /// There is no response.
    pub(crate) async fn send(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<Body>, SendError> {
        let (parts, body) = request.into_parts();
        let states_length = parts.headers.contains_key(header::CONTENT_LENGTH);
        let begun = self.begin(&parts.method, body, |encoder, out, length| {
            head::put_request(encoder, out, &parts, length.filter(|_| !states_length));
        });
        drop(parts);
        self.answered(begun?).await
    }

    /// A request with a head in parts, whose response [`StreamPlace::answered`] waits for.
    ///
    /// # Errors
    /// It was not sent.
    pub(crate) fn begin_plain(
        &self,
        plain: &Plain<'_>,
        body: RequestBody,
    ) -> Result<Begun, SendError> {
        self.begin(plain.method, body, |encoder, out, length| {
            head::put_plain(encoder, out, plain, length);
        })
    }

    fn begin(
        &self,
        method: &Method,
        body: RequestBody,
        put: impl FnOnce(&mut Encoder, &mut BytesMut, Option<u64>),
    ) -> Result<Begun, SendError> {
        let link = &self.0.link;
        let queued = link.queued();
        let is_connect = *method == Method::CONNECT;
        let ended = !is_connect && body.is_end_stream();
        let length = body.size_hint().exact();
        let length = length.filter(|_| !ended && !is_connect);
        let begun = link.begin(
            |encoder, out| put(encoder, out, length),
            *method == Method::HEAD,
            ended,
        );
        let (incoming, mut outgoing) = begun.map_err(|error| SendError {
            error: UpstreamError::Stream(error),
            unsent: true,
        })?;
        let tunnel = outgoing.take_if(|_| is_connect);
        Ok(Begun {
            incoming,
            upload: outgoing.map(|outgoing| Upload::new(outgoing, body)),
            tunnel,
            queued,
        })
    }

    /// Waits for the head of a response.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn answered(&self, begun: Begun) -> Result<Response<Body>, SendError> {
        let Begun {
            incoming,
            upload,
            tunnel,
            queued,
        } = begun;
        let answered = multiplexed::ask(upload, incoming, Incoming::poll_head).await;
        let ((status, headers), body) = answered.map_err(|error| SendError {
            error: UpstreamError::Stream(error),
            unsent: self.0.link.is_unsent(queued),
        })?;
        let outgoing = tunnel.filter(|tunnel| {
            if !status.is_success() {
                tunnel.end();
            }
            status.is_success()
        });
        let mut response = Response::new(Body { body, outgoing });
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

impl http_body::Body for Body {
    type Data = bytes::Bytes;
    type Error = crate::streams::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl Connection {
    /// Speaks HTTP/2 over a connection that was made already.
    pub(crate) fn over(
        stream: Stream,
        http: &UpstreamHttp,
        open: Option<super::OpenConnection>,
    ) -> Self {
        let info = ConnectionFacts::of(&stream, open);
        let options = http.http2;
        let link = Link::client(Settings {
            streams: 0, // nothing is pushed
            stream_window: options.initial_stream_window.unwrap_or(STREAM_WINDOW),
            connection_window: options
                .initial_connection_window
                .unwrap_or(CONNECTION_WINDOW),
            limits: Limits {
                bytes: MOST_HEAD,
                fields: http.max_headers_count as usize,
            },
        });
        let pings = options
            .ping_interval
            .map(|interval| (interval, options.ping_timeout.unwrap_or(PING_TIMEOUT)));
        let watched = Rc::clone(&link);
        let lost = async move {
            match pings {
                Some((interval, timeout)) => watched.is_lost(interval, timeout).await,
                None => std::future::pending().await,
            }
        };
        let driven = multiplexed::drive(Rc::clone(&link), stream, Rc::clone(&info), lost);
        tokio::task::spawn_local(driven);
        Self {
            link,
            active: Rc::new(Cell::new(0)),
            idle_since: Rc::new(Cell::new(Instant::now())),
            limit: options
                .max_concurrent_streams
                .map_or(MAX_STREAMS, |n| n as usize),
            most: http.max_requests_per_connection.map_or(u64::MAX, u64::from),
            info,
        }
    }

    /// Whether it has carried all the requests that it may.
    fn is_spent(&self) -> bool {
        self.info.requests.get() >= self.most
    }

    fn place(&self) -> Option<StreamPlace> {
        let limit = self.limit.min(self.link.allowed());
        if !self.link.is_open() || self.is_spent() || self.active.get() >= limit {
            return None;
        }
        self.active.set(self.active.get() + 1);
        self.info.requests.set(self.info.requests.get() + 1);
        Some(StreamPlace(self.clone()))
    }
}

impl Connections {
    /// A place on an open connection, if one is free.
    pub(crate) fn place(&self) -> Option<StreamPlace> {
        let mut open = self.open.borrow_mut();
        open.retain(|connection| connection.link.is_open());
        open.iter().find_map(Connection::place)
    }

    /// A place, making a connection if there is none. Requests that come while one is being made wait for that one. `count`
    /// gives a place for another connection.
    ///
    /// # Errors
    /// The connection cannot be made; `None` if there may not be another one.
    pub(crate) async fn place_or_open(
        self: &Rc<Self>,
        target: &Target,
        http: &UpstreamHttp,
        count: impl Fn() -> Option<super::OpenConnection>,
    ) -> Result<StreamPlace, Option<ConnectError>> {
        loop {
            if let Some(place) = self.place() {
                return Ok(place);
            }
            let joined = self.opening.borrow().clone();
            let opening = match joined {
                Some(opening) => opening,
                None => self.start(target.clone(), http.clone(), count().ok_or(None)?),
            };
            let made = opening.clone().await;
            self.finish(&opening);
            let made = made.map_err(Some)?;
            // A connection that cannot take even this stream (closed at once) is a failure, not a reason to spin.
            if !made.link.is_open() {
                let reason = "upstream closed the HTTP/2 connection at once";
                return Err(Some(ConnectError::Transport(reason.into())));
            }
        }
    }

    fn start(
        self: &Rc<Self>,
        target: Target,
        http: UpstreamHttp,
        open: super::OpenConnection,
    ) -> Opening {
        let future = async move {
            let stream = connect::connect(&target).await?;
            Ok(Connection::over(stream, &http, Some(open)))
        };
        let opening = future.boxed_local().shared();
        *self.opening.borrow_mut() = Some(opening.clone());
        // Driven and finished on its own: the request that asked may go away, and no later one is to meet an old failure.
        let (driven, this) = (opening.clone(), Rc::clone(self));
        tokio::task::spawn_local(async move {
            let _ = driven.clone().await; // every waiter gets the same result
            this.finish(&driven);
        });
        opening
    }

    /// The first to wake keeps the connection for all.
    fn finish(&self, opening: &Opening) {
        let mut current = self.opening.borrow_mut();
        if !current
            .as_ref()
            .is_some_and(|current| current.ptr_eq(opening))
        {
            return;
        }
        *current = None;
        if let Some(Ok(connection)) = opening.peek() {
            self.open.borrow_mut().push(connection.clone());
        }
    }

    /// Keeps a connection that was made elsewhere.
    pub(crate) fn adopt(&self, connection: Connection) -> Option<StreamPlace> {
        let place = connection.place();
        self.open.borrow_mut().push(connection);
        place
    }

    /// Lets go of connections that are closed, were without a stream for too long or are too old; streams under way go on.
    pub(crate) fn sweep(&self, http: &UpstreamHttp) {
        let now = Instant::now();
        self.open.borrow_mut().retain(|connection| {
            let idle = connection.active.get() == 0
                && is_over(http.idle_timeout, connection.idle_since.get(), now);
            let old = is_over(http.max_connection_duration, connection.info.made, now);
            if idle || old {
                connection.link.retire();
            }
            connection.link.is_open()
        });
    }

    /// Lets go of all of them; streams under way go on.
    pub(crate) fn clear(&self) {
        for connection in self.open.borrow_mut().drain(..) {
            connection.link.retire();
        }
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.clear(); // what moves a connection's bytes holds it, too
    }
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections")
            .field("open", &self.open.borrow().len())
            .finish_non_exhaustive()
    }
}
