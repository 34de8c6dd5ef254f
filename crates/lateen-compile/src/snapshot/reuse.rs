//! What the next snapshot takes from the last one without looking at it again.
//!
//! Objects are shared by pointer between the lists that sources hand on, so which of them have changed is told without reading them. What only
//! says how traffic is treated (routes, rules, policies) changes far more often than what there is (services, their endpoints,
//! gateways of other kinds); where nothing else has changed, all that is made of the rest is taken over, diagnostics and all.
//!
//! "The same" means the very object, to the line it was written in: diagnostics point there.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_api::{Kind, Resource};

use super::{Config, SnapshotInputs};

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

/// The last configuration, and what differs from it.
#[derive(Clone, Debug)]
pub(super) struct Reuse<'a> {
    last: &'a Config,
    /// The namespaces of what has changed, by kind.
    changed: BTreeMap<Kind, BTreeSet<String>>,
}

impl<'a> Reuse<'a> {
    /// What can be taken from the last configuration; `None` if that is nothing. The inputs' objects are in order.
    pub(super) fn of(last: &'a Config, inputs: &SnapshotInputs) -> Option<Self> {
        let same_mesh = last.written == inputs.mesh
            && last.settings == inputs.settings
            && last.cluster_ips == inputs.cluster_ips;
        let changed = changed(&last.resources, &inputs.resources);
        let only_treatment = changed.keys().all(|kind| TREATMENT.contains(kind));
        (same_mesh && only_treatment).then_some(Self { last, changed })
    }

    /// The last configuration, for what does not read kinds of treatment.
    pub(super) fn base(&self) -> &'a Config {
        self.last
    }

    /// The namespaces in which objects of a kind have changed.
    pub(super) fn namespaces(&self, kind: Kind) -> Option<&BTreeSet<String>> {
        self.changed.get(&kind)
    }

    /// The last configuration, if no object of a kind has changed.
    pub(super) fn without(&self, kind: Kind) -> Option<&'a Config> {
        (!self.changed.contains_key(&kind)).then_some(self.last)
    }
}

/// The namespaces, by kind, of objects that are not the very same in two lists, each in order.
fn changed(old: &[Resource], new: &[Resource]) -> BTreeMap<Kind, BTreeSet<String>> {
    let mut out: BTreeMap<Kind, BTreeSet<String>> = BTreeMap::new();
    let mut note = |resource: &Resource| {
        let namespaces = out.entry(resource.kind).or_default();
        namespaces.insert(resource.namespace().to_owned());
    };
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return out,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) if is_same(a, b) => Ordering::Equal,
            (Some(a), Some(b)) => {
                let order = by_key(a, b);
                if order.is_eq() {
                    note(a);
                }
                order
            }
        };
        if order.is_le()
            && let Some(resource) = old.next()
            && order.is_lt()
        {
            note(resource);
        }
        if order.is_ge()
            && let Some(resource) = new.next()
            && order.is_gt()
        {
            note(resource);
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
