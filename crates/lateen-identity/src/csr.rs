//! Key pairs and certificate signing requests.
//!
//! A workload makes a key and a request ([`KeyAndRequest`]); the authority reads from a request only its public key
//! ([`PublicKey`]). Names that a request asks for are never looked at: a certificate names whom the authority authenticated.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as ParsedKey;

use crate::SpiffeId;

/// Longest request read, in bytes of PEM. One with an RSA key of 8192 bits has about 4 KiB.
const MAX_PEM: usize = 64 * 1024;
/// Sizes of RSA keys that are signed, in bits: shorter is breakable, longer makes each handshake a denial of service.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    /// Longer than any honest request.
    #[error("request is longer than {MAX_PEM} bytes")]
    TooLong,
    /// Not one `CERTIFICATE REQUEST` in PEM.
    #[error("not a certificate request in PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// The DER is malformed.
    #[error("certificate request cannot be parsed")]
    Malformed,
    /// The requester does not hold the private key.
    #[error("signature of the certificate request does not verify")]
    Signature,
    /// A kind or size of key that is not signed.
    #[error("public key is refused: {0}")]
    Key(&'static str),
}

/// A fresh private key and the request for a certificate over it.
pub struct KeyAndRequest {
    /// The private key, PKCS #8.
    pub key: PrivateKeyDer<'static>,
    /// The request, PEM.
    pub csr_pem: String,
}

impl KeyAndRequest {
    /// Makes an ECDSA P-256 key and a request that names `id` (as Istio's agent does; the authority ignores the name).
    ///
    /// # Errors
    /// The system's source of randomness failed.
    pub fn generate(id: &SpiffeId) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
        let csr_pem = params.serialize_request(&key)?.pem()?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Self { key, csr_pem })
    }
}

impl std::fmt::Debug for KeyAndRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyAndRequest").finish_non_exhaustive()
    }
}

/// The public key of a request whose signature verified.
#[derive(Clone, Debug)]
pub struct PublicKey(pub(crate) rcgen::SubjectPublicKeyInfo);

impl PublicKey {
    /// Reads a request and checks that its sender holds the key.
    ///
    /// # Errors
    /// The request is malformed, not signed by its own key, or the key is of a kind or size that is not signed.
    pub fn from_csr_pem(pem: &str) -> Result<Self, CsrError> {
        if pem.len() > MAX_PEM {
            return Err(CsrError::TooLong);
        }
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes());
        let der = der.map_err(CsrError::Pem)?;
        let (rest, request) =
            X509CertificationRequest::from_der(&der).map_err(|_| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed);
        }
        request
            .verify_signature()
            .map_err(|_| CsrError::Signature)?;
        let spki = &request.certification_request_info.subject_pki;
        match spki.parsed().map_err(|_| CsrError::Malformed)? {
            ParsedKey::RSA(key) if !RSA_BITS.contains(&key.key_size()) => {
                return Err(CsrError::Key("RSA keys must have 2048 to 8192 bits"));
            }
            ParsedKey::RSA(_) | ParsedKey::EC(_) => {}
            _ => return Err(CsrError::Key("only RSA and ECDSA keys are signed")),
        }
        let key = rcgen::SubjectPublicKeyInfo::from_der(spki.raw);
        key.map(Self)
            .map_err(|_| CsrError::Key("its curve or algorithm is not supported"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> SpiffeId {
        "spiffe://cluster.local/ns/default/sa/a".parse().unwrap()
    }

    #[test]
    fn a_generated_request_is_accepted() {
        let made = KeyAndRequest::generate(&id()).unwrap();
        PublicKey::from_csr_pem(&made.csr_pem).unwrap();
    }

    #[test]
    fn a_request_signed_by_another_key_is_refused() {
        let pem = KeyAndRequest::generate(&id()).unwrap().csr_pem;
        let mut der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .unwrap()
            .to_vec();
        let last = der.len() - 1;
        der[last] ^= 1;
        let forged = crate::x509::to_pem("CERTIFICATE REQUEST", &der);
        assert!(matches!(
            PublicKey::from_csr_pem(&forged),
            Err(CsrError::Signature)
        ));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert!(matches!(
            PublicKey::from_csr_pem("hello"),
            Err(CsrError::Pem(_))
        ));
        let junk = crate::x509::to_pem("CERTIFICATE REQUEST", b"junk");
        assert!(matches!(
            PublicKey::from_csr_pem(&junk),
            Err(CsrError::Malformed)
        ));
        let long = "x".repeat(MAX_PEM + 1);
        assert!(matches!(
            PublicKey::from_csr_pem(&long),
            Err(CsrError::TooLong)
        ));
    }
}
