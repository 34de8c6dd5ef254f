//! What the next snapshot takes from the last one without looking at it again.
//!
//! Objects are shared by pointer between the lists that sources hand on, so which of them have changed is told without reading them. What only
//! says how traffic is treated (routes, rules, policies) changes far more often than what there is; where nothing else has changed, all
//! that is made of the rest is taken over, diagnostics and all. Services and lists of their endpoints are made again one by one
//! ([`super::base`]).
//!
//! "The same" means the very object, to the line it was written in: diagnostics point there.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_api::{Kind, Resource};

use super::objects::ObjectChange;
use super::{Config, Inputs};

/// Kinds that neither services, nor what is behind them, nor what other kinds are turned into are made of.
const TREATMENT: &[Kind] = &[
    Kind::AuthorizationPolicy,
    Kind::DestinationRule,
    Kind::Namespace,
    Kind::PeerAuthentication,
    Kind::RequestAuthentication,
    Kind::Sidecar,
    Kind::Telemetry,
    Kind::VirtualService,
];

/// Kinds of which each object can be made again by itself.
const ONE_BY_ONE: &[Kind] = &[Kind::Service, Kind::EndpointSlice, Kind::Endpoints];

/// The last configuration, and what differs from it.
#[derive(Clone, Debug)]
pub(super) struct Reuse<'a> {
    last: &'a Config,
    changed: BTreeMap<Kind, Vec<ObjectChange>>,
}

impl<'a> Reuse<'a> {
    /// What can be taken from the last configuration, from which the inputs' objects differ in what is said; `None` if that is nothing.
    pub(super) fn of(
        last: &'a Config,
        inputs: &Inputs,
        objects: Vec<ObjectChange>,
    ) -> Option<Self> {
        if last.written != inputs.mesh || last.settings != inputs.settings {
            return None;
        }
        let mut changed: BTreeMap<Kind, Vec<ObjectChange>> = BTreeMap::new();
        for change in objects {
            let kind = change.either().next().map(|resource| resource.kind);
            if let Some(kind) = kind {
                changed.entry(kind).or_default().push(change);
            }
        }
        let known = |kind: &Kind| TREATMENT.contains(kind) || ONE_BY_ONE.contains(kind);
        if !changed.keys().all(known) {
            return None;
        }
        let readdressed = readdressed(last, inputs, changed.get(&Kind::Service));
        if !readdressed.is_empty() {
            changed
                .entry(Kind::Service)
                .or_default()
                .extend(readdressed);
        }
        Some(Self { last, changed })
    }

    /// The last configuration, for what does not read kinds of treatment.
    pub(super) fn base(&self) -> &'a Config {
        self.last
    }

    /// The objects of a kind that have changed.
    pub(super) fn changes(&self, kind: Kind) -> &[ObjectChange] {
        self.changed.get(&kind).map_or(&[], Vec::as_slice)
    }

    /// The kinds of which objects have changed, with those.
    pub(super) fn kinds(&self) -> impl Iterator<Item = (Kind, &[ObjectChange])> {
        let kinds = self.changed.iter();
        kinds.map(|(kind, changes)| (*kind, changes.as_slice()))
    }

    /// The namespaces in which objects of a kind have changed, if any have.
    pub(super) fn namespaces(&self, kind: Kind) -> Option<BTreeSet<String>> {
        let changes = self.changed.get(&kind)?.iter();
        let resources = changes.flat_map(ObjectChange::either);
        let namespaces = resources.map(|resource| resource.namespace().to_owned());
        Some(namespaces.collect())
    }

    /// The last configuration, if no object of a kind has changed.
    pub(super) fn without(&self, kind: Kind) -> Option<&'a Config> {
        (!self.changed.contains_key(&kind)).then_some(self.last)
    }
}

/// The objects that are not the very same in two lists, each in order.
pub(super) fn changed(old: &[&Resource], new: &[Resource]) -> Vec<ObjectChange> {
    let mut out = Vec::new();
    let (mut old, mut new) = (old.iter().copied().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return out,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) if is_same(a, b) => {
                old.next();
                new.next();
                continue;
            }
            (Some(a), Some(b)) => by_key(a, b),
        };
        out.push(ObjectChange {
            old: old.next_if(|_| order.is_le()).cloned(),
            new: new.next_if(|_| order.is_ge()).cloned(),
        });
    }
}

/// Services that are the very same but for the addresses they were given.
fn readdressed(
    last: &Config,
    inputs: &Inputs,
    known: Option<&Vec<ObjectChange>>,
) -> Vec<ObjectChange> {
    let (old, new) = (&*last.cluster_ips, &*inputs.cluster_ips);
    if Arc::ptr_eq(&last.cluster_ips, &inputs.cluster_ips) {
        return Vec::new();
    }
    let moved = differing(old, new);
    let is_known = |(namespace, name): &(String, String)| {
        let mut known = known.into_iter().flatten().flat_map(ObjectChange::either);
        known.any(|resource| resource.namespace() == namespace && resource.name() == name)
    };
    let keys = moved.into_iter().filter(|key| !is_known(key));
    keys.filter_map(|(namespace, name)| {
        let resource = inputs.resources.get(Kind::Service, namespace, name)?;
        Some(ObjectChange {
            old: Some(resource.clone()),
            new: Some(resource.clone()),
        })
    })
    .collect()
}

/// The keys that two maps do not agree on.
fn differing<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> Vec<&'a K> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    let mut out = Vec::new();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return out,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let before = old.next_if(|_| order.is_le());
        let after = new.next_if(|_| order.is_ge());
        if before.map(|(_, value)| value) != after.map(|(_, value)| value) {
            out.extend(before.or(after).map(|(key, _)| key));
        }
    }
}

/// Whether two are the very same object.
pub(super) fn is_same(a: &Resource, b: &Resource) -> bool {
    a.kind == b.kind
        && Arc::ptr_eq(&a.spec, &b.spec)
        && Arc::ptr_eq(&a.origin, &b.origin)
        && (Arc::ptr_eq(&a.meta, &b.meta) || a.meta == b.meta)
}

/// The order in which a snapshot keeps its objects, but for objects that should not be twice.
pub(super) fn by_key(a: &Resource, b: &Resource) -> Ordering {
    (a.kind, a.namespace(), a.name()).cmp(&(b.kind, b.namespace(), b.name()))
}
