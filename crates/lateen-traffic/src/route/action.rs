//! What a route does: forward, redirect, answer.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::HashPolicy;
use crate::cluster::ProxyVersion;
use crate::cors::CorsPolicy;
use crate::filter::PerFilter;
use crate::headers::HeaderMutations;
use crate::matcher::{Fraction, RegexRewrite};
use crate::request::RequestView;
use crate::retry::RetryPolicy;
use crate::tls::DataSource;
use crate::value::Metadata;

use super::UriTemplate;

/// What a route does.
#[derive(Clone, Debug)]
pub enum RouteAction {
    /// Forwards to a cluster.
    Forward(Box<Forward>),
    /// Answers with a redirect.
    Redirect(Box<Redirect>),
    /// Answers with a body.
    DirectResponse(DirectResponse),
    /// Nothing: the route only carries filter settings (`non_forwarding_action`).
    NonForwarding,
}

/// Forwarding to a cluster.
#[derive(Clone, Debug)]
pub struct Forward {
    /// The cluster.
    pub target: Target,
    /// The status if the cluster does not exist; 503 by default.
    pub cluster_not_found_status: u16,
    /// The subset of endpoints, by metadata (`envoy.lb`).
    pub metadata_match: Option<Arc<Metadata>>,
    /// The path's rewriting.
    pub path_rewrite: Option<PathRewrite>,
    /// The host's rewriting.
    pub host_rewrite: Option<HostRewrite>,
    /// `x-forwarded-host` gets the original host.
    pub append_x_forwarded_host: bool,
    /// The timeouts.
    pub timeouts: RouteTimeouts,
    /// Retries; `None` leaves it to the virtual host.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Copies go to these; empty leaves it to the virtual host.
    pub mirrors: Vec<MirrorPolicy>,
    /// What picks the host under consistent hashing.
    pub hash_policy: Vec<HashPolicy>,
    /// CORS, in the route's own field.
    pub cors: Option<Arc<CorsPolicy>>,
    /// Upgrades allowed or forbidden here.
    pub upgrades: Vec<RouteUpgrade>,
    /// The circuit breaker of the high priority counts.
    pub high_priority: bool,
    /// Redirects of the upstream that are followed in place of the client.
    pub internal_redirects: Option<InternalRedirects>,
}

/// Which cluster.
#[derive(Clone, Debug)]
pub enum Target {
    /// This one.
    Cluster(Arc<str>),
    /// The one a request header names.
    Header(HeaderName),
    /// One of several.
    Weighted(WeightedClusters),
}

/// Several clusters, by weight.
#[derive(Clone, Debug)]
pub struct WeightedClusters {
    /// The clusters.
    pub clusters: Vec<WeightedCluster>,
    /// The sum of the weights; more than 0.
    pub total: u64,
    /// A request header that holds the number that picks, in place of the random one.
    pub random_header: Option<HeaderName>,
    /// The hash of the request picks, so that a client stays with its choice.
    pub use_hash_policy: bool,
}

/// One of several clusters.
#[derive(Clone, Debug)]
pub struct WeightedCluster {
    /// Which one.
    pub target: WeightedTarget,
    /// Its weight.
    pub weight: u32,
    /// The subset of endpoints, by metadata; in addition to the route's.
    pub metadata_match: Option<Arc<Metadata>>,
    /// Changes to requests.
    pub request_headers: HeaderMutations,
    /// Changes to responses.
    pub response_headers: HeaderMutations,
    /// Overrides of HTTP filters.
    pub per_filter: PerFilter,
    /// The host's rewriting.
    pub host_rewrite: Option<HostRewrite>,
}

/// Which cluster an entry of a weighted list means.
#[derive(Clone, Debug)]
pub enum WeightedTarget {
    /// This one.
    Cluster(Arc<str>),
    /// The one a request header names.
    Header(HeaderName),
}

/// A route's timeouts. `Some(ZERO)` never comes: "no limit" is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteTimeouts {
    /// From the end of the request to the end of the response, retries included; 15 s by default.
    pub request: Option<Duration>,
    /// A stream without a byte; outer `None` leaves it to the connection manager.
    pub idle: Option<Option<Duration>>,
    /// Longest life of a stream; outer `None` leaves it to the connection manager.
    pub max_stream: Option<Option<Duration>>,
    /// `grpc-timeout` counts, at most so long (`Some(None)`: without a limit); outer `None` disregards it.
    pub max_grpc: Option<Option<Duration>>,
    /// The same, but as the stream's longest life rather than the router's timeout
    /// (`max_stream_duration.grpc_timeout_header_max`).
    pub max_grpc_stream: Option<Option<Duration>>,
    /// Subtracted from `grpc-timeout`.
    pub grpc_offset: Duration,
}

/// The path's rewriting.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// The matched part (all of it for exact and regular expressions) becomes this.
    Prefix(Box<str>),
    /// The expression's matches are replaced, in the path without its query.
    Regex(RegexRewrite),
    /// The path is built from a template's variables.
    Template {
        /// The template the path matched.
        pattern: UriTemplate,
        /// What it becomes.
        rewrite: Box<str>,
    },
}

/// The host's rewriting.
#[derive(Clone, Debug)]
pub enum HostRewrite {
    /// This text.
    Literal(Arc<str>),
    /// The picked endpoint's host name.
    Auto,
    /// A request header's value.
    Header(HeaderName),
    /// Made from the path by an expression.
    PathRegex(RegexRewrite),
}

/// Copies of requests.
#[derive(Clone, Debug)]
pub struct MirrorPolicy {
    /// Where they go.
    pub target: WeightedTarget,
    /// For which share of requests.
    pub fraction: Fraction,
    /// The copy's host does not get `-shadow`.
    pub disable_host_suffix: bool,
    /// The copy's own host.
    pub host_rewrite: Option<Arc<str>>,
    /// Changes to copies.
    pub headers: HeaderMutations,
}

/// An upgrade allowed or forbidden on a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteUpgrade {
    /// Its token.
    pub token: Arc<str>,
    /// Whether it is allowed.
    pub enabled: bool,
    /// CONNECT is terminated here and its payload goes upstream as TCP.
    pub terminate_connect: bool,
    /// So is POST (`allow_post`): the bodies of request and response are what goes both ways.
    pub terminate_post: bool,
    /// The header of the PROXY protocol that goes before its payload.
    pub connect_proxy: Option<ProxyVersion>,
}

/// Redirects of the upstream that are followed in place of the client (`internal_redirect_policy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalRedirects {
    /// How many of a request, at most; 1 by default.
    pub most: u32,
    /// Those with one of these statuses; 302 by default.
    pub codes: Vec<u16>,
    /// From `http` to `https` and back, too.
    pub cross_scheme: bool,
    /// Headers of the redirect that go into the new request.
    pub copied_headers: Vec<HeaderName>,
    /// Where it may not lead.
    pub predicates: Vec<RedirectPredicate>,
}

/// A condition on where a redirect that is followed leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectPredicate {
    /// To a route of one of these names.
    AllowListedRoutes(Vec<Arc<str>>),
    /// To a route that no redirect from this route has led to before.
    PreviousRoutes,
    /// From `http` to `http` alone, from `https` to either.
    SafeCrossScheme,
}

/// A redirect.
#[derive(Clone, Debug, Default)]
pub struct Redirect {
    /// The status; 301 by default.
    pub status: u16,
    /// Another scheme.
    pub scheme: Option<Arc<str>>,
    /// Another host.
    pub host: Option<Arc<str>>,
    /// Another port.
    pub port: Option<u16>,
    /// Another path.
    pub path: RedirectPath,
    /// The query goes.
    pub strip_query: bool,
}

/// A redirect's path.
#[derive(Clone, Debug, Default)]
pub enum RedirectPath {
    /// The request's.
    #[default]
    Same,
    /// This one; its own query wins.
    Literal(Box<str>),
    /// The matched part becomes this.
    Prefix(Box<str>),
    /// The expression's matches are replaced.
    Regex(RegexRewrite),
}

/// An answer of the proxy's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectResponse {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Option<DataSource>,
    /// Its content type, if given; `text/plain` otherwise.
    pub content_type: Option<Arc<str>>,
}

impl Forward {
    /// Draws the cluster for a request.
    pub(super) fn pick_cluster<'a>(
        &'a self,
        request: &RequestView<'_>,
        random: u64,
    ) -> (Option<Cow<'a, str>>, Option<&'a WeightedCluster>) {
        match &self.target {
            Target::Cluster(name) => (Some(Cow::Borrowed(name)), None),
            Target::Header(header) => (header_text(request, header).map(owned), None),
            Target::Weighted(weighted) => {
                let entry = weighted.pick(self.weighted_number(weighted, request, random));
                (entry.target.name(request), Some(entry))
            }
        }
    }

    fn weighted_number(
        &self,
        weighted: &WeightedClusters,
        request: &RequestView<'_>,
        random: u64,
    ) -> u64 {
        let from_header = weighted
            .random_header
            .as_ref()
            .and_then(|header| header_text(request, header))
            .and_then(|text| text.parse().ok());
        let from_hash = || {
            weighted
                .use_hash_policy
                .then(|| super::hash::request_hash(&self.hash_policy, request).hash)
                .flatten()
        };
        from_header.or_else(from_hash).unwrap_or(random)
    }

    /// Every cluster it may use, as far as the configuration names them.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        let (one, many) = match &self.target {
            Target::Cluster(name) => (Some(name), [].as_slice()),
            Target::Header(_) => (None, [].as_slice()),
            Target::Weighted(weighted) => (None, weighted.clusters.as_slice()),
        };
        one.into_iter()
            .chain(many.iter().filter_map(|entry| match &entry.target {
                WeightedTarget::Cluster(name) => Some(name),
                WeightedTarget::Header(_) => None,
            }))
    }
}

impl WeightedClusters {
    /// The entry a number falls on: the number modulo the sum of the weights, counted off in order.
    pub fn pick(&self, number: u64) -> &WeightedCluster {
        let mut left = number % self.total.max(1);
        for entry in &self.clusters {
            match left.checked_sub(u64::from(entry.weight)) {
                None => return entry,
                Some(rest) => left = rest,
            }
        }
        self.clusters
            .last()
            .expect("a weighted target has at least one cluster")
    }
}

impl WeightedTarget {
    /// The cluster's name; `None` if the header that names it is absent.
    pub fn name<'a>(&'a self, request: &RequestView<'_>) -> Option<Cow<'a, str>> {
        match self {
            Self::Cluster(name) => Some(Cow::Borrowed(name)),
            Self::Header(header) => header_text(request, header).map(owned),
        }
    }
}

fn owned<'a>(text: &str) -> Cow<'a, str> {
    Cow::Owned(text.to_owned())
}

fn header_text<'a>(request: &RequestView<'a>, name: &HeaderName) -> Option<&'a str> {
    request
        .headers
        .get(name)?
        .to_str()
        .ok()
        .filter(|text| !text.is_empty())
}
