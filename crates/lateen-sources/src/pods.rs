//! From the supervisor's view of a pod to the compiler's.

use std::net::IpAddr;

use lateen_compile::{Locality, Pod, PodRole};

use crate::plan::{self, Phase, PodState};

/// The pods that have an address worth knowing: all but those that ended.
pub fn compile_pods(states: &[PodState]) -> Vec<Pod> {
    states
        .iter()
        .filter(|pod| !matches!(pod.phase, Phase::Succeeded | Phase::Failed))
        .map(compile_pod)
        .collect()
}

fn compile_pod(state: &PodState) -> Pod {
    let locality = state
        .labels
        .get("istio-locality")
        .map(|l| Locality::parse(l))
        .unwrap_or_default();
    Pod {
        namespace: state.namespace.clone(),
        name: state.name.clone(),
        labels: state.labels.clone(),
        annotations: state.annotations.clone(),
        ips: std::iter::once(IpAddr::from(state.ipv4))
            .chain(state.ipv6.map(IpAddr::from))
            .collect(),
        service_account: state.service_account.clone(),
        locality,
        ready: state.ready && !state.terminating,
        terminating: state.terminating,
        role: match state.role {
            plan::PodRole::Sidecar => PodRole::Sidecar,
            plan::PodRole::Plain => PodRole::Plain,
            plan::PodRole::Gateway => PodRole::Gateway,
        },
        ports: state.ports.clone(),
        network: String::new(),
        workload_name: state.owner.name.clone(),
    }
}
