//! `istio.v1.auth.IstioCertificateService`, server and client, and TLS below gRPC.
//!
//! A caller is known by a bearer token (its first certificate) or by the certificate of its connection (renewal). The same
//! [`Authenticators`] serve the xDS server, which asks the same question. What a caller may do beyond getting a certificate
//! for itself is not decided here.

pub mod authenticate;
pub mod client;
pub mod limits;
mod places;
pub mod service;
pub mod transport;

pub use authenticate::{
    AuthError, Authenticator, Authenticators, Caller, Credentials, PeerCertificate, WorkloadToken,
};
pub use client::{FetchError, FetchedCertificate, IssuerClient, fetch_certificate};
pub use limits::{RateLimit, RateLimiter};
pub use service::{CaCounters, CertificateService};
pub use transport::{ChannelOptions, PeerInfo, TlsIncoming, Transport, channel};

#[cfg(test)]
mod tests;
