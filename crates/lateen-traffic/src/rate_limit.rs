//! Local rate limits: token buckets, and the descriptors by which requests are told apart.
//!
//! It says which buckets a request asks and in which order. The buckets themselves hold state and live in the proxy.
//! Source: Envoy, `LocalRateLimiterImpl::requestAllowed` and `RateLimitPolicyEntryImpl`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::format::{Format, RequestValues};
use crate::headers::HeaderMutations;
use crate::matcher::{Fraction, HeaderKey, HeaderMatcher, QueryMatcher};
use crate::request::RequestView;
use crate::value::{Metadata, Value};

/// Buckets made for values of requests, per descriptor, unless set otherwise. Source: Envoy.
pub const DEFAULT_DYNAMIC_DESCRIPTORS: u32 = 20;

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    /// How many tokens fit.
    pub max_tokens: u32,
    /// How many are added in an interval.
    pub tokens_per_fill: u32,
    /// The interval.
    pub fill_interval: Duration,
}

/// `envoy.filters.http.local_ratelimit`.
#[derive(Clone, Debug)]
pub struct LocalRateLimit {
    /// The prefix of its statistics.
    pub stat_prefix: Arc<str>,
    /// The bucket of requests that no descriptor names, and by default of all others too; `None` limits nothing.
    pub bucket: Option<TokenBucket>,
    /// The status of a refusal; 429 by default.
    pub status: u16,
    /// For which share it is evaluated; nothing by default.
    pub enabled: Fraction,
    /// For which share it is enforced; nothing by default.
    pub enforced: Fraction,
    /// Headers of a refusal.
    pub response_headers: HeaderMutations,
    /// Headers of a request that would have been refused, were the limit enforced.
    pub unenforced_request_headers: HeaderMutations,
    /// One set of buckets per connection.
    pub per_connection: bool,
    /// Buckets of their own, by descriptor.
    pub descriptors: Vec<LimitedDescriptor>,
    /// Which rules of routes concern this filter.
    pub stage: u32,
    /// Rules of the filter's own, in place of the routes'.
    pub rules: Vec<RateLimitRule>,
    /// What becomes of the virtual host's rules.
    pub virtual_host_rules: VirtualHostRules,
    /// Requests with a descriptor of their own take from the common bucket, too.
    pub always_take_common: bool,
    /// Answers tell limit, remaining tokens and time to the next (`x-ratelimit-…`).
    pub tells_limits: bool,
    /// Refusals say when to come again (`retry-after`).
    pub tells_retry: bool,
    /// gRPC refusals say RESOURCE_EXHAUSTED rather than UNAVAILABLE.
    pub resource_exhausted: bool,
    /// Buckets made for values of requests, per descriptor; the least recently used goes first.
    pub max_dynamic: u32,
}

/// A bucket for requests with certain descriptor entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitedDescriptor {
    /// Keys and values, in order. An empty value stands for any, each with a bucket of its own.
    pub entries: Vec<(Arc<str>, Arc<str>)>,
    /// The bucket.
    pub bucket: TokenBucket,
    /// It is counted and never refuses.
    pub shadow: bool,
}

/// What becomes of a virtual host's rules where a route has its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VirtualHostRules {
    /// They count only if the route has none.
    #[default]
    Override,
    /// They count besides.
    Include,
    /// They never count.
    Ignore,
}

/// How a descriptor is made of a request: `envoy.config.route.v3.RateLimit`.
#[derive(Clone, Debug)]
pub struct RateLimitRule {
    /// Which filters it concerns.
    pub stage: u32,
    /// The entries, in order. One that cannot be made makes no descriptor, unless it may be left out.
    pub actions: Vec<RateLimitAction>,
    /// How many tokens a request takes.
    pub hits: u64,
}

/// How one entry is made.
#[derive(Clone, Debug)]
pub enum RateLimitAction {
    /// The service cluster of this proxy, under `source_cluster`.
    SourceCluster,
    /// The upstream cluster, under `destination_cluster`.
    DestinationCluster,
    /// A header's value.
    Header {
        /// The header.
        name: HeaderKey,
        /// The entry's key.
        key: Arc<str>,
        /// Without the header, the entry is left out.
        optional: bool,
    },
    /// A query parameter's value.
    Query {
        /// The parameter.
        name: Arc<str>,
        /// The entry's key.
        key: Arc<str>,
        /// Without the parameter, the entry is left out.
        optional: bool,
    },
    /// The client's address, under `remote_address`.
    RemoteAddress,
    /// The client's network, under `masked_remote_address`.
    MaskedRemoteAddress {
        /// Bits of an IPv4 network.
        v4: u8,
        /// Bits of an IPv6 network.
        v6: u8,
    },
    /// Always the same, or what a format makes of the request.
    Generic {
        /// The entry's key.
        key: Arc<str>,
        /// Its value.
        value: EntryValue,
    },
    /// A value if headers match (or do not).
    HeaderMatch {
        /// The entry's key.
        key: Arc<str>,
        /// Its value.
        value: EntryValue,
        /// Whether they have to match, all of them.
        expect: bool,
        /// The conditions.
        headers: Vec<HeaderMatcher>,
    },
    /// A value if query parameters match (or do not).
    QueryMatch {
        /// The entry's key.
        key: Arc<str>,
        /// Its value.
        value: EntryValue,
        /// Whether they have to match, all of them.
        expect: bool,
        /// The conditions.
        parameters: Vec<QueryMatcher>,
    },
    /// A value if the client's address is in a network.
    AddressMatch {
        /// The entry's key.
        key: Arc<str>,
        /// Its value.
        value: EntryValue,
        /// The networks.
        ranges: Vec<IpNet>,
        /// Whether it has to be in none.
        invert: bool,
    },
    /// A text of the metadata.
    Metadata {
        /// The entry's key.
        key: Arc<str>,
        /// The metadata's namespace.
        namespace: Arc<str>,
        /// The path below it.
        path: Vec<Arc<str>>,
        /// The value where there is none; empty is none.
        default: Arc<str>,
        /// The route's own metadata rather than that of filters.
        of_route: bool,
        /// Without a value, the entry is left out.
        optional: bool,
    },
}

/// A value with command operators, and what stands for an empty one.
#[derive(Clone, Debug)]
pub struct EntryValue {
    /// The value.
    pub format: Format,
    /// What stands for it where it is empty; empty is none.
    pub default: Arc<str>,
}

/// What is asked of the buckets: entries, and how many tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Keys and values, in order.
    pub entries: Vec<(Arc<str>, String)>,
    /// How many tokens.
    pub hits: u64,
}

/// What descriptors are made of.
#[derive(Clone, Copy, Debug)]
pub struct RateLimitSubject<'a> {
    /// The request.
    pub request: &'a RequestView<'a>,
    /// The route's metadata.
    pub route_metadata: &'a Metadata,
    /// The upstream cluster; empty if there is none.
    pub cluster: &'a str,
    /// The route's name.
    pub route_name: &'a str,
    /// The service cluster of this proxy.
    pub source_cluster: &'a str,
}

impl LocalRateLimit {
    /// The rules that make descriptors for a route.
    pub fn rules<'a>(
        &'a self,
        route: &'a [RateLimitRule],
        virtual_host: &'a [RateLimitRule],
    ) -> impl Iterator<Item = &'a RateLimitRule> {
        let (first, second): (&[_], &[_]) = match self.virtual_host_rules {
            _ if !self.rules.is_empty() => (&self.rules, &[]),
            VirtualHostRules::Ignore => (route, &[]),
            VirtualHostRules::Include => (route, virtual_host),
            VirtualHostRules::Override if route.is_empty() => (virtual_host, &[]),
            VirtualHostRules::Override => (route, &[]),
        };
        let own = !self.rules.is_empty();
        first
            .iter()
            .chain(second)
            .filter(move |rule| own || rule.stage == self.stage)
    }
}

impl LimitedDescriptor {
    /// Whether a request's descriptor is this one.
    pub fn fits(&self, descriptor: &Descriptor) -> bool {
        self.entries.len() == descriptor.entries.len()
            && self
                .entries
                .iter()
                .zip(&descriptor.entries)
                .all(|((key, value), (asked, given))| {
                    key == asked && (value.is_empty() || **value == **given)
                })
    }

    /// Whether each value of requests has a bucket of its own.
    pub fn is_dynamic(&self) -> bool {
        self.entries.iter().any(|(_, value)| value.is_empty())
    }
}

impl TokenBucket {
    /// Tokens a second.
    pub fn rate(&self) -> f64 {
        f64::from(self.tokens_per_fill) / self.fill_interval.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

impl RateLimitRule {
    /// The descriptor of a request; `None` if it has none.
    pub fn descriptor(&self, subject: &RateLimitSubject<'_>) -> Option<Descriptor> {
        let mut entries = Vec::with_capacity(self.actions.len());
        for action in &self.actions {
            match action.entry(subject) {
                Entry::Made(key, value) => entries.push((key, value)),
                Entry::LeftOut => {}
                Entry::Impossible => return None,
            }
        }
        (!entries.is_empty()).then_some(Descriptor {
            entries,
            hits: self.hits,
        })
    }
}

enum Entry {
    Made(Arc<str>, String),
    LeftOut,
    Impossible,
}

impl Entry {
    fn of(key: &Arc<str>, value: Option<String>, optional: bool) -> Self {
        match value {
            Some(value) => Self::Made(Arc::clone(key), value),
            None if optional => Self::LeftOut,
            None => Self::Impossible,
        }
    }
}

impl RateLimitSubject<'_> {
    /// An entry that is made where something about the request matched.
    fn entry_if(&self, matched: bool, key: &Arc<str>, value: &EntryValue) -> Entry {
        Entry::of(key, value.render(self).filter(|_| matched), false)
    }

    fn metadata(&self, of_route: bool) -> &Metadata {
        if of_route {
            self.route_metadata
        } else {
            self.request.dynamic_metadata
        }
    }
}

impl RateLimitAction {
    fn entry(&self, subject: &RateLimitSubject<'_>) -> Entry {
        let request = subject.request;
        let fixed = |key: &str, value: String| Entry::of(&key.into(), Some(value), false);
        match self {
            Self::SourceCluster => fixed("source_cluster", subject.source_cluster.to_owned()),
            Self::DestinationCluster => fixed("destination_cluster", subject.cluster.to_owned()),
            Self::Header {
                name,
                key,
                optional,
            } => {
                let value = name.value(request);
                let value = value.map(|value| String::from_utf8_lossy(&value).into_owned());
                Entry::of(key, value.filter(|value| !value.is_empty()), *optional)
            }
            Self::Query {
                name,
                key,
                optional,
            } => Entry::of(key, parameter(request.query(), name), *optional),
            Self::RemoteAddress => fixed("remote_address", request.client.ip().to_string()),
            Self::MaskedRemoteAddress { v4, v6 } => fixed(
                "masked_remote_address",
                masked(request.client.ip(), *v4, *v6),
            ),
            Self::Generic { key, value } => Entry::of(key, value.render(subject), false),
            Self::HeaderMatch {
                key,
                value,
                expect,
                headers,
            } => {
                let matched = headers.iter().all(|matcher| matcher.matches(request));
                subject.entry_if(matched == *expect, key, value)
            }
            Self::QueryMatch {
                key,
                value,
                expect,
                parameters,
            } => {
                let matched = parameters
                    .iter()
                    .all(|matcher| matcher.matches(request.query()));
                subject.entry_if(matched == *expect, key, value)
            }
            Self::AddressMatch {
                key,
                value,
                ranges,
                invert,
            } => {
                let address = request.client.ip().to_canonical();
                let inside = ranges.iter().any(|range| range.contains(&address));
                subject.entry_if(inside != *invert, key, value)
            }
            Self::Metadata {
                key,
                namespace,
                path,
                default,
                of_route,
                optional,
            } => {
                let found = subject.metadata(*of_route).get(namespace, path);
                let found = found.and_then(Value::as_str).unwrap_or_default();
                let value = if found.is_empty() { &**default } else { found };
                let value = (!value.is_empty()).then(|| value.to_owned());
                Entry::of(key, value, *optional)
            }
        }
    }
}

impl EntryValue {
    fn render(&self, subject: &RateLimitSubject<'_>) -> Option<String> {
        let values = RequestValues {
            request: subject.request,
            protocol: "",
            route_name: subject.route_name,
            cluster: subject.cluster,
        };
        let text = self.format.render(&values);
        let text = if text.is_empty() || &*text == "-" {
            &*self.default
        } else {
            &*text
        };
        (!text.is_empty()).then(|| text.to_owned())
    }
}

/// The first parameter of a name, as it stands in the query.
fn parameter(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| value.to_owned())
    })
}

fn masked(address: IpAddr, v4: u8, v6: u8) -> String {
    let bits = if address.is_ipv4() { v4 } else { v6 };
    IpNet::new(address, bits).map_or_else(
        |_| address.to_string(),
        |network| format!("{}/{bits}", network.network()),
    )
}

#[cfg(test)]
mod tests;
