//! Writing a message: its head, then its body as it comes, each frame with what surrounds it in one system call.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::Body;
use tokio::io::AsyncWrite;

use crate::codec;
use crate::net::Stream;
use crate::net::copy::Carrier;
use crate::net::splice::Splice;
use crate::spare;
use crate::turn::Hold;

/// A body's first part goes out with the head if it is there already and the head is no longer than this.
const WITH_HEAD: usize = 16 * 1024;
/// A body's part no longer than this is copied behind what goes before it: the kernel takes one piece for less than it takes two.
pub(crate) const WORTH_A_COPY: usize = 4 * 1024;
/// What is left of a body goes through a pipe, where it can, if it is this much or more. Copying 64 KiB costs no more than the calls for it.
const WORTH_A_PIPE: u64 = 128 * 1024;

/// A body whose bytes nobody looks at may go from socket to socket.
pub(crate) trait Source: Body<Data = Bytes> + Unpin {
    /// Whether what comes next can.
    fn can_splice(&self) -> bool {
        false
    }

    /// Reads what comes next of the body into a pipe, in place of a frame, and says how much it is; at least a byte.
    fn poll_splice(
        &mut self,
        _cx: &mut Context<'_>,
        _pipe: &mut Splice,
    ) -> Poll<Result<usize, Self::Error>> {
        Poll::Pending
    }
}

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// So many bytes are left of it.
    Exact(u64),
    /// In chunks.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// Why a message was not written.
#[derive(Debug)]
pub(crate) enum WriteError<E> {
    /// The connection broke.
    Io(io::Error),
    /// Its body broke off.
    Body(E),
    /// Its body is not as long as its head says.
    Length,
}

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Outgoing<B> {
    /// What is to be written next: a head, a chunk's size, the end.
    frame: Vec<u8>,
    /// How much of that was written.
    framed: usize,
    /// Then this.
    data: Bytes,
    /// Then this, which ends a chunk.
    tail: Bytes,
    /// Then what is in here.
    pipe: Option<Splice>,
    body: Option<B>,
    length: Length,
    written: u64,
    flushed: bool,
    /// Its beginning waits for the others of the same turn.
    hold: Hold,
}

impl<B: Source> Outgoing<B> {
    /// A message of which nothing was written.
    pub(crate) fn new(head: Vec<u8>, body: Option<B>, length: Length) -> Self {
        Self {
            frame: head,
            framed: 0,
            data: Bytes::new(),
            tail: Bytes::new(),
            pipe: None,
            body,
            length,
            written: 0,
            flushed: false,
            hold: Hold::default(),
        }
    }

    /// Bytes of it that were written.
    pub(crate) const fn written(&self) -> u64 {
        self.written
    }

    /// Whether all of it was written.
    pub(crate) const fn is_done(&self) -> bool {
        self.flushed && self.body.is_none() && !self.has_some()
    }

    /// Whether it waits for others of the same turn, to be written with them.
    pub(crate) const fn is_held(&self) -> bool {
        self.hold.is_waiting()
    }

    /// Whether a write waits for the peer, rather than for more of the body.
    pub(crate) const fn is_stalled(&self) -> bool {
        !self.is_held() && self.has_some()
    }

    /// Whether there is something to be written now.
    const fn has_some(&self) -> bool {
        self.has_bytes() || self.is_piped()
    }

    /// The same of what is in memory.
    const fn has_bytes(&self) -> bool {
        !(self.frame.is_empty() && self.data.is_empty() && self.tail.is_empty())
    }

    const fn is_piped(&self) -> bool {
        matches!(&self.pipe, Some(pipe) if pipe.held() > 0)
    }

    /// Writes as much as can be written now; ready when all is.
    pub(crate) fn poll(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), WriteError<B::Error>>> {
        loop {
            let waits = self.wants_more() && self.next(stream, cx)?.is_pending();
            self.gather();
            ready!(self.hold.poll(cx));
            ready!(self.write(stream, cx)).map_err(WriteError::Io)?;
            if waits || self.body.is_none() {
                ready!(self.flush(stream, cx)).map_err(WriteError::Io)?;
                return if waits {
                    Poll::Pending
                } else {
                    Poll::Ready(Ok(()))
                };
            }
        }
    }

    /// Whether more of the body is asked for before anything is written.
    const fn wants_more(&self) -> bool {
        let taken = self.data.is_empty() && self.tail.is_empty() && !self.is_piped();
        taken && self.frame.len() < WITH_HEAD && self.body.is_some()
    }

    /// Takes the next frame of the body. What it encodes follows what is already to be written.
    fn next(
        &mut self,
        stream: &Stream,
        cx: &mut Context<'_>,
    ) -> Result<Poll<()>, WriteError<B::Error>> {
        let Some(body) = self.body.as_mut() else {
            return Ok(Poll::Ready(()));
        };
        if let Length::Exact(left) = &mut self.length
            && (*left >= WORTH_A_PIPE || self.pipe.is_some())
            && body.can_splice()
            && stream.socket().is_some()
            && let Some(pipe) = borrow_or_make(&mut self.pipe, Splice::new)
        {
            let Poll::Ready(moved) = body.poll_splice(cx, pipe).map_err(WriteError::Body)? else {
                return Ok(Poll::Pending);
            };
            *left = left.checked_sub(moved as u64).ok_or(WriteError::Length)?;
            if body.is_end_stream() {
                self.end()?;
            }
            return Ok(Poll::Ready(()));
        }
        let frame = match Pin::new(body).poll_frame(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(frame) => frame.transpose().map_err(WriteError::Body)?,
        };
        match frame {
            None => self.end()?,
            Some(frame) => match frame.into_data() {
                Ok(data) => self.data(data)?,
                // Trailers are not passed on in HTTP/1, as in Envoy without `enable_trailers`: few peers read them.
                Err(_trailers) => self.end()?,
            },
        }
        // A body that says so beforehand saves a further look.
        if self.body.as_ref().is_some_and(Body::is_end_stream) {
            self.end()?;
        }
        Ok(Poll::Ready(()))
    }

    fn data(&mut self, data: Bytes) -> Result<(), WriteError<B::Error>> {
        if data.is_empty() {
            return Ok(()); // an empty chunk would end the body
        }
        match &mut self.length {
            Length::Exact(left) => {
                *left = left
                    .checked_sub(data.len() as u64)
                    .ok_or(WriteError::Length)?;
            }
            Length::Chunked => {
                self.append(codec::chunk_size(data.len()));
                self.tail = Bytes::from_static(b"\r\n");
            }
            Length::UntilClose => {}
        }
        self.data = data;
        Ok(())
    }

    fn end(&mut self) -> Result<(), WriteError<B::Error>> {
        self.body = None;
        match self.length {
            Length::Exact(0) | Length::UntilClose => Ok(()),
            Length::Exact(_) => Err(WriteError::Length),
            Length::Chunked => {
                self.tail = Bytes::from_static(if self.tail.is_empty() {
                    b"0\r\n\r\n"
                } else {
                    b"\r\n0\r\n\r\n"
                });
                Ok(())
            }
        }
    }

    fn append(&mut self, bytes: Vec<u8>) {
        if self.frame.is_empty() {
            self.frame = bytes;
        } else {
            self.frame.extend_from_slice(&bytes);
        }
    }

    /// Puts a small part behind what goes before it, so that one buffer holds all there is to write, and lets go of where it was read to.
    fn gather(&mut self) {
        if self.frame.is_empty() || self.data.len() > WORTH_A_COPY {
            return;
        }
        for part in [&mut self.data, &mut self.tail] {
            if !part.is_empty() {
                self.frame.extend_from_slice(part);
                *part = Bytes::new();
            }
        }
    }

    fn write(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.has_bytes() {
            let frame = &self.frame[self.framed..];
            let stream = Pin::new(&mut *stream);
            let written = match (frame, &self.data[..], &self.tail[..]) {
                (one, [], []) | ([], one, []) | ([], [], one) => stream.poll_write(cx, one),
                (frame, data, tail) => {
                    let parts = [frame, data, tail].map(IoSlice::new);
                    stream.poll_write_vectored(cx, &parts)
                }
            };
            let n = ready!(written)?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wrote(n);
        }
        self.drain(stream, cx)
    }

    /// Writes what is in the pipe.
    fn drain(&mut self, stream: &Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (Some(pipe), Some(socket)) = (&mut self.pipe, stream.socket()) else {
            return Poll::Ready(Ok(()));
        };
        while pipe.held() > 0 {
            self.written += ready!(pipe.poll_drain(cx, socket))? as u64;
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, mut n: usize) {
        self.written += n as u64;
        self.flushed = false;
        let taken = n.min(self.frame.len() - self.framed);
        self.framed += taken;
        n -= taken;
        if self.framed == self.frame.len() {
            spare::keep_buffer(std::mem::take(&mut self.frame));
            self.framed = 0;
        }
        for part in [&mut self.data, &mut self.tail] {
            let taken = n.min(part.len());
            part.advance(taken);
            n -= taken;
            if part.is_empty() {
                *part = Bytes::new(); // lets go of the buffer
            }
        }
    }

    fn flush(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.flushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

/// What is there, or what can be made.
fn borrow_or_make<T>(slot: &mut Option<T>, make: impl FnOnce() -> Option<T>) -> Option<&mut T> {
    if slot.is_none() {
        *slot = make();
    }
    slot.as_mut()
}
