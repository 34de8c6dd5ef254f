//! From the supervisor's view of a pod, or a mere plan of one, to the compiler's.

use std::net::IpAddr;

use lateen_compile::{Interception, Locality, Pod, PodRole, ProxyKind, ProxyNode};

use crate::plan::{self, Phase, PodPlan, PodState};

/// The pods that have an address worth knowing: all but those that ended.
pub fn compile_pods(states: &[PodState]) -> Vec<Pod> {
    states
        .iter()
        .filter(|pod| !matches!(pod.phase, Phase::Succeeded | Phase::Failed))
        .map(compile_pod)
        .collect()
}

/// A planned pod as if it ran and took traffic: what `validate` and other questions about a mesh that does not run ask with.
pub fn planned_pod(plan: &PodPlan) -> Pod {
    Pod {
        namespace: plan.namespace.clone(),
        name: plan.name.clone(),
        labels: plan.labels.clone(),
        annotations: plan.annotations.clone(),
        ips: planned_ips(plan),
        service_account: plan.service_account.clone(),
        locality: locality(&plan.labels),
        ready: true,
        terminating: false,
        role: role(plan.role),
        ports: plan.named_ports(),
        network: String::new(),
        workload_name: plan.owner.name.clone(),
    }
}

/// What a planned pod's proxy will say of itself; `None` for a pod that has none. `native` is Lateen's own proxy.
pub fn planned_node(plan: &PodPlan, native: bool) -> Option<ProxyNode> {
    let (kind, kind_name) = match plan.role {
        plan::PodRole::Plain => return None,
        plan::PodRole::Sidecar => (ProxyKind::Sidecar, "sidecar"),
        plan::PodRole::Gateway => (ProxyKind::Router, "router"),
    };
    let (namespace, name) = (&plan.namespace, &plan.name);
    let dns_domain = format!("{namespace}.svc.cluster.local");
    Some(ProxyNode {
        id: format!("{kind_name}~{}~{name}.{namespace}~{dns_domain}", plan.ipv4),
        kind,
        namespace: namespace.clone(),
        name: name.clone(),
        labels: plan.labels.clone(),
        ips: planned_ips(plan),
        service_account: plan.service_account.clone(),
        cluster_id: "Kubernetes".to_owned(),
        dns_domain,
        workload_name: plan.owner.name.clone(),
        locality: locality(&plan.labels),
        dns_capture: kind == ProxyKind::Sidecar,
        interception: match plan.interception_mode().as_str() {
            "TPROXY" => Interception::Tproxy,
            "NONE" => Interception::None,
            _ => Interception::Redirect,
        },
        native,
        ..ProxyNode::default()
    })
}

fn planned_ips(plan: &PodPlan) -> Vec<IpAddr> {
    std::iter::once(IpAddr::from(plan.ipv4))
        .chain(plan.ipv6.map(IpAddr::from))
        .collect()
}

fn locality(labels: &std::collections::BTreeMap<String, String>) -> Locality {
    let label = labels.get("istio-locality");
    label.map(|l| Locality::parse(l)).unwrap_or_default()
}

fn role(role: plan::PodRole) -> PodRole {
    match role {
        plan::PodRole::Sidecar => PodRole::Sidecar,
        plan::PodRole::Plain => PodRole::Plain,
        plan::PodRole::Gateway => PodRole::Gateway,
    }
}

fn compile_pod(state: &PodState) -> Pod {
    Pod {
        namespace: state.namespace.clone(),
        name: state.name.clone(),
        labels: state.labels.clone(),
        annotations: state.annotations.clone(),
        ips: std::iter::once(IpAddr::from(state.ipv4))
            .chain(state.ipv6.map(IpAddr::from))
            .collect(),
        service_account: state.service_account.clone(),
        locality: locality(&state.labels),
        ready: state.ready && !state.terminating,
        terminating: state.terminating,
        role: role(state.role),
        ports: state.ports.clone(),
        network: String::new(),
        workload_name: state.owner.name.clone(),
    }
}
