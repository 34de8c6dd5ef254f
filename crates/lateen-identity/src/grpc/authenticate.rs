//! Who calls: by bearer token or by the certificate of the connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use tonic::metadata::MetadataMap;

use super::transport::PeerInfo;
use crate::spiffe::{SanError, TrustDomains, identity_of};
use crate::token::{TokenError, TokenKey};
use crate::{BoxFuture, SpiffeId};

/// What a request carries that may prove who sent it.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The bearer token of the `authorization` header.
    pub bearer: Option<String>,
    /// The certificates of the connection, leaf first, verified by the handshake against the trust bundle.
    pub certificates: Arc<[CertificateDer<'static>]>,
    /// Where the connection comes from.
    pub address: Option<SocketAddr>,
}

impl Credentials {
    /// Reads them off a request received over [`super::TlsIncoming`] (or over plain TCP, then without certificates).
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        let peer = request
            .extensions()
            .get::<PeerInfo>()
            .cloned()
            .unwrap_or_default();
        Self {
            bearer: bearer(request.metadata()),
            certificates: peer.certificates,
            address: peer.address.or_else(|| request.remote_addr()),
        }
    }
}

/// Somebody who was authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who it is.
    pub id: SpiffeId,
    /// The pod it says it is, if its credential vouches for that.
    pub pod: Option<String>,
    /// Which authenticator vouches for it.
    pub by: &'static str,
}

/// Why nobody was recognised. Shown in our log; the caller learns only that it was refused.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Neither a token nor a certificate.
    #[error("request has neither a bearer token nor a client certificate")]
    Missing,
    /// The token does not verify.
    #[error("bearer token is refused")]
    Token(#[source] TokenError),
    /// The certificate names nobody.
    #[error("client certificate is refused")]
    Certificate(#[source] SanError),
    /// The certificate is of a trust domain that is not ours.
    #[error("client certificate is of the foreign trust domain `{0}`")]
    TrustDomain(String),
}

/// One way to recognise a caller.
pub trait Authenticator: Send + Sync + 'static {
    /// What it is called in logs and metrics.
    fn name(&self) -> &'static str;

    /// Recognises the caller. `Ok(None)` means the request has no credential of this kind, and the next one is asked; an error
    /// means it has one and it is bad, which is final.
    fn authenticate<'a>(
        &'a self,
        credentials: &'a Credentials,
        now: SystemTime,
    ) -> BoxFuture<'a, Result<Option<Caller>, AuthError>>;
}

/// Authenticators in the order in which they are asked.
#[derive(Clone)]
pub struct Authenticators(Arc<[Box<dyn Authenticator>]>);

impl Authenticators {
    /// Asks these, in this order.
    pub fn new(list: Vec<Box<dyn Authenticator>>) -> Self {
        Self(list.into())
    }

    /// Recognises the caller.
    ///
    /// # Errors
    /// It has no credential, or one that is bad.
    pub async fn authenticate(
        &self,
        credentials: &Credentials,
        now: SystemTime,
    ) -> Result<Caller, AuthError> {
        for authenticator in self.0.iter() {
            if let Some(caller) = authenticator.authenticate(credentials, now).await? {
                return Ok(caller);
            }
        }
        Err(AuthError::Missing)
    }
}

impl std::fmt::Debug for Authenticators {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|one| one.name()))
            .finish()
    }
}

/// Recognises local workloads by the tokens of [`crate::token`].
#[derive(Debug)]
pub struct WorkloadToken {
    key: TokenKey,
    domains: TrustDomains,
}

impl WorkloadToken {
    /// Verifies with `key`; identities are of the mesh's own trust domain.
    pub fn new(key: TokenKey, domains: TrustDomains) -> Self {
        Self { key, domains }
    }

    fn caller(&self, token: &str, now: SystemTime) -> Result<Caller, TokenError> {
        let claims = self.key.verify(token, now)?;
        let id = claims.identity(self.domains.own())?;
        Ok(Caller {
            id,
            pod: Some(claims.kubernetes.pod.name),
            by: "WorkloadToken",
        })
    }
}

impl Authenticator for WorkloadToken {
    fn name(&self) -> &'static str {
        "WorkloadToken"
    }

    fn authenticate<'a>(
        &'a self,
        credentials: &'a Credentials,
        now: SystemTime,
    ) -> BoxFuture<'a, Result<Option<Caller>, AuthError>> {
        let caller = credentials
            .bearer
            .as_deref()
            .map(|token| self.caller(token, now));
        Box::pin(std::future::ready(
            caller.transpose().map_err(AuthError::Token),
        ))
    }
}

/// Recognises workloads by the certificate of their connection, which the handshake has verified against the bundle.
#[derive(Debug)]
pub struct PeerCertificate {
    domains: TrustDomains,
}

impl PeerCertificate {
    /// Accepts identities of these trust domains; a new certificate is of the domain's own name.
    pub fn new(domains: TrustDomains) -> Self {
        Self { domains }
    }

    fn caller(&self, leaf: &CertificateDer<'_>) -> Result<Caller, AuthError> {
        let id = identity_of(leaf).map_err(AuthError::Certificate)?;
        if !self.domains.contains(id.trust_domain()) {
            return Err(AuthError::TrustDomain(id.trust_domain().to_string()));
        }
        let id = id.in_domain(self.domains.own().clone());
        Ok(Caller {
            id,
            pod: None,
            by: "ClientCertificate",
        })
    }
}

impl Authenticator for PeerCertificate {
    fn name(&self) -> &'static str {
        "ClientCertificate"
    }

    fn authenticate<'a>(
        &'a self,
        credentials: &'a Credentials,
        _now: SystemTime,
    ) -> BoxFuture<'a, Result<Option<Caller>, AuthError>> {
        let caller = credentials
            .certificates
            .first()
            .map(|leaf| self.caller(leaf));
        Box::pin(std::future::ready(caller.transpose()))
    }
}

/// The token of `authorization: Bearer TOKEN`. The scheme's case does not matter (RFC 9110, section 11.1).
fn bearer(metadata: &MetadataMap) -> Option<String> {
    let value = metadata.get("authorization")?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim().to_owned())
}
