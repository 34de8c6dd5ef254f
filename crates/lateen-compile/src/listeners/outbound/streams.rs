//! Where connections that are not HTTP go: as virtual services say, else to the service itself.

use std::collections::BTreeMap;

use lateen_api::networking::{L4MatchAttributes, RouteDestination, TlsMatchAttributes};

use crate::host;
use crate::model::{Port, Resolution, Service};
use crate::names::{self, MESH_GATEWAY, ObjectRef};
use crate::routes::{DestinationFacts, cluster_of};
use crate::rules::{MergedRule, for_workload};
use crate::scope::EgressScope;
use crate::shared::Shared;
use crate::snapshot::VirtualServiceConfig;

use super::plan::{PlanContext, Want};
use super::{ChainAction, ChainPlan, TcpAction, Tunnel};

/// The chains of a service for connections that are not HTTP: what virtual services say, else the service itself.
pub(super) fn opaque_chains(
    context: &PlanContext<'_>,
    egress: &EgressScope,
    want: &Want<'_>,
    wildcard: bool,
) -> Vec<ChainPlan> {
    let configs = egress.virtual_services_for(&want.service.hostname);
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
            (wildcard || !want.binding.cidrs.is_empty()) && !want.binding.single_host,
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
        by_server_name: (service.resolution == Resolution::DynamicDns).then_some(port),
        ..settings(rule.as_deref(), "")
    };
    let dynamic = service.resolution == Resolution::DynamicDns && service.is_wildcard();
    let by_name = by_name || (dynamic && want.port.protocol.is_tls());
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
    let of_subset = rule
        .and_then(|rule| {
            rule.spec
                .subsets
                .iter()
                .find(|s| s.name == subset && !subset.is_empty())
        })
        .and_then(|subset| subset.traffic_policy.as_ref());
    let own_lb = of_subset.and_then(|policy| policy.load_balancer.as_ref());
    let tunnel = of_subset
        .and_then(|policy| policy.tunnel.as_ref())
        .or_else(|| policy.and_then(|policy| policy.tunnel.as_ref()));
    let lb = own_lb.or_else(|| policy.and_then(|policy| policy.load_balancer.as_ref()));
    let hash = lb.and_then(|lb| lb.consistent_hash.as_ref());
    TcpAction {
        idle_timeout: tcp.and_then(|tcp| tcp.idle_timeout),
        max_duration: tcp.and_then(|tcp| tcp.max_connection_duration),
        hash_source_ip: hash.is_some_and(|hash| hash.use_source_ip == Some(true)),
        tunnel: tunnel.map(|tunnel| Tunnel {
            authority: host::with_port(&tunnel.target_host, tunnel.target_port),
            post: tunnel.protocol.eq_ignore_ascii_case("POST"),
        }),
        ..TcpAction::default()
    }
}

/// Sends connections where a virtual service says.
pub(in crate::listeners) fn routed(
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
    // All of them: a connection is resolved before it is known to which it goes.
    let dynamic = |destination: &lateen_api::networking::Destination| {
        let service = cluster(destination).1;
        let service = service.filter(|service| service.resolution == Resolution::DynamicDns)?;
        match (&destination.port, service.ports.as_slice()) {
            (Some(port), _) => Some(port.number),
            (None, [only]) => Some(only.number),
            (None, _) => Some(port.number),
        }
    };
    let ports = to.iter().filter_map(|route| route.destination.as_ref());
    let ports: Option<Vec<u32>> = ports.map(dynamic).collect();
    TcpAction {
        stat_prefix,
        clusters,
        by_server_name: ports.and_then(|ports| ports.first().copied()),
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
