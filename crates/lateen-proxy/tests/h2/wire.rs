//! A connection spoken frame by frame, and what is expected of the other side.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Io;
use super::cases::PADDED;
use super::frames::{
    DATA, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
};

/// How long anything may take that has to come.
const LONGEST: Duration = Duration::from_secs(8);
/// An acknowledgement's flag.
pub(crate) const ACK: u8 = 1;

/// What is done next.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Bytes are sent.
    Send(Vec<u8>),
    /// The stream is answered with status 200.
    Answer(u32),
    /// The answer on the stream ends.
    End(u32),
    /// The next data on the stream are so many bytes.
    Data(u32, usize),
    /// The ping is answered with the same bytes.
    Pong([u8; 8]),
    /// So many frames are sent on the stream, each of one byte of data and 255 of padding, as far as windows let them.
    Padded(u32, usize),
    /// Settings are acknowledged.
    Settled,
    /// The connection still answers.
    Alive,
    /// The stream is refused for one of these reasons, or the connection is.
    StreamError(u32, &'static [u32]),
    /// The connection is refused for one of these reasons, or ended.
    ConnectionError(&'static [u32]),
    /// The other side closes the connection.
    Closed,
}

/// A frame that was received.
#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn code(&self, at: usize) -> Option<u32> {
        let bytes = self.payload.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().unwrap()))
    }
}

/// A connection.
pub(crate) struct Wire {
    io: Box<dyn Io>,
    pings: u8,
    /// What the other side takes on the connection, and on a new stream.
    credit: i64,
    initial: u32,
    /// What it took since of streams' data.
    more: i64,
}

impl Wire {
    pub(crate) fn new(io: Box<dyn Io>) -> Self {
        Self {
            io,
            pings: 0,
            credit: 65_535,
            initial: 65_535,
            more: 0,
        }
    }

    /// The preface and the settings of both sides.
    pub(crate) async fn greet(&mut self) -> Result<(), String> {
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(frame(SETTINGS, 0, 0, &[]));
        let _ = self.io.write_all(&hello).await;
        self.wait("settings", |f| {
            (f.kind == SETTINGS && f.flags == 0).then_some(Ok(()))
        })
        .await?;
        let _ = self.io.write_all(&frame(SETTINGS, ACK, 0, &[])).await;
        self.step(&Step::Settled).await
    }

    pub(crate) async fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Send(bytes) => {
                // The other side may have closed already: what it said counts.
                let _ = self.io.write_all(bytes).await;
                let _ = self.io.flush().await;
                Ok(())
            }
            Step::Answer(stream) => self.wait("an answer", |f| answer(f, *stream)).await,
            Step::End(stream) => {
                let ends = |f: &Frame| {
                    let ended = matches!(f.kind, DATA | HEADERS) && f.flags & END_STREAM != 0;
                    (f.stream == *stream && ended).then_some(Ok(()))
                };
                self.wait("an end", ends).await
            }
            Step::Data(stream, length) => {
                let data = |f: &Frame| {
                    let is = f.kind == DATA && f.stream == *stream && !f.payload.is_empty();
                    is.then(|| equal("bytes", f.payload.len(), *length))
                };
                self.wait("data", data).await
            }
            Step::Pong(bytes) => {
                let pong = |f: &Frame| {
                    let is = f.kind == PING && f.flags & ACK != 0 && f.payload == bytes;
                    is.then_some(Ok(()))
                };
                self.wait("a pong", pong).await
            }
            Step::Padded(stream, count) => Box::pin(self.send_padded(*stream, *count)).await,
            Step::Settled => {
                let acked =
                    |f: &Frame| (f.kind == SETTINGS && f.flags & ACK != 0).then_some(Ok(()));
                self.wait("an acknowledgement", acked).await
            }
            Step::Alive => self.alive().await,
            Step::StreamError(stream, codes) => self.refused(Some(*stream), codes).await,
            Step::ConnectionError(codes) => self.refused(None, codes).await,
            Step::Closed => self.wait_or_closed("the end", |_| None).await.map(drop),
        }
    }

    async fn send_padded(&mut self, stream: u32, count: usize) -> Result<(), String> {
        let bytes = frame(
            DATA,
            PADDED,
            stream,
            &[&[254, b'x'][..], &[0; 254]].concat(),
        );
        let mut credit = i64::from(self.initial) + self.more;
        for _ in 0..count {
            while credit < 256 || self.credit < 256 {
                let before = self.more;
                let update = |f: &Frame| (f.kind == WINDOW_UPDATE).then_some(Ok(()));
                self.wait("a larger window", update).await?;
                credit += self.more - before;
            }
            credit -= 256;
            self.credit -= 256;
            self.step(&Step::Send(bytes.clone())).await?;
        }
        Ok(())
    }

    async fn alive(&mut self) -> Result<(), String> {
        let bytes = self.ping().await;
        Box::pin(self.step(&Step::Pong(bytes))).await
    }

    async fn ping(&mut self) -> [u8; 8] {
        self.pings += 1;
        let bytes = [b'a', b'l', b'i', b'v', b'e', 0, 0, self.pings];
        let _ = self.io.write_all(&frame(PING, 0, 0, &bytes)).await;
        let _ = self.io.flush().await;
        bytes
    }

    /// Waits for the refusal of a stream, or of the connection.
    async fn refused(&mut self, stream: Option<u32>, codes: &[u32]) -> Result<(), String> {
        let found = self.wait_or_closed("a refusal", |f| match f.kind {
            RST_STREAM if Some(f.stream) == stream => Some(known(f.code(0), codes)),
            GOAWAY => Some(known(f.code(4), codes)),
            _ => None,
        });
        found.await.map(drop)
    }

    /// Reads until a frame decides. The end of the connection decides nothing.
    async fn wait(
        &mut self,
        what: &str,
        decide: impl Fn(&Frame) -> Option<Result<(), String>>,
    ) -> Result<(), String> {
        match self.wait_or_closed(what, decide).await? {
            true => Ok(()),
            false => Err(format!("the connection ended before {what}")),
        }
    }

    /// Reads until a frame decides, or the connection ends (false).
    async fn wait_or_closed(
        &mut self,
        what: &str,
        decide: impl Fn(&Frame) -> Option<Result<(), String>>,
    ) -> Result<bool, String> {
        let mut seen = Vec::new();
        let reading = async {
            while let Some(frame) = self.read().await {
                if let Some(decided) = decide(&frame) {
                    return decided.map(|()| true);
                }
                if frame.kind != WINDOW_UPDATE {
                    seen.push((frame.kind, frame.flags, frame.stream, frame.code(0)));
                }
            }
            Ok(false)
        };
        match tokio::time::timeout(LONGEST, reading).await {
            Ok(found) => found,
            Err(_) => Err(format!("{what} did not come, but {seen:?}")),
        }
    }

    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, s1, s2, s3, s4] = head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let mut payload = vec![0; length];
        self.io.read_exact(&mut payload).await.ok()?;
        let frame = Frame {
            kind,
            flags,
            stream: u32::from_be_bytes([s1, s2, s3, s4]),
            payload,
        };
        self.count(&frame);
        Some(frame)
    }

    /// What the frame says of windows.
    fn count(&mut self, frame: &Frame) {
        match (frame.kind, frame.stream) {
            (WINDOW_UPDATE, 0) => self.credit += i64::from(frame.code(0).unwrap_or(0)),
            (WINDOW_UPDATE, _) => self.more += i64::from(frame.code(0).unwrap_or(0)),
            (SETTINGS, _) => {
                let settings = frame.payload.chunks_exact(6);
                let window = settings.filter(|setting| setting[..2] == [0, 4]);
                for setting in window {
                    self.initial = u32::from_be_bytes(setting[2..].try_into().unwrap());
                }
            }
            _ => {}
        }
    }
}

/// An answer with `:status: 200`, which encoders take from the static table.
fn answer(frame: &Frame, stream: u32) -> Option<Result<(), String>> {
    match frame.kind {
        HEADERS if frame.stream == stream => Some(equal(
            "first byte of the head",
            frame.payload.first(),
            Some(&0x88),
        )),
        RST_STREAM if frame.stream == stream => Some(Err(format!("reset {:?}", frame.code(0)))),
        GOAWAY => Some(Err(format!("connection refused {:?}", frame.code(4)))),
        _ => None,
    }
}

fn known(code: Option<u32>, codes: &[u32]) -> Result<(), String> {
    match code {
        Some(code) if codes.contains(&code) => Ok(()),
        other => Err(format!("error code {other:?}, not one of {codes:?}")),
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, is: T, wanted: T) -> Result<(), String> {
    if is == wanted {
        return Ok(());
    }
    Err(format!("{what}: {is:?}, not {wanted:?}"))
}
