//! The compiled route configuration: virtual hosts, routes and their conditions.

use std::sync::Arc;

use http::HeaderName;

use super::{HostIndex, RouteAction, RouteTable, UriTemplate, VirtualHosts};
use crate::cors::CorsPolicy;
use crate::filter::PerFilter;
use crate::headers::HeaderMutations;
use crate::matcher::{Fraction, FullRegex, HeaderMatcher, MetadataMatcher, QueryMatcher};
use crate::provenance::Provenance;
use crate::rate_limit::RateLimitRule;
use crate::retry::RetryPolicy;
use crate::value::Metadata;

use super::MirrorPolicy;

/// A compiled `RouteConfiguration`.
#[derive(Clone, Debug)]
pub struct RouteConfig {
    /// Its name.
    pub name: Arc<str>,
    /// The virtual hosts, as sent.
    pub vhosts: VirtualHosts,
    /// Finds the virtual host of a host.
    pub hosts: HostIndex,
    /// The port is disregarded when a virtual host is looked for.
    pub ignore_port: bool,
    /// The header that holds the host, in place of the authority (`vhost_header`).
    pub vhost_header: Option<HeaderName>,
    /// Headers taken away from requests of clients outside.
    pub internal_only_headers: Vec<HeaderName>,
    /// Changes to requests.
    pub request_headers: HeaderMutations,
    /// Changes to responses.
    pub response_headers: HeaderMutations,
    /// The route's header changes come last, and so win; else the configuration's do.
    pub most_specific_wins: bool,
    /// Requests are copied to these, unless the virtual host or the route says otherwise.
    pub mirrors: Vec<MirrorPolicy>,
    /// Overrides of HTTP filters.
    pub per_filter: PerFilter,
    /// Bytes of a direct response, at most; 4096 by default.
    pub max_direct_response_bytes: u32,
    /// The metadata.
    pub metadata: Metadata,
    /// Where it came from.
    pub provenance: Provenance,
}

/// A compiled virtual host.
#[derive(Clone, Debug)]
pub struct VirtualHost {
    /// Its name.
    pub name: Arc<str>,
    /// Its domains, as sent.
    pub domains: Vec<Arc<str>>,
    /// Its routes, in order: the first that matches is taken.
    pub routes: Vec<Arc<Route>>,
    /// Finds the first route that matches.
    pub table: RouteTable,
    /// Whether requests must come by TLS.
    pub require_tls: RequireTls,
    /// Changes to requests.
    pub request_headers: HeaderMutations,
    /// Changes to responses.
    pub response_headers: HeaderMutations,
    /// Retries, unless the route says otherwise.
    pub retry: Option<Arc<RetryPolicy>>,
    /// CORS, unless the route says otherwise.
    pub cors: Option<Arc<CorsPolicy>>,
    /// Requests are copied to these, unless the route says otherwise.
    pub mirrors: Vec<MirrorPolicy>,
    /// `x-envoy-attempt-count` is added to requests.
    pub include_request_attempt_count: bool,
    /// `x-envoy-attempt-count` is added to responses.
    pub include_response_attempt_count: bool,
    /// Rules that make descriptors for local rate limits.
    pub rate_limits: Vec<RateLimitRule>,
    /// Bytes of a body that are kept for retries, at most.
    pub retry_buffer_limit: Option<u64>,
    /// Overrides of HTTP filters.
    pub per_filter: PerFilter,
    /// The metadata.
    pub metadata: Metadata,
    /// Where it came from.
    pub provenance: Provenance,
}

/// Whether requests must come by TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequireTls {
    /// No.
    #[default]
    None,
    /// Requests from outside; others are redirected to `https`.
    ExternalOnly,
    /// All; others are redirected to `https`.
    All,
}

/// A compiled route.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// The conditions.
    pub matcher: RouteMatch,
    /// What happens then.
    pub action: RouteAction,
    /// The operation's name in traces.
    pub decorator: Option<Arc<str>>,
    /// Changes to requests.
    pub request_headers: HeaderMutations,
    /// Changes to responses.
    pub response_headers: HeaderMutations,
    /// Overrides of HTTP filters.
    pub per_filter: PerFilter,
    /// The prefix of its own statistics.
    pub stat_prefix: Option<Arc<str>>,
    /// Rules that make descriptors for local rate limits.
    pub rate_limits: Vec<RateLimitRule>,
    /// Bytes of a body that are kept for retries, at most.
    pub retry_buffer_limit: Option<u64>,
    /// The metadata.
    pub metadata: Metadata,
    /// Where it came from.
    pub provenance: Provenance,
}

/// The conditions of a route; all must hold.
#[derive(Clone, Debug)]
pub struct RouteMatch {
    /// The path's condition.
    pub path: PathMatch,
    /// Conditions on headers.
    pub headers: Vec<HeaderMatcher>,
    /// Conditions on query parameters.
    pub query: Vec<QueryMatcher>,
    /// Only gRPC requests.
    pub grpc: bool,
    /// A condition on the peer's certificate.
    pub tls: Option<TlsContextMatch>,
    /// Conditions on dynamic metadata.
    pub dynamic_metadata: Vec<MetadataMatcher>,
    /// For which share of requests it holds.
    pub fraction: Option<Fraction>,
}

/// A condition on the path (without its query).
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// The whole path.
    Exact {
        /// The path.
        path: Box<str>,
        /// Letters' case is disregarded.
        ignore_case: bool,
    },
    /// How the path begins, be it in the middle of a segment.
    Prefix {
        /// The beginning.
        prefix: Box<str>,
        /// Letters' case is disregarded.
        ignore_case: bool,
    },
    /// How the path begins, in whole segments.
    SegmentPrefix {
        /// The beginning, without a slash at its end.
        prefix: Box<str>,
        /// Letters' case is disregarded.
        ignore_case: bool,
    },
    /// The whole path, by a regular expression.
    Regex(FullRegex),
    /// The whole path, by a template.
    Template(UriTemplate),
    /// CONNECT requests, whatever their path.
    Connect,
}

/// A condition on the peer's certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsContextMatch {
    /// Whether one must be presented, or must not.
    pub presented: Option<bool>,
    /// Whether it must be valid, or must not.
    pub validated: Option<bool>,
}
