//! The parsers that face the network, each as a function of bytes: what fuzzing and the corpus test call. Not part of the API.
//!
//! A target must never panic, whatever the bytes; what it returns is of no interest here. Where two ways of reading must come to the
//! same ([`pieces`]: a stream may be cut anywhere), or what is written must say one thing only ([`client_cert`]), a target asserts it.

mod answers;
mod client_cert;
mod pieces;

use http::HeaderValue;
use lateen_identity::SpiffeId;
use lateen_telemetry::access_log::{Environment, TextFormat};
use lateen_traffic::cel::Expression;
use lateen_traffic::headers::{StripPort, normalize_authority};
use lateen_traffic::path::{EscapedSlashes, PathOptions};
use rustls_pki_types::CertificateDer;

use crate::tls::{PeerCertificate, revocation_list};

/// A parser.
pub type Target = fn(&[u8]);

/// The parsers by name; the name is also the directory of a corpus.
pub const TARGETS: [(&str, Target); 25] = [
    ("http1_response", pieces::responses),
    ("http1_request", pieces::requests),
    ("chunked", pieces::chunks),
    ("client_hello", pieces::client_hello),
    ("http_preface", pieces::http_preface),
    ("proxy_protocol", pieces::proxy_protocol),
    ("peer_exchange", pieces::introduction),
    ("shared_connection", |bytes| crate::mux::fuzz(bytes)),
    ("http2_server", |bytes| crate::h2::fuzz_server(bytes)),
    ("http2_client", |bytes| crate::h2::fuzz_client(bytes)),
    ("http2_fields", |bytes| crate::h2::fuzz_fields(bytes)),
    ("peer_metadata", |bytes| {
        if let Ok(value) = HeaderValue::from_bytes(bytes) {
            let _ = crate::node::read_peer(&value);
        }
    }),
    ("client_cert_header", client_cert::written),
    ("forwarded_for", answers::forwarded_for),
    ("trace_context", answers::trace_context),
    ("grpc_web", answers::grpc_web),
    ("authorizer_grpc", answers::authorizer_grpc),
    ("authorizer_http", answers::authorizer_http),
    ("certificate", |bytes| {
        if let Some(certificate) = PeerCertificate::read(&CertificateDer::from(bytes)) {
            client_cert::says_one_thing(&certificate, None);
        }
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
        expression: &|text| match Expression::parse(text) {
            Ok(expression) => Ok(std::sync::Arc::new(expression)),
            Err(error) => Err(error.to_string()),
        },
        ..Environment::default()
    };
    let _ = TextFormat::parse(text, false, &environment);
}
