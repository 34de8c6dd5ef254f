//! The route a request takes, with what route, virtual host and configuration together say of it.

use std::borrow::Cow;
use std::sync::Arc;

use super::action::{
    Forward, HostRewrite, MirrorPolicy, RouteAction, RouteUpgrade, WeightedCluster,
};
use super::host::HostMatch;
use super::types::{RequireTls, Route, RouteConfig, VirtualHost};
use crate::cluster::ProxyVersion;
use crate::cors::CorsPolicy;
use crate::filter::FilterOverride;
use crate::headers::HeaderMutations;
use crate::request::RequestView;
use crate::retry::RetryPolicy;

/// What routing found.
#[derive(Clone, Debug)]
pub enum RouteOutcome<'a> {
    /// A route.
    Route(RouteDecision<'a>),
    /// The virtual host wants TLS: answer 301 to the same place under `https`.
    RequireTls(&'a VirtualHost),
    /// A virtual host, but none of its routes: answer 404 (`NR`).
    NoRoute(&'a VirtualHost),
    /// No virtual host: answer 404 (`NR`).
    NoVirtualHost,
}

/// A route, and what was drawn for this request. Borrows from the configuration alone, so that filters may change the request.
#[derive(Clone, Debug)]
pub struct RouteDecision<'a> {
    /// The configuration.
    pub config: &'a RouteConfig,
    /// The virtual host.
    pub vhost: &'a VirtualHost,
    /// The route.
    pub route: &'a Arc<Route>,
    /// The cluster, if the route forwards. `None` with a forwarding route means that the header that names it is absent.
    pub cluster: Option<Cow<'a, str>>,
    /// The entry of the weighted list that was drawn.
    pub weighted: Option<&'a WeightedCluster>,
}

impl<'a> RouteDecision<'a> {
    /// The forwarding action, if it is one.
    pub fn forward(&self) -> Option<&'a Forward> {
        match &self.route.action {
            RouteAction::Forward(forward) => Some(forward),
            _ => None,
        }
    }

    /// Retries: the route's, else the virtual host's.
    pub fn retry_policy(&self) -> Option<&'a Arc<RetryPolicy>> {
        self.forward()
            .and_then(|forward| forward.retry.as_ref())
            .or(self.vhost.retry.as_ref())
    }

    /// What the most specific level says of an HTTP filter, by the filter's name in the chain.
    pub fn filter_override(&self, name: &str) -> Option<&'a FilterOverride> {
        self.weighted
            .and_then(|weighted| weighted.per_filter.get(name))
            .or_else(|| self.route.per_filter.get(name))
            .or_else(|| self.vhost.per_filter.get(name))
            .or_else(|| self.config.per_filter.get(name))
    }

    /// What every level says of an HTTP filter, the most specific first.
    pub fn filter_overrides(
        &self,
        name: &str,
    ) -> impl Iterator<Item = &'a FilterOverride> + use<'a> {
        let weighted = self
            .weighted
            .and_then(|weighted| weighted.per_filter.get(name));
        [
            weighted,
            self.route.per_filter.get(name),
            self.vhost.per_filter.get(name),
            self.config.per_filter.get(name),
        ]
        .into_iter()
        .flatten()
    }

    /// The CORS policy: by filter override, else in the route's or virtual host's own field.
    pub fn cors(&self) -> Option<&'a Arc<CorsPolicy>> {
        match self.filter_override("envoy.filters.http.cors") {
            Some(FilterOverride::Cors(policy)) => Some(policy),
            _ => self
                .forward()
                .and_then(|forward| forward.cors.as_ref())
                .or(self.vhost.cors.as_ref()),
        }
    }

    /// Copies: the route's, else the virtual host's, else the configuration's.
    pub fn mirrors(&self) -> &'a [MirrorPolicy] {
        let route = self
            .forward()
            .map_or([].as_slice(), |forward| &forward.mirrors);
        [route, &self.vhost.mirrors, &self.config.mirrors]
            .into_iter()
            .find(|list| !list.is_empty())
            .unwrap_or(&[])
    }

    /// The host's rewriting: the weighted entry's, else the route's.
    pub fn host_rewrite(&self) -> Option<&'a HostRewrite> {
        self.weighted
            .and_then(|weighted| weighted.host_rewrite.as_ref())
            .or_else(|| {
                self.forward()
                    .and_then(|forward| forward.host_rewrite.as_ref())
            })
    }

    /// Changes to request headers, in the order in which they are to be applied.
    pub fn request_headers(&self) -> impl Iterator<Item = &'a HeaderMutations> {
        self.in_order([
            self.weighted.map(|weighted| &weighted.request_headers),
            Some(&self.route.request_headers),
            Some(&self.vhost.request_headers),
            Some(&self.config.request_headers),
        ])
    }

    /// Changes to response headers, in the order in which they are to be applied.
    pub fn response_headers(&self) -> impl Iterator<Item = &'a HeaderMutations> {
        self.in_order([
            self.weighted.map(|weighted| &weighted.response_headers),
            Some(&self.route.response_headers),
            Some(&self.vhost.response_headers),
            Some(&self.config.response_headers),
        ])
    }

    /// Whether an upgrade is allowed: the route's word, else the connection manager's.
    pub fn upgrade_allowed(&self, token: &str, by_default: bool) -> bool {
        let upgrades = self
            .forward()
            .map_or([].as_slice(), |forward| &forward.upgrades);
        upgrades
            .iter()
            .find(|upgrade| upgrade.token.eq_ignore_ascii_case(token))
            .map_or(by_default, |u| u.enabled)
    }

    /// Whether CONNECT ends here, rather than being passed on.
    pub fn terminates_connect(&self) -> bool {
        self.connect().is_some()
    }

    /// Whether POST ends here, as CONNECT does.
    pub fn terminates_post(&self) -> bool {
        self.connect().is_some_and(|connect| connect.terminate_post)
    }

    /// The header of the PROXY protocol that goes before the payload of a CONNECT that ends here.
    pub fn connect_proxy(&self) -> Option<ProxyVersion> {
        self.connect()?.connect_proxy
    }

    fn connect(&self) -> Option<&'a RouteUpgrade> {
        let mut upgrades = self.forward()?.upgrades.iter();
        upgrades.find(|upgrade| {
            upgrade.terminate_connect && upgrade.token.eq_ignore_ascii_case("CONNECT")
        })
    }

    fn in_order(
        &self,
        levels: [Option<&'a HeaderMutations>; 4],
    ) -> impl Iterator<Item = &'a HeaderMutations> + use<'a> {
        let mut levels = levels;
        if self.config.most_specific_wins {
            levels.reverse();
        }
        levels
            .into_iter()
            .flatten()
            .filter(|mutations| !mutations.is_empty())
    }
}

impl RouteConfig {
    /// The route of a request. `random` draws among weighted clusters and fractions.
    pub fn route<'a>(&'a self, request: &RequestView<'_>, random: u64) -> RouteOutcome<'a> {
        match self.locate(request) {
            Some(found) => self.route_within(self.vhosts.at(found.vhost), request, random),
            None => RouteOutcome::NoVirtualHost,
        }
    }

    /// The virtual host of a request.
    pub fn find_vhost(&self, request: &RequestView<'_>) -> Option<&VirtualHost> {
        self.locate(request)
            .map(|found| self.vhosts.at(found.vhost))
    }

    /// The virtual host of a request, and by which of its domains it was found.
    pub(super) fn locate(&self, request: &RequestView<'_>) -> Option<HostMatch> {
        self.hosts.find(&self.host_of(request)?, self.ignore_port)
    }

    /// The route of a request in its virtual host.
    pub(super) fn route_within<'a>(
        &'a self,
        vhost: &'a VirtualHost,
        request: &RequestView<'_>,
        random: u64,
    ) -> RouteOutcome<'a> {
        if vhost.require_tls == RequireTls::All && request.scheme != "https" {
            return RouteOutcome::RequireTls(vhost);
        }
        match vhost.table.find(&vhost.routes, request, random) {
            Some(index) => {
                RouteOutcome::Route(self.decide(vhost, &vhost.routes[index], request, random))
            }
            None => RouteOutcome::NoRoute(vhost),
        }
    }

    pub(super) fn host_of<'r>(&self, request: &RequestView<'r>) -> Option<Cow<'r, str>> {
        let Some(name) = &self.vhost_header else {
            return Some(Cow::Borrowed(request.authority));
        };
        request.headers.get(name)?.to_str().ok().map(Cow::Borrowed)
    }

    fn decide<'a>(
        &'a self,
        vhost: &'a VirtualHost,
        route: &'a Arc<Route>,
        request: &RequestView<'_>,
        random: u64,
    ) -> RouteDecision<'a> {
        let (cluster, weighted) = match &route.action {
            RouteAction::Forward(forward) => forward.pick_cluster(request, random),
            _ => (None, None),
        };
        RouteDecision {
            config: self,
            vhost,
            route,
            cluster,
            weighted,
        }
    }
}
