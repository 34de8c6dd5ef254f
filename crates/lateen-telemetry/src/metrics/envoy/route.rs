//! Statistics of a route that asks for them (`stat_prefix`): `vhost.<virtual host>.route.<prefix>.…`.
//!
//! Source: Envoy, "Route statistics" of the router filter.

use crate::metrics::{
    Counter, CounterFamily, DEFAULT_BUCKETS, Descriptor, Histogram, HistogramFamily, Registry,
    Shard,
};

/// Counters below the prefix, in the order of [`RouteFamilies::counters`].
const COUNTERS: [&str; 7] = [
    "upstream_rq_total",
    "upstream_rq_completed",
    "upstream_rq_timeout",
    "upstream_rq_retry",
    "upstream_rq_retry_success",
    "upstream_rq_retry_limit_exceeded",
    "upstream_rq_retry_overflow",
];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The families of all routes' statistics.
#[derive(Clone, Debug)]
pub struct RouteFamilies {
    counters: [CounterFamily; 7],
    classes: CounterFamily,
    time: HistogramFamily,
}

/// One worker's handles of one route's statistics.
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "the fields are Envoy's stats; its documentation names them"
)]
pub struct RouteStats {
    pub upstream_rq_total: Counter,
    pub upstream_rq_completed: Counter,
    pub upstream_rq_timeout: Counter,
    pub upstream_rq_retry: Counter,
    pub upstream_rq_retry_success: Counter,
    pub upstream_rq_retry_limit_exceeded: Counter,
    pub upstream_rq_retry_overflow: Counter,
    pub upstream_rq_time: Histogram,
    classes: [Counter; 5],
}

impl RouteFamilies {
    /// The families in `registry`.
    pub fn new(registry: &Registry) -> Self {
        let name = |stat: &str| {
            Descriptor::envoy(&format!("vhost.{{virtual_host}}.route.{{route}}.{stat}"))
        };
        Self {
            counters: COUNTERS.map(|stat| registry.counters(name(stat))),
            classes: registry.counters(name("upstream_rq_{response_code_class}")),
            time: registry.histograms(name("upstream_rq_time"), DEFAULT_BUCKETS),
        }
    }

    /// The handles of a route's statistics in `shard`.
    pub fn handles(&self, shard: Shard, virtual_host: &str, route: &str) -> RouteStats {
        let instance = [virtual_host, route];
        let [total, completed, timeout, retry, success, limit, overflow] = self
            .counters
            .each_ref()
            .map(|family| family.handle(shard, &instance));
        RouteStats {
            upstream_rq_total: total,
            upstream_rq_completed: completed,
            upstream_rq_timeout: timeout,
            upstream_rq_retry: retry,
            upstream_rq_retry_success: success,
            upstream_rq_retry_limit_exceeded: limit,
            upstream_rq_retry_overflow: overflow,
            upstream_rq_time: self.time.handle(shard, &instance),
            classes: CLASSES.map(|class| self.classes.handle(shard, &[virtual_host, route, class])),
        }
    }
}

impl RouteStats {
    /// Counts an answer.
    pub fn answered(&self, status: u16) {
        self.upstream_rq_completed.inc();
        let class = usize::from(status / 100).checked_sub(1);
        if let Some(class) = class.and_then(|class| self.classes.get(class)) {
            class.inc();
        }
    }
}
