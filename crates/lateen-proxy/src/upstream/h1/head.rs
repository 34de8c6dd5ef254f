//! Reading a response's head, and how its body is framed (RFC 9112 section 6.3).
//!
//! A head that says two things about where its body ends is refused: whoever is behind this proxy might believe the other one.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};

use super::Error;
use crate::codec::spelling::Spelling;
use crate::codec::{content_length, names};
use crate::spare;

/// Bytes of a response's head. Envoy: 60 KiB.
pub(super) const MOST_BYTES: usize = 60 * 1024;
/// Headers for which there is room on the stack.
const USUAL_HEADERS: usize = 100;

/// What the request says about its response.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// HEAD: a response without a body, whatever its head says.
    pub(super) head: bool,
    /// An upgrade was asked for.
    pub(super) upgrade: bool,
    /// CONNECT: a success is no message, but the beginning of a tunnel (RFC 9112 section 6.3).
    pub(super) connect: bool,
}

impl Asked {
    /// Of a request's head.
    pub(super) fn of(method: &Method, headers: &HeaderMap) -> Self {
        Self {
            head: method == Method::HEAD,
            upgrade: headers.contains_key(header::UPGRADE),
            connect: method == Method::CONNECT,
        }
    }
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// Where the coding says.
    Chunked,
    /// With the connection.
    UntilClose,
    /// There is none: the connection is another protocol's from here on.
    Upgrade,
}

/// A response's head.
#[derive(Debug)]
pub(super) struct Head {
    /// Its status.
    pub(super) status: StatusCode,
    /// Its headers.
    pub(super) headers: HeaderMap,
    /// Where its body ends.
    pub(super) framing: Framing,
    /// Whether the connection may carry another request.
    pub(super) keep_alive: bool,
    /// How its names were spelt, where that matters.
    pub(super) spelling: Option<Box<Spelling>>,
}

/// Takes a head out of a buffer; `None` if it is not complete yet.
///
/// # Errors
/// It is malformed, ambiguous or too large.
pub(super) fn take(
    buffer: &mut BytesMut,
    (most_headers, cased): (usize, bool),
    asked: Asked,
) -> Result<Option<Head>, Error> {
    if !looks_like_http(buffer) {
        return Err(Error::Head);
    }
    let mut fields = [Span::default(); USUAL_HEADERS];
    let mut many;
    let found = if most_headers <= USUAL_HEADERS {
        let mut room = [const { MaybeUninit::uninit() }; USUAL_HEADERS];
        find(buffer, &mut room[..most_headers], &mut fields)?
    } else {
        let mut room = vec![MaybeUninit::uninit(); most_headers];
        many = vec![Span::default(); most_headers];
        match find(buffer, &mut room, &mut many)? {
            Some(found) => {
                let block = buffer.split_to(found.end).freeze();
                return read(&block, &found, &many[..found.count], (asked, cased)).map(Some);
            }
            None => None,
        }
    };
    let Some(found) = found else {
        return if buffer.len() > MOST_BYTES {
            Err(Error::Head)
        } else {
            Ok(None)
        };
    };
    let block = buffer.split_to(found.end).freeze();
    read(&block, &found, &fields[..found.count], (asked, cased)).map(Some)
}

/// Where a field's name and value lie: where each begins and ends.
#[derive(Clone, Copy, Debug, Default)]
struct Span([u16; 4]);

impl Span {
    fn name(self) -> Range<usize> {
        usize::from(self.0[0])..usize::from(self.0[1])
    }

    fn value(self) -> Range<usize> {
        usize::from(self.0[2])..usize::from(self.0[3])
    }
}

/// A head that is there whole.
#[derive(Clone, Copy, Debug)]
struct Found {
    status: StatusCode,
    version: Version,
    /// Its fields.
    count: usize,
    /// Where it ends.
    end: usize,
}

/// Looks whether a head is there, and where its fields lie.
fn find<'b>(
    buffer: &'b [u8],
    room: &mut [MaybeUninit<httparse::Header<'b>>],
    spans: &mut [Span],
) -> Result<Option<Found>, Error> {
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        buffer,
        room,
    );
    let end = match parsed {
        Ok(httparse::Status::Complete(end)) if end <= MOST_BYTES => end,
        Ok(httparse::Status::Partial) => return Ok(None),
        _ => return Err(Error::Head),
    };
    let (Some(version), Some(code)) = (response.version, response.code) else {
        return Err(Error::Head);
    };
    // Within what was parsed, and so below `MOST_BYTES`.
    let at = |part: &[u8]| (part.as_ptr().addr() - buffer.as_ptr().addr()) as u16;
    for (span, field) in spans.iter_mut().zip(response.headers.iter()) {
        let (name, value) = (field.name.as_bytes(), field.value);
        let (begin, value_at) = (at(name), if value.is_empty() { 0 } else { at(value) });
        let lengths = (name.len() as u16, value.len() as u16);
        *span = Span([begin, begin + lengths.0, value_at, value_at + lengths.1]);
    }
    Ok(Some(Found {
        status: StatusCode::from_u16(code).map_err(|_| Error::Head)?,
        version: if version == 0 {
            Version::HTTP_10
        } else {
            Version::HTTP_11
        },
        count: response.headers.len(),
        end,
    }))
}

/// Whether the first bytes may become a response: what is none is not waited for.
fn looks_like_http(buffer: &[u8]) -> bool {
    let start = b"HTTP/1.";
    let n = buffer.len().min(start.len());
    buffer[..n] == start[..n]
}

fn read(
    block: &Bytes,
    found: &Found,
    spans: &[Span],
    (asked, cased): (Asked, bool),
) -> Result<Head, Error> {
    let (status, version) = (found.status, found.version);
    let mut fields = Fields::default();
    let mut spelling = cased.then(Box::<Spelling>::default);
    let mut headers = spare::headers(spans.len() + SPARE);
    for span in spans {
        let spelt = &block[span.name()];
        let name = names::name(spelt).ok_or(Error::Head)?;
        let value =
            HeaderValue::from_maybe_shared(block.slice(span.value())).map_err(|_| Error::Head)?;
        if fields.note(&name, &value)? {
            if let Some(spelling) = &mut spelling {
                spelling.note(&name, block.slice_ref(spelt));
            }
            headers.append(name, value);
        }
    }
    let framing = fields.framing(status, version, asked)?;
    Ok(Head {
        status,
        headers,
        keep_alive: fields.keep_alive(version) && framing != Framing::UntilClose,
        framing,
        spelling,
    })
}

/// Room for the headers that the proxy adds, so that the map need not grow.
const SPARE: usize = 3;

/// The fields that say how a message is framed.
#[derive(Debug, Default)]
struct Fields {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    stays: bool,
}

impl Fields {
    /// Notes a field; false if it only repeats what was said.
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<bool, Error> {
        if *name == header::CONTENT_LENGTH {
            let length = content_length(value.as_bytes()).ok_or(Error::Framing)?;
            if let Some(before) = self.length.replace(length) {
                return if before == length {
                    Ok(false)
                } else {
                    Err(Error::Framing)
                };
            }
        } else if *name == header::TRANSFER_ENCODING {
            // Any other coding would have to be undone to know where the body ends.
            let is_chunked = value
                .as_bytes()
                .trim_ascii()
                .eq_ignore_ascii_case(b"chunked");
            if !is_chunked || self.chunked {
                return Err(Error::Framing);
            }
            self.chunked = true;
        } else if *name == header::CONNECTION {
            for token in value.as_bytes().split(|b| *b == b',') {
                let token = token.trim_ascii();
                self.close |= token.eq_ignore_ascii_case(b"close");
                self.stays |= token.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        Ok(true)
    }

    fn framing(
        &self,
        status: StatusCode,
        version: Version,
        asked: Asked,
    ) -> Result<Framing, Error> {
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return if asked.upgrade {
                Ok(Framing::Upgrade)
            } else {
                Err(Error::Framing)
            };
        }
        if asked.connect && status.is_success() {
            return Ok(Framing::Upgrade);
        }
        if self.chunked && (self.length.is_some() || version == Version::HTTP_10) {
            return Err(Error::Framing);
        }
        let bodiless = status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        Ok(match self.length {
            _ if asked.head || bodiless => Framing::None,
            _ if self.chunked => Framing::Chunked,
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        })
    }

    fn keep_alive(&self, version: Version) -> bool {
        !self.close && (version == Version::HTTP_11 || self.stays)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Asked = Asked {
        head: false,
        upgrade: false,
        connect: false,
    };

    fn read(text: &str, asked: Asked) -> Result<Option<Head>, Error> {
        take(&mut BytesMut::from(text.as_bytes()), (100, false), asked)
    }

    fn framing(text: &str) -> Framing {
        read(text, GET).unwrap().unwrap().framing
    }

    #[test]
    fn a_body_ends_where_the_head_says() {
        assert_eq!(
            framing("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
            Framing::Length(5)
        );
        assert_eq!(
            framing("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"),
            Framing::Chunked
        );
        assert_eq!(framing("HTTP/1.1 200 OK\r\n\r\n"), Framing::UntilClose);
        for bodiless in ["204 No Content", "304 Not Modified", "103 Early Hints"] {
            let text = format!("HTTP/1.1 {bodiless}\r\ncontent-length: 5\r\n\r\n");
            assert_eq!(framing(&text), Framing::None, "{bodiless}");
        }
        let asked = Asked {
            head: true,
            upgrade: false,
            connect: false,
        };
        let head = read("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", asked)
            .unwrap()
            .unwrap();
        assert_eq!(
            (head.framing, head.headers["content-length"].as_bytes()),
            (Framing::None, &b"5"[..])
        );
    }

    #[test]
    fn a_head_that_says_two_things_about_its_body_is_refused() {
        for fields in [
            "content-length: 5\r\ntransfer-encoding: chunked",
            "content-length: 5\r\ncontent-length: 6",
            "content-length: 5, 5",
            "content-length: +5",
            "content-length: 5 5",
            "content-length:",
            "content-length: 0x5",
            "content-length: 99999999999999999999999",
            "transfer-encoding: gzip, chunked",
            "transfer-encoding: chunked, chunked",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            "transfer-encoding: identity",
            "transfer-encoding: xchunked",
            "transfer-encoding: \x0bchunked",
            "content-length : 5",
            " content-length: 5",
            "a: b\r\n folded",
            "a b: c",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
            assert!(read(&text, GET).is_err(), "{fields:?} was accepted");
        }
        assert!(read("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", GET).is_err());
        assert!(
            read(
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
                GET
            )
            .is_err()
        );
    }

    #[test]
    fn lines_may_end_in_a_line_feed_alone() {
        let mut buffer = BytesMut::from("HTTP/1.1 200 OK\na: b\ncontent-length: 5\n\nhello");
        let head = take(&mut buffer, (100, false), GET).unwrap().unwrap();
        assert_eq!(
            (head.framing, &buffer[..]),
            (Framing::Length(5), &b"hello"[..])
        );
    }

    #[test]
    fn the_same_length_twice_is_said_once() {
        let text = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n";
        let head = read(text, GET).unwrap().unwrap();
        assert_eq!(head.framing, Framing::Length(5));
        assert_eq!(head.headers.get_all("content-length").iter().count(), 1);
    }

    #[test]
    fn connections_stay_as_their_version_and_head_say() {
        let stays = |text: &str| read(text, GET).unwrap().unwrap().keep_alive;
        assert!(stays("HTTP/1.1 204 No Content\r\n\r\n"));
        assert!(!stays(
            "HTTP/1.1 204 No Content\r\nconnection: foo, Close\r\n\r\n"
        ));
        assert!(!stays("HTTP/1.0 204 No Content\r\n\r\n"));
        assert!(stays(
            "HTTP/1.0 204 No Content\r\nconnection: keep-alive\r\n\r\n"
        ));
        assert!(!stays("HTTP/1.1 200 OK\r\n\r\n"), "its body ends with it");
    }

    #[test]
    fn what_is_no_response_is_not_waited_for_and_heads_are_bounded() {
        assert!(read("SSH-2.0-OpenSSH", GET).is_err());
        assert!(read("HTTP/1.1 200", GET).unwrap().is_none());
        let long = format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(MOST_BYTES));
        assert!(read(&long, GET).is_err());
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101));
        assert!(read(&many, GET).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&b"HTTP/1.1 200 OK\r\n"[..]);
            buffer.extend_from_slice(&bytes);
            buffer.extend_from_slice(b"\r\n\r\n");
            let _ = take(&mut buffer, (100, false), GET);
        }
    }
}
