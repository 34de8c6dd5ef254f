//! A request at an HTTP connection manager: its canonical form, virtual host and route, the filters, and what the route does.

use std::net::SocketAddr;
use std::sync::Arc;

use lateen_traffic::format::RequestValues;
use lateen_traffic::hcm::HttpConnectionManager;
use lateen_traffic::headers::normalize_authority;
use lateen_traffic::listener::TrafficDirection;
use lateen_traffic::path::Normalized;
use lateen_traffic::request::FilterState;
use lateen_traffic::route::{
    HostMatchKind, RouteAction, RouteConfig, RouteDecision, RouteOutcome, RouteTrace, Target,
    WeightedTarget, https_location,
};
use lateen_traffic::value::Metadata;
use lateen_traffic::{ConnectionInfo, PeerTls, Provenance, RequestView};

use super::connection::Connection;
use super::{Head, Outcome, Payload, Step, Trail, Walker};
use crate::place::Place;
use crate::report::{End, Note, NoteKind, Stage, percent};

/// Draws made where conditions hold for a share of requests only: as fine as Envoy's usual denominators.
const SAMPLES: u64 = 10_000;

/// A number in place of a random one, for a share of all requests.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Draw {
    percent: f64,
    random: u64,
}

impl Walker<'_> {
    /// What a connection manager does with the connection's payload.
    pub(super) fn http(
        &mut self,
        mut trail: Trail,
        mut connection: Connection,
        manager: &HttpConnectionManager,
    ) {
        let payload = std::mem::replace(&mut connection.arrival.payload, Payload::Opaque);
        let Payload::Http(mut head) = payload else {
            let what = "the proxy expects HTTP here, and this is none";
            let outcome = Outcome::new(End::Failed, what).status(400).flags("DPE");
            let step = Step::new(connection.at(), Stage::Filter, what);
            return self.stop(trail, step, outcome);
        };
        if let Err(outcome) = canonicalise(&mut trail, &connection, manager, &mut head) {
            let step = Step::new(
                connection.at(),
                Stage::Normalization,
                outcome.summary.clone(),
            );
            return self.stop(trail, step, *outcome);
        }
        trail.facts.path = Some(head.path.clone());
        trail.facts.host = Some(head.authority.clone());
        let inbound = connection.listener.direction == TrafficDirection::Inbound;
        let proxy = Arc::clone(&connection.arrival.proxy);
        let Some(routes) = proxy.program.routes_of(&manager.routes) else {
            let what = "the proxy has not got the routes of this listener";
            let outcome = Outcome::new(End::Failed, what).status(404).flags("NR");
            return self.stop(
                trail,
                Step::new(connection.at(), Stage::Host, what),
                outcome,
            );
        };
        let (metadata, state) = (Metadata::default(), FilterState::new());
        let remote = connection.arrival.remote;
        // The closure hands the view's parts out of the connection; everything after it is done inside.
        let this = &connection;
        this.with_info(|info, peer| {
            let arrived = View {
                head: &head,
                scheme: if this.secure { "https" } else { "http" },
                remote,
                info,
                peer,
                metadata: &metadata,
                state: &state,
            };
            let first = arrived.view();
            // What tokens say is seen by routes only where the filter has them looked for again.
            let tokens = self.authenticate(manager, &head, &first);
            let after = tokens.as_ref().map_or(arrived, |tokens| View {
                head: &tokens.head,
                metadata: &tokens.metadata,
                ..arrived
            });
            let after_view = after.view();
            let reroutes = tokens.as_ref().is_some_and(|tokens| tokens.reroutes);
            let request = Request {
                connection: this,
                manager,
                head: after.head,
                view: if reroutes { &after_view } else { &first },
                after: &after_view,
                arrived: &first,
                inbound,
            };
            self.route(trail, &request, routes);
        });
    }

    fn route(&mut self, mut trail: Trail, request: &Request<'_>, routes: &RouteConfig) {
        let draws = self.draws(routes, request.view);
        let one_route = same_route(routes, request.view, &draws);
        if one_route {
            let (outcome, trace) = routes.explain(request.view, draws[0].random);
            self.route_steps(&mut trail, request, &outcome, &trace);
            self.weight_step(&mut trail, request, &outcome, draws.len() > 1);
        }
        for draw in &draws {
            let mut branch = if draws.len() > 1 {
                trail.branch(draw.percent)
            } else {
                trail.clone()
            };
            let (outcome, trace) = routes.explain(request.view, draw.random);
            if !one_route {
                self.route_steps(&mut branch, request, &outcome, &trace);
            }
            self.routed(branch, request, outcome, draws.len() > 1);
        }
    }

    /// Numbers that stand for everything chance may do to routing, with their shares.
    fn draws(&self, routes: &RouteConfig, view: &RequestView<'_>) -> Vec<Draw> {
        let only = |random| {
            vec![Draw {
                percent: 100.0,
                random,
            }]
        };
        if self.options.seed.is_some() {
            return only(self.random(1));
        }
        let RouteOutcome::Route(first) = routes.route(view, 0) else {
            return only(0);
        };
        if first
            .vhost
            .routes
            .iter()
            .any(|route| route.matcher.fraction.is_some())
        {
            return sampled(routes, view);
        }
        let Some(Target::Weighted(weighted)) = first.forward().map(|forward| &forward.target)
        else {
            return only(0);
        };
        let mut draws = Vec::new();
        let mut start = 0_u64;
        for entry in weighted.clusters.iter().filter(|entry| entry.weight > 0) {
            let drawn = routes.route(view, start);
            let RouteOutcome::Route(decision) = drawn else {
                return only(0);
            };
            if !decision
                .weighted
                .is_some_and(|drawn| std::ptr::eq(drawn, entry))
            {
                // The request itself says which: by a hash, or a header.
                return only(0);
            }
            draws.push(Draw {
                percent: share(u64::from(entry.weight), weighted.total),
                random: start,
            });
            start += u64::from(entry.weight);
        }
        draws
    }

    fn route_steps(
        &self,
        trail: &mut Trail,
        request: &Request<'_>,
        outcome: &RouteOutcome<'_>,
        trace: &RouteTrace,
    ) {
        let at = request.connection.at();
        let Some(vhost) = &trace.vhost else { return };
        // An inbound listener has one virtual host and one route: nothing was decided.
        let trivial = request.inbound && vhost.rejected.is_empty();
        if !trivial {
            let by = match vhost.found_by {
                HostMatchKind::Exact => "the name itself",
                HostMatchKind::Suffix | HostMatchKind::Prefix => "a wildcard",
                HostMatchKind::Any => "*, as no other virtual host has the name",
            };
            let what = format!("{} has {:?}, by {by}", vhost.name, trace.host);
            trail.push(Step::new(at, Stage::Host, what));
        }
        let RouteOutcome::Route(decision) = outcome else {
            return;
        };
        let place = self.places.of_provenance(&decision.route.provenance);
        touch(trail, place.as_ref());
        if trivial {
            return;
        }
        let number = vhost.chosen.unwrap_or_default();
        let name = match &*decision.route.name {
            "" => String::new(),
            name => format!(" {name}"),
        };
        let matcher = &decision.route.matcher;
        let mut conditions = vec![matcher.path.to_string()];
        conditions.extend(matcher.headers.iter().map(ToString::to_string));
        conditions.extend(matcher.query.iter().map(ToString::to_string));
        let what = format!("route {number}{name}: {}", conditions.join(", "));
        let notes = vhost.rejected.iter().map(|rejected| {
            let name = match &*rejected.name {
                "" => String::new(),
                name => format!(" {name}"),
            };
            let text = format!("route {}{name}: {}", rejected.index, rejected.reason);
            Note::new(NoteKind::Passed, text)
                .at_place(self.places.of_provenance(&rejected.provenance))
        });
        trail.push(
            Step::new(at, Stage::Route, what)
                .at_place(place)
                .with_notes(notes.collect()),
        );
    }

    fn weight_step(
        &self,
        trail: &mut Trail,
        request: &Request<'_>,
        outcome: &RouteOutcome<'_>,
        open: bool,
    ) {
        let RouteOutcome::Route(decision) = outcome else {
            return;
        };
        let Some(Target::Weighted(weighted)) = decision.forward().map(|forward| &forward.target)
        else {
            return;
        };
        let entries = weighted.clusters.iter().enumerate().map(|(index, entry)| {
            let name = match &entry.target {
                WeightedTarget::Cluster(name) => super::upstream::short(name),
                WeightedTarget::Header(header) => format!("what header {header} names"),
            };
            let share = percent(share(u64::from(entry.weight), weighted.total));
            let place = route_field(&decision.route.provenance, self, index);
            Note::new(NoteKind::Choice, format!("{share} {name}")).at_place(place)
        });
        let notes: Vec<Note> = entries.collect();
        let what = match decision.cluster.as_deref().filter(|_| !open) {
            Some(cluster) => format!("{} is drawn", super::upstream::short(cluster)),
            None => "by chance, one of".to_owned(),
        };
        trail.push(Step::new(request.connection.at(), Stage::Weights, what).with_notes(notes));
    }

    /// The filters, then what was found.
    fn routed(
        &mut self,
        mut trail: Trail,
        request: &Request<'_>,
        outcome: RouteOutcome<'_>,
        open: bool,
    ) {
        let decision = match &outcome {
            RouteOutcome::Route(decision) => Some(decision),
            _ => None,
        };
        if let Some(decision) = decision {
            if open && let Some(cluster) = decision.cluster.as_deref() {
                trail.to.push(super::upstream::short(cluster));
            }
            if !decision.route.name.is_empty() && !request.inbound {
                trail.facts.route = Some(decision.route.name.to_string());
            }
            if let Some(index) = weighted_index(decision) {
                let place = route_field(&decision.route.provenance, self, index);
                touch(&mut trail, place.as_ref());
            }
        }
        if let Err(stopped) = self.filters(&mut trail, request, decision) {
            let (step, outcome) = *stopped;
            return self.stop(trail, step, outcome);
        }
        let at = request.connection.at();
        match outcome {
            RouteOutcome::Route(decision) => self.act(trail, request, &decision),
            RouteOutcome::RequireTls(vhost) => {
                let location = https_location(request.view);
                let what = format!("{} wants TLS: 301 to {location}", vhost.name);
                trail.facts.location = Some(location);
                let outcome = Outcome::new(End::Answered, what.clone()).status(301);
                self.stop(trail, Step::new(at, Stage::Host, what), outcome);
            }
            RouteOutcome::NoRoute(vhost) => {
                let notes = unmatched(self, vhost, request.view);
                let what = format!("no route of {} matches: 404", vhost.name);
                let outcome = Outcome::new(End::Failed, what.clone())
                    .status(404)
                    .flags("NR");
                let step = Step::new(at, Stage::Route, what).with_notes(notes);
                self.stop(trail, step, outcome);
            }
            RouteOutcome::NoVirtualHost => {
                let what = format!("no virtual host has {:?}: 404", request.view.authority);
                let outcome = Outcome::new(End::Failed, what.clone())
                    .status(404)
                    .flags("NR");
                self.stop(trail, Step::new(at, Stage::Host, what), outcome);
            }
        }
    }

    fn act(&mut self, mut trail: Trail, request: &Request<'_>, decision: &RouteDecision<'_>) {
        let at = request.connection.at();
        let place = self.places.of_provenance(&decision.route.provenance);
        let answered = |what: String, status| {
            let end = if status < 400 {
                End::Answered
            } else {
                End::Failed
            };
            (
                Step::new(at, Stage::Route, what.clone()),
                Outcome::new(end, what)
                    .status(status)
                    .decided_at(place.clone()),
            )
        };
        let (step, outcome) = match &decision.route.action {
            RouteAction::Forward(forward) => {
                return self.forward(trail, request, decision, forward);
            }
            RouteAction::Redirect(redirect) => {
                let location = decision.redirect_location(redirect, request.after);
                let said = answered(
                    format!("{} to {location}", redirect.status),
                    redirect.status,
                );
                trail.facts.location = Some(location);
                said
            }
            RouteAction::DirectResponse(response) => {
                let (step, outcome) = answered(
                    format!("the proxy itself answers {}", response.status),
                    response.status,
                );
                // A route that was written to answer does what it was written for, whatever the status.
                (
                    step,
                    Outcome {
                        end: End::Answered,
                        ..outcome
                    },
                )
            }
            RouteAction::NonForwarding => answered("the route leads nowhere: 404".to_owned(), 404),
        };
        response_facts(&mut trail, request, decision);
        self.stop(trail, step.at_place(place.clone()), outcome);
    }
}

/// The parts of a view.
#[derive(Clone, Copy)]
struct View<'r> {
    head: &'r Head,
    scheme: &'r str,
    remote: SocketAddr,
    info: &'r ConnectionInfo<'r>,
    peer: &'r PeerTls<'r>,
    metadata: &'r Metadata,
    state: &'r FilterState,
}

impl<'r> View<'r> {
    fn view(&self) -> RequestView<'r> {
        RequestView {
            method: &self.head.method,
            scheme: self.scheme,
            authority: &self.head.authority,
            path: &self.head.path,
            protocol: None,
            headers: &self.head.headers,
            client: self.remote,
            connection: self.info,
            peer: self.peer,
            dynamic_metadata: self.metadata,
            filter_state: self.state,
        }
    }
}

/// A request at a connection manager.
pub(super) struct Request<'r> {
    pub(super) connection: &'r Connection,
    pub(super) manager: &'r HttpConnectionManager,
    /// The head as filters hand it on.
    pub(super) head: &'r Head,
    /// What routes are found by.
    pub(super) view: &'r RequestView<'r>,
    /// What filters behind the one for tokens see.
    pub(super) after: &'r RequestView<'r>,
    /// The request as it arrived.
    pub(super) arrived: &'r RequestView<'r>,
    pub(super) inbound: bool,
}

impl Request<'_> {
    /// Values of command operators.
    pub(super) fn values<'v>(&'v self, decision: &'v RouteDecision<'_>) -> RequestValues<'v> {
        RequestValues {
            request: self.after,
            protocol: if self.head.http2 {
                "HTTP/2"
            } else {
                "HTTP/1.1"
            },
            route_name: &decision.route.name,
            cluster: decision.cluster.as_deref().unwrap_or_default(),
        }
    }
}

/// Source: the order of `lateen-proxy`'s exchange: path, then authority.
fn canonicalise(
    trail: &mut Trail,
    connection: &Connection,
    manager: &HttpConnectionManager,
    head: &mut Head,
) -> Result<(), Box<Outcome>> {
    let at = connection.at();
    match manager.path.normalize(&head.path) {
        Normalized::Unchanged => {}
        Normalized::Changed(path) => {
            let what = format!("{} becomes {path} for every decision", head.path);
            trail.push(Step::new(at, Stage::Normalization, what));
            head.path = path;
        }
        Normalized::Redirect(path) => {
            let what = format!("the path is not canonical: 307 to {path}");
            trail.facts.location = Some(path);
            return Err(Box::new(Outcome::new(End::Answered, what).status(307)));
        }
        Normalized::Rejected => {
            let what = "the path cannot be brought into one form: 400";
            return Err(Box::new(Outcome::new(End::Denied, what).status(400)));
        }
    }
    let port = connection.arrival.local.port();
    let (strip, dot) = (manager.strip_port, manager.strip_trailing_host_dot);
    let authority = normalize_authority(&head.authority, strip, port, dot).into_owned();
    head.authority = authority;
    Ok(())
}

fn sampled(routes: &RouteConfig, view: &RequestView<'_>) -> Vec<Draw> {
    let mut found: Vec<((usize, Option<usize>), Draw)> = Vec::new();
    for random in 0..SAMPLES {
        let key = match routes.route(view, random) {
            RouteOutcome::Route(decision) => (
                Arc::as_ptr(decision.route) as usize,
                decision
                    .weighted
                    .map(|entry| std::ptr::from_ref(entry) as usize),
            ),
            _ => (0, None),
        };
        let each = share(1, SAMPLES);
        match found.iter_mut().find(|(known, _)| *known == key) {
            Some((_, draw)) => draw.percent += each,
            None => found.push((
                key,
                Draw {
                    percent: each,
                    random,
                },
            )),
        }
    }
    found.into_iter().map(|(_, draw)| draw).collect()
}

fn same_route(routes: &RouteConfig, view: &RequestView<'_>, draws: &[Draw]) -> bool {
    let route_of = |draw: &Draw| match routes.route(view, draw.random) {
        RouteOutcome::Route(decision) => Some(Arc::as_ptr(decision.route)),
        _ => None,
    };
    let first = draws.first().map(route_of);
    draws.iter().all(|draw| Some(route_of(draw)) == first)
}

/// A share in percent.
#[expect(
    clippy::cast_precision_loss,
    reason = "weights are 32 bits, their sums a little more"
)]
pub(super) fn share(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}

fn weighted_index(decision: &RouteDecision<'_>) -> Option<usize> {
    let Target::Weighted(weighted) = &decision.forward()?.target else {
        return decision.forward().map(|_| 0);
    };
    let drawn = decision.weighted?;
    weighted
        .clusters
        .iter()
        .position(|entry| std::ptr::eq(entry, drawn))
}

/// The destination of a route, by the route's own field: `spec.http[1].match[0]` has its destinations in `spec.http[1].route`.
fn route_field(provenance: &Provenance, walker: &Walker<'_>, index: usize) -> Option<Place> {
    let place = walker.places.of_provenance(provenance)?;
    let base = place.field.split(".match").next().unwrap_or_default();
    if !base.starts_with("spec.http[") {
        return None;
    }
    Some(
        walker
            .places
            .of(&place.object, &format!("{base}.route[{index}]")),
    )
}

/// Notes that a rule decided.
pub(super) fn touch(trail: &mut Trail, place: Option<&Place>) {
    if let Some(place) = place {
        trail
            .facts
            .touched
            .push((place.object.clone(), place.field.clone()));
    }
}

fn unmatched(
    walker: &Walker<'_>,
    vhost: &lateen_traffic::route::VirtualHost,
    view: &RequestView<'_>,
) -> Vec<Note> {
    let notes = vhost
        .routes
        .iter()
        .enumerate()
        .filter_map(|(index, route)| {
            let mismatch = route.matcher.mismatch(view, 0)?;
            let text = format!("route {index}: {}", route.matcher.describe(mismatch, view));
            Some(
                Note::new(NoteKind::Passed, text)
                    .at_place(walker.places.of_provenance(&route.provenance)),
            )
        });
    notes.collect()
}

/// Headers that routes set on the response.
pub(super) fn response_facts(
    trail: &mut Trail,
    request: &Request<'_>,
    decision: &RouteDecision<'_>,
) {
    let values = request.values(decision);
    let mut headers = ::http::HeaderMap::new();
    for mutations in decision.response_headers() {
        mutations.apply(&mut headers, &values);
    }
    for (name, value) in &headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        trail.facts.response_headers.insert(name.to_string(), value);
    }
}
