//! What holds for a workload's security, read off its proxies' compiled programs: how its ports are secured, how clients speak to
//! services, which access rules are in force, and who may do something.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lateen_compile::{Pod, PodRole, Protocol};
use lateen_traffic::filter::{HttpFilterKind, NetworkFilterKind};
use lateen_traffic::listener::{FilterChain, TrafficDirection};
use lateen_traffic::rbac::{RbacAction, RbacConfig};

use crate::asked::Asked;
use crate::mesh::{Client, Mesh, Proxy};
use crate::place::{Place, Places};
use crate::report::{Branch, TlsMode};
use crate::walk::{Options, RuleName, explain, mode_of};

/// What a port of a workload accepts; PeerAuthentication's modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerTls {
    /// Plain text only.
    Disable,
    /// Either.
    Permissive,
    /// Mutual TLS only.
    Strict,
    /// TLS of another kind than the mesh's: a gateway's, or a Sidecar's ingress.
    Own,
}

impl ServerTls {
    /// As in a PeerAuthentication.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "DISABLE",
            Self::Permissive => "PERMISSIVE",
            Self::Strict => "STRICT",
            Self::Own => "OWN",
        }
    }
}

/// How a port of a workload is secured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortTls {
    /// The workload's port; 0 stands for every port that is not declared.
    pub port: u16,
    /// What it accepts.
    pub mode: ServerTls,
    /// The PeerAuthentication that says so, if one does.
    pub decided_by: Option<Place>,
}

/// How each port of a sidecar's workload is secured, in port order.
pub fn ports(places: &Places, proxy: &Proxy) -> Vec<PortTls> {
    let mut by_port: BTreeMap<u16, Vec<&FilterChain>> = BTreeMap::new();
    for chain in inbound_chains(proxy) {
        let port = chain.matcher.destination_port.unwrap_or(0);
        by_port.entry(port).or_default().push(chain);
    }
    let described = by_port.into_iter().map(|(port, chains)| PortTls {
        port,
        mode: mode(&chains),
        decided_by: chains
            .iter()
            .filter_map(|chain| places.of_provenance(&chain.provenance))
            .find(|place| place.object.starts_with("PeerAuthentication/")),
    });
    described.collect()
}

fn mode(chains: &[&FilterChain]) -> ServerTls {
    let mutual = |chain: &&FilterChain| {
        let tls = chain.tls.as_ref();
        tls.is_some_and(|tls| tls.require_client_certificate)
    };
    let (ends_mutual, plain) = (
        chains.iter().any(mutual),
        chains.iter().any(|chain| chain.tls.is_none()),
    );
    match (ends_mutual, plain) {
        (true, true) => ServerTls::Permissive,
        (true, false) => ServerTls::Strict,
        (false, true) => ServerTls::Disable,
        (false, false) => ServerTls::Own,
    }
}

/// The chains of the inbound listeners, but for the one that stops loops.
fn inbound_chains(proxy: &Proxy) -> impl Iterator<Item = &FilterChain> {
    let inbound = proxy
        .program
        .listeners()
        .iter()
        .filter(|(_, listener)| listener.direction == TrafficDirection::Inbound);
    inbound
        .flat_map(|(_, listener)| listener.all_chains())
        .map(|chain| &**chain)
        .filter(|chain| !chain.name.ends_with("-blackhole"))
}

/// How a client speaks to a port of a service, and whether the server understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsCheck {
    /// The service and its port.
    pub host: String,
    /// The service's port.
    pub port: u32,
    /// What the client speaks.
    pub client: TlsMode,
    /// The client decides by what each endpoint takes.
    pub automatic: bool,
    /// What the workloads behind the port accept; several if they differ, none if none has a proxy.
    pub server: BTreeSet<ServerTls>,
    /// The PeerAuthentication of the first of them.
    pub peer_authentication: Option<Place>,
    /// The DestinationRule that says how the client speaks.
    pub destination_rule: Option<Place>,
}

impl TlsCheck {
    /// Whether client and server understand each other.
    pub fn agrees(&self) -> bool {
        self.server.iter().all(|server| match server {
            ServerTls::Permissive | ServerTls::Own => true,
            ServerTls::Strict => self.client == TlsMode::IstioMutual,
            ServerTls::Disable => self.client != TlsMode::IstioMutual,
        })
    }
}

/// How a workload speaks to every service port it knows. A workload without a sidecar speaks plain text.
pub fn tls_check(mesh: &Mesh, client: &Pod) -> Vec<TlsCheck> {
    let Some(proxy) = mesh.proxy(client) else {
        return Vec::new();
    };
    let services = mesh.snapshot().services();
    let mut out: Vec<TlsCheck> = services
        .flat_map(|service| service.ports.iter().map(move |port| (service, port)))
        .filter(|(_, port)| port.protocol != Protocol::Udp)
        .map(|(service, port)| (service, port.number))
        .filter_map(|(service, port)| {
            let name = format!("outbound|{port}||{}", service.hostname);
            let cluster = proxy.program.cluster(&name)?;
            let behind = behind(mesh, service, port);
            let automatic = !cluster.transport_matches.is_empty();
            let mutual = cluster
                .transport_matches
                .iter()
                .find_map(|entry| entry.transport.tls().map(|tls| mode_of(tls)));
            let takes = |(pod, _): &(Pod, u16)| pod.role != PodRole::Plain;
            let client = match cluster.transport.tls() {
                _ if automatic && behind.iter().any(takes) => mutual.unwrap_or(TlsMode::Disable),
                Some(tls) if !automatic => mode_of(tls),
                Some(_) | None => TlsMode::Disable,
            };
            let of_port = |(pod, port): &(Pod, u16)| {
                let proxy = mesh.proxy(pod)?;
                let ports = ports(mesh.places(), &proxy);
                let own = ports.iter().find(|own| own.port == *port);
                own.or_else(|| ports.iter().find(|own| own.port == 0))
                    .cloned()
            };
            let servers: Vec<PortTls> = behind.iter().filter_map(of_port).collect();
            let rule = mesh.places().of_provenance(&cluster.provenance);
            Some(TlsCheck {
                host: service.hostname.clone(),
                port,
                client,
                automatic,
                server: servers.iter().map(|server| server.mode).collect(),
                peer_authentication: servers.into_iter().find_map(|server| server.decided_by),
                destination_rule: rule
                    .filter(|place| place.object.starts_with("DestinationRule/") && !automatic),
            })
        })
        .collect();
    out.sort_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port)));
    out
}

/// The pods behind a service's port, with their own port.
fn behind(mesh: &Mesh, service: &lateen_compile::Service, port: u32) -> Vec<(Pod, u16)> {
    let endpoints = mesh.snapshot().endpoints(service, port);
    let found = endpoints
        .into_iter()
        .flat_map(|endpoints| endpoints.iter())
        .filter_map(|endpoint| {
            let ip: IpAddr = endpoint.addresses.first()?.parse().ok()?;
            let pod = mesh.snapshot().pod_by_ip(ip)?;
            Some((pod.clone(), u16::try_from(endpoint.port).ok()?))
        });
    found.collect()
}

/// A policy in force for a workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Applied {
    /// `ALLOW`, `DENY`, `AUDIT`.
    pub action: &'static str,
    /// The policy, as `AuthorizationPolicy/default/web`.
    pub object: String,
    /// How many of its rules are in force.
    pub rules: usize,
    /// Its verdict is only recorded.
    pub dry_run: bool,
}

/// The rule that a proxy knows by a name such as `ns[shop]-policy[web]-rule[0]`.
pub fn rule_place(places: &Places, name: &str) -> Option<Place> {
    let rule = RuleName::parse(name)?;
    Some(places.of(&rule.object(), &rule.field()))
}

/// The policies that a workload's proxy enforces, by action and name.
pub fn policies(proxy: &Proxy) -> Vec<Applied> {
    let mut rules: BTreeMap<(&'static str, String, bool), BTreeSet<usize>> = BTreeMap::new();
    for config in inbound_chains(proxy).flat_map(rbac_of) {
        for (set, dry_run) in [(&config.rules, false), (&config.shadow_rules, true)] {
            let Some(set) = set else { continue };
            for policy in set.policies() {
                let Some(name) = RuleName::parse(&policy.name) else {
                    continue;
                };
                let key = (action(set.action), name.object(), dry_run);
                rules.entry(key).or_default().insert(name.rule);
            }
        }
    }
    rules
        .into_iter()
        .map(|((action, object, dry_run), rules)| Applied {
            action,
            object,
            rules: rules.len(),
            dry_run,
        })
        .collect()
}

fn rbac_of(chain: &FilterChain) -> Vec<&RbacConfig> {
    let mut out = Vec::new();
    for filter in &chain.filters {
        match &filter.kind {
            NetworkFilterKind::Rbac(config) => out.push(config),
            NetworkFilterKind::Http(manager) => {
                out.extend(
                    manager
                        .filters
                        .iter()
                        .filter_map(|filter| match &filter.kind {
                            HttpFilterKind::Rbac(config) => Some(config),
                            _ => None,
                        }),
                );
            }
            _ => {}
        }
    }
    out
}

const fn action(action: RbacAction) -> &'static str {
    match action {
        RbacAction::Allow => "ALLOW",
        RbacAction::Deny => "DENY",
        RbacAction::Log => "AUDIT",
    }
}

/// Whether a workload may do something, and what decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    /// The workload that asks: `deploy/web.shop`.
    pub from: String,
    /// Its identity; none without a sidecar.
    pub identity: Option<String>,
    /// The branch of the explanation that reaches the target.
    pub branch: Branch,
}

/// For every workload of the mesh, whether a request of it to a port of the target gets through. The request's host and address
/// are the target's own service, so that routes and TLS are what they would be.
pub fn who_can(mesh: &Mesh, target: &Pod, asked: &Asked, options: Options) -> Vec<Access> {
    let wanted = format!("{}.{}", mesh.workload(target), target.namespace);
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for pod in mesh.pods() {
        let from = format!("{}.{}", mesh.workload(pod), pod.namespace);
        if pod.role == PodRole::Gateway || !seen.insert(from.clone()) {
            continue;
        }
        let client = Client::Workload {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
        };
        let Ok(explanation) = explain(mesh, &client, asked, options) else {
            continue;
        };
        let reaches = |branch: &Branch| branch.facts.workload.as_ref() == Some(&wanted);
        let whole = &explanation.branches;
        let branch = whole
            .iter()
            .find(|branch| reaches(branch))
            .or(whole.first());
        let identity = (pod.role != PodRole::Plain)
            .then(|| mesh.identity(&pod.namespace, &pod.service_account));
        let Some(branch) = branch else { continue };
        // What happens to every such request decides about this one, too.
        let steps = explanation.steps.iter().chain(&branch.steps).cloned();
        out.push(Access {
            from,
            identity,
            branch: Branch {
                steps: steps.collect(),
                ..branch.clone()
            },
        });
    }
    out.sort_by(|a, b| {
        let key = |access: &Access| (!access.branch.outcome.succeeds(), access.from.clone());
        key(a).cmp(&key(b))
    });
    out
}

/// The host and port by which a workload is reached: the first service that has it behind a port.
pub fn service_of(mesh: &Mesh, target: &Pod, port: Option<u16>) -> Option<(String, u32)> {
    let mut services = mesh.snapshot().services();
    services.find_map(|service| {
        let number = service
            .ports
            .iter()
            .map(|port| port.number)
            .find(|number| {
                port.is_none_or(|wanted| u32::from(wanted) == *number)
                    && behind(mesh, service, *number).iter().any(|(pod, _)| {
                        pod.name == target.name && pod.namespace == target.namespace
                    })
            })?;
        Some((service.hostname.clone(), number))
    })
}
