//! Sets of roots that are trusted.
//!
//! A bundle holds several roots so that roots can be rotated: the new one is trusted everywhere before anything is signed by
//! it, and the old one until nothing signed by it is in use. A bundle is immutable and never empty.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;

use crate::x509::{self, X509Error};

/// Why a set of roots cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The text holds no usable certificates.
    #[error("reading the roots")]
    Certificates(#[source] X509Error),
    /// No root at all: nothing could ever be verified with it.
    #[error("a trust bundle needs at least one root")]
    Empty,
    /// A certificate cannot be a trust anchor.
    #[error("certificate {index} of the bundle cannot be a trust anchor")]
    Anchor {
        /// Its place, counted from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: rustls::Error,
    },
}

/// Roots that are trusted, in the order they were given, without repetitions.
#[derive(Clone, Debug)]
pub struct TrustBundle {
    roots: Vec<CertificateDer<'static>>,
    store: Arc<RootCertStore>,
}

impl TrustBundle {
    /// A bundle of these roots.
    ///
    /// # Errors
    /// There is none, or one cannot be a trust anchor.
    pub fn new(
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        let mut distinct: Vec<CertificateDer<'static>> = Vec::new();
        for root in roots {
            if !distinct.contains(&root) {
                distinct.push(root);
            }
        }
        let mut store = RootCertStore::empty();
        for (index, root) in distinct.iter().enumerate() {
            store
                .add(root.clone())
                .map_err(|source| BundleError::Anchor { index, source })?;
        }
        if store.is_empty() {
            return Err(BundleError::Empty);
        }
        Ok(Self {
            roots: distinct,
            store: Arc::new(store),
        })
    }

    /// Reads a bundle from PEM.
    ///
    /// # Errors
    /// The PEM is broken, has no certificate, or one cannot be a trust anchor.
    pub fn from_pem(pem: &[u8]) -> Result<Self, BundleError> {
        Self::new(x509::certificates_from_pem(pem).map_err(BundleError::Certificates)?)
    }

    /// The roots of both, this one's first.
    #[must_use]
    pub fn merged(&self, other: &Self) -> Self {
        let roots = self.roots.iter().chain(&other.roots).cloned();
        Self::new(roots).expect("every root is in one of two valid bundles")
    }

    /// The roots.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Whether `root` is trusted.
    pub fn contains(&self, root: &CertificateDer<'_>) -> bool {
        self.roots
            .iter()
            .any(|known| known.as_ref() == root.as_ref())
    }

    /// The roots as rustls wants them.
    pub fn store(&self) -> &Arc<RootCertStore> {
        &self.store
    }

    /// The roots as PEM, one after the other.
    pub fn to_pem(&self) -> String {
        x509::certificates_to_pem(&self.roots)
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.roots == other.roots
    }
}

impl Eq for TrustBundle {}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(name: &str) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params
            .self_signed(&rcgen::KeyPair::generate().unwrap())
            .unwrap()
            .der()
            .clone()
    }

    #[test]
    fn merging_keeps_order_and_drops_repetitions() {
        let (a, b, c) = (root("a"), root("b"), root("c"));
        let one = TrustBundle::new([a.clone(), b.clone(), a.clone()]).unwrap();
        let two = TrustBundle::new([b.clone(), c.clone()]).unwrap();
        assert_eq!(one.merged(&two).roots(), [a, b, c]);
    }

    #[test]
    fn a_bundle_survives_pem() {
        let bundle = TrustBundle::new([root("a"), root("b")]).unwrap();
        assert_eq!(
            TrustBundle::from_pem(bundle.to_pem().as_bytes()).unwrap(),
            bundle
        );
    }

    #[test]
    fn an_empty_bundle_is_refused() {
        assert!(matches!(TrustBundle::new([]), Err(BundleError::Empty)));
        assert!(matches!(
            TrustBundle::from_pem(b""),
            Err(BundleError::Certificates(_))
        ));
    }
}
