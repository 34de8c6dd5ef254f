//! The state directory of a self-made authority, and the rotation of its root.
//!
//! | file | what it is |
//! |---|---|
//! | `ca.pem` | the root that signs, certificate and key in one file so that the two never get out of step |
//! | `next.pem` | the next root, from the beginning of a rotation until it signs |
//! | `root-cert.pem` | every root that is trusted; more may be appended by hand |
//! | `rotation.json` | the root that no longer signs but is still trusted, and since when |
//!
//! Each step of a rotation ends in one atomic rename, and a step that was interrupted can be repeated.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    SerialNumber,
};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::signer::{Signer, random_serial};
use super::{CaError, CaOptions, Finish, Loaded, cacerts, root_subject};
use crate::TrustBundle;
use crate::files::{self, DirLock, io_error};
use crate::x509::{certificates_from_pem, certificates_to_pem};

/// How far a rotation of the root has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RotationPhase {
    /// None is under way.
    Steady,
    /// The next root is trusted but does not sign yet.
    Distributing,
    /// The next root signs; the old one is still trusted.
    Retiring,
}

impl fmt::Display for RotationPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Steady => "steady",
            Self::Distributing => "distributing",
            Self::Retiring => "retiring",
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Retiring {
    /// The old root, PEM.
    retired: String,
    /// When the new one began to sign, seconds since the Unix epoch.
    switched_at: u64,
}

/// The directory, locked against other processes for as long as the value lives.
pub(super) struct StateDir {
    dir: PathBuf,
    _lock: DirLock,
}

impl StateDir {
    pub(super) fn open(dir: &Path) -> Result<Self, CaError> {
        files::private_dir(dir).map_err(CaError::File)?;
        let lock = DirLock::acquire(dir).map_err(CaError::File)?;
        Ok(Self {
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    /// Makes the first root, if there is none.
    pub(super) fn ensure_root(&self, options: &CaOptions, now: SystemTime) -> Result<(), CaError> {
        if self.path("ca.pem").exists() {
            return Ok(());
        }
        self.write("ca.pem", make_root(options, now)?.as_bytes())
    }

    pub(super) fn load(&self, now: SystemTime) -> Result<Loaded, CaError> {
        let path = self.path("ca.pem");
        let (certificate, pem) = self.read_root("ca.pem")?.ok_or_else(|| {
            CaError::File(io_error("open", &path)(std::io::ErrorKind::NotFound.into()))
        })?;
        let refused = |source| CaError::Signer {
            path: path.clone(),
            source,
        };
        let key = cacerts::key_from_pem(&pem).map_err(refused)?;
        let bundle = self.bundle(certificate.clone())?;
        let signer = Signer::new(certificate, key, Vec::new(), &bundle, now).map_err(refused)?;
        self.write_roots(&bundle)?;
        Ok(Loaded { signer, bundle })
    }

    pub(super) fn phase(&self) -> Result<RotationPhase, CaError> {
        Ok(if self.path("next.pem").exists() {
            RotationPhase::Distributing
        } else if self.retiring()?.is_some() {
            RotationPhase::Retiring
        } else {
            RotationPhase::Steady
        })
    }

    pub(super) fn begin_rotation(
        &self,
        options: &CaOptions,
        now: SystemTime,
    ) -> Result<(), CaError> {
        self.require(RotationPhase::Steady)?;
        self.write("next.pem", make_root(options, now)?.as_bytes())
    }

    pub(super) fn switch_signer(&self, now: SystemTime) -> Result<(), CaError> {
        self.require(RotationPhase::Distributing)?;
        if let Some((old, _)) = self.read_root("ca.pem")? {
            let since = now
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            let retired = certificates_to_pem([&old]);
            let state = Retiring {
                retired,
                switched_at: since.as_secs(),
            };
            let json = serde_json::to_vec_pretty(&state).expect("two plain fields serialize");
            self.write("rotation.json", &json)?;
        }
        let (next, active) = (self.path("next.pem"), self.path("ca.pem"));
        std::fs::rename(&next, &active)
            .map_err(io_error("replace", &active))
            .map_err(CaError::File)
    }

    pub(super) fn finish_rotation(
        &self,
        options: &CaOptions,
        finish: Finish,
        now: SystemTime,
    ) -> Result<(), CaError> {
        self.require(RotationPhase::Retiring)?;
        let Some(state) = self.retiring()? else {
            return Ok(());
        };
        let switched = SystemTime::UNIX_EPOCH + Duration::from_secs(state.switched_at);
        let until = switched + options.max_ttl;
        if finish == Finish::WhenSafe && now < until {
            return Err(CaError::TooEarly { until });
        }
        let retired = self.parse("rotation.json", state.retired.as_bytes())?;
        let kept: Vec<_> = self
            .extra_roots()?
            .into_iter()
            .filter(|root| !retired.contains(root))
            .collect();
        self.write_public("root-cert.pem", certificates_to_pem(&kept).as_bytes())?;
        let path = self.path("rotation.json");
        std::fs::remove_file(&path)
            .map_err(io_error("remove", &path))
            .map_err(CaError::File)
    }

    /// The root that signs, the next one, and whatever else `root-cert.pem` holds.
    fn bundle(&self, active: CertificateDer<'static>) -> Result<TrustBundle, CaError> {
        let next = self
            .read_root("next.pem")?
            .map(|(certificate, _)| certificate);
        let roots = std::iter::once(active)
            .chain(next)
            .chain(self.extra_roots()?);
        TrustBundle::new(roots).map_err(|source| CaError::Roots {
            path: self.path("root-cert.pem"),
            source,
        })
    }

    fn extra_roots(&self) -> Result<Vec<CertificateDer<'static>>, CaError> {
        match files::read_public(&self.path("root-cert.pem")) {
            Ok(pem) => self.parse("root-cert.pem", &pem),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(CaError::File(error)),
        }
    }

    fn write_roots(&self, bundle: &TrustBundle) -> Result<(), CaError> {
        let known = self.extra_roots()?;
        if known == bundle.roots() {
            return Ok(());
        }
        self.write_public("root-cert.pem", bundle.to_pem().as_bytes())
    }

    fn retiring(&self) -> Result<Option<Retiring>, CaError> {
        let path = self.path("rotation.json");
        match files::read_private(&path) {
            Ok(json) => serde_json::from_slice(&json)
                .map(Some)
                .map_err(|source| CaError::RotationState { path, source }),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(CaError::File(error)),
        }
    }

    fn require(&self, needed: RotationPhase) -> Result<(), CaError> {
        let found = self.phase()?;
        if found == needed {
            Ok(())
        } else {
            Err(CaError::Phase { needed, found })
        }
    }

    /// A root's certificate and the whole file, which also holds its key.
    fn read_root(&self, name: &str) -> Result<Option<(CertificateDer<'static>, Vec<u8>)>, CaError> {
        let pem = match files::read_private(&self.path(name)) {
            Ok(pem) => pem,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(CaError::File(error)),
        };
        let certificate = self.parse(name, &pem)?.swap_remove(0);
        Ok(Some((certificate, pem)))
    }

    fn parse(&self, name: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CaError> {
        certificates_from_pem(pem).map_err(|source| CaError::Certificates {
            path: self.path(name),
            source,
        })
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), CaError> {
        files::write_atomic(&self.path(name), content, 0o600).map_err(CaError::File)
    }

    fn write_public(&self, name: &str, content: &[u8]) -> Result<(), CaError> {
        files::write_atomic(&self.path(name), content, 0o644).map_err(CaError::File)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// A new root, certificate and key as one PEM text.
fn make_root(options: &CaOptions, now: SystemTime) -> Result<String, CaError> {
    let serial = random_serial();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::Generate)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = root_subject(options, &serial);
    params.serial_number = Some(SerialNumber::from(serial.to_vec()));
    params.not_before = (now - options.backdate).into();
    params.not_after = (now + options.root_ttl).into();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(CaError::Generate)?;
    Ok(format!(
        "{}{}",
        certificates_to_pem([certificate.der()]),
        key.serialize_pem()
    ))
}
