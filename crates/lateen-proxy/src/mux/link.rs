//! A connection's state, which its streams and the task that moves its bytes share: what is to be written, and what was read for whom.
//!
//! Everything happens on one thread. A stream has up to two halves, [`Incoming`] and [`Outgoing`]; a half that is dropped before its
//! message is complete gives the stream up. What a peer can make this hold is bounded: streams by [`MOST_STREAMS`], bytes of a
//! stream's body by [`WINDOW`], and reading stops while too much waits to be written.

mod stream;

use std::cell::{OnceCell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use tokio::task::AbortHandle;
use tokio::time::Instant;

pub(crate) use self::stream::{Incoming, Outgoing};

use self::stream::{Flow, Stream};
use super::frame::{self, Frame, Kind};
use super::introduction::Introduction;
use super::{Carries, Error, MOST_STREAMS, head};
use crate::clock;
use crate::streams::out::Out;
use crate::streams::serving::Serving;
use crate::streams::wire::{self, Taken};
use crate::streams::{HIGH, TOO_HIGH};

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// It begins streams.
    Client,
    /// It answers them.
    Server,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Link {
    state: RefCell<State>,
    /// How the peer introduced itself.
    heard: OnceCell<Introduction>,
}

#[derive(Debug)]
struct State {
    side: Side,
    carries: Carries,
    frames: frame::Reader,
    out: Out,
    streams: BTreeMap<u32, Stream>,
    /// The newest stream.
    newest: u32,
    /// A body waits for `out` to be written.
    blocked: bool,
    /// How this side introduced itself.
    told: Option<Introduction>,
    /// No more streams are begun.
    retired: bool,
    closed: Option<Error>,
    read_at: Instant,
}

/// A stream that the peer began.
#[derive(Debug)]
pub(crate) struct Begun {
    /// Its head, not read yet.
    pub(crate) head: Bytes,
    /// The request's body.
    pub(crate) incoming: Incoming,
    /// Where the response goes.
    pub(crate) outgoing: Outgoing,
}

impl Link {
    /// A new connection.
    pub(crate) fn new(side: Side, carries: Carries) -> Rc<Self> {
        let state = State {
            side,
            carries,
            frames: frame::Reader::default(),
            out: Out::default(),
            streams: BTreeMap::new(),
            newest: 0,
            blocked: false,
            told: None,
            retired: false,
            closed: None,
            read_at: clock::now(),
        };
        Rc::new(Self {
            state: RefCell::new(state),
            heard: OnceCell::new(),
        })
    }

    /// Whether another stream may be begun.
    pub(crate) fn is_open(&self) -> bool {
        let state = self.state.borrow();
        !state.retired && state.closed.is_none()
    }

    /// Begins no more streams; the connection ends with those under way.
    pub(crate) fn retire(&self) {
        let mut state = self.state.borrow_mut();
        state.retired = true;
        state.out.wake_driver();
    }

    /// How the peer introduced itself.
    pub(crate) fn heard(&self) -> Option<&Introduction> {
        self.heard.get()
    }

    /// Begins a stream with a request's head, which is all of it if `end`, and which `put_head` writes: without the introduction that
    /// it holds if it is told to.
    ///
    /// # Errors
    /// The connection is closed. Nothing was sent.
    pub(crate) fn begin(
        self: &Rc<Self>,
        introduction: Option<Introduction<&HeaderValue>>,
        put_head: impl FnOnce(&mut BytesMut, bool),
        end: bool,
    ) -> Result<(Incoming, Option<Outgoing>), Error> {
        let mut state = self.state.borrow_mut();
        if let Some(error) = state.closed {
            return Err(error);
        }
        state.newest += 1;
        let id = state.newest;
        let mut stream = Stream::new(Flow::default());
        stream.sent = end;
        stream.halves = if end { 1 } else { 2 };
        state.streams.insert(id, stream);
        let introduced = state.introduce(introduction);
        state.put_with(Kind::Head, id, end, |out| put_head(out, introduced));
        drop(state);
        let outgoing = (!end).then(|| Outgoing::new(self, id));
        Ok((Incoming::new(self, id), outgoing))
    }

    /// Begins a stream for a TCP connection.
    ///
    /// # Errors
    /// The connection is closed. Nothing was sent.
    pub(crate) fn begin_tunnel(self: &Rc<Self>) -> Result<(Incoming, Outgoing), Error> {
        let (incoming, outgoing) = self.begin(None, |_, _| (), false)?;
        outgoing
            .map(|outgoing| (incoming, outgoing))
            .ok_or(Error::Closed)
    }

    /// Whether a stream that began when so many bytes had been queued has certainly not been sent.
    pub(crate) fn is_unsent(&self, began: u64) -> bool {
        self.state.borrow().out.is_unsent(began)
    }

    /// Bytes queued so far.
    pub(crate) fn queued(&self) -> u64 {
        self.state.borrow().out.queued()
    }

    /// What is to be cancelled when the peer gives a stream up.
    pub(crate) fn cancels(&self, id: u32, task: AbortHandle) {
        if let Some(stream) = self.state.borrow_mut().streams.get_mut(&id) {
            stream.task = Some(task);
        }
    }

    /// Takes a frame of the peer's; gives the stream it begins, if it does.
    ///
    /// # Errors
    /// It breaks a rule: the connection is to be closed.
    fn take_frame(self: &Rc<Self>, frame: Frame) -> Result<Option<Begun>, Error> {
        let mut state = self.state.borrow_mut();
        let id = frame.stream;
        match frame.kind {
            Kind::GoAway => {
                state.retired = true;
                return Ok(None);
            }
            Kind::Introduction => return self.hear(frame.payload).map(|()| None),
            _ => {}
        }
        let known = state.streams.contains_key(&id);
        if !known && id > state.newest {
            return match (state.side, frame.kind) {
                (Side::Server, Kind::Head) => Ok(state.begun(&frame).then(|| {
                    drop(state);
                    Begun {
                        head: frame.payload,
                        incoming: Incoming::new(self, id),
                        outgoing: Outgoing::new(self, id),
                    }
                })),
                _ => Err(Error::Protocol("frame of a stream that was not begun")),
            };
        }
        let (side, carries) = (state.side, state.carries);
        let Some(stream) = state.streams.get_mut(&id) else {
            return Ok(None); // given up here; the peer does not know yet
        };
        match frame.kind {
            Kind::Head if side == Side::Client => stream.take_head(frame)?,
            Kind::Head => return Err(Error::Protocol("stream was begun twice")),
            Kind::Data => stream.take_data(frame)?,
            Kind::Trailers => stream.take_trailers(frame)?,
            Kind::Window => stream.take_window(frame.payload, carries)?,
            Kind::Reset => stream.fail(Error::Reset),
            Kind::Refused => stream.fail(Error::Refused),
            Kind::GoAway | Kind::Introduction => {}
        }
        Ok(None)
    }

    /// Keeps what the peer says about itself.
    fn hear(&self, payload: Bytes) -> Result<(), Error> {
        let said = Introduction::read(payload).ok_or(Error::Protocol("malformed introduction"))?;
        let again = |_| Error::Protocol("second introduction");
        self.heard.set(said).map_err(again)
    }

    /// What the peer may have under way on a stream.
    #[cfg(test)]
    pub(super) fn window(&self, id: u32) -> Option<u32> {
        let state = self.state.borrow();
        state.streams.get(&id).map(|stream| stream.flow.size)
    }

    fn state(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }
}

impl wire::Link for Link {
    type Begun = Begun;

    fn driven_by(&self, waker: &Waker) {
        self.state.borrow_mut().out.driven_by(waker);
    }

    fn may_read(&self) -> bool {
        self.state.borrow().out.len() < TOO_HIGH
    }

    fn note_read(&self) {
        self.state.borrow_mut().read_at = clock::now();
    }

    fn take(self: &Rc<Self>, read: &mut BytesMut) -> Result<Taken<Begun>, Error> {
        let Some(frame) = self.state.borrow_mut().frames.take(read)? else {
            return Ok(Taken::More);
        };
        Ok(self.take_frame(frame)?.map_or(Taken::Frame, Taken::Begun))
    }

    fn write(
        &self,
        write: impl FnMut(&[IoSlice<'_>]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        let idle = state.streams.is_empty();
        let (_, end) = state.out.write(idle, write);
        state.unblock();
        end
    }

    fn active(&self) -> usize {
        self.state.borrow().streams.len()
    }

    fn is_over(&self) -> bool {
        let state = self.state.borrow();
        // What a client sent before it was told to end may still come.
        let ends = state.side == Side::Client && state.retired;
        ends && state.streams.is_empty() && state.out.len() == 0
    }

    fn close(&self, error: Error) {
        let mut state = self.state.borrow_mut();
        state.closed = Some(error);
        state.out.discard();
        for stream in state.streams.values_mut() {
            stream.fail(error);
        }
    }
}

impl Serving for Link {
    fn go_away(&self) {
        let mut state = self.state.borrow_mut();
        if !state.retired {
            state.retired = true;
            state.put(Kind::GoAway, 0, false, &[]);
        }
    }

    fn calm(&self) {}
}

impl State {
    /// Adds a stream of the peer's, if there is a place for it.
    fn begun(&mut self, frame: &Frame) -> bool {
        self.newest = frame.stream;
        if self.streams.len() >= MOST_STREAMS {
            self.put(Kind::Refused, frame.stream, true, &[]);
            return false;
        }
        let mut stream = Stream::new(Flow::default());
        stream.has_head = true;
        stream.ended = frame.end;
        stream.halves = 2;
        self.streams.insert(frame.stream, stream);
        true
    }

    fn put(&mut self, kind: Kind, id: u32, end: bool, payload: &[u8]) {
        self.put_with(kind, id, end, |out| out.extend_from_slice(payload));
    }

    fn put_with(&mut self, kind: Kind, id: u32, end: bool, write: impl FnOnce(&mut BytesMut)) {
        if self.closed.is_some() {
            return;
        }
        self.out.append(|out| frame::put(out, kind, id, end, write));
    }

    fn put_data(&mut self, id: u32, end: bool, data: Bytes) {
        if self.closed.is_none() {
            self.out
                .append(|out| frame::put_header(out, Kind::Data, id, end, data.len()));
            self.out.pass(data);
        }
    }

    /// Lets bodies go on that had to wait.
    fn unblock(&mut self) {
        if self.blocked && self.out.len() < HIGH / 2 {
            self.blocked = false;
            for stream in self.streams.values_mut() {
                stream.wake_writer();
            }
        }
    }

    /// Ends a half of a stream; with the last one the stream is forgotten.
    fn end_half(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.halves -= 1;
        if stream.halves == 0 {
            self.streams.remove(&id);
            if self.retired && self.streams.is_empty() {
                self.out.wake_driver();
            }
        }
    }

    /// Gives a stream up, and tells the peer.
    fn abandon(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.failed.is_none() {
            stream.fail(Error::Reset);
            self.put(Kind::Reset, id, true, &[]);
        }
    }

    /// A connection on which nothing came for so long while a stream waited is not trusted with more of them.
    fn doubt(&mut self, id: u32) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if stream.is_unheard_of(self.read_at) {
            self.retired = true;
        }
    }

    /// Sends what may be sent of a body now; ready when that is all.
    fn poll_data(
        &mut self,
        id: u32,
        data: &mut Bytes,
        end: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        loop {
            let full = self.out.len() >= HIGH;
            let stream = match self.streams.get_mut(&id) {
                Some(stream) => stream,
                None => return Poll::Ready(Err(self.closed.unwrap_or(Error::Reset))),
            };
            if let Some(error) = stream.failed {
                return Poll::Ready(Err(error));
            }
            if data.is_empty() && !end {
                return Poll::Ready(Ok(()));
            }
            let most = (stream.flow.credit as usize).min(frame::MOST_DATA);
            if full || (most == 0 && !data.is_empty()) {
                stream.wait_to_write(cx);
                self.blocked |= full;
                return Poll::Pending;
            }
            let part = data.split_to(most.min(data.len()));
            stream.flow.credit -= part.len() as u32;
            let last = end && data.is_empty();
            stream.sent = last;
            self.put_data(id, last, part);
            if data.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Sends a message's trailers, which end it.
    fn send_trailers(&mut self, id: u32, trailers: &HeaderMap) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.failed.is_none() {
            stream.sent = true;
            self.put_with(Kind::Trailers, id, true, |out| {
                head::put_trailers(out, trailers);
            });
        }
    }

    /// Sends a response's head.
    fn send_response(&mut self, id: u32, parts: &http::response::Parts, end: bool) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.failed.is_none() {
            stream.sent = end;
            let introduced = self.introduce(Introduction::of(parts.headers.iter()));
            self.put_with(Kind::Head, id, end, |out| {
                head::put_response(out, parts, introduced);
            });
        }
    }

    /// Whether the next head can leave this out of itself: the peer was told, or is now.
    fn introduce(&mut self, introduction: Option<Introduction<&HeaderValue>>) -> bool {
        let Some(introduction) = introduction else {
            return false;
        };
        if let Some(told) = &self.told {
            return told.is(introduction);
        }
        let told = introduction.to_owned();
        self.put_with(Kind::Introduction, 0, false, |out| told.put(out));
        self.told = Some(told);
        true
    }

    /// Lets the peer send on what was taken, and more if that is taken faster than it comes.
    fn credit(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.ended || !stream.flow.is_half_taken() {
            return;
        }
        let mut more = std::mem::take(&mut stream.flow.taken);
        if self.carries == Carries::Tcp && !stream.has_data() {
            more += stream.flow.grow();
        }
        stream.flow.window += more;
        self.put_with(Kind::Window, id, false, |out| out.put_u32(more));
    }

    /// Lets a TCP connection in.
    fn accept(&mut self, id: u32) {
        self.put(Kind::Head, id, false, &[]);
    }

    /// Refuses a stream of which nothing was done.
    fn refuse(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.failed.is_none() {
            stream.fail(Error::Refused);
            self.put(Kind::Refused, id, true, &[]);
        }
    }
}
