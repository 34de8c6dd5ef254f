//! The client side of `IstioCertificateService`: one request, and the issuer that [`crate::rotation`] asks.

use std::path::PathBuf;
use std::time::Duration;

use lateen_envoy::istio::ca as pb;
use pb::istio_certificate_service_client::IstioCertificateServiceClient;
use rustls_pki_types::CertificateDer;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::bundle::BundleError;
use crate::files::{self, FileError};
use crate::rotation::CertificateIssuer;
use crate::x509::{X509Error, certificates_from_pem};
use crate::{BoxFuture, TrustBundle};

/// How long one request may take. Signing takes milliseconds; the rest is the network.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the authority answered.
#[derive(Clone, Debug)]
pub struct FetchedCertificate {
    /// The certificate, then those between it and a root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots to trust.
    pub bundle: TrustBundle,
}

/// Why no certificate was got.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The token cannot be read.
    #[error("reading the token by which this workload authenticates")]
    Token(#[source] FileError),
    /// The token is not something a header can hold.
    #[error("token in `{0}` is not a token")]
    TokenContent(PathBuf),
    /// The authority refused or could not be reached.
    #[error("asking the certificate authority")]
    Call(#[source] Box<Status>),
    /// The answer holds too few certificates.
    #[error("the authority's answer has {0} parts, expected a certificate and a root at least")]
    Parts(usize),
    /// The answer's certificates cannot be read.
    #[error("reading the certificate from the authority's answer")]
    Certificates(#[source] X509Error),
    /// The answer's roots cannot be used.
    #[error("reading the roots from the authority's answer")]
    Bundle(#[source] BundleError),
}

impl FetchError {
    /// Whether the same request may succeed later. Not so if the authority knows us and says no.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Call(status) => !matches!(
                status.code(),
                Code::InvalidArgument | Code::PermissionDenied | Code::Unimplemented
            ),
            // A projected token may not be there yet, or be in the middle of a replacement.
            _ => true,
        }
    }
}

/// Asks for a certificate over `csr_pem`'s key. `token` is for callers without a client certificate; `ttl` of `None` leaves
/// the lifetime to the authority.
///
/// # Errors
/// The authority refuses, cannot be reached, or answers something unusable.
pub async fn fetch_certificate(
    channel: Channel,
    csr_pem: String,
    token: Option<&str>,
    ttl: Option<Duration>,
) -> Result<FetchedCertificate, FetchError> {
    let request = CertificateRequest {
        csr_pem,
        token,
        ttl,
        headers: MetadataMap::new(),
    };
    fetch(channel, request).await
}

/// What is asked for, and how.
struct CertificateRequest<'a> {
    csr_pem: String,
    token: Option<&'a str>,
    ttl: Option<Duration>,
    headers: MetadataMap,
}

async fn fetch(
    channel: Channel,
    asked: CertificateRequest<'_>,
) -> Result<FetchedCertificate, FetchError> {
    let seconds = asked.ttl.unwrap_or_default().as_secs();
    let mut request = Request::new(pb::IstioCertificateRequest {
        csr: asked.csr_pem,
        validity_duration: i64::try_from(seconds).unwrap_or(i64::MAX),
        metadata: None,
    });
    *request.metadata_mut() = asked.headers;
    request.set_timeout(TIMEOUT);
    if let Some(token) = asked.token {
        let value = format!("Bearer {token}").parse::<MetadataValue<Ascii>>();
        let mut value = value.map_err(|_| FetchError::TokenContent(PathBuf::new()))?;
        value.set_sensitive(true);
        request.metadata_mut().insert("authorization", value);
    }
    let call = async move {
        IstioCertificateServiceClient::new(channel)
            .create_certificate(request)
            .await
    };
    let answer = tokio::time::timeout(TIMEOUT, call)
        .await
        .unwrap_or_else(|_| {
            Err(Status::deadline_exceeded(
                "no answer from the certificate authority",
            ))
        });
    let answer = answer.map_err(|status| FetchError::Call(Box::new(status)))?;
    parse_answer(&answer.into_inner().cert_chain)
}

/// The last part holds the roots, everything before it the chain. A part may hold several certificates.
fn parse_answer(parts: &[String]) -> Result<FetchedCertificate, FetchError> {
    let (roots, chain) = match parts.split_last() {
        Some((roots, chain)) if !chain.is_empty() => (roots, chain),
        _ => return Err(FetchError::Parts(parts.len())),
    };
    let bundle = TrustBundle::from_pem(roots.as_bytes()).map_err(FetchError::Bundle)?;
    let mut certificates = Vec::new();
    for part in chain {
        let read = certificates_from_pem(part.as_bytes()).map_err(FetchError::Certificates)?;
        // Some authorities repeat the root in the chain; a peer has it or it would not help.
        certificates.extend(read.into_iter().filter(|one| !bundle.contains(one)));
    }
    if certificates.is_empty() {
        return Err(FetchError::Certificates(X509Error::Empty));
    }
    Ok(FetchedCertificate {
        chain: certificates,
        bundle,
    })
}

/// Where a workload's token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// In a file that is read anew for each request, because it is replaced before it expires.
    File(PathBuf),
    /// None: the connection's certificate is enough.
    None,
}

/// Issues certificates by asking an authority over gRPC.
#[derive(Clone, Debug)]
pub struct IssuerClient {
    channel: Channel,
    token: TokenSource,
    ttl: Option<Duration>,
    headers: MetadataMap,
}

impl IssuerClient {
    /// Asks over `channel`.
    pub fn new(channel: Channel, token: TokenSource, ttl: Option<Duration>) -> Self {
        Self {
            channel,
            token,
            ttl,
            headers: MetadataMap::new(),
        }
    }

    /// Sends these headers with every request, for an authority that wants them.
    #[must_use]
    pub fn with_headers(mut self, headers: MetadataMap) -> Self {
        self.headers = headers;
        self
    }

    async fn token(&self) -> Result<Option<String>, FetchError> {
        let TokenSource::File(path) = &self.token else {
            return Ok(None);
        };
        let read = {
            let path = path.clone();
            move || files::read_public(&path)
        };
        let content = tokio::task::spawn_blocking(read).await;
        let content = content.map_err(|_| FetchError::TokenContent(path.clone()))?;
        let content = content.map_err(FetchError::Token)?;
        let text =
            String::from_utf8(content).map_err(|_| FetchError::TokenContent(path.clone()))?;
        match text.trim() {
            "" => Err(FetchError::TokenContent(path.clone())),
            token => Ok(Some(token.to_owned())),
        }
    }
}

impl CertificateIssuer for IssuerClient {
    fn issue(&self, csr_pem: String) -> BoxFuture<'_, Result<FetchedCertificate, FetchError>> {
        Box::pin(async move {
            let token = self.token().await?;
            let request = CertificateRequest {
                csr_pem,
                token: token.as_deref(),
                ttl: self.ttl,
                headers: self.headers.clone(),
            };
            fetch(self.channel.clone(), request).await
        })
    }
}
