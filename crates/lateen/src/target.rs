//! Naming a pod on the command line, as kubectl and istioctl do: `reviews-v1-7d9f…`, `reviews-v1-7d9f….shop`,
//! `deploy/reviews-v1`, `deploy/reviews-v1.shop`, with `-n NAMESPACE`.

use anyhow::{Context, Result, bail};
use lateen_api::nearest;
use lateen_sources::plan::PodState;

/// What the user named.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target<'a> {
    /// The workload's kind, or none for a pod's own name.
    kind: Option<&'static str>,
    name: &'a str,
}

/// Kinds that own pods, with kubectl's short names.
const KINDS: &[(&str, &[&str])] = &[
    (
        "Deployment",
        &["deploy", "deployment", "deployments", "deployment.apps"],
    ),
    ("StatefulSet", &["sts", "statefulset", "statefulsets"]),
    ("DaemonSet", &["ds", "daemonset", "daemonsets"]),
    ("ReplicaSet", &["rs", "replicaset", "replicasets"]),
    ("Job", &["job", "jobs"]),
];

fn parse(text: &str) -> Result<Target<'_>> {
    let Some((kind, name)) = text.split_once('/') else {
        return Ok(Target {
            kind: None,
            name: text,
        });
    };
    let lower = kind.to_ascii_lowercase();
    if matches!(lower.as_str(), "pod" | "pods" | "po") {
        return Ok(Target { kind: None, name });
    }
    match KINDS
        .iter()
        .find(|(_, names)| names.contains(&lower.as_str()))
    {
        Some((kind, _)) => Ok(Target {
            kind: Some(kind),
            name,
        }),
        None => {
            bail!("`{kind}` is no kind that owns pods; use pod/, deploy/, sts/, ds/, rs/ or job/")
        }
    }
}

/// The pod a user named. Of a workload's pods the first that is ready, as `kubectl exec deploy/…` picks one.
pub(crate) fn find<'a>(
    pods: &'a [PodState],
    text: &str,
    namespace: Option<&str>,
) -> Result<&'a PodState> {
    let target = parse(text)?;
    let (bare, dotted) = match (namespace, target.name.rsplit_once('.')) {
        (None, Some((bare, namespace))) => (bare, Some(namespace)),
        _ => (target.name, None),
    };
    let in_namespace = |pod: &PodState| {
        namespace
            .or(dotted)
            .is_none_or(|wanted| pod.namespace == wanted)
    };
    let matching = |pod: &&PodState| {
        in_namespace(pod)
            && match target.kind {
                None => pod.name == bare,
                Some(kind) => pod.owner.kind == kind && pod.owner.name == bare,
            }
    };
    let mut found: Vec<&PodState> = pods.iter().filter(matching).collect();
    found.sort_by_key(|pod| (!pod.ready, pod.terminating, pod.name.clone()));
    let Some(first) = found.first() else {
        return Err(not_found(pods, &target, bare));
    };
    if let Some(other) = found.iter().find(|pod| pod.namespace != first.namespace) {
        bail!(
            "`{text}` is in namespaces {} and {}; say which with -n NAMESPACE",
            first.namespace,
            other.namespace
        );
    }
    Ok(first)
}

fn not_found(pods: &[PodState], target: &Target<'_>, bare: &str) -> anyhow::Error {
    let known: Vec<&str> = match target.kind {
        None => pods.iter().map(|p| p.name.as_str()).collect(),
        Some(kind) => pods
            .iter()
            .filter(|p| p.owner.kind == kind)
            .map(|p| p.owner.name.as_str())
            .collect(),
    };
    let what = target.kind.unwrap_or("pod").to_lowercase();
    if known.contains(&bare) {
        return anyhow::anyhow!(
            "no {what} `{bare}` runs in that namespace; `lateen get pods -A` shows where"
        );
    }
    match nearest(bare, &known) {
        Some(near) => anyhow::anyhow!("no {what} `{bare}` is running; did you mean `{near}`?"),
        None => {
            anyhow::anyhow!("no {what} `{bare}` is running; `lateen get pods -A` lists what is")
        }
    }
}

/// The container asked for; else the first that is not the proxy, as istioctl's default-container annotation has it.
pub(crate) fn container<'a>(pod: &'a PodState, wanted: Option<&'a str>) -> Result<&'a str> {
    let names = || pod.containers.iter().map(|c| c.name.as_str());
    match wanted {
        Some(name) if names().any(|n| n == name) => Ok(name),
        Some(name) => {
            let all: Vec<&str> = names().collect();
            let near = nearest(name, &all);
            let hint = near.map_or(String::new(), |n| format!("; did you mean `{n}`?"));
            bail!(
                "{} has no container `{name}`{hint} (it has {})",
                pod.name,
                all.join(", ")
            )
        }
        None => names()
            .find(|n| *n != "istio-proxy")
            .or_else(|| names().next())
            .with_context(|| format!("{} has no containers", pod.name)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lateen_sources::plan::{Owner, Phase, PodRole};

    use super::*;

    fn pod(namespace: &str, owner: &str, name: &str, ready: bool) -> PodState {
        PodState {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            owner: Owner {
                kind: "Deployment".to_owned(),
                name: owner.to_owned(),
            },
            template_hash: 0,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            service_account: "default".to_owned(),
            ipv4: [10, 244, 1, 1].into(),
            ipv6: None,
            role: PodRole::Sidecar,
            ports: BTreeMap::new(),
            phase: Phase::Running,
            ready,
            terminating: false,
            containers: vec![],
            started_at_ms: 0,
            pid: None,
            admin_port: 15000,
        }
    }

    #[test]
    fn a_deployment_stands_for_its_first_ready_pod() {
        let pods = [
            pod("shop", "web", "web-1", false),
            pod("shop", "web", "web-2", true),
        ];
        assert_eq!(
            find(&pods, "deploy/web", None).expect("found").name,
            "web-2"
        );
        assert_eq!(
            find(&pods, "deployment/web.shop", None)
                .expect("found")
                .name,
            "web-2"
        );
        assert_eq!(
            find(&pods, "web-1", Some("shop")).expect("found").name,
            "web-1"
        );
    }

    #[test]
    fn a_name_in_two_namespaces_must_be_told_apart() {
        let pods = [
            pod("a", "web", "web-1", true),
            pod("b", "web", "web-2", true),
        ];
        assert!(
            find(&pods, "deploy/web", None)
                .expect_err("ambiguous")
                .to_string()
                .contains("-n")
        );
        assert_eq!(
            find(&pods, "deploy/web", Some("b")).expect("found").name,
            "web-2"
        );
    }

    #[test]
    fn a_misspelt_name_is_answered_with_the_nearest() {
        let pods = [pod("shop", "reviews-v1", "reviews-v1-x", true)];
        let error = find(&pods, "deploy/review-v1", None)
            .expect_err("unknown")
            .to_string();
        assert!(error.contains("did you mean `reviews-v1`"), "{error}");
        assert!(find(&pods, "cake/x", None).is_err());
    }
}
