//! The filter chain of a connection, found level by level.
//!
//! Each level keeps the most specific entry that fits and never comes back: a connection to port 443 that has an entry for 443
//! does not fall back to chains without a port. Source: Envoy's documentation of `FilterChainMatch` and
//! `FilterChainManagerImpl`.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::FixedState;
use ipnet::IpNet;

use super::FilterChain;
use super::chain_match::{ChainMatch, ServerName, SourceType};
use crate::request::{ConnectionInfo, TransportProtocol};

/// Longest server name that is folded to lower case without an allocation; DNS names have at most 253 bytes.
const STACK_NAME: usize = 256;

/// Finds the filter chain of a connection.
#[derive(Clone, Debug, Default)]
pub struct ChainIndex {
    ports: ByPort<PrefixMap<Names>>,
}

/// Two chains with the same conditions, by index: only one could ever be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DuplicateMatch {
    /// The one that came first.
    pub first: usize,
    /// The other one.
    pub second: usize,
}

#[derive(Clone, Debug)]
struct ByPort<T> {
    exact: HashMap<u16, T, FixedState>,
    any: Option<Box<T>>,
}

impl<T> Default for ByPort<T> {
    fn default() -> Self {
        Self {
            exact: HashMap::default(),
            any: None,
        }
    }
}

/// Values by address range, the longest prefix first.
#[derive(Clone, Debug)]
struct PrefixMap<T> {
    v4: BTreeMap<std::cmp::Reverse<u8>, HashMap<IpNet, T, FixedState>>,
    v6: BTreeMap<std::cmp::Reverse<u8>, HashMap<IpNet, T, FixedState>>,
    any: Option<Box<T>>,
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        Self {
            v4: BTreeMap::new(),
            v6: BTreeMap::new(),
            any: None,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Names {
    exact: HashMap<Box<str>, Transports, FixedState>,
    /// By the suffix with its leading dot.
    suffix: HashMap<Box<str>, Transports, FixedState>,
    any: Option<Box<Transports>>,
}

#[derive(Clone, Debug, Default)]
struct Transports {
    exact: BTreeMap<TransportProtocol, Protocols>,
    any: Option<Box<Protocols>>,
}

#[derive(Clone, Debug, Default)]
struct Protocols {
    exact: HashMap<Arc<str>, PrefixMap<Sources>, FixedState>,
    any: Option<Box<PrefixMap<Sources>>>,
}

/// By [`SourceType`].
#[derive(Clone, Debug, Default)]
struct Sources {
    types: BTreeMap<SourceType, PrefixMap<ByPort<usize>>>,
}

impl ChainIndex {
    /// Indexes the chains of a listener.
    ///
    /// # Errors
    /// Two chains have the same conditions, or ones that overlap in one of their combinations.
    pub fn new(chains: &[Arc<FilterChain>]) -> Result<Self, DuplicateMatch> {
        let mut index = Self::default();
        for (position, chain) in chains.iter().enumerate() {
            if chain.matcher.impossible_transport.is_none() {
                index.insert(&chain.matcher, position)?;
            }
        }
        Ok(index)
    }

    /// A chain stands under every combination of its conditions.
    fn insert(&mut self, matcher: &ChainMatch, chain: usize) -> Result<(), DuplicateMatch> {
        let prefixes = self.ports.entry(matcher.destination_port);
        for range in or_any(&matcher.prefix_ranges) {
            let names = prefixes.entry(range.copied());
            for name in or_any(&matcher.server_names) {
                let transports = names.entry(name);
                let protocols = transports.entry(matcher.transport_protocol);
                for protocol in or_any(&matcher.application_protocols) {
                    let direct = protocols.entry(protocol);
                    for range in or_any(&matcher.direct_source_prefix_ranges) {
                        direct.entry(range.copied()).insert(matcher, chain)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The chain of a connection, as an index; the default chain is not among them.
    pub fn find(&self, connection: &ConnectionInfo<'_>) -> Option<usize> {
        let mut stack = [0; STACK_NAME];
        let name = lower_case(connection.server_name.unwrap_or_default(), &mut stack);
        let source = connection.remote;
        let local = connection.is_local;
        self.ports
            .find(connection.local.port())?
            .find(connection.local.ip())?
            .find(&name)?
            .find(connection.transport_protocol)?
            .find(connection.application_protocols)?
            .find(connection.direct_remote.ip())?
            .find(local)?
            .find(source.ip())?
            .find(source.port())
            .copied()
    }
}

fn or_any<T>(list: &[T]) -> impl Iterator<Item = Option<&T>> {
    list.iter().map(Some).chain(list.is_empty().then_some(None))
}

impl<T: Default> ByPort<T> {
    fn entry(&mut self, port: Option<u16>) -> &mut T {
        match port {
            Some(port) => self.exact.entry(port).or_default(),
            None => self.any.get_or_insert_default(),
        }
    }
}

impl<T> ByPort<T> {
    fn find(&self, port: u16) -> Option<&T> {
        self.exact.get(&port).or(self.any.as_deref())
    }
}

impl<T: Default> PrefixMap<T> {
    fn entry(&mut self, range: Option<IpNet>) -> &mut T {
        let Some(range) = range else {
            return self.any.get_or_insert_default();
        };
        let range = range.trunc();
        let family = if range.addr().is_ipv4() {
            &mut self.v4
        } else {
            &mut self.v6
        };
        family
            .entry(std::cmp::Reverse(range.prefix_len()))
            .or_default()
            .entry(range)
            .or_default()
    }
}

impl<T> PrefixMap<T> {
    fn find(&self, address: IpAddr) -> Option<&T> {
        let address = address.to_canonical();
        let family = if address.is_ipv4() {
            &self.v4
        } else {
            &self.v6
        };
        let found = family
            .iter()
            .find_map(|(length, ranges)| ranges.get(&IpNet::new(address, length.0).ok()?.trunc()));
        found.or(self.any.as_deref())
    }
}

impl Names {
    fn entry(&mut self, name: Option<&ServerName>) -> &mut Transports {
        match name {
            Some(ServerName::Exact(name)) => self.exact.entry(name.clone()).or_default(),
            Some(ServerName::Suffix(suffix)) => self.suffix.entry(suffix.clone()).or_default(),
            None => self.any.get_or_insert_default(),
        }
    }

    /// The name itself, then its wildcards from the longest on, then any.
    fn find(&self, name: &str) -> Option<&Transports> {
        if let Some(found) = self.exact.get(name) {
            return Some(found);
        }
        let mut rest = name;
        // A wildcard stands for at least one character.
        while let Some(dot) = rest.get(1..).and_then(|tail| tail.find('.')) {
            rest = &rest[dot + 1..];
            if let Some(found) = self.suffix.get(rest) {
                return Some(found);
            }
        }
        self.any.as_deref()
    }
}

impl Transports {
    fn entry(&mut self, protocol: Option<TransportProtocol>) -> &mut Protocols {
        match protocol {
            Some(protocol) => self.exact.entry(protocol).or_default(),
            None => self.any.get_or_insert_default(),
        }
    }

    fn find(&self, protocol: TransportProtocol) -> Option<&Protocols> {
        self.exact.get(&protocol).or(self.any.as_deref())
    }
}

impl Protocols {
    fn entry(&mut self, protocol: Option<&Arc<str>>) -> &mut PrefixMap<Sources> {
        match protocol {
            Some(protocol) => self.exact.entry(protocol.clone()).or_default(),
            None => self.any.get_or_insert_default(),
        }
    }

    /// The first protocol offered that has an entry.
    fn find(&self, offered: &[&str]) -> Option<&PrefixMap<Sources>> {
        offered
            .iter()
            .find_map(|protocol| self.exact.get(*protocol))
            .or(self.any.as_deref())
    }
}

impl Sources {
    fn insert(&mut self, matcher: &ChainMatch, chain: usize) -> Result<(), DuplicateMatch> {
        let prefixes = self.types.entry(matcher.source_type).or_default();
        for range in or_any(&matcher.source_prefix_ranges) {
            let ports = prefixes.entry(range.copied());
            for port in or_any(&matcher.source_ports) {
                ports.put(port.copied(), chain)?;
            }
        }
        Ok(())
    }

    /// A level for the very kind of source hides the one for either, as in Envoy.
    fn find(&self, is_local: bool) -> Option<&PrefixMap<ByPort<usize>>> {
        let kind = if is_local {
            SourceType::SameIpOrLoopback
        } else {
            SourceType::External
        };
        self.types
            .get(&kind)
            .or_else(|| self.types.get(&SourceType::Any))
    }
}

impl ByPort<usize> {
    fn put(&mut self, port: Option<u16>, chain: usize) -> Result<(), DuplicateMatch> {
        let previous = match port {
            Some(port) => self.exact.insert(port, chain),
            None => self.any.replace(Box::new(chain)).map(|boxed| *boxed),
        };
        match previous {
            Some(first) if first != chain => Err(DuplicateMatch {
                first,
                second: chain,
            }),
            _ => Ok(()),
        }
    }
}

fn lower_case<'n>(name: &'n str, stack: &'n mut [u8; STACK_NAME]) -> std::borrow::Cow<'n, str> {
    if !name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return name.into();
    }
    let Some(room) = stack.get_mut(..name.len()) else {
        return name.to_ascii_lowercase().into();
    };
    room.copy_from_slice(name.as_bytes());
    room.make_ascii_lowercase();
    std::str::from_utf8(room).map_or_else(|_| name.to_ascii_lowercase().into(), Into::into)
}
