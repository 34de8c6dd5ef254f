//! One stream: its two halves as those who read and write see them, and what the connection keeps of it.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::SizeHint;

use super::super::frame::Reason;
use super::super::head::Fields;
use super::{Link, Side};
use crate::streams::Error;
use crate::streams::stream::{self, Part};
use crate::streams::tunnel::Source;
use crate::streams::upload::Sink;

/// What a connection keeps of a stream.
pub(super) type Stream = stream::Stream<(StatusCode, HeaderMap), HeaderMap, Flow>;

/// What may be sent and received.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// The response has no body, whatever its head says of one.
    pub(super) bodiless: bool,
    /// What is left of the length that the head states.
    pub(super) left: Option<u64>,
    /// What the peer may still send.
    pub(super) window: i64,
    /// What was taken of it and not credited yet.
    pub(super) taken: u32,
    /// Bytes that nobody took yet.
    pub(super) unread: u32,
    /// Nobody will.
    pub(super) deaf: bool,
    /// What may still be sent; below zero if the peer thought better of it.
    pub(super) credit: i64,
    /// It is among those that wait for the connection.
    pub(super) waits: bool,
    /// The peer gave it up without saying that anything was wrong.
    pub(super) gentle: bool,
}

impl Stream {
    pub(super) fn take_head(&mut self, fields: Fields, end: bool) -> Result<(), Reason> {
        let length = fields.length();
        let (status, headers) = fields.into_response().map_err(|_| Reason::Protocol)?;
        if status.is_informational() {
            return if end { Err(Reason::Protocol) } else { Ok(()) };
        }
        let bodiless = self.flow.bodiless || status == StatusCode::NOT_MODIFIED;
        self.flow.left = length.filter(|_| !bodiless);
        self.keep_head((status, headers));
        self.take_end(end)
    }

    pub(super) fn take_trailers(&mut self, fields: Fields, end: bool) -> Result<(), Reason> {
        if self.ended {
            return Err(Reason::StreamClosed);
        }
        if !end {
            return Err(Reason::Protocol);
        }
        self.keep_trailers(fields.into_trailers().map_err(|_| Reason::Protocol)?);
        self.take_end(true)
    }

    pub(super) fn take_data(&mut self, data: Bytes, end: bool) -> Result<(), Reason> {
        if self.ended {
            return Err(Reason::StreamClosed);
        }
        if !self.has_head {
            return Err(Reason::Protocol);
        }
        self.flow.window -= data.len() as i64;
        if self.flow.window < 0 {
            return Err(Reason::FlowControl);
        }
        if let Some(left) = &mut self.flow.left {
            let rest = left.checked_sub(data.len() as u64);
            *left = rest.ok_or(Reason::Protocol)?;
        }
        if !self.flow.deaf {
            self.flow.unread += data.len() as u32;
            self.keep(data);
        }
        self.take_end(end)
    }

    fn take_end(&mut self, end: bool) -> Result<(), Reason> {
        if end && self.flow.left.is_some_and(|left| left > 0) {
            return Err(Reason::Protocol);
        }
        self.received(end);
        Ok(())
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
        Poll::Ready(Ok(match ready!(stream.poll_part(cx))? {
            Part::Data(data) => {
                state.taken(self.id, data.len() as u32);
                Some(http_body::Frame::data(data))
            }
            Part::End(trailers) => {
                self.done = true;
                trailers.map(http_body::Frame::trailers)
            }
        }))
    }
}

impl Source for Incoming {
    fn is_gentle(&self) -> bool {
        let state = self.link.state();
        state.streams.get(&self.id).is_some_and(|s| s.flow.gentle)
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
        let left = stream
            .flow
            .left
            .map(|left| left + u64::from(stream.flow.unread));
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let mut state = self.link.state();
        let Some(stream) = state.streams.get_mut(&self.id) else {
            return;
        };
        stream.flow.deaf = true;
        stream.forget_data();
        let unread = std::mem::take(&mut stream.flow.unread);
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
        let unread = side == Side::Server && stream.flow.deaf && !stream.ended;
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
