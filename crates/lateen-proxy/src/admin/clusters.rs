//! `/clusters`: every cluster with its hosts and their health, as text and as `envoy.admin.v3.Clusters`.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use lateen_envoy::pb::envoy::admin::v3::{
    ClusterStatus, Clusters, HostHealthStatus, HostStatus, SimpleMetric, simple_metric,
};
use lateen_envoy::pb::envoy::config::core::v3::{
    HealthStatus as ProtoHealth, Locality as ProtoLocality,
};
use lateen_envoy::{json, pipe_address, socket_address};
use lateen_traffic::Cluster;
use lateen_traffic::endpoint::{Endpoint, EndpointAddress, HealthStatus};
use lateen_traffic::health_check::Verdict;

use super::{Context, Page, Query};
use crate::cluster::outlier::{HostCounts, HostRecord, Outliers};
use crate::net::HostAddress;
use crate::shared::Live;

pub(super) fn page(context: &Context, query: &Query) -> Page {
    let live = context.shared.live();
    if query.get("format") == Some("json") {
        let cluster_statuses = live
            .program
            .clusters()
            .iter()
            .map(|(_, cluster)| status(context, &live, &cluster.peek()))
            .collect();
        return Page::json(&json::to_value(&Clusters { cluster_statuses }));
    }
    let mut out = String::new();
    for (_, cluster) in live.program.clusters().iter() {
        text(context, &live, &cluster.peek(), &mut out);
    }
    Page::text(out)
}

fn status(context: &Context, live: &Live, cluster: &Cluster) -> ClusterStatus {
    let outliers = context.shared.known_outliers(&cluster.name);
    let set = live.peek_endpoints_of(cluster);
    let endpoints = set.iter().flat_map(|set| &set.endpoints);
    ClusterStatus {
        name: cluster.name.to_string(),
        observability_name: cluster
            .alt_stat_name
            .as_ref()
            .unwrap_or(&cluster.name)
            .to_string(),
        added_via_api: true,
        host_statuses: endpoints
            .map(|endpoint| host_status(cluster, endpoint, outliers.as_deref()))
            .collect(),
        ..ClusterStatus::default()
    }
}

fn host_status(cluster: &Cluster, endpoint: &Endpoint, outliers: Option<&Outliers>) -> HostStatus {
    let checked = checked(cluster, endpoint, outliers);
    let address = match &endpoint.address {
        EndpointAddress::Socket(address) => socket_address(address.ip(), address.port()),
        other => pipe_address(other.to_string()),
    };
    let health = HostHealthStatus {
        eds_health_status: proto_health(endpoint.health).into(),
        failed_outlier_check: is_out(endpoint, outliers),
        failed_active_health_check: checked.is_some_and(|c| !c.healthy),
        failed_active_degraded_check: checked.is_some_and(|c| c.degraded),
        pending_active_hc: checked.is_some_and(|c| !c.known),
        ..HostHealthStatus::default()
    };
    HostStatus {
        stats: counts_of(endpoint, outliers)
            .iter()
            .map(|(name, kind, value)| SimpleMetric {
                name: (*name).to_owned(),
                r#type: (*kind).into(),
                value: *value,
            })
            .collect(),
        address: Some(address),
        health_status: Some(health),
        weight: endpoint.weight,
        hostname: endpoint.hostname.to_string(),
        locality: Some(ProtoLocality {
            region: endpoint.locality.region.to_string(),
            zone: endpoint.locality.zone.to_string(),
            sub_zone: endpoint.locality.sub_zone.to_string(),
        }),
        ..HostStatus::default()
    }
}

/// What workers counted of a host, by Envoy's names.
fn counts_of(
    endpoint: &Endpoint,
    outliers: Option<&Outliers>,
) -> Vec<(&'static str, simple_metric::Type, u64)> {
    use simple_metric::Type::{Counter, Gauge};
    if HostAddress::of(&endpoint.address).is_none() {
        return Vec::new();
    }
    let counts = record_of(endpoint, outliers).map_or_else(HostCounts::default, |r| r.counts());
    let of = |counter: AtomicU64| counter.into_inner();
    vec![
        ("cx_active", Gauge, of(counts.cx_active)),
        ("cx_connect_fail", Counter, of(counts.cx_connect_fail)),
        ("cx_total", Counter, of(counts.cx_total)),
        ("rq_active", Gauge, of(counts.rq_active)),
        ("rq_pending_active", Gauge, of(counts.rq_pending_active)),
        ("rq_error", Counter, of(counts.rq_error)),
        ("rq_success", Counter, of(counts.rq_success)),
        ("rq_timeout", Counter, of(counts.rq_timeout)),
        ("rq_total", Counter, of(counts.rq_total)),
    ]
}

/// What is wrong with a host, in Envoy's words and order; `healthy` if nothing is.
fn flags(cluster: &Cluster, endpoint: &Endpoint, outliers: Option<&Outliers>) -> String {
    let checked = checked(cluster, endpoint, outliers);
    let eds = proto_health(endpoint.health);
    let all = [
        (checked.is_some_and(|c| !c.healthy), "/failed_active_hc"),
        (is_out(endpoint, outliers), "/failed_outlier_check"),
        (
            !matches!(eds, ProtoHealth::Healthy | ProtoHealth::Degraded),
            "/failed_eds_health",
        ),
        (checked.is_some_and(|c| c.degraded), "/degraded_active_hc"),
        (eds == ProtoHealth::Degraded, "/degraded_eds_health"),
        (checked.is_some_and(|c| !c.known), "/pending_active_hc"),
    ];
    let set = all.iter().filter(|(set, _)| *set);
    let set: String = set.map(|(_, flag)| *flag).collect();
    if set.is_empty() {
        "healthy".to_owned()
    } else {
        set
    }
}

/// What active health checks found of a host; none if it is not checked.
fn checked(cluster: &Cluster, endpoint: &Endpoint, outliers: Option<&Outliers>) -> Option<Verdict> {
    if cluster.health_check.is_none() || endpoint.health_check.disabled {
        return None;
    }
    let record = record_of(endpoint, outliers);
    Some(record.map_or_else(Verdict::default, |record| record.checked()))
}

fn is_out(endpoint: &Endpoint, outliers: Option<&Outliers>) -> bool {
    record_of(endpoint, outliers).is_some_and(|record| record.is_out())
}

/// What workers know of a host; none do of hosts that nobody has asked for anything.
fn record_of(endpoint: &Endpoint, outliers: Option<&Outliers>) -> Option<Arc<HostRecord>> {
    outliers?.known_host(&HostAddress::of(&endpoint.address)?)
}

const fn proto_health(health: HealthStatus) -> ProtoHealth {
    match health {
        // Envoy shows what it was not told as healthy.
        HealthStatus::Unknown | HealthStatus::Healthy => ProtoHealth::Healthy,
        HealthStatus::Unhealthy => ProtoHealth::Unhealthy,
        HealthStatus::Draining => ProtoHealth::Draining,
        HealthStatus::Timeout => ProtoHealth::Timeout,
        HealthStatus::Degraded => ProtoHealth::Degraded,
    }
}

fn text(context: &Context, live: &Live, cluster: &Cluster, out: &mut String) {
    let name = &cluster.name;
    let outliers = context.shared.known_outliers(name);
    let outliers = outliers.as_deref();
    let _ = writeln!(
        out,
        "{name}::observability_name::{}",
        cluster.alt_stat_name.as_ref().unwrap_or(name)
    );
    for (priority, limits) in ["default_priority", "high_priority"]
        .iter()
        .zip(&cluster.circuit_breakers)
    {
        let _ = writeln!(
            out,
            "{name}::{priority}::max_connections::{}",
            limits.max_connections
        );
        let _ = writeln!(
            out,
            "{name}::{priority}::max_pending_requests::{}",
            limits.max_pending_requests
        );
        let _ = writeln!(
            out,
            "{name}::{priority}::max_requests::{}",
            limits.max_requests
        );
        let _ = writeln!(
            out,
            "{name}::{priority}::max_retries::{}",
            limits.max_retries
        );
    }
    let _ = writeln!(out, "{name}::added_via_api::true");
    let Some(set) = live.peek_endpoints_of(cluster) else {
        return;
    };
    for (index, endpoint) in set.endpoints.iter().enumerate() {
        let host = &endpoint.address;
        let flags = flags(cluster, endpoint, outliers);
        for (counter, _, value) in counts_of(endpoint, outliers) {
            let _ = writeln!(out, "{name}::{host}::{counter}::{value}");
        }
        let _ = writeln!(out, "{name}::{host}::hostname::{}", endpoint.hostname);
        let _ = writeln!(out, "{name}::{host}::health_flags::{flags}");
        let _ = writeln!(out, "{name}::{host}::weight::{}", endpoint.weight);
        let _ = writeln!(out, "{name}::{host}::region::{}", endpoint.locality.region);
        let _ = writeln!(out, "{name}::{host}::zone::{}", endpoint.locality.zone);
        let _ = writeln!(
            out,
            "{name}::{host}::sub_zone::{}",
            endpoint.locality.sub_zone
        );
        let _ = writeln!(out, "{name}::{host}::canary::false");
        let _ = writeln!(
            out,
            "{name}::{host}::priority::{}",
            set.group_of(index).map_or(0, |group| group.priority)
        );
        // Lateen has no success-rate ejection; Envoy shows -1 where it is off.
        let _ = writeln!(out, "{name}::{host}::success_rate::-1");
        let _ = writeln!(out, "{name}::{host}::local_origin_success_rate::-1");
    }
}
