//! MeshConfig resolved: every default applied, nothing optional that means "default".
//!
//! Generators read these, never MeshConfig itself. Defaults are Istio's (`pkg/config/mesh/mesh.go`).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::features::Features;
use lateen_api::mesh::{
    EnvoyHttpGrpcV3LogProvider, EnvoyOpenTelemetryLogProvider, EnvoyTcpGrpcV3LogProvider,
    ExtensionProvider, ForwardClientCertDetails, MeshTlsConfig, OpenTelemetryTracingProvider,
    Tracing as LegacyTracing, ZipkinTracingProvider,
};
use lateen_api::networking::{
    ClientTlsSettings, ConnectionPoolSettings, HttpRetry, LocalityLoadBalancerSetting,
    OutlierDetection, TcpKeepalive, ZoneAwareLoadBalancerSetting,
};
use lateen_api::value::Double;

/// What the installation fixes, beside MeshConfig.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// The trust domain of identities.
    pub trust_domain: String,
    /// The suffix of service names.
    pub domain_suffix: String,
    /// The namespace whose policies hold for the whole mesh.
    pub root_namespace: String,
    /// The name of this cluster.
    pub cluster_id: String,
    /// The network of this cluster; empty if there is only one.
    pub network: String,
    /// Whether services and pods have addresses of both families.
    pub dual_stack: bool,
    /// Switches that change what is generated.
    pub features: Features,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".to_owned(),
            domain_suffix: "cluster.local".to_owned(),
            root_namespace: "istio-system".to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            network: String::new(),
            dual_stack: false,
            features: Features::default(),
        }
    }
}

/// Where connections to unknown destinations go.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum OutboundPolicy {
    /// Where they were going.
    #[default]
    AllowAny,
    /// HTTP to the host that the request names, resolved by the proxy; anything else where it was going.
    AllowAnyDynamicDns,
    /// To a cluster that stands for an egress proxy.
    EgressProxy(String),
    /// Nowhere.
    RegistryOnly,
}

/// How paths are normalised before anything looks at them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PathNormalization {
    /// Not at all.
    None,
    /// RFC 3986.
    #[default]
    Base,
    /// And merges slashes.
    MergeSlashes,
    /// And decodes escaped slashes first.
    DecodeAndMergeSlashes,
}

/// An access log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AccessLog {
    pub(crate) sink: LogSink,
    /// A CEL expression that says what is logged.
    pub(crate) filter: Option<String>,
}

/// Where an access log goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LogSink {
    File {
        path: String,
        format: LogFormat,
        /// Nothing stands for what is not known, rather than `-`.
        omit_empty: bool,
    },
    /// Envoy's service, for requests.
    Http(Collector, EnvoyHttpGrpcV3LogProvider),
    /// Envoy's service, for connections.
    Tcp(Collector, EnvoyTcpGrpcV3LogProvider),
    OpenTelemetry(Collector, EnvoyOpenTelemetryLogProvider),
}

/// Access logs of what a workload sends and of what it gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ClassLogs {
    pub(crate) client: Vec<AccessLog>,
    pub(crate) server: Vec<AccessLog>,
}

/// A report of Istio's metrics to one provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Stats {
    /// How often counts of TCP connections are brought up to date while they are open.
    pub(crate) interval: Option<Duration>,
    /// What differs from the standard metrics, in Istio's order of metrics.
    pub(crate) overrides: Vec<MetricOverride>,
}

/// What differs of one metric.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct MetricOverride {
    /// The metric, as the filter names it: `requests_total`.
    pub(crate) name: String,
    pub(crate) disabled: bool,
    /// Labels with expressions of their values.
    pub(crate) dimensions: BTreeMap<String, String>,
    pub(crate) removed: Vec<String>,
}

/// Metrics of what a workload sends and of what it gets: a report for each provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClassStats {
    pub(crate) client: Vec<Stats>,
    pub(crate) server: Vec<Stats>,
}

impl Default for ClassStats {
    fn default() -> Self {
        Self {
            client: vec![Stats::default()],
            server: vec![Stats::default()],
        }
    }
}

/// Traces of what a workload sends and of what it gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ClassTracing {
    pub(crate) client: Option<Tracing>,
    pub(crate) server: Option<Tracing>,
}

/// How requests are traced.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tracing {
    /// None only marks requests (`x-request-id`), as Envoy does without a provider.
    pub(crate) tracer: Option<Tracer>,
    /// Share of requests, percent.
    pub(crate) sampling: Double,
    pub(crate) tags: BTreeMap<String, Tag>,
    /// Zero: Envoy's default.
    pub(crate) max_path_tag_length: u32,
    /// Whether `x-request-id` says which requests are traced.
    pub(crate) by_request_id: bool,
    /// The next hop is told nothing of the trace.
    pub(crate) keeps_context: bool,
}

/// Where spans go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Collector {
    pub(crate) hostname: String,
    pub(crate) cluster: String,
}

/// What makes spans.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tracer {
    Zipkin(Collector, ZipkinTracingProvider),
    /// With the service's name in spans.
    OpenTelemetry(Collector, OpenTelemetryTracingProvider, String),
    /// With the service's name in spans.
    Datadog(Collector, String),
    Skywalking(Collector),
}

/// Where the value of a span's tag is from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tag {
    Literal(String),
    /// A variable of the proxy's environment, and what stands for it.
    Environment(String, String),
    /// A header of the request, and what stands for it.
    Header(String, String),
    /// A format, as of access logs.
    Formatter(String),
    /// What access rules on trial left, by its key.
    DryRun(String),
}

/// The lines of an access log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LogFormat {
    /// A format string.
    Text(String),
    /// A JSON object: field to format string.
    Json(BTreeMap<String, String>),
}

/// TCP keep-alive of upstream connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Keepalive {
    pub(crate) probes: Option<u32>,
    pub(crate) time_seconds: Option<u32>,
    pub(crate) interval_seconds: Option<u32>,
}

impl From<&TcpKeepalive> for Keepalive {
    fn from(keepalive: &TcpKeepalive) -> Self {
        let seconds = |d: Duration| u32::try_from(d.as_secs()).unwrap_or(u32::MAX);
        Self {
            probes: (keepalive.probes > 0).then_some(keepalive.probes),
            time_seconds: keepalive.time.map(seconds),
            interval_seconds: keepalive.interval.map(seconds),
        }
    }
}

/// The mesh-wide settings that generators read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Mesh {
    pub(crate) trust_domain: String,
    pub(crate) trust_domain_aliases: Vec<String>,
    /// Trust domains of other meshes, whose workloads may be clients (`caCertificates[].trustDomains`).
    pub(crate) other_trust_domains: Vec<String>,
    pub(crate) cluster_id: String,
    pub(crate) domain_suffix: String,
    pub(crate) root_namespace: String,
    pub(crate) listen_port: u32,
    pub(crate) inbound_port: u32,
    /// Zero: no HTTP proxy port.
    pub(crate) http_proxy_port: u32,
    pub(crate) connect_timeout: Duration,
    /// Zero: a listener waits as long as it takes.
    pub(crate) protocol_detection_timeout: Duration,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) access_logs: ClassLogs,
    /// The lines of logs that have no format of their own.
    pub(crate) log_format: LogFormat,
    /// The providers that log where no Telemetry names any.
    pub(crate) default_log_providers: Vec<String>,
    /// The providers of metrics and of traces where no Telemetry names any.
    pub(crate) default_metric_providers: Vec<String>,
    pub(crate) default_tracing_providers: Vec<String>,
    /// `enableTracing`.
    pub(crate) traces: bool,
    /// `defaultConfig.tracing`.
    pub(crate) legacy_tracing: Option<LegacyTracing>,
    pub(crate) tracing: ClassTracing,
    pub(crate) stats: ClassStats,
    pub(crate) listener_log: bool,
    pub(crate) outbound: OutboundPolicy,
    /// Whether inbound connections go to the pod's address rather than to loopback.
    pub(crate) inbound_passthrough: bool,
    pub(crate) auto_mtls: bool,
    pub(crate) dns_refresh_rate: Duration,
    pub(crate) h2_upgrade: bool,
    pub(crate) path_normalization: PathNormalization,
    /// Whether meshes at TLS 1.3 only.
    pub(crate) min_tls_13: bool,
    pub(crate) tls_ciphers: Vec<String>,
    /// What TLS that users set up themselves begins with.
    pub(crate) tls_defaults: Option<MeshTlsConfig>,
    pub(crate) trusted_proxies: u32,
    /// What gateways do with `x-forwarded-client-cert`.
    pub(crate) gateway_client_cert: ForwardClientCertDetails,
    pub(crate) default_http_retry: Option<HttpRetry>,
    pub(crate) default_connection_pool: Option<ConnectionPoolSettings>,
    pub(crate) default_outlier_detection: Option<OutlierDetection>,
    pub(crate) locality_lb: Option<LocalityLoadBalancerSetting>,
    /// How undeclared hosts are spoken to that are resolved by name.
    pub(crate) outbound_tls: Option<ClientTlsSettings>,
    pub(crate) zone_aware_lb: Option<ZoneAwareLoadBalancerSetting>,
    /// External authorizers, tracers, access logs: what policies name.
    pub(crate) extension_providers: Vec<ExtensionProvider>,
}

impl Default for Mesh {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            trust_domain: settings.trust_domain,
            trust_domain_aliases: Vec::new(),
            other_trust_domains: Vec::new(),
            cluster_id: settings.cluster_id,
            domain_suffix: settings.domain_suffix,
            root_namespace: settings.root_namespace,
            listen_port: 15001,
            inbound_port: 15006,
            http_proxy_port: 0,
            connect_timeout: Duration::from_secs(10),
            protocol_detection_timeout: Duration::ZERO,
            keepalive: None,
            access_logs: ClassLogs::default(),
            log_format: LogFormat::Text(crate::accesslog::DEFAULT_TEXT.to_owned()),
            default_log_providers: Vec::new(),
            default_metric_providers: Vec::new(),
            default_tracing_providers: Vec::new(),
            traces: false,
            legacy_tracing: None,
            tracing: ClassTracing::default(),
            stats: ClassStats::default(),
            listener_log: true,
            outbound: OutboundPolicy::AllowAny,
            inbound_passthrough: true,
            auto_mtls: true,
            dns_refresh_rate: Duration::from_secs(60),
            h2_upgrade: false,
            path_normalization: PathNormalization::Base,
            min_tls_13: false,
            tls_ciphers: MESH_CIPHERS.map(str::to_owned).to_vec(),
            tls_defaults: None,
            trusted_proxies: 0,
            gateway_client_cert: ForwardClientCertDetails::Undefined,
            default_http_retry: None,
            default_connection_pool: None,
            default_outlier_detection: None,
            locality_lb: None,
            outbound_tls: None,
            zone_aware_lb: None,
            extension_providers: Vec::new(),
        }
    }
}

/// What inbound mutual TLS offers below TLS 1.3. Source: Istio, `SupportedCiphers`.
pub(crate) const MESH_CIPHERS: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
];
