//! Retries: which outcomes are tried again, how often and after how long (`route.v3.RetryPolicy`).
//!
//! Source: Envoy's `RetryStateImpl` and the documentation of `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};
use std::time::Duration;

use http::HeaderMap;

use crate::matcher::HeaderMatcher;
use crate::request::RequestView;

/// Conditions under which to retry, as a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u32);

/// A retry policy, compiled.
#[derive(Clone, Debug, Default)]
pub struct RetryPolicy {
    /// The conditions.
    pub on: RetryOn,
    /// How many retries after the first attempt.
    pub num_retries: u32,
    /// Time for one attempt; `None` has no limit of its own, zero likewise.
    pub per_try_timeout: Option<Duration>,
    /// Time without a byte in one attempt.
    pub per_try_idle_timeout: Option<Duration>,
    /// First back-off interval; 25 ms if not set.
    pub base_interval: Option<Duration>,
    /// Longest back-off interval; ten times the first if not set.
    pub max_interval: Option<Duration>,
    /// For `retriable-status-codes`.
    pub retriable_status_codes: Vec<u16>,
    /// For `retriable-headers`: response headers.
    pub retriable_headers: Vec<HeaderMatcher>,
    /// Only requests that match one of them are retried; empty asks nothing.
    pub retriable_request_headers: Vec<HeaderMatcher>,
    /// Hosts already tried are avoided (`envoy.retry_host_predicates.previous_hosts`).
    pub avoid_previous_hosts: bool,
    /// Priorities already tried are avoided, after this many attempts on one (`previous_priorities`).
    pub avoid_previous_priorities: Option<u32>,
    /// How often to pick another host if the predicate refuses one; the last is taken then.
    pub host_selection_attempts: u32,
    /// Response headers that say when to retry, tried in order.
    pub reset_headers: Vec<ResetHeader>,
    /// Longest interval taken from a reset header.
    pub reset_max_interval: Duration,
    /// The policy is the mesh's default, not the user's: an attempt that the server may have acted upon is repeated only
    /// for methods that are idempotent. See [`RetryPolicy::should_retry`].
    pub is_mesh_default: bool,
}

/// A response header that says when to retry.
#[derive(Clone, Debug)]
pub struct ResetHeader {
    /// Its name.
    pub name: http::HeaderName,
    /// Whether it holds a Unix time rather than seconds.
    pub unix_timestamp: bool,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// Response headers arrived.
    Response {
        /// The status.
        status: u16,
        /// The headers.
        headers: &'a HeaderMap,
    },
    /// The attempt failed before response headers.
    Reset(Reset),
}

/// How an attempt failed before response headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// No connection could be made. The request was never sent.
    ConnectFailure,
    /// The peer refused the stream (REFUSED_STREAM, or a GOAWAY below its number). It was never processed.
    RefusedStream,
    /// The connection ended or the stream was reset.
    Remote,
    /// The attempt's own time ran out.
    PerTryTimeout,
    /// A limit of the cluster's circuit breaker was reached. The request was never sent.
    Overflow,
}

/// What is known about the request at the time of the decision.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The request's method.
    pub method: &'a str,
    /// Whether it is gRPC.
    pub is_grpc: bool,
    /// Retries already made (0 after the first attempt).
    pub retries: u32,
    /// Whether any byte of the request was sent upstream.
    pub request_sent: bool,
    /// Whether the whole body is still at hand.
    pub body_replayable: bool,
    /// Whether response headers went downstream already.
    pub response_started: bool,
    /// Whether the HTTP/3 upstream failed (for `http3-post-connect-failure`).
    pub http3: bool,
}

/// Whether to retry, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// Try again because of this condition.
    Retry(RetryOn),
    /// Do not.
    Stop(NoRetry),
}

/// Why there is no retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRetry {
    /// No condition of the policy holds.
    NotRetriable,
    /// All retries are used (`URX`).
    LimitExceeded,
    /// The body is gone.
    BodyNotReplayable,
    /// The client has part of the response.
    ResponseStarted,
    /// The server may have acted on a request that is not idempotent, and the policy is the mesh's default.
    NotIdempotent,
}

/// Names of conditions, as in `retry_on` and the `x-envoy-retry-on` and `x-envoy-retry-grpc-on` headers.
const CONDITIONS: &[(&str, RetryOn)] = &[
    ("5xx", RetryOn::SERVER_ERROR),
    ("gateway-error", RetryOn::GATEWAY_ERROR),
    ("reset", RetryOn::RESET),
    ("reset-before-request", RetryOn::RESET_BEFORE_REQUEST),
    ("connect-failure", RetryOn::CONNECT_FAILURE),
    ("envoy-ratelimited", RetryOn::ENVOY_RATE_LIMITED),
    ("retriable-4xx", RetryOn::RETRIABLE_4XX),
    ("refused-stream", RetryOn::REFUSED_STREAM),
    ("retriable-status-codes", RetryOn::RETRIABLE_STATUS_CODES),
    ("retriable-headers", RetryOn::RETRIABLE_HEADERS),
    (
        "http3-post-connect-failure",
        RetryOn::HTTP3_POST_CONNECT_FAILURE,
    ),
    ("cancelled", RetryOn::GRPC_CANCELLED),
    ("deadline-exceeded", RetryOn::GRPC_DEADLINE_EXCEEDED),
    ("internal", RetryOn::GRPC_INTERNAL),
    ("resource-exhausted", RetryOn::GRPC_RESOURCE_EXHAUSTED),
    ("unavailable", RetryOn::GRPC_UNAVAILABLE),
];

/// Retries a request header may ask for, at most.
const MAX_HEADER_RETRIES: u32 = 100;
/// First back-off interval if none is set. Source: Envoy, `upstream.base_retry_backoff_ms`.
const DEFAULT_BASE_INTERVAL: Duration = Duration::from_millis(25);

impl RetryOn {
    /// A status of 500 to 599, or no response at all.
    pub const SERVER_ERROR: Self = Self(1);
    /// A status of 502, 503 or 504, or no response at all.
    pub const GATEWAY_ERROR: Self = Self(1 << 1);
    /// No response at all.
    pub const RESET: Self = Self(1 << 2);
    /// No response at all, and nothing of the request was sent.
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 3);
    /// No connection could be made.
    pub const CONNECT_FAILURE: Self = Self(1 << 4);
    /// The response has `x-envoy-ratelimited`.
    pub const ENVOY_RATE_LIMITED: Self = Self(1 << 5);
    /// A status of 409.
    pub const RETRIABLE_4XX: Self = Self(1 << 6);
    /// The stream was refused.
    pub const REFUSED_STREAM: Self = Self(1 << 7);
    /// A status of the policy's list.
    pub const RETRIABLE_STATUS_CODES: Self = Self(1 << 8);
    /// A response header of the policy's list.
    pub const RETRIABLE_HEADERS: Self = Self(1 << 9);
    /// An HTTP/3 request that failed after the connection was there.
    pub const HTTP3_POST_CONNECT_FAILURE: Self = Self(1 << 10);
    /// gRPC status 1.
    pub const GRPC_CANCELLED: Self = Self(1 << 11);
    /// gRPC status 4.
    pub const GRPC_DEADLINE_EXCEEDED: Self = Self(1 << 12);
    /// gRPC status 13.
    pub const GRPC_INTERNAL: Self = Self(1 << 13);
    /// gRPC status 8.
    pub const GRPC_RESOURCE_EXHAUSTED: Self = Self(1 << 14);
    /// gRPC status 14.
    pub const GRPC_UNAVAILABLE: Self = Self(1 << 15);

    /// Parses a comma-separated list. Names that are not known are passed over, as Envoy does.
    pub fn parse(list: &str) -> Self {
        let mut set = Self::default();
        for name in list.split(',').map(str::trim) {
            if let Some((_, condition)) = CONDITIONS.iter().find(|(known, _)| *known == name) {
                set |= *condition;
            }
        }
        set
    }

    /// Whether one of some conditions is in the set.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for RetryOn {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for RetryOn {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Display for RetryOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, condition) in CONDITIONS {
            if self.intersects(*condition) {
                write!(f, "{separator}{name}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

impl fmt::Display for NoRetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotRetriable => "no condition of the retry policy holds",
            Self::LimitExceeded => "all retries are used",
            Self::BodyNotReplayable => "the request's body is no longer at hand",
            Self::ResponseStarted => "the response has begun",
            Self::NotIdempotent => {
                "the server may have acted on the request, its method is not idempotent, and the policy is the mesh's default"
            }
        })
    }
}

impl RetryPolicy {
    /// Whether an attempt is tried again.
    ///
    /// A policy that the user wrote does what Envoy does. The mesh's default policy ([`RetryPolicy::is_mesh_default`]) also
    /// repeats, for methods that are not idempotent, only what the server certainly did not act upon.
    pub fn should_retry(&self, outcome: Outcome<'_>, attempt: &Attempt<'_>) -> RetryDecision {
        if attempt.response_started {
            return RetryDecision::Stop(NoRetry::ResponseStarted);
        }
        let Some(condition) = self.condition(outcome, attempt) else {
            return RetryDecision::Stop(NoRetry::NotRetriable);
        };
        if attempt.retries >= self.num_retries {
            return RetryDecision::Stop(NoRetry::LimitExceeded);
        }
        if !attempt.body_replayable {
            return RetryDecision::Stop(NoRetry::BodyNotReplayable);
        }
        if self.is_mesh_default
            && !is_idempotent(attempt.method)
            && may_have_acted(outcome, attempt)
        {
            return RetryDecision::Stop(NoRetry::NotIdempotent);
        }
        RetryDecision::Retry(condition)
    }

    /// The condition of the policy that holds, if one does.
    fn condition(&self, outcome: Outcome<'_>, attempt: &Attempt<'_>) -> Option<RetryOn> {
        match outcome {
            Outcome::Response { status, headers } => self.response_condition(status, headers),
            Outcome::Reset(reset) => self.reset_condition(reset, attempt),
        }
    }

    fn response_condition(&self, status: u16, headers: &HeaderMap) -> Option<RetryOn> {
        let wanted = |condition: RetryOn, holds: bool| {
            (self.on.intersects(condition) && holds).then_some(condition)
        };
        if headers.contains_key("x-envoy-ratelimited") {
            return wanted(RetryOn::ENVOY_RATE_LIMITED, true);
        }
        wanted(RetryOn::SERVER_ERROR, (500..600).contains(&status))
            .or_else(|| wanted(RetryOn::GATEWAY_ERROR, (502..=504).contains(&status)))
            .or_else(|| wanted(RetryOn::RETRIABLE_4XX, status == 409))
            .or_else(|| {
                wanted(
                    RetryOn::RETRIABLE_STATUS_CODES,
                    self.retriable_status_codes.contains(&status),
                )
            })
            .or_else(|| {
                let matched = || {
                    self.retriable_headers
                        .iter()
                        .any(|matcher| matcher.matches_response(status, headers))
                };
                wanted(
                    RetryOn::RETRIABLE_HEADERS,
                    self.on.intersects(RetryOn::RETRIABLE_HEADERS) && matched(),
                )
            })
            .or_else(|| wanted(grpc_condition(headers)?, true))
    }

    fn reset_condition(&self, reset: Reset, attempt: &Attempt<'_>) -> Option<RetryOn> {
        if reset == Reset::Overflow {
            return None;
        }
        let wanted = |condition: RetryOn, holds: bool| {
            (self.on.intersects(condition) && holds).then_some(condition)
        };
        wanted(RetryOn::RESET, true)
            .or_else(|| wanted(RetryOn::RESET_BEFORE_REQUEST, !attempt.request_sent))
            .or_else(|| wanted(RetryOn::CONNECT_FAILURE, reset == Reset::ConnectFailure))
            .or_else(|| wanted(RetryOn::REFUSED_STREAM, reset == Reset::RefusedStream))
            .or_else(|| wanted(RetryOn::HTTP3_POST_CONNECT_FAILURE, attempt.http3))
            .or_else(|| wanted(RetryOn::SERVER_ERROR, true))
            .or_else(|| wanted(RetryOn::GATEWAY_ERROR, true))
    }

    /// Whether retries are possible at all for a request: what the proxy keeps a body for.
    pub fn applies_to(&self, request: &RequestView<'_>) -> bool {
        !self.on.is_empty()
            && (self.retriable_request_headers.is_empty()
                || self
                    .retriable_request_headers
                    .iter()
                    .any(|matcher| matcher.matches(request)))
    }

    /// The policy with what the request's `x-envoy-retry-on`, `x-envoy-retry-grpc-on`, `x-envoy-max-retries`,
    /// `x-envoy-retriable-status-codes` and `x-envoy-retriable-header-names` ask for; `None` if they ask for nothing. Only for requests from inside the mesh.
    pub fn with_headers(&self, headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let on = text("x-envoy-retry-on");
        let grpc_on = text("x-envoy-retry-grpc-on");
        let max = text("x-envoy-max-retries").and_then(|text| text.trim().parse::<u32>().ok());
        let codes = text("x-envoy-retriable-status-codes");
        let names = text("x-envoy-retriable-header-names");
        if [on, grpc_on, codes, names].iter().all(Option::is_none) && max.is_none() {
            return None;
        }
        let mut policy = self.clone();
        if on.is_some() || grpc_on.is_some() {
            // The caller asks for retries by itself: no longer the mesh's default, and one retry unless it says more.
            policy.is_mesh_default = false;
            policy.num_retries = policy.num_retries.max(1);
        }
        policy.on |=
            RetryOn::parse(on.unwrap_or_default()) | RetryOn::parse(grpc_on.unwrap_or_default());
        if let Some(max) = max {
            policy.num_retries = max.min(MAX_HEADER_RETRIES);
        }
        let codes = codes
            .unwrap_or_default()
            .split(',')
            .filter_map(|code| code.trim().parse::<u16>().ok());
        policy.retriable_status_codes.extend(codes);
        let names = names
            .unwrap_or_default()
            .split(',')
            .filter_map(|name| name.trim().parse().ok());
        policy
            .retriable_headers
            .extend(names.map(HeaderMatcher::present));
        Some(policy)
    }

    /// How long to wait before the `retry`-th retry (from 1), by a random number: anything below `(2^retry - 1) * base`, but
    /// below the longest interval. Source: Envoy's documentation of `x-envoy-max-retries`.
    pub fn backoff(&self, retry: u32, random: u64) -> Duration {
        let base = self
            .base_interval
            .unwrap_or(DEFAULT_BASE_INTERVAL)
            .max(Duration::from_millis(1));
        let longest = self
            .max_interval
            .unwrap_or(base.saturating_mul(10))
            .max(base);
        let factor = 1_u32
            .checked_shl(retry.max(1))
            .map_or(u32::MAX, |power| power - 1);
        let range = base.saturating_mul(factor).min(longest);
        let nanos = u64::try_from(range.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(random % nanos)
    }

    /// How long the response itself asks to wait (`rate_limited_retry_back_off`). `unix_now` is the time since the epoch.
    pub fn reset_backoff(&self, headers: &HeaderMap, unix_now: Duration) -> Option<Duration> {
        self.reset_headers.iter().find_map(|reset| {
            let seconds: u64 = headers
                .get(&reset.name)?
                .to_str()
                .ok()?
                .trim()
                .parse()
                .ok()?;
            let asked = Duration::from_secs(seconds);
            let wait = if reset.unix_timestamp {
                asked.checked_sub(unix_now)?
            } else {
                asked
            };
            (wait <= self.reset_max_interval).then_some(wait)
        })
    }
}

/// Methods that may be repeated without harm. Source: RFC 9110, section 9.2.2.
pub fn is_idempotent(method: &str) -> bool {
    matches!(
        method,
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"
    )
}

/// Whether the server may have acted on the request.
fn may_have_acted(outcome: Outcome<'_>, attempt: &Attempt<'_>) -> bool {
    match outcome {
        Outcome::Response { .. } => true,
        Outcome::Reset(Reset::ConnectFailure | Reset::RefusedStream | Reset::Overflow) => false,
        Outcome::Reset(Reset::Remote | Reset::PerTryTimeout) => attempt.request_sent,
    }
}

fn grpc_condition(headers: &HeaderMap) -> Option<RetryOn> {
    match headers.get("grpc-status")?.to_str().ok()? {
        "1" => Some(RetryOn::GRPC_CANCELLED),
        "4" => Some(RetryOn::GRPC_DEADLINE_EXCEEDED),
        "8" => Some(RetryOn::GRPC_RESOURCE_EXHAUSTED),
        "13" => Some(RetryOn::GRPC_INTERNAL),
        "14" => Some(RetryOn::GRPC_UNAVAILABLE),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
