//! What each side of a connection tells the other about itself (RFC 9113 section 6.5).

use bytes::{BufMut, BytesMut};

use super::frame::{self, MOST, MOST_FRAME, MOST_WINDOW, Reason, flag, kind, setting};
use super::head::Limits;
use super::hpack::TABLE;

/// What every peer starts with.
pub(super) const DEFAULT_WINDOW: u32 = 65_535;

/// What this side holds the other to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Streams the peer may have at a time.
    pub(crate) streams: u32,
    /// Bytes of a stream's body that may be under way; at least the protocol's default.
    pub(crate) stream_window: u32,
    /// The same for all streams together.
    pub(crate) connection_window: u32,
    /// What heads and trailers may hold.
    pub(crate) limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            streams: 100,
            stream_window: 1024 * 1024,
            connection_window: 1024 * 1024,
            limits: Limits {
                bytes: 60 * 1024,
                fields: 100,
            },
        }
    }
}

impl Settings {
    /// Windows are never smaller than what the peer may use before it has read the settings.
    pub(super) fn at_least_the_default(mut self) -> Self {
        let within = |window: u32| window.clamp(DEFAULT_WINDOW, MOST_WINDOW as u32);
        self.stream_window = within(self.stream_window);
        self.connection_window = within(self.connection_window);
        self
    }

    /// Writes them, as a server or a client does first.
    pub(super) fn put(&self, out: &mut BytesMut, server: bool) {
        let mut payload = BytesMut::with_capacity(30);
        let mut put = |id: u16, value: u32| {
            payload.put_u16(id);
            payload.put_u32(value);
        };
        if server {
            put(setting::MAX_CONCURRENT_STREAMS, self.streams);
            put(setting::ENABLE_CONNECT_PROTOCOL, 1);
        } else {
            put(setting::ENABLE_PUSH, 0);
        }
        put(setting::INITIAL_WINDOW_SIZE, self.stream_window);
        let most = u32::try_from(self.limits.bytes).unwrap_or(u32::MAX);
        put(setting::MAX_HEADER_LIST_SIZE, most);
        frame::put(out, kind::SETTINGS, 0, 0, &payload);
        let more = self.connection_window - DEFAULT_WINDOW;
        if more > 0 {
            frame::put(out, kind::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
    }
}

/// What the peer holds this side to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Streams at a time.
    pub(super) streams: u32,
    /// Bytes of a new stream's body.
    pub(super) window: u32,
    /// Bytes of a frame.
    pub(super) frame: usize,
    /// Bytes of its table of fields.
    pub(super) table: usize,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            streams: u32::MAX,
            window: DEFAULT_WINDOW,
            frame: MOST,
            table: TABLE,
        }
    }
}

impl Peer {
    /// Takes settings of a server's or a client's.
    ///
    /// # Errors
    /// They break a rule.
    pub(super) fn take(&mut self, payload: &[u8], of_server: bool) -> Result<(), Reason> {
        let (settings, []) = payload.as_chunks::<6>() else {
            return Err(Reason::FrameSize);
        };
        for [a, b, value @ ..] in settings {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*a, *b]) {
                setting::HEADER_TABLE_SIZE => self.table = value as usize,
                setting::ENABLE_PUSH if value > u32::from(!of_server) => {
                    return Err(Reason::Protocol);
                }
                setting::MAX_CONCURRENT_STREAMS => self.streams = value,
                setting::INITIAL_WINDOW_SIZE if i64::from(value) > MOST_WINDOW => {
                    return Err(Reason::FlowControl);
                }
                setting::INITIAL_WINDOW_SIZE => self.window = value,
                setting::MAX_FRAME_SIZE if !(MOST as u32..=MOST_FRAME).contains(&value) => {
                    return Err(Reason::Protocol);
                }
                // Larger frames would only keep streams from taking turns.
                setting::MAX_FRAME_SIZE => self.frame = (value as usize).min(4 * MOST),
                setting::ENABLE_CONNECT_PROTOCOL if value > 1 => return Err(Reason::Protocol),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The answer to settings.
pub(super) fn put_ack(out: &mut BytesMut) {
    frame::put(out, kind::SETTINGS, flag::ACK, 0, &[]);
}
