//! Policies that are attached to workloads, whatever they say of them: kept by namespace, found for a workload.
//!
//! What a kind of policy says is its own: [`super::policies`], [`super::request_authentication`].

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::sync::Arc;

use lateen_api::security::{AuthorizationPolicy, RequestAuthentication};
use lateen_api::{Diagnostic, KindSpec, Resource};
use lateen_envoy::SharedMap;

use crate::attachment::{Attachment, Workload};
use crate::authentication::RequestAuthConfig;
use crate::authorization::PolicyConfig;
use crate::diagnostics::{UNKNOWN_TARGET, on_resource};
use crate::pod::Pod;
use crate::shared::Shared;

use super::objects::Objects;
use super::{Snapshot, reference, sorted};

/// What of a policy says whom it is for.
pub(crate) trait Attached {
    /// Whom a policy of a namespace is for.
    fn attachment<'a>(&'a self, namespace: &'a str) -> Attachment<'a>;
}

/// The kinds of policies whose specs have `selector`, `targetRef` and `targetRefs`.
macro_rules! attached {
    ($($spec:ty),*) => {$(
        impl Attached for $spec {
            fn attachment<'a>(&'a self, namespace: &'a str) -> Attachment<'a> {
                Attachment {
                    namespace,
                    selector: self.selector.as_ref(),
                    target_ref: self.target_ref.as_ref(),
                    target_refs: &self.target_refs,
                }
            }
        }
    )*};
}

attached!(AuthorizationPolicy, RequestAuthentication);

/// A policy as it is kept: its spec, with what else of the object counts.
pub(super) trait Policy: Hash {
    /// What it says.
    type Spec: KindSpec + Attached;

    /// Of an object.
    fn of(resource: &Resource, spec: &Self::Spec) -> Self;

    /// What it says.
    fn spec(&self) -> &Self::Spec;
}

impl Policy for PolicyConfig {
    type Spec = AuthorizationPolicy;

    fn of(resource: &Resource, spec: &AuthorizationPolicy) -> Self {
        Self {
            object: reference(resource),
            spec: spec.clone(),
            dry_run: super::policies::is_dry_run(resource),
        }
    }

    fn spec(&self) -> &AuthorizationPolicy {
        &self.spec
    }
}

impl Policy for RequestAuthConfig {
    type Spec = RequestAuthentication;

    fn of(resource: &Resource, spec: &RequestAuthentication) -> Self {
        Self {
            object: reference(resource),
            spec: spec.clone(),
        }
    }

    fn spec(&self) -> &RequestAuthentication {
        &self.spec
    }
}

/// Policies of one kind by namespace, in each in order of precedence.
#[derive(Debug)]
pub(super) struct Index<P>(SharedMap<String, Arc<Vec<Shared<P>>>>);

impl<P> Clone for Index<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: Policy> Index<P> {
    /// Of all objects.
    pub(super) fn new(resources: &Objects) -> Self {
        Self(in_namespaces(resources, |_| true).collect())
    }

    /// The same where only policies of some namespaces have changed.
    pub(super) fn after(&self, resources: &Objects, changed: &BTreeSet<String>) -> Self {
        let mut next = self.0.clone();
        for namespace in changed {
            next.remove(namespace);
        }
        next.extend(in_namespaces(resources, |namespace| {
            changed.contains(namespace)
        }));
        Self(next)
    }

    /// Those for a workload: of two namespaces, in this order; of one if they are the same.
    pub(super) fn of(&self, workload: &Workload<'_>, namespaces: [&str; 2]) -> Vec<Shared<P>> {
        let [first, second] = namespaces;
        let second = (first != second).then_some(second);
        let there = [Some(first), second].into_iter().flatten();
        there
            .filter_map(|namespace| Some((namespace, self.0.get(namespace)?)))
            .flat_map(|(namespace, policies)| policies.iter().map(move |one| (namespace, one)))
            .filter(|(namespace, policy)| policy.spec().attachment(namespace).includes(workload))
            .map(|(_, policy)| policy.clone())
            .collect()
    }
}

fn in_namespaces<P: Policy>(
    resources: &Objects,
    wanted: impl Fn(&str) -> bool,
) -> impl Iterator<Item = (String, Arc<Vec<Shared<P>>>)> {
    let mut out: BTreeMap<String, Vec<_>> = BTreeMap::new();
    let policies = sorted::<P::Spec>(resources).into_iter();
    for (resource, spec) in policies.filter(|(resource, _)| wanted(resource.namespace())) {
        out.entry(resource.namespace().to_owned())
            .or_default()
            .push(Shared::new(P::of(resource, spec)));
    }
    out.into_iter()
        .map(|(namespace, list)| (namespace, Arc::new(list)))
}

/// Whether a policy is for a pod.
pub(crate) fn applies(
    snapshot: &Snapshot,
    resource: &Resource,
    spec: &impl Attached,
    pod: &Pod,
) -> bool {
    let namespace = resource.namespace();
    let here = namespace == pod.namespace || namespace == snapshot.settings().root_namespace;
    here && spec.attachment(namespace).includes(&pod.workload())
}

/// A target that nobody is.
pub(super) fn unknown_target(resource: &Resource, spec: &impl Attached) -> Option<Diagnostic> {
    let attachment = spec.attachment(resource.namespace());
    if !attachment.has_unknown_targets() {
        return None;
    }
    let field = if attachment.target_refs.is_empty() {
        "spec.targetRef"
    } else {
        "spec.targetRefs"
    };
    let message = "it is for something that only a waypoint serves, and this mesh has none";
    Some(
        on_resource(UNKNOWN_TARGET, resource, field, message.to_owned())
            .effect("the policy is not enforced for that target")
            .fix("select the workloads themselves: `spec.selector.matchLabels`"),
    )
}
