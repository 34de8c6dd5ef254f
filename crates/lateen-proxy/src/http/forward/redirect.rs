//! Internal redirects: a redirect of the upstream that the proxy follows in place of the client (`internal_redirect_policy`).
//!
//! The request begins anew with the place it was sent to: it is routed, filtered and forwarded like any other, so that a redirect leads
//! nowhere a client could not have asked for. Source: Envoy, `Filter::convertRequestHeadersForInternalRedirect`.

use std::sync::Arc;

use http::uri::Uri;
use http::{HeaderValue, Method, StatusCode, header};
use lateen_traffic::RequestView;
use lateen_traffic::route::{InternalRedirects, RedirectPredicate, Route, RouteOutcome};

use super::Plan;
use super::attempt::Response;
use crate::http::exchange::Exchange;
use crate::http::head::Head;
use crate::http::headers;
use crate::http::source;

static ORIGINAL_URL: http::HeaderName = http::HeaderName::from_static("x-envoy-original-url");

/// A request that begins anew.
#[derive(Debug)]
pub(in crate::http) struct Redirected {
    /// Its head.
    pub(in crate::http) head: Box<Head>,
    /// Its body.
    pub(in crate::http) body: source::Source,
    /// The status of the redirect.
    pub(in crate::http) status: StatusCode,
    /// The names of the route it came by and of the one it leads to.
    pub(in crate::http) routes: (Arc<str>, Arc<str>),
}

/// The request that a redirect leads to, if the route wants it followed and it may be.
pub(super) fn follow(
    exchange: &Exchange,
    plan: &Plan<'_>,
    response: &Response,
) -> Option<Redirected> {
    let policy = plan.action.internal_redirects.as_ref()?;
    let status = response.parts.status;
    if !policy.codes.contains(&status.as_u16()) {
        return None;
    }
    let redirected = attempt(exchange, plan, response, policy);
    let stats = &plan.state.stats;
    match &redirected {
        Some(_) => stats.upstream_internal_redirect_succeeded_total.inc(),
        None => stats.upstream_internal_redirect_failed_total.inc(),
    }
    redirected
}

fn attempt(
    exchange: &Exchange,
    plan: &Plan<'_>,
    response: &Response,
    policy: &InternalRedirects,
) -> Option<Redirected> {
    if exchange.redirects >= policy.most {
        return None;
    }
    let location = response
        .parts
        .headers
        .get(header::LOCATION)?
        .to_str()
        .ok()?;
    let mut head = Box::new(plan.head.clone());
    go_to(&mut head, location, policy)?;
    for name in &policy.copied_headers {
        head.headers.remove(name);
        for value in response.parts.headers.get_all(name) {
            head.headers.append(name, value.clone());
        }
    }
    let mut body = plan.body.whole()?;
    // "See other" asks for a GET, whatever led there (RFC 9110 section 15.4.4).
    let other = response.parts.status == StatusCode::SEE_OTHER;
    if other && !matches!(head.method, Method::GET | Method::HEAD) {
        head.method = Method::GET;
        head.headers.remove(header::CONTENT_LENGTH);
        body.discard();
    }
    let original = format!(
        "{}://{}{}",
        plan.head.scheme, plan.head.authority, plan.head.path
    );
    headers::set(&mut head.headers, &ORIGINAL_URL, &original);
    let to = route_of(exchange, plan, &head)?;
    let routes = (name_of(plan.decision.route), to);
    let allowed = |predicate| permits(predicate, exchange, (plan.head, &head), &routes);
    policy.predicates.iter().all(allowed).then_some(Redirected {
        head,
        body,
        status: response.parts.status,
        routes,
    })
}

/// Whether a condition lets a redirect be followed. Source: Envoy's `extensions/internal_redirect`.
fn permits(
    predicate: &RedirectPredicate,
    exchange: &Exchange,
    (from, to): (&Head, &Head),
    routes: &(Arc<str>, Arc<str>),
) -> bool {
    match predicate {
        RedirectPredicate::AllowListedRoutes(names) => names.contains(&routes.1),
        RedirectPredicate::PreviousRoutes => !exchange.redirected_routes.contains(routes),
        RedirectPredicate::SafeCrossScheme => from.scheme == "https" || to.scheme != "https",
    }
}

/// A route's name, which is what predicates know it by.
fn name_of(route: &Route) -> Arc<str> {
    Arc::clone(&route.name)
}

/// Sends a head to another place; `None` if that is none, or not one to be followed to.
fn go_to(head: &mut Head, location: &str, policy: &InternalRedirects) -> Option<()> {
    let uri: Uri = location.parse().ok()?;
    let scheme = match uri.scheme_str()? {
        "http" => "http",
        "https" => "https",
        _ => return None,
    };
    if scheme != head.scheme && !policy.cross_scheme {
        return None;
    }
    head.scheme = scheme;
    head.authority = uri.authority()?.as_str().to_owned();
    head.path = uri
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    HeaderValue::from_str(&head.authority).ok().map(drop)
}

/// The name of the route of a request; none if it has no route.
fn route_of(exchange: &Exchange, plan: &Plan<'_>, head: &Head) -> Option<Arc<str>> {
    let program = &exchange.now.program;
    let routes = program.routes_of(&exchange.manager.config.routes);
    let view = RequestView {
        method: head.method.as_str(),
        scheme: head.scheme,
        authority: &head.authority,
        path: &head.path,
        headers: &head.headers,
        ..*plan.view
    };
    match routes?.route(&view, rand::random()) {
        RouteOutcome::Route(decision) => Some(name_of(decision.route)),
        _ => None,
    }
}
