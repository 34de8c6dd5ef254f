//! What virtual services come to: all of them in their order, and by what they are found.
//!
//! Most changes replace what one of them says. Then its place is taken by what it says now, and nothing else is looked at.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_api::networking::VirtualService;
use lateen_api::{Diagnostic, Kind};

use crate::names::MESH_GATEWAY;
use crate::shared::Shared;

use super::base::Base;
use super::build::shared;
use super::reuse::{Reuse, by_key, is_same};
use super::virtual_services::{self, Made, VirtualServiceConfig};
use super::{Config, Inputs, client_labels, derived};

/// What virtual services come to.
#[derive(Clone)]
pub(super) struct Routes {
    pub(super) virtual_services: Arc<Vec<Shared<VirtualServiceConfig>>>,
    pub(super) made: Arc<Vec<Made>>,
    pub(super) by_gateway: Arc<BTreeMap<String, Vec<usize>>>,
    pub(super) in_mesh: Arc<Vec<usize>>,
    /// What is wrong with them.
    pub(super) found: Arc<[Diagnostic]>,
    /// Whether they are known to tell clients apart by the same labels as those of the last configuration.
    pub(super) names_labels_as_before: bool,
}

impl Routes {
    /// Of all virtual services; those whose objects are the same are taken from the last configuration, if everything else that they are made
    /// of is the same.
    pub(super) fn new(
        inputs: &Inputs,
        base: &Base,
        last: Option<&Config>,
        reuse: Option<&Reuse<'_>>,
    ) -> Self {
        let is_derived_of = |reuse: &&Reuse<'_>| {
            let last = reuse.base();
            Arc::ptr_eq(&last.base.derived, &base.derived)
        };
        let followed = reuse.filter(is_derived_of);
        if let Some(routes) = followed.and_then(|reuse| Self::replaced(inputs, base, reuse)) {
            return routes;
        }
        let known = reuse.map(|reuse| reuse.base().made.as_slice());
        let (made, found) = virtual_services::configs(inputs, &base.owners, known);
        let written = made.iter().map(|made| {
            let since = made.resource.meta.creation_timestamp.clone();
            (since, Shared::clone(&made.config))
        });
        let derived = base.derived.virtual_services.iter();
        let derived = derived.map(|aged| (aged.since.clone(), Shared::new(aged.item.clone())));
        let all = derived::in_order(written.chain(derived).collect(), |config| &config.object);
        let virtual_services = shared(last.map(|last| &last.virtual_services), all);
        let gateways = virtual_services.iter();
        Self {
            by_gateway: Arc::new(index(gateways.map(|config| config.gateways.as_slice()))),
            in_mesh: Arc::new(in_mesh(&virtual_services)),
            virtual_services,
            made: Arc::new(made),
            found: found.into(),
            names_labels_as_before: false,
        }
    }

    fn of(last: &Config) -> Self {
        Self {
            virtual_services: Arc::clone(&last.virtual_services),
            made: Arc::clone(&last.made),
            by_gateway: Arc::clone(&last.by_gateway),
            in_mesh: Arc::clone(&last.in_mesh),
            found: Arc::clone(&last.found_routes),
            names_labels_as_before: true,
        }
    }

    /// Those of the last configuration with some replaced; `None` if more has changed than what some of them say.
    fn replaced(inputs: &Inputs, base: &Base, reuse: &Reuse<'_>) -> Option<Self> {
        if inputs.resources.has_twins() {
            return None;
        }
        let last = reuse.base();
        let mut out = Self::of(last);
        for change in reuse.changes(Kind::VirtualService) {
            let (old, new) = (change.old.as_ref()?, change.new.as_ref()?);
            let written: &VirtualService = old.spec_as()?;
            let made = virtual_services::alone(inputs, &base.owners, new)?;
            let is_alike = virtual_services::stands_alone(written)
                && old.meta.creation_timestamp == new.meta.creation_timestamp;
            if !is_alike {
                return None;
            }
            let place = out
                .made
                .binary_search_by(|known| by_key(&known.resource, old))
                .ok()?;
            let known = out.made.get(place)?.clone();
            if !is_same(&known.resource, old) || known.config.gateways != made.config.gateways {
                return None;
            }
            out.replace(place, &known, made)?;
        }
        Some(out)
    }

    /// Puts something else in the place of one of them.
    fn replace(&mut self, place: usize, known: &Made, made: Made) -> Option<()> {
        if known.config == made.config {
            // It was written elsewhere, or with other labels.
            let config = Shared::clone(&known.config);
            *Arc::make_mut(&mut self.made).get_mut(place)? = Made { config, ..made };
            return Some(());
        }
        self.names_labels_as_before &=
            client_labels::are_named_alike(&known.config.spec, &made.config.spec);
        let is_known = |config: &Shared<VirtualServiceConfig>| config.is_same(&known.config);
        let at = self.virtual_services.iter().position(is_known)?;
        *Arc::make_mut(&mut self.virtual_services).get_mut(at)? = Shared::clone(&made.config);
        *Arc::make_mut(&mut self.made).get_mut(place)? = made;
        Some(())
    }
}

/// The positions of virtual services for sidecars, those of one namespace beside each other.
fn in_mesh(configs: &[Shared<VirtualServiceConfig>]) -> Vec<usize> {
    let is_for_mesh = |position: &usize| {
        let gateways = &configs[*position].gateways;
        gateways.iter().any(|gateway| gateway == MESH_GATEWAY)
    };
    let mut out: Vec<usize> = (0..configs.len()).filter(is_for_mesh).collect();
    out.sort_by_key(|position| configs[*position].object.namespace.as_str());
    out
}

/// Positions in a list, by any of the keys of each element.
fn index<'a>(keys: impl Iterator<Item = &'a [String]>) -> BTreeMap<String, Vec<usize>> {
    let mut out: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (position, keys) in keys.enumerate() {
        for key in keys {
            let list = match out.get_mut(key) {
                Some(list) => list,
                None => out.entry(key.clone()).or_default(),
            };
            if list.last() != Some(&position) {
                list.push(position);
            }
        }
    }
    out
}
