//! The inbound listener of a sidecar: for each port of the workload, how connections to it are secured and understood.
//!
//! Filter chains follow from a port's mutual TLS mode and its protocol. Source: Istio, `filterchain_options.go`.

use lateen_api::networking::ServerTlsSettings;

use crate::accesslog;
use crate::authentication::RequestAuthentications;
use crate::filters::{
    self, Class, MTLS_ALPN, MTLS_HTTP_ALPN, MTLS_TCP_ALPN, PLAINTEXT_HTTP_ALPN, RAW_TRANSPORT,
    TLS_TRANSPORT,
};
use crate::mesh::Mesh;
use crate::meta::Meta;
use crate::names::{self, ObjectRef};
use crate::node::Interception;
use crate::proto::{core, duration, listener, socket_address, u32_value};
use crate::protocol::{Handling, Protocol};
use crate::routes;
use crate::security::MtlsMode;
use crate::shared::Shared;

use super::ClusterSpecifier;
use super::http::{HttpOptions, Routes, filter};
use super::{
    ListenerView, TcpProxy, additional_addresses, blackhole, tcp_filters, tls, transparent,
};

/// One port of the workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct InboundPort {
    /// The workload's port.
    pub(crate) target: u32,
    /// The service's port, which routes are named by.
    pub(crate) port: u32,
    pub(crate) protocol: Protocol,
    /// The name requests are traced under.
    pub(crate) host: String,
    pub(crate) mtls: MtlsMode,
    /// A Sidecar's own TLS settings for the port, which hold where mutual TLS is off.
    pub(crate) tls: Option<ServerTlsSettings>,
    /// The address to listen on, for ports that are not redirected.
    pub(crate) bind: Option<String>,
    /// The object that declared it: the Service, ServiceEntry or Sidecar.
    pub(crate) object: Option<ObjectRef>,
    /// The PeerAuthentication that decided the mode, if there is one.
    pub(crate) decided_by: Option<ObjectRef>,
}

/// Everything a sidecar's inbound listeners depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct InboundInputs {
    pub(crate) view: ListenerView,
    pub(crate) mesh: Shared<Mesh>,
    /// The declared ports, by number.
    pub(crate) ports: Vec<InboundPort>,
    /// Ports that have a mutual TLS mode of their own but that no service declares; 0 stands for all other ports.
    pub(crate) undeclared: Vec<(u32, MtlsMode, Option<ObjectRef>)>,
    /// AuthorizationPolicy as filters.
    pub(crate) policies: Shared<crate::authorization::Policies>,
    /// RequestAuthentication.
    pub(crate) authentication: Shared<RequestAuthentications>,
}

/// One way a connection to a port may look.
#[derive(Clone, Copy)]
struct Look {
    alpn: &'static [&'static str],
    transport: &'static str,
    handling: Handling,
    /// Whether the proxy ends mutual TLS.
    mtls: bool,
}

const fn look(
    alpn: &'static [&'static str],
    transport: &'static str,
    handling: Handling,
    mtls: bool,
) -> Look {
    Look {
        alpn,
        transport,
        handling,
        mtls,
    }
}

/// How connections to a port may look, in Istio's order.
fn looks(mode: MtlsMode, handling: Handling) -> &'static [Look] {
    use Handling::{Auto, Http, Tcp};
    const PERMISSIVE_AUTO: &[Look] = &[
        look(&MTLS_HTTP_ALPN, TLS_TRANSPORT, Http, true),
        look(&PLAINTEXT_HTTP_ALPN, RAW_TRANSPORT, Http, false),
        look(&MTLS_TCP_ALPN, TLS_TRANSPORT, Tcp, true),
        look(&[], RAW_TRANSPORT, Tcp, false),
        look(&[], TLS_TRANSPORT, Tcp, false),
    ];
    const PERMISSIVE_HTTP: &[Look] = &[
        look(&MTLS_ALPN, TLS_TRANSPORT, Http, true),
        look(&[], RAW_TRANSPORT, Http, false),
    ];
    const PERMISSIVE_TCP: &[Look] = &[
        look(&MTLS_ALPN, TLS_TRANSPORT, Tcp, true),
        look(&[], TLS_TRANSPORT, Tcp, false),
        look(&[], RAW_TRANSPORT, Tcp, false),
    ];
    const STRICT_AUTO: &[Look] = &[
        look(&MTLS_HTTP_ALPN, TLS_TRANSPORT, Http, true),
        look(&[], TLS_TRANSPORT, Tcp, true),
    ];
    const STRICT_HTTP: &[Look] = &[look(&[], TLS_TRANSPORT, Http, true)];
    const STRICT_TCP: &[Look] = &[look(&[], TLS_TRANSPORT, Tcp, true)];
    const PLAIN_AUTO: &[Look] = &[
        look(&PLAINTEXT_HTTP_ALPN, RAW_TRANSPORT, Http, false),
        look(&[], RAW_TRANSPORT, Tcp, false),
    ];
    const PLAIN_HTTP: &[Look] = &[look(&[], RAW_TRANSPORT, Http, false)];
    const PLAIN_TCP: &[Look] = &[look(&[], RAW_TRANSPORT, Tcp, false)];
    match (mode, handling) {
        (MtlsMode::Permissive, Auto) => PERMISSIVE_AUTO,
        (MtlsMode::Permissive, Http) => PERMISSIVE_HTTP,
        (MtlsMode::Permissive, Tcp) => PERMISSIVE_TCP,
        (MtlsMode::Strict, Auto) => STRICT_AUTO,
        (MtlsMode::Strict, Http) => STRICT_HTTP,
        (MtlsMode::Strict, Tcp) => STRICT_TCP,
        (MtlsMode::Disable | MtlsMode::Unset, Auto) => PLAIN_AUTO,
        (MtlsMode::Disable | MtlsMode::Unset, Http) => PLAIN_HTTP,
        (MtlsMode::Disable | MtlsMode::Unset, Tcp) => PLAIN_TCP,
    }
}

/// The inbound listeners: the one for redirected connections, and one for each port that binds itself.
pub(crate) fn inbound(inputs: &InboundInputs) -> Vec<listener::Listener> {
    let (view, mesh) = (&inputs.view, &*inputs.mesh);
    let mut out = Vec::new();
    let redirected = inputs.ports.iter().filter(|port| port.bind.is_none());
    if view.interception != Interception::None {
        let mut chains = vec![blackhole(
            names::VIRTUAL_INBOUND_BLACKHOLE,
            mesh.inbound_port,
            Class::SidecarInbound,
            (view, mesh),
        )];
        for (port, mode, object) in &inputs.undeclared {
            chains.extend(passthrough_chains(inputs, *port, *mode, object.as_ref()));
        }
        chains.extend(redirected.flat_map(|port| port_chains(inputs, port)));
        let wildcards = view.ip_mode.wildcards();
        let mut listener = listener(
            inputs,
            names::VIRTUAL_INBOUND,
            wildcards,
            mesh.inbound_port,
            chains,
            false,
        );
        listener.transparent = transparent(view.interception);
        out.push(listener);
    }
    for port in &inputs.ports {
        let Some(bind) = &port.bind else { continue };
        let name = names::listener(bind, port.target);
        let chains = port_chains(inputs, port);
        out.push(listener(
            inputs,
            &name,
            &[bind.as_str()],
            port.target,
            chains,
            true,
        ));
    }
    out
}

fn listener(
    inputs: &InboundInputs,
    name: &str,
    addresses: &[&str],
    port: u32,
    chains: Vec<listener::FilterChain>,
    binds: bool,
) -> listener::Listener {
    listener::Listener {
        name: name.to_owned(),
        address: addresses
            .first()
            .map(|address| socket_address(address, port)),
        additional_addresses: additional_addresses(&addresses[1..], port),
        traffic_direction: core::TrafficDirection::Inbound as i32,
        // A client that says nothing may be waiting for the server to speak: it is served as opaque.
        continue_on_listener_filters_timeout: true,
        listener_filters: listener_filters(&inputs.view, &chains, binds),
        listener_filters_timeout: Some(duration(inputs.mesh.protocol_detection_timeout)),
        filter_chains: chains,
        access_log: accesslog::listener_logs(&inputs.mesh, Class::SidecarInbound),
        ..Default::default()
    }
}

/// The chains of a declared port.
fn port_chains(inputs: &InboundInputs, port: &InboundPort) -> Vec<listener::FilterChain> {
    let own_tls = port.tls.as_ref().filter(|_| port.mtls == MtlsMode::Disable);
    if let Some(settings) = own_tls {
        let handling = port.protocol.handling().unwrap_or(Handling::Tcp);
        let only = look(&[], TLS_TRANSPORT, handling, false);
        let mut chain = chain(inputs, Place::Port(port), &only);
        chain.transport_socket = tls::server(
            &inputs.mesh,
            settings,
            handling == Handling::Tcp,
            &inputs.view,
        );
        return vec![chain];
    }
    let Some(handling) = port.protocol.handling() else {
        return Vec::new();
    };
    looks(port.mtls, handling)
        .iter()
        .map(|look| chain(inputs, Place::Port(port), look))
        .collect()
}

/// The chains of ports that no service declares.
fn passthrough_chains(
    inputs: &InboundInputs,
    port: u32,
    mode: MtlsMode,
    object: Option<&ObjectRef>,
) -> Vec<listener::FilterChain> {
    looks(mode, Handling::Auto)
        .iter()
        .map(|look| chain(inputs, Place::Undeclared(port, object), look))
        .collect()
}

/// What a chain is for.
#[derive(Clone, Copy)]
enum Place<'a> {
    Port(&'a InboundPort),
    /// A port by number, or every port that nothing else is for (0).
    Undeclared(u32, Option<&'a ObjectRef>),
}

fn chain(inputs: &InboundInputs, place: Place<'_>, look: &Look) -> listener::FilterChain {
    let (view, mesh) = (&inputs.view, &*inputs.mesh);
    let destination_port = match place {
        Place::Port(port) => port.target,
        Place::Undeclared(port, _) => port,
    };
    let socket = look
        .mtls
        .then(|| tls::mutual(mesh, look.handling, view.native));
    listener::FilterChain {
        name: chain_name(view, place, look.handling),
        filter_chain_match: Some(listener::FilterChainMatch {
            destination_port: u32_value(destination_port).filter(|port| port.value > 0),
            transport_protocol: look.transport.to_owned(),
            application_protocols: look.alpn.iter().map(|&name| name.to_owned()).collect(),
            ..Default::default()
        }),
        filters: match look.handling {
            Handling::Tcp => tcp(inputs, place),
            Handling::Http | Handling::Auto => http(inputs, place),
        },
        transport_socket: socket,
        metadata: metadata(place).build(),
        ..Default::default()
    }
}

fn chain_name(view: &ListenerView, place: Place<'_>, handling: Handling) -> String {
    match (place, handling) {
        (Place::Port(port), _) => {
            let wildcard = view
                .ip_mode
                .wildcards()
                .first()
                .copied()
                .unwrap_or_default();
            names::listener(port.bind.as_deref().unwrap_or(wildcard), port.target)
        }
        (Place::Undeclared(..), Handling::Tcp) => names::VIRTUAL_INBOUND.to_owned(),
        (Place::Undeclared(..), _) => names::VIRTUAL_INBOUND_CATCH_ALL_HTTP.to_owned(),
    }
}

/// Which policy let a connection in or kept it out: the PeerAuthentication first, else what declared the port.
fn metadata(place: Place<'_>) -> Meta {
    let meta = Meta::default();
    match place {
        Place::Port(port) => match (&port.decided_by, &port.object) {
            (Some(object), _) | (None, Some(object)) => meta.provenance(object, ""),
            (None, None) => meta,
        },
        Place::Undeclared(_, object) => match object {
            Some(object) => meta.provenance(object, ""),
            None => meta,
        },
    }
}

fn cluster(place: Place<'_>) -> String {
    match place {
        Place::Port(port) => names::inbound_cluster(port.target),
        Place::Undeclared(..) => names::INBOUND_PASSTHROUGH_CLUSTER.to_owned(),
    }
}

fn tcp(inputs: &InboundInputs, place: Place<'_>) -> Vec<listener::Filter> {
    let cluster = cluster(place);
    let proxy = TcpProxy {
        stat_prefix: cluster.clone(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
        ..Default::default()
    };
    let mut policies = inputs.policies.custom_network_filters();
    policies.extend(inputs.policies.network_filters());
    tcp_filters(
        &inputs.view,
        &inputs.mesh,
        Class::SidecarInbound,
        proxy,
        policies,
    )
}

fn http(inputs: &InboundInputs, place: Place<'_>) -> Vec<listener::Filter> {
    let cluster = cluster(place);
    let (port, protocol, host, object, stat_prefix) = match place {
        Place::Port(port) => {
            let name = chain_name(&inputs.view, place, Handling::Http);
            let prefix = format!("inbound_{name}");
            (
                port.port,
                port.protocol,
                port.host.as_str(),
                port.object.as_ref(),
                prefix,
            )
        }
        Place::Undeclared(..) => (0, Protocol::Sniffed, "", None, cluster.clone()),
    };
    let mut out = Vec::new();
    if inputs.view.native {
        out.push(filters::metadata_exchange());
    }
    let options = HttpOptions {
        class: Class::SidecarInbound,
        routes: Routes::Inline(Box::new(routes::inbound(
            &cluster, port, protocol, host, object,
        ))),
        stat_prefix,
        protocol,
        authorizers: inputs.policies.custom_http_filters(),
        authentication: inputs.authentication.http_filter(false),
        policies: inputs.policies.http_filters(),
    };
    out.push(filter(&inputs.view, &inputs.mesh, options));
    out
}

/// The listener filters the chains need, switched off for ports that do not: looking for the first bytes of a connection
/// whose server speaks first would wait for ever.
fn listener_filters(
    view: &ListenerView,
    chains: &[listener::FilterChain],
    binds: bool,
) -> Vec<listener::ListenerFilter> {
    let mut out = Vec::new();
    if !binds {
        out.push(filters::original_dst());
        if view.interception == Interception::Tproxy {
            out.push(filters::original_src());
        }
    }
    let needs = |wanted: fn(&listener::FilterChainMatch) -> bool| {
        let mut ports: std::collections::BTreeMap<u32, bool> = std::collections::BTreeMap::new();
        for m in chains
            .iter()
            .filter_map(|chain| chain.filter_chain_match.as_ref())
        {
            let port = m.destination_port.map_or(0, |port| port.value);
            *ports.entry(port).or_default() |= wanted(m);
        }
        ports
    };
    let tls = needs(|m| m.transport_protocol == TLS_TRANSPORT);
    let http = needs(|m| {
        m.application_protocols
            .iter()
            .any(|name| PLAINTEXT_HTTP_ALPN.contains(&name.as_str()))
    });
    out.extend(inspector(filters::tls_inspector(), &tls));
    out.extend(inspector(filters::http_inspector(), &http));
    out
}

/// An inspector for the ports that need it; none if no port does. Port 0 stands for all ports not named.
fn inspector(
    mut filter: listener::ListenerFilter,
    needs: &std::collections::BTreeMap<u32, bool>,
) -> Option<listener::ListenerFilter> {
    if !needs.values().any(|needed| *needed) {
        return None;
    }
    let default = needs.get(&0).copied().unwrap_or(false);
    let others: Vec<u32> = needs
        .iter()
        .filter(|(port, needed)| **port != 0 && **needed != default)
        .map(|(port, _)| *port)
        .collect();
    filter.filter_disabled = match (default, others.is_empty()) {
        (true, true) => None,
        (true, false) => Some(ports(&others)),
        // Where the default is off, something needs it, so that the list is not empty.
        (false, _) => Some(not(ports(&others))),
    };
    Some(filter)
}

use listener::listener_filter_chain_match_predicate::{MatchSet, Rule};

fn ports(ports: &[u32]) -> listener::ListenerFilterChainMatchPredicate {
    let mut rules: Vec<_> = ports.iter().map(|port| one_port(*port)).collect();
    match rules.len() {
        1 => rules.remove(0),
        _ => predicate(Rule::OrMatch(MatchSet { rules })),
    }
}

fn one_port(port: u32) -> listener::ListenerFilterChainMatchPredicate {
    let start = i32::try_from(port).unwrap_or(0);
    predicate(Rule::DestinationPortRange(
        crate::proto::envoy_type::Int32Range {
            start,
            end: start + 1,
        },
    ))
}

fn not(
    inner: listener::ListenerFilterChainMatchPredicate,
) -> listener::ListenerFilterChainMatchPredicate {
    predicate(Rule::NotMatch(Box::new(inner)))
}

fn predicate(rule: Rule) -> listener::ListenerFilterChainMatchPredicate {
    listener::ListenerFilterChainMatchPredicate { rule: Some(rule) }
}
