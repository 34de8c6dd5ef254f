//! The fields of `mesh.v1alpha1` (config), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ProxyConfig;
use crate::networking::{
    ClientTlsSettings, ConnectionPoolSettings, HttpRetry, LocalityLoadBalancerSetting,
    OutlierDetection, TcpKeepalive, ZoneAwareLoadBalancerSetting,
};
use crate::schema::{enumeration, object};
use crate::value::Value;

object! {
    /// `mesh.v1alpha1.MeshConfig` of Istio's API.
    pub struct MeshConfig {
        proxy_listen_port: i32,
        proxy_inbound_listen_port: i32,
        proxy_http_port: i32,
        connect_timeout: Option<Duration>,
        hbone_idle_timeout: Option<Duration>,
        protocol_detection_timeout: Option<Duration>,
        tcp_keepalive: Option<TcpKeepalive>,
        ingress_class: String,
        ingress_service: String,
        ingress_controller_mode: IngressControllerMode,
        ingress_selector: String,
        enable_tracing: bool,
        access_log_file: String,
        access_log_format: String,
        access_log_encoding: AccessLogEncoding,
        enable_envoy_access_log_service: bool,
        disable_envoy_listener_log: bool,
        default_config: Option<ProxyConfig>,
        outbound_traffic_policy: Option<OutboundTrafficPolicy>,
        inbound_traffic_policy: Option<InboundTrafficPolicy>,
        config_sources: Vec<ConfigSource>,
        enable_auto_mtls: Option<bool>,
        trust_domain: String,
        trust_domain_aliases: Vec<String>,
        ca_certificates: Vec<CertificateData>,
        default_service_export_to: Vec<String>,
        default_virtual_service_export_to: Vec<String>,
        default_destination_rule_export_to: Vec<String>,
        root_namespace: String,
        locality_lb_setting: Option<LocalityLoadBalancerSetting>,
        zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting>,
        dns_refresh_rate: Option<Duration>,
        h2_upgrade_policy: H2UpgradePolicy,
        inbound_cluster_stat_name: String,
        outbound_cluster_stat_name: String,
        certificates: Vec<Certificate>,
        service_settings: Vec<ServiceSettings>,
        service_scope_configs: Vec<ServiceScopeConfigs>,
        enable_prometheus_merge: Option<bool>,
        verify_certificate_at_client: Option<bool>,
        ca: Option<Ca>,
        extension_providers: Vec<ExtensionProvider>,
        default_providers: Option<DefaultProviders>,
        discovery_selectors: Vec<LabelSelector>,
        path_normalization: Option<ProxyPathNormalization>,
        default_http_retry_policy: Option<HttpRetry>,
        mesh_mtls: Option<MeshTlsConfig> = "meshMTLS",
        tls_defaults: Option<MeshTlsConfig>,
        default_traffic_policy: Option<DefaultTrafficPolicy>,
        service_entry_visibility: Option<ServiceEntryVisibility>,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.OutboundTrafficPolicy` of Istio's API.
    pub struct OutboundTrafficPolicy {
        mode: OutboundTrafficPolicyMode,
        tls: Option<ClientTlsSettings>,
    }
}

enumeration! {
    /// `mesh.v1alpha1.MeshConfig.OutboundTrafficPolicy.Mode` of Istio's API.
    pub enum OutboundTrafficPolicyMode {
        RegistryOnly = "REGISTRY_ONLY",
        AllowAny = "ALLOW_ANY",
        AllowAnyDynamicDns = "ALLOW_ANY_DYNAMIC_DNS",
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.InboundTrafficPolicy` of Istio's API.
    pub struct InboundTrafficPolicy {
        mode: InboundTrafficPolicyMode,
    }
}

enumeration! {
    /// `mesh.v1alpha1.MeshConfig.InboundTrafficPolicy.Mode` of Istio's API.
    pub enum InboundTrafficPolicyMode {
        Passthrough = "PASSTHROUGH",
        Localhost = "LOCALHOST",
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.CertificateData` of Istio's API.
    pub struct CertificateData {
        pem: Option<String>,
        spiffe_bundle_url: Option<String>,
        cert_signers: Vec<String>,
        trust_domains: Vec<String>,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ServiceSettings` of Istio's API.
    pub struct ServiceSettings {
        settings: Option<ServiceSettingsSettings>,
        hosts: Vec<String>,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ServiceSettings.Settings` of Istio's API.
    pub struct ServiceSettingsSettings {
        cluster_local: bool,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ServiceScopeConfigs` of Istio's API.
    pub struct ServiceScopeConfigs {
        namespace_selector: Option<LabelSelector>,
        services_selector: Option<LabelSelector>,
        scope: ServiceScope,
    }
}

enumeration! {
    /// `mesh.v1alpha1.MeshConfig.ServiceScopeConfigs.Scope` of Istio's API.
    pub enum ServiceScope {
        Local = "LOCAL",
        Global = "GLOBAL",
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.CA` of Istio's API.
    pub struct Ca {
        address: String,
        tls_settings: Option<ClientTlsSettings>,
        request_timeout: Option<Duration>,
        istiod_side: bool,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider` of Istio's API.
    pub struct ExtensionProvider {
        name: String,
        envoy_ext_authz_http: Option<EnvoyExternalAuthorizationHttpProvider>,
        envoy_ext_authz_grpc: Option<EnvoyExternalAuthorizationGrpcProvider>,
        zipkin: Option<ZipkinTracingProvider>,
        lightstep: Option<LightstepTracingProvider>,
        datadog: Option<DatadogTracingProvider>,
        stackdriver: Option<StackdriverProvider>,
        opencensus: Option<OpenCensusAgentTracingProvider>,
        skywalking: Option<SkyWalkingTracingProvider>,
        opentelemetry: Option<OpenTelemetryTracingProvider>,
        prometheus: Option<PrometheusMetricsProvider>,
        envoy_file_access_log: Option<EnvoyFileAccessLogProvider>,
        envoy_http_als: Option<EnvoyHttpGrpcV3LogProvider>,
        envoy_tcp_als: Option<EnvoyTcpGrpcV3LogProvider>,
        envoy_otel_als: Option<EnvoyOpenTelemetryLogProvider>,
        sds: Option<SdsProvider>,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.EnvoyExternalAuthorizationRequestBody` of Istio's API.
    pub struct EnvoyExternalAuthorizationRequestBody {
        max_request_bytes: u32,
        allow_partial_message: bool,
        pack_as_bytes: bool,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.EnvoyExternalAuthorizationHttpProvider` of Istio's API.
    pub struct EnvoyExternalAuthorizationHttpProvider {
        service: String,
        port: u32,
        timeout: Option<Duration>,
        path_prefix: String,
        fail_open: bool,
        clear_route_cache: bool,
        status_on_error: String,
        include_headers_in_check: Vec<String>,
        include_request_headers_in_check: Vec<String>,
        include_additional_headers_in_check: BTreeMap<String, String>,
        include_request_body_in_check: Option<EnvoyExternalAuthorizationRequestBody>,
        headers_to_upstream_on_allow: Vec<String>,
        headers_to_downstream_on_deny: Vec<String>,
        headers_to_downstream_on_allow: Vec<String>,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.EnvoyExternalAuthorizationGrpcProvider` of Istio's API.
    pub struct EnvoyExternalAuthorizationGrpcProvider {
        service: String,
        port: u32,
        timeout: Option<Duration>,
        fail_open: bool,
        clear_route_cache: bool,
        status_on_error: String,
        include_request_body_in_check: Option<EnvoyExternalAuthorizationRequestBody>,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.ZipkinTracingProvider` of Istio's API.
    pub struct ZipkinTracingProvider {
        service: String,
        port: u32,
        max_tag_length: u32,
        enable_64bit_trace_id: bool,
        path: String,
        trace_context_option: TraceContextOption,
        timeout: Option<Duration>,
        headers: Vec<HttpHeader>,
    }
}

enumeration! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.ZipkinTracingProvider.TraceContextOption` of Istio's API.
    pub enum TraceContextOption {
        UseB3 = "USE_B3",
        UseB3WithW3cPropagation = "USE_B3_WITH_W3C_PROPAGATION",
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.LightstepTracingProvider` of Istio's API.
    pub struct LightstepTracingProvider {
        service: String,
        port: u32,
        access_token: String,
        max_tag_length: u32,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.DatadogTracingProvider` of Istio's API.
    pub struct DatadogTracingProvider {
        service: String,
        port: u32,
        max_tag_length: u32,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.SkyWalkingTracingProvider` of Istio's API.
    pub struct SkyWalkingTracingProvider {
        service: String,
        port: u32,
        access_token: String,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.StackdriverProvider` of Istio's API.
    pub struct StackdriverProvider {
        debug: bool,
        max_number_of_attributes: Option<i64>,
        max_number_of_annotations: Option<i64>,
        max_number_of_message_events: Option<i64>,
        max_tag_length: u32,
        logging: Option<StackdriverLogging>,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.StackdriverProvider.Logging` of Istio's API.
    pub struct StackdriverLogging {
        labels: BTreeMap<String, String>,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.OpenCensusAgentTracingProvider` of Istio's API.
    pub struct OpenCensusAgentTracingProvider {
        service: String,
        port: u32,
        context: Vec<TraceContext>,
        max_tag_length: u32,
    }
}

enumeration! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.OpenCensusAgentTracingProvider.TraceContext` of Istio's API.
    pub enum TraceContext {
        Unspecified = "UNSPECIFIED",
        W3cTraceContext = "W3C_TRACE_CONTEXT",
        GrpcBin = "GRPC_BIN",
        CloudTraceContext = "CLOUD_TRACE_CONTEXT",
        B3 = "B3",
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.PrometheusMetricsProvider` of Istio's API.
    pub struct PrometheusMetricsProvider {
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.EnvoyFileAccessLogProvider` of Istio's API.
    pub struct EnvoyFileAccessLogProvider {
        path: String,
        log_format: Option<FileLogFormat>,
        omit_empty_values: bool,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.EnvoyFileAccessLogProvider.LogFormat` of Istio's API.
    pub struct FileLogFormat {
        text: Option<String>,
        labels: Option<Value>,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.EnvoyHttpGrpcV3LogProvider` of Istio's API.
    pub struct EnvoyHttpGrpcV3LogProvider {
        service: String,
        port: u32,
        log_name: String,
        filter_state_objects_to_log: Vec<String>,
        additional_request_headers_to_log: Vec<String>,
        additional_response_headers_to_log: Vec<String>,
        additional_response_trailers_to_log: Vec<String>,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.EnvoyTcpGrpcV3LogProvider` of Istio's API.
    pub struct EnvoyTcpGrpcV3LogProvider {
        service: String,
        port: u32,
        log_name: String,
        filter_state_objects_to_log: Vec<String>,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.EnvoyOpenTelemetryLogProvider` of Istio's API.
    pub struct EnvoyOpenTelemetryLogProvider {
        service: String,
        port: u32,
        log_name: String,
        log_format: Option<OpenTelemetryLogFormat>,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.EnvoyOpenTelemetryLogProvider.LogFormat` of Istio's API.
    pub struct OpenTelemetryLogFormat {
        text: String,
        labels: Option<Value>,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.OpenTelemetryTracingProvider` of Istio's API.
    pub struct OpenTelemetryTracingProvider {
        service: String,
        port: u32,
        max_tag_length: u32,
        http: Option<HttpService>,
        grpc: Option<GrpcService>,
        resource_detectors: Option<ResourceDetectors>,
        service_attribute_enrichment: ServiceAttributeEnrichment,
        dynatrace_sampler: Option<DynatraceSampler>,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.OpenTelemetryTracingProvider.DynatraceSampler` of Istio's API.
    pub struct DynatraceSampler {
        tenant: String,
        cluster_id: i32,
        root_spans_per_minute: u32,
        http_service: Option<DynatraceApi>,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.OpenTelemetryTracingProvider.DynatraceSampler.DynatraceApi` of Istio's API.
    pub struct DynatraceApi {
        service: String,
        port: u32,
        http: Option<HttpService>,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.SDSProvider` of Istio's API.
    pub struct SdsProvider {
        name: String,
        service: String,
        port: u32,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.HttpService` of Istio's API.
    pub struct HttpService {
        path: String,
        timeout: Option<Duration>,
        headers: Vec<HttpHeader>,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.HttpHeader` of Istio's API.
    pub struct HttpHeader {
        name: String,
        value: Option<String>,
        env_name: Option<String>,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.ResourceDetectors` of Istio's API.
    pub struct ResourceDetectors {
        environment: Option<EnvironmentResourceDetector>,
        dynatrace: Option<DynatraceResourceDetector>,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.ResourceDetectors.EnvironmentResourceDetector` of Istio's API.
    pub struct EnvironmentResourceDetector {
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.ResourceDetectors.DynatraceResourceDetector` of Istio's API.
    pub struct DynatraceResourceDetector {
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.GrpcService` of Istio's API.
    pub struct GrpcService {
        timeout: Option<Duration>,
        initial_metadata: Vec<HttpHeader>,
    }
}

enumeration! {
    /// `mesh.v1alpha1.MeshConfig.ExtensionProvider.ServiceAttributeEnrichment` of Istio's API.
    pub enum ServiceAttributeEnrichment {
        IstioCanonical = "ISTIO_CANONICAL",
        OtelSemanticConventions = "OTEL_SEMANTIC_CONVENTIONS",
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.DefaultProviders` of Istio's API.
    pub struct DefaultProviders {
        tracing: Vec<String>,
        metrics: Vec<String>,
        access_logging: Vec<String>,
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.ProxyPathNormalization` of Istio's API.
    pub struct ProxyPathNormalization {
        normalization: NormalizationType,
    }
}

enumeration! {
    /// `mesh.v1alpha1.MeshConfig.ProxyPathNormalization.NormalizationType` of Istio's API.
    pub enum NormalizationType {
        Default = "DEFAULT",
        None = "NONE",
        Base = "BASE",
        MergeSlashes = "MERGE_SLASHES",
        DecodeAndMergeSlashes = "DECODE_AND_MERGE_SLASHES",
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.TLSConfig` of Istio's API.
    pub struct MeshTlsConfig {
        min_protocol_version: MeshTlsProtocol,
        ecdh_curves: Vec<String>,
        cipher_suites: Vec<String>,
    }
}

enumeration! {
    /// `mesh.v1alpha1.MeshConfig.TLSConfig.TLSProtocol` of Istio's API.
    pub enum MeshTlsProtocol {
        TlsAuto = "TLS_AUTO",
        Tlsv12 = "TLSV1_2",
        Tlsv13 = "TLSV1_3",
    }
}

object! {
    /// `mesh.v1alpha1.MeshConfig.DefaultTrafficPolicy` of Istio's API.
    pub struct DefaultTrafficPolicy {
        connection_pool: Option<ConnectionPoolSettings>,
        outlier_detection: Option<OutlierDetection>,
    }
}

enumeration! {
    /// `mesh.v1alpha1.MeshConfig.IngressControllerMode` of Istio's API.
    pub enum IngressControllerMode {
        Unspecified = "UNSPECIFIED",
        Off = "OFF",
        Default = "DEFAULT",
        Strict = "STRICT",
    }
}

enumeration! {
    /// `mesh.v1alpha1.MeshConfig.AuthPolicy` of Istio's API.
    pub enum AuthPolicy {
        None = "NONE",
        MutualTls = "MUTUAL_TLS",
    }
}

enumeration! {
    /// `mesh.v1alpha1.MeshConfig.AccessLogEncoding` of Istio's API.
    pub enum AccessLogEncoding {
        Text = "TEXT",
        Json = "JSON",
    }
}

enumeration! {
    /// `mesh.v1alpha1.MeshConfig.H2UpgradePolicy` of Istio's API.
    pub enum H2UpgradePolicy {
        DoNotUpgrade = "DO_NOT_UPGRADE",
        Upgrade = "UPGRADE",
    }
}

object! {
    /// `mesh.v1alpha1.LabelSelector` of Istio's API.
    pub struct LabelSelector {
        match_labels: BTreeMap<String, String>,
        match_expressions: Vec<LabelSelectorRequirement>,
    }
}

object! {
    /// `mesh.v1alpha1.LabelSelectorRequirement` of Istio's API.
    pub struct LabelSelectorRequirement {
        key: String,
        operator: String,
        values: Vec<String>,
    }
}

object! {
    /// `mesh.v1alpha1.ServiceEntryVisibility` of Istio's API.
    pub struct ServiceEntryVisibility {
        default_visibility: Visibility,
        apply_to_sidecars: bool,
        policies: Vec<ServiceEntryVisibilityPolicy>,
    }
}

object! {
    /// `mesh.v1alpha1.ServiceEntryVisibility.Policy` of Istio's API.
    pub struct ServiceEntryVisibilityPolicy {
        visibility: Visibility,
        matching_rules: Vec<ServiceEntryVisibilityRule>,
    }
}

object! {
    /// `mesh.v1alpha1.ServiceEntryVisibility.MatchRule` of Istio's API.
    pub struct ServiceEntryVisibilityRule {
        namespace_selector: Option<LabelSelector>,
    }
}

enumeration! {
    /// `mesh.v1alpha1.ServiceEntryVisibility.Visibility` of Istio's API.
    pub enum Visibility {
        VisibilityUnspecified = "VISIBILITY_UNSPECIFIED",
        None = "NONE",
        Namespace = "NAMESPACE",
        Public = "PUBLIC",
    }
}

object! {
    /// `mesh.v1alpha1.ConfigSource` of Istio's API.
    pub struct ConfigSource {
        address: String,
        tls_settings: Option<ClientTlsSettings>,
        subscribed_resources: Vec<Resource>,
    }
}

object! {
    /// `mesh.v1alpha1.Certificate` of Istio's API.
    pub struct Certificate {
        secret_name: String,
        dns_names: Vec<String>,
    }
}

enumeration! {
    /// `mesh.v1alpha1.Resource` of Istio's API.
    pub enum Resource {
        ServiceRegistry = "SERVICE_REGISTRY",
    }
}
