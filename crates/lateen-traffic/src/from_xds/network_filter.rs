//! Network filters.

use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::istio::{metadata_exchange as exchange, stats};
use lateen_envoy::pb::envoy::config::cluster::v3 as cds;
use lateen_envoy::pb::envoy::config::listener::v3 as lds;
use lateen_envoy::pb::envoy::extensions::filters::network::{
    connection_limit::v3 as connection_limit, direct_response::v3 as direct_response,
    http_connection_manager::v3 as http, local_ratelimit::v3 as local_ratelimit,
    rbac::v3 as network_rbac, set_filter_state::v3 as set_filter_state,
    sni_dynamic_forward_proxy::v3 as sni_forward_proxy, tcp_proxy::v3 as tcp,
};
use lateen_envoy::pb::envoy::r#type::v3 as ty;
use lateen_envoy::pb::google::protobuf::Any;

use super::basic::{data_source, flag, metadata_match, number, optional_duration, timeout};
use super::error::Within as _;
use super::{
    XdsError, access_log, ext_authz, extension, hcm, headers, http_filter, rate_limit, rbac,
};
use crate::filter::{ConnectionLimit, ConnectionRateLimit, NetworkFilter, NetworkFilterKind};
use crate::route::{HashPolicy, HashPolicyKind};
use crate::tcp::{TcpProxy, TcpTarget, TcpWeightedCluster, Tunneling};

/// Time without a byte until a TCP connection is closed, unless set otherwise. Source: Envoy.
const DEFAULT_IDLE: Duration = Duration::from_secs(3600);

/// The port Envoy connects to where none is configured.
const SNI_PORT: u16 = 443;

/// The filters of a chain; the last must be terminal, and no other.
pub(super) fn chain(filters: &[lds::Filter]) -> Result<Vec<NetworkFilter>, XdsError> {
    let filters = filters
        .iter()
        .enumerate()
        .map(|(index, filter)| downstream(filter).at("filters", index));
    let filters: Vec<NetworkFilter> = filters.collect::<Result<_, _>>()?;
    let early = filters
        .iter()
        .rev()
        .skip(1)
        .find(|filter| is_terminal(&filter.kind));
    if let Some(filter) = early {
        return Err(XdsError::new(format!(
            "filter {:?} is terminal and must be the last",
            filter.name
        ))
        .within("filters"));
    }
    match filters.last() {
        Some(last) if !is_terminal(&last.kind) => Err(XdsError::new(format!(
            "filter {:?} is the last and not terminal",
            last.name
        ))
        .within("filters")),
        _ => Ok(filters),
    }
}

fn is_terminal(kind: &NetworkFilterKind) -> bool {
    use NetworkFilterKind as Kind;
    matches!(
        kind,
        Kind::Http(_) | Kind::Tcp(_) | Kind::Echo | Kind::DirectResponse(_)
    )
}

/// The filters of a cluster's connections.
pub(super) fn upstream(filters: &[cds::Filter]) -> Result<Vec<NetworkFilter>, XdsError> {
    let compile = |(index, filter): (usize, &cds::Filter)| {
        let missing = || XdsError::new(format!("filter {:?} has no configuration", filter.name));
        let any = filter
            .typed_config
            .as_ref()
            .ok_or_else(missing)
            .at("filters", index)?;
        let kind = kind(&filter.name, any).at("filters", index)?;
        Ok(NetworkFilter {
            name: filter.name.as_str().into(),
            kind,
        })
    };
    filters.iter().enumerate().map(compile).collect()
}

fn downstream(filter: &lds::Filter) -> Result<NetworkFilter, XdsError> {
    let any = match filter.config_type.as_ref() {
        Some(lds::filter::ConfigType::TypedConfig(any)) => any,
        Some(lds::filter::ConfigType::ConfigDiscovery(_)) => {
            let reason = format!(
                "filter {:?} comes by ECDS, which is not supported",
                filter.name
            );
            return Err(XdsError::new(reason).within("config_discovery"));
        }
        None => {
            let reason = format!("filter {:?} has no configuration", filter.name);
            return Err(XdsError::new(reason).within("typed_config"));
        }
    };
    Ok(NetworkFilter {
        name: filter.name.as_str().into(),
        kind: kind(&filter.name, any).within("typed_config")?,
    })
}

fn kind(filter: &str, any: &Any) -> Result<NetworkFilterKind, XdsError> {
    let name = extension::type_name(any)?;
    Ok(
        match name
            .strip_prefix("envoy.extensions.filters.network.")
            .unwrap_or(&name)
        {
            "http_connection_manager.v3.HttpConnectionManager" => {
                let from: http::HttpConnectionManager = extension::message(any)?;
                NetworkFilterKind::Http(Arc::new(hcm::compile(&from)?))
            }
            "tcp_proxy.v3.TcpProxy" => {
                let from: tcp::TcpProxy = extension::message(any)?;
                NetworkFilterKind::Tcp(Arc::new(tcp_proxy(&from)?))
            }
            "rbac.v3.RBAC" => {
                let from: network_rbac::Rbac = extension::message(any)?;
                NetworkFilterKind::Rbac(rbac::network(&from)?)
            }
            "ext_authz.v3.ExtAuthz" => NetworkFilterKind::ExtAuthz(Arc::new(ext_authz::network(
                &extension::message(any)?,
            )?)),
            "set_filter_state.v3.Config" => {
                let from: set_filter_state::Config = extension::message(any)?;
                if !from.on_downstream_tls_handshake.is_empty()
                    || !from.on_downstream_data.is_empty()
                {
                    return Err(XdsError::new("only on_new_connection is supported"));
                }
                NetworkFilterKind::SetFilterState(http_filter::filter_states(
                    &from.on_new_connection,
                    "on_new_connection",
                )?)
            }
            "sni_cluster.v3.SniCluster" => NetworkFilterKind::SniCluster,
            "sni_dynamic_forward_proxy.v3.FilterConfig" => {
                resolve_server_name(&extension::message(any)?)?
            }
            "connection_limit.v3.ConnectionLimit" => NetworkFilterKind::ConnectionLimit(Arc::new(
                connection_limit(&extension::message(any)?)?,
            )),
            "local_ratelimit.v3.LocalRateLimit" => {
                let from: local_ratelimit::LocalRateLimit = extension::message(any)?;
                NetworkFilterKind::LocalRateLimit(Arc::new(connection_rate_limit(&from)?))
            }
            "echo.v3.Echo" => NetworkFilterKind::Echo,
            "direct_response.v3.Config" => {
                let from: direct_response::Config = extension::message(any)?;
                let missing = || XdsError::new("the response is missing");
                let source = from
                    .response
                    .as_ref()
                    .ok_or_else(missing)
                    .and_then(data_source);
                NetworkFilterKind::DirectResponse(source.within("response")?)
            }
            "envoy.tcp.metadataexchange.config.MetadataExchange" => {
                let from: exchange::MetadataExchange = extension::message(any)?;
                NetworkFilterKind::MetadataExchange(http_filter::metadata_exchange(&from))
            }
            "stats.PluginConfig" => {
                let from: stats::PluginConfig = extension::message(any)?;
                NetworkFilterKind::IstioStats(Arc::new(http_filter::stats(&from)))
            }
            _ => {
                return Err(XdsError::new(format!(
                    "filter {filter:?} of type {name} is not supported"
                )));
            }
        },
    )
}

fn connection_limit(from: &connection_limit::ConnectionLimit) -> Result<ConnectionLimit, XdsError> {
    let max_connections = from.max_connections.as_ref().map_or(0, |max| max.value);
    if max_connections == 0 {
        return Err(XdsError::new("must be more than 0").within("max_connections"));
    }
    let runtime = from.runtime_enabled.as_ref();
    let enabled = runtime.is_none_or(|feature| flag(feature.default_value.as_ref(), true));
    Ok(ConnectionLimit {
        stat_prefix: from.stat_prefix.as_str().into(),
        max_connections: if enabled { max_connections } else { u64::MAX },
        delay: optional_duration(from.delay.as_ref(), "delay")?,
    })
}

fn connection_rate_limit(
    from: &local_ratelimit::LocalRateLimit,
) -> Result<ConnectionRateLimit, XdsError> {
    let runtime = from.runtime_enabled.as_ref();
    if !runtime.is_none_or(|feature| flag(feature.default_value.as_ref(), true)) {
        return Err(XdsError::new("a limit that is off can be left out").within("runtime_enabled"));
    }
    let missing = || XdsError::new("the bucket is missing");
    let bucket = from.token_bucket.as_ref().ok_or_else(missing);
    Ok(ConnectionRateLimit {
        stat_prefix: from.stat_prefix.as_str().into(),
        bucket: bucket.and_then(rate_limit::bucket).within("token_bucket")?,
        share_key: from.share_key.as_str().into(),
    })
}

#[expect(
    deprecated,
    reason = "older control planes write access_log_flush_interval"
)]
fn tcp_proxy(from: &tcp::TcpProxy) -> Result<TcpProxy, XdsError> {
    let options = from.access_log_options.unwrap_or_default();
    let flush = options
        .access_log_flush_interval
        .as_ref()
        .or(from.access_log_flush_interval.as_ref());
    let longest = from.max_downstream_connection_duration.as_ref();
    Ok(TcpProxy {
        stat_prefix: from.stat_prefix.as_str().into(),
        target: tcp_target(from)?,
        idle_timeout: timeout(
            from.idle_timeout.as_ref(),
            Some(DEFAULT_IDLE),
            "idle_timeout",
        )?,
        max_downstream_connection_duration: timeout(
            longest,
            None,
            "max_downstream_connection_duration",
        )?,
        max_connect_attempts: number(from.max_connect_attempts.as_ref())
            .unwrap_or(1)
            .max(1),
        access_logs: access_log::compile_all(&from.access_log, "access_log")?,
        access_log_flush_interval: timeout(
            flush,
            None,
            "access_log_options.access_log_flush_interval",
        )?,
        hash_policy: hash_policies(&from.hash_policy)?,
        metadata_match: metadata_match(from.metadata_match.as_ref()),
        tunneling: from
            .tunneling_config
            .as_ref()
            .map(tunneling)
            .transpose()
            .within("tunneling_config")?,
    })
}

fn tcp_target(from: &tcp::TcpProxy) -> Result<TcpTarget, XdsError> {
    use tcp::tcp_proxy::ClusterSpecifier;
    let list = match from.cluster_specifier.as_ref() {
        Some(ClusterSpecifier::Cluster(name)) => {
            return Ok(TcpTarget::Cluster(name.as_str().into()));
        }
        Some(ClusterSpecifier::WeightedClusters(list)) => list,
        None => return Err(XdsError::new("the cluster is missing").within("cluster")),
    };
    let clusters = list.clusters.iter().map(|entry| TcpWeightedCluster {
        name: entry.name.as_str().into(),
        weight: entry.weight,
        metadata_match: metadata_match(entry.metadata_match.as_ref()),
    });
    let clusters: Vec<TcpWeightedCluster> = clusters.collect();
    let total: u64 = clusters.iter().map(|entry| u64::from(entry.weight)).sum();
    if total == 0 {
        return Err(
            XdsError::new("the sum of the weights must be more than 0").within("weighted_clusters")
        );
    }
    Ok(TcpTarget::Weighted { clusters, total })
}

fn hash_policies(from: &[ty::HashPolicy]) -> Result<Vec<HashPolicy>, XdsError> {
    use ty::hash_policy::PolicySpecifier;
    let compile = |(index, policy): (usize, &ty::HashPolicy)| {
        let kind = match policy.policy_specifier.as_ref() {
            Some(PolicySpecifier::SourceIp(_)) => HashPolicyKind::SourceIp,
            Some(PolicySpecifier::FilterState(state)) => {
                HashPolicyKind::FilterState(state.key.as_str().into())
            }
            None => return Err(XdsError::new("the policy is empty")).at("hash_policy", index),
        };
        Ok(HashPolicy {
            kind,
            terminal: false,
        })
    };
    from.iter().enumerate().map(compile).collect()
}

fn tunneling(from: &tcp::tcp_proxy::TunnelingConfig) -> Result<Tunneling, XdsError> {
    Ok(Tunneling {
        hostname: headers::format(&from.hostname).within("hostname")?,
        use_post: from.use_post,
        post_path: if from.post_path.is_empty() {
            "/".into()
        } else {
            from.post_path.as_str().into()
        },
        headers: headers::mutations(&from.headers_to_add, &[], "headers")?,
    })
}

fn resolve_server_name(
    from: &sni_forward_proxy::FilterConfig,
) -> Result<NetworkFilterKind, XdsError> {
    let port = match &from.port_specifier {
        Some(sni_forward_proxy::filter_config::PortSpecifier::PortValue(port)) => {
            u16::try_from(*port)
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| XdsError::new(format!("{port} is no port")).within("port_value"))?
        }
        None => SNI_PORT,
    };
    Ok(NetworkFilterKind::SniDynamicForwardProxy { port })
}
