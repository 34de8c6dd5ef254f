//! One direction of a copy.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;
use tokio::time::Instant;

use super::Carrier;
use crate::clock;
use crate::net::splice::Splice;
use crate::turn::Hold;

/// The buffer a direction begins with. A TLS record carries at most 16 KiB.
const SMALL: usize = 16 * 1024;
/// The buffer of a transfer that cannot be spliced.
const LARGE: usize = 64 * 1024;
/// What a pipe takes at once.
const MOST: usize = 1 << 20;
/// A move of less than this is not worth a pipe…
const WORTH: usize = 8 * 1024;
/// …after so many of them in a row.
const PATIENCE: u32 = 16;

/// Which stream failed.
#[derive(Debug)]
pub(super) enum Side {
    /// The one read from.
    Read(io::Error),
    /// The one written to.
    Write(io::Error),
}

/// One direction.
#[derive(Debug)]
pub(super) struct OneWay {
    buffer: Vec<u8>,
    /// What of the buffer is still to be written.
    start: usize,
    end: usize,
    state: State,
    splice: Option<Splice>,
    /// Moves in a row that were hardly worth it.
    small: u32,
    /// What was read waits for what else is to be written in the same turn.
    hold: Hold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Reading, then writing what was read.
    Copying,
    /// Written bytes may still be in the writer.
    Flushing,
    /// The end was reached and is passed on.
    Ending,
    /// It was.
    Ended,
}

impl OneWay {
    /// One that has copied nothing.
    pub(super) const fn new() -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            end: 0,
            state: State::Copying,
            splice: None,
            small: 0,
            hold: Hold::New,
        }
    }

    /// Moves what can be moved now; ready when the direction has ended.
    pub(super) fn poll<R: Carrier, W: Carrier>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        moved: &Cell<u64>,
        activity: &Cell<Instant>,
    ) -> Poll<Result<(), Side>> {
        loop {
            match self.state {
                State::Copying if self.splice.is_some() => {
                    ready!(self.splice(cx, reader, writer, moved, activity))?;
                }
                State::Copying if self.start < self.end => {
                    ready!(self.hold.poll(cx));
                    let n = ready!(self.write(cx, writer)).map_err(Side::Write)?;
                    self.start += n;
                    moved.set(moved.get() + n as u64);
                    activity.set(clock::now());
                    if self.start == self.end {
                        self.state = State::Flushing;
                    }
                }
                State::Copying => {
                    let n = ready!(self.read(cx, reader)).map_err(Side::Read)?;
                    self.note_read(n, reader, writer);
                }
                State::Flushing => {
                    ready!(Pin::new(&mut *writer).poll_flush(cx)).map_err(Side::Write)?;
                    self.state = State::Copying;
                }
                State::Ending => {
                    match ready!(Pin::new(&mut *writer).poll_shutdown(cx)) {
                        // The other side went away first; its own direction reports it if that matters.
                        Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                            return Poll::Ready(Err(Side::Write(error)));
                        }
                        _ => self.state = State::Ended,
                    }
                    self.buffer = Vec::new();
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    fn read<R: Carrier>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
    ) -> Poll<io::Result<usize>> {
        if self.buffer.is_empty() {
            // On the heap, because two of them in a future would make every connection's task 32 KiB larger.
            self.buffer = vec![0; SMALL];
        }
        let mut room = ReadBuf::new(&mut self.buffer);
        match ready!(Pin::new(reader).poll_read(cx, &mut room)) {
            Ok(()) => Poll::Ready(Ok(room.filled().len())),
            // Peers often close TLS without close_notify; to the other side that is an end of stream.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(0)),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn note_read<R: Carrier, W: Carrier>(&mut self, n: usize, reader: &R, writer: &W) {
        (self.start, self.end) = (0, n);
        self.hold = Hold::New;
        if n == 0 {
            self.state = State::Ending;
        } else if n == self.buffer.len() && n < LARGE {
            // Filled: more is likely to be there, and it is no message that others could wait with.
            self.hold = Hold::Over;
            if reader.socket().is_some() && writer.socket().is_some() {
                self.splice = Splice::new();
            }
            if self.splice.is_none() {
                self.buffer.resize(LARGE, 0);
            }
        }
    }

    fn write<W: Carrier>(&self, cx: &mut Context<'_>, writer: &mut W) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(writer).poll_write(cx, &self.buffer[self.start..self.end]))?;
        Poll::Ready(if n == 0 {
            Err(io::ErrorKind::WriteZero.into())
        } else {
            Ok(n)
        })
    }

    fn splice<R: Carrier, W: Carrier>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        moved: &Cell<u64>,
        activity: &Cell<Instant>,
    ) -> Poll<Result<(), Side>> {
        // What was read before comes first.
        while self.start < self.end {
            let n = ready!(self.write(cx, writer)).map_err(Side::Write)?;
            self.start += n;
            moved.set(moved.get() + n as u64);
        }
        let (Some(splice), Some(from), Some(to)) =
            (self.splice.as_mut(), reader.socket(), writer.socket())
        else {
            self.splice = None;
            return Poll::Ready(Ok(()));
        };
        // The buffer is not needed as long as the kernel carries the bytes.
        self.buffer = Vec::new();
        if splice.held() == 0 {
            let n = ready!(splice.poll_fill(cx, from, MOST)).map_err(Side::Read)?;
            if n == 0 {
                self.state = State::Ending;
                self.splice = None;
                return Poll::Ready(Ok(()));
            }
            self.small = if n < WORTH { self.small + 1 } else { 0 };
        }
        let n = ready!(splice.poll_drain(cx, to)).map_err(Side::Write)?;
        activity.set(clock::now());
        moved.set(moved.get() + n as u64);
        if splice.held() == 0 && self.small >= PATIENCE {
            // So little moved lately that a buffer would do.
            (self.splice, self.small) = (None, 0);
        }
        Poll::Ready(Ok(()))
    }
}
