//! Which pods to start and which to end now: a pure function of what is wanted and what is there.
//!
//! Deployments roll: new pods come first, and old ones go as new ones become ready, so that there are never fewer ready
//! pods than wanted. StatefulSets keep their order. A pod that keeps its name is ended before it is started anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use lateen_sources::plan::PodPlan;

/// Namespace and name.
pub(crate) type PodKey = (String, String);

/// What there is of a pod, as far as this decision needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Existing {
    pub(crate) key: PodKey,
    /// Kind and name of the owner.
    pub(crate) owner: (String, String),
    pub(crate) template_hash: u64,
    pub(crate) ipv4: Ipv4Addr,
    pub(crate) ready: bool,
    pub(crate) terminating: bool,
    /// Ended with success; it counts as there and ready.
    pub(crate) succeeded: bool,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Actions {
    /// Indices of the wanted pods to start.
    pub(crate) start: Vec<usize>,
    /// Existing pods to end.
    pub(crate) stop: Vec<PodKey>,
}

/// Wanted and existing pods of one owner.
#[derive(Default)]
struct Group<'a> {
    kind: &'a str,
    wanted: Vec<usize>,
    existing: Vec<&'a Existing>,
}

/// Decides. Called again after every change, it leads step by step to what is wanted.
pub(crate) fn reconcile(wanted: &[PodPlan], existing: &[Existing]) -> Actions {
    let mut groups: BTreeMap<(&str, &str, &str), Group<'_>> = BTreeMap::new();
    for (at, plan) in wanted.iter().enumerate() {
        let key = (
            plan.namespace.as_str(),
            plan.owner.kind.as_str(),
            plan.owner.name.as_str(),
        );
        groups.entry(key).or_default().wanted.push(at);
    }
    for pod in existing {
        let key = (
            pod.key.0.as_str(),
            pod.owner.0.as_str(),
            pod.owner.1.as_str(),
        );
        groups.entry(key).or_default().existing.push(pod);
    }
    let mut actions = Actions::default();
    for ((_, kind, _), mut group) in groups {
        group.kind = kind;
        group.decide(wanted, &mut actions);
    }
    // Addresses follow from names; one that is still in use has to become free first.
    let used: BTreeSet<Ipv4Addr> = existing.iter().map(|pod| pod.ipv4).collect();
    actions.start.retain(|at| !used.contains(&wanted[*at].ipv4));
    actions.start.sort_unstable();
    actions
}

impl Group<'_> {
    fn decide(&self, plans: &[PodPlan], actions: &mut Actions) {
        let is_wanted = |pod: &Existing| {
            self.wanted.iter().any(|at| {
                let plan = &plans[*at];
                plan.name == pod.key.1 && plan.template_hash == pod.template_hash
            })
        };
        let obsolete: Vec<&Existing> = self
            .existing
            .iter()
            .copied()
            .filter(|pod| !is_wanted(pod))
            .collect();
        let named = |at: &usize| self.existing.iter().any(|pod| pod.key.1 == plans[*at].name);
        let missing: Vec<usize> = self
            .wanted
            .iter()
            .copied()
            .filter(|at| !named(at))
            .collect();
        if self.kind == "StatefulSet" {
            self.decide_in_order(plans, &obsolete, &missing, actions);
        } else {
            self.decide_rolling(plans, &obsolete, missing, actions);
        }
    }

    fn decide_rolling(
        &self,
        plans: &[PodPlan],
        obsolete: &[&Existing],
        missing: Vec<usize>,
        actions: &mut Actions,
    ) {
        let wanted = self.wanted.len();
        // `maxSurge: 25%`, rounded up as Kubernetes does.
        let limit = wanted + wanted.div_ceil(4);
        let alive = self.existing.iter().filter(|pod| !pod.terminating).count();
        actions
            .start
            .extend(missing.into_iter().take(limit.saturating_sub(alive)));
        let ready = |pod: &&Existing| (pod.ready && !pod.terminating) || pod.succeeded;
        let mut spare = self
            .existing
            .iter()
            .copied()
            .filter(ready)
            .count()
            .saturating_sub(wanted);
        let keeps_name = |pod: &Existing| self.wanted.iter().any(|at| plans[*at].name == pod.key.1);
        for pod in obsolete.iter().filter(|pod| !pod.terminating) {
            if !ready(pod) || keeps_name(pod) {
                actions.stop.push(pod.key.clone());
            } else if spare > 0 {
                spare -= 1;
                actions.stop.push(pod.key.clone());
            }
        }
    }

    /// One pod at a time: up from the first, down and anew from the last.
    fn decide_in_order(
        &self,
        plans: &[PodPlan],
        obsolete: &[&Existing],
        missing: &[usize],
        actions: &mut Actions,
    ) {
        if self.existing.iter().any(|pod| pod.terminating) {
            return;
        }
        if let Some(first) = missing.first() {
            let before = self.wanted.iter().take_while(|at| *at != first);
            let ready = |at: &usize| {
                let name = &plans[*at].name;
                self.existing
                    .iter()
                    .any(|pod| pod.key.1 == *name && pod.ready)
            };
            if before.copied().all(|at| ready(&at)) {
                actions.start.push(*first);
            }
            // Until all are there, only pods that are not wanted at all may go.
            let names: BTreeSet<&str> = self
                .wanted
                .iter()
                .map(|at| plans[*at].name.as_str())
                .collect();
            let surplus = obsolete
                .iter()
                .filter(|pod| !names.contains(pod.key.1.as_str()));
            actions.stop.extend(
                surplus
                    .max_by_key(|pod| ordinal(pod))
                    .map(|pod| pod.key.clone()),
            );
            return;
        }
        // The next one goes when the one renewed before it is ready.
        let is_obsolete = |pod: &Existing| obsolete.iter().any(|old| old.key == pod.key);
        let mut renewed = self.existing.iter().filter(|pod| !is_obsolete(pod));
        if !renewed.all(|pod| pod.ready) {
            return;
        }
        actions.stop.extend(
            obsolete
                .iter()
                .max_by_key(|pod| ordinal(pod))
                .map(|pod| pod.key.clone()),
        );
    }
}

fn ordinal(pod: &Existing) -> u32 {
    pod.key
        .1
        .rsplit_once('-')
        .and_then(|(_, number)| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
