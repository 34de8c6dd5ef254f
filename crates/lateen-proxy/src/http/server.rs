//! Serving a downstream connection that speaks HTTP, from its first request to its end.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use lateen_traffic::filter::NetworkFilterKind;
use lateen_traffic::hcm::{Codec, HttpConnectionManager};
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::client::ClientRequest;
use super::exchange;
use super::h1;
use super::h2;
use super::local_reply::LocalReply;
use super::manager::Manager;
use super::mux;
use super::response::ResponseBody;
use crate::clock;
use crate::connection::{Connection, is_same_tls};
use crate::inspect::{Verdict, http as detect_http};
use crate::level::Level;
use crate::mux::Carries;
use crate::net::Stream;

/// A connection without limits of its own gets this long for a request's head, so that slow senders do not pile up.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// A request whose client gives it up sooner than this was hardly meant. Source: Envoy.
const TAKEN_BACK_WITHIN: Duration = Duration::from_secs(1);
/// A connection's state that its requests share.
pub(crate) struct Session {
    /// The connection.
    pub(crate) connection: Rc<Connection>,
    manager: RefCell<(u64, Rc<Manager>)>,
    active: Cell<usize>,
    served: Cell<u64>,
    idle_since: Cell<Instant>,
    finished_one: Notify,
    begun: Cell<u64>,
    taken_back: Cell<u64>,
    abused: Notify,
}

/// Serves a connection to its end.
pub(crate) async fn serve(connection: Rc<Connection>, manager: Rc<Manager>, stream: Stream) {
    let stats = manager.stats.clone();
    stats.downstream_cx_total.inc();
    let level = Level::hold(&stats.downstream_cx_active);
    if connection.secure {
        stats.downstream_cx_ssl_total.inc();
    }
    let started = Instant::now();
    let session = Rc::new(Session {
        manager: RefCell::new((connection.now.version, Rc::clone(&manager))),
        connection,
        active: Cell::new(0),
        served: Cell::new(0),
        idle_since: Cell::new(started),
        finished_one: Notify::new(),
        begun: Cell::new(0),
        taken_back: Cell::new(0),
        abused: Notify::new(),
    });
    match spoken(&session.connection, &manager.config, stream).await {
        Some((Spoken::Http2, stream)) => {
            stats.downstream_cx_http2_total.inc();
            h2::serve(&session, &manager.config, stream).await;
        }
        Some((Spoken::Http1, stream)) => {
            stats.downstream_cx_http1_total.inc();
            h1::serve(&session, &manager.config, stream).await;
        }
        Some((Spoken::Mux, stream)) => {
            stats.downstream_cx_http1_total.inc();
            mux::serve(&session, &manager.config, stream).await;
        }
        None => {}
    }
    drop(level);
    stats.downstream_cx_destroy.inc();
    stats
        .downstream_cx_length_ms
        .record(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/1 requests on a shared connection.
    Mux,
}

/// What the client speaks: as agreed on or configured, by ALPN, by what detection saw, else by the preface.
async fn spoken(
    connection: &Connection,
    config: &HttpConnectionManager,
    mut stream: Stream,
) -> Option<(Spoken, Stream)> {
    match (config.codec, connection.alpn.as_deref()) {
        (_, agreed) if Carries::agreed(agreed) == Some(Carries::Http) => {
            return Some((Spoken::Mux, stream));
        }
        (Codec::Http2, _) => return Some((Spoken::Http2, stream)),
        (Codec::Http1, _) => return Some((Spoken::Http1, stream)),
        (_, Some(b"h2" | b"istio-h2")) => return Some((Spoken::Http2, stream)),
        (_, Some(b"http/1.1" | b"http/1.0" | b"istio-http/1.1" | b"istio-http/1.0")) => {
            return Some((Spoken::Http1, stream));
        }
        _ => {}
    }
    if !connection.secure {
        match connection.facts.protocols.first().map(String::as_str) {
            Some("h2c") => return Some((Spoken::Http2, stream)),
            Some("http/1.1" | "http/1.0") => return Some((Spoken::Http1, stream)),
            _ => {}
        }
    }
    let mut seen = bytes::BytesMut::new();
    loop {
        match detect_http::parse(&seen) {
            Verdict::Found(detect_http::HttpVersion::Http2) => {
                return Some((Spoken::Http2, stream.unread(seen.freeze())));
            }
            // What is not HTTP at all is answered as a malformed request.
            Verdict::Found(_) | Verdict::NotThis => {
                return Some((Spoken::Http1, stream.unread(seen.freeze())));
            }
            Verdict::NeedMore => {}
        }
        match tokio::time::timeout(HEAD_TIMEOUT, stream.read_buf(&mut seen)).await {
            Ok(Ok(n)) if n > 0 => {}
            _ => return None,
        }
    }
}

impl Session {
    /// Returns once the client has taken back too many of its requests.
    pub(super) async fn abused(&self) {
        self.abused.notified().await;
        let manager = self.manager.borrow();
        manager
            .1
            .stats
            .downstream_rq_too_many_premature_resets
            .inc();
        tracing::debug!(
            connection = self.connection.facts.id,
            "too many requests were taken back"
        );
    }

    /// Counts that a client broke a rule of HTTP.
    pub(super) fn count_protocol_error(&self) {
        let manager = self.manager.borrow();
        manager.1.stats.downstream_cx_protocol_error.inc();
    }

    /// Answers what is no request.
    pub(super) fn refuse(&self, reply: LocalReply) -> Response<ResponseBody> {
        let now = self.connection.worker.now();
        let manager = self.manager_at(now.version);
        exchange::refuse(Rc::clone(&self.connection), manager, now, reply)
    }

    /// A request begins, which is under way for as long as this is held.
    pub(super) fn begin(self: &Rc<Self>) -> Underway {
        Underway {
            unanswered: Unanswered::begin(self),
            _busy: Busy::begin(self),
        }
    }

    /// Takes one request through the proxy.
    pub(super) async fn exchange(self: Rc<Self>, request: ClientRequest) -> Response<ResponseBody> {
        let mut underway = self.begin();
        // On the heap, for a connection that is idle is to be small; written there in place, for it is large.
        let room = Box::new_uninit();
        let answered = self.exchange_begun(&mut underway, request);
        Box::into_pin(Box::write(room, answered)).await
    }

    /// Takes one request through the proxy that began before.
    pub(super) async fn exchange_begun(
        &self,
        underway: &mut Underway,
        request: ClientRequest,
    ) -> Response<ResponseBody> {
        let now = self.connection.worker.now();
        let manager = self.manager_at(now.version);
        let connection = Rc::clone(&self.connection);
        let response = exchange::handle(connection, manager, now, request).await;
        underway.unanswered.answered = true;
        self.served.set(self.served.get() + 1);
        response
    }

    /// The connection manager under the configuration of a version. A listener that changed in place gives its open
    /// connections the new settings, as long as the same kind of chain would take them; a chain that would not take them any
    /// more (other TLS, other access rules on the connection) serves on as it was and ends them gracefully.
    fn manager_at(&self, version: u64) -> Rc<Manager> {
        let mut known = self.manager.borrow_mut();
        if known.0 != version {
            known.0 = version;
            match self.renewed() {
                Some(config) => {
                    let connection = &self.connection;
                    known.1 = connection.worker.manager(&config, connection.direction);
                }
                None => {
                    self.connection.draining.set(true);
                    self.finished_one.notify_one();
                }
            }
        }
        Rc::clone(&known.1)
    }

    fn renewed(&self) -> Option<Arc<HttpConnectionManager>> {
        let connection = &self.connection;
        let now = connection.worker.now();
        let listener = now.program.listener(&connection.facts.listener)?;
        let chain = connection
            .facts
            .with_info(|info| listener.match_filter_chain(info).chain().cloned())?;
        let same_tls = is_same_tls(&chain, &connection.chain);
        let config = chain.filters.iter().find_map(|filter| match &filter.kind {
            NetworkFilterKind::Http(config) => Some(Arc::clone(config)),
            _ => None,
        });
        config.filter(|_| same_tls)
    }

    /// Whether the answer is to be the connection's last (HTTP/1).
    pub(super) fn is_last(&self, answer: &http::response::Parts) -> bool {
        let upgraded = answer.status == http::StatusCode::SWITCHING_PROTOCOLS;
        let spent = self.manager.borrow().1.config.max_requests_per_connection;
        let spent = spent.is_some_and(|max| self.served.get() >= u64::from(max));
        !upgraded && (spent || self.connection.is_ending())
    }

    /// Returns when the connection is to end gracefully: the listener drains (and the client has been told at least once),
    /// nothing happened for the idle time, or its longest life is over.
    pub(super) fn ending(
        &self,
        config: &HttpConnectionManager,
    ) -> Pin<Box<dyn Future<Output = ()> + '_>> {
        let (idle, longest) = (
            config.timeouts.idle,
            config.timeouts.max_connection_duration,
        );
        Box::pin(async move {
            let longest = async {
                match longest {
                    Some(time) => tokio::time::sleep(time).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.drained() => {}
                () = self.idle_for(idle) => self.manager.borrow().1.stats.downstream_cx_idle_timeout.inc(),
                () = longest => {}
            }
        })
    }

    async fn drained(&self) {
        let connection = &self.connection;
        let told = async {
            while !connection.draining.get() {
                self.finished_one.notified().await;
            }
        };
        tokio::select! {
            () = connection.handle.drain.cancelled() => {}
            () = told => {}
        }
        self.manager
            .borrow()
            .1
            .stats
            .downstream_cx_drain_close
            .inc();
        // A connection that was made in the drain is served once before it is closed.
        while self.served.get() == 0 {
            self.finished_one.notified().await;
        }
    }

    async fn idle_for(&self, limit: Option<Duration>) {
        let Some(limit) = limit else {
            return std::future::pending().await;
        };
        loop {
            let idle = self.idle_since.get().elapsed();
            if self.active.get() == 0 && idle >= limit {
                return;
            }
            let left = if self.active.get() == 0 {
                limit.saturating_sub(idle)
            } else {
                limit
            };
            tokio::time::sleep(left).await;
        }
    }
}

/// A request that is under way.
pub(super) struct Underway {
    unanswered: Unanswered,
    _busy: Busy,
}

/// A request without an answer. One that a client takes back at once costs the proxy more than the client, so a connection that does so
/// with most of many requests is ended (CVE-2023-44487; Envoy: `premature_reset_total_stream_count`).
struct Unanswered {
    session: Rc<Session>,
    since: Instant,
    answered: bool,
}

impl Unanswered {
    fn begin(session: &Rc<Session>) -> Self {
        session.begun.set(session.begun.get() + 1);
        Self {
            session: Rc::clone(session),
            since: clock::now(),
            answered: false,
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if self.answered || clock::since(self.since) >= TAKEN_BACK_WITHIN {
            return;
        }
        let session = &self.session;
        let taken_back = session.taken_back.get() + 1;
        session.taken_back.set(taken_back);
        let limits = session.connection.worker.shared.config.limits;
        if taken_back >= limits.premature_resets && taken_back * 2 > session.begun.get() {
            session.abused.notify_one();
        }
    }
}

/// Counts a request as under way on its connection.
struct Busy(Rc<Session>);

impl Busy {
    fn begin(session: &Rc<Session>) -> Self {
        session.active.set(session.active.get() + 1);
        Self(Rc::clone(session))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
        self.0.idle_since.set(clock::now());
        // Nobody waits for it but a connection that is to end; waking the others would poll each of them once more per request.
        if self.0.connection.is_ending() {
            self.0.finished_one.notify_one();
        }
    }
}
