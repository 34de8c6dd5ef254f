//! Outlier detection. Defaults are Envoy's.

use std::time::Duration;

use lateen_envoy::pb::envoy::config::cluster::v3 as cds;
use lateen_envoy::pb::envoy::config::common::matcher::v3 as predicate;

use crate::cluster::{Enforcing, ErrorMatcher, FailurePercentage, OutlierDetection, SuccessRate};
use crate::from_xds::basic::{flag, number, optional_duration};
use crate::from_xds::error::Within as _;
use crate::from_xds::{XdsError, matchers};

/// Matchers nested in one another, at most.
const MAX_DEPTH: usize = 16;

/// Compiles outlier detection.
pub(super) fn compile(from: &cds::OutlierDetection) -> Result<OutlierDetection, XdsError> {
    if !from.monitors.is_empty() {
        return Err(XdsError::new("is not supported").within("monitors"));
    }
    let or = |value, default| number(value).unwrap_or(default);
    let base = optional_duration(from.base_ejection_time.as_ref(), "base_ejection_time")?;
    let base = base.unwrap_or(Duration::from_secs(30));
    let longest = optional_duration(from.max_ejection_time.as_ref(), "max_ejection_time")?;
    let jitter = optional_duration(
        from.max_ejection_time_jitter.as_ref(),
        "max_ejection_time_jitter",
    )?;
    Ok(OutlierDetection {
        consecutive_5xx: or(from.consecutive_5xx.as_ref(), 5),
        consecutive_gateway_failure: or(from.consecutive_gateway_failure.as_ref(), 5),
        consecutive_local_origin_failure: or(from.consecutive_local_origin_failure.as_ref(), 5),
        split_external_local_origin_errors: from.split_external_local_origin_errors,
        enforcing: enforcing(from),
        interval: optional_duration(from.interval.as_ref(), "interval")?
            .unwrap_or(Duration::from_secs(10)),
        base_ejection_time: base,
        max_ejection_time: longest.unwrap_or(Duration::from_secs(300)).max(base),
        max_ejection_time_jitter: jitter.unwrap_or_default(),
        max_ejection_percent: or(from.max_ejection_percent.as_ref(), 10),
        always_eject_one_host: flag(from.always_eject_one_host.as_ref(), false),
        success_rate: SuccessRate {
            minimum_hosts: or(from.success_rate_minimum_hosts.as_ref(), 5),
            request_volume: or(from.success_rate_request_volume.as_ref(), 100),
            stdev_factor: or(from.success_rate_stdev_factor.as_ref(), 1900),
        },
        failure_percentage: FailurePercentage {
            threshold: or(from.failure_percentage_threshold.as_ref(), 85),
            minimum_hosts: or(from.failure_percentage_minimum_hosts.as_ref(), 5),
            request_volume: or(from.failure_percentage_request_volume.as_ref(), 50),
        },
        successful_active_health_check_uneject_host: flag(
            from.successful_active_health_check_uneject_host.as_ref(),
            true,
        ),
    })
}

fn enforcing(from: &cds::OutlierDetection) -> Enforcing {
    let or = |value, default| number(value).unwrap_or(default);
    Enforcing {
        consecutive_5xx: or(from.enforcing_consecutive_5xx.as_ref(), 100),
        consecutive_gateway_failure: or(from.enforcing_consecutive_gateway_failure.as_ref(), 0),
        consecutive_local_origin_failure: or(
            from.enforcing_consecutive_local_origin_failure.as_ref(),
            100,
        ),
        success_rate: or(from.enforcing_success_rate.as_ref(), 100),
        local_origin_success_rate: or(from.enforcing_local_origin_success_rate.as_ref(), 100),
        failure_percentage: or(from.enforcing_failure_percentage.as_ref(), 0),
        failure_percentage_local_origin: or(
            from.enforcing_failure_percentage_local_origin.as_ref(),
            0,
        ),
    }
}

/// Compiles what tells errors from other responses.
pub(super) fn error_matcher(from: &predicate::MatchPredicate) -> Result<ErrorMatcher, XdsError> {
    nested(from, MAX_DEPTH)
}

fn nested(from: &predicate::MatchPredicate, depth: usize) -> Result<ErrorMatcher, XdsError> {
    use predicate::match_predicate::Rule;
    if depth == 0 {
        return Err(XdsError::new("matchers are nested too deeply"));
    }
    let all = |set: &predicate::match_predicate::MatchSet| {
        let rules = set.rules.iter().enumerate();
        rules
            .map(|(index, rule)| nested(rule, depth - 1).at("rules", index))
            .collect::<Result<Vec<_>, _>>()
    };
    match &from.rule {
        Some(Rule::AnyMatch(true)) => Ok(ErrorMatcher::Any),
        Some(Rule::OrMatch(set)) => all(set).within("or_match").map(ErrorMatcher::Or),
        Some(Rule::AndMatch(set)) => all(set).within("and_match").map(ErrorMatcher::And),
        Some(Rule::NotMatch(inner)) => nested(inner, depth - 1)
            .within("not_match")
            .map(|inner| ErrorMatcher::Not(Box::new(inner))),
        Some(Rule::HttpResponseHeadersMatch(headers)) => {
            let headers = headers.headers.iter().enumerate();
            headers
                .map(|(index, header)| matchers::header(header).at("headers", index))
                .collect::<Result<_, _>>()
                .within("http_response_headers_match")
                .map(ErrorMatcher::Headers)
        }
        _ => Err(XdsError::new(
            "only headers of responses, and combinations of such matchers, are supported",
        )),
    }
}
