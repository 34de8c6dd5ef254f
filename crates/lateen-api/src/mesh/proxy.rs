//! The fields of `mesh.v1alpha1` (proxy), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::TraceContext;
use crate::networking::{ClientTlsSettings, ProxyImage, ReadinessProbe, TcpKeepalive};
use crate::schema::{enumeration, object};
use crate::value::Double;

object! {
    /// `mesh.v1alpha1.Tracing` of Istio's API.
    pub struct Tracing {
        zipkin: Option<Zipkin>,
        lightstep: Option<Lightstep>,
        datadog: Option<Datadog>,
        stackdriver: Option<Stackdriver>,
        open_census_agent: Option<OpenCensusAgent>,
        custom_tags: BTreeMap<String, CustomTag>,
        max_path_tag_length: u32,
        sampling: Double,
        tls_settings: Option<ClientTlsSettings>,
        enable_istio_tags: Option<bool>,
    }
}

object! {
    /// `mesh.v1alpha1.Tracing.Zipkin` of Istio's API.
    pub struct Zipkin {
        address: String,
    }
}

object! {
    /// `mesh.v1alpha1.Tracing.Lightstep` of Istio's API.
    pub struct Lightstep {
        address: String,
        access_token: String,
    }
}

object! {
    /// `mesh.v1alpha1.Tracing.Datadog` of Istio's API.
    pub struct Datadog {
        address: String,
    }
}

object! {
    /// `mesh.v1alpha1.Tracing.Stackdriver` of Istio's API.
    pub struct Stackdriver {
        debug: bool,
        max_number_of_attributes: Option<i64>,
        max_number_of_annotations: Option<i64>,
        max_number_of_message_events: Option<i64>,
    }
}

object! {
    /// `mesh.v1alpha1.Tracing.OpenCensusAgent` of Istio's API.
    pub struct OpenCensusAgent {
        address: String,
        context: Vec<TraceContext>,
    }
}

object! {
    /// `mesh.v1alpha1.Tracing.CustomTag` of Istio's API.
    pub struct CustomTag {
        literal: Option<Literal>,
        environment: Option<Environment>,
        header: Option<RequestHeader>,
    }
}

object! {
    /// `mesh.v1alpha1.Tracing.Literal` of Istio's API.
    pub struct Literal {
        value: String,
    }
}

object! {
    /// `mesh.v1alpha1.Tracing.Environment` of Istio's API.
    pub struct Environment {
        name: String,
        default_value: String,
    }
}

object! {
    /// `mesh.v1alpha1.Tracing.RequestHeader` of Istio's API.
    pub struct RequestHeader {
        name: String,
        default_value: String,
    }
}

object! {
    /// `mesh.v1alpha1.SDS` of Istio's API.
    pub struct Sds {
        enabled: bool,
        k8s_sa_jwt_path: String,
    }
}

object! {
    /// `mesh.v1alpha1.Topology` of Istio's API.
    pub struct Topology {
        num_trusted_proxies: u32,
        forward_client_cert_details: ForwardClientCertDetails,
        proxy_protocol: Option<ProxyProtocolConfiguration>,
    }
}

object! {
    /// `mesh.v1alpha1.Topology.ProxyProtocolConfiguration` of Istio's API.
    pub struct ProxyProtocolConfiguration {
    }
}

object! {
    /// `mesh.v1alpha1.PrivateKeyProvider` of Istio's API.
    pub struct PrivateKeyProvider {
        cryptomb: Option<CryptoMb>,
        qat: Option<Qat>,
    }
}

object! {
    /// `mesh.v1alpha1.PrivateKeyProvider.CryptoMb` of Istio's API.
    pub struct CryptoMb {
        poll_delay: Option<Duration>,
        fallback: Option<bool>,
    }
}

object! {
    /// `mesh.v1alpha1.PrivateKeyProvider.QAT` of Istio's API.
    pub struct Qat {
        poll_delay: Option<Duration>,
        fallback: Option<bool>,
    }
}

object! {
    /// `mesh.v1alpha1.ProxyConfig` of Istio's API.
    pub struct ProxyConfig {
        config_path: String,
        binary_path: String,
        service_cluster: Option<String>,
        tracing_service_name: Option<TracingServiceName>,
        drain_duration: Option<Duration>,
        discovery_address: String,
        discovery_refresh_delay: Option<Duration>,
        zipkin_address: String,
        statsd_udp_address: String,
        envoy_metrics_service_address: String,
        proxy_admin_port: i32,
        availability_zone: String,
        control_plane_auth_policy: AuthenticationPolicy,
        custom_config_file: String,
        stat_name_length: i32,
        concurrency: Option<i32>,
        proxy_bootstrap_template_path: String,
        interception_mode: InboundInterceptionMode,
        tracing: Option<Tracing>,
        sds: Option<Sds>,
        envoy_access_log_service: Option<RemoteService>,
        envoy_metrics_service: Option<RemoteService>,
        proxy_metadata: BTreeMap<String, String>,
        runtime_values: BTreeMap<String, String>,
        status_port: i32,
        extra_stat_tags: Vec<String>,
        gateway_topology: Option<Topology>,
        termination_drain_duration: Option<Duration>,
        mesh_id: String,
        readiness_probe: Option<ReadinessProbe>,
        proxy_stats_matcher: Option<ProxyStatsMatcher>,
        hold_application_until_proxy_starts: Option<bool>,
        ca_certificates_pem: Vec<String>,
        image: Option<ProxyImage>,
        private_key_provider: Option<PrivateKeyProvider>,
        proxy_headers: Option<ProxyHeaders>,
        file_flush_interval: Option<Duration>,
        file_flush_min_size_kb: u32,
        stats_compression: Option<bool>,
        connection_settings: Option<ConnectionSettings>,
    }
}

object! {
    /// `mesh.v1alpha1.ProxyConfig.ProxyStatsMatcher` of Istio's API.
    pub struct ProxyStatsMatcher {
        inclusion_prefixes: Vec<String>,
        inclusion_suffixes: Vec<String>,
        inclusion_regexps: Vec<String>,
    }
}

object! {
    /// `mesh.v1alpha1.ProxyConfig.ProxyHeaders` of Istio's API.
    pub struct ProxyHeaders {
        forwarded_client_cert: ForwardClientCertDetails,
        set_current_client_cert_details: Option<SetCurrentClientCertDetails>,
        request_id: Option<RequestIdHeader>,
        server: Option<ServerHeader>,
        attempt_count: Option<AttemptCountHeader>,
        envoy_debug_headers: Option<EnvoyDebugHeaders>,
        metadata_exchange_headers: Option<MetadataExchangeHeaders>,
        preserve_http1_header_case: Option<bool>,
        x_forwarded_host: Option<XForwardedHostHeader>,
        x_forwarded_port: Option<XForwardedPortHeader>,
    }
}

object! {
    /// `mesh.v1alpha1.ProxyConfig.ProxyHeaders.Server` of Istio's API.
    pub struct ServerHeader {
        disabled: Option<bool>,
        value: String,
    }
}

object! {
    /// `mesh.v1alpha1.ProxyConfig.ProxyHeaders.RequestId` of Istio's API.
    pub struct RequestIdHeader {
        disabled: Option<bool>,
    }
}

object! {
    /// `mesh.v1alpha1.ProxyConfig.ProxyHeaders.AttemptCount` of Istio's API.
    pub struct AttemptCountHeader {
        disabled: Option<bool>,
    }
}

object! {
    /// `mesh.v1alpha1.ProxyConfig.ProxyHeaders.XForwardedHost` of Istio's API.
    pub struct XForwardedHostHeader {
        enabled: Option<bool>,
    }
}

object! {
    /// `mesh.v1alpha1.ProxyConfig.ProxyHeaders.XForwardedPort` of Istio's API.
    pub struct XForwardedPortHeader {
        enabled: Option<bool>,
    }
}

object! {
    /// `mesh.v1alpha1.ProxyConfig.ProxyHeaders.EnvoyDebugHeaders` of Istio's API.
    pub struct EnvoyDebugHeaders {
        disabled: Option<bool>,
    }
}

object! {
    /// `mesh.v1alpha1.ProxyConfig.ProxyHeaders.MetadataExchangeHeaders` of Istio's API.
    pub struct MetadataExchangeHeaders {
        mode: MetadataExchangeMode,
    }
}

object! {
    /// `mesh.v1alpha1.ProxyConfig.ProxyHeaders.SetCurrentClientCertDetails` of Istio's API.
    pub struct SetCurrentClientCertDetails {
        subject: Option<bool>,
        cert: Option<bool>,
        chain: Option<bool>,
        dns: Option<bool>,
        uri: Option<bool>,
    }
}

enumeration! {
    /// `mesh.v1alpha1.ProxyConfig.ProxyHeaders.MetadataExchangeMode` of Istio's API.
    pub enum MetadataExchangeMode {
        Undefined = "UNDEFINED",
        InMesh = "IN_MESH",
    }
}

object! {
    /// `mesh.v1alpha1.ProxyConfig.ConnectionSettings` of Istio's API.
    pub struct ConnectionSettings {
        profile: ConnectionProfile,
        listener_per_connection_buffer_limit_bytes: Option<i32>,
        cluster_per_connection_buffer_limit_bytes: Option<i32>,
        http_idle_timeout: Option<Duration>,
        http_max_connection_duration: Option<Duration>,
        http_drain_timeout: Option<Duration>,
        http_request_timeout: Option<Duration>,
        http_request_headers_timeout: Option<Duration>,
        http_stream_idle_timeout: Option<Duration>,
        http_max_stream_duration: Option<Duration>,
        http_max_concurrent_streams: Option<i32>,
        http2_initial_stream_window_size: Option<i32>,
        http2_initial_connection_window_size: Option<i32>,
        http_headers_with_underscores_action: HeadersWithUnderscoresAction,
        http_merge_slashes: Option<bool>,
        http_path_with_escaped_slashes_action: PathWithEscapedSlashesAction,
        listener_connection_limit: Option<i32>,
        global_downstream_connection_limit: Option<i32>,
    }
}

enumeration! {
    /// `mesh.v1alpha1.ProxyConfig.ConnectionSettings.Profile` of Istio's API.
    pub enum ConnectionProfile {
        Sidecar = "SIDECAR",
        Edge = "EDGE",
    }
}

enumeration! {
    /// `mesh.v1alpha1.ProxyConfig.ConnectionSettings.HeadersWithUnderscoresAction` of Istio's API.
    pub enum HeadersWithUnderscoresAction {
        HeadersWithUnderscoresUnspecified = "HEADERS_WITH_UNDERSCORES_UNSPECIFIED",
        HeadersWithUnderscoresAllow = "HEADERS_WITH_UNDERSCORES_ALLOW",
        HeadersWithUnderscoresRejectRequest = "HEADERS_WITH_UNDERSCORES_REJECT_REQUEST",
        HeadersWithUnderscoresDropHeader = "HEADERS_WITH_UNDERSCORES_DROP_HEADER",
    }
}

enumeration! {
    /// `mesh.v1alpha1.ProxyConfig.ConnectionSettings.PathWithEscapedSlashesAction` of Istio's API.
    pub enum PathWithEscapedSlashesAction {
        PathWithEscapedSlashesUnspecified = "PATH_WITH_ESCAPED_SLASHES_UNSPECIFIED",
        KeepUnchanged = "KEEP_UNCHANGED",
        RejectRequest = "REJECT_REQUEST",
        UnescapeAndRedirect = "UNESCAPE_AND_REDIRECT",
        UnescapeAndForward = "UNESCAPE_AND_FORWARD",
    }
}

enumeration! {
    /// `mesh.v1alpha1.ProxyConfig.TracingServiceName` of Istio's API.
    pub enum TracingServiceName {
        AppLabelAndNamespace = "APP_LABEL_AND_NAMESPACE",
        CanonicalNameOnly = "CANONICAL_NAME_ONLY",
        CanonicalNameAndNamespace = "CANONICAL_NAME_AND_NAMESPACE",
    }
}

enumeration! {
    /// `mesh.v1alpha1.ProxyConfig.InboundInterceptionMode` of Istio's API.
    pub enum InboundInterceptionMode {
        Redirect = "REDIRECT",
        Tproxy = "TPROXY",
        None = "NONE",
    }
}

object! {
    /// `mesh.v1alpha1.RemoteService` of Istio's API.
    pub struct RemoteService {
        address: String,
        tls_settings: Option<ClientTlsSettings>,
        tcp_keepalive: Option<TcpKeepalive>,
    }
}

enumeration! {
    /// `mesh.v1alpha1.AuthenticationPolicy` of Istio's API.
    pub enum AuthenticationPolicy {
        None = "NONE",
        MutualTls = "MUTUAL_TLS",
        Inherit = "INHERIT",
    }
}

enumeration! {
    /// `mesh.v1alpha1.ForwardClientCertDetails` of Istio's API.
    pub enum ForwardClientCertDetails {
        Undefined = "UNDEFINED",
        Sanitize = "SANITIZE",
        ForwardOnly = "FORWARD_ONLY",
        AppendForward = "APPEND_FORWARD",
        SanitizeSet = "SANITIZE_SET",
        AlwaysForwardOnly = "ALWAYS_FORWARD_ONLY",
    }
}
