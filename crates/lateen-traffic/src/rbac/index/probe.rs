//! What of a connection or request the index is asked for: hashes of its texts, of their beginnings and ends where those are of a length
//! that any policy names, of addresses masked as any policy masks them, of ports.
//!
//! A text is hashed byte by byte, so that all its beginnings are had in one pass. The hash folds ASCII case.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::Subject;
use super::gate::{Attribute, Key, Pattern, namespaces};
use crate::matcher::HeaderKey;
use crate::value::Value;

/// FNV-1a's prime.
const PRIME: u64 = 0x0000_0100_0000_01b3;
/// An odd constant that spreads what tells kinds and attributes apart (the golden ratio).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Kinds of hashes, so that a beginning is never taken for a whole.
const WHOLE: u64 = 1;
const START: u64 = 2;
const END: u64 = 3;
const NET: u64 = 4;
const NUMBER: u64 = 5;

/// What is asked of one attribute.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    attribute: Attribute,
    seed: u64,
    /// Lengths of whole texts, of beginnings and of ends, ascending.
    wholes: Vec<usize>,
    starts: Vec<usize>,
    ends: Vec<usize>,
    /// Lengths of ranges.
    nets: Vec<(Family, u8)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
}

impl Probe {
    /// Has the probes find a key; the hash it is found by.
    pub(super) fn file(probes: &mut Vec<Self>, key: &Key) -> u64 {
        let known = probes
            .iter()
            .position(|probe| probe.attribute == key.attribute);
        let at = known.unwrap_or_else(|| {
            probes.push(Self::new(&key.attribute, probes.len()));
            probes.len() - 1
        });
        probes[at].add(&key.pattern)
    }

    fn new(attribute: &Attribute, index: usize) -> Self {
        Self {
            attribute: attribute.clone(),
            seed: (index as u64 + 1).wrapping_mul(SPREAD),
            wholes: Vec::new(),
            starts: Vec::new(),
            ends: Vec::new(),
            nets: Vec::new(),
        }
    }

    fn add(&mut self, pattern: &Pattern) -> u64 {
        match pattern {
            Pattern::Whole(text) => {
                insert(&mut self.wholes, text.len());
                finish(text.iter().fold(self.seed, step), WHOLE)
            }
            Pattern::Start(text) => {
                insert(&mut self.starts, text.len());
                finish(text.iter().fold(self.seed, step), START)
            }
            Pattern::End(text) => {
                insert(&mut self.ends, text.len());
                finish(text.iter().rev().fold(self.seed, step), END)
            }
            Pattern::Net(range) => {
                let family = Family::of(range.addr());
                insert(&mut self.nets, (family, range.prefix_len()));
                self.net(range)
            }
            Pattern::Number(number) => self.number(*number),
        }
    }

    /// Calls `found` with every hash under which something may be filed.
    pub(super) fn ask(&self, subject: &Subject<'_>, found: &mut impl FnMut(u64)) {
        let connection = subject.connection;
        match &self.attribute {
            Attribute::Identity => each_name(subject, |name| self.text(name, found)),
            Attribute::Namespace => each_name(subject, |name| {
                namespaces(name).for_each(|namespace| self.text(namespace, found));
            }),
            Attribute::Path => {
                if let Some(path) = subject.path() {
                    self.text(path.as_bytes(), found);
                }
            }
            Attribute::Header(key) => self.header(key, subject, found),
            Attribute::Metadata(namespace, path) => {
                match subject.dynamic_metadata.get(namespace, path) {
                    Some(Value::String(text)) => self.text(text.as_bytes(), found),
                    Some(Value::List(items)) => items
                        .iter()
                        .filter_map(Value::as_str)
                        .for_each(|text| self.text(text.as_bytes(), found)),
                    _ => {}
                }
            }
            Attribute::FilterState(key) => {
                if let Some(text) = subject.filter_state.get(&**key) {
                    self.text(text.as_bytes(), found);
                }
            }
            Attribute::ServerName => {
                self.text(connection.server_name.unwrap_or_default().as_bytes(), found);
            }
            Attribute::Port => found(self.number(connection.local.port())),
            Attribute::DestinationIp => self.address(connection.local.ip(), found),
            Attribute::SourceIp => self.address(connection.remote.ip(), found),
            Attribute::DirectRemoteIp => self.address(connection.direct_remote.ip(), found),
            Attribute::RemoteIp => self.address(subject.client(), found),
        }
    }

    fn header(&self, key: &HeaderKey, subject: &Subject<'_>, found: &mut impl FnMut(u64)) {
        let Some(request) = subject.request else {
            return;
        };
        match key {
            HeaderKey::Name(name) => request
                .headers
                .get_all(name)
                .iter()
                .for_each(|value| self.text(value.as_bytes(), found)),
            pseudo => {
                if let Some(value) = pseudo.value(request) {
                    self.text(&value, found);
                }
            }
        }
    }

    fn text(&self, text: &[u8], found: &mut impl FnMut(u64)) {
        let longest = self.starts.last().copied().unwrap_or(0);
        let whole = self.wholes.binary_search(&text.len()).is_ok();
        if whole || longest > 0 {
            let looked_at = if whole { text.len() } else { longest };
            let mut starts = self.starts.iter().copied().peekable();
            let mut hash = self.seed;
            for (length, byte) in (1..).zip(text.iter().take(looked_at)) {
                hash = step(hash, byte);
                if starts.next_if_eq(&length).is_some() {
                    found(finish(hash, START));
                }
            }
            if whole {
                found(finish(hash, WHOLE));
            }
        }
        let longest = self.ends.last().copied().unwrap_or(0);
        let mut ends = self.ends.iter().copied().peekable();
        let mut hash = self.seed;
        for (length, byte) in (1..).zip(text.iter().rev().take(longest)) {
            hash = step(hash, byte);
            if ends.next_if_eq(&length).is_some() {
                found(finish(hash, END));
            }
        }
    }

    fn address(&self, address: IpAddr, found: &mut impl FnMut(u64)) {
        let address = address.to_canonical();
        let family = Family::of(address);
        for (_, length) in self.nets.iter().filter(|(wanted, _)| *wanted == family) {
            if let Ok(range) = IpNet::new(address, *length) {
                found(self.net(&range.trunc()));
            }
        }
    }

    fn net(&self, range: &IpNet) -> u64 {
        let seed = step(self.seed, &range.prefix_len());
        let hash = match range.addr() {
            IpAddr::V4(address) => address.octets().iter().fold(seed, step),
            IpAddr::V6(address) => address.octets().iter().fold(seed, step),
        };
        finish(hash, NET)
    }

    fn number(&self, number: u16) -> u64 {
        finish(number.to_be_bytes().iter().fold(self.seed, step), NUMBER)
    }
}

impl Family {
    const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// The names in the peer's certificate.
fn each_name(subject: &Subject<'_>, mut each: impl FnMut(&[u8])) {
    let peer = subject.peer;
    for name in peer.uri_sans.iter().chain(peer.dns_sans) {
        each(name.as_bytes());
    }
    each(peer.subject.as_bytes());
}

fn step(hash: u64, byte: &u8) -> u64 {
    (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(PRIME)
}

fn finish(hash: u64, kind: u64) -> u64 {
    hash ^ kind.wrapping_mul(SPREAD)
}

fn insert<T: Ord>(sorted: &mut Vec<T>, value: T) {
    if let Err(at) = sorted.binary_search(&value) {
        sorted.insert(at, value);
    }
}
