//! What the mesh says about a pod's proxy: `meshConfig.defaultConfig`, ProxyConfig objects and the pod's own annotation, merged.
//!
//! Source of the order: Istio's `pilot/pkg/model/proxyconfig.go`. Later ones win: the mesh, ProxyConfigs of the root namespace,
//! of the pod's namespace, the annotation, and last the ProxyConfig that selects the workload. The result is JSON, as injection
//! passes it on: whoever reads it decides what it means.

use std::collections::BTreeMap;

use lateen_api::diagnostic::{Diagnostic, Severity};
use lateen_api::mesh::MeshConfig;
use lateen_api::networking::ProxyConfig;
use lateen_api::{Resource, SourceFile, Spec, mesh, parse_fragment, value::Value};
use serde_json::{Map, Value as Json, json};

use super::groups::Groups;
use crate::mesh as mesh_source;

/// The annotation with a pod's own settings.
pub const ANNOTATION: &str = "proxy.istio.io/config";
/// Where injection redirects outbound connections to.
const OUTBOUND: u16 = 15001;
/// Where injection redirects inbound connections to.
const INBOUND: u16 = 15006;

/// A pod's proxy as the mesh wants it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProxySettings {
    /// ProxyConfig as JSON, with what was written anywhere; `{}` if nothing was.
    pub config: String,
    /// `meshConfig.proxyListenPort`.
    pub outbound_port: u16,
    /// `meshConfig.proxyInboundListenPort`.
    pub inbound_port: u16,
    /// `meshConfig.enablePrometheusMerge`.
    pub merge_metrics: bool,
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self {
            config: "{}".to_owned(),
            outbound_port: OUTBOUND,
            inbound_port: INBOUND,
            merge_metrics: true,
        }
    }
}

impl ProxySettings {
    /// A field of the merged ProxyConfig.
    pub fn field(&self, name: &str) -> Option<Json> {
        let mut config: Map<String, Json> = serde_json::from_str(&self.config).ok()?;
        config.remove(name)
    }

    /// Whether an environment variable of the proxy (`proxyMetadata`) is true, as Go reads truth.
    pub fn is_set(&self, variable: &str) -> bool {
        const TRUE: [&str; 6] = ["1", "t", "T", "true", "TRUE", "True"];
        let metadata = self.field("proxyMetadata").unwrap_or_default();
        let value = metadata.get(variable).and_then(Json::as_str);
        value.is_some_and(|value| TRUE.contains(&value))
    }

    /// A field that is a port, if it is one.
    pub fn port(&self, name: &str) -> Option<u16> {
        let port = self.field(name)?.as_u64()?;
        u16::try_from(port).ok().filter(|port| *port != 0)
    }
}

/// What all pods' settings are made of.
pub(super) struct Mesh<'a> {
    base: Map<String, Json>,
    outbound_port: u16,
    inbound_port: u16,
    merge_metrics: bool,
    root: String,
    objects: Vec<(&'a Resource, &'a ProxyConfig)>,
    groups: Groups<'a>,
}

impl<'a> Mesh<'a> {
    pub(super) fn new(resources: &'a [Resource]) -> Self {
        let (config, _) = mesh_source::config(resources);
        let mut objects: Vec<_> = resources
            .iter()
            .filter_map(|resource| match &*resource.spec {
                Spec::ProxyConfig(config) => Some((resource, config)),
                _ => None,
            })
            .collect();
        // Of several for the same pods the oldest counts; manifests have no age, so it is the first by name.
        objects.sort_by(|(a, _), (b, _)| age(a).cmp(&age(b)));
        Self {
            base: object(mesh_source::default_config(resources)),
            outbound_port: port(config.proxy_listen_port, OUTBOUND),
            inbound_port: port(config.proxy_inbound_listen_port, INBOUND),
            merge_metrics: config.enable_prometheus_merge.unwrap_or(true),
            root: root_namespace(&config),
            objects,
            groups: Groups::of(resources),
        }
    }

    /// A pod's settings, and what of its annotation cannot be used.
    pub(super) fn of(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        annotations: &BTreeMap<String, String>,
    ) -> (ProxySettings, Vec<String>) {
        let mut config = self.base.clone();
        self.overlay(&mut config, &self.root, None);
        if namespace != self.root {
            self.overlay(&mut config, namespace, None);
        }
        let mut problems = Vec::new();
        if let Some(text) = annotations.get(ANNOTATION) {
            let (own, found) = annotation(text);
            merge(&mut config, own);
            problems = found;
        }
        self.overlay(&mut config, namespace, Some(labels));
        self.groups.complete(namespace, &mut config);
        let settings = ProxySettings {
            config: Json::Object(config).to_string(),
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
            merge_metrics: self.merge_metrics,
        };
        (settings, problems)
    }

    /// Lays the namespace's own ProxyConfig over it, or the one that selects these labels.
    fn overlay(
        &self,
        config: &mut Map<String, Json>,
        namespace: &str,
        labels: Option<&BTreeMap<String, String>>,
    ) {
        let fits = |(resource, found): &&(&Resource, &ProxyConfig)| {
            let selector = found.selector.as_ref().map(|s| &s.match_labels);
            let selector = selector.filter(|selector| !selector.is_empty());
            resource.namespace() == namespace
                && match (selector, labels) {
                    (None, None) => true,
                    (Some(wanted), Some(labels)) => {
                        wanted.iter().all(|(k, v)| labels.get(k) == Some(v))
                    }
                    _ => false,
                }
        };
        if let Some((_, found)) = self.objects.iter().find(fits) {
            merge(config, of_object(found));
        }
    }
}

/// What a ProxyConfig object says, in the words of `meshConfig.defaultConfig`.
fn of_object(config: &ProxyConfig) -> Map<String, Json> {
    let mut out = Map::new();
    if let Some(concurrency) = config.concurrency {
        out.insert("concurrency".to_owned(), concurrency.into());
    }
    if !config.environment_variables.is_empty() {
        out.insert(
            "proxyMetadata".to_owned(),
            json!(config.environment_variables),
        );
    }
    if let Some(image) = &config.image {
        out.insert("image".to_owned(), json!({"imageType": image.image_type}));
    }
    out
}

/// Lays `over` over `config`. The maps of ProxyConfig grow key by key; everything else is replaced.
fn merge(config: &mut Map<String, Json>, over: Map<String, Json>) {
    for (name, value) in over {
        match (config.get_mut(&name), value) {
            (Some(Json::Object(known)), Json::Object(more)) => merge(known, more),
            (_, value) => drop(config.insert(name, value)),
        }
    }
}

/// The annotation's settings, and what is wrong with it. It is used as far as it can be read, as long as it is an object.
fn annotation(text: &str) -> (Map<String, Json>, Vec<String>) {
    let file = SourceFile::new(ANNOTATION, text);
    let (_, found) = parse_fragment::<mesh::ProxyConfig>(&file);
    let broken = found.iter().any(Diagnostic::is_error);
    let problems = found.into_iter().map(|d| d.message).collect();
    if broken {
        return (Map::new(), problems);
    }
    let (written, _) = parse_fragment::<Value>(&file);
    (object(written), problems)
}

fn object(value: Value) -> Map<String, Json> {
    match serde_json::to_value(value) {
        Ok(Json::Object(object)) => object,
        _ => Map::new(),
    }
}

/// Warns of an annotation that cannot be used.
pub(super) fn finding(workload: &Resource, problem: &str) -> Diagnostic {
    let field = match &*workload.spec {
        Spec::Pod(_) => format!("metadata.annotations[\"{ANNOTATION}\"]"),
        Spec::CronJob(_) => {
            format!("spec.jobTemplate.spec.template.metadata.annotations[\"{ANNOTATION}\"]")
        }
        _ => format!("spec.template.metadata.annotations[\"{ANNOTATION}\"]"),
    };
    Diagnostic::new(
        "LAT0506",
        Severity::Warning,
        format!("the annotation `{ANNOTATION}` cannot be used: {problem}"),
    )
    .on(workload.reference())
    .at(field.clone())
    .spanned(Some(workload.file_span(&field)))
    .effect("the pod's proxy has the mesh's settings")
    .fix("write it as `meshConfig.defaultConfig` is written, in YAML or JSON")
}

fn age(resource: &Resource) -> (&str, &str) {
    (&resource.meta.creation_timestamp, resource.name())
}

fn root_namespace(config: &MeshConfig) -> String {
    match config.root_namespace.as_str() {
        "" => mesh_source::ROOT_NAMESPACE.to_owned(),
        root => root.to_owned(),
    }
}

fn port(value: i32, default: u16) -> u16 {
    u16::try_from(value)
        .ok()
        .filter(|port| *port != 0)
        .unwrap_or(default)
}
