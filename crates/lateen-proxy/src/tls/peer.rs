//! What a peer's certificate says about it: its names, its subject, its fingerprint.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use lateen_telemetry::access_log::TlsField;
use lateen_traffic::PeerTls;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

/// A peer's leaf certificate, read once per connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerCertificate {
    /// URI SANs in certificate order.
    pub(crate) uri_sans: Vec<String>,
    /// DNS SANs in certificate order.
    pub(crate) dns_sans: Vec<String>,
    /// The subject in RFC 2253 form.
    pub(crate) subject: String,
    /// SHA-256 of the DER, lower-case hex.
    pub(crate) sha256_fingerprint: String,
    /// The issuer in RFC 2253 form.
    pub(crate) issuer: String,
    /// The serial number, lower-case hex.
    pub(crate) serial: String,
    /// From when and until when it is valid.
    pub(crate) validity: Option<(SystemTime, SystemTime)>,
    /// The certificate and its chain as PEM, where applications are to be told them.
    pub(crate) pem: Option<(String, String)>,
}

/// Other SANs, for matching only.
pub(crate) struct AllSans {
    pub(crate) certificate: PeerCertificate,
    pub(crate) emails: Vec<String>,
    pub(crate) addresses: Vec<String>,
}

impl PeerCertificate {
    /// Reads a certificate; `None` if it is not one (rustls accepted it, so that does not happen in practice).
    pub(crate) fn read(der: &CertificateDer<'_>) -> Option<Self> {
        all_sans(der).map(|all| all.certificate)
    }

    /// The same with the text of the chain it heads.
    #[must_use]
    pub(crate) fn with_pem(mut self, chain: &[CertificateDer<'_>]) -> Self {
        let whole = || chain.iter().map(|der| pem(der));
        self.pem = whole().next().map(|leaf| (leaf, whole().collect()));
        self
    }

    /// The view decisions take. A chain that is here was verified: rustls is not told to go on otherwise.
    pub(crate) fn view(&self, validated: bool) -> PeerTls<'_> {
        PeerTls {
            is_tls: true,
            presented: true,
            validated,
            uri_sans: &self.uri_sans,
            dns_sans: &self.dns_sans,
            subject: &self.subject,
            sha256_fingerprint: &self.sha256_fingerprint,
        }
    }

    /// A field of an access log. Of several names the first stands there.
    pub(crate) fn text(&self, field: TlsField) -> Option<&str> {
        match field {
            TlsField::PeerUriSan => self.principal(),
            TlsField::PeerDnsSan => self.dns_sans.first().map(String::as_str),
            TlsField::PeerSubject => Some(&self.subject),
            TlsField::PeerIssuer => Some(&self.issuer),
            TlsField::PeerSerial => Some(&self.serial),
            TlsField::PeerFingerprint256 => Some(&self.sha256_fingerprint),
            _ => None,
        }
    }

    /// The first URI SAN: the SPIFFE identity of a mesh workload.
    pub(crate) fn principal(&self) -> Option<&str> {
        self.uri_sans.first().map(String::as_str)
    }
}

/// Reads all SANs of a certificate; `None` if what they say can be doubted.
pub(crate) fn all_sans(der: &CertificateDer<'_>) -> Option<AllSans> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let mut all = AllSans {
        certificate: PeerCertificate {
            subject: rfc2253(parsed.subject()),
            issuer: rfc2253(parsed.issuer()),
            serial: hex(parsed.raw_serial()),
            validity: validity(&parsed),
            sha256_fingerprint: hex(&Sha256::digest(der)),
            ..PeerCertificate::default()
        },
        emails: Vec::new(),
        addresses: Vec::new(),
    };
    let Ok(extension) = parsed.subject_alternative_name() else {
        return None;
    };
    for name in extension.map_or(&[][..], |san| &san.value.general_names) {
        match name {
            // A NUL in a name is an attempt at being two names: one for who reads all of it, another for who stops there.
            GeneralName::URI(text) | GeneralName::DNSName(text) | GeneralName::RFC822Name(text)
                if text.contains('\0') =>
            {
                return None;
            }
            GeneralName::Invalid(..) => return None,
            GeneralName::URI(uri) => all.certificate.uri_sans.push((*uri).to_owned()),
            GeneralName::DNSName(dns) => all.certificate.dns_sans.push((*dns).to_owned()),
            GeneralName::RFC822Name(email) => all.emails.push((*email).to_owned()),
            GeneralName::IPAddress(bytes) => all.addresses.extend(ip(bytes)),
            _ => {}
        }
    }
    let uris = &all.certificate.uri_sans;
    // An X.509-SVID has exactly one URI SAN (SPIFFE X.509-SVID, section 2): with two, everybody might take another for who it is.
    if uris.len() > 1 && uris.iter().any(|uri| uri.starts_with("spiffe://")) {
        return None;
    }
    Some(all)
}

/// The public key of a certificate, DER of its SubjectPublicKeyInfo.
pub(super) fn public_key<'a>(der: &'a CertificateDer<'_>) -> Option<&'a [u8]> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    Some(parsed.tbs_certificate.subject_pki.raw)
}

/// When a certificate expires, since the epoch.
pub(super) fn not_after(der: &CertificateDer<'_>) -> Option<Duration> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let seconds = parsed.validity().not_after.timestamp();
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

fn ip(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|v6| std::net::Ipv6Addr::from(v6).to_string())
}

fn validity(certificate: &X509Certificate<'_>) -> Option<(SystemTime, SystemTime)> {
    let validity = certificate.validity();
    let time = |seconds: i64| {
        let seconds = u64::try_from(seconds).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    };
    time(validity.not_before.timestamp()).zip(time(validity.not_after.timestamp()))
}

/// RFC 2253: the most specific part first, as Envoy writes subjects (`XN_FLAG_RFC2253`).
fn rfc2253(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_attributes()
        .filter_map(|attribute| {
            let key = short_name(&attribute.attr_type().to_id_string());
            Some(format!("{key}={}", escape(attribute.as_str().ok()?)))
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

fn short_name(oid: &str) -> String {
    match oid {
        "2.5.4.3" => "CN",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        other => other,
    }
    .to_owned()
}

/// RFC 2253 section 2.4.
fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for (at, c) in value.chars().enumerate() {
        if matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || (at == 0 && matches!(c, ' ' | '#'))
        {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A certificate as PEM, in lines of 64.
pub(crate) fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
            let _ = write!(out, "{byte:02x}"); // writing to a String cannot fail
            out
        })
}
