//! Weights of hosts by what they report of their own load: a host counts for what it serves, in proportion to how busy it says it is.
//!
//! Pure arithmetic; who asked a host when it last reported is the caller's to say. Source: Envoy 1.40, `client_side_weighted_round_robin`; the
//! load reports are Open Request Cost Aggregation's (ORCA).

use std::sync::Arc;
use std::time::Duration;

use super::HostSet;

/// How reports become weights.
#[derive(Clone, Debug, PartialEq)]
pub struct UtilizationWeights {
    /// A host has to have reported for so long before its reports count; 10 s by default.
    pub blackout: Duration,
    /// A host that has not reported for so long counts as the others do; 3 min by default.
    pub expiration: Duration,
    /// How often weights are made anew; 1 s by default, 100 ms at least.
    pub update: Duration,
    /// What errors among its requests add to a host's utilization; 1 by default.
    pub error_penalty: f64,
    /// The metrics of which the largest is the utilization, where one is above 0.
    pub metrics: Vec<Metric>,
}

/// A metric of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Metric {
    /// `cpu_utilization`.
    Cpu,
    /// `mem_utilization`.
    Memory,
    /// `application_utilization`.
    Application,
    /// `utilization.NAME`.
    Utilization(Arc<str>),
    /// `named_metrics.NAME`.
    Named(Arc<str>),
}

/// What a host reported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadReport {
    /// Its processor, 1 being all of it.
    pub cpu: f64,
    /// Its memory, likewise.
    pub memory: f64,
    /// What it calls its load itself.
    pub application: f64,
    /// Requests a second.
    pub requests: f64,
    /// Errors a second.
    pub errors: f64,
    /// Utilization of further resources.
    pub utilization: Vec<(String, f64)>,
    /// Metrics of its own.
    pub named: Vec<(String, f64)>,
}

impl Metric {
    /// A metric by its name; `None` for one that is not known.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "cpu_utilization" => Self::Cpu,
            "mem_utilization" => Self::Memory,
            "application_utilization" => Self::Application,
            _ => match name.split_once('.')? {
                ("utilization", key) => Self::Utilization(key.into()),
                ("named_metrics", key) => Self::Named(key.into()),
                _ => return None,
            },
        })
    }

    fn of(&self, report: &LoadReport) -> f64 {
        let find = |list: &[(String, f64)], key: &str| {
            let mut all = list.iter();
            all.find(|(name, _)| name == key)
                .map_or(0.0, |(_, value)| *value)
        };
        match self {
            Self::Cpu => report.cpu,
            Self::Memory => report.memory,
            Self::Application => report.application,
            Self::Utilization(key) => find(&report.utilization, key),
            Self::Named(key) => find(&report.named, key),
        }
    }
}

impl UtilizationWeights {
    /// The weight of a host that reported this; `None` if it says nothing that a weight can be made of.
    pub fn weight(&self, report: &LoadReport) -> Option<u32> {
        if report.requests.is_nan() || report.requests <= 0.0 {
            return None;
        }
        let chosen = self.metrics.iter().map(|metric| metric.of(report));
        let candidates = [chosen.fold(0.0, f64::max), report.application, report.cpu];
        let busy = candidates
            .into_iter()
            .find(|value| *value > 0.0)
            .unwrap_or(0.0);
        let busy = busy + self.error_penalty * report.errors / report.requests;
        let weight = report.requests / busy;
        if !(busy > 0.0 && weight.is_finite()) {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and saturates"
        )]
        let weight = weight as u32;
        Some(weight.max(1))
    }
}

impl HostSet {
    /// Lets hosts count by the weights that their reports gave them, by host. Those without one count as the middle one of the others.
    pub fn weigh(&mut self, reported: &[Option<u32>]) {
        let mut known: Vec<u32> = reported.iter().flatten().copied().collect();
        known.sort_unstable();
        let middle = known.len() / 2;
        let default = match known.len() {
            0 => return,
            count if count % 2 == 1 => known[middle],
            _ => known[middle - 1].midpoint(known[middle]),
        };
        for (weight, reported) in self.weights.iter_mut().zip(reported) {
            *weight = reported.unwrap_or(default).max(1);
        }
        self.weigh_slices();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::CommonLb;
    use crate::lb::tests::{ROUND_ROBIN, endpoints};

    fn settings(metrics: &[&str]) -> UtilizationWeights {
        UtilizationWeights {
            blackout: Duration::ZERO,
            expiration: Duration::from_secs(180),
            update: Duration::from_secs(1),
            error_penalty: 1.0,
            metrics: metrics
                .iter()
                .filter_map(|name| Metric::parse(name))
                .collect(),
        }
    }

    #[test]
    fn a_weight_is_requests_by_utilization() {
        let report = LoadReport {
            cpu: 0.5,
            requests: 100.0,
            ..LoadReport::default()
        };
        assert_eq!(settings(&[]).weight(&report), Some(200));
        let application = LoadReport {
            application: 0.8,
            ..report.clone()
        };
        assert_eq!(settings(&[]).weight(&application), Some(125));
        let named = LoadReport {
            named: vec![("queue".to_owned(), 0.25), ("disk".to_owned(), 0.2)],
            ..application
        };
        let metrics = [
            "named_metrics.queue",
            "named_metrics.disk",
            "named_metrics.none",
        ];
        assert_eq!(settings(&metrics).weight(&named), Some(400));
        let failing = LoadReport {
            errors: 50.0,
            ..report
        };
        assert_eq!(settings(&[]).weight(&failing), Some(100));
    }

    #[test]
    fn what_says_nothing_gives_no_weight() {
        let idle = LoadReport {
            cpu: 0.5,
            ..LoadReport::default()
        };
        let unknown = LoadReport {
            requests: 10.0,
            ..LoadReport::default()
        };
        let absurd = LoadReport {
            requests: f64::NAN,
            cpu: 1.0,
            ..LoadReport::default()
        };
        for report in [idle, unknown, absurd] {
            assert_eq!(settings(&[]).weight(&report), None, "{report:?}");
        }
        assert_eq!(Metric::parse("rps"), None);
    }

    #[test]
    fn hosts_that_have_not_reported_count_as_the_middle_one() {
        let endpoints = endpoints(&[(0, 0, &[1, 1, 1, 1])]);
        let mut set = HostSet::with_policy(ROUND_ROBIN, CommonLb::default(), &endpoints, &[]);
        set.weigh(&[None; 4]);
        assert_eq!(set.shares(), [0.25; 4]);
        set.weigh(&[Some(100), Some(300), None, Some(200)]);
        assert_eq!(set.shares(), [0.125, 0.375, 0.25, 0.25]);
    }
}
