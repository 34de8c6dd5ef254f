//! Which outbound listeners there are, and what each has to tell apart.
//!
//! Services that want the same address and port are merged by what they speak; which one wins is Istio's order
//! (`buildSidecarOutboundListener`).

use std::collections::BTreeMap;

use lateen_api::networking::CaptureMode;

use crate::listeners::ListenerView;
use crate::model::{Health, Port, Registry, Resolution, Service};
use crate::node::{Interception, IpMode};
use crate::protocol::{Handling, Protocol};
use crate::scope::{EgressScope, Scope};
use crate::shared::Shared;
use crate::snapshot::Snapshot;

use super::streams::opaque_chains;
use super::{ChainAction, ChainPlan, OutboundPlan, RouteName};

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
pub(super) struct Binding {
    binds: Vec<String>,
    binds_port: bool,
    /// Addresses to match instead of binding to.
    pub(super) cidrs: Vec<String>,
    /// Whether those are the addresses of one endpoint, so that no name is needed to know what is meant.
    pub(super) single_host: bool,
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
            ..Self::default()
        }
    }
}

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|&item| item.to_owned()).collect()
}

/// A service's wish for a listener.
#[derive(Clone)]
pub(super) struct Want<'a> {
    pub(super) service: &'a Shared<Service>,
    pub(super) port: &'a Port,
    pub(super) binding: Binding,
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
    let by_chain =
        context.snapshot.settings().features.headless_filter_chains && port.protocol.is_tcp();
    // Clients of a headless service choose an address themselves: one listener, or one chain, for each they may choose.
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
        let reachable: Vec<String> = endpoint
            .addresses
            .iter()
            .filter(|address| {
                context.view.ip_mode == IpMode::Dual
                    || address.contains(':') == (context.view.ip_mode == IpMode::V6)
            })
            .cloned()
            .collect();
        if reachable.is_empty() {
            continue;
        }
        let mut want = want.clone();
        if by_chain {
            want.binding.binds = owned(context.view.ip_mode.wildcards());
            want.binding.cidrs = reachable;
            want.binding.single_host = true;
        } else {
            want.binding.binds = reachable;
        }
        add(context, egress, entries, want);
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
        let several = want.binding.binds.len() > 1 && want.binding.binds != wildcards;
        if several && want.service.registry == Registry::External {
            return add_each_address(context, egress, entries, &want);
        }
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

/// Several ServiceEntries may name the same address, and one of them others beside it: each address is shared for itself.
fn add_each_address(
    context: &PlanContext<'_>,
    egress: &EgressScope,
    entries: &mut Entries,
    want: &Want<'_>,
) {
    for bind in &want.binding.binds {
        let mut one = want.clone();
        one.binding.binds = vec![bind.clone()];
        add(context, egress, entries, one);
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
