//! From the kinds that own pods to the pods they would have.

use lateen_api::kube::PodSpec;
use lateen_api::meta::ObjectMeta;
use lateen_api::{Resource, Spec};

use super::Owner;

/// How the pods of a workload are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// The object's own name: a bare pod.
    Own,
    /// `NAME-HASH-SUFFIX`: a Deployment's.
    Hashed,
    /// `NAME-SUFFIX`: a ReplicaSet's, DaemonSet's or Job's.
    Suffixed,
    /// `NAME-0`, `NAME-1`, …: a StatefulSet's, from the ordinal given.
    Ordinal(u32),
}

/// A workload reduced to what planning needs.
#[derive(Debug)]
pub(crate) struct Workload<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) owner: Owner,
    pub(crate) replicas: u32,
    pub(crate) naming: Naming,
    pub(crate) metadata: &'a ObjectMeta,
    pub(crate) spec: &'a PodSpec,
    /// The restart policy that the owner's kind implies where none is written.
    pub(crate) restart_policy: &'static str,
}

/// The workload a resource is, if it is one.
pub(crate) fn workload(resource: &Resource) -> Option<Workload<'_>> {
    let meta = &resource.meta;
    let (kind, replicas, naming, template, restart_policy) = match &*resource.spec {
        Spec::Deployment(d) => (
            "Deployment",
            d.spec.replicas.unwrap_or(1),
            Naming::Hashed,
            &d.spec.template,
            "Always",
        ),
        Spec::ReplicaSet(r) => (
            "ReplicaSet",
            r.spec.replicas.unwrap_or(1),
            Naming::Suffixed,
            &r.spec.template,
            "Always",
        ),
        Spec::StatefulSet(s) => {
            let first = s.spec.ordinals.as_ref().map_or(0, |o| o.start);
            let replicas = s.spec.replicas.unwrap_or(1);
            (
                "StatefulSet",
                replicas,
                Naming::Ordinal(first),
                &s.spec.template,
                "Always",
            )
        }
        // There is one node.
        Spec::DaemonSet(d) => ("DaemonSet", 1, Naming::Suffixed, &d.spec.template, "Always"),
        Spec::Job(j) if j.spec.suspend != Some(true) => {
            let completions = j.spec.completions.or(j.spec.parallelism).unwrap_or(1);
            (
                "Job",
                completions,
                Naming::Suffixed,
                &j.spec.template,
                "Never",
            )
        }
        Spec::Pod(p) => {
            return Some(Workload {
                namespace: &meta.namespace,
                owner: Owner {
                    kind: "Pod".to_owned(),
                    name: meta.name.clone(),
                },
                replicas: 1,
                naming: Naming::Own,
                metadata: meta,
                spec: &p.spec,
                restart_policy: "Always",
            });
        }
        _ => return None,
    };
    Some(Workload {
        namespace: &meta.namespace,
        owner: Owner {
            kind: kind.to_owned(),
            name: meta.name.clone(),
        },
        replicas,
        naming,
        metadata: &template.metadata,
        spec: &template.spec,
        restart_policy,
    })
}
