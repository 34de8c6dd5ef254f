//! Configurations for the accepting side.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::names::{self, NameMatcher};
use super::{CertifiedKeyPair, TlsError, TlsVersions, provider};
use crate::TrustBundle;

/// What is asked of clients.
#[derive(Clone, Debug, Default)]
pub enum ClientAuth {
    /// No certificate is asked for.
    #[default]
    None,
    /// One is asked for; a client without one is accepted as nobody, one with a bad one is refused.
    Optional {
        /// The roots it must chain to.
        bundle: Arc<TrustBundle>,
        /// The names of which it must have one; empty accepts all.
        names: Vec<NameMatcher>,
    },
    /// One is demanded.
    Required {
        /// The roots it must chain to.
        bundle: Arc<TrustBundle>,
        /// The names of which it must have one; empty accepts all.
        names: Vec<NameMatcher>,
    },
}

/// What a server's configuration is made of.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Its certificate.
    pub certificate: CertifiedKeyPair,
    /// What it asks of clients.
    pub client_auth: ClientAuth,
    /// Application protocols it accepts, best first; empty negotiates none.
    pub alpn: Vec<Vec<u8>>,
    /// The TLS versions it accepts.
    pub versions: TlsVersions,
}

/// Makes a server's configuration.
///
/// # Errors
/// The settings contradict themselves or cannot be used.
pub fn server_config(settings: ServerSettings) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = client_verifier(settings.client_auth)?;
    let versions = settings.versions.supported()?;
    let mut config = ServerConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&versions)
        .map_err(TlsError::Parameters)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(
            settings.certificate.certified().clone(),
        )));
    config.alpn_protocols = settings.alpn;
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(TlsError::Tickets)?;
    Ok(Arc::new(config))
}

fn client_verifier(auth: ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let (bundle, names, optional) = match auth {
        ClientAuth::None => return Ok(WebPkiClientVerifier::no_client_auth()),
        ClientAuth::Optional { bundle, names } => (bundle, names, true),
        ClientAuth::Required { bundle, names } => (bundle, names, false),
    };
    let roots = bundle.store().clone();
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider().clone());
    if optional {
        builder = builder.allow_unauthenticated();
    }
    let chain = builder.build().map_err(TlsError::ClientRoots)?;
    Ok(Arc::new(NamedClientVerifier { chain, names }))
}

/// webpki's verification of chain, validity and extended key usage, then the names.
#[derive(Debug)]
struct NamedClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    names: Vec<NameMatcher>,
}

impl ClientCertVerifier for NamedClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        if names::accepts(&self.names, end_entity) {
            Ok(verified)
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
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
