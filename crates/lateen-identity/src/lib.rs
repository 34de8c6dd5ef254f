//! Workload identity: the certificate authority, CSRs, SPIFFE identities, trust bundles, rotation.
//!
//! It answers who a peer is and proves who we are. It does not decide what a peer may do (that is `lateen-traffic`) and it
//! opens no listener. Modules, lowest first:
//!
//! - [`spiffe`]: identities as SPIFFE URIs and how they are read from certificates.
//! - [`x509`], [`bundle`], [`csr`]: certificates, sets of roots, key pairs and signing requests.
//! - [`ca`]: the certificate authority and its state directory.
//! - [`token`]: tokens by which local workloads authenticate to it.
//! - [`tls`]: rustls configurations with SPIFFE verification.
//! - [`grpc`]: `IstioCertificateService`, server and client, and TLS below gRPC.
//! - [`rotation`]: the task that keeps a workload's certificate fresh.
//! - [`expiry`]: what expires when.
//! - [`file_secret`]: certificates in files, by the names SDS has for them.

mod files;

pub mod bundle;
pub mod ca;
pub mod csr;
pub mod expiry;
pub mod file_secret;
pub mod grpc;
pub mod rotation;
pub mod spiffe;
pub mod tls;
pub mod token;
pub mod x509;

pub use bundle::TrustBundle;
pub use spiffe::{SpiffeId, TrustDomain};
pub use tls::WorkloadIdentity;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

/// A boxed future, the form in which this crate's traits are asynchronous.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The wall clock as an argument, so that tests own time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// The machine's own clock.
    pub fn system() -> Self {
        Self(Arc::new(SystemTime::now))
    }

    /// A clock that asks `now`.
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time.
    pub fn now(&self) -> SystemTime {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}
