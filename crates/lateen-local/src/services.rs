//! The node's service proxy: virtual addresses to ready endpoints, as nftables rules in the node's namespace.
//!
//! It serves traffic that no sidecar has routed: of plain pods, of the node, and what a sidecar passes through.

use std::net::{IpAddr, SocketAddr};

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// One port of a service with the endpoints that are ready now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceVip {
    /// Its virtual addresses.
    pub ips: Vec<IpAddr>,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where connections go, each with the same probability; none: they are refused.
    pub endpoints: Vec<SocketAddr>,
}
