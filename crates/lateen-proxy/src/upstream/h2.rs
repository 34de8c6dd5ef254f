//! HTTP/2 connections to one host: one, shared by all requests of the worker, and another when its streams are used up.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use lateen_traffic::cluster::Http2Options;
use tokio::time::Instant;

use super::LocalExecutor;
use super::connect::{self, ConnectError, Target};
use super::h1::ConnectionFacts;
use crate::clock;
use crate::http::body::RequestBody;
use crate::net::Stream;

/// Streams on one connection unless the peer or the cluster allow fewer; also Envoy's default since 1.36.
const MAX_STREAMS: usize = 1024;
/// Flow-control windows: Envoy's defaults are 16 MiB per stream and 24 MiB per connection since 1.36, 256 MiB before; 1 MiB
/// keeps one slow reader from holding more, at 100 ms round-trip still 80 Mbit/s.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

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
    sender: SendRequest<RequestBody>,
    active: Rc<Cell<usize>>,
    idle_since: Rc<Cell<Instant>>,
    limit: usize,
    /// What the peer's settings allow.
    allowed: Rc<Cell<usize>>,
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
    }
}

impl StreamPlace {
    /// The sender, for one request.
    pub(crate) fn sender(&mut self) -> &mut SendRequest<RequestBody> {
        &mut self.0.sender
    }

    /// Facts about the connection.
    pub(crate) fn info(&self) -> &Rc<ConnectionFacts> {
        &self.0.info
    }

    /// Whether the connection carried a request before.
    pub(crate) fn is_reused(&self) -> bool {
        self.0.info.requests.get() > 1
    }
}

impl Connection {
    /// Speaks HTTP/2 over a connection that was made already.
    ///
    /// # Errors
    /// The handshake fails.
    pub(crate) async fn over(
        stream: Stream,
        target: &Target,
        options: Http2Options,
        open: Option<super::OpenConnection>,
    ) -> Result<Self, ConnectError> {
        let info = ConnectionFacts::of(&stream, open);
        let (sender, mut driver) = builder(options)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| ConnectError::Http {
                address: target.address.clone(),
                source: Arc::new(source),
            })?;
        let allowed = Rc::new(Cell::new(MAX_STREAMS));
        let (held, told) = (Rc::clone(&info), Rc::clone(&allowed));
        tokio::task::spawn_local(async move {
            let driven = std::future::poll_fn(|cx| {
                let done = Pin::new(&mut driver).poll(cx);
                told.set(driver.current_max_send_streams());
                done
            });
            let _ = driven.await; // its errors come out of the requests that met them
            drop(held);
        });
        Ok(Self {
            sender,
            active: Rc::new(Cell::new(0)),
            idle_since: Rc::new(Cell::new(Instant::now())),
            limit: options
                .max_concurrent_streams
                .map_or(MAX_STREAMS, |n| n as usize),
            allowed,
            info,
        })
    }

    fn place(&self) -> Option<StreamPlace> {
        let limit = self.limit.min(self.allowed.get());
        if self.sender.is_closed() || self.active.get() >= limit {
            return None;
        }
        self.active.set(self.active.get() + 1);
        self.info.requests.set(self.info.requests.get() + 1);
        Some(StreamPlace(self.clone()))
    }
}

fn builder(options: Http2Options) -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(options.initial_stream_window.unwrap_or(STREAM_WINDOW))
        .initial_connection_window_size(
            options
                .initial_connection_window
                .unwrap_or(CONNECTION_WINDOW),
        );
    if let Some(interval) = options.ping_interval {
        builder.keep_alive_interval(interval);
        builder.keep_alive_timeout(options.ping_timeout.unwrap_or(Duration::from_secs(20)));
    }
    builder
}

impl Connections {
    /// A place on an open connection, if one is free.
    pub(crate) fn place(&self) -> Option<StreamPlace> {
        let mut open = self.open.borrow_mut();
        open.retain(|connection| !connection.sender.is_closed());
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
        options: Http2Options,
        count: impl Fn() -> Option<super::OpenConnection>,
    ) -> Result<StreamPlace, Option<ConnectError>> {
        loop {
            if let Some(place) = self.place() {
                return Ok(place);
            }
            let joined = self.opening.borrow().clone();
            let opening = match joined {
                Some(opening) => opening,
                None => self.start(target.clone(), options, count().ok_or(None)?),
            };
            let made = opening.clone().await;
            self.finish(&opening);
            let made = made.map_err(Some)?;
            // A connection that cannot take even this stream (closed at once) is a failure, not a reason to spin.
            if made.sender.is_closed() {
                let reason = "upstream closed the HTTP/2 connection at once";
                return Err(Some(ConnectError::Transport(reason.into())));
            }
        }
    }

    fn start(
        self: &Rc<Self>,
        target: Target,
        options: Http2Options,
        open: super::OpenConnection,
    ) -> Opening {
        let future = async move {
            let stream = connect::connect(&target).await?;
            Connection::over(stream, &target, options, Some(open)).await
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

    /// Lets go of connections that are closed or were without a stream for too long.
    pub(crate) fn sweep(&self, idle_timeout: Option<Duration>) {
        let now = Instant::now();
        self.open.borrow_mut().retain(|connection| {
            let idle = connection.active.get() == 0
                && idle_timeout
                    .is_some_and(|limit| now.duration_since(connection.idle_since.get()) >= limit);
            !connection.sender.is_closed() && !idle
        });
    }

    /// Lets go of all of them; streams under way go on.
    pub(crate) fn clear(&self) {
        self.open.borrow_mut().clear();
    }
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections")
            .field("open", &self.open.borrow().len())
            .finish_non_exhaustive()
    }
}
