//! The mesh's own configuration, from where an installation of Istio keeps it: the `mesh` key of the ConfigMap `istio` in
//! `istio-system`, or the `meshConfig` of an IstioOperator.

use std::collections::BTreeMap;

use lateen_api::diagnostic::{Diagnostic, Severity};
use lateen_api::mesh::MeshConfig;
use lateen_api::tree::Node;
use lateen_api::value::Value;
use lateen_api::{Resource, SourceFile, Spec, fragment_tree, parse_fragment};

/// The namespace that the control plane runs in.
pub const ROOT_NAMESPACE: &str = "istio-system";

/// The mesh configuration, or defaults. The ConfigMap is what an installation produces, so it wins over an IstioOperator.
pub fn config(resources: &[Resource]) -> (MeshConfig, Vec<Diagnostic>) {
    let mut diagnostics = Vec::new();
    if let Some((resource, text)) = config_map(resources) {
        let (mesh, found) = parse_fragment(&SourceFile::new("ConfigMap istio, key mesh", text));
        diagnostics.extend(found.into_iter().map(|d| place(d, resource)));
        return (mesh, diagnostics);
    }
    let mut operators = resources.iter().filter_map(|r| match &*r.spec {
        Spec::IstioOperator(operator) => Some((r, operator.mesh_config.as_ref()?)),
        _ => None,
    });
    let Some((_, mesh)) = operators.next() else {
        return (MeshConfig::default(), diagnostics);
    };
    diagnostics.extend(operators.map(|(other, _)| second(other)));
    (mesh.clone(), diagnostics)
}

/// `meshConfig.defaultConfig` as it is written: what was left out stays out, so that it can be laid under other settings.
pub fn default_config(resources: &[Resource]) -> Value {
    let operator = |r: &&Resource| matches!(&*r.spec, Spec::IstioOperator(operator) if operator.mesh_config.is_some());
    let written = match config_map(resources) {
        Some((_, text)) => fragment_tree(text).get("defaultConfig").map(Node::to_value),
        None => resources.iter().find(operator).and_then(|r| {
            let mesh = r.origin.root.get("spec")?.get("meshConfig")?;
            Some(mesh.get("defaultConfig")?.to_value())
        }),
    };
    written.unwrap_or(Value::Null)
}

/// istiod's environment as an IstioOperator gives it: `values.pilot.env`, then `components.pilot.k8s.env`, which wins.
pub fn pilot_environment(resources: &[Resource]) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let operators = resources.iter().filter_map(|r| match &*r.spec {
        Spec::IstioOperator(operator) => Some(operator),
        _ => None,
    });
    for operator in operators {
        if let Some(Value::Object(env)) = within(operator.values.as_ref(), &["pilot", "env"]) {
            out.extend(
                env.iter()
                    .filter_map(|(name, value)| Some((name.clone(), text(value)?))),
            );
        }
        let path = ["pilot", "k8s", "env"];
        if let Some(Value::List(env)) = within(operator.components.as_ref(), &path) {
            for entry in env {
                let (name, value) = (
                    within(Some(entry), &["name"]),
                    within(Some(entry), &["value"]),
                );
                if let (Some(Value::String(name)), Some(value)) = (name, value.and_then(text)) {
                    out.insert(name.clone(), value);
                }
            }
        }
    }
    out
}

fn within<'a>(value: Option<&'a Value>, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value?, |value, key| match value {
        Value::Object(fields) => fields.get(*key),
        _ => None,
    })
}

/// What an environment variable is if it is written without quotes, too.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// `meshConfig.trustDomain`, Istio's default where it is not written.
pub fn trust_domain(mesh: &MeshConfig) -> &str {
    match mesh.trust_domain.as_str() {
        "" => "cluster.local",
        name => name,
    }
}

/// The mesh configuration for a mesh that runs in a trust domain: identities cannot change theirs while they are in use.
pub fn in_trust_domain(resources: &[Resource], running: &str) -> (MeshConfig, Vec<Diagnostic>) {
    let (mut mesh, mut diagnostics) = config(resources);
    let written = trust_domain(&mesh);
    if written != running {
        diagnostics.push(other_domain(resources, written, running));
        running.clone_into(&mut mesh.trust_domain);
    }
    (mesh, diagnostics)
}

fn other_domain(resources: &[Resource], written: &str, running: &str) -> Diagnostic {
    let message = format!("the mesh runs in the trust domain `{running}`, this says `{written}`");
    let diagnostic = Diagnostic::new("LAT0505", Severity::Warning, message)
        .effect(format!("identities stay in `{running}`"))
        .fix("start the mesh again; name the old domain in `trustDomainAliases` for as long as both are in use");
    about(diagnostic, resources, "trustDomain")
}

/// A finding about a field of the mesh configuration, shown where that stands.
pub fn about(diagnostic: Diagnostic, resources: &[Resource], field: &str) -> Diagnostic {
    let operator = |r: &&Resource| matches!(&*r.spec, Spec::IstioOperator(operator) if operator.mesh_config.is_some());
    let place = match config_map(resources) {
        Some((resource, _)) => Some((resource, "data.mesh".to_owned())),
        None => resources
            .iter()
            .find(operator)
            .map(|resource| (resource, format!("spec.meshConfig.{field}"))),
    };
    match place {
        Some((resource, field)) => diagnostic
            .on(resource.reference())
            .at(&field)
            .spanned(Some(resource.file_span(&field))),
        None => diagnostic,
    }
}

/// The ConfigMap with the mesh configuration, and its text.
fn config_map(resources: &[Resource]) -> Option<(&Resource, &str)> {
    resources.iter().find_map(|r| match &*r.spec {
        Spec::ConfigMap(map) if r.namespace() == ROOT_NAMESPACE && r.name() == "istio" => {
            Some((r, map.data.get("mesh")?.as_str()))
        }
        _ => None,
    })
}

/// A finding inside the embedded text is shown at the key that holds it; its own line is in the message.
fn place(diagnostic: Diagnostic, resource: &Resource) -> Diagnostic {
    let line = diagnostic.span.as_ref().map_or(0, |span| span.line);
    let message = format!("{} (line {line} of the text)", diagnostic.message);
    Diagnostic {
        message,
        ..diagnostic
    }
    .on(resource.reference())
    .at("data.mesh")
    .spanned(Some(resource.file_span("data.mesh")))
}

fn second(resource: &Resource) -> Diagnostic {
    Diagnostic::new(
        "LAT0504",
        Severity::Warning,
        "another IstioOperator already gives the mesh configuration",
    )
    .on(resource.reference())
    .at("spec.meshConfig")
    .spanned(Some(resource.file_span("spec.meshConfig")))
    .effect("this one's `meshConfig` is not used")
    .fix("keep one IstioOperator with `meshConfig`")
}
