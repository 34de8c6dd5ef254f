//! A request's head as it is written, and the framing of its body.

use http::{HeaderMap, header, request};
use http_body::Body;

use super::Error;
use crate::codec::outgoing::{Length, Outgoing, WriteError};
use crate::codec::spelling::Spelling;
use crate::codec::{self};
use crate::http::body::{BodyError, RequestBody};

/// A request on its way.
pub(super) type Upload = Outgoing<RequestBody>;

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
    if empty && matches!(length, Length::Exact(1..)) {
        return Err(Error::Body(None));
    }
    let spelling = parts.extensions.get::<Spelling>().filter(|_| cased);
    let head = head(parts, (!says_so).then_some(length), spelling);
    Ok(Outgoing::new(head, (!empty).then_some(body), length))
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
    let method = parts.method.as_str();
    let mut out = Vec::with_capacity(method.len() + path.len() + fields + 48);
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
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
