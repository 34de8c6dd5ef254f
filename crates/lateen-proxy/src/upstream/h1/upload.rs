//! A request's head as it is written, and the framing of its body.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header, request};
use http_body::Body;

use super::Error;
use super::head::Asked;
use crate::codec::outgoing::{Length, Outgoing, WriteError};
use crate::codec::spelling::Spelling;
use crate::codec::{self};
use crate::http::body::{BodyError, RequestBody};
use crate::spare;
use crate::upstream::plain::Plain;

/// A request on its way.
///
/// Boxed: it is handed on from step to step.
pub(super) type Upload = Box<Outgoing<RequestBody>>;

/// A request of which nothing was written; `cased`: names are spelt as the client spelt them.
///
/// # Errors
/// The head promises a body that is not there.
pub(super) fn upload(
    parts: &request::Parts,
    body: RequestBody,
    cased: bool,
) -> Result<Upload, Error> {
    let empty = body.is_end_stream();
    let (length, says_so) = match length(&parts.headers)? {
        Some(length) => (length, true),
        None if empty => (Length::Exact(0), true),
        None => {
            let exact = body.size_hint().exact();
            (exact.map_or(Length::Chunked, Length::Exact), false)
        }
    };
    let spelling = parts.extensions.get::<Spelling>().filter(|_| cased);
    let head = head(parts, (!says_so).then_some(length), spelling);
    framed(head, body, length)
}

/// The same of a head in parts. A body whose length is not stated goes in chunks.
///
/// # Errors
/// The head promises a body that is not there.
pub(super) fn plain(
    plain: &Plain<'_>,
    body: RequestBody,
    cased: bool,
) -> Result<(Asked, Upload), Error> {
    let mut out = spare::buffer(plain.room());
    request_line(&mut out, plain.method, plain.target.as_str());
    let mut seen = Seen::default();
    let fields = plain
        .fields()
        .inspect(|(name, value)| seen.note(name, value));
    codec::fields(&mut out, fields, plain.spelling.filter(|_| cased));
    let length = match seen {
        Seen { coded: true, .. } => Length::Chunked,
        Seen {
            length: Some(length),
            ..
        } => Length::Exact(length.ok_or(Error::Body(None))?),
        _ if matches!(body, RequestBody::Empty) => {
            if plain.says_no_body(&body) {
                out.extend_from_slice(b"content-length: 0\r\n");
            }
            Length::Exact(0)
        }
        _ => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Length::Chunked
        }
    };
    out.extend_from_slice(b"\r\n");
    let asked = Asked {
        head: *plain.method == Method::HEAD,
        upgrade: seen.upgrade,
        connect: false,
    };
    Ok((asked, framed(out, body, length)?))
}

/// What fields say about framing, noted as they go by.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// The length that is stated; the inner none is of one that is no number.
    length: Option<Option<u64>>,
    coded: bool,
    upgrade: bool,
}

impl Seen {
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) {
        if *name == header::CONTENT_LENGTH {
            self.length = Some(codec::content_length(value.as_bytes()));
        } else if *name == header::TRANSFER_ENCODING {
            self.coded = true;
        } else if *name == header::UPGRADE {
            self.upgrade = true;
        }
    }
}

fn framed(head: Vec<u8>, body: RequestBody, length: Length) -> Result<Upload, Error> {
    let empty = body.is_end_stream();
    if empty && matches!(length, Length::Exact(1..)) {
        return Err(Error::Body(None));
    }
    let body = (!empty).then_some(body);
    Ok(Box::new(Outgoing::new(head, body, length)))
}

impl From<WriteError<BodyError>> for Error {
    fn from(error: WriteError<BodyError>) -> Self {
        match error {
            WriteError::Io(error) => Self::Io(error),
            WriteError::Body(error) => Self::Body(Some(error)),
            WriteError::Length => Self::Body(None),
        }
    }
}

/// The framing that the headers state.
fn length(headers: &HeaderMap) -> Result<Option<Length>, Error> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Ok(Some(Length::Chunked));
    }
    let Some(length) = headers.get(header::CONTENT_LENGTH) else {
        return Ok(None);
    };
    codec::content_length(length.as_bytes())
        .map(|length| Some(Length::Exact(length)))
        .ok_or(Error::Body(None))
}

/// Encodes a head, with the framing it does not state itself.
fn head(parts: &request::Parts, framing: Option<Length>, spelling: Option<&Spelling>) -> Vec<u8> {
    let path = match parts.uri.path_and_query() {
        Some(path) => path.as_str(),
        None => parts
            .uri
            .authority()
            .map_or("/", http::uri::Authority::as_str),
    };
    let fields: usize = parts
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    let mut out = Vec::with_capacity(path.len() + fields + 64);
    request_line(&mut out, &parts.method, path);
    codec::fields(&mut out, parts.headers.iter(), spelling);
    match framing {
        Some(Length::Exact(length)) => {
            out.extend_from_slice(b"content-length: ");
            codec::decimal(&mut out, length);
            out.extend_from_slice(b"\r\n");
        }
        Some(Length::Chunked) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Some(Length::UntilClose) | None => {}
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn request_line(out: &mut Vec<u8>, method: &Method, path: &str) {
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
}
