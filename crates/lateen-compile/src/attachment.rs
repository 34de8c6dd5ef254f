//! Which workloads a policy is for: by selector, or by the Gateway it names (`targetRef`, `targetRefs`).
//!
//! Source: Istio, `model/policyattachment.go`. Targets that are for waypoints (Service, ServiceEntry, GatewayClass) are
//! nobody's here.

use std::collections::BTreeMap;

use lateen_api::selector::{PolicyTargetReference, WorkloadSelector};

use crate::labels;
use crate::pod::Pod;

/// The label of a pod that is an instance of a Gateway API Gateway: the Gateway's name.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// The workload that policies are looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) labels: &'a BTreeMap<String, String>,
}

impl Pod {
    /// The pod as policies are looked for.
    pub(crate) fn workload(&self) -> Workload<'_> {
        Workload {
            namespace: &self.namespace,
            labels: &self.labels,
        }
    }
}

/// What a policy says of the workloads it is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attachment<'a> {
    /// The policy's own namespace.
    pub(crate) namespace: &'a str,
    pub(crate) selector: Option<&'a WorkloadSelector>,
    pub(crate) target_ref: Option<&'a PolicyTargetReference>,
    pub(crate) target_refs: &'a [PolicyTargetReference],
}

impl Attachment<'_> {
    /// Whether the policy is for a workload. Its namespace, or the root namespace, is the caller's concern.
    pub(crate) fn includes(&self, workload: &Workload<'_>) -> bool {
        if self.targets().next().is_none() {
            return self
                .selector
                .is_none_or(|selector| labels::is_subset(&selector.match_labels, workload.labels));
        }
        let Some(gateway) = workload.labels.get(GATEWAY_NAME) else {
            return false;
        };
        let here = self.namespace == workload.namespace;
        self.targets().any(|target| {
            here && is_gateway(target)
                && target.name == *gateway
                && (target.namespace.is_empty() || target.namespace == workload.namespace)
        })
    }

    /// Whether any workload of this mesh could be meant: a target of another kind than Gateway is not.
    pub(crate) fn has_unknown_targets(&self) -> bool {
        self.targets().any(|target| !is_gateway(target))
    }

    fn targets(&self) -> impl Iterator<Item = &PolicyTargetReference> {
        let single = self.target_ref.filter(|_| self.target_refs.is_empty());
        self.target_refs.iter().chain(single)
    }
}

fn is_gateway(target: &PolicyTargetReference) -> bool {
    target.group == GATEWAY_GROUP && target.kind == "Gateway"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(kind: &str, name: &str) -> PolicyTargetReference {
        PolicyTargetReference {
            group: GATEWAY_GROUP.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            ..Default::default()
        }
    }

    fn includes(targets: &[PolicyTargetReference], namespace: &str, gateway: Option<&str>) -> bool {
        let labels: BTreeMap<String, String> = gateway
            .map(|name| (GATEWAY_NAME.to_owned(), name.to_owned()))
            .into_iter()
            .collect();
        let attachment = Attachment {
            namespace: "edge",
            selector: None,
            target_ref: None,
            target_refs: targets,
        };
        attachment.includes(&Workload {
            namespace,
            labels: &labels,
        })
    }

    #[test]
    fn a_target_means_the_pods_of_that_gateway_alone() {
        let targets = [target("Gateway", "public")];
        assert!(includes(&targets, "edge", Some("public")));
        assert!(!includes(&targets, "edge", Some("private")));
        assert!(!includes(&targets, "other", Some("public")));
        assert!(!includes(&targets, "edge", None));
        assert!(!includes(
            &[target("Service", "public")],
            "edge",
            Some("public")
        ));
        assert!(
            includes(&[], "edge", None),
            "no target and no selector: everybody"
        );
    }
}
