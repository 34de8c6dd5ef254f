//! Endpoints behind services: pods and WorkloadEntries by labels, slices and lists by name, addresses in ServiceEntries.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lateen_api::networking::{ServiceEntry, WorkloadEntry};
use lateen_api::value::IntOrString;
use lateen_api::{Kind, KindSpec, Resource, kube};

use crate::labels;
use crate::mesh::{Mesh, Settings};
use crate::model::{Endpoint, Health, Port, Registry, Resolution, Service};
use crate::names::ObjectRef;
use crate::pod::{Locality, Pod, PodRole};
use crate::security::{MtlsMode, PeerAuthIndex};
use crate::shared::Shared;

use super::live::{Behind, Pods};
use super::{Config, precedence, reference};

/// Says whether a workload speaks mutual TLS, where its labels do.
const TLS_MODE: &str = "security.istio.io/tlsMode";
/// Names the service an EndpointSlice is for.
const SLICE_SERVICE: &str = "kubernetes.io/service-name";

/// A SPIFFE identity in the mesh.
pub(super) fn spiffe(trust_domain: &str, namespace: &str, account: &str) -> String {
    format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}")
}

/// Kinds that say what is behind services.
const KINDS: [Kind; 5] = [
    kube::Service::KIND,
    ServiceEntry::KIND,
    WorkloadEntry::KIND,
    kube::EndpointSlice::KIND,
    kube::Endpoints::KIND,
];

/// Where the objects are that say what is behind each service. Places are places among the objects it keeps.
#[derive(Debug, Default)]
pub(super) struct Directory {
    /// Those of the kinds in [`KINDS`], in the snapshot's order.
    resources: Vec<Resource>,
    /// Of each service, by its own place.
    origins: Vec<Option<usize>>,
    /// WorkloadEntries by namespace, in order of precedence.
    workloads: BTreeMap<String, Vec<usize>>,
    /// By namespace and name of the service.
    slices: BTreeMap<(String, String), Vec<usize>>,
    lists: BTreeMap<(String, String), usize>,
    /// Services of each namespace.
    by_namespace: BTreeMap<String, Vec<usize>>,
    /// Services that name an address themselves, in a slice or a list.
    listed: BTreeMap<IpAddr, Vec<usize>>,
}

/// What does not depend on pods.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
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
    pub(super) fn new(resources: &[Resource], services: &[Shared<Service>]) -> Self {
        let reads = |resource: &&Resource| KINDS.contains(&resource.kind);
        let resources: Vec<Resource> = resources.iter().filter(reads).cloned().collect();
        let mut out = Self::default();
        let mut objects: BTreeMap<ObjectRef, usize> = BTreeMap::new();
        for place in places::<kube::Service>(&resources)
            .into_iter()
            .chain(places::<ServiceEntry>(&resources))
        {
            objects.insert(reference(&resources[place]), place);
        }
        for place in places::<WorkloadEntry>(&resources) {
            let namespace = resources[place].namespace().to_owned();
            out.workloads.entry(namespace).or_default().push(place);
        }
        for place in places::<kube::EndpointSlice>(&resources) {
            let resource = &resources[place];
            if let Some(service) = resource.meta.labels.get(SLICE_SERVICE) {
                let key = (resource.namespace().to_owned(), service.clone());
                out.slices.entry(key).or_default().push(place);
            }
        }
        for place in places::<kube::Endpoints>(&resources) {
            let resource = &resources[place];
            let key = (resource.namespace().to_owned(), resource.name().to_owned());
            out.lists.insert(key, place);
        }
        for (index, service) in services.iter().enumerate() {
            out.origins.push(objects.get(&service.object).copied());
            let of_namespace = out.by_namespace.entry(service.namespace.clone());
            of_namespace.or_default().push(index);
            for address in out.listed_addresses(&resources, service) {
                out.listed.entry(address).or_default().push(index);
            }
        }
        out.resources = resources;
        out
    }

    fn listed_addresses(&self, resources: &[Resource], service: &Service) -> Vec<IpAddr> {
        let key = (service.namespace.clone(), service.name.clone());
        let slices = self.slices.get(&key).into_iter().flatten();
        let sliced = slices
            .filter_map(|place| resources[*place].spec_as::<kube::EndpointSlice>())
            .flat_map(|slice| &slice.endpoints)
            .flat_map(|endpoint| &endpoint.addresses);
        let list = self.lists.get(&key);
        let listed = list
            .and_then(|place| resources[*place].spec_as::<kube::Endpoints>())
            .into_iter()
            .flat_map(|list| &list.subsets)
            .flat_map(|subset| &subset.addresses)
            .map(|address| &address.ip);
        let all = sliced.chain(listed);
        all.filter_map(|address| address.parse().ok()).collect()
    }

    /// The services of a namespace, by their places.
    pub(super) fn in_namespace(&self, namespace: &str) -> &[usize] {
        self.by_namespace.get(namespace).map_or(&[], Vec::as_slice)
    }

    /// The services that a pod may be behind.
    pub(super) fn services_of<'a>(
        &'a self,
        pod: &'a Pod,
        config: &'a Config,
    ) -> impl Iterator<Item = usize> + 'a {
        let selecting = self.in_namespace(&pod.namespace).iter().copied();
        let selecting = selecting.filter(|index| {
            let selector = config.context().selector(*index);
            selector.is_some_and(|selector| labels::is_subset(selector, &pod.labels))
        });
        let listed = pod.ips.iter().filter_map(|ip| self.listed.get(ip));
        selecting.chain(listed.flatten().copied())
    }
}

impl Config {
    /// Whether nothing but pods can make a difference between what is behind services here and there.
    pub(super) fn finds_endpoints_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.services, &other.services)
            && Arc::ptr_eq(&self.peer_authentication, &other.peer_authentication)
            && self.mesh == other.mesh
            && self.settings == other.settings
            && (Arc::ptr_eq(&self.directory, &other.directory)
                || self.directory.resources == other.directory.resources)
    }
}

/// The places of the objects of one kind, in order of precedence.
fn places<T: KindSpec>(resources: &[Resource]) -> Vec<usize> {
    let of_kind = resources.iter().enumerate();
    let mut out: Vec<usize> = of_kind
        .filter(|(_, resource)| resource.kind == T::KIND)
        .map(|(place, _)| place)
        .collect();
    out.sort_by(|a, b| precedence(&resources[*a]).cmp(&precedence(&resources[*b])));
    out
}

impl<'a> Context<'a> {
    fn origin<T: KindSpec>(self, index: usize) -> Option<&'a T> {
        let place = self.directory.origins.get(index).copied().flatten()?;
        self.directory.resources.get(place)?.spec_as::<T>()
    }

    /// The labels by which a service finds its workloads.
    fn selector(self, index: usize) -> Option<&'a BTreeMap<String, String>> {
        if let Some(service) = self.origin::<kube::Service>(index) {
            let selector = &service.spec.selector;
            return (!selector.is_empty()).then_some(selector);
        }
        let entry = self.origin::<ServiceEntry>(index)?;
        entry.workload_selector.as_ref().map(|s| &s.labels)
    }

    /// Whether the endpoints of a service are workloads of this mesh that it stands in front of.
    pub(super) fn leads_inside(self, index: usize, service: &Service) -> bool {
        match service.registry {
            Registry::Kubernetes => true,
            Registry::External => self.origin::<ServiceEntry>(index).is_some_and(|entry| {
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
    pub(super) fn behind(&self, index: usize, service: &Service) -> Behind {
        let mut ports = BTreeMap::new();
        let mut identities: BTreeSet<String> = service.subject_alt_names.iter().cloned().collect();
        for port in &service.ports {
            let mut found = self.endpoints(index, service, port);
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
    fn endpoints(&self, index: usize, service: &Service, port: &Port) -> Vec<Endpoint> {
        match service.registry {
            Registry::Kubernetes => self.kubernetes_endpoints(index, service, port),
            Registry::External => self.external_endpoints(index, service, port),
        }
    }

    fn kubernetes_endpoints(&self, index: usize, service: &Service, port: &Port) -> Vec<Endpoint> {
        let Some(written) = self.context.origin::<kube::Service>(index) else {
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
        for (resource, entry) in self.workloads_of(&service.namespace, &written.spec.selector) {
            let number = match &written_port.target_port {
                Some(IntOrString::Int(number)) => u32::try_from(*number).unwrap_or(port.number),
                _ => port.number,
            };
            let number = entry.ports.get(&port.name).copied().unwrap_or(number);
            out.push(self.workload_endpoint(resource, entry, number));
        }
        out
    }

    fn pods_of(
        &self,
        namespace: &str,
        selector: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a Pod> + use<'a> {
        let pods = self.pods.of(namespace);
        pods.filter(|pod| !pod.ips.is_empty() && labels::is_subset(selector, &pod.labels))
    }

    fn workloads_of(
        &self,
        namespace: &str,
        selector: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = (&'a Resource, &'a WorkloadEntry)> + use<'a> {
        let context = self.context;
        let places = context.directory.workloads.get(namespace);
        let resources = places
            .into_iter()
            .flatten()
            .map(move |place| &context.directory.resources[*place]);
        let workloads = resources.filter_map(|r| Some((r, r.spec_as::<WorkloadEntry>()?)));
        workloads.filter(|(resource, entry)| {
            let mut all = resource.meta.labels.clone();
            all.extend(entry.labels.clone());
            labels::is_subset(selector, &all)
        })
    }

    /// Endpoints in slices.
    fn sliced_endpoints(&self, service: &Service, port: &Port) -> Vec<Endpoint> {
        let context = self.context;
        let places = context.directory.slices.get(&key_of(service));
        let slices = places.into_iter().flatten().filter_map(|place| {
            context.directory.resources[*place].spec_as::<kube::EndpointSlice>()
        });
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
        let place = self.context.directory.lists.get(&key_of(service));
        let list = place.and_then(|place| {
            self.context.directory.resources[*place].spec_as::<kube::Endpoints>()
        });
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

    fn external_endpoints(&self, index: usize, service: &Service, port: &Port) -> Vec<Endpoint> {
        let Some(entry) = self.context.origin::<ServiceEntry>(index) else {
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
                |(resource, entry)| {
                    let number = entry.ports.get(&port.name).copied().unwrap_or(number);
                    self.workload_endpoint(resource, entry, number)
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

    fn workload_endpoint(&self, resource: &Resource, entry: &WorkloadEntry, port: u32) -> Endpoint {
        let mut all = resource.meta.labels.clone();
        all.extend(entry.labels.clone());
        Endpoint {
            workload: resource.name().to_owned(),
            ..self.described(entry, resource.namespace(), port, all)
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
fn key_of(service: &Service) -> (String, String) {
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
