//! Envoy's own stats, as far as the data plane keeps them: handles per cluster, listener and HTTP connection manager.
//!
//! A worker asks for the handles of a cluster or listener once, when it first sees it, and keeps them beside it.
//! Names and tags are Envoy's with Istio's tag names (`cluster_name`, `http_conn_manager_prefix`,
//! `listener_address`, `tcp_prefix`, `response_code_class`).
//! Source: Envoy 1.40 documentation of cluster, HTTP connection manager, listener, TCP proxy and server statistics.

mod route;

pub use route::{RouteFamilies, RouteStats};

use super::{
    Counter, CounterFamily, DEFAULT_BUCKETS, Descriptor, Gauge, GaugeFamily, Histogram,
    HistogramFamily, Registry, Shard,
};

/// Declares the families below one prefix and the handles of one instance of it.
macro_rules! stats {
    (
        $(#[$doc:meta])* $families:ident / $handles:ident ($prefix:literal) {
            counters { $($counter:ident),* $(,)? }
            gauges { $($gauge:ident),* $(,)? }
            histograms { $($histogram:ident),* $(,)? }
            $(classes $class:literal)?
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $families {
            $($counter: CounterFamily,)* $($gauge: GaugeFamily,)* $($histogram: HistogramFamily,)*
            $(#[doc = $class] response_class: CounterFamily,)?
        }

        #[doc = concat!("One worker's handles of one instance of [`", stringify!($families), "`].")]
        #[derive(Clone, Debug, Default)]
        #[expect(missing_docs, reason = "the fields are Envoy's stats; its documentation names them")]
        pub struct $handles {
            $(pub $counter: Counter,)* $(pub $gauge: Gauge,)* $(pub $histogram: Histogram,)*
            $(#[doc = $class] response_class: [Counter; 5],)?
        }

        impl $families {
            /// The families in `registry`.
            pub fn new(registry: &Registry) -> Self {
                let name = |stat: &str| {
                    // A Rust name has no dot: `ssl_handshake` is Envoy's `ssl.handshake`.
                    let (scope, stat) = match stat.strip_prefix("ssl_") {
                        Some(stat) => (".ssl", stat),
                        None => ("", stat),
                    };
                    Descriptor::envoy(&format!("{}{scope}.{stat}", $prefix))
                };
                Self {
                    $($counter: registry.counters(name(stringify!($counter))),)*
                    $($gauge: registry.gauges(name(stringify!($gauge))),)*
                    $($histogram: registry.histograms(name(stringify!($histogram)), DEFAULT_BUCKETS),)*
                    $(response_class: registry.counters(name($class)),)?
                }
            }

            /// The handles of the instance called `instance` in `shard`.
            pub fn handles(&self, shard: Shard, instance: &str) -> $handles {
                // Istio ends names with `;` so that tag rules find their end; it is not part of the name.
                let instance = instance.trim_end_matches(';');
                $handles {
                    $($counter: self.$counter.handle(shard, &[instance]),)*
                    $($gauge: self.$gauge.handle(shard, &[instance]),)*
                    $($histogram: self.$histogram.handle(shard, &[instance]),)*
                    $(response_class: {
                        let _ = $class;
                        let class = |class| self.response_class.handle(shard, &[instance, class]);
                        ["1xx", "2xx", "3xx", "4xx", "5xx"].map(class)
                    },)?
                }
            }
        }

        $(impl $handles {
            #[doc = concat!("`", $class, "`.")]
            ///
            /// The counter of the class that `status` belongs to, if it is a status.
            pub fn response_class(&self, status: u16) -> Option<&Counter> {
                let class = usize::from(status / 100).checked_sub(1)?;
                self.response_class.get(class)
            }
        })?
    };
}

stats! {
    /// `cluster.<name>.…`
    ClusterFamilies / ClusterStats ("cluster.{cluster_name}") {
        counters {
            upstream_cx_total, upstream_cx_http1_total, upstream_cx_http2_total,
            upstream_cx_connect_fail, upstream_cx_connect_timeout, upstream_cx_destroy,
            upstream_cx_overflow, upstream_cx_none_healthy, upstream_cx_max_requests,
            upstream_cx_idle_timeout, upstream_cx_rx_bytes_total, upstream_cx_tx_bytes_total,
            upstream_rq_total, upstream_rq_completed, upstream_rq_pending_total,
            upstream_rq_pending_overflow, upstream_rq_pending_failure_eject, upstream_rq_timeout,
            upstream_rq_per_try_timeout, upstream_rq_rx_reset, upstream_rq_tx_reset,
            upstream_rq_cancelled, upstream_rq_retry, upstream_rq_retry_success,
            upstream_rq_retry_limit_exceeded, upstream_rq_retry_overflow, lb_healthy_panic,
            upstream_internal_redirect_succeeded_total, upstream_internal_redirect_failed_total,
            ssl_handshake, ssl_fail_verify_san, ssl_connection_error, update_attempt, update_success,
        }
        gauges {
            upstream_cx_active, upstream_rq_active, upstream_rq_pending_active, membership_total,
            membership_healthy,
        }
        histograms { upstream_cx_connect_ms, upstream_cx_length_ms, upstream_rq_time }
        classes "upstream_rq_{response_code_class}"
    }
}

stats! {
    /// `cluster.<name>.outlier_detection.…`
    OutlierFamilies / OutlierStats ("cluster.{cluster_name}.outlier_detection") {
        counters {
            ejections_enforced_total, ejections_overflow,
            ejections_detected_consecutive_5xx, ejections_enforced_consecutive_5xx,
            ejections_detected_consecutive_gateway_failure, ejections_enforced_consecutive_gateway_failure,
            ejections_detected_consecutive_local_origin_failure,
            ejections_enforced_consecutive_local_origin_failure,
            ejections_detected_success_rate, ejections_enforced_success_rate,
            ejections_detected_local_origin_success_rate, ejections_enforced_local_origin_success_rate,
            ejections_detected_failure_percentage, ejections_enforced_failure_percentage,
            ejections_detected_local_origin_failure_percentage,
            ejections_enforced_local_origin_failure_percentage,
        }
        gauges { ejections_active }
        histograms {}
    }
}

stats! {
    /// `cluster.<name>.health_check.…`
    HealthFamilies / HealthStats ("cluster.{cluster_name}.health_check") {
        counters { attempt, success, failure, network_failure }
        gauges { healthy }
        histograms {}
    }
}

stats! {
    /// `http.<stat prefix>.…`
    HttpFamilies / HttpStats ("http.{http_conn_manager_prefix}") {
        counters {
            downstream_cx_total, downstream_cx_http1_total, downstream_cx_http2_total,
            downstream_cx_ssl_total, downstream_cx_destroy, downstream_cx_protocol_error,
            downstream_cx_rx_bytes_total, downstream_cx_tx_bytes_total, downstream_cx_idle_timeout,
            downstream_cx_drain_close, downstream_rq_total, downstream_rq_http1_total,
            downstream_rq_http2_total, downstream_rq_completed, downstream_rq_rx_reset,
            downstream_rq_tx_reset, downstream_rq_timeout, downstream_rq_idle_timeout,
            downstream_rq_too_large, downstream_rq_too_many_premature_resets,
            downstream_rq_non_relative_path, no_route, no_cluster,
            rq_total, rq_redirect, rq_direct_response,
        }
        gauges {
            downstream_cx_active, downstream_cx_http1_active, downstream_cx_http2_active,
            downstream_cx_upgrades_active, downstream_rq_active,
        }
        histograms { downstream_cx_length_ms, downstream_rq_time }
        classes "downstream_rq_{response_code_class}"
    }
}

stats! {
    /// `listener.<address>.…`
    ListenerFamilies / ListenerStats ("listener.{listener_address}") {
        counters {
            downstream_cx_total, downstream_cx_destroy, downstream_cx_overflow,
            downstream_cx_transport_socket_connect_timeout, downstream_pre_cx_timeout,
            no_filter_chain_match, ssl_handshake, ssl_connection_error, ssl_fail_verify_error,
            ssl_fail_verify_san, ssl_no_certificate,
        }
        gauges { downstream_cx_active, downstream_pre_cx_active }
        histograms { downstream_cx_length_ms }
    }
}

stats! {
    /// `tcp.<stat prefix>.…`
    TcpFamilies / TcpStats ("tcp.{tcp_prefix}") {
        counters {
            downstream_cx_total, downstream_cx_no_route, downstream_cx_rx_bytes_total,
            downstream_cx_tx_bytes_total, idle_timeout, max_downstream_connection_duration,
            upstream_flush_total,
        }
        gauges { upstream_flush_active }
        histograms {}
    }
}

/// One worker's handles of `metadata_exchange.…`, the statistics of Istio's filter of that name.
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "the fields are the filter's stats; Istio's documentation names them"
)]
pub struct ExchangeStats {
    pub alpn_protocol_found: Counter,
    pub alpn_protocol_not_found: Counter,
    pub metadata_added: Counter,
}

impl ExchangeStats {
    /// The handles of `shard` in `registry`.
    pub fn new(registry: &Registry, shard: Shard) -> Self {
        let counter = |name: &str| {
            let name = format!("metadata_exchange.{name}");
            registry
                .counters(Descriptor::envoy(&name))
                .handle(shard, &[])
        };
        Self {
            alpn_protocol_found: counter("alpn_protocol_found"),
            alpn_protocol_not_found: counter("alpn_protocol_not_found"),
            metadata_added: counter("metadata_added"),
        }
    }

    /// Counts a connection whose ends agreed on the exchange, or did not.
    pub fn count(&self, agreed: bool) {
        if agreed {
            self.alpn_protocol_found.inc();
            self.metadata_added.inc();
        } else {
            self.alpn_protocol_not_found.inc();
        }
    }
}

/// The stats of the process itself; only the control runtime writes them.
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "the fields are Envoy's stats; its documentation names them"
)]
pub struct ServerStats {
    pub uptime: Gauge,
    pub live: Gauge,
    pub state: Gauge,
    pub concurrency: Gauge,
    pub memory_allocated: Gauge,
    pub total_connections: Gauge,
    pub days_until_first_cert_expiring: Gauge,
    pub listeners_active: Gauge,
    pub listeners_draining: Gauge,
    pub listener_create_success: Counter,
    pub listener_create_failure: Counter,
    pub clusters_active: Gauge,
    pub cluster_added: Counter,
    pub cluster_modified: Counter,
    pub cluster_removed: Counter,
    pub control_plane_connected: Gauge,
}

impl ServerStats {
    /// The handles in `registry`.
    pub fn new(registry: &Registry) -> ServerStats {
        let gauge = |name| {
            registry
                .gauges(Descriptor::envoy(name))
                .handle(Shard::CONTROL, &[])
        };
        let counter = |name| {
            registry
                .counters(Descriptor::envoy(name))
                .handle(Shard::CONTROL, &[])
        };
        ServerStats {
            uptime: gauge("server.uptime"),
            live: gauge("server.live"),
            state: gauge("server.state"),
            concurrency: gauge("server.concurrency"),
            memory_allocated: gauge("server.memory_allocated"),
            total_connections: gauge("server.total_connections"),
            days_until_first_cert_expiring: gauge("server.days_until_first_cert_expiring"),
            listeners_active: gauge("listener_manager.total_listeners_active"),
            listeners_draining: gauge("listener_manager.total_listeners_draining"),
            listener_create_success: counter("listener_manager.listener_create_success"),
            listener_create_failure: counter("listener_manager.listener_create_failure"),
            clusters_active: gauge("cluster_manager.active_clusters"),
            cluster_added: counter("cluster_manager.cluster_added"),
            cluster_modified: counter("cluster_manager.cluster_modified"),
            cluster_removed: counter("cluster_manager.cluster_removed"),
            control_plane_connected: gauge("control_plane.connected_state"),
        }
    }
}

/// Sets Istio's `istio_build{component,tag}` to 1.
pub fn build_info(registry: &Registry, component: &str, tag: &str) {
    let help = "Istio component build info";
    let family = registry.gauges(Descriptor::new("istio_build", help, &["component", "tag"]));
    registry
        .keep(family.handle(Shard::CONTROL, &[component, tag]))
        .set(1);
}
