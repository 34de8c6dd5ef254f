//! The filters every listener is made of, with Istio's names and settings.
//!
//! Istio's private extensions (peer metadata, ALPN override, metrics) exist only in our own proxy: a stock Envoy refuses a
//! listener that names them, so they are left out for it, or made of what it has.

use lateen_envoy::istio;

use crate::mesh::{Mesh, Stats};
use crate::node::IpMode;
use crate::proto::{
    Any, any, bool_value, core, duration, extensions, hcm, http_filter, listener, listener_filter,
    network_filter, u32_value,
};

/// Transport protocol of connections that begin with a ClientHello.
pub(crate) const TLS_TRANSPORT: &str = "tls";
/// Transport protocol of all others.
pub(crate) const RAW_TRANSPORT: &str = "raw_buffer";
/// Name of the TLS transport socket.
pub(crate) const TLS_SOCKET: &str = "envoy.transport_sockets.tls";
/// Name of the plain transport socket.
pub(crate) const RAW_SOCKET: &str = "envoy.transport_sockets.raw_buffer";
/// Name of the HTTP connection manager.
pub(crate) const HCM: &str = "envoy.filters.network.http_connection_manager";
/// Name of the TCP proxy.
pub(crate) const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
/// Name of the HTTP fault filter, also the key of per-route faults.
pub(crate) const FAULT: &str = "envoy.filters.http.fault";
/// Name of the CORS filter, also the key of per-route policies.
pub(crate) const CORS: &str = "envoy.filters.http.cors";

/// Application protocols the HTTP inspector reports.
pub(crate) const PLAINTEXT_HTTP_ALPN: [&str; 2] = ["http/1.1", "h2c"];
/// What sidecars offer for HTTP over mutual TLS.
pub(crate) const MTLS_HTTP_ALPN: [&str; 3] = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// What sidecars offer for TCP over mutual TLS.
pub(crate) const MTLS_TCP_ALPN: [&str; 2] = ["istio-peer-exchange", "istio"];
/// Everything sidecars offer.
pub(crate) const MTLS_ALPN: [&str; 5] = [
    "istio",
    "istio-peer-exchange",
    "istio-http/1.0",
    "istio-http/1.1",
    "istio-h2",
];

/// Which way a listener's traffic goes, seen from the proxy's workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Class {
    SidecarInbound,
    SidecarOutbound,
    Gateway,
}

/// Exchanges peer metadata over TCP.
pub(crate) fn metadata_exchange() -> listener::Filter {
    network_filter("istio.metadata_exchange", metadata_exchange_config())
}

/// The configuration of the metadata exchange, on listeners and clusters.
pub(crate) fn metadata_exchange_config() -> Any {
    any(&istio::metadata_exchange::MetadataExchange {
        protocol: "istio-peer-exchange".to_owned(),
        enable_discovery: true,
        ..Default::default()
    })
}

/// Exchanges peer metadata in HTTP headers.
pub(crate) fn peer_metadata(class: Class) -> hcm::HttpFilter {
    use istio::peer_metadata::{Config, config};
    let headers = config::IstioHeaders::default;
    let discover = |method| config::DiscoveryMethod {
        method_specifier: Some(method),
    };
    let discovery = vec![
        discover(config::discovery_method::MethodSpecifier::IstioHeaders(
            headers(),
        )),
        discover(config::discovery_method::MethodSpecifier::WorkloadDiscovery(Default::default())),
    ];
    let propagation = vec![config::PropagationMethod {
        method_specifier: Some(config::propagation_method::MethodSpecifier::IstioHeaders(
            headers(),
        )),
    }];
    let config = match class {
        Class::SidecarInbound => Config {
            downstream_discovery: discovery,
            downstream_propagation: propagation,
            ..Default::default()
        },
        Class::SidecarOutbound | Class::Gateway => Config {
            upstream_discovery: discovery,
            upstream_propagation: propagation,
            ..Default::default()
        },
    };
    http_filter("istio.metadata_exchange", any(&config))
}

/// Offers the ALPN that tells the other sidecar which HTTP it will speak.
pub(crate) fn alpn() -> hcm::HttpFilter {
    use istio::alpn::{FilterConfig, filter_config};
    let entry = |upstream: filter_config::Protocol, names: [&str; 3]| filter_config::AlpnOverride {
        upstream_protocol: upstream as i32,
        alpn_override: names.map(str::to_owned).to_vec(),
    };
    let config = FilterConfig {
        alpn_override: vec![
            entry(
                filter_config::Protocol::Http10,
                ["istio-http/1.0", "istio", "http/1.0"],
            ),
            entry(
                filter_config::Protocol::Http11,
                ["istio-http/1.1", "istio", "http/1.1"],
            ),
            entry(filter_config::Protocol::Http2, ["istio-h2", "istio", "h2"]),
        ],
    };
    http_filter("istio.alpn", any(&config))
}

/// The namespace of a cluster's metadata that tells a stock Envoy what to offer to its hosts, by the client's version of HTTP.
pub(crate) const ALPN_METADATA: &str = "lateen.alpn";

/// What Istio's filter offers, by the version of HTTP that is spoken to the host.
const OFFERS: [(&str, &str); 3] = [
    ("HTTP/1.0", "istio-http/1.0,istio,http/1.0"),
    ("HTTP/1.1", "istio-http/1.1,istio,http/1.1"),
    ("HTTP/2", "istio-h2,istio,h2"),
];

/// The same for a stock Envoy, which has no such filter: what the cluster's metadata say is put where Envoy's router looks for what to offer.
/// Clusters that say nothing offer what they always do.
pub(crate) fn alpn_of_cluster() -> hcm::HttpFilter {
    use extensions::filters::common::set_filter_state::v3 as state;
    use extensions::filters::http::set_filter_state::v3::Config;
    let offer =
        format!("%CEL(xds.cluster_metadata.filter_metadata['{ALPN_METADATA}'][request.protocol])%");
    let format = core::SubstitutionFormatString {
        // Nothing is offered, rather than a hyphen.
        omit_empty_values: true,
        format: Some(core::substitution_format_string::Format::TextFormatSource(
            core::DataSource {
                specifier: Some(core::data_source::Specifier::InlineString(offer)),
                ..Default::default()
            },
        )),
        ..Default::default()
    };
    let config = Config {
        on_request_headers: vec![state::FilterStateValue {
            key: Some(state::filter_state_value::Key::ObjectKey(
                "envoy.network.application_protocols".to_owned(),
            )),
            value: Some(state::filter_state_value::Value::FormatString(format)),
            shared_with_upstream: state::filter_state_value::SharedWithUpstream::Once as i32,
            skip_if_empty: true,
            ..Default::default()
        }],
        ..Default::default()
    };
    http_filter("envoy.filters.http.set_filter_state", any(&config))
}

/// What clusters in the mesh offer, by the client's version of HTTP: what it speaks, or what the cluster's port is known to.
pub(crate) fn alpn_offers(
    follows_client: bool,
) -> impl Iterator<Item = (&'static str, &'static str)> {
    OFFERS
        .into_iter()
        .map(move |(version, offer)| match follows_client {
            true => (version, offer),
            false => (version, OFFERS[1].1),
        })
}

fn stats_config(class: Class, stats: &Stats) -> Any {
    let metrics = stats
        .overrides
        .iter()
        .map(|own| istio::stats::MetricConfig {
            name: own.name.clone(),
            drop: own.disabled,
            tags_to_remove: own.removed.clone(),
            dimensions: own.dimensions.clone().into_iter().collect(),
            ..Default::default()
        });
    any(&istio::stats::PluginConfig {
        // Where clients choose the host header they must not choose label values. Source: Istio, `disableHostHeaderFallback`.
        disable_host_header_fallback: class != Class::SidecarOutbound,
        tcp_reporting_duration: stats.interval.map(duration),
        metrics: metrics.collect(),
        ..Default::default()
    })
}

/// A gateway reports as a client does.
fn stats_of(mesh: &Mesh, class: Class) -> &[Stats] {
    match class {
        Class::SidecarInbound => &mesh.stats.server,
        Class::SidecarOutbound | Class::Gateway => &mesh.stats.client,
    }
}

/// Istio's metrics for HTTP, for each provider.
pub(crate) fn http_stats(mesh: &Mesh, class: Class) -> impl Iterator<Item = hcm::HttpFilter> {
    let reports = stats_of(mesh, class).iter();
    reports.map(move |stats| http_filter("istio.stats", stats_config(class, stats)))
}

/// Istio's metrics for TCP, for each provider.
pub(crate) fn tcp_stats(mesh: &Mesh, class: Class) -> impl Iterator<Item = listener::Filter> {
    let reports = stats_of(mesh, class).iter();
    reports.map(move |stats| network_filter("istio.stats", stats_config(class, stats)))
}

/// Counts gRPC messages and statuses.
pub(crate) fn grpc_stats() -> hcm::HttpFilter {
    use extensions::filters::http::grpc_stats::v3::{FilterConfig, filter_config};
    http_filter(
        "envoy.filters.http.grpc_stats",
        any(&FilterConfig {
            emit_filter_state: true,
            per_method_stat_specifier: Some(
                filter_config::PerMethodStatSpecifier::StatsForAllMethods(Default::default()),
            ),
            ..Default::default()
        }),
    )
}

/// Translates gRPC-Web.
pub(crate) fn grpc_web() -> hcm::HttpFilter {
    http_filter(
        "envoy.filters.http.grpc_web",
        any(&extensions::filters::http::grpc_web::v3::GrpcWeb {}),
    )
}

/// Injects what a route asks for.
pub(crate) fn fault() -> hcm::HttpFilter {
    http_filter(
        FAULT,
        any(&extensions::filters::http::fault::v3::HttpFault::default()),
    )
}

/// Answers preflights as a route asks for.
pub(crate) fn cors() -> hcm::HttpFilter {
    http_filter(CORS, any(&extensions::filters::http::cors::v3::Cors {}))
}

/// Sends a request on.
pub(crate) fn router() -> hcm::HttpFilter {
    http_filter(
        "envoy.filters.http.router",
        any(&extensions::filters::http::router::v3::Router::default()),
    )
}

/// How names are resolved that only requests tell. Clusters and filters have to agree to the letter, since they share the
/// answers by the settings' name.
pub(crate) fn dns_cache(
    mode: IpMode,
) -> extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig {
    use crate::proto::cluster::cluster::DnsLookupFamily;
    use extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
    let family = match mode {
        IpMode::V4 => DnsLookupFamily::V4Only,
        IpMode::V6 => DnsLookupFamily::V6Only,
        IpMode::Dual => DnsLookupFamily::All,
    };
    DnsCacheConfig {
        name: "dynamic_dns_cache".to_owned(),
        dns_lookup_family: family as i32,
        // Envoy's own limit, written down.
        max_hosts: crate::proto::u32_value(1024),
        ..Default::default()
    }
}

/// Resolves the host of a request whose cluster needs it.
pub(crate) fn dynamic_forward_proxy(mode: IpMode) -> hcm::HttpFilter {
    use extensions::filters::http::dynamic_forward_proxy::v3::{FilterConfig, filter_config};
    let config = FilterConfig {
        implementation_specifier: Some(filter_config::ImplementationSpecifier::DnsCacheConfig(
            dns_cache(mode),
        )),
        ..Default::default()
    };
    http_filter("envoy.filters.http.dynamic_forward_proxy", any(&config))
}

/// Resolves the server name of a TLS connection.
pub(crate) fn sni_forward_proxy(mode: IpMode, port: u32) -> listener::Filter {
    use extensions::filters::network::sni_dynamic_forward_proxy::v3::{
        FilterConfig, filter_config,
    };
    let config = FilterConfig {
        dns_cache_config: Some(dns_cache(mode)),
        port_specifier: Some(filter_config::PortSpecifier::PortValue(port)),
        ..Default::default()
    };
    network_filter(
        "envoy.filters.network.sni_dynamic_forward_proxy",
        any(&config),
    )
}

/// Reads the server name and ALPN from a ClientHello.
pub(crate) fn tls_inspector() -> listener::ListenerFilter {
    listener_filter(
        "envoy.filters.listener.tls_inspector",
        &extensions::filters::listener::tls_inspector::v3::TlsInspector {
            // Grows as needed; Envoy's default would hold 64 KiB for every connection that says nothing.
            initial_read_buffer_size: u32_value(512),
            ..Default::default()
        },
    )
}

/// Tells HTTP from other bytes.
pub(crate) fn http_inspector() -> listener::ListenerFilter {
    listener_filter(
        "envoy.filters.listener.http_inspector",
        &extensions::filters::listener::http_inspector::v3::HttpInspector::default(),
    )
}

/// Recovers where a redirected connection was going.
pub(crate) fn original_dst() -> listener::ListenerFilter {
    listener_filter(
        "envoy.filters.listener.original_dst",
        &extensions::filters::listener::original_dst::v3::OriginalDst {},
    )
}

/// The mark of what belongs to a transparent connection within a pod. Source: Istio's `istio-iptables`.
pub(crate) const TPROXY_MARK: u32 = 1337;

/// Keeps the client's address on the connection to the workload (TPROXY only).
pub(crate) fn original_src() -> listener::ListenerFilter {
    listener_filter(
        "envoy.filters.listener.original_src",
        &extensions::filters::listener::original_src::v3::OriginalSrc {
            // The mark that redirection exempts. Source: Istio.
            mark: TPROXY_MARK,
            ..Default::default()
        },
    )
}

/// The request-ID extension, as Istio configures it. `samples`: the id says which requests are traced.
pub(crate) fn request_id(samples: bool) -> hcm::RequestIdExtension {
    use extensions::request_id::uuid::v3::UuidRequestIdConfig;
    hcm::RequestIdExtension {
        typed_config: Some(any(&UuidRequestIdConfig {
            use_request_id_for_trace_sampling: bool_value(samples),
            ..Default::default()
        })),
    }
}
