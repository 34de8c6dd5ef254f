//! Moving a connection's bytes: everything that is there is read and handed out, then everything that is ready is written at once.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use super::link::{Begun, Link};
use super::{Error, frame};
use crate::net::Stream;

/// What is read at a time: a TLS record, and more once that was not enough.
const ROOM: usize = 16 * 1024;
const MORE_ROOM: usize = 64 * 1024;
/// Room that is enough to read into.
const LEAST_ROOM: usize = 4 * 1024;
/// Reads before others on the thread have a turn.
const TURNS: usize = 8;

/// A connection's stream and what was read of it.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: Stream,
    read: BytesMut,
    frames: frame::Reader,
    /// The last read took all there was room for.
    filled: bool,
}

impl Wire {
    /// A connection on which nothing was read.
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            read: BytesMut::new(),
            frames: frame::Reader::default(),
            filled: false,
        }
    }

    /// Reads and writes what can be; ready when the connection has ended. `begun` takes the streams that the peer begins.
    pub(crate) fn poll(
        &mut self,
        link: &Rc<Link>,
        cx: &mut Context<'_>,
        begun: &mut impl FnMut(Begun),
    ) -> Poll<Error> {
        link.driven_by(cx.waker());
        if let Poll::Ready(error) = self.poll_read(link, cx, begun) {
            return Poll::Ready(error);
        }
        match self.poll_write(link, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Error::Io(error.kind())),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// Closes the connection.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.stream).poll_shutdown(cx).map(drop)
    }

    fn poll_read(
        &mut self,
        link: &Rc<Link>,
        cx: &mut Context<'_>,
        begun: &mut impl FnMut(Begun),
    ) -> Poll<Error> {
        for _ in 0..TURNS {
            if !link.may_read() {
                return Poll::Pending; // writing goes on, and reading after it
            }
            if self.read.capacity() - self.read.len() < LEAST_ROOM {
                self.read
                    .reserve(if self.filled { MORE_ROOM } else { ROOM });
            }
            let room = self.read.capacity() - self.read.len();
            match poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.read) {
                Poll::Pending => {
                    if self.read.is_empty() {
                        self.read = BytesMut::new(); // an idle connection holds no memory
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(Error::Closed),
                Poll::Ready(Ok(n)) => {
                    self.filled = n == room;
                    link.note_read();
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Error::Io(error.kind())),
            }
            if let Err(error) = self.hand_out(link, begun) {
                return Poll::Ready(error);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn hand_out(&mut self, link: &Rc<Link>, begun: &mut impl FnMut(Begun)) -> Result<(), Error> {
        while let Some(frame) = self.frames.take(&mut self.read)? {
            if let Some(stream) = link.take(frame)? {
                begun(stream);
            }
        }
        Ok(())
    }

    fn poll_write(&mut self, link: &Link, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let stream = &mut self.stream;
        let written = link.write(|out| Pin::new(&mut *stream).poll_write_vectored(cx, out));
        let flushed = Pin::new(stream).poll_flush(cx)?;
        match written {
            Poll::Ready(Ok(())) => flushed.map(Ok),
            other => other,
        }
    }
}
