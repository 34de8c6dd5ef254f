//! Finding the virtual host of a host name.
//!
//! Source: Envoy, `VirtualHost.domains`: exact names, then the longest `*suffix`, then the longest `prefix*`, then `*`. Letters'
//! case is disregarded.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use foldhash::fast::FixedState;

/// Names by length, longest first; so the first hit is the longest.
type ByLength = BTreeMap<std::cmp::Reverse<usize>, HashMap<Box<str>, usize, FixedState>>;

/// Longest host name that is folded to lower case without an allocation.
const STACK_HOST: usize = 256;

/// The domains of a route configuration.
#[derive(Clone, Debug, Default)]
pub struct HostIndex {
    exact: HashMap<Box<str>, usize, FixedState>,
    suffixes: ByLength,
    prefixes: ByLength,
    any: Option<usize>,
}

/// One domain, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Domain {
    /// The very name.
    Exact(Box<str>),
    /// `*.example.com`, `*-bar.example.com`: at least one character, then this.
    Suffix(Box<str>),
    /// `foo.*`: this, then at least one character.
    Prefix(Box<str>),
    /// `*`.
    Any,
}

/// What a host was found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMatch {
    /// The virtual host's index.
    pub vhost: usize,
    /// The kind of domain.
    pub kind: HostMatchKind,
}

/// The kind of domain that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostMatchKind {
    /// The very name.
    Exact,
    /// A `*suffix`.
    Suffix,
    /// A `prefix*`.
    Prefix,
    /// `*`.
    Any,
}

impl Domain {
    /// Parses a domain of a virtual host; `None` if it is none (`*` in the middle, an empty text).
    pub fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let parsed = match (lower.strip_prefix('*'), lower.strip_suffix('*')) {
            _ if lower == "*" => return Some(Self::Any),
            (Some(suffix), None) => Self::Suffix(suffix.into()),
            (None, Some(prefix)) => Self::Prefix(prefix.into()),
            (None, None) => Self::Exact(lower.as_str().into()),
            (Some(_), Some(_)) => return None,
        };
        let (Self::Exact(name) | Self::Suffix(name) | Self::Prefix(name)) = &parsed else {
            return None;
        };
        (!name.is_empty() && !name.contains('*')).then_some(parsed)
    }
}

impl HostIndex {
    /// Of no domain yet, of about so many.
    pub(crate) fn with_capacity(domains: usize) -> Self {
        Self {
            exact: HashMap::with_capacity_and_hasher(domains, FixedState::default()),
            ..Self::default()
        }
    }

    /// Adds a domain of a virtual host.
    ///
    /// # Errors
    /// Another virtual host, whose index is returned, has the domain already.
    pub fn insert(&mut self, domain: Domain, vhost: usize) -> Result<(), usize> {
        let previous = match domain {
            Domain::Any => self.any.replace(vhost),
            Domain::Exact(name) => self.exact.insert(name, vhost),
            Domain::Suffix(name) => insert_by_length(&mut self.suffixes, name, vhost),
            Domain::Prefix(name) => insert_by_length(&mut self.prefixes, name, vhost),
        };
        previous.map_or(Ok(()), Err)
    }

    /// The virtual host of a host, as in `:authority`.
    pub fn find(&self, host: &str, ignore_port: bool) -> Option<HostMatch> {
        let host = if ignore_port {
            crate::headers::without_port(host)
        } else {
            host
        };
        let mut stack = [0; STACK_HOST];
        let host = lower_case(host, &mut stack);
        let hit = |vhost: &usize, kind| HostMatch {
            vhost: *vhost,
            kind,
        };
        if let Some(vhost) = self.exact.get(&*host) {
            return Some(hit(vhost, HostMatchKind::Exact));
        }
        if let Some(vhost) = find_by_length(
            &self.suffixes,
            |length| host.get(host.len().checked_sub(length)?..),
            &host,
        ) {
            return Some(hit(vhost, HostMatchKind::Suffix));
        }
        if let Some(vhost) = find_by_length(&self.prefixes, |length| host.get(..length), &host) {
            return Some(hit(vhost, HostMatchKind::Prefix));
        }
        self.any
            .as_ref()
            .map(|vhost| hit(vhost, HostMatchKind::Any))
    }
}

fn insert_by_length(map: &mut ByLength, name: Box<str>, vhost: usize) -> Option<usize> {
    map.entry(std::cmp::Reverse(name.len()))
        .or_default()
        .insert(name, vhost)
}

/// A wildcard stands for at least one character, so only shorter names can match.
fn find_by_length<'m, 'h>(
    map: &'m ByLength,
    part: impl Fn(usize) -> Option<&'h str>,
    host: &str,
) -> Option<&'m usize> {
    map.range(std::cmp::Reverse(host.len().checked_sub(1)?)..)
        .find_map(|(length, names)| names.get(part(length.0)?))
}

fn lower_case<'h>(host: &'h str, stack: &'h mut [u8; STACK_HOST]) -> Cow<'h, str> {
    if !host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Cow::Borrowed(host);
    }
    let Some(room) = stack.get_mut(..host.len()) else {
        return Cow::Owned(host.to_ascii_lowercase());
    };
    room.copy_from_slice(host.as_bytes());
    room.make_ascii_lowercase();
    std::str::from_utf8(room).map_or_else(|_| Cow::Owned(host.to_ascii_lowercase()), Cow::Borrowed)
}

#[cfg(test)]
mod tests;
