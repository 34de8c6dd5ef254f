//! The facts of a certificate that people and timers ask for, and certificates in PEM.
//!
//! Parsing only: nothing here says whether a certificate is trusted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

/// Most certificates read from one PEM text. A system's own list of roots has about 150.
const MAX_CERTIFICATES: usize = 1000;

/// Why a certificate could not be read.
#[derive(Debug, thiserror::Error)]
pub enum X509Error {
    /// The PEM framing or its base64 is broken.
    #[error("not valid PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// Not one certificate was found.
    #[error("no certificate found (expected `-----BEGIN CERTIFICATE-----`)")]
    Empty,
    /// More than a list of roots has.
    #[error("more than {MAX_CERTIFICATES} certificates")]
    TooMany,
    /// The bytes are not a certificate.
    #[error("not an X.509 certificate")]
    Der,
}

/// What a certificate says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The subject, as RFC 4514 text; empty for workload certificates.
    pub subject: String,
    /// The issuer, as RFC 4514 text.
    pub issuer: String,
    /// The serial number, lower-case hexadecimal.
    pub serial: String,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid to.
    pub not_after: SystemTime,
    /// Whether it may sign certificates (basic constraints).
    pub is_ca: bool,
}

impl CertificateFacts {
    /// Reads them from DER.
    ///
    /// # Errors
    /// The bytes are not a certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, X509Error> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| X509Error::Der)?;
        let serial = certificate.raw_serial();
        let serial = serial
            .strip_prefix(&[0])
            .filter(|s| !s.is_empty())
            .unwrap_or(serial);
        Ok(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            serial: serial.iter().map(|byte| format!("{byte:02x}")).collect(),
            not_before: system_time(&certificate.validity().not_before),
            not_after: system_time(&certificate.validity().not_after),
            is_ca: certificate.is_ca(),
        })
    }

    /// Whether `now` is within the validity.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// Reads every certificate of a PEM text; other PEM sections are passed over.
///
/// # Errors
/// The PEM is broken, or there is no certificate in it, or far too many.
pub fn certificates_from_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, X509Error> {
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        if certificates.len() == MAX_CERTIFICATES {
            return Err(X509Error::TooMany);
        }
        certificates.push(certificate.map_err(X509Error::Pem)?);
    }
    if certificates.is_empty() {
        Err(X509Error::Empty)
    } else {
        Ok(certificates)
    }
}

/// Writes certificates as PEM, 64 columns wide, each ending with a line feed.
pub fn certificates_to_pem<'a>(
    certificates: impl IntoIterator<Item = &'a CertificateDer<'a>>,
) -> String {
    certificates
        .into_iter()
        .map(|certificate| to_pem("CERTIFICATE", certificate))
        .collect()
}

pub(crate) fn to_pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40);
    pem.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

fn system_time(time: &ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let at = if seconds < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    };
    at.unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_survive_pem_among_other_sections() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default()
            .self_signed(&key)
            .unwrap();
        let pem = format!("# comment\n{}{}", key.serialize_pem(), certificate.pem());
        let read = certificates_from_pem(pem.as_bytes()).unwrap();
        assert_eq!(read, [certificate.der().clone()]);
        let again = certificates_from_pem(certificates_to_pem(&read).as_bytes()).unwrap();
        assert_eq!(again, read);
    }

    #[test]
    fn no_text_holds_more_certificates_than_a_list_of_roots_has() {
        let key = rcgen::KeyPair::generate().unwrap();
        let one = rcgen::CertificateParams::default()
            .self_signed(&key)
            .unwrap()
            .pem();
        let read = |number| certificates_from_pem(one.repeat(number).as_bytes());
        assert_eq!(read(MAX_CERTIFICATES).unwrap().len(), MAX_CERTIFICATES);
        assert!(matches!(
            read(MAX_CERTIFICATES + 1),
            Err(X509Error::TooMany)
        ));
    }

    #[test]
    fn a_text_without_certificates_is_an_error() {
        assert!(matches!(
            certificates_from_pem(b"hello"),
            Err(X509Error::Empty)
        ));
    }
}
