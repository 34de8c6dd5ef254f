//! The outbound listeners of a sidecar: one per address and port that services have, shared where services share them.
//!
//! [`plan`] decides which listeners there are and what each has to tell apart; [`outbound`] builds one.

mod plan;
mod streams;

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;

use crate::filters::{self, Class, PLAINTEXT_HTTP_ALPN, RAW_TRANSPORT};
use crate::mesh::{Mesh, OutboundPolicy};
use crate::meta::Meta;
use crate::names::{self, ObjectRef};
use crate::proto::{bool_value, core, duration, envoy_type, listener, socket_address};
use crate::protocol::Protocol;
use crate::shared::Shared;

use super::http::{HttpOptions, Routes, filter};
use super::{
    ClusterSpecifier, ListenerView, TcpProxy, additional_addresses, catch_all, cidr, tcp_filters,
};

pub(crate) use plan::{PlanContext, plan};
pub(crate) use streams::facts;
pub(super) use streams::routed;

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
    /// Connections go to the server name they ask for, on this port.
    pub(crate) by_server_name: Option<u32>,
    /// Connections are carried in a request to a proxy.
    pub(crate) tunnel: Option<Tunnel>,
}

/// How connections are carried in a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tunnel {
    /// Where the proxy is to connect, `host:port`.
    pub(crate) authority: String,
    /// Whether by POST, not by CONNECT.
    pub(crate) post: bool,
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
        // Bits beyond a range's length mean nothing.
        let ranges = |list: &[String]| {
            let ranges = list.iter().filter_map(|text| cidr_network(text));
            ranges.collect::<BTreeSet<IpNet>>()
        };
        self.sniffed_http == other.sniffed_http
            && names(&self.sni) == names(&other.sni)
            && ranges(&self.cidrs) == ranges(&other.cidrs)
    }
}

/// The network that an address or range means.
fn cidr_network(text: &str) -> Option<IpNet> {
    match text.split_once('/') {
        Some(_) => text.parse().ok().map(|net: IpNet| net.trunc()),
        None => text.parse::<std::net::IpAddr>().ok().map(IpNet::from),
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
            action
                .by_server_name
                .map(|port| filters::sni_forward_proxy(inputs.view.ip_mode, port))
                .into_iter()
                .collect(),
        ),
        ChainAction::Http { routes, protocol } => {
            let options = HttpOptions {
                class: Class::SidecarOutbound,
                routes: Routes::Named(routes.name.clone()),
                stat_prefix: format!("outbound_{}", inputs.plan.name()),
                protocol: *protocol,
                authorizers: Vec::new(),
                authentication: None,
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
            PLAINTEXT_HTTP_ALPN.map(str::to_owned).to_vec()
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
    let tunneling_config = action.tunnel.as_ref().map(|tunnel| tp::TunnelingConfig {
        hostname: tunnel.authority.clone(),
        use_post: tunnel.post,
        ..Default::default()
    });
    TcpProxy {
        tunneling_config,
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
