//! What `lateen up` tells about its pods.

use std::collections::BTreeSet;
use std::time::Duration;

use lateen_sources::plan::{ContainerState, Phase, PodRole, PodState};

use super::crashes;

/// Whether every pod is ready, or done. An empty list means that the supervisor has not looked yet.
pub(crate) fn all_settled(pods: &[PodState]) -> bool {
    !pods.is_empty() && pods.iter().all(settled)
}

fn settled(pod: &PodState) -> bool {
    pod.ready || pod.terminating || matches!(pod.phase, Phase::Succeeded | Phase::Failed)
}

/// The line that says everything is ready.
pub(crate) fn ready(pods: &[PodState], took: Duration) -> String {
    let count = |role| pods.iter().filter(|p| p.role == role).count();
    let failed = pods.iter().filter(|p| p.phase == Phase::Failed).count();
    let failed = if failed == 0 {
        String::new()
    } else {
        format!(", {failed} failed")
    };
    format!(
        "ready in {:.1} s: {} pods ({} with a sidecar, {} without, {} gateways{failed})\n",
        took.as_secs_f64(),
        pods.len(),
        count(PodRole::Sidecar),
        count(PodRole::Plain),
        count(PodRole::Gateway),
    )
}

/// Whether all that is not ready waits for somebody to change something.
pub(crate) fn is_hopeless(pods: &[PodState]) -> bool {
    let is_stuck = |c: &ContainerState| !c.message.is_empty() || crashes::is_hopeless(c);
    let is_blocked = |pod: &PodState| pod.containers.iter().any(is_stuck);
    let mut late = pods.iter().filter(|pod| !settled(pod)).peekable();
    late.peek().is_some() && late.all(is_blocked)
}

/// A container by what its pod was made from: replicas have the same to say.
pub(super) fn container_of(pod: &PodState, container: &ContainerState) -> String {
    let (kind, owner) = (pod.owner.kind.to_ascii_lowercase(), &pod.owner.name);
    let (namespace, name) = (&pod.namespace, &container.name);
    format!("{namespace}/{kind}/{owner}: container {name}")
}

/// A line for each container that cannot run until somebody changes something, with what to change.
pub(crate) fn blocked(pods: &[PodState]) -> BTreeSet<String> {
    let containers = pods
        .iter()
        .filter(|pod| !pod.terminating)
        .flat_map(|pod| pod.containers.iter().map(move |c| (pod, c)));
    containers
        // While a pod is set up all its containers wait for that, and then for what they say themselves.
        .filter(|(_, c)| !c.message.is_empty() && c.status != "PodInitializing")
        .map(|(pod, c)| {
            let whose = container_of(pod, c);
            format!("{whose} cannot run ({}): {}\n", c.status, c.message)
        })
        .collect()
}

/// A line for each pod that is not ready, with the container that holds it up.
pub(crate) fn not_ready(pods: &[PodState]) -> String {
    let mut text = String::new();
    for pod in pods.iter().filter(|pod| !settled(pod)) {
        let waiting: Vec<String> = pod
            .containers
            .iter()
            .filter(|c| !c.ready)
            .map(|c| format!("{} ({})", c.name, c.status))
            .collect();
        text.push_str(&format!(
            "not ready: {}/{}: {}\n",
            pod.namespace,
            pod.name,
            waiting.join(", ")
        ));
    }
    text
}
