//! Certificates with their keys: those of workloads in the mesh, and those a gateway serves.

use std::fmt;
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{TlsError, provider};
use crate::spiffe::{SanError, identity_of};
use crate::x509::{
    CertificateFacts, X509Error, certificates_from_pem, certificates_to_pem, to_pem,
};
use crate::{SpiffeId, TrustBundle};

/// Why a certificate with its key cannot be an identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificates cannot be read.
    #[error("certificate chain cannot be read")]
    Certificates(#[source] X509Error),
    /// The private key cannot be read.
    #[error("private key cannot be read")]
    Key(#[source] rustls_pki_types::pem::Error),
    /// The key does not fit the certificate.
    #[error("certificate and key do not fit")]
    Pair(#[source] TlsError),
    /// The certificate has no workload's identity.
    #[error("certificate names no workload")]
    Name(#[source] SanError),
}

/// A certificate chain and its private key, ready to be used in handshakes.
#[derive(Clone)]
pub struct CertifiedKeyPair {
    certified: Arc<CertifiedKey>,
    key: Arc<PrivateKeyDer<'static>>,
    facts: CertificateFacts,
}

impl CertifiedKeyPair {
    /// Takes a chain, leaf first, and the leaf's key.
    ///
    /// # Errors
    /// There is no certificate, it cannot be parsed, or the key is not the certificate's.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, IdentityError> {
        let leaf = chain
            .first()
            .ok_or(IdentityError::Certificates(X509Error::Empty))?;
        let facts = CertificateFacts::from_der(leaf).map_err(IdentityError::Certificates)?;
        let certified = CertifiedKey::from_der(chain, key.clone_key(), provider())
            .map_err(|source| IdentityError::Pair(TlsError::Key(source)))?;
        Ok(Self {
            certified: Arc::new(certified),
            key: Arc::new(key),
            facts,
        })
    }

    /// Reads a chain and a key from PEM, as files or Kubernetes Secrets of type `tls` hold them.
    ///
    /// # Errors
    /// As [`Self::new`], or the PEM is broken.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let chain = certificates_from_pem(chain).map_err(IdentityError::Certificates)?;
        Self::new(
            chain,
            PrivateKeyDer::from_pem_slice(key).map_err(IdentityError::Key)?,
        )
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The leaf's facts.
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// The chain as PEM.
    pub fn chain_pem(&self) -> String {
        certificates_to_pem(self.chain())
    }

    /// The key as PEM, for a data plane that takes it over SDS.
    pub fn key_pem(&self) -> String {
        let label = match &*self.key {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        to_pem(label, self.key.secret_der())
    }

    /// As rustls wants it.
    pub fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for CertifiedKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertifiedKeyPair")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

/// Whom a workload trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// The mesh's own authority, which the control plane is verified with. The root of another mesh must not be able to pass for it.
    pub authority: Arc<TrustBundle>,
    /// Peers: those of `authority`, and the roots of other meshes.
    pub peers: Arc<TrustBundle>,
}

/// All a workload needs to prove who it is and to know its peers: one immutable value per certificate.
#[derive(Clone, Debug)]
pub struct WorkloadIdentity {
    id: SpiffeId,
    pair: CertifiedKeyPair,
    bundle: Arc<TrustBundle>,
    authority: Arc<TrustBundle>,
}

impl WorkloadIdentity {
    /// Takes a workload's certificate and the roots it trusts.
    ///
    /// # Errors
    /// The certificate does not name exactly one workload.
    pub fn new(pair: CertifiedKeyPair, bundle: Arc<TrustBundle>) -> Result<Self, IdentityError> {
        let leaf = pair
            .chain()
            .first()
            .ok_or(IdentityError::Certificates(X509Error::Empty))?;
        let id = identity_of(leaf).map_err(IdentityError::Name)?;
        Ok(Self {
            id,
            pair,
            authority: Arc::clone(&bundle),
            bundle,
        })
    }

    /// The same certificate with other roots.
    #[must_use]
    pub fn with_roots(&self, roots: Roots) -> Self {
        Self {
            bundle: roots.peers,
            authority: roots.authority,
            ..self.clone()
        }
    }

    /// Who it is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Certificate and key.
    pub fn pair(&self) -> &CertifiedKeyPair {
        &self.pair
    }

    /// The certificate's facts: validity and serial number.
    pub fn facts(&self) -> &CertificateFacts {
        self.pair.facts()
    }

    /// The roots that peers are verified against.
    pub fn bundle(&self) -> &Arc<TrustBundle> {
        &self.bundle
    }

    /// The roots of the mesh's own authority, that the control plane is verified against.
    pub fn authority(&self) -> &Arc<TrustBundle> {
        &self.authority
    }
}
