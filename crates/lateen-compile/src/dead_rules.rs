//! Rules of AuthorizationPolicies that never decide anything, or do not decide what they seem to: for all requests, not one.
//!
//! What is told is certain as far as the objects at hand go: a rule that may decide something is passed over, so silence proves
//! nothing. Policies that only a running cluster could judge (no pod is known) are judged by their own text alone.

mod covers;
mod identities;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::security::{Action, AuthorizationPolicy, Rule};
use lateen_api::{Diagnostic, Resource, Severity};

use crate::diagnostics::{DENIED_RULE, HTTP_ON_TCP, NO_WORKLOAD, REDUNDANT_RULE, on_resource};
use crate::pod::{Pod, PodRole};
use crate::protocol::Handling;
use crate::snapshot::{Snapshot, policies_in_order, policy_applies, policy_is_dry_run};

pub(crate) use identities::Known;

/// A policy with the pods it is in force for.
pub(crate) struct Policy<'a> {
    pub(crate) resource: &'a Resource,
    pub(crate) spec: &'a AuthorizationPolicy,
    /// Those that have a proxy.
    pub(crate) pods: Vec<&'a Pod>,
    pub(crate) dry_run: bool,
}

/// Where a rule stands: its policy and its number.
#[derive(Clone, Copy)]
struct At<'a> {
    policy: &'a Policy<'a>,
    index: usize,
}

/// Every rule of a mesh that never decides anything, with the reason, in the order of policies and rules.
pub fn dead_rules(snapshot: &Snapshot, resources: &[Resource]) -> Vec<Diagnostic> {
    let policies = policies(snapshot, resources);
    let known = Known::new(snapshot, resources);
    let mut out = Vec::new();
    for policy in &policies {
        out.extend(selects_nobody(policy, &known));
        for (index, rule) in policy.spec.rules.iter().enumerate() {
            let own = text::never(policy, index, rule);
            let dead = !own.is_empty();
            out.extend(own);
            out.extend(identities::findings(snapshot, &known, policy, index, rule));
            if !dead {
                let at = At { policy, index };
                let root = &snapshot.settings().root_namespace;
                out.extend(decided_elsewhere(root, at, rule, &policies));
                out.extend(http_on_tcp(snapshot, at, rule));
            }
        }
    }
    out
}

fn policies<'a>(snapshot: &'a Snapshot, resources: &'a [Resource]) -> Vec<Policy<'a>> {
    let mut by_namespace: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for pod in snapshot.pods().filter(|pod| pod.has_proxy()) {
        by_namespace.entry(&pod.namespace).or_default().push(pod);
    }
    let root = snapshot.settings().root_namespace.as_str();
    let everywhere = || by_namespace.values().flatten().copied();
    let of = |(resource, spec): (&'a Resource, &'a AuthorizationPolicy)| {
        let applies = |pod: &&Pod| policy_applies(snapshot, resource, spec, pod);
        let own = by_namespace.get(resource.namespace());
        let pods = if resource.namespace() == root {
            everywhere().filter(applies).collect()
        } else {
            own.into_iter().flatten().copied().filter(applies).collect()
        };
        Policy {
            resource,
            spec,
            pods,
            dry_run: policy_is_dry_run(resource),
        }
    };
    policies_in_order(resources).into_iter().map(of).collect()
}

/// A finding about a part of a rule.
fn on_rule(
    code: &'static str,
    policy: &Policy<'_>,
    index: usize,
    part: &str,
    message: String,
) -> Diagnostic {
    let dot = if part.is_empty() { "" } else { "." };
    let field = format!("spec.rules[{index}]{dot}{part}");
    on_resource(code, policy.resource, &field, message)
}

/// What follows if a rule never matches.
fn effect_of_none(action: Action) -> &'static str {
    match action {
        Action::Allow => "the rule allows nothing",
        Action::Deny => "the rule denies nothing",
        Action::Audit => "the rule records nothing",
        Action::Custom => "the provider is never asked because of this rule",
    }
}

/// A selector that no workload satisfies, if there are workloads.
fn selects_nobody(policy: &Policy<'_>, known: &Known) -> Option<Diagnostic> {
    let selector = policy.spec.selector.as_ref()?;
    let here = policy.resource.namespace();
    if !policy.pods.is_empty() || !known.has_workloads_in(here) || selector.match_labels.is_empty()
    {
        return None;
    }
    let labels = selector.match_labels.iter();
    let labels: Vec<String> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let message = format!(
        "no workload of the mesh in {here} has the labels {}",
        labels.join(",")
    );
    Some(
        on_resource(
            NO_WORKLOAD,
            policy.resource,
            "spec.selector.matchLabels",
            message,
        )
        .effect("the policy is in force nowhere")
        .fix("write labels of the pods (spec.template.metadata.labels of the Deployment)"),
    )
}

/// A rule whose every request another rule decides: a DENY over an ALLOW, or one of the same action.
fn decided_elsewhere(
    root: &str,
    at: At<'_>,
    rule: &Rule,
    policies: &[Policy<'_>],
) -> Option<Diagnostic> {
    if at.policy.pods.is_empty() || at.policy.dry_run {
        return None;
    }
    let others = || {
        policies
            .iter()
            .filter(|other| !other.dry_run && may_meet(root, other, at.policy))
            .filter(|other| is_wherever(other, at.policy))
            .flat_map(|other| {
                let rules = other.spec.rules.iter().enumerate();
                rules.map(move |(index, rule)| {
                    (
                        At {
                            policy: other,
                            index,
                        },
                        rule,
                    )
                })
            })
            .filter(|(other, _)| !(other.index == at.index && is_same(other.policy, at.policy)))
    };
    let covers = |(_, other): &(At<'_>, &Rule)| covers::rule(other, rule);
    let name = |other: At<'_>| {
        let policy = other.policy.resource;
        format!(
            "rule {} of {}.{}",
            other.index,
            policy.name(),
            policy.namespace()
        )
    };
    if at.policy.spec.action == Action::Allow {
        let denying = |(other, _): &(At<'_>, &Rule)| other.policy.spec.action == Action::Deny;
        if let Some((by, _)) = others().filter(denying).find(covers) {
            let message = format!("{} denies everything that this rule allows", name(by));
            let found = on_rule(DENIED_RULE, at.policy, at.index, "", message);
            return Some(
                found
                    .effect("the rule allows nothing: DENY comes before ALLOW")
                    .fix("make the DENY rule narrower, or remove this one"),
            );
        }
    }
    if !matches!(at.policy.spec.action, Action::Allow | Action::Deny) {
        return None;
    }
    let same = |(other, _): &(At<'_>, &Rule)| other.policy.spec.action == at.policy.spec.action;
    let (by, _) = others().filter(same).filter(covers).find(|(other, own)| {
        // Of two that match the same, the first counts.
        !covers::rule(rule, own) || !is_wherever(at.policy, other.policy) || is_before(*other, at)
    })?;
    let verb = match at.policy.spec.action {
        Action::Deny => "denies",
        _ => "allows",
    };
    let message = format!("{} {verb} all that this rule does", name(by));
    let mut found = on_rule(REDUNDANT_RULE, at.policy, at.index, "", message);
    found.severity = Severity::Info;
    Some(found.effect("nothing would change without this rule"))
}

/// Whether policies may be in force for one workload, by their namespaces alone.
fn may_meet(root: &str, a: &Policy<'_>, b: &Policy<'_>) -> bool {
    let (a, b) = (a.resource.namespace(), b.resource.namespace());
    a == b || a == root || b == root
}

/// Whether a policy is in force for every pod of another.
fn is_wherever(policy: &Policy<'_>, other: &Policy<'_>) -> bool {
    // Both are in the snapshot's order, so that one way through them is enough.
    let mut own = policy.pods.iter();
    let mut has = |pod: &&Pod| own.any(|own| std::ptr::eq(*own, *pod));
    other.pods.iter().all(&mut has)
}

fn is_same(a: &Policy<'_>, b: &Policy<'_>) -> bool {
    std::ptr::eq(a.resource, b.resource)
}

fn is_before(a: At<'_>, b: At<'_>) -> bool {
    let key = |at: At<'_>| {
        let resource = at.policy.resource;
        (
            resource.namespace().to_owned(),
            resource.name().to_owned(),
            at.index,
        )
    };
    key(a) < key(b)
}

/// A rule that looks at requests, on workloads whose ports carry none.
fn http_on_tcp(snapshot: &Snapshot, at: At<'_>, rule: &Rule) -> Option<Diagnostic> {
    let field = text::http_field(rule)?;
    let wanted: BTreeSet<u32> = text::ports(rule);
    let (mut opaque, mut other) = (BTreeSet::new(), false);
    for pod in at
        .policy
        .pods
        .iter()
        .filter(|pod| pod.role == PodRole::Sidecar)
    {
        for target in snapshot.targets(&pod.ips) {
            if !wanted.is_empty() && !wanted.contains(&target.target) {
                continue;
            }
            match target.port.protocol.handling() {
                Some(Handling::Tcp) => {
                    opaque.insert(target.target);
                }
                Some(Handling::Http | Handling::Auto) => other = true,
                None => {}
            }
        }
    }
    let denies = at.policy.spec.action == Action::Deny;
    // Where some ports carry requests the rule is for those; but a denial holds for the others, too.
    if opaque.is_empty() || (other && !denies) {
        return None;
    }
    let list: Vec<String> = opaque.iter().map(ToString::to_string).collect();
    let message = format!(
        "`{}` is known of requests, and port {} carries TCP",
        text::leaf(&field),
        list.join(", ")
    );
    let effect = if denies {
        "on those ports the rule is taken without it, and denies more than it says"
    } else {
        effect_of_none(at.policy.spec.action)
    };
    Some(
        on_rule(HTTP_ON_TCP, at.policy, at.index, &field, message)
            .effect(effect)
            .fix("name the port's protocol in the Service (`name: http-…` or `appProtocol: http`), or give `ports` of their own to the rule"),
    )
}
