//! What is made of the kinds that say what there is: of all their objects, or of those that have changed since the last snapshot.
//!
//! Services and what lists their endpoints come and go one by one; each is made again by itself, and what is kept of the others is shared.
//! Whatever else says what there is (ServiceEntries, WorkloadEntries, Gateways, Ingresses, Secrets) is read as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_api::networking::Gateway;
use lateen_api::{Diagnostic, Kind, Resource, kube};

use crate::mesh::Mesh;
use crate::shared::Shared;

use super::derived::{self, Derived};
use super::endpoints::{Directory, slice_key};
use super::objects::Objects;
use super::ownership::Owners;
use super::reuse::Reuse;
use super::roster::{Place, Roster};
use super::{Inputs, Named, build, services};

/// What is made of the kinds that say what there is, and of nothing else.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub(super) owners: Arc<Owners>,
    pub(super) roster: Roster,
    pub(super) directory: Directory,
    pub(super) derived: Arc<Derived>,
    pub(super) gateways: Arc<Vec<Shared<Named<Gateway>>>>,
    pub(super) secrets: Arc<BTreeMap<(String, String), Shared<kube::Secret>>>,
    /// What is wrong with services.
    found: Arc<[Diagnostic]>,
}

/// A namespace and a name.
pub(super) type Key = (String, String);

impl Base {
    /// Of all objects.
    pub(super) fn new(inputs: &Inputs, mesh: &Mesh, last: Option<&Self>) -> Self {
        let owners = Owners::new(inputs);
        let (listed, found) = services::services(inputs, mesh, &owners);
        let roster = Roster::new(listed, last.map(|last| &last.roster));
        let derived = derived::derive(inputs);
        let resources = &inputs.resources;
        Self {
            directory: Directory::new(resources, &roster),
            gateways: gateways(resources, &derived),
            secrets: Arc::new(build::secrets(resources)),
            found: found.into(),
            derived: Arc::new(derived),
            roster,
            owners: Arc::new(owners),
        }
    }

    /// What the last one becomes, and the places of the services that were, are, or lead elsewhere than before. `None` if that takes a look
    /// at all objects.
    pub(super) fn after(
        reuse: &Reuse<'_>,
        inputs: &Inputs,
        mesh: &Mesh,
    ) -> Option<(Self, BTreeSet<Place>)> {
        let last = &reuse.base().base;
        let (written, slices, lists) = (
            reuse.changes(Kind::Service),
            reuse.changes(Kind::EndpointSlice),
            reuse.changes(Kind::Endpoints),
        );
        if written.is_empty() && slices.is_empty() && lists.is_empty() {
            return Some((last.clone(), BTreeSet::new()));
        }
        let mut roster = last.roster.clone();
        let mut keys: BTreeSet<Key> = BTreeSet::new();
        for change in written {
            if change.either().any(services::is_alias) {
                return None;
            }
            keys.extend(change.either().map(own_key));
            match (&change.old, &change.new) {
                (Some(old), None) => roster.remove(old.namespace(), old.name())?,
                (old, Some(new)) => {
                    let service = services::one(new, inputs, mesh, &roster)?;
                    roster.put(new, service, old.is_some())?;
                }
                (None, None) => {}
            }
        }
        let listing = slices.iter().flat_map(|change| change.either());
        keys.extend(listing.filter_map(slice_key));
        keys.extend(lists.iter().flat_map(|change| change.either()).map(own_key));
        let directory = last
            .directory
            .after(&last.roster, &roster, &keys, slices, lists);
        let places = [&last.roster, &roster]
            .into_iter()
            .flat_map(|roster| keys.iter().flat_map(|(ns, name)| roster.named(ns, name)));
        let places = places.collect();
        let mut next = Self {
            roster,
            directory,
            ..last.clone()
        };
        // An Ingress names a port of a service, whose number it leads to.
        if !last.derived.is_empty() && !written.is_empty() {
            next.derive(inputs);
        }
        Some((next, places))
    }

    fn derive(&mut self, inputs: &Inputs) {
        let derived = derived::derive(inputs);
        if derived != *self.derived {
            self.gateways = gateways(&inputs.resources, &derived);
            self.derived = Arc::new(derived);
        }
    }

    /// What is wrong with it.
    pub(super) fn findings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.found.iter().chain(&self.derived.diagnostics)
    }
}

fn own_key(resource: &Resource) -> Key {
    (resource.namespace().to_owned(), resource.name().to_owned())
}

fn gateways(resources: &Objects, derived: &Derived) -> Arc<Vec<Shared<Named<Gateway>>>> {
    let written = build::named::<Gateway>(resources).into_iter();
    let all = written.chain(derived.gateways.iter().cloned());
    let all = all.map(|aged| (aged.since, Shared::new(aged.item)));
    Arc::new(derived::in_order(all.collect(), |gateway| &gateway.object))
}
