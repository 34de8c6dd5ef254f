//! Everything the control plane knows at one moment, indexed. Immutable; a new moment is a new snapshot.
//!
//! Indexes are built once, so that compiling a proxy's configuration looks things up instead of searching.

mod attached;
mod base;
mod build;
mod client_labels;
mod derived;
mod endpoints;
mod hashed;
mod history;
mod http_route;
mod ingress;
mod live;
mod mesh_config;
mod objects;
mod order;
mod ownership;
mod policies;
mod request_authentication;
mod reuse;
mod roster;
mod routes;
mod selection;
mod services;
mod telemetry;
mod virtual_services;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lateen_api::mesh::{MeshConfig, Tracing};
use lateen_api::networking::{Gateway, Sidecar};
use lateen_api::telemetry::Telemetry;
use lateen_api::{Diagnostic, KindSpec, Resource, kube};

use crate::attachment::Workload;
use crate::authentication::RequestAuthConfig;
use crate::authorization::{Authorizer, PolicyConfig};
use crate::credentials::SdsServer;
use crate::jwks::{Jwks, JwksSource, JwksStore};
use crate::labels;
use crate::mesh::{Mesh, Settings};
use crate::model::{Endpoint, Health, Port, Registry, Resolution, Service};
use crate::names::ObjectRef;
use crate::pod::Pod;
use crate::rules::{MergedRule, RuleIndex};
use crate::security::{EffectiveMtls, MtlsMode, PeerAuthIndex};
use crate::shared::Shared;

pub(crate) use attached::applies as policy_applies;
use base::Base;
use build::{Builder, Last};
use endpoints::Context;
use history::History;
pub(crate) use history::{Reader, Reads};
pub use live::PodChange;
use live::{Behind, Live};
pub use objects::ObjectChange;
use objects::Objects;
pub(crate) use policies::{in_order as policies_in_order, is_dry_run as policy_is_dry_run};
use roster::{Place, Roster};
use virtual_services::Made;
pub(crate) use virtual_services::{Semantics, VirtualServiceConfig};

/// What a snapshot is made of.
#[derive(Clone, Debug, Default)]
pub struct SnapshotInputs {
    /// MeshConfig, as written.
    pub mesh: MeshConfig,
    /// What the installation fixes.
    pub settings: Settings,
    /// Every object, in any order.
    pub resources: Vec<Resource>,
    /// Every running pod, in any order.
    pub pods: Vec<Pod>,
    /// The addresses of Kubernetes Services, by namespace and name. Addresses in the objects themselves win.
    pub cluster_ips: Arc<BTreeMap<(String, String), Vec<IpAddr>>>,
    /// What is known of the keys that [`crate::jwks_sources`] names.
    pub jwks: Arc<JwksStore>,
}

/// The same with its objects in order.
#[derive(Clone, Debug, Default)]
struct Inputs {
    mesh: MeshConfig,
    settings: Settings,
    resources: Objects,
    pods: Vec<Pod>,
    cluster_ips: Arc<BTreeMap<(String, String), Vec<IpAddr>>>,
    jwks: Arc<JwksStore>,
}

impl Inputs {
    fn new(inputs: SnapshotInputs, resources: Objects) -> Self {
        Self {
            mesh: inputs.mesh,
            settings: inputs.settings,
            resources,
            pods: inputs.pods,
            cluster_ips: inputs.cluster_ips,
            jwks: inputs.jwks,
        }
    }
}

impl From<SnapshotInputs> for Inputs {
    fn from(mut inputs: SnapshotInputs) -> Self {
        let resources = Objects::new(std::mem::take(&mut inputs.resources));
        Self::new(inputs, resources)
    }
}

/// Everything the control plane knows at one moment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Snapshot {
    inner: Arc<Inner>,
}

/// A service port a workload is behind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ServiceTarget {
    pub(crate) service: Shared<Service>,
    pub(crate) port: Port,
    /// The workload's own port.
    pub(crate) target: u32,
}

/// An object with its reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Named<T> {
    pub(crate) object: ObjectRef,
    pub(crate) spec: T,
    /// The host names of the Services a Gateway is for (`internal.istio.io/gateway-service`), in place of a selector.
    pub(crate) services: Vec<String>,
}

/// Names the Services in front of a Gateway; written for those that come from the Gateway API.
const GATEWAY_SERVICE: &str = "internal.istio.io/gateway-service";

#[derive(Debug)]
struct Inner {
    config: Arc<Config>,
    live: Live,
    /// What is wrong with the configuration, whatever pods there are.
    found: Arc<[Diagnostic]>,
}

/// What does not depend on pods.
#[derive(Debug)]
struct Config {
    resources: Objects,
    /// MeshConfig as it was written.
    written: MeshConfig,
    cluster_ips: Arc<BTreeMap<(String, String), Vec<IpAddr>>>,
    base: Base,
    settings: Settings,
    mesh: Shared<Mesh>,
    virtual_services: Arc<Vec<Shared<VirtualServiceConfig>>>,
    /// Those that were written, with their objects, in order of precedence.
    made: Arc<Vec<Made>>,
    /// What is wrong with those.
    found_routes: Arc<[Diagnostic]>,
    by_gateway: Arc<BTreeMap<String, Vec<usize>>>,
    /// The places of those for sidecars, by namespace and then in order.
    in_mesh: Arc<Vec<usize>>,
    rules: Arc<RuleIndex>,
    /// What is wrong with those.
    found_rules: Arc<[Diagnostic]>,
    sidecars: Arc<BTreeMap<String, Vec<Shared<Named<Sidecar>>>>>,
    peer_authentication: Arc<PeerAuthIndex>,
    /// By namespace.
    request_authentication: attached::Index<RequestAuthConfig>,
    jwks: Arc<JwksStore>,
    authorization: attached::Index<PolicyConfig>,
    telemetry: Arc<BTreeMap<String, Vec<Shared<Named<Telemetry>>>>>,
    client_labels: Arc<BTreeSet<String>>,
    /// What it differs in from those before.
    history: History,
}

impl Config {
    /// What endpoints are found by.
    fn context(&self) -> Context<'_> {
        Context {
            roster: &self.base.roster,
            directory: &self.base.directory,
            settings: &self.settings,
            mesh: &self.mesh,
            peer_authentication: &self.peer_authentication,
        }
    }
}

impl Snapshot {
    /// Indexes what is known. Diagnostics are about objects that do not fit together; each object alone was judged before.
    pub fn new(inputs: SnapshotInputs) -> (Self, Vec<Diagnostic>) {
        Builder::new(inputs.into(), None).build()
    }

    /// The next snapshot: `inputs` say everything but the pods, of which they say what has changed. It is what [`Snapshot::new`] would
    /// make, and shares with this one what is equal, so that little is compiled again.
    pub fn next(&self, mut inputs: SnapshotInputs, pods: &[PodChange]) -> (Self, Vec<Diagnostic>) {
        let last = &self.inner.config.resources;
        let known: Vec<&Resource> = last.iter().collect();
        let resources = order::in_order(std::mem::take(&mut inputs.resources), &known);
        let changes = reuse::changed(&known, &resources);
        let next = last.with(&changes);
        let next = next.unwrap_or_else(|| Objects::sorted(resources));
        self.follow(Inputs::new(inputs, next), changes, pods)
    }

    /// The next snapshot, where nothing but some objects, the addresses given to Services, and pods have changed. It takes no look at other
    /// objects. `None` if it would have to: then [`Snapshot::next`] takes it.
    pub fn after(
        &self,
        mut objects: Vec<ObjectChange>,
        cluster_ips: Arc<BTreeMap<(String, String), Vec<IpAddr>>>,
        pods: &[PodChange],
    ) -> Option<(Self, Vec<Diagnostic>)> {
        let last = &self.inner.config;
        let inputs = Inputs {
            resources: last.resources.with(&objects)?,
            mesh: last.written.clone(),
            settings: last.settings.clone(),
            jwks: Arc::clone(&last.jwks),
            pods: Vec::new(),
            cluster_ips,
        };
        objects.sort_by(|a, b| match (a.either().next(), b.either().next()) {
            (Some(a), Some(b)) => reuse::by_key(a, b),
            (a, b) => a.is_some().cmp(&b.is_some()),
        });
        Some(self.follow(inputs, objects, pods))
    }

    fn follow(
        &self,
        inputs: Inputs,
        objects: Vec<ObjectChange>,
        pods: &[PodChange],
    ) -> (Self, Vec<Diagnostic>) {
        let last = Last {
            snapshot: self,
            objects,
            pods,
        };
        Builder::new(inputs, Some(last)).build()
    }

    /// What the installation fixes.
    pub fn settings(&self) -> &Settings {
        &self.inner.config.settings
    }

    /// Every service, oldest first, then by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = &Shared<Service>> + Clone {
        self.roster().iter()
    }

    fn roster(&self) -> &Roster {
        &self.inner.config.base.roster
    }

    /// The services of some namespaces, in the order of services.
    pub(crate) fn services_of<'a>(
        &self,
        namespaces: impl Iterator<Item = &'a String>,
    ) -> Vec<&Shared<Service>> {
        let roster = self.roster();
        let of = |namespace: &String| roster.in_namespace(namespace).iter().copied();
        let places: BTreeSet<Place> = namespaces.flat_map(of).collect();
        let places = places.into_iter();
        places.filter_map(|place| roster.get(place)).collect()
    }

    /// The endpoints of a service's port.
    pub fn endpoints(&self, service: &Service, port: u32) -> Option<&Shared<Vec<Endpoint>>> {
        self.behind(service)?.ports.get(&port)
    }

    /// What is behind a service.
    pub(crate) fn behind(&self, service: &Service) -> Option<&Behind> {
        let place = self.roster().place_of(service)?;
        self.inner.live.behind.get(&place).map(|behind| &**behind)
    }

    /// The same with some pods changed, and all diagnostics. It is what [`Snapshot::new`] makes of all pods, for work in proportion
    /// to the change.
    pub fn with_pods(&self, changes: &[PodChange]) -> (Self, Vec<Diagnostic>) {
        let config = Arc::clone(&self.inner.config);
        let inner = Inner {
            live: self.inner.live.with(&config, changes),
            found: Arc::clone(&self.inner.found),
            config,
        };
        let next = Self {
            inner: Arc::new(inner),
        };
        let mut diagnostics = next.inner.found.to_vec();
        let resources = &next.inner.config.resources;
        diagnostics.extend(request_authentication::findings(&next, resources));
        (next, diagnostics)
    }

    /// A snapshot with all diagnostics, given those found so far.
    fn with_findings(
        config: Arc<Config>,
        live: Live,
        mut diagnostics: Vec<Diagnostic>,
    ) -> (Self, Vec<Diagnostic>) {
        let of = |config: Arc<Config>, live: Live, found: Arc<[Diagnostic]>| Self {
            inner: Arc::new(Inner {
                config,
                live,
                found,
            }),
        };
        let bare = of(Arc::clone(&config), live.clone(), [].into());
        diagnostics.extend(policies::findings(&bare, &config.resources));
        diagnostics.extend(telemetry::findings(&bare, &config.resources));
        let snapshot = of(Arc::clone(&config), live, diagnostics.as_slice().into());
        diagnostics.extend(request_authentication::findings(
            &snapshot,
            &config.resources,
        ));
        (snapshot, diagnostics)
    }

    /// Whether two snapshots differ in nothing but pods.
    pub(crate) fn has_config_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner.config, &other.inner.config)
    }

    /// Whether a proxy of a pod at some addresses, which sees some services, would find nothing else in `other`, a later snapshot. False where
    /// it may.
    pub(crate) fn is_alike_for(
        &self,
        other: &Self,
        reader: &Reader<'_>,
        pod: (&str, &str),
        ips: &[IpAddr],
        sees: impl Fn(&Service) -> bool,
    ) -> bool {
        let (before, after) = (&self.inner.config, &other.inner.config);
        if !self.has_config_of(other) && after.history.concerns_since(&before.history, reader) {
            return false;
        }
        let (old, new) = (&self.inner.live, &other.inner.live);
        let same_pod = match (old.pods.get(pod.0, pod.1), new.pods.get(pod.0, pod.1)) {
            (None, None) => true,
            (Some(old), Some(new)) => std::ptr::eq(old, new) || old == new,
            _ => false,
        };
        let same_targets = |ip: &IpAddr| old.targets.get(ip) == new.targets.get(ip);
        let mut moved = old.behind.differences(&new.behind);
        // Both number services alike, or everything would have been touched.
        let (before, after) = (self.roster(), other.roster());
        let sees = |place: Place| {
            let mut there = before.get(place).into_iter().chain(after.get(place));
            there.any(|service| sees(service))
                || (before.get(place), after.get(place)) == (None, None)
        };
        same_pod && ips.iter().all(same_targets) && !moved.any(|d| sees(*d.key))
    }

    /// Whether the same can be seen from everywhere in two snapshots: what scopes are made of is the same.
    pub(crate) fn looks_like(&self, other: &Self) -> bool {
        let (a, b) = (&self.inner.config, &other.inner.config);
        let same = || {
            a.base.roster.has_services_of(&b.base.roster)
                && Arc::ptr_eq(&a.virtual_services, &b.virtual_services)
                && Arc::ptr_eq(&a.sidecars, &b.sidecars)
                && a.mesh == b.mesh
        };
        Arc::ptr_eq(a, b) || same()
    }

    /// The services that something else is behind in `other`, among those that are in both. `None` if the two differ in more that clusters and
    /// their endpoints are made of, besides what a scope holds.
    pub(crate) fn moved<'a>(&'a self, other: &'a Self) -> Option<Vec<&'a Shared<Service>>> {
        let (a, b) = (&self.inner.config, &other.inner.config);
        let same = || {
            a.base.roster.has_numbering_of(&b.base.roster)
                && Arc::ptr_eq(&a.rules, &b.rules)
                && Arc::ptr_eq(&a.peer_authentication, &b.peer_authentication)
                && a.mesh == b.mesh
                && a.settings == b.settings
                && self.sds_server() == other.sds_server()
        };
        if !Arc::ptr_eq(a, b) && !same() {
            return None;
        }
        let (old, new) = (&self.inner.live.behind, &other.inner.live.behind);
        let moved = old.differences(new);
        let (old, new) = (self.roster(), other.roster());
        let at = |place: Place| [old.get(place), new.get(place)].into_iter().flatten();
        Some(moved.flat_map(|d| at(*d.key)).collect())
    }

    /// The keys of labels by which clients are told apart.
    pub(crate) fn client_labels(&self) -> &BTreeSet<String> {
        &self.inner.config.client_labels
    }

    /// Every pod, by namespace and name.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.inner.live.pods.iter()
    }

    /// A pod by namespace and name.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.inner.live.pods.get(namespace, name)
    }

    /// The pod with an address.
    pub fn pod_by_ip(&self, ip: IpAddr) -> Option<&Pod> {
        self.inner.live.pods.at(ip)
    }

    /// Whether two snapshots are the same one.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    pub(crate) fn mesh(&self) -> &Shared<Mesh> {
        &self.inner.config.mesh
    }

    /// The services with a host name that a namespace may see.
    fn visible_services(&self, hostname: &str, namespace: &str) -> Vec<&Shared<Service>> {
        let services = self.roster().with_host(hostname);
        services
            .filter(|service| service.visibility.includes(namespace))
            .collect()
    }

    /// The service a host name means in a namespace: the namespace's own, else the first in the order of services, Kubernetes'
    /// before others.
    pub(crate) fn service_for(&self, hostname: &str, namespace: &str) -> Option<&Shared<Service>> {
        let mut visible = self.visible_services(hostname, namespace);
        visible.sort_by_key(|service| (service.namespace != namespace, service.registry));
        visible.into_iter().next()
    }

    /// The identities a service's workloads may present.
    pub(crate) fn identities(&self, service: &Service) -> &[String] {
        self.behind(service)
            .map_or(&[], |behind| &behind.identities)
    }

    /// The service ports the workload at any of these addresses is behind, in the order of services.
    pub(crate) fn targets(&self, ips: &[IpAddr]) -> Vec<ServiceTarget> {
        let mut out: Vec<ServiceTarget> = Vec::new();
        for target in ips
            .iter()
            .filter_map(|ip| self.inner.live.targets.get(ip))
            .flat_map(|targets| targets.iter())
        {
            if !out.contains(target) {
                out.push(target.clone());
            }
        }
        out
    }

    /// The virtual services bound to a gateway (`mesh`, or `namespace/name`) that a namespace may see, in order of precedence.
    pub(crate) fn virtual_services<'a>(
        &'a self,
        gateway: &str,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Shared<VirtualServiceConfig>> {
        let indexes = self
            .inner
            .config
            .by_gateway
            .get(gateway)
            .map_or(&[][..], Vec::as_slice);
        indexes
            .iter()
            .map(|&index| &self.inner.config.virtual_services[index])
            .filter(move |config| config.visibility.includes(namespace))
    }

    /// Of the virtual services of sidecars that a namespace may see, those that are in some namespaces, in order of precedence.
    pub(crate) fn mesh_virtual_services_in<'a>(
        &'a self,
        namespaces: impl Iterator<Item = &'a String>,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Shared<VirtualServiceConfig>> {
        let config = &self.inner.config;
        let namespace_of = |place: usize| &config.virtual_services[place].object.namespace;
        let of = |namespace: &'a String| {
            let before = |place: &usize| namespace_of(*place) < namespace;
            let from = config.in_mesh.partition_point(before);
            let rest = config.in_mesh[from..].iter().copied();
            rest.take_while(move |place| namespace_of(*place) == namespace)
        };
        let places: BTreeSet<usize> = namespaces.flat_map(of).collect();
        let configs = places
            .into_iter()
            .filter_map(|place| config.virtual_services.get(place));
        configs.filter(move |config| config.visibility.includes(namespace))
    }

    /// The destination rules for a service as a namespace sees them.
    pub(crate) fn rules(&self, client: &str, service: &Service) -> Vec<Shared<MergedRule>> {
        let root = &self.inner.config.settings.root_namespace;
        self.inner
            .config
            .rules
            .lookup(client, &service.hostname, &service.namespace, root)
    }

    /// The Sidecar of a workload: one that selects it, else its namespace's, else the root's.
    pub(crate) fn sidecar(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Option<&Shared<Named<Sidecar>>> {
        let of = |ns: &str| {
            self.inner
                .config
                .sidecars
                .get(ns)
                .map_or(&[][..], Vec::as_slice)
        };
        let wide = |ns: &str| {
            of(ns)
                .iter()
                .find(|sidecar| sidecar.spec.workload_selector.is_none())
        };
        of(namespace)
            .iter()
            .find(|sidecar| {
                sidecar
                    .spec
                    .workload_selector
                    .as_ref()
                    .is_some_and(|selector| labels::is_subset(&selector.labels, labels))
            })
            .or_else(|| wide(namespace))
            .or_else(|| wide(&self.inner.config.settings.root_namespace))
    }

    /// Every Gateway, in order of precedence.
    pub(crate) fn gateways(&self) -> &[Shared<Named<Gateway>>] {
        &self.inner.config.base.gateways
    }

    /// What a workload accepts.
    pub(crate) fn mtls(&self, namespace: &str, labels: &BTreeMap<String, String>) -> EffectiveMtls {
        self.inner
            .config
            .peer_authentication
            .effective(namespace, labels)
    }

    /// The PeerAuthentication by which a workload takes nothing but mutual TLS on one of its own ports, if it does.
    pub fn strict_by(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        port: u32,
    ) -> Option<ObjectRef> {
        let mtls = self.mtls(namespace, labels);
        let strict = mtls.port(port) == MtlsMode::Strict;
        mtls.decided_by(port).filter(|_| strict).cloned()
    }

    /// What a namespace accepts as a whole.
    pub(crate) fn namespace_mtls(&self, namespace: &str) -> MtlsMode {
        self.inner
            .config
            .peer_authentication
            .namespace_mode(namespace)
    }

    /// The authorization policies of a workload: the root namespace's, then its own, those that are for it.
    pub(crate) fn authorization(&self, workload: &Workload<'_>) -> Vec<Shared<PolicyConfig>> {
        let config = &self.inner.config;
        let root = config.settings.root_namespace.as_str();
        config
            .authorization
            .of(workload, [root, workload.namespace])
    }

    /// An external authorizer of MeshConfig, or why there is none of the name.
    pub(crate) fn authorizer(&self, name: &str) -> Result<Authorizer, String> {
        let providers = &self.inner.config.mesh.extension_providers;
        crate::authorization::resolve(providers, name, |service| self.provider_service(service))
    }

    /// The server of secrets that MeshConfig names.
    pub(crate) fn sds_server(&self) -> Option<SdsServer> {
        let providers = &self.inner.config.mesh.extension_providers;
        SdsServer::of(providers, |service| self.provider_service(service))
    }

    /// The host name of that server, or why it is nobody's.
    pub(crate) fn sds_service(&self) -> Option<Result<String, String>> {
        let provider = SdsServer::provider(&self.inner.config.mesh.extension_providers)?;
        Some(self.provider_service(&provider.service))
    }

    /// The host name of the service that an extension provider names, as `host` or `namespace/host`. Source: Istio,
    /// `model.LookupCluster`.
    pub(crate) fn provider_service(&self, written: &str) -> Result<String, String> {
        let (namespace, host) = match written.split_once('/') {
            Some((namespace, host)) => (Some(namespace), host),
            None => (None, written),
        };
        let known = self.roster().with_host(host);
        let namespaces: BTreeSet<&str> = known
            .map(|service| service.namespace.as_str())
            .filter(|found| namespace.is_none_or(|wanted| wanted == *found))
            .collect();
        match namespaces.len() {
            0 => Err(format!("there is no service `{written}`")),
            1 => Ok(host.to_owned()),
            _ => Err(format!(
                "`{written}` is in several namespaces: write `namespace/{written}`"
            )),
        }
    }

    /// The request authentication of a workload: its own namespace's, then the root's, those that are for it.
    pub(crate) fn request_authentication(
        &self,
        workload: &Workload<'_>,
    ) -> Vec<Shared<RequestAuthConfig>> {
        let config = &self.inner.config;
        let root = config.settings.root_namespace.as_str();
        let rules = &config.request_authentication;
        rules.of(workload, [workload.namespace, root])
    }

    /// The rules for tokens that hold for a pod: rule `n` is the provider `origins-n` of its proxy. Each is a RequestAuthentication and the
    /// index among its `jwtRules`.
    pub fn token_rules(&self, pod: &Pod) -> Vec<(ObjectRef, usize)> {
        crate::authentication::rule_sources(self, &pod.workload())
    }

    /// What is known of the keys of token issuers that policies do not hold themselves.
    pub fn known_jwks(&self) -> &JwksStore {
        &self.inner.config.jwks
    }

    /// The roots of other meshes that workloads trust for peers (MeshConfig `caCertificates`), in PEM, sorted: those that are written, and
    /// what SPIFFE bundles were found to hold. Source: Istio, `pilot/pkg/trustbundle`.
    pub fn peer_roots(&self) -> Vec<Arc<str>> {
        let written = self.inner.config.written.ca_certificates.iter();
        let mut out: Vec<Arc<str>> = written
            .filter_map(|root| match JwksSource::of_root(root) {
                Some(source) => self.jwks(&source)?.keys.clone(),
                None => Some(root.pem.as_deref()?.into()),
            })
            .collect();
        out.sort();
        out.dedup();
        out
    }

    /// What is known of the keys at a source.
    pub(crate) fn jwks(&self, source: &JwksSource) -> Option<&Jwks> {
        self.known_jwks().get(source)
    }

    /// Where a port of a host of the mesh is reached: the addresses of its ready endpoints. `None` if the mesh has no such host, or
    /// leaves it to DNS where it is.
    ///
    /// Names may be as short as `service.namespace`.
    pub fn service_addresses(&self, host: &str, port: u16) -> Option<Vec<SocketAddr>> {
        let suffix = &self.inner.config.settings.domain_suffix;
        let full = [
            host.to_owned(),
            format!("{host}.{suffix}"),
            format!("{host}.svc.{suffix}"),
        ];
        let roster = self.roster();
        let service = full.iter().find_map(|name| roster.with_host(name).next())?;
        let has_addresses = match service.resolution {
            Resolution::Static => true,
            Resolution::Passthrough => service.registry == Registry::Kubernetes,
            Resolution::Dns
            | Resolution::DnsRoundRobin
            | Resolution::DynamicDns
            | Resolution::Alias => false,
        };
        if !has_addresses {
            return None;
        }
        let endpoints = self.endpoints(service, u32::from(port));
        let ready = endpoints
            .iter()
            .flat_map(|endpoints| endpoints.iter())
            .filter(|endpoint| endpoint.health == Health::Healthy);
        let addresses = ready.flat_map(|endpoint| {
            let port = u16::try_from(endpoint.port).ok();
            let ips = endpoint
                .addresses
                .iter()
                .filter_map(|text| text.parse().ok());
            ips.filter_map(move |ip: IpAddr| Some(SocketAddr::new(ip, port?)))
        });
        Some(addresses.collect())
    }

    /// The mesh's settings as a workload's listeners take them: with the logs, metrics and traces that Telemetry asks for.
    /// `tracing` is what its proxy has in place of `defaultConfig.tracing`.
    pub(crate) fn mesh_of(
        &self,
        workload: &Workload<'_>,
        tracing: Option<&Tracing>,
    ) -> Shared<Mesh> {
        let mesh = &self.inner.config.mesh;
        let own: Shared<Mesh>;
        let mesh = match tracing {
            Some(tracing) if mesh.legacy_tracing.as_ref() != Some(tracing) => {
                own = Shared::new(Mesh {
                    legacy_tracing: Some(tracing.clone()),
                    ..(**mesh).clone()
                });
                &own
            }
            _ => mesh,
        };
        let lookup = |service: &str| self.provider_service(service);
        let objects = &self.inner.config.telemetry;
        match crate::telemetry::of_workload(objects, mesh, workload, &lookup) {
            None => mesh.clone(),
            Some(found) => Shared::new(Mesh {
                access_logs: found.logs.unwrap_or_else(|| mesh.access_logs.clone()),
                stats: found.stats,
                tracing: found.tracing,
                ..(**mesh).clone()
            }),
        }
    }

    /// A Secret.
    pub(crate) fn secret(&self, namespace: &str, name: &str) -> Option<&Shared<kube::Secret>> {
        let secrets = &self.inner.config.base.secrets;
        secrets.get(&(namespace.to_owned(), name.to_owned()))
    }
}

/// Objects of one kind, oldest first, then by name and namespace: Istio's order of precedence.
fn sorted<T: KindSpec>(objects: &Objects) -> Vec<(&Resource, &T)> {
    in_precedence(objects.of_kind(T::KIND))
}

/// The same among objects of any kind.
fn in_precedence<'a, T: KindSpec>(
    resources: impl Iterator<Item = &'a Resource>,
) -> Vec<(&'a Resource, &'a T)> {
    let mut out: Vec<(&Resource, &T)> = resources
        .filter_map(|resource| Some((resource, resource.spec_as::<T>()?)))
        .collect();
    out.sort_by(|(a, _), (b, _)| precedence(a).cmp(&precedence(b)));
    out
}

fn precedence(resource: &Resource) -> (&str, &str, &str) {
    // Timestamps are RFC 3339 in UTC, so that text order is time order; manifests have none and are ordered by name.
    (
        &resource.meta.creation_timestamp,
        &resource.meta.name,
        &resource.meta.namespace,
    )
}

fn reference(resource: &Resource) -> ObjectRef {
    ObjectRef::new(
        resource.kind.as_str(),
        resource.namespace(),
        resource.name(),
    )
}
