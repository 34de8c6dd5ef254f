//! Filters: what stands in a filter chain and in an HTTP connection manager, compiled.
//!
//! A filter that is not known is passed over if it is optional, and refuses the whole resource otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::cors::CorsPolicy;
use crate::ext_authz::{ExtAuthz, NetworkExtAuthz, RouteSettings};
use crate::fault::Fault;
use crate::format::Format;
use crate::hcm::HttpConnectionManager;
use crate::headers::HeaderMutations;
use crate::jwt::{JwtAuthn, RouteRequirement};
use crate::matcher::HeaderMatcher;
pub use crate::rate_limit::{LocalRateLimit, TokenBucket};
use crate::rbac::RbacConfig;
use crate::tcp::TcpProxy;

/// A network filter of a filter chain, or of a cluster's upstream connections.
#[derive(Clone, Debug)]
pub struct NetworkFilter {
    /// Its name in the chain.
    pub name: Arc<str>,
    /// What it does.
    pub kind: NetworkFilterKind,
}

/// The network filters.
#[derive(Clone, Debug)]
pub enum NetworkFilterKind {
    /// `envoy.filters.network.http_connection_manager`. Terminal.
    Http(Arc<HttpConnectionManager>),
    /// `envoy.filters.network.tcp_proxy`. Terminal.
    Tcp(Arc<TcpProxy>),
    /// `envoy.filters.network.rbac`.
    Rbac(RbacConfig),
    /// `envoy.filters.network.ext_authz`.
    ExtAuthz(Arc<NetworkExtAuthz>),
    /// `istio.metadata_exchange`.
    MetadataExchange(MetadataExchange),
    /// `istio.stats` on TCP.
    IstioStats(Arc<IstioStats>),
    /// `envoy.filters.network.set_filter_state`.
    SetFilterState(Vec<SetFilterState>),
    /// `envoy.filters.network.sni_cluster`: the cluster is the server name.
    SniCluster,
    /// `envoy.filters.network.sni_dynamic_forward_proxy`: the host is the server name, on this port.
    SniDynamicForwardProxy {
        /// The port; 443 by default.
        port: u16,
    },
    /// `envoy.filters.network.connection_limit`.
    ConnectionLimit(Arc<ConnectionLimit>),
    /// `envoy.filters.network.local_ratelimit`.
    LocalRateLimit(Arc<ConnectionRateLimit>),
    /// `envoy.filters.network.echo`. Terminal.
    Echo,
    /// `envoy.filters.network.direct_response`. Terminal.
    DirectResponse(crate::tls::DataSource),
}

/// Istio's TCP metadata exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataExchange {
    /// The ALPN protocol that says that the peer takes part (`istio-peer-exchange`).
    pub protocol: Arc<str>,
    /// Peers are found in the workload table instead.
    pub enable_discovery: bool,
    /// Labels beyond the standard ones.
    pub additional_labels: Vec<Arc<str>>,
}

/// A string that is put into the filter state.
#[derive(Clone, Debug)]
pub struct SetFilterState {
    /// The object's key.
    pub key: Arc<str>,
    /// Its value.
    pub value: Format,
    /// Nothing is put if the value is empty.
    pub skip_if_empty: bool,
}

/// `envoy.filters.network.connection_limit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLimit {
    /// The prefix of its statistics.
    pub stat_prefix: Arc<str>,
    /// Connections at the same time, over all workers.
    pub max_connections: u64,
    /// Time after which a refused connection is closed.
    pub delay: Option<Duration>,
}

/// `envoy.filters.network.local_ratelimit`: a token for each connection.
#[derive(Clone, Debug)]
pub struct ConnectionRateLimit {
    /// The prefix of its statistics.
    pub stat_prefix: Arc<str>,
    /// The bucket.
    pub bucket: TokenBucket,
    /// Filters with the same key and the same bucket share it; empty shares nothing.
    pub share_key: Arc<str>,
}

/// An HTTP filter.
#[derive(Clone, Debug)]
pub struct HttpFilter {
    /// Its name, by which routes override it.
    pub name: Arc<str>,
    /// It runs only where a route enables it.
    pub disabled: bool,
    /// What it does.
    pub kind: HttpFilterKind,
}

/// The HTTP filters.
#[derive(Clone, Debug)]
pub enum HttpFilterKind {
    /// `envoy.filters.http.router`. Last.
    Router(Arc<Router>),
    /// `envoy.filters.http.fault`.
    Fault(Arc<Fault>),
    /// `envoy.filters.http.cors`; the policy comes from the route.
    Cors,
    /// `envoy.filters.http.rbac`.
    Rbac(RbacConfig),
    /// `envoy.filters.http.jwt_authn`.
    JwtAuthn(Arc<JwtAuthn>),
    /// `envoy.filters.http.ext_authz`.
    ExtAuthz(Arc<ExtAuthz>),
    /// `envoy.filters.http.local_ratelimit`.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// `envoy.filters.http.grpc_stats`.
    GrpcStats(GrpcStats),
    /// `envoy.filters.http.grpc_web`.
    GrpcWeb,
    /// `envoy.filters.http.dynamic_forward_proxy`. Names are resolved where the cluster that needs it is known.
    DynamicForwardProxy,
    /// `envoy.filters.http.health_check`.
    HealthCheck(Arc<HealthCheckFilter>),
    /// `envoy.filters.http.header_mutation`.
    HeaderMutation(Arc<HeaderMutationFilter>),
    /// `envoy.filters.http.buffer`.
    Buffer {
        /// Bytes of a body, at most.
        max_request_bytes: u32,
    },
    /// `envoy.filters.http.set_filter_state`.
    SetFilterState(Vec<SetFilterState>),
    /// `istio.alpn`.
    Alpn(Arc<AlpnFilter>),
    /// `istio.peer_metadata` and `istio.metadata_exchange`.
    PeerMetadata(Arc<PeerMetadata>),
    /// `istio.stats`.
    IstioStats(Arc<IstioStats>),
}

/// A filter's settings as written, for a part of the proxy that reads them itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawConfig {
    /// The type URL.
    pub type_url: Arc<str>,
    /// The encoded message.
    pub value: bytes::Bytes,
}

/// The router's settings.
#[derive(Clone, Debug)]
pub struct Router {
    /// `x-envoy-*` headers are neither added nor passed on.
    pub suppress_envoy_headers: bool,
    /// A request that the caller expects to be answered within a time keeps that time (`respect_expected_rq_timeout`).
    pub respect_expected_timeout: bool,
    /// Access logs of upstream requests.
    pub upstream_log: Vec<crate::access_log::AccessLog>,
}

/// `envoy.filters.http.grpc_stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrpcStats {
    /// Message counts are put into the filter state.
    pub emit_filter_state: bool,
    /// Every method has statistics of its own.
    pub per_method: bool,
}

/// `envoy.filters.http.health_check`.
#[derive(Clone, Debug)]
pub struct HealthCheckFilter {
    /// Health checks go upstream.
    pub pass_through: bool,
    /// What makes a request a health check.
    pub headers: Vec<HeaderMatcher>,
}

/// `envoy.filters.http.header_mutation`.
#[derive(Clone, Debug, Default)]
pub struct HeaderMutationFilter {
    /// Of a route's levels the most specific is applied last, and so wins; else the least specific is.
    pub most_specific_wins: bool,
    /// On requests.
    pub request: HeaderMutations,
    /// On responses.
    pub response: HeaderMutations,
}

/// `istio.alpn`: the ALPN protocols offered upstream, by the protocol that is spoken there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlpnFilter {
    /// For HTTP/1.0.
    pub http10: Vec<Arc<str>>,
    /// For HTTP/1.1.
    pub http11: Vec<Arc<str>>,
    /// For HTTP/2.
    pub http2: Vec<Arc<str>>,
}

/// `istio.peer_metadata`: how peers tell each other who they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerMetadata {
    /// How the downstream peer is found; the first that knows wins.
    pub downstream_discovery: Vec<PeerDiscovery>,
    /// How the upstream peer is found.
    pub upstream_discovery: Vec<PeerDiscovery>,
    /// How this proxy tells the downstream peer.
    pub downstream_propagation: Vec<PeerPropagation>,
    /// How this proxy tells the upstream peer.
    pub upstream_propagation: Vec<PeerPropagation>,
    /// The downstream peer is known to upstream connections too.
    pub shared_with_upstream: bool,
    /// Labels beyond the standard ones.
    pub additional_labels: Vec<Arc<str>>,
}

/// How a peer is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerDiscovery {
    /// `baggage`.
    Baggage,
    /// The workload table, by address.
    WorkloadDiscovery,
    /// `x-envoy-peer-metadata` and `x-envoy-peer-metadata-id`.
    IstioHeaders,
}

/// How this proxy tells a peer who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerPropagation {
    /// `x-envoy-peer-metadata` and `x-envoy-peer-metadata-id`.
    IstioHeaders {
        /// Not to clusters outside the mesh.
        skip_external_clusters: bool,
    },
}

/// `istio.stats`: Istio's standard metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IstioStats {
    /// The host is not a fallback for the destination service.
    pub disable_host_header_fallback: bool,
    /// Time between reports of open TCP connections; 5 s if not set.
    pub tcp_reporting_duration: Option<Duration>,
    /// Time until unused series may be dropped.
    pub rotation_interval: Option<Duration>,
    /// Time after which unused series are dropped.
    pub graceful_deletion_interval: Option<Duration>,
    /// The reporter is a server gateway (`SERVER_GATEWAY`).
    pub server_gateway: bool,
    /// Changes to single metrics, in order.
    pub metrics: Vec<MetricOverride>,
}

/// A change to one metric, or to all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricOverride {
    /// The metric, without `istio_`; empty for all.
    pub name: Arc<str>,
    /// Dimensions that are added or changed, by expression.
    pub dimensions: BTreeMap<Arc<str>, Arc<str>>,
    /// Dimensions that are taken away.
    pub tags_to_remove: Vec<Arc<str>>,
    /// Only where this expression holds.
    pub matches: Option<Arc<str>>,
    /// The metric is not reported.
    pub drop: bool,
}

/// Overrides of HTTP filters, by name, on a route configuration, virtual host, route or weighted cluster.
pub type PerFilter = BTreeMap<Arc<str>, FilterOverride>;

/// What a route says of a filter.
#[derive(Clone, Debug)]
pub enum FilterOverride {
    /// It does not run.
    Disabled,
    /// It runs as configured in the chain, even if it is disabled there.
    Enabled,
    /// Other rules (`RBACPerRoute`); `None` turns them off.
    Rbac(Option<RbacConfig>),
    /// Another fault.
    Fault(Arc<Fault>),
    /// The route's CORS policy.
    Cors(Arc<CorsPolicy>),
    /// Another local rate limit.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// Further header changes.
    HeaderMutation(Arc<HeaderMutationFilter>),
    /// Another buffer limit, bytes.
    Buffer(u32),
    /// Another requirement on tokens.
    Jwt(RouteRequirement),
    /// What the external authorizer is told besides.
    ExtAuthz(Arc<RouteSettings>),
    /// Settings as written (`stateful_session`).
    Raw(Arc<RawConfig>),
}
