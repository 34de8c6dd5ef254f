//! Where an upstream host is: an IP address and port, or a Unix socket.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use lateen_telemetry::access_log::Address;
use lateen_traffic::endpoint::EndpointAddress;

/// The address of a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum HostAddress {
    /// IP and port.
    Ip(SocketAddr),
    /// A Unix socket's path; one that begins with `@` is in the abstract namespace.
    Pipe(Arc<str>),
}

impl HostAddress {
    /// The address of an endpoint; `None` if it has none to connect to (a name that is not resolved, a listener of the proxy's own).
    pub(crate) fn of(endpoint: &EndpointAddress) -> Option<Self> {
        match endpoint {
            EndpointAddress::Socket(address) => Some(Self::Ip(*address)),
            EndpointAddress::Pipe(path) => Some(Self::Pipe(Arc::clone(path))),
            EndpointAddress::Dns { .. } | EndpointAddress::Internal { .. } => None,
        }
    }

    /// The IP address and port, if it has one.
    pub(crate) const fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Pipe(_) => None,
        }
    }

    /// The address as the access log takes it.
    pub(crate) fn logged(&self) -> Address<'_> {
        match self {
            Self::Ip(address) => Address::Ip(*address),
            Self::Pipe(path) => Address::Other(path),
        }
    }
}

impl From<SocketAddr> for HostAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Pipe(path) => f.write_str(path),
        }
    }
}
