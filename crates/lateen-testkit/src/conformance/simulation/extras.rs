//! Expectations of a case beside its calls: route tables, inbound clusters, endpoint priorities, numbers of listeners.

use std::collections::{BTreeMap, BTreeSet};

use lateen_traffic::cluster::Discovery;
use lateen_traffic::endpoint::EndpointAddress;
use lateen_traffic::listener::ListenAddress;
use lateen_traffic::route::{RouteAction, Target, VirtualHost, WeightedTarget};
use lateen_traffic::value::Value;
use lateen_traffic::{Cluster, EndpointSet};

use super::super::Finding;
use super::case::{Case, EndpointPriorities, InboundCluster, RouteTable, Shape};
use super::expect::same_cluster;
use super::world::World;

/// Everything that differs.
pub(super) fn compare(case: &Case, world: &World, remarks: &mut Vec<String>) -> Vec<Finding> {
    let mut out = Vec::new();
    if let Some(table) = &case.route_table {
        out.extend(route_table(table, world));
    }
    if let Some(clusters) = &case.inbound_clusters {
        out.extend(inbound_clusters(clusters, world));
    }
    if let Some(priorities) = &case.endpoint_priorities {
        out.extend(endpoint_priorities(priorities, world));
    }
    for (what, shape) in case.envoy_listener_shape.iter().flatten() {
        match counted(what, shape) {
            Some((port, shape)) => out.extend(listener_shape(what, port, &shape, world)),
            // The shape of Envoy's listeners is nothing that has to be equal.
            None => remarks.push(format!("{what} {shape} is not looked at")),
        }
    }
    out
}

fn route_table(table: &RouteTable, world: &World) -> Vec<Finding> {
    let call = |host: &str| format!("route table {}, host {host}", table.name);
    let routes = world.program.route_config(&table.name);
    let clusters = |host: &str| {
        let vhost = routes?
            .vhosts
            .iter()
            .find(|vhost| vhost.domains.iter().any(|domain| **domain == *host))?;
        let clusters = clusters_of(vhost);
        (!clusters.is_empty()).then_some(clusters)
    };
    table
        .hosts
        .iter()
        .filter_map(|(host, wanted)| {
            let wanted = wanted.clone().map(|mut list| {
                list.sort();
                list
            });
            let found = clusters(host);
            (!same_clusters(wanted.as_deref(), found.as_deref()))
                .then(|| Finding::new(call(host), format!("{wanted:?}"), format!("{found:?}")))
        })
        .collect()
}

fn same_clusters(wanted: Option<&[String]>, found: Option<&[String]>) -> bool {
    match (wanted, found) {
        (None, None) => true,
        (Some(wanted), Some(found)) => {
            wanted.len() == found.len() && wanted.iter().zip(found).all(|(a, b)| same_cluster(a, b))
        }
        _ => false,
    }
}

/// The clusters of a virtual host's routes, sorted; one for each route that has one.
fn clusters_of(vhost: &VirtualHost) -> Vec<String> {
    let mut out: Vec<String> = vhost
        .routes
        .iter()
        .flat_map(|route| match &route.action {
            RouteAction::Forward(forward) => names_of(&forward.target),
            _ => Vec::new(),
        })
        .collect();
    out.sort();
    out
}

fn names_of(target: &Target) -> Vec<String> {
    match target {
        Target::Cluster(name) => vec![name.to_string()],
        Target::Weighted(weighted) => weighted
            .clusters
            .iter()
            .flat_map(|cluster| match &cluster.target {
                WeightedTarget::Cluster(name) => Some(name.to_string()),
                WeightedTarget::Header(_) => None,
            })
            .collect(),
        Target::Header(_) => Vec::new(),
    }
}

fn inbound_clusters(wanted: &BTreeMap<String, InboundCluster>, world: &World) -> Vec<Finding> {
    let found: BTreeMap<&str, &Cluster> = world
        .program
        .clusters()
        .iter()
        .map(|(name, cluster)| (&**name, &**cluster.get()))
        .filter(|(name, _)| name.starts_with("inbound|"))
        .collect();
    let names: BTreeSet<&str> = found.keys().copied().collect();
    let expected: BTreeSet<&str> = wanted.keys().map(String::as_str).collect();
    let mut out = Vec::new();
    if names != expected {
        out.push(Finding::new(
            "inbound clusters",
            format!("{expected:?}"),
            format!("{names:?}"),
        ));
    }
    for (name, wanted) in wanted {
        let Some(cluster) = found.get(name.as_str()) else {
            continue;
        };
        let mut check = |what: &str, wanted: String, found: String| {
            if wanted != found {
                out.push(Finding::new(format!("{name}, {what}"), wanted, found));
            }
        };
        check(
            "endpoints",
            format!("{:?}", sorted(wanted.endpoints.clone())),
            format!("{:?}", sorted(fixed_endpoints(cluster))),
        );
        if let Some(services) = &wanted.services {
            check(
                "services",
                format!("{:?}", sorted(Some(services.clone()))),
                format!("{:?}", sorted(Some(services_of(cluster)))),
            );
        }
    }
    out
}

fn sorted(list: Option<Vec<String>>) -> Option<Vec<String>> {
    list.map(|mut list| {
        list.sort();
        list
    })
}

/// The addresses in a cluster; none if it goes to the original destination.
fn fixed_endpoints(cluster: &Cluster) -> Option<Vec<String>> {
    if matches!(cluster.discovery, Discovery::OriginalDst(_)) {
        return None;
    }
    let set = cluster.own_endpoints();
    Some(set.map(|set| addresses(set)).unwrap_or_default())
}

fn addresses(set: &EndpointSet) -> Vec<String> {
    set.endpoints
        .iter()
        .map(|endpoint| match &endpoint.address {
            EndpointAddress::Socket(address) => address.to_string(),
            EndpointAddress::Pipe(path) => path.to_string(),
            EndpointAddress::Dns { host, port } => format!("{host}:{port}"),
            EndpointAddress::Internal { listener, .. } => listener.to_string(),
        })
        .collect()
}

/// The hosts that a cluster's metadata names for metrics.
fn services_of(cluster: &Cluster) -> Vec<String> {
    let Some(Value::List(services)) = cluster.metadata.get("istio", &["services"]) else {
        return Vec::new();
    };
    services
        .iter()
        .filter_map(|service| Some(service.at(&["host"])?.as_str()?.to_owned()))
        .collect()
}

fn endpoint_priorities(wanted: &EndpointPriorities, world: &World) -> Vec<Finding> {
    let call = format!("endpoints of {}", wanted.cluster);
    let Some(cluster) = world.program.cluster(&wanted.cluster) else {
        return vec![Finding::new(call, "a cluster", "none")];
    };
    let mut out = Vec::new();
    let discovery = match &cluster.discovery {
        Discovery::Eds { .. } => "EDS",
        Discovery::Static(_) => "STATIC",
        Discovery::StrictDns(..) => "STRICT_DNS",
        Discovery::LogicalDns(..) => "LOGICAL_DNS",
        _ => "ORIGINAL_DST",
    };
    if let Some(kind) = wanted
        .discovery
        .as_deref()
        .filter(|kind| *kind != discovery)
    {
        out.push(Finding::new(call.clone(), kind, discovery));
    }
    let found = world
        .program
        .endpoints_of(cluster)
        .map(|set| priorities(set))
        .unwrap_or_default();
    if found != wanted.endpoints {
        let (expected, found) = (format!("{:?}", wanted.endpoints), format!("{found:?}"));
        out.push(Finding::new(call, expected, found));
    }
    out
}

/// Each endpoint's host, without its port, and its priority.
fn priorities(set: &EndpointSet) -> BTreeMap<String, u32> {
    set.localities
        .iter()
        .flat_map(|group| {
            set.endpoints[group.endpoints.clone()]
                .iter()
                .map(|endpoint| {
                    let host = match &endpoint.address {
                        EndpointAddress::Socket(address) => address.ip().to_string(),
                        EndpointAddress::Dns { host, .. } => host.to_string(),
                        EndpointAddress::Pipe(path) => path.to_string(),
                        EndpointAddress::Internal { listener, .. } => listener.to_string(),
                    };
                    (host, group.priority)
                })
        })
        .collect()
}

/// The port whose listeners are counted, and how many there have to be.
fn counted(what: &str, shape: &serde_json::Value) -> Option<(u16, Shape)> {
    let port = what.strip_prefix("listeners_on_port_")?.parse().ok()?;
    let exactly = shape.as_u64().and_then(|count| usize::try_from(count).ok());
    let shape = match exactly {
        Some(_) => Shape {
            exactly,
            at_least: None,
            at_most: None,
        },
        None => serde_json::from_value(shape.clone()).ok()?,
    };
    Some((port, shape))
}

fn listener_shape(what: &str, port: u16, shape: &Shape, world: &World) -> Vec<Finding> {
    let on_port =
        |address: &ListenAddress| matches!(address, ListenAddress::Socket(at) if at.port() == port);
    let found = world
        .program
        .listeners()
        .iter()
        .filter(|(_, listener)| on_port(&listener.address))
        .count();
    let fits = shape.at_least.is_none_or(|least| found >= least)
        && shape.at_most.is_none_or(|most| found <= most)
        && shape.exactly.is_none_or(|exactly| found == exactly);
    if fits {
        return Vec::new();
    }
    vec![Finding::new(what, format!("{shape:?}"), found.to_string())]
}
