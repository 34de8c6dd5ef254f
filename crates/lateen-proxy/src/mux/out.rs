//! What waits to be written: frames one after the other, with large pieces of bodies passed on where they lie.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use super::frame::{self, Kind};

/// Data that is longer than this is not copied.
const COPIED: usize = 4 * 1024;
/// A buffer that grew beyond this is not kept.
const KEPT: usize = 64 * 1024;
/// Pieces written at once.
pub(super) const PIECES: usize = 16;

/// Frames to be written.
#[derive(Debug, Default)]
pub(super) struct Out {
    /// What is complete.
    pieces: VecDeque<Bytes>,
    /// What follows it.
    tail: BytesMut,
    length: usize,
}

impl Out {
    /// Bytes that wait.
    pub(super) const fn len(&self) -> usize {
        self.length
    }

    /// Appends a frame whose payload is written by a function.
    pub(super) fn put(
        &mut self,
        kind: Kind,
        stream: u32,
        end: bool,
        write: impl FnOnce(&mut BytesMut),
    ) {
        let before = self.tail.len();
        frame::put(&mut self.tail, kind, stream, end, write);
        self.length += self.tail.len() - before;
    }

    /// Appends a frame of data.
    pub(super) fn put_data(&mut self, stream: u32, end: bool, data: Bytes) {
        if data.len() <= COPIED {
            return self.put(Kind::Data, stream, end, |out| out.extend_from_slice(&data));
        }
        frame::put_header(&mut self.tail, Kind::Data, stream, end, data.len());
        self.length += frame::HEADER + data.len();
        self.pieces.push_back(self.tail.split().freeze());
        self.pieces.push_back(data);
    }

    /// The first pieces, and how many there are.
    pub(super) fn pieces(&self) -> ([IoSlice<'_>; PIECES], usize) {
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
    pub(super) fn wrote(&mut self, mut n: usize, idle: bool) {
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
            if idle || self.tail.capacity() > KEPT {
                *self = Self::default();
            } else {
                self.tail.clear();
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
            frame::put(&mut expected, Kind::Data, 3, false, |out| {
                out.extend_from_slice(data);
            });
        }
        for at_once in [1, 7, COPIED, 3 * COPIED, 10 * COPIED] {
            let mut out = Out::default();
            for data in [&small, &large, &small, &large] {
                out.put_data(3, false, data.clone());
            }
            assert_eq!(out.len(), expected.len());
            let mut written = Vec::new();
            while out.len() > 0 {
                let (pieces, count) = out.pieces();
                let bytes: Vec<u8> = pieces[..count].iter().flat_map(|p| p.to_vec()).collect();
                let taken = bytes.len().min(at_once);
                written.extend_from_slice(&bytes[..taken]);
                out.wrote(taken, false);
            }
            assert_eq!(written, expected, "{at_once} at once");
        }
    }
}
