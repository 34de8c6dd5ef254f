//! HTTP/2 by hand: frames that no client library would send.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags];
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// A header field as a literal that is not indexed, never in Huffman code.
pub(crate) fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        integer(text.len(), 7, 0, &mut out);
        out.extend_from_slice(text);
    }
    out
}

/// A header field that the decoder is to remember.
pub(crate) fn remembered(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = literal(name, value);
    out[0] = 0x40;
    out
}

/// A field of the decoder's table.
pub(crate) fn indexed(index: usize) -> Vec<u8> {
    let mut out = Vec::new();
    integer(index, 7, 0x80, &mut out);
    out
}

fn integer(value: usize, bits: u32, first: u8, out: &mut Vec<u8>) {
    let most = (1_usize << bits) - 1;
    if value < most {
        out.push(first | u8::try_from(value).unwrap());
        return;
    }
    out.push(first | u8::try_from(most).unwrap());
    let mut rest = value - most;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap() | 0x80);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
}

/// A GET's pseudo-headers.
pub(crate) fn get(path: &str) -> Vec<u8> {
    [
        indexed(2),
        indexed(6),
        literal(b":path", path.as_bytes()),
        literal(b":authority", b"a.example"),
    ]
    .concat()
}

/// A connection after its preface.
pub(crate) async fn connect(address: std::net::SocketAddr, settings: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    stream
        .write_all(&frame(SETTINGS, 0, 0, settings))
        .await
        .unwrap();
    stream
}

/// The frames in what was received: kind, stream, payload.
pub(crate) fn parse(bytes: &[u8]) -> Vec<(u8, u32, Vec<u8>)> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let [a, b, c, kind, _, s1, s2, s3, s4, after @ ..] = rest {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let stream = u32::from_be_bytes([*s1, *s2, *s3, *s4]);
        let Some(payload) = after.get(..length) else {
            break;
        };
        out.push((*kind, stream, payload.to_vec()));
        rest = &after[length..];
    }
    out
}
