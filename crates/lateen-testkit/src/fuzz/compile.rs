//! The compiler: what validation lets through compiles, and the traffic engine takes all of it.

use std::collections::BTreeMap;

use lateen_api::diagnostic::{Diagnostic, Severity};
use lateen_api::mesh::MeshConfig;
use lateen_api::{Resource, validate};
use lateen_compile::{
    Compiler, Locality, Pod, PodRole, ProxyKind, ProxyNode, Settings, Snapshot, SnapshotInputs,
};

use super::{Seen, yaml};
use crate::engine;

/// Parses, validates, compiles for a sidecar and a gateway, and loads the result into the engine.
pub(super) fn check(text: &str) -> Seen {
    let (parsed, mut seen) = yaml::read(text);
    let resources: Vec<Resource> = parsed.resources.into_iter().filter(is_valid).collect();
    let (snapshot, found) = snapshot(resources);
    seen.codes
        .extend(found.iter().map(|diagnostic| diagnostic.code));
    for kind in [ProxyKind::Sidecar, ProxyKind::Router] {
        let compiled = Compiler::new().compile(&snapshot, &node(kind));
        seen.codes.extend(
            compiled
                .diagnostics
                .iter()
                .map(|diagnostic| diagnostic.code),
        );
        for rejection in engine::load(&compiled).1 {
            seen.broken.get_or_insert(format!(
                "the engine refuses {:?} `{}`: {}",
                rejection.type_url, rejection.name, rejection.reason
            ));
        }
    }
    seen
}

/// A mesh of these objects and the corpus' workloads.
pub(super) fn snapshot(resources: Vec<Resource>) -> (Snapshot, Vec<Diagnostic>) {
    Snapshot::new(SnapshotInputs {
        mesh: MeshConfig::default(),
        settings: Settings::default(),
        resources,
        pods: pods(),
        cluster_ips: std::sync::Arc::default(),
        jwks: Default::default(),
    })
}

fn is_valid(resource: &Resource) -> bool {
    validate(resource)
        .iter()
        .all(|diagnostic| diagnostic.severity != Severity::Error)
}

/// Workloads that the corpus' services and selectors find.
fn pods() -> Vec<Pod> {
    let labels = [
        ("reviews", "reviews-v1", 1),
        ("ratings", "ratings-v1", 2),
        ("productpage", "productpage-v1", 3),
    ];
    let pod = |(app, name, last): (&str, &str, u8)| Pod {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        labels: BTreeMap::from([
            ("app".to_owned(), app.to_owned()),
            ("version".to_owned(), "v1".to_owned()),
        ]),
        ips: vec![[10, 0, 0, last].into()],
        annotations: BTreeMap::new(),
        service_account: app.to_owned(),
        locality: Locality::default(),
        ready: true,
        terminating: false,
        role: PodRole::Sidecar,
        ports: BTreeMap::new(),
        network: String::new(),
        workload_name: name.to_owned(),
    };
    labels.map(pod).into()
}

/// A proxy of one of them, or of the gateway.
pub(super) fn node(kind: ProxyKind) -> ProxyNode {
    let (namespace, name, label, ip) = match kind {
        ProxyKind::Sidecar => ("default", "reviews-v1", ("app", "reviews"), [10, 0, 0, 1]),
        ProxyKind::Router => (
            "istio-system",
            "istio-ingressgateway",
            ("istio", "ingressgateway"),
            [10, 0, 0, 9],
        ),
    };
    ProxyNode {
        id: format!("{name}.{namespace}"),
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        labels: BTreeMap::from([(label.0.to_owned(), label.1.to_owned())]),
        ips: vec![ip.into()],
        dns_domain: format!("{namespace}.svc.cluster.local"),
        native: true,
        ..ProxyNode::default()
    }
}
