//! Routing with reasons: the answer is the one the proxy gets, and each route before it is asked what it lacks.

use std::sync::Arc;

use super::decision::RouteOutcome;
use super::host::HostMatchKind;
use super::matching::Mismatch;
use super::types::{Route, RouteConfig, VirtualHost};
use crate::provenance::Provenance;
use crate::request::RequestView;

/// How a route was found, or why none was.
#[derive(Clone, Debug)]
pub struct RouteTrace {
    /// The route configuration.
    pub config: Arc<str>,
    /// The host that was looked for.
    pub host: String,
    /// The virtual host, if one has the host.
    pub vhost: Option<VhostTrace>,
}

/// What happened in a virtual host.
#[derive(Clone, Debug)]
pub struct VhostTrace {
    /// Its name.
    pub name: Arc<str>,
    /// The kind of domain by which it was found.
    pub found_by: HostMatchKind,
    /// The request must come by TLS and did not: no route was looked at.
    pub tls_required: bool,
    /// The routes before the one that was taken, with reasons.
    pub rejected: Vec<RejectedRoute>,
    /// The route that was taken, as an index.
    pub chosen: Option<usize>,
}

/// A route that was passed over.
#[derive(Clone, Debug)]
pub struct RejectedRoute {
    /// Its index.
    pub index: usize,
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// The first condition that does not hold.
    pub mismatch: Mismatch,
    /// The condition and what the request has, in a sentence.
    pub reason: String,
    /// Where the route came from.
    pub provenance: Provenance,
}

impl RouteConfig {
    /// The route of a request as [`RouteConfig::route`] finds it, and how it was found.
    pub fn explain<'a>(
        &'a self,
        request: &RequestView<'_>,
        random: u64,
    ) -> (RouteOutcome<'a>, RouteTrace) {
        let mut trace = RouteTrace {
            config: self.name.clone(),
            host: self.host_of(request).unwrap_or_default().into_owned(),
            vhost: None,
        };
        let Some(found) = self.locate(request) else {
            return (RouteOutcome::NoVirtualHost, trace);
        };
        let vhost = self.vhosts.at(found.vhost);
        let outcome = self.route_within(vhost, request, random);
        let chosen = match &outcome {
            RouteOutcome::Route(decision) => position(vhost, decision.route),
            _ => None,
        };
        let tls_required = matches!(outcome, RouteOutcome::RequireTls(_));
        let looked_at = match (tls_required, chosen) {
            (true, _) => 0,
            (false, chosen) => chosen.unwrap_or(vhost.routes.len()),
        };
        trace.vhost = Some(VhostTrace {
            name: vhost.name.clone(),
            found_by: found.kind,
            tls_required,
            rejected: rejected(&vhost.routes[..looked_at], request, random),
            chosen,
        });
        (outcome, trace)
    }
}

fn position(vhost: &VirtualHost, route: &Arc<Route>) -> Option<usize> {
    vhost.routes.iter().position(|own| Arc::ptr_eq(own, route))
}

/// Why each of these routes is not the request's. The conditions are asked one by one of the functions the lookup asks.
fn rejected(routes: &[Arc<Route>], request: &RequestView<'_>, random: u64) -> Vec<RejectedRoute> {
    let each = routes.iter().enumerate().filter_map(|(index, route)| {
        let mismatch = route.matcher.mismatch(request, random)?;
        Some(RejectedRoute {
            index,
            name: route.name.clone(),
            mismatch,
            reason: route.matcher.describe(mismatch, request),
            provenance: route.provenance.clone(),
        })
    });
    each.collect()
}

impl super::types::RouteMatch {
    /// A condition that does not hold, and what the request has, in a sentence.
    pub fn describe(&self, mismatch: Mismatch, request: &RequestView<'_>) -> String {
        let shown = |value: Option<std::borrow::Cow<'_, [u8]>>| match value {
            None => "it is absent".to_owned(),
            Some(value) => format!("it is {:?}", String::from_utf8_lossy(&value)),
        };
        match mismatch {
            Mismatch::Path => format!("wants {}, the path is {:?}", self.path, request.path_only()),
            Mismatch::Header(index) => {
                let matcher = &self.headers[index];
                format!("wants {matcher}, {}", shown(matcher.key.value(request)))
            }
            Mismatch::Query(index) => {
                let matcher = &self.query[index];
                let value = crate::matcher::query_parameter(request.query(), &matcher.name);
                format!(
                    "wants {matcher}, {}",
                    shown(value.map(|value| value.as_bytes().into()))
                )
            }
            Mismatch::Fraction => {
                let fraction = self.fraction.unwrap_or(crate::matcher::Fraction::ALL);
                format!(
                    "holds for {} of {} requests, and not for this one",
                    fraction.numerator, fraction.denominator
                )
            }
            other => other.to_string(),
        }
    }
}
