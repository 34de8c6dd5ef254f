//! What waits to be written: frames one after the other, with large pieces of bodies passed on where they lie; and who writes it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};

/// Data that is longer than this is not copied.
const COPIED: usize = 4 * 1024;
/// Room for what a small answer takes, so that it is not made in steps.
const FIRST: usize = 1024;
/// A buffer that grew beyond this is not kept.
const KEPT: usize = 64 * 1024;
thread_local! {
    /// What connections of a thread write into that have nothing else to write.
    static SPARE: Cell<BytesMut> = Cell::default();
}

/// Pieces written at once.
const PIECES: usize = 16;

/// What a connection is to write, and the task that does.
#[derive(Debug, Default)]
pub(crate) struct Out {
    frames: Frames,
    /// Bytes that were ever put there, and those that were written.
    queued: u64,
    written: u64,
    driver: Option<Waker>,
}

impl Out {
    /// Bytes that wait.
    pub(crate) const fn len(&self) -> usize {
        self.frames.length
    }

    /// Bytes that were ever put there.
    pub(crate) const fn queued(&self) -> u64 {
        self.queued
    }

    /// Whether what was put there when so many bytes had been queued has certainly not been sent.
    pub(crate) const fn is_unsent(&self, queued: u64) -> bool {
        self.written <= queued
    }

    /// Appends what a function writes, which only appends.
    pub(crate) fn append(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.frames.length;
        self.frames.append(write);
        self.queued += (self.frames.length - before) as u64;
        self.wake_driver();
    }

    /// Appends data, where they lie if there is much of them.
    pub(crate) fn pass(&mut self, data: Bytes) {
        self.queued += data.len() as u64;
        self.frames.pass(data);
        self.wake_driver();
    }

    /// Whom to wake when there is something to write.
    pub(crate) fn driven_by(&mut self, waker: &Waker) {
        match &mut self.driver {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Wakes whoever writes: there is something to do.
    pub(crate) fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Writes what is there by a function that says how much it took; tells how much that was. `idle` says that nothing more is expected.
    pub(crate) fn write(
        &mut self,
        idle: bool,
        mut write: impl FnMut(&[IoSlice<'_>]) -> Poll<io::Result<usize>>,
    ) -> (usize, Poll<io::Result<()>>) {
        let mut written = 0;
        while self.len() > 0 {
            let (pieces, count) = self.frames.pieces();
            match write(&pieces[..count]) {
                Poll::Ready(Ok(0)) => {
                    let error = io::ErrorKind::WriteZero.into();
                    return (written, Poll::Ready(Err(error)));
                }
                Poll::Ready(Ok(n)) => {
                    self.frames.wrote(n, idle);
                    self.written += n as u64;
                    written += n;
                }
                Poll::Ready(Err(error)) => return (written, Poll::Ready(Err(error))),
                Poll::Pending => return (written, Poll::Pending),
            }
        }
        (written, Poll::Ready(Ok(())))
    }

    /// Lets go of what nobody will write.
    pub(crate) fn discard(&mut self) {
        self.frames = Frames::default();
    }
}

/// Frames to be written.
#[derive(Debug, Default)]
struct Frames {
    /// What is complete.
    pieces: VecDeque<Bytes>,
    /// What follows it.
    tail: BytesMut,
    length: usize,
}

impl Frames {
    /// Appends what a function writes, which only appends.
    fn append(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.tail.len();
        if self.tail.capacity() == 0 {
            self.tail = SPARE.take();
            self.tail.reserve(FIRST);
        }
        write(&mut self.tail);
        self.length += self.tail.len() - before;
    }

    /// Appends data, where they lie if there is much of them.
    fn pass(&mut self, data: Bytes) {
        self.length += data.len();
        if data.len() <= COPIED {
            return self.tail.extend_from_slice(&data);
        }
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
        self.pieces.push_back(data);
    }

    /// The first pieces, and how many there are.
    fn pieces(&self) -> ([IoSlice<'_>; PIECES], usize) {
        let mut slices = [IoSlice::new(&[]); PIECES];
        let tail = (!self.tail.is_empty()).then_some(&self.tail[..]);
        let all = self.pieces.iter().map(|piece| &piece[..]).chain(tail);
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(all) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        (slices, count)
    }

    /// Lets go of what was written. `idle` says that nothing more is expected.
    fn wrote(&mut self, mut n: usize, idle: bool) {
        self.length -= n;
        while let Some(first) = self.pieces.front_mut() {
            if n < first.len() {
                first.advance(n);
                return;
            }
            n -= first.len();
            self.pieces.pop_front();
        }
        self.tail.advance(n);
        if self.tail.is_empty() {
            // What a busy moment took is given back after it, and an idle connection holds nothing.
            let large = self.tail.capacity() > KEPT;
            self.tail.clear();
            if idle && !large {
                SPARE.set(std::mem::take(&mut self.tail));
            }
            if idle || large {
                *self = Self::default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_same_bytes_however_they_are_written() {
        let large = Bytes::from(vec![7; COPIED + 1]);
        let small = Bytes::from_static(b"small");
        let mut expected = BytesMut::new();
        for data in [&small, &large, &small, &large] {
            expected.extend_from_slice(b"header");
            expected.extend_from_slice(data);
        }
        for at_once in [1, 7, COPIED, 3 * COPIED, 10 * COPIED] {
            let mut out = Out::default();
            for data in [&small, &large, &small, &large] {
                out.append(|out| out.extend_from_slice(b"header"));
                out.pass(data.clone());
            }
            assert_eq!(out.len(), expected.len());
            let mut written = Vec::new();
            assert!(out.is_unsent(0));
            let (count, end) = out.write(false, |pieces| {
                let bytes: Vec<u8> = pieces.iter().flat_map(|p| p.to_vec()).collect();
                let taken = bytes.len().min(at_once);
                written.extend_from_slice(&bytes[..taken]);
                Poll::Ready(Ok(taken))
            });
            assert!(matches!(end, Poll::Ready(Ok(()))));
            assert_eq!(written, expected, "{at_once} at once");
            assert_eq!(count as u64, out.queued());
            assert!(out.is_unsent(out.queued()) && !out.is_unsent(0));
        }
    }
}
