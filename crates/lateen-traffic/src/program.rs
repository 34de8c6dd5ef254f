//! The program: everything a proxy was told, compiled, in one immutable value that is swapped whole.
//!
//! An update compiles what changed and shares the rest. A resource that cannot be compiled is refused, with a sentence for the
//! NACK, and its last good version stays.

mod dispatch;
mod names;
mod parts;
mod seen;
mod stored;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use lateen_envoy::{Resource, TypeUrl};

pub use dispatch::{DispatchReason, Dispatched};
pub use names::ByName;
pub use parts::{CompiledPart, Part};
pub use seen::Seen;
pub use stored::{Compile, Stored, StoredCluster};

use crate::cluster::Discovery;
use crate::filter::NetworkFilterKind;
use crate::from_xds::{self, XdsError};
use crate::hcm::RouteSource;
use crate::{Cluster, EndpointSet, Listener, RouteConfig, Secret};

/// Everything a proxy was told. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Program {
    listeners: Arc<ByName<Listener>>,
    routes: Arc<ByName<RouteConfig>>,
    clusters: Arc<ByName<StoredCluster>>,
    /// Those of them whose hosts are names.
    dns_clusters: Arc<BTreeSet<Arc<str>>>,
    endpoints: Arc<ByName<Stored<EndpointSet>>>,
    secrets: Arc<ByName<Secret>>,
    dispatch: Arc<dispatch::DispatchIndex>,
    /// The secrets of some cluster, for others that refer to the same.
    some_secrets: Option<Arc<[Arc<str>]>>,
}

/// One resource that changed.
#[derive(Clone, Debug)]
pub enum Change {
    /// It is new, or its content is.
    Upsert(TypeUrl, Resource),
    /// It is gone.
    Remove(TypeUrl, Arc<str>),
}

/// What a change comes to by itself, or why it is refused. Small, since tens of thousands of them are handed on.
#[derive(Debug)]
pub struct Compiled(Result<Made, Box<XdsError>>);

#[derive(Debug)]
enum Made {
    Listener(Arc<Listener>),
    Routes(Arc<RouteConfig>),
    Cluster(Arc<StoredCluster>),
    Endpoints(Arc<Stored<EndpointSet>>),
    Secret(Arc<Secret>),
    /// None is part of a decision: the agent has name table and roots, and filters by ECDS are refused.
    Nothing,
}

impl Compiled {
    const fn nothing() -> Self {
        Self(Ok(Made::Nothing))
    }
}

/// A resource that was refused. Its last good version, if there is one, stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Its type.
    pub type_url: TypeUrl,
    /// Its name.
    pub name: Arc<str>,
    /// Why, in a sentence with the field's path; for the NACK.
    pub reason: String,
}

impl Program {
    /// A program without anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// The program after some changes, and what was refused. Removals come first, so that an address may move from one
    /// listener to another in one update.
    pub fn update(&self, changes: &[Change]) -> (Self, Vec<Rejection>) {
        let compiled = self.compile(changes, &mut Seen::default());
        self.update_of(changes, compiled.into_iter())
    }

    /// [`Program::update`] with what the [parts](Part::all) of the same changes come to, in their order: nearly all the work of an update, which
    /// several can share who take a part each.
    pub fn update_with(
        &self,
        changes: &[Change],
        parts: Vec<CompiledPart>,
    ) -> (Self, Vec<Rejection>) {
        self.update_of(changes, parts.into_iter().flatten())
    }

    /// What changes come to, each by itself.
    fn compile(&self, changes: &[Change], seen: &mut Seen) -> Vec<Compiled> {
        seen.expect(self.some_secrets.as_ref());
        let made = changes.iter().map(|change| match change {
            Change::Upsert(ty, resource) => self.compile_one(*ty, resource, seen),
            Change::Remove(..) => Compiled::nothing(),
        });
        made.collect()
    }

    fn update_of(
        &self,
        changes: &[Change],
        compiled: impl Iterator<Item = Compiled>,
    ) -> (Self, Vec<Rejection>) {
        let mut next = self.clone();
        let mut rejections = Vec::new();
        for change in changes {
            if let Change::Remove(type_url, name) = change {
                next.remove(*type_url, name);
            }
        }
        next.expect(changes);
        for (change, compiled) in changes.iter().zip(compiled) {
            let Change::Upsert(type_url, resource) = change else {
                continue;
            };
            if let Err(error) = next.upsert(resource, compiled) {
                let (type_url, name) = (*type_url, resource.name.clone());
                rejections.push(Rejection {
                    type_url,
                    name,
                    reason: error.to_string(),
                });
            }
        }
        (next, rejections)
    }

    /// Makes room for what there may be ten thousand of.
    fn expect(&mut self, changes: &[Change]) {
        let more = |wanted: TypeUrl| {
            let is_one =
                |change: &&Change| matches!(change, Change::Upsert(ty, _) if *ty == wanted);
            changes.iter().filter(is_one).count()
        };
        let (clusters, endpoints) = (more(TypeUrl::Cluster), more(TypeUrl::ClusterLoadAssignment));
        if clusters > 0 {
            Arc::make_mut(&mut self.clusters).expect(clusters);
        }
        if endpoints > 0 {
            Arc::make_mut(&mut self.endpoints).expect(endpoints);
        }
    }

    fn remove(&mut self, type_url: TypeUrl, name: &str) {
        match type_url {
            TypeUrl::Listener => self.remove_listener(name),
            TypeUrl::RouteConfiguration => Arc::make_mut(&mut self.routes).remove(name),
            TypeUrl::Cluster => self.remove_cluster(name),
            TypeUrl::ClusterLoadAssignment => Arc::make_mut(&mut self.endpoints).remove(name),
            TypeUrl::Secret => Arc::make_mut(&mut self.secrets).remove(name),
            // None is part of a decision: the agent has name table and roots, and filters by ECDS are refused.
            TypeUrl::NameTable | TypeUrl::ProxyConfig | TypeUrl::TypedExtensionConfig => {}
        }
    }

    fn compile_one(&self, type_url: TypeUrl, resource: &Resource, seen: &mut Seen) -> Compiled {
        let (name, body) = (&resource.name, &resource.body);
        let made = match type_url {
            TypeUrl::Listener => {
                from_xds::listener(body, name).map(|made| Made::Listener(made.into()))
            }
            TypeUrl::RouteConfiguration => from_xds::shared_route_config(body, &mut seen.hosts)
                .map(|made| Made::Routes(made.into())),
            TypeUrl::Cluster => {
                let in_use = self.clusters.get(name).is_some_and(|old| old.is_used());
                let cluster = seen.cluster(name, body, in_use);
                cluster.map(|cluster| Made::Cluster(cluster.into()))
            }
            TypeUrl::ClusterLoadAssignment => {
                let in_use = self.endpoints.get(name).is_some_and(|old| old.is_used());
                let endpoints = seen.endpoints(body, in_use);
                endpoints.map(|endpoints| Made::Endpoints(endpoints.into()))
            }
            TypeUrl::Secret => from_xds::secret(body).map(|made| Made::Secret(made.into())),
            TypeUrl::NameTable | TypeUrl::ProxyConfig | TypeUrl::TypedExtensionConfig => {
                Ok(Made::Nothing)
            }
        };
        Compiled(made.map_err(Box::new))
    }

    fn upsert(&mut self, resource: &Resource, compiled: Compiled) -> Result<(), XdsError> {
        let name = resource.name.clone();
        match compiled.0.map_err(|error| *error)? {
            Made::Listener(listener) => self.insert_listener(name, listener)?,
            Made::Routes(routes) => Arc::make_mut(&mut self.routes).insert(name, routes),
            Made::Cluster(cluster) => self.insert_cluster(name, cluster),
            Made::Endpoints(endpoints) => {
                Arc::make_mut(&mut self.endpoints).insert(name, endpoints)
            }
            Made::Secret(secret) => Arc::make_mut(&mut self.secrets).insert(name, secret),
            Made::Nothing => {}
        }
        Ok(())
    }

    fn remove_cluster(&mut self, name: &str) {
        Arc::make_mut(&mut self.clusters).remove(name);
        if self.dns_clusters.contains(name) {
            Arc::make_mut(&mut self.dns_clusters).remove(name);
        }
    }

    fn insert_cluster(&mut self, name: Arc<str>, cluster: Arc<StoredCluster>) {
        if !cluster.facts.secrets.is_empty() {
            self.some_secrets = Some(Arc::clone(&cluster.facts.secrets));
        }
        match (cluster.facts.is_dns, self.dns_clusters.contains(&name)) {
            (true, false) => drop(Arc::make_mut(&mut self.dns_clusters).insert(name.clone())),
            (false, true) => drop(Arc::make_mut(&mut self.dns_clusters).remove(&name)),
            _ => {}
        }
        Arc::make_mut(&mut self.clusters).insert(name, cluster);
    }

    fn remove_listener(&mut self, name: &str) {
        if let Some(old) = self.listeners.get(name) {
            Arc::make_mut(&mut self.dispatch).remove(old);
            Arc::make_mut(&mut self.listeners).remove(name);
        }
    }

    fn insert_listener(&mut self, name: Arc<str>, listener: Arc<Listener>) -> Result<(), XdsError> {
        if let Some((address, owner)) = self.dispatch.conflict(&listener) {
            let reason = format!("address {address} is already that of listener {owner:?}");
            return Err(XdsError::new(reason).within("address"));
        }
        self.remove_listener(&name);
        Arc::make_mut(&mut self.dispatch).insert(&listener);
        Arc::make_mut(&mut self.listeners).insert(name, listener);
        Ok(())
    }

    /// The names of resources of a type that the program refers to: what an xDS client subscribes to. In no order that means anything, and
    /// some of them more than once; none for the types that are subscribed to with a wildcard.
    pub fn references(&self, type_url: TypeUrl) -> Vec<&Arc<str>> {
        match type_url {
            TypeUrl::ClusterLoadAssignment => {
                let clusters = self.clusters.values();
                clusters
                    .filter_map(|cluster| cluster.service_name.as_ref())
                    .collect()
            }
            TypeUrl::RouteConfiguration => self.rds_names().collect(),
            TypeUrl::Secret => self.sds_names(),
            TypeUrl::Cluster
            | TypeUrl::Listener
            | TypeUrl::TypedExtensionConfig
            | TypeUrl::NameTable
            | TypeUrl::ProxyConfig => Vec::new(),
        }
    }

    fn rds_names(&self) -> impl Iterator<Item = &Arc<str>> {
        let listeners = self.listeners.values();
        let chains = listeners.flat_map(|listener| listener.all_chains());
        let filters = chains.flat_map(|chain| &chain.filters);
        filters.filter_map(|filter| match &filter.kind {
            NetworkFilterKind::Http(manager) => match &manager.routes {
                RouteSource::Rds(name) => Some(name),
                RouteSource::Inline(_) => None,
            },
            _ => None,
        })
    }

    fn sds_names(&self) -> Vec<&Arc<str>> {
        let listeners = self.listeners.values();
        let chains = listeners.flat_map(|listener| listener.all_chains());
        let downstream = chains.filter_map(|chain| Some(&chain.tls.as_ref()?.common));
        let mut names: Vec<&Arc<str>> = downstream.flat_map(|tls| tls.sds_names()).collect();
        // Nearly all clusters have the list of another.
        let mut last: Option<&Arc<[Arc<str>]>> = None;
        for cluster in self.clusters.values() {
            let secrets = &cluster.facts.secrets;
            if last.is_none_or(|last| !Arc::ptr_eq(last, secrets)) {
                names.extend(secrets.iter());
                last = Some(secrets);
            }
        }
        names
    }

    /// The listener for a connection that `accepting` accepted, by its original destination.
    pub fn dispatch<'a>(
        &'a self,
        accepting: &'a Arc<Listener>,
        destination: SocketAddr,
    ) -> Dispatched<'a> {
        self.dispatch.dispatch(accepting, destination)
    }

    /// The listener that has an address of its own, bound or not.
    pub fn listener_at(&self, address: SocketAddr) -> Option<&Arc<Listener>> {
        self.dispatch.owner(address)
    }

    /// A listener.
    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners.get(name)
    }

    /// A route configuration that came by RDS.
    pub fn route_config(&self, name: &str) -> Option<&Arc<RouteConfig>> {
        self.routes.get(name)
    }

    /// The routes of an HTTP connection manager; `None` if RDS has not delivered them yet.
    pub fn routes_of<'a>(&'a self, source: &'a RouteSource) -> Option<&'a Arc<RouteConfig>> {
        match source {
            RouteSource::Inline(routes) => Some(routes),
            RouteSource::Rds(name) => self.routes.get(name),
        }
    }

    /// A cluster.
    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(name).map(|cluster| cluster.get())
    }

    /// Whether there is a cluster, without compiling it.
    pub fn has_cluster(&self, name: &str) -> bool {
        self.clusters.get(name).is_some()
    }

    /// The clusters whose hosts are names to be resolved, in name order.
    pub fn dns_clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        let names = self.dns_clusters.iter();
        names.filter_map(|name| self.cluster(name))
    }

    /// An endpoint set that came by EDS.
    pub fn endpoints(&self, name: &str) -> Option<&Arc<EndpointSet>> {
        self.endpoints.get(name).map(|endpoints| endpoints.get())
    }

    /// Whether EDS delivered an endpoint set, without compiling it.
    pub fn has_endpoints(&self, name: &str) -> bool {
        self.endpoints.get(name).is_some()
    }

    /// An endpoint set that came by EDS, for a listing.
    pub fn peek_endpoints(&self, name: &str) -> Option<Arc<EndpointSet>> {
        self.endpoints.get(name).map(|endpoints| endpoints.peek())
    }

    /// The endpoints of a cluster: its own, or what EDS delivered. `None` for ORIGINAL_DST, and before EDS delivered. Those of
    /// DNS clusters hold names: see [`EndpointSet::resolved`].
    pub fn endpoints_of<'a>(&'a self, cluster: &'a Cluster) -> Option<&'a Arc<EndpointSet>> {
        match &cluster.discovery {
            Discovery::Eds { service_name } => self.endpoints(service_name),
            _ => cluster.own_endpoints(),
        }
    }

    /// A secret.
    pub fn secret(&self, name: &str) -> Option<&Arc<Secret>> {
        self.secrets.get(name)
    }

    /// All listeners, in name order.
    pub fn listeners(&self) -> &ByName<Listener> {
        &self.listeners
    }

    /// All route configurations that came by RDS, in name order.
    pub fn route_configs(&self) -> &ByName<RouteConfig> {
        &self.routes
    }

    /// All clusters, in name order.
    pub fn clusters(&self) -> &ByName<StoredCluster> {
        &self.clusters
    }

    /// All endpoint sets that came by EDS, in name order.
    pub fn endpoint_sets(&self) -> &ByName<Stored<EndpointSet>> {
        &self.endpoints
    }

    /// All secrets, in name order.
    pub fn secrets(&self) -> &ByName<Secret> {
        &self.secrets
    }
}

#[cfg(test)]
mod tests;
