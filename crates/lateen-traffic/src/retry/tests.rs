//! Tests of retry decisions: Envoy's conditions, and what is never repeated.

use http::HeaderValue;

use super::*;
use crate::matcher::{HeaderKey, HeaderMatch};
use crate::testing::Request;

fn policy(on: &str) -> RetryPolicy {
    RetryPolicy {
        on: RetryOn::parse(on),
        num_retries: 2,
        retriable_status_codes: vec![418],
        ..RetryPolicy::default()
    }
}

fn attempt() -> Attempt<'static> {
    Attempt {
        method: "GET",
        is_grpc: false,
        retries: 0,
        request_sent: true,
        body_replayable: true,
        response_started: false,
        http3: false,
    }
}

fn retried(on: &str, outcome: Outcome<'_>) -> bool {
    matches!(
        policy(on).should_retry(outcome, &attempt()),
        RetryDecision::Retry(_)
    )
}

fn on_status(on: &str, status: u16) -> bool {
    retried(
        on,
        Outcome::Response {
            status,
            headers: &HeaderMap::new(),
        },
    )
}

#[test]
fn status_conditions_are_envoys() {
    assert!(on_status("5xx", 500) && on_status("5xx", 599) && !on_status("5xx", 404));
    assert!(on_status("gateway-error", 502) && on_status("gateway-error", 504));
    assert!(!on_status("gateway-error", 500) && !on_status("gateway-error", 505));
    assert!(on_status("retriable-4xx", 409) && !on_status("retriable-4xx", 408));
    assert!(on_status("retriable-status-codes", 418) && !on_status("retriable-status-codes", 503));
    assert!(!on_status("connect-failure,refused-stream,reset", 503));
}

#[test]
fn reset_conditions_are_envoys() {
    let all = [
        Reset::ConnectFailure,
        Reset::RefusedStream,
        Reset::Remote,
        Reset::PerTryTimeout,
        Reset::Overflow,
    ];
    for (on, expected) in [
        ("5xx", [true, true, true, true, false]),
        ("gateway-error", [true, true, true, true, false]),
        ("reset", [true, true, true, true, false]),
        ("connect-failure", [true, false, false, false, false]),
        ("refused-stream", [false, true, false, false, false]),
        (
            "retriable-4xx,retriable-status-codes,unavailable",
            [false; 5],
        ),
    ] {
        assert_eq!(
            all.map(|reset| retried(on, Outcome::Reset(reset))),
            expected,
            "{on}"
        );
    }
}

#[test]
fn reset_before_request_wants_that_nothing_was_sent() {
    let decide = |request_sent| {
        let attempt = Attempt {
            request_sent,
            ..attempt()
        };
        policy("reset-before-request").should_retry(Outcome::Reset(Reset::Remote), &attempt)
    };
    assert_eq!(
        decide(false),
        RetryDecision::Retry(RetryOn::RESET_BEFORE_REQUEST)
    );
    assert_eq!(decide(true), RetryDecision::Stop(NoRetry::NotRetriable));
}

#[test]
fn grpc_conditions_look_at_trailers_only_responses() {
    for (status, on) in [
        ("1", "cancelled"),
        ("4", "deadline-exceeded"),
        ("8", "resource-exhausted"),
        ("13", "internal"),
        ("14", "unavailable"),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", HeaderValue::from_static(status));
        let outcome = Outcome::Response {
            status: 200,
            headers: &headers,
        };
        assert!(retried(on, outcome), "{on}");
        assert!(!retried("5xx", outcome), "{on}");
    }
}

#[test]
fn a_rate_limited_response_is_only_retried_if_asked_for() {
    let mut headers = HeaderMap::new();
    headers.insert("x-envoy-ratelimited", HeaderValue::from_static("true"));
    let outcome = Outcome::Response {
        status: 503,
        headers: &headers,
    };
    assert!(!retried("5xx", outcome));
    assert!(retried("envoy-ratelimited", outcome));
}

#[test]
fn retriable_headers_are_matched_in_the_response() {
    let mut headers = HeaderMap::new();
    headers.insert("x-again", HeaderValue::from_static("1"));
    let matcher = HeaderMatcher {
        key: HeaderKey::parse("x-again").unwrap(),
        condition: HeaderMatch::Present(true),
        invert: false,
        missing_as_empty: false,
    };
    let policy = RetryPolicy {
        retriable_headers: vec![matcher],
        ..policy("retriable-headers")
    };
    let decide = |headers: &HeaderMap| {
        policy.should_retry(
            Outcome::Response {
                status: 200,
                headers,
            },
            &attempt(),
        )
    };
    assert_eq!(
        decide(&headers),
        RetryDecision::Retry(RetryOn::RETRIABLE_HEADERS)
    );
    assert_eq!(
        decide(&HeaderMap::new()),
        RetryDecision::Stop(NoRetry::NotRetriable)
    );
}

#[test]
fn retries_end() {
    let stop =
        |attempt: Attempt<'_>| policy("5xx").should_retry(Outcome::Reset(Reset::Remote), &attempt);
    assert_eq!(
        stop(Attempt {
            retries: 2,
            ..attempt()
        }),
        RetryDecision::Stop(NoRetry::LimitExceeded)
    );
    assert_eq!(
        stop(Attempt {
            body_replayable: false,
            ..attempt()
        }),
        RetryDecision::Stop(NoRetry::BodyNotReplayable)
    );
    assert_eq!(
        stop(Attempt {
            response_started: true,
            ..attempt()
        }),
        RetryDecision::Stop(NoRetry::ResponseStarted)
    );
}

#[test]
fn the_default_policy_never_repeats_what_a_server_may_have_done() {
    let default = RetryPolicy {
        is_mesh_default: true,
        ..policy("connect-failure,refused-stream,unavailable,cancelled,reset")
    };
    let decide = |method, reset, request_sent| {
        let attempt = Attempt {
            method,
            request_sent,
            ..attempt()
        };
        matches!(
            default.should_retry(Outcome::Reset(reset), &attempt),
            RetryDecision::Retry(_)
        )
    };
    assert!(decide("POST", Reset::ConnectFailure, false));
    assert!(decide("POST", Reset::RefusedStream, true));
    assert!(decide("POST", Reset::Remote, false));
    assert!(!decide("POST", Reset::Remote, true));
    assert!(!decide("PATCH", Reset::PerTryTimeout, true));
    assert!(decide("GET", Reset::Remote, true));
    assert!(decide("PUT", Reset::Remote, true));
    let written = RetryPolicy {
        is_mesh_default: false,
        ..default
    };
    let attempt = Attempt {
        method: "POST",
        ..attempt()
    };
    assert!(matches!(
        written.should_retry(Outcome::Reset(Reset::Remote), &attempt),
        RetryDecision::Retry(_)
    ));
}

#[test]
fn a_request_may_ask_for_retries_by_headers() {
    let mut headers = HeaderMap::new();
    assert!(policy("5xx").with_headers(&headers).is_none());
    headers.insert(
        "x-envoy-retry-on",
        HeaderValue::from_static("retriable-4xx, reset"),
    );
    headers.insert(
        "x-envoy-retry-grpc-on",
        HeaderValue::from_static("unavailable"),
    );
    headers.insert(
        "x-envoy-max-retries",
        HeaderValue::from_static("4000000000"),
    );
    headers.insert(
        "x-envoy-retriable-status-codes",
        HeaderValue::from_static("429,x,503"),
    );
    let merged = policy("5xx").with_headers(&headers).unwrap();
    assert_eq!(merged.on.to_string(), "5xx,reset,retriable-4xx,unavailable");
    assert_eq!(merged.num_retries, MAX_HEADER_RETRIES);
    assert_eq!(merged.retriable_status_codes, [418, 429, 503]);
    let bare = RetryPolicy::default().with_headers(&headers).unwrap();
    assert!(bare.num_retries > 0 && !bare.is_mesh_default);
}

#[test]
fn conditions_are_printed_as_they_are_parsed() {
    let text = "5xx,gateway-error,reset,connect-failure,unavailable";
    assert_eq!(RetryOn::parse(text).to_string(), text);
    assert!(RetryOn::parse("nonsense,").is_empty());
}

#[test]
fn the_policy_applies_to_requests_that_match_its_headers() {
    let matcher = HeaderMatcher {
        key: HeaderKey::Method,
        condition: HeaderMatch::String(crate::matcher::StringMatcher::exact("GET")),
        invert: false,
        missing_as_empty: false,
    };
    let policy = RetryPolicy {
        retriable_request_headers: vec![matcher],
        ..policy("5xx")
    };
    assert!(Request::new("GET", "a", "/").with(|request| policy.applies_to(request)));
    assert!(!Request::new("POST", "a", "/").with(|request| policy.applies_to(request)));
}

#[test]
fn backoff_grows_and_is_capped() {
    let policy = policy("5xx");
    // Envoy: with a base of 25 ms anything below 25, 75, 175 and then 250 ms.
    for (retry, below) in [(1, 25), (2, 75), (3, 175), (4, 250), (40, 250)] {
        let nanos = below * 1_000_000;
        assert_eq!(
            policy.backoff(retry, nanos - 1),
            Duration::from_nanos(nanos - 1),
            "retry {retry}"
        );
        assert_eq!(
            policy.backoff(retry, nanos),
            Duration::ZERO,
            "retry {retry}"
        );
    }
}

#[test]
fn a_response_may_say_when_to_retry() {
    let reset = |name, unix_timestamp| ResetHeader {
        name: http::HeaderName::from_static(name),
        unix_timestamp,
    };
    let policy = RetryPolicy {
        reset_headers: vec![reset("retry-after", false), reset("x-reset", true)],
        reset_max_interval: Duration::from_secs(300),
        ..policy("5xx")
    };
    let asked = |name, value| {
        let mut headers = HeaderMap::new();
        headers.insert(
            http::HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
        policy.reset_backoff(&headers, Duration::from_secs(1000))
    };
    assert_eq!(asked("retry-after", "7"), Some(Duration::from_secs(7)));
    assert_eq!(asked("retry-after", "301"), None);
    assert_eq!(asked("x-reset", "1010"), Some(Duration::from_secs(10)));
    assert_eq!(asked("x-reset", "999"), None);
}
