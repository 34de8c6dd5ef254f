//! Bytes from socket to socket through a pipe, without coming to user space.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::one_way::Side;

/// The most that is asked for at once; a pipe holds sixteen pieces of what the socket received.
const MOST: usize = 1 << 20;
/// A move of less than this is not worth a pipe…
const WORTH: usize = 8 * 1024;
/// …after so many of them in a row.
const PATIENCE: u32 = 16;

/// A pipe between two sockets.
#[derive(Debug)]
pub(super) struct Splice {
    out: OwnedFd,
    into: OwnedFd,
    /// Bytes in the pipe.
    held: usize,
    small: u32,
}

impl Splice {
    /// A pipe; `None` if there is none to be had, which costs speed and nothing else.
    pub(super) fn new() -> Option<Self> {
        let (out, into) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
        Some(Self {
            out,
            into,
            held: 0,
            small: 0,
        })
    }

    /// Whether so little moved lately that a buffer would do.
    pub(super) const fn is_idling(&self) -> bool {
        self.held == 0 && self.small >= PATIENCE
    }

    /// Moves bytes on; ready with how many, 0 at the end.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
    ) -> Poll<Result<usize, Side>> {
        if self.held == 0 {
            let n = ready!(fill(&self.into, cx, from)).map_err(Side::Read)?;
            if n == 0 {
                return Poll::Ready(Ok(0));
            }
            self.small = if n < WORTH { self.small + 1 } else { 0 };
            self.held = n;
        }
        let n = ready!(drain(&self.out, self.held, cx, to)).map_err(Side::Write)?;
        if n == 0 {
            return Poll::Ready(Err(Side::Write(io::ErrorKind::WriteZero.into())));
        }
        self.held -= n;
        Poll::Ready(Ok(n))
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

fn fill(pipe: &OwnedFd, cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<usize>> {
    loop {
        ready!(from.poll_read_ready(cx))?;
        let moved = from.try_io(Interest::READABLE, || {
            Ok(splice(from, None, pipe, None, MOST, FLAGS)?)
        });
        match moved {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}

fn drain(
    pipe: &OwnedFd,
    held: usize,
    cx: &mut Context<'_>,
    to: &TcpStream,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(to.poll_write_ready(cx))?;
        let moved = to.try_io(Interest::WRITABLE, || {
            Ok(splice(pipe, None, to, None, held, FLAGS)?)
        });
        match moved {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}
