//! The outbound listeners of a sidecar: one per address and port that services have, shared where services share them.
//!
//! [`plan`] decides which listeners there are and what each has to tell apart; [`outbound`] builds one. Services that want the
//! same address and port are merged by what they speak; which one wins is Istio's order (`buildSidecarOutboundListener`).

use std::collections::BTreeMap;
use std::time::Duration;

use lateen_api::networking::{
    CaptureMode, L4MatchAttributes, RouteDestination, TlsMatchAttributes,
};

use crate::filters::{self, Class, PLAINTEXT_HTTP_ALPN, RAW_TRANSPORT};
use crate::host;
use crate::mesh::{Mesh, OutboundPolicy};
use crate::meta::Meta;
use crate::model::{Health, Port, Registry, Resolution, Service};
use crate::names::{self, MESH_GATEWAY, ObjectRef};
use crate::node::{Interception, IpMode};
use crate::proto::{bool_value, core, duration, envoy_type, listener, socket_address};
use crate::protocol::{Handling, Protocol};
use crate::routes::{DestinationFacts, cluster_of};
use crate::rules::{MergedRule, for_workload};
use crate::scope::{EgressScope, Scope};
use crate::shared::Shared;
use crate::snapshot::{Snapshot, VirtualServiceConfig};

use super::http::{HttpOptions, Routes, filter};
use super::{
    ClusterSpecifier, ListenerView, TcpProxy, additional_addresses, catch_all, cidr, tcp_filters,
};

/// One outbound listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OutboundPlan {
    /// The addresses it stands for, the first naming it.
    pub(crate) binds: Vec<String>,
    pub(crate) port: u32,
    /// Whether it really binds, rather than being handed redirected connections.
    pub(crate) binds_port: bool,
    pub(crate) chains: Vec<ChainPlan>,
}

impl OutboundPlan {
    /// Its name.
    pub(crate) fn name(&self) -> String {
        names::listener(self.binds.first().map_or("", String::as_str), self.port)
    }

    /// The listener on which applications use the proxy as an HTTP proxy.
    pub(crate) fn forward_proxy(binds: Vec<String>, port: u32) -> Self {
        let routes = RouteName {
            name: names::HTTP_PROXY_ROUTE.to_owned(),
            port: 0,
            only: None,
        };
        let chain = ChainPlan {
            sni: Vec::new(),
            cidrs: Vec::new(),
            sniffed_http: false,
            action: ChainAction::Http {
                routes,
                protocol: Protocol::HttpProxy,
            },
            source: (ObjectRef::default(), String::new()),
        };
        Self {
            binds,
            port,
            binds_port: true,
            chains: vec![chain],
        }
    }

    /// The route configurations it refers to, and the one service each is for, if it is for one.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &RouteName> {
        self.chains.iter().filter_map(|chain| match &chain.action {
            ChainAction::Http { routes, .. } => Some(routes),
            ChainAction::Tcp(_) => None,
        })
    }
}

/// The name of a route configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RouteName {
    pub(crate) name: String,
    pub(crate) port: u32,
    /// The host of the one service it is for.
    pub(crate) only: Option<String>,
}

/// One filter chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ChainPlan {
    pub(crate) sni: Vec<String>,
    pub(crate) cidrs: Vec<String>,
    /// Whether it takes only what the HTTP inspector found to be HTTP.
    pub(crate) sniffed_http: bool,
    pub(crate) action: ChainAction,
    /// The object and field it came from.
    pub(crate) source: (ObjectRef, String),
}

/// What a chain does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ChainAction {
    Http {
        routes: RouteName,
        protocol: Protocol,
    },
    Tcp(TcpAction),
}

/// Where opaque connections go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct TcpAction {
    pub(crate) stat_prefix: String,
    /// Clusters with weights; a single one takes everything.
    pub(crate) clusters: Vec<(String, u32)>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) max_duration: Option<Duration>,
    pub(crate) hash_source_ip: bool,
}

impl ChainPlan {
    fn is_match_all(&self) -> bool {
        !self.sniffed_http
            && self.cidrs.is_empty()
            && (self.sni.is_empty() || self.sni.iter().any(|name| name == "*"))
    }

    /// Whether no connection could tell the two apart.
    fn conflicts_with(&self, other: &Self) -> bool {
        let names = |list: &[String]| {
            let mut out: Vec<String> = list.iter().filter(|n| n.as_str() != "*").cloned().collect();
            out.sort();
            out
        };
        self.sniffed_http == other.sniffed_http
            && names(&self.sni) == names(&other.sni)
            && names(&self.cidrs) == names(&other.cidrs)
    }
}

/// What a plan is made from.
pub(crate) struct PlanContext<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) scope: &'a Scope,
    pub(crate) view: &'a ListenerView,
    pub(crate) labels: &'a BTreeMap<String, String>,
    pub(crate) namespace: &'a str,
    /// The proxy's own main address, which it never reaches by way of itself.
    pub(crate) own_address: Option<String>,
    pub(crate) dns_capture: bool,
    /// Whether ports below 1024 cannot be bound.
    pub(crate) unprivileged: bool,
}

/// A listener as it grows.
struct Entry {
    plan: OutboundPlan,
    protocol: Protocol,
    /// Made by a listener with a port of its own; general ones leave it alone.
    locked: bool,
}

type Entries = BTreeMap<(String, u32), Entry>;

/// The outbound listeners of a sidecar.
pub(crate) fn plan(context: &PlanContext<'_>) -> Vec<OutboundPlan> {
    let mut entries = Entries::new();
    for egress in &context.scope.egress {
        let own_port = egress
            .listener
            .as_ref()
            .and_then(|listener| listener.port.as_ref());
        let binding = Binding::of(context, egress);
        if let Some(port) = own_port {
            let port = Port {
                name: port.name.clone(),
                number: port.number,
                protocol: Protocol::parse(&port.protocol),
                target: 0,
            };
            for service in &egress.services {
                let want = Want {
                    service,
                    port: &port,
                    binding: binding.clone(),
                };
                add(context, egress, &mut entries, want);
            }
            continue;
        }
        entries.values_mut().for_each(|entry| entry.locked = true);
        for service in &egress.services {
            for port in &service.ports {
                add_service_port(context, egress, &mut entries, service, port, &binding);
            }
        }
    }
    entries.into_values().map(|entry| entry.plan).collect()
}

/// Where a listener is to be.
#[derive(Clone, Debug, Default)]
struct Binding {
    binds: Vec<String>,
    binds_port: bool,
    /// Addresses to match instead of binding to.
    cidrs: Vec<String>,
}

impl Binding {
    fn of(context: &PlanContext<'_>, egress: &EgressScope) -> Self {
        let written = egress.listener.as_ref();
        let captured = written.is_none_or(|listener| listener.capture_mode != CaptureMode::None);
        let binds_port = context.view.interception == Interception::None || !captured;
        let binds = match written.map(|listener| listener.bind.as_str()) {
            Some(bind) if !bind.is_empty() => vec![bind.to_owned()],
            _ if binds_port => owned(context.view.ip_mode.localhosts()),
            _ => Vec::new(),
        };
        Self {
            binds,
            binds_port,
            cidrs: Vec::new(),
        }
    }
}

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|&item| item.to_owned()).collect()
}

/// A service's wish for a listener.
#[derive(Clone)]
struct Want<'a> {
    service: &'a Shared<Service>,
    port: &'a Port,
    binding: Binding,
}

/// The addresses of a service in the proxy's families; its main one first. Empty: it has none.
fn addresses(context: &PlanContext<'_>, service: &Service) -> Vec<String> {
    let mode = context.view.ip_mode;
    service
        .vips(context.dns_capture)
        .iter()
        .filter(|address| {
            let v6 = address.contains(':');
            if v6 { mode.has_v6() } else { mode.has_v4() }
        })
        .cloned()
        .collect()
}

fn add_service_port(
    context: &PlanContext<'_>,
    egress: &EgressScope,
    entries: &mut Entries,
    service: &Shared<Service>,
    port: &Port,
    binding: &Binding,
) {
    let want = Want {
        service,
        port,
        binding: binding.clone(),
    };
    let opaque = port.protocol.is_tcp() || port.protocol.is_sniffed();
    let headless = service.resolution == Resolution::Passthrough
        && addresses(context, service).is_empty()
        && binding.binds.is_empty()
        && opaque;
    if !headless {
        add(context, egress, entries, want);
        return;
    }
    let empty = Shared::default();
    let endpoints = context
        .snapshot
        .endpoints(service, port.number)
        .unwrap_or(&empty);
    if service.registry == Registry::External && endpoints.is_empty() && !service.has_selector {
        add(context, egress, entries, want);
        return;
    }
    // Clients of a headless service choose an address themselves: one listener for each they may choose.
    for endpoint in endpoints
        .iter()
        .filter(|endpoint| endpoint.health == Health::Healthy)
    {
        let own = endpoint.addresses.first() == context.own_address.as_ref();
        let all_ip = endpoint
            .addresses
            .iter()
            .all(|address| address.parse::<std::net::IpAddr>().is_ok());
        if own || !all_ip {
            continue;
        }
        let mut want = want.clone();
        want.binding.binds = endpoint
            .addresses
            .iter()
            .filter(|address| {
                context.view.ip_mode == IpMode::Dual
                    || address.contains(':') == (context.view.ip_mode == IpMode::V6)
            })
            .cloned()
            .collect();
        if !want.binding.binds.is_empty() {
            add(context, egress, entries, want);
        }
    }
}

/// Adds what a service wants to the listener it wants it on.
fn add(context: &PlanContext<'_>, egress: &EgressScope, entries: &mut Entries, mut want: Want<'_>) {
    let Some(handling) = want.port.protocol.handling() else {
        return;
    };
    if want.service.resolution == Resolution::Alias
        || (want.binding.binds_port && context.unprivileged && want.port.number < 1024)
    {
        return;
    }
    let wildcards = owned(context.view.ip_mode.wildcards());
    if want.binding.binds.is_empty() {
        want.binding.binds = match handling {
            Handling::Http => wildcards.clone(),
            Handling::Tcp | Handling::Auto => own_binds(context, &mut want, &wildcards),
        };
    }
    let key = (want.binding.binds[0].clone(), want.port.number);
    if entries.get(&key).is_some_and(|entry| entry.locked) {
        return;
    }
    let wildcard = key.0 == wildcards[0];
    let current = entries.get(&key).map(|entry| entry.protocol);
    if current.is_some_and(|current| server_first_clash(current, want.port.protocol)) {
        return;
    }
    let Some((chains, protocol)) = chains_for(context, egress, &want, handling, current, wildcard)
    else {
        return;
    };
    match entries.get_mut(&key) {
        None => insert(entries, key, want, chains, protocol),
        // A listener that was HTTP only becomes one that looks first.
        Some(entry) if handling == Handling::Auto && entry.protocol.is_http() => {
            insert(entries, key, want, chains, protocol);
        }
        Some(entry) => {
            for chain in chains {
                if !entry
                    .plan
                    .chains
                    .iter()
                    .any(|known| known.conflicts_with(&chain))
                {
                    entry.plan.chains.push(chain);
                }
            }
            entry.protocol = protocol;
        }
    }
}

fn insert(
    entries: &mut Entries,
    key: (String, u32),
    want: Want<'_>,
    chains: Vec<ChainPlan>,
    protocol: Protocol,
) {
    let plan = OutboundPlan {
        binds: want.binding.binds,
        port: want.port.number,
        binds_port: want.binding.binds_port,
        chains,
    };
    entries.insert(
        key,
        Entry {
            plan,
            protocol,
            locked: false,
        },
    );
}

/// The service's own addresses; all addresses if it has none, or if it has a range, which is then matched instead.
fn own_binds(context: &PlanContext<'_>, want: &mut Want<'_>, wildcards: &[String]) -> Vec<String> {
    let addresses = addresses(context, want.service);
    match addresses.first() {
        None => wildcards.to_vec(),
        Some(first) if first.contains('/') => {
            want.binding.cidrs = addresses;
            wildcards.to_vec()
        }
        Some(_) => addresses
            .into_iter()
            .filter(|address| !address.contains('/'))
            .collect(),
    }
}

/// Protocols whose servers speak first cannot share a listener with anything else.
fn server_first_clash(current: Protocol, incoming: Protocol) -> bool {
    let special = |protocol| matches!(protocol, Protocol::Mongo | Protocol::MySql);
    (special(current) || special(incoming)) && current != incoming
}

/// The chains a service adds to a listener, and what the listener then speaks. None: nothing to add, the service shares what
/// is there.
fn chains_for(
    context: &PlanContext<'_>,
    egress: &EgressScope,
    want: &Want<'_>,
    handling: Handling,
    current: Option<Protocol>,
    wildcard: bool,
) -> Option<(Vec<ChainPlan>, Protocol)> {
    match handling {
        Handling::Http => {
            if current.is_some_and(|current| !current.is_tcp()) {
                // The port's routes serve every service that speaks HTTP on it.
                return None;
            }
            // On all addresses other protocols may turn up too, unless the port is a forward proxy's.
            let sniffed = wildcard && want.port.protocol != Protocol::HttpProxy;
            let protocol = if sniffed {
                Protocol::Sniffed
            } else {
                want.port.protocol
            };
            Some((
                vec![http_chain(want, handling, wildcard, sniffed)],
                protocol,
            ))
        }
        Handling::Tcp => {
            let chains = opaque_chains(context, egress, want, wildcard);
            let protocol = match current {
                Some(current) if !current.is_tcp() => Protocol::Sniffed,
                Some(current) => current,
                None => want.port.protocol,
            };
            Some((chains, protocol))
        }
        Handling::Auto => {
            let mut chains = opaque_chains(context, egress, want, wildcard);
            if current.is_none_or(|current| !current.is_sniffed()) {
                chains.push(http_chain(want, handling, wildcard, true));
            }
            Some((chains, Protocol::Sniffed))
        }
    }
}

fn http_chain(want: &Want<'_>, handling: Handling, wildcard: bool, sniffed: bool) -> ChainPlan {
    let (service, port) = (want.service, want.port);
    // A sniffed port on the service's own address is the service's alone.
    let only = (handling == Handling::Auto && !wildcard).then(|| service.hostname.clone());
    let name = match (&only, port.number) {
        (Some(host), number) => format!("{host}:{number}"),
        (None, 0) => want.binding.binds[0].clone(),
        (None, number) => number.to_string(),
    };
    ChainPlan {
        sni: Vec::new(),
        cidrs: Vec::new(),
        sniffed_http: sniffed,
        action: ChainAction::Http {
            routes: RouteName {
                name,
                port: port.number,
                only,
            },
            protocol: port.protocol,
        },
        source: (service.object.clone(), String::new()),
    }
}

/// The chains of a service for connections that are not HTTP: what virtual services say, else the service itself.
fn opaque_chains(
    context: &PlanContext<'_>,
    egress: &EgressScope,
    want: &Want<'_>,
    wildcard: bool,
) -> Vec<ChainPlan> {
    let configs: Vec<&Shared<VirtualServiceConfig>> = egress
        .virtual_services
        .iter()
        .filter(|config| {
            config
                .spec
                .hosts
                .iter()
                .any(|name| host::matches(name, &want.service.hostname))
        })
        .collect();
    if want.port.protocol.is_tls() {
        tls_chains(context, want, &configs, wildcard)
    } else {
        tcp_chains(context, want, &configs)
    }
}

fn applies(
    context: &PlanContext<'_>,
    port: u32,
    wanted: u32,
    gateways: &[String],
    labels: &BTreeMap<String, String>,
    namespace: &str,
) -> bool {
    (gateways.is_empty() || gateways.iter().any(|gateway| gateway == MESH_GATEWAY))
        && crate::labels::is_subset(labels, context.labels)
        && (wanted == 0 || wanted == port)
        && (namespace.is_empty() || namespace == context.namespace)
}

fn applies_tls(context: &PlanContext<'_>, port: u32, m: &TlsMatchAttributes) -> bool {
    applies(
        context,
        port,
        m.port,
        &m.gateways,
        &m.source_labels,
        &m.source_namespace,
    )
}

fn applies_tcp(context: &PlanContext<'_>, port: u32, m: &L4MatchAttributes) -> bool {
    applies(
        context,
        port,
        m.port,
        &m.gateways,
        &m.source_labels,
        &m.source_namespace,
    )
}

fn tls_chains(
    context: &PlanContext<'_>,
    want: &Want<'_>,
    configs: &[&Shared<VirtualServiceConfig>],
    wildcard: bool,
) -> Vec<ChainPlan> {
    let mut out: Vec<ChainPlan> = Vec::new();
    let mut handled: Vec<(&[String], &[String])> = Vec::new();
    for config in configs {
        for (index, route) in config.spec.tls.iter().enumerate() {
            for (position, m) in route.r#match.iter().enumerate() {
                let key = (m.sni_hosts.as_slice(), m.destination_subnets.as_slice());
                if route.route.is_empty()
                    || !applies_tls(context, want.port.number, m)
                    || handled.contains(&key)
                {
                    continue;
                }
                handled.push(key);
                let cidrs = if m.destination_subnets.is_empty() {
                    want.binding.cidrs.clone()
                } else {
                    m.destination_subnets.clone()
                };
                out.push(ChainPlan {
                    sni: m.sni_hosts.clone(),
                    cidrs,
                    sniffed_http: false,
                    action: ChainAction::Tcp(routed(
                        context,
                        &config.object,
                        &route.route,
                        want.port,
                    )),
                    source: (
                        config.object.clone(),
                        format!("spec.tls[{index}].match[{position}]"),
                    ),
                });
            }
        }
    }
    if out.is_empty() {
        out.push(own_chain(
            context,
            want,
            wildcard || !want.binding.cidrs.is_empty(),
        ));
    }
    out
}

fn tcp_chains(
    context: &PlanContext<'_>,
    want: &Want<'_>,
    configs: &[&Shared<VirtualServiceConfig>],
) -> Vec<ChainPlan> {
    let mut out: Vec<ChainPlan> = Vec::new();
    for config in configs {
        for (index, route) in config.spec.tcp.iter().enumerate() {
            if route.route.is_empty() {
                continue;
            }
            let chain = |cidrs: Vec<String>, path: String| ChainPlan {
                sni: Vec::new(),
                cidrs,
                sniffed_http: false,
                action: ChainAction::Tcp(routed(context, &config.object, &route.route, want.port)),
                source: (config.object.clone(), path),
            };
            let path = format!("spec.tcp[{index}]");
            if route.r#match.is_empty() {
                out.push(chain(want.binding.cidrs.clone(), path));
                return out;
            }
            let mut subnets = Vec::new();
            for (position, m) in route.r#match.iter().enumerate() {
                if !applies_tcp(context, want.port.number, m) {
                    continue;
                }
                if m.destination_subnets.is_empty() {
                    out.push(chain(
                        want.binding.cidrs.clone(),
                        format!("{path}.match[{position}]"),
                    ));
                    return out;
                }
                subnets.extend(m.destination_subnets.clone());
            }
            if !subnets.is_empty() {
                out.push(chain(subnets, path));
            }
        }
    }
    out.push(own_chain(context, want, false));
    out
}

/// Sends a service's connections to the service.
fn own_chain(context: &PlanContext<'_>, want: &Want<'_>, by_name: bool) -> ChainPlan {
    let service = want.service;
    let port = match service.ports.as_slice() {
        [only] => only.number,
        _ => want.port.number,
    };
    let cluster = names::outbound_cluster("", &service.hostname, port);
    let rule = rule(context, service);
    let action = TcpAction {
        stat_prefix: cluster.clone(),
        clusters: vec![(cluster, 1)],
        ..settings(rule.as_deref(), "")
    };
    let sni = if by_name {
        std::iter::once(&service.hostname)
            .chain(&service.aliases)
            .cloned()
            .collect()
    } else {
        Vec::new()
    };
    ChainPlan {
        sni,
        cidrs: want.binding.cidrs.clone(),
        sniffed_http: false,
        action: ChainAction::Tcp(action),
        source: (service.object.clone(), String::new()),
    }
}

fn rule(context: &PlanContext<'_>, service: &Service) -> Option<Shared<MergedRule>> {
    let rules = context.snapshot.rules(&context.scope.namespace, service);
    for_workload(&rules, context.namespace, context.labels).cloned()
}

/// What a rule says of the connections themselves.
fn settings(rule: Option<&MergedRule>, subset: &str) -> TcpAction {
    let policy = rule.and_then(|rule| rule.spec.traffic_policy.as_ref());
    let tcp = policy.and_then(|policy| policy.connection_pool.as_ref()?.tcp.as_ref());
    let own_lb = rule
        .and_then(|rule| {
            rule.spec
                .subsets
                .iter()
                .find(|s| s.name == subset && !subset.is_empty())
        })
        .and_then(|subset| subset.traffic_policy.as_ref()?.load_balancer.as_ref());
    let lb = own_lb.or_else(|| policy.and_then(|policy| policy.load_balancer.as_ref()));
    let hash = lb.and_then(|lb| lb.consistent_hash.as_ref());
    TcpAction {
        idle_timeout: tcp.and_then(|tcp| tcp.idle_timeout),
        max_duration: tcp.and_then(|tcp| tcp.max_connection_duration),
        hash_source_ip: hash.is_some_and(|hash| hash.use_source_ip == Some(true)),
        ..TcpAction::default()
    }
}

/// Sends connections where a virtual service says.
pub(super) fn routed(
    context: &PlanContext<'_>,
    object: &ObjectRef,
    to: &[RouteDestination],
    port: &Port,
) -> TcpAction {
    let cluster = |destination: &lateen_api::networking::Destination| {
        let service = context.scope.service(&destination.host);
        let facts = service.map(|service| facts(service));
        (
            cluster_of(destination, facts.as_ref(), port.number),
            service,
        )
    };
    let first = to.iter().find_map(|route| route.destination.as_ref());
    let subset = first.map_or("", |destination| destination.subset.as_str());
    let rule = first
        .and_then(|destination| cluster(destination).1)
        .and_then(|service| rule(context, service));
    let clusters: Vec<(String, u32)> = to
        .iter()
        .filter_map(|route| {
            let weight = if to.len() == 1 {
                1
            } else {
                u32::try_from(route.weight).unwrap_or(0)
            };
            let destination = route.destination.as_ref().filter(|_| weight > 0)?;
            Some((cluster(destination).0, weight))
        })
        .collect();
    let stat_prefix = match clusters.as_slice() {
        [(only, _)] => only.clone(),
        _ => format!("{}.{}", object.name, object.namespace),
    };
    let subset = if clusters.len() == 1 { subset } else { "" };
    TcpAction {
        stat_prefix,
        clusters,
        ..settings(rule.as_deref(), subset)
    }
}

/// What destinations need to know of a service.
pub(crate) fn facts(service: &Service) -> DestinationFacts {
    DestinationFacts {
        only_port: match service.ports.as_slice() {
            [only] => Some(only.number),
            _ => None,
        },
        external_name: service.external_name.clone(),
    }
}

/// Everything one outbound listener depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OutboundListenerInputs {
    pub(crate) view: ListenerView,
    pub(crate) mesh: Shared<Mesh>,
    pub(crate) plan: OutboundPlan,
    pub(crate) outbound: OutboundPolicy,
}

/// Builds a listener.
pub(crate) fn outbound(inputs: &OutboundListenerInputs) -> listener::Listener {
    let plan = &inputs.plan;
    let extra: Vec<&str> = plan.binds.iter().skip(1).map(String::as_str).collect();
    let sniffs_tls = plan.chains.iter().any(|chain| !chain.sni.is_empty());
    let sniffs_http = plan.chains.iter().any(|chain| chain.sniffed_http);
    let mut out = listener::Listener {
        name: plan.name(),
        address: plan
            .binds
            .first()
            .map(|bind| socket_address(bind, plan.port)),
        additional_addresses: additional_addresses(&extra, plan.port),
        traffic_direction: core::TrafficDirection::Outbound as i32,
        continue_on_listener_filters_timeout: true,
        bind_to_port: if plan.binds_port {
            None
        } else {
            bool_value(false)
        },
        listener_filters_timeout: Some(duration(if sniffs_http {
            inputs.mesh.protocol_detection_timeout
        } else {
            Duration::ZERO
        })),
        ..Default::default()
    };
    if sniffs_tls {
        out.listener_filters.push(filters::tls_inspector());
    }
    if sniffs_http {
        out.listener_filters.push(filters::http_inspector());
    }
    for chain in &plan.chains {
        let built = build_chain(inputs, chain);
        if chain.is_match_all() {
            out.default_filter_chain = Some(built);
        } else {
            out.filter_chains.push(built);
        }
    }
    set_default(&mut out, inputs);
    out
}

/// A listener has at least one ordinary chain; and what none takes goes where unknown destinations go.
fn set_default(out: &mut listener::Listener, inputs: &OutboundListenerInputs) {
    match out.default_filter_chain.take() {
        Some(chain) if out.filter_chains.is_empty() => out.filter_chains.push(chain),
        Some(chain) => out.default_filter_chain = Some(chain),
        None => {
            out.default_filter_chain = Some(listener::FilterChain {
                name: names::PASSTHROUGH_FILTER_CHAIN.to_owned(),
                filter_chain_match: Some(listener::FilterChainMatch::default()),
                filters: catch_all(&inputs.view, &inputs.mesh, &inputs.outbound),
                ..Default::default()
            });
        }
    }
}

fn build_chain(inputs: &OutboundListenerInputs, chain: &ChainPlan) -> listener::FilterChain {
    let filters = match &chain.action {
        ChainAction::Tcp(action) => tcp_filters(
            &inputs.view,
            &inputs.mesh,
            Class::SidecarOutbound,
            tcp_proxy(action),
            Vec::new(),
        ),
        ChainAction::Http { routes, protocol } => {
            let options = HttpOptions {
                class: Class::SidecarOutbound,
                routes: Routes::Named(routes.name.clone()),
                stat_prefix: format!("outbound_{}", inputs.plan.name()),
                protocol: *protocol,
                policies: Vec::new(),
            };
            vec![filter(&inputs.view, &inputs.mesh, options)]
        }
    };
    let (object, path) = &chain.source;
    let meta = if path.is_empty() {
        Meta::default().provenance(object, "")
    } else {
        Meta::default().config(object, path)
    };
    listener::FilterChain {
        filter_chain_match: chain_match(chain),
        filters,
        metadata: meta.build(),
        ..Default::default()
    }
}

fn chain_match(chain: &ChainPlan) -> Option<listener::FilterChainMatch> {
    if chain.is_match_all() {
        return None;
    }
    let mut server_names = chain.sni.clone();
    if server_names.iter().any(|name| name == "*") {
        server_names.clear();
    }
    server_names.sort();
    let mut cidrs = chain.cidrs.clone();
    cidrs.sort();
    Some(listener::FilterChainMatch {
        server_names,
        prefix_ranges: cidrs.iter().filter_map(|text| cidr(text)).collect(),
        application_protocols: if chain.sniffed_http {
            owned(&PLAINTEXT_HTTP_ALPN)
        } else {
            Vec::new()
        },
        transport_protocol: if chain.sniffed_http {
            RAW_TRANSPORT.to_owned()
        } else {
            String::new()
        },
        ..Default::default()
    })
}

/// The proxy for opaque connections.
pub(super) fn tcp_proxy(action: &TcpAction) -> TcpProxy {
    use crate::proto::extensions::filters::network::tcp_proxy::v3::tcp_proxy as tp;
    let specifier = match action.clusters.as_slice() {
        [(only, _)] => ClusterSpecifier::Cluster(only.clone()),
        several => ClusterSpecifier::WeightedClusters(tp::WeightedCluster {
            clusters: several
                .iter()
                .map(|(name, weight)| tp::weighted_cluster::ClusterWeight {
                    name: name.clone(),
                    weight: *weight,
                    ..Default::default()
                })
                .collect(),
        }),
    };
    let hash = envoy_type::HashPolicy {
        policy_specifier: Some(envoy_type::hash_policy::PolicySpecifier::SourceIp(
            envoy_type::hash_policy::SourceIp {},
        )),
    };
    TcpProxy {
        stat_prefix: action.stat_prefix.clone(),
        cluster_specifier: Some(specifier),
        idle_timeout: action.idle_timeout.map(duration),
        max_downstream_connection_duration: action.max_duration.map(duration),
        hash_policy: if action.hash_source_ip {
            vec![hash]
        } else {
            Vec::new()
        },
        ..Default::default()
    }
}
