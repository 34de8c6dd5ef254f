//! The conditions of a filter chain (`FilterChainMatch`).

use std::sync::Arc;

use ipnet::IpNet;

use crate::request::TransportProtocol;

/// The conditions of a filter chain; an empty list, or `None`, asks nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChainMatch {
    /// The destination port.
    pub destination_port: Option<u16>,
    /// The destination address.
    pub prefix_ranges: Vec<IpNet>,
    /// The server name of the ClientHello.
    pub server_names: Vec<ServerName>,
    /// What the inspectors saw.
    pub transport_protocol: Option<TransportProtocol>,
    /// ALPN, or what the HTTP inspector saw; one of them must be offered.
    pub application_protocols: Vec<Arc<str>>,
    /// The peer of the socket itself.
    pub direct_source_prefix_ranges: Vec<IpNet>,
    /// Whether the source is this host.
    pub source_type: SourceType,
    /// The source address.
    pub source_prefix_ranges: Vec<IpNet>,
    /// The source port.
    pub source_ports: Vec<u16>,
    /// The transport protocol is one no inspector finds; such a chain never matches.
    pub impossible_transport: Option<Arc<str>>,
}

/// A server name, or a wildcard over its subdomains.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServerName {
    /// The very name, in lower case.
    Exact(Box<str>),
    /// `*.example.com`; holds `.example.com`, in lower case.
    Suffix(Box<str>),
}

/// Whether the source is this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceType {
    /// Either.
    #[default]
    Any,
    /// This host: the same address, or loopback.
    SameIpOrLoopback,
    /// Another.
    External,
}

impl ServerName {
    /// Parses a server name of a filter chain; `None` if it has a wildcard anywhere but in place of its first labels.
    /// A lone `*` is not a name in Envoy.
    pub fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        match lower.strip_prefix("*.") {
            Some(rest) if !rest.is_empty() && !rest.contains('*') => {
                Some(Self::Suffix(format!(".{rest}").into()))
            }
            None if !lower.is_empty() && !lower.contains('*') => Some(Self::Exact(lower.into())),
            _ => None,
        }
    }

    /// Whether a server name, in lower case, is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(want) => **want == *name,
            Self::Suffix(suffix) => name.len() > suffix.len() && name.ends_with(&**suffix),
        }
    }
}
