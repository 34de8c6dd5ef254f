//! Heads: lengths and bytes, so that there is one way to read them.
//!
//! ```text
//! request  = version: u8 (10 or 11, and 0x80 if introduced) | method | target | fields
//! response = status: u16 (and 0x8000 if it is [`Unserved`], 0x4000 if introduced) | fields
//! fields   = (name | value)*            to the end of the frame
//! text     = length: LEB128 | bytes
//! ```
//! A head that is introduced has the fields of its connection's [`Introduction`], too. Trailers are fields. Names are lower case. What
//! frames a body in HTTP/1, or concerns one connection only, is not passed on and refused where it comes: frames say where a body ends,
//! and a second opinion is what request smuggling is made of.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};

use crate::spare;
use crate::streams::is_of_connection;

use super::introduction::{self, Introduction};
use crate::codec::names;
use crate::upstream::plain::Plain;

/// Bytes of a length: enough for any frame.
const MOST_LENGTH: usize = 4;

/// The head of a request.
#[derive(Debug)]
pub(crate) struct RequestHead {
    /// Its method.
    pub(crate) method: Method,
    /// Its target in origin form, or as the client sent it.
    pub(crate) target: Uri,
    /// HTTP/1.1 or HTTP/1.0.
    pub(crate) version: Version,
    /// Its fields.
    pub(crate) headers: HeaderMap,
}

/// Marks a response (in its extensions) that a proxy gave because it could not reach its application: the application was sent nothing,
/// so that the request can go to another host whatever it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unserved;

/// The bit of a response's status that says so.
const UNSERVED: u16 = 0x8000;
/// The bits of a request's version and of a response's status that say that it is introduced.
const INTRODUCED: u8 = 0x80;
const INTRODUCED_ANSWER: u16 = 0x4000;

/// A head that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// It cannot be read.
    Unreadable,
    /// It has more fields than are taken.
    TooMany,
}

/// Encodes the head of a request. If it is `introduced`, the introduction is left out of it.
pub(crate) fn put_request(out: &mut BytesMut, parts: &http::request::Parts, introduced: bool) {
    let target = parts.uri.path_and_query().map_or("*", |path| path.as_str());
    out.reserve(room(&parts.headers) + target.len() + 16);
    let version = if parts.version == Version::HTTP_10 {
        10
    } else {
        11
    };
    out.put_u8(version | mark(introduced));
    put_text(out, parts.method.as_str().as_bytes());
    put_text(out, target.as_bytes());
    put_fields(out, &parts.headers, introduced);
}

/// Encodes the head of a request from its parts, like [`put_request`].
pub(crate) fn put_plain(
    out: &mut BytesMut,
    plain: &Plain<'_>,
    says_no_body: bool,
    introduced: bool,
) {
    let target = plain.target.as_str();
    out.reserve(plain.room());
    out.put_u8(11 | mark(introduced));
    put_text(out, plain.method.as_str().as_bytes());
    put_text(out, target.as_bytes());
    let mut says_length = false;
    for (name, value) in plain.fields() {
        says_length |= *name == header::CONTENT_LENGTH;
        put_field(out, name, value, introduced);
    }
    if says_no_body && !says_length {
        put_text(out, b"content-length");
        put_text(out, b"0");
    }
}

/// Encodes the head of a response. If it is `introduced`, the introduction is left out of it.
pub(crate) fn put_response(out: &mut BytesMut, parts: &http::response::Parts, introduced: bool) {
    out.reserve(room(&parts.headers) + 2);
    let mut status = parts.status.as_u16();
    if parts.extensions.get::<Unserved>().is_some() {
        status |= UNSERVED;
    }
    if introduced {
        status |= INTRODUCED_ANSWER;
    }
    out.put_u16(status);
    put_fields(out, &parts.headers, introduced);
}

/// Encodes trailers.
pub(crate) fn put_trailers(out: &mut BytesMut, trailers: &HeaderMap) {
    put_fields(out, trailers, false);
}

fn put_fields(out: &mut BytesMut, headers: &HeaderMap, introduced: bool) {
    for (name, value) in headers {
        put_field(out, name, value, introduced);
    }
}

/// Encodes a field, unless it concerns one connection or was said before.
fn put_field(out: &mut BytesMut, name: &HeaderName, value: &HeaderValue, introduced: bool) {
    if !(is_of_connection(name) || introduced && introduction::is_part(name)) {
        put_text(out, name.as_str().as_bytes());
        put_text(out, value.as_bytes());
    }
}

const fn mark(introduced: bool) -> u8 {
    if introduced { INTRODUCED } else { 0 }
}

/// Adds what an introduced head leaves out.
///
/// # Errors
/// Nobody was introduced.
fn introduce(
    headers: &mut HeaderMap,
    introduced: bool,
    heard: Option<&Introduction>,
) -> Result<(), Malformed> {
    if introduced {
        heard.ok_or(Malformed::Unreadable)?.add_to(headers);
    }
    Ok(())
}

/// Reads the head of a request on a connection whose client introduced itself so.
///
/// # Errors
/// It is none, or has more than `most` fields.
pub(crate) fn request(
    mut from: Bytes,
    most: usize,
    heard: Option<&Introduction>,
) -> Result<RequestHead, Malformed> {
    let first = from.try_get_u8().map_err(|_| Malformed::Unreadable)?;
    let version = match first & !INTRODUCED {
        11 => Version::HTTP_11,
        10 => Version::HTTP_10,
        _ => return Err(Malformed::Unreadable),
    };
    let method = text(&mut from)?;
    let target = text(&mut from)?;
    let mut head = RequestHead {
        method: Method::from_bytes(&method).map_err(|_| Malformed::Unreadable)?,
        target: Uri::from_maybe_shared(target).map_err(|_| Malformed::Unreadable)?,
        version,
        headers: fields(from, most)?,
    };
    introduce(&mut head.headers, first & INTRODUCED != 0, heard)?;
    Ok(head)
}

/// Reads the head of a response on a connection whose server introduced itself so.
///
/// # Errors
/// It is none, or has more than `most` fields.
pub(crate) fn response(
    mut from: Bytes,
    most: usize,
    heard: Option<&Introduction>,
) -> Result<http::response::Parts, Malformed> {
    let first = from.try_get_u16().map_err(|_| Malformed::Unreadable)?;
    let status = first & !(UNSERVED | INTRODUCED_ANSWER);
    let status = StatusCode::from_u16(status).map_err(|_| Malformed::Unreadable)?;
    if status.is_informational() {
        return Err(Malformed::Unreadable); // nothing but upgrades would need one, and they have connections of their own
    }
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status;
    parts.headers = fields(from, most)?;
    introduce(&mut parts.headers, first & INTRODUCED_ANSWER != 0, heard)?;
    if first & UNSERVED != 0 {
        parts.extensions.insert(Unserved);
    }
    Ok(parts)
}

/// Reads fields to the end.
///
/// # Errors
/// They are none, or more than `most`.
pub(crate) fn fields(mut from: Bytes, most: usize) -> Result<HeaderMap, Malformed> {
    let mut headers = spare::headers(24);
    let mut count = 0;
    while from.has_remaining() {
        count += 1;
        if count > most {
            return Err(Malformed::TooMany);
        }
        let name = text(&mut from)?;
        let name = names::lower_case(&name).ok_or(Malformed::Unreadable)?;
        let value = text(&mut from)?;
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| Malformed::Unreadable)?;
        if is_of_connection(&name) {
            return Err(Malformed::Unreadable);
        }
        headers.append(name, value);
    }
    Ok(headers)
}

/// What the fields of a head take, more or less.
fn room(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum()
}

pub(super) fn put_text(out: &mut BytesMut, text: &[u8]) {
    let mut length = text.len();
    while length >= 0x80 {
        out.put_u8((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.put_u8(length as u8);
    out.extend_from_slice(text);
}

pub(super) fn text(from: &mut Bytes) -> Result<Bytes, Malformed> {
    let mut length = 0;
    for at in 0..MOST_LENGTH {
        let byte = from.try_get_u8().map_err(|_| Malformed::Unreadable)?;
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            if length > from.len() {
                break;
            }
            return Ok(from.split_to(length));
        }
    }
    Err(Malformed::Unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(request: http::Request<()>) -> Bytes {
        let mut out = BytesMut::new();
        put_request(&mut out, &request.into_parts().0, false);
        out.freeze()
    }

    #[test]
    fn a_request_comes_out_as_it_went_in() {
        let long = "x".repeat(300);
        let bytes = encoded(
            http::Request::put("/a/b?c=d")
                .header("host", "reviews:9080")
                .header("cookie", "a")
                .header("cookie", "b")
                .header("x-long", &long)
                .header("x-bytes", HeaderValue::from_bytes(b"\xff\x80").unwrap())
                .body(())
                .unwrap(),
        );
        let head = request(bytes, 100, None).unwrap();
        assert_eq!(head.method, Method::PUT);
        assert_eq!(head.target, "/a/b?c=d");
        assert_eq!(head.version, Version::HTTP_11);
        let cookies: Vec<_> = head.headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a", "b"]);
        assert_eq!(head.headers["x-long"], long);
        assert_eq!(head.headers["x-bytes"].as_bytes(), b"\xff\x80");
        assert_eq!(head.headers["host"], "reviews:9080");
    }

    #[test]
    fn what_frames_a_body_in_http1_is_neither_sent_nor_taken() {
        let bytes = encoded(
            http::Request::post("/")
                .header("transfer-encoding", "chunked")
                .header("connection", "close")
                .header("content-length", "3")
                .body(())
                .unwrap(),
        );
        let head = request(bytes, 100, None).unwrap();
        assert_eq!(head.headers.len(), 1, "{:?}", head.headers);
        for name in ["transfer-encoding", "connection", "upgrade", "keep-alive"] {
            let mut out = BytesMut::from(&b"\x0b\x03GET\x01/"[..]);
            put_text(&mut out, name.as_bytes());
            put_text(&mut out, b"x");
            assert_eq!(
                request(out.freeze(), 100, None).unwrap_err(),
                Malformed::Unreadable
            );
        }
    }

    #[test]
    fn what_is_no_head_is_refused() {
        let cases: [&[u8]; 8] = [
            b"",
            b"\x0c\x03GET\x01/",
            b"\x0b\x03GE",
            b"\x0b\x03G T\x01/",
            b"\x0b\x03GET\x02/",
            b"\x0b\x03GET\x01/\x01A\x01b",
            b"\x0b\x03GET\x01/\x01a\x01\n",
            b"\x0b\xff\xff\xff\xff\x0fGET\x01/",
        ];
        for case in cases {
            assert_eq!(
                request(Bytes::from_static(case), 100, None).unwrap_err(),
                Malformed::Unreadable,
                "{case:?}"
            );
        }
        let two = Bytes::from_static(b"\x0b\x03GET\x01/\x01a\x01b\x01a\x01b");
        assert_eq!(request(two, 1, None).unwrap_err(), Malformed::TooMany);
    }

    #[test]
    fn a_response_has_a_final_status() {
        for unserved in [false, true] {
            let (mut parts, ()) = http::Response::new(()).into_parts();
            parts.status = StatusCode::NO_CONTENT;
            if unserved {
                parts.extensions.insert(Unserved);
            }
            let mut out = BytesMut::new();
            put_response(&mut out, &parts, false);
            let read = response(out.freeze(), 10, None).unwrap();
            assert_eq!(read.status, StatusCode::NO_CONTENT);
            assert_eq!(read.extensions.get::<Unserved>().is_some(), unserved);
        }
        let interim = Bytes::from_static(&[0, 100]);
        assert_eq!(
            response(interim, 10, None).unwrap_err(),
            Malformed::Unreadable
        );
    }

    #[test]
    fn a_head_that_is_introduced_leaves_out_what_was_said_before() {
        let mut headers = HeaderMap::new();
        headers.insert("a", HeaderValue::from_static("1"));
        let told = Introduction::sample();
        told.add_to(&mut headers);
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.headers = headers.clone();
        let mut out = BytesMut::new();
        put_request(&mut out, &parts, true);
        let bytes = out.freeze();
        assert_eq!(
            request(bytes.clone(), 1, Some(&told)).unwrap().headers,
            headers
        );
        assert_eq!(request(bytes, 1, None).unwrap_err(), Malformed::Unreadable);

        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.headers = headers.clone();
        let mut out = BytesMut::new();
        put_response(&mut out, &parts, true);
        let bytes = out.freeze();
        let read = response(bytes.clone(), 1, Some(&told)).unwrap();
        assert_eq!((read.status, read.headers), (StatusCode::OK, headers));
        assert_eq!(response(bytes, 1, None).unwrap_err(), Malformed::Unreadable);
    }
}
