//! Serving a client's HTTP/2 connection ([`crate::h2`]).
//!
//! Each request has a task of its own, which reads and writes its stream itself. A head that is too large is answered like one over HTTP/1;
//! what breaks a rule of HTTP/2 ends the stream or the connection.

use std::rc::Rc;
use std::time::Duration;

use http::{Extensions, Method, Version, header};
use http_body::Body as _;
use lateen_traffic::cluster::Http2Options;
use lateen_traffic::hcm::HttpConnectionManager;
use tokio::sync::oneshot;

use super::client::{ClientBody, ClientHead, ClientRequest};
use super::h1::Refusal;
use super::multiplexed::{self, send};
use super::response::ResponseBody;
use super::server::{Session, Underway};
use crate::codec;
use crate::h2::Settings;
use crate::h2::Tunnel;
use crate::h2::head::{Limits, Protocol, Refused, RequestHead};
use crate::h2::link::{Begun, Incoming, Link, Outgoing};
use crate::net::Stream;
use crate::spare;
use crate::streams::serving::{Serving, spawn};

/// Bytes of a body that may be under way on one stream, and on all of them, unless the listener says otherwise: a few bodies that nobody
/// takes hold up no others. Envoy's defaults are 16 and 24 MiB.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Time for the answer to a ping, unless the listener says otherwise.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves a connection to its end.
pub(super) async fn serve(session: &Rc<Session>, config: &HttpConnectionManager, stream: Stream) {
    let own = session.connection.worker.shared.config.limits;
    let options = &config.http2;
    let fields = own.request_headers.min(config.max_headers_count as usize);
    let link = Link::server(Settings {
        streams: options
            .max_concurrent_streams
            .unwrap_or(own.concurrent_streams),
        stream_window: options.initial_stream_window.unwrap_or(STREAM_WINDOW),
        connection_window: options
            .initial_connection_window
            .unwrap_or(CONNECTION_WINDOW),
        limits: Limits {
            bytes: own.request_head_bytes.min(config.max_request_headers_bytes) as usize,
            fields,
        },
    });
    let stall = config.timeouts.stream_idle;
    let begun = |begun: Begun| {
        let id = begun.outgoing.id();
        let underway = session.begin();
        let (session, at) = (Rc::clone(session), Rc::clone(&link));
        link.cancels(id, spawn(|| answer(session, at, stall, underway, begun)));
    };
    let lost = lost(&link, options);
    multiplexed::serve((session, config), (&link, stream), begun, lost).await;
}

/// Returns once the client does not answer pings, if it is sent any.
async fn lost(link: &Link, options: &Http2Options) {
    let Some(interval) = options.ping_interval else {
        return std::future::pending().await;
    };
    let timeout = options.ping_timeout.unwrap_or(PING_TIMEOUT);
    link.is_lost(interval, timeout).await;
}

impl Serving for Link {
    fn go_away(&self) {
        Self::go_away(self);
    }

    fn calm(&self) {
        Self::calm(self);
    }
}

/// Takes a request through the proxy and answers it.
async fn answer(
    session: Rc<Session>,
    link: Rc<Link>,
    stall: Option<Duration>,
    mut underway: Underway,
    begun: Begun,
) {
    let Begun {
        head,
        incoming,
        outgoing,
    } = begun;
    let head = match head {
        Ok(head) => head,
        Err(refused) => {
            drop(incoming);
            session.count_protocol_error();
            let response = session.refuse(refusal(refused).reply());
            let answered = respond(&session, &link, outgoing, (response, false), stall);
            return Box::pin(answered).await;
        }
    };
    if head.method == Method::CONNECT {
        let halves = (incoming, outgoing);
        let connected = connect((&session, &link), &mut underway, head, halves, stall);
        return Box::pin(connected).await; // most requests need no room for it
    }
    let is_head = head.method == Method::HEAD;
    let request = request(head, ClientBody::H2(incoming));
    let response = session.exchange_begun(&mut underway, request).await;
    respond(&session, &link, outgoing, (response, is_head), stall).await;
}

const fn refusal(refused: Refused) -> Refusal {
    match refused {
        Refused::TooLarge => Refusal::TooLarge,
        Refused::TooMany => Refusal::TooMany,
        Refused::Malformed(_) => Refusal::Malformed,
    }
}

fn request(head: RequestHead, body: ClientBody) -> ClientRequest {
    let mut extensions = Extensions::new();
    if let Some(protocol) = head.protocol.as_deref().map(str::from_utf8)
        && let Ok(protocol) = protocol
    {
        extensions.insert(Protocol(protocol.to_owned()));
    }
    let head = Box::new(ClientHead {
        method: head.method,
        uri: head.target,
        version: Version::HTTP_2,
        host: None,
        headers: head.headers,
        extensions,
    });
    ClientRequest { head, body }
}

/// Answers a CONNECT. One that is granted makes a tunnel of its stream.
async fn connect(
    (session, link): (&Rc<Session>, &Rc<Link>),
    underway: &mut Underway,
    head: RequestHead,
    (incoming, outgoing): (Incoming, Outgoing),
    stall: Option<Duration>,
) {
    let (give, take) = oneshot::channel();
    let request = request(head, ClientBody::Connect(Some(take)));
    let response = session.exchange_begun(underway, request).await;
    if !response.status().is_success() || give.is_closed() {
        return respond(session, link, outgoing, (response, false), stall).await;
    }
    let (parts, _) = response.into_parts();
    outgoing.respond(parts.status, &parts.headers, None, false);
    let _ = give.send(Tunnel::new(incoming, outgoing)); // nobody to take it: dropping it gives the stream up
}

async fn respond(
    session: &Session,
    link: &Link,
    outgoing: Outgoing,
    (response, is_head): (http::Response<ResponseBody>, bool),
    stall: Option<Duration>,
) {
    let (parts, body) = response.into_parts();
    if session.is_last(&parts) {
        link.go_away();
    }
    let end = is_head || codec::is_bodiless(parts.status) || body.is_end_stream();
    let length = body.size_hint().exact().filter(|_| !end);
    let length = length.filter(|_| !parts.headers.contains_key(header::CONTENT_LENGTH));
    outgoing.respond(parts.status, &parts.headers, length, end);
    spare::keep_headers(parts.headers);
    if !end {
        send(outgoing, body, stall).await;
    }
}
