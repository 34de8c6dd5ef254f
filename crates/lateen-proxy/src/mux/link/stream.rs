//! One stream: its two halves as those who read and write see them, and what the connection keeps of it.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{HeaderMap, header};
use http_body::SizeHint;
use tokio::time::Instant;

use super::super::frame::Frame;
use super::super::{Carries, Error, MOST_WINDOW, WINDOW, head};
use super::{Link, Side};
use crate::clock;
use crate::codec;
use crate::streams::stream::{self, Part};
use crate::streams::tunnel::Source;
use crate::streams::upload::Sink;

/// Fields of trailers.
const MOST_TRAILERS: usize = 100;

/// What a connection keeps of a stream; heads and trailers are read by who takes them.
pub(super) type Stream = stream::Stream<Bytes, Bytes, Flow>;

/// Half of a window taken in this time is a transfer.
const QUICK: Duration = Duration::from_millis(100);
/// What the windows of a worker's streams may have grown by, all together.
const MOST_GROWTH: u32 = 16 * 1024 * 1024;

thread_local! {
    static GROWTH: Cell<u32> = const { Cell::new(0) };
}

/// What may be sent and received.
#[derive(Debug)]
pub(super) struct Flow {
    /// What the peer may have under way at most.
    pub(super) size: u32,
    /// What the peer may still send.
    pub(super) window: u32,
    /// What was taken of it and not credited yet.
    pub(super) taken: u32,
    /// When it was last asked to grow.
    asked: Instant,
    /// What may still be sent.
    pub(super) credit: u32,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            size: WINDOW,
            window: WINDOW,
            taken: 0,
            asked: clock::now(),
            credit: WINDOW,
        }
    }
}

impl Flow {
    /// Whether the peer is to be told that it may send more.
    pub(super) const fn is_half_taken(&self) -> bool {
        self.taken >= self.size / 2
    }

    /// Doubles the window of a transfer, as long as there is room for it; what it grew by.
    pub(super) fn grow(&mut self) -> u32 {
        let now = clock::now();
        let quick = now.duration_since(std::mem::replace(&mut self.asked, now)) < QUICK;
        let more = self.size.min(MOST_WINDOW - self.size);
        let growth = GROWTH.get() + more;
        if !quick || growth > MOST_GROWTH {
            return 0;
        }
        GROWTH.set(growth);
        self.size += more;
        more
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // Fails only for what is kept by the thread itself, as it ends.
        let _ = GROWTH.try_with(|growth| growth.set(growth.get() - (self.size - WINDOW)));
    }
}

impl Stream {
    pub(super) fn take_head(&mut self, frame: Frame) -> Result<(), Error> {
        if self.has_head {
            return Err(Error::Protocol("second head"));
        }
        self.keep_head(frame.payload);
        self.received(frame.end);
        Ok(())
    }

    pub(super) fn take_data(&mut self, frame: Frame) -> Result<(), Error> {
        self.may_take()?;
        let length = u32::try_from(frame.payload.len()).unwrap_or(u32::MAX);
        let window = self.flow.window.checked_sub(length);
        self.flow.window = window.ok_or(Error::Protocol("more data than was asked for"))?;
        if self.has_data() {
            self.keep(frame.payload);
        } else if !frame.payload.is_empty() {
            self.keep_in_place(frame.payload); // most bodies are no more than this
        }
        self.received(frame.end);
        Ok(())
    }

    pub(super) fn take_trailers(&mut self, frame: Frame) -> Result<(), Error> {
        self.may_take()?;
        self.keep_trailers(frame.payload);
        self.received(true);
        Ok(())
    }

    pub(super) fn take_window(
        &mut self,
        mut payload: Bytes,
        carries: Carries,
    ) -> Result<(), Error> {
        let most = match carries {
            Carries::Http => WINDOW,
            Carries::Tcp => MOST_WINDOW,
        };
        let more = payload.try_get_u32().unwrap_or(0);
        let credit = self.flow.credit.checked_add(more);
        self.flow.credit = credit
            .filter(|credit| more > 0 && *credit <= most)
            .ok_or(Error::Protocol("window"))?;
        self.wake_writer();
        Ok(())
    }

    fn may_take(&self) -> Result<(), Error> {
        if self.ended || !self.has_head {
            return Err(Error::Protocol("body without a head, or after its end"));
        }
        Ok(())
    }
}

/// The half that the peer writes: the body of its message, and on the client's side the response's head.
#[derive(Debug)]
pub(crate) struct Incoming {
    link: Rc<Link>,
    id: u32,
    /// What is left of the length that the head states.
    left: Option<u64>,
    /// All of it was read, or it failed.
    done: bool,
}

impl Incoming {
    pub(super) fn new(link: &Rc<Link>, id: u32) -> Self {
        Self {
            link: Rc::clone(link),
            id,
            left: None,
            done: false,
        }
    }

    /// Notes the length that the message's head states.
    ///
    /// # Errors
    /// It is none, or there are two, or the message ends without it.
    pub(crate) fn expect(&mut self, headers: &HeaderMap, bodiless: bool) -> Result<(), Error> {
        let mut stated = headers.get_all(header::CONTENT_LENGTH).iter();
        let Some(length) = stated.next() else {
            return Ok(());
        };
        let length = codec::content_length(length.as_bytes()).filter(|_| stated.next().is_none());
        let Some(length) = length else {
            return Err(Error::Protocol("content-length"));
        };
        if !bodiless {
            self.left = Some(length);
            if length > 0 && self.is_end() {
                return Err(Error::Protocol("body is shorter than its head says"));
            }
        }
        Ok(())
    }

    /// The response's head, not read yet.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Error>> {
        let mut state = self.link.state();
        let closed = state.closed;
        let Some(stream) = state.streams.get_mut(&self.id) else {
            return Poll::Ready(Err(closed.unwrap_or(Error::Reset)));
        };
        stream.poll_head(cx)
    }

    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<http_body::Frame<Bytes>>, Error>> {
        let mut state = self.link.state();
        let closed = state.closed;
        let Some(stream) = state.streams.get_mut(&self.id) else {
            return Poll::Ready(Err(closed.unwrap_or(Error::Reset)));
        };
        let part = ready!(stream.poll_part(cx))?;
        if let Part::Data(data) = &part {
            stream.flow.taken += u32::try_from(data.len()).unwrap_or(u32::MAX);
            state.credit(self.id);
        }
        drop(state);
        Poll::Ready(match part {
            Part::Data(data) => self.count(data).map(Some),
            Part::End(trailers) => self.finish(trailers),
        })
    }

    fn count(&mut self, data: Bytes) -> Result<http_body::Frame<Bytes>, Error> {
        if let Some(left) = &mut self.left {
            *left = left
                .checked_sub(data.len() as u64)
                .ok_or(Error::Protocol("body is longer than its head says"))?;
        }
        Ok(http_body::Frame::data(data))
    }

    fn finish(
        &mut self,
        trailers: Option<Bytes>,
    ) -> Result<Option<http_body::Frame<Bytes>>, Error> {
        if self.left.is_some_and(|left| left > 0) {
            return Err(Error::Protocol("body is shorter than its head says"));
        }
        self.done = true;
        let Some(trailers) = trailers else {
            return Ok(None);
        };
        let fields = head::fields(trailers, MOST_TRAILERS)
            .map_err(|_| Error::Protocol("malformed trailers"))?;
        Ok(Some(http_body::Frame::trailers(fields)))
    }

    fn is_end(&self) -> bool {
        let state = self.link.state();
        self.done || state.streams.get(&self.id).is_some_and(Stream::is_drained)
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if this.done {
            return Poll::Ready(None);
        }
        this.poll_body(cx).map(|frame| {
            this.done |= frame.is_err();
            frame.transpose()
        })
    }

    fn is_end_stream(&self) -> bool {
        self.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end() {
            return SizeHint::with_exact(0);
        }
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Source for Incoming {}

impl Drop for Incoming {
    fn drop(&mut self) {
        let mut state = self.link.state();
        let Some(stream) = state.streams.get_mut(&self.id) else {
            return;
        };
        // A server that does not read on says so with the end of its answer; a client has no use for the rest of anything.
        let (complete, answered) = (stream.ended, stream.sent);
        if !complete && (state.side == Side::Client || answered) {
            state.doubt(self.id);
            state.abandon(self.id);
        }
        state.end_half(self.id);
    }
}

/// The half that is written to the peer.
#[derive(Debug)]
pub(crate) struct Outgoing {
    link: Rc<Link>,
    id: u32,
}

impl Outgoing {
    pub(super) fn new(link: &Rc<Link>, id: u32) -> Self {
        Self {
            link: Rc::clone(link),
            id,
        }
    }

    /// The stream.
    pub(crate) const fn id(&self) -> u32 {
        self.id
    }

    /// Sends a response's head, which is all of it if `end`.
    pub(crate) fn respond(&self, parts: &http::response::Parts, end: bool) {
        self.link.state().send_response(self.id, parts, end);
    }

    /// Lets a TCP connection in.
    pub(crate) fn accept(&self) {
        self.link.state().accept(self.id);
    }

    /// Says that nothing was done with the stream.
    pub(crate) fn refuse(&self) {
        self.link.state().refuse(self.id);
    }
}

impl Sink for Outgoing {
    fn poll_data(
        &self,
        data: &mut Bytes,
        end: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        self.link.state().poll_data(self.id, data, end, cx)
    }

    fn trailers(&self, trailers: &HeaderMap) {
        self.link.state().send_trailers(self.id, trailers);
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let mut state = self.link.state();
        let side = state.side;
        let Some(stream) = state.streams.get_mut(&self.id) else {
            return;
        };
        // A message that is not complete fails the stream, and so does a request whose rest nobody reads once it is answered.
        let unread = side == Side::Server && stream.halves == 1 && !stream.ended;
        if !stream.sent || unread {
            state.abandon(self.id);
        }
        state.end_half(self.id);
    }
}
