//! `x-forwarded-client-cert`, read again as applications read it: what a certificate says must be one value with the identities of
//! that certificate, whatever its names are and whatever the client sent.

use http::{HeaderMap, HeaderValue};
use lateen_traffic::hcm::{ClientCertDetails, ForwardClientCert};

use crate::http::headers::client_cert::forward;
use crate::http::headers::{Client, Told, append};
use crate::tls::PeerCertificate;

const NAME: &str = "x-forwarded-client-cert";

/// Lines: what a client sent, its subject, then identities (`u…`) and DNS names (`d…`).
pub(super) fn written(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let sent = lines
        .next()
        .and_then(|line| HeaderValue::from_bytes(line).ok());
    let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
    let mut certificate = PeerCertificate {
        sha256_fingerprint: "ab12".to_owned(),
        // Subjects come with their quotes escaped (RFC 2253), so these have none of their own.
        subject: text(lines.next().unwrap_or_default()).replace(['"', '\\'], ""),
        ..PeerCertificate::default()
    };
    for line in lines {
        match line.split_first() {
            Some((b'u', uri)) => certificate.uri_sans.push(text(uri)),
            Some((b'd', dns)) => certificate.dns_sans.push(text(dns)),
            _ => {}
        }
    }
    says_one_thing(&certificate, sent);
}

/// Holds what is written of a certificate to it.
pub(super) fn says_one_thing(certificate: &PeerCertificate, sent: Option<HeaderValue>) {
    let set = header(ForwardClientCert::SanitizeSet, certificate, sent.clone());
    let elements = elements(&set);
    assert_eq!(elements.len(), 1, "one certificate, several values: {set}");
    let mut expected = vec!["Hash", "Subject"];
    expected.extend(certificate.uri_sans.iter().map(|_| "URI"));
    if certificate.uri_sans.is_empty() {
        expected.push("URI");
    }
    expected.extend(certificate.dns_sans.iter().map(|_| "DNS"));
    assert_eq!(elements[0], expected, "keys of no certificate: {set}");

    let appended = header(ForwardClientCert::AppendForward, certificate, sent.clone());
    let mut both = HeaderMap::new();
    both.extend(sent.map(|sent| (http::HeaderName::from_static(NAME), sent)));
    append(&mut both, &http::HeaderName::from_static(NAME), &set);
    assert_eq!(
        appended,
        text(&both),
        "what came goes on, and one value more"
    );
    assert_eq!(header(ForwardClientCert::Sanitize, certificate, None), "");
}

fn header(mode: ForwardClientCert, of: &PeerCertificate, sent: Option<HeaderValue>) -> String {
    let at = std::net::SocketAddr::from(([10, 0, 0, 1], 80));
    let client = Client {
        remote: at,
        local: at,
        certificate: Some(of),
        told: &Told::default(),
        own_principal: None,
        own_address: None,
    };
    let details = ClientCertDetails {
        subject: true,
        cert: false,
        chain: false,
        dns: true,
        uri: true,
    };
    let mut headers = HeaderMap::new();
    headers.extend(sent.map(|sent| (http::HeaderName::from_static(NAME), sent)));
    let came = headers.contains_key(NAME);
    forward(&mut headers, came, (mode, details), &client);
    text(&headers)
}

fn text(headers: &HeaderMap) -> String {
    let value = headers.get(NAME).map_or(&b""[..], HeaderValue::as_bytes);
    String::from_utf8_lossy(value).into_owned()
}

/// The keys of each value, as the header's readers take it apart: at `,` and `;` outside of quotes, in which `\` escapes.
fn elements(header: &str) -> Vec<Vec<&str>> {
    let (mut all, mut keys) = (Vec::new(), Vec::new());
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, byte) in header.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b';' | b',' if !quoted => {
                keys.push(key(&header[start..at]));
                start = at + 1;
                if byte == b',' {
                    all.push(std::mem::take(&mut keys));
                }
            }
            _ => {}
        }
    }
    assert!(!quoted, "a quote that does not end: {header}");
    keys.push(key(&header[start..]));
    all.push(keys);
    all
}

fn key(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(key, _)| key)
}
