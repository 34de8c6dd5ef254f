//! Moving a connection's bytes: everything that is there is read and handed out, then everything that is ready is written at once.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use super::Error;
use crate::net::Stream;

/// What is read at a time: a TLS record, and more once that was not enough.
const ROOM: usize = 16 * 1024;
const MORE_ROOM: usize = 64 * 1024;
/// Room that is enough to read into.
const LEAST_ROOM: usize = 4 * 1024;
/// Reads before others on the thread have a turn.
const TURNS: usize = 8;

thread_local! {
    /// What connections of a thread read into while they have nothing to keep of it.
    static SPARE: Cell<BytesMut> = Cell::default();
}

/// A connection's state, which its streams and what moves its bytes share.
pub(crate) trait Link {
    /// A stream that the peer began.
    type Begun;

    /// Whom to wake when there is something to write.
    fn driven_by(&self, waker: &Waker);

    /// Whether anything may be read now.
    fn may_read(&self) -> bool;

    /// Notes that bytes arrived.
    fn note_read(&self);

    /// Takes a frame out of what was read.
    ///
    /// # Errors
    /// It breaks a rule: the connection is to be closed.
    fn take(self: &Rc<Self>, read: &mut BytesMut) -> Result<Taken<Self::Begun>, Error>;

    /// Writes what is there by a function that says how much it took.
    fn write(
        &self,
        write: impl FnMut(&[IoSlice<'_>]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>>;

    /// Streams under way.
    fn active(&self) -> usize;

    /// Whether nothing is left to do, and nothing can come.
    fn is_over(&self) -> bool;

    /// Ends the connection: every stream fails.
    fn close(&self, error: Error);
}

/// What came of looking for a frame.
#[derive(Debug)]
pub(crate) enum Taken<B> {
    /// None is there whole.
    More,
    /// One was taken.
    Frame,
    /// One was taken that begins a stream.
    Begun(B),
}

/// A connection's stream and what was read of it.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: Stream,
    read: BytesMut,
    /// The last read took all there was room for.
    filled: bool,
    /// Nothing was read because too much waits to be written.
    paused: bool,
}

impl Wire {
    /// A connection on which nothing was read.
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            read: BytesMut::new(),
            filled: false,
            paused: false,
        }
    }

    /// Reads and writes what can be; ready when the connection has ended. `begun` takes the streams that the peer begins.
    pub(crate) fn poll<L: Link>(
        &mut self,
        link: &Rc<L>,
        cx: &mut Context<'_>,
        begun: &mut impl FnMut(L::Begun),
    ) -> Poll<Error> {
        link.driven_by(cx.waker());
        if let Poll::Ready(error) = self.poll_read(link, cx, begun) {
            return Poll::Ready(error);
        }
        if let Poll::Ready(Err(error)) = self.poll_write(&**link, cx) {
            return Poll::Ready(Error::Io(error.kind()));
        }
        if self.paused && link.may_read() {
            cx.waker().wake_by_ref(); // nothing else says that there is more to be read
        }
        Poll::Pending
    }

    /// Writes what is left, and closes the connection.
    pub(crate) fn poll_close(&mut self, link: &impl Link, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.poll_write(link, cx)).is_err() {
            return Poll::Ready(());
        }
        Pin::new(&mut self.stream).poll_shutdown(cx).map(drop)
    }

    fn poll_read<L: Link>(
        &mut self,
        link: &Rc<L>,
        cx: &mut Context<'_>,
        begun: &mut impl FnMut(L::Begun),
    ) -> Poll<Error> {
        for _ in 0..TURNS {
            self.paused = !link.may_read();
            if self.paused {
                return Poll::Pending; // writing goes on, and reading after it
            }
            self.make_room();
            let room = self.read.capacity() - self.read.len();
            match poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.read) {
                Poll::Pending => {
                    if self.read.is_empty() {
                        SPARE.set(std::mem::take(&mut self.read)); // an idle connection holds no memory
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

    fn make_room(&mut self) {
        if self.read.capacity() == 0 {
            self.read = SPARE.take();
        }
        if self.read.capacity() - self.read.len() < LEAST_ROOM {
            self.read
                .reserve(if self.filled { MORE_ROOM } else { ROOM });
        }
    }

    fn hand_out<L: Link>(
        &mut self,
        link: &Rc<L>,
        begun: &mut impl FnMut(L::Begun),
    ) -> Result<(), Error> {
        loop {
            match link.take(&mut self.read)? {
                Taken::More => return Ok(()),
                Taken::Frame => {}
                Taken::Begun(stream) => begun(stream),
            }
        }
    }

    fn poll_write(&mut self, link: &impl Link, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let stream = &mut self.stream;
        let written = link.write(|out| Pin::new(&mut *stream).poll_write_vectored(cx, out));
        let flushed = Pin::new(stream).poll_flush(cx)?;
        match written {
            Poll::Ready(Ok(())) => flushed.map(Ok),
            other => other,
        }
    }
}
