//! Whether a pod gets a sidecar, and what injection adds to its labels.
//!
//! Source: Istio's injection webhooks (namespace and object selectors of the default revision) and the order of precedence
//! in "Controlling the injection policy" of Istio's sidecar documentation.

use std::collections::BTreeMap;

use super::PodRole;

const NAMESPACE_LABEL: &str = "istio-injection";
const REVISION_LABEL: &str = "istio.io/rev";
const POD_KEY: &str = "sidecar.istio.io/inject";
const TEMPLATES: &str = "inject.istio.io/templates";

/// Namespaces that the injector never touches.
const IGNORED: &[&str] = &[
    "kube-system",
    "kube-public",
    "kube-node-lease",
    "local-path-storage",
];

/// What decides: the namespace's labels and the pod template's labels and annotations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) namespace_labels: &'a BTreeMap<String, String>,
    pub(crate) labels: &'a BTreeMap<String, String>,
    pub(crate) annotations: &'a BTreeMap<String, String>,
    pub(crate) host_network: bool,
}

/// The role injection gives a pod.
pub(crate) fn role(pod: Candidate<'_>) -> PodRole {
    if !injected(pod) {
        return PodRole::Plain;
    }
    let templates = pod.annotations.get(TEMPLATES).map_or("", String::as_str);
    if templates.split(',').any(|t| t.trim() == "gateway") {
        return PodRole::Gateway;
    }
    PodRole::Sidecar
}

fn injected(pod: Candidate<'_>) -> bool {
    if pod.host_network || IGNORED.contains(&pod.namespace) {
        return false;
    }
    // The label is the current form, the annotation the old one; the label wins.
    let asked = pod
        .labels
        .get(POD_KEY)
        .or_else(|| pod.annotations.get(POD_KEY));
    let refused = asked.is_some_and(|v| is_false(v));
    match pod
        .namespace_labels
        .get(NAMESPACE_LABEL)
        .map(String::as_str)
    {
        Some("enabled") => !refused,
        Some(_) => false,
        None if pod.namespace_labels.contains_key(REVISION_LABEL) => !refused,
        // Outside labelled namespaces only the pod's own label reaches the webhook; an annotation is not selectable.
        None => {
            pod.labels.get(POD_KEY).is_some_and(|v| v == "true")
                || pod.labels.contains_key(REVISION_LABEL) && !refused
        }
    }
}

fn is_false(value: &str) -> bool {
    matches!(
        value.to_ascii_lowercase().as_str(),
        "false" | "n" | "no" | "off" | "0"
    )
}

/// Adds the labels that injection gives a pod: its canonical service, and that it takes mutual TLS.
pub(crate) fn label(labels: &mut BTreeMap<String, String>, owner: &str, role: PodRole) {
    let first = |keys: &[&str], labels: &BTreeMap<String, String>| {
        keys.iter()
            .find_map(|k| labels.get(*k))
            .filter(|v| !v.is_empty())
            .cloned()
    };
    let name = first(
        &[
            "service.istio.io/canonical-name",
            "app.kubernetes.io/name",
            "app",
        ],
        labels,
    )
    .unwrap_or_else(|| owner.to_owned());
    let revision = first(
        &[
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ],
        labels,
    )
    .unwrap_or_else(|| "latest".to_owned());
    labels.insert("service.istio.io/canonical-name".to_owned(), name);
    labels.insert("service.istio.io/canonical-revision".to_owned(), revision);
    // A gateway's ports speak what its Gateways say: mutual TLS is not to be assumed of them.
    if role == PodRole::Sidecar {
        let mode = labels.entry("security.istio.io/tlsMode".to_owned());
        mode.or_insert_with(|| "istio".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn check(
        namespace: &[(&str, &str)],
        labels: &[(&str, &str)],
        annotations: &[(&str, &str)],
    ) -> PodRole {
        role(Candidate {
            namespace: "prod",
            namespace_labels: &map(namespace),
            labels: &map(labels),
            annotations: &map(annotations),
            host_network: false,
        })
    }

    #[test]
    fn a_labelled_namespace_injects_unless_the_pod_refuses() {
        let enabled = &[("istio-injection", "enabled")];
        assert_eq!(check(enabled, &[], &[]), PodRole::Sidecar);
        assert_eq!(
            check(enabled, &[("sidecar.istio.io/inject", "false")], &[]),
            PodRole::Plain
        );
        assert_eq!(
            check(enabled, &[], &[("sidecar.istio.io/inject", "false")]),
            PodRole::Plain
        );
    }

    #[test]
    fn a_disabled_namespace_overrules_the_pod() {
        let disabled = &[("istio-injection", "disabled")];
        assert_eq!(
            check(disabled, &[("sidecar.istio.io/inject", "true")], &[]),
            PodRole::Plain
        );
    }

    #[test]
    fn an_unlabelled_namespace_injects_only_pods_whose_label_asks_for_it() {
        assert_eq!(check(&[], &[], &[]), PodRole::Plain);
        assert_eq!(
            check(&[], &[("sidecar.istio.io/inject", "true")], &[]),
            PodRole::Sidecar
        );
        assert_eq!(
            check(&[], &[], &[("sidecar.istio.io/inject", "true")]),
            PodRole::Plain
        );
    }

    #[test]
    fn a_revision_label_is_as_good_as_istio_injection() {
        assert_eq!(
            check(&[("istio.io/rev", "stable")], &[], &[]),
            PodRole::Sidecar
        );
    }

    #[test]
    fn the_gateway_template_makes_a_gateway() {
        let labels = &[("sidecar.istio.io/inject", "true")];
        let annotations = &[("inject.istio.io/templates", "gateway")];
        assert_eq!(check(&[], labels, annotations), PodRole::Gateway);
    }

    #[test]
    fn the_host_network_is_never_redirected() {
        let pod = Candidate {
            namespace: "prod",
            namespace_labels: &map(&[("istio-injection", "enabled")]),
            labels: &map(&[]),
            annotations: &map(&[]),
            host_network: true,
        };
        assert_eq!(role(pod), PodRole::Plain);
    }

    #[test]
    fn the_canonical_name_prefers_the_users_own_labels() {
        let mut labels = map(&[("app", "reviews"), ("version", "v2")]);
        label(&mut labels, "reviews-v2", PodRole::Sidecar);
        assert_eq!(labels["service.istio.io/canonical-name"], "reviews");
        assert_eq!(labels["service.istio.io/canonical-revision"], "v2");
        let mut bare = map(&[]);
        label(&mut bare, "worker", PodRole::Gateway);
        assert_eq!(bare["service.istio.io/canonical-name"], "worker");
        assert_eq!(bare["service.istio.io/canonical-revision"], "latest");
    }

    #[test]
    fn mutual_tls_is_assumed_of_sidecars_and_not_of_gateways() {
        let mode = |role| {
            let mut labels = map(&[]);
            label(&mut labels, "a", role);
            labels.remove("security.istio.io/tlsMode")
        };
        assert_eq!(mode(PodRole::Sidecar).as_deref(), Some("istio"));
        assert_eq!(mode(PodRole::Gateway), None);
    }
}
