//! Bytes from socket to socket through a pipe, without coming to user space.
//!
//! A pipe holds so many pieces, and what a socket received comes in pieces of a page: sixteen of them, which is what a pipe has room for
//! at first, are 64 KiB, and whoever is written to is woken for each 64 KiB. So some pipes of a worker are made larger.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// The room of a large pipe. Bytes for which no pipe would be filled are not worth one.
const ROOM: usize = 512 * 1024;
/// As many pipes of a worker are made large: the kernel lets a user have 64 MiB of room in pipes (`pipe-user-pages-soft`).
const MOST_LARGE: usize = 32;
/// As many pipes a worker has at a time. Who gets none copies.
const MOST: usize = 512;
/// As many are kept for the next transfer.
const MOST_KEPT: usize = 8;
/// As much is moved before others have their turn.
const STINT: usize = 1024 * 1024;

thread_local! {
    static PIPES: RefCell<Pipes> = const { RefCell::new(Pipes { kept: Vec::new(), open: 0 }) };
}

/// A worker's pipes.
struct Pipes {
    kept: Vec<Pipe>,
    open: usize,
}

#[derive(Debug)]
struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

impl Pipe {
    fn open(large: bool) -> Option<Self> {
        let (out, into) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
        if large {
            // A small one does as well, only slower.
            let _ = fcntl_setpipe_size(&into, ROOM);
        }
        Some(Self { out, into })
    }
}

/// A pipe between two sockets.
#[derive(Debug)]
pub(crate) struct Splice {
    /// Always there but while it is dropped.
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    held: usize,
    /// Bytes since others had their turn.
    moved: usize,
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

impl Splice {
    /// A pipe; `None` if there is none to be had, which costs speed and nothing else.
    pub(crate) fn new() -> Option<Self> {
        PIPES.with_borrow_mut(|pipes| {
            if pipes.open >= MOST {
                return None;
            }
            let kept = pipes.kept.pop();
            let pipe = kept.or_else(|| Pipe::open(pipes.open < MOST_LARGE))?;
            pipes.open += 1;
            Some(Self {
                pipe: Some(pipe),
                held: 0,
                moved: 0,
            })
        })
    }

    /// Bytes that were read and not yet written.
    pub(crate) const fn held(&self) -> usize {
        self.held
    }

    /// Reads up to `most` bytes; ready with how many, 0 at the end. To be called when nothing is held.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        if std::mem::take(&mut self.moved) >= STINT {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(pipe) = &self.pipe else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let most = most.min(ROOM);
        let n = ready!(poll_io(cx, from, Interest::READABLE, || Ok(splice(
            from, None, &pipe.into, None, most, FLAGS
        )?)))?;
        self.held += n;
        Poll::Ready(Ok(n))
    }

    /// Writes what is held; ready with how many bytes it was.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        to: &TcpStream,
    ) -> Poll<io::Result<usize>> {
        let Some(pipe) = &self.pipe else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let n = ready!(poll_io(cx, to, Interest::WRITABLE, || Ok(splice(
            &pipe.out, None, to, None, self.held, FLAGS
        )?)))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.held = self.held.saturating_sub(n);
        self.moved += n;
        Poll::Ready(Ok(n))
    }
}

impl Drop for Splice {
    fn drop(&mut self) {
        let (pipe, empty) = (self.pipe.take(), self.held == 0);
        // A thread that ends has closed its pipes by then.
        let _ = PIPES.try_with(|pipes| {
            let mut pipes = pipes.borrow_mut();
            pipes.open -= 1;
            if empty && pipes.kept.len() < MOST_KEPT {
                pipes.kept.extend(pipe);
            }
        });
    }
}

/// Does what a socket is ready for, when it is.
fn poll_io(
    cx: &mut Context<'_>,
    socket: &TcpStream,
    interest: Interest,
    mut act: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        if interest.is_readable() {
            ready!(socket.poll_read_ready(cx))?;
        } else {
            ready!(socket.poll_write_ready(cx))?;
        }
        match socket.try_io(interest, &mut act) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}
