//! The mesh's own configuration, from where an installation of Istio keeps it: the `mesh` key of the ConfigMap `istio` in
//! `istio-system`, or the `meshConfig` of an IstioOperator.

use lateen_api::diagnostic::{Diagnostic, Severity};
use lateen_api::mesh::MeshConfig;
use lateen_api::{Resource, SourceFile, Spec, parse_fragment};

/// The namespace that the control plane runs in.
pub const ROOT_NAMESPACE: &str = "istio-system";

/// The mesh configuration, or defaults. The ConfigMap is what an installation produces, so it wins over an IstioOperator.
pub fn config(resources: &[Resource]) -> (MeshConfig, Vec<Diagnostic>) {
    let mut diagnostics = Vec::new();
    let config_map = resources.iter().find(|r| {
        r.meta.namespace == ROOT_NAMESPACE
            && r.meta.name == "istio"
            && matches!(*r.spec, Spec::ConfigMap(_))
    });
    if let Some(resource) = config_map
        && let Spec::ConfigMap(map) = &*resource.spec
        && let Some(text) = map.data.get("mesh")
    {
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
