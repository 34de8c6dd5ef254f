//! Getting a connection for a request: a kept one, a new one, or a wait for one under the circuit breaker's limits.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response};
use lateen_traffic::Cluster;
use lateen_traffic::cluster::UpstreamProtocol;

use super::connect::{self, ConnectError, Target};
use super::plain::Plain;
use super::{OpenConnection, SendError, Upgraded, UpstreamBody, h1, h2, mux};
use crate::cluster::ClusterState;
use crate::cluster::breaker::Resource;
use crate::cluster::host::{HostState, Pool, TransportKey};
use crate::cluster::outlier::{Waiting, count};
use crate::http::body::RequestBody;
use crate::net::Stream;

/// How long a request that waits for a connection sleeps before it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Which protocol an upstream request is made in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// What ALPN says.
    Negotiated,
    /// HTTP/1.1, on connections that requests share where the host is one of our own sidecars.
    Shared,
}

impl Protocol {
    /// The protocol a cluster wants for a request that came over HTTP/2 or not.
    pub(crate) const fn of(wanted: UpstreamProtocol, downstream_is_h2: bool) -> Self {
        match wanted {
            UpstreamProtocol::Http1 => Self::Http1,
            UpstreamProtocol::Http2 => Self::Http2,
            UpstreamProtocol::Downstream if downstream_is_h2 => Self::Http2,
            UpstreamProtocol::Downstream => Self::Http1,
            UpstreamProtocol::Auto => Self::Negotiated,
        }
    }
}

/// Where and how a request goes.
#[derive(Debug)]
pub(crate) struct Route<'a> {
    /// The cluster's state.
    pub(crate) state: &'a Rc<ClusterState>,
    /// The cluster's settings.
    pub(crate) cluster: &'a Cluster,
    /// The host.
    pub(crate) host: &'a Rc<HostState>,
    /// How to connect to it.
    pub(crate) target: &'a Target,
    /// What tells its connections apart.
    pub(crate) key: TransportKey,
    /// The protocol.
    pub(crate) protocol: Protocol,
    /// Whether the high priority's limits hold.
    pub(crate) high_priority: bool,
}

/// Why there is no connection for a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AcquireError {
    /// The circuit breaker has no place left.
    #[error("circuit breaker is open")]
    Overflow,
    /// A connection could not be made.
    #[error("cannot connect")]
    Connect(#[source] ConnectError),
}

/// A request that is to be sent, on the lease it was begun on.
#[derive(Debug)]
pub(crate) enum Begun {
    /// Over HTTP/1.
    H1(h1::Begun),
    /// Over HTTP/2.
    H2(h2::Begun),
    /// On a shared connection.
    Mux(mux::Begun),
}

/// A connection for one request.
#[derive(Debug)]
pub(crate) enum Lease {
    /// HTTP/1.
    H1(h1::Checkout),
    /// HTTP/2.
    H2(h2::StreamPlace),
    /// HTTP/1 on a shared connection.
    Mux(mux::Place),
    /// Bytes: a connection of the request's own.
    Bytes(Rc<h1::ConnectionFacts>),
}

impl Lease {
    /// Sends a request and waits for the head of its response.
    ///
    /// # Errors
    /// There is none; the error says whether the host may have seen the request.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        match self {
            Self::H1(checkout) => match checkout.connection() {
                Some(connection) => connection.send(request).await,
                // A lease is made with a connection and given back once.
                None => unreachable!("a lease is sent on before it is given back"),
            },
            Self::H2(place) => Ok(place.send(request).await?.map(UpstreamBody::H2)),
            Self::Mux(place) => Ok(place.send(request).await?.map(UpstreamBody::Mux)),
            Self::Bytes(_) => unreachable!("no request is sent where bytes are carried"),
        }
    }

    /// Whether heads are sent from their parts.
    pub(crate) const fn takes_parts(&self) -> bool {
        matches!(self, Self::H1(_) | Self::H2(_) | Self::Mux(_))
    }

    /// A request with a head in parts, where those are taken.
    ///
    /// # Errors
    /// It cannot be sent; nothing of it was.
    pub(crate) fn begin(
        &mut self,
        plain: &Plain<'_>,
        body: RequestBody,
    ) -> Result<Begun, SendError> {
        match self {
            Self::H1(checkout) => match checkout.connection() {
                Some(connection) => connection.begin(plain, body).map(Begun::H1),
                None => unreachable!("a lease is sent on before it is given back"),
            },
            Self::H2(place) => place.begin_plain(plain, body).map(Begun::H2),
            Self::Mux(place) => place.begin_plain(plain, body).map(Begun::Mux),
            Self::Bytes(_) => unreachable!("no request is sent where bytes are carried"),
        }
    }

    /// Sends what was begun and waits for the head of its response.
    ///
    /// # Errors
    /// As for [`Lease::send`].
    pub(crate) async fn answered(
        &mut self,
        begun: Begun,
    ) -> Result<Response<UpstreamBody>, SendError> {
        match (self, begun) {
            (Self::H1(checkout), Begun::H1(begun)) => match checkout.connection() {
                Some(connection) => connection.answered(begun).await,
                None => unreachable!("a lease is sent on before it is given back"),
            },
            (Self::H2(place), Begun::H2(begun)) => {
                Ok(place.answered(begun).await?.map(UpstreamBody::H2))
            }
            (Self::Mux(place), Begun::Mux(begun)) => {
                Ok(place.answered(begun).await?.map(UpstreamBody::Mux))
            }
            _ => unreachable!("a request is sent where it was begun"),
        }
    }

    /// The upstream's side of an upgrade that a response grants.
    pub(crate) fn upgraded(&mut self, response: &mut Response<UpstreamBody>) -> Option<Upgraded> {
        match self {
            Self::H1(checkout) => checkout.connection()?.upgrade(),
            Self::H2(_) => {
                let body = std::mem::replace(response.body_mut(), UpstreamBody::Empty);
                let UpstreamBody::H2(body) = body else {
                    return None;
                };
                body.into_tunnel()
                    .map(|tunnel| Upgraded::H2(Box::new(tunnel)))
            }
            Self::Mux(_) => None,
            Self::Bytes(_) => None,
        }
    }

    /// Whether the connection carried a request before this one: it may have been closed without our knowing.
    pub(crate) fn is_reused(&mut self) -> bool {
        match self {
            Self::H1(checkout) => checkout
                .connection()
                .is_some_and(|connection| connection.is_reused()),
            Self::H2(place) => place.is_reused(),
            Self::Mux(place) => place.is_reused(),
            Self::Bytes(_) => false,
        }
    }

    /// Facts about the connection.
    pub(crate) fn info(&mut self) -> Option<Rc<h1::ConnectionFacts>> {
        match self {
            Self::H1(checkout) => checkout
                .connection()
                .map(|connection| Rc::clone(&connection.info)),
            Self::H2(place) => Some(Rc::clone(place.info())),
            Self::Mux(place) => Some(Rc::clone(place.info())),
            Self::Bytes(info) => Some(Rc::clone(info)),
        }
    }

    /// Whether it is HTTP/2.
    pub(crate) const fn is_h2(&self) -> bool {
        matches!(self, Self::H2(_))
    }

    /// The response has ended well: the connection may carry another request.
    pub(crate) fn finish(&mut self) {
        if let Self::H1(checkout) = self {
            checkout.give_back();
        }
    }
}

/// A connection for a request.
///
/// # Errors
/// The circuit breaker is open, or connecting failed. Nothing was sent.
pub(crate) async fn acquire(route: &Route<'_>) -> Result<Lease, AcquireError> {
    let pool = route.host.pool(&route.key);
    match route.protocol {
        Protocol::Http1 => http1(route, &pool).await,
        Protocol::Http2 => http2(route, &pool).await,
        Protocol::Negotiated => Box::pin(negotiated(route, &pool)).await,
        Protocol::Shared => shared(route, &pool).await,
    }
}

/// A connection for bytes, which is nobody else's before or after.
///
/// # Errors
/// As for [`acquire`].
pub(crate) async fn connection(route: &Route<'_>) -> Result<(Stream, Lease), AcquireError> {
    let pool = route.host.pool(&route.key);
    let open = open_permit(route, &pool).ok_or(AcquireError::Overflow)?;
    let made = connect::connect(route.target).await;
    let stream = made.map_err(|error| failed(route, error))?;
    route.state.stats.upstream_cx_total.inc();
    count(&route.host.counts.cx_total);
    let facts = h1::ConnectionFacts::of(&stream, Some(open));
    Ok((stream, Lease::Bytes(facts)))
}

async fn http1(route: &Route<'_>, pool: &Rc<Pool>) -> Result<Lease, AcquireError> {
    loop {
        if let Some(connection) = pool.h1.take(&route.cluster.http) {
            return Ok(checkout(route, pool, connection));
        }
        match open_permit(route, pool) {
            Some(open) => {
                // Boxed: most requests find a kept connection and need no room for making one.
                let made = Box::pin(connect::connect(route.target)).await;
                let stream = made.map_err(|error| failed(route, error))?;
                count_connection(route, Protocol::Http1);
                match pool.mux.adopt(stream, open, &route.cluster.http) {
                    // The host has learnt it since it was last asked.
                    None => {
                        if let Some(place) = pool.mux.place() {
                            return Ok(Lease::Mux(place));
                        }
                    }
                    Some((stream, open)) => {
                        let http = &route.cluster.http;
                        let connection = h1::Connection::over(stream, http, Some(open));
                        return Ok(checkout(route, pool, connection));
                    }
                }
            }
            None => Box::pin(wait(route, pool)).await?,
        }
    }
}

async fn http2(route: &Route<'_>, pool: &Rc<Pool>) -> Result<Lease, AcquireError> {
    if let Some(place) = pool.h2.place() {
        return Ok(Lease::H2(place));
    }
    let open = || open_permit(route, pool);
    let place = pool
        .h2
        .place_or_open(route.target, &route.cluster.http, open);
    let place = Box::pin(place)
        .await
        .map_err(|error| error.map_or(AcquireError::Overflow, |error| failed(route, error)))?;
    if !place.is_reused() {
        count_connection(route, Protocol::Http2);
    }
    Ok(Lease::H2(place))
}

/// Requests share connections with a host that knows how, and have one each with any other.
async fn shared(route: &Route<'_>, pool: &Rc<Pool>) -> Result<Lease, AcquireError> {
    if let Some(place) = pool.mux.place() {
        if pool.mux.wants_another() {
            open_beside(route, pool);
        }
        return Ok(Lease::Mux(place));
    }
    while pool.mux.waits() {
        let open = || open_permit(route, pool);
        let opened = Box::pin(pool.mux.open(making(route, pool), open)).await;
        opened.map_err(|error| error.map_or(AcquireError::Overflow, AcquireError::Connect))?;
        if let Some(place) = pool.mux.place() {
            return Ok(Lease::Mux(place));
        }
        // Others may have taken all there was to take; a connection that is gone already is a failure and no reason to spin.
        if pool.mux.waits() && pool.mux.is_empty() {
            let reason = "upstream closed the shared connection at once";
            return Err(failed(route, ConnectError::Transport(reason.into())));
        }
    }
    http1(route, pool).await
}

fn open_beside(route: &Route<'_>, pool: &Rc<Pool>) {
    if let Some(open) = open_permit(route, pool) {
        pool.mux.add(making(route, pool), open);
    }
}

/// What a connection for requests is made with: one that is not shared is kept for the next request.
fn making<'a>(route: &'a Route<'_>, pool: &Pool) -> mux::Making<'a> {
    let (idle, http) = (Rc::clone(&pool.h1), route.cluster.http.clone());
    let other = Box::new(move |stream, open| {
        idle.put(h1::Connection::over(stream, &http, Some(open)));
    });
    making_with(route, other, Some(Protocol::Shared))
}

fn making_with<'a>(
    route: &'a Route<'_>,
    other: mux::Other,
    protocol: Option<Protocol>,
) -> mux::Making<'a> {
    mux::Making {
        target: route.target,
        http: &route.cluster.http,
        other,
        tally: Tally::of(route),
        protocol,
    }
}

/// A way for a TCP connection to a host.
#[derive(Debug)]
pub(crate) enum Way {
    /// On a connection that it shares.
    Shared(mux::Place),
    /// A connection of its own: the host shares none.
    Own(Stream, OpenConnection),
}

/// A way for a TCP connection to a host, which may share connections.
///
/// # Errors
/// As for [`acquire`].
pub(crate) async fn way(route: &Route<'_>) -> Result<Way, AcquireError> {
    let pool = route.host.pool(&route.key);
    loop {
        if let Some(place) = pool.mux.place() {
            if pool.mux.wants_another()
                && let Some(open) = open_permit(route, &pool)
            {
                // A host that shares none any more has no use for another one.
                let other = Box::new(|_, _| ());
                pool.mux.add(making_with(route, other, None), open);
            }
            return Ok(Way::Shared(place));
        }
        let own = match pool.mux.waits() {
            true => first_way(route, &pool).await?,
            false => {
                let open = open_permit(route, &pool).ok_or(AcquireError::Overflow)?;
                let made = connect::connect(route.target).await;
                let stream = made.map_err(|error| failed(route, error))?;
                Tally::of(route).made(None);
                pool.mux.adopt(stream, open, &route.cluster.http)
            }
        };
        if let Some((stream, open)) = own {
            return Ok(Way::Own(stream, open));
        }
        if pool.mux.waits() && pool.mux.is_empty() {
            let reason = "upstream closed the shared connection at once";
            return Err(failed(route, ConnectError::Transport(reason.into())));
        }
    }
}

/// Finds out whether a host shares connections: makes the first one, or waits for it. What is made is the caller's if it is not shared.
async fn first_way(
    route: &Route<'_>,
    pool: &Rc<Pool>,
) -> Result<Option<(Stream, OpenConnection)>, AcquireError> {
    let own = Rc::new(Cell::new(None));
    let kept = Rc::clone(&own);
    let other = Box::new(move |stream, open| kept.set(Some((stream, open))));
    let open = || open_permit(route, pool);
    let opened = Box::pin(pool.mux.open(making_with(route, other, None), open)).await;
    opened.map_err(|error| error.map_or(AcquireError::Overflow, AcquireError::Connect))?;
    Ok(own.take())
}

/// `auto_config`: what ALPN chose on the last connection is what the next request expects; the first one finds out.
async fn negotiated(route: &Route<'_>, pool: &Rc<Pool>) -> Result<Lease, AcquireError> {
    if let Some(place) = pool.h2.place() {
        return Ok(Lease::H2(place));
    }
    if let Some(connection) = pool.h1.take(&route.cluster.http) {
        return Ok(checkout(route, pool, connection));
    }
    let Some(open) = open_permit(route, pool) else {
        return Err(AcquireError::Overflow);
    };
    let stream = connect::connect(route.target)
        .await
        .map_err(|error| failed(route, error))?;
    let is_h2 = stream
        .tls()
        .and_then(|tls| tls.alpn_protocol())
        .is_some_and(|p| p == b"h2");
    if is_h2 {
        count_connection(route, Protocol::Http2);
        let connection = h2::Connection::over(stream, &route.cluster.http, Some(open));
        return pool
            .h2
            .adopt(connection)
            .map(Lease::H2)
            .ok_or(AcquireError::Overflow);
    }
    count_connection(route, Protocol::Http1);
    let connection = h1::Connection::over(stream, &route.cluster.http, Some(open));
    Ok(checkout(route, pool, connection))
}

fn checkout(route: &Route<'_>, pool: &Rc<Pool>, connection: h1::Connection) -> Lease {
    let max = route.cluster.http.max_requests_per_connection;
    Lease::H1(h1::Checkout::new(connection, &pool.h1, &pool.freed, max))
}

/// A place for another connection. A pool may always have one, as in Envoy, so that no worker starves.
fn open_permit(route: &Route<'_>, pool: &Rc<Pool>) -> Option<OpenConnection> {
    let breakers = &route.state.breakers;
    let limit = route.cluster.circuit_breakers[usize::from(route.high_priority)].max_connections;
    let permit = breakers
        .acquire(route.high_priority, Resource::Connections, limit)
        .or_else(|| {
            let first = pool.open.get() == 0;
            first.then(|| breakers.acquire_over(route.high_priority, Resource::Connections, limit))
        });
    let Some(permit) = permit else {
        route.state.stats.upstream_cx_overflow.inc();
        return None;
    };
    Some(OpenConnection::new(
        permit,
        &pool.open,
        &pool.freed,
        (route.host, &route.state.stats.upstream_cx_active),
    ))
}

async fn wait(route: &Route<'_>, pool: &Rc<Pool>) -> Result<(), AcquireError> {
    let stats = &route.state.stats;
    let Some(_place) = route
        .state
        .permit(route.cluster, route.high_priority, Resource::Pending)
    else {
        stats.upstream_rq_pending_overflow.inc();
        return Err(AcquireError::Overflow);
    };
    stats.upstream_rq_pending_total.inc();
    let _waiting = Waiting::begin(&route.host.counts);
    // A connection that was given back may need a moment more before it is ready, and nothing rings for that.
    let _ = tokio::time::timeout(LOOK_AGAIN, pool.freed.notified()).await;
    Ok(())
}

fn count_connection(route: &Route<'_>, protocol: Protocol) {
    Tally::of(route).made(Some(protocol));
}

fn failed(route: &Route<'_>, error: ConnectError) -> AcquireError {
    Tally::of(route).failed(&error);
    AcquireError::Connect(error)
}

/// What is counted of a host's connections as they are made.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    state: Rc<ClusterState>,
    host: Rc<HostState>,
    tls: bool,
}

impl Tally {
    fn of(route: &Route<'_>) -> Self {
        Self {
            state: Rc::clone(route.state),
            host: Rc::clone(route.host),
            tls: route.target.tls.is_some(),
        }
    }

    /// Counts a connection, which speaks HTTP or nothing that is known.
    pub(super) fn made(&self, protocol: Option<Protocol>) {
        let stats = &self.state.stats;
        stats.upstream_cx_total.inc();
        count(&self.host.counts.cx_total);
        match protocol {
            Some(Protocol::Http2) => stats.upstream_cx_http2_total.inc(),
            Some(Protocol::Http1 | Protocol::Negotiated | Protocol::Shared) => {
                stats.upstream_cx_http1_total.inc();
            }
            None => {}
        }
        if self.tls {
            stats.ssl_handshake.inc();
        }
    }

    /// Counts an attempt that failed.
    pub(super) fn failed(&self, error: &ConnectError) {
        let stats = &self.state.stats;
        stats.upstream_cx_total.inc();
        stats.upstream_cx_connect_fail.inc();
        count(&self.host.counts.cx_total);
        count(&self.host.counts.cx_connect_fail);
        match error {
            ConnectError::Timeout { .. } => stats.upstream_cx_connect_timeout.inc(),
            ConnectError::Tls { .. } => stats.ssl_connection_error.inc(),
            ConnectError::Tcp { .. } | ConnectError::Transport(_) => {}
        }
        tracing::debug!(cluster = %self.state.name, host = %self.host.address, %error, "cannot connect");
    }
}
