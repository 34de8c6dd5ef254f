//! Clusters: how hosts are found, how one is picked and how it is spoken to (`envoy.config.cluster.v3.Cluster`).

mod outlier;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use outlier::{
    Enforcing, ErrorMatcher, FailurePercentage, OutlierDetection, Rate, SuccessRate,
};

use crate::endpoint::EndpointSet;
use crate::filter::NetworkFilter;
use crate::health_check::HealthCheck;
use crate::lb::UtilizationWeights;
use crate::provenance::Provenance;
use crate::tls::UpstreamTls;
use crate::value::{Metadata, Value};

/// A compiled cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its name, as `outbound|9080|v1|reviews.default.svc.cluster.local`.
    pub name: Arc<str>,
    /// The name in statistics, if another.
    pub alt_stat_name: Option<Arc<str>>,
    /// How its hosts are found.
    pub discovery: Discovery,
    /// How a host is picked.
    pub lb_policy: LbPolicy,
    /// How hosts are weighed by what they report of their load; `None` for by what the control plane says.
    pub utilization: Option<Arc<UtilizationWeights>>,
    /// Settings for every policy.
    pub common_lb: CommonLb,
    /// Time to connect; 5 s by default.
    pub connect_timeout: Duration,
    /// Soft limit of a connection's buffers, bytes; 1 MiB by default.
    pub buffer_limit: u32,
    /// Limits for the default and the high priority, in this order.
    pub circuit_breakers: [CircuitBreaker; 2],
    /// Ejection of failing hosts.
    pub outlier_detection: Option<OutlierDetection>,
    /// What hosts are asked to find out how they are.
    pub health_check: Option<Arc<HealthCheck>>,
    /// The HTTP side.
    pub http: UpstreamHttp,
    /// How bytes are carried, unless an entry of `transport_matches` fits the host.
    pub transport: TransportSocket,
    /// Transport sockets by endpoint metadata; the first that fits is used.
    pub transport_matches: Vec<TransportSocketMatch>,
    /// The source address and socket options of connections.
    pub bind: BindConfig,
    /// TCP keep-alive.
    pub keepalive: Option<TcpKeepalive>,
    /// The network filters of upstream connections (Istio's metadata exchange).
    pub filters: Vec<NetworkFilter>,
    /// Connections to a host are closed when it becomes unhealthy.
    pub close_connections_on_health_failure: bool,
    /// The cluster's metadata.
    pub metadata: Metadata,
    /// Where it came from.
    pub provenance: Provenance,
}

/// How a cluster's hosts are found.
#[derive(Clone, Debug)]
pub enum Discovery {
    /// By EDS, under this name.
    Eds {
        /// The name to subscribe to.
        service_name: Arc<str>,
    },
    /// Addresses in the cluster.
    Static(Arc<EndpointSet>),
    /// Names in the cluster; every address of every name is a host.
    StrictDns(Arc<EndpointSet>, DnsOptions),
    /// A name in the cluster; its first address at the time of connecting is the host.
    LogicalDns(Arc<EndpointSet>, DnsOptions),
    /// The destination of the downstream connection.
    OriginalDst(OriginalDst),
    /// The host that the request, or the ClientHello, names (`envoy.clusters.dynamic_forward_proxy`).
    DynamicForwardProxy(DnsFamily),
}

impl Discovery {
    /// The name under which endpoints come by EDS, if they do.
    pub(crate) fn service_name(&self) -> Option<&str> {
        match self {
            Self::Eds { service_name } => Some(service_name),
            _ => None,
        }
    }
}

/// DNS settings of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsOptions {
    /// Time between resolutions; 5 s by default.
    pub refresh_rate: Duration,
    /// The record's own lifetime is used instead.
    pub respect_ttl: bool,
    /// Which addresses are wanted.
    pub family: DnsFamily,
}

/// Which addresses a name resolves to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsFamily {
    /// IPv6 if there are any, else IPv4.
    #[default]
    Auto,
    /// IPv4 only.
    V4Only,
    /// IPv6 only.
    V6Only,
    /// IPv4 if there are any, else IPv6.
    V4Preferred,
    /// Both.
    All,
}

/// Settings of an ORIGINAL_DST cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OriginalDst {
    /// The header that names the destination (`x-envoy-original-dst-host` unless another), if it may.
    pub header: Option<http::HeaderName>,
    /// A port that replaces the destination's.
    pub port_override: Option<u16>,
}

/// How a host is picked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LbPolicy {
    /// Weighted round robin.
    RoundRobin {
        /// Weight given to new hosts at first.
        slow_start: Option<SlowStart>,
    },
    /// The least loaded of some random hosts; a weighted schedule if weights differ.
    LeastRequest {
        /// How many are looked at; at least 2.
        choice_count: u32,
        /// How strongly active requests count against a weight; 1 by default.
        active_request_bias: f64,
        /// Weight given to new hosts at first.
        slow_start: Option<SlowStart>,
    },
    /// Any.
    Random,
    /// Consistent hashing on a ring.
    RingHash {
        /// Entries on the ring, at least; 1024 by default.
        minimum_ring_size: u64,
        /// Entries on the ring, at most.
        maximum_ring_size: u64,
        /// How hosts are named and loads bounded.
        hashing: ConsistentHashing,
    },
    /// Consistent hashing with a Maglev table.
    Maglev {
        /// Entries in the table, a prime; 65537 by default.
        table_size: u64,
        /// How hosts are named and loads bounded.
        hashing: ConsistentHashing,
    },
    /// The cluster itself provides the host (ORIGINAL_DST).
    ClusterProvided,
}

/// Settings both consistent hashing policies have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsistentHashing {
    /// Hosts are hashed by host name, not by address.
    pub use_hostname: bool,
    /// Percent of the average load that one host may have at most; 0 sets no bound.
    pub hash_balance_factor: u32,
}

/// Slow start of new hosts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    /// How long a host is new.
    pub window: Duration,
    /// How the weight grows: `max(min_weight, time_factor ^ (1 / aggression))`.
    pub aggression: f64,
    /// The least share of the weight, percent; 10 by default.
    pub min_weight_percent: f64,
}

impl SlowStart {
    /// The share of its weight that a host of an age counts for. Source: Envoy's documentation "Slow start mode".
    pub fn factor(&self, age: Duration) -> f64 {
        let least = (self.min_weight_percent / 100.0).clamp(0.01, 1.0);
        let time = age.max(Duration::from_secs(1)).as_secs_f64() / self.window.as_secs_f64();
        if time >= 1.0 {
            return 1.0;
        }
        time.powf(1.0 / self.aggression).max(least)
    }
}

impl LbPolicy {
    /// Whether it may keep to a zone: a hash leads to the same host wherever that is.
    pub const fn heeds_zones(&self) -> bool {
        matches!(
            self,
            Self::RoundRobin { .. } | Self::LeastRequest { .. } | Self::Random
        )
    }

    /// Slow start, for the policies that have it.
    pub fn slow_start(&self) -> Option<SlowStart> {
        match self {
            Self::RoundRobin { slow_start } | Self::LeastRequest { slow_start, .. } => *slow_start,
            _ => None,
        }
    }
}

/// `CommonLbConfig`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CommonLb {
    /// Below this percentage of available hosts health is disregarded; 50 by default, 0 never does.
    pub panic_threshold: f64,
    /// Localities are picked by weight first.
    pub locality_weighted: bool,
    /// In a panic, requests fail rather than go to unhealthy hosts (`fail_traffic_on_panic`).
    pub fail_on_panic: bool,
    /// New hosts wait for their first health check (`ignore_new_hosts_until_first_hc`).
    pub ignore_new_hosts_until_checked: bool,
    /// How zones decide, where the proxy knows its peers.
    pub zone_aware: ZoneAware,
}

/// `ZoneAwareLbConfig`: how requests keep to the proxy's own zone. It holds wherever a proxy knows its peers, also for clusters that
/// say nothing of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ZoneAware {
    /// Percent of requests that it decides about; 100 by default.
    pub enabled: f64,
    /// Healthy hosts below which zones are disregarded; 6 by default.
    pub min_cluster_size: u64,
    /// Everything stays in the proxy's zone if at least so many healthy hosts are there (`force_local_zone`).
    pub force_local: Option<u32>,
    /// Zones are measured by their hosts' weights, not by their number (`HEALTHY_HOSTS_WEIGHT`).
    pub by_weight: bool,
}

impl Default for ZoneAware {
    fn default() -> Self {
        Self {
            enabled: 100.0,
            min_cluster_size: 6,
            force_local: None,
            by_weight: false,
        }
    }
}

impl Default for CommonLb {
    fn default() -> Self {
        Self {
            panic_threshold: 50.0,
            locality_weighted: false,
            fail_on_panic: false,
            ignore_new_hosts_until_checked: false,
            zone_aware: ZoneAware::default(),
        }
    }
}

/// Limits of one routing priority. Source: Envoy, `CircuitBreakers.Thresholds`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CircuitBreaker {
    /// Connections; 1024 by default.
    pub max_connections: u32,
    /// Requests waiting for a connection; 1024 by default.
    pub max_pending_requests: u32,
    /// Requests; 1024 by default.
    pub max_requests: u32,
    /// Retries at the same time; 3 by default. Without effect if there is a budget.
    pub max_retries: u32,
    /// Retries in proportion to requests.
    pub retry_budget: Option<RetryBudget>,
    /// Connection pools; no limit by default.
    pub max_connection_pools: Option<u32>,
}

/// Retries in proportion to requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// Percent of active and pending requests that may be retries; 20 by default.
    pub percent: f64,
    /// Retries that are always allowed; 3 by default.
    pub min_concurrency: u32,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
            max_connection_pools: None,
        }
    }
}

impl CircuitBreaker {
    /// Retries that may be active, given the active and pending requests.
    pub fn retry_limit(&self, active_and_pending: u64) -> u64 {
        let Some(budget) = self.retry_budget else {
            return u64::from(self.max_retries);
        };
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count of requests times a percentage; saturates"
        )]
        let share = (active_and_pending as f64 * budget.percent / 100.0) as u64;
        share.max(u64::from(budget.min_concurrency))
    }
}

/// The HTTP side of a cluster: `HttpProtocolOptions`.
#[derive(Clone, Debug)]
pub struct UpstreamHttp {
    /// Which protocol is spoken.
    pub protocol: UpstreamProtocol,
    /// Time without an active request until a connection is closed; 1 h by default, `None` never.
    pub idle_timeout: Option<Duration>,
    /// Longest life of a connection.
    pub max_connection_duration: Option<Duration>,
    /// Requests on one connection; `None` sets no limit.
    pub max_requests_per_connection: Option<u32>,
    /// Header count a response may have; 100 by default.
    pub max_headers_count: u32,
    /// HTTP/1 settings.
    pub http1: Http1Options,
    /// HTTP/2 settings.
    pub http2: Http2Options,
    /// The server name is the request's host.
    pub auto_sni: bool,
    /// The SAN is verified against the server name.
    pub auto_san_validation: bool,
    /// Which responses outlier detection takes for errors; without, those from 500 on.
    pub error_matcher: Option<ErrorMatcher>,
}

/// Which HTTP version a cluster speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2.
    Http2,
    /// The version of the downstream request (`use_downstream_protocol_config`).
    Downstream,
    /// By ALPN (`auto_config`).
    Auto,
}

/// `Http1ProtocolOptions`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Http1Options {
    /// Absolute URLs are not accepted.
    pub reject_absolute_url: bool,
    /// HTTP/1.0 is accepted.
    pub accept_http_10: bool,
    /// Trailers are passed on.
    pub enable_trailers: bool,
    /// Header names keep the case in which they came (`preserve_case`).
    pub preserve_header_case: bool,
    /// A request with both Content-Length and Transfer-Encoding is accepted.
    pub allow_chunked_length: bool,
}

/// `Http2ProtocolOptions`. `None` is the codec's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Http2Options {
    /// Streams at the same time.
    pub max_concurrent_streams: Option<u32>,
    /// Bytes a stream may have under way.
    pub initial_stream_window: Option<u32>,
    /// Bytes a connection may have under way.
    pub initial_connection_window: Option<u32>,
    /// Time between keep-alive pings.
    pub ping_interval: Option<Duration>,
    /// Time for a ping's answer.
    pub ping_timeout: Option<Duration>,
    /// Extended CONNECT is accepted.
    pub allow_connect: bool,
}

/// How bytes are carried.
#[derive(Clone, Debug)]
pub enum TransportSocket {
    /// As they are (`raw_buffer`).
    Raw,
    /// By TLS.
    Tls(Arc<UpstreamTls>),
    /// After a header of the PROXY protocol that says who the client is.
    Proxied(ProxyVersion, Arc<TransportSocket>),
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

impl TransportSocket {
    /// TLS, if bytes are carried by it.
    pub fn tls(&self) -> Option<&Arc<UpstreamTls>> {
        match self {
            Self::Raw => None,
            Self::Tls(tls) => Some(tls),
            Self::Proxied(_, inner) => inner.tls(),
        }
    }

    /// The version of the PROXY protocol that comes before everything else.
    pub fn proxy_version(&self) -> Option<ProxyVersion> {
        match self {
            Self::Proxied(version, _) => Some(*version),
            Self::Raw | Self::Tls(_) => None,
        }
    }
}

/// A transport socket for endpoints with certain metadata.
#[derive(Clone, Debug)]
pub struct TransportSocketMatch {
    /// Its name (`tlsMode-istio`).
    pub name: Arc<str>,
    /// What must be equal in the endpoint's `envoy.transport_socket_match` metadata; empty fits every endpoint.
    pub criteria: Vec<(Arc<str>, Value)>,
    /// The transport socket.
    pub transport: TransportSocket,
}

/// Source address and socket options of upstream connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BindConfig {
    /// The source address (`127.0.0.6:0` for Istio's inbound passthrough).
    pub source: Option<SocketAddr>,
    /// Further source addresses, for the other IP family.
    pub additional_sources: Vec<SocketAddr>,
    /// Socket options.
    pub socket_options: Vec<SocketOption>,
}

/// One socket option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOption {
    /// What it is for.
    pub description: Arc<str>,
    /// The level (`SOL_SOCKET`, …).
    pub level: i64,
    /// The option.
    pub name: i64,
    /// Its value.
    pub value: SocketOptionValue,
    /// When it is set.
    pub state: SocketState,
}

/// A socket option's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketOptionValue {
    /// A number.
    Int(i64),
    /// Bytes.
    Buffer(bytes::Bytes),
}

/// When a socket option is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SocketState {
    /// Before binding.
    #[default]
    PreBind,
    /// After binding, before listening or connecting.
    Bound,
    /// After listening or connecting.
    Listening,
}

/// TCP keep-alive; `None` is the system's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Probes without an answer until the connection is dead.
    pub probes: Option<u32>,
    /// Idle time until the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

/// The metadata namespace in which endpoints say which transport socket fits them.
pub const TRANSPORT_SOCKET_MATCH: &str = "envoy.transport_socket_match";

impl Cluster {
    /// The transport socket for an endpoint, with the name of the match if one fitted. The endpoint's own metadata comes
    /// first, then its locality's.
    pub fn transport_for(
        &self,
        endpoint: &Metadata,
        locality: &Metadata,
    ) -> (&TransportSocket, Option<&Arc<str>>) {
        for metadata in [endpoint, locality] {
            let Some(labels) = metadata.namespaces.get(TRANSPORT_SOCKET_MATCH) else {
                continue;
            };
            if let Some(found) = self
                .transport_matches
                .iter()
                .find(|entry| entry.fits(Some(labels)))
            {
                return (&found.transport, Some(&found.name));
            }
        }
        match self
            .transport_matches
            .iter()
            .find(|entry| entry.criteria.is_empty())
        {
            Some(found) => (&found.transport, Some(&found.name)),
            None => (&self.transport, None),
        }
    }

    /// The endpoints that are in the cluster itself; `None` for EDS and ORIGINAL_DST.
    pub fn own_endpoints(&self) -> Option<&Arc<EndpointSet>> {
        match &self.discovery {
            Discovery::Static(set)
            | Discovery::StrictDns(set, _)
            | Discovery::LogicalDns(set, _) => Some(set),
            Discovery::Eds { .. }
            | Discovery::OriginalDst(_)
            | Discovery::DynamicForwardProxy(_) => None,
        }
    }

    /// Every transport socket it may use.
    pub fn transports(&self) -> impl Iterator<Item = &TransportSocket> {
        std::iter::once(&self.transport)
            .chain(self.transport_matches.iter().map(|entry| &entry.transport))
    }
}

impl TransportSocketMatch {
    fn fits(&self, labels: Option<&Value>) -> bool {
        self.criteria
            .iter()
            .all(|(key, want)| labels.and_then(|labels| labels.at(&[key])) == Some(want))
    }
}
