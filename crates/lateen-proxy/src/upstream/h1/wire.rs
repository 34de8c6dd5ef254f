//! A connection's bytes: the stream, and what was read of it and not yet used.

use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::pin::pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use http::StatusCode;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::Error;
use super::head::{self, Asked, Head};
use crate::net::Stream;
use crate::net::copy::Carrier as _;
use crate::spare;

/// What is read at a time of a head. Most heads and many whole responses fit.
const HEAD_ROOM: usize = 4 * 1024;
/// Interim responses before the one that counts.
const MOST_INTERIM: u32 = 32;

/// A connection.
#[derive(Debug)]
pub(super) struct Wire {
    /// `None` once an upgrade has taken it.
    pub(super) stream: Option<Stream>,
    /// What was read and not used.
    pub(super) buffer: BytesMut,
    most_headers: usize,
    /// Names are to be spelt as they came.
    pub(super) cased: bool,
    interim: u32,
    /// Between two requests, nothing left over from the last.
    idle: bool,
}

impl Wire {
    /// A connection that has carried nothing.
    pub(super) fn new(stream: Stream, most_headers: usize, cased: bool) -> Self {
        Self {
            stream: Some(stream),
            buffer: BytesMut::new(),
            most_headers,
            cased,
            interim: 0,
            idle: true,
        }
    }

    /// Begins a request.
    pub(super) const fn begin(&mut self) {
        self.idle = false;
        self.interim = 0;
    }

    /// The response has ended well and the request was sent whole. Bytes beyond it would be an answer to nothing.
    pub(super) fn release(&mut self) {
        self.idle = self.buffer.is_empty();
        // An idle connection holds no memory.
        spare::keep_read_buffer(std::mem::take(&mut self.buffer));
    }

    /// Whether it is between two requests.
    pub(super) const fn is_idle(&self) -> bool {
        self.idle
    }

    /// Whether it can carry a request: between two, and neither closed nor spoken on by the peer, as far as is known without asking
    /// the kernel.
    pub(super) fn is_usable(&mut self) -> bool {
        let Some(stream) = self.stream.as_mut().filter(|_| self.idle) else {
            return false;
        };
        let mut byte = [0];
        // Its end, an error and a byte nobody asked for all come out of this as something else than "not yet".
        if let Some(socket) = stream.socket() {
            let read = socket.try_read(&mut byte);
            return read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        }
        let mut read = ReadBuf::new(&mut byte);
        let cx = &mut Context::from_waker(Waker::noop());
        pin!(stream).poll_read(cx, &mut read).is_pending()
    }

    /// The socket, if what it delivers next is what comes next.
    pub(super) fn socket(&self) -> Option<&TcpStream> {
        let stream = self.stream.as_ref().filter(|_| self.buffer.is_empty())?;
        stream.socket()
    }

    /// Takes the stream for another protocol, with what was already read of it.
    pub(super) fn upgrade(&mut self) -> Option<Stream> {
        let read = self.buffer.split().freeze();
        let stream = self.stream.take()?;
        Some(if read.is_empty() {
            stream
        } else {
            stream.unread(read)
        })
    }

    /// Reads once, into room for `room` bytes; 0 is the end.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
    ) -> Poll<Result<usize, Error>> {
        let Some(stream) = self.stream.as_mut() else {
            return Poll::Ready(Err(Error::Closed));
        };
        self.buffer.reserve(room);
        poll_read_buf(pin!(stream), cx, &mut self.buffer).map_err(Error::Io)
    }

    /// Reads once what may be a head, onto the stack first: a connection whose host has yet to answer holds no buffer.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        let Some(stream) = self.stream.as_mut() else {
            return Poll::Ready(Err(Error::Closed));
        };
        let mut room = [const { MaybeUninit::uninit() }; HEAD_ROOM];
        let buffer = &mut self.buffer;
        let read = stream.poll_take(cx, &mut room, |came| {
            if buffer.is_empty() {
                *buffer = spare::read_buffer();
                buffer.reserve(HEAD_ROOM);
            }
            buffer.extend_from_slice(came);
        });
        read.map_err(Error::Io)
    }

    /// Reads until the head of the response that counts is there.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        asked: Asked,
    ) -> Poll<Result<Head, Error>> {
        loop {
            if !self.buffer.is_empty()
                && let Some(head) =
                    head::take(&mut self.buffer, (self.most_headers, self.cased), asked)?
            {
                if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS
                {
                    self.interim += 1;
                    if self.interim > MOST_INTERIM {
                        return Poll::Ready(Err(Error::Head));
                    }
                    continue;
                }
                return Poll::Ready(Ok(head));
            }
            if ready!(self.poll_ahead(cx))? == 0 {
                return Poll::Ready(Err(Error::Closed));
            }
        }
    }
}
