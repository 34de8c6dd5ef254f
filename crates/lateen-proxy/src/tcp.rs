//! The TCP proxy: bytes both ways between a client and an upstream host.

mod report;
mod shared;
mod tunnel;

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use lateen_telemetry::access_log::{
    Address, AddressField, LogContext, NumberField, Side, TextField, TimePoint, TlsField, ValueForm,
};
use lateen_telemetry::{ResponseFlag, ResponseFlags};
use lateen_traffic::Cluster;
use lateen_traffic::access_log::{Finished, More};
use lateen_traffic::cluster::Discovery;
use lateen_traffic::filter::NetworkFilterKind;
use lateen_traffic::route::connection_hash_by;
use lateen_traffic::tcp::TcpProxy;
use lateen_traffic::tls::DataSource;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use self::report::{Report, Upstream};
use self::tunnel::{Tunnel, TunnelError};
use crate::cluster::breaker::{Permit, Resource};
use crate::cluster::host::Lone;
use crate::cluster::outlier::{Ended as HostEnded, count};
use crate::cluster::{ActiveRequest, ClusterState, Host, Wanted};
use crate::connection::Connection;
use crate::doze::Doze;
use crate::http::log::{AccessLog, evaluated};
use crate::net::copy::{self, Carrier, Ended, Transferred};
use crate::net::{HostAddress, Stream};
use crate::upstream::connect;
use crate::upstream::h1::ConnectionFacts;
use crate::upstream::pipe::Pipe;
use crate::upstream::target::{self, Wish};

/// A connection that is to be proxied.
#[derive(Debug)]
pub(crate) struct Ready {
    connection: Rc<Connection>,
    proxy: Arc<TcpProxy>,
    upstream: Option<(Connected, Bytes)>,
}

/// What became of a connection whose client was silent.
#[derive(Debug)]
pub(crate) enum Speculation {
    /// The server spoke first: proxy it.
    ServerSpoke(Box<Ready>),
    /// The client spoke after all; nothing was sent to the upstream.
    ClientSpoke,
    /// One of the two ended it.
    Over,
}

#[derive(Debug)]
struct Connected {
    stream: Pipe,
    host: Host,
    facts: Rc<ConnectionFacts>,
    _active: ActiveRequest,
    _held: Held,
}

/// What a connection holds for as long as it is open.
#[derive(Debug)]
#[expect(dead_code, reason = "held, never looked at")]
enum Held {
    /// A place among the cluster's connections.
    Connection(Permit),
    /// A tunnel's.
    Tunnel(Box<tunnel::Held>),
    /// What it holds, as the only one of those that could share.
    Lone(Box<(Self, Lone)>),
    /// What carries it has its own.
    Nothing,
}

/// What is remembered of a connection for statistics and logs.
#[derive(Debug)]
struct Outcome {
    flags: ResponseFlags,
    attempts: u32,
    failure: Option<String>,
    host: Option<HostAddress>,
    /// The last host that was tried.
    tried: Option<Host>,
    local: Option<SocketAddr>,
    peer: Option<String>,
    cluster: Option<Arc<str>>,
    /// Nothing moved for the idle time.
    idle: bool,
}

impl Ready {
    /// The client's connection.
    pub(crate) const fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }

    /// A connection that is to be proxied by `proxy`.
    pub(crate) const fn new(connection: Rc<Connection>, proxy: Arc<TcpProxy>) -> Self {
        Self {
            connection,
            proxy,
            upstream: None,
        }
    }
}

/// Connects a silent client's upstream and waits for whoever speaks first.
pub(crate) async fn speculate(mut ready: Ready, client: &TcpStream) -> Speculation {
    let Some((state, cluster)) = cluster_of(&ready) else {
        return Speculation::ClientSpoke;
    };
    let mut outcome = Outcome::new();
    let connected = tokio::select! {
        connected = connect(&ready, &state, &cluster, &mut outcome) => connected,
        _ = client.readable() => return Speculation::ClientSpoke,
    };
    // Whoever speaks to an upstream that cannot be reached is told so by the regular way.
    let Some(mut connected) = connected else {
        return Speculation::ClientSpoke;
    };
    let mut buffer = vec![0; 16 * 1024];
    tokio::select! {
        biased;
        _ = client.readable() => Speculation::ClientSpoke,
        read = connected.stream.read(&mut buffer) => match read {
            Ok(0) | Err(_) => Speculation::Over,
            Ok(n) => {
                buffer.truncate(n);
                ready.upstream = Some((connected, Bytes::from(buffer)));
                Speculation::ServerSpoke(Box::new(ready))
            }
        },
    }
}

/// Proxies a connection whose upstream has spoken already.
pub(crate) async fn run_ready(ready: Ready, client: Stream) {
    run(ready, client).await;
}

/// Proxies a connection to its end.
pub(crate) async fn run(mut ready: Ready, mut client: impl Carrier) {
    let connection = Rc::clone(&ready.connection);
    let stats = connection.worker.tcp_stats(&ready.proxy.stat_prefix);
    stats.downstream_cx_total.inc();
    let started = (Instant::now(), SystemTime::now());
    let moved = Transferred::default();
    let mut outcome = Outcome::new();
    let first = ready.upstream.take();
    match cluster_of(&ready) {
        None => {
            stats.downstream_cx_no_route.inc();
            outcome.flags.insert(ResponseFlag::NoClusterFound);
            report_refusal(&ready, Upstream::default(), &outcome);
        }
        Some((state, cluster)) => {
            outcome.cluster = Some(Arc::clone(&cluster.name));
            let connected = match first {
                Some((connected, bytes)) => {
                    moved.back.set(bytes.len() as u64);
                    let sent = client.write_all(&bytes).await;
                    sent.is_ok().then_some(connected)
                }
                // Boxed: a connection lives long after it was made, and should not hold room for that.
                None => Box::pin(connect(&ready, &state, &cluster, &mut outcome)).await,
            };
            match connected {
                None => {
                    let upstream = Upstream {
                        cluster: Some(&cluster),
                        host: outcome.tried.as_ref(),
                        ..Upstream::default()
                    };
                    report_refusal(&ready, upstream, &outcome);
                }
                Some(connected) => {
                    outcome.connected(&connected);
                    transfer(&ready, &cluster, client, connected, &moved, &mut outcome).await;
                }
            }
        }
    }
    stats.downstream_cx_rx_bytes_total.add(moved.forward.get());
    stats.downstream_cx_tx_bytes_total.add(moved.back.get());
    if outcome.idle {
        stats.idle_timeout.inc();
    }
    write_logs(&ready, &moved, &outcome, started);
}

fn cluster_of(ready: &Ready) -> Option<(Rc<ClusterState>, Arc<Cluster>)> {
    let connection = &ready.connection;
    let by_sni = connection
        .chain
        .filters
        .iter()
        .any(|f| matches!(f.kind, NetworkFilterKind::SniCluster));
    let program = &connection.now.program;
    let cluster = match &connection.facts.server_name {
        Some(name) if by_sni => program.cluster(name)?,
        _ => program.cluster(ready.proxy.pick_cluster(rand::random()))?,
    };
    Some((
        connection.worker.cluster(&cluster.name),
        Arc::clone(cluster),
    ))
}

/// Where a connection goes if its cluster has no hosts of its own: where it was going, or to the server name it asks for.
async fn destination(connection: &Connection, cluster: &Cluster) -> Option<SocketAddr> {
    let Discovery::DynamicForwardProxy(family) = cluster.discovery else {
        return Some(connection.facts.local);
    };
    let filters = &connection.chain.filters;
    let port = filters.iter().find_map(|filter| match filter.kind {
        NetworkFilterKind::SniDynamicForwardProxy { port } => Some(port),
        _ => None,
    })?;
    let name = connection.facts.server_name.as_deref()?;
    let names = &connection.worker.names;
    names.address(name, port, family).await
}

/// Connects to a host, trying others as often as the proxy's settings say.
async fn connect(
    ready: &Ready,
    state: &Rc<ClusterState>,
    cluster: &Arc<Cluster>,
    outcome: &mut Outcome,
) -> Option<Connected> {
    let connection = &ready.connection;
    let original_dst = destination(connection, cluster).await;
    let mut tried = Vec::new();
    for _ in 0..ready.proxy.max_connect_attempts.max(1) {
        let wanted = Wanted {
            random: rand::random(),
            hash: connection_hash_by(&ready.proxy.hash_policy, connection.facts.remote.ip()),
            avoid: &tried,
            attempts: 3,
            original_dst,
            ..Wanted::default()
        };
        let Some(host) = state.pick(cluster, &connection.now, wanted) else {
            state.stats.upstream_cx_none_healthy.inc();
            outcome.flags.insert(ResponseFlag::NoHealthyUpstream);
            return None;
        };
        outcome.attempts += 1;
        outcome.host = Some(host.state.address.clone());
        outcome.tried = Some(host.clone());
        match open(ready, state, cluster, &host).await {
            Ok((stream, facts, held)) => {
                let reached = HostEnded::Connected { last: true };
                state.record(cluster, &host.state, reached, rand::random());
                let gauge = match &held {
                    Held::Connection(_) | Held::Lone(_) | Held::Tunnel(_) => {
                        &state.stats.upstream_cx_active
                    }
                    Held::Nothing => &state.stats.upstream_rq_active,
                };
                let active = ActiveRequest::begin(&host.state, gauge);
                return Some(Connected {
                    stream,
                    host,
                    facts,
                    _active: active,
                    _held: held,
                });
            }
            Err(OpenError::Overflow) => {
                outcome.flags.insert(ResponseFlag::UpstreamOverflow);
                return None;
            }
            Err(OpenError::Failed { timed_out, reason }) => {
                let ended = match timed_out {
                    true => HostEnded::Timeout,
                    false => HostEnded::LocalFailure,
                };
                state.record(cluster, &host.state, ended, rand::random());
                outcome.failure = reason;
                tried.push(Rc::clone(&host.state));
            }
        }
    }
    outcome
        .flags
        .insert(ResponseFlag::UpstreamConnectionFailure);
    outcome
        .flags
        .insert(ResponseFlag::UpstreamRetryLimitExceeded);
    None
}

/// Why a host did not take a connection.
enum OpenError {
    /// A circuit breaker is open: no other host would take it either.
    Overflow,
    /// The host cannot be reached.
    Failed {
        timed_out: bool,
        /// For the log.
        reason: Option<String>,
    },
}

type Opened = (Pipe, Rc<ConnectionFacts>, Held);

async fn open(
    ready: &Ready,
    state: &Rc<ClusterState>,
    cluster: &Arc<Cluster>,
    host: &Host,
) -> Result<Opened, OpenError> {
    let connection = &ready.connection;
    let Some(tunneling) = &ready.proxy.tunneling else {
        if !shared::may(connection, cluster, host) {
            return open_plain(connection, state, cluster, host).await;
        }
        let Some(lone) = host.state.lone() else {
            return shared::open(connection, state, cluster, host).await;
        };
        let opened = open_plain(connection, state, cluster, host).await;
        return opened.map(|(pipe, facts, held)| (pipe, facts, Held::Lone(Box::new((held, lone)))));
    };
    let opened = tunnel::open(connection, tunneling, state, cluster, host).await;
    let failed = |error: TunnelError| {
        tracing::debug!(cluster = %state.name, %error, "cannot open a tunnel");
        match error {
            TunnelError::Overflow => OpenError::Overflow,
            TunnelError::Connect(error) => OpenError::of(&error),
            _ => OpenError::Failed {
                timed_out: false,
                reason: None,
            },
        }
    };
    let Tunnel { pipe, facts, held } = opened.map_err(failed)?;
    Ok((pipe, facts, Held::Tunnel(Box::new(held))))
}

impl OpenError {
    fn of(error: &connect::ConnectError) -> Self {
        Self::Failed {
            timed_out: matches!(error, connect::ConnectError::Timeout { .. }),
            reason: error.transport_failure_reason(),
        }
    }
}

/// A connection of the client's own to a host.
async fn open_plain(
    connection: &Connection,
    state: &ClusterState,
    cluster: &Cluster,
    host: &Host,
) -> Result<Opened, OpenError> {
    let Some(permit) = state.permit(cluster, false, Resource::Connections) else {
        state.stats.upstream_cx_overflow.inc();
        return Err(OpenError::Overflow);
    };
    count(&host.state.counts.cx_total);
    match dial(connection, state, cluster, host).await {
        Ok(stream) => {
            state.stats.upstream_cx_total.inc();
            state.stats.upstream_rq_total.inc(); // a connection is what is asked for
            let facts = ConnectionFacts::of(&stream, None);
            Ok((Pipe::Connection(stream), facts, Held::Connection(permit)))
        }
        Err(error) => {
            tracing::debug!(cluster = %state.name, %error, "cannot connect");
            state.stats.upstream_cx_connect_fail.inc();
            count(&host.state.counts.cx_connect_fail);
            Err(OpenError::of(&error))
        }
    }
}

async fn dial(
    connection: &Connection,
    state: &ClusterState,
    cluster: &Cluster,
    host: &Host,
) -> Result<Stream, connect::ConnectError> {
    let wish = Wish {
        alpn: None,
        authority: None,
        client: Some(connection.facts.ends()),
        original_source: connection.facts.original_source,
    };
    let (target, _) = target::of(
        &connection.worker,
        &connection.now,
        state,
        cluster,
        host,
        wish,
    )?;
    connect::connect(&target).await
}

async fn transfer(
    ready: &Ready,
    cluster: &Arc<Cluster>,
    client: impl Carrier,
    connected: Connected,
    moved: &Transferred,
    outcome: &mut Outcome,
) {
    let principal = outcome.peer.clone();
    let report = Report::of(
        &ready.connection,
        Upstream {
            cluster: Some(cluster),
            host: Some(&connected.host),
            principal: principal.as_deref(),
            introduction: connected.stream.introduction().cloned(),
        },
    );
    let upstream = connected.stream;
    let copying = copy::bidirectional(client, upstream, ready.proxy.idle_timeout, moved);
    let lasted = Cell::new(false);
    let mut beside = Doze::new(Box::pin(async {
        tokio::select! {
            () = longest(&ready.proxy) => lasted.set(true),
            () = ready.connection.revoked() => {
                tracing::debug!(connection = ready.connection.facts.id, "no longer allowed");
            }
            () = report.keep(moved) => {}
        }
    }));
    let mut copying = pin!(copying);
    let ended = std::future::poll_fn(|cx| match copying.as_mut().poll(cx) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        // What waits beside is not asked with every message.
        Poll::Pending if beside.is_done(cx) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await;
    drop(beside);
    if lasted.get() {
        outcome.flags.insert(ResponseFlag::DurationTimeout);
    }
    match ended {
        None => {}
        Some(Ended::Idle) => outcome.idle = true,
        Some(Ended::First(error)) => {
            tracing::debug!(%error, "the client's connection broke");
            outcome
                .flags
                .insert(ResponseFlag::DownstreamConnectionTermination);
        }
        Some(Ended::Second(error)) => {
            tracing::debug!(%error, "the upstream's connection broke");
            outcome
                .flags
                .insert(ResponseFlag::UpstreamConnectionTermination);
        }
        Some(Ended::Closed) => {}
    }
    report.close(moved, outcome.flags);
}

/// Returns at the end of a connection's longest life.
async fn longest(proxy: &TcpProxy) {
    match proxy.max_downstream_connection_duration {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Counts a connection that had no upstream.
fn report_refusal(ready: &Ready, upstream: Upstream<'_>, outcome: &Outcome) {
    let report = Report::of(&ready.connection, upstream);
    report.close(&Transferred::default(), outcome.flags);
}

impl Outcome {
    const fn new() -> Self {
        Self {
            flags: ResponseFlags::NONE,
            attempts: 0,
            failure: None,
            host: None,
            tried: None,
            local: None,
            peer: None,
            cluster: None,
            idle: false,
        }
    }

    fn connected(&mut self, connected: &Connected) {
        self.host = Some(connected.host.state.address.clone());
        self.local = connected.facts.local;
        self.peer = connected
            .facts
            .peer
            .as_ref()
            .and_then(|peer| peer.principal())
            .map(str::to_owned);
    }
}

fn write_logs(
    ready: &Ready,
    moved: &Transferred,
    outcome: &Outcome,
    started: (Instant, SystemTime),
) {
    if ready.proxy.access_logs.is_empty() {
        return;
    }
    let line = Line {
        ready,
        moved,
        outcome,
        started,
    };
    line.finished(|done| write_wanted(ready, &line, done));
}

fn write_wanted(ready: &Ready, line: &Line<'_>, done: &Finished<'_>) {
    // Compiled at the end of a connection rather than kept: connections are few next to requests.
    for log in ready
        .proxy
        .access_logs
        .iter()
        .filter_map(AccessLog::compile)
    {
        if log.wants(done) {
            log.write(&ready.connection.worker, line);
        }
    }
}

struct Line<'a> {
    ready: &'a Ready,
    moved: &'a Transferred,
    outcome: &'a Outcome,
    started: (Instant, SystemTime),
}

impl Line<'_> {
    /// What filters and expressions may look at.
    fn finished<T>(&self, look: impl FnOnce(&Finished<'_>) -> T) -> T {
        let outcome = self.outcome;
        let flags: Vec<&str> = outcome.flags.iter().map(ResponseFlag::short).collect();
        let info = self.ready.connection.facts.info();
        let duration = self.started.0.elapsed().as_millis();
        look(&Finished {
            request: None,
            status: 0,
            grpc_status: None,
            duration_ms: u64::try_from(duration).unwrap_or(u64::MAX),
            flags: &flags,
            health_check: false,
            traced: false,
            random: rand::random(),
            more: More {
                connection: Some(&info),
                peer: self.ready.connection.peer_tls(),
                cluster: outcome.cluster.as_deref().unwrap_or_default(),
                upstream: outcome.host.as_ref().and_then(HostAddress::ip),
                request_bytes: self.moved.forward.get(),
                response_bytes: self.moved.back.get(),
                ..More::default()
            },
        })
    }
}

impl LogContext for Line<'_> {
    fn evaluate(
        &self,
        expression: &(dyn Any + Send + Sync),
        form: ValueForm,
    ) -> Option<serde_json::Value> {
        self.finished(|done| evaluated(expression, form, done))
    }

    fn start_time(&self) -> SystemTime {
        self.started.1
    }

    fn emit_time(&self) -> SystemTime {
        self.started.1 + self.started.0.elapsed()
    }

    fn text(&self, field: TextField) -> Option<&str> {
        let facts = &self.ready.connection.facts;
        match field {
            TextField::UpstreamCluster | TextField::UpstreamClusterRaw => {
                self.outcome.cluster.as_deref()
            }
            TextField::UpstreamTransportFailureReason => self.outcome.failure.as_deref(),
            TextField::RequestedServerName => facts.server_name.as_deref(),
            TextField::ListenerName => Some(&facts.listener),
            TextField::FilterChainName => Some(&facts.chain),
            TextField::Tls(Side::Downstream, field) => self.ready.connection.tls_text(field),
            TextField::Tls(Side::Upstream, TlsField::PeerUriSan) => self.outcome.peer.as_deref(),
            _ => None,
        }
    }

    fn number(&self, field: NumberField) -> Option<u64> {
        match field {
            NumberField::ResponseCode => Some(0),
            NumberField::BytesReceived => Some(self.moved.forward.get()),
            NumberField::BytesSent => Some(self.moved.back.get()),
            NumberField::UpstreamRequestAttemptCount => Some(u64::from(self.outcome.attempts)),
            NumberField::ConnectionId => Some(self.ready.connection.facts.id),
            _ => None,
        }
    }

    fn address(&self, field: AddressField) -> Option<Address<'_>> {
        let facts = &self.ready.connection.facts;
        if let AddressField::UpstreamHost | AddressField::UpstreamRemote = field {
            return self.outcome.host.as_ref().map(HostAddress::logged);
        }
        let address = match field {
            AddressField::DownstreamLocal => facts.local,
            AddressField::DownstreamDirectLocal => facts.direct_local,
            AddressField::DownstreamRemote => facts.remote,
            AddressField::DownstreamDirectRemote => facts.direct_remote,
            AddressField::UpstreamHost | AddressField::UpstreamRemote => return None,
            AddressField::UpstreamLocal => self.outcome.local?,
        };
        Some(Address::Ip(address))
    }

    fn time_point(&self, point: TimePoint) -> Option<Duration> {
        (point == TimePoint::End).then(|| self.started.0.elapsed())
    }

    fn response_flags(&self) -> ResponseFlags {
        self.outcome.flags
    }
}

/// `envoy.filters.network.echo`.
pub(crate) async fn echo(stream: Stream) {
    let (mut read, mut write) = tokio::io::split(stream);
    // Its errors are the client's going away.
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

/// `envoy.filters.network.direct_response`.
pub(crate) async fn respond(mut stream: Stream, source: &DataSource) {
    if let Ok(bytes) = crate::secrets::read(source) {
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
    }
}
