//! Bodies on their way through the proxy: counted, and remembered up to a limit so that a request can be tried again.
//!
//! Nothing is buffered beyond that memory: a frame is asked for when the other side can take it, which is the back-pressure.

mod piped;
mod tee;

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

pub(crate) use self::piped::{PipeReader, PipeWriter, pipe};

use self::tee::{CopyReader, CopyWriter};
use super::client::ClientError;
use super::grpc::MessageCounter;
use super::source::Source;
use crate::clock;
use crate::codec::outgoing;
use crate::net::splice::Splice;
use crate::upstream::UpstreamError;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The side it comes from failed.
    #[error("body ended early")]
    Source(#[source] ClientError),
    /// The upstream failed.
    #[error("body ended early")]
    Upstream(#[source] Box<UpstreamError>),
    /// A time limit passed.
    #[error("{0}")]
    TimedOut(&'static str),
    /// A gRPC-Web body in text form is none.
    #[error("body is not base64")]
    NotBase64,
    /// An earlier try already took more than is remembered, or the downstream went away.
    #[error("body cannot be replayed")]
    NotReplayable,
}

/// What passed through a body.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Bytes of data frames.
    pub(crate) bytes: Cell<u64>,
    /// gRPC messages that began, if the stream is gRPC.
    pub(crate) messages: RefCell<Option<MessageCounter>>,
    moved: Cell<Option<Instant>>,
    ended: Cell<Option<Instant>>,
    waiting: RefCell<Option<Waker>>,
}

impl Meter {
    /// A meter that also counts gRPC messages.
    pub(crate) fn grpc() -> Self {
        Self {
            messages: RefCell::new(Some(MessageCounter::default())),
            ..Self::default()
        }
    }

    /// Counts a frame that was read from the client.
    pub(crate) fn record(&self, frame: &Frame<Bytes>) {
        self.moved.set(Some(clock::now()));
        if let Some(data) = frame.data_ref() {
            self.bytes.set(self.bytes.get() + data.len() as u64);
            if let Some(counter) = self.messages.borrow_mut().as_mut() {
                counter.feed(data);
            }
        }
    }

    /// Whether it looks at what is in the body.
    pub(crate) fn reads(&self) -> bool {
        self.messages.borrow().is_some()
    }

    /// Counts bytes that were read from the client and not looked at.
    pub(crate) fn passed(&self, bytes: usize) {
        self.moved.set(Some(clock::now()));
        self.bytes.set(self.bytes.get() + bytes as u64);
    }

    /// When bytes were last read; `None` if there were none.
    pub(crate) const fn last_moved(&self) -> Option<Instant> {
        self.moved.get()
    }

    /// Notes that the whole body was read from its source.
    pub(crate) fn end(&self) {
        self.ended.set(Some(clock::now()));
        if let Some(waker) = self.waiting.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Wakes a task once the whole body was read; Envoy's route timeout starts then. One waiter at a time.
    pub(crate) fn tell_end(&self, cx: &Context<'_>) {
        if self.ended.get().is_none() {
            *self.waiting.borrow_mut() = Some(cx.waker().clone());
        }
    }

    /// When the whole body was read.
    pub(crate) const fn ended_at(&self) -> Option<Instant> {
        self.ended.get()
    }

    /// When something was read last.
    pub(crate) const fn moved_at(&self) -> Option<Instant> {
        self.moved.get()
    }

    /// Whether the whole body was read.
    pub(crate) const fn has_ended(&self) -> bool {
        self.ended.get().is_some()
    }

    /// gRPC messages that began.
    pub(crate) fn message_count(&self) -> u64 {
        self.messages.borrow().as_ref().map_or(0, |c| c.count())
    }
}

/// A request's body as it was received, with what tries before this one already took from it.
///
/// Shared by the tries of one request, of which at most one is under way.
#[derive(Debug)]
pub(crate) struct Replayable {
    state: RefCell<ReplayState>,
    meter: Rc<Meter>,
    limit: usize,
}

#[derive(Debug)]
struct ReplayState {
    source: Option<Source>,
    hint: SizeHint,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// Bytes that tries took.
    taken: u64,
    trailers: Option<Box<HeaderMap>>,
    ended: bool,
    overflowed: bool,
    copies: Vec<CopyWriter>,
}

impl Replayable {
    /// Takes a body of which up to `limit` bytes are remembered; 0 remembers nothing.
    pub(crate) fn new(source: Source, limit: usize) -> Self {
        let meter = Rc::clone(source.meter());
        let ended = source.is_end_stream();
        let state = ReplayState {
            hint: source.size_hint(),
            source: (!ended).then_some(source),
            kept: Vec::new(),
            kept_bytes: 0,
            taken: 0,
            trailers: None,
            ended,
            overflowed: limit == 0,
            copies: Vec::new(),
        };
        Self {
            state: RefCell::new(state),
            meter,
            limit,
        }
    }

    /// Whether another try would carry the same body: nothing was taken yet, or all that was taken is remembered.
    pub(crate) fn can_replay(&self) -> bool {
        let state = self.state.borrow();
        !state.overflowed || state.taken == 0
    }

    /// What passed through it.
    pub(crate) const fn meter(&self) -> &Rc<Meter> {
        &self.meter
    }

    /// A copy of the body for a mirror, of which up to `limit` bytes wait for their reader. To be asked for before the first try.
    pub(crate) fn copy(&self, limit: usize) -> RequestBody {
        if self.is_empty() {
            return RequestBody::Empty;
        }
        let (writer, reader) = tee::copy(limit);
        self.state.borrow_mut().copies.push(writer);
        RequestBody::Copy(reader)
    }

    /// All of the body, for a request that begins anew; `None` if it is not there whole.
    pub(crate) fn whole(&self) -> Option<Source> {
        let state = self.state.borrow();
        let remembered = !state.overflowed || state.taken == 0;
        (state.ended && remembered)
            .then(|| Source::kept(&state.kept, state.trailers.as_deref().cloned(), &self.meter))
    }

    /// Whether there is no body at all.
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.state.borrow();
        state.ended && state.taken == 0
    }
}

/// The body of one try.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// None.
    Empty,
    /// A copy for a mirror.
    Copy(CopyReader),
    /// One that is written to like a stream.
    Piped(PipeReader),
    /// One that is there already; none once it was handed out.
    Full(Option<Bytes>),
    /// The remembered part, then the rest.
    Stream {
        /// The request's body.
        body: Rc<Replayable>,
        /// The next remembered frame to send.
        next: usize,
        /// Whether the trailers (or the end) were sent.
        done: bool,
    },
}

impl RequestBody {
    /// The body for a (further) try.
    pub(crate) fn of(body: &Rc<Replayable>) -> Self {
        if body.is_empty() {
            return Self::Empty;
        }
        Self::Stream {
            body: Rc::clone(body),
            next: 0,
            done: false,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (body, next, done) = match self.get_mut() {
            Self::Empty => return Poll::Ready(None),
            Self::Copy(copy) => return copy.poll(cx),
            Self::Piped(pipe) => return pipe.poll(cx),
            Self::Full(bytes) => {
                let bytes = bytes.take().filter(|bytes| !bytes.is_empty());
                return Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))));
            }
            Self::Stream { body, next, done } => (body, next, done),
        };
        if *done {
            return Poll::Ready(None);
        }
        let mut state = body.state.borrow_mut();
        if let Some(kept) = state.kept.get(*next) {
            *next += 1;
            return Poll::Ready(Some(Ok(Frame::data(kept.clone()))));
        }
        if state.ended {
            *done = true;
            let trailers = state.trailers.as_deref().cloned();
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = ready!(state.pull(cx, body.limit));
        match &frame {
            Some(Ok(frame)) if frame.is_data() => *next = state.kept.len(),
            _ => *done = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Copy(copy) => copy.is_end(),
            Self::Piped(pipe) => pipe.is_end(),
            Self::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Stream { body, next, done } => {
                let state = body.state.borrow();
                *done || (state.ended && state.trailers.is_none() && *next >= state.kept.len())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Stream { body, next: 0, .. } => body.state.borrow().hint,
            Self::Copy(_) | Self::Piped(_) | Self::Stream { .. } => SizeHint::default(),
        }
    }
}

impl outgoing::Source for RequestBody {
    fn can_splice(&self) -> bool {
        match self {
            Self::Stream { body, done, .. } => !done && body.state.borrow().can_splice(),
            Self::Empty | Self::Copy(_) | Self::Piped(_) | Self::Full(_) => false,
        }
    }

    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Splice,
    ) -> Poll<Result<usize, BodyError>> {
        let Self::Stream { body, done, .. } = self else {
            return Poll::Ready(Err(BodyError::NotReplayable));
        };
        let moved = ready!(body.state.borrow_mut().splice(cx, pipe));
        *done |= moved.is_err();
        Poll::Ready(moved)
    }
}

impl ReplayState {
    /// Whether what comes next is nobody else's than the one who asks, and can go from socket to socket.
    fn can_splice(&self) -> bool {
        let alone = self.overflowed && self.copies.is_empty();
        alone && self.source.as_ref().is_some_and(Source::can_splice)
    }

    fn splice(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Splice,
    ) -> Poll<Result<usize, BodyError>> {
        let Some(source) = self.source.as_mut() else {
            return Poll::Ready(Err(BodyError::NotReplayable));
        };
        let moved = ready!(source.poll_splice(cx, pipe)).inspect_err(|_| self.source = None)?;
        self.taken += moved as u64;
        if self.source.as_ref().is_some_and(Body::is_end_stream) {
            self.finish();
        }
        Poll::Ready(Ok(moved))
    }

    fn pull(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(source) = self.source.as_mut() else {
            return Poll::Ready(Some(Err(BodyError::NotReplayable)));
        };
        match ready!(Pin::new(source).poll_frame(cx)) {
            None => {
                self.finish();
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                self.source = None;
                Poll::Ready(Some(Err(error)))
            }
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.keep(data, limit);
                    self.copies.iter().for_each(|copy| copy.data(data));
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.copies.iter().for_each(|copy| copy.trailers(trailers));
                    self.trailers = Some(Box::new(trailers.clone()));
                    self.finish();
                }
                if self.source.as_ref().is_some_and(Body::is_end_stream) {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn keep(&mut self, data: &Bytes, limit: usize) {
        self.taken += data.len() as u64;
        if self.overflowed {
            return;
        }
        self.kept_bytes += data.len();
        if self.kept_bytes > limit {
            // Too much to try again: forget it all, so that a long upload holds no memory.
            self.overflowed = true;
            self.kept = Vec::new();
        } else {
            self.kept.push(data.clone());
        }
    }

    fn finish(&mut self) {
        self.ended = true;
        self.source = None;
        for copy in self.copies.drain(..) {
            copy.complete();
        }
    }
}
