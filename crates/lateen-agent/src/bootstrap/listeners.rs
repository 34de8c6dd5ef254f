//! The two listeners Envoy has from the start: its metrics (15090) and kubelet's readiness probe (15021), which asks the agent.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::socket_address;
use crate::config::AgentConfig;

pub(super) fn listeners(config: &AgentConfig) -> Value {
    let metrics = Static {
        port: config.envoy_prometheus_port,
        stat_prefix: "stats",
        path: "/stats/prometheus",
        cluster: "prometheus_stats",
    };
    let health = Static {
        port: config.envoy_status_port,
        stat_prefix: "agent",
        path: "/healthz/ready",
        cluster: "agent",
    };
    json!([metrics.listener(config), health.listener(config)])
}

struct Static {
    port: u16,
    stat_prefix: &'static str,
    path: &'static str,
    cluster: &'static str,
}

impl Static {
    fn listener(&self, config: &AgentConfig) -> Value {
        let (main, additional) = wildcards(&config.instance_ips);
        let mut listener = json!({
            "name": format!("{main}_{}", self.port),
            "address": socket_address(main, self.port),
            "traffic_direction": "OUTBOUND",
            // A full proxy must still be able to say so.
            "ignore_global_conn_limit": true,
            "bypass_overload_manager": true,
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": self.http_connection_manager(),
            }]}],
        });
        if let Some(additional) = additional {
            listener["additional_addresses"] =
                json!([{"address": socket_address(additional, self.port)}]);
        }
        listener
    }

    fn http_connection_manager(&self) -> Value {
        json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "codec_type": "AUTO",
            "stat_prefix": self.stat_prefix,
            "route_config": {"virtual_hosts": [{
                "name": "backend",
                "domains": ["*"],
                "routes": [{"match": {"prefix": self.path}, "route": {"cluster": self.cluster}}],
            }]},
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                },
            }],
        })
    }
}

/// The wildcard address of each family that the pod has; IPv4 where nothing is known.
fn wildcards(ips: &[IpAddr]) -> (&'static str, Option<&'static str>) {
    match (
        ips.iter().any(IpAddr::is_ipv4),
        ips.iter().any(IpAddr::is_ipv6),
    ) {
        (true, true) => ("0.0.0.0", Some("::")),
        (false, true) => ("::", None),
        _ => ("0.0.0.0", None),
    }
}
