//! rustls configurations: a workload's identity, verification of peers by SPIFFE identity, and what both make together.
//!
//! In the mesh a peer is verified by its chain to the trust bundle and by its URI SAN, never by host name. Outside it (TLS
//! mode `SIMPLE`) host names are verified as usual. Which of the two applies, and which names are allowed, is the caller's
//! configuration; nothing here looks at routes or policies.
//!
//! **Session resumption.** Each configuration has its own ticket keys and its own session cache. A resumed session skips the
//! verification of certificates, so it must not outlive the configuration that verified them: a new certificate, bundle or
//! list of names makes a new configuration, and no session crosses over.

mod client;
mod identity;
mod names;
mod peer;
mod roots;
mod server;

use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;

pub use client::{ClientSettings, ClientVerification, HostnameCheck, client_config};
pub use identity::{CertifiedKeyPair, IdentityError, Roots, WorkloadIdentity};
pub use names::{NameKind, NameMatch, NameMatcher, NamePredicate};
pub use peer::{PeerIdentity, peer_identity};
pub(crate) use roots::CANDIDATES as SYSTEM_LISTS;
pub use roots::{RootsError, system_roots};
pub use server::{ClientAuth, ServerSettings, server_config};

/// Application protocols of connections within the mesh, best first. Source: Istio's `mtlsTCPWithMxcALPNs` and
/// `mtlsHTTPALPNs` are the compiler's business; these are what a plain HTTP/2 server or client offers.
pub const ALPN_H2: &[u8] = b"h2";

/// The lowest and highest TLS version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TlsVersions {
    /// The lowest.
    pub min: TlsVersion,
    /// The highest.
    pub max: TlsVersion,
}

impl Default for TlsVersions {
    fn default() -> Self {
        Self {
            min: TlsVersion::Tls12,
            max: TlsVersion::Tls13,
        }
    }
}

/// A TLS version. Older ones are not supported: rustls has none, and Istio's default minimum is 1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl TlsVersions {
    /// TLS 1.3 alone.
    pub const TLS13: Self = Self {
        min: TlsVersion::Tls13,
        max: TlsVersion::Tls13,
    };

    fn supported(self) -> Result<Vec<&'static SupportedProtocolVersion>, TlsError> {
        let all = [
            (TlsVersion::Tls13, &rustls::version::TLS13),
            (TlsVersion::Tls12, &rustls::version::TLS12),
        ];
        let versions: Vec<_> = all
            .into_iter()
            .filter(|(version, _)| self.min <= *version && *version <= self.max)
            .map(|(_, supported)| supported)
            .collect();
        if versions.is_empty() {
            Err(TlsError::NoVersion)
        } else {
            Ok(versions)
        }
    }
}

/// Why a configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The lowest version is above the highest.
    #[error("no TLS version is allowed: the minimum is above the maximum")]
    NoVersion,
    /// The key does not fit the certificate, or is of an unusable kind.
    #[error("certificate and key cannot be used")]
    Key(#[source] rustls::Error),
    /// rustls refused the versions or cipher suites.
    #[error("TLS parameters cannot be used")]
    Parameters(#[source] rustls::Error),
    /// The roots for client certificates cannot be used.
    #[error("client certificates cannot be verified")]
    ClientRoots(#[source] rustls::server::VerifierBuilderError),
    /// Ticket keys could not be made.
    #[error("session ticket keys cannot be made")]
    Tickets(#[source] rustls::Error),
}

/// The one provider of cryptography. Passed explicitly everywhere, so that no process-wide default decides.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: std::sync::LazyLock<Arc<CryptoProvider>> =
        std::sync::LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    &PROVIDER
}

#[cfg(test)]
mod tests;
