//! A gateway's listeners: one per address and port of its merged Gateways.

use lateen_api::networking::{RouteDestination, ServerTlsMode};

use crate::accesslog;
use crate::authentication::RequestAuthentications;
use crate::filters::{self, Class, MTLS_ALPN};
use crate::gateways::{MergedGateway, PortServers, Server};
use crate::host;
use crate::mesh::Mesh;
use crate::meta::Meta;
use crate::model::Port;
use crate::names::{self, ObjectRef};
use crate::proto::{core, listener, socket_address};
use crate::protocol::Protocol;
use crate::rules::for_workload;
use crate::shared::Shared;
use crate::snapshot::VirtualServiceConfig;

use super::http::{HttpOptions, Routes, filter};
use super::outbound::{PlanContext, TcpAction, routed, tcp_proxy};
use super::{ListenerView, additional_addresses, cidr, tcp_filters, tls};

/// One filter chain of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GatewayChain {
    /// The server it is for.
    pub(crate) server: Shared<Server>,
    /// Server names; empty: any connection.
    pub(crate) sni: Vec<String>,
    /// Destination addresses; empty: any.
    pub(crate) subnets: Vec<String>,
    pub(crate) alpn: Vec<String>,
    pub(crate) action: GatewayAction,
    /// The object and field it came from.
    pub(crate) source: (ObjectRef, String),
}

/// What a chain does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum GatewayAction {
    /// HTTP with these routes.
    Http(String),
    /// Opaque, after ending TLS if the server does.
    Tcp(TcpAction),
    /// TLS handed on.
    Passthrough(TcpAction),
}

/// Everything one gateway listener depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GatewayListenerInputs {
    pub(crate) view: ListenerView,
    pub(crate) mesh: Shared<Mesh>,
    pub(crate) port: u32,
    /// The address asked for; empty for all.
    pub(crate) bind: String,
    pub(crate) chains: Vec<GatewayChain>,
    /// AuthorizationPolicy as filters.
    pub(crate) policies: Shared<crate::authorization::Policies>,
    /// RequestAuthentication.
    pub(crate) authentication: Shared<RequestAuthentications>,
}

/// The chains of each listener: by port and address.
pub(crate) fn gateway_plan(
    merged: &MergedGateway,
    context: &PlanContext<'_>,
) -> Vec<(u32, String, Vec<GatewayChain>)> {
    let mut out: Vec<(u32, String, Vec<GatewayChain>)> = Vec::new();
    for servers in &merged.ports {
        if context.unprivileged && servers.port < 1024 {
            continue;
        }
        let chains = chains(servers, context);
        if chains.is_empty() {
            continue;
        }
        match out
            .iter_mut()
            .find(|(port, bind, _)| *port == servers.port && *bind == servers.bind)
        {
            Some((_, _, known)) => known.extend(chains),
            None => out.push((servers.port, servers.bind.clone(), chains)),
        }
    }
    out
}

fn chains(servers: &PortServers, context: &PlanContext<'_>) -> Vec<GatewayChain> {
    if servers.protocol.is_http() {
        return servers
            .servers
            .first()
            .map(|first| http(first, &servers.route_name))
            .into_iter()
            .collect();
    }
    servers
        .servers
        .iter()
        .flat_map(|server| {
            if server.terminates_https() {
                vec![http(server, &server.route_name)]
            } else {
                streams(server, context)
            }
        })
        .collect()
}

fn http(server: &Shared<Server>, routes: &str) -> GatewayChain {
    GatewayChain {
        server: server.clone(),
        sni: if server.is_tls() {
            server.sni_hosts()
        } else {
            Vec::new()
        },
        subnets: Vec::new(),
        alpn: Vec::new(),
        action: GatewayAction::Http(routes.to_owned()),
        source: (server.object.clone(), server.path.clone()),
    }
}

fn streams(server: &Shared<Server>, context: &PlanContext<'_>) -> Vec<GatewayChain> {
    match server.spec.tls.as_ref().map(|tls| tls.mode) {
        Some(ServerTlsMode::AutoPassthrough) => auto_passthrough(server, context),
        Some(ServerTlsMode::Passthrough) => passthrough(server, context),
        _ => terminated(server, context),
    }
}

fn port_of(server: &Server) -> Port {
    Port {
        number: server.number,
        protocol: server.protocol,
        ..Port::default()
    }
}

/// Whether a virtual service shares a host with a server.
fn shares_host(server: &Server, hosts: &[String], namespace: &str) -> bool {
    let open = server.hosts_for(namespace);
    hosts
        .iter()
        .any(|wanted| open.iter().any(|host| host::matches(host, wanted)))
}

/// TCP, or TLS that ends here: a chain for each route that asks for addresses, up to the first that takes every connection.
///
/// Hosts cannot be told apart without HTTP: the server's own decide which connections come at all.
fn terminated(server: &Shared<Server>, context: &PlanContext<'_>) -> Vec<GatewayChain> {
    let mut out: Vec<GatewayChain> = Vec::new();
    let configs = context
        .snapshot
        .virtual_services(&server.gateway, context.namespace)
        .filter(|config| shares_host(server, &config.spec.hosts, &config.object.namespace));
    for config in configs {
        for (to, subnets, path) in stream_routes(server, config) {
            if to.is_empty() || out.iter().any(|known| known.subnets == subnets) {
                continue;
            }
            let last = subnets.is_empty();
            let action = routed(context, &config.object, to, &port_of(server));
            out.push(GatewayChain {
                server: server.clone(),
                sni: if server.is_tls() {
                    server.sni_hosts()
                } else {
                    Vec::new()
                },
                subnets,
                alpn: Vec::new(),
                action: GatewayAction::Tcp(action),
                source: (config.object.clone(), path),
            });
            if last {
                return out;
            }
        }
    }
    out
}

/// A route of opaque connections: where to, for which addresses, and the field it was written in.
type StreamRoute<'a> = (&'a [RouteDestination], Vec<String>, String);

/// The routes of a virtual service for a server that ends TLS, or has none. Those of a TLSRoute are written as TLS, whoever ends
/// it.
fn stream_routes<'a>(server: &Server, config: &'a VirtualServiceConfig) -> Vec<StreamRoute<'a>> {
    let mut out: Vec<StreamRoute<'a>> = Vec::new();
    for (index, route) in config.spec.tcp.iter().enumerate() {
        let path = format!("spec.tcp[{index}]");
        if route.r#match.is_empty() {
            out.push((&route.route, Vec::new(), path));
            continue;
        }
        for (position, m) in route.r#match.iter().enumerate() {
            if applies(server, m.port, &m.gateways) {
                let path = format!("{path}.match[{position}]");
                out.push((&route.route, m.destination_subnets.clone(), path));
            }
        }
    }
    if !config.from_tls_route {
        return out;
    }
    for (index, route) in config.spec.tls.iter().enumerate() {
        for (position, m) in route.r#match.iter().enumerate() {
            if applies(server, m.port, &m.gateways) {
                let path = format!("spec.tls[{index}].match[{position}]");
                out.push((&route.route, m.destination_subnets.clone(), path));
            }
        }
    }
    out
}

fn applies(server: &Server, port: u32, gateways: &[String]) -> bool {
    (port == 0 || port == server.number)
        && (gateways.is_empty() || gateways.contains(&server.gateway))
}

/// TLS handed on by server name, as virtual services say.
fn passthrough(server: &Shared<Server>, context: &PlanContext<'_>) -> Vec<GatewayChain> {
    let mut out: Vec<GatewayChain> = Vec::new();
    for config in context
        .snapshot
        .virtual_services(&server.gateway, context.namespace)
    {
        if !shares_host(server, &config.spec.hosts, &config.object.namespace) {
            continue;
        }
        for (index, route) in config.spec.tls.iter().enumerate() {
            for (position, m) in route.r#match.iter().enumerate() {
                let taken = |name: &String| {
                    let same = |chain: &GatewayChain| {
                        chain.sni.contains(name) && chain.subnets == m.destination_subnets
                    };
                    out.iter().any(same)
                };
                if route.route.is_empty()
                    || !applies(server, m.port, &m.gateways)
                    || m.sni_hosts.iter().any(taken)
                {
                    continue;
                }
                let action = routed(context, &config.object, &route.route, &port_of(server));
                out.push(GatewayChain {
                    server: server.clone(),
                    sni: m.sni_hosts.clone(),
                    subnets: m.destination_subnets.clone(),
                    alpn: Vec::new(),
                    action: GatewayAction::Passthrough(action),
                    source: (
                        config.object.clone(),
                        format!("spec.tls[{index}].match[{position}]"),
                    ),
                });
            }
        }
    }
    out
}

/// Mutual TLS of the mesh handed on by the cluster its server name spells: how clusters of one mesh reach each other.
fn auto_passthrough(server: &Shared<Server>, context: &PlanContext<'_>) -> Vec<GatewayChain> {
    let hosts = server.sni_hosts();
    let mut out = Vec::new();
    let services = context.scope.services.iter().filter(|service| {
        !service.mesh_external
            && hosts
                .iter()
                .any(|host| host::is_subset(&service.hostname, host))
    });
    for service in services {
        let rules = context.snapshot.rules(&context.scope.namespace, service);
        let rule = for_workload(&rules, context.namespace, context.labels);
        let subsets = rule.map_or(&[][..], |rule| &rule.spec.subsets);
        for port in service
            .ports
            .iter()
            .filter(|port| port.protocol != Protocol::Udp)
        {
            let names =
                std::iter::once("").chain(subsets.iter().map(|subset| subset.name.as_str()));
            for subset in names {
                let cluster = names::sni_cluster(subset, &service.hostname, port.number);
                let action = TcpAction {
                    stat_prefix: cluster.clone(),
                    clusters: vec![(cluster.clone(), 1)],
                    ..TcpAction::default()
                };
                out.push(GatewayChain {
                    server: server.clone(),
                    sni: vec![cluster],
                    subnets: Vec::new(),
                    alpn: MTLS_ALPN.map(str::to_owned).to_vec(),
                    action: GatewayAction::Passthrough(action),
                    source: (server.object.clone(), server.path.clone()),
                });
            }
        }
    }
    out
}

/// Builds a listener.
pub(crate) fn gateway(inputs: &GatewayListenerInputs) -> listener::Listener {
    let wildcards = inputs.view.ip_mode.wildcards();
    let (bind, extra) = match inputs.bind.as_str() {
        "" => (wildcards[0], &wildcards[1..]),
        bind => (bind, &[][..]),
    };
    let inspects = inputs.chains.iter().any(|chain| chain.server.is_tls());
    listener::Listener {
        name: names::listener(bind, inputs.port),
        address: Some(socket_address(bind, inputs.port)),
        additional_addresses: additional_addresses(extra, inputs.port),
        traffic_direction: core::TrafficDirection::Outbound as i32,
        listener_filters: if inspects {
            vec![filters::tls_inspector()]
        } else {
            Vec::new()
        },
        filter_chains: inputs
            .chains
            .iter()
            .map(|chain| build(inputs, chain, bind))
            .collect(),
        access_log: accesslog::listener_logs(&inputs.mesh, Class::Gateway),
        ..Default::default()
    }
}

fn build(
    inputs: &GatewayListenerInputs,
    chain: &GatewayChain,
    bind: &str,
) -> listener::FilterChain {
    let server = &chain.server;
    let settings = server.spec.tls.as_ref().filter(|_| server.is_tls());
    let opaque = !matches!(chain.action, GatewayAction::Http(_));
    let (object, path) = &chain.source;
    listener::FilterChain {
        filter_chain_match: chain_match(chain),
        filters: filters_of(inputs, chain, bind),
        transport_socket: settings
            .and_then(|settings| tls::server(&inputs.mesh, settings, opaque, &inputs.view)),
        // A client that connects and then says nothing must not hold a connection at the edge. Source: Istio.
        transport_socket_connect_timeout: Some(crate::proto::PbDuration {
            seconds: 15,
            nanos: 0,
        }),
        metadata: Meta::default().config(object, path).build(),
        ..Default::default()
    }
}

fn chain_match(chain: &GatewayChain) -> Option<listener::FilterChainMatch> {
    let wildcard = chain.sni.is_empty() || chain.sni.iter().any(|name| name == "*");
    if wildcard && chain.alpn.is_empty() && chain.subnets.is_empty() {
        return None;
    }
    Some(listener::FilterChainMatch {
        server_names: if wildcard {
            Vec::new()
        } else {
            chain.sni.clone()
        },
        prefix_ranges: chain.subnets.iter().filter_map(|text| cidr(text)).collect(),
        application_protocols: chain.alpn.clone(),
        ..Default::default()
    })
}

fn filters_of(
    inputs: &GatewayListenerInputs,
    chain: &GatewayChain,
    bind: &str,
) -> Vec<listener::Filter> {
    match &chain.action {
        GatewayAction::Http(routes) => {
            let server = &chain.server;
            let own_name = server.is_tls() && !server.spec.name.is_empty();
            let stat_prefix = if own_name {
                server.spec.name.clone()
            } else {
                format!("outbound_{}", names::listener(bind, inputs.port))
            };
            let options = HttpOptions {
                class: Class::Gateway,
                routes: Routes::Named(routes.clone()),
                stat_prefix,
                protocol: server.protocol,
                authorizers: inputs.policies.custom_http_filters(),
                authentication: inputs.authentication.http_filter(true),
                policies: inputs.policies.http_filters(),
            };
            vec![filter(&inputs.view, &inputs.mesh, options)]
        }
        GatewayAction::Tcp(action) | GatewayAction::Passthrough(action) => {
            let mut policies = inputs.policies.custom_network_filters();
            policies.extend(inputs.policies.network_filters());
            let resolves = action.by_server_name;
            policies
                .extend(resolves.map(|port| filters::sni_forward_proxy(inputs.view.ip_mode, port)));
            tcp_filters(
                &inputs.view,
                &inputs.mesh,
                Class::Gateway,
                tcp_proxy(action),
                policies,
            )
        }
    }
}
