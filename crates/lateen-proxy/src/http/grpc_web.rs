//! gRPC-Web: what browsers send is translated to gRPC, and the answer back, in the binary and in the text (base64) form.
//!
//! Source: the gRPC project's "gRPC Web" protocol and Envoy's `grpc_web` filter. A browser cannot read trailers, so they become the
//! last frame of the body, marked by the highest bit of its flags.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};

/// A frame whose payload is trailers.
const TRAILERS: u8 = 0x80;

/// What is to be done to an exchange that began as gRPC-Web.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Web {
    /// The request's body is base64.
    pub(crate) text_request: bool,
    /// The answer's body is to be base64.
    pub(crate) text_response: bool,
}

impl Web {
    /// Turns a gRPC-Web request's headers into gRPC's; `None` for any other request, which stays as it is.
    pub(crate) fn begin(headers: &mut HeaderMap) -> Option<Self> {
        let text_request = match kind(headers.get(header::CONTENT_TYPE)?)? {
            Kind::Text => true,
            Kind::Binary => false,
        };
        let accepted = headers.get(header::ACCEPT).and_then(kind);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
        headers.remove(header::CONTENT_LENGTH);
        Some(Self {
            text_request,
            text_response: accepted == Some(Kind::Text),
        })
    }

    /// Gives an answer's headers the form the browser expects.
    pub(crate) fn answer(self, headers: &mut HeaderMap) {
        let kind = if self.text_response {
            "application/grpc-web-text+proto"
        } else {
            "application/grpc-web+proto"
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.remove(header::CONTENT_LENGTH);
    }

    /// A part of the answer's body.
    pub(crate) fn data(self, data: Bytes) -> Bytes {
        if self.text_response {
            STANDARD.encode(data).into()
        } else {
            data
        }
    }

    /// The answer's trailers, as the last part of its body.
    pub(crate) fn trailers(self, trailers: &HeaderMap) -> Bytes {
        let mut payload = BytesMut::new();
        for (name, value) in trailers {
            payload.put_slice(name.as_str().as_bytes());
            payload.put_u8(b':');
            payload.put_slice(value.as_bytes());
            payload.put_slice(b"\r\n");
        }
        let mut frame = BytesMut::with_capacity(payload.len() + 5);
        frame.put_u8(TRAILERS);
        frame.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        frame.put(payload);
        self.data(frame.freeze())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Binary,
    Text,
}

fn kind(value: &HeaderValue) -> Option<Kind> {
    match value.as_bytes() {
        b"application/grpc-web" | b"application/grpc-web+proto" => Some(Kind::Binary),
        b"application/grpc-web-text" | b"application/grpc-web-text+proto" => Some(Kind::Text),
        _ => None,
    }
}

/// Decodes a base64 body that comes in pieces of any size.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    rest: Vec<u8>,
}

impl Decoder {
    /// Decodes what is complete so far: groups of four characters. `None` if it is no base64.
    pub(crate) fn decode(&mut self, data: &[u8]) -> Option<Bytes> {
        self.rest.extend_from_slice(data);
        let whole = self.rest.len() / 4 * 4;
        let mut out = Vec::with_capacity(whole / 4 * 3);
        // A group with padding ends a message, and another message may follow it.
        for group in self.rest[..whole].chunks_exact(4) {
            STANDARD.decode_vec(group, &mut out).ok()?;
        }
        self.rest.drain(..whole);
        Some(out.into())
    }

    /// Whether the body may end here.
    pub(crate) fn is_complete(&self) -> bool {
        self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(content_type: &'static str, accept: &'static str) -> (Option<Web>, HeaderMap) {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        (Web::begin(&mut headers), headers)
    }

    #[test]
    fn only_grpc_web_is_translated() {
        let (web, headers) = request("application/grpc-web+proto", "*/*");
        assert!(!web.unwrap().text_request && !web.unwrap().text_response);
        assert_eq!(headers["content-type"], "application/grpc");
        assert_eq!(headers["te"], "trailers");
        let (web, _) = request("application/grpc-web-text", "application/grpc-web-text");
        assert!(web.unwrap().text_request && web.unwrap().text_response);
        for other in ["application/grpc", "application/json"] {
            assert_eq!(request(other, "*/*").0, None);
        }
    }

    #[test]
    fn trailers_become_the_last_frame() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let web = Web {
            text_request: false,
            text_response: false,
        };
        assert_eq!(
            &web.trailers(&trailers)[..],
            b"\x80\0\0\0\x0fgrpc-status:0\r\n"
        );
    }

    proptest! {
        #[test]
        fn however_text_is_cut_it_decodes_to_the_same(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..4),
            cut in 1usize..9,
        ) {
            let text: String = messages.iter().map(|message| STANDARD.encode(message)).collect();
            let mut decoder = Decoder::default();
            let mut out = Vec::new();
            for piece in text.as_bytes().chunks(cut) {
                out.extend(decoder.decode(piece).unwrap());
            }
            prop_assert!(decoder.is_complete());
            prop_assert_eq!(out, messages.concat());
        }

        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            let _ = Decoder::default().decode(&bytes);
        }
    }
}
