//! Listeners: what a proxy does with a connection before it knows where it goes.

mod gateway;
mod http;
mod inbound;
mod outbound;
mod tls;

use std::time::Duration;

use crate::accesslog;
use crate::credentials::CredentialServers;
use crate::filters::{self, Class, TCP_PROXY};
use crate::mesh::{Mesh, OutboundPolicy};
use crate::names;
use crate::node::{Interception, IpMode};
use crate::proto::{
    any, bool_value, core, duration, extensions, listener, network_filter, socket_address,
    u32_value,
};

pub(crate) use gateway::{GatewayListenerInputs, gateway, gateway_plan};
pub(crate) use inbound::{InboundInputs, InboundPort, inbound};
pub(crate) use outbound::{
    OutboundListenerInputs, OutboundPlan, PlanContext, RouteName, facts, outbound, plan,
};

use extensions::filters::network::tcp_proxy::v3::TcpProxy;
use extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;

/// What listeners need to know of the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ListenerView {
    /// Whether it has Istio's extensions.
    pub(crate) native: bool,
    pub(crate) ip_mode: IpMode,
    pub(crate) interception: Interception,
    /// How long a connection may be idle; none: Envoy's default.
    pub(crate) idle_timeout: Option<Duration>,
    /// Whether some requests go to whatever host they name.
    pub(crate) dynamic_dns: bool,
    /// Where certificates come from that are neither files nor Secrets.
    pub(crate) credentials: CredentialServers,
}

/// What the listener that receives redirected outbound connections depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct VirtualOutboundInputs {
    pub(crate) view: ListenerView,
    pub(crate) mesh: crate::shared::Shared<Mesh>,
    pub(crate) outbound: OutboundPolicy,
}

/// The listener that receives redirected outbound connections and hands each to the listener of its destination; those that
/// have none it handles itself.
pub(crate) fn virtual_outbound(inputs: &VirtualOutboundInputs) -> listener::Listener {
    let (view, mesh) = (&inputs.view, &*inputs.mesh);
    let wildcards = view.ip_mode.wildcards();
    let port = mesh.listen_port;
    let resolves = inputs.outbound == OutboundPolicy::AllowAnyDynamicDns;
    let mut out = listener::Listener {
        name: names::VIRTUAL_OUTBOUND.to_owned(),
        address: wildcards
            .first()
            .map(|address| socket_address(address, port)),
        additional_addresses: additional_addresses(&wildcards[1..], port),
        use_original_dst: bool_value(true),
        transparent: transparent(view.interception),
        traffic_direction: core::TrafficDirection::Outbound as i32,
        filter_chains: vec![
            // A connection to the proxy's own port would go to itself for ever.
            blackhole(
                names::VIRTUAL_OUTBOUND_BLACKHOLE,
                port,
                Class::SidecarOutbound,
                (view, mesh),
            ),
            listener::FilterChain {
                name: names::VIRTUAL_OUTBOUND_CATCH_ALL_TCP.to_owned(),
                filters: catch_all(view, mesh, &inputs.outbound),
                ..Default::default()
            },
        ],
        access_log: accesslog::listener_logs(mesh, Class::SidecarOutbound),
        ..Default::default()
    };
    if resolves {
        let last = out.filter_chains.len() - 1;
        out.filter_chains.insert(last, dynamic_http(inputs));
        out.listener_filters.push(filters::http_inspector());
        out.listener_filters_timeout = Some(duration(mesh.protocol_detection_timeout));
        out.continue_on_listener_filters_timeout = true;
    }
    out
}

/// HTTP in clear text to a destination nobody knows: to the host that each request names.
fn dynamic_http(inputs: &VirtualOutboundInputs) -> listener::FilterChain {
    let routes = crate::routes::unknown_hosts(&inputs.outbound);
    let options = http::HttpOptions {
        class: Class::SidecarOutbound,
        routes: http::Routes::Inline(Box::new(routes)),
        stat_prefix: format!(
            "outbound_{}_{}",
            names::VIRTUAL_OUTBOUND,
            names::ALLOW_ANY_DYNAMIC_DNS
        ),
        protocol: crate::protocol::Protocol::Http,
        authentication: None,
        authorizers: Vec::new(),
        policies: Vec::new(),
    };
    listener::FilterChain {
        name: names::ALLOW_ANY_DYNAMIC_DNS.to_owned(),
        filter_chain_match: Some(listener::FilterChainMatch {
            // No transport: a chain that asked for clear text would take what is not HTTP from the one after it.
            application_protocols: filters::PLAINTEXT_HTTP_ALPN.map(str::to_owned).to_vec(),
            ..Default::default()
        }),
        filters: vec![http::filter(&inputs.view, &inputs.mesh, options)],
        ..Default::default()
    }
}

fn transparent(interception: Interception) -> Option<crate::proto::BoolValue> {
    if interception == Interception::Tproxy {
        bool_value(true)
    } else {
        None
    }
}

fn additional_addresses(addresses: &[&str], port: u32) -> Vec<listener::AdditionalAddress> {
    addresses
        .iter()
        .map(|address| listener::AdditionalAddress {
            address: Some(socket_address(address, port)),
            ..Default::default()
        })
        .collect()
}

/// Stops connections to a port.
fn blackhole(
    name: &str,
    port: u32,
    class: Class,
    (view, mesh): (&ListenerView, &Mesh),
) -> listener::FilterChain {
    let mut filters = Vec::new();
    if view.native {
        if class == Class::SidecarInbound {
            filters.push(filters::metadata_exchange());
        }
        filters.extend(filters::tcp_stats(mesh, class));
    }
    filters.push(network_filter(
        TCP_PROXY,
        any(&TcpProxy {
            stat_prefix: names::BLACK_HOLE_CLUSTER.to_owned(),
            cluster_specifier: Some(ClusterSpecifier::Cluster(
                names::BLACK_HOLE_CLUSTER.to_owned(),
            )),
            ..Default::default()
        }),
    ));
    listener::FilterChain {
        name: name.to_owned(),
        filter_chain_match: Some(listener::FilterChainMatch {
            destination_port: u32_value(port),
            ..Default::default()
        }),
        filters,
        ..Default::default()
    }
}

/// What happens to connections that no service is meant by.
fn catch_all(view: &ListenerView, mesh: &Mesh, outbound: &OutboundPolicy) -> Vec<listener::Filter> {
    let cluster = match outbound {
        OutboundPolicy::AllowAny | OutboundPolicy::AllowAnyDynamicDns => names::PASSTHROUGH_CLUSTER,
        OutboundPolicy::EgressProxy(cluster) => cluster,
        OutboundPolicy::RegistryOnly => names::BLACK_HOLE_CLUSTER,
    };
    let proxy = TcpProxy {
        stat_prefix: cluster.to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        ..Default::default()
    };
    tcp_filters(view, mesh, Class::SidecarOutbound, proxy, Vec::new())
}

/// The filters of opaque connections: metadata exchange (inbound), policies, metrics, then the proxy.
fn tcp_filters(
    view: &ListenerView,
    mesh: &Mesh,
    class: Class,
    mut proxy: TcpProxy,
    policies: Vec<listener::Filter>,
) -> Vec<listener::Filter> {
    let mut out = Vec::new();
    if view.native && class == Class::SidecarInbound {
        out.push(filters::metadata_exchange());
    }
    out.extend(policies);
    if view.native {
        out.extend(filters::tcp_stats(mesh, class));
    }
    proxy.access_log = accesslog::logs(mesh, class);
    if proxy.idle_timeout.is_none() {
        proxy.idle_timeout = view.idle_timeout.map(duration);
    }
    out.push(network_filter(TCP_PROXY, any(&proxy)));
    out
}

/// A range for an address or a CIDR block; none if it is neither.
pub(crate) fn cidr(text: &str) -> Option<core::CidrRange> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
        None => (text, None),
    };
    let ip: std::net::IpAddr = address.parse().ok()?;
    let full = if ip.is_ipv4() { 32 } else { 128 };
    let length = length.unwrap_or(full);
    (length <= full).then(|| core::CidrRange {
        address_prefix: address.to_owned(),
        prefix_len: u32_value(length),
    })
}
