//! A connection's state, which its streams and the task that moves its bytes share: what is to be written, and what was read for whom.
//!
//! Everything happens on one thread. A stream has up to two halves, [`Incoming`] and [`Outgoing`]; a half that is dropped before its
//! message is complete gives the stream up. What a peer can make this hold is bounded: streams by [`Settings::streams`], bytes of bodies by
//! the windows, heads by [`Settings::limits`], and reading stops while too much waits to be written.

mod flow;
mod stream;
mod take;

use std::cell::{RefCell, RefMut};
use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use tokio::task::AbortHandle;
use tokio::time::Instant;

pub(crate) use self::stream::{Incoming, Outgoing};

use self::stream::{Flow, Stream};
use self::take::{Block, Rest};
use super::frame::{self, Reason, flag, kind};
use super::head::{self, Refused, RequestHead};
use super::hpack::{Decoder, Encoder};
use super::settings::{DEFAULT_WINDOW, Peer, Settings};
use crate::clock;
use crate::http::date::Date;
use crate::streams::out::Out;
use crate::streams::wire::{self, Taken};
use crate::streams::{Error, HIGH, TOO_HIGH};

/// Bytes of answers to what the peer sends for its own sake (pings, settings, frames of streams that are over) that may wait to be
/// written before nothing more is read.
const MOST_OWED: usize = 16 * 1024;
/// Streams that a server is taken to allow before it says how many: what the protocol asks of it at least (RFC 9113 section 6.5.2).
const UNTOLD: usize = 100;
/// Streams that were ended here lately, whose frames may still come.
const LATELY: usize = 256;
/// Places for streams that are kept when there are none.
const KEPT: usize = 64;
/// The ping that tells when the peer has read that it should begin no more streams.
const LAST_CALL: [u8; 8] = *b"lastcall";
/// The ping that asks whether the peer is still there.
const ALIVE: [u8; 8] = *b"alive...";

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// It begins streams.
    Client,
    /// It answers them.
    Server,
}

/// How far the end of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Streams may be begun.
    Open,
    /// The client was asked to begin no more, and may not have read it.
    Asked,
    /// No more are begun.
    Last,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Link(RefCell<State>);

#[derive(Debug)]
struct State {
    side: Side,
    settings: Settings,
    peer: Peer,
    out: Out,
    /// See [`MOST_OWED`].
    owed: usize,
    streams: HashMap<u32, Stream, foldhash::fast::RandomState>,
    /// The newest stream.
    newest: u32,
    /// See [`LATELY`].
    lately: VecDeque<u32>,
    encoder: Encoder,
    decoder: Decoder,
    /// The block that is being received.
    block: Option<Block>,
    /// What is to come of a DATA frame.
    rest: Option<Rest>,
    greeting: Greeting,
    /// What may still be sent, on all streams together.
    credit: i64,
    /// What the peer may still send, and what it was not told yet that it may send again.
    window: i64,
    untold: u32,
    /// Streams that have more to send than the connection takes.
    waiting: VecDeque<u32>,
    useless: take::Useless,
    stage: Stage,
    closed: Option<Error>,
    read_at: Instant,
    /// A ping was not answered yet.
    pinged: bool,
    date: Date,
}

/// How much of the beginning was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeting {
    Preface,
    Settings,
    Done,
}

/// A stream that the peer began.
#[derive(Debug)]
pub(crate) struct Begun {
    /// Its head, if that can be taken.
    pub(crate) head: Result<RequestHead, Refused>,
    /// The request's body.
    pub(crate) incoming: Incoming,
    /// Where the response goes.
    pub(crate) outgoing: Outgoing,
}

impl Link {
    /// A connection that a client made.
    pub(crate) fn server(settings: Settings) -> Rc<Self> {
        Self::new(Side::Server, settings)
    }

    /// A connection to a server.
    pub(crate) fn client(settings: Settings) -> Rc<Self> {
        Self::new(Side::Client, settings)
    }

    fn new(side: Side, settings: Settings) -> Rc<Self> {
        let settings = settings.at_least_the_default();
        let mut out = Out::default();
        out.append(|out| {
            if side == Side::Client {
                out.put_slice(frame::PREFACE);
            }
            settings.put(out, side == Side::Server);
        });
        Rc::new(Self(RefCell::new(State {
            side,
            peer: Peer::default(),
            out,
            owed: 0,
            streams: HashMap::default(),
            newest: 0,
            lately: VecDeque::new(),
            encoder: Encoder::default(),
            decoder: Decoder::default(),
            block: None,
            rest: None,
            greeting: match side {
                Side::Server => Greeting::Preface,
                Side::Client => Greeting::Settings,
            },
            credit: i64::from(DEFAULT_WINDOW),
            window: i64::from(settings.connection_window),
            untold: 0,
            waiting: VecDeque::new(),
            useless: take::Useless::default(),
            stage: Stage::Open,
            closed: None,
            read_at: clock::now(),
            pinged: false,
            date: Date::default(),
            settings,
        })))
    }

    /// Streams the peer allows at a time.
    pub(crate) fn allowed(&self) -> usize {
        let state = self.0.borrow();
        match state.greeting {
            Greeting::Done => state.peer.streams as usize,
            Greeting::Preface | Greeting::Settings => UNTOLD,
        }
    }

    /// Whether another stream may be begun.
    pub(crate) fn is_open(&self) -> bool {
        let state = self.0.borrow();
        // Numbers are not used twice; a connection that has none left makes room for another one.
        state.stage == Stage::Open && state.closed.is_none() && state.newest < u32::MAX / 2 - 1
    }

    /// Begins no more streams; the connection ends with those under way.
    pub(crate) fn retire(&self) {
        let mut state = self.0.borrow_mut();
        state.stage = Stage::Last;
        state.out.wake_driver();
    }

    /// Asks the client to begin no more streams. Those that it began before it read that are still answered (RFC 9113 section 6.8).
    pub(crate) fn go_away(&self) {
        let mut state = self.0.borrow_mut();
        if state.stage == Stage::Open {
            state.stage = Stage::Asked;
            state.put_goaway(u32::MAX >> 1, Reason::None);
            state.put(kind::PING, 0, 0, &LAST_CALL);
        }
    }

    /// Returns once the peer leaves a ping unanswered for `timeout`; it is sent one every `interval`.
    pub(crate) async fn is_lost(&self, interval: Duration, timeout: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            self.state().ping();
            tokio::time::sleep(timeout).await;
            if self.0.borrow().pinged {
                return;
            }
        }
    }

    /// Begins a stream with a request's head, which is all of it if `end`. What answers it has no body, whatever it says, if `bodiless`.
    ///
    /// # Errors
    /// The connection is closed. Nothing was sent.
    pub(crate) fn begin(
        self: &Rc<Self>,
        put_head: impl FnOnce(&mut Encoder, &mut BytesMut),
        bodiless: bool,
        end: bool,
    ) -> Result<(Incoming, Option<Outgoing>), Error> {
        let mut state = self.0.borrow_mut();
        if let Some(error) = state.closed {
            return Err(error);
        }
        let id = if state.newest == 0 {
            1
        } else {
            state.newest + 2
        };
        state.newest = id;
        let mut stream = state.stream();
        stream.sent = end;
        stream.halves = if end { 1 } else { 2 };
        stream.flow.bodiless = bodiless;
        state.streams.insert(id, stream);
        state.put_block(id, end, put_head);
        drop(state);
        let outgoing = (!end).then(|| Outgoing::new(self, id));
        Ok((Incoming::new(self, id), outgoing))
    }

    /// Whether a stream that began when so many bytes had been queued has certainly not been sent.
    pub(crate) fn is_unsent(&self, began: u64) -> bool {
        self.0.borrow().out.is_unsent(began)
    }

    /// Bytes queued so far.
    pub(crate) fn queued(&self) -> u64 {
        self.0.borrow().out.queued()
    }

    /// What is to be cancelled when the peer gives a stream up.
    pub(crate) fn cancels(&self, id: u32, task: AbortHandle) {
        if let Some(stream) = self.0.borrow_mut().streams.get_mut(&id) {
            stream.task = Some(task);
        }
    }

    /// Ends the connection because the client asks for too much of it.
    pub(crate) fn calm(&self) {
        let mut state = self.0.borrow_mut();
        let newest = state.newest;
        state.put_goaway(newest, Reason::EnhanceYourCalm);
    }

    fn state(&self) -> RefMut<'_, State> {
        self.0.borrow_mut()
    }
}

impl wire::Link for Link {
    type Begun = Begun;

    fn driven_by(&self, waker: &Waker) {
        self.0.borrow_mut().out.driven_by(waker);
    }

    fn may_read(&self) -> bool {
        let state = self.0.borrow();
        // A client's own requests wait to be written, too: were they to count, two peers could wait for each other.
        let much = state.side == Side::Server && state.out.len() >= TOO_HIGH;
        !much && state.owed < MOST_OWED
    }

    fn note_read(&self) {
        self.0.borrow_mut().read_at = clock::now();
    }

    fn take(self: &Rc<Self>, read: &mut BytesMut) -> Result<Taken<Begun>, Error> {
        let mut state = self.0.borrow_mut();
        match state.take(read) {
            Ok(take::Took::More) => Ok(Taken::More),
            Ok(take::Took::Frame) => Ok(Taken::Frame),
            Ok(take::Took::Begun(id, head)) => {
                drop(state);
                Ok(Taken::Begun(Begun {
                    head,
                    incoming: Incoming::new(self, id),
                    outgoing: Outgoing::new(self, id),
                }))
            }
            Err(take::Broken(reason, why)) => {
                let newest = state.newest;
                state.put_goaway(newest, reason);
                Err(Error::Protocol(why))
            }
        }
    }

    fn write(
        &self,
        write: impl FnMut(&[IoSlice<'_>]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        let idle = state.streams.is_empty();
        let (written, end) = state.out.write(idle, write);
        state.wrote(written);
        end
    }

    fn active(&self) -> usize {
        self.0.borrow().streams.len()
    }

    fn is_over(&self) -> bool {
        let state = self.0.borrow();
        state.stage == Stage::Last && state.streams.is_empty() && state.out.len() == 0
    }

    fn close(&self, error: Error) {
        let mut state = self.0.borrow_mut();
        state.closed = Some(error);
        if matches!(error, Error::Io(_)) {
            state.out.discard();
        }
        let streams = state.streams.values_mut();
        streams.for_each(|stream| stream.fail(error));
    }
}

impl State {
    fn ping(&mut self) {
        self.pinged = true;
        self.put(kind::PING, 0, 0, &ALIVE);
    }

    /// A stream that begins now.
    fn stream(&self) -> Stream {
        Stream::new(Flow {
            window: i64::from(self.settings.stream_window),
            credit: i64::from(self.peer.window),
            ..Flow::default()
        })
    }

    fn put(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        self.out
            .append(|out| frame::put(out, kind, flags, id, payload));
    }

    fn put_goaway(&mut self, last: u32, reason: Reason) {
        let mut payload = [0; 8];
        payload[..4].copy_from_slice(&last.to_be_bytes());
        payload[4..].copy_from_slice(&(reason as u32).to_be_bytes());
        self.put(kind::GOAWAY, 0, 0, &payload);
    }

    fn put_reset(&mut self, id: u32, reason: Reason) {
        if self.lately.len() == LATELY {
            self.lately.pop_front();
        }
        self.lately.push_back(id);
        self.put(kind::RST_STREAM, 0, id, &(reason as u32).to_be_bytes());
    }

    /// Puts what the peer alone caused.
    fn owe(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        self.owed += frame::HEADER + payload.len();
        self.put(kind, flags, id, payload);
    }

    fn put_block(&mut self, id: u32, end: bool, write: impl FnOnce(&mut Encoder, &mut BytesMut)) {
        if self.closed.is_some() {
            return;
        }
        let most = self.peer.frame;
        let encoder = &mut self.encoder;
        self.out
            .append(|out| frame::put_block(out, id, end, most, |out| write(encoder, out)));
    }

    fn put_data(&mut self, id: u32, end: bool, data: Bytes) {
        let header = frame::Header {
            length: data.len(),
            kind: kind::DATA,
            flags: if end { flag::END_STREAM } else { 0 },
            stream: id,
        };
        self.out.append(|out| header.put(out));
        self.out.pass(data);
        self.useless.reset();
    }

    fn wrote(&mut self, n: usize) {
        self.owed = self.owed.saturating_sub(n);
        if self.out.len() < HIGH / 2 && self.credit > 0 {
            self.wake_waiting();
        }
    }

    fn wake_waiting(&mut self) {
        while let Some(id) = self.waiting.pop_front() {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.flow.waits = false;
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
            if self.streams.is_empty() {
                if self.streams.capacity() > KEPT {
                    self.streams = HashMap::default();
                }
                if self.stage == Stage::Last {
                    self.out.wake_driver();
                }
            }
        }
    }

    /// Gives a stream up, and tells the peer.
    fn abandon(&mut self, id: u32, reason: Reason) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.failed.is_none() {
            stream.fail(Error::Reset);
            if self.closed.is_none() {
                self.put_reset(id, reason);
            }
        }
    }

    /// A connection on which nothing came for so long while a stream waited is not trusted with more of them.
    fn doubt(&mut self, id: u32) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if stream.is_unheard_of(self.read_at) {
            self.stage = Stage::Last;
        }
    }

    /// Sends a response's head, and the length of its body if that is known and the head does not say it.
    fn send_response(
        &mut self,
        id: u32,
        head: (StatusCode, &HeaderMap),
        length: Option<u64>,
        end: bool,
    ) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.failed.is_none() {
            stream.sent = end;
            let date = self.date.value().clone();
            self.put_block(id, end, |encoder, out| {
                head::put_response(encoder, out, head, &date, length);
            });
        }
    }

    /// Ends a message without another word.
    fn send_end(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.failed.is_none() && !stream.sent {
            stream.sent = true;
            self.put_data(id, true, Bytes::new());
        }
    }

    /// Sends a message's trailers, which end it.
    fn send_trailers(&mut self, id: u32, trailers: &HeaderMap) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.failed.is_none() {
            stream.sent = true;
            self.put_block(id, true, |encoder, out| {
                head::put_trailers(encoder, out, trailers);
            });
        }
    }
}
