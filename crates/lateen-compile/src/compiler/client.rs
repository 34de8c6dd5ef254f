//! A proxy as far as it matters to what it sends: everything else is left out, so that proxies which differ in nothing else share
//! their outbound configuration.
//!
//! What is left out cannot be read: generators of outbound configuration are given this in the place of the proxy.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::mesh::Mesh;
use crate::node::ProxyNode;
use crate::pod::Locality;
use crate::scope::Scope;
use crate::shared::Shared;
use crate::snapshot::Snapshot;

use super::{Proxy, ScopeKey};

/// A kind of client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Client {
    scope: ScopeKey,
    node: ProxyNode,
    labels: BTreeMap<String, String>,
    locality: Locality,
    /// The mesh's settings as Telemetry makes them for the workload.
    pub(super) mesh: Shared<Mesh>,
}

impl Client {
    /// What a proxy is as a client.
    pub(super) fn of(proxy: &Proxy<'_>, key: ScopeKey, scope: &Scope) -> Self {
        let (snapshot, node) = (proxy.snapshot, proxy.node);
        let known = snapshot.client_labels();
        let labels = proxy.labels.iter().filter(|(key, _)| known.contains(*key));
        Self {
            scope: key,
            node: ProxyNode {
                kind: node.kind,
                namespace: node.namespace.clone(),
                ips: addresses(proxy, scope),
                network: node.network.clone(),
                dns_domain: node.dns_domain.clone(),
                dns_capture: node.dns_capture,
                interception: node.interception,
                idle_timeout: node.idle_timeout.clone(),
                unprivileged: node.unprivileged,
                native: node.native,
                credential_socket: node.credential_socket,
                ..ProxyNode::default()
            },
            labels: labels.map(|(k, v)| (k.clone(), v.clone())).collect(),
            locality: proxy.locality.clone(),
            mesh: proxy.mesh(),
        }
    }

    /// A proxy of the kind.
    pub(super) fn proxy<'a>(&'a self, snapshot: &'a Snapshot) -> Proxy<'a> {
        Proxy {
            snapshot,
            node: &self.node,
            labels: &self.labels,
            locality: self.locality.clone(),
        }
    }
}

/// A proxy's own address matters only where it is among those that clients of a headless service choose from: it never reaches
/// itself by way of itself. Otherwise the families of its addresses are all that counts.
fn addresses(proxy: &Proxy<'_>, scope: &Scope) -> Vec<IpAddr> {
    let ips = &proxy.node.ips;
    let own = ips.first().map(IpAddr::to_string);
    let headless = || {
        scope
            .services
            .iter()
            .filter(|service| service.is_headless())
    };
    let is_among = |own: &String| {
        headless()
            .flat_map(|service| service.ports.iter().map(move |port| (service, port)))
            .filter_map(|(service, port)| proxy.snapshot.endpoints(service, port.number))
            .flat_map(|endpoints| endpoints.iter())
            .any(|endpoint| endpoint.addresses.first() == Some(own))
    };
    if own.as_ref().is_some_and(is_among) {
        return ips.clone();
    }
    let v4 = ips.iter().any(IpAddr::is_ipv4);
    let v6 = ips.iter().any(IpAddr::is_ipv6);
    let v4 = v4.then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let v6 = v6.then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    v4.into_iter().chain(v6).collect()
}
