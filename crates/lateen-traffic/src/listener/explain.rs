//! Why each filter chain was taken or not.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use super::chain_match::{ChainMatch, ServerName, SourceType};
use super::{ChainDecision, Listener};
use crate::provenance::Provenance;
use crate::request::ConnectionInfo;

/// How a filter chain was found, or why none was.
#[derive(Clone, Debug)]
pub struct ChainTrace {
    /// The listener.
    pub listener: Arc<str>,
    /// The chain that was taken.
    pub chosen: Option<Arc<str>>,
    /// It is the default one.
    pub is_default: bool,
    /// Every other chain, in order.
    pub rejected: Vec<RejectedChain>,
}

/// A chain that was passed over.
#[derive(Clone, Debug)]
pub struct RejectedChain {
    /// Its index.
    pub index: usize,
    /// Its name.
    pub name: Arc<str>,
    /// The first condition, in Envoy's order, that does not hold; `None` if all hold and a more specific chain was there.
    pub failed: Option<Criterion>,
    /// The condition and what the connection has, in a sentence.
    pub reason: String,
    /// Where the chain came from.
    pub provenance: Provenance,
}

/// The conditions of a filter chain, in the order in which they are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Criterion {
    /// The destination port.
    DestinationPort,
    /// The destination address.
    DestinationIp,
    /// The server name.
    ServerName,
    /// The transport protocol.
    TransportProtocol,
    /// The application protocols.
    ApplicationProtocols,
    /// The peer of the socket itself.
    DirectSourceIp,
    /// Whether the source is this host.
    SourceType,
    /// The source address.
    SourceIp,
    /// The source port.
    SourcePort,
}

impl Criterion {
    const ALL: [Self; 9] = [
        Self::DestinationPort,
        Self::DestinationIp,
        Self::ServerName,
        Self::TransportProtocol,
        Self::ApplicationProtocols,
        Self::DirectSourceIp,
        Self::SourceType,
        Self::SourceIp,
        Self::SourcePort,
    ];
}

impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DestinationPort => "destination port",
            Self::DestinationIp => "destination address",
            Self::ServerName => "server name",
            Self::TransportProtocol => "transport protocol",
            Self::ApplicationProtocols => "application protocols",
            Self::DirectSourceIp => "direct source address",
            Self::SourceType => "source type",
            Self::SourceIp => "source address",
            Self::SourcePort => "source port",
        })
    }
}

impl Listener {
    /// The chain of a connection, and why it is that one.
    pub fn explain_filter_chain(
        &self,
        connection: &ConnectionInfo<'_>,
    ) -> (ChainDecision<'_>, ChainTrace) {
        let decision = self.match_filter_chain(connection);
        let chosen = match decision {
            ChainDecision::Matched(chain) => Some(chain),
            ChainDecision::Default(_) | ChainDecision::NoMatch => None,
        };
        let others = self
            .chains
            .iter()
            .enumerate()
            .filter(|(_, chain)| chosen.is_none_or(|chosen| !Arc::ptr_eq(chosen, chain)));
        let rejected = others.map(|(index, chain)| {
            let failed = chain.matcher.first_failure(connection);
            RejectedChain {
                index,
                name: chain.name.clone(),
                failed,
                reason: failed.map_or_else(
                    || "its conditions hold, but another chain's are more specific".to_owned(),
                    |criterion| chain.matcher.describe(criterion, connection),
                ),
                provenance: chain.provenance.clone(),
            }
        });
        let trace = ChainTrace {
            listener: self.name.clone(),
            chosen: decision.chain().map(|chain| chain.name.clone()),
            is_default: matches!(decision, ChainDecision::Default(_)),
            rejected: rejected.collect(),
        };
        (decision, trace)
    }
}

impl ChainMatch {
    /// The first condition, in Envoy's order, that does not hold by itself.
    pub fn first_failure(&self, connection: &ConnectionInfo<'_>) -> Option<Criterion> {
        Criterion::ALL
            .into_iter()
            .find(|criterion| !self.holds(*criterion, connection))
    }

    fn holds(&self, criterion: Criterion, connection: &ConnectionInfo<'_>) -> bool {
        let within = |ranges: &[IpNet], address: std::net::IpAddr| {
            ranges.is_empty()
                || ranges
                    .iter()
                    .any(|range| range.contains(&address.to_canonical()))
        };
        match criterion {
            Criterion::DestinationPort => self
                .destination_port
                .is_none_or(|port| port == connection.local.port()),
            Criterion::DestinationIp => within(&self.prefix_ranges, connection.local.ip()),
            Criterion::ServerName => {
                let name = connection
                    .server_name
                    .unwrap_or_default()
                    .to_ascii_lowercase();
                self.server_names.is_empty()
                    || self.server_names.iter().any(|want| want.matches(&name))
            }
            Criterion::TransportProtocol => {
                self.impossible_transport.is_none()
                    && self
                        .transport_protocol
                        .is_none_or(|want| want == connection.transport_protocol)
            }
            Criterion::ApplicationProtocols => {
                let wanted = |offered: &&str| {
                    self.application_protocols
                        .iter()
                        .any(|want| **want == **offered)
                };
                self.application_protocols.is_empty()
                    || connection.application_protocols.iter().any(wanted)
            }
            Criterion::DirectSourceIp => within(
                &self.direct_source_prefix_ranges,
                connection.direct_remote.ip(),
            ),
            Criterion::SourceType => match self.source_type {
                SourceType::Any => true,
                SourceType::SameIpOrLoopback => connection.is_local,
                SourceType::External => !connection.is_local,
            },
            Criterion::SourceIp => within(&self.source_prefix_ranges, connection.remote.ip()),
            Criterion::SourcePort => {
                self.source_ports.is_empty()
                    || self.source_ports.contains(&connection.remote.port())
            }
        }
    }

    fn describe(&self, criterion: Criterion, connection: &ConnectionInfo<'_>) -> String {
        let list = |items: Vec<String>| items.join(", ");
        let ranges = |ranges: &[IpNet]| list(ranges.iter().map(ToString::to_string).collect());
        let (wanted, found) = match criterion {
            Criterion::DestinationPort => (
                self.destination_port.unwrap_or(0).to_string(),
                connection.local.port().to_string(),
            ),
            Criterion::DestinationIp => (
                ranges(&self.prefix_ranges),
                connection.local.ip().to_string(),
            ),
            Criterion::ServerName => (
                list(self.server_names.iter().map(ToString::to_string).collect()),
                connection.server_name.unwrap_or("none").to_owned(),
            ),
            Criterion::TransportProtocol => (
                self.impossible_transport.as_deref().map_or_else(
                    || {
                        self.transport_protocol
                            .unwrap_or_default()
                            .as_str()
                            .to_owned()
                    },
                    str::to_owned,
                ),
                connection.transport_protocol.as_str().to_owned(),
            ),
            Criterion::ApplicationProtocols => (
                list(
                    self.application_protocols
                        .iter()
                        .map(ToString::to_string)
                        .collect(),
                ),
                match connection.application_protocols {
                    [] => "none".to_owned(),
                    offered => offered.join(", "),
                },
            ),
            Criterion::DirectSourceIp => (
                ranges(&self.direct_source_prefix_ranges),
                connection.direct_remote.ip().to_string(),
            ),
            Criterion::SourceType => (
                if self.source_type == SourceType::External {
                    "another host"
                } else {
                    "this host"
                }
                .to_owned(),
                if connection.is_local {
                    "this host"
                } else {
                    "another host"
                }
                .to_owned(),
            ),
            Criterion::SourceIp => (
                ranges(&self.source_prefix_ranges),
                connection.remote.ip().to_string(),
            ),
            Criterion::SourcePort => (
                list(self.source_ports.iter().map(ToString::to_string).collect()),
                connection.remote.port().to_string(),
            ),
        };
        format!("wants {criterion} {wanted}, the connection has {found}")
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}
