//! From the supervisor's view of a pod, or a mere plan of one, to the compiler's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use lateen_compile::{Interception, Locality, Pod, PodChange, PodRole, ProxyKind, ProxyNode};

use crate::plan::{self, Phase, PodPlan, PodState};

/// The state of every pod. Whoever makes a new list takes from the last one what has not changed, so that finding what did takes little.
pub type PodStates = Arc<[Arc<PodState>]>;

/// The pods that have an address worth knowing: all but those that ended.
pub fn compile_pods<S: AsRef<PodState>>(states: &[S]) -> Vec<Pod> {
    let states = states.iter().map(AsRef::as_ref);
    states.filter(has_address).map(compile_pod).collect()
}

fn has_address(pod: &&PodState) -> bool {
    !matches!(pod.phase, Phase::Succeeded | Phase::Failed)
}

/// A list of states that shares with the last one what both hold.
pub fn share_states(last: &[Arc<PodState>], new: Vec<PodState>) -> PodStates {
    let known: BTreeMap<_, _> = last.iter().map(|pod| (key(pod), pod)).collect();
    let share = |pod: PodState| match known.get(&key(&pod)) {
        Some(known) if ***known == pod => Arc::clone(known),
        _ => Arc::new(pod),
    };
    new.into_iter().map(share).collect()
}

/// What has changed from one list of states to another, as the compiler sees it.
pub fn pod_changes(old: &[Arc<PodState>], new: &[Arc<PodState>]) -> Vec<PodChange> {
    if std::ptr::eq(old, new) {
        return Vec::new(); // as with every change of anything else
    }
    let other = |list: &[Arc<PodState>], at: usize, pod: &Arc<PodState>| {
        list.get(at).is_none_or(|other| !Arc::ptr_eq(other, pod))
    };
    let moved = |list: &'_ [Arc<PodState>], others: &[Arc<PodState>]| {
        let pods = list.iter().enumerate();
        let pods = pods.filter(|(at, pod)| other(others, *at, pod));
        let pods = pods.map(|(_, pod)| Arc::clone(pod));
        pods.filter(|pod| has_address(&&**pod)).collect::<Vec<_>>()
    };
    let (old, new) = (moved(old, new), moved(new, old));
    let before: BTreeMap<_, _> = old.iter().map(|pod| (key(pod), pod)).collect();
    let after: BTreeMap<_, _> = new.iter().map(|pod| (key(pod), pod)).collect();
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    let gone = gone.map(|(ns, name)| PodChange::Gone((*ns).to_owned(), (*name).to_owned()));
    let changed = after
        .iter()
        .filter(|(key, pod)| before.get(*key).is_none_or(|old| old != *pod));
    gone.chain(changed.map(|(_, pod)| PodChange::Is(Arc::new(compile_pod(pod)))))
        .collect()
}

fn key(pod: &PodState) -> (&str, &str) {
    (&pod.namespace, &pod.name)
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
        workload_name: workload(&plan.labels, &plan.owner.name),
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
        workload_name: workload(&plan.labels, &plan.owner.name),
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
    let label = |name| labels.get(name);
    let label = label("topology.istio.io/locality").or_else(|| label("istio-locality"));
    label.map(|l| Locality::parse(l)).unwrap_or_default()
}

/// The workload a pod belongs to: what its label says, else what owns it.
fn workload(labels: &std::collections::BTreeMap<String, String>, owner: &str) -> String {
    let label = labels.get("service.istio.io/workload-name");
    label.map_or(owner, String::as_str).to_owned()
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
        workload_name: workload(&state.labels, &state.owner.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Owner;

    fn state(name: &str, ready: bool) -> PodState {
        PodState {
            namespace: "a".to_owned(),
            name: name.to_owned(),
            owner: Owner {
                kind: "Pod".to_owned(),
                name: name.to_owned(),
            },
            template_hash: 0,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            service_account: String::new(),
            ipv4: [10, 0, 0, 1].into(),
            ipv6: None,
            role: plan::PodRole::Plain,
            ports: BTreeMap::new(),
            phase: Phase::Running,
            ready,
            terminating: false,
            containers: Vec::new(),
            started_at_ms: 0,
            pid: None,
            admin_port: plan::admin_port(),
        }
    }

    #[test]
    fn changes_are_found_wherever_a_pod_stands_in_the_list() {
        let old = share_states(
            &[],
            vec![state("x", true), state("y", true), state("z", true)],
        );
        let ended = PodState {
            phase: Phase::Succeeded,
            ..state("z", false)
        };
        let new = vec![state("w", true), ended, state("x", false), state("y", true)];
        let new = share_states(&old, new);
        assert!(Arc::ptr_eq(&old[1], &new[3]), "y is the same");
        let is = |name, ready| PodChange::Is(Arc::new(compile_pod(&state(name, ready))));
        let gone = PodChange::Gone("a".to_owned(), "z".to_owned());
        assert_eq!(
            pod_changes(&old, &new),
            [gone, is("w", true), is("x", false)]
        );
        assert_eq!(pod_changes(&new, &new.clone()), []);
    }
}
