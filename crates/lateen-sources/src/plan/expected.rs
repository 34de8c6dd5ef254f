//! What a planned pod will look like once it is ready: for those who ask before anything runs.

use super::{Phase, PodPlan, PodState};

impl PodState {
    /// The state of a pod that runs as planned and is ready.
    pub fn expected(plan: &PodPlan) -> Self {
        Self {
            namespace: plan.namespace.clone(),
            name: plan.name.clone(),
            owner: plan.owner.clone(),
            template_hash: plan.template_hash,
            labels: plan.labels.clone(),
            annotations: plan.annotations.clone(),
            service_account: plan.service_account.clone(),
            ipv4: plan.ipv4,
            ipv6: plan.ipv6,
            role: plan.role,
            ports: plan.named_ports(),
            phase: Phase::Running,
            ready: true,
            terminating: false,
            containers: Vec::new(),
            started_at_ms: 0,
            pid: None,
            admin_port: super::admin_port(),
        }
    }
}
