//! The mesh that the control plane is measured with: made of numbers alone, so that two runs have the same.
//!
//! A hundred services to a namespace, each with one pod and a sidecar. Eight of ten services speak HTTP, one gRPC and one opaque
//! TCP; one of ten has a VirtualService and a DestinationRule with two subsets, and each namespace one AuthorizationPolicy.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use lateen_api::{Resource, SourceFile, parse_file};
use lateen_sources::plan::{Owner, Phase, PodRole, PodState, admin_port};

/// Services of one namespace.
pub(crate) const PER_NAMESPACE: usize = 100;
/// Services of other namespaces that a Sidecar names.
const OUTSIDE: usize = 10;

/// How large the mesh is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// How many services, and pods.
    pub(crate) services: usize,
    /// Whether each namespace has a Sidecar that names its own services and a few others.
    pub(crate) scoped: bool,
}

impl Shape {
    /// How many namespaces.
    pub(crate) const fn namespaces(self) -> usize {
        self.services.div_ceil(PER_NAMESPACE)
    }
}

/// The name of a namespace.
pub(crate) fn namespace(index: usize) -> String {
    format!("team-{index:03}")
}

/// The name of a service, and of the labels and pods behind it.
pub(crate) fn service(index: usize) -> String {
    format!("service-{index:05}")
}

/// The namespace that a service is in. Neighbours in number are in different ones, so that the first pods are spread.
pub(crate) const fn home(shape: Shape, index: usize) -> usize {
    index % shape.namespaces()
}

/// The name clients use.
pub(crate) fn host(shape: Shape, index: usize) -> String {
    let home = namespace(home(shape, index));
    format!("{}.{home}.svc.cluster.local", service(index))
}

/// The address of a pod.
pub(crate) fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 0, 1)) + u32::try_from(index).unwrap_or(0))
}

/// The port that a service is reached on and what it speaks, as the name of its port says.
fn port(index: usize) -> (&'static str, u16) {
    match index % 10 {
        8 => ("grpc", 9000),
        9 => ("tcp", 3306),
        _ => ("http", 80),
    }
}

/// Every object.
///
/// # Errors
/// What is made here is not understood: a mistake of this file.
pub(crate) fn objects(shape: Shape) -> Result<Vec<Resource>> {
    let mut out = Vec::new();
    for index in 0..shape.namespaces() {
        let name = namespace(index);
        let mut text = String::new();
        let own = (0..shape.services).filter(|service| home(shape, *service) == index);
        text.push_str(&namespace_text(index, 0));
        text.push_str(&policy_text(index, 0));
        if shape.scoped {
            text.push_str(&sidecar_text(shape, index));
        }
        for service in own {
            text.push_str(&service_text(shape, service));
            if service.is_multiple_of(10) {
                text.push_str(&virtual_service_text(shape, service, 0));
                text.push_str(&rule_text(shape, service));
            }
        }
        out.extend(parse(&format!("{name}.yaml"), &text)?);
    }
    Ok(out)
}

/// Reads manifests that are to be understood as they are.
///
/// # Errors
/// They are not.
pub(crate) fn parse(name: &str, text: &str) -> Result<Vec<Resource>> {
    let parsed = parse_file(&SourceFile::new(name, text), "default");
    let error = parsed.diagnostics.iter().find(|found| found.is_error());
    ensure!(error.is_none(), "{name}: {error:?}");
    Ok(parsed.resources)
}

/// Reads one manifest.
///
/// # Errors
/// It is none.
pub(crate) fn parse_one(text: &str) -> Result<Resource> {
    let mut all = parse("change.yaml", text)?;
    all.pop().context("no object")
}

/// A namespace; `revision` is in one of its labels.
pub(crate) fn namespace_text(index: usize, revision: usize) -> String {
    let name = namespace(index);
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {{istio-injection: enabled, \
         revision: 'r{revision}'}}\n---\n"
    )
}

/// A namespace's policy; `revision` is among what it allows.
pub(crate) fn policy_text(index: usize, revision: usize) -> String {
    let name = namespace(index);
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: callers, namespace: {name}}}\n\
         spec:\n  action: DENY\n  rules:\n  - to: [{{operation: {{paths: ['/internal/{revision}']}}}}]\n---\n"
    )
}

/// A service.
pub(crate) fn service_text(shape: Shape, index: usize) -> String {
    let (name, home) = (service(index), namespace(home(shape, index)));
    let (protocol, number) = port(index);
    let [_, _, c, d] = Ipv4Addr::from(u32::try_from(index + 1).unwrap_or(0)).octets();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {home}, labels: {{app: {name}}}}}\nspec:\n  \
         clusterIP: 10.96.{c}.{d}\n  selector: {{app: {name}}}\n  ports: [{{name: {protocol}, port: {number}, targetPort: 8080}}]\n---\n"
    )
}

/// A service's routes; `revision` is in a timeout.
pub(crate) fn virtual_service_text(shape: Shape, index: usize, revision: usize) -> String {
    let (name, home) = (service(index), namespace(home(shape, index)));
    let seconds = 5 + revision % 20;
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: {home}}}\nspec:\n  \
         hosts: [{name}]\n  http:\n  - match: [{{uri: {{prefix: /v2}}}}]\n    route: [{{destination: {{host: {name}, subset: v2}}}}]\n  \
         - timeout: {seconds}s\n    route: [{{destination: {{host: {name}, subset: v1}}}}]\n---\n"
    )
}

fn rule_text(shape: Shape, index: usize) -> String {
    let (name, home) = (service(index), namespace(home(shape, index)));
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: {home}}}\nspec:\n  \
         host: {name}\n  subsets:\n  - {{name: v1, labels: {{version: v1}}}}\n  - {{name: v2, labels: {{version: v2}}}}\n---\n"
    )
}

/// The namespace's own services, and some of the next one's.
fn sidecar_text(shape: Shape, index: usize) -> String {
    let next = (index + 1) % shape.namespaces();
    let mut text = format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: default, namespace: {}}}\nspec:\n  egress:\n  \
         - hosts:\n    - ./*\n    - istio-system/*\n",
        namespace(index)
    );
    let others = (0..shape.services).filter(|service| home(shape, *service) == next);
    for service in others.take(OUTSIDE) {
        // A string takes whatever is written.
        let _ = writeln!(text, "    - {}/{}", namespace(next), host(shape, service));
    }
    text.push_str("---\n");
    text
}

/// The pod behind a service.
pub(crate) fn pod(shape: Shape, index: usize) -> PodState {
    let name = service(index);
    let labels = BTreeMap::from([
        ("app".to_owned(), name.clone()),
        ("version".to_owned(), "v1".to_owned()),
        ("pod-template-hash".to_owned(), format!("{index:08x}")),
        ("service.istio.io/canonical-name".to_owned(), name.clone()),
    ]);
    PodState {
        namespace: namespace(home(shape, index)),
        name: pod_name(index),
        owner: Owner {
            kind: "Deployment".to_owned(),
            name: format!("{name}-v1"),
        },
        template_hash: 0,
        labels,
        annotations: BTreeMap::new(),
        service_account: name,
        ipv4: address(index),
        ipv6: None,
        role: PodRole::Sidecar,
        ports: BTreeMap::new(),
        phase: Phase::Running,
        ready: true,
        terminating: false,
        containers: Vec::new(),
        started_at_ms: 0,
        pid: None,
        admin_port: admin_port(),
    }
}

/// The name of the pod behind a service.
pub(crate) fn pod_name(index: usize) -> String {
    format!("{}-v1-{index:08x}-abcde", service(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mesh_is_understood_without_a_remark() {
        let shape = Shape {
            services: 250,
            scoped: true,
        };
        let objects = objects(shape).unwrap();
        assert_eq!(
            objects.len(),
            250 + 2 * 25 + 3 * 3,
            "services, routes and rules, three objects to a namespace"
        );
        assert_ne!(
            parse_one(&policy_text(1, 0)).unwrap().spec,
            parse_one(&policy_text(1, 1)).unwrap().spec
        );
    }
}
