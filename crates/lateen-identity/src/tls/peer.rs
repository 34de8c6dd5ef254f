//! Who the peer of a finished handshake is.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use crate::SpiffeId;
use crate::spiffe::uri_san;
use crate::x509::CertificateFacts;

/// The verified peer of a connection. Make it once per connection; requests share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The one URI among its names, as it is in the certificate; `None` for a certificate without one (or with several).
    pub uri: Option<Box<str>>,
    /// The URI as a service account's identity, if it is one.
    pub id: Option<SpiffeId>,
    /// Its leaf certificate.
    pub certificate: CertificateDer<'static>,
    /// When the certificate ends. A connection may outlive it; whether it should is the caller's rule.
    pub not_after: SystemTime,
}

/// Reads the peer's identity off the certificates of a finished handshake (`peer_certificates()` of a rustls connection).
/// `None` if the peer sent none. The handshake's verifier has already decided that the chain is trusted.
pub fn peer_identity(certificates: Option<&[CertificateDer<'_>]>) -> Option<PeerIdentity> {
    let leaf = certificates?.first()?;
    let facts = CertificateFacts::from_der(leaf).ok()?;
    let uri = uri_san(leaf).ok();
    let id = uri
        .as_deref()
        .and_then(|uri| SpiffeId::parse(uri.as_bytes()).ok());
    let certificate = leaf.clone().into_owned();
    Some(PeerIdentity {
        uri,
        id,
        certificate,
        not_after: facts.not_after,
    })
}
