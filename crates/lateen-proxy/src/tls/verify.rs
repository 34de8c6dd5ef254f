//! Verification of a peer's certificate by Envoy's validation contexts: a chain to a trusted root, pins, then SANs on their bytes.
//!
//! Which server it has to be is said by SAN matchers, or by the name that was asked for where the configuration says so. That a SPIFFE
//! identity is compared as bytes (never as a pattern or with case folded) is what keeps `ns/a.b` from matching `ns/aXb`.
//!
//! A session that is resumed presents no certificate; the one it began with is verified again by the same rules ([`verify_resumed`]), so
//! that nothing that has expired or was revoked since lives on in a ticket.

use std::sync::Arc;

use lateen_traffic::tls::{SanType, Validation};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, CommonState, DigitallySignedStruct, DistinguishedName, Error, HandshakeKind,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use webpki::EndEntityCert;

use super::chain::{Trust, Usage, refused};
use super::peer::{AllSans, all_sans, not_after, public_key};
use super::provider::PROVIDER;

/// Which name a server's certificate has to carry, besides what SAN matchers say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum NameRule {
    /// None.
    #[default]
    None,
    /// The name that the connection is made under: the server name sent, or an address that stands where there is none.
    Asked,
    /// Another than the one sent.
    Fixed(Arc<str>),
}

/// What a peer is held against.
#[derive(Debug)]
pub(super) struct Expectation {
    /// What its chain is verified by; `None` verifies no chain (pins stand alone then).
    pub(super) trust: Option<Trust>,
    /// Conditions: of the context itself, and of the secret it combines with.
    pub(super) settings: Validation,
    /// The name a server's certificate has to carry.
    pub(super) name: NameRule,
    /// That name stands in place of the SAN matchers (`auto_sni_san_validation`).
    pub(super) name_replaces_sans: bool,
}

impl Expectation {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: Usage,
        asked: Option<&ServerName<'_>>,
    ) -> Result<(), Error> {
        if self.settings.accept_untrusted {
            return Ok(());
        }
        if let Some(trust) = &self.trust {
            match trust.verify(leaf, intermediates, now, usage) {
                Err(error) if self.settings.allow_expired && is_expiry(&error) => {
                    trust.verify(leaf, intermediates, last_valid(leaf, intermediates)?, usage)?;
                }
                verified => verified?,
            }
        }
        self.check_pins(leaf)?;
        self.check_sans(leaf)?;
        self.check_name(leaf, asked)
    }

    /// One pin has to fit, of either kind. Source: Envoy's `DefaultCertValidator::verifyCertificate`.
    fn check_pins(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let settings = &self.settings;
        if !settings.has_pins() {
            return Ok(());
        }
        let hash = |bytes: &[u8]| <[u8; 32]>::from(Sha256::digest(bytes));
        let fits = settings.certificate_hashes.contains(&hash(leaf))
            || public_key(leaf).is_some_and(|key| settings.spki_hashes.contains(&hash(key)));
        fits.then_some(()).ok_or(not_expected())
    }

    /// A leaf whose names cannot be read without doubt is nobody's, whether or not a condition asks for them: who it is would be told
    /// to applications and access rules.
    fn check_sans(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let sans = all_sans(leaf).ok_or(not_expected())?;
        let matchers = self.name_replaces_sans || any_san_matches(&self.settings, &sans);
        (matchers && in_trust_domain(&self.settings, &sans))
            .then_some(())
            .ok_or(not_expected())
    }

    fn check_name(
        &self,
        leaf: &CertificateDer<'_>,
        asked: Option<&ServerName<'_>>,
    ) -> Result<(), Error> {
        let fixed;
        let name = match (&self.name, asked) {
            (NameRule::None, _) => return Ok(()),
            (NameRule::Asked, Some(asked)) => asked,
            (NameRule::Asked, None) => return Err(not_expected()),
            (NameRule::Fixed(name), _) => {
                fixed = ServerName::try_from(&**name).map_err(|_| not_expected())?;
                &fixed
            }
        };
        let certificate = EndEntityCert::try_from(leaf).map_err(refused)?;
        certificate
            .verify_is_valid_for_subject_name(name)
            .map_err(refused)
    }
}

const fn not_expected() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
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

/// Verifies the certificates that a resumed session began with as if they were presented now. A full handshake has verified them itself.
///
/// # Errors
/// They would not be accepted today.
pub(super) fn verify_resumed(
    session: &CommonState,
    verify: impl FnOnce(&CertificateDer<'_>, &[CertificateDer<'_>], UnixTime) -> Result<(), Error>,
) -> Result<(), Error> {
    if session.handshake_kind() != Some(HandshakeKind::Resumed) {
        return Ok(());
    }
    match session.peer_certificates() {
        Some([leaf, intermediates @ ..]) => verify(leaf, intermediates, UnixTime::now()),
        // Who presented none then was let in without one.
        None | Some([]) => Ok(()),
    }
}

/// Verifies servers, for upstream connections.
#[derive(Debug)]
pub(super) struct UpstreamVerifier(pub(super) Option<Expectation>);

impl UpstreamVerifier {
    /// Verifies a server that was asked for under a name.
    ///
    /// # Errors
    /// It is not who it has to be.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        asked: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        // Without a validation context Envoy's clients accept any server; Istio writes none only for `insecureSkipVerify`.
        match &self.0 {
            None => Ok(()),
            Some(expected) => expected.verify(leaf, intermediates, now, Usage::Server, Some(asked)),
        }
    }
}

impl ServerCertVerifier for UpstreamVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, server_name, now)
            .map(|()| ServerCertVerified::assertion())
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
    /// What they are held against.
    pub(super) expected: Expectation,
    /// Clients without a certificate are refused.
    pub(super) required: bool,
}

impl DownstreamVerifier {
    /// Verifies a client.
    ///
    /// # Errors
    /// It is not one of those that may connect.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        self.expected
            .verify(leaf, intermediates, now, Usage::Client, None)
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
        self.verify(end_entity, intermediates, now)
            .map(|()| ClientCertVerified::assertion())
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

fn is_expiry(error: &Error) -> bool {
    use CertificateError::{Expired, ExpiredContext};
    matches!(
        error,
        Error::InvalidCertificate(Expired | ExpiredContext { .. })
    )
}

/// The last moment at which none of these had expired. `allow_expired_certificate` forgives age and nothing else: everything but the age
/// is verified as of then (an expiry is found before a signature is looked at, so that it alone says nothing of the rest).
fn last_valid(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<UnixTime, Error> {
    let ends = std::iter::once(leaf).chain(intermediates).map(not_after);
    let first = ends.collect::<Option<Vec<_>>>().into_iter().flatten().min();
    first
        .map(UnixTime::since_unix_epoch)
        .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    PROVIDER.signature_verification_algorithms
}

#[cfg(test)]
mod tests;
