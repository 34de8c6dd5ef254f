//! A WebSocket echo: every message comes back; a page for people at paths that are not upgraded.
//!
//! Source: RFC 6455. No extensions, no subprotocols.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::RunError;
use crate::options::Options;
use crate::server::{self, Body, Service, full, reply, text};

/// What the accept key is made with. Source: RFC 6455, section 1.3.
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The largest message that is echoed.
const LARGEST_MESSAGE: u64 = 1 << 20;

/// Close codes. Source: RFC 6455, section 7.4.1.
const GOING_AWAY: u16 = 1001;
const PROTOCOL_ERROR: u16 = 1002;
const TOO_BIG: u16 = 1009;

pub(crate) struct Echo {
    sockets: TaskTracker,
    stop: CancellationToken,
}

pub(crate) async fn run(arguments: &[String], stop: CancellationToken) -> Result<u8, RunError> {
    let options = Options::parse(arguments, &["port"], &[])?;
    let listener = server::listen(options.number("port")?.unwrap_or(8888))?;
    let echo = Arc::new(Echo::new(stop.clone()));
    server::serve(listener, Arc::clone(&echo), stop).await;
    echo.sockets.close();
    echo.sockets.wait().await;
    Ok(0)
}

impl Echo {
    pub(crate) fn new(stop: CancellationToken) -> Echo {
        Echo {
            sockets: TaskTracker::new(),
            stop,
        }
    }
}

impl Service for Echo {
    async fn call(&self, mut request: Request<Incoming>, _peer: SocketAddr) -> Response<Body> {
        let headers = request.headers();
        if !has_token(headers, UPGRADE, "websocket") {
            let html =
                "<!DOCTYPE html>\n<title>WebSocket echo</title><p>Connect with a WebSocket.</p>\n";
            return reply(StatusCode::OK, "text/html; charset=utf-8", html);
        }
        let version = headers
            .get(SEC_WEBSOCKET_VERSION)
            .is_some_and(|version| version == "13");
        let key = headers.get(SEC_WEBSOCKET_KEY).cloned();
        let (Some(key), true) = (key, version && has_token(headers, CONNECTION, "upgrade")) else {
            return text(
                StatusCode::BAD_REQUEST,
                "not a WebSocket handshake of version 13\n",
            );
        };
        let upgrade = hyper::upgrade::on(&mut request);
        let stop = self.stop.clone();
        self.sockets.spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                // A socket that breaks concerns only its client.
                let _ = echo(TokioIo::new(upgraded), stop).await;
            }
        });
        switch(key.as_bytes())
    }
}

fn switch(key: &[u8]) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept_key(key)) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// Proves that the handshake was read. Source: RFC 6455, section 4.2.2.
fn accept_key(key: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(MAGIC);
    STANDARD.encode(hash.finalize())
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let values = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn parse(bits: u8) -> Option<Opcode> {
        Some(match bits {
            0x0 => Opcode::Continuation,
            0x1 => Opcode::Text,
            0x2 => Opcode::Binary,
            0x8 => Opcode::Close,
            0x9 => Opcode::Ping,
            0xa => Opcode::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Opcode::Continuation => 0x0,
            Opcode::Text => 0x1,
            Opcode::Binary => 0x2,
            Opcode::Close => 0x8,
            Opcode::Ping => 0x9,
            Opcode::Pong => 0xa,
        }
    }

    fn is_control(self) -> bool {
        self.bits() & 0x8 != 0
    }
}

struct Frame {
    last: bool,
    opcode: Opcode,
    payload: Vec<u8>,
}

/// A frame, or why the connection is to be closed.
enum Read {
    Frame(Frame),
    Refuse(u16),
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    // The message that is being put together, with its kind.
    let mut message: Option<(Opcode, Vec<u8>)> = None;
    loop {
        let read = tokio::select! {
            () = stop.cancelled() => Read::Refuse(GOING_AWAY),
            read = read_frame(&mut stream) => read?,
        };
        let frame = match read {
            Read::Frame(frame) => frame,
            Read::Refuse(code) => return close(&mut stream, &code.to_be_bytes()).await,
        };
        match frame.opcode {
            Opcode::Close => return close(&mut stream, &frame.payload).await,
            Opcode::Ping => write_frame(&mut stream, Opcode::Pong, &frame.payload).await?,
            Opcode::Pong => {}
            opcode => {
                if let Err(code) = join(&mut message, opcode, frame.payload) {
                    return close(&mut stream, &code.to_be_bytes()).await;
                }
                if frame.last
                    && let Some((kind, payload)) = message.take()
                {
                    write_frame(&mut stream, kind, &payload).await?;
                }
            }
        }
    }
}

/// Adds a frame to the message it belongs to; the close code if it belongs to none or makes it too large.
fn join(
    message: &mut Option<(Opcode, Vec<u8>)>,
    opcode: Opcode,
    payload: Vec<u8>,
) -> Result<(), u16> {
    match (message.as_mut(), opcode) {
        (None, Opcode::Continuation) => Err(PROTOCOL_ERROR),
        (None, kind) => {
            *message = Some((kind, payload));
            Ok(())
        }
        (Some((_, whole)), Opcode::Continuation) => {
            if (whole.len() + payload.len()) as u64 > LARGEST_MESSAGE {
                return Err(TOO_BIG);
            }
            whole.extend_from_slice(&payload);
            Ok(())
        }
        (Some(_), _) => Err(PROTOCOL_ERROR),
    }
}

/// Reads one frame of a client, which is always masked. Not safe to cancel and resume: the caller ends the connection.
async fn read_frame<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<Read> {
    let (first, second) = (stream.read_u8().await?, stream.read_u8().await?);
    let masked = second & 0x80 != 0;
    let length = match second & 0x7f {
        126 => u64::from(stream.read_u16().await?),
        127 => stream.read_u64().await?,
        short => u64::from(short),
    };
    let last = first & 0x80 != 0;
    let Some(opcode) = Opcode::parse(first & 0x0f) else {
        return Ok(Read::Refuse(PROTOCOL_ERROR));
    };
    let bad_control = opcode.is_control() && (!last || length > 125);
    if first & 0x70 != 0 || !masked || bad_control {
        return Ok(Read::Refuse(PROTOCOL_ERROR));
    }
    if length > LARGEST_MESSAGE {
        return Ok(Read::Refuse(TOO_BIG));
    }
    let mut mask = [0; 4];
    stream.read_exact(&mut mask).await?;
    // Grows as bytes arrive: an announced length alone costs nothing.
    let mut payload = Vec::new();
    stream.take(length).read_to_end(&mut payload).await?;
    if (payload.len() as u64) < length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Ok(Read::Frame(Frame {
        last,
        opcode,
        payload,
    }))
}

async fn write_frame<S: AsyncWrite + Unpin>(
    stream: &mut S,
    opcode: Opcode,
    payload: &[u8],
) -> std::io::Result<()> {
    let mut frame = Vec::with_capacity(payload.len() + 10);
    frame.push(0x80 | opcode.bits());
    match payload.len() {
        short @ 0..=125 => frame.push(short as u8),
        middle @ 126..=0xffff => {
            frame.push(126);
            frame.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            frame.push(127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    stream.write_all(&frame).await?;
    stream.flush().await
}

async fn close<S: AsyncWrite + Unpin>(stream: &mut S, payload: &[u8]) -> std::io::Result<()> {
    write_frame(stream, Opcode::Close, payload).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_is_that_of_the_rfcs_example() {
        assert_eq!(
            accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut frame = vec![first, 0x80 | payload.len() as u8];
        frame.extend_from_slice(&mask);
        frame.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        frame
    }

    async fn conversation(sent: &[u8]) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        client.write_all(sent).await.unwrap();
        client.shutdown().await.unwrap();
        let _ = echo(server, CancellationToken::new()).await;
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        received
    }

    #[tokio::test]
    async fn messages_come_back_whole_and_pings_in_between_are_answered() {
        let mut sent = masked(0x01, b"he");
        sent.extend(masked(0x89, b"p"));
        sent.extend(masked(0x80, b"llo"));
        sent.extend(masked(0x88, &[3, 232]));
        let received = conversation(&sent).await;
        assert_eq!(received, b"\x8a\x01p\x81\x05hello\x88\x02\x03\xe8");
    }

    #[tokio::test]
    async fn what_breaks_the_protocol_is_refused() {
        for wrong in [
            vec![0x81, 0x01, b'x'],
            masked(0x83, b"x"),
            masked(0xc1, b"x"),
            masked(0x80, b"x"),
            masked(0x09, b"x"),
        ] {
            assert_eq!(conversation(&wrong).await, b"\x88\x02\x03\xea", "{wrong:?}");
        }
        let huge = [0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(conversation(&huge).await, b"\x88\x02\x03\xf1");
    }
}
