//! Retry policies.

use std::time::Duration;

use lateen_envoy::pb::envoy::config::route::v3 as rds;
use lateen_envoy::pb::envoy::extensions::retry::priority::previous_priorities::v3 as previous_priorities;

use super::basic::{number, optional_duration};
use super::error::Within as _;
use super::{XdsError, extension, headers, matchers};
use crate::retry::{ResetHeader, RetryOn, RetryPolicy};

/// Longest interval a response may ask to wait unless set otherwise. Source: Envoy.
const DEFAULT_RESET_MAX: Duration = Duration::from_secs(300);

/// Compiles a policy.
pub(super) fn compile(from: &rds::RetryPolicy) -> Result<RetryPolicy, XdsError> {
    let back_off = from.retry_back_off.unwrap_or_default();
    let reset = from.rate_limited_retry_back_off.clone().unwrap_or_default();
    let codes = from.retriable_status_codes.iter().map(|code| {
        u16::try_from(*code).map_err(|_| {
            XdsError::new(format!("{code} is no status")).within("retriable_status_codes")
        })
    });
    Ok(RetryPolicy {
        on: RetryOn::parse(&from.retry_on),
        num_retries: number(from.num_retries.as_ref()).unwrap_or(1),
        per_try_timeout: positive(optional_duration(
            from.per_try_timeout.as_ref(),
            "per_try_timeout",
        )?),
        per_try_idle_timeout: positive(optional_duration(
            from.per_try_idle_timeout.as_ref(),
            "per_try_idle_timeout",
        )?),
        base_interval: positive(optional_duration(
            back_off.base_interval.as_ref(),
            "retry_back_off.base_interval",
        )?),
        max_interval: positive(optional_duration(
            back_off.max_interval.as_ref(),
            "retry_back_off.max_interval",
        )?),
        retriable_status_codes: codes.collect::<Result<_, _>>()?,
        retriable_headers: matchers::headers(&from.retriable_headers, "retriable_headers")?,
        retriable_request_headers: matchers::headers(
            &from.retriable_request_headers,
            "retriable_request_headers",
        )?,
        avoid_previous_hosts: previous_hosts(from)?,
        avoid_previous_priorities: previous_priorities(from).within("retry_priority")?,
        host_selection_attempts: u32::try_from(from.host_selection_retry_max_attempts.max(1))
            .unwrap_or(u32::MAX),
        reset_headers: reset_headers(&reset.reset_headers)?,
        reset_max_interval: optional_duration(
            reset.max_interval.as_ref(),
            "rate_limited_retry_back_off.max_interval",
        )?
        .unwrap_or(DEFAULT_RESET_MAX),
        is_mesh_default: false,
    })
}

fn positive(duration: Option<Duration>) -> Option<Duration> {
    duration.filter(|duration| !duration.is_zero())
}

fn previous_hosts(from: &rds::RetryPolicy) -> Result<bool, XdsError> {
    for (index, predicate) in from.retry_host_predicate.iter().enumerate() {
        let known = [
            "envoy.retry_host_predicates.previous_hosts",
            "envoy.retry_host_predicates.omit_canary_hosts",
        ];
        if !known.contains(&predicate.name.as_str()) {
            return Err(XdsError::new(format!(
                "the predicate {:?} is not supported",
                predicate.name
            )))
            .at("retry_host_predicate", index);
        }
    }
    Ok(from
        .retry_host_predicate
        .iter()
        .any(|predicate| predicate.name.ends_with("previous_hosts")))
}

fn previous_priorities(from: &rds::RetryPolicy) -> Result<Option<u32>, XdsError> {
    let Some(priority) = &from.retry_priority else {
        return Ok(None);
    };
    let Some(rds::retry_policy::retry_priority::ConfigType::TypedConfig(any)) =
        &priority.config_type
    else {
        return Err(XdsError::new(format!(
            "the retry priority {:?} is not supported",
            priority.name
        )));
    };
    let config: previous_priorities::PreviousPrioritiesConfig = extension::message(any)?;
    Ok(Some(
        u32::try_from(config.update_frequency.max(1)).unwrap_or(1),
    ))
}

fn reset_headers(from: &[rds::retry_policy::ResetHeader]) -> Result<Vec<ResetHeader>, XdsError> {
    use rds::retry_policy::ResetHeaderFormat;
    let compile = |(index, from): (usize, &rds::retry_policy::ResetHeader)| {
        let name =
            headers::name(&from.name).at("rate_limited_retry_back_off.reset_headers", index)?;
        Ok(ResetHeader {
            name,
            unix_timestamp: from.format() == ResetHeaderFormat::UnixTimestamp,
        })
    };
    from.iter().enumerate().map(compile).collect()
}
