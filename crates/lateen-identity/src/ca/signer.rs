//! A certificate with its key that signs other certificates.

use std::time::SystemTime;

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::ParsedCertificate;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::TrustBundle;
use crate::expiry::rfc3339;
use crate::x509::CertificateFacts;

/// Why a certificate and key cannot sign.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The certificate cannot be parsed.
    #[error("it cannot be parsed")]
    Malformed,
    /// Its basic constraints do not say that it is an authority.
    #[error("it is no CA certificate: make it with the basic constraint `CA:TRUE`")]
    NotCa,
    /// Its key usage does not include signing certificates.
    #[error("its key usage does not include `keyCertSign`")]
    KeyUsage,
    /// The key belongs to another certificate.
    #[error("its public key is not that of the private key: the two files are from different sets")]
    KeyMismatch,
    /// The key cannot be read.
    #[error("the private key cannot be used (RSA and ECDSA in PKCS #8, PKCS #1 or SEC 1 can)")]
    Key(#[source] rcgen::Error),
    /// It, or a certificate above it, is over.
    #[error("it or a certificate above it expired at {}; renew it", rfc3339(*.0))]
    Expired(SystemTime),
    /// It is not valid yet.
    #[error("it is valid only from {}; check this machine's clock", rfc3339(*.0))]
    NotYetValid(SystemTime),
    /// What it signs does not verify against the roots.
    #[error(
        "what it signs does not verify against the roots: `cert-chain.pem` must hold each certificate from it up to a root, \
         and `root-cert.pem` that root"
    )]
    Chain(#[source] rustls::Error),
    /// The signature could not be made.
    #[error("the certificate could not be signed")]
    Sign(#[source] rcgen::Error),
}

/// A certificate that signs, its key, and the certificates between it and a root.
pub(super) struct Signer {
    pub(super) facts: CertificateFacts,
    /// What a workload sends after its own certificate: this one first, roots left out.
    pub(super) chain: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
    /// The end of the shortest-lived certificate of the chain.
    not_after: SystemTime,
}

impl Signer {
    /// Takes a certificate, its key and what lies between it and the roots, and proves that what it signs verifies.
    pub(super) fn new(
        certificate: CertificateDer<'static>,
        key: KeyPair,
        between: Vec<CertificateDer<'static>>,
        bundle: &TrustBundle,
        now: SystemTime,
    ) -> Result<Self, SignerError> {
        let facts = check_certificate(&certificate, &key)?;
        let chain: Vec<_> = std::iter::once(certificate.clone())
            .chain(between.into_iter().filter(|other| *other != certificate))
            .filter(|other| !bundle.contains(other))
            .collect();
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(SignerError::Key)?;
        let not_after = chain
            .iter()
            .filter_map(|der| CertificateFacts::from_der(der).ok())
            .fold(facts.not_after, |earliest, other| {
                earliest.min(other.not_after)
            });
        let signer = Self {
            facts,
            chain,
            issuer,
            not_after,
        };
        signer.prove(bundle, now)?;
        Ok(signer)
    }

    /// Signs `key` for `names`; the window is cut where the signer itself ends.
    pub(super) fn sign(
        &self,
        key: &impl PublicKeyData,
        names: Vec<SanType>,
        (not_before, not_after): (SystemTime, SystemTime),
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, SignerError> {
        if now >= self.not_after {
            return Err(SignerError::Expired(self.not_after));
        }
        if now < self.facts.not_before {
            return Err(SignerError::NotYetValid(self.facts.not_before));
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.serial_number = Some(SerialNumber::from(random_serial().to_vec()));
        params.not_before = not_before.into();
        params.not_after = not_after.min(self.not_after).into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let signed = params
            .signed_by(key, &self.issuer)
            .map_err(SignerError::Sign)?;
        Ok(signed.der().clone())
    }

    /// Signs a throw-away certificate and verifies it as a peer would. It finds what no single field shows, such as a
    /// missing link of the chain or a subject that does not survive being written again.
    fn prove(&self, bundle: &TrustBundle, now: SystemTime) -> Result<(), SignerError> {
        let key = KeyPair::generate().map_err(SignerError::Sign)?;
        let name = "proof.invalid".try_into().map_err(SignerError::Sign)?;
        let window = (now, now + std::time::Duration::from_secs(60));
        let leaf = self.sign(&key, vec![SanType::DnsName(name)], window, now)?;
        let parsed = ParsedCertificate::try_from(&leaf).map_err(SignerError::Chain)?;
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            bundle.store(),
            &self.chain,
            UnixTime::since_unix_epoch(since),
            crate::tls::provider().signature_verification_algorithms.all,
        )
        .map_err(SignerError::Chain)
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

/// A serial number of 127 random bits: positive, unguessable (CA/Browser Forum asks for 64), never seen twice.
pub(super) fn random_serial() -> [u8; 16] {
    let mut serial: [u8; 16] = rand::random();
    // The first octet is neither negative nor a zero that DER would have to drop.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    serial
}

fn check_certificate(der: &[u8], key: &KeyPair) -> Result<CertificateFacts, SignerError> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|_| SignerError::Malformed)?;
    if !parsed.is_ca() {
        return Err(SignerError::NotCa);
    }
    let usage = parsed.key_usage().map_err(|_| SignerError::Malformed)?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(SignerError::KeyUsage);
    }
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err(SignerError::KeyMismatch);
    }
    CertificateFacts::from_der(der).map_err(|_| SignerError::Malformed)
}
