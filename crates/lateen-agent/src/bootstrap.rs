//! The bootstrap of a stock Envoy, as Istio's `envoy_bootstrap.json` has it, without what only Istio's build of Envoy knows.
//!
//! A pure function of the settings: the same settings give the same bytes. Everything dynamic (clusters, listeners, routes, secrets)
//! comes over the agent's two sockets.

mod listeners;
mod stats;

pub use stats::{inclusion as stats_inclusion, is_chosen as chooses_stats};

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::config::AgentConfig;
use crate::node::node_json;

/// The sockets of an agent, below its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sockets {
    /// Where ADS is served.
    pub ads: PathBuf,
    /// Where secrets are served.
    pub sds: PathBuf,
}

impl Sockets {
    /// The sockets in `dir`.
    pub fn below(dir: &Path) -> Self {
        Self {
            ads: dir.join("XDS"),
            sds: dir.join("SDS"),
        }
    }
}

/// The cluster of the proxy's own workload; the control plane knows it by this name.
pub const LOCAL_CLUSTER: &str = "local_cluster";

const HTTP_PROTOCOL_OPTIONS: &str =
    "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The bootstrap as JSON.
pub fn bootstrap(config: &AgentConfig, sockets: &Sockets) -> Value {
    let mut bootstrap = json!({
        "application_log_config": {"log_format": {
            "text_format": "%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t",
        }},
        "node": node_json(config),
        "layered_runtime": {"layers": [
            {"name": "global config", "static_layer": runtime(config)},
            {"name": "admin", "admin_layer": {}},
        ]},
        "bootstrap_extensions": [{
            "name": "envoy.bootstrap.internal_listener",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
                "buffer_size_kb": 64,
            },
        }],
        "stats_config": stats::config(config),
        "overload_manager": overload_manager(config),
        "admin": {
            "access_log": [{
                "name": "envoy.access_loggers.file",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                    "path": "/dev/null",
                },
            }],
            "address": socket_address("127.0.0.1", config.proxy_config.admin_port),
        },
        "dynamic_resources": dynamic_resources(config),
        "static_resources": {
            "clusters": clusters(config, sockets),
            "listeners": listeners::listeners(config),
        },
    });
    if config.mark.is_some() || config.self_discovery {
        bootstrap["cluster_manager"] = cluster_manager(config);
    }
    bootstrap
}

fn dynamic_resources(config: &AgentConfig) -> Value {
    let source = json!({"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"});
    let api_type = if config.delta_xds {
        "DELTA_GRPC"
    } else {
        "GRPC"
    };
    json!({
        "lds_config": source,
        "cds_config": source,
        "ads_config": {
            "api_type": api_type,
            "set_node_on_first_message_only": true,
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {
                "cluster_name": "xds-grpc",
                // Envoy waits up to 30 s by default; the agent beside it can be asked often.
                "retry_policy": {"retry_back_off": {"base_interval": "0.1s", "max_interval": "2s"}},
            }}],
        },
    })
}

/// Every connection Envoy makes carries the mark, so that redirection does not send it back to Envoy; its peers are those of the local
/// cluster.
fn cluster_manager(config: &AgentConfig) -> Value {
    let mut manager = json!({});
    if let Some(mark) = config.mark {
        manager["upstream_bind_config"] = json!({"socket_options": [{
            "description": "the proxy's own connections are not redirected",
            // SOL_SOCKET, SO_MARK (asm-generic/socket.h).
            "level": 1,
            "name": 36,
            "int_value": mark,
            "state": "STATE_PREBIND",
        }]});
    }
    if config.self_discovery {
        manager["local_cluster_name"] = LOCAL_CLUSTER.into();
    }
    manager
}

/// The proxy's own workload, of which the control plane tells. Nothing is sent there.
fn local_cluster() -> Value {
    json!({
        "name": LOCAL_CLUSTER,
        "alt_stat_name": format!("{LOCAL_CLUSTER};"),
        "type": "EDS",
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "eds_cluster_config": {
            "eds_config": {"ads": {}, "resource_api_version": "V3"},
            "service_name": LOCAL_CLUSTER,
        },
    })
}

fn clusters(config: &AgentConfig, sockets: &Sockets) -> Value {
    let tcp = |name: &str, port| static_cluster(name, "0.250s", socket_address("127.0.0.1", port));
    let grpc = |name: &str, path: &Path| {
        let path = path.to_string_lossy();
        let mut cluster = static_cluster(name, "1s", json!({"pipe": {"path": path}}));
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": HTTP_PROTOCOL_OPTIONS,
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        });
        cluster
    };
    let mut ads = grpc("xds-grpc", &sockets.ads);
    ads["circuit_breakers"] = json!({"thresholds": [limits("DEFAULT"), limits("HIGH")]});
    let mut clusters = vec![
        tcp("prometheus_stats", config.proxy_config.admin_port),
        tcp("agent", config.proxy_config.status_port),
        grpc("sds-grpc", &sockets.sds),
        ads,
    ];
    clusters.extend(config.self_discovery.then(local_cluster));
    clusters.into()
}

fn static_cluster(name: &str, connect_timeout: &str, address: Value) -> Value {
    json!({
        "name": name,
        "alt_stat_name": format!("{name};"),
        "type": "STATIC",
        "connect_timeout": connect_timeout,
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    })
}

/// The stream to the control plane must never be refused for want of a permit.
fn limits(priority: &str) -> Value {
    json!({
        "priority": priority,
        "max_connections": 100_000,
        "max_pending_requests": 100_000,
        "max_requests": 100_000,
    })
}

fn socket_address(address: &str, port: u16) -> Value {
    json!({"socket_address": {"protocol": "TCP", "address": address, "port_value": port}})
}

fn overload_manager(config: &AgentConfig) -> Value {
    let connections = config
        .proxy_config
        .proxy_metadata
        .iter()
        .find(|(name, _)| name == "ISTIO_META_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS")
        .and_then(|(_, value)| value.parse::<u32>().ok());
    json!({"resource_monitors": [{
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            "max_active_downstream_connections": connections.unwrap_or(i32::MAX.unsigned_abs()),
        },
    }]})
}

/// Runtime flags: Istio's defaults, then the user's. An empty value takes a default away; booleans are written as such, since Envoy
/// takes no strings for them.
fn runtime(config: &AgentConfig) -> Value {
    let mut flags = Map::new();
    flags.insert(
        "re2.max_program_size.error_level".to_owned(),
        "32768".into(),
    );
    flags.insert(
        "envoy.reloadable_features.http_reject_path_with_fragment".to_owned(),
        false.into(),
    );
    for (name, value) in &config.proxy_config.runtime_values {
        match value.as_str() {
            "" => drop(flags.remove(name)),
            "true" => drop(flags.insert(name.clone(), true.into())),
            "false" => drop(flags.insert(name.clone(), false.into())),
            other => drop(flags.insert(name.clone(), other.into())),
        }
    }
    Value::Object(flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;
    use lateen_envoy::json::from_value;
    use lateen_envoy::pb::envoy::config::bootstrap::v3::Bootstrap;

    fn parsed(extra: &[(&str, &str)], mark: Option<u32>) -> Bootstrap {
        let mut config = config(extra).unwrap();
        config.mark = mark;
        let sockets = Sockets::below(Path::new("/run/lateen"));
        from_value(bootstrap(&config, &sockets)).unwrap()
    }

    #[test]
    fn it_is_a_bootstrap() {
        let bootstrap = parsed(&[], None);
        let node = bootstrap.node.unwrap();
        assert_eq!(
            node.id,
            "sidecar~10.244.0.7~reviews-v1-0.default~default.svc.cluster.local"
        );
        let statics = bootstrap.static_resources.unwrap();
        let names: Vec<_> = statics
            .clusters
            .iter()
            .map(|cluster| cluster.name.as_str())
            .collect();
        assert_eq!(names, ["prometheus_stats", "agent", "sds-grpc", "xds-grpc"]);
        assert_eq!(statics.listeners.len(), 2);
        assert!(bootstrap.cluster_manager.is_none());
    }

    #[test]
    fn with_a_mark_every_upstream_socket_carries_it() {
        let manager = parsed(&[], Some(1337)).cluster_manager.unwrap();
        let options = manager.upstream_bind_config.unwrap().socket_options;
        assert_eq!((options[0].level, options[0].name), (1, 36));
    }

    #[test]
    fn a_proxy_that_is_to_know_its_peers_has_a_cluster_of_them() {
        let bootstrap = parsed(&[("ISTIO_META_ENABLE_SELF_DISCOVERY", "true")], None);
        let manager = bootstrap.cluster_manager.unwrap();
        assert_eq!(manager.local_cluster_name, LOCAL_CLUSTER);
        assert!(manager.upstream_bind_config.is_none());
        let statics = bootstrap.static_resources.unwrap();
        assert!(statics.clusters.iter().any(|one| one.name == LOCAL_CLUSTER));
    }

    #[test]
    fn the_users_runtime_values_win_and_an_empty_one_removes() {
        let json = r#"{"runtimeValues":{"a.b":"true","re2.max_program_size.error_level":""}}"#;
        let config = config(&[("PROXY_CONFIG", json)]).unwrap();
        let flags = runtime(&config);
        assert_eq!(flags["a.b"], true);
        assert!(flags.get("re2.max_program_size.error_level").is_none());
    }

    #[test]
    fn the_same_settings_give_the_same_bytes() {
        let make = || {
            let sockets = Sockets::below(Path::new("/run/lateen"));
            bootstrap(&config(&[]).unwrap(), &sockets).to_string()
        };
        assert_eq!(make(), make());
    }
}
