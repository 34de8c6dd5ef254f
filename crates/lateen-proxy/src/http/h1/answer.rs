//! The head of an answer as a client gets it over HTTP/1, and how the answer's body is framed.

use bytes::Bytes;
use http::{Method, StatusCode, Version, header, response};
use http_body::Body;

use super::super::date::Date;
use crate::codec;
use crate::codec::outgoing::{Length, WORTH_A_COPY};
use crate::codec::spelling::Spelling;
use crate::spare;

/// What the request says about its answer.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// HEAD: an answer without a body, whatever its head says.
    pub(super) head: bool,
    /// CONNECT: a success is followed by the tunnel's bytes.
    pub(super) connect: bool,
    /// The version the client speaks.
    pub(super) version: Version,
    /// The version the answer says it has.
    pub(super) answer_version: Version,
    /// Names are spelt as the host spelt them.
    pub(super) cased: bool,
}

impl Asked {
    /// Of a request's head; where HTTP/1.0 is not accepted it is not spoken either.
    pub(super) fn of(method: &Method, version: Version, old: bool, cased: bool) -> Self {
        Self {
            head: *method == Method::HEAD,
            connect: *method == Method::CONNECT,
            version,
            answer_version: if old { version } else { Version::HTTP_11 },
            cased,
        }
    }

    /// Whether an answer with this status opens a tunnel that CONNECT asked for.
    pub(super) fn opens(&self, status: StatusCode) -> bool {
        self.connect && status.is_success()
    }
}

/// How an answer's body goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// It has none.
    None,
    /// Framed.
    Some(Length),
}

/// Encodes a head after `interim`, with the framing it does not state itself.
pub(super) fn encode<B: Body<Data = Bytes>>(
    parts: &response::Parts,
    body: &B,
    asked: &Asked,
    interim: &[u8],
    date: &mut Date,
) -> (Vec<u8>, Framing) {
    let stated = parts.headers.get(header::CONTENT_LENGTH);
    let length = stated.and_then(|stated| codec::content_length(stated.as_bytes()));
    let framing = framing(parts.status, length, body, asked);
    let small = match framing {
        Framing::Some(Length::Exact(length)) if length <= WORTH_A_COPY as u64 => length as usize,
        _ => 0,
    };
    let room = interim.len() + parts.headers.len() * FIELD + ROOM + small;
    let mut out = spare::buffer(room);
    out.extend_from_slice(interim);
    status_line(&mut out, parts.status, asked.answer_version);
    let spelling = parts.extensions.get::<Spelling>().filter(|_| asked.cased);
    let drops_length = stated.is_some()
        && (codec::is_without_length(parts.status) || framing == Framing::Some(Length::Chunked));
    let mut dated = false;
    let kept = parts
        .headers
        .iter()
        .filter(|(name, _)| !(drops_length && **name == header::CONTENT_LENGTH))
        .inspect(|(name, _)| dated |= **name == header::DATE);
    codec::fields(&mut out, kept, spelling);
    if !dated {
        out.extend_from_slice(b"date: ");
        out.extend_from_slice(date.now());
        out.extend_from_slice(b"\r\n");
    }
    if stated.is_none() {
        state_framing(&mut out, parts.status, framing, asked);
    }
    out.extend_from_slice(b"\r\n");
    (out, framing)
}

/// Bytes of a head beside its fields: the status line, the date, the framing.
const ROOM: usize = 160;
/// Bytes of a usual field.
const FIELD: usize = 48;

fn status_line(out: &mut Vec<u8>, status: StatusCode, version: Version) {
    if status == StatusCode::OK && version == Version::HTTP_11 {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(if version == Version::HTTP_10 {
        b"HTTP/1.0 "
    } else {
        b"HTTP/1.1 "
    });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    let reason = status.canonical_reason().unwrap_or("Unknown");
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes what the fields do not say about the body.
fn state_framing(out: &mut Vec<u8>, status: StatusCode, framing: Framing, asked: &Asked) {
    match framing {
        Framing::Some(Length::Exact(length)) => {
            out.extend_from_slice(b"content-length: ");
            codec::decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Some(Length::Chunked) => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        // What GET would have been answered is not known here; a length that is made up would be wrong.
        Framing::None if asked.head && asked.version == Version::HTTP_11 => {
            if !codec::is_bodiless(status) {
                out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            }
        }
        Framing::Some(Length::UntilClose) | Framing::None => {}
    }
}

fn framing<B: Body<Data = Bytes>>(
    status: StatusCode,
    stated: Option<u64>,
    body: &B,
    asked: &Asked,
) -> Framing {
    if asked.head || codec::is_bodiless(status) || asked.opens(status) {
        return Framing::None;
    }
    let length = stated.or_else(|| body.size_hint().exact());
    Framing::Some(match length {
        Some(length) => Length::Exact(length),
        None if asked.version == Version::HTTP_10 => Length::UntilClose,
        None => Length::Chunked,
    })
}

#[cfg(test)]
mod tests {
    use http::Response;
    use http_body_util::{BodyExt, Empty, Full, StreamBody};

    use super::*;

    fn encoded<B: Body<Data = Bytes>>(
        response: http::response::Builder,
        body: &B,
        method: &Method,
        version: Version,
    ) -> (String, Framing) {
        let (parts, ()) = response.body(()).unwrap().into_parts();
        let asked = Asked::of(method, version, true, false);
        let (head, framing) = encode(&parts, body, &asked, b"", &mut Date::default());
        let head = String::from_utf8(head).unwrap();
        let lines = head
            .split("\r\n")
            .filter(|line| !line.starts_with("date: "));
        (lines.collect::<Vec<_>>().join("|"), framing)
    }

    fn endless() -> impl Body<Data = Bytes> {
        let frames = tokio_stream::pending::<Result<http_body::Frame<Bytes>, std::io::Error>>();
        StreamBody::new(frames)
    }

    #[test]
    fn a_body_is_framed_as_its_head_says_or_as_it_is() {
        let get = |response, version| encoded(response, &endless(), &Method::GET, version);
        let stated = || Response::builder().header("content-length", "5");
        assert_eq!(
            get(stated(), Version::HTTP_11),
            (
                "HTTP/1.1 200 OK|content-length: 5||".to_owned(),
                Framing::Some(Length::Exact(5))
            )
        );
        assert_eq!(
            get(Response::builder(), Version::HTTP_11),
            (
                "HTTP/1.1 200 OK|transfer-encoding: chunked||".to_owned(),
                Framing::Some(Length::Chunked)
            )
        );
        assert_eq!(
            get(Response::builder(), Version::HTTP_10),
            (
                "HTTP/1.0 200 OK||".to_owned(),
                Framing::Some(Length::UntilClose)
            )
        );
        let full = Full::new(Bytes::from_static(b"abc"));
        let whole = encoded(Response::builder(), &full, &Method::GET, Version::HTTP_11);
        assert_eq!(whole.0, "HTTP/1.1 200 OK|content-length: 3||");
    }

    #[test]
    fn answers_without_a_body_promise_none() {
        let empty = Empty::<Bytes>::new().boxed();
        let answer = |status: u16, method: &Method| {
            let response = Response::builder()
                .status(status)
                .header("content-length", "5");
            encoded(response, &empty, method, Version::HTTP_11)
        };
        assert_eq!(
            answer(204, &Method::GET),
            ("HTTP/1.1 204 No Content||".to_owned(), Framing::None)
        );
        assert_eq!(
            answer(304, &Method::GET).0,
            "HTTP/1.1 304 Not Modified|content-length: 5||"
        );
        assert_eq!(
            answer(200, &Method::HEAD),
            (
                "HTTP/1.1 200 OK|content-length: 5||".to_owned(),
                Framing::None
            )
        );
    }
}
