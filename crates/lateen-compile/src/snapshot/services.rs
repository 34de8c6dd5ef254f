//! Services from Kubernetes Services and ServiceEntries.

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::networking::{Location, Resolution as EntryResolution, ServiceEntry};
use lateen_api::{Diagnostic, Resource, kube};

use crate::diagnostics::{DUPLICATE_SERVICE, on_resource};
use crate::mesh::Mesh;
use crate::model::{Distribution, Port, Registry, Resolution, Service, Visibility};
use crate::protocol::Protocol;

use super::ownership::Owners;
use super::roster::{Aliases, Listed, Roster};
use super::{Inputs, reference, sorted};

/// `.`-separated annotation and label names this file reads.
const EXPORT_TO: &str = "networking.istio.io/exportTo";
const CANONICAL_ACCOUNTS: &str = "alpha.istio.io/canonical-serviceaccounts";
const KUBERNETES_ACCOUNTS: &str = "alpha.istio.io/kubernetes-serviceaccounts";
const AUTO_ALLOCATE: &str = "networking.istio.io/enable-autoallocate-ip";
const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

/// Every service, oldest first, then by namespace and name.
pub(super) fn services(inputs: &Inputs, mesh: &Mesh, owners: &Owners) -> (Listed, Vec<Diagnostic>) {
    let mut found: Vec<(&Resource, Service)> = Vec::new();
    for (resource, service) in sorted::<kube::Service>(&inputs.resources) {
        found.push((resource, kubernetes(resource, service, inputs, mesh)));
    }
    let mut narrowed = Vec::new();
    for (resource, entry) in sorted::<ServiceEntry>(&inputs.resources) {
        let visibility = Visibility::parse(
            &entry.export_to,
            resource.namespace(),
            &inputs.mesh.default_service_export_to,
        );
        let hosts: Vec<String> = entry.hosts.iter().map(|host| host.to_lowercase()).collect();
        let visibility = owners.visibility(resource, &hosts, visibility, &mut narrowed);
        found.extend(
            external(resource, entry, &visibility)
                .into_iter()
                .map(|s| (resource, s)),
        );
    }
    let written = found.iter().filter(|(_, s)| is_kubernetes(s)).count();
    let mut diagnostics = drop_duplicates(&mut found);
    let has_twins = found.iter().filter(|(_, s)| is_kubernetes(s)).count() < written;
    diagnostics.append(&mut narrowed);
    found.sort_by(|(a, x), (b, y)| order(a, x).cmp(&order(b, y)));
    let found = found
        .into_iter()
        .map(|(resource, service)| (resource.clone(), service));
    let mut services: Vec<(Resource, Service)> = found.collect();
    allocate(&mut services, inputs.settings.dual_stack);
    let aliases = link_aliases(&mut services);
    let listed = Listed {
        services,
        aliases,
        has_twins,
    };
    (listed, diagnostics)
}

/// What a Service has become among others that have not changed. `None` if that cannot be told from it alone: an alias changes another.
pub(super) fn one(
    resource: &Resource,
    inputs: &Inputs,
    mesh: &Mesh,
    roster: &Roster,
) -> Option<Service> {
    let written: &kube::Service = resource.spec_as()?;
    let mut service = kubernetes(resource, written, inputs, mesh);
    service.aliases = roster.aliases_of(&service.hostname);
    service.external_name.is_none().then_some(service)
}

/// Whether an object is a Service that stands for another name.
pub(super) fn is_alias(resource: &Resource) -> bool {
    let service: Option<&kube::Service> = resource.spec_as();
    service.is_some_and(|service| service.spec.r#type == "ExternalName")
}

fn is_kubernetes(service: &Service) -> bool {
    service.registry == Registry::Kubernetes
}

/// When it was written, where, and what it is called.
type Order<'a> = (&'a str, Registry, &'a str, &'a str, &'a str);

/// What orders services.
pub(super) fn order<'a>(resource: &'a Resource, service: &'a Service) -> Order<'a> {
    (
        resource.meta.creation_timestamp.as_str(),
        service.registry,
        service.namespace.as_str(),
        service.name.as_str(),
        service.hostname.as_str(),
    )
}

/// One service per host, namespace and registry. Of ServiceEntries with the same host in one namespace the ports are joined,
/// as Istio does; anything else that clashes loses to the first.
fn drop_duplicates(found: &mut Vec<(&Resource, Service)>) -> Vec<Diagnostic> {
    let mut seen: BTreeMap<(String, String, Registry), usize> = BTreeMap::new();
    let mut kept: Vec<(&Resource, Service)> = Vec::new();
    let mut diagnostics = Vec::new();
    for (resource, service) in found.drain(..) {
        let key = (
            service.namespace.clone(),
            service.hostname.clone(),
            service.registry,
        );
        let Some(&index) = seen.get(&key) else {
            seen.insert(key, kept.len());
            kept.push((resource, service));
            continue;
        };
        let known = &mut kept[index].1;
        if known.resolution == service.resolution && known.mesh_external == service.mesh_external {
            let new: Vec<Port> = service
                .ports
                .into_iter()
                .filter(|port| known.port(port.number).is_none())
                .collect();
            known.ports.extend(new);
            let addresses: Vec<String> = service
                .addresses
                .into_iter()
                .filter(|address| !known.addresses.contains(address))
                .collect();
            known.addresses.extend(addresses);
            known.auto_addresses.extend(service.auto_addresses);
        } else {
            let message = format!(
                "host `{}` is already declared by {} with another resolution or location",
                service.hostname, known.object
            );
            diagnostics.push(
                on_resource(DUPLICATE_SERVICE, resource, "spec.hosts", message)
                    .effect("the host as declared first is used")
                    .fix("declare a host in one ServiceEntry"),
            );
        }
    }
    *found = kept;
    diagnostics
}

fn text(value: &str) -> Option<&str> {
    (!value.is_empty()).then_some(value)
}

fn kubernetes(
    resource: &Resource,
    service: &kube::Service,
    inputs: &Inputs,
    mesh: &Mesh,
) -> Service {
    let (namespace, name) = (resource.namespace(), resource.name());
    let spec = &service.spec;
    let headless = spec.cluster_ip == "None";
    let external_name = (spec.r#type == "ExternalName")
        .then(|| spec.external_name.trim_end_matches('.').to_lowercase());
    let external_name = external_name.filter(|name| !name.is_empty());
    let resolution = if external_name.is_some() {
        Resolution::Alias
    } else if headless {
        Resolution::Passthrough
    } else {
        Resolution::Static
    };
    let annotation = |key: &str| resource.meta.annotations.get(key);
    let export_to: Vec<String> = annotation(EXPORT_TO)
        .map(|list| list.split(',').map(|ns| ns.trim().to_owned()).collect())
        .unwrap_or_default();
    Service {
        hostname: format!("{name}.{namespace}.svc.{}", mesh.domain_suffix),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        registry: Registry::Kubernetes,
        ports: spec.ports.iter().map(kubernetes_port).collect(),
        addresses: if resolution == Resolution::Static {
            cluster_ips(resource, spec, inputs)
        } else {
            Vec::new()
        },
        auto_addresses: Vec::new(),
        resolution,
        mesh_external: external_name.is_some(),
        visibility: Visibility::parse(
            &export_to,
            namespace,
            &inputs.mesh.default_service_export_to,
        ),
        labels: resource.meta.labels.clone(),
        external_name,
        aliases: Vec::new(),
        subject_alt_names: accounts(resource, namespace, mesh),
        has_selector: !spec.selector.is_empty(),
        publish_not_ready: spec.publish_not_ready_addresses,
        distribution: distribution(
            annotation(TRAFFIC_DISTRIBUTION).unwrap_or(&spec.traffic_distribution),
        ),
        object: reference(resource),
    }
}

fn distribution(text: &str) -> Distribution {
    match text {
        "PreferClose" | "PreferSameZone" => Distribution::SameZone,
        "PreferSameNode" => Distribution::SameNode,
        _ => Distribution::Any,
    }
}

fn kubernetes_port(port: &kube::ServicePort) -> Port {
    let number = u32::from(port.port);
    Port {
        name: port.name.clone(),
        number,
        protocol: Protocol::of_service_port(
            number,
            &port.name,
            text(&port.protocol),
            text(&port.app_protocol),
        ),
        target: 0,
    }
}

/// The addresses in the object, else those allocated outside.
fn cluster_ips(resource: &Resource, spec: &kube::ServiceSpec, inputs: &Inputs) -> Vec<String> {
    let mut written: Vec<String> = spec
        .cluster_ips
        .iter()
        .filter(|ip| !ip.is_empty())
        .cloned()
        .collect();
    if written.is_empty() && !spec.cluster_ip.is_empty() {
        written.push(spec.cluster_ip.clone());
    }
    if !written.is_empty() {
        return written;
    }
    let key = (resource.namespace().to_owned(), resource.name().to_owned());
    inputs
        .cluster_ips
        .get(&key)
        .map(|ips| ips.iter().map(ToString::to_string).collect())
        .unwrap_or_default()
}

/// Identities that annotations add to those of the endpoints.
fn accounts(resource: &Resource, namespace: &str, mesh: &Mesh) -> Vec<String> {
    let list = |key: &str| -> Vec<String> {
        resource
            .meta
            .annotations
            .get(key)
            .map(|list| list.split(',').map(|item| item.trim().to_owned()).collect())
            .unwrap_or_default()
    };
    let mut out = list(CANONICAL_ACCOUNTS);
    out.extend(
        list(KUBERNETES_ACCOUNTS)
            .iter()
            .map(|account| super::endpoints::spiffe(&mesh.trust_domain, namespace, account)),
    );
    out.retain(|account| !account.is_empty());
    out
}

/// One service per host of a ServiceEntry.
fn external(resource: &Resource, entry: &ServiceEntry, visibility: &Visibility) -> Vec<Service> {
    let namespace = resource.namespace();
    let resolution = match entry.resolution {
        EntryResolution::None => Resolution::Passthrough,
        EntryResolution::Static => Resolution::Static,
        EntryResolution::Dns => Resolution::Dns,
        EntryResolution::DnsRoundRobin => Resolution::DnsRoundRobin,
        EntryResolution::DynamicDns => Resolution::DynamicDns,
    };
    let ports: Vec<Port> = entry
        .ports
        .iter()
        .map(|port| Port {
            name: port.name.clone(),
            number: port.number,
            protocol: Protocol::parse(&port.protocol),
            target: port.target_port,
        })
        .collect();
    let opted_out = resource
        .meta
        .labels
        .get(AUTO_ALLOCATE)
        .is_some_and(|value| value == "false");
    let hosts: BTreeSet<String> = entry.hosts.iter().map(|host| host.to_lowercase()).collect();
    hosts
        .into_iter()
        .map(|hostname| Service {
            namespace: namespace.to_owned(),
            name: resource.name().to_owned(),
            registry: Registry::External,
            ports: ports.clone(),
            addresses: entry.addresses.clone(),
            // A mark for `allocate`: an empty address, for each entry that the host is in, is to be filled in.
            auto_addresses: if wants_address(&hostname, entry, resolution) && !opted_out {
                vec![String::new()]
            } else {
                Vec::new()
            },
            resolution,
            mesh_external: entry.location == Location::MeshExternal,
            visibility: visibility.clone(),
            labels: resource.meta.labels.clone(),
            external_name: None,
            aliases: Vec::new(),
            subject_alt_names: entry.subject_alt_names.clone(),
            has_selector: entry.workload_selector.is_some(),
            publish_not_ready: false,
            distribution: distribution(
                resource
                    .meta
                    .annotations
                    .get(TRAFFIC_DISTRIBUTION)
                    .map_or("", String::as_str),
            ),
            object: reference(resource),
            hostname,
        })
        .collect()
}

/// An address is allocated for a name that has none and that something has to be sent to.
fn wants_address(hostname: &str, entry: &ServiceEntry, resolution: Resolution) -> bool {
    entry.addresses.is_empty()
        && !crate::host::is_wildcard(hostname)
        && !matches!(resolution, Resolution::Passthrough | Resolution::DynamicDns)
}

/// Places for allocated addresses, and the prime below their number: Istio's, whose allocator by hashes
/// (`PILOT_ENABLE_IP_AUTOALLOCATE=false`) this agrees with.
const PLACES: u32 = 256 * 254;
const PRIME: u32 = 65_011;

/// Gives addresses to names that want one. A name's place follows from its hash, so that adding another entry does not move it
/// unless the two collide.
fn allocate(services: &mut [(Resource, Service)], dual_stack: bool) {
    let mut taken: BTreeSet<u32> = BTreeSet::new();
    let mut wanting: Vec<&mut Service> = services
        .iter_mut()
        .map(|(_, service)| service)
        .filter(|service| !service.auto_addresses.is_empty())
        .collect();
    wanting.sort_by(|a, b| (&a.namespace, &a.hostname).cmp(&(&b.namespace, &b.hostname)));
    for service in wanting {
        let entries = std::mem::take(&mut service.auto_addresses).len();
        let hash = hash(&format!("{}/{}", service.namespace, service.hostname));
        // Every entry of a name takes a place, and the name has the first of them.
        let places: Vec<u32> = (0..entries)
            .filter_map(|_| place(hash, &mut taken))
            .collect();
        let Some((third, fourth)) = places.iter().min().and_then(|place| octets(*place)) else {
            continue;
        };
        let addresses = &mut service.auto_addresses;
        addresses.push(format!("240.240.{third}.{fourth}"));
        if dual_stack {
            addresses.push(format!("2001:2::f0f0:{:x}", third << 8 | fourth));
        }
    }
}

/// A free place for a name, by double hashing. None if there is none.
fn place(hash: u32, taken: &mut BTreeSet<u32>) -> Option<u32> {
    let step = PRIME - hash % PRIME;
    let further = (1..PLACES).map(|i| hash.wrapping_add(i.wrapping_mul(step)) % (PLACES - 1));
    std::iter::once(hash % PLACES)
        .chain(further)
        .find(|place| octets(*place).is_some() && taken.insert(*place))
}

/// The second half of a place's address. There is none that ends in 0 or 255.
fn octets(place: u32) -> Option<(u32, u32)> {
    let (third, fourth) = ((place + 1) / 255, (place + 1) % 255);
    (fourth != 0).then_some((third, fourth))
}

/// FNV-1a, 32 bit: fixed for ever, because addresses follow from it.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// Tells each service which aliases stand for it, and gives them all. An alias of an alias stands for the last of them.
fn link_aliases(services: &mut [(Resource, Service)]) -> Aliases {
    let names: BTreeMap<String, String> = services
        .iter()
        .filter_map(|(_, s)| Some((s.hostname.clone(), s.external_name.clone()?)))
        .collect();
    let mut by_target = Aliases::new();
    for alias in names.keys() {
        let mut target = alias;
        // A chain longer than the number of aliases is a ring, which stands for nothing.
        for _ in 0..=names.len() {
            match names.get(target) {
                Some(next) => target = next,
                None => break,
            }
        }
        if !names.contains_key(target) {
            by_target
                .entry(target.clone())
                .or_default()
                .push(alias.clone());
        }
    }
    for (_, service) in services {
        if let Some(aliases) = by_target.get(&service.hostname) {
            service.aliases.clone_from(aliases);
        }
    }
    by_target
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The address of a name that so many entries declare.
    fn address(key: &str, entries: usize) -> (u32, u32) {
        let mut taken = BTreeSet::new();
        let places = (0..entries).filter_map(|_| place(hash(key), &mut taken));
        octets(places.min().unwrap()).unwrap()
    }

    #[test]
    fn names_have_the_addresses_that_istios_allocator_by_hashes_gives_them() {
        assert_eq!(address("default/istio.io", 2), (91, 120));
        assert_eq!(address("default/istio.io", 1), (122, 168));
    }

    #[test]
    fn as_many_names_as_there_are_places_have_addresses_of_their_own() {
        let mut taken = BTreeSet::new();
        for n in 0..2000 {
            let place = place(hash(&format!("default/foo{n}.com")), &mut taken);
            let (third, fourth) = octets(place.unwrap()).unwrap();
            assert!(third < 255 && (1..255).contains(&fourth));
        }
        assert_eq!(taken.len(), 2000);
    }
}
