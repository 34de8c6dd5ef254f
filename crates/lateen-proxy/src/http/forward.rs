//! The router: sending a request to a host of the route's cluster, again if the policy says so, within the times it has.
//!
//! A try that fails is either certainly not acted upon (never sent, refused) or possibly so. Beyond the policy, a try is repeated
//! once without counting only in the first case, and when a kept HTTP/1 connection turns out to be closed under an idempotent request: that
//! race is the proxy's own doing. Another sidecar that could not reach its application says so ([`Unserved`]); the policy takes that as it
//! takes a connection that could not be made.

mod attempt;
mod mirror;
mod offer;
mod outgoing;
mod redirect;

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderValue, StatusCode};
use lateen_telemetry::ResponseFlag;
use lateen_telemetry::metrics::Counter;
use lateen_telemetry::metrics::envoy::RouteStats;
use lateen_traffic::retry::{Attempt, NoRetry, Outcome, Reset, RetryDecision, RetryPolicy};
use lateen_traffic::route::{
    Forward, HashResult, RouteDecision, grpc_timeout, request_hash, try_timeout,
};
use lateen_traffic::{Cluster, RequestView};
use tokio::time::Instant;

pub(super) use self::attempt::Response;
pub(super) use self::redirect::Redirected;

use self::attempt::{Failure, Tried, Try};
use super::body::{Meter, Replayable};
use super::client::ClientUpgrade;
use super::exchange::{Answer, Exchange, Inbound};
use super::head::Head;
use super::headers;
use super::local_reply::{LocalReply, ResetReason};
use super::response::{Deadlines, Timer, Upstream};
use super::upgrade::{self, Tunnel, Upgrade};
use crate::alarm::{Alarm, Alarms};
use crate::clock;
use crate::cluster::ClusterState;
use crate::cluster::breaker::{Permit, Resource};
use crate::cluster::host::HostState;
use crate::cluster::outlier::{Ended, count};
use crate::mux::head::Unserved;
use crate::upstream::Upgraded;
use crate::worker::Now;

static TIMEOUT: http::HeaderName = http::HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
static ALTERNATIVE: http::HeaderName =
    http::HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response");
static TRY_TIMEOUT: http::HeaderName =
    http::HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");

/// What an answer's body is made of.
pub(super) enum Source {
    /// The upstream's.
    Upstream(Box<Upstream>),
    /// Bytes both ways after an upgrade.
    Tunnel(Box<Tunnel>),
}

/// What stays the same over the tries of one request.
pub(super) struct Plan<'a> {
    head: &'a Head,
    view: &'a RequestView<'a>,
    decision: &'a RouteDecision<'a>,
    action: &'a Forward,
    cluster: Arc<Cluster>,
    state: Rc<ClusterState>,
    body: Rc<Replayable>,
    path: Option<String>,
    hash: Option<u64>,
    policy: Option<Arc<RetryPolicy>>,
    try_timeout: Option<Duration>,
    timeout: Option<Duration>,
    upgrade: Upgrade,
    /// The route's own statistics, if it has any.
    route: Option<Rc<RouteStats>>,
    began: Instant,
    /// The host that is to answer now.
    asked: RefCell<Option<Rc<HostState>>>,
}

/// Forwards a request.
///
/// # Errors
/// There is no answer of an upstream to give.
pub(super) async fn forward(
    exchange: &mut Exchange,
    head: &Head,
    view: &RequestView<'_>,
    decision: &RouteDecision<'_>,
    action: &Forward,
    inbound: Inbound,
) -> Result<Answer, LocalReply> {
    let upgrade = upgrade::permitted(exchange, head, decision)?;
    let now = Rc::clone(&exchange.now);
    let routed = exchange.routed.take();
    let Some(cluster) = decision.cluster.as_deref().and_then(|name| {
        let noted = routed.filter(|cluster| *cluster.name == *name);
        noted.or_else(|| now.program.cluster(name).cloned())
    }) else {
        exchange.manager.stats.no_cluster.inc();
        let status = StatusCode::from_u16(action.cluster_not_found_status);
        return Err(LocalReply::cluster_not_found(
            status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
        ));
    };
    let state = exchange.connection.worker.cluster(&cluster.name);

    let hashed = request_hash(&action.hash_policy, view);
    set_cookie(exchange, &hashed);
    let policy = decision.retries_for(view);
    let repeats = policy.as_ref().is_some_and(|policy| policy.num_retries > 0);
    let limit = if repeats || action.internal_redirects.is_some() {
        replay_limit(exchange, decision)
    } else {
        0
    };
    exchange.body_waits = false;
    let plan = Plan {
        path: decision.rewritten_path(view),
        hash: hashed.hash,
        timeout: action.request_timeout(&head.headers),
        began: clock::now(),
        asked: RefCell::default(),
        try_timeout: try_timeout(policy.as_deref(), &head.headers),
        body: Rc::new(Replayable::new(inbound.body, limit)),
        cluster,
        head,
        view,
        decision,
        action,
        state,
        policy,
        upgrade,
        route: route_stats(exchange, decision),
    };
    let permit = admit(&now, &plan);
    let permit = permit.inspect_err(|reply| plan.charge(reply.status))?;
    if upgrade == Upgrade::None {
        mirror::start(exchange, &plan);
    }
    let limit = plan.timeout;
    let started = plan.began;
    let times = Times::of(exchange, &plan);
    let alarms = Rc::clone(&exchange.connection.worker.alarms);
    let response = {
        // Pinned here: a future that is handed on by value has room where it came from and where it goes.
        let tries = pin!(tries(exchange, &plan));
        times.within(&alarms, &plan, tries).await?
    };
    if let Some(redirected) = redirect::follow(exchange, &plan, &response) {
        let status = redirected.status;
        exchange.redirected = Some(Box::new(redirected));
        return Err(LocalReply::new(status, "", "internal_redirect"));
    }
    finish(
        exchange,
        &plan,
        response,
        permit,
        (started, limit, times.life),
        inbound.upgrade.filter(|_| upgrade != Upgrade::None),
    )
}

fn route_stats(exchange: &Exchange, decision: &RouteDecision<'_>) -> Option<Rc<RouteStats>> {
    let prefix = decision.route.stat_prefix.as_ref()?;
    let worker = &exchange.connection.worker;
    let stats = worker.route_stats(&decision.vhost.name, prefix);
    stats.upstream_rq_total.inc();
    Some(stats)
}

/// A place among the cluster's requests, unless the control plane wants this one dropped.
fn admit(now: &Now, plan: &Plan<'_>) -> Result<Permit, LocalReply> {
    let cluster = &plan.cluster;
    let shares = now
        .endpoints_of(cluster)
        .map(|set| set.drop_overloads.iter());
    let mut shares = shares.into_iter().flatten();
    if let Some((_, share)) = shares.find(|(_, share)| share.hit(rand::random())) {
        return Err(LocalReply::drop_overload(share.is_all()));
    }
    let priority = plan.action.high_priority;
    let permit = plan.state.permit(cluster, priority, Resource::Requests);
    permit.ok_or_else(|| {
        plan.state.stats.upstream_rq_pending_overflow.inc();
        LocalReply::upstream_reset(ResetReason::Overflow, None, false)
    })
}

/// The times a request has until its response begins.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// The route's timeout, which begins when the whole request was received.
    overall: Option<Duration>,
    /// The stream's idle time, which begins anew with every part of the request.
    idle: Option<Duration>,
    /// The end of the stream's longest life.
    life: Option<Instant>,
    /// Until when the client has to have sent its request.
    request: Option<Instant>,
}

/// Which of them passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passed {
    Overall,
    Idle,
    Life,
    Request,
}

impl Times {
    fn of(exchange: &Exchange, plan: &Plan<'_>) -> Self {
        let timeouts = &exchange.manager.config.timeouts;
        let began = exchange.record.started;
        let life = stream_life(plan.action, plan.head)
            .or(plan.action.timeouts.max_stream)
            .unwrap_or(timeouts.max_stream_duration);
        Self {
            overall: plan.timeout,
            idle: plan.action.timeouts.idle.unwrap_or(timeouts.stream_idle),
            life: life.map(|life| began + life),
            request: timeouts.request.map(|time| began + time),
        }
    }

    /// What passes first as things stand, and when.
    fn next(&self, began: Instant, request: &Meter) -> Option<(Instant, Passed)> {
        let ended = request.ended_at();
        let overall = self.overall.zip(ended);
        let overall = overall.map(|(limit, ended)| (ended.max(began) + limit, Passed::Overall));
        let idle = self.idle.map(|limit| {
            let moved = request.moved_at().map_or(began, |moved| moved.max(began));
            (moved + limit, Passed::Idle)
        });
        let life = self.life.map(|end| (end, Passed::Life));
        let request = self.request.filter(|_| ended.is_none());
        let request = request.map(|end| (end, Passed::Request));
        [overall, idle, life, request]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    /// The response, unless a time passes before it. One timer for all of them: what moved meanwhile is looked at when it fires.
    async fn within(
        self,
        alarms: &Rc<Alarms>,
        plan: &Plan<'_>,
        mut tries: Pin<&mut impl Future<Output = Result<Box<Response>, LocalReply>>>,
    ) -> Result<Box<Response>, LocalReply> {
        let request = Rc::clone(plan.body.meter());
        let began = clock::now();
        let mut alarm = Alarm::new(alarms);
        let passed = std::future::poll_fn(|cx| {
            if let Poll::Ready(response) = tries.as_mut().poll(cx) {
                return Poll::Ready(Ok(response));
            }
            if self.overall.is_some() {
                request.tell_end(cx);
            }
            match self.next(began, &request) {
                Some((at, passed)) => alarm.poll(at, cx).map(|()| Err(passed)),
                None => Poll::Pending,
            }
        })
        .await;
        match passed {
            Ok(response) => response.inspect_err(|reply| plan.charge(reply.status)),
            Err(passed) => Err(passed.reply(plan)),
        }
    }
}

/// What the router answers itself counts as the cluster's answer.
fn charge(state: &ClusterState, status: StatusCode) {
    state.stats.upstream_rq_completed.inc();
    if let Some(class) = state.stats.response_class(status.as_u16()) {
        class.inc();
    }
}

impl Plan<'_> {
    /// Counts an answer.
    fn charge(&self, status: StatusCode) {
        charge(&self.state, status);
        if let Some(route) = &self.route {
            route.answered(status.as_u16());
        }
    }

    /// Counts in the route's own statistics, too.
    fn at_route(&self, counter: impl Fn(&RouteStats) -> &Counter) {
        if let Some(route) = &self.route {
            counter(route).inc();
        }
    }
}

/// The host that did not answer in time is judged by that.
fn blame(plan: &Plan<'_>) {
    let Some(host) = plan.asked.take() else {
        return; // between two tries, or the response has begun
    };
    count(&host.counts.rq_timeout);
    plan.state
        .record(&plan.cluster, &host, Ended::Timeout, rand::random());
}

impl Passed {
    fn reply(self, plan: &Plan<'_>) -> LocalReply {
        match self {
            Self::Overall => {
                plan.state.stats.upstream_rq_timeout.inc();
                plan.at_route(|route| &route.upstream_rq_timeout);
                blame(plan);
                let reply = timed_out(plan, LocalReply::response_timeout());
                plan.charge(reply.status);
                reply
            }
            Self::Idle => LocalReply::stream_idle_timeout(plan.body.meter().has_ended()),
            Self::Life => LocalReply::max_stream_duration(),
            Self::Request => LocalReply::request_timeout(),
        }
    }
}

/// How long a gRPC stream may live by its own deadline, where the route lets that count for the stream; outer `None` where not.
fn stream_life(action: &Forward, head: &Head) -> Option<Option<Duration>> {
    let longest = action.timeouts.max_grpc_stream?;
    let asked = head.headers.get("grpc-timeout").and_then(grpc_timeout)?;
    let asked = asked.saturating_sub(action.timeouts.grpc_offset);
    Some(Some(longest.map_or(asked, |longest| asked.min(longest))))
}

/// The answer to a timeout: an empty one, if the caller asked for that.
fn timed_out(plan: &Plan<'_>, reply: LocalReply) -> LocalReply {
    if !plan.head.headers.contains_key(&ALTERNATIVE) {
        return reply;
    }
    LocalReply {
        status: StatusCode::NO_CONTENT,
        body: "".into(),
        ..reply
    }
}

/// Tries until there is an answer or no further try.
async fn tries(exchange: &mut Exchange, plan: &Plan<'_>) -> Result<Box<Response>, LocalReply> {
    let mut tried = Tried::default();
    let mut retries = 0;
    let mut races = 0;
    let mut retry_permit: Option<Permit> = None;
    loop {
        exchange.record.upstream.attempts += 1;
        let outcome = attempt::once(exchange, plan, &mut tried).await;
        drop(retry_permit.take());
        let failure = match outcome {
            Ok(Try::Response(response)) => match should_retry(plan, &response, retries) {
                RetryDecision::Retry(_) => {
                    // What made the policy try again counts against the host, too.
                    plan.state
                        .answered(&plan.cluster, &response.host, &response.parts);
                    tried.sent |= !is_unserved(&response);
                    Failed::Response(response)
                }
                RetryDecision::Stop(reason) => {
                    note_limit(exchange, plan, reason);
                    if retries > 0 && response.parts.status.is_success() {
                        plan.state.stats.upstream_rq_retry_success.inc();
                        plan.at_route(|route| &route.upstream_rq_retry_success);
                    }
                    return Ok(response);
                }
            },
            Ok(Try::Failed(failure)) => {
                tried.sent |= failure.sent;
                Failed::Failure(failure)
            }
            Err(reply) => return Err(reply),
        };
        if let Failed::Failure(failure) = &failure {
            if failure.is_race && races < 2 && plan.body.can_replay() {
                races += 1;
                continue;
            }
            judge(exchange, plan, failure, retries, tried.sent)?;
        }
        let Some(permit) =
            plan.state
                .permit(&plan.cluster, plan.action.high_priority, Resource::Retries)
        else {
            plan.state.stats.upstream_rq_retry_overflow.inc();
            plan.at_route(|route| &route.upstream_rq_retry_overflow);
            return failure.into_answer(retries > 0, tried.sent);
        };
        retry_permit = Some(permit);
        retries += 1;
        plan.state.stats.upstream_rq_retry.inc();
        plan.at_route(|route| &route.upstream_rq_retry);
        tokio::time::sleep(failure.backoff(plan, retries)).await;
    }
}

enum Failed {
    Response(Box<Response>),
    Failure(Failure),
}

impl Failed {
    fn into_answer(self, retried: bool, sent: bool) -> Result<Box<Response>, LocalReply> {
        match self {
            Self::Response(response) => Ok(response),
            Self::Failure(failure) => Err(failure.reply(retried, sent)),
        }
    }

    fn backoff(&self, plan: &Plan<'_>, retry: u32) -> Duration {
        let Some(policy) = &plan.policy else {
            return Duration::ZERO;
        };
        if let Self::Response(response) = self {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            if let Some(asked) = policy.reset_backoff(&response.parts.headers, now) {
                return asked;
            }
        }
        policy.backoff(retry, rand::random())
    }
}

/// Whether another sidecar says that the application was sent nothing.
fn is_unserved(response: &Response) -> bool {
    response.parts.extensions.get::<Unserved>().is_some()
}

fn should_retry(plan: &Plan<'_>, response: &Response, retries: u32) -> RetryDecision {
    if is_unserved(response) {
        // Another sidecar answers for an application it could not reach: a connection that could not be made, one step further.
        let decision = decide(plan, Outcome::Reset(Reset::ConnectFailure), retries, false);
        if decision != RetryDecision::Stop(NoRetry::NotRetriable) {
            return decision;
        }
    }
    let outcome = Outcome::Response {
        status: response.parts.status.as_u16(),
        headers: &response.parts.headers,
    };
    decide(plan, outcome, retries, true)
}

/// Notes that all retries are used.
fn note_limit(exchange: &mut Exchange, plan: &Plan<'_>, reason: NoRetry) {
    if reason == NoRetry::LimitExceeded {
        plan.state.stats.upstream_rq_retry_limit_exceeded.inc();
        plan.at_route(|route| &route.upstream_rq_retry_limit_exceeded);
        exchange
            .record
            .flags
            .insert(ResponseFlag::UpstreamRetryLimitExceeded);
    }
}

/// Whether a failure is tried again; the answer if not.
fn judge(
    exchange: &mut Exchange,
    plan: &Plan<'_>,
    failure: &Failure,
    retries: u32,
    sent: bool,
) -> Result<(), LocalReply> {
    match decide(plan, Outcome::Reset(failure.reset()), retries, failure.sent) {
        RetryDecision::Retry(_) => Ok(()),
        RetryDecision::Stop(reason) => {
            note_limit(exchange, plan, reason);
            Err(failure.reply(retries > 0, sent))
        }
    }
}

fn decide(
    plan: &Plan<'_>,
    outcome: Outcome<'_>,
    retries: u32,
    request_sent: bool,
) -> RetryDecision {
    let Some(policy) = &plan.policy else {
        return RetryDecision::Stop(NoRetry::NotRetriable);
    };
    let attempt = Attempt {
        method: plan.view.method,
        is_grpc: plan.view.is_grpc(),
        retries,
        request_sent,
        body_replayable: plan.body.can_replay(),
        response_started: false,
        http3: false,
    };
    policy.should_retry(outcome, &attempt)
}

/// Makes the answer of the upstream's response.
fn finish(
    exchange: &mut Exchange,
    plan: &Plan<'_>,
    mut response: Box<Response>,
    permit: Permit,
    (started, limit, life): (Instant, Option<Duration>, Option<Instant>),
    upgrade: Option<ClientUpgrade>,
) -> Result<Answer, LocalReply> {
    let joined = upgrade.zip(response.upgrade.take());
    let Response {
        parts,
        host,
        service_time,
        ..
    } = &mut *response;
    let (host, service_time) = (&*host, *service_time);
    let status = match &joined {
        // An upgrade is one in any version of HTTP, and counted and logged as such.
        Some(_) if plan.head.protocol.is_some() => StatusCode::SWITCHING_PROTOCOLS,
        _ => parts.status,
    };
    plan.state.answered(&plan.cluster, host, parts);
    plan.charge(status);
    plan.state.stats.upstream_rq_time.record(service_time);
    if let Some(route) = &plan.route {
        route.upstream_rq_time.record(service_time);
    }
    exchange.record.service_time = Some(service_time);
    exchange.record.details = "via_upstream".into();
    if exchange.manager.exchange.read_response
        && let Some(introduction) = Exchange::take_introduction(&mut parts.headers)
    {
        exchange.record.upstream.peer = host.introduce(&introduction, &exchange.connection.worker);
    }
    let is_request = matches!(plan.upgrade, Upgrade::None | Upgrade::Posted);
    let complete = is_request && plan.body.meter().has_ended();
    if complete && !exchange.manager.suppress_envoy_headers {
        parts
            .headers
            .insert(&headers::SERVICE_TIME, headers::number(service_time));
    }
    exchange.count_attempts(&mut parts.headers, plan.decision);
    exchange.mutate_response(
        &mut parts.headers,
        plan.decision,
        plan.view,
        plan.path.as_deref(),
        parts.status,
    );
    if let Some(joined) = joined {
        upgrade::answer(parts, plan.head);
        return Ok(tunnel(exchange, plan, response, joined, permit));
    }
    if let Source::Upstream(upstream) = &mut response.source {
        upstream.deadlines = deadlines(exchange, plan, (started, limit), life);
        upstream.permit = Some(permit);
    }
    Ok(response)
}

/// The answer to an upgrade that was granted: bytes both ways.
fn tunnel(
    exchange: &mut Exchange,
    plan: &Plan<'_>,
    mut response: Box<Response>,
    joined: (ClientUpgrade, Upgraded),
    permit: Permit,
) -> Answer {
    exchange.record.upgraded = plan.head.protocol.is_some();
    let timeouts = &exchange.manager.config.timeouts;
    let idle = plan.action.timeouts.idle.unwrap_or(timeouts.stream_idle);
    response.source = match response.source {
        Source::Upstream(upstream) => {
            let Upstream { active, lease, .. } = *upstream;
            Source::Tunnel(Box::new(Tunnel::new(joined, active, lease, permit, idle)))
        }
        tunnel @ Source::Tunnel(_) => tunnel,
    };
    response
}

/// The times the rest of the response has to keep.
fn deadlines(
    exchange: &Exchange,
    plan: &Plan<'_>,
    (started, limit): (Instant, Option<Duration>),
    life: Option<Instant>,
) -> Deadlines {
    let timeouts = &exchange.manager.config.timeouts;
    let idle = plan.action.timeouts.idle.unwrap_or(timeouts.stream_idle);
    Deadlines {
        // A request that is still being sent has not started the clock.
        overall: limit
            .filter(|_| plan.body.meter().has_ended())
            .map(|limit| Timer::new(started + limit)),
        stream: life.map(Timer::new),
        idle: idle.map(|idle| (idle, Timer::new(clock::now() + idle))),
    }
}

fn set_cookie(exchange: &mut Exchange, hashed: &HashResult<'_>) {
    if let Some((cookie, value)) = hashed.new_cookie
        && let Ok(value) = HeaderValue::from_str(&cookie.set_cookie(value))
    {
        exchange.additions.append(http::header::SET_COOKIE, value);
    }
}

fn replay_limit(exchange: &Exchange, decision: &RouteDecision<'_>) -> usize {
    let most = exchange.connection.worker.shared.config.limits.replay_bytes;
    let asked = decision
        .route
        .retry_buffer_limit
        .or(decision.vhost.retry_buffer_limit);
    asked.map_or(most, |asked| {
        usize::try_from(asked).unwrap_or(most).min(most)
    })
}

impl Failure {
    fn reset(&self) -> Reset {
        match self.reason {
            _ if self.per_try_timeout => Reset::PerTryTimeout,
            ResetReason::RemoteConnectionFailure | ResetReason::ConnectionTimeout => {
                Reset::ConnectFailure
            }
            ResetReason::RemoteRefusedStream => Reset::RefusedStream,
            ResetReason::Overflow => Reset::Overflow,
            ResetReason::ConnectionTermination
            | ResetReason::RemoteReset
            | ResetReason::ProtocolError => Reset::Remote,
        }
    }

    /// The answer to the last of some tries; `sent` if any byte of the request may have been sent in any of them.
    fn reply(&self, retried: bool, sent: bool) -> LocalReply {
        if self.per_try_timeout {
            return LocalReply::per_try_timeout();
        }
        let transport_failure = self.transport_failure.as_deref();
        LocalReply {
            unserved: !sent && self.reset() == Reset::ConnectFailure,
            ..LocalReply::upstream_reset(self.reason, transport_failure, retried)
        }
    }
}
