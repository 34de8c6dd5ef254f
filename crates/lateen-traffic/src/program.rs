//! The program: everything a proxy was told, compiled, in one immutable value that is swapped whole.
//!
//! An update compiles what changed and shares the rest. A resource that cannot be compiled is refused, with a sentence for the
//! NACK, and its last good version stays.

mod dispatch;
mod names;
mod stored;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use lateen_envoy::{Resource, TypeUrl};

pub use dispatch::{DispatchReason, Dispatched};
pub use names::ByName;
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

/// What a change comes to by itself, or why it is refused.
#[derive(Debug)]
pub struct Compiled(Result<Made, XdsError>);

#[derive(Debug)]
enum Made {
    Listener(Listener),
    Routes(RouteConfig),
    Cluster(StoredCluster),
    Endpoints(Stored<EndpointSet>),
    Secret(Secret),
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
        self.update_with(changes, self.compile(changes))
    }

    /// What changes come to, each by itself: nearly all the work of an update, which several can share who take a part each.
    pub fn compile(&self, changes: &[Change]) -> Vec<Compiled> {
        let mut like = self.some_secrets.clone().unwrap_or_default();
        let made = changes.iter().map(|change| match change {
            Change::Upsert(ty, resource) => self.compile_one(*ty, resource, &mut like),
            Change::Remove(..) => Compiled::nothing(),
        });
        made.collect()
    }

    /// [`Program::update`] with what [`Program::compile`] made of the same changes, in their order.
    pub fn update_with(
        &self,
        changes: &[Change],
        compiled: Vec<Compiled>,
    ) -> (Self, Vec<Rejection>) {
        let mut next = self.clone();
        let mut rejections = Vec::new();
        for change in changes {
            if let Change::Remove(type_url, name) = change {
                next.remove(*type_url, name);
            }
        }
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

    fn compile_one(
        &self,
        type_url: TypeUrl,
        resource: &Resource,
        like: &mut Arc<[Arc<str>]>,
    ) -> Compiled {
        let (name, body) = (&resource.name, &resource.body);
        Compiled(match type_url {
            TypeUrl::Listener => from_xds::listener(body, name).map(Made::Listener),
            TypeUrl::RouteConfiguration => from_xds::shared_route_config(body).map(Made::Routes),
            TypeUrl::Cluster => from_xds::cluster(body).map(|compiled| {
                let cluster = StoredCluster::new(name, body, &compiled, like);
                if !cluster.secrets.is_empty() {
                    *like = Arc::clone(&cluster.secrets);
                }
                if self.clusters.get(name).is_some_and(|old| old.is_used()) {
                    cluster.keep(compiled);
                }
                Made::Cluster(cluster)
            }),
            TypeUrl::ClusterLoadAssignment => from_xds::endpoints(body).map(|compiled| {
                let endpoints = Stored::new(body);
                if self.endpoints.get(name).is_some_and(|old| old.is_used()) {
                    endpoints.keep(compiled);
                }
                Made::Endpoints(endpoints)
            }),
            TypeUrl::Secret => from_xds::secret(body).map(Made::Secret),
            TypeUrl::NameTable | TypeUrl::ProxyConfig | TypeUrl::TypedExtensionConfig => {
                Ok(Made::Nothing)
            }
        })
    }

    fn upsert(&mut self, resource: &Resource, compiled: Compiled) -> Result<(), XdsError> {
        let name = resource.name.clone();
        match compiled.0? {
            Made::Listener(listener) => self.insert_listener(name, listener)?,
            Made::Routes(routes) => {
                Arc::make_mut(&mut self.routes).insert(name, Arc::new(routes));
            }
            Made::Cluster(cluster) => self.insert_cluster(name, cluster),
            Made::Endpoints(endpoints) => {
                Arc::make_mut(&mut self.endpoints).insert(name, Arc::new(endpoints));
            }
            Made::Secret(secret) => {
                Arc::make_mut(&mut self.secrets).insert(name, Arc::new(secret));
            }
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

    fn insert_cluster(&mut self, name: Arc<str>, cluster: StoredCluster) {
        if !cluster.secrets.is_empty() {
            self.some_secrets = Some(Arc::clone(&cluster.secrets));
        }
        match (cluster.is_dns, self.dns_clusters.contains(&name)) {
            (true, false) => drop(Arc::make_mut(&mut self.dns_clusters).insert(name.clone())),
            (false, true) => drop(Arc::make_mut(&mut self.dns_clusters).remove(&name)),
            _ => {}
        }
        Arc::make_mut(&mut self.clusters).insert(name, Arc::new(cluster));
    }

    fn remove_listener(&mut self, name: &str) {
        if let Some(old) = self.listeners.get(name) {
            Arc::make_mut(&mut self.dispatch).remove(old);
            Arc::make_mut(&mut self.listeners).remove(name);
        }
    }

    fn insert_listener(&mut self, name: Arc<str>, listener: Listener) -> Result<(), XdsError> {
        if let Some((address, owner)) = self.dispatch.conflict(&listener) {
            let reason = format!("address {address} is already that of listener {owner:?}");
            return Err(XdsError::new(reason).within("address"));
        }
        self.remove_listener(&name);
        let listener = Arc::new(listener);
        Arc::make_mut(&mut self.dispatch).insert(&listener);
        Arc::make_mut(&mut self.listeners).insert(name, listener);
        Ok(())
    }

    /// The names of resources of a type that the program refers to: what an xDS client subscribes to. Empty for the types that
    /// are subscribed to with a wildcard.
    pub fn references(&self, type_url: TypeUrl) -> BTreeSet<Arc<str>> {
        match type_url {
            TypeUrl::ClusterLoadAssignment => self.eds_names(),
            TypeUrl::RouteConfiguration => self.rds_names(),
            TypeUrl::Secret => self.sds_names(),
            TypeUrl::Cluster
            | TypeUrl::Listener
            | TypeUrl::TypedExtensionConfig
            | TypeUrl::NameTable
            | TypeUrl::ProxyConfig => BTreeSet::new(),
        }
    }

    fn eds_names(&self) -> BTreeSet<Arc<str>> {
        let clusters = self.clusters.values();
        clusters
            .filter_map(|cluster| cluster.service_name.clone())
            .collect()
    }

    fn rds_names(&self) -> BTreeSet<Arc<str>> {
        let chains = self
            .listeners
            .iter()
            .flat_map(|(_, listener)| listener.all_chains());
        let names = chains
            .flat_map(|chain| &chain.filters)
            .filter_map(|filter| match &filter.kind {
                NetworkFilterKind::Http(manager) => match &manager.routes {
                    RouteSource::Rds(name) => Some(name.clone()),
                    RouteSource::Inline(_) => None,
                },
                _ => None,
            });
        names.collect()
    }

    fn sds_names(&self) -> BTreeSet<Arc<str>> {
        let chains = self
            .listeners
            .iter()
            .flat_map(|(_, listener)| listener.all_chains());
        let downstream = chains.filter_map(|chain| Some(&chain.tls.as_ref()?.common));
        let downstream = downstream.flat_map(|tls| tls.sds_names());
        let upstream = self.clusters.values();
        let upstream = upstream.flat_map(|cluster| cluster.secrets.iter());
        downstream.chain(upstream).cloned().collect()
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
