//! Outlier detection. Defaults are Envoy's.

use std::time::Duration;

use lateen_envoy::pb::envoy::config::cluster::v3 as cds;

use crate::cluster::{FailurePercentage, OutlierDetection, SuccessRate};
use crate::from_xds::XdsError;
use crate::from_xds::basic::{flag, number, optional_duration};

/// Compiles outlier detection.
pub(super) fn compile(from: &cds::OutlierDetection) -> Result<OutlierDetection, XdsError> {
    let or = |value, default| number(value).unwrap_or(default);
    let base = optional_duration(from.base_ejection_time.as_ref(), "base_ejection_time")?;
    let base = base.unwrap_or(Duration::from_secs(30));
    let longest = optional_duration(from.max_ejection_time.as_ref(), "max_ejection_time")?;
    let jitter = optional_duration(
        from.max_ejection_time_jitter.as_ref(),
        "max_ejection_time_jitter",
    )?;
    let success = SuccessRate {
        enforcing: or(from.enforcing_success_rate.as_ref(), 100),
        minimum_hosts: or(from.success_rate_minimum_hosts.as_ref(), 5),
        request_volume: or(from.success_rate_request_volume.as_ref(), 100),
        stdev_factor: or(from.success_rate_stdev_factor.as_ref(), 1900),
    };
    let failure = FailurePercentage {
        threshold: or(from.failure_percentage_threshold.as_ref(), 85),
        enforcing: or(from.enforcing_failure_percentage.as_ref(), 0),
        minimum_hosts: or(from.failure_percentage_minimum_hosts.as_ref(), 5),
        request_volume: or(from.failure_percentage_request_volume.as_ref(), 50),
    };
    Ok(OutlierDetection {
        consecutive_5xx: or(from.consecutive_5xx.as_ref(), 5),
        consecutive_gateway_failure: or(from.consecutive_gateway_failure.as_ref(), 5),
        consecutive_local_origin_failure: or(from.consecutive_local_origin_failure.as_ref(), 5),
        split_external_local_origin_errors: from.split_external_local_origin_errors,
        enforcing_consecutive_5xx: or(from.enforcing_consecutive_5xx.as_ref(), 100),
        enforcing_consecutive_gateway_failure: or(
            from.enforcing_consecutive_gateway_failure.as_ref(),
            0,
        ),
        enforcing_consecutive_local_origin_failure: or(
            from.enforcing_consecutive_local_origin_failure.as_ref(),
            100,
        ),
        interval: optional_duration(from.interval.as_ref(), "interval")?
            .unwrap_or(Duration::from_secs(10)),
        base_ejection_time: base,
        max_ejection_time: longest.unwrap_or(Duration::from_secs(300)).max(base),
        max_ejection_time_jitter: jitter.unwrap_or_default(),
        max_ejection_percent: or(from.max_ejection_percent.as_ref(), 10),
        always_eject_one_host: flag(from.always_eject_one_host.as_ref(), false),
        success_rate: (success.enforcing > 0).then_some(success),
        failure_percentage: (failure.enforcing > 0).then_some(failure),
    })
}
