//! One proxy's configuration: which generators run, with which inputs, and their output put together.

mod client;
mod gateway;
mod outbound;
mod sidecar;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use lateen_api::Diagnostic;
use lateen_api::networking::ClientTlsMode;
use lateen_envoy::istio::mesh::ProxyConfig;
use lateen_envoy::{Resource, ResourceSet, Resources, TypeUrl};
use prost::{Message, Name};

use crate::attachment::Workload;
use crate::clusters::InboundClusterInputs;
use crate::clusters::{self, ClusterInputs, ClusterView, CommonClusterInputs, Mode, Place};
use crate::credentials::CredentialServers;
use crate::diagnostics::{SIDECAR_CREDENTIAL, on_object};
use crate::endpoints::{self, EndpointInputs, PeerInputs};
use crate::features::JwksFetch;
use crate::listeners::{
    GatewayListenerInputs, InboundInputs, ListenerView, OutboundListenerInputs,
    VirtualOutboundInputs,
};
use crate::memo::{Memo, MemoStats};
use crate::mesh::Mesh;
use crate::model::{Port, Registry, Resolution, Service};
use crate::nametable::{self, NameTableInputs, NamedService};
use crate::node::{Interception, ProxyKind, ProxyNode};
use crate::pod::Locality;
use crate::routes::{DestinationFacts, GatewayRouteInputs, SidecarRouteInputs};
use crate::rules::{MergedRule, for_workload};
use crate::scope::{Scope, destinations};
use crate::secrets::{self, SecretInputs};
use crate::shared::Shared;
use crate::snapshot::{Reader, Snapshot, VirtualServiceConfig};

use client::Client;
use outbound::{Clients, Selects};

/// What one proxy is to have.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// The resources.
    pub resources: ResourceSet,
    /// What was found while putting them together.
    pub diagnostics: Vec<Diagnostic>,
    basis: Option<Basis>,
}

/// What resources were compiled of.
#[derive(Clone, Debug)]
struct Basis {
    snapshot: Snapshot,
    scope: Arc<Scope>,
    /// Held so that it is there when the proxy is compiled for again, however long that takes.
    outbound: outbound::Slot,
}

impl Compiled {
    /// Whether compiling for the same proxy from a later snapshot gives the same: of objects nothing has changed that it is made of, and of pods
    /// none that is the proxy's own or behind a service that it sees. If so, the next question is about what changes from there on.
    ///
    /// This is for leaving out proxies that are not concerned, of which there are many; where it says no, compiling decides.
    pub fn also_holds_for(&mut self, snapshot: &Snapshot, node: &ProxyNode) -> bool {
        let Some(basis) = &mut self.basis else {
            return false;
        };
        if basis.snapshot.is_same(snapshot) {
            return true;
        }
        let own = basis.snapshot.targets(&node.ips);
        let behind: Vec<&str> = own.iter().map(|t| t.service.namespace.as_str()).collect();
        let reader = Reader {
            reads: &basis.scope.reads,
            namespace: &node.namespace,
            behind: &behind,
            names_services: node.tracing.is_some()
                || snapshot.settings().features.jwks_fetch != JwksFetch::Istiod,
        };
        // Its own services tell a proxy of its peers, whether it may see them or not.
        let is_own = |service: &Service| own.iter().any(|target| *target.service == *service);
        let sees = |service: &Service| {
            basis.scope.service_of(service).is_some() || (node.self_discovery && is_own(service))
        };
        let pod = (node.namespace.as_str(), node.name.as_str());
        let (last, ips) = (&basis.snapshot, &node.ips);
        let holds = last.is_alike_for(snapshot, &reader, pod, ips, sees);
        if holds {
            outbound::carry(&basis.outbound, &basis.snapshot, snapshot);
            basis.snapshot = snapshot.clone();
        }
        holds
    }
}

/// How well the memo tables work, by generator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompilerStats {
    /// Clusters.
    pub clusters: MemoStats,
    /// Endpoints.
    pub endpoints: MemoStats,
    /// Listeners.
    pub listeners: MemoStats,
    /// Route configurations.
    pub routes: MemoStats,
    /// Every generator.
    pub all: MemoStats,
}

/// Turns snapshots into proxies' configuration, remembering what it made of which inputs.
///
/// One compiler serves every proxy, and several threads at once. Two compilers fed the same inputs give the same bytes; so does
/// one that remembers and one that does not.
pub struct Compiler {
    clusters: Memo<ClusterInputs, Vec<Resource>>,
    common_clusters: Memo<CommonClusterInputs, Vec<Resource>>,
    inbound_clusters: Memo<InboundClusterInputs, Vec<Resource>>,
    endpoints: Memo<EndpointInputs, Vec<Resource>>,
    peers: Memo<PeerInputs, Vec<Resource>>,
    outbound_listeners: Memo<OutboundListenerInputs, Vec<Resource>>,
    virtual_outbound: Memo<VirtualOutboundInputs, Vec<Resource>>,
    inbound_listeners: Memo<InboundInputs, Vec<Resource>>,
    gateway_listeners: Memo<GatewayListenerInputs, Vec<Resource>>,
    sidecar_routes: Memo<SidecarRouteInputs, Vec<Resource>>,
    gateway_routes: Memo<GatewayRouteInputs, Vec<Resource>>,
    name_tables: Memo<NameTableInputs, Vec<Resource>>,
    peer_roots: Memo<Vec<Arc<str>>, Vec<Resource>>,
    secrets: Memo<SecretInputs, Vec<Resource>>,
    scopes: Mutex<Scopes>,
    clients: Clients,
}

/// Kind of proxy, namespace, and the Sidecar that holds for it.
type ScopeKey = (ProxyKind, String, String);

/// What can be seen from where. It does not depend on pods.
#[derive(Default)]
struct Scopes {
    /// The snapshot that proxies were last compiled for.
    snapshot: Option<Snapshot>,
    /// Made of `snapshot`, or of one that differs from it in pods alone.
    current: BTreeMap<ScopeKey, Arc<Scope>>,
    /// Those before; one that comes out equal is taken from here.
    last: BTreeMap<ScopeKey, Arc<Scope>>,
    /// Snapshots since the last generation of the tables began.
    snapshots: u32,
}

/// A generation of the tables ends when the configuration changes, or after so many changes of pods: of these each makes little, and
/// what it leaves alone is not asked for, but is not to be forgotten.
const SNAPSHOTS_OF_PODS: u32 = 1000;

impl Default for Compiler {
    fn default() -> Self {
        Self::new()
    }
}

impl Compiler {
    /// A compiler that remembers nothing yet.
    pub fn new() -> Self {
        Self {
            clusters: Memo::new(),
            common_clusters: Memo::new(),
            inbound_clusters: Memo::new(),
            endpoints: Memo::new(),
            peers: Memo::new(),
            outbound_listeners: Memo::new(),
            virtual_outbound: Memo::new(),
            inbound_listeners: Memo::new(),
            gateway_listeners: Memo::new(),
            sidecar_routes: Memo::new(),
            gateway_routes: Memo::new(),
            name_tables: Memo::new(),
            peer_roots: Memo::new(),
            secrets: Memo::new(),
            scopes: Mutex::default(),
            clients: Clients::default(),
        }
    }

    /// What a proxy is to have, given everything known.
    pub fn compile(&self, snapshot: &Snapshot, node: &ProxyNode) -> Compiled {
        let proxy = Proxy::new(snapshot, node);
        let (key, scope) = self.scope(&proxy);
        let client = Client::of(&proxy, key, &scope);
        let slot = self.clients.slot(&client);
        let outbound = self.outbound(&slot, &client, snapshot, &scope);
        let mut out = outbound::begin(&outbound);
        match node.kind {
            ProxyKind::Sidecar => {
                self.add_inbound(&proxy, &scope, &mut out);
                // Those sidecars may read them, as far as they are in their namespace.
                let selecting = outbound::references(&outbound, |s| s == Selects::Workloads);
                self.add_references(&proxy, &selecting, &mut out);
            }
            ProxyKind::Router => self.add_gateway(&proxy, &scope, &outbound, &mut out),
        }
        if node.self_discovery {
            self.add_peers(&proxy, &mut out);
        }
        let basis = Basis {
            snapshot: snapshot.clone(),
            scope,
            outbound: slot,
        };
        Compiled {
            basis: Some(basis),
            ..out.finish()
        }
    }

    /// The proxy's own workload, by which it keeps requests in its zone.
    fn add_peers(&self, proxy: &Proxy<'_>, out: &mut Output) {
        let target = proxy.snapshot.targets(&proxy.node.ips).into_iter().next();
        let endpoints = target.and_then(|target| {
            let endpoints = proxy
                .snapshot
                .endpoints(&target.service, target.port.number);
            endpoints.cloned()
        });
        let node = proxy.node;
        let inputs = PeerInputs::new(
            endpoints.unwrap_or_default(),
            (&node.workload_name, &proxy.locality.region, &node.network),
            |key| proxy.labels.get(key).cloned(),
        );
        out.add(
            TypeUrl::ClusterLoadAssignment,
            &self.peers.get(&inputs, |inputs| {
                let built = endpoints::peers(inputs);
                vec![resource(&built.cluster_name, &built)]
            }),
        );
    }

    fn add_name_table(&self, proxy: &Proxy<'_>, scope: &Scope, out: &mut Output) {
        let table = name_table_inputs(proxy.snapshot, scope);
        out.add(
            TypeUrl::NameTable,
            &self.name_tables.get(&table, |inputs| {
                vec![resource("nametable", &nametable::name_table(inputs))]
            }),
        );
    }

    /// The roots of other meshes, for the proxy's agent. Said also where there are none, so that the last ones go.
    fn add_peer_roots(&self, snapshot: &Snapshot, out: &mut Output) {
        let made = self.peer_roots.get(&snapshot.peer_roots(), |roots| {
            let config = ProxyConfig {
                ca_certificates_pem: roots.iter().map(|pem| String::from(&**pem)).collect(),
            };
            vec![resource("proxyconfig", &config)]
        });
        out.add(TypeUrl::ProxyConfig, &made);
    }

    /// How well the memo tables work.
    pub fn stats(&self) -> CompilerStats {
        CompilerStats {
            clusters: self.clusters.stats(),
            endpoints: self.endpoints.stats(),
            listeners: self.outbound_listeners.stats(),
            routes: self.sidecar_routes.stats(),
            all: [
                self.clusters.stats(),
                self.common_clusters.stats(),
                self.inbound_clusters.stats(),
                self.endpoints.stats(),
                self.peers.stats(),
                self.outbound_listeners.stats(),
                self.virtual_outbound.stats(),
                self.inbound_listeners.stats(),
                self.gateway_listeners.stats(),
                self.sidecar_routes.stats(),
                self.gateway_routes.stats(),
                self.name_tables.stats(),
                self.peer_roots.stats(),
                self.secrets.stats(),
            ]
            .into_iter()
            .sum(),
        }
    }

    /// The scope of a proxy, shared by all with the same namespace and Sidecar.
    fn scope(&self, proxy: &Proxy<'_>) -> (ScopeKey, Arc<Scope>) {
        let snapshot = proxy.snapshot;
        let node = proxy.node;
        let sidecar = match node.kind {
            ProxyKind::Sidecar => snapshot.sidecar(&node.namespace, proxy.labels).cloned(),
            ProxyKind::Router => None,
        };
        let name = sidecar
            .as_ref()
            .map_or_else(String::new, |sidecar| sidecar.object.to_string());
        let key = (node.kind, node.namespace.clone(), name);
        let last = {
            let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
            if scopes.turn_to(snapshot) {
                self.advance();
            }
            if let Some(scope) = scopes.current.get(&key) {
                let scope = Arc::clone(scope);
                return (key, scope);
            }
            scopes.last.get(&key).cloned()
        };
        let made = match node.kind {
            ProxyKind::Sidecar => Scope::for_sidecar(snapshot, &node.namespace, sidecar),
            ProxyKind::Router => Scope::for_gateway(snapshot, &node.namespace),
        };
        // An equal one is the same one, so that what was made for it counts.
        let scope = match last {
            Some(last) if *last == made => last,
            _ => Arc::new(made),
        };
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        if scopes.is_about(snapshot) {
            let known = scopes.current.entry(key.clone());
            let scope = Arc::clone(known.or_insert(scope));
            return (key, scope);
        }
        (key, scope)
    }

    /// Begins a generation: what has not been asked for lately is forgotten.
    fn advance(&self) {
        self.clusters.advance();
        self.common_clusters.advance();
        self.inbound_clusters.advance();
        self.endpoints.advance();
        self.peers.advance();
        self.outbound_listeners.advance();
        self.virtual_outbound.advance();
        self.inbound_listeners.advance();
        self.gateway_listeners.advance();
        self.sidecar_routes.advance();
        self.gateway_routes.advance();
        self.name_tables.advance();
        self.peer_roots.advance();
        self.secrets.advance();
        self.clients.advance();
    }

    /// The clusters and endpoints of every service in scope, and the clusters that exist once.
    fn add_outbound_clusters(&self, proxy: &Proxy<'_>, scope: &Scope, out: &mut Output) {
        self.add_services(proxy, scope, Mode::Service, out);
        let common = CommonClusterInputs {
            view: proxy.cluster_view(),
            mesh: proxy.snapshot.mesh().clone(),
        };
        out.add(
            TypeUrl::Cluster,
            &self.common_clusters.get(&common, |inputs| {
                encode(clusters::common(inputs), |cluster| &cluster.name)
            }),
        );
    }

    /// The clusters and endpoints of every service in scope, in one mode.
    fn add_services(&self, proxy: &Proxy<'_>, scope: &Scope, mode: Mode, out: &mut Output) {
        for service in &scope.services {
            self.add_service(proxy, scope, mode, service, out);
        }
    }

    /// The clusters and endpoints of a service.
    fn add_service(
        &self,
        proxy: &Proxy<'_>,
        scope: &Scope,
        mode: Mode,
        service: &Shared<Service>,
        out: &mut Output,
    ) {
        let rules = proxy.snapshot.rules(&scope.namespace, service);
        let rule = for_workload(&rules, &proxy.node.namespace, proxy.labels);
        for port in &service.ports {
            self.add_service_port(proxy, mode, (service, port), rule, out);
        }
        if let Some(rule) = rule.filter(|_| !proxy.is_router()) {
            out.note(unreadable_credentials(rule));
        }
    }

    fn add_service_port(
        &self,
        proxy: &Proxy<'_>,
        mode: Mode,
        (service, port): (&Shared<Service>, &Port),
        rule: Option<&Shared<MergedRule>>,
        out: &mut Output,
    ) {
        if service.resolution == Resolution::Alias || port.protocol.handling().is_none() {
            return;
        }
        let inputs = ClusterInputs {
            mode,
            ..proxy.cluster_inputs(service, port, rule)
        };
        out.add(
            TypeUrl::Cluster,
            &self.clusters.get(&inputs, |inputs| {
                encode(clusters::outbound(inputs), |cluster| &cluster.name)
            }),
        );
        if !clusters::uses_eds(service, proxy.is_router()) {
            return;
        }
        let subsets = rule.map_or(&[][..], |rule| &rule.spec.subsets);
        let names = std::iter::once("").chain(subsets.iter().map(|subset| subset.name.as_str()));
        for subset in names {
            let inputs = EndpointInputs {
                mode,
                ..proxy.endpoint_inputs(service, port, rule, subset)
            };
            out.add(
                TypeUrl::ClusterLoadAssignment,
                &self.endpoints.get(&inputs, |inputs| {
                    let built = endpoints::assignment(inputs);
                    vec![resource(&built.cluster_name, &built)]
                }),
            );
        }
    }
}

impl Scopes {
    /// Whether what is current holds for a snapshot.
    fn is_about(&self, snapshot: &Snapshot) -> bool {
        let known = self.snapshot.as_ref();
        known.is_some_and(|known| known.looks_like(snapshot))
    }

    /// Goes on to a snapshot; says whether that begins a generation.
    fn turn_to(&mut self, snapshot: &Snapshot) -> bool {
        let known = self.snapshot.as_ref();
        if known.is_some_and(|known| known.is_same(snapshot)) {
            return false;
        }
        let only_pods = known.is_some_and(|known| known.has_config_of(snapshot));
        self.snapshots += 1;
        let begins = !only_pods || self.snapshots >= SNAPSHOTS_OF_PODS;
        if begins {
            self.snapshots = 0;
        }
        if !self.is_about(snapshot) {
            // What nobody asked for in this snapshot is still the last known.
            let current = std::mem::take(&mut self.current);
            self.last.extend(current);
        }
        self.snapshot = Some(snapshot.clone());
        begins
    }
}

/// Resources of several types on their way into a set. The first of a name stays.
#[derive(Default)]
struct Output {
    types: BTreeMap<TypeUrl, Resources>,
    diagnostics: Vec<Diagnostic>,
}

impl Output {
    fn add(&mut self, ty: TypeUrl, resources: &[Resource]) {
        let map = self.types.entry(ty).or_default();
        for resource in resources {
            if !map.contains_key(&resource.name) {
                map.insert(Arc::clone(&resource.name), resource.clone());
            }
        }
    }

    /// Adds findings that are not there yet.
    fn note(&mut self, diagnostics: Vec<Diagnostic>) {
        for diagnostic in diagnostics {
            if !self.diagnostics.contains(&diagnostic) {
                self.diagnostics.push(diagnostic);
            }
        }
    }

    fn finish(self) -> Compiled {
        let mut resources = ResourceSet::default();
        for (ty, map) in self.types {
            resources.set(ty, Arc::new(map));
        }
        Compiled {
            resources,
            diagnostics: self.diagnostics,
            basis: None,
        }
    }
}

fn resource<M: Message + Name>(name: &str, message: &M) -> Resource {
    Resource::new(name, message)
}

fn encode<M: Message + Name>(messages: Vec<M>, name: impl Fn(&M) -> &String) -> Vec<Resource> {
    messages
        .iter()
        .map(|message| resource(name(message), message))
        .collect()
}

/// A proxy, with what the snapshot knows of its workload.
struct Proxy<'a> {
    snapshot: &'a Snapshot,
    node: &'a ProxyNode,
    /// The pod's labels, which may have changed since the proxy started; what it said itself if there is no pod.
    labels: &'a BTreeMap<String, String>,
    locality: Locality,
}

impl<'a> Proxy<'a> {
    fn new(snapshot: &'a Snapshot, node: &'a ProxyNode) -> Self {
        let pod = snapshot.pod(&node.namespace, &node.name);
        let locality = if node.locality.is_empty() {
            pod.map(|pod| pod.locality.clone()).unwrap_or_default()
        } else {
            node.locality.clone()
        };
        Self {
            snapshot,
            node,
            labels: match pod {
                // What registered itself is what its group made of it, also where it runs as a pod.
                Some(pod) if node.auto_register_group.is_empty() => &pod.labels,
                _ => &node.labels,
            },
            locality,
        }
    }

    /// What policies are looked for by.
    fn workload(&self) -> Workload<'a> {
        Workload {
            namespace: &self.node.namespace,
            labels: self.labels,
        }
    }

    /// The mesh's settings as its listeners take them.
    fn mesh(&self) -> Shared<Mesh> {
        let tracing = self.node.tracing.as_ref();
        self.snapshot.mesh_of(&self.workload(), tracing)
    }

    fn is_router(&self) -> bool {
        self.node.kind == ProxyKind::Router
    }

    fn cluster_view(&self) -> ClusterView {
        ClusterView {
            router: self.is_router(),
            ip_mode: self.node.ip_mode(),
            native: self.node.native,
            marks_sources: !self.node.native && self.node.interception == Interception::Tproxy,
            credential_socket: self.node.credential_socket,
        }
    }

    fn listener_view(&self) -> ListenerView {
        ListenerView {
            native: self.node.native,
            ip_mode: self.node.ip_mode(),
            interception: self.node.interception,
            idle_timeout: lateen_api::parse_duration(&self.node.idle_timeout).ok(),
            dynamic_dns: false,
            credentials: self.credential_servers(),
        }
    }

    /// The servers of secrets for what this proxy serves.
    fn credential_servers(&self) -> CredentialServers {
        CredentialServers {
            socket: self.node.credential_socket,
            provider: self.snapshot.sds_server(),
        }
    }

    fn place(&self) -> Place {
        Place {
            locality: self.locality.clone(),
            labels: self.labels.clone(),
        }
    }

    fn cluster_inputs(
        &self,
        service: &Shared<Service>,
        port: &Port,
        rule: Option<&Shared<MergedRule>>,
    ) -> ClusterInputs {
        let snapshot = self.snapshot;
        let known = snapshot.endpoints(service, port.number);
        let dns = clusters::uses_dns(service);
        ClusterInputs {
            mode: Mode::Service,
            view: self.cluster_view(),
            mesh: snapshot.mesh().clone(),
            service: service.clone(),
            port: port.clone(),
            rule: rule.cloned(),
            endpoints: if dns { known.cloned() } else { None },
            identities: if service.mesh_external {
                service.subject_alt_names.clone()
            } else {
                snapshot.identities(service).to_vec()
            },
            server_mtls: snapshot.namespace_mtls(&service.namespace),
            all_mtls: known.is_some_and(|endpoints| {
                !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.mtls_capable)
            }),
            place: dns.then(|| self.place()),
        }
    }

    fn endpoint_inputs(
        &self,
        service: &Shared<Service>,
        port: &Port,
        rule: Option<&Shared<MergedRule>>,
        subset: &str,
    ) -> EndpointInputs {
        let mesh = self.snapshot.mesh();
        let near = endpoints::depends_on_place(
            mesh,
            service,
            rule.map(|rule| &**rule),
            subset,
            port.number,
        );
        EndpointInputs {
            mode: Mode::Service,
            mesh: mesh.clone(),
            service: service.clone(),
            port: port.clone(),
            subset: subset.to_owned(),
            rule: rule.cloned(),
            endpoints: self
                .snapshot
                .endpoints(service, port.number)
                .cloned()
                .unwrap_or_default(),
            place: near.then(|| self.place()),
            network: self.node.network.clone(),
        }
    }
}

/// What virtual services need to know of the services they lead to: those in `known`, by name.
fn destination_facts<'a>(
    configs: impl Iterator<Item = &'a Shared<VirtualServiceConfig>>,
    known: impl Fn(&str) -> Option<DestinationFacts>,
) -> BTreeMap<String, DestinationFacts> {
    let hosts: BTreeSet<String> = configs
        .flat_map(|config| destinations(&config.spec))
        .collect();
    hosts
        .into_iter()
        .filter_map(|host| {
            let facts = known(&host)?;
            Some((host, facts))
        })
        .collect()
}

/// Whether a rule says anything that routes depend on.
fn hashes(rule: &MergedRule) -> bool {
    let policy = |policy: Option<&lateen_api::networking::TrafficPolicy>| {
        policy.is_some_and(|policy| {
            let own = policy
                .load_balancer
                .as_ref()
                .is_some_and(|lb| lb.consistent_hash.is_some());
            own || policy.port_level_settings.iter().any(|settings| {
                settings
                    .load_balancer
                    .as_ref()
                    .is_some_and(|lb| lb.consistent_hash.is_some())
            })
        })
    };
    policy(rule.spec.traffic_policy.as_ref())
        || rule
            .spec
            .subsets
            .iter()
            .any(|subset| policy(subset.traffic_policy.as_ref()))
}

impl Compiler {
    /// The secrets that references lead to.
    fn add_references(
        &self,
        proxy: &Proxy<'_>,
        references: &[secrets::Reference],
        out: &mut Output,
    ) {
        let (mine, of_clients) = (
            proxy.credential_servers(),
            CredentialServers::of_clients(proxy.node.credential_socket),
        );
        for reference in references {
            let servers = if reference.client { &of_clients } else { &mine };
            let (found, diagnostics) =
                secrets::resolve(proxy.snapshot, &proxy.node.namespace, servers, reference);
            out.note(diagnostics);
            for inputs in found {
                out.add(
                    TypeUrl::Secret,
                    &self.secrets.get(&inputs, |inputs| {
                        secrets::secret(inputs)
                            .map(|secret| resource(&secret.name, &secret))
                            .into_iter()
                            .collect()
                    }),
                );
            }
        }
    }
}

/// The rules of services that routes depend on.
fn hashing_rules(
    proxy: &Proxy<'_>,
    scope: &Scope,
    hosts: impl Iterator<Item = String>,
) -> BTreeMap<String, Shared<MergedRule>> {
    let mut out = BTreeMap::new();
    for host in hosts {
        let Some(service) = scope.service(&host) else {
            continue;
        };
        let rules = proxy.snapshot.rules(&scope.namespace, service);
        let rule = for_workload(&rules, &proxy.node.namespace, proxy.labels);
        if let Some(rule) = rule.filter(|rule| hashes(rule)) {
            out.insert(host, rule.clone());
        }
    }
    out
}

/// What a sidecar cannot do: Secrets are for gateways, unless a rule selects the workloads it is for.
fn unreadable_credentials(rule: &MergedRule) -> Vec<Diagnostic> {
    if rule.spec.workload_selector.is_some() {
        return Vec::new();
    }
    rule_credentials(rule)
        .into_iter()
        .map(|reference| {
            let message = format!("sidecars may not read the credential `{}`", reference.name);
            on_object(
                SIDECAR_CREDENTIAL,
                &reference.object,
                &reference.path,
                message,
            )
            .effect("sidecars verify the server by the system's CAs and show no certificate")
            .fix("add a workloadSelector to the rule, or originate TLS at an egress gateway")
        })
        .collect()
}

/// The credentials that rules name for gateways.
fn rule_credentials(rule: &MergedRule) -> Vec<secrets::Reference> {
    let mut out = Vec::new();
    let mut add = |policy: Option<&lateen_api::networking::TrafficPolicy>| {
        let Some(policy) = policy else { return };
        let ports = policy
            .port_level_settings
            .iter()
            .filter_map(|settings| settings.tls.as_ref());
        for tls in policy
            .tls
            .iter()
            .chain(ports)
            .filter(|tls| !tls.credential_name.is_empty())
        {
            out.push(secrets::Reference {
                name: tls.credential_name.clone(),
                object: rule.object.clone(),
                path: "spec.trafficPolicy.tls.credentialName".to_owned(),
                ca: tls.insecure_skip_verify != Some(true),
                only_ca: tls.mode == ClientTlsMode::Simple,
                client: true,
            });
        }
    };
    add(rule.spec.traffic_policy.as_ref());
    for subset in &rule.spec.subsets {
        add(subset.traffic_policy.as_ref());
    }
    out
}

fn name_table_inputs(snapshot: &Snapshot, scope: &Scope) -> NameTableInputs {
    let services = scope
        .services
        .iter()
        .map(|service| {
            let headless = service.resolution == Resolution::Passthrough
                && service.registry == Registry::Kubernetes;
            let endpoints = service
                .ports
                .first()
                .filter(|_| headless)
                .and_then(|port| snapshot.endpoints(service, port.number))
                .cloned();
            let behind = snapshot.behind(service);
            let pods = behind.map_or_else(Vec::new, |behind| behind.pods.clone());
            NamedService {
                service: service.clone(),
                endpoints,
                pods,
            }
        })
        .collect();
    NameTableInputs { services }
}
