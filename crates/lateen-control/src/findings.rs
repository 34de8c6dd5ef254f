//! What is wrong with a set of objects as a mesh, found without running one: a snapshot is built from the pods that the
//! manifests plan, and compiled for each of their proxies.
//!
//! `lateen validate` and `lateen up` show these beside what each object's own text gives.

mod annotations;
mod expressions;
mod log_formats;
mod references;
pub(crate) mod roots;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use lateen_api::{Diagnostic, Resource, Severity, Spec};
use lateen_compile::{
    Compiler, Features, JwksStore, Settings, Snapshot, SnapshotInputs, dead_rules, ignored,
};
use lateen_sources::plan::{Plan, plan};
use lateen_sources::pods::{planned_node, planned_pod};
use lateen_sources::{defaults, mesh};

pub use references::Extent;
use references::Known;

/// `LAT0508`: a value that a switch of istiod does not take.
const SWITCH: &str = "LAT0508";

/// Everything found between objects, and everything written that nothing follows from, each once. `native` is Lateen's own
/// proxy rather than a stock Envoy.
pub fn findings(
    user: &[Resource],
    settings: &Settings,
    native: bool,
    extent: Extent,
) -> Vec<Diagnostic> {
    let resources = defaults::with_defaults(user);
    let (plan, mut found) = plan(&resources, settings.dual_stack);
    let (mesh, unclear) = mesh::in_trust_domain(&resources, &settings.trust_domain);
    found.extend(unclear);
    found.extend(switches(user));
    found.extend(roots::findings(&mesh, &resources, &JwksStore::default()));
    found.extend(annotations::findings(&mesh, &resources));
    if native {
        found.extend(log_formats::findings(&mesh, &resources));
    }
    let inputs = SnapshotInputs {
        mesh,
        pods: plan.pods.iter().map(planned_pod).collect(),
        cluster_ips: plan.cluster_ips.clone(),
        settings: settings.clone(),
        resources: resources.clone(),
        jwks: Default::default(),
    };
    let (snapshot, between) = Snapshot::new(inputs);
    found.extend(between);
    found.extend(dead_rules(&snapshot, user));
    found.extend(for_proxies(&snapshot, &plan, native));
    found.extend(ignored(user, native));
    if native {
        found.extend(expressions::findings(user));
    }
    let known = Known::new(user, &resources, &snapshot, &plan, extent);
    found.extend(references::findings(&known));
    let places = Places::new(user);
    let mut seen = HashSet::new();
    let located = found
        .into_iter()
        .map(|diagnostic| places.located(diagnostic));
    located
        .filter(|diagnostic| seen.insert(diagnostic.clone()))
        .collect()
}

/// The settings of a mesh that would be started from these objects.
pub fn settings(user: &[Resource], dual_stack: bool) -> Settings {
    let (mesh, _) = mesh::config(user);
    Settings {
        trust_domain: mesh::trust_domain(&mesh).to_owned(),
        dual_stack,
        features: features(user),
        ..Settings::default()
    }
}

/// istiod's switches as an IstioOperator sets them (`values.pilot.env`, `components.pilot.k8s.env`). Variables that are none of the
/// switches are left alone.
pub fn features(user: &[Resource]) -> Features {
    let mut features = Features::default();
    for (name, value) in mesh::pilot_environment(user) {
        features.set(&name, &value);
    }
    features
}

/// Values that istiod's switches do not take.
fn switches(user: &[Resource]) -> Vec<Diagnostic> {
    let operator = |resource: &&Resource| matches!(&*resource.spec, Spec::IstioOperator(_));
    let Some(operator) = user.iter().find(operator) else {
        return Vec::new();
    };
    let known = |name: &str| Features::VARIABLES.contains(&name);
    let wrong = mesh::pilot_environment(user).into_iter();
    let wrong = wrong.filter(|(name, value)| known(name) && !Features::default().set(name, value));
    wrong
        .map(|(name, value)| {
            let field = format!("spec.values.pilot.env.{name}");
            let message = format!("`{value}` is no value of {name}");
            Diagnostic::new(SWITCH, Severity::Warning, message)
                .on(operator.reference())
                .at(&field)
                .spanned(Some(operator.file_span(&field)))
                .effect("istiod's default is in force")
                .fix("write true or false; PILOT_JWT_ENABLE_REMOTE_JWKS also takes istiod, hybrid and envoy")
        })
        .collect()
}

/// What compiling finds. Replicas are alike: the first pod of a workload speaks for all.
fn for_proxies(snapshot: &Snapshot, plan: &Plan, native: bool) -> Vec<Diagnostic> {
    let compiler = Compiler::new();
    let mut seen = BTreeSet::new();
    plan.pods
        .iter()
        .filter(|pod| seen.insert((&pod.namespace, &pod.owner)))
        .filter_map(|pod| planned_node(pod, native))
        .flat_map(|node| compiler.compile(snapshot, &node).diagnostics)
        .collect()
}

/// Where objects stand. The compiler knows them by name.
struct Places<'a>(BTreeMap<(&'a str, &'a str, &'a str), &'a Resource>);

impl<'a> Places<'a> {
    fn new(resources: &'a [Resource]) -> Self {
        let mut places = BTreeMap::new();
        for resource in resources {
            let key = (
                resource.kind.as_str(),
                resource.namespace(),
                resource.name(),
            );
            places.entry(key).or_insert(resource);
        }
        Self(places)
    }

    fn located(&self, mut diagnostic: Diagnostic) -> Diagnostic {
        let Some(reference) = diagnostic.resource.as_mut() else {
            return diagnostic;
        };
        let key = (&*reference.kind, &*reference.namespace, &*reference.name);
        let found = self.0.get(&key).copied();
        if let Some(resource) = found {
            *reference = resource.reference();
            if diagnostic.span.is_none() {
                diagnostic.span = Some(resource.file_span(&diagnostic.field));
            }
        }
        diagnostic
    }
}

#[cfg(test)]
mod access_rules;

#[cfg(test)]
mod tests {
    use lateen_api::{SourceFile, parse_file};

    use super::*;

    fn find(yaml: &str) -> Vec<(&'static str, u32)> {
        let parsed = parse_file(&SourceFile::new("mesh.yaml", yaml), "default");
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        findings(&parsed.resources, &Settings::default(), true, Extent::Whole)
            .into_iter()
            .map(|d| (d.code, d.span.map_or(0, |span| span.line)))
            .collect()
    }

    #[test]
    fn a_trust_domain_that_changes_under_a_running_mesh_is_found() {
        let yaml = "
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
metadata: {name: mesh}
spec: {meshConfig: {trustDomain: example.org}}
";
        assert_eq!(find(yaml), [("LAT0505", 5)]);
        let parsed = parse_file(&SourceFile::new("mesh.yaml", yaml), "default");
        let own = settings(&parsed.resources, false);
        assert_eq!(findings(&parsed.resources, &own, true, Extent::Whole), []);
    }

    #[test]
    fn switches_of_istiod_are_read_from_where_istio_has_them() {
        use lateen_compile::JwksFetch;
        let yaml = "
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
metadata: {name: mesh}
spec:
  values: {pilot: {env: {PILOT_JWT_ENABLE_REMOTE_JWKS: true, SOMETHING: x}}}
  components: {pilot: {k8s: {env: [{name: ENABLE_TLS_ON_SIDECAR_INGRESS, value: 'true'}]}}}
";
        let parsed = parse_file(&SourceFile::new("mesh.yaml", yaml), "default");
        let features = settings(&parsed.resources, false).features;
        assert_eq!(features.jwks_fetch, JwksFetch::Hybrid);
        assert!(features.sidecar_ingress_tls && !features.headless_filter_chains);
    }

    #[test]
    fn a_value_that_a_switch_does_not_take_is_told_where_it_stands() {
        let yaml = "
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
metadata: {name: mesh}
spec:
  values:
    pilot:
      env:
        SOMETHING: maybe
        PILOT_JWT_ENABLE_REMOTE_JWKS: maybe
";
        assert_eq!(find(yaml), [("LAT0508", 10)]);
    }

    const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [a.example.com]
    tls:
      mode: SIMPLE
      credentialName: nowhere
";

    #[test]
    fn a_gateways_missing_secret_is_found_at_the_line_that_names_it() {
        assert_eq!(find(GATEWAY), [("LAT3005", 12)]);
    }

    #[test]
    fn what_is_there_is_no_finding() {
        assert_eq!(
            find("{apiVersion: v1, kind: Namespace, metadata: {name: a}}"),
            []
        );
    }

    #[test]
    fn one_finding_is_told_once_however_many_proxies_have_it() {
        let yaml = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: a}
spec:
  replicas: 3
  selector: {matchLabels: {app: a}}
  template:
    metadata: {labels: {app: a, sidecar.istio.io/inject: 'true'}}
    spec: {containers: [{name: a, image: a}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out}
spec:
  hosts: [out.example.com]
  resolution: DNS
  ports: [{number: 443, name: https, protocol: HTTPS}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: out}
spec:
  host: out.example.com
  trafficPolicy:
    tls: {mode: MUTUAL, credentialName: secret, sni: out.example.com}
";
        // Sidecars may not read it, and for the gateways it is not there.
        assert_eq!(find(yaml), [("LAT3008", 26), ("LAT3005", 26)]);
    }
}
