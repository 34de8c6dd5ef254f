//! HTTP/1 connections to one host, kept alive between requests.
//!
//! A connection carries one request at a time. Which of the kept ones is usable is known only by its driver task, so a
//! connection goes back as soon as its response ended and is looked at when the next request needs one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use lateen_traffic::cluster::UpstreamHttp;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::connect::{self, ConnectError, Target};
use crate::http::body::RequestBody;
use crate::net::Stream;

/// Idle connections kept per host and transport; more than that were a burst.
const MAX_IDLE: usize = 256;

/// The idle connections to a host over one transport.
#[derive(Debug, Default)]
pub(crate) struct Idle(RefCell<VecDeque<(Connection, Instant)>>);

/// A connection that can carry a request.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<RequestBody>,
    /// Facts about it.
    pub(crate) info: Rc<ConnectionFacts>,
}

/// What is known about an upstream connection.
#[derive(Debug)]
pub(crate) struct ConnectionFacts {
    /// The local address it was made from.
    pub(crate) local: Option<std::net::SocketAddr>,
    /// The peer's certificate, if TLS.
    pub(crate) peer: Option<crate::tls::PeerCertificate>,
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
            peer: leaf.and_then(crate::tls::PeerCertificate::read),
            requests: Cell::new(0),
            _open: open,
        })
    }
}

impl Connection {
    /// Makes a new connection.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) async fn open(
        target: &Target,
        http: &UpstreamHttp,
        open: Option<super::OpenConnection>,
    ) -> Result<Self, ConnectError> {
        let stream = connect::connect(target).await?;
        Self::over(stream, target, http, open).await
    }

    /// Speaks HTTP/1 over a connection that was made already.
    ///
    /// # Errors
    /// The handshake fails.
    pub(crate) async fn over(
        stream: Stream,
        target: &Target,
        http: &UpstreamHttp,
        open: Option<super::OpenConnection>,
    ) -> Result<Self, ConnectError> {
        let info = ConnectionFacts::of(&stream, open);
        let (sender, driver) = http1::Builder::new()
            .max_headers(http.max_headers_count as usize)
            .preserve_header_case(http.http1.preserve_header_case)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| ConnectError::Http {
                address: target.address.clone(),
                source: Arc::new(source),
            })?;
        let held = Rc::clone(&info);
        tokio::task::spawn_local(async move {
            // Its errors come out of the request that met them; between requests they only mean "closed".
            let _ = driver.with_upgrades().await;
            drop(held);
        });
        Ok(Self { sender, info })
    }

    /// Whether it carried a request before this one.
    pub(crate) fn is_reused(&self) -> bool {
        self.info.requests.get() > 0
    }

    /// The sender, for the next request.
    pub(crate) fn sender(&mut self) -> &mut SendRequest<RequestBody> {
        self.info.requests.set(self.info.requests.get() + 1);
        &mut self.sender
    }
}

impl Idle {
    /// The most recently used connection that is ready, dropping those that are closed or were idle for too long.
    pub(crate) fn take(&self, idle_timeout: Option<Duration>) -> Option<Connection> {
        let mut idle = self.0.borrow_mut();
        let now = Instant::now();
        let mut at = idle.len();
        while at > 0 {
            at -= 1;
            let (connection, since) = &idle[at];
            let expired = idle_timeout.is_some_and(|limit| now.duration_since(*since) >= limit);
            if connection.sender.is_closed() || expired {
                idle.remove(at);
            } else if connection.sender.is_ready() {
                return idle.remove(at).map(|(connection, _)| connection);
            }
        }
        None
    }

    /// Whether there are connections that may become ready in a moment.
    pub(crate) fn has_settling(&self) -> bool {
        !self.0.borrow().is_empty()
    }

    /// Keeps a connection whose response has ended.
    pub(crate) fn put(&self, connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        let mut idle = self.0.borrow_mut();
        if idle.len() >= MAX_IDLE {
            idle.pop_front();
        }
        idle.push_back((connection, Instant::now()));
    }

    /// Lets go of connections that are closed or were idle for too long.
    pub(crate) fn sweep(&self, idle_timeout: Option<Duration>) {
        let now = Instant::now();
        self.0.borrow_mut().retain(|(connection, since)| {
            !connection.sender.is_closed()
                && idle_timeout.is_none_or(|limit| now.duration_since(*since) < limit)
        });
    }

    /// Lets go of all of them.
    pub(crate) fn clear(&self) {
        self.0.borrow_mut().clear();
    }
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
