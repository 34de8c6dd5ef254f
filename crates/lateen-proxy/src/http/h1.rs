//! Serving a client's HTTP/1 connection: one request after the other, in the connection's own task.
//!
//! A request is read, taken through the proxy and answered before the next one is looked at; what a client sends ahead waits, up to a
//! limit. Reading and writing a small request and its answer is one system call each. Between requests a connection holds no buffer and
//! no timer of its own but for the one that ends it when it is idle.
//!
//! What a head may look like is [`head`]'s; what becomes of a request is [`super::exchange`]'s.

mod answer;
mod body;
mod head;
mod wire;

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use lateen_traffic::hcm::HttpConnectionManager;
use tokio::time::{Instant, Sleep};

pub(crate) use self::body::{Body, BodyError, Upgrade};

use self::answer::{Asked, Framing};
use self::head::{Head, Limits};
use self::wire::Wire;
use super::client::{ClientBody, ClientHead, ClientRequest};
use super::date::Date;
use super::local_reply::LocalReply;
use super::response::ResponseBody;
use super::server::Session;
use crate::codec::outgoing::{Length, Outgoing, WriteError};
use crate::doze::Doze;
use crate::net::Stream;
use crate::spare;

/// A head has this long to be complete if nothing else is configured. Envoy has no limit; an hour is its limit for idle connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// How long an idle connection of a draining listener waits for one more request. Its client learns from the answer that the connection
/// ends; one that is closed without a word may lose a request that is on its way. Envoy waits for the whole drain.
const LAST_CALL: Duration = Duration::from_secs(1);
/// How long what a client still sends is read after an answer that did not wait for it, so that it gets to see the answer: closing on
/// bytes that were not read resets the connection. Envoy: `delayed_close_timeout`.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes that are read meanwhile.
const MOST_LINGERED: usize = 1024 * 1024;

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is not HTTP/1.
    Malformed,
    /// Its length is no number, or two.
    Length,
    /// It has a length and chunks.
    LengthAndChunks,
    /// It is coded in a version that has no codings.
    Coding,
    /// It is longer than what is taken.
    TooLarge,
    /// It has more headers than what is taken.
    TooMany,
    /// It is of a version that is not spoken.
    Version,
    /// It did not come in time.
    Late,
}

impl Refusal {
    /// The answer to it. Source: Envoy's HTTP/1 codec.
    pub(crate) fn reply(self) -> LocalReply {
        match self {
            Self::Malformed | Self::Length => LocalReply::bad_request("http1.codec_error"),
            Self::LengthAndChunks => {
                LocalReply::bad_request("http1.content_length_and_chunked_not_allowed")
            }
            Self::Coding => LocalReply::bad_request("http1.transfer_encoding_not_allowed"),
            Self::TooLarge => LocalReply::head_refused("http1.headers_too_large"),
            Self::TooMany => LocalReply::head_refused("http1.too_many_headers"),
            Self::Version => LocalReply::low_version(),
            Self::Late => LocalReply::new(
                StatusCode::REQUEST_TIMEOUT,
                "request header timeout",
                "request_header_timeout",
            ),
        }
    }
}

/// A connection being served.
struct Server<'s> {
    session: &'s Rc<Session>,
    wire: Rc<RefCell<Wire>>,
    limits: Limits,
    /// HTTP/1.0 is spoken.
    old: bool,
    head_time: Duration,
    stall_time: Option<Duration>,
    ending: Doze<'s>,
    date: Date,
}

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// It carries another request.
    Next,
    /// It is closed. The client has nothing more to send.
    Close,
    /// It is closed. The client may still be sending.
    Linger,
    /// It broke, or is another protocol's.
    Gone,
}

/// Serves a connection to its end.
pub(super) async fn serve(session: &Rc<Session>, config: &HttpConnectionManager, stream: Stream) {
    let limits = session.connection.worker.shared.config.limits;
    let timeouts = &config.timeouts;
    let mut server = Server {
        session,
        wire: Rc::new(RefCell::new(Wire::new(
            stream,
            config.http1.enable_trailers,
        ))),
        limits: Limits {
            bytes: limits
                .request_head_bytes
                .min(config.max_request_headers_bytes) as usize,
            headers: limits
                .request_headers
                .min(config.max_headers_count as usize),
            cased: config.http1.preserve_header_case,
            chunked_length: config.http1.allow_chunked_length,
        },
        old: config.http1.accept_http_10,
        head_time: timeouts
            .request_headers
            .or(timeouts.idle)
            .unwrap_or(HEAD_TIMEOUT),
        stall_time: timeouts.stream_idle,
        ending: Doze::new(session.ending(config)),
        date: Date::default(),
    };
    let after = loop {
        let after = match server.next().await {
            Ok(Some(head)) => server.exchange(head).await,
            Ok(None) => After::Close,
            Err(refusal) => server.refuse(refusal).await,
        };
        if after != After::Next {
            break after;
        }
    };
    server.close(after).await;
}

impl Server<'_> {
    /// The next request's head; none once the connection is to end.
    ///
    /// # Errors
    /// It is refused.
    async fn next(&mut self) -> Result<Option<Head>, Refusal> {
        let mut late: Option<Pin<Box<Sleep>>> = None;
        let mut leave: Option<Pin<Box<Sleep>>> = None;
        std::future::poll_fn(|cx| {
            let mut wire = self.wire.borrow_mut();
            if let Poll::Ready(head) = wire.poll_head(cx, &self.limits) {
                return Poll::Ready(head);
            }
            let between = wire.is_between();
            drop(wire);
            if self.ending.is_done(cx) && between {
                if !self.session.connection.is_ending() {
                    return Poll::Ready(Ok(None));
                }
                let leave = leave.get_or_insert_with(|| Box::pin(tokio::time::sleep(LAST_CALL)));
                return leave.as_mut().poll(cx).map(|()| Ok(None));
            }
            if between {
                return Poll::Pending;
            }
            let late = late.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.head_time)));
            late.as_mut().poll(cx).map(|()| Err(Refusal::Late))
        })
        .await
    }

    /// Takes a request through the proxy and answers it.
    async fn exchange(&mut self, head: Head) -> After {
        let Head {
            came, keep_alive, ..
        } = head;
        let asked = Asked::of(&came.method, came.version, self.old, self.limits.cased);
        let request = ClientRequest {
            head: came,
            body: ClientBody::H1(Body::new(&self.wire)),
        };
        let answered = {
            let mut answering = pin!(Rc::clone(self.session).exchange(request));
            let mut watched = false;
            std::future::poll_fn(|cx| {
                if let Poll::Ready(response) = answering.as_mut().poll(cx) {
                    return Poll::Ready(Some(response));
                }
                // Whether it is to end is looked at when the answer is there.
                self.ending.is_done(cx);
                let mut wire = self.wire.borrow_mut();
                if watched && wire.is_quiet() {
                    return Poll::Pending;
                }
                // While its body is read, whoever reads it is the one who is woken.
                watched = wire.is_read();
                if wire.is_gone(cx) {
                    Poll::Ready(None)
                } else {
                    Poll::Pending
                }
            })
            .await
        };
        match answered {
            Some(response) => self.answer(response, asked, keep_alive).await,
            // Dropping the exchange was what records it.
            None => After::Gone,
        }
    }

    /// Answers what is no request that could be taken anywhere.
    async fn refuse(&mut self, refusal: Refusal) -> After {
        if refusal != Refusal::Late {
            self.session.count_protocol_error();
        }
        let response = self.session.refuse(refusal.reply());
        let asked = Asked::of(
            &http::Method::GET,
            http::Version::HTTP_11,
            self.old,
            self.limits.cased,
        );
        match self.answer(response, asked, false).await {
            After::Gone => After::Gone,
            _ => After::Linger,
        }
    }

    /// Writes an answer.
    async fn answer(
        &mut self,
        response: Response<ResponseBody>,
        asked: Asked,
        keep_alive: bool,
    ) -> After {
        let (mut parts, body) = response.into_parts();
        let upgraded = parts.status == StatusCode::SWITCHING_PROTOCOLS || asked.opens(parts.status);
        let mut last = !keep_alive || self.session.is_last(&parts);
        if !upgraded {
            last |= std::future::poll_fn(|cx| Poll::Ready(self.ending.is_done(cx))).await;
            state_persistence(&mut parts.headers, last, &asked);
        }
        let interim = self.wire.borrow_mut().take_interim();
        let (head, framing) = answer::encode(&parts, &body, &asked, interim, &mut self.date);
        spare::keep_headers(parts.headers);
        let (length, body) = match framing {
            Framing::None => {
                drop(body);
                (Length::Exact(0), None)
            }
            Framing::Some(length) => {
                last |= length == Length::UntilClose;
                (length, Some(body))
            }
        };
        if self.write(Outgoing::new(head, body, length)).await.is_err() {
            return After::Gone;
        }
        if upgraded {
            self.wire.borrow_mut().hand_over();
            return After::Gone;
        }
        let clean = self.is_clean().await;
        match (clean, last) {
            (true, false) => After::Next,
            (true, true) => After::Close,
            (false, _) => After::Linger,
        }
    }

    /// Whether nothing of the request is left to be read.
    async fn is_clean(&self) -> bool {
        if self.wire.borrow().is_read() {
            return true;
        }
        std::future::poll_fn(|cx| Poll::Ready(self.wire.borrow_mut().is_clean(cx))).await
    }

    /// Writes a message to its end.
    ///
    /// # Errors
    /// The client is gone or does not read, or the body broke off.
    async fn write(&self, mut message: Outgoing<ResponseBody>) -> Result<(), ()> {
        let mut stall = Stall::new(self.stall_time);
        std::future::poll_fn(|cx| {
            let mut wire = self.wire.borrow_mut();
            let Some(stream) = wire.writer() else {
                return Poll::Ready(Err(()));
            };
            match message.poll(stream, cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => {
                    note_broken(self.session, &error);
                    return Poll::Ready(Err(()));
                }
                // Whether the client is still there is looked at once that is over.
                Poll::Pending if message.is_held() => return Poll::Pending,
                Poll::Pending => {}
            }
            if wire.is_gone(cx) {
                return Poll::Ready(Err(()));
            }
            drop(wire);
            stall
                .poll(message.is_stalled(), message.written(), cx)
                .map(Err)
        })
        .await
    }

    /// Ends the connection.
    async fn close(&mut self, after: After) {
        if after == After::Gone {
            return;
        }
        let shut = std::future::poll_fn(|cx| self.wire.borrow_mut().poll_shutdown(cx)).await;
        if shut.is_err() || after == After::Close {
            return;
        }
        let mut lingered = 0;
        let linger = async {
            while lingered < MOST_LINGERED {
                let read = std::future::poll_fn(|cx| self.wire.borrow_mut().poll_discard(cx));
                match read.await {
                    Ok(n @ 1..) => lingered += n,
                    Ok(0) | Err(_) => return,
                }
            }
        };
        let _ = tokio::time::timeout(LINGER, linger).await;
    }
}

/// The requests whose heads stand in pieces of bytes that come one after the other, and whether something else follows. For fuzzing.
pub(crate) fn heads(pieces: &[&[u8]], chunked_length: bool) -> (Vec<ClientHead>, bool) {
    let limits = Limits {
        bytes: 4 * 1024,
        headers: 100,
        cased: true,
        chunked_length,
    };
    let (mut buffer, mut scanned) = (bytes::BytesMut::new(), 0);
    let mut heads = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match head::take(&mut buffer, &mut scanned, &limits) {
                Ok(Some(head)) => heads.push(*head.came),
                Ok(None) => break,
                Err(_) => return (heads, true),
            }
        }
    }
    (heads, false)
}

/// Says whether the connection stays, where that is not what the version implies.
fn state_persistence(headers: &mut http::HeaderMap, last: bool, asked: &Asked) {
    let says = match (last, asked.version) {
        (true, _) => "close",
        (false, http::Version::HTTP_10) => "keep-alive",
        (false, _) => return,
    };
    headers.insert(header::CONNECTION, HeaderValue::from_static(says));
}

fn note_broken<E: std::fmt::Debug>(session: &Session, error: &WriteError<E>) {
    tracing::debug!(
        connection = session.connection.facts.id,
        ?error,
        "an answer broke off"
    );
}

/// A client that does not read holds up an answer for no longer than a stream may be idle.
#[derive(Debug)]
struct Stall {
    limit: Option<Duration>,
    written: u64,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    const fn new(limit: Option<Duration>) -> Self {
        Self {
            limit,
            written: 0,
            sleep: None,
        }
    }

    fn poll(&mut self, stalled: bool, written: u64, cx: &mut Context<'_>) -> Poll<()> {
        let (true, Some(limit)) = (stalled, self.limit) else {
            self.sleep = None;
            return Poll::Pending;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if written != self.written {
            self.written = written;
            sleep.as_mut().reset(Instant::now() + limit);
        }
        sleep.as_mut().poll(cx)
    }
}
