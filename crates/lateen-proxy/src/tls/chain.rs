//! A certificate's chain to a trusted root: signatures, validity of every link, key usage, name constraints, revocation.

use std::sync::Arc;

use rustls::{CertificateError, Error, OtherError, RootCertStore};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{
    EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptionsBuilder,
};

use super::provider::PROVIDER;

/// What chains are verified by.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    /// Trusted roots.
    pub(super) roots: Arc<RootCertStore>,
    /// Revocation lists; without any, revocation is not asked for. With one, every link needs an answer from a list that is in date.
    pub(super) crls: Arc<[webpki::CertRevocationList<'static>]>,
    /// Only the leaf needs it.
    pub(super) only_leaf_crl: bool,
}

/// Which side presents the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usage {
    /// A server (`serverAuth`).
    Server,
    /// A client (`clientAuth`).
    Client,
}

/// Parses one revocation list.
///
/// # Errors
/// It is not one that can be used.
pub(crate) fn revocation_list(
    der: &[u8],
) -> Result<webpki::CertRevocationList<'static>, webpki::Error> {
    OwnedCertRevocationList::from_der(der).map(Into::into)
}

impl Trust {
    /// Verifies a chain. A certificate that limits its use has to allow this one.
    ///
    /// # Errors
    /// Why it is not trusted.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: Usage,
    ) -> Result<(), Error> {
        let certificate = EndEntityCert::try_from(leaf).map_err(refused)?;
        let crls: Vec<_> = self.crls.iter().collect();
        let depth = if self.only_leaf_crl {
            RevocationCheckDepth::EndEntity
        } else {
            RevocationCheckDepth::Chain
        };
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|builder| {
            builder
                .with_depth(depth)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let usage = match usage {
            Usage::Server => KeyUsage::server_auth(),
            Usage::Client => KeyUsage::client_auth(),
        };
        certificate
            .verify_for_usage(
                PROVIDER.signature_verification_algorithms.all,
                &self.roots.roots,
                intermediates,
                now,
                usage,
                revocation,
                None,
            )
            .map(drop)
            .map_err(refused)
    }
}

/// The alert a peer gets, and what the log says.
pub(super) fn refused(error: webpki::Error) -> Error {
    use webpki::Error as Cause;
    Error::InvalidCertificate(match error {
        Cause::BadDer | Cause::BadDerTime | Cause::TrailingData(_) => CertificateError::BadEncoding,
        Cause::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        Cause::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        Cause::InvalidCertValidity => CertificateError::Expired,
        Cause::UnknownIssuer => CertificateError::UnknownIssuer,
        Cause::CertRevoked => CertificateError::Revoked,
        Cause::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        Cause::CrlExpired { time, next_update } => {
            CertificateError::ExpiredRevocationListContext { time, next_update }
        }
        Cause::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        Cause::CertNotValidForName(_) => CertificateError::NotValidForName,
        Cause::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    })
}
