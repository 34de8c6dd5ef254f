//! Connections that carry many requests, or many TCP connections, to another of our own sidecars ([`crate::mux`]).
//!
//! Whether a host speaks it is known after the first connection to it, which what comes meanwhile waits for. A host that does
//! not is given one for each from then on; each new connection asks again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

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
use super::{OpenConnection, SendError, UpstreamError, multiplexed, pipe};
use crate::clock;
use crate::http::body::RequestBody;
use crate::metadata_exchange;
use crate::mux::introduction::Introduction;
use crate::mux::link::{Incoming, Link, Outgoing, Side};
use crate::mux::{Carries, Error, MOST_STREAMS, Tunnel, head};
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

/// Takes a connection that is not shared, with its place among the host's connections.
pub(super) type Other = Box<dyn FnOnce(Stream, OpenConnection)>;

type Opening = Shared<LocalBoxFuture<'static, Result<(), ConnectError>>>;

/// A connection; clones share it.
#[derive(Clone, Debug)]
struct Connection {
    link: Rc<Link>,
    info: Rc<ConnectionFacts>,
    /// What the host says of itself, if it was told before the first frame.
    introduction: Option<Arc<metadata_exchange::Introduction>>,
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
pub(super) struct Making<'a> {
    /// How to reach the host.
    pub(crate) target: &'a Target,
    /// The cluster's settings.
    pub(crate) http: &'a UpstreamHttp,
    /// Where a connection goes whose host does not speak it.
    pub(super) other: Other,
    /// Where it is counted: once, however many requests wait for it.
    pub(super) tally: Tally,
    /// As what, if it is for HTTP.
    pub(super) protocol: Option<Protocol>,
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

    /// Makes a connection, or waits for the one being made. `count` gives a place for another connection.
    ///
    /// # Errors
    /// It cannot be made; `None` if there may not be another one.
    pub(super) async fn open(
        self: &Rc<Self>,
        making: Making<'_>,
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
    pub(super) fn add(self: &Rc<Self>, making: Making<'_>, open: OpenConnection) {
        drop(self.start(making, open));
    }

    fn start(self: &Rc<Self>, making: Making<'_>, open: OpenConnection) -> Opening {
        let Making {
            target,
            http,
            other,
            tally,
            protocol,
        } = making;
        let (links, target, http) = (Rc::clone(self), target.clone(), http.clone());
        let future = async move {
            let made = connect::connect(&target).await;
            *links.opening.borrow_mut() = None; // no later request is to meet an old failure
            let stream = made.inspect_err(|error| tally.failed(error))?;
            tally.made(protocol);
            if let Some((stream, open)) = links.adopt(stream, open, &http) {
                other(stream, open);
            }
            Ok(())
        };
        let opening = future.boxed_local().shared();
        *self.opening.borrow_mut() = Some(opening.clone());
        // Driven on its own: the request that asked may go away.
        tokio::task::spawn_local(opening.clone().map(drop));
        opening
    }

    /// Keeps a new connection if it is one of these, and gives it back if not.
    pub(super) fn adopt(
        &self,
        stream: Stream,
        open: OpenConnection,
        http: &UpstreamHttp,
    ) -> Option<(Stream, OpenConnection)> {
        let agreed = Carries::agreed(stream.tls().and_then(|tls| tls.alpn_protocol()));
        self.speaks.set(Some(agreed.is_some()));
        let Some(carries) = agreed else {
            return Some((stream, open));
        };
        let info = ConnectionFacts::of(&stream, Some(open));
        let introduction = stream.introduction().cloned();
        let link = Link::new(Side::Client, carries);
        tokio::task::spawn_local(multiplexed::drive(
            Rc::clone(&link),
            stream,
            Rc::clone(&info),
            std::future::pending(),
        ));
        self.open.borrow_mut().push(Connection {
            link,
            info,
            introduction,
            used: Rc::new(Cell::new(Instant::now())),
            most_headers: http.max_headers_count as usize,
        });
        None
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

impl Place {
    /// Facts about the connection.
    pub(crate) const fn info(&self) -> &Rc<ConnectionFacts> {
        &self.0.info
    }

    /// Whether the connection carried a request before.
    pub(crate) fn is_reused(&self) -> bool {
        self.0.info.requests.get() > 1
    }

    /// Begins a TCP connection, and waits for so long until the host has let it in or closed it.
    ///
    /// # Errors
    /// The host did nothing with it, or the shared connection is gone.
    pub(crate) async fn tunnel(&self, patience: Duration) -> Result<pipe::Shared, Error> {
        let (mut incoming, outgoing) = self.0.link.begin_tunnel()?;
        let answer = std::future::poll_fn(|cx| incoming.poll_head(cx));
        match tokio::time::timeout(patience, answer).await {
            // One that was closed at once ends as one that is closed later.
            Ok(Ok(_) | Err(Error::Reset)) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(Error::Closed),
        }
        Ok(pipe::Shared {
            tunnel: Tunnel::new(incoming, outgoing),
            introduction: self.0.introduction.clone(),
        })
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
