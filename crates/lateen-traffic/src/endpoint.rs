//! Endpoint sets: the hosts of a cluster by priority and locality (`ClusterLoadAssignment`).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::matcher::Fraction;
use crate::value::Metadata;

/// A compiled `ClusterLoadAssignment`.
#[derive(Clone, Debug)]
pub struct EndpointSet {
    /// The name it is subscribed to by.
    pub cluster_name: Arc<str>,
    /// All endpoints, by priority, then locality, then as sent. A host's index here is its name everywhere in [`crate::lb`].
    pub endpoints: Vec<Arc<Endpoint>>,
    /// The localities, by priority, then as sent; each is a range of `endpoints`.
    pub localities: Vec<LocalityGroup>,
    /// Percent by which healthy hosts may be overloaded before the next priority is used; 140 by default.
    pub overprovisioning_factor: u32,
    /// Shares of requests to drop, by category.
    pub drop_overloads: Vec<(Arc<str>, Fraction)>,
    /// A priority's health is weighed by its hosts' weights (`weighted_priority_health`).
    pub weighted_priority_health: bool,
}

/// The endpoints of one locality in one priority.
#[derive(Clone, Debug)]
pub struct LocalityGroup {
    /// The locality.
    pub locality: Arc<Locality>,
    /// The priority, 0 highest.
    pub priority: u32,
    /// The locality's weight; 0 gets nothing under locality-weighted balancing.
    pub weight: u32,
    /// The locality's metadata.
    pub metadata: Metadata,
    /// Its endpoints.
    pub endpoints: std::ops::Range<usize>,
}

/// Region, zone and sub-zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    /// The region.
    pub region: Arc<str>,
    /// The zone.
    pub zone: Arc<str>,
    /// The sub-zone.
    pub sub_zone: Arc<str>,
}

/// One endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it is.
    pub address: EndpointAddress,
    /// Further addresses, for happy eyeballs.
    pub additional_addresses: Vec<EndpointAddress>,
    /// Its name, for `auto_host_rewrite` and TLS; empty if none.
    pub hostname: Arc<str>,
    /// Its weight, at least 1.
    pub weight: u32,
    /// What the control plane says of its health.
    pub health: HealthStatus,
    /// How active health checks reach it.
    pub health_check: EndpointCheck,
    /// Its metadata.
    pub metadata: Metadata,
    /// Its locality.
    pub locality: Arc<Locality>,
}

/// `Endpoint.HealthCheckConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointCheck {
    /// Another address than the endpoint's own.
    pub address: Option<EndpointAddress>,
    /// Another port.
    pub port: Option<u16>,
    /// The host asked for; empty for the check's own.
    pub hostname: Arc<str>,
    /// It is not checked.
    pub disabled: bool,
}

impl EndpointCheck {
    /// Where an endpoint is checked.
    pub fn address_of(&self, endpoint: &EndpointAddress) -> EndpointAddress {
        let address = self.address.as_ref().unwrap_or(endpoint);
        match (address, self.port) {
            (EndpointAddress::Socket(address), Some(port)) => {
                EndpointAddress::Socket(SocketAddr::new(address.ip(), port))
            }
            _ => address.clone(),
        }
    }
}

/// An address to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// IP and port.
    Socket(SocketAddr),
    /// A name to resolve (STRICT_DNS, LOGICAL_DNS).
    Dns {
        /// The name.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
    /// A Unix socket's path.
    Pipe(Arc<str>),
    /// A listener of this proxy (`internal_listener`).
    Internal {
        /// The listener's name.
        listener: Arc<str>,
        /// What tells endpoints with the same listener apart.
        endpoint_id: Arc<str>,
    },
}

/// `envoy.config.core.v3.HealthStatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HealthStatus {
    /// Nothing is known: counts as healthy.
    #[default]
    Unknown,
    /// Healthy.
    Healthy,
    /// Unhealthy.
    Unhealthy,
    /// Takes no new requests; counts as unhealthy, unless a sticky session names it.
    Draining,
    /// Timed out; counts as unhealthy.
    Timeout,
    /// Works badly: used if not enough others are left.
    Degraded,
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => write!(f, "{address}"),
            Self::Dns { host, port } => write!(f, "{host}:{port}"),
            Self::Pipe(path) => f.write_str(path),
            Self::Internal {
                listener,
                endpoint_id,
            } if endpoint_id.is_empty() => {
                write!(f, "envoy://{listener}/")
            }
            Self::Internal {
                listener,
                endpoint_id,
            } => write!(f, "envoy://{listener}/{endpoint_id}"),
        }
    }
}

impl EndpointSet {
    /// An endpoint set without endpoints.
    pub fn empty(cluster_name: impl Into<Arc<str>>) -> Self {
        Self {
            cluster_name: cluster_name.into(),
            endpoints: Vec::new(),
            localities: Vec::new(),
            overprovisioning_factor: 140,
            drop_overloads: Vec::new(),
            weighted_priority_health: false,
        }
    }

    /// The same set with every name replaced by one endpoint for each of its addresses, in the order given. A name that
    /// `addresses` knows nothing of has no endpoints.
    #[must_use]
    pub fn resolved(&self, addresses: impl Fn(&str) -> Vec<IpAddr>) -> Self {
        let mut out = Self {
            endpoints: Vec::new(),
            localities: Vec::new(),
            ..self.clone()
        };
        for group in &self.localities {
            let start = out.endpoints.len();
            for endpoint in &self.endpoints[group.endpoints.clone()] {
                match &endpoint.address {
                    EndpointAddress::Dns { host, port } => out.endpoints.extend(
                        addresses(host)
                            .into_iter()
                            .map(|ip| endpoint.at(SocketAddr::new(ip, *port), host)),
                    ),
                    _ => out.endpoints.push(endpoint.clone()),
                }
            }
            out.localities.push(LocalityGroup {
                endpoints: start..out.endpoints.len(),
                ..group.clone()
            });
        }
        out
    }

    /// The locality group an endpoint is in.
    pub fn group_of(&self, endpoint: usize) -> Option<&LocalityGroup> {
        self.localities
            .iter()
            .find(|group| group.endpoints.contains(&endpoint))
    }
}

impl Endpoint {
    fn at(&self, address: SocketAddr, host: &Arc<str>) -> Arc<Self> {
        let hostname = if self.hostname.is_empty() {
            host.clone()
        } else {
            self.hostname.clone()
        };
        Arc::new(Self {
            address: EndpointAddress::Socket(address),
            hostname,
            ..self.clone()
        })
    }
}
