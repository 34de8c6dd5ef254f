//! Outlier detection: its settings, which responses are errors, and which hosts are worse than the others.
//!
//! Counting and ejecting are the proxy's; what follows from the counts is decided here. Source: Envoy, "Outlier detection".

use std::time::Duration;

use http::HeaderMap;

use crate::matcher::HeaderMatcher;

/// Ejection of failing hosts; the proxy counts and ejects by it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutlierDetection {
    /// Server errors in a row that eject; 0 never does. 5 by default.
    pub consecutive_5xx: u32,
    /// Gateway errors (502, 503, 504) in a row that eject; 5 by default.
    pub consecutive_gateway_failure: u32,
    /// Failures of this side (connect failure, reset) in a row that eject; 5 by default.
    pub consecutive_local_origin_failure: u32,
    /// Whether failures of this side are counted apart.
    pub split_external_local_origin_errors: bool,
    /// How likely what was detected is enforced.
    pub enforcing: Enforcing,
    /// Time between sweeps, in which hosts come back and rates are compared; 10 s by default.
    pub interval: Duration,
    /// Time of a first ejection, multiplied by the number of recent ejections; 30 s by default.
    pub base_ejection_time: Duration,
    /// Longest ejection; 300 s by default (or the base if longer).
    pub max_ejection_time: Duration,
    /// Random addition to an ejection, at most.
    pub max_ejection_time_jitter: Duration,
    /// Percent of hosts that may be ejected; 10 by default.
    pub max_ejection_percent: u32,
    /// One host may be ejected even if that exceeds the percentage.
    pub always_eject_one_host: bool,
    /// Success-rate ejection.
    pub success_rate: SuccessRate,
    /// Failure-percentage ejection.
    pub failure_percentage: FailurePercentage,
    /// A good active health check lets a host back in at once.
    pub successful_active_health_check_uneject_host: bool,
}

/// Chances, in percent, that a host is ejected for what was detected. In the order of Envoy's defaults: 100, 0, 100, 100, 100, 0, 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enforcing {
    /// For server errors in a row.
    pub consecutive_5xx: u32,
    /// For gateway errors in a row.
    pub consecutive_gateway_failure: u32,
    /// For failures of this side in a row.
    pub consecutive_local_origin_failure: u32,
    /// For a low success rate.
    pub success_rate: u32,
    /// For a low success rate of connections.
    pub local_origin_success_rate: u32,
    /// For a high percentage of failures.
    pub failure_percentage: u32,
    /// For a high percentage of failures of this side.
    pub failure_percentage_local_origin: u32,
}

/// Success-rate ejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuccessRate {
    /// Hosts with enough requests there must be; 5 by default.
    pub minimum_hosts: u32,
    /// Requests of a host in an interval to be counted; 100 by default.
    pub request_volume: u32,
    /// Thousandths of the standard deviation below the mean that eject; 1900 by default.
    pub stdev_factor: u32,
}

/// Failure-percentage ejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailurePercentage {
    /// Percent of failures that ejects; 85 by default.
    pub threshold: u32,
    /// Hosts with enough requests there must be; 5 by default.
    pub minimum_hosts: u32,
    /// Requests of a host in an interval to be counted; 50 by default.
    pub request_volume: u32,
}

/// What a host did in an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Requests without an error.
    pub success: u64,
    /// All requests.
    pub total: u64,
}

impl Rate {
    #[expect(clippy::cast_precision_loss, reason = "counts of one interval")]
    fn percent(self) -> f64 {
        self.success as f64 * 100.0 / self.total as f64
    }
}

impl OutlierDetection {
    /// Whether rates are to be counted at all.
    pub const fn compares_rates(&self) -> bool {
        let enforcing = &self.enforcing;
        enforcing.success_rate > 0
            || enforcing.failure_percentage > 0
            || (self.split_external_local_origin_errors
                && (enforcing.local_origin_success_rate > 0
                    || enforcing.failure_percentage_local_origin > 0))
    }

    /// How long a host stays out that was ejected so often of late.
    pub fn ejection_time(&self, times: u32, jitter: Duration) -> Duration {
        self.base_ejection_time
            .saturating_mul(times)
            .min(self.max_ejection_time)
            + jitter
    }

    /// Whether another of `hosts` may be ejected while `ejected` are.
    pub fn may_eject(&self, ejected: usize, hosts: usize) -> bool {
        let within = (ejected + 1) * 100 <= self.max_ejection_percent.min(100) as usize * hosts;
        within || (self.always_eject_one_host && ejected == 0)
    }

    /// The hosts whose success rate is too far below the mean, as indexes of `rates`. Hosts that are out are not to be among them.
    pub fn below_the_mean(&self, rates: &[Rate]) -> Vec<usize> {
        let settings = self.success_rate;
        let counted = counted(rates, settings.request_volume);
        if counted.is_empty() || counted.len() < settings.minimum_hosts as usize {
            return Vec::new();
        }
        #[expect(clippy::cast_precision_loss, reason = "a number of hosts")]
        let hosts = counted.len() as f64;
        let mean = counted.iter().map(|(_, rate)| rate).sum::<f64>() / hosts;
        let variance = counted
            .iter()
            .map(|(_, rate)| (rate - mean).powi(2))
            .sum::<f64>()
            / hosts;
        let threshold = mean - f64::from(settings.stdev_factor) / 1000.0 * variance.sqrt();
        let below = counted.iter().filter(|(_, rate)| *rate < threshold);
        below.map(|(index, _)| *index).collect()
    }

    /// The hosts of whose requests too many failed, as indexes of `rates`.
    pub fn failing(&self, rates: &[Rate]) -> Vec<usize> {
        let settings = self.failure_percentage;
        let counted = counted(rates, settings.request_volume);
        if counted.len() < settings.minimum_hosts as usize {
            return Vec::new();
        }
        let threshold = f64::from(settings.threshold);
        let failing = counted.iter().filter(|(_, rate)| 100.0 - rate >= threshold);
        failing.map(|(index, _)| *index).collect()
    }
}

/// Hosts with enough requests, and the percentage of those that succeeded.
fn counted(rates: &[Rate], volume: u32) -> Vec<(usize, f64)> {
    let enough = rates
        .iter()
        .enumerate()
        .filter(|(_, rate)| rate.total > 0 && rate.total >= u64::from(volume));
    enough
        .map(|(index, rate)| (index, rate.percent()))
        .collect()
}

/// Which responses are errors (`HttpProtocolOptions.OutlierDetection.error_matcher`).
#[derive(Clone, Debug)]
pub enum ErrorMatcher {
    /// All.
    Any,
    /// Those whose headers satisfy all of these.
    Headers(Vec<HeaderMatcher>),
    /// Those that one of these takes for an error.
    Or(Vec<ErrorMatcher>),
    /// Those that all of these take for an error.
    And(Vec<ErrorMatcher>),
    /// Those that this one does not take for an error.
    Not(Box<ErrorMatcher>),
}

impl ErrorMatcher {
    /// Whether a response is an error.
    pub fn matches(&self, status: u16, headers: &HeaderMap) -> bool {
        match self {
            Self::Any => true,
            Self::Headers(matchers) => matchers
                .iter()
                .all(|matcher| matcher.matches_response(status, headers)),
            Self::Or(list) => list.iter().any(|one| one.matches(status, headers)),
            Self::And(list) => list.iter().all(|one| one.matches(status, headers)),
            Self::Not(inner) => !inner.matches(status, headers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx: 5,
            consecutive_gateway_failure: 5,
            consecutive_local_origin_failure: 5,
            split_external_local_origin_errors: false,
            enforcing: Enforcing {
                consecutive_5xx: 100,
                consecutive_gateway_failure: 0,
                consecutive_local_origin_failure: 100,
                success_rate: 100,
                local_origin_success_rate: 100,
                failure_percentage: 100,
                failure_percentage_local_origin: 0,
            },
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(100),
            max_ejection_time_jitter: Duration::ZERO,
            max_ejection_percent: 10,
            always_eject_one_host: false,
            success_rate: SuccessRate {
                minimum_hosts: 5,
                request_volume: 100,
                stdev_factor: 1900,
            },
            failure_percentage: FailurePercentage {
                threshold: 85,
                minimum_hosts: 2,
                request_volume: 50,
            },
            successful_active_health_check_uneject_host: true,
        }
    }

    fn rates(list: &[(u64, u64)]) -> Vec<Rate> {
        let of = |(success, total): &(u64, u64)| Rate {
            success: *success,
            total: *total,
        };
        list.iter().map(of).collect()
    }

    #[test]
    fn a_host_far_below_the_mean_stands_out() {
        // Mean 90, deviation 20: the threshold is 52.
        let all = rates(&[(50, 100), (100, 100), (200, 200), (100, 100), (100, 100)]);
        assert_eq!(settings().below_the_mean(&all), [0]);
        assert_eq!(settings().below_the_mean(&all[..4]), [] as [usize; 0]);
        let few = rates(&[(0, 99), (100, 100), (100, 100), (100, 100), (100, 100)]);
        assert_eq!(settings().below_the_mean(&few), [] as [usize; 0]);
    }

    #[test]
    fn a_host_whose_requests_mostly_fail_stands_out_whatever_the_others_do() {
        let all = rates(&[(15, 100), (16, 100), (0, 49), (0, 50)]);
        assert_eq!(settings().failing(&all), [0, 3]);
        assert_eq!(settings().failing(&all[..1]), [] as [usize; 0]);
    }

    #[test]
    fn no_more_hosts_are_out_than_the_percentage_says_and_one_always_may_be_if_told() {
        let mut settings = settings();
        assert!(settings.may_eject(0, 10));
        assert!(!settings.may_eject(1, 10));
        assert!(!settings.may_eject(0, 9));
        settings.always_eject_one_host = true;
        assert!(settings.may_eject(0, 3));
        assert!(!settings.may_eject(1, 3));
        settings.max_ejection_percent = 200;
        assert!(settings.may_eject(2, 3));
        assert!(!settings.may_eject(3, 3));
    }

    #[test]
    fn repeated_ejections_last_longer_up_to_the_longest() {
        let settings = settings();
        let second = Duration::from_secs(1);
        assert_eq!(settings.ejection_time(1, Duration::ZERO), second * 30);
        assert_eq!(settings.ejection_time(2, second), second * 61);
        assert_eq!(settings.ejection_time(9, second), second * 101);
    }
}
