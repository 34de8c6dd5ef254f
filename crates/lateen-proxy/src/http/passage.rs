//! A request on its way through the filters: what they look at, and what they may change.
//!
//! A filter changes the head and the metadata in place. The route was found before the filters run, as in Envoy; a filter after
//! which another route may apply asks for it to be found again ([`Passage::reroute`]).

use std::net::SocketAddr;

use lateen_traffic::request::FilterState;
use lateen_traffic::route::{RouteConfig, RouteDecision, RouteOutcome};
use lateen_traffic::value::Metadata;
use lateen_traffic::{ConnectionInfo, PeerTls, RequestView};

use super::head::Head;
use super::source::Source;

/// A request between its head's arrival and its route's action.
#[derive(Debug)]
pub(crate) struct Passage<'a> {
    /// The head.
    pub(crate) head: Box<Head>,
    /// The body, of which filters may read ahead.
    pub(crate) body: Source,
    /// The client: the connection's peer, or what a trusted `x-forwarded-for` says.
    pub(crate) client: SocketAddr,
    /// The connection it came over.
    pub(crate) connection: &'a ConnectionInfo<'a>,
    /// The peer's certificate.
    pub(crate) peer: &'a PeerTls<'a>,
    /// What filters wrote so far.
    pub(crate) metadata: Metadata,
    /// What filters left so far.
    pub(crate) state: FilterState,
    routes: &'a RouteConfig,
    /// What routing found.
    pub(crate) outcome: RouteOutcome<'a>,
}

impl<'a> Passage<'a> {
    /// A request before its first filter, with its route.
    pub(crate) fn new(
        head: Box<Head>,
        body: Source,
        client: SocketAddr,
        (connection, peer): (&'a ConnectionInfo<'a>, &'a PeerTls<'a>),
        state: FilterState,
        routes: &'a RouteConfig,
    ) -> Self {
        let mut passage = Self {
            head,
            body,
            client,
            connection,
            peer,
            metadata: Metadata::default(),
            state,
            routes,
            outcome: RouteOutcome::NoVirtualHost,
        };
        passage.reroute();
        passage
    }

    /// The request as decisions see it now.
    pub(crate) fn view(&self) -> RequestView<'_> {
        self.head.view(
            self.client,
            self.connection,
            self.peer,
            &self.metadata,
            &self.state,
        )
    }

    /// The route, if there is one.
    pub(crate) const fn decision(&self) -> Option<&RouteDecision<'a>> {
        match &self.outcome {
            RouteOutcome::Route(decision) => Some(decision),
            _ => None,
        }
    }

    /// Finds the route anew, for the request as it is now (Envoy: `clearRouteCache`).
    pub(crate) fn reroute(&mut self) {
        self.outcome = self.routes.route(&self.view(), rand::random());
    }
}
