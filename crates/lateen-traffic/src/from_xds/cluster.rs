//! Clusters.

mod health_check;
mod http;
mod lb;
mod outlier;

pub(super) use http::{http1_options, http2_options};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::pb::envoy::config::cluster::v3 as cds;
use lateen_envoy::pb::envoy::config::core::v3 as core;
use lateen_envoy::pb::envoy::extensions::clusters::dns::v3 as dns;
use lateen_envoy::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3 as dynamic_forward_proxy;
use lateen_envoy::pb::envoy::extensions::transport_sockets::{
    proxy_protocol::v3 as proxy_protocol, tls::v3 as tls,
};

use super::basic::{
    keepalive, metadata, non_empty, number, object, optional_duration, percent, port,
    socket_address, socket_options,
};
use super::error::Within as _;
use super::{XdsError, endpoint, extension, headers, network_filter};
use crate::cluster::{
    BindConfig, CircuitBreaker, Cluster, Discovery, DnsFamily, DnsOptions, OriginalDst,
    ProxyVersion, RetryBudget, TransportSocket, TransportSocketMatch,
};
use crate::provenance::Provenance;
use crate::value::Value;

/// Time to connect unless set otherwise. Source: Envoy.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between DNS resolutions unless set otherwise. Source: Envoy.
const DEFAULT_DNS_REFRESH: Duration = Duration::from_secs(5);
/// A connection's buffer limit unless set otherwise. Source: Envoy.
pub(super) const DEFAULT_BUFFER_LIMIT: u32 = 1 << 20;

/// Compiles a cluster.
pub(super) fn compile(from: cds::Cluster) -> Result<Cluster, XdsError> {
    refuse_unsupported(&from)?;
    let (lb_policy, localities) = lb::policy(&from)?;
    let metadata = metadata(from.metadata.as_ref());
    let http = http::compile(&from)?;
    let transport_matches = from.transport_socket_matches.iter().enumerate();
    let transport_matches = transport_matches
        .map(|(index, entry)| transport_match(entry).at("transport_socket_matches", index));
    Ok(Cluster {
        name: from.name.as_str().into(),
        alt_stat_name: non_empty(&from.alt_stat_name),
        discovery: discovery(&from)?,
        lb_policy,
        utilization: lb::utilization(from.load_balancing_policy.as_ref())
            .within("load_balancing_policy")?
            .map(Arc::new),
        common_lb: lb::common(&from, localities),
        connect_timeout: optional_duration(from.connect_timeout.as_ref(), "connect_timeout")?
            .filter(|timeout| !timeout.is_zero())
            .unwrap_or(DEFAULT_CONNECT_TIMEOUT),
        buffer_limit: number(from.per_connection_buffer_limit_bytes.as_ref())
            .unwrap_or(DEFAULT_BUFFER_LIMIT),
        circuit_breakers: circuit_breakers(from.circuit_breakers.as_ref()),
        outlier_detection: from
            .outlier_detection
            .as_ref()
            .map(outlier::compile)
            .transpose()
            .within("outlier_detection")?,
        health_check: health_check::compile(&from.health_checks, http.protocol)?,
        http,
        transport: transport(from.transport_socket.as_ref()).within("transport_socket")?,
        transport_matches: transport_matches.collect::<Result<_, _>>()?,
        bind: bind(from.upstream_bind_config.as_ref()).within("upstream_bind_config")?,
        keepalive: from
            .upstream_connection_options
            .as_ref()
            .and_then(|options| options.tcp_keepalive.as_ref())
            .map(keepalive),
        filters: network_filter::upstream(&from.filters)?,
        close_connections_on_health_failure: from.close_connections_on_host_health_failure,
        provenance: Provenance::from_metadata(&metadata),
        metadata,
    })
}

fn refuse_unsupported(from: &cds::Cluster) -> Result<(), XdsError> {
    let unsupported = [
        (from.lb_subset_config.is_some(), "lb_subset_config"),
        (
            from.transport_socket_matcher.is_some(),
            "transport_socket_matcher",
        ),
        (from.upstream_config.is_some(), "upstream_config"),
    ];
    match unsupported.into_iter().find(|(set, _)| *set) {
        Some((_, field)) => Err(XdsError::new("is not supported").within(field)),
        None => Ok(()),
    }
}

fn discovery(from: &cds::Cluster) -> Result<Discovery, XdsError> {
    use cds::cluster::ClusterDiscoveryType as Kind;
    match from.cluster_discovery_type.as_ref() {
        None => own_discovery(from, cds::cluster::DiscoveryType::Static),
        Some(Kind::Type(number)) => match cds::cluster::DiscoveryType::try_from(*number) {
            Ok(kind) => own_discovery(from, kind),
            Err(_) => Err(XdsError::new(format!("{number} is no discovery type")).within("type")),
        },
        Some(Kind::ClusterType(custom)) => custom_discovery(from, custom).within("cluster_type"),
    }
}

fn own_discovery(
    from: &cds::Cluster,
    kind: cds::cluster::DiscoveryType,
) -> Result<Discovery, XdsError> {
    use cds::cluster::DiscoveryType;
    Ok(match kind {
        DiscoveryType::Eds => {
            let service = from
                .eds_cluster_config
                .as_ref()
                .and_then(|config| non_empty(&config.service_name));
            Discovery::Eds {
                service_name: service.unwrap_or_else(|| from.name.as_str().into()),
            }
        }
        DiscoveryType::Static => {
            Discovery::Static(load_assignment(from, endpoint::Names::Forbidden)?)
        }
        DiscoveryType::StrictDns => Discovery::StrictDns(
            load_assignment(from, endpoint::Names::Allowed)?,
            dns_options(from)?,
        ),
        DiscoveryType::LogicalDns => Discovery::LogicalDns(
            load_assignment(from, endpoint::Names::Allowed)?,
            dns_options(from)?,
        ),
        DiscoveryType::OriginalDst => Discovery::OriginalDst(original_dst(from)?),
    })
}

/// The newer way to say STRICT_DNS and LOGICAL_DNS.
fn custom_discovery(
    from: &cds::Cluster,
    custom: &cds::cluster::CustomClusterType,
) -> Result<Discovery, XdsError> {
    let unsupported = || {
        XdsError::new(format!(
            "the cluster type {:?} is not supported",
            custom.name
        ))
    };
    let any = custom.typed_config.as_ref().ok_or_else(unsupported)?;
    match extension::type_name(any)?.as_ref() {
        "envoy.extensions.clusters.dns.v3.DnsCluster" => {}
        "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig" => {
            return forward_proxy(&extension::message(any)?);
        }
        _ => return Err(unsupported()),
    }
    let config: dns::DnsCluster = extension::message(any)?;
    let options = DnsOptions {
        refresh_rate: optional_duration(config.dns_refresh_rate.as_ref(), "dns_refresh_rate")?
            .unwrap_or(DEFAULT_DNS_REFRESH),
        respect_ttl: config.respect_dns_ttl,
        family: dns_family_number(config.dns_lookup_family),
    };
    let endpoints = load_assignment(from, endpoint::Names::Allowed)?;
    Ok(match config.all_addresses_in_single_endpoint {
        true => Discovery::LogicalDns(endpoints, options),
        false => Discovery::StrictDns(endpoints, options),
    })
}

/// Each host that is asked for has a pool of its own; sub-clusters would give it settings of its own too.
fn forward_proxy(config: &dynamic_forward_proxy::ClusterConfig) -> Result<Discovery, XdsError> {
    use dynamic_forward_proxy::cluster_config::ClusterImplementationSpecifier as Kind;
    match &config.cluster_implementation_specifier {
        Some(Kind::DnsCacheConfig(cache)) => {
            let family = cds::cluster::DnsLookupFamily::try_from(cache.dns_lookup_family)
                .unwrap_or_default();
            Ok(Discovery::DynamicForwardProxy(dns_family(family)))
        }
        _ => Err(XdsError::new("only dns_cache_config is supported")),
    }
}

fn dns_family(from: cds::cluster::DnsLookupFamily) -> DnsFamily {
    use cds::cluster::DnsLookupFamily;
    match from {
        DnsLookupFamily::Auto => DnsFamily::Auto,
        DnsLookupFamily::V4Only => DnsFamily::V4Only,
        DnsLookupFamily::V6Only => DnsFamily::V6Only,
        DnsLookupFamily::V4Preferred => DnsFamily::V4Preferred,
        DnsLookupFamily::All => DnsFamily::All,
    }
}

/// The numbers of `envoy.extensions.clusters.common.dns.v3.DnsLookupFamily`, where 0 is "unspecified".
fn dns_family_number(number: i32) -> DnsFamily {
    match number {
        2 => DnsFamily::V4Only,
        3 => DnsFamily::V6Only,
        4 => DnsFamily::V4Preferred,
        5 => DnsFamily::All,
        _ => DnsFamily::Auto,
    }
}

fn load_assignment(
    from: &cds::Cluster,
    names: endpoint::Names,
) -> Result<Arc<crate::EndpointSet>, XdsError> {
    let assignment = from.load_assignment.clone().unwrap_or_default();
    let mut endpoints = endpoint::compile(&assignment, names).within("load_assignment")?;
    if endpoints.cluster_name.is_empty() {
        endpoints.cluster_name = from.name.as_str().into();
    }
    Ok(Arc::new(endpoints))
}

#[expect(
    deprecated,
    reason = "Istio writes the DNS fields of the cluster itself"
)]
fn dns_options(from: &cds::Cluster) -> Result<DnsOptions, XdsError> {
    let family = dns_family(from.dns_lookup_family());
    let refresh_rate = optional_duration(from.dns_refresh_rate.as_ref(), "dns_refresh_rate")?;
    Ok(DnsOptions {
        refresh_rate: refresh_rate.unwrap_or(DEFAULT_DNS_REFRESH),
        respect_ttl: from.respect_dns_ttl,
        family,
    })
}

fn original_dst(from: &cds::Cluster) -> Result<OriginalDst, XdsError> {
    let Some(cds::cluster::LbConfig::OriginalDstLbConfig(config)) = from.lb_config.as_ref() else {
        return Ok(OriginalDst::default());
    };
    if config.metadata_key.is_some() {
        return Err(XdsError::new("is not supported").within("original_dst_lb_config.metadata_key"));
    }
    let name = if config.http_header_name.is_empty() {
        "x-envoy-original-dst-host"
    } else {
        &config.http_header_name
    };
    let header = config
        .use_http_header
        .then(|| headers::name(name))
        .transpose();
    let port_override = number(config.upstream_port_override.as_ref())
        .map(port)
        .transpose();
    Ok(OriginalDst {
        header: header.within("original_dst_lb_config.http_header_name")?,
        port_override: port_override.within("original_dst_lb_config.upstream_port_override")?,
    })
}

fn circuit_breakers(from: Option<&cds::CircuitBreakers>) -> [CircuitBreaker; 2] {
    let mut out = [CircuitBreaker::default(); 2];
    for thresholds in from.iter().flat_map(|from| &from.thresholds) {
        let at = usize::from(thresholds.priority() == core::RoutingPriority::High);
        let default = CircuitBreaker::default();
        out[at] = CircuitBreaker {
            max_connections: number(thresholds.max_connections.as_ref())
                .unwrap_or(default.max_connections),
            max_pending_requests: number(thresholds.max_pending_requests.as_ref())
                .unwrap_or(default.max_pending_requests),
            max_requests: number(thresholds.max_requests.as_ref()).unwrap_or(default.max_requests),
            max_retries: number(thresholds.max_retries.as_ref()).unwrap_or(default.max_retries),
            retry_budget: thresholds.retry_budget.as_ref().map(|budget| RetryBudget {
                percent: percent(budget.budget_percent.as_ref(), 20.0),
                min_concurrency: number(budget.min_retry_concurrency.as_ref()).unwrap_or(3),
            }),
            max_connection_pools: number(thresholds.max_connection_pools.as_ref()),
        };
    }
    out
}

fn transport_match(
    from: &cds::cluster::TransportSocketMatch,
) -> Result<TransportSocketMatch, XdsError> {
    let criteria = match from.r#match.as_ref().map(object) {
        Some(Value::Struct(fields)) => fields.into_iter().collect(),
        _ => Vec::new(),
    };
    let transport = transport(from.transport_socket.as_ref()).within("transport_socket")?;
    Ok(TransportSocketMatch {
        name: from.name.as_str().into(),
        criteria,
        transport,
    })
}

fn transport(from: Option<&core::TransportSocket>) -> Result<TransportSocket, XdsError> {
    let Some(from) = from else {
        return Ok(TransportSocket::Raw);
    };
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = from.config_type.as_ref()
    else {
        // Istio's "disabled" sockets are a bare name.
        return match from.name.as_str() {
            "envoy.transport_sockets.raw_buffer" | "raw_buffer" => Ok(TransportSocket::Raw),
            name => Err(XdsError::new(format!(
                "the transport socket {name:?} has no configuration"
            ))),
        };
    };
    match extension::type_name(any)?.as_str() {
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" => Ok(TransportSocket::Raw),
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext" => {
            let context: tls::UpstreamTlsContext = extension::message(any)?;
            Ok(TransportSocket::Tls(Arc::new(super::tls::upstream(
                &context,
            )?)))
        }
        "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport" => {
            proxied(&extension::message(any)?)
        }
        other => Err(XdsError::new(format!(
            "the transport socket {other} is not supported"
        ))),
    }
}

fn proxied(
    from: &proxy_protocol::ProxyProtocolUpstreamTransport,
) -> Result<TransportSocket, XdsError> {
    let config = from.config.clone().unwrap_or_default();
    if !config.added_tlvs.is_empty() {
        return Err(XdsError::new("is not supported").within("config.added_tlvs"));
    }
    let version = proxy_version(&config);
    match transport(from.transport_socket.as_ref()).within("transport_socket")? {
        TransportSocket::Proxied(..) => {
            Err(XdsError::new("one PROXY header is enough").within("transport_socket"))
        }
        inner => Ok(TransportSocket::Proxied(version, Arc::new(inner))),
    }
}

/// A version of the PROXY protocol.
pub(super) fn proxy_version(config: &core::ProxyProtocolConfig) -> ProxyVersion {
    match config.version() {
        core::proxy_protocol_config::Version::V1 => ProxyVersion::V1,
        core::proxy_protocol_config::Version::V2 => ProxyVersion::V2,
    }
}

fn bind(from: Option<&core::BindConfig>) -> Result<BindConfig, XdsError> {
    let Some(from) = from else {
        return Ok(BindConfig::default());
    };
    let source = from
        .source_address
        .as_ref()
        .map(socket_address)
        .transpose()
        .within("source_address")?;
    let extra = from
        .extra_source_addresses
        .iter()
        .filter_map(|extra| extra.address.as_ref());
    #[expect(
        deprecated,
        reason = "older control planes use the field before `extra_source_addresses`"
    )]
    let additional: Vec<SocketAddr> = extra
        .chain(&from.additional_source_addresses)
        .map(socket_address)
        .collect::<Result<_, _>>()
        .within("extra_source_addresses")?;
    Ok(BindConfig {
        source,
        additional_sources: additional,
        socket_options: socket_options(&from.socket_options),
    })
}
