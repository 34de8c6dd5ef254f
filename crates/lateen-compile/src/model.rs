//! The service registry's vocabulary: services, ports and endpoints, whatever they were declared as.
//!
//! A Kubernetes Service, a ServiceEntry and the pods behind them become these; generators know nothing of their origins.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::ObjectRef;
use crate::pod::Locality;
use crate::protocol::Protocol;

/// Where a service was declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Registry {
    /// A Kubernetes Service.
    #[default]
    Kubernetes,
    /// A ServiceEntry.
    External,
}

/// How a client finds the endpoints of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resolution {
    /// The control plane sends them (EDS).
    #[default]
    Static,
    /// The proxy resolves names and uses every address.
    Dns,
    /// The proxy resolves a name and uses the first address.
    DnsRoundRobin,
    /// The proxy resolves whatever name the request carries.
    DynamicDns,
    /// The connection goes to the address the client chose.
    Passthrough,
    /// Another name for another service.
    Alias,
}

/// One port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its number.
    pub number: u32,
    /// What it speaks.
    pub protocol: Protocol,
    /// For a service without endpoints of its own, the port to use at the destination. Zero: the same.
    pub target: u32,
}

/// Who may see an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Visibility {
    /// Everybody.
    Public,
    /// These namespaces.
    Namespaces(BTreeSet<String>),
    /// Nobody.
    None,
}

impl Visibility {
    /// Reads `exportTo`: `*`, `.`, `~` or namespaces. An empty list means `default`.
    pub fn parse(export_to: &[String], own: &str, default: &[String]) -> Self {
        let list = if export_to.is_empty() {
            default
        } else {
            export_to
        };
        if list.is_empty() || list.iter().any(|ns| ns == "*") {
            return Self::Public;
        }
        let namespaces: BTreeSet<String> = list
            .iter()
            .filter(|ns| ns.as_str() != "~")
            .map(|ns| {
                if ns == "." {
                    own.to_owned()
                } else {
                    ns.clone()
                }
            })
            .collect();
        if namespaces.is_empty() {
            Self::None
        } else {
            Self::Namespaces(namespaces)
        }
    }

    /// The part of it that is one namespace.
    pub(crate) fn within(&self, namespace: &str) -> Self {
        if self.includes(namespace) {
            Self::Namespaces(BTreeSet::from([namespace.to_owned()]))
        } else {
            Self::None
        }
    }

    /// Whether a namespace may see it.
    pub fn includes(&self, namespace: &str) -> bool {
        match self {
            Self::Public => true,
            Self::Namespaces(namespaces) => namespaces.contains(namespace),
            Self::None => false,
        }
    }
}

/// A service, as clients know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// The name clients use, in lower case.
    pub hostname: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name in its namespace.
    pub name: String,
    /// Where it was declared.
    pub registry: Registry,
    /// Its ports, in the order declared.
    pub ports: Vec<Port>,
    /// Its virtual addresses, possibly CIDR ranges; the first is its main one.
    pub addresses: Vec<String>,
    /// Addresses allocated for it because it has none of its own.
    pub auto_addresses: Vec<String>,
    /// How its endpoints are found.
    pub resolution: Resolution,
    /// Whether it is outside the mesh.
    pub mesh_external: bool,
    /// Who may see it.
    pub visibility: Visibility,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// For an alias, the name it stands for.
    pub external_name: Option<String>,
    /// Names of services of type ExternalName that stand for this one.
    pub aliases: Vec<String>,
    /// Identities its endpoints may present besides their own.
    pub subject_alt_names: Vec<String>,
    /// Whether its endpoints are found by labels.
    pub has_selector: bool,
    /// Whether endpoints that are not ready are published too.
    pub publish_not_ready: bool,
    /// `spec.trafficDistribution`.
    pub distribution: Distribution,
    /// The object it was declared by.
    pub object: ObjectRef,
}

/// How near a service's endpoints are to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Distribution {
    /// Anywhere.
    #[default]
    Any,
    /// In the client's zone, if there are any.
    SameZone,
    /// On the client's node, if there are any.
    SameNode,
}

impl Service {
    /// The port with a number.
    pub(crate) fn port(&self, number: u32) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Its virtual addresses as a proxy sees them: its own, or those allocated if it has none and the proxy's agent tells
    /// them to the workload.
    pub fn vips(&self, dns_capture: bool) -> &[String] {
        match (self.addresses.is_empty(), dns_capture) {
            (true, true) => &self.auto_addresses,
            _ => &self.addresses,
        }
    }

    /// Whether its clients choose one of its endpoints' addresses themselves.
    pub(crate) fn is_headless(&self) -> bool {
        self.resolution == Resolution::Passthrough
    }

    /// Whether its name is a wildcard.
    pub(crate) fn is_wildcard(&self) -> bool {
        crate::host::is_wildcard(&self.hostname)
    }
}

/// Whether an endpoint takes traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// Yes.
    #[default]
    Healthy,
    /// It said it is not ready.
    Unhealthy,
    /// It is being ended: it finishes what it has.
    Terminating,
}

/// One endpoint of a service port.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// IP addresses, a DNS name, or the path of a Unix socket (`unix:///…`).
    pub addresses: Vec<String>,
    /// Its port.
    pub port: u32,
    /// The labels of its workload.
    pub labels: BTreeMap<String, String>,
    /// The SPIFFE identity its certificate holds; none outside the mesh.
    pub identity: Option<String>,
    /// Where it is.
    pub locality: Locality,
    /// Its weight within its locality; at least 1.
    pub weight: u32,
    /// Whether it takes traffic.
    pub health: Health,
    /// Whether it has a proxy that speaks mutual TLS.
    pub mtls_capable: bool,
    /// Whether PeerAuthentication lets that proxy accept mutual TLS on this port.
    pub mtls_accepted: bool,
    /// Its workload's name.
    pub workload: String,
    /// Its workload's namespace.
    pub namespace: String,
    /// Its network; empty if there is only one.
    pub network: String,
    /// Its cluster.
    pub cluster_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &[&str]) -> Visibility {
        let list: Vec<String> = list.iter().map(|&s| s.to_owned()).collect();
        Visibility::parse(&list, "own", &["*".to_owned()])
    }

    #[test]
    fn export_to_limits_who_sees() {
        assert!(parse(&[]).includes("anyone"));
        assert!(parse(&["."]).includes("own"));
        assert!(!parse(&["."]).includes("other"));
        assert!(parse(&["a", "b"]).includes("b"));
        assert!(!parse(&["~"]).includes("own"));
        assert!(parse(&[".", "*"]).includes("other"));
    }
}
