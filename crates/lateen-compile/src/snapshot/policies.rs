//! What is wrong with authorization policies that no policy shows by itself.

use std::collections::BTreeSet;

use lateen_api::security::{Action, AuthorizationPolicy};
use lateen_api::{Diagnostic, Resource};

use crate::diagnostics::{BAD_AUTHORIZER, SEVERAL_AUTHORIZERS, on_resource};

use super::attached::unknown_target;
use super::objects::Objects;
use super::{Snapshot, in_precedence, sorted};

/// Whether a policy's verdict is only recorded, as Go reads truth values.
pub(crate) fn is_dry_run(resource: &Resource) -> bool {
    let value = resource.meta.annotations.get("istio.io/dry-run");
    value.is_some_and(|value| matches!(value.as_str(), "true" | "TRUE" | "True" | "1" | "t" | "T"))
}

/// Every policy, in the order in which they are told of.
pub(crate) fn in_order(resources: &[Resource]) -> Vec<(&Resource, &AuthorizationPolicy)> {
    let mut policies = in_precedence(resources.iter());
    policies.sort_by_key(|(resource, _)| (resource.namespace(), resource.name()));
    policies
}

/// Targets nobody is, and authorizers that cannot be asked.
pub(super) fn findings(snapshot: &Snapshot, resources: &Objects) -> Vec<Diagnostic> {
    let policies = sorted::<AuthorizationPolicy>(resources);
    let mut out = Vec::new();
    for &(resource, spec) in &policies {
        out.extend(unknown_target(resource, spec));
        if spec.action == Action::Custom && !is_dry_run(resource) {
            out.extend(bad_authorizer(snapshot, resource, provider(spec)));
        }
    }
    out.extend(several_authorizers(snapshot, &policies));
    out
}

fn provider(spec: &AuthorizationPolicy) -> &str {
    spec.provider
        .as_ref()
        .map_or("", |provider| provider.name.as_str())
}

fn bad_authorizer(snapshot: &Snapshot, resource: &Resource, name: &str) -> Option<Diagnostic> {
    let reason = snapshot.authorizer(name).err()?;
    Some(
        on_resource(
            BAD_AUTHORIZER,
            resource,
            "spec.provider.name",
            format!("nobody can be asked: {reason}"),
        )
        .effect("every request that its rules match is denied")
        .fix(
            "declare it in MeshConfig: extensionProviders: [{name, envoyExtAuthzHttp: {service, port}}]",
        ),
    )
}

/// Policies of one namespace that may meet at a workload, or meet one of the root namespace, with different providers.
fn several_authorizers(
    snapshot: &Snapshot,
    policies: &[(&Resource, &AuthorizationPolicy)],
) -> Vec<Diagnostic> {
    let root = snapshot.settings().root_namespace.as_str();
    let custom: Vec<_> = policies
        .iter()
        .filter(|(resource, spec)| spec.action == Action::Custom && !is_dry_run(resource))
        .collect();
    let mut out = Vec::new();
    for (resource, spec) in &custom {
        let own = resource.namespace();
        let others: BTreeSet<&str> = custom
            .iter()
            .filter(|(other, _)| {
                own == root || other.namespace() == own || other.namespace() == root
            })
            .filter(|(_, other)| may_meet(spec, other))
            .map(|(_, other)| provider(other))
            .filter(|name| *name != provider(spec))
            .collect();
        if others.is_empty() {
            continue;
        }
        let others: Vec<&str> = others.into_iter().collect();
        let message = format!(
            "a workload may get this policy and one of another provider: {}",
            others.join(", ")
        );
        out.push(
            on_resource(SEVERAL_AUTHORIZERS, resource, "spec.provider.name", message)
                .effect("where they meet, no provider is asked and all that their rules match is denied")
                .fix("use one provider for a workload"),
        );
    }
    out
}

/// Whether labels can satisfy both selectors.
fn may_meet(a: &AuthorizationPolicy, b: &AuthorizationPolicy) -> bool {
    let (Some(a), Some(b)) = (&a.selector, &b.selector) else {
        return true;
    };
    a.match_labels
        .iter()
        .all(|(key, value)| b.match_labels.get(key).is_none_or(|other| other == value))
}
