//! Frames: a header of ten bytes, then as many bytes as it says.
//!
//! ```text
//! kind: u8 | flags: u8 | stream: u32 | length: u32 | payload      (numbers are big-endian)
//! ```
//! Streams are numbered by the client from 1 upwards and never again. A stream is a request's head, data and trailers one way, a
//! response's the other; the last frame of either has [`END`].

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Error, introduction};

/// Bytes of a frame's header.
pub(crate) const HEADER: usize = 10;
/// Bytes of a data frame's payload. More of a body is several frames, so that streams take turns.
pub(crate) const MOST_DATA: usize = 64 * 1024;
/// Bytes of a head or of trailers that are read at all. What a proxy takes of them is a setting, and less.
const MOST_HEAD: usize = 1024 * 1024;
/// The flag of a message's last frame.
const END: u8 = 1;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A message's head.
    Head,
    /// Bytes of its body.
    Data,
    /// What follows the body; always the last.
    Trailers,
    /// The stream is given up.
    Reset,
    /// The stream was not begun and can be tried elsewhere.
    Refused,
    /// So many more bytes of the body may be sent (`u32`).
    Window,
    /// No more streams are to be begun on this connection.
    GoAway,
    /// Who the sender is, for the heads that leave it out.
    Introduction,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Head,
        Self::Data,
        Self::Trailers,
        Self::Reset,
        Self::Refused,
        Self::Window,
        Self::GoAway,
        Self::Introduction,
    ];

    /// Whether it concerns the connection rather than a stream.
    const fn is_of_connection(self) -> bool {
        matches!(self, Self::GoAway | Self::Introduction)
    }

    /// The longest payload.
    const fn most(self) -> usize {
        match self {
            Self::Head | Self::Trailers => MOST_HEAD,
            Self::Data => MOST_DATA,
            Self::Window => 4,
            Self::Introduction => introduction::MOST,
            Self::Reset | Self::Refused | Self::GoAway => 0,
        }
    }
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// What it is.
    pub(crate) kind: Kind,
    /// Whether it is its message's last.
    pub(crate) end: bool,
    /// The stream; 0 is the connection.
    pub(crate) stream: u32,
    /// What it carries.
    pub(crate) payload: Bytes,
}

/// Takes frames out of what was read.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// What is to come of a data frame whose beginning was handed out.
    rest: Option<Rest>,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    stream: u32,
    end: bool,
    length: usize,
}

impl Reader {
    /// Takes the next frame; `None` if it is not all there yet. Data does not wait to be all there: a frame of it may come as
    /// several, so that nothing is gathered that would only be copied.
    ///
    /// # Errors
    /// It is none, or longer than such a frame may be.
    pub(crate) fn take(&mut self, read: &mut BytesMut) -> Result<Option<Frame>, Error> {
        if let Some(rest) = self.rest.take() {
            return Ok(self.data(read, rest));
        }
        let Some((mut header, rest)) = read.split_first_chunk::<HEADER>().map(|(h, r)| (&h[..], r))
        else {
            return Ok(None);
        };
        let kind = *Kind::ALL
            .get(usize::from(header.get_u8()))
            .ok_or(Error::Protocol("unknown frame"))?;
        let end = header.get_u8() & END != 0;
        let stream = header.get_u32();
        let length = header.get_u32() as usize;
        if length > kind.most() {
            return Err(Error::Protocol("frame is too long"));
        }
        if (stream == 0) != kind.is_of_connection() {
            return Err(Error::Protocol("frame of no stream"));
        }
        if kind == Kind::Data && length > 0 {
            read.advance(HEADER);
            return Ok(self.data(
                read,
                Rest {
                    stream,
                    end,
                    length,
                },
            ));
        }
        if rest.len() < length {
            return Ok(None);
        }
        read.advance(HEADER);
        Ok(Some(Frame {
            kind,
            end,
            stream,
            payload: read.split_to(length).freeze(),
        }))
    }

    fn data(&mut self, read: &mut BytesMut, mut rest: Rest) -> Option<Frame> {
        let part = rest.length.min(read.len());
        rest.length -= part;
        if rest.length > 0 {
            self.rest = Some(rest);
        }
        (part > 0).then(|| Frame {
            kind: Kind::Data,
            end: rest.end && rest.length == 0,
            stream: rest.stream,
            payload: read.split_to(part).freeze(),
        })
    }
}

/// Appends a frame whose payload is written by a function.
pub(crate) fn put(
    out: &mut BytesMut,
    kind: Kind,
    stream: u32,
    end: bool,
    write: impl FnOnce(&mut BytesMut),
) {
    put_header(out, kind, stream, end, 0);
    let start = out.len();
    write(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start - 4..start].copy_from_slice(&length.to_be_bytes());
}

/// Appends the header of a frame with so many bytes of payload.
pub(crate) fn put_header(out: &mut BytesMut, kind: Kind, stream: u32, end: bool, length: usize) {
    out.put_u8(kind as u8);
    out.put_u8(if end { END } else { 0 });
    out.put_u32(stream);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> BytesMut {
        let mut out = BytesMut::new();
        put(&mut out, Kind::Data, 7, true, |out| out.put_slice(b"hello"));
        put(&mut out, Kind::Head, 9, false, |out| out.put_slice(b"head"));
        put(&mut out, Kind::Data, 9, true, |_| ());
        put(&mut out, Kind::GoAway, 0, false, |_| ());
        out
    }

    /// What comes of it if it arrives in pieces of so many bytes.
    fn read(pieces: usize) -> Vec<(Kind, bool, u32, Bytes)> {
        let (mut reader, mut read, mut frames) = (Reader::default(), BytesMut::new(), Vec::new());
        for piece in written().chunks(pieces) {
            read.extend_from_slice(piece);
            while let Some(frame) = reader.take(&mut read).expect("frames") {
                frames.push((frame.kind, frame.end, frame.stream, frame.payload));
            }
        }
        frames
    }

    #[test]
    fn what_was_put_is_taken() {
        let expected = [
            (Kind::Data, true, 7, Bytes::from_static(b"hello")),
            (Kind::Head, false, 9, Bytes::from_static(b"head")),
            (Kind::Data, true, 9, Bytes::new()),
            (Kind::GoAway, false, 0, Bytes::new()),
        ];
        assert_eq!(read(1000), expected);
    }

    #[test]
    fn data_comes_as_it_arrives_and_ends_once() {
        for pieces in 1..20 {
            let frames = read(pieces);
            let data: Vec<_> = frames.iter().filter(|f| f.2 == 7).collect();
            let bytes: Vec<u8> = data.iter().flat_map(|f| f.3.to_vec()).collect();
            assert_eq!(bytes, b"hello", "in pieces of {pieces}");
            let ends: Vec<_> = data.iter().map(|f| f.1).collect();
            assert_eq!(ends.iter().filter(|end| **end).count(), 1);
            assert_eq!(ends.last(), Some(&true));
            let head = frames.iter().find(|f| f.0 == Kind::Head).expect("a head");
            assert_eq!(head.3, "head");
        }
    }

    #[test]
    fn a_frame_is_refused_by_its_header_alone() {
        let refused = |header: [u8; HEADER]| {
            let mut read = BytesMut::from(&header[..]);
            Reader::default().take(&mut read).unwrap_err()
        };
        assert_eq!(
            refused([9, 0, 0, 0, 0, 1, 0, 0, 0, 0]),
            Error::Protocol("unknown frame")
        );
        assert_eq!(
            refused([1, 0, 0, 0, 0, 1, 0, 1, 0, 1]),
            Error::Protocol("frame is too long")
        );
        assert_eq!(
            refused([1, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            Error::Protocol("frame of no stream")
        );
    }
}
