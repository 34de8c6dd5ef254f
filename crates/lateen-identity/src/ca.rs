//! The certificate authority: signs certificates for identities that somebody else authenticated.
//!
//! Its key is either self-made and kept in a state directory, or one of Istio's `cacerts` sets. It reads from a request only
//! the public key; names, usages and lifetimes are its own decision. It has no network side (that is [`crate::grpc`]) and
//! does not decide who may ask.
//!
//! A self-made root is rotated in three steps, each of which waits until the one before has reached every workload:
//! [`CertificateAuthority::begin_rotation`] makes the next root and has it trusted beside the old one;
//! [`CertificateAuthority::switch_signer`] signs with it; [`CertificateAuthority::finish_rotation`] ends trust in the old one.

mod cacerts;
mod signer;
mod state;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;

use crate::bundle::BundleError;
use crate::csr::{CsrError, PublicKey};
use crate::expiry::{Expiry, rfc3339};
use crate::x509::{CertificateFacts, X509Error, certificates_to_pem};
use crate::{SpiffeId, TrustBundle, TrustDomain};

pub use crate::files::FileError;
pub use signer::SignerError;
pub use state::RotationPhase;

use signer::Signer;

/// Where the authority's key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaSource {
    /// Made on first use and kept in this directory, which only its owner may read. Further roots in its `root-cert.pem`
    /// are trusted too.
    SelfMade {
        /// The directory.
        dir: PathBuf,
    },
    /// Istio's plugged-in set: `root-cert.pem`, `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem`.
    Cacerts {
        /// The directory.
        dir: PathBuf,
        /// Whether the key's file may be readable by others.
        key_access: KeyAccess,
    },
}

/// Who may be able to read the file of a plugged-in key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAccess {
    /// Its owner alone: the rule on a machine with users.
    OwnerOnly,
    /// Anyone in the file system it is in: a Kubernetes Secret mounted into a container has mode 0644.
    MountedSecret,
}

/// How the authority signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaOptions {
    /// The trust domain, also the organization in a self-made root's subject, as Istio has it.
    pub trust_domain: TrustDomain,
    /// Lifetime of a certificate when none is asked for. Istio's default: 24 hours.
    pub default_ttl: Duration,
    /// Longest lifetime that may be asked for. Istio's default: 90 days.
    pub max_ttl: Duration,
    /// Lifetime of a self-made root. Istio's default: 10 years.
    pub root_ttl: Duration,
    /// How far `notBefore` lies in the past, for workloads whose clock is behind. Istio's default: 2 minutes.
    pub backdate: Duration,
}

impl Default for CaOptions {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            trust_domain: TrustDomain::cluster_local(),
            default_ttl: DAY,
            max_ttl: DAY * 90,
            root_ttl: DAY * 3650,
            backdate: Duration::from_secs(120),
        }
    }
}

/// Why the authority cannot be used. Each says what to change.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file could not be read or written.
    #[error("certificate authority's files")]
    File(#[source] FileError),
    /// A directory does not hold what an authority is plugged in by.
    #[error(
        "there is no `{missing}` in {}; an authority of one's own is four files, named as in Istio's Secret `cacerts`: \
         `ca-cert.pem` (the certificate that signs), `ca-key.pem` (its key), `root-cert.pem` (what to trust) and \
         `cert-chain.pem` (from the first to the root; may be left out if the first is a root itself)",
        dir.display()
    )]
    Incomplete {
        /// The directory.
        dir: PathBuf,
        /// The files' names.
        missing: String,
    },
    /// A file does not hold certificates.
    #[error("reading certificates from `{path}`")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: X509Error,
    },
    /// The roots cannot be used.
    #[error("reading roots from `{path}`")]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: BundleError,
    },
    /// The certificate and key cannot sign.
    #[error("certificate `{path}` cannot be the mesh's authority")]
    Signer {
        /// The file of the certificate.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: SignerError,
    },
    /// A key pair or certificate could not be made.
    #[error("making a root certificate")]
    Generate(#[source] rcgen::Error),
    /// The step of the rotation does not follow from where it is.
    #[error("root rotation is in phase `{found}`; this step needs `{needed}`")]
    Phase {
        /// The phase the step follows.
        needed: RotationPhase,
        /// The phase it is in.
        found: RotationPhase,
    },
    /// Certificates signed by the old root may still be in use.
    #[error("certificates of the old root are valid until {}; finish the rotation after that", rfc3339(*.until))]
    TooEarly {
        /// When the last of them has expired.
        until: SystemTime,
    },
    /// A plugged-in authority is rotated by replacing its files.
    #[error(
        "this authority was plugged in as `cacerts`; rotate it by adding the new root to `root-cert.pem`, \
         then replacing `ca-cert.pem`, `ca-key.pem` and `cert-chain.pem`"
    )]
    PluggedIn,
    /// The state of the rotation could not be read.
    #[error("`{path}` is not a rotation's state; if no root rotation is under way, remove it")]
    RotationState {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// Why a request was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The request cannot be used.
    #[error("certificate request is refused")]
    Csr(#[source] CsrError),
    /// A longer lifetime was asked for than the authority gives.
    #[error("requested lifetime of {requested:?} is longer than the longest allowed, {max:?}")]
    Lifetime {
        /// What was asked for.
        requested: Duration,
        /// The most that is given.
        max: Duration,
    },
    /// A name cannot be put into a certificate.
    #[error("`{0}` cannot be a name in a certificate")]
    Name(String),
    /// The authority cannot sign any more or failed to.
    #[error("signing failed")]
    Signer(#[source] SignerError),
}

/// A signed certificate with all a workload needs beside its key.
#[derive(Clone, Debug)]
pub struct IssuedCertificate {
    /// The certificate, then those between it and a root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots that are trusted now.
    pub bundle: Arc<TrustBundle>,
    /// Its facts.
    pub facts: CertificateFacts,
}

impl IssuedCertificate {
    /// As `IstioCertificateResponse.cert_chain` has it: the certificate, each certificate between, and last all roots as one
    /// text. Source: `security/pkg/server/ca/server.go`; Istio's agents take the last entry for the trust bundle.
    pub fn to_response(&self) -> Vec<String> {
        let one = |der: &CertificateDer<'static>| certificates_to_pem([der]);
        self.chain
            .iter()
            .map(one)
            .chain([self.bundle.to_pem()])
            .collect()
    }
}

/// The names of a server of the control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerNames {
    /// Its identity, if it also is a workload.
    pub id: Option<SpiffeId>,
    /// DNS names, such as `istiod.istio-system.svc`.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
}

/// The certificate authority. Cheap to share behind an `Arc`; signing takes no lock for longer than a pointer's copy.
#[derive(Debug)]
pub struct CertificateAuthority {
    source: CaSource,
    options: CaOptions,
    signer: watch::Sender<Arc<Signer>>,
    bundle: watch::Sender<Arc<TrustBundle>>,
    /// Counts what was published; both of the above are in place when it changes.
    generation: watch::Sender<u64>,
}

/// What a source yields.
struct Loaded {
    signer: Signer,
    bundle: TrustBundle,
}

impl CertificateAuthority {
    /// Opens the authority; a self-made one is made if its directory has none.
    ///
    /// # Errors
    /// The files cannot be read, are open to others, do not fit together or have expired. The error says what to change.
    pub fn open(source: CaSource, options: CaOptions, now: SystemTime) -> Result<Self, CaError> {
        let loaded = load(&source, &options, now)?;
        Ok(Self {
            source,
            options,
            signer: watch::Sender::new(Arc::new(loaded.signer)),
            bundle: watch::Sender::new(Arc::new(loaded.bundle)),
            generation: watch::Sender::new(0),
        })
    }

    /// Changes whenever the signer or the roots may have: what was issued before is then to be issued again.
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Looks at the files again and again, and takes in what somebody else made of them: another process that rotates the
    /// root, an operator who replaced a plugged-in set. Files that cannot be used change nothing and are told.
    pub async fn follow_files(&self, every: Duration) {
        let mut seen = self.stamps();
        loop {
            tokio::time::sleep(every).await;
            let now = self.stamps();
            if now == seen {
                continue;
            }
            match self.reload(SystemTime::now()) {
                Ok(()) => tracing::info!(
                    roots = self.bundle.borrow().roots().len(),
                    "the authority's files changed"
                ),
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(
                        error,
                        "the authority's files changed and cannot be used; it goes on with the old ones"
                    );
                }
            }
            // Loading may itself have written `root-cert.pem`.
            seen = self.stamps();
        }
    }

    /// Size and time of each file: enough to see that one was replaced.
    fn stamps(&self) -> Vec<Option<(SystemTime, u64)>> {
        let (dir, names): (_, &[&str]) = match &self.source {
            CaSource::SelfMade { dir } => (
                dir,
                &["ca.pem", "next.pem", "root-cert.pem", "rotation.json"],
            ),
            CaSource::Cacerts { dir, .. } => (
                dir,
                &[
                    "root-cert.pem",
                    "ca-cert.pem",
                    "ca-key.pem",
                    "cert-chain.pem",
                ],
            ),
        };
        let stamp = |name: &&str| {
            let found = std::fs::metadata(dir.join(name)).ok()?;
            Some((found.modified().ok()?, found.len()))
        };
        names.iter().map(stamp).collect()
    }

    /// Reads the files again, after somebody changed them. On an error everything stays as it was.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn reload(&self, now: SystemTime) -> Result<(), CaError> {
        let loaded = load(&self.source, &self.options, now)?;
        self.publish(loaded);
        Ok(())
    }

    /// How it signs.
    pub fn options(&self) -> &CaOptions {
        &self.options
    }

    /// The roots that are trusted, now and as they change.
    pub fn bundle(&self) -> watch::Receiver<Arc<TrustBundle>> {
        self.bundle.subscribe()
    }

    /// The facts of the certificate that signs.
    pub fn signer_facts(&self) -> CertificateFacts {
        self.signer.borrow().facts.clone()
    }

    /// Signs the key of a request for an identity that the caller authenticated. `ttl` of `None` or zero means the default.
    ///
    /// # Errors
    /// The request cannot be used, the lifetime is too long, or the authority itself has expired.
    pub fn sign(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        ttl: Option<Duration>,
        now: SystemTime,
    ) -> Result<IssuedCertificate, SignError> {
        let ttl = ttl
            .filter(|ttl| !ttl.is_zero())
            .unwrap_or(self.options.default_ttl);
        if ttl > self.options.max_ttl {
            return Err(SignError::Lifetime {
                requested: ttl,
                max: self.options.max_ttl,
            });
        }
        let key = PublicKey::from_csr_pem(csr_pem).map_err(SignError::Csr)?;
        self.issue(&key.0, vec![uri_name(id)?], ttl, now)
    }

    /// Makes a key and certificate for a server of the control plane itself.
    ///
    /// # Errors
    /// A name cannot be in a certificate, or the authority itself has expired.
    pub fn issue_server(
        &self,
        names: &ServerNames,
        now: SystemTime,
    ) -> Result<(IssuedCertificate, PrivateKeyDer<'static>), SignError> {
        let failed = |source| SignError::Signer(SignerError::Sign(source));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut sans = Vec::new();
        if let Some(id) = &names.id {
            sans.push(uri_name(id)?);
        }
        for name in &names.dns {
            let name = name
                .as_str()
                .try_into()
                .map_err(|_| SignError::Name(name.clone()))?;
            sans.push(SanType::DnsName(name));
        }
        sans.extend(names.ips.iter().copied().map(SanType::IpAddress));
        let issued = self.issue(&key, sans, self.options.default_ttl, now)?;
        Ok((
            issued,
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        ))
    }

    /// Where a rotation of the root stands.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub fn rotation_phase(&self) -> Result<RotationPhase, CaError> {
        state::StateDir::open(self.state_dir()?)?.phase()
    }

    /// Makes the next root and has it trusted beside the present one, which goes on signing. Wait until every workload
    /// has the new bundle (they get it with each renewal, so at the latest after a certificate's lifetime).
    ///
    /// # Errors
    /// A rotation is under way already, or the files cannot be written.
    pub fn begin_rotation(&self, now: SystemTime) -> Result<(), CaError> {
        let dir = state::StateDir::open(self.state_dir()?)?;
        dir.begin_rotation(&self.options, now)?;
        self.publish(dir.load(now)?);
        Ok(())
    }

    /// Signs with the next root from now on. Certificates of the old one stay trusted.
    ///
    /// # Errors
    /// No rotation was begun, or the files cannot be written.
    pub fn switch_signer(&self, now: SystemTime) -> Result<(), CaError> {
        let dir = state::StateDir::open(self.state_dir()?)?;
        dir.switch_signer(now)?;
        self.publish(dir.load(now)?);
        Ok(())
    }

    /// Ends trust in the old root.
    ///
    /// # Errors
    /// The signer was not switched, or certificates of the old root may still be valid and `finish` does not say to go on.
    pub fn finish_rotation(&self, finish: Finish, now: SystemTime) -> Result<(), CaError> {
        let dir = state::StateDir::open(self.state_dir()?)?;
        dir.finish_rotation(&self.options, finish, now)?;
        self.publish(dir.load(now)?);
        Ok(())
    }

    /// When the signing certificate and each root expire.
    pub fn expiries(&self) -> Vec<Expiry> {
        let signer = self.signer.borrow().clone();
        let bundle = self.bundle.borrow().clone();
        let roots = bundle
            .roots()
            .iter()
            .filter_map(|root| CertificateFacts::from_der(root).ok());
        std::iter::once(Expiry::new("signing certificate", &signer.facts))
            .chain(roots.map(|facts| Expiry::new("root", &facts)))
            .collect()
    }

    fn issue(
        &self,
        key: &impl rcgen::PublicKeyData,
        names: Vec<SanType>,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<IssuedCertificate, SignError> {
        let signer = self.signer.borrow().clone();
        let window = (now - self.options.backdate, now + ttl);
        let leaf = signer
            .sign(key, names, window, now)
            .map_err(SignError::Signer)?;
        let facts = CertificateFacts::from_der(&leaf).map_err(|_| {
            SignError::Signer(SignerError::Sign(rcgen::Error::CouldNotParseCertificate))
        })?;
        let chain = std::iter::once(leaf)
            .chain(signer.chain.iter().cloned())
            .collect();
        Ok(IssuedCertificate {
            chain,
            bundle: self.bundle.borrow().clone(),
            facts,
        })
    }

    fn state_dir(&self) -> Result<&PathBuf, CaError> {
        match &self.source {
            CaSource::SelfMade { dir } => Ok(dir),
            CaSource::Cacerts { .. } => Err(CaError::PluggedIn),
        }
    }

    /// The bundle goes first: nothing is signed by a root that nobody was told to trust.
    fn publish(&self, loaded: Loaded) {
        let bundle = Arc::new(loaded.bundle);
        self.bundle.send_if_modified(|current| {
            let changed = *current != bundle;
            if changed {
                *current = bundle;
            }
            changed
        });
        self.signer.send_replace(Arc::new(loaded.signer));
        self.generation.send_modify(|generation| *generation += 1);
    }
}

/// Whether a rotation may be finished while certificates of the old root may still be in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// Only after the longest lifetime has passed since the switch.
    WhenSafe,
    /// At once: the old root's key was stolen, say. Workloads that have not renewed lose their connections.
    Now,
}

fn load(source: &CaSource, options: &CaOptions, now: SystemTime) -> Result<Loaded, CaError> {
    match source {
        CaSource::SelfMade { dir } => {
            let dir = state::StateDir::open(dir)?;
            dir.ensure_root(options, now)?;
            dir.load(now)
        }
        CaSource::Cacerts { dir, key_access } => cacerts::load(dir, *key_access, now),
    }
}

fn uri_name(id: &SpiffeId) -> Result<SanType, SignError> {
    let uri = id.to_string();
    uri.as_str()
        .try_into()
        .map(SanType::URI)
        .map_err(|_| SignError::Name(uri))
}

/// A root's subject: the organization as Istio has it, and a common name that tells two generations apart.
fn root_subject(options: &CaOptions, serial: &[u8]) -> rcgen::DistinguishedName {
    let mut subject = rcgen::DistinguishedName::new();
    subject.push(DnType::OrganizationName, options.trust_domain.as_str());
    let tail: String = serial
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    subject.push(DnType::CommonName, format!("lateen root {tail}"));
    subject
}

#[cfg(test)]
mod tests;
