//! Making a snapshot: of everything, or of what has changed since the last one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_api::networking::{DestinationRule, Sidecar};
use lateen_api::security::PeerAuthentication;
use lateen_api::{Diagnostic, Kind, KindSpec, kube};

use crate::diagnostics::{DUPLICATE_SUBSET, on_resource};
use crate::host;
use crate::mesh::Mesh;
use crate::model::Visibility;
use crate::rules::RuleIndex;
use crate::security::PeerAuthIndex;
use crate::shared::Shared;

use super::attached::{Index, Policy};
use super::base::Base;
use super::derived::Aged;
use super::history;
use super::live::{Live, PodChange};
use super::objects::{ObjectChange, Objects};
use super::reuse::Reuse;
use super::roster::{Place, adopt};
use super::routes::Routes;
use super::{
    Config, GATEWAY_SERVICE, Inputs, Named, Snapshot, client_labels, mesh_config, reference, sorted,
};

pub(super) struct Builder<'a> {
    inputs: Inputs,
    mesh: Mesh,
    last: Option<Last<'a>>,
}

/// The snapshot before, and what has changed since.
pub(super) struct Last<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) objects: Vec<ObjectChange>,
    pub(super) pods: &'a [PodChange],
}

impl<'a> Builder<'a> {
    pub(super) fn new(mut inputs: Inputs, last: Option<Last<'a>>) -> Self {
        let mesh = mesh_config::resolve(&inputs.mesh, &inputs.settings);
        if !inputs.mesh.root_namespace.is_empty() {
            inputs
                .settings
                .root_namespace
                .clone_from(&inputs.mesh.root_namespace);
        }
        Self { inputs, mesh, last }
    }

    pub(super) fn build(mut self) -> (Snapshot, Vec<Diagnostic>) {
        let (known, changed, pods_changed) = match self.last.take() {
            Some(last) => (Some(&last.snapshot.inner), last.objects, last.pods),
            None => (None, Vec::new(), &[][..]),
        };
        let last = known.map(|known| &*known.config);
        let reuse = last.and_then(|last| Reuse::of(last, &self.inputs, changed));
        let reuse = reuse.as_ref();
        let without = |kind: Kind| reuse.and_then(|reuse| reuse.without(kind));
        let (base, moved) = self.base(last, reuse);
        let routes = Routes::new(&self.inputs, &base, last, reuse);
        let (rules, found_rules) = match without(Kind::DestinationRule) {
            Some(last) => (Arc::clone(&last.rules), Arc::clone(&last.found_rules)),
            None => self.rules(last),
        };
        let mut diagnostics: Vec<Diagnostic> = base.findings().cloned().collect();
        diagnostics.extend(routes.found.iter().cloned());
        diagnostics.extend(found_rules.iter().cloned());
        let pods = std::mem::take(&mut self.inputs.pods);
        let resources = &self.inputs.resources;
        let labels = self.client_labels(last, &routes, &rules);
        let followed = moved.as_ref().and(reuse);
        let made = (&base, routes.virtual_services.as_slice());
        let history = history::of(last, followed, &self.inputs, &self.mesh, made);
        let config = Config {
            sidecars: taken(
                without(Kind::Sidecar),
                |last| &last.sidecars,
                || {
                    let sidecars = by_namespace(named::<Sidecar>(resources));
                    reused(last.map(|last| &last.sidecars), sidecars)
                },
            ),
            peer_authentication: taken(
                without(Kind::PeerAuthentication),
                |last| &last.peer_authentication,
                || {
                    let known = last.map(|last| &last.peer_authentication);
                    reused(known, self.peer_authentication())
                },
            ),
            authorization: attached(reuse, |last| &last.authorization, resources),
            request_authentication: attached(reuse, |last| &last.request_authentication, resources),
            telemetry: taken(
                without(Kind::Telemetry),
                |last| &last.telemetry,
                || Arc::new(by_namespace(named(resources))),
            ),
            client_labels: labels,
            history,
            virtual_services: routes.virtual_services,
            made: routes.made,
            found_routes: routes.found,
            by_gateway: routes.by_gateway,
            in_mesh: routes.in_mesh,
            rules,
            found_rules,
            base,
            jwks: Arc::clone(&self.inputs.jwks),
            mesh: Shared::new(self.mesh),
            written: self.inputs.mesh,
            cluster_ips: self.inputs.cluster_ips,
            settings: self.inputs.settings,
            resources: self.inputs.resources,
        };
        let live = match known {
            None => Live::new(&config, pods),
            Some(known) => {
                let moved = moved.as_ref();
                known
                    .live
                    .after(&known.config, &config, pods_changed, moved)
            }
        };
        Snapshot::with_findings(Arc::new(config), live, diagnostics)
    }

    /// What there is, and the places of services that have moved if it follows from the last configuration's.
    fn base(
        &self,
        last: Option<&Config>,
        reuse: Option<&Reuse<'_>>,
    ) -> (Base, Option<BTreeSet<Place>>) {
        let after = reuse.and_then(|reuse| Base::after(reuse, &self.inputs, &self.mesh));
        match after {
            Some((base, moved)) => (base, Some(moved)),
            None => {
                let last = last.map(|last| &last.base);
                (Base::new(&self.inputs, &self.mesh, last), None)
            }
        }
    }

    /// The labels by which clients are told apart.
    fn client_labels(
        &self,
        last: Option<&Config>,
        routes: &Routes,
        rules: &Arc<RuleIndex>,
    ) -> Arc<BTreeSet<String>> {
        let is_same = |last: &&Config| {
            (routes.names_labels_as_before
                || Arc::ptr_eq(&last.virtual_services, &routes.virtual_services))
                && Arc::ptr_eq(&last.rules, rules)
                && *last.mesh == self.mesh
        };
        let known = last.map(|last| &last.client_labels);
        match last.filter(is_same) {
            Some(last) => Arc::clone(&last.client_labels),
            None => {
                let configs = &routes.virtual_services;
                reused(
                    known,
                    client_labels::client_labels(&self.mesh, configs, rules),
                )
            }
        }
    }

    fn peer_authentication(&self) -> PeerAuthIndex {
        let policies = sorted::<PeerAuthentication>(&self.inputs.resources)
            .into_iter()
            .map(|(resource, spec)| (reference(resource), spec.clone()))
            .collect();
        PeerAuthIndex::new(&self.inputs.settings.root_namespace, policies)
    }

    fn rules(&self, last: Option<&Config>) -> (Arc<RuleIndex>, Arc<[Diagnostic]>) {
        let mut found = Vec::new();
        let default = &self.inputs.mesh.default_destination_rule_export_to;
        let rules = sorted::<DestinationRule>(&self.inputs.resources)
            .into_iter()
            .map(|(resource, spec)| {
                let namespace = resource.namespace();
                let mut spec = spec.clone();
                spec.host = host::resolve_short_name(
                    &spec.host.to_lowercase(),
                    namespace,
                    &self.inputs.settings.domain_suffix,
                );
                // A rule for some workloads of a namespace means nothing to other namespaces.
                let visibility = if spec.workload_selector.is_some() {
                    Visibility::Namespaces(BTreeSet::from([namespace.to_owned()]))
                } else {
                    Visibility::parse(&spec.export_to, namespace, default)
                };
                (reference(resource), spec, visibility)
            })
            .collect();
        let (index, duplicates) = RuleIndex::new(rules);
        for duplicate in duplicates {
            let at = self
                .inputs
                .resources
                .of_kind(DestinationRule::KIND)
                .find(|r| reference(r) == duplicate.object);
            let Some(resource) = at else { continue };
            let message = format!(
                "subset `{}` is already defined for this host by {}",
                duplicate.subset, duplicate.kept
            );
            found.push(
                on_resource(DUPLICATE_SUBSET, resource, "spec.subsets", message)
                    .effect("the subset defined first is used")
                    .fix("give it another name, or define the subsets of a host in one rule"),
            );
        }
        (reused(last.map(|last| &last.rules), index), found.into())
    }
}

/// The last value if the new one is equal, so that it is the same one.
pub(super) fn reused<T: PartialEq>(last: Option<&Arc<T>>, new: T) -> Arc<T> {
    match last {
        Some(last) if **last == new => Arc::clone(last),
        _ => Arc::new(new),
    }
}

/// The policies of one kind; of namespaces in which none has changed those of the last configuration.
fn attached<P: Policy>(
    reuse: Option<&Reuse<'_>>,
    part: impl FnOnce(&Config) -> &Index<P>,
    resources: &Objects,
) -> Index<P> {
    let Some(reuse) = reuse else {
        return Index::new(resources);
    };
    let last = part(reuse.base());
    match reuse.namespaces(P::Spec::KIND) {
        None => last.clone(),
        Some(changed) => last.after(resources, &changed),
    }
}

/// What the last configuration has, if it may be taken; else what is made.
fn taken<'a, T: 'a>(
    last: Option<&'a Config>,
    part: impl FnOnce(&'a Config) -> &'a Arc<T>,
    make: impl FnOnce() -> Arc<T>,
) -> Arc<T> {
    last.map_or_else(make, |last| Arc::clone(part(last)))
}

/// The same for lists, of which also what is equal in one that is not is taken from the last.
pub(super) fn shared<T: Eq + std::hash::Hash>(
    last: Option<&Arc<Vec<Shared<T>>>>,
    mut new: Vec<Shared<T>>,
) -> Arc<Vec<Shared<T>>> {
    let Some(last) = last else {
        return Arc::new(new);
    };
    if last.len() == new.len() && last.iter().zip(&new).all(|(a, b)| a.is_same(b)) {
        return Arc::clone(last);
    }
    adopt(last.iter(), &mut new);
    reused(Some(last), new)
}

pub(super) fn named<T: KindSpec + Clone + Eq + std::hash::Hash>(
    resources: &Objects,
) -> Vec<Aged<Named<T>>> {
    sorted::<T>(resources)
        .into_iter()
        .map(|(resource, spec)| {
            let services = resource.meta.annotations.get(GATEWAY_SERVICE);
            let item = Named {
                object: reference(resource),
                spec: spec.clone(),
                services: services
                    .map(|list| list.split(',').map(|host| host.trim().to_owned()).collect())
                    .unwrap_or_default(),
            };
            Aged {
                since: resource.meta.creation_timestamp.clone(),
                item,
            }
        })
        .collect()
}

fn by_namespace<T: std::hash::Hash>(
    list: Vec<Aged<Named<T>>>,
) -> BTreeMap<String, Vec<Shared<Named<T>>>> {
    let mut out: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for Aged { item, .. } in list {
        out.entry(item.object.namespace.clone())
            .or_default()
            .push(Shared::new(item));
    }
    out
}

/// Secrets by namespace and name.
pub(super) fn secrets(resources: &Objects) -> BTreeMap<(String, String), Shared<kube::Secret>> {
    resources
        .of_kind(Kind::Secret)
        .filter_map(|resource| {
            let secret = resource.spec_as::<kube::Secret>()?;
            let key = (resource.namespace().to_owned(), resource.name().to_owned());
            Some((key, Shared::new(secret.clone())))
        })
        .collect()
}
