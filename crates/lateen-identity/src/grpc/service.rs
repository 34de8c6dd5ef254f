//! The server side of `IstioCertificateService`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lateen_envoy::istio::ca as pb;
use lateen_envoy::with_causes;
use pb::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use tonic::{Request, Response, Status};

use super::authenticate::{Authenticators, Credentials};
use super::limits::RateLimiter;
use crate::Clock;
use crate::ca::{CertificateAuthority, SignError};
use crate::expiry::rfc3339;

/// Longest request, in bytes. A certificate request has a few hundred.
const MAX_MESSAGE: usize = 256 * 1024;

/// What happened so far; the names are those of Istio's `citadel_server_*` metrics.
#[derive(Debug, Default)]
pub struct CaCounters {
    /// `citadel_server_csr_count`: requests received.
    pub csr_count: AtomicU64,
    /// `citadel_server_authentication_failure_count`: callers that were not recognised.
    pub authentication_failure_count: AtomicU64,
    /// `citadel_server_csr_parsing_err_count`: requests that could not be used.
    pub csr_parsing_err_count: AtomicU64,
    /// `citadel_server_csr_sign_err_count`: requests that could not be signed.
    pub csr_sign_err_count: AtomicU64,
    /// `citadel_server_success_cert_issuance_count`: certificates issued.
    pub success_cert_issuance_count: AtomicU64,
    /// Requests over the rate limit; Istio has no such counter.
    pub rate_limited_count: AtomicU64,
}

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CertificateService {
    ca: Arc<CertificateAuthority>,
    authenticators: Authenticators,
    limiter: Arc<RateLimiter>,
    counters: Arc<CaCounters>,
    clock: Clock,
}

impl CertificateService {
    /// Signs with `ca` for whom `authenticators` recognise.
    pub fn new(
        ca: Arc<CertificateAuthority>,
        authenticators: Authenticators,
        limiter: RateLimiter,
        clock: Clock,
    ) -> Self {
        let (limiter, counters) = (Arc::new(limiter), Arc::default());
        Self {
            ca,
            authenticators,
            limiter,
            counters,
            clock,
        }
    }

    /// What happened so far.
    pub fn counters(&self) -> Arc<CaCounters> {
        self.counters.clone()
    }

    /// As a service of a tonic server, with its message size bounded.
    pub fn into_server(self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self).max_decoding_message_size(MAX_MESSAGE)
    }

    async fn create(
        &self,
        request: Request<pb::IstioCertificateRequest>,
    ) -> Result<Vec<String>, Status> {
        count(&self.counters.csr_count);
        let now = self.clock.now();
        let credentials = Credentials::of(&request);
        let caller = self.authenticators.authenticate(&credentials, now).await.map_err(|error| {
            count(&self.counters.authentication_failure_count);
            tracing::warn!(address = ?credentials.address, error = %with_causes(&error), "certificate refused");
            Status::unauthenticated("request authenticate failure")
        })?;
        let name = caller.id.to_string();
        self.limiter.admit(&name).map_err(|wait| {
            count(&self.counters.rate_limited_count);
            Status::resource_exhausted(format!("too many requests; try again in {wait:?}"))
        })?;
        let request = request.into_inner();
        let seconds = u64::try_from(request.validity_duration).unwrap_or_default();
        let ttl = Some(Duration::from_secs(seconds));
        let ca = self.ca.clone();
        // An RSA signature takes milliseconds, which the runtime's other tasks should not wait for.
        let signed =
            tokio::task::spawn_blocking(move || ca.sign(&request.csr, &caller.id, ttl, now)).await;
        let signed = signed.map_err(|_| Status::internal("signing was interrupted"))?;
        let issued = signed.map_err(|error| self.refused(&name, &error))?;
        count(&self.counters.success_cert_issuance_count);
        let (serial, until) = (&issued.facts.serial, rfc3339(issued.facts.not_after));
        tracing::info!(%name, %serial, %until, by = caller.by, "certificate issued");
        Ok(issued.to_response())
    }

    fn refused(&self, name: &str, error: &SignError) -> Status {
        tracing::warn!(%name, error = %with_causes(error), "certificate not issued");
        match error {
            SignError::Csr(_) => {
                count(&self.counters.csr_parsing_err_count);
                Status::invalid_argument(with_causes(error))
            }
            SignError::Lifetime { .. } | SignError::Name(_) => {
                count(&self.counters.csr_sign_err_count);
                Status::invalid_argument(error.to_string())
            }
            SignError::Signer(_) => {
                count(&self.counters.csr_sign_err_count);
                Status::unavailable("the certificate authority cannot sign; see its log")
            }
        }
    }
}

#[tonic::async_trait]
impl IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<pb::IstioCertificateRequest>,
    ) -> Result<Response<pb::IstioCertificateResponse>, Status> {
        let cert_chain = self.create(request).await?;
        Ok(Response::new(pb::IstioCertificateResponse { cert_chain }))
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
