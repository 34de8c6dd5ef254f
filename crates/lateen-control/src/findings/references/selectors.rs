//! Objects for some workloads of a namespace whose labels no workload has. Those of AuthorizationPolicies are found with their rules.

use lateen_api::labels::Labels;
use lateen_api::{Resource, Severity, Spec};

use super::workloads::Workload;
use super::{Found, Known, labels_text, on};

/// Istio's `NoMatchingWorkloadsFound`, which it has for AuthorizationPolicies alone.
const NO_WORKLOAD: (&str, Severity) = ("IST0127", Severity::Warning);

/// Whose labels an object asks for.
struct Selector<'a> {
    labels: &'a Labels,
    field: &'static str,
    /// Whether one in the root namespace is for all namespaces.
    spreads: bool,
}

fn selector(spec: &Spec) -> Option<Selector<'_>> {
    let of = |labels, field, spreads| {
        Some(Selector {
            labels,
            field,
            spreads,
        })
    };
    const MATCH_LABELS: &str = "spec.selector.matchLabels";
    match spec {
        Spec::Sidecar(it) => {
            let labels = &it.workload_selector.as_ref()?.labels;
            of(labels, "spec.workloadSelector.labels", false)
        }
        Spec::EnvoyFilter(it) => {
            let labels = &it.workload_selector.as_ref()?.labels;
            of(labels, "spec.workloadSelector.labels", true)
        }
        Spec::DestinationRule(it) => {
            let labels = &it.workload_selector.as_ref()?.match_labels;
            of(labels, "spec.workloadSelector.matchLabels", false)
        }
        Spec::ProxyConfig(it) => of(&it.selector.as_ref()?.match_labels, MATCH_LABELS, false),
        Spec::PeerAuthentication(it) => {
            of(&it.selector.as_ref()?.match_labels, MATCH_LABELS, false)
        }
        Spec::RequestAuthentication(it) => {
            of(&it.selector.as_ref()?.match_labels, MATCH_LABELS, true)
        }
        Spec::Telemetry(it) => of(&it.selector.as_ref()?.match_labels, MATCH_LABELS, true),
        Spec::WasmPlugin(it) => of(&it.selector.as_ref()?.match_labels, MATCH_LABELS, true),
        Spec::TrafficExtension(it) => of(&it.selector.as_ref()?.match_labels, MATCH_LABELS, true),
        _ => None,
    }
}

pub(super) fn findings(known: &Known<'_>, found: &mut Found) {
    for resource in &known.user {
        let Some(selector) = selector(&resource.spec).filter(|it| !it.labels.is_empty()) else {
            continue;
        };
        let own = resource.namespace();
        let everywhere = selector.spreads && own == known.settings.root_namespace;
        let namespace = (!everywhere).then_some(own);
        let selected: Vec<&Workload<'_>> = known.workloads.with(namespace, selector.labels);
        let place = namespace.map_or_else(String::new, |namespace| {
            format!(" in namespace `{namespace}`")
        });
        if selected.is_empty() {
            nobody(known, resource, &selector, (namespace, &place), found);
        } else if selected.iter().all(|workload| workload.is_plain()) {
            let first = selected.first().map_or("", |workload| workload.name);
            let message = format!(
                "the workloads with the labels {}{place}, such as `{first}`, have no sidecar",
                labels_text(selector.labels)
            );
            found.push(
                on(resource, NO_WORKLOAD, selector.field, message)
                    .effect(effect(resource))
                    .fix("label the namespace `istio-injection: enabled`, or the pods `sidecar.istio.io/inject: \"true\"`"),
            );
        }
    }
}

fn nobody(
    known: &Known<'_>,
    resource: &Resource,
    selector: &Selector<'_>,
    (namespace, place): (Option<&str>, &str),
    found: &mut Found,
) {
    let fix = selector.labels.iter().find_map(|(key, value)| {
        let there: Vec<&str> = known.workloads.values(namespace, key).into_iter().collect();
        let close = found.slip(value, &there)?;
        Some(format!("did you mean `{key}: {close}`?"))
    });
    // What is for all namespaces has its workloads in files of others.
    let judged = namespace.is_some_and(|own| known.workloads.are_written(own)) || fix.is_some();
    if !known.is_whole() && !judged {
        let labels = labels_text(selector.labels);
        return found
            .unchecked
            .add("workloads", format!("{labels}{}", place.replace('`', "")));
    }
    let message = format!(
        "no workload{place} has the labels {}",
        labels_text(selector.labels)
    );
    let fix = fix.unwrap_or_else(|| {
        "write labels of the pods (spec.template.metadata.labels of the Deployment)".to_owned()
    });
    found.push(
        on(resource, NO_WORKLOAD, selector.field, message)
            .effect(effect(resource))
            .fix(fix),
    );
}

fn effect(resource: &Resource) -> String {
    format!("the {} is in force nowhere", resource.kind)
}
