//! One try: pick a host, get a connection, send, wait for the response's head.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header};
use lateen_telemetry::ResponseFlag;
use lateen_traffic::cluster::{Discovery, DnsFamily};
use lateen_traffic::retry::RetryPolicy;
use lateen_traffic::route::{HostRewrite, RETRY_HEADERS};
use lateen_traffic::value::Value;

use super::{ALTERNATIVE, Plan, TIMEOUT, TRY_TIMEOUT, offer, stream_life};
use crate::clock;
use crate::cluster::host::HostState;
use crate::cluster::outlier::{Ended, count};
use crate::cluster::{ActiveRequest, Host, Wanted};
use crate::http::body::RequestBody;
use crate::http::exchange::Exchange;
use crate::http::filters::CommandValues;
use crate::http::head::Head;
use crate::http::headers;
use crate::http::local_reply::{LocalReply, ResetReason};
use crate::http::record::is_stream_reset;
use crate::http::response::Upstream;
use crate::http::upgrade::Upgrade;
use crate::mux;
use crate::upstream::connect::{ConnectError, Target};
use crate::upstream::h1;
use crate::upstream::target::{self, Wish};
use crate::upstream::{
    AcquireError, Lease, Route, SendError, Upgraded, UpstreamBody, UpstreamError, acquire,
    connection,
};

/// How often another host is picked in place of one that was tried, if the policy does not say.
const PICKS: u32 = 3;

static EXPECTED_TIMEOUT: http::HeaderName =
    http::HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
static GRPC_TIMEOUT: http::HeaderName = http::HeaderName::from_static("grpc-timeout");
static ORIGINAL_HOST: http::HeaderName = http::HeaderName::from_static("x-envoy-original-host");

/// How a try ended.
#[expect(
    clippy::large_enum_variant,
    reason = "moved once; a failure is the rare case"
)]
pub(super) enum Try {
    /// A response began.
    Response(Response),
    /// None did.
    Failed(Failure),
}

/// A response that began.
pub(super) struct Response {
    pub(super) parts: http::response::Parts,
    /// Its body. Boxed from here on, since it is handed on from step to step.
    pub(super) upstream: Box<Upstream>,
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
    hosts: Vec<usize>,
    priorities: Vec<u32>,
    avoid_priorities: Vec<u32>,
}

impl Tried {
    fn note(&mut self, host: &Host, policy: Option<&RetryPolicy>) {
        let Some(policy) = policy else { return };
        self.hosts.push(host.index);
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
    exchange.record.upstream.host = Some(host.state.address.clone());
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
    let (target, key) = match transport(exchange, plan, host, offer.alpn) {
        Ok(found) => found,
        Err(error) => return Ok(Try::Failed(Failure::connect(&error))),
    };
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
    if plan.upgrade == Upgrade::Terminated {
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
    let request = request(exchange, plan, host, lease.is_h2())?;
    let reused = lease.is_reused();
    let started = clock::now();
    let sent = lease.send(request).await;
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
    Ok(Try::Response(Response {
        parts,
        upstream: Box::new(Upstream::new(body, lease, active)),
        service_time,
        host: Rc::clone(&host.state),
        upgrade,
    }))
}

/// CONNECT ends here: once the host is reached, the client is told so and its bytes go there.
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
    Try::Response(Response {
        parts: http::Response::new(()).into_parts().0,
        upstream: Box::new(Upstream::new(UpstreamBody::Empty, lease, active)),
        service_time: 0,
        host: Rc::clone(&host.state),
        upgrade: Some(Upgraded::Stream(Box::new(stream))),
    })
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
        upstream.principal = worker.principal(peer.principal());
        upstream.own_principal = worker.principal(exchange.now.own_principal.as_deref());
    }
}

/// The request as this try sends it.
fn request(
    exchange: &mut Exchange,
    plan: &Plan<'_>,
    host: &Host,
    h2: bool,
) -> Result<Request<RequestBody>, LocalReply> {
    let head = outgoing(exchange, plan, Some(host));
    if let Some(heads) = &mut exchange.record.heads {
        heads.request.clone_from(&head.headers);
        heads.path.clone_from(&head.path);
        heads.authority.clone_from(&head.authority);
    }
    build(head, RequestBody::of(&plan.body), h2)
        .ok_or_else(|| LocalReply::bad_request("http.invalid_authority_or_path"))
}

/// The request's head with all that the route and the proxy change in it. Without a host (for mirrors, which have one of their
/// own) what only a host tells is left out.
pub(super) fn outgoing(exchange: &Exchange, plan: &Plan<'_>, host: Option<&Host>) -> Head {
    let mut head = plan.head.clone();
    let values = CommandValues {
        view: plan.view,
        connection: &exchange.connection,
        record: &exchange.record,
        response: None,
    };
    for mutations in plan.decision.request_headers() {
        mutations.apply(&mut head.headers, &values);
    }
    let told = headers::has_envoy_headers(&head.headers);
    if told {
        head.headers.remove(&TIMEOUT);
    }
    let tells_about_itself = !exchange.manager.suppress_envoy_headers;
    if tells_about_itself && let Some(expected) = expected_timeout(plan) {
        let milliseconds = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
        head.headers
            .insert(&EXPECTED_TIMEOUT, headers::number(milliseconds));
    }
    if let Some(Some(life)) = stream_life(plan.action, plan.head) {
        // The next hop is told what it has, not what the client asked for.
        let milliseconds = format!("{}m", life.as_millis());
        headers::set(&mut head.headers, &GRPC_TIMEOUT, &milliseconds);
    }
    if told {
        take_away_wishes(&mut head.headers);
    }
    if let Some(path) = &plan.path {
        if tells_about_itself {
            headers::set(&mut head.headers, &headers::ORIGINAL_PATH, &head.path);
        }
        head.path.clone_from(path);
    }
    rewrite_host(plan, host, &mut head);
    if plan.decision.vhost.include_request_attempt_count {
        let attempt = HeaderValue::from(exchange.record.upstream.attempts.max(1));
        head.headers.insert(&headers::ATTEMPT_COUNT, attempt);
    }
    let tells = exchange.manager.exchange;
    if tells.tell_upstream && (tells.tell_outside || !is_external(&plan.cluster)) {
        exchange.introduce_self(&mut head.headers);
    }
    head
}

/// Takes away what the caller asked of this proxy.
fn take_away_wishes(headers: &mut HeaderMap) {
    headers.remove(&TRY_TIMEOUT);
    headers.remove(&ALTERNATIVE);
    for name in RETRY_HEADERS {
        headers.remove(name);
    }
    headers.remove(&crate::http::headers::DECORATOR);
}

/// How long this try has: its own time, or what is left of the whole request's.
fn expected_timeout(plan: &Plan<'_>) -> Option<Duration> {
    let left = plan
        .timeout
        .map(|timeout| timeout.saturating_sub(clock::since(plan.began)));
    plan.try_timeout.into_iter().chain(left).min()
}

/// Whether a cluster is outside the mesh, by the mark Istio's control plane puts on it.
fn is_external(cluster: &lateen_traffic::Cluster) -> bool {
    matches!(
        cluster.metadata.get("istio", &["external"]),
        Some(Value::Bool(true))
    )
}

fn rewrite_host(plan: &Plan<'_>, host: Option<&Host>, head: &mut Head) {
    let automatic = matches!(plan.decision.host_rewrite(), Some(HostRewrite::Auto));
    let rewritten = if automatic {
        host.map(|host| host.endpoint.hostname.to_string())
            .filter(|name| !name.is_empty())
    } else {
        plan.decision
            .rewritten_host(plan.view)
            .map(std::borrow::Cow::into_owned)
    };
    let Some(rewritten) = rewritten else { return };
    if plan.action.append_x_forwarded_host {
        static FORWARDED_HOST: http::HeaderName = http::HeaderName::from_static("x-forwarded-host");
        headers::append(&mut head.headers, &FORWARDED_HOST, &head.authority);
    }
    headers::set(&mut head.headers, &ORIGINAL_HOST, &head.authority);
    head.authority = rewritten;
}

/// The request of a head and a body, in HTTP/1 or HTTP/2. `None` if rewriting made a path or host that is none.
pub(super) fn build(mut head: Head, body: RequestBody, h2: bool) -> Option<Request<RequestBody>> {
    let upgrade = head.protocol.take();
    let is_empty = matches!(body, RequestBody::Empty);
    let mut request = Request::new(body);
    *request.extensions_mut() = std::mem::take(&mut head.extensions);
    *request.method_mut() = head.method.clone();
    if let Some(token) = &upgrade {
        // An upgrade carries its bytes after the response, not in a body.
        *request.body_mut() = RequestBody::Empty;
        if h2 {
            *request.method_mut() = Method::CONNECT;
            head.headers.remove(header::UPGRADE);
            head.headers.remove(header::CONNECTION);
            request
                .extensions_mut()
                .insert(hyper::ext::Protocol::from(token.as_str()));
        } else {
            *request.method_mut() = Method::GET;
            head.headers
                .insert(header::UPGRADE, HeaderValue::from_str(token).ok()?);
            head.headers
                .entry(header::CONNECTION)
                .or_insert(HeaderValue::from_static("upgrade"));
        }
        head.protocol = upgrade;
    }
    *request.uri_mut() = head.uri(h2)?;
    *request.version_mut() = if h2 {
        Version::HTTP_2
    } else {
        Version::HTTP_11
    };
    if !h2 {
        head.headers.insert(header::HOST, head.host()?);
        framing(&head.method, is_empty, &mut head.headers);
    }
    *request.headers_mut() = head.headers;
    Some(request)
}

/// HTTP/1 says how long a body is, or that it comes in chunks; a request without a body says so where one would be expected
/// (RFC 9112 section 6.3, as Envoy's codec does).
fn framing(method: &Method, is_empty: bool, headers: &mut HeaderMap) {
    if is_empty {
        let never_has_one = matches!(
            *method,
            Method::GET | Method::HEAD | Method::DELETE | Method::TRACE | Method::CONNECT
        );
        if !never_has_one {
            headers
                .entry(header::CONTENT_LENGTH)
                .or_insert(HeaderValue::from_static("0"));
        }
        return;
    }
    if !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(
            header::TRANSFER_ENCODING,
            HeaderValue::from_static("chunked"),
        );
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

    /// Judges an error of hyper's.
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
            UpstreamError::H1(h1::Error::Body(_)) | UpstreamError::Mux(mux::Error::Body)
        );
        let is_race = closed && reused && harmless && complete && !lease.is_h2();
        tracing::debug!(%error, ?reason, "upstream request failed");
        Self {
            is_race,
            ..Self::sent(reason)
        }
    }
}

const fn mux_reason(error: mux::Error) -> ResetReason {
    match error {
        mux::Error::Reset => ResetReason::RemoteReset,
        mux::Error::Refused => ResetReason::RemoteRefusedStream,
        mux::Error::Protocol(_) => ResetReason::ProtocolError,
        mux::Error::Closed | mux::Error::Io(_) | mux::Error::Body => {
            ResetReason::ConnectionTermination
        }
    }
}

fn reset_reason(error: &UpstreamError) -> ResetReason {
    let error = match error {
        UpstreamError::H1(error) if error.is_protocol() => return ResetReason::ProtocolError,
        UpstreamError::Mux(error) => return mux_reason(*error),
        UpstreamError::H1(_) => return ResetReason::ConnectionTermination,
        UpstreamError::Hyper(error) => error,
    };
    if error.is_parse() {
        return ResetReason::ProtocolError;
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            return match h2.reason() {
                Some(h2::Reason::REFUSED_STREAM) => ResetReason::RemoteRefusedStream,
                _ if is_stream_reset(error) => ResetReason::RemoteReset,
                _ => ResetReason::ConnectionTermination,
            };
        }
        source = cause.source();
    }
    ResetReason::ConnectionTermination
}
