//! Endpoints behind services: pods and WorkloadEntries by labels, slices and lists by name, addresses in ServiceEntries.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lateen_api::networking::{ServiceEntry, WorkloadEntry};
use lateen_api::value::IntOrString;
use lateen_api::{Resource, kube};

use crate::labels;
use crate::mesh::Mesh;
use crate::model::{Endpoint, Health, Port, Registry, Resolution, Service};
use crate::names::ObjectRef;
use crate::pod::{Locality, Pod, PodRole};
use crate::security::{MtlsMode, PeerAuthIndex};
use crate::shared::Shared;

use super::{ServiceKey, ServiceTarget, SnapshotInputs, reference, sorted};

/// Says whether a workload speaks mutual TLS, where its labels do.
const TLS_MODE: &str = "security.istio.io/tlsMode";
/// Names the service an EndpointSlice is for.
const SLICE_SERVICE: &str = "kubernetes.io/service-name";

/// A SPIFFE identity in the mesh.
pub(super) fn spiffe(trust_domain: &str, namespace: &str, account: &str) -> String {
    format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}")
}

/// What is behind services.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) endpoints: BTreeMap<ServiceKey, BTreeMap<u32, Shared<Vec<Endpoint>>>>,
    pub(super) identities: BTreeMap<ServiceKey, Vec<String>>,
    pub(super) targets: BTreeMap<IpAddr, Vec<ServiceTarget>>,
}

/// Everything that a search for endpoints reads.
struct Sources<'a> {
    inputs: &'a SnapshotInputs,
    mesh: &'a Mesh,
    peer_authentication: &'a PeerAuthIndex,
    pods: BTreeMap<&'a str, Vec<&'a Pod>>,
    pods_by_ip: BTreeMap<IpAddr, &'a Pod>,
    workloads: BTreeMap<&'a str, Vec<(&'a Resource, &'a WorkloadEntry)>>,
    kubernetes: BTreeMap<ObjectRef, &'a kube::Service>,
    entries: BTreeMap<ObjectRef, &'a ServiceEntry>,
    slices: BTreeMap<(&'a str, &'a str), Vec<&'a kube::EndpointSlice>>,
    lists: BTreeMap<(&'a str, &'a str), &'a kube::Endpoints>,
}

/// Finds the endpoints of every service.
pub(super) fn registry(
    inputs: &SnapshotInputs,
    mesh: &Mesh,
    services: &[Shared<Service>],
    peer_authentication: &PeerAuthIndex,
) -> Found {
    let sources = Sources::new(inputs, mesh, peer_authentication);
    let mut out = Found::default();
    for service in services {
        let mut by_port = BTreeMap::new();
        let mut identities: BTreeSet<String> = service.subject_alt_names.iter().cloned().collect();
        for port in &service.ports {
            let mut found = sources.endpoints(service, port);
            for (endpoint, _) in &found {
                identities.extend(endpoint.identity.iter().flat_map(|id| expand(id, mesh)));
            }
            for (endpoint, _) in found.iter().filter(|(_, inside)| *inside) {
                record_targets(&mut out.targets, service, port, endpoint);
            }
            found.sort();
            found.dedup();
            let endpoints = found.into_iter().map(|(endpoint, _)| endpoint).collect();
            by_port.insert(port.number, Shared::new(endpoints));
        }
        let key = (service.namespace.clone(), service.hostname.clone());
        out.identities
            .insert(key.clone(), identities.into_iter().collect());
        out.endpoints.insert(key, by_port);
    }
    out
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

fn record_targets(
    targets: &mut BTreeMap<IpAddr, Vec<ServiceTarget>>,
    service: &Shared<Service>,
    port: &Port,
    endpoint: &Endpoint,
) {
    for address in endpoint
        .addresses
        .iter()
        .filter_map(|address| address.parse().ok())
    {
        let list = targets.entry(address).or_default();
        let target = ServiceTarget {
            service: service.clone(),
            port: port.clone(),
            target: endpoint.port,
        };
        if !list.contains(&target) {
            list.push(target);
        }
    }
}

impl<'a> Sources<'a> {
    fn new(
        inputs: &'a SnapshotInputs,
        mesh: &'a Mesh,
        peer_authentication: &'a PeerAuthIndex,
    ) -> Self {
        let resources = &inputs.resources;
        let mut pods: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
        for pod in inputs.pods.iter().filter(|pod| !pod.ips.is_empty()) {
            pods.entry(&pod.namespace).or_default().push(pod);
        }
        let mut workloads: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (resource, entry) in sorted::<WorkloadEntry>(resources) {
            workloads
                .entry(resource.namespace())
                .or_default()
                .push((resource, entry));
        }
        let mut slices: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (resource, slice) in sorted::<kube::EndpointSlice>(resources) {
            if let Some(service) = resource.meta.labels.get(SLICE_SERVICE) {
                slices
                    .entry((resource.namespace(), service.as_str()))
                    .or_default()
                    .push(slice);
            }
        }
        Self {
            inputs,
            mesh,
            peer_authentication,
            pods_by_ip: inputs
                .pods
                .iter()
                .flat_map(|pod| pod.ips.iter().map(move |ip| (*ip, pod)))
                .collect(),
            pods,
            workloads,
            slices,
            kubernetes: sorted::<kube::Service>(resources)
                .into_iter()
                .map(|(resource, service)| (reference(resource), service))
                .collect(),
            entries: sorted::<ServiceEntry>(resources)
                .into_iter()
                .map(|(resource, entry)| (reference(resource), entry))
                .collect(),
            lists: sorted::<kube::Endpoints>(resources)
                .into_iter()
                .map(|(resource, list)| ((resource.namespace(), resource.name()), list))
                .collect(),
        }
    }

    /// The endpoints of a port, each with whether it is a workload of this mesh that the service stands in front of.
    fn endpoints(&self, service: &Service, port: &Port) -> Vec<(Endpoint, bool)> {
        match service.registry {
            Registry::Kubernetes => self.kubernetes_endpoints(service, port),
            Registry::External => self.external_endpoints(service, port),
        }
    }

    fn kubernetes_endpoints(&self, service: &Service, port: &Port) -> Vec<(Endpoint, bool)> {
        let Some(written) = self.kubernetes.get(&service.object) else {
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
            if !self.slices.contains_key(&key_of(service)) {
                out.extend(self.listed_endpoints(service, port));
            }
            return out;
        }
        // Kubernetes adds what somebody else sliced to what the selector finds; what is in a slice is known better.
        let mut out = self.sliced_endpoints(service, port);
        let sliced: BTreeSet<String> = out
            .iter()
            .flat_map(|(endpoint, _)| endpoint.addresses.iter().cloned())
            .collect();
        for pod in self.pods_of(&service.namespace, &written.spec.selector) {
            if pod.ips.iter().any(|ip| sliced.contains(&ip.to_string())) {
                continue;
            }
            let Some(number) = target_port(written_port, pod) else {
                continue;
            };
            out.push((
                self.pod_endpoint(pod, number, service.publish_not_ready),
                true,
            ));
        }
        for (resource, entry) in self.workloads_of(&service.namespace, &written.spec.selector) {
            let number = match &written_port.target_port {
                Some(IntOrString::Int(number)) => u32::try_from(*number).unwrap_or(port.number),
                _ => port.number,
            };
            let number = entry.ports.get(&port.name).copied().unwrap_or(number);
            out.push((self.workload_endpoint(resource, entry, number), true));
        }
        out
    }

    fn pods_of(
        &self,
        namespace: &str,
        selector: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a Pod> + use<'a> {
        let pods = self.pods.get(namespace).cloned().unwrap_or_default();
        pods.into_iter()
            .filter(|pod| labels::is_subset(selector, &pod.labels))
    }

    fn workloads_of(
        &self,
        namespace: &str,
        selector: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = (&'a Resource, &'a WorkloadEntry)> + use<'a> {
        let workloads = self.workloads.get(namespace).cloned().unwrap_or_default();
        workloads.into_iter().filter(|(resource, entry)| {
            let mut all = resource.meta.labels.clone();
            all.extend(entry.labels.clone());
            labels::is_subset(selector, &all)
        })
    }

    /// Endpoints in slices.
    fn sliced_endpoints(&self, service: &Service, port: &Port) -> Vec<(Endpoint, bool)> {
        let mut out = Vec::new();
        for slice in self.slices.get(&key_of(service)).into_iter().flatten() {
            let Some(number) = listed_port(&slice.ports, port) else {
                continue;
            };
            for from in &slice.endpoints {
                let ready = from.conditions.ready != Some(false)
                    && from.conditions.terminating != Some(true);
                let ready = ready || service.publish_not_ready;
                for address in &from.addresses {
                    out.push((
                        self.listed(service, address, number, ready, &from.zone),
                        true,
                    ));
                }
            }
        }
        out
    }

    /// Endpoints in the older form.
    fn listed_endpoints(&self, service: &Service, port: &Port) -> Vec<(Endpoint, bool)> {
        let mut out = Vec::new();
        for subset in self
            .lists
            .get(&key_of(service))
            .into_iter()
            .flat_map(|list| &list.subsets)
        {
            let Some(number) = listed_port(&subset.ports, port) else {
                continue;
            };
            for address in &subset.addresses {
                out.push((self.listed(service, &address.ip, number, true, ""), true));
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
        let pod = ip.and_then(|ip| self.pods_by_ip.get(&ip));
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
            network: self.inputs.settings.network.clone(),
            cluster_id: self.inputs.settings.cluster_id.clone(),
            ..Endpoint::default()
        }
    }

    fn external_endpoints(&self, service: &Service, port: &Port) -> Vec<(Endpoint, bool)> {
        let Some(entry) = self.entries.get(&service.object) else {
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
                .map(|pod| (self.pod_endpoint(pod, number, false), true))
                .collect();
            out.extend(self.workloads_of(&service.namespace, &selector.labels).map(
                |(resource, entry)| {
                    let number = entry.ports.get(&port.name).copied().unwrap_or(number);
                    (self.workload_endpoint(resource, entry, number), true)
                },
            ));
            return out;
        }
        if entry.endpoints.is_empty() {
            return self
                .own_name(service, number)
                .into_iter()
                .map(|e| (e, false))
                .collect();
        }
        entry
            .endpoints
            .iter()
            .map(|from| {
                let number = from.ports.get(&port.name).copied().unwrap_or(number);
                (
                    self.inline_endpoint(service, from, number),
                    !service.mesh_external,
                )
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
            cluster_id: self.inputs.settings.cluster_id.clone(),
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
                    &self.mesh.trust_domain,
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
            cluster_id: self.inputs.settings.cluster_id.clone(),
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
            identity: has_account
                .then(|| spiffe(&self.mesh.trust_domain, namespace, &entry.service_account)),
            locality: Locality::parse(&entry.locality),
            weight: entry.weight.max(1),
            mtls_capable: capable,
            mtls_accepted: self.accepts_mtls(namespace, &labels, port),
            namespace: namespace.to_owned(),
            network: entry.network.clone(),
            cluster_id: self.inputs.settings.cluster_id.clone(),
            labels,
            ..Endpoint::default()
        }
    }

    fn accepts_mtls(&self, namespace: &str, labels: &BTreeMap<String, String>, port: u32) -> bool {
        self.peer_authentication
            .effective(namespace, labels)
            .port(port)
            != MtlsMode::Disable
    }
}

/// Namespace and name, the key of lists of endpoints.
fn key_of(service: &Service) -> (&str, &str) {
    (&service.namespace, &service.name)
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
