//! MeshConfig to settings: every default applied.

use std::collections::BTreeMap;

use lateen_api::cipher::suites;
use lateen_api::mesh::{
    AccessLogEncoding, H2UpgradePolicy, InboundTrafficPolicyMode, MeshConfig, MeshTlsProtocol,
    NormalizationType, OutboundTrafficPolicyMode,
};
use lateen_api::networking::ClientTlsSettings;

use crate::accesslog::{DEFAULT_JSON, DEFAULT_TEXT};
use crate::mesh::{
    AccessLog, ClassLogs, Keepalive, LogFormat, LogSink, Mesh, OutboundPolicy, PathNormalization,
    Settings,
};

/// Applies Istio's defaults to what was written.
pub(super) fn resolve(config: &MeshConfig, settings: &Settings) -> Mesh {
    let default = Mesh::default();
    let port = |value: i32, default: u32| {
        u32::try_from(value)
            .ok()
            .filter(|port| (1..=65535).contains(port))
            .unwrap_or(default)
    };
    let tls = config.mesh_mtls.as_ref();
    let topology = config
        .default_config
        .as_ref()
        .and_then(|c| c.gateway_topology.as_ref());
    let traffic = config.default_traffic_policy.as_ref();
    let defaults = config.default_providers.clone().unwrap_or_default();
    let text_or = |text: &str, default: &str| {
        if text.is_empty() {
            default.to_owned()
        } else {
            text.to_owned()
        }
    };
    Mesh {
        trust_domain: text_or(&config.trust_domain, &settings.trust_domain),
        trust_domain_aliases: config.trust_domain_aliases.clone(),
        other_trust_domains: other_trust_domains(config),
        cluster_id: settings.cluster_id.clone(),
        domain_suffix: settings.domain_suffix.clone(),
        root_namespace: text_or(&config.root_namespace, &settings.root_namespace),
        listen_port: port(config.proxy_listen_port, default.listen_port),
        inbound_port: port(config.proxy_inbound_listen_port, default.inbound_port),
        http_proxy_port: port(config.proxy_http_port, 0),
        connect_timeout: config.connect_timeout.unwrap_or(default.connect_timeout),
        protocol_detection_timeout: config.protocol_detection_timeout.unwrap_or_default(),
        keepalive: config.tcp_keepalive.as_ref().map(Keepalive::from),
        access_logs: access_logs(config),
        log_format: log_format(config),
        default_log_providers: defaults.access_logging,
        default_metric_providers: defaults.metrics,
        default_tracing_providers: defaults.tracing,
        traces: config.enable_tracing,
        legacy_tracing: config
            .default_config
            .as_ref()
            .and_then(|c| c.tracing.clone()),
        tracing: default.tracing,
        stats: default.stats,
        listener_log: !config.disable_envoy_listener_log,
        outbound: outbound(config),
        inbound_passthrough: config
            .inbound_traffic_policy
            .as_ref()
            .is_none_or(|policy| policy.mode == InboundTrafficPolicyMode::Passthrough),
        auto_mtls: config.enable_auto_mtls.unwrap_or(true),
        dns_refresh_rate: config.dns_refresh_rate.unwrap_or(default.dns_refresh_rate),
        h2_upgrade: config.h2_upgrade_policy == H2UpgradePolicy::Upgrade,
        path_normalization: path_normalization(config),
        min_tls_13: tls.is_some_and(|tls| tls.min_protocol_version == MeshTlsProtocol::Tlsv13),
        tls_ciphers: tls
            .map(|tls| suites(&tls.cipher_suites))
            .filter(|ciphers| !ciphers.is_empty())
            .unwrap_or(default.tls_ciphers),
        tls_defaults: config.tls_defaults.clone(),
        trusted_proxies: topology.map_or(0, |topology| topology.num_trusted_proxies),
        extension_providers: config.extension_providers.clone(),
        gateway_client_cert: topology
            .map(|topology| topology.forward_client_cert_details)
            .unwrap_or_default(),
        default_http_retry: config.default_http_retry_policy.clone(),
        default_connection_pool: traffic.and_then(|policy| policy.connection_pool.clone()),
        default_outlier_detection: traffic.and_then(|policy| policy.outlier_detection.clone()),
        outbound_tls: outbound_tls(config),
        zone_aware_lb: config.zone_aware_lb_setting.clone(),
        locality_lb: config.locality_lb_setting.clone().or_else(|| {
            Some(lateen_api::networking::LocalityLoadBalancerSetting {
                enabled: Some(true),
                ..Default::default()
            })
        }),
    }
}

/// In the order they are written, without repetitions.
fn other_trust_domains(config: &MeshConfig) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let roots = config.ca_certificates.iter();
    for domain in roots.flat_map(|root| &root.trust_domains) {
        let known = *domain == config.trust_domain || config.trust_domain_aliases.contains(domain);
        if !domain.is_empty() && !known && !out.contains(domain) {
            out.push(domain.clone());
        }
    }
    out
}

fn outbound(config: &MeshConfig) -> OutboundPolicy {
    match config
        .outbound_traffic_policy
        .as_ref()
        .map(|policy| policy.mode)
    {
        Some(OutboundTrafficPolicyMode::RegistryOnly) => OutboundPolicy::RegistryOnly,
        Some(OutboundTrafficPolicyMode::AllowAnyDynamicDns) => OutboundPolicy::AllowAnyDynamicDns,
        Some(OutboundTrafficPolicyMode::AllowAny) | None => OutboundPolicy::AllowAny,
    }
}

fn outbound_tls(config: &MeshConfig) -> Option<ClientTlsSettings> {
    config.outbound_traffic_policy.as_ref()?.tls.clone()
}

fn path_normalization(config: &MeshConfig) -> PathNormalization {
    match config
        .path_normalization
        .as_ref()
        .map(|normalization| normalization.normalization)
    {
        Some(NormalizationType::None) => PathNormalization::None,
        Some(NormalizationType::MergeSlashes) => PathNormalization::MergeSlashes,
        Some(NormalizationType::DecodeAndMergeSlashes) => PathNormalization::DecodeAndMergeSlashes,
        Some(NormalizationType::Default | NormalizationType::Base) | None => {
            PathNormalization::Base
        }
    }
}

/// MeshConfig's own log, of all that a workload sends and gets.
fn access_logs(config: &MeshConfig) -> ClassLogs {
    if config.access_log_file.is_empty() {
        return ClassLogs::default();
    }
    let log = AccessLog {
        sink: LogSink::File {
            path: config.access_log_file.clone(),
            format: log_format(config),
            omit_empty: false,
        },
        filter: None,
    };
    ClassLogs {
        client: vec![log.clone()],
        server: vec![log],
    }
}

fn log_format(config: &MeshConfig) -> LogFormat {
    let format = &config.access_log_format;
    match config.access_log_encoding {
        AccessLogEncoding::Json => LogFormat::Json(json_format(format)),
        AccessLogEncoding::Text if format.is_empty() => LogFormat::Text(DEFAULT_TEXT.to_owned()),
        // Istio ends a format that does not end a line.
        AccessLogEncoding::Text if format.ends_with('\n') => LogFormat::Text(format.clone()),
        AccessLogEncoding::Text => LogFormat::Text(format!("{format}\n")),
    }
}

/// The fields a JSON format names; the default ones if it is empty or no JSON object.
fn json_format(format: &str) -> BTreeMap<String, String> {
    let parsed: Option<BTreeMap<String, serde_json::Value>> = serde_json::from_str(format).ok();
    match parsed {
        Some(fields) if !fields.is_empty() => fields
            .into_iter()
            .map(|(key, value)| match value {
                serde_json::Value::String(text) => (key, text),
                other => (key, other.to_string()),
            })
            .collect(),
        _ => DEFAULT_JSON
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    }
}
