//! Verification of a peer's certificate by Envoy's validation contexts: a chain to a trusted root, then SANs on their bytes.
//!
//! Host names are not looked at, as in Envoy: which server it has to be is said by SAN matchers. That a SPIFFE identity is
//! compared as bytes (never as a pattern or with case folded) is what keeps `ns/a.b` from matching `ns/aXb`.

use std::sync::Arc;

use lateen_traffic::tls::{SanType, Validation};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::PROVIDER;
use super::peer::{AllSans, all_sans};

/// What a peer is held against.
#[derive(Debug)]
pub(super) struct Expectation {
    /// Trusted roots.
    pub(super) roots: Arc<RootCertStore>,
    /// Conditions of the context itself and of the secret it combines with; each non-empty list needs one match.
    pub(super) settings: Vec<Arc<Validation>>,
    /// A DNS or IP name the certificate must carry besides, for `auto_sni_san_validation`.
    pub(super) server_name: Option<Arc<str>>,
}

impl Expectation {
    fn accepts_untrusted(&self) -> bool {
        self.settings.iter().any(|s| s.accept_untrusted)
    }

    /// Checks the SANs of a leaf whose chain was verified.
    fn check_names(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let refused =
            || Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        if self
            .settings
            .iter()
            .all(|s| s.san_matchers.is_empty() && s.trust_domains.is_empty())
            && self.server_name.is_none()
        {
            return Ok(());
        }
        let sans = all_sans(leaf).ok_or_else(refused)?;
        let matched = self
            .settings
            .iter()
            .all(|s| any_san_matches(s, &sans) && in_trust_domain(s, &sans));
        let named = self.server_name.as_deref().is_none_or(|name| {
            sans.certificate
                .dns_sans
                .iter()
                .any(|san| dns_matches(san, name))
                || sans.addresses.iter().any(|san| san == name)
        });
        if matched && named {
            Ok(())
        } else {
            Err(refused())
        }
    }
}

fn any_san_matches(settings: &Validation, sans: &AllSans) -> bool {
    let own = &sans.certificate;
    settings.san_matchers.is_empty()
        || settings.san_matchers.iter().any(|m| {
            let any =
                |names: &[String]| names.iter().any(|name| m.matcher.matches(name.as_bytes()));
            match m.san_type {
                SanType::Any => {
                    any(&own.uri_sans)
                        || any(&own.dns_sans)
                        || any(&sans.emails)
                        || any(&sans.addresses)
                }
                SanType::Dns => any(&own.dns_sans),
                SanType::Uri => any(&own.uri_sans),
                SanType::Email => any(&sans.emails),
                SanType::IpAddress => any(&sans.addresses),
                SanType::OtherName => false,
            }
        })
}

/// With bundles by trust domain, the identity has to be a SPIFFE one of a known domain.
fn in_trust_domain(settings: &Validation, sans: &AllSans) -> bool {
    settings.trust_domains.is_empty()
        || sans.certificate.uri_sans.first().is_some_and(|uri| {
            let domain = uri
                .strip_prefix("spiffe://")
                .and_then(|rest| rest.split('/').next());
            settings
                .trust_domains
                .iter()
                .any(|known| Some(&*known.name) == domain)
        })
}

/// RFC 6125: equal names, or a wildcard for exactly the leftmost label.
pub(super) fn dns_matches(san: &str, name: &str) -> bool {
    if san.eq_ignore_ascii_case(name) {
        return true;
    }
    let (Some(suffix), Some((_, parent))) = (san.strip_prefix("*."), name.split_once('.')) else {
        return false;
    };
    parent.eq_ignore_ascii_case(suffix)
}

/// Verifies servers, for upstream connections.
#[derive(Debug)]
pub(super) struct UpstreamVerifier(pub(super) Option<Expectation>);

impl ServerCertVerifier for UpstreamVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // Without a validation context Envoy's clients accept any server; Istio writes none only for `insecureSkipVerify`
        // and for SIMPLE TLS without a CA, and the control plane is the one to warn about it.
        let Some(expected) = &self.0 else {
            return Ok(ServerCertVerified::assertion());
        };
        if expected.accepts_untrusted() {
            return Ok(ServerCertVerified::assertion());
        }
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let chain = verify_server_cert_signed_by_trust_anchor(
            &leaf,
            &expected.roots,
            intermediates,
            now,
            PROVIDER.signature_verification_algorithms.all,
        );
        tolerate_expiry(chain, expected)?;
        expected.check_names(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Verifies clients, for downstream connections.
#[derive(Debug)]
pub(super) struct DownstreamVerifier {
    chain: Option<Arc<dyn ClientCertVerifier>>,
    expected: Expectation,
    required: bool,
}

impl DownstreamVerifier {
    /// A verifier by `expected`; `required` refuses clients without a certificate.
    ///
    /// # Errors
    /// There is no root to chain to.
    pub(super) fn new(
        expected: Expectation,
        required: bool,
    ) -> Result<Self, rustls::server::VerifierBuilderError> {
        let chain = if expected.accepts_untrusted() {
            None
        } else {
            let builder = WebPkiClientVerifier::builder_with_provider(
                Arc::clone(&expected.roots),
                Arc::clone(&PROVIDER),
            );
            Some(builder.build()?)
        };
        Ok(Self {
            chain,
            expected,
            required,
        })
    }
}

impl ClientCertVerifier for DownstreamVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Mesh clients have one certificate and need no hint; a long list only makes handshakes larger.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let Some(chain) = &self.chain else {
            return Ok(ClientCertVerified::assertion());
        };
        tolerate_expiry(
            chain
                .verify_client_cert(end_entity, intermediates, now)
                .map(drop),
            &self.expected,
        )?;
        self.expected.check_names(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// `allow_expired_certificate`: only an expiry is forgiven, and only where it is configured.
fn tolerate_expiry(result: Result<(), Error>, expected: &Expectation) -> Result<(), Error> {
    match result {
        Err(Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) if expected.settings.iter().any(|s| s.allow_expired) => Ok(()),
        other => other,
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    PROVIDER.signature_verification_algorithms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_one_label() {
        assert!(dns_matches("*.example.com", "a.example.com"));
        assert!(!dns_matches("*.example.com", "a.b.example.com"));
        assert!(!dns_matches("*.example.com", "example.com"));
        assert!(dns_matches("A.example.com", "a.EXAMPLE.com"));
    }
}
