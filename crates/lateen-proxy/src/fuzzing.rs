//! The parsers that face the network, each as a function of bytes: what fuzzing and the corpus test call. Not part of the API.
//!
//! A target must never panic, whatever the bytes; what it returns is of no interest here.

use bytes::{Buf, BytesMut};
use http::HeaderValue;
use lateen_identity::SpiffeId;
use lateen_telemetry::access_log::{Environment, TextFormat};
use lateen_traffic::cel::Expression;
use lateen_traffic::headers::{StripPort, normalize_authority};
use lateen_traffic::path::{EscapedSlashes, PathOptions};
use rustls_pki_types::CertificateDer;

use crate::codec::chunked::{Chunked, Step};
use crate::codec::outgoing::Length;
use crate::inspect::{client_hello, http as http_inspector, proxy_protocol};
use crate::tls::{PeerCertificate, revocation_list};
use crate::upstream::h1 as client;

/// A parser.
pub type Target = fn(&[u8]);

/// The parsers by name; the name is also the directory of a corpus.
pub const TARGETS: [(&str, Target); 17] = [
    ("http1_response", responses),
    ("client_hello", |bytes| {
        let _ = client_hello::parse(bytes);
    }),
    ("http1_request", |bytes| {
        crate::http::h1::fuzz(bytes);
    }),
    ("shared_connection", |bytes| {
        crate::mux::fuzz(bytes);
    }),
    ("http2_server", |bytes| {
        crate::h2::fuzz_server(bytes);
    }),
    ("http2_client", |bytes| {
        crate::h2::fuzz_client(bytes);
    }),
    ("http2_fields", |bytes| {
        crate::h2::fuzz_fields(bytes);
    }),
    ("http_preface", |bytes| {
        let _ = http_inspector::parse(bytes);
    }),
    ("proxy_protocol", |bytes| {
        let _ = proxy_protocol::parse(bytes);
    }),
    ("peer_metadata", |bytes| {
        if let Ok(value) = HeaderValue::from_bytes(bytes) {
            let _ = crate::node::read_peer(&value);
        }
    }),
    ("certificate", |bytes| {
        let _ = PeerCertificate::read(&CertificateDer::from(bytes));
    }),
    ("revocation_list", |bytes| {
        let _ = revocation_list(bytes);
    }),
    ("path", |bytes| with_text(bytes, path)),
    ("authority", |bytes| with_text(bytes, authority)),
    ("spiffe", |bytes| {
        with_text(bytes, |text| {
            let _ = text.parse::<SpiffeId>();
        });
    }),
    ("access_log_format", |bytes| with_text(bytes, format)),
    ("cel", |bytes| {
        with_text(bytes, |text| {
            let _ = Expression::parse(text);
        });
    }),
];

/// A host's bytes as responses to requests of each kind.
fn responses(bytes: &[u8]) {
    for (head, upgrade) in [(false, false), (true, false), (false, true)] {
        let mut buffer = BytesMut::from(bytes);
        while let Some(framing) = client::parse_response(&mut buffer, head, upgrade) {
            if framing.is_some_and(|length| !skip(&mut buffer, length)) {
                break;
            }
        }
    }
}

/// Takes a body out of a buffer; whether it was whole.
fn skip(buffer: &mut BytesMut, length: Length) -> bool {
    match length {
        Length::Exact(bytes) => match usize::try_from(bytes) {
            Ok(bytes) if bytes <= buffer.len() => {
                buffer.advance(bytes);
                true
            }
            _ => false,
        },
        Length::Chunked => {
            let mut body = Chunked::new();
            loop {
                match body.decode(buffer) {
                    Ok(Step::Data(_)) => {}
                    Ok(Step::End(_)) => return true,
                    Ok(Step::NeedMore) | Err(_) => return false,
                }
            }
        }
        Length::UntilClose => false,
    }
}

fn with_text(bytes: &[u8], parse: impl FnOnce(&str)) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        parse(text);
    }
}

fn path(text: &str) {
    for escaped_slashes in [
        EscapedSlashes::Keep,
        EscapedSlashes::Reject,
        EscapedSlashes::UnescapeAndRedirect,
        EscapedSlashes::UnescapeAndForward,
    ] {
        let options = PathOptions {
            normalize: true,
            merge_slashes: true,
            escaped_slashes,
        };
        let _ = options.normalize(text);
    }
}

fn authority(text: &str) {
    for strip in [StripPort::Never, StripPort::Matching, StripPort::Any] {
        let _ = normalize_authority(text, strip, 80, true);
    }
}

fn format(text: &str) {
    let environment = Environment {
        hostname: "host",
        variable: &|_| None,
    };
    let _ = TextFormat::parse(text, false, &environment);
}
