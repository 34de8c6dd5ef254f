//! How long a request may take and which failures are tried again: what the route says, and what its caller asks for instead.
//!
//! Source: Envoy's documentation of `x-envoy-upstream-rq-timeout-ms`, `max_grpc_timeout` and `x-envoy-retry-on`.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::action::Forward;
use super::decision::RouteDecision;
use crate::request::RequestView;
use crate::retry::RetryPolicy;

/// Headers by which a caller inside the mesh asks for retries.
pub const RETRY_HEADERS: [&str; 5] = [
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
];

/// Whether a header is one of Envoy's own: most are told from those by their first byte.
fn is_envoys(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    name.first() == Some(&b'x') && name.starts_with(b"x-envoy-")
}

impl Forward {
    /// The route's timeout, or what an internal caller asks for instead, or gRPC's own deadline.
    pub fn request_timeout(&self, headers: &HeaderMap) -> Option<Duration> {
        if let Some(asked) = milliseconds(headers, "x-envoy-upstream-rq-timeout-ms") {
            return Some(asked).filter(|t| !t.is_zero());
        }
        if let Some(longest) = self.timeouts.max_grpc
            && let Some(asked) = headers.get("grpc-timeout").and_then(grpc_timeout)
        {
            let asked = asked.saturating_sub(self.timeouts.grpc_offset);
            return Some(longest.map_or(asked, |longest| asked.min(longest)));
        }
        self.timeouts.request
    }
}

impl RouteDecision<'_> {
    /// The retry policy of a request: the route's with what the request's headers ask for; `None` if nothing is tried again.
    pub fn retries_for(&self, request: &RequestView<'_>) -> Option<Arc<RetryPolicy>> {
        if request.method == "CONNECT" || request.protocol.is_some() {
            return None;
        }
        let base = self.retry_policy();
        let asks = request
            .headers
            .keys()
            .any(|name| is_envoys(name) && RETRY_HEADERS.contains(&name.as_str()));
        let policy = if asks {
            let policy = base.map(|policy| (**policy).clone()).unwrap_or_default();
            Arc::new(policy.with_headers(request.headers)?)
        } else {
            Arc::clone(base?)
        };
        policy.applies_to(request).then_some(policy)
    }
}

/// The time of one attempt: what the caller asks for, else the policy's.
pub fn try_timeout(policy: Option<&RetryPolicy>, headers: &HeaderMap) -> Option<Duration> {
    milliseconds(headers, "x-envoy-upstream-rq-per-try-timeout-ms")
        .or_else(|| policy.and_then(|policy| policy.per_try_timeout))
        .filter(|t| !t.is_zero())
}

fn milliseconds(headers: &HeaderMap, name: &str) -> Option<Duration> {
    // Most requests have no header of Envoy's. Looking for one by its name costs more than a look at the names that are there.
    if !headers.keys().any(|known| known.as_str() == name) {
        return None;
    }
    let text = headers.get(name)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_millis)
}

/// The value of `grpc-timeout`: at most eight digits and a unit. Source: gRPC over HTTP/2.
pub fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}
