//! Endpoints behind services: pods and WorkloadEntries by labels, slices and lists by name, addresses in ServiceEntries.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lateen_api::networking::{ServiceEntry, WorkloadEntry};
use lateen_api::value::IntOrString;
use lateen_api::{KindSpec, Resource, kube};
use lateen_envoy::SharedMap;

use crate::labels;
use crate::mesh::{Mesh, Settings};
use crate::model::{Endpoint, Health, Port, Registry, Resolution, Service};
use crate::pod::{Locality, Pod, PodRole};
use crate::security::{MtlsMode, PeerAuthIndex};
use crate::shared::Shared;

use super::base::Key;
use super::live::{Behind, Pods};
use super::objects::{ObjectChange, Objects};
use super::roster::{self, Place, Roster};
use super::selection::{Labelled, Labels};
use super::{Config, precedence, sorted};

/// Says whether a workload speaks mutual TLS, where its labels do.
const TLS_MODE: &str = "security.istio.io/tlsMode";
/// Names the service an EndpointSlice is for.
const SLICE_SERVICE: &str = "kubernetes.io/service-name";

/// A SPIFFE identity in the mesh.
pub(super) fn spiffe(trust_domain: &str, namespace: &str, account: &str) -> String {
    format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}")
}

/// Where the objects are that list what is behind services. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Directory {
    workloads: Arc<Workloads>,
    /// Those of each service, in order of precedence.
    slices: SharedMap<Key, Arc<[Resource]>>,
    lists: SharedMap<Key, Resource>,
    /// Services that name an address themselves, in a slice or a list.
    listed: SharedMap<IpAddr, Arc<[Place]>>,
}

/// A WorkloadEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Workload {
    written: Resource,
    /// The object's, and those it names itself, which win.
    labels: Labels,
}

/// Every WorkloadEntry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Workloads {
    /// In order of precedence.
    all: Vec<Workload>,
    /// Their indices.
    by_label: Labelled<usize>,
}

impl Workloads {
    fn new(resources: &Objects) -> Self {
        let workloads = sorted::<WorkloadEntry>(resources).into_iter();
        let workloads = workloads.map(|(written, entry)| {
            let mut labels = written.meta.labels.clone();
            labels.extend(entry.labels.clone());
            let written = written.clone();
            Workload { written, labels }
        });
        let all: Vec<Workload> = workloads.collect();
        let each = all.iter().enumerate();
        let each = each.map(|(at, workload)| (at, workload.written.namespace(), &workload.labels));
        let by_label = Labelled::new(each);
        Self { all, by_label }
    }

    /// Those of a namespace that are selected, in order of precedence.
    fn of<'a>(
        &'a self,
        namespace: &str,
        selector: &'a Labels,
    ) -> impl Iterator<Item = &'a Workload> + use<'a> {
        let having = self.by_label.with(namespace, selector);
        let all = having.is_none().then_some(&self.all).into_iter().flatten();
        let having = having.into_iter().flatten();
        let having = having.filter_map(|index| self.all.get(*index));
        let namespace = namespace.to_owned();
        having.chain(all).filter(move |workload| {
            workload.written.namespace() == namespace
                && labels::is_subset(selector, &workload.labels)
        })
    }
}

/// What does not depend on pods.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) roster: &'a Roster,
    pub(super) directory: &'a Directory,
    pub(super) settings: &'a Settings,
    pub(super) mesh: &'a Mesh,
    pub(super) peer_authentication: &'a PeerAuthIndex,
}

/// Everything that a search for endpoints reads.
pub(super) struct Sources<'a> {
    context: Context<'a>,
    pods: &'a Pods,
}

impl Directory {
    /// Of some services, found among resources.
    pub(super) fn new(resources: &Objects, roster: &Roster) -> Self {
        let mut slices: BTreeMap<Key, Vec<Resource>> = BTreeMap::new();
        for (resource, _) in sorted::<kube::EndpointSlice>(resources) {
            if let Some(key) = slice_key(resource) {
                slices.entry(key).or_default().push(resource.clone());
            }
        }
        let lists = sorted::<kube::Endpoints>(resources).into_iter();
        let mut out = Self {
            workloads: Arc::new(Workloads::new(resources)),
            slices: slices
                .into_iter()
                .map(|(k, list)| (k, list.into()))
                .collect(),
            lists: lists
                .map(|(resource, _)| (own_key(resource), resource.clone()))
                .collect(),
            listed: SharedMap::new(),
        };
        let mut listed: BTreeMap<IpAddr, Vec<Place>> = BTreeMap::new();
        if !(out.slices.is_empty() && out.lists.is_empty()) {
            for (place, service) in roster.placed() {
                for address in out.listed_addresses(&key_of(service)) {
                    listed.entry(address).or_default().push(place);
                }
            }
        }
        let listed = listed.into_iter().map(|(ip, places)| (ip, places.into()));
        out.listed = listed.collect();
        out
    }

    /// The same after some slices and lists have changed, and some services have; `keys` are those of all services concerned.
    pub(super) fn after(
        &self,
        last: &Roster,
        roster: &Roster,
        keys: &BTreeSet<Key>,
        slices: &[ObjectChange],
        lists: &[ObjectChange],
    ) -> Self {
        let mut next = self.clone();
        for change in slices {
            next.replace_slice(change);
        }
        for change in lists {
            if let Some(old) = &change.old {
                next.lists.remove(&own_key(old));
            }
            if let Some(new) = &change.new {
                next.lists.insert(own_key(new), new.clone());
            }
        }
        for key in keys {
            for address in self.listed_addresses(key) {
                for place in last.named(&key.0, &key.1) {
                    roster::remove(&mut next.listed, &address, place);
                }
            }
        }
        for key in keys {
            for address in next.listed_addresses(key) {
                for place in roster.named(&key.0, &key.1) {
                    roster::insert(&mut next.listed, &address, place);
                }
            }
        }
        next
    }

    fn replace_slice(&mut self, change: &ObjectChange) {
        let of_key = |slices: &SharedMap<Key, Arc<[Resource]>>, key: &Key| {
            slices.get(key).map_or(Vec::new(), |list| list.to_vec())
        };
        if let Some((old, key)) = change
            .old
            .as_ref()
            .and_then(|old| Some((old, slice_key(old)?)))
        {
            let mut list = of_key(&self.slices, &key);
            list.retain(|known| own_key(known) != own_key(old));
            match list.is_empty() {
                true => drop(self.slices.remove(&key)),
                false => drop(self.slices.insert(key, list.into())),
            }
        }
        if let Some((new, key)) = change
            .new
            .as_ref()
            .and_then(|new| Some((new, slice_key(new)?)))
        {
            let mut list = of_key(&self.slices, &key);
            list.push(new.clone());
            list.sort_by(|a, b| precedence(a).cmp(&precedence(b)));
            self.slices.insert(key, list.into());
        }
    }

    fn listed_addresses(&self, key: &Key) -> Vec<IpAddr> {
        let slices = self.slices.get(key).into_iter().flat_map(|list| &**list);
        let sliced = slices
            .filter_map(|resource| resource.spec_as::<kube::EndpointSlice>())
            .flat_map(|slice| &slice.endpoints)
            .flat_map(|endpoint| &endpoint.addresses);
        let list = self.lists.get(key);
        let listed = list
            .and_then(|resource| resource.spec_as::<kube::Endpoints>())
            .into_iter()
            .flat_map(|list| &list.subsets)
            .flat_map(|subset| &subset.addresses)
            .map(|address| &address.ip);
        let all = sliced.chain(listed);
        all.filter_map(|address| address.parse().ok()).collect()
    }
}

impl Config {
    /// Whether what is behind services is found alike here and there, services and lists of endpoints apart.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.peer_authentication, &other.peer_authentication)
            && self.mesh == other.mesh
            && self.settings == other.settings
    }

    /// Whether services and lists of endpoints are the same here and there.
    pub(super) fn lists_endpoints_as(&self, other: &Self) -> bool {
        let (base, other) = (&self.base, &other.base);
        base.roster.is_like(&other.roster) && base.directory == other.directory
    }
}

/// The service that a slice is for.
pub(super) fn slice_key(slice: &Resource) -> Option<Key> {
    let service = slice.meta.labels.get(SLICE_SERVICE)?;
    Some((slice.namespace().to_owned(), service.clone()))
}

fn own_key(resource: &Resource) -> Key {
    (resource.namespace().to_owned(), resource.name().to_owned())
}

impl<'a> Context<'a> {
    fn origin<T: KindSpec>(self, place: Place) -> Option<&'a T> {
        self.roster.origin(place)?.spec_as::<T>()
    }

    /// The services that a pod may be behind.
    pub(super) fn services_of(self, pod: &'a Pod) -> impl Iterator<Item = Place> + 'a {
        let selecting = self.roster.selecting(&pod.namespace, &pod.labels);
        let listed = pod.ips.iter();
        let listed = listed.filter_map(move |ip| self.directory.listed.get(ip));
        selecting.chain(listed.flat_map(|places| places.iter().copied()))
    }

    /// Whether the endpoints of a service are workloads of this mesh that it stands in front of.
    pub(super) fn leads_inside(self, place: Place, service: &Service) -> bool {
        match service.registry {
            Registry::Kubernetes => true,
            Registry::External => self.origin::<ServiceEntry>(place).is_some_and(|entry| {
                entry.workload_selector.is_some()
                    || (!entry.endpoints.is_empty() && !service.mesh_external)
            }),
        }
    }
}

/// An identity in the mesh's own trust domain is also accepted in its former ones.
fn expand(identity: &str, mesh: &Mesh) -> Vec<String> {
    let own = format!("spiffe://{}/", mesh.trust_domain);
    let mut out = vec![identity.to_owned()];
    if let Some(rest) = identity.strip_prefix(&own) {
        let aliases = mesh.trust_domain_aliases.iter();
        out.extend(aliases.map(|alias| format!("spiffe://{alias}/{rest}")));
    }
    out
}

impl<'a> Sources<'a> {
    pub(super) fn new(context: Context<'a>, pods: &'a Pods) -> Self {
        Self { context, pods }
    }

    /// What is behind a service.
    pub(super) fn behind(&self, place: Place, service: &Service) -> Behind {
        let mut ports = BTreeMap::new();
        let mut identities: BTreeSet<String> = service.subject_alt_names.iter().cloned().collect();
        for port in &service.ports {
            let mut found = self.endpoints(place, service, port);
            let known = found
                .iter()
                .filter_map(|endpoint| endpoint.identity.as_deref());
            identities.extend(known.flat_map(|id| expand(id, self.context.mesh)));
            found.sort();
            found.dedup();
            ports.insert(port.number, Shared::new(found));
        }
        Behind {
            pods: self.named_pods(service, &ports),
            ports,
            identities: identities.into_iter().collect(),
        }
    }

    /// Any port will do, as names have none.
    fn named_pods(
        &self,
        service: &Service,
        ports: &BTreeMap<u32, Shared<Vec<Endpoint>>>,
    ) -> Vec<(String, Vec<String>)> {
        if !service.is_headless() || service.registry != Registry::Kubernetes {
            return Vec::new();
        }
        let first = service
            .ports
            .first()
            .and_then(|port| ports.get(&port.number));
        let endpoints = first.iter().flat_map(|endpoints| endpoints.iter());
        endpoints
            .filter_map(|endpoint| {
                let ip = endpoint.addresses.first()?.parse().ok()?;
                let pod = self.pods.at(ip)?;
                Some((pod.name.clone(), endpoint.addresses.clone()))
            })
            .collect()
    }

    /// The endpoints of a port.
    fn endpoints(&self, place: Place, service: &Service, port: &Port) -> Vec<Endpoint> {
        match service.registry {
            Registry::Kubernetes => self.kubernetes_endpoints(place, service, port),
            Registry::External => self.external_endpoints(place, service, port),
        }
    }

    fn kubernetes_endpoints(&self, place: Place, service: &Service, port: &Port) -> Vec<Endpoint> {
        let Some(written) = self.context.origin::<kube::Service>(place) else {
            return Vec::new();
        };
        let Some(written_port) = written
            .spec
            .ports
            .iter()
            .find(|p| u32::from(p.port) == port.number)
        else {
            return Vec::new();
        };
        if written.spec.selector.is_empty() {
            let mut out = self.sliced_endpoints(service, port);
            if !self.context.directory.slices.contains_key(&key_of(service)) {
                out.extend(self.listed_endpoints(service, port));
            }
            return out;
        }
        // Kubernetes adds what somebody else sliced to what the selector finds; what is in a slice is known better.
        let mut out = self.sliced_endpoints(service, port);
        let sliced: BTreeSet<String> = out
            .iter()
            .flat_map(|endpoint| endpoint.addresses.iter().cloned())
            .collect();
        for pod in self.pods_of(&service.namespace, &written.spec.selector) {
            if pod.ips.iter().any(|ip| sliced.contains(&ip.to_string())) {
                continue;
            }
            let Some(number) = target_port(written_port, pod) else {
                continue;
            };
            out.push(self.pod_endpoint(pod, number, service.publish_not_ready));
        }
        for (workload, entry) in self.workloads_of(&service.namespace, &written.spec.selector) {
            let number = match &written_port.target_port {
                Some(IntOrString::Int(number)) => u32::try_from(*number).unwrap_or(port.number),
                _ => port.number,
            };
            let number = entry.ports.get(&port.name).copied().unwrap_or(number);
            out.push(self.workload_endpoint(workload, entry, number));
        }
        out
    }

    fn pods_of(
        &self,
        namespace: &str,
        selector: &'a Labels,
    ) -> impl Iterator<Item = &'a Pod> + use<'a> {
        let pods = self.pods.selected(namespace, selector);
        pods.filter(|pod| !pod.ips.is_empty())
    }

    fn workloads_of(
        &self,
        namespace: &str,
        selector: &'a Labels,
    ) -> impl Iterator<Item = (&'a Workload, &'a WorkloadEntry)> + use<'a> {
        let workloads = self.context.directory.workloads.of(namespace, selector);
        workloads.filter_map(|workload| Some((workload, workload.written.spec_as()?)))
    }

    /// Endpoints in slices.
    fn sliced_endpoints(&self, service: &Service, port: &Port) -> Vec<Endpoint> {
        let slices = self.context.directory.slices.get(&key_of(service));
        let slices = slices.into_iter().flat_map(|list| &**list);
        let slices = slices.filter_map(|resource| resource.spec_as::<kube::EndpointSlice>());
        let mut out = Vec::new();
        for slice in slices {
            let Some(number) = listed_port(&slice.ports, port) else {
                continue;
            };
            for from in &slice.endpoints {
                let ready = from.conditions.ready != Some(false)
                    && from.conditions.terminating != Some(true);
                let ready = ready || service.publish_not_ready;
                for address in &from.addresses {
                    out.push(self.listed(service, address, number, ready, &from.zone));
                }
            }
        }
        out
    }

    /// Endpoints in the older form.
    fn listed_endpoints(&self, service: &Service, port: &Port) -> Vec<Endpoint> {
        let list = self.context.directory.lists.get(&key_of(service));
        let list = list.and_then(|resource| resource.spec_as::<kube::Endpoints>());
        let mut out = Vec::new();
        for subset in list.into_iter().flat_map(|list| &list.subsets) {
            let Some(number) = listed_port(&subset.ports, port) else {
                continue;
            };
            for address in &subset.addresses {
                out.push(self.listed(service, &address.ip, number, true, ""));
            }
        }
        out
    }

    /// An endpoint known by its address: the pod that has it, if there is one.
    fn listed(
        &self,
        service: &Service,
        address: &str,
        port: u32,
        ready: bool,
        zone: &str,
    ) -> Endpoint {
        let ip: Option<IpAddr> = address.parse().ok();
        let pod = ip.and_then(|ip| self.pods.at(ip));
        if let Some(pod) = pod {
            return Endpoint {
                health: if ready {
                    health(pod, true)
                } else {
                    Health::Unhealthy
                },
                ..self.pod_endpoint(pod, port, true)
            };
        }
        Endpoint {
            addresses: vec![address.to_owned()],
            port,
            weight: 1,
            health: if ready {
                Health::Healthy
            } else {
                Health::Unhealthy
            },
            namespace: service.namespace.clone(),
            locality: Locality {
                zone: zone.to_owned(),
                ..Locality::default()
            },
            network: self.context.settings.network.clone(),
            cluster_id: self.context.settings.cluster_id.clone(),
            ..Endpoint::default()
        }
    }

    fn external_endpoints(&self, place: Place, service: &Service, port: &Port) -> Vec<Endpoint> {
        let Some(entry) = self.context.origin::<ServiceEntry>(place) else {
            return Vec::new();
        };
        let number = if port.target == 0 {
            port.number
        } else {
            port.target
        };
        if let Some(selector) = &entry.workload_selector {
            let mut out: Vec<_> = self
                .pods_of(&service.namespace, &selector.labels)
                .map(|pod| self.pod_endpoint(pod, number, false))
                .collect();
            out.extend(self.workloads_of(&service.namespace, &selector.labels).map(
                |(workload, entry)| {
                    let number = entry.ports.get(&port.name).copied().unwrap_or(number);
                    self.workload_endpoint(workload, entry, number)
                },
            ));
            return out;
        }
        if entry.endpoints.is_empty() {
            return self.own_name(service, number).into_iter().collect();
        }
        entry
            .endpoints
            .iter()
            .map(|from| {
                let number = from.ports.get(&port.name).copied().unwrap_or(number);
                self.inline_endpoint(service, from, number)
            })
            .collect()
    }

    /// A name that DNS resolves is its own endpoint.
    fn own_name(&self, service: &Service, port: u32) -> Option<Endpoint> {
        let resolves = matches!(
            service.resolution,
            Resolution::Dns | Resolution::DnsRoundRobin
        );
        (resolves && !service.is_wildcard()).then(|| Endpoint {
            addresses: vec![service.hostname.clone()],
            port,
            weight: 1,
            namespace: service.namespace.clone(),
            cluster_id: self.context.settings.cluster_id.clone(),
            ..Endpoint::default()
        })
    }

    fn pod_endpoint(&self, pod: &Pod, port: u32, publish_not_ready: bool) -> Endpoint {
        let mode = pod.labels.get(TLS_MODE).map(String::as_str);
        let capable = match pod.role {
            PodRole::Plain => false,
            PodRole::Sidecar => mode != Some("disabled"),
            // Its ports speak what its Gateways say.
            PodRole::Gateway => mode == Some("istio"),
        };
        Endpoint {
            addresses: pod.ips.iter().map(ToString::to_string).collect(),
            port,
            identity: pod.has_proxy().then(|| {
                spiffe(
                    &self.context.mesh.trust_domain,
                    &pod.namespace,
                    &pod.service_account,
                )
            }),
            locality: pod.locality.clone(),
            weight: 1,
            health: health(pod, publish_not_ready),
            mtls_capable: capable,
            mtls_accepted: self.accepts_mtls(&pod.namespace, &pod.labels, port),
            workload: if pod.workload_name.is_empty() {
                pod.name.clone()
            } else {
                pod.workload_name.clone()
            },
            namespace: pod.namespace.clone(),
            network: pod.network.clone(),
            cluster_id: self.context.settings.cluster_id.clone(),
            labels: pod.labels.clone(),
        }
    }

    fn workload_endpoint(&self, workload: &Workload, entry: &WorkloadEntry, port: u32) -> Endpoint {
        let (written, labels) = (&workload.written, workload.labels.clone());
        Endpoint {
            workload: written.name().to_owned(),
            ..self.described(entry, written.namespace(), port, labels)
        }
    }

    fn inline_endpoint(&self, service: &Service, entry: &WorkloadEntry, port: u32) -> Endpoint {
        Endpoint {
            workload: service.name.clone(),
            ..self.described(entry, &service.namespace, port, entry.labels.clone())
        }
    }

    fn described(
        &self,
        entry: &WorkloadEntry,
        namespace: &str,
        port: u32,
        labels: BTreeMap<String, String>,
    ) -> Endpoint {
        let has_account = !entry.service_account.is_empty();
        let capable = labels
            .get(TLS_MODE)
            .map_or(has_account, |mode| mode == "istio");
        Endpoint {
            addresses: vec![entry.address.clone()],
            port,
            identity: has_account.then(|| {
                spiffe(
                    &self.context.mesh.trust_domain,
                    namespace,
                    &entry.service_account,
                )
            }),
            locality: Locality::parse(&entry.locality),
            weight: entry.weight.max(1),
            mtls_capable: capable,
            mtls_accepted: self.accepts_mtls(namespace, &labels, port),
            namespace: namespace.to_owned(),
            network: entry.network.clone(),
            cluster_id: self.context.settings.cluster_id.clone(),
            labels,
            ..Endpoint::default()
        }
    }

    fn accepts_mtls(&self, namespace: &str, labels: &BTreeMap<String, String>, port: u32) -> bool {
        self.context
            .peer_authentication
            .effective(namespace, labels)
            .port(port)
            != MtlsMode::Disable
    }
}

/// Namespace and name, the key of lists of endpoints.
fn key_of(service: &Service) -> Key {
    (service.namespace.clone(), service.name.clone())
}

/// A pod that is being ended keeps its place behind its services, so that its own sidecar goes on serving what it has; it is
/// only not sent to clients.
fn health(pod: &Pod, publish_not_ready: bool) -> Health {
    if pod.terminating {
        Health::Terminating
    } else if pod.ready || publish_not_ready {
        Health::Healthy
    } else {
        Health::Unhealthy
    }
}

/// The container port a service port means for a pod; none if the pod has no port of the name.
fn target_port(port: &kube::ServicePort, pod: &Pod) -> Option<u32> {
    match &port.target_port {
        Some(IntOrString::String(name)) => match pod.ports.get(name) {
            Some(number) => Some(u32::from(*number)),
            None => name.parse().ok(),
        },
        Some(IntOrString::Int(number)) if *number > 0 => u32::try_from(*number).ok(),
        _ => Some(u32::from(port.port)),
    }
}

/// The listed port of the same name, or the only one.
fn listed_port(ports: &[kube::EndpointPort], port: &Port) -> Option<u32> {
    let by_name = ports.iter().find(|listed| listed.name == port.name);
    by_name
        .or(if ports.len() == 1 {
            ports.first()
        } else {
            None
        })?
        .port
        .map(u32::from)
}
