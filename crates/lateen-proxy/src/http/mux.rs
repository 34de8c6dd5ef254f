//! Serving a connection of another of our own sidecars, which carries many requests at once ([`crate::mux`]).
//!
//! Each request has a task of its own. Whatever breaks a rule of the frames ends the connection; a head that cannot be taken is
//! answered like one over HTTP/1.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, header};
use http_body::Body as _;
use lateen_traffic::hcm::HttpConnectionManager;

use super::client::ClientBody;
use super::h1::Refusal;
use super::response::ResponseBody;
use super::server::Session;
use crate::codec;
use crate::mux::Error;
use crate::mux::head::{self, Malformed};
use crate::mux::link::{Begun, Link, Outgoing, Side};
use crate::mux::upload::Upload;
use crate::mux::wire::Wire;
use crate::net::Stream;

/// How long a connection that was told to end, and carries nothing, waits for its client to close it.
const LINGER: Duration = Duration::from_secs(5);

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
    let link = Link::new(Side::Server);
    let mut wire = Wire::new(stream);
    let ended = {
        let mut begun = |begun: Begun| {
            let id = begun.outgoing.id();
            let answer = answer(Rc::clone(session), Rc::clone(&link), limits, begun);
            link.cancels(id, tokio::task::spawn_local(answer).abort_handle());
        };
        let mut served = pin!(std::future::poll_fn(|cx| wire.poll(&link, cx, &mut begun)));
        tokio::select! {
            biased;
            ended = served.as_mut() => ended,
            () = session.abused() => Error::Protocol("too many requests were taken back"),
            () = session.ending(config) => {
                link.go_away();
                tokio::select! {
                    ended = served.as_mut() => ended,
                    () = forsaken(&link) => Error::Closed,
                }
            }
        }
    };
    if matches!(ended, Error::Protocol(_)) {
        session.count_protocol_error();
    }
    tracing::debug!(connection = session.connection.facts.id, %ended, "shared connection ended");
    link.close(ended);
    let shut = std::future::poll_fn(|cx| wire.poll_shutdown(cx));
    let _ = tokio::time::timeout(LINGER, shut).await; // a client that does not take the end gets none
}

/// Returns once a connection that was told to end has carried nothing for a while.
async fn forsaken(link: &Link) {
    loop {
        tokio::time::sleep(LINGER).await;
        if link.active() == 0 {
            return;
        }
    }
}

/// Takes a request through the proxy and answers it.
async fn answer(session: Rc<Session>, link: Rc<Link>, limits: Limits, begun: Begun) {
    let Begun {
        head,
        incoming,
        outgoing,
    } = begun;
    let (response, is_head) = match request(head, incoming, limits) {
        Ok(request) => {
            let is_head = request.method() == Method::HEAD;
            (Rc::clone(&session).exchange(request).await, is_head)
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
    outgoing.respond(parts.status, &parts.headers, end);
    drop(parts);
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
) -> Result<Request<ClientBody>, Refusal> {
    if head.len() > limits.head_bytes {
        return Err(Refusal::TooLarge);
    }
    let head = head::request(head, limits.headers).map_err(|malformed| match malformed {
        Malformed::Unreadable => Refusal::Malformed,
        Malformed::TooMany => Refusal::TooMany,
    })?;
    if head.method == Method::CONNECT {
        return Err(Refusal::Malformed); // what becomes a tunnel has a connection of its own
    }
    incoming
        .expect(&head.headers, false)
        .map_err(|_| Refusal::Length)?;
    let mut request = Request::new(ClientBody::Mux(incoming));
    *request.method_mut() = head.method;
    *request.uri_mut() = head.target;
    *request.version_mut() = head.version;
    *request.headers_mut() = head.headers;
    Ok(request)
}

/// Sends a body, as long as the client takes it.
async fn send(outgoing: Outgoing, body: ResponseBody, stall: Option<Duration>) {
    let mut upload = Upload::new(outgoing, body);
    loop {
        let before = upload.progress();
        let sent = std::future::poll_fn(|cx| upload.poll(cx));
        let Some(stall) = stall else {
            let _ = sent.await; // what broke off was recorded with the request
            return;
        };
        if tokio::time::timeout(stall, sent).await.is_ok() {
            return;
        }
        let (bytes, waits) = upload.progress();
        if waits && bytes == before.0 {
            return; // dropping it gives the stream up
        }
    }
}
