//! `x-forwarded-client-cert`: who the clients of this and earlier hops proved to be.
//!
//! What a client says of itself never survives a mode in which it is not to be believed, and what a certificate says never looks like more
//! than one value: applications read identities out of this header.
//! Source: Envoy, `ConnectionManagerUtility::mutateXfccRequestHeader`.

use std::cell::RefCell;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use lateen_traffic::hcm::{ClientCertDetails, ForwardClientCert};

use super::{Client, append};
use crate::tls::PeerCertificate;

pub(crate) static CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Forwards, replaces or takes away the header, if one `came`. A sender without a verified certificate has his taken away unless the manager is told to
/// always forward.
pub(crate) fn forward(
    headers: &mut HeaderMap,
    came: bool,
    (mode, details): (ForwardClientCert, ClientCertDetails),
    client: &Client<'_>,
) {
    use ForwardClientCert::{AlwaysForwardOnly, AppendForward, ForwardOnly, Sanitize, SanitizeSet};
    match (mode, client.certificate) {
        (AlwaysForwardOnly, _) | (ForwardOnly, Some(_)) => {}
        (Sanitize, _) | (ForwardOnly | AppendForward | SanitizeSet, None) => {
            if came {
                headers.remove(&CLIENT_CERT);
            }
        }
        (AppendForward, Some(certificate)) => {
            let came = came
                && headers
                    .get(&CLIENT_CERT)
                    .is_some_and(|came| !came.is_empty());
            let told = client.told.of(details, certificate, client.own_principal);
            match told.as_ref().map(|told| (told, told.to_str())) {
                Some((_, Ok(text))) if came => append(headers, &CLIENT_CERT, text),
                _ => replace(headers, told),
            }
        }
        (SanitizeSet, Some(certificate)) => {
            let told = client.told.of(details, certificate, client.own_principal);
            replace(headers, told);
        }
    }
}

fn replace(headers: &mut HeaderMap, told: Option<HeaderValue>) {
    match told {
        Some(told) => headers.insert(&CLIENT_CERT, told),
        None => headers.remove(&CLIENT_CERT),
    };
}

/// What was said of a connection's client. Its next requests mostly say the same.
#[derive(Debug, Default)]
pub(crate) struct Told(RefCell<Option<Element>>);

#[derive(Debug)]
struct Element {
    details: ClientCertDetails,
    own: Option<Box<str>>,
    value: HeaderValue,
}

impl Told {
    /// What is said of a certificate, which is the same one each time.
    fn of(
        &self,
        details: ClientCertDetails,
        certificate: &PeerCertificate,
        own: Option<&str>,
    ) -> Option<HeaderValue> {
        let mut told = self.0.borrow_mut();
        if let Some(known) = &*told
            && known.details == details
            && known.own.as_deref() == own
        {
            return Some(known.value.clone());
        }
        let value = HeaderValue::from_str(&element(details, certificate, own)).ok()?;
        *told = Some(Element {
            details,
            own: own.map(Box::from),
            value: value.clone(),
        });
        Some(value)
    }
}

fn element(details: ClientCertDetails, certificate: &PeerCertificate, own: Option<&str>) -> String {
    let mut parts = Vec::with_capacity(6);
    if let Some(own) = own {
        parts.push(format!("By={}", plain(own)));
    }
    parts.push(format!("Hash={}", certificate.sha256_fingerprint));
    if details.cert
        && let Some((leaf, _)) = &certificate.pem
    {
        parts.push(format!("Cert=\"{}\"", url_encoded(leaf)));
    }
    if details.chain
        && let Some((_, chain)) = &certificate.pem
    {
        parts.push(format!("Chain=\"{}\"", url_encoded(chain)));
    }
    if details.subject {
        parts.push(format!("Subject=\"{}\"", quoted(&certificate.subject)));
    }
    if details.uri {
        let uris = &certificate.uri_sans;
        parts.extend(uris.iter().map(|uri| format!("URI={}", plain(uri))));
        if uris.is_empty() {
            parts.push("URI=".to_owned()); // Envoy writes an empty one rather than none
        }
    }
    if details.dns {
        let names = certificate.dns_sans.iter();
        parts.extend(names.map(|name| format!("DNS={}", plain(name))));
    }
    parts.join(";")
}

/// A value outside quotes. What would end it or begin another is percent-encoded, so that no certificate can claim a second identity in
/// the name of the first.
fn plain(value: &str) -> String {
    encoded(value, |byte| {
        matches!(byte, b',' | b';' | b'"') || !byte.is_ascii_graphic()
    })
}

/// A value in quotes. RFC 2253 escapes quotes in subjects; line breaks and the like are percent-encoded.
fn quoted(value: &str) -> String {
    encoded(value, |byte| byte != b' ' && !byte.is_ascii_graphic())
}

/// PEM in a header. Source: Envoy, which encodes these and no others.
fn url_encoded(pem: &str) -> String {
    encoded(pem, |byte| {
        matches!(byte, b'\n' | b' ' | b'+' | b'/' | b'=')
    })
}

fn encoded(value: &str, must: impl Fn(u8) -> bool) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if must(byte) {
            let _ = write!(out, "%{byte:02X}"); // writing to a String cannot fail
        } else {
            out.push(char::from(byte));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> PeerCertificate {
        PeerCertificate {
            uri_sans: vec!["spiffe://cluster.local/ns/a/sa/b".to_owned()],
            dns_sans: vec!["b.a".to_owned()],
            subject: "CN=b".to_owned(),
            sha256_fingerprint: "ab12".to_owned(),
            pem: Some(("A B+/=\n".to_owned(), "A B+/=\nC\n".to_owned())),
            ..PeerCertificate::default()
        }
    }

    const fn details(all: bool) -> ClientCertDetails {
        ClientCertDetails {
            subject: true,
            cert: all,
            chain: all,
            dns: true,
            uri: true,
        }
    }

    fn forwarded(
        mode: ForwardClientCert,
        sent: Option<&str>,
        certificate: Option<&PeerCertificate>,
    ) -> Option<String> {
        let mut headers = HeaderMap::new();
        if let Some(sent) = sent {
            headers.insert(&CLIENT_CERT, sent.parse().unwrap());
        }
        let at = "10.0.0.1:80".parse().unwrap();
        let client = Client {
            remote: at,
            local: at,
            certificate,
            told: &Told::default(),
            own_principal: Some("spiffe://cluster.local/ns/a/sa/me"),
            own_address: None,
        };
        let came = headers.contains_key(&CLIENT_CERT);
        forward(&mut headers, came, (mode, details(false)), &client);
        let value = headers.get(&CLIENT_CERT)?;
        Some(value.to_str().unwrap().to_owned())
    }

    const OWN: &str = "By=spiffe://cluster.local/ns/a/sa/me;Hash=ab12;Subject=\"CN=b\";URI=spiffe://cluster.local/ns/a/sa/b;DNS=b.a";

    #[test]
    fn every_mode_believes_only_whom_it_says() {
        use ForwardClientCert::{
            AlwaysForwardOnly, AppendForward, ForwardOnly, Sanitize, SanitizeSet,
        };
        let (forged, peer) = ("URI=spiffe://evil", certificate());
        let both = format!("{forged},{OWN}");
        for (mode, without, with) in [
            (Sanitize, None, None),
            (ForwardOnly, None, Some(forged)),
            (AppendForward, None, Some(both.as_str())),
            (SanitizeSet, None, Some(OWN)),
            (AlwaysForwardOnly, Some(forged), Some(forged)),
        ] {
            let got = forwarded(mode, Some(forged), None);
            assert_eq!(got.as_deref(), without, "{mode:?} without a certificate");
            let got = forwarded(mode, Some(forged), Some(&peer));
            assert_eq!(got.as_deref(), with, "{mode:?} with a certificate");
        }
    }

    #[test]
    fn a_certificate_cannot_pass_for_two_nor_keep_what_the_client_sent() {
        let mut peer = certificate();
        peer.uri_sans = vec!["spiffe://a;URI=spiffe://admin".to_owned()];
        peer.dns_sans = vec!["x,By=y".to_owned()];
        peer.subject = "CN=\n".to_owned();
        let set = forwarded(
            ForwardClientCert::SanitizeSet,
            Some("URI=spiffe://evil"),
            Some(&peer),
        );
        let set = set.unwrap();
        assert!(
            set.ends_with("Subject=\"CN=%0A\";URI=spiffe://a%3BURI=spiffe://admin;DNS=x%2CBy=y"),
            "{set}"
        );
        assert!(!set.contains("evil"));
    }

    #[test]
    fn certificates_are_written_as_envoy_writes_them() {
        let all = element(details(true), &certificate(), None);
        assert!(all.starts_with(
            "Hash=ab12;Cert=\"A%20B%2B%2F%3D%0A\";Chain=\"A%20B%2B%2F%3D%0AC%0A\";Subject=\"CN=b\""
        ), "{all}");
    }
}
