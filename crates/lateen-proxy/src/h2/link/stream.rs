//! One stream: its two halves as those who read and write see them, and what the connection keeps of it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::SizeHint;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::super::frame::Reason;
use super::super::head::Fields;
use super::{Link, Side};
use crate::clock;
use crate::streams::Error;
use crate::streams::upload::Sink;

/// Data shorter than this is copied, so that what it takes to keep it stays in proportion to its bytes.
const SMALL: usize = 2 * 1024;
/// A connection that was silent for so long while a request waited may be dead.
const SILENCE: Duration = Duration::from_secs(1);

/// What a connection keeps of a stream.
#[derive(Debug)]
pub(super) struct Stream {
    began: Instant,
    /// A response's head that nobody took yet.
    head: Option<(StatusCode, HeaderMap)>,
    pub(super) has_head: bool,
    /// The response has no body, whatever its head says of one.
    pub(super) bodiless: bool,
    data: VecDeque<Bytes>,
    /// What follows `data`, in one piece.
    small: BytesMut,
    trailers: Option<HeaderMap>,
    /// What is left of the length that the head states.
    pub(super) left: Option<u64>,
    /// The peer's message is complete.
    pub(super) ended: bool,
    /// What the peer may still send.
    pub(super) window: i64,
    /// What was taken of it and not credited yet.
    pub(super) taken: u32,
    /// Bytes that nobody took yet.
    pub(super) unread: u32,
    /// Nobody will.
    pub(super) deaf: bool,
    reader: Option<Waker>,
    /// What may still be sent; below zero if the peer thought better of it.
    pub(super) credit: i64,
    /// The message to the peer is complete.
    pub(super) sent: bool,
    writer: Option<Waker>,
    /// It is among those that wait for the connection.
    pub(super) waits: bool,
    /// Halves somebody holds.
    pub(super) halves: u8,
    pub(super) failed: Option<Error>,
    /// The peer gave it up without saying that anything was wrong.
    pub(super) gentle: bool,
    /// Who works on it, on the server's side.
    pub(super) task: Option<AbortHandle>,
}

impl Stream {
    pub(super) fn new(window: i64, credit: i64) -> Self {
        Self {
            began: clock::now(),
            head: None,
            has_head: false,
            bodiless: false,
            data: VecDeque::new(),
            small: BytesMut::new(),
            trailers: None,
            left: None,
            ended: false,
            window,
            taken: 0,
            unread: 0,
            deaf: false,
            reader: None,
            credit,
            sent: false,
            writer: None,
            waits: false,
            halves: 0,
            failed: None,
            gentle: false,
            task: None,
        }
    }

    pub(super) fn take_head(&mut self, fields: Fields, end: bool) -> Result<(), Reason> {
        let length = fields.length();
        let (status, headers) = fields.into_response().map_err(|_| Reason::Protocol)?;
        if status.is_informational() {
            return if end { Err(Reason::Protocol) } else { Ok(()) };
        }
        let bodiless = self.bodiless || status == StatusCode::NOT_MODIFIED;
        self.left = length.filter(|_| !bodiless);
        self.has_head = true;
        self.head = Some((status, headers));
        self.end(end)
    }

    pub(super) fn take_trailers(&mut self, fields: Fields, end: bool) -> Result<(), Reason> {
        if self.ended {
            return Err(Reason::StreamClosed);
        }
        if !end {
            return Err(Reason::Protocol);
        }
        self.trailers = Some(fields.into_trailers().map_err(|_| Reason::Protocol)?);
        self.end(true)
    }

    pub(super) fn take_data(&mut self, data: Bytes, end: bool) -> Result<(), Reason> {
        if self.ended {
            return Err(Reason::StreamClosed);
        }
        if !self.has_head {
            return Err(Reason::Protocol);
        }
        self.window -= data.len() as i64;
        if self.window < 0 {
            return Err(Reason::FlowControl);
        }
        if let Some(left) = &mut self.left {
            let rest = left.checked_sub(data.len() as u64);
            *left = rest.ok_or(Reason::Protocol)?;
        }
        if !self.deaf {
            self.unread += data.len() as u32;
            self.keep(data);
        }
        self.end(end)
    }

    fn keep(&mut self, data: Bytes) {
        if data.len() < SMALL {
            self.small.extend_from_slice(&data);
        } else {
            self.gather();
            self.data.push_back(data);
        }
    }

    fn end(&mut self, end: bool) -> Result<(), Reason> {
        if end && self.left.is_some_and(|left| left > 0) {
            return Err(Reason::Protocol);
        }
        self.ended = end;
        self.wake_reader();
        Ok(())
    }

    /// Ends it with an error, for both halves.
    pub(super) fn fail(&mut self, error: Error) {
        // A message that is complete stays so: only what is missing fails.
        self.failed.get_or_insert(error);
        self.wake_reader();
        self.wake_writer();
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    /// Wakes a task when more may be sent.
    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        self.writer = Some(cx.waker().clone());
    }

    pub(super) fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    /// Whether it has waited long without an answer on a connection last heard at a time.
    pub(super) fn is_unheard_of(&self, heard: Instant) -> bool {
        !self.has_head && heard < self.began && clock::since(self.began) >= SILENCE
    }

    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn gather(&mut self) {
        if !self.small.is_empty() {
            self.data.push_back(self.small.split().freeze());
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        if self.data.is_empty() && !self.small.is_empty() {
            return Some(std::mem::take(&mut self.small).freeze());
        }
        self.data.pop_front()
    }

    /// Whether there is nothing left to be read.
    fn is_drained(&self) -> bool {
        self.ended && self.data.is_empty() && self.small.is_empty() && self.trailers.is_none()
    }
}

/// The half that the peer writes: the body of its message, and on the client's side the response's head.
#[derive(Debug)]
pub(crate) struct Incoming {
    link: Rc<Link>,
    id: u32,
    /// All of it was read, or it failed.
    done: bool,
}

impl Incoming {
    pub(super) fn new(link: &Rc<Link>, id: u32) -> Self {
        Self {
            link: Rc::clone(link),
            id,
            done: false,
        }
    }

    /// The response's head.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(StatusCode, HeaderMap), Error>> {
        let mut state = self.link.state();
        let closed = state.closed;
        let Some(stream) = state.streams.get_mut(&self.id) else {
            return Poll::Ready(Err(closed.unwrap_or(Error::Reset)));
        };
        if let Some(head) = stream.head.take() {
            return Poll::Ready(Ok(head));
        }
        if let Some(error) = stream.failed {
            return Poll::Ready(Err(error));
        }
        stream.reader = Some(cx.waker().clone());
        Poll::Pending
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
        if let Some(data) = stream.next() {
            state.taken(self.id, data.len() as u32);
            return Poll::Ready(Ok(Some(http_body::Frame::data(data))));
        }
        if stream.ended {
            self.done = true;
            let trailers = stream.trailers.take();
            return Poll::Ready(Ok(trailers.map(http_body::Frame::trailers)));
        }
        if let Some(error) = stream.failed {
            return Poll::Ready(Err(error));
        }
        stream.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether the peer gave the stream up without saying that anything was wrong.
    pub(crate) fn is_gentle(&self) -> bool {
        let state = self.link.state();
        state.streams.get(&self.id).is_some_and(|s| s.gentle)
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
        let state = self.link.state();
        self.done || state.streams.get(&self.id).is_some_and(Stream::is_drained)
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.link.state();
        let Some(stream) = state.streams.get(&self.id) else {
            return SizeHint::default();
        };
        if self.done || stream.is_drained() {
            return SizeHint::with_exact(0);
        }
        let left = stream.left.map(|left| left + u64::from(stream.unread));
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let mut state = self.link.state();
        let Some(stream) = state.streams.get_mut(&self.id) else {
            return;
        };
        stream.deaf = true;
        stream.data = VecDeque::new();
        stream.small = BytesMut::new();
        let unread = std::mem::take(&mut stream.unread);
        // A server that does not read on says so with the end of its answer; a client has no use for the rest of anything.
        let (complete, answered) = (stream.ended, stream.sent);
        if unread > 0 {
            state.release(unread);
        }
        if !complete && (state.side == Side::Client || answered) {
            state.doubt(self.id);
            let reason = match state.side {
                Side::Client => Reason::Cancel,
                Side::Server => Reason::None,
            };
            state.abandon(self.id, reason);
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

    /// Sends a response's head, which is all of it if `end`, and the length of its body if the head does not say it.
    pub(crate) fn respond(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        length: Option<u64>,
        end: bool,
    ) {
        let mut state = self.link.state();
        state.send_response(self.id, (status, headers), length, end);
    }
}

impl Outgoing {
    /// Ends the message here.
    pub(crate) fn end(&self) {
        self.link.state().send_end(self.id);
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
        let unread = side == Side::Server && stream.deaf && !stream.ended;
        if !stream.sent || unread {
            let reason = match (stream.sent, side) {
                (true, _) => Reason::None,
                (false, Side::Server) => Reason::Internal,
                (false, Side::Client) => Reason::Cancel,
            };
            state.abandon(self.id, reason);
        }
        state.end_half(self.id);
    }
}
