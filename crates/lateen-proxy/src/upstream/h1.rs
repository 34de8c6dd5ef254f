//! HTTP/1 connections to one host, kept alive between requests.
//!
//! A connection carries one request at a time and belongs to it: it is written and read by the request's own task, with no task or
//! channel of its own between (which cost a third of a request). Whether a kept connection is still open is looked at
//! when the next request needs one.

mod body;
mod exchange;
mod head;
#[cfg(test)]
mod tests;
mod upload;
mod wire;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;

use hyper::{Request, Response};
use lateen_telemetry::metrics::istio::PrincipalId;
use lateen_traffic::cluster::UpstreamHttp;
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use self::body::Body;
pub(crate) use self::exchange::Begun;

use self::wire::Wire;
use super::plain::Plain;
use super::{SendError, Upgraded, UpstreamBody};
use crate::clock;
use crate::http::body::{BodyError, RequestBody};
use crate::net::Stream;

/// Takes a response's head out of a buffer, and says how its body ends: `None` if there is none. For fuzzing.
pub(crate) fn parse_response(
    buffer: &mut bytes::BytesMut,
    asked_head: bool,
    upgrade: bool,
) -> Option<Option<crate::codec::outgoing::Length>> {
    use crate::codec::outgoing::Length;
    let asked = head::Asked {
        head: asked_head,
        upgrade,
        connect: asked_head && upgrade,
    };
    let head = head::take(buffer, (100, asked_head), asked).ok()??;
    Some(match head.framing {
        head::Framing::None | head::Framing::Upgrade => None,
        head::Framing::Length(bytes) => Some(Length::Exact(bytes)),
        head::Framing::Chunked => Some(Length::Chunked),
        head::Framing::UntilClose => Some(Length::UntilClose),
    })
}

/// Idle connections kept per host and transport; more than that were a burst.
const MAX_IDLE: usize = 256;

/// The idle connections to a host over one transport.
#[derive(Debug, Default)]
pub(crate) struct Idle(RefCell<VecDeque<(Connection, Instant)>>);

/// A connection that can carry a request.
#[derive(Debug)]
pub(crate) struct Connection {
    wire: Rc<RefCell<Wire>>,
    /// Facts about it.
    pub(crate) info: Rc<ConnectionFacts>,
}

/// What is known about an upstream connection.
#[derive(Debug)]
pub(crate) struct ConnectionFacts {
    /// The local address it was made from.
    pub(crate) local: Option<std::net::SocketAddr>,
    /// The peer's certificate, if TLS.
    pub(crate) peer: Option<Rc<crate::tls::PeerCertificate>>,
    /// What the TLS session agreed on.
    pub(crate) session: Option<crate::tls::Session>,
    /// The peer's identity for metrics, once it was asked for. A connection is one worker's.
    pub(crate) principal: Cell<Option<PrincipalId>>,
    /// When it was made.
    pub(crate) made: Instant,
    /// Requests it has carried.
    pub(crate) requests: Cell<u64>,
    /// Held while the connection exists, to count it.
    pub(crate) _open: Option<super::OpenConnection>,
}

impl ConnectionFacts {
    /// Reads them off a new connection.
    pub(crate) fn of(stream: &Stream, open: Option<super::OpenConnection>) -> Rc<Self> {
        let leaf = stream
            .tls()
            .and_then(|tls| tls.peer_certificates()?.first());
        Rc::new(Self {
            local: stream.local_addr(),
            peer: leaf
                .and_then(crate::tls::PeerCertificate::read)
                .map(Rc::new),
            session: stream.tls().and_then(crate::tls::Session::of),
            principal: Cell::new(None),
            made: clock::now(),
            requests: Cell::new(0),
            _open: open,
        })
    }
}

/// Why a request had no response, or a response no end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The connection broke.
    #[error("connection broke")]
    Io(#[source] io::Error),
    /// It was closed before the response was complete.
    #[error("connection closed before the response was complete")]
    Closed,
    /// The response's head is no head, or too large.
    #[error("malformed response head")]
    Head,
    /// The head says nothing certain about where the body ends.
    #[error("ambiguous response framing")]
    Framing,
    /// The chunked coding is broken.
    #[error("malformed chunked response: {0}")]
    Chunked(&'static str),
    /// The request's body broke off, or is not as long as its head says.
    #[error("request body broke off")]
    Body(#[source] Option<BodyError>),
}

impl ConnectionFacts {
    /// Of a connection nothing is known of.
    pub(crate) fn unknown() -> Rc<Self> {
        Rc::new(Self {
            local: None,
            peer: None,
            session: None,
            principal: Cell::new(None),
            made: clock::now(),
            requests: Cell::new(0),
            _open: None,
        })
    }
}

impl Error {
    /// Whether the host does not keep to the protocol.
    pub(crate) const fn is_protocol(&self) -> bool {
        matches!(self, Self::Head | Self::Framing | Self::Chunked(_))
    }
}

impl Connection {
    /// Speaks HTTP/1 over a connection that was made already.
    pub(crate) fn over(
        stream: Stream,
        http: &UpstreamHttp,
        open: Option<super::OpenConnection>,
    ) -> Self {
        let info = ConnectionFacts::of(&stream, open);
        let most_headers = http.max_headers_count as usize;
        let wire = Wire::new(stream, most_headers, http.http1.preserve_header_case);
        Self {
            wire: Rc::new(RefCell::new(wire)),
            info,
        }
    }

    /// Whether it carried a request before this one.
    pub(crate) fn is_reused(&self) -> bool {
        self.info.requests.get() > 0
    }

    /// Sends a request and waits for its response's head. A response that comes before all of the request was sent does not
    /// wait for the rest.
    ///
    /// # Errors
    /// There is no response. The connection is of no more use.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let begun = Begun::request(request, self.wire.borrow().cased)?;
        self.answered(begun).await
    }

    /// A request with a head in parts, to be sent with [`Connection::answered`].
    ///
    /// # Errors
    /// The head promises a body that is not there.
    pub(crate) fn begin(&self, plain: &Plain<'_>, body: RequestBody) -> Result<Begun, SendError> {
        Begun::plain(plain, body, self.wire.borrow().cased)
    }

    /// Sends what was begun, as [`Connection::send`] does.
    ///
    /// # Errors
    /// There is no response. The connection is of no more use.
    pub(crate) async fn answered(
        &mut self,
        begun: Begun,
    ) -> Result<Response<UpstreamBody>, SendError> {
        self.info.requests.set(self.info.requests.get() + 1);
        exchange::send(&self.wire, begun).await
    }

    /// The host's side of an upgrade that a response grants.
    pub(crate) fn upgrade(&self) -> Option<Upgraded> {
        let stream = self.wire.borrow_mut().upgrade()?;
        Some(Upgraded::Stream(Box::new(stream)))
    }

    /// Whether it can carry a request now.
    fn is_usable(&self) -> bool {
        self.wire.borrow_mut().is_usable()
    }
}

impl Idle {
    /// The most recently used connection that is ready, dropping those that are closed, were idle for too long or are too old.
    pub(crate) fn take(&self, http: &UpstreamHttp) -> Option<Connection> {
        let mut idle = self.0.borrow_mut();
        let now = clock::now();
        let mut at = idle.len();
        while at > 0 {
            at -= 1;
            let (connection, since) = &idle[at];
            let expired = is_over(http.idle_timeout, *since, now)
                || is_over(http.max_connection_duration, connection.info.made, now);
            let usable = !expired && connection.is_usable();
            let taken = idle.remove(at);
            if usable {
                return taken.map(|(connection, _)| connection);
            }
        }
        None
    }

    /// Keeps a connection whose response has ended.
    pub(crate) fn put(&self, connection: Connection) {
        // Whether it was closed meanwhile is looked at when it is taken.
        if !connection.wire.borrow().is_idle() {
            return;
        }
        let mut idle = self.0.borrow_mut();
        if idle.len() >= MAX_IDLE {
            idle.pop_front();
        }
        idle.push_back((connection, clock::now()));
    }

    /// Lets go of connections that are closed, were idle for too long or are too old.
    pub(crate) fn sweep(&self, http: &UpstreamHttp) {
        let now = Instant::now();
        self.0.borrow_mut().retain(|(connection, since)| {
            connection.is_usable()
                && !is_over(http.idle_timeout, *since, now)
                && !is_over(http.max_connection_duration, connection.info.made, now)
        });
    }

    /// Lets go of all of them.
    pub(crate) fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}

/// Whether a time that may be limited has passed.
pub(super) fn is_over(limit: Option<Duration>, since: Instant, now: Instant) -> bool {
    limit.is_some_and(|limit| now.duration_since(since) >= limit)
}

/// A connection in use, that goes back to its pool when the response has ended well and is closed otherwise.
#[derive(Debug)]
pub(crate) struct Checkout {
    connection: Option<Connection>,
    pool: Weak<Idle>,
    freed: Rc<Notify>,
    max_requests: Option<u32>,
}

impl Checkout {
    /// Notes where a connection belongs. After `max_requests` requests it is closed rather than kept.
    pub(crate) fn new(
        connection: Connection,
        pool: &Rc<Idle>,
        freed: &Rc<Notify>,
        max_requests: Option<u32>,
    ) -> Self {
        let freed = Rc::clone(freed);
        Self {
            connection: Some(connection),
            pool: Rc::downgrade(pool),
            freed,
            max_requests,
        }
    }

    /// The connection.
    pub(crate) fn connection(&mut self) -> Option<&mut Connection> {
        self.connection.as_mut()
    }

    /// The response was read to its end: the connection may carry another request.
    pub(crate) fn give_back(&mut self) {
        let (Some(connection), Some(pool)) = (self.connection.take(), self.pool.upgrade()) else {
            return;
        };
        let spent = self
            .max_requests
            .is_some_and(|max| connection.info.requests.get() >= u64::from(max));
        if !spent {
            pool.put(connection);
            self.freed.notify_one();
        }
    }
}
