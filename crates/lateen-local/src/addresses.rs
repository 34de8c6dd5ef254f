//! The node's own addresses in a local mesh (`docs/architecture.md`, "Addresses in a local mesh").

use std::net::{Ipv4Addr, Ipv6Addr};

/// The node in its own network namespace; every pod's gateway.
pub const NODE_V4: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// The node's IPv6 address.
pub const NODE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 1);
/// Where the control plane listens: 15010, 15012, 15014 and 15017.
pub const ISTIOD_V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 2);
/// The same over IPv6.
pub const ISTIOD_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 2);
/// Cluster DNS, port 53.
pub const DNS_V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The same over IPv6.
pub const DNS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 10);

/// The socket mark of the proxy's own connections (`SO_MARK`), which redirection passes by.
///
/// Istio tells the proxy by uid 1337. A user namespace without sub-ids has one uid only, so the mark takes its place. It is none of
/// the two that Istio uses with TPROXY (1337, 1338).
pub const PROXY_MARK: u32 = 1339;
/// The mark of what belongs to a transparent connection within a pod (`interceptionMode: TPROXY`), as in Istio.
pub const TPROXY_MARK: u32 = 1337;
/// The routing table for packets with [`TPROXY_MARK`], as in Istio.
pub const TPROXY_TABLE: u8 = 133;
/// Istio's uid and gid of the proxy; honoured where a process really runs under it.
pub const PROXY_ID: u32 = 1337;
