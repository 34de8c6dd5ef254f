//! Serving a connection of another of our own sidecars, which carries many requests at once ([`crate::mux`]).
//!
//! Each request has a task of its own. Whatever breaks a rule of the frames ends the connection; a head that cannot be taken is
//! answered like one over HTTP/1.

use std::rc::Rc;
use std::time::Duration;

use http::{Extensions, HeaderValue, Method, header};
use http_body::Body as _;
use lateen_traffic::hcm::HttpConnectionManager;

use super::client::{ClientBody, ClientHead, ClientRequest};
use super::h1::Refusal;
use super::multiplexed::{self, send};
use super::server::{Session, Underway};
use crate::codec;
use crate::mux::Carries;
use crate::mux::head::{self, Malformed};
use crate::mux::introduction::Introduction;
use crate::mux::link::{Begun, Link, Side};
use crate::net::Stream;
use crate::spare;
use crate::streams::serving::{Serving as _, spawn};

/// What a request may hold.
#[derive(Clone, Copy, Debug)]
struct Limits {
    head_bytes: usize,
    headers: usize,
    /// How long an answer waits for a client that does not read it.
    stall: Option<Duration>,
}

/// Serves a connection to its end.
pub(super) async fn serve(session: &Rc<Session>, config: &HttpConnectionManager, stream: Stream) {
    let own = session.connection.worker.shared.config.limits;
    let limits = Limits {
        head_bytes: own.request_head_bytes.min(config.max_request_headers_bytes) as usize,
        headers: own.request_headers.min(config.max_headers_count as usize),
        stall: config.timeouts.stream_idle,
    };
    let link = Link::new(Side::Server, Carries::Http);
    let begun = |begun: Begun| {
        let id = begun.outgoing.id();
        let underway = session.begin();
        let (session, at) = (Rc::clone(session), Rc::clone(&link));
        link.cancels(id, spawn(|| answer(session, at, limits, underway, begun)));
    };
    let never = std::future::pending();
    multiplexed::serve((session, config), (&link, stream), begun, never).await;
}

/// Takes a request through the proxy and answers it.
async fn answer(
    session: Rc<Session>,
    link: Rc<Link>,
    limits: Limits,
    mut underway: Underway,
    begun: Begun,
) {
    let Begun {
        head,
        incoming,
        outgoing,
    } = begun;
    let (response, is_head) = match request(head, incoming, limits, link.heard()) {
        Ok(request) => {
            let is_head = request.head.method == Method::HEAD;
            let response = session.exchange_begun(&mut underway, request).await;
            (response, is_head)
        }
        Err(refusal) => {
            session.count_protocol_error();
            (session.refuse(refusal.reply()), false)
        }
    };
    let (mut parts, body) = response.into_parts();
    if session.is_last(&parts) {
        link.go_away();
    }
    let end = is_head || codec::is_bodiless(parts.status) || body.is_end_stream();
    if !end
        && !parts.headers.contains_key(header::CONTENT_LENGTH)
        && let Some(length) = body.size_hint().exact()
    {
        parts
            .headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    outgoing.respond(&parts, end);
    spare::keep_headers(parts.headers);
    if !end {
        send(outgoing, body, limits.stall).await;
    }
}

/// The request of a head.
///
/// # Errors
/// It is refused.
fn request(
    head: bytes::Bytes,
    mut incoming: crate::mux::link::Incoming,
    limits: Limits,
    heard: Option<&Introduction>,
) -> Result<ClientRequest, Refusal> {
    if head.len() > limits.head_bytes {
        return Err(Refusal::TooLarge);
    }
    let head = head::request(head, limits.headers, heard).map_err(|malformed| match malformed {
        Malformed::Unreadable => Refusal::Malformed,
        Malformed::TooMany => Refusal::TooMany,
    })?;
    if head.method == Method::CONNECT {
        return Err(Refusal::Malformed); // what becomes a tunnel has a connection of its own
    }
    incoming
        .expect(&head.headers, false)
        .map_err(|_| Refusal::Length)?;
    let head = Box::new(ClientHead {
        method: head.method,
        uri: head.target,
        version: head.version,
        host: None,
        headers: head.headers,
        extensions: Extensions::new(),
    });
    let body = ClientBody::Mux(incoming);
    Ok(ClientRequest { head, body })
}
