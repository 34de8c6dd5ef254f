//! Reading a request's head, and how its body is framed (RFC 9112 sections 3 and 6).
//!
//! What two parties could read differently is refused, never repaired: that is what request smuggling is made of.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::uri::Uri;
use http::{Extensions, HeaderName, HeaderValue, Method, Version, header};

use super::Refusal;
use crate::codec::spelling::Spelling;
use crate::codec::{content_length, end_of_head, names};
use crate::http::client::ClientHead;
use crate::spare;

/// Headers for which there is room on the stack.
const USUAL_HEADERS: usize = 100;
/// Room for the headers that the proxy adds, so that the map need not grow.
const SPARE: usize = 3;

/// What a head may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of it.
    pub(super) bytes: usize,
    /// Its headers.
    pub(super) headers: usize,
    /// Names are to be passed on as they were spelt.
    pub(super) cased: bool,
    /// A length beside chunks is left out, rather than refused.
    pub(super) chunked_length: bool,
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// Where the coding says.
    Chunked,
    /// In a way that is refused later on, when it is known whom to answer how.
    Unknown,
}

/// A request's head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) came: Box<ClientHead>,
    /// Where its body ends.
    pub(super) framing: Framing,
    /// Whether the client means to send more requests.
    pub(super) keep_alive: bool,
    /// Whether the client waits for `100 Continue`.
    pub(super) waits: bool,
}

/// Takes a head out of a buffer; `None` if it is not complete yet. `scanned` is how much is known not to end a head.
///
/// # Errors
/// It is malformed, ambiguous or too large.
pub(super) fn take(
    buffer: &mut BytesMut,
    scanned: &mut usize,
    limits: &Limits,
) -> Result<Option<Head>, Refusal> {
    if *scanned == 0 {
        skip_empty_lines(buffer);
    }
    // Most heads come whole. One that does not is looked through once, not parsed again with each byte that comes.
    if *scanned > 0 && end_of_head(buffer, scanned.saturating_sub(3)).is_none() {
        *scanned = buffer.len();
        return unfinished(buffer, limits);
    }
    let block = buffer.split().freeze();
    let (head, end) = if limits.headers <= USUAL_HEADERS {
        let mut room = [const { MaybeUninit::uninit() }; USUAL_HEADERS];
        parse(&block, &mut room[..limits.headers], limits)?
    } else {
        let mut room = vec![MaybeUninit::uninit(); limits.headers];
        parse(&block, &mut room, limits)?
    };
    let Some(head) = head else {
        *scanned = block.len();
        *buffer = BytesMut::from(block); // nobody else has a part of it, so this copies nothing
        return unfinished(buffer, limits);
    };
    *scanned = 0;
    if end < block.len() {
        buffer.extend_from_slice(&block[end..]);
    }
    Ok(Some(head))
}

/// What a head that is not complete yet comes to.
fn unfinished(buffer: &[u8], limits: &Limits) -> Result<Option<Head>, Refusal> {
    if buffer.len() > limits.bytes {
        Err(Refusal::TooLarge)
    } else if begins_as_no_request(buffer) {
        Err(Refusal::Malformed)
    } else {
        Ok(None)
    }
}

/// Empty lines before a request are left over from a body that was longer than it said (RFC 9112 section 2.2).
fn skip_empty_lines(buffer: &mut BytesMut) {
    let empty = buffer
        .iter()
        .take_while(|byte| matches!(byte, b'\r' | b'\n'))
        .count();
    buffer.advance(empty);
}

/// Whether what is there already is no request, so that its end need not be waited for: a method is made of token characters.
fn begins_as_no_request(buffer: &[u8]) -> bool {
    let method = buffer.iter().take_while(|byte| **byte != b' ');
    method.take(64).any(|byte| !byte.is_ascii_graphic())
}

/// Parses a head and says where it ends; no head if it is not complete.
fn parse<'b>(
    block: &'b Bytes,
    room: &mut [MaybeUninit<httparse::Header<'b>>],
    limits: &Limits,
) -> Result<(Option<Head>, usize), Refusal> {
    let mut request = httparse::Request::new(&mut []);
    let end = match request.parse_with_uninit_headers(block, room) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) => return Ok((None, 0)),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooMany),
        Err(httparse::Error::Version) => return Err(Refusal::Version),
        Err(_) => return Err(Refusal::Malformed),
    };
    if end > limits.bytes {
        return Err(Refusal::TooLarge);
    }
    let (Some(method), Some(path), Some(version)) = (request.method, request.path, request.version)
    else {
        return Err(Refusal::Malformed);
    };
    let uri = Uri::from_maybe_shared(block.slice_ref(path.as_bytes()));
    let mut fields = Fields::default();
    let mut spelling = limits.cased.then(Spelling::default);
    let mut headers = spare::headers(request.headers.len() + SPARE);
    let mut host = None;
    for field in request.headers.iter() {
        let name = names::name(field.name.as_bytes()).ok_or(Refusal::Malformed)?;
        let value = HeaderValue::from_maybe_shared(block.slice_ref(field.value))
            .map_err(|_| Refusal::Malformed)?;
        if fields.note(&name, &value)? {
            if let Some(spelling) = &mut spelling {
                spelling.note(&name, block.slice_ref(field.name.as_bytes()));
            }
            if name == header::HOST && host.is_none() {
                host = Some(value);
            } else {
                headers.append(name, value);
            }
        }
    }
    let version = if version == 0 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    let framing = fields.framing(version, limits)?;
    if fields.codings > 0 {
        headers.remove(header::CONTENT_LENGTH);
    }
    let mut extensions = Extensions::new();
    if let Some(spelling) = spelling {
        extensions.insert(spelling);
    }
    let head = Head {
        came: Box::new(ClientHead {
            method: Method::from_bytes(method.as_bytes()).map_err(|_| Refusal::Malformed)?,
            uri: uri.map_err(|_| Refusal::Malformed)?,
            version,
            host,
            headers,
            extensions,
        }),
        framing,
        keep_alive: fields.keep_alive(version) && framing != Framing::Unknown,
        waits: fields.waits && version == Version::HTTP_11,
    };
    Ok((Some(head), end))
}

/// The fields that say how a message is framed and what becomes of its connection.
#[derive(Debug, Default)]
struct Fields {
    length: Option<u64>,
    codings: usize,
    chunked: bool,
    close: bool,
    stays: bool,
    waits: bool,
}

impl Fields {
    /// Notes a field; false if it only repeats what was said.
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<bool, Refusal> {
        if *name == header::CONTENT_LENGTH {
            let length = content_length(value.as_bytes()).ok_or(Refusal::Length)?;
            if let Some(before) = self.length.replace(length) {
                return if before == length {
                    Ok(false)
                } else {
                    Err(Refusal::Length)
                };
            }
        } else if *name == header::TRANSFER_ENCODING {
            self.codings += 1;
            self.chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
        } else if *name == header::CONNECTION {
            for token in value.as_bytes().split(|b| *b == b',') {
                let token = token.trim_ascii();
                self.close |= token.eq_ignore_ascii_case(b"close");
                self.stays |= token.eq_ignore_ascii_case(b"keep-alive");
            }
        } else if *name == header::EXPECT {
            self.waits = value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        }
        Ok(true)
    }

    fn framing(&self, version: Version, limits: &Limits) -> Result<Framing, Refusal> {
        match (self.codings, self.length) {
            (0, length) => Ok(Framing::Length(length.unwrap_or(0))),
            (_, Some(_)) if !limits.chunked_length => Err(Refusal::LengthAndChunks),
            // Who speaks HTTP/1.0 knows of no coding, and would read the chunks as the body.
            _ if version == Version::HTTP_10 => Err(Refusal::Coding),
            (1, _) if self.chunked => Ok(Framing::Chunked),
            _ => Ok(Framing::Unknown),
        }
    }

    fn keep_alive(&self, version: Version) -> bool {
        // Of two parties that read a length differently the next one may take what follows for a request.
        let certain = self.codings == 0 || self.length.is_none();
        certain && !self.close && (version == Version::HTTP_11 || self.stays)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        bytes: 60 * 1024,
        headers: 100,
        cased: false,
        chunked_length: false,
    };

    fn read(text: &str) -> Result<Option<Head>, Refusal> {
        take(&mut BytesMut::from(text.as_bytes()), &mut 0, &LIMITS)
    }

    fn framing(fields: &str) -> Result<Framing, Refusal> {
        read(&format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n"))
            .map(|head| head.unwrap().framing)
    }

    #[test]
    fn a_body_ends_where_the_head_says() {
        assert_eq!(framing("a: b"), Ok(Framing::Length(0)));
        assert_eq!(framing("content-length: 5"), Ok(Framing::Length(5)));
        assert_eq!(framing("Transfer-Encoding: Chunked"), Ok(Framing::Chunked));
        for unknown in ["gzip, chunked", "identity", "chunked, chunked", "xchunked"] {
            assert_eq!(
                framing(&format!("transfer-encoding: {unknown}")),
                Ok(Framing::Unknown)
            );
        }
        let twice = "transfer-encoding: chunked\r\ntransfer-encoding: chunked";
        assert_eq!(framing(twice), Ok(Framing::Unknown));
    }

    #[test]
    fn a_head_that_says_two_things_about_its_body_is_refused() {
        for fields in [
            "content-length: 5\r\ncontent-length: 6",
            "content-length: 5, 5",
            "content-length: +5",
            "content-length: -5",
            "content-length: 5 5",
            "content-length:",
            "content-length: 0x5",
            "content-length: 99999999999999999999999",
        ] {
            assert_eq!(framing(fields), Err(Refusal::Length), "{fields:?}");
        }
        let both = "content-length: 5\r\ntransfer-encoding: chunked";
        assert_eq!(framing(both), Err(Refusal::LengthAndChunks));
        let old = "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(read(old).unwrap_err(), Refusal::Coding);
        for fields in [
            "content-length : 5",
            " content-length: 5",
            "a: b\r\n folded",
            "a b: c",
            "a: b\0c",
            "a: b\rc: d",
        ] {
            assert_eq!(framing(fields), Err(Refusal::Malformed), "{fields:?}");
        }
    }

    #[test]
    fn a_length_beside_chunks_goes_where_that_is_allowed() {
        let limits = Limits {
            chunked_length: true,
            ..LIMITS
        };
        let text =
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n";
        let head = take(&mut BytesMut::from(text), &mut 0, &limits);
        let head = head.unwrap().unwrap();
        assert_eq!((head.framing, head.keep_alive), (Framing::Chunked, false));
        assert!(!head.came.headers.contains_key("content-length"));
    }

    #[test]
    fn the_same_length_twice_is_said_once() {
        let text = "POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n";
        let head = read(text).unwrap().unwrap();
        assert_eq!(head.framing, Framing::Length(5));
        assert_eq!(
            head.came.headers.get_all("content-length").iter().count(),
            1
        );
    }

    #[test]
    fn connections_stay_as_their_version_and_head_say() {
        let stays = |text: &str| read(text).unwrap().unwrap().keep_alive;
        assert!(stays("GET / HTTP/1.1\r\n\r\n"));
        assert!(!stays("GET / HTTP/1.1\r\nconnection: foo, Close\r\n\r\n"));
        assert!(!stays("GET / HTTP/1.0\r\n\r\n"));
        assert!(stays("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"));
    }

    #[test]
    fn a_head_may_come_in_any_pieces_and_what_follows_is_left() {
        let whole = b"\r\nGET /x?y HTTP/1.1\nhost: a\r\n\r\nGET";
        let mut buffer = BytesMut::new();
        let mut scanned = 0;
        let mut found = None;
        for byte in whole {
            buffer.extend_from_slice(&[*byte]);
            if found.is_none() {
                found = take(&mut buffer, &mut scanned, &LIMITS).unwrap();
            }
        }
        assert_eq!(found.unwrap().came.uri, "/x?y");
        assert_eq!(&buffer[..], b"GET");
    }

    #[test]
    fn what_is_no_request_is_not_waited_for_and_heads_are_bounded() {
        assert_eq!(read("\x16\x03\x01").unwrap_err(), Refusal::Malformed);
        assert!(read("GET / HT").unwrap().is_none());
        let long = format!("GET / HTTP/1.1\r\na: {}", "x".repeat(LIMITS.bytes));
        assert_eq!(read(&long).unwrap_err(), Refusal::TooLarge);
        let whole = format!("{long}\r\n\r\n");
        assert_eq!(read(&whole).unwrap_err(), Refusal::TooLarge);
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101));
        assert_eq!(read(&many).unwrap_err(), Refusal::TooMany);
        let later = read("GET / HTTP/3.7\r\n\r\n");
        assert_eq!(later.unwrap_err(), Refusal::Version);
    }

    #[test]
    fn names_are_remembered_as_they_were_spelt_where_that_matters() {
        let limits = Limits {
            cased: true,
            ..LIMITS
        };
        let text = "GET / HTTP/1.1\r\nHost: a\r\nX-Abc: 1\r\n\r\n";
        let head = take(&mut BytesMut::from(text), &mut 0, &limits);
        let came = head.unwrap().unwrap().came;
        let mut out = Vec::new();
        let host = came.host.iter().map(|host| (&header::HOST, host));
        let fields = host.chain(came.headers.iter());
        crate::codec::fields(&mut out, fields, came.extensions.get());
        assert_eq!(out, b"Host: a\r\nX-Abc: 1\r\n");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&b"GET / HTTP/1.1\r\n"[..]);
            buffer.extend_from_slice(&bytes);
            buffer.extend_from_slice(b"\r\n\r\n");
            let _ = take(&mut buffer, &mut 0, &LIMITS);
        }
    }
}
