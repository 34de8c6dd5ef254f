//! What a workload may see: services and virtual services that are exported to it and that its Sidecar lets in.

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::networking::{
    Destination, IstioEgressListener, OutboundTrafficPolicyMode, Sidecar, VirtualService,
};

use crate::host;
use crate::mesh::OutboundPolicy;
use crate::model::{Service, Visibility};
use crate::names::{self, MESH_GATEWAY};
use crate::protocol::Protocol;
use crate::shared::Shared;
use crate::snapshot::{Named, Reads, Semantics, Snapshot, VirtualServiceConfig};

/// What one egress listener lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EgressScope {
    /// As written; none for the default one.
    pub(crate) listener: Option<IstioEgressListener>,
    pub(crate) services: Vec<Shared<Service>>,
    pub(crate) virtual_services: Vec<Shared<VirtualServiceConfig>>,
    /// The places of virtual services by the complete names they are for, and of those that are for wildcards.
    by_host: BTreeMap<String, Vec<usize>>,
    for_wildcards: Vec<usize>,
}

impl EgressScope {
    fn new(
        listener: Option<IstioEgressListener>,
        services: Vec<Shared<Service>>,
        virtual_services: Vec<Shared<VirtualServiceConfig>>,
    ) -> Self {
        let mut by_host: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut for_wildcards = Vec::new();
        for (place, config) in virtual_services.iter().enumerate() {
            for name in &config.spec.hosts {
                match host::is_wildcard(name) {
                    true => for_wildcards.push(place),
                    false => by_host.entry(name.clone()).or_default().push(place),
                }
            }
        }
        Self {
            listener,
            services,
            virtual_services,
            by_host,
            for_wildcards,
        }
    }

    /// The virtual services for a host, in order.
    pub(crate) fn virtual_services_for(
        &self,
        hostname: &str,
    ) -> Vec<&Shared<VirtualServiceConfig>> {
        let matches = |config: &&Shared<VirtualServiceConfig>| {
            let mut names = config.spec.hosts.iter();
            names.any(|name| host::matches(name, hostname))
        };
        if host::is_wildcard(hostname) {
            return self.virtual_services.iter().filter(matches).collect();
        }
        let exact = self.by_host.get(hostname).into_iter().flatten();
        let places: BTreeSet<usize> = exact.chain(&self.for_wildcards).copied().collect();
        let found = places.into_iter();
        found
            .filter_map(|place| self.virtual_services.get(place))
            .filter(matches)
            .collect()
    }

    /// The port the listener is limited to.
    pub(crate) fn port(&self) -> Option<u32> {
        self.listener
            .as_ref()?
            .port
            .as_ref()
            .map(|port| port.number)
    }

    /// Whether the listener is a forward proxy.
    pub(crate) fn is_http_proxy(&self) -> bool {
        self.listener
            .as_ref()
            .and_then(|listener| listener.port.as_ref())
            .is_some_and(|port| Protocol::parse(&port.protocol) == Protocol::HttpProxy)
    }
}

/// What a workload may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) namespace: String,
    pub(crate) sidecar: Option<Shared<Named<Sidecar>>>,
    pub(crate) egress: Vec<EgressScope>,
    /// Every service of every listener and those that virtual services lead to; one per host name.
    pub(crate) services: Vec<Shared<Service>>,
    by_host: BTreeMap<String, usize>,
    pub(crate) outbound: OutboundPolicy,
    /// What all of it was made of.
    pub(crate) reads: Reads,
}

impl Scope {
    /// The scope of a sidecar in a namespace.
    pub(crate) fn for_sidecar(
        snapshot: &Snapshot,
        namespace: &str,
        sidecar: Option<Shared<Named<Sidecar>>>,
    ) -> Self {
        let written = sidecar
            .as_ref()
            .map_or(&[][..], |sidecar| &sidecar.spec.egress);
        let egress = if written.is_empty() {
            vec![everything(snapshot, namespace)]
        } else {
            written
                .iter()
                .map(|listener| limited(snapshot, namespace, listener))
                .collect()
        };
        let outbound = outbound_policy(snapshot, sidecar.as_deref().map(|named| &named.spec));
        let mut scope = Self {
            namespace: namespace.to_owned(),
            sidecar,
            egress,
            services: Vec::new(),
            by_host: BTreeMap::new(),
            outbound,
            reads: Reads::default(),
        };
        scope.collect(snapshot);
        scope
    }

    /// The scope of a gateway: everything exported to its namespace.
    pub(crate) fn for_gateway(snapshot: &Snapshot, namespace: &str) -> Self {
        let mut scope = Self {
            namespace: namespace.to_owned(),
            sidecar: None,
            egress: vec![everything(snapshot, namespace)],
            services: Vec::new(),
            by_host: BTreeMap::new(),
            outbound: OutboundPolicy::RegistryOnly,
            reads: Reads::default(),
        };
        scope.collect(snapshot);
        scope
    }

    /// The service a host name means here.
    pub(crate) fn service(&self, hostname: &str) -> Option<&Shared<Service>> {
        self.by_host
            .get(hostname)
            .map(|&index| &self.services[index])
    }

    /// A service of the mesh as it is seen here, if it is.
    pub(crate) fn service_of(&self, service: &Service) -> Option<&Shared<Service>> {
        let seen = self.service(&service.hostname)?;
        (seen.object == service.object).then_some(seen)
    }

    /// Whether the Sidecar says itself on which ports its workload is served.
    pub(crate) fn has_ingress(&self) -> bool {
        self.sidecar
            .as_ref()
            .is_some_and(|sidecar| !sidecar.spec.ingress.is_empty())
    }

    /// The listener whose routes serve a port: the first that is limited to it or to nothing.
    pub(crate) fn egress_for(&self, port: u32, bind: &str) -> Option<&EgressScope> {
        self.egress.iter().find(|egress| match egress.port() {
            None => true,
            Some(0) => {
                port == 0
                    && egress
                        .listener
                        .as_ref()
                        .is_some_and(|listener| listener.bind == bind)
            }
            Some(number) => number == port,
        })
    }

    fn collect(&mut self, snapshot: &Snapshot) {
        let mut found: Vec<Shared<Service>> = Vec::new();
        for egress in &self.egress {
            found.extend(egress.services.iter().cloned());
            for config in &egress.virtual_services {
                found.extend(
                    destinations(&config.spec)
                        .into_iter()
                        .filter_map(|host| snapshot.service_for(&host, &self.namespace).cloned()),
                );
            }
        }
        for service in found {
            self.add(service);
        }
        self.reads = self.reads();
    }

    /// What another snapshot has to have the same of, for the scope to be the same there. Rules are looked for where a service is.
    fn reads(&self) -> Reads {
        let mut reads = Reads::default();
        let own = self.services.iter().map(|service| &service.namespace);
        for namespace in own.chain([&self.namespace]) {
            if !reads.namespaces.contains(namespace) {
                reads.namespaces.insert(namespace.clone());
            }
        }
        for egress in &self.egress {
            match &egress.listener {
                None => reads.everything = true,
                Some(listener) => {
                    let imported = imports(listener, &self.namespace);
                    reads.everything |= imported.contains_key("*");
                    reads.namespaces.extend(imported.into_keys());
                }
            }
            let configs = egress.virtual_services.iter();
            let hosts = configs.flat_map(|config| destinations(&config.spec));
            reads.hosts.extend(hosts);
        }
        reads
    }

    /// Kubernetes' services win over others of the same name; else the first stays.
    fn add(&mut self, service: Shared<Service>) {
        match self.by_host.get(&service.hostname) {
            None => {
                self.by_host
                    .insert(service.hostname.clone(), self.services.len());
                self.services.push(service);
            }
            Some(&index) if service.registry < self.services[index].registry => {
                self.services[index] = service;
            }
            Some(&index) => self.restore_ports(index, &service),
        }
    }

    /// A listener limited to a port sees a service with that port alone; the workload as a whole sees all ports that any
    /// listener sees.
    fn restore_ports(&mut self, index: usize, other: &Shared<Service>) {
        let known = &self.services[index];
        if known.object != other.object || known.ports == other.ports {
            return;
        }
        let missing: Vec<_> = other
            .ports
            .iter()
            .filter(|port| known.port(port.number).is_none())
            .cloned()
            .collect();
        if !missing.is_empty() {
            let mut joined = (**known).clone();
            joined.ports.extend(missing);
            self.services[index] = Shared::new(joined);
        }
    }
}

fn outbound_policy(snapshot: &Snapshot, sidecar: Option<&Sidecar>) -> OutboundPolicy {
    let Some(policy) = sidecar.and_then(|sidecar| sidecar.outbound_traffic_policy.as_ref()) else {
        return snapshot.mesh().outbound.clone();
    };
    match (policy.mode, &policy.egress_proxy) {
        (OutboundTrafficPolicyMode::RegistryOnly, _) => OutboundPolicy::RegistryOnly,
        (OutboundTrafficPolicyMode::AllowAny, None) => OutboundPolicy::AllowAny,
        (OutboundTrafficPolicyMode::AllowAny, Some(proxy)) => {
            let port = proxy.port.as_ref().map_or(0, |port| port.number);
            let cluster = names::outbound_cluster(&proxy.subset, &proxy.host, port);
            OutboundPolicy::EgressProxy(cluster)
        }
    }
}

/// Everything exported to a namespace; of several services with one name, the namespace's own.
fn everything(snapshot: &Snapshot, namespace: &str) -> EgressScope {
    let visible = snapshot
        .services()
        .filter(|service| service.visibility.includes(namespace))
        .cloned()
        .collect();
    EgressScope::new(
        None,
        one_per_host(visible, namespace),
        mesh_virtual_services(snapshot, namespace),
    )
}

/// Virtual services for sidecars in Istio's order: those a namespace keeps to itself, those exported to some, those to all.
fn mesh_virtual_services(
    snapshot: &Snapshot,
    namespace: &str,
) -> Vec<Shared<VirtualServiceConfig>> {
    in_istios_order(
        snapshot.virtual_services(MESH_GATEWAY, namespace),
        namespace,
    )
}

fn in_istios_order<'a>(
    configs: impl Iterator<Item = &'a Shared<VirtualServiceConfig>>,
    namespace: &str,
) -> Vec<Shared<VirtualServiceConfig>> {
    let mut out: Vec<_> = configs.cloned().collect();
    out.sort_by_key(|config| match &config.visibility {
        Visibility::Namespaces(list) if list.len() == 1 && config.object.namespace == namespace => {
            0
        }
        Visibility::Namespaces(_) => 1,
        // A consumer's own route comes before the producer's.
        Visibility::Public
            if config.semantics == Semantics::Gateway && config.object.namespace == namespace =>
        {
            2
        }
        Visibility::Public | Visibility::None => 3,
    });
    out
}

fn one_per_host(services: Vec<Shared<Service>>, namespace: &str) -> Vec<Shared<Service>> {
    let mut chosen: BTreeMap<String, (bool, Shared<Service>)> = BTreeMap::new();
    for service in &services {
        let own = service.namespace == namespace;
        match chosen.get(&service.hostname) {
            Some((known_own, known))
                if *known_own >= own
                    && !(known.registry > service.registry && *known_own == own) => {}
            _ => {
                chosen.insert(service.hostname.clone(), (own, service.clone()));
            }
        }
    }
    services
        .into_iter()
        .filter(|service| {
            chosen
                .get(&service.hostname)
                .is_some_and(|(_, chosen)| chosen == service)
        })
        .collect()
}

/// The hosts a listener imports from one namespace.
#[derive(Debug, Default)]
struct Imports {
    included: Vec<String>,
    excluded: Vec<String>,
}

impl Imports {
    fn includes(&self, hostname: &str) -> bool {
        self.included
            .iter()
            .any(|host| host::is_subset(hostname, host))
    }

    fn excludes(&self, hostname: &str) -> bool {
        self.excluded
            .iter()
            .any(|host| host::is_subset(hostname, host))
    }
}

/// Reads `namespace/host`, `./host`, `*/host`, `~/*` and `~namespace/host`.
fn imports(listener: &IstioEgressListener, own: &str) -> BTreeMap<String, Imports> {
    let mut out: BTreeMap<String, Imports> = BTreeMap::new();
    for entry in &listener.hosts {
        let Some((namespace, name)) = entry.split_once('/') else {
            continue;
        };
        // `~/*` alone imports nothing; `~ns/host` takes something out.
        let (namespace, excluded) = match namespace.strip_prefix('~') {
            Some("") if listener.hosts.len() == 1 => continue,
            Some("") => ("*", true),
            Some(rest) => (rest, true),
            None => (namespace, false),
        };
        let namespace = if namespace == "." { own } else { namespace };
        let imports = out.entry(namespace.to_owned()).or_default();
        let list = if excluded {
            &mut imports.excluded
        } else {
            &mut imports.included
        };
        list.push(name.to_lowercase());
    }
    out
}

fn limited(snapshot: &Snapshot, namespace: &str, listener: &IstioEgressListener) -> EgressScope {
    let imports = imports(listener, namespace);
    let of = |ns: &str| [imports.get(ns), imports.get("*")].into_iter().flatten();
    // Of namespaces that nothing is imported from nothing is looked at: there may be thousands.
    let candidates = match imports.get("*") {
        Some(_) => snapshot.services().collect(),
        None => snapshot.services_of(imports.keys()),
    };
    let port = listener
        .port
        .as_ref()
        .filter(|port| port.number != 0 && Protocol::parse(&port.protocol) != Protocol::HttpProxy)
        .map(|port| port.number);
    let visible: Vec<Shared<Service>> = candidates
        .into_iter()
        .filter(|service| service.visibility.includes(namespace))
        .filter(|service| {
            !of(&service.namespace).any(|imports| imports.excludes(&service.hostname))
                && of(&service.namespace).any(|imports| imports.includes(&service.hostname))
        })
        .filter_map(|service| with_port(service, port))
        .collect();
    let configs = match imports.get("*") {
        Some(_) => mesh_virtual_services(snapshot, namespace),
        None => in_istios_order(
            snapshot.mesh_virtual_services_in(imports.keys(), namespace),
            namespace,
        ),
    };
    let virtual_services = configs
        .into_iter()
        .filter(|config| {
            config.spec.hosts.iter().any(|name| {
                let namespace = &config.object.namespace;
                !of(namespace).any(|imports| imports.excludes(name))
                    && of(namespace).any(|imports| {
                        imports
                            .included
                            .iter()
                            .any(|host| host::matches(name, host))
                    })
            })
        })
        .collect();
    EgressScope::new(
        Some(listener.clone()),
        one_per_host(visible, namespace),
        virtual_services,
    )
}

/// A service limited to a port; none if it has no such port.
fn with_port(service: &Shared<Service>, port: Option<u32>) -> Option<Shared<Service>> {
    let Some(number) = port else {
        return Some(service.clone());
    };
    let found = service.port(number)?;
    if service.ports.len() == 1 {
        return Some(service.clone());
    }
    let mut limited = (**service).clone();
    limited.ports = vec![found.clone()];
    Some(Shared::new(limited))
}

/// The hosts a virtual service sends traffic to.
pub(crate) fn destinations(spec: &VirtualService) -> BTreeSet<String> {
    let http = spec.http.iter().flat_map(|route| {
        let mirrors = route
            .mirrors
            .iter()
            .filter_map(|mirror| mirror.destination.as_ref());
        route
            .route
            .iter()
            .filter_map(|destination| destination.destination.as_ref())
            .chain(&route.mirror)
            .chain(mirrors)
    });
    let tcp = spec.tcp.iter().flat_map(|route| &route.route);
    let tls = spec.tls.iter().flat_map(|route| &route.route);
    let streams = tcp
        .chain(tls)
        .filter_map(|destination| destination.destination.as_ref());
    http.chain(streams)
        .map(|destination: &Destination| destination.host.clone())
        .collect()
}
