//! Frames of the peer's: what each of them does, and which rules it may not break (RFC 9113 sections 5 and 6).
//!
//! What breaks a rule of the connection ends it ([`Broken`]); what breaks one of a stream resets that stream.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::Instant;

use super::super::frame::{self, HEADER, Header, MOST, PREFACE, Reason, flag, kind};
use super::super::head::{Fields, Refused, RequestHead};
use super::super::settings::put_ack;
use super::{ALIVE, Greeting, LAST_CALL, Side, Stage, State};
use crate::clock;
use crate::streams::Error;

/// Frames of one block of fields.
const MOST_FRAMES: u32 = 64;
/// Bytes of a compressed block beyond those that its fields may have: changes of the table's size, which are few.
const SLACK: usize = 1024;
/// Frames within [`A_WHILE`] that move nothing: pings, settings, priorities, empty data, windows of streams that have nothing to send.
const MOST_USELESS: u32 = 20_000;
const A_WHILE: Duration = Duration::from_secs(1);

/// A rule of the connection was broken.
#[derive(Debug)]
pub(super) struct Broken(pub(super) Reason, pub(super) &'static str);

/// What a stream may not (RFC 7540 section 5.3.1). It says nothing a server could act on, so the connection is not to be trusted.
const DEPENDS_ON_ITSELF: Broken = Broken(Reason::Protocol, "stream that depends on itself");

/// What came of looking for a frame.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart where it is made, and a box would be one for each request"
)]
pub(super) enum Took {
    More,
    Frame,
    /// The client began a stream.
    Begun(u32, Result<RequestHead, Refused>),
}

/// A block of fields that is not complete.
#[derive(Debug)]
pub(super) struct Block {
    id: u32,
    end: bool,
    bytes: Vec<u8>,
    frames: u32,
}

/// What is to come of a DATA frame whose beginning was handed out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    id: u32,
    end: bool,
    length: usize,
}

/// Frames lately that moved nothing.
#[derive(Debug)]
pub(super) struct Useless {
    since: Instant,
    count: u32,
}

impl Default for Useless {
    fn default() -> Self {
        Self {
            since: clock::now(),
            count: 0,
        }
    }
}

impl Useless {
    /// Something moved.
    pub(super) const fn reset(&mut self) {
        self.count = 0;
    }

    fn add(&mut self) -> Result<(), Broken> {
        self.count += 1;
        if self.count < MOST_USELESS {
            return Ok(());
        }
        if clock::since(self.since) < A_WHILE {
            return Err(Broken(
                Reason::EnhanceYourCalm,
                "too many frames that move nothing",
            ));
        }
        *self = Self::default();
        Ok(())
    }
}

impl State {
    /// Takes the next frame out of what was read.
    pub(super) fn take(&mut self, read: &mut BytesMut) -> Result<Took, Broken> {
        if self.greeting == Greeting::Preface && !self.take_preface(read)? {
            return Ok(Took::More);
        }
        if let Some(rest) = self.rest.take() {
            return self.take_data(rest, read);
        }
        let Some(header) = Header::read(read) else {
            return Ok(Took::More);
        };
        self.check(header)?;
        if header.kind == kind::DATA && !header.has(flag::PADDED) && header.length > 0 {
            read.advance(HEADER);
            let rest = Rest {
                id: header.stream,
                end: header.has(flag::END_STREAM),
                length: header.length,
            };
            return self.take_data(rest, read);
        }
        let Some(payload) = read.get(HEADER..HEADER + header.length) else {
            return Ok(Took::More);
        };
        let took = self.take_frame(header, payload);
        read.advance(HEADER + header.length);
        took
    }

    fn take_preface(&mut self, read: &mut BytesMut) -> Result<bool, Broken> {
        let length = read.len().min(PREFACE.len());
        if read[..length] != PREFACE[..length] {
            return Err(Broken(Reason::Protocol, "preface"));
        }
        if length < PREFACE.len() {
            return Ok(false);
        }
        read.advance(length);
        self.greeting = Greeting::Settings;
        Ok(true)
    }

    /// Looks at what a frame's header alone tells.
    fn check(&mut self, header: Header) -> Result<(), Broken> {
        if header.length > MOST {
            return Err(Broken(Reason::FrameSize, "frame is too long"));
        }
        if self.greeting == Greeting::Settings {
            if header.kind != kind::SETTINGS || header.has(flag::ACK) {
                return Err(Broken(Reason::Protocol, "no settings"));
            }
            self.greeting = Greeting::Done;
        }
        let continues = header.kind == kind::CONTINUATION;
        let expected = self.block.as_ref().map(|block| block.id);
        if continues != expected.is_some() || (continues && expected != Some(header.stream)) {
            return Err(Broken(Reason::Protocol, "block of fields"));
        }
        let of_connection = match header.kind {
            kind::SETTINGS | kind::PING | kind::GOAWAY => true,
            kind::WINDOW_UPDATE => header.stream == 0,
            kind::DATA
            | kind::HEADERS
            | kind::PRIORITY
            | kind::RST_STREAM
            | kind::CONTINUATION
            | kind::PUSH_PROMISE => false,
            _ => return Ok(()),
        };
        if of_connection != (header.stream == 0) {
            return Err(Broken(Reason::Protocol, "frame of no stream, or of one"));
        }
        Ok(())
    }

    fn take_frame(&mut self, header: Header, payload: &[u8]) -> Result<Took, Broken> {
        const SIZE: Broken = Broken(Reason::FrameSize, "frame of a wrong size");
        let id = header.stream;
        match header.kind {
            kind::DATA => self.take_padded(header, payload)?,
            kind::HEADERS => return self.take_headers(header, payload),
            kind::CONTINUATION => return self.take_continuation(header, payload),
            kind::PUSH_PROMISE => return Err(Broken(Reason::Protocol, "promise")),
            kind::RST_STREAM => self.take_reset(id, frame::number(payload).ok_or(SIZE)?)?,
            kind::WINDOW_UPDATE => {
                self.useless.add()?;
                let more = frame::number(payload).ok_or(SIZE)? & (u32::MAX >> 1);
                self.take_credit(id, more)?;
            }
            kind::SETTINGS => self.take_settings(header, payload)?,
            kind::PING => self.take_ping(header, payload.try_into().map_err(|_| SIZE)?)?,
            kind::GOAWAY => {
                let last = payload.first_chunk::<4>().filter(|_| payload.len() >= 8);
                self.take_goaway(u32::from_be_bytes(*last.ok_or(SIZE)?));
            }
            kind::PRIORITY => self.take_priority(id, payload.try_into().map_err(|_| SIZE)?)?,
            _ => self.useless.add()?, // an extension is disregarded
        }
        Ok(Took::Frame)
    }

    /// Nothing follows from a priority.
    fn take_priority(&mut self, id: u32, payload: &[u8; 5]) -> Result<(), Broken> {
        let [on @ .., _weight] = *payload;
        if frame::depends_on(on) == id {
            return Err(DEPENDS_ON_ITSELF);
        }
        self.useless.add()
    }

    fn take_settings(&mut self, header: Header, payload: &[u8]) -> Result<(), Broken> {
        self.useless.add()?;
        if header.has(flag::ACK) {
            return match payload {
                [] => Ok(()),
                _ => Err(Broken(Reason::FrameSize, "settings")),
            };
        }
        let before = self.peer;
        self.peer
            .take(payload, self.side == Side::Client)
            .map_err(|reason| Broken(reason, "settings"))?;
        if self.peer.table != before.table {
            self.encoder.resize(self.peer.table);
        }
        if self.peer.window != before.window {
            self.shift_credit(before.window)?;
        }
        self.owed += HEADER;
        self.out.append(put_ack);
        Ok(())
    }

    fn take_ping(&mut self, header: Header, payload: &[u8; 8]) -> Result<(), Broken> {
        self.useless.add()?;
        if !header.has(flag::ACK) {
            self.owe(kind::PING, flag::ACK, 0, payload);
        } else if *payload == ALIVE {
            self.pinged = false;
        } else if *payload == LAST_CALL && self.stage == Stage::Asked {
            self.stage = Stage::Last;
            self.put_goaway(self.newest, Reason::None);
        }
        Ok(())
    }

    fn take_goaway(&mut self, last: u32) {
        self.stage = Stage::Last;
        self.out.wake_driver();
        if self.side == Side::Client {
            for (_, stream) in self.streams.iter_mut().filter(|(id, _)| **id > last) {
                stream.fail(Error::Refused); // nothing was done with it, and nothing will be
            }
        }
    }

    fn take_reset(&mut self, id: u32, reason: u32) -> Result<(), Broken> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return self.stray(id);
        };
        stream.flow.gentle = reason == Reason::None as u32 || reason == Reason::Cancel as u32;
        stream.fail(if reason == Reason::RefusedStream as u32 {
            Error::Refused
        } else {
            Error::Reset
        });
        Ok(())
    }

    /// A frame of a stream that is not there: over, which the peer may not know, or not begun.
    pub(super) fn stray(&mut self, id: u32) -> Result<(), Broken> {
        if id > self.newest || id.is_multiple_of(2) {
            return Err(Broken(
                Reason::Protocol,
                "frame of a stream that was not begun",
            ));
        }
        self.useless.add()
    }

    /// Ends a stream on which a rule was broken.
    pub(super) fn refuse(&mut self, id: u32, reason: Reason) {
        if let Some(stream) = self.streams.get_mut(&id) {
            if stream.failed.is_some() {
                return; // it is over already
            }
            stream.fail(Error::Protocol("frame of a stream"));
        }
        self.owed += HEADER + 4;
        self.put_reset(id, reason);
    }

    /// Answers what comes for a stream that the peer itself has ended. One that was ended here may be heard of for a while.
    fn refuse_over(&mut self, id: u32) {
        if !self.lately.contains(&id) {
            self.owed += HEADER + 4;
            self.put_reset(id, Reason::StreamClosed);
        }
    }

    fn take_padded(&mut self, header: Header, payload: &[u8]) -> Result<(), Broken> {
        let Some(data) = frame::unpadded(header, payload) else {
            return Err(Broken(Reason::Protocol, "padding"));
        };
        let end = header.has(flag::END_STREAM);
        let padding = (payload.len() - data.len()) as u32;
        if data.is_empty() && !end {
            self.useless.add()?;
        }
        // Padding counts against both windows (RFC 9113 section 6.1), and is taken as soon as it is there.
        self.count_data(padding)?;
        if let Some(stream) = self.streams.get_mut(&header.stream) {
            stream.flow.window -= i64::from(padding);
            stream.flow.unread += padding;
        }
        self.take_part(header.stream, Bytes::copy_from_slice(data), end)?;
        self.taken(header.stream, padding);
        Ok(())
    }

    /// Takes what is there of a DATA frame, so that nothing is gathered that would only be copied.
    fn take_data(&mut self, mut rest: Rest, read: &mut BytesMut) -> Result<Took, Broken> {
        let part = rest.length.min(read.len());
        rest.length -= part;
        if rest.length > 0 {
            self.rest = Some(rest);
        }
        if part == 0 {
            return Ok(Took::More);
        }
        let end = rest.end && rest.length == 0;
        self.useless.reset();
        self.take_part(rest.id, read.split_to(part).freeze(), end)?;
        Ok(Took::Frame)
    }

    /// Counts bytes against the connection's window.
    fn count_data(&mut self, bytes: u32) -> Result<(), Broken> {
        self.window -= i64::from(bytes);
        if self.window < 0 {
            return Err(Broken(Reason::FlowControl, "more data than was asked for"));
        }
        Ok(())
    }

    fn take_part(&mut self, id: u32, data: Bytes, end: bool) -> Result<(), Broken> {
        let length = data.len() as u32;
        self.count_data(length)?;
        let Some(stream) = self.streams.get_mut(&id) else {
            self.stray(id)?;
            self.release(length);
            self.refuse_over(id);
            return Ok(());
        };
        if stream.failed.is_some() {
            self.release(length);
            self.refuse_over(id);
            return Ok(());
        }
        if let Err(reason) = stream.take_data(data, end) {
            self.release(length);
            self.refuse(id, reason);
            return Ok(());
        }
        if stream.flow.deaf {
            self.release(length);
        }
        Ok(())
    }

    fn take_headers(&mut self, header: Header, payload: &[u8]) -> Result<Took, Broken> {
        let Some((block, on)) = frame::block(header, payload) else {
            return Err(Broken(Reason::Protocol, "padding"));
        };
        if on == Some(header.stream) {
            return Err(DEPENDS_ON_ITSELF);
        }
        self.useless.reset();
        let end = header.has(flag::END_STREAM);
        if header.has(flag::END_HEADERS) {
            return self.take_block(header.stream, end, block);
        }
        self.block = Some(Block {
            id: header.stream,
            end,
            bytes: block.to_vec(),
            frames: 1,
        });
        Ok(Took::Frame)
    }

    fn take_continuation(&mut self, header: Header, payload: &[u8]) -> Result<Took, Broken> {
        let Some(mut block) = self.block.take() else {
            return Err(Broken(Reason::Protocol, "block of fields"));
        };
        block.bytes.extend_from_slice(payload);
        block.frames += 1;
        if block.bytes.len() > self.settings.limits.bytes + SLACK || block.frames > MOST_FRAMES {
            return Err(Broken(
                Reason::EnhanceYourCalm,
                "block of fields is too long",
            ));
        }
        if header.has(flag::END_HEADERS) {
            return self.take_block(block.id, block.end, &block.bytes);
        }
        self.block = Some(block);
        Ok(Took::Frame)
    }

    /// Takes a whole block. It is read whatever becomes of its stream: what it remembers counts for the next ones.
    fn take_block(&mut self, id: u32, end: bool, block: &[u8]) -> Result<Took, Broken> {
        let limits = self.settings.limits;
        let mut fields = Fields::new();
        self.decoder
            .decode(block, |field, size| fields.take(field, size, limits))
            .map_err(|_| Broken(Reason::Compression, "block of fields"))?;
        if id.is_multiple_of(2) {
            return Err(Broken(Reason::Protocol, "stream of a server"));
        }
        match (self.streams.contains_key(&id), self.side) {
            (true, side) => {
                self.take_more(id, end, fields, side);
                Ok(Took::Frame)
            }
            (false, Side::Server) if id > self.newest => self.take_request(id, end, fields),
            _ if id > self.newest => Err(Broken(Reason::Protocol, "stream that was not begun")),
            (false, Side::Server) if !self.lately.contains(&id) => {
                Err(Broken(Reason::StreamClosed, "stream that is over"))
            }
            _ => Ok(Took::Frame), // given up here; the peer does not know yet
        }
    }

    fn take_request(&mut self, id: u32, end: bool, fields: Fields) -> Result<Took, Broken> {
        self.newest = id;
        if self.stage == Stage::Last || self.streams.len() >= self.settings.streams as usize {
            self.refuse(id, Reason::RefusedStream);
            return Ok(Took::Frame);
        }
        let length = fields.length();
        let head = fields.into_request();
        if let Err(Refused::Malformed(_)) = head {
            self.refuse(id, Reason::Protocol);
            return Ok(Took::Frame);
        }
        if end && length.is_some_and(|length| length > 0) {
            self.refuse(id, Reason::Protocol);
            return Ok(Took::Frame);
        }
        let mut stream = self.stream();
        stream.has_head = true;
        stream.ended = end;
        stream.flow.left = length;
        stream.halves = 2;
        self.streams.insert(id, stream);
        Ok(Took::Begun(id, head))
    }

    /// Takes a response's head, or trailers.
    fn take_more(&mut self, id: u32, end: bool, fields: Fields, side: Side) {
        let Some(stream) = self.streams.get_mut(&id).filter(|s| s.failed.is_none()) else {
            return self.refuse_over(id);
        };
        let taken = if side == Side::Client && !stream.has_head {
            stream.take_head(fields, end)
        } else {
            stream.take_trailers(fields, end)
        };
        if let Err(reason) = taken {
            self.refuse(id, reason);
        }
    }
}
