//! Istio's own filters.

use std::sync::Arc;

use lateen_envoy::istio::{alpn, metadata_exchange, peer_metadata, stats};
use lateen_envoy::pb::google::protobuf::Any;

use crate::filter::{
    AlpnFilter, HttpFilterKind, IstioStats, MetadataExchange, MetricOverride, PeerDiscovery,
    PeerMetadata, PeerPropagation,
};
use crate::from_xds::basic::{non_empty, texts};
use crate::from_xds::{XdsError, extension};

/// An HTTP filter, by its type's full name.
pub(super) fn kind(name: &str, any: &Any) -> Result<Option<HttpFilterKind>, XdsError> {
    Ok(Some(match name {
        "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig" => {
            HttpFilterKind::Alpn(Arc::new(alpn_filter(&extension::message(any)?)))
        }
        "io.istio.http.peer_metadata.Config" => {
            HttpFilterKind::PeerMetadata(Arc::new(peers(&extension::message(any)?)))
        }
        "stats.PluginConfig" => {
            HttpFilterKind::IstioStats(Arc::new(stats(&extension::message(any)?)))
        }
        _ => return Ok(None),
    }))
}

fn alpn_filter(from: &alpn::FilterConfig) -> AlpnFilter {
    use alpn::filter_config::Protocol;
    let mut out = AlpnFilter::default();
    for entry in &from.alpn_override {
        let list = match entry.upstream_protocol() {
            Protocol::Http10 => &mut out.http10,
            Protocol::Http11 => &mut out.http11,
            Protocol::Http2 => &mut out.http2,
        };
        *list = texts(&entry.alpn_override);
    }
    out
}

fn peers(from: &peer_metadata::Config) -> PeerMetadata {
    PeerMetadata {
        downstream_discovery: from
            .downstream_discovery
            .iter()
            .filter_map(discovery)
            .collect(),
        upstream_discovery: from
            .upstream_discovery
            .iter()
            .filter_map(discovery)
            .collect(),
        downstream_propagation: from
            .downstream_propagation
            .iter()
            .filter_map(propagation)
            .collect(),
        upstream_propagation: from
            .upstream_propagation
            .iter()
            .filter_map(propagation)
            .collect(),
        shared_with_upstream: from.shared_with_upstream,
        additional_labels: texts(&from.additional_labels),
    }
}

fn discovery(from: &peer_metadata::config::DiscoveryMethod) -> Option<PeerDiscovery> {
    use peer_metadata::config::discovery_method::MethodSpecifier;
    Some(match from.method_specifier.as_ref()? {
        MethodSpecifier::Baggage(_) => PeerDiscovery::Baggage,
        MethodSpecifier::WorkloadDiscovery(_) => PeerDiscovery::WorkloadDiscovery,
        MethodSpecifier::IstioHeaders(_) => PeerDiscovery::IstioHeaders,
    })
}

fn propagation(from: &peer_metadata::config::PropagationMethod) -> Option<PeerPropagation> {
    use peer_metadata::config::propagation_method::MethodSpecifier;
    let MethodSpecifier::IstioHeaders(headers) = from.method_specifier.as_ref()?;
    Some(PeerPropagation::IstioHeaders {
        skip_external_clusters: headers.skip_external_clusters,
    })
}

/// Istio's metrics, for HTTP and TCP.
pub(in crate::from_xds) fn stats(from: &stats::PluginConfig) -> IstioStats {
    let metrics = from.metrics.iter().map(|metric| MetricOverride {
        name: metric.name.as_str().into(),
        dimensions: metric
            .dimensions
            .iter()
            .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
            .collect(),
        tags_to_remove: texts(&metric.tags_to_remove),
        matches: non_empty(&metric.r#match),
        drop: metric.drop,
    });
    IstioStats {
        disable_host_header_fallback: from.disable_host_header_fallback,
        tcp_reporting_duration: positive(from.tcp_reporting_duration.as_ref()),
        rotation_interval: positive(from.rotation_interval.as_ref()),
        graceful_deletion_interval: positive(from.graceful_deletion_interval.as_ref()),
        server_gateway: from.reporter() == stats::Reporter::ServerGateway,
        metrics: metrics.collect(),
    }
}

fn positive(
    from: Option<&lateen_envoy::pb::google::protobuf::Duration>,
) -> Option<std::time::Duration> {
    from.and_then(|from| crate::from_xds::basic::duration(from).ok())
        .filter(|duration| !duration.is_zero())
}

/// TCP metadata exchange.
pub(in crate::from_xds) fn metadata_exchange(
    from: &metadata_exchange::MetadataExchange,
) -> MetadataExchange {
    MetadataExchange {
        protocol: from.protocol.as_str().into(),
        enable_discovery: from.enable_discovery,
        additional_labels: texts(&from.additional_labels),
    }
}
