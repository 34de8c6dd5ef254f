//! A client's connection: the stream, what was read of it and not yet used, and how far its request's body was read.

use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use tokio::io::{AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_util::io::poll_read_buf;

use super::head::{self, Framing, Head, Limits};
use super::{BodyError, Refusal};
use crate::codec::chunked::{Chunked, Step};
use crate::net::Stream;
use crate::net::copy::Carrier as _;
use crate::net::splice::Splice;

/// What is read at a time while a head is waited for, onto the stack: an idle connection holds no memory.
const HEAD_ROOM: usize = 8 * 1024;
/// The most that is read at a time of a body.
const MOST_ROOM: usize = 64 * 1024;
/// What is read at a time of a body whose length is not known.
const USUAL_ROOM: usize = 16 * 1024;
/// Bytes of requests sent ahead that are read before the client has its answer. The rest stays with the kernel.
const MOST_AHEAD: usize = 16 * 1024;
/// Bytes of a body nobody reads that are read so that its connection need not be closed.
const MOST_DRAINED: usize = 64 * 1024;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A connection.
#[derive(Debug)]
pub(super) struct Wire {
    /// `None` once an upgrade has taken it.
    stream: Option<Stream>,
    buffer: BytesMut,
    /// Bytes of the buffer that are known to hold no end of a head.
    scanned: usize,
    reading: Reading,
    /// The trailers are passed on.
    trailers: bool,
    /// Requests so far, by which a body knows its own.
    number: u64,
    /// The client waits for `100 Continue` before it sends its body.
    waits: bool,
    /// What is left to be written of that.
    interim: &'static [u8],
    /// Who takes the stream after an upgrade.
    heir: Option<oneshot::Sender<Stream>>,
}

#[derive(Debug)]
enum Reading {
    Done,
    Length(u64),
    Chunked(Chunked),
    Broken,
}

impl Wire {
    pub(super) fn new(stream: Stream, trailers: bool) -> Self {
        Self {
            stream: Some(stream),
            buffer: BytesMut::new(),
            scanned: 0,
            reading: Reading::Done,
            trailers,
            number: 0,
            waits: false,
            interim: b"",
            heir: None,
        }
    }

    /// The stream, for writing; what is left of an interim answer belongs before anything else.
    pub(super) const fn writer(&mut self) -> Option<&mut Stream> {
        self.stream.as_mut()
    }

    /// The request that is being answered.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// Whether nothing of a further request was read.
    pub(super) fn is_between(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Reads until a request's head is there; `None` at the connection's end.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        limits: &Limits,
    ) -> Poll<Result<Option<Head>, Refusal>> {
        loop {
            if !self.buffer.is_empty()
                && let Some(head) = head::take(&mut self.buffer, &mut self.scanned, limits)?
            {
                self.begin(&head);
                return Poll::Ready(Ok(Some(head)));
            }
            match ready!(self.poll_ahead(cx)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(Ok(None)),
            }
        }
    }

    fn begin(&mut self, head: &Head) {
        self.number += 1;
        self.waits = head.waits;
        self.heir = None;
        self.reading = match head.framing {
            Framing::Length(0) => Reading::Done,
            Framing::Length(length) => Reading::Length(length),
            Framing::Chunked => Reading::Chunked(Chunked::new()),
            Framing::Unknown => Reading::Broken,
        };
    }

    /// Reads once what may be a head.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(stream) = self.stream.as_mut() else {
            return Poll::Ready(Ok(0));
        };
        let mut room = [const { MaybeUninit::uninit() }; HEAD_ROOM];
        stream.poll_take(cx, &mut room, |came| self.buffer.extend_from_slice(came))
    }

    /// Whether nothing came since the connection was last read to its end. It wakes whoever asked for more then, once there is any.
    pub(super) fn is_quiet(&self) -> bool {
        let nothing = |socket: &TcpStream| socket.try_io(Interest::READABLE, || Ok(())).is_err();
        self.socket().is_some_and(nothing)
    }

    /// Whether the client went away while it is answered. Requests that it sends ahead are read up to a limit meanwhile.
    pub(super) fn is_gone(&mut self, cx: &mut Context<'_>) -> bool {
        while self.is_read() && self.buffer.len() < MOST_AHEAD {
            match self.poll_ahead(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return true,
                Poll::Pending => return false,
            }
        }
        false
    }

    /// Whether the request's body was read to its end.
    pub(super) const fn is_read(&self) -> bool {
        matches!(self.reading, Reading::Done)
    }

    /// The length of what is left of the body, if it is known.
    pub(super) const fn left(&self) -> Option<u64> {
        match self.reading {
            Reading::Done => Some(0),
            Reading::Length(left) => Some(left),
            Reading::Chunked(_) | Reading::Broken => None,
        }
    }

    /// The next frame of the body of a request.
    pub(super) fn poll_body(
        &mut self,
        number: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if number != self.number {
            return Poll::Ready(Some(Err(BodyError::Closed)));
        }
        // As Envoy does: told even if some of the body came unasked.
        if std::mem::take(&mut self.waits) {
            self.interim = CONTINUE;
        }
        if let Err(error) = ready!(self.poll_interim(cx)) {
            self.reading = Reading::Broken;
            return Poll::Ready(Some(Err(BodyError::Io(error))));
        }
        let read = match &mut self.reading {
            Reading::Done => return Poll::Ready(None),
            Reading::Broken => Err(BodyError::Closed),
            Reading::Length(left) => {
                let left = *left;
                ready!(self.poll_length(left, cx)).map(|data| Some(Frame::data(data)))
            }
            Reading::Chunked(_) => ready!(self.poll_chunked(cx)).map(|step| match step {
                Step::Data(data) => Some(Frame::data(data)),
                Step::End(trailers) => self.end(trailers),
                Step::NeedMore => None,
            }),
        };
        if read.is_err() {
            self.reading = Reading::Broken;
        }
        Poll::Ready(read.transpose())
    }

    /// Whether what comes next of the body of a request can go from socket to socket.
    pub(super) fn can_splice(&self, number: u64) -> bool {
        let told = !self.waits && self.interim.is_empty();
        let next = number == self.number && matches!(self.reading, Reading::Length(_));
        told && next && self.socket().is_some()
    }

    /// The socket, if what it delivers next is what comes next.
    fn socket(&self) -> Option<&TcpStream> {
        let stream = self.stream.as_ref().filter(|_| self.buffer.is_empty())?;
        stream.socket()
    }

    /// Reads what comes next of the body into a pipe; how much it is, never nothing.
    pub(super) fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Splice,
    ) -> Poll<Result<usize, BodyError>> {
        let (&Reading::Length(left), Some(socket)) = (&self.reading, self.socket()) else {
            return Poll::Ready(Err(BodyError::Closed));
        };
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        match ready!(pipe.poll_fill(cx, socket, most)) {
            Ok(moved @ 1..) => {
                self.took(left, moved);
                Poll::Ready(Ok(moved))
            }
            failed => {
                self.reading = Reading::Broken;
                let error = failed.map_or_else(BodyError::Io, |_| BodyError::Closed);
                Poll::Ready(Err(error))
            }
        }
    }

    /// So many bytes of what was `left` of the body were taken.
    fn took(&mut self, left: u64, bytes: usize) {
        self.reading = match left.saturating_sub(bytes as u64) {
            0 => Reading::Done,
            left => Reading::Length(left),
        };
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Option<Frame<Bytes>> {
        self.reading = Reading::Done;
        // Without `enable_trailers` they are read and left out, as in Envoy.
        trailers.filter(|_| self.trailers).map(Frame::trailers)
    }

    fn poll_length(&mut self, left: u64, cx: &mut Context<'_>) -> Poll<Result<Bytes, BodyError>> {
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        if self.buffer.is_empty() {
            ready!(self.poll_fill(cx, most.min(MOST_ROOM)))?;
        }
        let data = self.buffer.split_to(most.min(self.buffer.len())).freeze();
        self.took(left, data.len());
        Poll::Ready(Ok(data))
    }

    fn poll_chunked(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, BodyError>> {
        loop {
            let Reading::Chunked(decoder) = &mut self.reading else {
                return Poll::Ready(Err(BodyError::Closed));
            };
            match decoder.decode(&mut self.buffer) {
                Ok(Step::NeedMore) => ready!(self.poll_fill(cx, USUAL_ROOM))?,
                Ok(step) => return Poll::Ready(Ok(step)),
                Err(wrong) => return Poll::Ready(Err(BodyError::Chunked(wrong))),
            }
        }
    }

    /// Reads once of a body.
    fn poll_fill(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<Result<(), BodyError>> {
        let Some(stream) = self.stream.as_mut() else {
            return Poll::Ready(Err(BodyError::Closed));
        };
        self.buffer.reserve(room);
        match ready!(poll_read_buf(pin!(stream), cx, &mut self.buffer)) {
            Ok(0) => Poll::Ready(Err(BodyError::Closed)),
            Ok(_) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(BodyError::Io(error))),
        }
    }

    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let (Some(stream), false) = (self.stream.as_mut(), self.interim.is_empty()) {
            let n = ready!(Pin::new(&mut *stream).poll_write(cx, self.interim))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim = &self.interim[n..];
            if self.interim.is_empty() {
                // What a TLS session could not send yet goes out with what follows.
                let _ = Pin::new(stream).poll_flush(cx)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The answer begins: what is left of an interim one, to go before it. A client that still waits sends no body.
    pub(super) const fn take_interim(&mut self) -> &'static [u8] {
        self.waits = false;
        std::mem::replace(&mut self.interim, b"")
    }

    /// Whether the connection can carry another request after this one: its body was read, or what is left of it is there already.
    pub(super) fn is_clean(&mut self, cx: &mut Context<'_>) -> bool {
        let mut drained = 0;
        while !self.is_read() && drained < MOST_DRAINED {
            match self.poll_body(self.number, cx) {
                Poll::Ready(Some(Ok(frame))) => drained += frame.data_ref().map_or(0, Bytes::len),
                Poll::Ready(None) => break,
                Poll::Ready(Some(Err(_))) | Poll::Pending => return false,
            }
        }
        self.is_read()
    }

    /// Who asks for the stream after an upgrade.
    pub(super) fn upgrade(&mut self) -> oneshot::Receiver<Stream> {
        let (heir, stream) = oneshot::channel();
        self.heir = Some(heir);
        stream
    }

    /// Gives the stream to whoever asked for it, with what was read of it beyond the request.
    pub(super) fn hand_over(&mut self) {
        let (Some(heir), Some(stream)) = (self.heir.take(), self.stream.take()) else {
            return;
        };
        let read = self.buffer.split().freeze();
        // Whoever asked may be gone; the stream is closed then.
        let _ = heir.send(if read.is_empty() {
            stream
        } else {
            stream.unread(read)
        });
    }

    /// Ends the direction towards the client.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.stream.as_mut() {
            Some(stream) => Pin::new(stream).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Reads and forgets; how much it was, 0 at the end.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buffer = BytesMut::new();
        self.poll_ahead(cx)
    }
}
