//! From a cluster to a host, and from a host to whoever is there: another proxy, a workload, or the world outside.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lateen_compile::{Pod, PodRole, Registry, Service};
use lateen_traffic::cluster::{Discovery, LbPolicy};
use lateen_traffic::endpoint::{Endpoint, EndpointAddress, LocalityGroup};
use lateen_traffic::lb::{HostSet, LbState, PickRequest};
use lateen_traffic::listener::TrafficDirection;
use lateen_traffic::tls::{UpstreamTls, ValidationSource};
use lateen_traffic::value::{Metadata, Value};
use lateen_traffic::{Cluster, EndpointSet};

use super::connection::{Connection, mode_of};
use super::entry::{excluded, listening};
use super::{Arrival, Hello, Outcome, Payload, Step, Trail, Walker};
use crate::report::{End, LimitFacts, Note, NoteKind, Stage, TlsMode, percent};

/// Hosts that are listed one by one; of more, the first.
const MOST_LISTED: usize = 8;
/// What Istio calls the listener for redirected connections to a workload.
const VIRTUAL_INBOUND: &str = "virtualInbound";

/// What goes to a cluster.
pub(super) struct Onward {
    pub(super) cluster: Arc<Cluster>,
    pub(super) hash: Option<u64>,
    /// ALPN protocols in place of the transport socket's, for mesh clusters.
    pub(super) alpn: Vec<String>,
    /// The request's host, for server names made of it.
    pub(super) authority: Option<String>,
    pub(super) payload: Payload,
}

/// A host that was picked.
struct Host {
    address: EndpointAddress,
    metadata: Metadata,
    locality: Metadata,
    hostname: Arc<str>,
}

/// A cluster's name for people: `reviews.default:9080 v1`.
pub(crate) fn short(cluster: &str) -> String {
    let mut parts = cluster.splitn(4, '|');
    let (Some("outbound"), Some(port), Some(subset), Some(host)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return cluster.to_owned();
    };
    let host = host.strip_suffix(".svc.cluster.local").unwrap_or(host);
    let subset = if subset.is_empty() {
        String::new()
    } else {
        format!(" {subset}")
    };
    format!("{host}:{port}{subset}")
}

impl Walker<'_> {
    /// Sends something to a cluster.
    pub(super) fn onward(&mut self, mut trail: Trail, connection: &Connection, onward: Onward) {
        let cluster = Arc::clone(&onward.cluster);
        if connection.listener.direction == TrafficDirection::Inbound {
            return self.delivered(trail, connection);
        }
        trail.facts.cluster = Some(cluster.name.to_string());
        let what = format!("{} ({})", short(&cluster.name), policy(cluster.lb_policy));
        let place = self.places.of_provenance(&cluster.provenance);
        let limits = limits(&cluster);
        let words = limits.words();
        let notes = if words.is_empty() {
            Vec::new()
        } else {
            let text = format!("at most {}", words.join(", "));
            vec![Note::new(NoteKind::Info, text)]
        };
        trail.facts.limits = Some(limits);
        trail.push(
            Step::new(connection.at(), Stage::Cluster, what)
                .at_place(place)
                .with_notes(notes),
        );
        if let Discovery::OriginalDst(_) = cluster.discovery {
            let local = connection.arrival.local;
            let host = Host {
                address: EndpointAddress::Socket(local),
                metadata: Metadata::default(),
                locality: Metadata::default(),
                hostname: "".into(),
            };
            return self.reach_host(trail, connection, onward, &host);
        }
        let program = &connection.arrival.proxy.program;
        let endpoints = program.endpoints_of(&cluster).cloned();
        let endpoints = endpoints.filter(|set| !set.endpoints.is_empty());
        let Some(endpoints) = endpoints else {
            let what = format!(
                "{} has no endpoints: no pod matches its selector or subset",
                short(&cluster.name)
            );
            return self.no_host(trail, connection, &cluster, what, Vec::new());
        };
        self.pick(trail, connection, onward, &endpoints);
    }

    fn no_host(
        &mut self,
        trail: Trail,
        connection: &Connection,
        cluster: &Cluster,
        what: String,
        notes: Vec<Note>,
    ) {
        let place = self.places.of_provenance(&cluster.provenance);
        let outcome = Outcome::new(End::Failed, what.clone())
            .decided_at(place.clone())
            .behind(&trail, "UH");
        let step = Step::new(connection.at(), Stage::Endpoint, what)
            .at_place(place)
            .with_notes(notes);
        self.stop(trail, step, outcome);
    }

    /// Picks hosts: one for each workload that may be reached.
    fn pick(
        &mut self,
        mut trail: Trail,
        connection: &Connection,
        onward: Onward,
        endpoints: &EndpointSet,
    ) {
        let vicinity = connection.arrival.proxy.vicinity.as_ref();
        let set = HostSet::near(&onward.cluster, endpoints, &[], vicinity);
        let mut notes = locality_notes(&set, endpoints);
        if set.keeps_to_zones() {
            let text = "by zone: what the proxies of a zone send stays there as far as its endpoints can take it";
            notes.push(Note::new(NoteKind::Choice, text.to_owned()));
        }
        let request = PickRequest {
            random: self.random(5),
            hash: onward.hash,
            avoid: &[],
            attempts: 0,
            load: &|_| 0,
            avoid_priorities: &[],
        };
        let picked = LbState::new(&set, self.random(6)).pick(&set, &request);
        let Ok(picked) = picked else {
            let what = format!(
                "none of {} endpoints may be used",
                endpoints.endpoints.len()
            );
            return self.no_host(trail, connection, &onward.cluster, what, notes);
        };
        let shares = set.shares();
        let mut groups: BTreeMap<String, (usize, f64)> = BTreeMap::new();
        for (host, share) in shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
            let group = groups
                .entry(self.workload_of(&endpoints.endpoints[host]))
                .or_insert((host, 0.0));
            group.1 += share * 100.0;
        }
        trail.facts.workloads = groups
            .iter()
            .map(|(name, (_, share))| (name.clone(), *share))
            .collect();
        let hashed = onward.hash.is_some()
            && matches!(
                onward.cluster.lb_policy,
                LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. }
            );
        let fixed = hashed || self.options.seed.is_some();
        if fixed || groups.len() < 2 {
            let how = if fixed { "picked" } else { "" };
            let step = self.host_step(connection, endpoints, picked.host, &shares, how);
            trail.push(step.with_notes(notes));
            return self.reach_endpoint(trail, connection, onward, endpoints, picked.host);
        }
        for (name, (host, share)) in groups {
            let mut branch = trail.branch(share);
            branch.to.push(name);
            let step = self.host_step(connection, endpoints, host, &shares, "");
            branch.push(step.with_notes(notes.clone()));
            let onward = Onward {
                cluster: Arc::clone(&onward.cluster),
                alpn: onward.alpn.clone(),
                authority: onward.authority.clone(),
                payload: onward.payload.clone(),
                ..onward
            };
            self.reach_endpoint(branch, connection, onward, endpoints, host);
        }
    }

    fn host_step(
        &self,
        connection: &Connection,
        endpoints: &EndpointSet,
        host: usize,
        shares: &[f64],
        how: &str,
    ) -> Step {
        let endpoint = &endpoints.endpoints[host];
        let usable = shares.iter().filter(|share| **share > 0.0).count();
        let of = match usable {
            0 | 1 => String::new(),
            count => format!(", one of {count}"),
        };
        let how = if how.is_empty() {
            of
        } else {
            format!("{of}, {how}")
        };
        let workload = self.workload_of(endpoint);
        let what = format!("{} {workload}{how}", endpoint.address);
        Step::new(connection.at(), Stage::Endpoint, what)
    }

    /// Whose an endpoint is. In a dump of one proxy that is what its metadata says: `reviews-v1.default`.
    fn workload_of(&self, endpoint: &Endpoint) -> String {
        if self.mesh.is_some() {
            return self.workload_at(&endpoint.address);
        }
        told_workload(&endpoint.metadata).unwrap_or_else(|| "of an unknown workload".to_owned())
    }

    /// Whose an address is: `deploy/reviews-v1.default`, or `outside`.
    fn workload_at(&self, address: &EndpointAddress) -> String {
        let pod = match address {
            EndpointAddress::Socket(address) => self.pod_at(address.ip()),
            _ => None,
        };
        match (pod, self.mesh) {
            (Some(pod), Some(mesh)) => format!("{}.{}", mesh.workload(pod), pod.namespace),
            _ => "outside".to_owned(),
        }
    }

    fn pod_at(&self, ip: IpAddr) -> Option<&Pod> {
        self.mesh?.snapshot().pod_by_ip(ip)
    }

    fn reach_endpoint(
        &mut self,
        trail: Trail,
        connection: &Connection,
        onward: Onward,
        endpoints: &EndpointSet,
        host: usize,
    ) {
        let endpoint = &endpoints.endpoints[host];
        let locality = endpoints.group_of(host).map(|group| group.metadata.clone());
        let host = Host {
            address: endpoint.address.clone(),
            metadata: endpoint.metadata.clone(),
            locality: locality.unwrap_or_default(),
            hostname: endpoint.hostname.clone(),
        };
        self.reach_host(trail, connection, onward, &host);
    }

    /// Wraps what is sent as the transport socket says, and goes to the host.
    fn reach_host(
        &mut self,
        mut trail: Trail,
        connection: &Connection,
        onward: Onward,
        host: &Host,
    ) {
        let cluster = &onward.cluster;
        let (transport, matched) = cluster.transport_for(&host.metadata, &host.locality);
        let (what, mode, payload) = match transport.tls() {
            None => {
                let what = match matched {
                    _ if matches!(onward.payload, Payload::Tls(_)) => {
                        "the client's own TLS, passed through"
                    }
                    Some(_) => "plain text: the endpoint does not take mutual TLS",
                    None => "plain text",
                };
                (what.to_owned(), TlsMode::Disable, onward.payload)
            }
            Some(tls) => {
                let mode = mode_of(tls);
                let hello = hello(connection, &onward, tls, mode);
                let sni = hello.sni.as_deref().unwrap_or("no server name");
                // Only sockets chosen by the endpoint's own word are automatic; a DestinationRule's hold for all.
                let automatic = if matched.is_some() {
                    " (automatic)"
                } else {
                    ""
                };
                let what = format!("{}{automatic}, server name {sni}", mode.as_str());
                (what, mode, Payload::Tls(Box::new(hello)))
            }
        };
        trail.facts.tls = Some(mode);
        if trail.facts.host.is_some() && !host.hostname.is_empty() {
            trail
                .facts
                .host
                .get_or_insert_with(|| host.hostname.to_string());
        }
        let place = self.places.of_provenance(&cluster.provenance);
        let place = place.filter(|place| {
            matched.is_none()
                && mode != TlsMode::Disable
                && place.object.starts_with("DestinationRule/")
        });
        trail.push(Step::info(connection.at(), Stage::Tls, what).at_place(place));
        let own = connection.arrival.proxy.ips.first().copied();
        let remote = own.map_or(connection.arrival.remote, |ip| {
            SocketAddr::new(ip, connection.arrival.remote.port())
        });
        match &host.address {
            EndpointAddress::Socket(address) => {
                self.reach_address(trail, *address, remote, payload)
            }
            EndpointAddress::Dns { host, port } => {
                let outcome = Outcome::new(
                    End::LeavesMesh,
                    format!("leaves the mesh for {host}:{port}"),
                );
                let step = Step::new(connection.at(), Stage::Workload, outcome.summary.clone());
                self.stop(trail, step, outcome);
            }
            other => {
                let outcome = Outcome::new(End::LeavesMesh, format!("goes to {other}"));
                let step = Step::new(connection.at(), Stage::Workload, outcome.summary.clone());
                self.stop(trail, step, outcome);
            }
        }
    }

    /// A connection to an address: of a pod, of a service, or of neither.
    pub(super) fn reach_address(
        &mut self,
        trail: Trail,
        address: SocketAddr,
        remote: SocketAddr,
        payload: Payload,
    ) {
        if let Some(pod) = self.pod_at(address.ip()).cloned() {
            return self.reach_pod(trail, &pod, address, remote, payload);
        }
        let behind = self.behind_service(address);
        if behind.is_empty() {
            if let Some(why) = self.dead_end(address) {
                let step = Step::new("network", Stage::Workload, why.clone());
                return self.stop(trail, step, Outcome::new(End::Failed, why));
            }
            let summary = if self.mesh.is_some() {
                format!("leaves the mesh for {address}")
            } else {
                format!("is sent to {address}; what is there is not in this dump")
            };
            let outcome = Outcome::new(End::LeavesMesh, summary.clone());
            let step = Step::new("network", Stage::Workload, summary);
            return self.stop(trail, step, outcome);
        }
        let several = behind.len() > 1;
        for (pod, port, share) in behind {
            let mut branch = if several {
                trail.branch(share)
            } else {
                trail.clone()
            };
            let target = SocketAddr::new(pod.ips.first().copied().unwrap_or(address.ip()), port);
            let name = self.workload_at(&EndpointAddress::Socket(target));
            let what =
                format!("the cluster's own service address {address} leads to {target} {name}");
            branch.push(Step::info("network", Stage::Endpoint, what));
            if several {
                branch.to.push(name);
            }
            self.reach_pod(branch, &pod, target, remote, payload.clone());
        }
    }

    /// One pod for each workload behind a service's own address, with its share in percent.
    fn behind_service(&self, address: SocketAddr) -> Vec<(Pod, u16, f64)> {
        let Some(mesh) = self.mesh else {
            return Vec::new();
        };
        let Some(service) = self.service_at(address.ip()) else {
            return Vec::new();
        };
        let endpoints = mesh
            .snapshot()
            .endpoints(service, u32::from(address.port()));
        let mut found: BTreeMap<String, (Pod, u16, u64)> = BTreeMap::new();
        let mut total = 0;
        for endpoint in endpoints.into_iter().flat_map(|endpoints| endpoints.iter()) {
            let ips = endpoint.addresses.iter().filter_map(|ip| ip.parse().ok());
            let Some(pod) = ips.filter_map(|ip| self.pod_at(ip)).next() else {
                continue;
            };
            let Ok(port) = u16::try_from(endpoint.port) else {
                continue;
            };
            let entry = found
                .entry(mesh.workload(pod))
                .or_insert_with(|| (pod.clone(), port, 0));
            entry.2 += 1;
            total += 1;
        }
        let share = |count| super::http::share(count, total);
        found
            .into_values()
            .map(|(pod, port, count)| (pod, port, share(count)))
            .collect()
    }

    fn service_at(&self, ip: IpAddr) -> Option<&Service> {
        let ip = ip.to_string();
        let services = self.mesh?.snapshot().services();
        let mut found = services.map(|service| &**service);
        found.find(|service| service.vips(false).contains(&ip))
    }

    /// Why nothing answers at a service's own address, if the cluster's network would find nobody there.
    fn dead_end(&self, address: SocketAddr) -> Option<String> {
        let service = self.service_at(address.ip())?;
        if service.registry != Registry::Kubernetes {
            return None;
        }
        let port = u32::from(address.port());
        let name = &service.hostname;
        if service.ports.iter().all(|own| own.number != port) {
            let own = service.ports.iter().map(|own| own.number.to_string());
            let own = own.collect::<Vec<_>>().join(", ");
            return Some(format!(
                "nothing answers at {address}: {name} has no port {port}, it has {own}"
            ));
        }
        service
            .has_selector
            .then(|| format!("nothing answers at {address}: {name} has no endpoint that is ready"))
    }

    fn reach_pod(
        &mut self,
        mut trail: Trail,
        pod: &Pod,
        address: SocketAddr,
        remote: SocketAddr,
        payload: Payload,
    ) {
        let Some(mesh) = self.mesh else { return };
        let workload = format!("{}.{}", mesh.workload(pod), pod.namespace);
        trail.facts.workload = Some(workload.clone());
        if trail.facts.workloads.is_empty() {
            trail.facts.workloads.insert(workload.clone(), 100.0);
        }
        let passed_by = excluded(
            pod,
            "traffic.sidecar.istio.io/excludeInboundPorts",
            address.port(),
        );
        let proxy = mesh.proxy(pod).filter(|_| !passed_by);
        let Some(proxy) = proxy else {
            return self.reach_plain(trail, pod, &workload, address, &payload);
        };
        let accepting = match pod.role {
            PodRole::Gateway => listening(&proxy, address.port()),
            PodRole::Sidecar | PodRole::Plain => proxy
                .program
                .listener(VIRTUAL_INBOUND)
                .cloned()
                .or_else(|| listening(&proxy, address.port())),
        };
        let Some(accepting) = accepting else {
            let what = format!("no Gateway opens port {} on {workload}", address.port());
            let outcome = Outcome::new(End::Failed, format!("the connection is refused: {what}"))
                .behind(&trail, "UF");
            return self.stop(trail, Step::new(&pod.name, Stage::Listener, what), outcome);
        };
        let arrival = Arrival {
            proxy,
            accepting,
            local: address,
            remote,
            payload,
            workload: Some(workload),
        };
        self.arrive(trail, arrival);
    }

    /// A workload without a sidecar in the way.
    fn reach_plain(
        &mut self,
        mut trail: Trail,
        pod: &Pod,
        workload: &str,
        address: SocketAddr,
        payload: &Payload,
    ) {
        let mesh_tls = matches!(payload, Payload::Tls(hello)
            if hello.certificate.is_some() && hello.alpn.iter().any(|name| name.starts_with("istio")));
        if mesh_tls {
            let what = format!("{workload} has no sidecar, and is spoken to by mutual TLS");
            let outcome = Outcome::new(End::Failed, what.clone()).behind(&trail, "UF");
            return self.stop(trail, Step::new(&pod.name, Stage::Workload, what), outcome);
        }
        trail.facts.identity = None;
        let what = format!(
            "port {} of {workload}, which has no sidecar",
            address.port()
        );
        let outcome = Outcome::new(End::Delivered, format!("reaches {what}"));
        self.stop(trail, Step::new(&pod.name, Stage::Workload, what), outcome);
    }

    /// An inbound cluster leads to the workload itself.
    fn delivered(&mut self, trail: Trail, connection: &Connection) {
        let workload = connection
            .arrival
            .workload
            .clone()
            .unwrap_or_else(|| "the workload".to_owned());
        let what = format!("port {} of {workload}", connection.arrival.local.port());
        let outcome = Outcome::new(End::Delivered, format!("reaches {what}"));
        self.stop(
            trail,
            Step::new(connection.at(), Stage::Workload, what),
            outcome,
        );
    }
}

fn hello(connection: &Connection, onward: &Onward, tls: &UpstreamTls, mode: TlsMode) -> Hello {
    let by_request = tls.auto_host_sni || onward.cluster.http.auto_sni;
    let host = onward
        .authority
        .as_deref()
        .filter(|_| by_request)
        .map(|authority| lateen_traffic::headers::without_port(authority).to_owned());
    let own: Vec<String> = tls.common.alpn.iter().map(ToString::to_string).collect();
    // Istio's filter concerns mesh clusters, which their transport sockets mark by offering `istio`.
    let in_mesh = own.iter().any(|name| name.starts_with("istio"));
    let alpn = if in_mesh && !onward.alpn.is_empty() {
        onward.alpn.clone()
    } else {
        own
    };
    let expects = match &tls.common.validation {
        ValidationSource::Inline(validation)
        | ValidationSource::Combined {
            default: validation,
            ..
        } => validation.san_matchers.clone(),
        ValidationSource::None | ValidationSource::Sds(_) => Vec::new(),
    };
    let certificate = match mode {
        TlsMode::IstioMutual => connection.arrival.proxy.identity.clone(),
        TlsMode::Mutual => Some("the certificate of the DestinationRule".to_owned()),
        TlsMode::Simple | TlsMode::Disable => None,
    };
    Hello {
        sni: host.or_else(|| tls.sni.as_ref().map(ToString::to_string)),
        alpn,
        certificate,
        // What others than the mesh's own authority certify is not known here.
        expects: if mode == TlsMode::IstioMutual {
            expects
        } else {
            Vec::new()
        },
        inner: onward.payload.clone(),
    }
}

/// The limits of a cluster. Istio writes the largest number where it means none.
fn limits(cluster: &Cluster) -> LimitFacts {
    let [breaker, _] = &cluster.circuit_breakers;
    let limit = |limit: u32| (limit < u32::MAX).then_some(limit);
    LimitFacts {
        max_connections: limit(breaker.max_connections),
        max_pending_requests: limit(breaker.max_pending_requests),
        max_requests: limit(breaker.max_requests),
        max_retries: limit(breaker.max_retries),
    }
}

fn policy(policy: LbPolicy) -> &'static str {
    match policy {
        LbPolicy::RoundRobin { .. } => "round robin",
        LbPolicy::LeastRequest { .. } => "least request",
        LbPolicy::Random => "random",
        LbPolicy::RingHash { .. } => "ring hash",
        LbPolicy::Maglev { .. } => "maglev",
        LbPolicy::ClusterProvided => "where it was going",
    }
}

/// Priorities and localities, where there are several.
fn locality_notes(set: &HostSet, endpoints: &EndpointSet) -> Vec<Note> {
    if endpoints.localities.len() < 2 {
        return Vec::new();
    }
    let shares = set.shares();
    let notes = endpoints.localities.iter().take(MOST_LISTED).map(|group| {
        let share: f64 = group
            .endpoints
            .clone()
            .map(|host| shares[host] * 100.0)
            .sum();
        let count = group.endpoints.len();
        let name = locality(group);
        let text = format!(
            "{} priority {}, {name}: {count} endpoints",
            percent(share),
            group.priority
        );
        Note::new(NoteKind::Choice, text)
    });
    notes.collect()
}

fn locality(group: &LocalityGroup) -> String {
    let locality = &group.locality;
    let parts = [&locality.region, &locality.zone, &locality.sub_zone];
    let parts: Vec<&str> = parts
        .iter()
        .map(|part| &***part)
        .filter(|part| !part.is_empty())
        .collect();
    if parts.is_empty() {
        "no locality".to_owned()
    } else {
        parts.join("/")
    }
}

/// The workload in Istio's metadata of an endpoint: `name;namespace;service;revision;cluster`.
fn told_workload(metadata: &Metadata) -> Option<String> {
    let Some(Value::String(text)) = metadata.get("istio", &["workload"]) else {
        return None;
    };
    let mut parts = text.split(';');
    let (name, namespace) = (parts.next()?, parts.next()?);
    (!name.is_empty()).then(|| format!("{name}.{namespace}"))
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn a_clusters_name_is_shortened_as_far_as_it_stays_clear() {
        assert_eq!(
            short("outbound|9080|v1|reviews.default.svc.cluster.local"),
            "reviews.default:9080 v1"
        );
        assert_eq!(short("outbound|443||example.com"), "example.com:443");
        assert_eq!(short("PassthroughCluster"), "PassthroughCluster");
    }
}
