//! Keeps a workload's certificate fresh.
//!
//! One task gets the first certificate, renews it at half of its life, and publishes each as an immutable
//! [`WorkloadIdentity`]. The old one stays published until the new one is there; connections that exist go on with what they
//! were made with. A certificate authority that is away for less than half a lifetime is not noticed by anybody.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lateen_envoy::with_causes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use rustls_pki_types::CertificateDer;

use crate::csr::KeyAndRequest;
use crate::expiry::{Expiry, rfc3339};
use crate::grpc::{FetchError, FetchedCertificate};
use crate::tls::{CertifiedKeyPair, IdentityError, Roots};
use crate::x509::CertificateFacts;
use crate::{BoxFuture, Clock, SpiffeId, TrustBundle, WorkloadIdentity};

/// Longest single sleep. A machine that was suspended, or whose clock was set, is noticed after this long: timers run on
/// a clock that stands still meanwhile, certificates do not.
const MAX_SLEEP: Duration = Duration::from_secs(30);
/// How often a certificate is renewed again because the authority has not followed a change of the roots yet, and when.
const FOLLOW_UPS: u32 = 5;
const FOLLOW_UP: Duration = Duration::from_secs(1);
/// Forced rotations waiting at once; more are answered by the one under way.
const MAX_FORCED: usize = 16;

/// Signs a certificate request: a certificate authority over gRPC, or one in the same process.
pub trait CertificateIssuer: Send + Sync + 'static {
    /// Signs `csr_pem` for the workload that the issuer knows us to be.
    fn issue(&self, csr_pem: String) -> BoxFuture<'_, Result<FetchedCertificate, FetchError>>;
}

/// How certificates are renewed.
#[derive(Clone, Debug)]
pub struct RotationOptions {
    /// Who we are.
    pub id: SpiffeId,
    /// Which part of the lifetime is left when renewal begins. Istio's `SECRET_GRACE_PERIOD_RATIO`: 0.5.
    pub grace_ratio: f64,
    /// By how much that varies, so that a mesh that started at once does not renew at once. Istio's
    /// `SECRET_GRACE_PERIOD_RATIO_JITTER`: 0.01.
    pub jitter: f64,
    /// The first wait after a failure; doubled after each.
    pub backoff: Duration,
    /// The longest wait after a failure.
    pub max_backoff: Duration,
    /// Roots that are trusted beside those the authority names (`root-cert.pem` of the pod). Their first is the one the
    /// authority signs with: when it changes, or when roots are taken away, the certificate is renewed early.
    pub extra_roots: Option<watch::Receiver<Arc<TrustBundle>>>,
    /// Roots of other meshes, that peers may have their certificates from (MeshConfig `caCertificates`). They say nothing of the
    /// authority, so nothing is renewed for them.
    pub peer_roots: Option<watch::Receiver<Option<Arc<TrustBundle>>>>,
    /// Over how long early renewals of a whole mesh are spread.
    pub spread: Duration,
}

impl RotationOptions {
    /// Istio's defaults.
    pub fn new(id: SpiffeId) -> Self {
        Self {
            id,
            grace_ratio: 0.5,
            jitter: 0.01,
            backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(10),
            extra_roots: None,
            peer_roots: None,
            spread: Duration::from_secs(2),
        }
    }
}

/// Why a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// A key could not be made.
    #[error("making a key pair")]
    Key(#[source] rcgen::Error),
    /// The issuer did not issue.
    #[error("getting a certificate for `{id}`")]
    Issue {
        /// Whom it is for.
        id: SpiffeId,
        /// Why not.
        #[source]
        source: FetchError,
    },
    /// What it issued is unusable.
    #[error("the issued certificate cannot be used")]
    Identity(#[source] IdentityError),
    /// It was issued for somebody else.
    #[error("the certificate is for `{found}`, but this workload is `{expected}`")]
    OtherIdentity {
        /// Who we are.
        expected: SpiffeId,
        /// Whom it names.
        found: SpiffeId,
    },
    /// It is over already: the clocks disagree.
    #[error("the issued certificate ended at {}; check this machine's clock and the authority's", rfc3339(*.0))]
    AlreadyExpired(SystemTime),
    /// The task has ended.
    #[error("certificates are not renewed any more: the workload is shutting down")]
    Stopped,
}

/// The task's other end: read the identity, force a renewal.
#[derive(Clone, Debug)]
pub struct IdentityHandle {
    identity: watch::Receiver<Option<Arc<WorkloadIdentity>>>,
    force: mpsc::Sender<oneshot::Sender<Result<(), Arc<RotationError>>>>,
}

impl IdentityHandle {
    /// The identity, now and as it changes; `None` until the first certificate is there.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<WorkloadIdentity>>> {
        self.identity.clone()
    }

    /// The identity now.
    pub fn current(&self) -> Option<Arc<WorkloadIdentity>> {
        self.identity.borrow().clone()
    }

    /// Waits for the first certificate.
    ///
    /// # Errors
    /// The task ended before there was one.
    pub async fn ready(&self) -> Result<Arc<WorkloadIdentity>, RotationError> {
        let mut identity = self.identity.clone();
        let found = identity.wait_for(Option::is_some).await;
        found
            .ok()
            .and_then(|identity| identity.clone())
            .ok_or(RotationError::Stopped)
    }

    /// Renews now, whatever is left of the present certificate, and waits until the new one is published.
    ///
    /// # Errors
    /// The one attempt failed (the present certificate stays), or the task has ended.
    pub async fn rotate(&self) -> Result<(), Arc<RotationError>> {
        let (answer, answered) = oneshot::channel();
        let stopped = || Arc::new(RotationError::Stopped);
        self.force.send(answer).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }

    /// When the present certificate and roots end.
    pub fn expiries(&self) -> Vec<Expiry> {
        let Some(identity) = self.current() else {
            return Vec::new();
        };
        let own = Expiry::new("workload certificate", identity.facts());
        let roots = identity.bundle().roots().iter();
        let roots = roots.filter_map(|root| crate::x509::CertificateFacts::from_der(root).ok());
        std::iter::once(own.named(identity.id().to_string()))
            .chain(roots.map(|facts| Expiry::new("root", &facts)))
            .collect()
    }
}

/// The task that renews.
pub struct IdentityManager<I> {
    options: RotationOptions,
    issuer: I,
    clock: Clock,
    identity: watch::Sender<Option<Arc<WorkloadIdentity>>>,
    forced: mpsc::Receiver<oneshot::Sender<Result<(), Arc<RotationError>>>>,
    /// Roots as the authority named them last, without the extra ones.
    issued_roots: Option<Arc<TrustBundle>>,
}

/// Why the task woke.
enum Wake {
    Due,
    Forced(oneshot::Sender<Result<(), Arc<RotationError>>>),
    Roots,
}

impl<I: CertificateIssuer> IdentityManager<I> {
    /// The task, to be run by its owner, and its handle.
    pub fn new(options: RotationOptions, issuer: I, clock: Clock) -> (Self, IdentityHandle) {
        let (identity, watched) = watch::channel(None);
        let (force, forced) = mpsc::channel(MAX_FORCED);
        let manager = Self {
            options,
            issuer,
            clock,
            identity,
            forced,
            issued_roots: None,
        };
        (
            manager,
            IdentityHandle {
                identity: watched,
                force,
            },
        )
    }

    /// Renews until `shutdown` resolves. Drop-safe: nothing is half-published.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        tokio::pin!(shutdown);
        tokio::select! {
            () = &mut shutdown => {}
            () = self.renew_forever() => {}
        }
    }

    async fn renew_forever(&mut self) {
        let mut failures = 0;
        let mut follow_ups = 0;
        let mut due = self.clock.now();
        loop {
            let answer = match self.wait_until(due).await {
                Wake::Roots => {
                    self.merge_roots();
                    if self.lags_behind_roots() {
                        follow_ups = FOLLOW_UPS;
                        due =
                            due.min(self.clock.now() + self.options.spread.mul_f64(rand::random()));
                    }
                    continue;
                }
                Wake::Due => None,
                Wake::Forced(answer) => Some(answer),
            };
            let renewed = self.renew().await;
            due = match &renewed {
                Ok(_) if follow_ups > 0 && self.lags_behind_roots() => {
                    // The file was faster than the authority.
                    follow_ups -= 1;
                    self.clock.now() + FOLLOW_UP
                }
                Ok(identity) => {
                    (failures, follow_ups) = (0, 0);
                    self.renewal_time(identity)
                }
                Err(error) => {
                    failures += 1;
                    let wait = self.backoff(failures);
                    tracing::warn!(error = %with_causes(error), ?wait, "certificate not renewed");
                    self.clock.now() + wait
                }
            };
            if let Some(answer) = answer {
                // Whoever asked may have gone; the renewal counts all the same.
                let _ = answer.send(renewed.map(drop).map_err(Arc::new));
            }
        }
    }

    /// Gets a certificate over a fresh key and publishes it.
    async fn renew(&mut self) -> Result<Arc<WorkloadIdentity>, RotationError> {
        let id = self.options.id.clone();
        let made = KeyAndRequest::generate(&id).map_err(RotationError::Key)?;
        let fetched = self.issuer.issue(made.csr_pem).await;
        let fetched = fetched.map_err(|source| RotationError::Issue {
            id: id.clone(),
            source,
        })?;
        let pair =
            CertifiedKeyPair::new(fetched.chain, made.key).map_err(RotationError::Identity)?;
        let issued = Arc::new(fetched.bundle);
        let roots = self.roots(&issued);
        let identity = WorkloadIdentity::new(pair, Arc::clone(&roots.authority))
            .map_err(RotationError::Identity)?
            .with_roots(roots);
        if *identity.id() != id {
            let found = identity.id().clone();
            return Err(RotationError::OtherIdentity {
                expected: id,
                found,
            });
        }
        if identity.facts().not_after <= self.clock.now() {
            return Err(RotationError::AlreadyExpired(identity.facts().not_after));
        }
        let identity = Arc::new(identity);
        self.issued_roots = Some(issued);
        self.identity.send_replace(Some(identity.clone()));
        let (serial, until) = (
            &identity.facts().serial,
            rfc3339(identity.facts().not_after),
        );
        tracing::info!(id = %identity.id(), %serial, %until, "workload certificate renewed");
        Ok(identity)
    }

    /// The issued roots together with the extra ones, and these together with other meshes'.
    fn roots(&self, issued: &Arc<TrustBundle>) -> Roots {
        let authority = match &self.options.extra_roots {
            Some(extra) => Arc::new(issued.merged(&extra.borrow())),
            None => Arc::clone(issued),
        };
        let others = self.options.peer_roots.as_ref();
        let peers = match others.and_then(|others| others.borrow().clone()) {
            Some(others) => Arc::new(authority.merged(&others)),
            None => Arc::clone(&authority),
        };
        Roots { authority, peers }
    }

    /// Publishes the present certificate with changed roots.
    fn merge_roots(&mut self) {
        let Some(issued) = self.issued_roots.clone() else {
            return;
        };
        let roots = self.roots(&issued);
        let is_new = |identity: &WorkloadIdentity| {
            *identity.bundle() != roots.peers || *identity.authority() != roots.authority
        };
        self.identity.send_if_modified(|current| match current {
            Some(identity) if is_new(identity) => {
                *identity = Arc::new(identity.with_roots(roots.clone()));
                true
            }
            _ => false,
        });
    }

    /// Whether the certificate or its bundle is of before a rotation of the root: signed by another root than the first of
    /// the extra ones, or come with roots that are no longer among them.
    fn lags_behind_roots(&self) -> bool {
        let Some(extra) = &self.options.extra_roots else {
            return false;
        };
        let (extra, identity) = (extra.borrow().clone(), self.identity.borrow().clone());
        let Some(identity) = identity else {
            return false;
        };
        let retired = self.issued_roots.as_ref().is_some_and(|issued| {
            let kept = |root| extra.contains(root);
            !issued.roots().iter().all(kept)
        });
        retired
            || !extra
                .roots()
                .first()
                .is_some_and(|root| leads_to(&identity, root))
    }

    /// Cancel-safe: every branch is.
    async fn wait_until(&mut self, due: SystemTime) -> Wake {
        loop {
            let left = due.duration_since(self.clock.now()).unwrap_or_default();
            if left.is_zero() {
                return Wake::Due;
            }
            let sleep = tokio::time::sleep_until(Instant::now() + left.min(MAX_SLEEP));
            tokio::select! {
                () = sleep => {}
                Some(answer) = self.forced.recv() => return Wake::Forced(answer),
                () = changed(self.options.extra_roots.as_mut()) => return Wake::Roots,
                () = changed(self.options.peer_roots.as_mut()) => return Wake::Roots,
            }
        }
    }

    /// When the grace period begins: half of the life by default, earlier or later by the jitter.
    fn renewal_time(&self, identity: &WorkloadIdentity) -> SystemTime {
        let facts = identity.facts();
        let lifetime = facts
            .not_after
            .duration_since(facts.not_before)
            .unwrap_or_default();
        let jitter = (rand::random::<f64>() * 2.0 - 1.0) * self.options.jitter;
        let grace = lifetime.mul_f64((self.options.grace_ratio + jitter).clamp(0.0, 1.0));
        // At least the first wait after a failure: a lifetime shorter than the backdating must not make a busy loop.
        // A certificate that lives no longer than its backdating is past half of its life when it is issued; renewing it at
        // once, again and again, would only load the authority.
        let now = self.clock.now();
        let left = facts.not_after.duration_since(now).unwrap_or_default();
        (facts.not_after - grace).max(now + (left / 4).max(self.options.backoff))
    }

    /// Doubles from the first wait to the longest, then takes a random part of it between a half and the whole.
    fn backoff(&self, failures: u32) -> Duration {
        let factor = 2_u32.saturating_pow(failures.saturating_sub(1).min(20));
        let wait = self
            .options
            .backoff
            .saturating_mul(factor)
            .min(self.options.max_backoff);
        wait.mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }
}

impl<I> std::fmt::Debug for IdentityManager<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityManager")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Whether a certificate's chain ends below `root`, by name: enough to tell two roots of one authority apart.
fn leads_to(identity: &WorkloadIdentity, root: &CertificateDer<'_>) -> bool {
    let facts = |der: &CertificateDer<'_>| CertificateFacts::from_der(der).ok();
    let last = identity.pair().chain().last().and_then(facts);
    match (last, facts(root)) {
        (Some(last), Some(root)) => last.issuer == root.subject,
        _ => false,
    }
}

/// Resolves when the roots change; never if there are none or their source has gone.
async fn changed<T>(roots: Option<&mut watch::Receiver<T>>) {
    let Some(roots) = roots else {
        return std::future::pending().await;
    };
    if roots.changed().await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests;
