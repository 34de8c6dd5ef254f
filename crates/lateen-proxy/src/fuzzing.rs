//! The parsers that face the network, each as a function of bytes: what fuzzing and the corpus test call. Not part of the API.
//!
//! A target must never panic, whatever the bytes; what it returns is of no interest here.

use http::HeaderValue;
use lateen_identity::SpiffeId;
use lateen_telemetry::access_log::{Environment, TextFormat};
use lateen_traffic::cel::Expression;
use lateen_traffic::headers::{StripPort, normalize_authority};
use lateen_traffic::path::{EscapedSlashes, PathOptions};
use rustls_pki_types::CertificateDer;

use crate::inspect::{client_hello, http as http_inspector, proxy_protocol};
use crate::tls::{PeerCertificate, revocation_list};

/// A parser.
pub type Target = fn(&[u8]);

/// The parsers by name; the name is also the directory of a corpus.
pub const TARGETS: [(&str, Target); 13] = [
    ("client_hello", |bytes| {
        let _ = client_hello::parse(bytes);
    }),
    ("http1_request", |bytes| {
        crate::http::h1::fuzz(bytes);
    }),
    ("shared_connection", |bytes| {
        crate::mux::fuzz(bytes);
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
