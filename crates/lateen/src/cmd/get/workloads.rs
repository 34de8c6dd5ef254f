//! What kubectl's tables say of workloads: how many pods there are to be, and how many there are.

use lateen_api::meta::Kind;
use lateen_api::{Resource, Spec};
use lateen_sources::plan::{Phase, PodState};

/// The columns of a kind of workload between its name and its age; none for other kinds.
pub(super) fn columns(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Deployment => &["READY", "UP-TO-DATE", "AVAILABLE"],
        Kind::StatefulSet => &["READY"],
        Kind::DaemonSet | Kind::ReplicaSet => &["DESIRED", "CURRENT", "READY"],
        Kind::Job => &["STATUS", "COMPLETIONS"],
        Kind::CronJob => &["SCHEDULE", "TIMEZONE", "SUSPEND", "ACTIVE"],
        _ => &[],
    }
}

/// What stands in them.
pub(super) fn cells(resource: &Resource, pods: &[PodState]) -> Vec<String> {
    let kind = match &*resource.spec {
        Spec::CronJob(cron) => return cron_cells(resource, cron, pods),
        Spec::Job(job) => return job_cells(resource, job.spec.completions.unwrap_or(1), pods),
        Spec::Deployment(_) => "Deployment",
        Spec::StatefulSet(_) => "StatefulSet",
        Spec::DaemonSet(_) => "DaemonSet",
        Spec::ReplicaSet(_) => "ReplicaSet",
        _ => return Vec::new(),
    };
    let (mut current, mut ready) = (0_u32, 0_u32);
    for pod in pods.iter().filter(|pod| is_of(pod, resource, kind)) {
        current += u32::from(!pod.terminating);
        ready += u32::from(pod.ready);
    }
    let of = |wanted: Option<u32>| format!("{ready}/{}", wanted.unwrap_or(1));
    let (current, ready_now) = (current.to_string(), ready.to_string());
    match &*resource.spec {
        Spec::Deployment(d) => vec![of(d.spec.replicas), current, ready_now],
        Spec::StatefulSet(s) => vec![of(s.spec.replicas)],
        Spec::ReplicaSet(r) => {
            let wanted = r.spec.replicas.unwrap_or(1);
            vec![wanted.to_string(), current, ready_now]
        }
        // One node, so one pod.
        _ => vec!["1".to_owned(), current, ready_now],
    }
}

fn is_of(pod: &PodState, resource: &Resource, kind: &str) -> bool {
    pod.namespace == resource.meta.namespace
        && pod.owner.kind == kind
        && pod.owner.name == resource.meta.name
}

fn job_cells(resource: &Resource, wanted: u32, pods: &[PodState]) -> Vec<String> {
    let own: Vec<&PodState> = pods
        .iter()
        .filter(|pod| is_of(pod, resource, "Job"))
        .collect();
    let count = |phase| own.iter().filter(|pod| pod.phase == phase).count();
    let done = count(Phase::Succeeded);
    let status = match done >= wanted as usize {
        true => "Complete",
        false if count(Phase::Failed) > 0 => "Failed",
        false => "Running",
    };
    vec![status.to_owned(), format!("{done}/{wanted}")]
}

fn cron_cells(
    resource: &Resource,
    cron: &lateen_api::kube::CronJob,
    pods: &[PodState],
) -> Vec<String> {
    let prefix = format!("{}-", resource.meta.name);
    let active = pods.iter().filter(|pod| {
        pod.namespace == resource.meta.namespace
            && pod.owner.kind == "Job"
            && pod.owner.name.starts_with(&prefix)
            && matches!(pod.phase, Phase::Pending | Phase::Running)
    });
    let zone = match cron.spec.time_zone.as_str() {
        "" => "<none>",
        zone => zone,
    };
    vec![
        cron.spec.schedule.clone(),
        zone.to_owned(),
        if cron.spec.suspend == Some(true) {
            "True"
        } else {
            "False"
        }
        .to_owned(),
        active.count().to_string(),
    ]
}
