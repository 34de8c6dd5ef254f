//! Namespaces whose pods get no sidecar though something in them asks for one, and namespaces that ask twice.
//!
//! Files of a mesh may well hold workloads outside it. So this speaks only of namespaces that hold objects of Istio, and only where no pod has a
//! proxy and nobody said that this is meant.

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::{Kind, Resource, Severity};

use super::{Found, Known, on};

/// Istio's `NamespaceNotInjected`.
const NOT_INJECTED: (&str, Severity) = ("IST0102", Severity::Info);
/// Istio's `NamespaceMultipleInjectionLabels`.
const SEVERAL_LABELS: (&str, Severity) = ("IST0123", Severity::Warning);

const INJECTION: &str = "istio-injection";
const REVISION: &str = "istio.io/rev";

pub(super) fn findings(known: &Known<'_>, found: &mut Found) {
    let mut proxied: BTreeSet<&str> = BTreeSet::new();
    let mut plain: BTreeMap<&str, &str> = BTreeMap::new();
    for workload in known.workloads.all() {
        if workload.is_plain() {
            plain.entry(workload.namespace).or_insert(workload.name);
        } else {
            proxied.insert(workload.namespace);
        }
    }
    for resource in known
        .user
        .iter()
        .filter(|resource| resource.kind == Kind::Namespace)
    {
        let labels = &resource.meta.labels;
        let injection = labels.get(INJECTION).map(String::as_str);
        if let (Some("enabled"), Some(revision)) = (injection, labels.get(REVISION)) {
            let message = format!("the namespace has both `{INJECTION}` and `{REVISION}`");
            found.push(
                on(resource, SEVERAL_LABELS, "metadata.labels", message)
                    .effect(format!(
                        "`{INJECTION}` decides; `{REVISION}: {revision}` is passed over"
                    ))
                    .fix("keep one of them"),
            );
        }
    }
    not_injected(known, &proxied, &plain, found);
}

fn not_injected(
    known: &Known<'_>,
    proxied: &BTreeSet<&str>,
    plain: &BTreeMap<&str, &str>,
    found: &mut Found,
) {
    let mut told: BTreeSet<&str> = BTreeSet::new();
    for resource in known
        .user
        .iter()
        .filter(|resource| asks_for_proxies(resource))
    {
        let namespace = resource.namespace();
        let Some(workload) = plain
            .get(namespace)
            .filter(|_| !proxied.contains(namespace))
        else {
            continue;
        };
        let declared = known.object(Kind::Namespace, "", namespace);
        let decided = |namespace: &Resource| {
            [INJECTION, REVISION]
                .iter()
                .any(|label| namespace.meta.labels.contains_key(*label))
        };
        if declared.is_some_and(decided) || !told.insert(namespace) {
            continue;
        }
        let message = format!(
            "{} `{}` is in namespace `{namespace}`, where no pod (such as those of `{workload}`) has a sidecar",
            resource.kind,
            resource.name()
        );
        let label =
            format!("metadata: {{name: {namespace}, labels: {{istio-injection: enabled}}}}");
        found.push(
            on(resource, NOT_INJECTED, "metadata.name", message)
                .effect("nothing in that namespace enforces or follows it")
                .fix(format!("label the namespace ({label}); `istio-injection: disabled` says that no sidecars are meant")),
        );
    }
}

/// Whether an object is for the proxies of its own namespace.
fn asks_for_proxies(resource: &Resource) -> bool {
    matches!(
        resource.kind,
        Kind::AuthorizationPolicy
            | Kind::PeerAuthentication
            | Kind::RequestAuthentication
            | Kind::Sidecar
    )
}
