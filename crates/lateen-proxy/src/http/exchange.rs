//! A request's way through the proxy, from its head to its answer's head.
//!
//! [`handle`] is the whole way, in order: take the head apart, sanitise, canonicalise, route, filter, act. Each step either goes on
//! or answers. The bodies follow on their own ([`super::response`]).

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header};
use http_body::Body as _;
use lateen_telemetry::metrics::istio::{DestinationService, ServiceId};
use lateen_traffic::ext_authz::Change;
use lateen_traffic::hcm::UnderscoreHeaders;
use lateen_traffic::headers::normalize_authority;
use lateen_traffic::listener::TrafficDirection;
use lateen_traffic::path::Normalized;
use lateen_traffic::rbac::Subject;
use lateen_traffic::route::{
    DirectResponse, RouteAction, RouteDecision, RouteOutcome, https_location,
};
use lateen_traffic::tls::CertificateSource;
use lateen_traffic::{Cluster, RequestView};

use super::client::{ClientRequest, ClientUpgrade};
use super::filters;
use super::forward::{self, Redirected};
use super::grpc;
use super::grpc_web::Web;
use super::head::Head;
use super::headers::{self, Client};
use super::local_reply::{Caller, LocalReply};
use super::manager::Manager;
use super::passage::Passage;
use super::present::Present;
use super::record::{Heads, Record};
use super::response::ResponseBody;
use super::source::Source;
use crate::connection::Connection;
use crate::decisions::{self, DecisionIds, Denied};
use crate::mux::head::Unserved;
use crate::secrets::WORKLOAD_CERTIFICATE;
use crate::spare;
use crate::worker::{CATCH_ALL, Now};

pub(crate) static PEER_METADATA: http::HeaderName =
    http::HeaderName::from_static("x-envoy-peer-metadata");
pub(crate) static PEER_METADATA_ID: http::HeaderName =
    http::HeaderName::from_static("x-envoy-peer-metadata-id");

/// A request under way.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// The client's connection.
    pub(crate) connection: Rc<Connection>,
    /// The connection manager.
    pub(crate) manager: Rc<Manager>,
    /// The configuration it reads, for its whole life.
    pub(crate) now: Rc<Now>,
    /// What is remembered of it.
    pub(crate) record: Box<Record>,
    /// Headers that filters add to the answer.
    pub(crate) additions: HeaderMap,
    /// Changes that authorizers make to the answer's headers.
    pub(crate) changes: Vec<Change>,
    request_id: Option<HeaderValue>,
    caller: Caller,
    /// An HTTP/1 CONNECT: whatever follows its head is no request, so that its connection ends with it.
    connect: bool,
    /// Where an upstream's redirect leads that is followed in place of the client.
    pub(super) redirected: Option<Box<Redirected>>,
    /// Redirects that were followed.
    pub(super) redirects: u32,
    /// The routes they led from and to.
    pub(super) redirected_routes: Vec<(Arc<str>, Arc<str>)>,
    /// The cluster of the route that was noted last.
    pub(super) routed: Option<Arc<Cluster>>,
    /// A body is coming that nothing has taken.
    pub(super) body_waits: bool,
    /// The client speaks gRPC-Web.
    pub(super) web: Option<Web>,
}

/// Where a request's bytes come from.
pub(crate) struct Inbound {
    /// Its body, of which tries take what they need.
    pub(crate) body: Source,
    /// The client's side of an upgrade.
    pub(crate) upgrade: Option<ClientUpgrade>,
}

/// Takes a request through the proxy.
pub(crate) async fn handle(
    connection: Rc<Connection>,
    manager: Rc<Manager>,
    now: Rc<Now>,
    request: ClientRequest,
) -> Response<ResponseBody> {
    let ClientRequest {
        head: came,
        mut body,
    } = request;
    let present = Present::of(&came.headers);
    let is_grpc = present.has(Present::CONTENT_TYPE) && grpc::is_grpc(&came.headers);
    let caller = match came.method {
        Method::HEAD => Caller::Head,
        _ if is_grpc => Caller::Grpc,
        _ => Caller::Other,
    };
    let may_upgrade = came.method == Method::CONNECT || present.has(Present::UPGRADE);
    let upgrade = may_upgrade.then(|| ClientUpgrade::of(&mut body)).flatten();
    let mut exchange = Exchange::begin(connection, manager, now, (came.version, is_grpc));
    exchange.caller = caller;
    exchange.connect = came.method == Method::CONNECT && came.version != Version::HTTP_2;
    exchange.body_waits = !body.is_end_stream();
    let answered = match Head::take(*came, present, exchange.connection.secure) {
        Ok(head) => {
            let body = Source::new(body, Rc::clone(&exchange.record.request));
            exchange.follow(head, Inbound { body, upgrade }).await
        }
        Err(malformed) => {
            exchange.connection.draining.set(true);
            Err(malformed.reply())
        }
    };
    match answered {
        Ok(answer) => exchange.respond(*answer),
        Err(reply) => exchange.reply(reply),
    }
}

/// Answers what is no request; the connection carries no other one.
pub(crate) fn refuse(
    connection: Rc<Connection>,
    manager: Rc<Manager>,
    now: Rc<Now>,
    reply: LocalReply,
) -> Response<ResponseBody> {
    connection.draining.set(true);
    Exchange::begin(connection, manager, now, (Version::HTTP_11, false)).reply(reply)
}

/// An answer's head with what its body is made of. Boxed: it is handed back through every step.
pub(super) type Answer = Box<forward::Response>;

impl Exchange {
    fn begin(
        connection: Rc<Connection>,
        manager: Rc<Manager>,
        now: Rc<Now>,
        (version, is_grpc): (Version, bool),
    ) -> Self {
        let record = Box::new(Record::begin(&connection, &manager, version, is_grpc));
        Self {
            connection,
            manager,
            now,
            record,
            additions: HeaderMap::new(),
            changes: Vec::new(),
            request_id: None,
            caller: Caller::Other,
            connect: false,
            redirected: None,
            redirects: 0,
            redirected_routes: Vec::new(),
            routed: None,
            body_waits: false,
            web: None,
        }
    }

    /// Brings a head into the one form that everything after this relies on; the client's address.
    fn enter(&mut self, head: &mut Head) -> Result<SocketAddr, LocalReply> {
        if self.is_misdirected(head) {
            return Err(LocalReply::misdirected());
        }
        let remote = self.prepare(head)?;
        let canonical = self.canonicalise(head);
        if let Some(tracer) = &self.manager.tracer {
            self.record.span = Some(Box::new(tracer.begin(&mut head.headers)));
        }
        self.remember(head);
        canonical?;
        if self.manager.config.always_set_request_id_in_response {
            self.request_id = head.headers.get(&headers::REQUEST_ID).cloned();
        }
        Ok(remote)
    }

    /// Takes the request through, and again wherever a redirect leads that is followed in place of the client.
    async fn follow(
        &mut self,
        mut head: Box<Head>,
        inbound: Inbound,
    ) -> Result<Answer, LocalReply> {
        let remote = self.enter(&mut head)?;
        let answered = self.proceed(head, remote, inbound).await;
        match self.redirected.take() {
            None => answered,
            Some(redirected) => Box::pin(self.begin_again(redirected)).await,
        }
    }

    /// Follows redirects.
    async fn begin_again(&mut self, redirected: Box<Redirected>) -> Result<Answer, LocalReply> {
        let mut redirected = redirected;
        loop {
            let Redirected {
                mut head,
                body,
                status,
                routes,
            } = *redirected;
            self.redirects += 1;
            self.redirected_routes.push(routes);
            self.begin_anew(status, &body);
            let canonical = self.canonicalise(&mut head);
            self.remember(&head);
            let inbound = Inbound {
                body,
                upgrade: None,
            };
            canonical?;
            let answered = self.proceed(head, self.record.remote, inbound).await;
            match self.redirected.take() {
                Some(next) => redirected = next,
                None => return answered,
            }
        }
    }

    /// Ends the record of the request as it was and begins another, as for a request of its own.
    fn begin_anew(&mut self, status: StatusCode, body: &Source) {
        let old = &mut self.record;
        let mut fresh = Record::begin(&self.connection, &self.manager, old.version, old.is_grpc);
        fresh.span = old.span.take();
        fresh.remote = old.remote;
        fresh.source = old.source;
        fresh.request = Rc::clone(body.meter());
        let mut old = std::mem::replace(&mut self.record, Box::new(fresh));
        old.details = "internal_redirect".into();
        old.status = status.as_u16();
        old.complete();
    }

    /// From the route to the answer.
    async fn proceed(
        &mut self,
        head: Box<Head>,
        remote: SocketAddr,
        inbound: Inbound,
    ) -> Result<Answer, LocalReply> {
        let now = Rc::clone(&self.now);
        let connection = Rc::clone(&self.connection);
        let (info, peer) = (connection.facts.info(), connection.peer_tls());
        let manager = Rc::clone(&self.manager);
        let Some(routes) = now.program.routes_of(&manager.config.routes) else {
            manager.stats.no_route.inc();
            return Err(LocalReply::route_not_found());
        };
        let Inbound { body, upgrade } = inbound;
        let left = connection.filter_state.borrow().clone();
        let mut passage = Passage::new(head, body, remote, (&info, &peer), left, routes);
        // Filters run before a missing route is told: what a client may not do it may not probe for either.
        if let Some(decision) = passage.decision() {
            self.note_route(decision);
        }
        self.note_service(&passage.head.authority);
        if let (Some(tracer), Some(span)) = (&self.manager.tracer, &mut self.record.span) {
            let decorator = passage.decision().and_then(|d| d.route.decorator.clone());
            tracer.decorate(span, decorator.as_ref(), &mut passage.head.headers);
        }
        let filtered = self.filter(&mut passage).await;
        let (metadata, state) = (&passage.metadata, &passage.state);
        if self.record.keeps_head() && !(metadata.is_empty() && state.is_empty()) {
            self.record.noted = Some(Box::new((metadata.clone(), state.clone())));
        }
        let (head, body) = (&passage.head, passage.body);
        let view = head.view(remote, &info, &peer, metadata, state);
        let inbound = Inbound { body, upgrade };
        let answered = match &passage.outcome {
            RouteOutcome::Route(decision) => {
                let answered = match filtered {
                    Ok(()) => self.act(head, &view, decision, inbound).await,
                    Err(reply) => Err(reply),
                };
                // The route's headers go onto the proxy's own answers, too; a preflight is the filter's alone.
                let mut answered = answered.map_err(|mut reply| {
                    if reply.details != "cors_response" {
                        self.count_attempts(&mut reply.headers, decision);
                        self.mutate_response(
                            &mut reply.headers,
                            decision,
                            &view,
                            None,
                            reply.status,
                        );
                    }
                    reply
                });
                let (status, headers) = match &mut answered {
                    Ok(answer) => (answer.parts.status, &mut answer.parts.headers),
                    Err(reply) => (reply.status, &mut *reply.headers),
                };
                filters::mutate_response(self, &view, Some(decision), status, headers);
                answered
            }
            _ if filtered.is_err() => filtered
                .map_err(|mut reply| {
                    filters::mutate_response(self, &view, None, reply.status, &mut reply.headers);
                    reply
                })
                .and(Err(LocalReply::route_not_found())),
            RouteOutcome::RequireTls(_) => {
                self.manager.stats.rq_direct_response.inc();
                Err(redirect(
                    StatusCode::MOVED_PERMANENTLY,
                    &https_location(&view),
                ))
            }
            RouteOutcome::NoRoute(_) | RouteOutcome::NoVirtualHost => {
                self.manager.stats.no_route.inc();
                Err(LocalReply::route_not_found())
            }
        };
        spare::keep_headers(std::mem::take(&mut passage.head.headers));
        answered
    }

    /// Sanitises headers, and finds out who the client is.
    fn prepare(&mut self, head: &mut Head) -> Result<SocketAddr, LocalReply> {
        let config = &self.manager.config;
        if head.version == Version::HTTP_10 {
            let keeps = head.headers.get(header::CONNECTION);
            if !keeps.is_some_and(|keeps| keeps.as_bytes().eq_ignore_ascii_case(b"keep-alive")) {
                self.connection.draining.set(true);
            }
            if !config.http1.accept_http_10 {
                return Err(LocalReply::low_version());
            }
        }
        self.underscores(head)?;
        if head
            .protocol
            .as_deref()
            .is_some_and(|token| token.eq_ignore_ascii_case("h2c"))
        {
            head.protocol = None; // an offer nobody has to take (RFC 9113 deprecates it)
        }
        self.record.head_bytes = head.size();
        let limits = self.connection.worker.shared.config.limits;
        // HTTP/1's are counted as they are read; HTTP/2's are only here.
        let most = limits
            .request_headers
            .min(config.max_headers_count as usize);
        let longest = limits
            .request_head_bytes
            .min(config.max_request_headers_bytes);
        if head.headers.len() > most || self.record.head_bytes > u64::from(longest) {
            self.manager.stats.downstream_rq_too_large.inc();
            return Err(LocalReply::head_too_large());
        }
        if self.manager.exchange.read_request
            && let Some(introduction) = head.headers.remove(&PEER_METADATA)
        {
            self.record.source = self.connection.introduce(&introduction);
        }
        if self.manager.exchange.read_request {
            head.headers.remove(&PEER_METADATA_ID);
        }
        let facts = &self.connection.facts;
        let client = Client {
            remote: facts.remote,
            local: facts.local,
            certificate: self
                .connection
                .peer
                .as_ref()
                .filter(|_| self.connection.validated),
            told: &self.connection.told,
            own_principal: connection_principal(&self.connection, &self.now),
            own_address: self.connection.worker.shared.identity.address,
        };
        let remote = headers::prepare_request(head, config, &client, || {
            headers::random_uuid(rand::random())
        });
        self.record.remote = remote;
        Ok(remote)
    }

    /// Whether an HTTP/2 connection is used for a host that another certificate stands for: a client that shares connections
    /// between names of one certificate has gone too far, and asks again on a connection of its own (RFC 9110 section 15.5.20).
    fn is_misdirected(&self, head: &Head) -> bool {
        let connection = &self.connection;
        let (true, Some(own), Some(name)) = (
            head.is_h2(),
            &connection.chain.tls,
            &connection.facts.server_name,
        ) else {
            return false;
        };
        let host = host_of(&head.authority).to_ascii_lowercase();
        if host == *name {
            return false;
        }
        let listener = self.now.program.listener(&connection.facts.listener);
        let facts = crate::connection::Facts {
            server_name: Some(host),
            ..connection.facts.clone()
        };
        let other = listener
            .and_then(|listener| facts.with_info(|info| listener.match_filter_chain(info).chain()));
        other.is_some_and(|other| {
            let same_certificate = other.tls.as_ref().is_some_and(|tls| {
                Arc::ptr_eq(tls, own) || tls.common.certificates == own.common.certificates
            });
            other.name != connection.chain.name && !same_certificate
        })
    }

    /// Header names with underscores, which some servers take for the same names with dashes.
    fn underscores(&self, head: &mut Head) -> Result<(), LocalReply> {
        let action = self.manager.config.underscores;
        if action == UnderscoreHeaders::Allow {
            return Ok(());
        }
        let names: Vec<http::HeaderName> = head
            .headers
            .keys()
            .filter(|name| name.as_str().contains('_'))
            .cloned()
            .collect();
        if action == UnderscoreHeaders::RejectRequest && !names.is_empty() {
            self.connection.draining.set(true);
            let details = if head.is_h2() {
                "http2.unexpected_underscore"
            } else {
                "http1.unexpected_underscore"
            };
            return Err(LocalReply::bad_request(details));
        }
        for name in names {
            head.headers.remove(name);
        }
        Ok(())
    }

    /// Brings path and authority into the one form that everything after this sees.
    fn canonicalise(&mut self, head: &mut Head) -> Result<(), LocalReply> {
        let config = &self.manager.config;
        if !head.path.is_empty() && head.path != "*" {
            match config.path.normalize(&head.path) {
                Normalized::Unchanged => {}
                Normalized::Changed(path) => head.path = path,
                Normalized::Redirect(path) => {
                    let reply = redirect(StatusCode::TEMPORARY_REDIRECT, &path);
                    head.path = path;
                    return Err(LocalReply {
                        details: "path_normalization_failed".into(),
                        ..reply
                    });
                }
                Normalized::Rejected => {
                    self.connection.draining.set(true);
                    return Err(LocalReply::new(
                        StatusCode::BAD_REQUEST,
                        "",
                        "path_normalization_failed",
                    ));
                }
            }
        }
        let port = self.connection.facts.local.port();
        let authority = normalize_authority(
            &head.authority,
            config.strip_port,
            port,
            config.strip_trailing_host_dot,
        );
        if let std::borrow::Cow::Owned(_) | std::borrow::Cow::Borrowed(_) = &authority
            && authority.len() != head.authority.len()
        {
            head.authority = authority.into_owned();
        }
        Ok(())
    }

    /// Keeps the head for the access log.
    fn remember(&mut self, head: &Head) {
        if self.record.keeps_head() {
            self.record.heads = Some(Box::new(Heads {
                method: head.method.clone(),
                scheme: head.scheme,
                authority: head.authority.clone(),
                path: head.path.clone(),
                protocol: head.protocol.clone(),
                request: head.headers.clone(),
                response: HeaderMap::new(),
                trailers: HeaderMap::new(),
            }));
        }
    }

    /// Notes where the request is to go, so that filters' answers are counted and logged under it.
    pub(super) fn note_route(&mut self, decision: &RouteDecision<'_>) {
        let record = &mut self.record;
        record.route = Some(decision.route.name.clone()).filter(|name| !name.is_empty());
        if let Some(cluster) = decision
            .cluster
            .as_deref()
            .and_then(|name| self.now.program.cluster(name))
        {
            record.upstream.cluster = Some(Arc::clone(&cluster.name));
            record.upstream.service = self.connection.worker.service(cluster);
            self.routed = Some(Arc::clone(cluster));
        }
    }

    /// Notes what was called where no cluster stands for a service, by what Istio's sidecars call it: the host that the client asked for.
    fn note_service(&mut self, authority: &str) {
        let record = &mut self.record;
        let route = record.route.as_deref();
        let caught = match route {
            Some("block_all") => Some("BlackHoleCluster"),
            Some("allow_any") => Some("PassthroughCluster"),
            _ => CATCH_ALL
                .into_iter()
                .find(|name| record.upstream.cluster.as_deref() == Some(*name)),
        };
        let known = record.upstream.service != ServiceId::default();
        if caught.is_none() && (known || !self.manager.reports_host) {
            return;
        }
        let host = if self.manager.reports_host {
            authority
        } else {
            ""
        };
        let service = DestinationService {
            host: host.to_owned(),
            name: caught.unwrap_or(host).to_owned(),
            namespace: String::new(),
        };
        let mut metrics = self.connection.worker.metrics.borrow_mut();
        record.upstream.service = metrics.service(&service);
    }

    /// Runs the filters. What they deny is kept for who asks.
    async fn filter(&mut self, passage: &mut Passage<'_>) -> Result<(), LocalReply> {
        let manager = Rc::clone(&self.manager);
        let mut filtered = filters::run(self, &manager.config.filters, passage).await;
        if let Err(reply) = &mut filtered {
            self.note_denial(reply, &passage.view());
        }
        filtered
    }

    /// Keeps what is to be known of a denial, and tells the client its id if it may know.
    fn note_denial(&self, reply: &mut LocalReply, view: &RequestView<'_>) {
        let Some(cause) = reply.cause.take() else {
            return;
        };
        let denied = Denied {
            connection: view.connection,
            peer: view.peer,
            client: view.client,
            request: Some((view.method, view.authority, view.path)),
            status: reply.status.as_u16(),
            details: &reply.details,
        };
        let connection = &self.connection;
        let shared = &connection.worker.shared;
        let subject = Subject::of_request(view);
        let id = shared
            .decisions
            .note(connection.worker.index(), *cause, &denied, &subject);
        let may_know = match shared.config.decision_ids {
            DecisionIds::Nobody => false,
            DecisionIds::Mesh => {
                connection.validated && connection.direction == TrafficDirection::Inbound
            }
            DecisionIds::Everybody => true,
        };
        if may_know
            && is_denial(reply.status)
            && let Some(value) = decisions::header_value(id)
        {
            reply.headers.insert(&decisions::DECISION, value);
        }
    }

    /// Does what the route says.
    async fn act(
        &mut self,
        head: &Head,
        view: &RequestView<'_>,
        decision: &RouteDecision<'_>,
        inbound: Inbound,
    ) -> Result<Answer, LocalReply> {
        match &decision.route.action {
            RouteAction::Forward(action) => {
                forward::forward(self, head, view, decision, action, inbound).await
            }
            RouteAction::Redirect(action) => {
                self.manager.stats.rq_direct_response.inc(); // as Envoy counts it
                let status =
                    StatusCode::from_u16(action.status).unwrap_or(StatusCode::MOVED_PERMANENTLY);
                Err(redirect(status, &decision.redirect_location(action, view)))
            }
            RouteAction::DirectResponse(action) => {
                self.manager.stats.rq_direct_response.inc();
                Err(direct_response(action, view))
            }
            RouteAction::NonForwarding => Err(LocalReply::route_not_found()),
        }
    }

    /// Applies the route's changes to an answer's headers.
    pub(super) fn mutate_response(
        &self,
        headers: &mut HeaderMap,
        decision: &RouteDecision<'_>,
        view: &RequestView<'_>,
        path: Option<&str>,
        status: StatusCode,
    ) {
        if decision.response_headers().next().is_none() {
            return;
        }
        // Values may be taken from the very headers that are changed.
        let before = decision.response_headers().next().map(|_| headers.clone());
        let values = super::filters::CommandValues {
            view: &RequestView {
                path: path.unwrap_or(view.path),
                ..*view
            },
            connection: &self.connection,
            record: &self.record,
            response: before.as_ref().map(|before| (status, before)),
        };
        for mutations in decision.response_headers() {
            mutations.apply(headers, &values);
        }
    }

    /// Tells the client how many tries there were, if it is to know.
    pub(super) fn count_attempts(&self, headers: &mut HeaderMap, decision: &RouteDecision<'_>) {
        let attempts = self.record.upstream.attempts;
        if decision.vhost.include_response_attempt_count && attempts > 0 {
            headers.insert(&headers::ATTEMPT_COUNT, HeaderValue::from(attempts));
        }
    }

    /// Gives the upstream's answer to the client.
    fn respond(mut self, answer: forward::Response) -> Response<ResponseBody> {
        let forward::Response {
            mut parts, source, ..
        } = answer;
        // A denial of gRPC has status 200 on its way.
        let denied = is_denial(parts.status) || self.record.is_grpc;
        if denied && self.connection.worker.shared.hides_decisions {
            parts.headers.remove(&decisions::DECISION);
        }
        self.finish_head(&mut parts.headers, parts.status);
        if let Some(web) = self.web {
            web.answer(&mut parts.headers);
        }
        if self.connect && !parts.status.is_success() {
            self.connection.draining.set(true);
        }
        parts.version = Version::HTTP_11; // whoever writes it states the connection's own
        self.record.answered(parts.status.as_u16(), &parts.headers);
        let body = match source {
            forward::Source::Upstream(upstream) => {
                ResponseBody::upstream(upstream, self.record, self.web)
            }
            forward::Source::Tunnel(tunnel) => {
                tunnel.run(self.record, self.connection.handle.kill.clone());
                ResponseBody::empty()
            }
        };
        Response::from_parts(parts, body)
    }

    /// Gives an answer of the proxy's own.
    fn reply(mut self, mut reply: LocalReply) -> Response<ResponseBody> {
        self.record.local_reply(&reply);
        if !self.manager.replies.is_empty() {
            let manager = Rc::clone(&self.manager);
            manager.replies.apply(&mut self.record, &mut reply);
        }
        let (reply_status, unserved) = (reply.status, reply.unserved);
        let caller = if self.web.is_some() {
            Caller::Grpc
        } else {
            self.caller
        };
        let (mut parts, body) = reply.into_parts(caller);
        self.finish_head(&mut parts.headers, parts.status);
        if let Some(web) = self.web {
            web.answer(&mut parts.headers);
            parts.status = reply_status; // as Envoy's filter leaves it
        }
        let unfinished =
            self.body_waits || self.connect || reply_status == StatusCode::REQUEST_TIMEOUT;
        if unfinished && self.record.version != Version::HTTP_2 {
            // What the client is still sending is not read: its connection cannot carry another request.
            self.connection.draining.set(true);
        }
        if unserved {
            parts.extensions.insert(Unserved);
        }
        self.record.answered(parts.status.as_u16(), &parts.headers);
        Response::from_parts(parts, ResponseBody::full(body, self.record))
    }

    fn finish_head(&mut self, headers: &mut HeaderMap, status: StatusCode) {
        let manager = &self.manager;
        headers::prepare_response(
            headers,
            status,
            &manager.config,
            self.request_id.as_ref(),
            &manager.server,
        );
        if let (Some(tracer), Some(span)) = (&manager.tracer, &mut self.record.span) {
            tracer.answer(span, headers);
        }
        if manager.exchange.tell_client {
            let identity = &self.connection.worker.shared.identity;
            headers.insert(&PEER_METADATA, identity.metadata.clone());
            headers.insert(&PEER_METADATA_ID, identity.id.clone());
        }
        for change in self.changes.drain(..) {
            change.apply(headers);
        }
        for (name, value) in self.additions.drain() {
            if let Some(name) = name {
                headers.insert(name, value);
            }
        }
    }

    /// Tells an upstream who this is.
    pub(super) fn introduce_self(&self, headers: &mut HeaderMap) {
        let identity = &self.connection.worker.shared.identity;
        headers.insert(&PEER_METADATA, identity.metadata.clone());
        headers.insert(&PEER_METADATA_ID, identity.id.clone());
    }

    /// Takes an upstream's introduction out of its answer.
    pub(super) fn take_introduction(headers: &mut HeaderMap) -> Option<HeaderValue> {
        headers.remove(&PEER_METADATA_ID);
        headers.remove(&PEER_METADATA)
    }
}

/// Whether a status says that a request was denied.
const fn is_denial(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403)
}

/// The host of an authority, without its port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// The workload's identity, if it is what the client was shown.
fn connection_principal<'a>(connection: &Connection, now: &'a Now) -> Option<&'a str> {
    let certificates = &connection.chain.tls.as_ref()?.common.certificates;
    let shown = certificates.iter().any(
        |source| matches!(source, CertificateSource::Sds(name) if &**name == WORKLOAD_CERTIFICATE),
    );
    now.own_principal.as_deref().filter(|_| shown)
}

fn redirect(status: StatusCode, location: &str) -> LocalReply {
    let reply = LocalReply::new(status, "", "direct_response");
    match HeaderValue::from_str(location) {
        Ok(location) => reply.with_header(header::LOCATION, location),
        // A location with bytes no header may hold is no place to send anyone.
        Err(_) => LocalReply::new(StatusCode::BAD_REQUEST, "", "path_normalization_failed"),
    }
}

fn direct_response(action: &DirectResponse, view: &RequestView<'_>) -> LocalReply {
    let status = StatusCode::from_u16(action.status).unwrap_or(StatusCode::OK);
    let body = action
        .body
        .as_ref()
        .and_then(|source| crate::secrets::read(source).ok())
        .unwrap_or_default();
    let body = String::from_utf8_lossy(&body).into_owned();
    let mut reply = LocalReply::new(status, body, "direct_response");
    if status == StatusCode::CREATED {
        // What was created is where the request went (Envoy: `DirectResponseEntry::newUri`).
        let location = format!("{}://{}{}", view.scheme, view.authority, view.path);
        headers::set(&mut reply.headers, &header::LOCATION, &location);
    }
    match action
        .content_type
        .as_deref()
        .and_then(|kind| HeaderValue::from_str(kind).ok())
    {
        Some(kind) => reply.with_header(header::CONTENT_TYPE, kind),
        None => reply,
    }
}
