//! One try: pick a host, get a connection, send, wait for the response's head.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use lateen_telemetry::ResponseFlag;
use lateen_traffic::cluster::{Discovery, DnsFamily};
use lateen_traffic::retry::RetryPolicy;

use super::{Plan, Source, offer, outgoing};
use crate::clock;
use crate::cluster::host::HostState;
use crate::cluster::outlier::{Ended, count};
use crate::cluster::reports::Listener;
use crate::cluster::{ActiveRequest, Host, Wanted};
use crate::http::body::RequestBody;
use crate::http::exchange::Exchange;
use crate::http::local_reply::{LocalReply, ResetReason};
use crate::http::response::Upstream;
use crate::http::upgrade::Upgrade;
use crate::inspect::proxy_protocol;
use crate::streams;
use crate::upstream::connect::{ConnectError, Target};
use crate::upstream::target::{self, Wish};
use crate::upstream::{
    AcquireError, Lease, Route, SendError, Upgraded, UpstreamBody, UpstreamError, acquire,
    connection,
};
use crate::upstream::{h1, raw};

/// How often another host is picked in place of one that was tried, if the policy does not say.
const PICKS: u32 = 3;

/// How a try ended.
pub(super) enum Try {
    /// A response began. Boxed from here on, since it is handed on from step to step.
    Response(Box<Response>),
    /// None did.
    Failed(Failure),
}

/// A response that began.
pub(in crate::http) struct Response {
    pub(in crate::http) parts: http::response::Parts,
    /// What its body is made of.
    pub(in crate::http) source: Source,
    /// Milliseconds the host took.
    pub(super) service_time: u64,
    pub(super) host: Rc<HostState>,
    /// The host's side of an upgrade.
    pub(super) upgrade: Option<Upgraded>,
}

/// A try without a response.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: ResetReason,
    pub(super) per_try_timeout: bool,
    pub(super) transport_failure: Option<String>,
    /// Whether any byte of the request may have been sent.
    pub(super) sent: bool,
    /// The connection was kept from an earlier request and was closed under this one, which may safely go out again.
    pub(super) is_race: bool,
}

/// Where earlier tries of a request went.
#[derive(Debug, Default)]
pub(super) struct Tried {
    /// Whether any byte of the request may have been sent to any of them.
    pub(super) sent: bool,
    hosts: Vec<Rc<HostState>>,
    priorities: Vec<u32>,
    avoid_priorities: Vec<u32>,
}

impl Tried {
    fn note(&mut self, host: &Host, policy: Option<&RetryPolicy>) {
        let Some(policy) = policy else { return };
        self.hosts.push(Rc::clone(&host.state));
        if self.avoid_priorities.contains(&host.priority) {
            // There was no other left: as Envoy does, what was tried before is forgotten.
            self.priorities.clear();
            self.avoid_priorities.clear();
        }
        let Some(frequency) = policy.avoid_previous_priorities else {
            return;
        };
        self.priorities.push(host.priority);
        // Envoy's `PreviousPrioritiesRetryPriority`: what was tried is left out anew after each so many tries.
        if self
            .priorities
            .len()
            .is_multiple_of(frequency.max(1) as usize)
        {
            self.avoid_priorities.clone_from(&self.priorities);
        }
    }
}

/// Makes one try.
///
/// # Errors
/// There is no host, or the request cannot be written to any: an answer that no retry changes.
pub(super) async fn once(
    exchange: &mut Exchange,
    plan: &Plan<'_>,
    tried: &mut Tried,
) -> Result<Try, LocalReply> {
    let policy = plan.policy.as_deref();
    let avoids = policy.is_some_and(|policy| policy.avoid_previous_hosts);
    let original_dst = match plan.cluster.discovery {
        Discovery::DynamicForwardProxy(family) => {
            Some(Box::pin(named_host(exchange, plan, family)).await?)
        }
        _ => Some(exchange.connection.facts.local),
    };
    let wanted = Wanted {
        random: rand::random(),
        hash: plan.hash,
        avoid: if avoids { &tried.hosts } else { &[] },
        avoid_priorities: &tried.avoid_priorities,
        attempts: policy.map_or(0, |policy| policy.host_selection_attempts.max(PICKS)),
        original_dst,
    };
    let Some(host) = plan.state.pick(&plan.cluster, &exchange.now, wanted) else {
        plan.state.stats.upstream_cx_none_healthy.inc();
        return Err(LocalReply::no_healthy_upstream());
    };
    tried.note(&host, policy);
    let upstream = &mut exchange.record.upstream;
    if let Some(before) = upstream.host.replace(host.state.address.clone()) {
        upstream.tried.push((before, upstream.host_name.take()));
    }
    if exchange.manager.logs_requests() && !host.endpoint.hostname.is_empty() {
        exchange.record.upstream.host_name = Some(Arc::clone(&host.endpoint.hostname));
    }
    if exchange.manager.reports_istio {
        let worker = &exchange.connection.worker;
        exchange.record.upstream.peer = host.state.described(&host.endpoint, worker);
    }
    *plan.asked.borrow_mut() = Some(Rc::clone(&host.state));
    let send = send(exchange, plan, &host);
    let result = match plan.try_timeout {
        None => send.await,
        Some(limit) => match tokio::time::timeout(limit, send).await {
            Ok(result) => result,
            Err(_) => {
                plan.state.stats.upstream_rq_per_try_timeout.inc();
                count(&host.state.counts.rq_timeout);
                Ok(Try::Failed(Failure {
                    per_try_timeout: true,
                    ..Failure::sent(ResetReason::RemoteReset)
                }))
            }
        },
    };
    plan.asked.take();
    result.map(|outcome| match outcome {
        Try::Failed(failure) => {
            if failure.reason != ResetReason::Overflow && !failure.is_race {
                let ended = match failure.reason {
                    _ if failure.per_try_timeout => Ended::Timeout,
                    ResetReason::ConnectionTimeout => Ended::Timeout,
                    _ => Ended::LocalFailure,
                };
                plan.state
                    .record(&plan.cluster, &host.state, ended, rand::random());
            }
            exchange
                .record
                .upstream
                .transport_failure
                .clone_from(&failure.transport_failure);
            Try::Failed(failure)
        }
        response => response,
    })
}

/// The address of the host that the request names.
async fn named_host(
    exchange: &Exchange,
    plan: &Plan<'_>,
    family: DnsFamily,
) -> Result<SocketAddr, LocalReply> {
    let port = if plan.cluster.transport.tls().is_some() {
        443
    } else {
        80
    };
    let names = &exchange.connection.worker.names;
    let found = names.address(&plan.head.authority, port, family).await;
    found.ok_or_else(|| {
        LocalReply::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "DNS resolution failure",
            "dns_resolution_failure",
        )
        .flagged(ResponseFlag::DnsResolutionFailed)
    })
}

async fn send(exchange: &mut Exchange, plan: &Plan<'_>, host: &Host) -> Result<Try, LocalReply> {
    let offer = offer::to(
        &exchange.manager,
        plan.head,
        &plan.cluster,
        plan.action.high_priority,
        host,
    );
    let (mut target, key) = match transport(exchange, plan, host, offer.alpn) {
        Ok(found) => found,
        Err(error) => return Ok(Try::Failed(Failure::connect(&error))),
    };
    if plan.upgrade.ends_here()
        && let Some(version) = plan.decision.connect_proxy()
    {
        let client = exchange.connection.facts.ends();
        target.header = Some(proxy_protocol::write(version, Some(client)));
    }
    let route = Route {
        state: &plan.state,
        cluster: &plan.cluster,
        host: &host.state,
        target: &target,
        key,
        protocol: offer.protocol,
        high_priority: plan.action.high_priority,
    };
    let active = ActiveRequest::begin(&host.state, &plan.state.stats.upstream_rq_active);
    if plan.upgrade.ends_here() {
        return Ok(terminate(exchange, plan, host, &route, active).await);
    }
    let mut lease = match acquire(&route).await {
        Ok(lease) => lease,
        Err(AcquireError::Overflow) => {
            return Ok(Try::Failed(Failure::unsent(ResetReason::Overflow)));
        }
        Err(AcquireError::Connect(error)) => return Ok(Try::Failed(Failure::connect(&error))),
    };
    plan.state.stats.upstream_rq_total.inc();
    plan.state.reached(&plan.cluster, &host.state);
    note_upstream(exchange, &mut lease);
    let reused = lease.is_reused();
    let started = clock::now();
    let sent = if lease.takes_parts() && plan.upgrade == Upgrade::None {
        match outgoing::begin(exchange, plan, host, &mut lease)? {
            Ok(begun) => lease.answered(begun).await,
            Err(error) => Err(error),
        }
    } else {
        let request = outgoing::request(exchange, plan, host, lease.is_h2())?;
        Box::pin(lease.send(request)).await
    };
    let mut response = match sent {
        Ok(response) => response,
        Err(failed) => return Ok(Try::Failed(Failure::of(plan, failed, reused, &lease))),
    };
    let is_connect = plan.head.protocol.is_none() || lease.is_h2();
    let upgraded = response.status() == http::StatusCode::SWITCHING_PROTOCOLS
        || (plan.upgrade == Upgrade::Forwarded && is_connect && response.status().is_success());
    let upgrade = upgraded.then(|| lease.upgraded(&mut response)).flatten();
    let (parts, body) = response.into_parts();
    let service_time = u64::try_from(clock::since(started).as_millis()).unwrap_or(u64::MAX);
    let mut upstream = Box::new(Upstream::new(body, lease, active));
    upstream.reports = plan.cluster.utilization.as_ref().map(|settings| Listener {
        host: Rc::clone(&host.state),
        settings: Arc::clone(settings),
    });
    Ok(Try::Response(Box::new(Response {
        parts,
        source: Source::Upstream(upstream),
        service_time,
        host: Rc::clone(&host.state),
        upgrade,
    })))
}

/// CONNECT (or POST) ends here: once the host is reached, the client is told so and its bytes go there.
async fn terminate(
    exchange: &mut Exchange,
    plan: &Plan<'_>,
    host: &Host,
    route: &Route<'_>,
    active: ActiveRequest,
) -> Try {
    let (stream, mut lease) = match connection(route).await {
        Ok(opened) => opened,
        Err(AcquireError::Overflow) => {
            return Try::Failed(Failure::unsent(ResetReason::Overflow));
        }
        Err(AcquireError::Connect(error)) => return Try::Failed(Failure::connect(&error)),
    };
    plan.state.stats.upstream_rq_total.inc();
    plan.state.reached(&plan.cluster, &host.state);
    note_upstream(exchange, &mut lease);
    let (body, upgrade) = match plan.upgrade {
        Upgrade::Posted => {
            let body = raw::Body::new(stream, RequestBody::of(&plan.body));
            (UpstreamBody::Raw(body), None)
        }
        _ => (
            UpstreamBody::Empty,
            Some(Upgraded::Stream(Box::new(stream))),
        ),
    };
    Try::Response(Box::new(Response {
        parts: http::Response::new(()).into_parts().0,
        source: Source::Upstream(Box::new(Upstream::new(body, lease, active))),
        service_time: 0,
        host: Rc::clone(&host.state),
        upgrade,
    }))
}

fn transport(
    exchange: &Exchange,
    plan: &Plan<'_>,
    host: &Host,
    alpn: Option<&[Arc<str>]>,
) -> Result<(Target, crate::cluster::host::TransportKey), ConnectError> {
    let wish = Wish {
        alpn,
        authority: Some(&plan.head.authority),
        client: Some(exchange.connection.facts.ends()),
        original_source: exchange.connection.facts.original_source,
    };
    target::of(
        &exchange.connection.worker,
        &exchange.now,
        &plan.state,
        &plan.cluster,
        host,
        wish,
    )
}

fn note_upstream(exchange: &mut Exchange, lease: &mut Lease) {
    exchange.record.upstream.h2 = lease.is_h2();
    let Some(info) = lease.info() else { return };
    let worker = &exchange.connection.worker;
    let upstream = &mut exchange.record.upstream;
    upstream.local = info.local;
    upstream.session = info.session;
    upstream.certificate.clone_from(&info.peer);
    if let Some(peer) = &info.peer {
        let known = info.principal.get();
        upstream.principal = known.unwrap_or_else(|| worker.principal(peer.principal()));
        info.principal.set(Some(upstream.principal));
        upstream.own_principal = worker.own_principal(&exchange.now);
    }
}

impl Failure {
    fn sent(reason: ResetReason) -> Self {
        Self {
            reason,
            per_try_timeout: false,
            transport_failure: None,
            sent: true,
            is_race: false,
        }
    }

    fn unsent(reason: ResetReason) -> Self {
        Self {
            sent: false,
            ..Self::sent(reason)
        }
    }

    fn connect(error: &ConnectError) -> Self {
        let reason = match error {
            ConnectError::Timeout { .. } => ResetReason::ConnectionTimeout,
            _ => ResetReason::RemoteConnectionFailure,
        };
        Self {
            transport_failure: error.transport_failure_reason(),
            ..Self::unsent(reason)
        }
    }

    /// Judges why there is no response.
    fn of(
        plan: &Plan<'_>,
        SendError { error, unsent }: SendError,
        reused: bool,
        lease: &Lease,
    ) -> Self {
        if unsent {
            // Whatever went wrong, the host never saw the request.
            return Self {
                is_race: true,
                ..Self::unsent(ResetReason::ConnectionTermination)
            };
        }
        let reason = reset_reason(&error);
        let closed = reason == ResetReason::ConnectionTermination;
        let harmless = lateen_traffic::retry::is_idempotent(plan.head.method.as_str());
        let complete = !matches!(
            &error,
            UpstreamError::H1(h1::Error::Body(_)) | UpstreamError::Stream(streams::Error::Body)
        );
        let is_race = closed && reused && harmless && complete && !lease.is_h2();
        tracing::debug!(%error, ?reason, "upstream request failed");
        Self {
            is_race,
            ..Self::sent(reason)
        }
    }
}

const fn stream_reason(error: streams::Error) -> ResetReason {
    match error {
        streams::Error::Reset => ResetReason::RemoteReset,
        streams::Error::Refused => ResetReason::RemoteRefusedStream,
        streams::Error::Protocol(_) => ResetReason::ProtocolError,
        streams::Error::Closed | streams::Error::Io(_) | streams::Error::Body => {
            ResetReason::ConnectionTermination
        }
    }
}

fn reset_reason(error: &UpstreamError) -> ResetReason {
    match error {
        UpstreamError::H1(error) if error.is_protocol() => ResetReason::ProtocolError,
        UpstreamError::H1(_) => ResetReason::ConnectionTermination,
        UpstreamError::Stream(error) => stream_reason(*error),
    }
}
