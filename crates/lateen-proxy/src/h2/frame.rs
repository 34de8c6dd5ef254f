//! Frames (RFC 9113 sections 4 and 6): their header, and what their payload is made of.

use bytes::{BufMut, BytesMut};

/// What a client sends first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's header.
pub(crate) const HEADER: usize = 9;
/// Bytes of a payload that are taken, which is the least a peer may be held to.
pub(crate) const MOST: usize = 16 * 1024;
/// The largest window, and the largest frame that a setting may allow.
pub(crate) const MOST_WINDOW: i64 = (1 << 31) - 1;
pub(crate) const MOST_FRAME: u32 = (1 << 24) - 1;

/// Kinds of frames.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub(crate) mod flag {
    /// DATA and HEADERS.
    pub(crate) const END_STREAM: u8 = 1;
    /// SETTINGS and PING.
    pub(crate) const ACK: u8 = 1;
    /// HEADERS and CONTINUATION.
    pub(crate) const END_HEADERS: u8 = 4;
    /// DATA and HEADERS.
    pub(crate) const PADDED: u8 = 8;
    /// HEADERS.
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// Settings.
pub(crate) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub(crate) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// Why a stream or a connection is ended (RFC 9113 section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Reason {
    None = 0,
    Protocol = 1,
    Internal = 2,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    RefusedStream = 7,
    Cancel = 8,
    Compression = 9,
    EnhanceYourCalm = 11,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes of the payload.
    pub(crate) length: usize,
    /// What it is.
    pub(crate) kind: u8,
    /// See [`flag`].
    pub(crate) flags: u8,
    /// The stream; 0 is the connection.
    pub(crate) stream: u32,
}

impl Header {
    /// The header that bytes begin with, if it is there.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, id @ ..] = bytes.first_chunk::<HEADER>()?;
        Some(Self {
            length: usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c),
            kind: *kind,
            flags: *flags,
            stream: u32::from_be_bytes(*id) & (u32::MAX >> 1),
        })
    }

    /// Appends it.
    pub(crate) fn put(self, out: &mut BytesMut) {
        out.put_slice(&self.bytes());
    }

    fn bytes(self) -> [u8; HEADER] {
        let [_, a, b, c] = (self.length as u32).to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, d, e, f, g]
    }

    /// Whether it has a flag.
    pub(crate) const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Appends a frame.
pub(crate) fn put(out: &mut BytesMut, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let header = Header {
        length: payload.len(),
        kind,
        flags,
        stream,
    };
    out.reserve(HEADER + payload.len());
    header.put(out);
    out.put_slice(payload);
}

/// Appends a block of fields that a function writes: HEADERS, and CONTINUATION where one frame is too small.
pub(crate) fn put_block(
    out: &mut BytesMut,
    stream: u32,
    end: bool,
    most: usize,
    write: impl FnOnce(&mut BytesMut),
) {
    let start = out.len();
    out.put_slice(&[0; HEADER]);
    write(out);
    let length = out.len() - start - HEADER;
    let end_stream = if end { flag::END_STREAM } else { 0 };
    let mut header = Header {
        length: length.min(most),
        kind: kind::HEADERS,
        flags: end_stream | if length <= most { flag::END_HEADERS } else { 0 },
        stream,
    };
    let rest = (length > most).then(|| out.split_off(start + HEADER + most));
    out[start..start + HEADER].copy_from_slice(&header.bytes());
    let Some(rest) = rest else { return };
    let mut parts = rest.chunks(most).peekable();
    while let Some(part) = parts.next() {
        header.length = part.len();
        header.kind = kind::CONTINUATION;
        header.flags = if parts.peek().is_none() {
            flag::END_HEADERS
        } else {
            0
        };
        header.put(out);
        out.put_slice(part);
    }
}

/// A payload without its padding; `None` if there is more of that than there are bytes.
pub(crate) fn unpadded(header: Header, payload: &[u8]) -> Option<&[u8]> {
    if !header.has(flag::PADDED) {
        return Some(payload);
    }
    let (padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(*padding))?)
}

/// The block of a HEADERS frame, without padding and priority, and the stream that this one depends on. Nothing else of a
/// priority is looked at (RFC 9113 section 5.3.2).
pub(crate) fn block(header: Header, payload: &[u8]) -> Option<(&[u8], Option<u32>)> {
    let payload = unpadded(header, payload)?;
    if !header.has(flag::PRIORITY) {
        return Some((payload, None));
    }
    let ([on @ .., _weight], block) = payload.split_first_chunk::<5>()?;
    Some((block, Some(depends_on(*on))))
}

/// The stream that a priority names, without the bit that says that it has no other dependents.
pub(crate) fn depends_on(bytes: [u8; 4]) -> u32 {
    u32::from_be_bytes(bytes) & (u32::MAX >> 1)
}

/// A number of four bytes.
pub(crate) fn number(payload: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(payload.try_into().ok()?))
}
