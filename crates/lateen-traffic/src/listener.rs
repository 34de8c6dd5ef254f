//! Listeners and filter chains: which chain a connection takes (`envoy.config.listener.v3`).
//!
//! [`Listener::match_filter_chain`] is the fast path; [`Listener::explain_filter_chain`] says why each other chain was not taken.
//! Source of the order: Envoy's documentation of `FilterChainMatch`.

mod chain_match;
mod explain;
mod index;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use chain_match::{ChainMatch, ServerName, SourceType};
pub use explain::{ChainTrace, Criterion, RejectedChain};
pub use index::{ChainIndex, DuplicateMatch};

use crate::access_log::AccessLog;
use crate::cluster::{SocketOption, TcpKeepalive};
use crate::filter::NetworkFilter;
use crate::provenance::Provenance;
use crate::request::ConnectionInfo;
use crate::tls::DownstreamTls;
use crate::value::Metadata;

/// A compiled listener.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name.
    pub name: Arc<str>,
    /// The prefix of its statistics; its address if none.
    pub stat_prefix: Option<Arc<str>>,
    /// Where it listens, if it binds, and what it is found by, if it does not.
    pub address: ListenAddress,
    /// Further addresses.
    pub additional_addresses: Vec<ListenAddress>,
    /// Whether it opens a socket. One that does not only takes connections handed over by original destination.
    pub bind_to_port: bool,
    /// Connections are handed to the listener of their original destination.
    pub use_original_dst: bool,
    /// IP_TRANSPARENT.
    pub transparent: bool,
    /// IP_FREEBIND.
    pub freebind: bool,
    /// SO_REUSEPORT.
    pub reuse_port: bool,
    /// Which direction its traffic has.
    pub direction: TrafficDirection,
    /// The listener filters, in order.
    pub listener_filters: Vec<ListenerFilter>,
    /// Time for the listener filters; 15 s by default, `None` waits for ever.
    pub listener_filters_timeout: Option<Duration>,
    /// A connection whose listener filters timed out goes on with what they saw, rather than being closed.
    pub continue_on_listener_filters_timeout: bool,
    /// The filter chains, as sent.
    pub chains: Vec<Arc<FilterChain>>,
    /// Taken if no other chain matches.
    pub default_chain: Option<Arc<FilterChain>>,
    /// Finds the chain of a connection.
    pub index: ChainIndex,
    /// Connections waiting to be accepted.
    pub backlog: Option<u32>,
    /// Soft limit of a connection's buffers, bytes; 1 MiB by default.
    pub buffer_limit: u32,
    /// Socket options.
    pub socket_options: Vec<SocketOption>,
    /// TCP keep-alive of accepted connections.
    pub keepalive: Option<TcpKeepalive>,
    /// Access logs of connections.
    pub access_logs: Vec<AccessLog>,
    /// Connections accepted in one turn of the event loop.
    pub max_accepts_per_event: Option<u32>,
    /// The metadata.
    pub metadata: Metadata,
    /// Where it came from.
    pub provenance: Provenance,
}

/// A listener's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListenAddress {
    /// IP and port.
    Socket(SocketAddr),
    /// A Unix socket's path.
    Pipe(Arc<str>),
    /// Only connections from within the proxy, by the listener's name (`internal_listener`).
    Internal,
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => write!(f, "{address}"),
            Self::Pipe(path) => f.write_str(path),
            Self::Internal => f.write_str("(internal)"),
        }
    }
}

/// Which direction a listener's traffic has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficDirection {
    /// Not said.
    #[default]
    Unspecified,
    /// To the workload.
    Inbound,
    /// From the workload.
    Outbound,
}

/// A listener filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerFilter {
    /// Its name.
    pub name: Arc<str>,
    /// What it does.
    pub kind: ListenerFilterKind,
    /// Where it does not run.
    pub disabled: Option<ListenerFilterPredicate>,
}

/// The listener filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerFilterKind {
    /// Reads the ClientHello.
    TlsInspector,
    /// Tells HTTP from other protocols.
    HttpInspector,
    /// Restores the destination of a redirected connection.
    OriginalDst,
    /// Keeps the client's address on upstream connections.
    OriginalSrc {
        /// The mark of upstream sockets; 0 sets none.
        mark: u32,
    },
    /// Reads the PROXY protocol.
    ProxyProtocol {
        /// Connections without it are accepted.
        allow_without: bool,
    },
}

/// The inspectors that run on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// The PROXY protocol is read; whether connections without it are accepted.
    pub proxy_protocol: Option<bool>,
    /// The ClientHello is read.
    pub tls: bool,
    /// HTTP is told from other protocols.
    pub http: bool,
}

/// Where a listener filter does not run: `ListenerFilterChainMatchPredicate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerFilterPredicate {
    /// One of them.
    Or(Vec<ListenerFilterPredicate>),
    /// All of them.
    And(Vec<ListenerFilterPredicate>),
    /// Not there.
    Not(Box<ListenerFilterPredicate>),
    /// Everywhere.
    Any,
    /// Destination ports, `start..end`.
    DestinationPorts(u32, u32),
}

impl ListenerFilterPredicate {
    /// Whether it holds for a destination port.
    pub fn holds(&self, port: u16) -> bool {
        match self {
            Self::Or(any) => any.iter().any(|rule| rule.holds(port)),
            Self::And(all) => all.iter().all(|rule| rule.holds(port)),
            Self::Not(rule) => !rule.holds(port),
            Self::Any => true,
            Self::DestinationPorts(start, end) => (*start..*end).contains(&u32::from(port)),
        }
    }
}

/// A filter chain.
#[derive(Clone, Debug)]
pub struct FilterChain {
    /// Its name; unique in the listener unless empty.
    pub name: Arc<str>,
    /// Its conditions.
    pub matcher: ChainMatch,
    /// TLS, if the chain terminates it.
    pub tls: Option<Arc<DownstreamTls>>,
    /// Time for the TLS handshake; `None` waits for ever.
    pub transport_connect_timeout: Option<Duration>,
    /// The network filters, in order; the last is terminal.
    pub filters: Vec<NetworkFilter>,
    /// The metadata.
    pub metadata: Metadata,
    /// Where it came from.
    pub provenance: Provenance,
}

/// Which chain a connection takes.
#[derive(Clone, Copy, Debug)]
pub enum ChainDecision<'a> {
    /// One whose conditions hold.
    Matched(&'a Arc<FilterChain>),
    /// The default one, as no other's conditions hold.
    Default(&'a Arc<FilterChain>),
    /// None: the connection is closed (`NR`).
    NoMatch,
}

impl<'a> ChainDecision<'a> {
    /// The chain, if there is one.
    pub fn chain(self) -> Option<&'a Arc<FilterChain>> {
        match self {
            Self::Matched(chain) | Self::Default(chain) => Some(chain),
            Self::NoMatch => None,
        }
    }
}

impl Listener {
    /// The chain of a connection.
    pub fn match_filter_chain(&self, connection: &ConnectionInfo<'_>) -> ChainDecision<'_> {
        if let Some(found) = self.index.find(connection) {
            return ChainDecision::Matched(&self.chains[found]);
        }
        match &self.default_chain {
            Some(chain) => ChainDecision::Default(chain),
            None => ChainDecision::NoMatch,
        }
    }

    /// Which inspectors run on a connection to a port.
    pub fn inspection(&self, port: u16) -> Inspection {
        let mut found = Inspection::default();
        let runs = |filter: &&ListenerFilter| {
            let off = filter.disabled.as_ref();
            !off.is_some_and(|rule| rule.holds(port))
        };
        for filter in self.listener_filters.iter().filter(runs) {
            match filter.kind {
                ListenerFilterKind::TlsInspector => found.tls = true,
                ListenerFilterKind::HttpInspector => found.http = true,
                ListenerFilterKind::ProxyProtocol { allow_without } => {
                    found.proxy_protocol = Some(allow_without);
                }
                ListenerFilterKind::OriginalDst | ListenerFilterKind::OriginalSrc { .. } => {}
            }
        }
        found
    }

    /// Every chain, the default one last.
    pub fn all_chains(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.chains.iter().chain(&self.default_chain)
    }

    /// Every address.
    pub fn addresses(&self) -> impl Iterator<Item = &ListenAddress> {
        std::iter::once(&self.address).chain(&self.additional_addresses)
    }
}

#[cfg(test)]
mod tests;
