//! Configurations for the connecting side.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::names::{self, NameMatcher};
use super::{CertifiedKeyPair, TlsError, TlsVersions, provider};
use crate::TrustBundle;

/// Whether the host name that was connected to must be in the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostnameCheck {
    /// It must not: workloads' certificates have no host names, [`NameMatcher`]s decide.
    Off,
    /// It must be, as in TLS to servers outside the mesh.
    ServerName,
}

/// How a server is verified.
#[derive(Clone, Debug)]
pub enum ClientVerification {
    /// By its chain and its names.
    Verify {
        /// The roots it must chain to.
        bundle: Arc<TrustBundle>,
        /// The names of which it must have one; empty accepts all.
        names: Vec<NameMatcher>,
        /// Whether the host name counts too.
        hostname: HostnameCheck,
    },
    /// Not at all: what a `DestinationRule` with `insecureSkipVerify` asks for, or TLS without a CA as Envoy has it.
    Insecure,
}

/// What a client's configuration is made of.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Its own certificate, if it has one.
    pub certificate: Option<CertifiedKeyPair>,
    /// How it verifies servers.
    pub verification: ClientVerification,
    /// Application protocols it offers, best first; empty offers none.
    pub alpn: Vec<Vec<u8>>,
    /// The TLS versions it offers.
    pub versions: TlsVersions,
    /// Whether it names the server in the clear (SNI).
    pub send_sni: bool,
}

/// Makes a client's configuration.
///
/// # Errors
/// The settings contradict themselves or cannot be used.
pub fn client_config(settings: ClientSettings) -> Result<Arc<ClientConfig>, TlsError> {
    let versions = settings.versions.supported()?;
    let builder = ClientConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&versions)
        .map_err(TlsError::Parameters)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier(settings.verification)));
    let mut config = match settings.certificate {
        Some(pair) => builder
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair.certified().clone()))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = settings.alpn;
    config.enable_sni = settings.send_sni;
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct ServerVerifier(ClientVerification);

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ClientVerification::Verify {
            bundle,
            names,
            hostname,
        } = &self.0
        else {
            return Ok(ServerCertVerified::assertion());
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            bundle.store(),
            intermediates,
            now,
            algorithms,
        )?;
        if *hostname == HostnameCheck::ServerName {
            verify_server_name(&certificate, server_name)?;
        }
        if names::accepts(names, end_entity) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
