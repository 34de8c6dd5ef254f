//! A connection's way: where it was going, what it speaks, which filter chain takes it, TLS, then HTTP or TCP.
//!
//! The steps are those of Envoy's listener: listener filters, filter-chain match, transport socket, network filters. Nothing is
//! decided here; `lateen-traffic` is asked.
//!
//! ## Clients that say nothing
//! Istio sets no limit for protocol detection, so in Envoy a server-first protocol on a port without a declared protocol hangs.
//! Here a connection whose client is silent for [`SILENCE`] and whose chain "for what says nothing" is a TCP proxy is connected to
//! its upstream at once; whoever speaks first decides. If it is the server, the connection is that TCP proxy's. If it is the client,
//! the upstream connection (which carried nothing) is closed and detection goes on with what the client sent. The chain is matched
//! and its network filters (access control among them) are applied before that connection is made: silence gains nobody
//! anything that plain bytes would not.

mod carried;
mod detect;
mod facts;
mod filters;
mod network;

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use lateen_telemetry::access_log::TlsField;
use lateen_telemetry::metrics::envoy::ListenerStats;
use lateen_telemetry::metrics::istio::{ConnectionSecurityPolicy, PeerId, PrincipalId};
use lateen_traffic::filter::NetworkFilterKind;
use lateen_traffic::listener::{FilterChain, ListenerFilterKind, TrafficDirection};
use lateen_traffic::request::FilterState;
use lateen_traffic::tls::{DownstreamTls, ValidationSource};
use lateen_traffic::{Listener, PeerTls};
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::LazyConfigAcceptor;

pub(crate) use self::facts::Facts;
pub(crate) use self::network::{ConnectionCounts, Place};

use self::detect::{Detected, detect};
use self::network::Pass;
use crate::http::headers::Told;
use crate::http::server;
use crate::level::Level;
use crate::metadata_exchange::{self, Introduction};
use crate::mux::Carries;
use crate::net::socket::OriginalSource;
use crate::net::{Prefixed, Stream, socket};
use crate::rate_limit::RateLimits;
use crate::tcp;
use crate::tls::{PeerCertificate, Session};
use crate::worker::{ListenerHandle, Now, Worker};

/// How long a client may say nothing before its connection is tried as one whose server speaks first. Longer than a round trip
/// within a continent, shorter than a person notices on top of connecting to a database.
const SILENCE: Duration = Duration::from_millis(100);

/// A connection whose filter chain is known.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The worker that serves it.
    pub(crate) worker: Rc<Worker>,
    /// The listener that accepted it.
    pub(crate) handle: Rc<ListenerHandle>,
    /// Addresses and what detection found.
    pub(crate) facts: Facts,
    /// The filter chain.
    pub(crate) chain: Arc<FilterChain>,
    /// The direction of the listener's traffic.
    pub(crate) direction: TrafficDirection,
    /// The configuration it began with.
    pub(crate) now: Rc<Now>,
    /// The peer's certificate.
    pub(crate) peer: Option<PeerCertificate>,
    /// Whether that was verified.
    pub(crate) validated: bool,
    /// Whether the connection is TLS.
    pub(crate) secure: bool,
    /// What its session agreed on.
    pub(crate) session: Option<Session>,
    /// What ALPN chose.
    pub(crate) alpn: Option<Vec<u8>>,
    /// The peer's identity, for metrics.
    pub(crate) peer_principal: PrincipalId,
    /// Says that the connection is to end with the current request.
    pub(crate) draining: Cell<bool>,
    /// What network filters left for later ones, and for requests.
    pub(crate) filter_state: RefCell<FilterState>,
    /// What requests say of the client's certificate.
    pub(crate) told: Told,
    /// Buckets of rate limits that count for this connection alone.
    pub(crate) rate_limits: RateLimits,
    places: RefCell<Vec<Place>>,
    own_principal: PrincipalId,
    introduced: RefCell<Option<(HeaderValue, PeerId)>>,
    introduction: OnceCell<Arc<Introduction>>,
}

impl Connection {
    /// The peer's certificate as decisions see it.
    pub(crate) fn peer_tls(&self) -> PeerTls<'_> {
        match &self.peer {
            Some(peer) => peer.view(self.validated),
            None => PeerTls {
                is_tls: self.secure,
                ..PeerTls::default()
            },
        }
    }

    /// The proxy's identity on this connection, for metrics; unknown without mTLS.
    pub(crate) fn own_principal(&self) -> PrincipalId {
        self.own_principal
    }

    /// A field of an access log about the client's TLS session.
    pub(crate) fn tls_text(&self, field: TlsField) -> Option<&str> {
        match field {
            TlsField::LocalUriSan => {
                let own = self.now.own_principal.as_deref();
                own.filter(|_| self.peer.is_some())
            }
            TlsField::Version | TlsField::Cipher => self.session.as_ref()?.text(field),
            _ => self.peer.as_ref()?.text(field),
        }
    }

    /// `connection_security_policy`, as the destination reports it.
    pub(crate) fn security(&self) -> ConnectionSecurityPolicy {
        if self.secure && self.peer.is_some() {
            ConnectionSecurityPolicy::MutualTls
        } else {
            ConnectionSecurityPolicy::None
        }
    }

    /// Returns once the listener has changed so that it would not let this connection in any more (decision 0006). Only another
    /// listener of the same name is looked at: most configurations that arrive change none, and one that is gone drains.
    pub(crate) async fn revoked(&self) {
        let mut changes = self.worker.shared.changes();
        let name = &self.facts.listener;
        let mut known = self.now.program.listener(name).cloned();
        loop {
            // Looked at before the first change is waited for: the last one may have come since this connection was let in.
            let now = self.worker.now();
            let listener = now.program.listener(name);
            let other = |listener: &&Arc<_>| {
                known
                    .as_ref()
                    .is_none_or(|known| !Arc::ptr_eq(known, listener))
            };
            if let Some(listener) = listener.filter(other) {
                if !filters::would_admit(self, listener) {
                    return;
                }
                known = Some(Arc::clone(listener));
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Whether it is to end with the current request: by its own, or because its listener drains.
    pub(crate) fn is_ending(&self) -> bool {
        self.draining.get() || self.handle.drains()
    }

    /// What the client says of itself over TCP, if it is to say anything.
    pub(crate) fn introduction(&self) -> Option<&Arc<Introduction>> {
        self.introduction.get()
    }

    /// The workload that introduced itself over TCP; unknown without.
    pub(crate) fn told_peer(&self) -> PeerId {
        let peer = self.introduction().and_then(|told| told.peer());
        peer.map_or_else(PeerId::default, |peer| {
            self.worker.metrics.borrow_mut().peer(peer)
        })
    }

    /// The workload that introduced itself with this header. A connection's requests mostly come from one workload, so the last
    /// answer is remembered.
    pub(crate) fn introduce(&self, header: &HeaderValue) -> PeerId {
        let mut introduced = self.introduced.borrow_mut();
        if let Some((known, id)) = &*introduced
            && known == header
        {
            return *id;
        }
        let peer = crate::node::read_peer(header);
        let id = peer.map_or_else(PeerId::default, |peer| {
            self.worker.metrics.borrow_mut().peer(&peer)
        });
        *introduced = Some((header.clone(), id));
        id
    }
}

/// Why a connection ends before its protocol is served.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("no such listener any more")]
    NoListener,
    #[error("the client closed the connection")]
    ClientGone,
    #[error("listener filters took too long")]
    DetectionTimeout,
    #[error("no PROXY protocol header")]
    NoProxyHeader,
    #[error("no filter chain matches")]
    NoFilterChain,
    #[error("TLS cannot be served")]
    Tls(#[source] crate::tls::ContextError),
    #[error("TLS handshake failed")]
    Handshake(#[source] std::io::Error),
    #[error("TLS handshake took too long")]
    HandshakeTimeout,
    #[error("the client closed the connection before anything was said")]
    Introduction(#[source] std::io::Error),
    #[error("a network filter refused it")]
    Denied,
    #[error("there are too many connections")]
    Limited(Option<Duration>),
}

/// Serves a connection to its end.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    handle: Rc<ListenerHandle>,
    tcp: TcpStream,
    remote: SocketAddr,
) {
    let _counted = Counted::begin(&handle);
    // Boxed: a connection spends its life in one of two protocols, and its task should not hold room for all steps.
    if let Err(refused) = Box::pin(establish(worker, &handle, tcp, remote)).await {
        note_refusal(&handle, remote, &refused);
    }
}

/// A connection among those of its listener, for as long as it is open.
struct Counted {
    stats: ListenerStats,
    started: Instant,
    _level: Level,
}

impl Counted {
    fn begin(handle: &ListenerHandle) -> Self {
        let stats = handle.stats.clone();
        stats.downstream_cx_total.inc();
        Self {
            _level: Level::hold(&stats.downstream_cx_active),
            started: Instant::now(),
            stats,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let lasted = self.started.elapsed().as_millis();
        self.stats.downstream_cx_destroy.inc();
        self.stats
            .downstream_cx_length_ms
            .record(u64::try_from(lasted).unwrap_or(u64::MAX));
    }
}

fn note_refusal(handle: &ListenerHandle, remote: SocketAddr, refused: &Refused) {
    let stats = &handle.stats;
    match refused {
        Refused::NoFilterChain => stats.no_filter_chain_match.inc(),
        Refused::DetectionTimeout => stats.downstream_pre_cx_timeout.inc(),
        Refused::Handshake(_) | Refused::Tls(_) => stats.ssl_connection_error.inc(),
        Refused::HandshakeTimeout => stats.downstream_cx_transport_socket_connect_timeout.inc(),
        Refused::NoListener
        | Refused::ClientGone
        | Refused::Introduction(_)
        | Refused::NoProxyHeader
        | Refused::Denied
        | Refused::Limited(_) => {}
    }
    let cause = std::error::Error::source(refused)
        .map(ToString::to_string)
        .unwrap_or_default();
    tracing::debug!(listener = %handle.name.borrow(), %remote, %refused, cause, "connection ends");
}

async fn establish(
    worker: Rc<Worker>,
    handle: &Rc<ListenerHandle>,
    mut tcp: TcpStream,
    remote: SocketAddr,
) -> Result<(), Refused> {
    socket::prepare_accepted(&tcp);
    let now = worker.now();
    let accepting = now
        .program
        .listener(&handle.name.borrow())
        .ok_or(Refused::NoListener)?
        .clone();
    let mut facts = Facts::of(&worker, &tcp, remote).ok_or(Refused::ClientGone)?;
    restore_destination(&mut facts, &accepting, &tcp);
    facts.original_source = original_source(&accepting, facts.remote);
    let listener = Arc::clone(now.program.dispatch(&accepting, facts.local).listener);
    facts.listener = Arc::clone(&listener.name);

    let mut seen = bytes::BytesMut::new();
    let detected = detect(&mut tcp, &listener, &mut facts, &mut seen, SILENCE).await?;
    if detected == Detected::Silent
        && let Some(speculation) =
            Box::pin(server_first(&worker, handle, &now, &listener, &facts)).await
    {
        match tcp::speculate(speculation, &tcp).await {
            tcp::Speculation::ServerSpoke(ready) => {
                filters::pass(ready.connection(), Pass::Commit).await?;
                tcp::run_ready(*ready, Stream::Plain(Prefixed::new(seen.freeze(), tcp))).await;
                return Ok(());
            }
            tcp::Speculation::Over => return Ok(()),
            tcp::Speculation::ClientSpoke => {}
        }
    }
    if detected == Detected::Silent {
        // Either the client has spoken by now, or its chain waits for it anyway.
        detect(&mut tcp, &listener, &mut facts, &mut seen, Duration::MAX).await?;
    }

    let chain = matching_chain(&listener, &facts).ok_or(Refused::NoFilterChain)?;
    facts.chain = Arc::clone(&chain.name);
    let plain = Prefixed::new(seen.freeze(), tcp);
    let stream = match &chain.tls {
        None => Stream::Plain(plain),
        Some(tls) => accept_tls(&worker, handle, &now, &chain, tls, plain).await?,
    };
    let connection = Rc::new(connection(
        worker, handle, now, &listener, facts, chain, &stream,
    ));
    if Carries::agreed(connection.alpn.as_deref()) == Some(Carries::Tcp) {
        let stream = introduce(&connection, stream).await?;
        carried::serve(connection, stream).await;
        return Ok(());
    }
    run_filters(connection, stream).await
}

/// A redirected connection was going elsewhere than to the socket that accepted it.
fn restore_destination(facts: &mut Facts, listener: &Listener, tcp: &TcpStream) {
    let wants = listener.use_original_dst
        || listener
            .listener_filters
            .iter()
            .any(|filter| filter.kind == ListenerFilterKind::OriginalDst);
    if wants && let Some(original) = socket::original_destination(tcp) {
        facts.redirected = original != facts.direct_local;
        facts.local = original;
    }
}

/// The client goes on being the client where the listener says so.
fn original_source(listener: &Listener, remote: SocketAddr) -> Option<OriginalSource> {
    // The last one wins: it sets its options last.
    let filters = listener.listener_filters.iter().rev();
    let mut mark = filters.filter_map(|filter| match filter.kind {
        ListenerFilterKind::OriginalSrc { mark } => Some(mark),
        _ => None,
    });
    let ip = remote.ip();
    mark.next().map(|mark| OriginalSource { ip, mark })
}

fn matching_chain(listener: &Listener, facts: &Facts) -> Option<Arc<FilterChain>> {
    facts.with_info(|info| listener.match_filter_chain(info).chain().cloned())
}

/// The TCP proxy that a connection without a word of its client would go to, if all agrees.
async fn server_first(
    worker: &Rc<Worker>,
    handle: &Rc<ListenerHandle>,
    now: &Rc<Now>,
    listener: &Arc<Listener>,
    facts: &Facts,
) -> Option<tcp::Ready> {
    let chain = matching_chain(listener, facts).filter(|chain| chain.tls.is_none())?;
    let mut facts = facts.clone();
    facts.chain = Arc::clone(&chain.name);
    let connection = Rc::new(Connection {
        worker: Rc::clone(worker),
        handle: Rc::clone(handle),
        facts,
        direction: listener.direction,
        now: Rc::clone(now),
        peer: None,
        validated: false,
        secure: false,
        session: None,
        alpn: None,
        peer_principal: PrincipalId::default(),
        draining: Cell::new(false),
        own_principal: PrincipalId::default(),
        introduced: RefCell::default(),
        introduction: OnceCell::new(),
        filter_state: RefCell::default(),
        told: Told::default(),
        rate_limits: RateLimits::default(),
        places: RefCell::default(),
        chain,
    });
    match filters::pass(&connection, Pass::Look).await {
        Ok(Some(NetworkFilterKind::Tcp(proxy))) => {
            let proxy = Arc::clone(proxy);
            Some(tcp::Ready::new(connection, proxy))
        }
        _ => None,
    }
}

async fn accept_tls(
    worker: &Worker,
    handle: &ListenerHandle,
    now: &Now,
    chain: &FilterChain,
    tls: &Arc<DownstreamTls>,
    plain: Prefixed,
) -> Result<Stream, Refused> {
    let server = worker
        .shared
        .tls
        .server(
            tls,
            metadata_exchange::takes_part(&chain.filters),
            &now.secrets,
        )
        .map_err(Refused::Tls)?;
    let shares = carried::shared_by(chain).filter(|_| worker.shared.config.share_connections);
    let handshake = async {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), plain).await?;
        let config = server.for_client(hello.client_hello().alpn().into_iter().flatten(), shares);
        hello.into_stream(config).await
    };
    let longest = worker.shared.config.limits.handshake;
    let time = chain
        .transport_connect_timeout
        .map_or(longest, |time| time.min(longest));
    let accepted = tokio::time::timeout(time, handshake).await;
    let stream = accepted
        .map_err(|_| Refused::HandshakeTimeout)?
        .map_err(Refused::Handshake)?;
    server
        .check_resumed(stream.get_ref().1)
        .map_err(|error| Refused::Handshake(std::io::Error::other(error)))?;
    handle.stats.ssl_handshake.inc();
    Ok(Stream::Tls(Box::new(stream.into())))
}

fn connection(
    worker: Rc<Worker>,
    handle: &Rc<ListenerHandle>,
    now: Rc<Now>,
    listener: &Listener,
    facts: Facts,
    chain: Arc<FilterChain>,
    stream: &Stream,
) -> Connection {
    let session = stream.tls();
    let presented = session
        .and_then(|tls| tls.peer_certificates())
        .unwrap_or_default();
    let peer = presented.first().and_then(PeerCertificate::read);
    let peer = if forwards_certificates(&chain) {
        peer.map(|peer| peer.with_pem(presented))
    } else {
        peer
    };
    let peer_principal = worker.principal(peer.as_ref().and_then(PeerCertificate::principal));
    let own_principal = worker.principal(now.own_principal.as_deref().filter(|_| peer.is_some()));
    Connection {
        validated: peer.is_some() && chain.tls.as_ref().is_some_and(|tls| verifies(tls)),
        secure: session.is_some(),
        session: session.and_then(Session::of),
        alpn: session
            .and_then(|tls| tls.alpn_protocol())
            .map(<[u8]>::to_vec),
        direction: listener.direction,
        handle: Rc::clone(handle),
        draining: Cell::new(false),
        introduced: RefCell::default(),
        introduction: OnceCell::new(),
        filter_state: RefCell::default(),
        told: Told::default(),
        rate_limits: RateLimits::default(),
        places: RefCell::default(),
        worker,
        facts,
        chain,
        now,
        peer,
        peer_principal,
        own_principal,
    }
}

/// Whether two chains end TLS alike, so that a connection that one took could be the other's.
pub(crate) fn is_same_tls(one: &FilterChain, other: &FilterChain) -> bool {
    match (&one.tls, &other.tls) {
        (None, None) => true,
        (Some(one), Some(other)) => {
            Arc::ptr_eq(one, other) || format!("{one:?}") == format!("{other:?}")
        }
        _ => false,
    }
}

/// Whether applications behind a chain are told their clients' certificates whole.
fn forwards_certificates(chain: &FilterChain) -> bool {
    chain.filters.iter().any(|filter| match &filter.kind {
        NetworkFilterKind::Http(manager) => {
            manager.client_cert_details.cert || manager.client_cert_details.chain
        }
        _ => false,
    })
}

/// Whether a context verifies the certificates it is shown, rather than only looking at them.
fn verifies(tls: &DownstreamTls) -> bool {
    match &tls.common.validation {
        ValidationSource::None => false,
        ValidationSource::Inline(settings)
        | ValidationSource::Combined {
            default: settings, ..
        } => !settings.accept_untrusted,
        ValidationSource::Sds(_) => true,
    }
}

/// A refused client is kept waiting where that was asked for, so that it does not come again at once.
async fn hold_back(refused: &Refused) {
    if let Refused::Limited(Some(delay)) = refused {
        tokio::time::sleep(*delay).await;
    }
}

/// Says who this proxy is to a client that has passed all filters and agreed on Istio's metadata exchange, and listens for who it is.
async fn introduce(connection: &Connection, stream: Stream) -> Result<Stream, Refused> {
    if !metadata_exchange::takes_part(&connection.chain.filters) {
        return Ok(stream);
    }
    let worker = &connection.worker;
    worker.exchanges.count(stream.agreed_on_exchange());
    if !stream.agreed_on_exchange() {
        return Ok(stream);
    }
    let introduced = stream.introduce(&worker.introduction).await;
    let stream = introduced.map_err(Refused::Introduction)?;
    if let Some(introduction) = stream.introduction() {
        // Set once: a connection passes its filters once.
        let _ = connection.introduction.set(Arc::clone(introduction));
    }
    Ok(stream)
}

async fn run_filters(connection: Rc<Connection>, stream: Stream) -> Result<(), Refused> {
    let terminal = match filters::pass(&connection, Pass::Enter).await {
        Ok(terminal) => terminal.cloned(),
        Err(refused) => {
            hold_back(&refused).await;
            return Err(refused);
        }
    };
    let stream = introduce(&connection, stream).await?;
    match terminal {
        Some(NetworkFilterKind::Http(manager)) => {
            let manager = connection.worker.manager(&manager, connection.direction);
            server::serve(connection, manager, stream).await;
        }
        Some(NetworkFilterKind::Tcp(proxy)) => {
            tcp::run(tcp::Ready::new(connection, proxy), stream).await
        }
        Some(NetworkFilterKind::Echo) => tcp::echo(stream).await,
        Some(NetworkFilterKind::DirectResponse(source)) => tcp::respond(stream, &source).await,
        _ => {
            tracing::debug!(chain = %connection.chain.name, "filter chain without a terminal filter")
        }
    }
    Ok(())
}
