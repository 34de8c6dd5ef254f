//! What both proxies counted of a case: the counters of Envoy's that ours has, before and after.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::support::get;

/// Counters follow the answer by as much as a proxy's thread needs.
const SETTLE: Duration = Duration::from_millis(10);

/// What is compared, by the last part of the name. What counts connections is left out: how many there are is each pool's own affair.
const COMPARED: &[&str] = &[
    "upstream_rq_total",
    "upstream_rq_completed",
    "upstream_rq_1xx",
    "upstream_rq_2xx",
    "upstream_rq_3xx",
    "upstream_rq_4xx",
    "upstream_rq_5xx",
    "upstream_rq_retry",
    "upstream_rq_retry_success",
    "upstream_rq_retry_limit_exceeded",
    "upstream_rq_retry_overflow",
    "upstream_rq_timeout",
    "upstream_rq_per_try_timeout",
    "upstream_rq_pending_overflow",
    "upstream_cx_none_healthy",
    "upstream_internal_redirect_succeeded_total",
    "upstream_internal_redirect_failed_total",
    "ejections_enforced_total",
    "ejections_enforced_consecutive_5xx",
    "ejections_enforced_consecutive_gateway_failure",
    "ejections_enforced_consecutive_local_origin_failure",
    "ejections_enforced_success_rate",
    "ejections_enforced_failure_percentage",
    "ejections_detected_consecutive_5xx",
    "ejections_detected_consecutive_gateway_failure",
    "ejections_overflow",
    "downstream_rq_total",
    "downstream_rq_completed",
    "downstream_rq_1xx",
    "downstream_rq_2xx",
    "downstream_rq_3xx",
    "downstream_rq_4xx",
    "downstream_rq_5xx",
    "no_route",
    "no_cluster",
    "rq_redirect",
    "rq_direct_response",
];

/// Counters by name.
pub(crate) type Counters = BTreeMap<String, i64>;

/// The counters of a file's clusters and listeners.
pub(crate) async fn read(admin: SocketAddr, file: &str) -> Counters {
    tokio::time::sleep(SETTLE).await;
    let path = format!("/stats?filter=%5E(cluster%7Chttp%7Cvhost)%5C.{file}%5C.");
    let (status, _, body) = get(admin, &path).await;
    assert_eq!(status, 200, "{body}");
    let lines = body.lines().filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let last = name.rsplit('.').next()?;
        // Envoy counts these again by where requests come from, and tries apart; ours does not.
        // A collector gets spans in batches, in each proxy's own time.
        if [".external.", ".internal.", ".retry.", ".collector."]
            .iter()
            .any(|part| name.contains(part))
        {
            return None;
        }
        let value: i64 = value.trim().parse().ok()?;
        COMPARED
            .contains(&last)
            .then(|| (name.replace(&format!(".{file}."), "."), value))
    });
    lines.collect()
}

/// What was counted between two readings.
pub(crate) fn between(before: &Counters, after: &Counters) -> Value {
    let change = |(name, value): (&String, &i64)| {
        let change = value - before.get(name).unwrap_or(&0);
        (change != 0).then(|| (name.clone(), json!(change)))
    };
    Value::Object(after.iter().filter_map(change).collect())
}
