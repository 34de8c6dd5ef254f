//! Connections that carry many requests to another of our own sidecars ([`crate::mux`]).
//!
//! Whether a host speaks it is known after the first connection to it, which requests that come meanwhile wait for. A host that does
//! not is spoken to in HTTP/1 from then on; each new connection asks again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::BytesMut;
use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared};
use http::{HeaderValue, Request, Response};
use lateen_traffic::cluster::UpstreamHttp;
use tokio::time::Instant;

use super::connect::{self, ConnectError, Target};
use super::h1::{self, ConnectionFacts};
use super::plain::Plain;
use super::pool::{Protocol, Tally};
use super::{OpenConnection, SendError, UpstreamError, multiplexed};
use crate::clock;
use crate::http::body::RequestBody;
use crate::mux::introduction::Introduction;
use crate::mux::link::{Incoming, Link, Outgoing, Side};
use crate::mux::{ALPN, Error, MOST_STREAMS, head};
use crate::net::Stream;
use crate::streams::upload::Upload;
use crate::streams::wire::Link as _;

/// Streams on a connection before another one is made beside it, so that no connection, and no worker of the host's that has it,
/// carries everything.
const ENOUGH: usize = 16;
/// Streams on a connection when requests wait for another one. Below what the host takes, since it may count a stream that ended
/// here for a moment longer.
const FULL: usize = MOST_STREAMS * 3 / 4;

/// The connections to a host over one transport.
#[derive(Default)]
pub(crate) struct Links {
    open: RefCell<Vec<Connection>>,
    opening: RefCell<Option<Opening>>,
    /// Whether the host spoke it when last asked.
    speaks: Cell<Option<bool>>,
}

type Opening = Shared<LocalBoxFuture<'static, Result<(), ConnectError>>>;

/// A connection; clones share it.
#[derive(Clone, Debug)]
struct Connection {
    link: Rc<Link>,
    info: Rc<ConnectionFacts>,
    used: Rc<Cell<Instant>>,
    most_headers: usize,
}

/// A response's body.
pub(crate) type Body = multiplexed::Body<Incoming>;

/// A place on a connection for one request.
#[derive(Debug)]
pub(crate) struct Place(Connection);

/// A request that began.
#[derive(Debug)]
pub(crate) struct Begun {
    incoming: Incoming,
    upload: Option<Upload<Outgoing, RequestBody>>,
    /// Its answer has no body, whatever its head says.
    bodiless: bool,
    /// Bytes queued on the connection before it.
    queued: u64,
}

/// What a new connection needs beside its target.
#[derive(Debug)]
pub(crate) struct Making<'a> {
    /// How to reach the host.
    pub(crate) target: &'a Target,
    /// The cluster's settings.
    pub(crate) http: &'a UpstreamHttp,
    /// Where a connection goes that turns out to be HTTP/1.
    pub(crate) idle: &'a Rc<h1::Idle>,
    /// Where it is counted: once, however many requests wait for it.
    pub(super) tally: Tally,
}

impl Links {
    /// A place on an open connection, if one is free.
    pub(crate) fn place(&self) -> Option<Place> {
        let mut open = self.open.borrow_mut();
        open.retain(|connection| connection.link.is_open());
        let idlest = open.iter().min_by_key(|c| c.link.active());
        // The first with room, so that the others become idle when there is less to do.
        let roomy = open.iter().find(|c| c.link.active() < ENOUGH);
        let found = roomy.or(idlest.filter(|c| c.link.active() < FULL))?;
        found.used.set(clock::now());
        found.info.requests.set(found.info.requests.get() + 1);
        Some(Place(found.clone()))
    }

    /// Whether there is no connection.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.borrow().is_empty()
    }

    /// Whether all connections have enough to do and none is being made.
    pub(crate) fn wants_another(&self) -> bool {
        let open = self.open.borrow();
        self.opening.borrow().is_none() && open.iter().all(|c| c.link.active() >= ENOUGH)
    }

    /// Whether requests wait for a connection that is being made: nothing is known about the host, or it speaks this.
    pub(crate) fn waits(&self) -> bool {
        self.speaks.get() != Some(false)
    }

    /// Notes what a host that was asked speaks.
    pub(crate) fn note(&self, speaks: bool) {
        self.speaks.set(Some(speaks));
    }

    /// Makes a connection, or waits for the one being made. `count` gives a place for another connection.
    ///
    /// # Errors
    /// It cannot be made; `None` if there may not be another one.
    pub(crate) async fn open(
        self: &Rc<Self>,
        making: &Making<'_>,
        count: impl FnOnce() -> Option<OpenConnection>,
    ) -> Result<(), Option<ConnectError>> {
        let joined = self.opening.borrow().clone();
        let opening = match joined {
            Some(opening) => opening,
            None => self.start(making, count().ok_or(None)?),
        };
        opening.await.map_err(Some)
    }

    /// Makes a connection beside those that are there, without waiting for it.
    pub(crate) fn add(self: &Rc<Self>, making: &Making<'_>, open: OpenConnection) {
        drop(self.start(making, open));
    }

    fn start(self: &Rc<Self>, making: &Making<'_>, open: OpenConnection) -> Opening {
        let (links, target) = (Rc::clone(self), making.target.clone());
        let (http, idle) = (making.http.clone(), Rc::clone(making.idle));
        let tally = making.tally.clone();
        let future = async move {
            let made = connect::connect(&target).await;
            *links.opening.borrow_mut() = None; // no later request is to meet an old failure
            let stream = made.inspect_err(|error| tally.failed(error))?;
            tally.made(Protocol::Shared);
            if is_agreed(&stream) {
                links.adopt(stream, Some(open), &http);
            } else {
                links.note(false);
                idle.put(h1::Connection::over(stream, &http, Some(open)));
            }
            Ok(())
        };
        let opening = future.boxed_local().shared();
        *self.opening.borrow_mut() = Some(opening.clone());
        // Driven on its own: the request that asked may go away.
        tokio::task::spawn_local(opening.clone().map(drop));
        opening
    }

    /// Keeps a connection on which this was agreed on.
    pub(crate) fn adopt(&self, stream: Stream, open: Option<OpenConnection>, http: &UpstreamHttp) {
        self.note(true);
        let info = ConnectionFacts::of(&stream, open);
        let link = Link::new(Side::Client);
        tokio::task::spawn_local(multiplexed::drive(
            Rc::clone(&link),
            stream,
            Rc::clone(&info),
            std::future::pending(),
        ));
        self.open.borrow_mut().push(Connection {
            link,
            info,
            used: Rc::new(Cell::new(Instant::now())),
            most_headers: http.max_headers_count as usize,
        });
    }

    /// Lets go of connections that are closed, were without a stream for too long or are too old; streams under way go on.
    pub(crate) fn sweep(&self, http: &UpstreamHttp) {
        let now = clock::now();
        self.open.borrow_mut().retain(|connection| {
            let link = &connection.link;
            let idle =
                link.active() == 0 && h1::is_over(http.idle_timeout, connection.used.get(), now);
            let old = h1::is_over(http.max_connection_duration, connection.info.made, now);
            if idle || old {
                link.retire();
            }
            link.is_open()
        });
    }

    /// Lets go of all of them; streams under way go on.
    pub(crate) fn clear(&self) {
        for connection in self.open.borrow_mut().drain(..) {
            connection.link.retire();
        }
    }
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links")
            .field("open", &self.open.borrow().len())
            .field("speaks", &self.speaks.get())
            .finish_non_exhaustive()
    }
}

/// Whether a new connection is one of these.
pub(crate) fn is_agreed(stream: &Stream) -> bool {
    stream
        .tls()
        .is_some_and(|tls| tls.alpn_protocol() == Some(ALPN.as_bytes()))
}

impl Place {
    /// Facts about the connection.
    pub(crate) const fn info(&self) -> &Rc<ConnectionFacts> {
        &self.0.info
    }

    /// Whether the connection carried a request before.
    pub(crate) fn is_reused(&self) -> bool {
        self.0.info.requests.get() > 1
    }

    /// Sends a request and waits for its response's head.
    ///
    /// # Errors
    /// There is no response.
    pub(crate) async fn send(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<Body>, SendError> {
        let (parts, body) = request.into_parts();
        let bodiless = parts.method == http::Method::HEAD;
        let begun = self.begin(
            Introduction::of(parts.headers.iter()),
            |out, introduced| head::put_request(out, &parts, introduced),
            bodiless,
            body,
        )?;
        drop(parts);
        self.answered(begun).await
    }

    /// A request with a head in parts, whose response [`Place::answered`] waits for.
    ///
    /// # Errors
    /// It was not sent.
    pub(crate) fn begin_plain(
        &self,
        plain: &Plain<'_>,
        body: RequestBody,
    ) -> Result<Begun, SendError> {
        let bodiless = *plain.method == http::Method::HEAD;
        let says_no_body = plain.says_no_body(&body);
        self.begin(
            Introduction::of(plain.fields()),
            |out, introduced| head::put_plain(out, plain, says_no_body, introduced),
            bodiless,
            body,
        )
    }

    fn begin(
        &self,
        introduction: Option<Introduction<&HeaderValue>>,
        put: impl FnOnce(&mut BytesMut, bool),
        bodiless: bool,
        body: RequestBody,
    ) -> Result<Begun, SendError> {
        let link = &self.0.link;
        let queued = link.queued();
        let ended = http_body::Body::is_end_stream(&body);
        let (incoming, outgoing) =
            link.begin(introduction, put, ended)
                .map_err(|error| SendError {
                    error: UpstreamError::Stream(error),
                    unsent: true,
                })?;
        Ok(Begun {
            incoming,
            upload: outgoing.map(|outgoing| Upload::new(outgoing, body)),
            bodiless,
            queued,
        })
    }

    /// Waits for the head of a response.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn answered(&self, begun: Begun) -> Result<Response<Body>, SendError> {
        let Begun {
            incoming,
            upload,
            bodiless,
            queued: began,
        } = begun;
        let link = &self.0.link;
        let most = self.0.most_headers;
        let answered = multiplexed::ask(upload, incoming, |incoming, cx| {
            let head = std::task::ready!(incoming.poll_head(cx))?;
            let parts = head::response(head, most, link.heard())
                .map_err(|_| Error::Protocol("malformed response head"))?;
            let bodiless = bodiless || parts.status == http::StatusCode::NOT_MODIFIED;
            incoming.expect(&parts.headers, bodiless)?;
            std::task::Poll::Ready(Ok(parts))
        });
        let (parts, body) = answered.await.map_err(|error| SendError {
            error: UpstreamError::Stream(error),
            unsent: error == Error::Refused || link.is_unsent(began),
        })?;
        Ok(Response::from_parts(parts, body))
    }
}
