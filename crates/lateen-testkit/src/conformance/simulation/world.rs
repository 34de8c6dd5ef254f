//! A case's mesh: its resources compiled for its proxy, and the proxy's program.

use anyhow::{Result, bail};
use lateen_api::mesh::MeshConfig;
use lateen_api::{Diagnostic, Resource, SourceFile, parse_file, parse_fragment};
use lateen_compile::{
    Compiled, Compiler, Locality, ProxyKind, ProxyNode, Settings, Snapshot, SnapshotInputs,
};
use lateen_traffic::{Program, Rejection};

pub(super) use crate::engine::load;

use super::super::Finding;
use super::case::{Case, EndpointPriorities, LocalityText, ProxyType};

/// Documents without a namespace are in this one.
const DEFAULT_NAMESPACE: &str = "default";

/// The code of "the server cannot share the port with another".
const GATEWAY_CONFLICT: &str = "LAT3004";

/// A case's mesh, ready to be asked.
pub(super) struct World {
    pub(super) program: Program,
    pub(super) compiled: Compiled,
    /// What the engine refused.
    rejections: Vec<Rejection>,
    /// What was said about the resources on the way.
    pub(super) remarks: Vec<String>,
}

impl World {
    /// Compiles a case.
    pub(super) fn new(case: &Case) -> Result<Self> {
        let mut remarks = Vec::new();
        let mut resources = Vec::new();
        for (name, text) in [
            ("istio_config", &case.istio_config),
            ("kubernetes_config", &case.kubernetes_config),
        ] {
            let text = text.as_deref().unwrap_or_default();
            resources.extend(parse(name, text, &mut remarks)?);
        }
        if let Some(priorities) = &case.endpoint_priorities {
            resources.extend(assumed_outlier_detection(
                priorities,
                &case.proxy.namespace,
                &mut remarks,
            )?);
        }
        let mesh = case.mesh_config.as_deref().unwrap_or_default();
        let (mesh, found) = parse_fragment::<MeshConfig>(&SourceFile::new("mesh_config", mesh));
        note(&found, &mut remarks);
        let (snapshot, found) = Snapshot::new(SnapshotInputs {
            mesh,
            settings: settings(case, &mut remarks),
            resources,
            pods: Vec::new(),
            cluster_ips: std::sync::Arc::default(),
            jwks: Default::default(),
        });
        note(&found, &mut remarks);
        let compiled = Compiler::new().compile(&snapshot, &node(case));
        note(&compiled.diagnostics, &mut remarks);
        let (program, rejections) = load(&compiled);
        Ok(Self {
            program,
            compiled,
            rejections,
            remarks,
        })
    }

    /// Whether the compiler said that servers of Gateways exclude each other.
    pub(super) fn tells_ambiguous_servers(&self) -> bool {
        let mut found = self.compiled.diagnostics.iter();
        found.any(|diagnostic| diagnostic.code == GATEWAY_CONFLICT)
    }

    /// Whether a listener was refused because two of its filter chains have the same conditions.
    pub(super) fn has_ambiguous_listener(&self) -> bool {
        self.rejections.iter().any(is_ambiguous)
    }

    /// What the engine refused, but for ambiguous listeners where a call expects one.
    pub(super) fn unexpected_rejections(&self, case: &Case) -> Vec<Finding> {
        let ambiguous = case
            .calls
            .iter()
            .any(|call| call.expect.error.as_deref() == Some("multiple_filter_chain"));
        self.rejections
            .iter()
            .filter(|rejection| !(ambiguous && is_ambiguous(rejection)))
            .map(|rejection| {
                Finding::new(
                    "validation",
                    "every resource acknowledged",
                    format!(
                        "{:?} `{}` refused: {}",
                        rejection.type_url, rejection.name, rejection.reason
                    ),
                )
            })
            .collect()
    }
}

/// How the engine words it that no connection could tell two chains apart.
fn is_ambiguous(rejection: &Rejection) -> bool {
    rejection.reason.contains("the same matching rules")
}

fn note(found: &[Diagnostic], remarks: &mut Vec<String>) {
    remarks.extend(found.iter().map(|diagnostic| {
        let field = &diagnostic.field;
        format!("{}: {field}: {}", diagnostic.code, diagnostic.message)
    }));
}

fn parse(name: &str, text: &str, remarks: &mut Vec<String>) -> Result<Vec<Resource>> {
    let parsed = parse_file(&SourceFile::new(name, text), DEFAULT_NAMESPACE);
    note(&parsed.diagnostics, remarks);
    if parsed.has_unreadable_documents() {
        bail!("{name} has a document that cannot be read");
    }
    Ok(parsed.resources)
}

/// Failover needs outlier detection; a case may say that it is to be taken as switched on.
fn assumed_outlier_detection(
    priorities: &EndpointPriorities,
    namespace: &str,
    remarks: &mut Vec<String>,
) -> Result<Vec<Resource>> {
    let assumed = priorities
        .outlier_detection
        .as_deref()
        .is_some_and(|text| text.starts_with("assumed on"));
    let host = priorities.cluster.rsplit('|').next().unwrap_or_default();
    if !assumed || host.is_empty() {
        return Ok(Vec::new());
    }
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
         metadata: {{name: assumed-outlier-detection, namespace: {namespace}}}\n\
         spec: {{host: {host}, trafficPolicy: {{outlierDetection: {{consecutive5xxErrors: 5}}}}}}\n"
    );
    parse("assumed outlier detection", &text, remarks)
}

/// Istio's defaults, and what the case's environment variables change.
fn settings(case: &Case, remarks: &mut Vec<String>) -> Settings {
    let mut settings = Settings::default();
    for (name, value) in &case.feature_flags {
        let value = match value {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        if !settings.features.set(name, &value) {
            remarks.push(format!("the feature flag {name} is not known here"));
        }
    }
    settings
}

fn node(case: &Case) -> ProxyNode {
    let proxy = &case.proxy;
    let kind = match proxy.r#type {
        ProxyType::Sidecar => ProxyKind::Sidecar,
        ProxyType::Router => ProxyKind::Router,
    };
    let name = proxy.id.split('.').next().unwrap_or_default();
    ProxyNode {
        id: proxy.id.clone(),
        kind,
        namespace: proxy.namespace.clone(),
        name: name.to_owned(),
        labels: proxy.labels.clone(),
        ips: proxy.ip_addresses.clone(),
        service_account: proxy.service_account.clone().unwrap_or_default(),
        cluster_id: proxy
            .metadata
            .cluster_id
            .clone()
            .unwrap_or_else(|| "Kubernetes".to_owned()),
        dns_domain: proxy.dns_domain.clone(),
        workload_name: name.to_owned(),
        locality: locality(proxy.locality.as_ref()),
        dns_capture: proxy.metadata.dns_capture,
        istio_version: proxy.metadata.istio_version.clone().unwrap_or_default(),
        native: true,
        ..ProxyNode::default()
    }
}

fn locality(text: Option<&LocalityText>) -> Locality {
    match text {
        None => Locality::default(),
        Some(LocalityText::Text(text)) => Locality::parse(text),
        Some(LocalityText::Parts {
            region,
            zone,
            sub_zone,
        }) => Locality {
            region: region.clone(),
            zone: zone.clone(),
            sub_zone: sub_zone.clone(),
        },
    }
}
