//! Certificates that lie in files beside a proxy and are named by where they lie, as Istio's agent serves them by SDS.
//!
//! `file-cert:CERT~KEY` is a certificate chain with its key, `file-root:PATH` a set of roots, `file-root:system` the operating system's. It
//! reads and validates; who asks, and who is told of a change, is another's matter. A change is seen by looking ([`Stamp`]), not by
//! notification: that survives how Kubernetes swaps mounted volumes, and costs a system call per file.
//!
//! Source: Istio, `SdsCertificateConfigFromResourceName`.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::bundle::BundleError;
use crate::tls::{CertifiedKeyPair, IdentityError, SYSTEM_LISTS};
use crate::x509::{X509Error, certificates_from_pem};

/// How often files are looked at.
pub const POLL: Duration = Duration::from_secs(1);

/// Largest file read, in bytes. The list of roots of a distribution has a quarter of a megabyte.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileSecretError {
    /// One of them cannot be read.
    #[error("cannot read `{path}`")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Larger than any such file.
    #[error("`{0}` is larger than {MAX_FILE} bytes")]
    TooLarge(PathBuf),
    /// There is no bundle of roots where distributions keep one.
    #[error("the operating system has no bundle of trusted roots (set SSL_CERT_FILE)")]
    NoSystemRoots,
    /// They are no certificate with its key.
    #[error("`{path}` and its key cannot be used")]
    Pair {
        /// The certificate.
        path: PathBuf,
        /// Why not.
        #[source]
        source: IdentityError,
    },
    /// They are no roots.
    #[error("`{path}` holds no usable roots")]
    Roots {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: X509Error,
    },
    /// They are no roots.
    #[error("`{path}` holds roots that cannot be used")]
    Bundle {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: BundleError,
    },
}

/// Certificates by the files they lie in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileSecret {
    /// A chain and its key.
    Certificate {
        /// The chain, PEM, leaf first.
        chain: PathBuf,
        /// The key, PEM.
        key: PathBuf,
    },
    /// Trusted roots, PEM.
    Roots(PathBuf),
    /// The operating system's roots.
    SystemRoots,
}

/// What the files hold, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileContent {
    /// A chain and its key, as they lie there.
    Certificate {
        /// The chain, PEM.
        chain: Vec<u8>,
        /// The key, PEM.
        key: Vec<u8>,
    },
    /// Roots.
    Roots {
        /// PEM.
        pem: Vec<u8>,
    },
}

impl FileSecret {
    /// Reads an SDS name; `None` if it names no files.
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(files) = name.strip_prefix("file-cert:") {
            let (chain, key) = files.split_once('~')?;
            let whole = !chain.is_empty() && !key.is_empty() && !key.contains('~');
            return whole.then(|| Self::Certificate {
                chain: chain.into(),
                key: key.into(),
            });
        }
        match name.strip_prefix("file-root:")? {
            "system" => Some(Self::SystemRoots),
            path if path.is_empty() || path.contains('~') => None,
            path => Some(Self::Roots(path.into())),
        }
    }

    /// What tells this state of the files from another.
    pub fn stamp(&self) -> Stamp {
        match self {
            Self::Certificate { chain, key } => Stamp::of([chain.as_path(), key]),
            Self::Roots(path) => Stamp::of([path.as_path()]),
            Self::SystemRoots => Stamp::of(system_bundle().as_deref()),
        }
    }

    /// Reads and validates the files.
    ///
    /// # Errors
    /// One is missing, or what they hold could not be used in a handshake.
    pub fn read(&self) -> Result<FileContent, FileSecretError> {
        match self {
            Self::Certificate { chain, key } => {
                let (pem, key) = (read(chain)?, read(key)?);
                CertifiedKeyPair::from_pem(&pem, &key).map_err(|source| {
                    let path = chain.clone();
                    FileSecretError::Pair { path, source }
                })?;
                Ok(FileContent::Certificate { chain: pem, key })
            }
            Self::Roots(path) => {
                let pem = read(path)?;
                crate::TrustBundle::from_pem(&pem).map_err(|source| {
                    let path = path.clone();
                    FileSecretError::Bundle { path, source }
                })?;
                Ok(FileContent::Roots { pem })
            }
            Self::SystemRoots => {
                let path = system_bundle().ok_or(FileSecretError::NoSystemRoots)?;
                let pem = read(&path)?;
                // One odd root in a distribution's list is no reason to do without all others.
                certificates_from_pem(&pem)
                    .map_err(|source| FileSecretError::Roots { path, source })?;
                Ok(FileContent::Roots { pem })
            }
        }
    }
}

/// The operating system's bundle: `SSL_CERT_FILE` as everywhere, else the first that exists.
fn system_bundle() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty());
    named.map(PathBuf::from).or_else(|| {
        let found = SYSTEM_LISTS
            .iter()
            .map(Path::new)
            .find(|path| path.exists());
        found.map(PathBuf::from)
    })
}

fn read(path: &Path) -> Result<Vec<u8>, FileSecretError> {
    let failed = |source| FileSecretError::Io {
        path: path.to_path_buf(),
        source,
    };
    let mut content = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_FILE + 1)
        .read_to_end(&mut content)
        .map_err(failed)?;
    if content.len() as u64 > MAX_FILE {
        return Err(FileSecretError::TooLarge(path.to_path_buf()));
    }
    Ok(content)
}

/// Tells one state of some files from another: inode, size and time of the last change of what the paths lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp(Vec<(PathBuf, Option<FileState>)>);

/// Device, inode, bytes, seconds and nanoseconds of the last change.
type FileState = (u64, u64, u64, i64, i64);

impl Stamp {
    /// The state of files now. One that is not there has a state, too.
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let states = paths
            .into_iter()
            .map(|path| (path.to_path_buf(), state(path)));
        Self(states.collect())
    }

    /// Whether the files are as they were.
    pub fn is_current(&self) -> bool {
        self.0.iter().all(|(path, then)| state(path) == *then)
    }
}

fn state(path: &Path) -> Option<FileState> {
    let meta = std::fs::metadata(path).ok()?;
    Some((
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_which_files() {
        let cases = [
            ("file-root:system", Some(FileSecret::SystemRoots)),
            (
                "file-root:/a/ca.pem",
                Some(FileSecret::Roots("/a/ca.pem".into())),
            ),
            (
                "file-cert:/a/c.pem~/a/k.pem",
                Some(FileSecret::Certificate {
                    chain: "/a/c.pem".into(),
                    key: "/a/k.pem".into(),
                }),
            ),
            ("file-cert:/a/c.pem", None),
            ("file-cert:/a~/b~/c", None),
            ("file-cert:~/k", None),
            ("file-root:", None),
            ("file-root:/a~/b", None),
            ("default", None),
            ("kubernetes://a", None),
        ];
        for (name, expected) in cases {
            assert_eq!(FileSecret::parse(name), expected, "{name}");
        }
    }

    #[test]
    fn a_replaced_file_is_another_state_and_so_is_a_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let secret = FileSecret::Roots(path.clone());
        let missing = secret.stamp();
        assert!(secret.read().is_err() && missing.is_current());
        std::fs::write(&path, "no certificate").unwrap();
        assert!(!missing.is_current());
        let there = secret.stamp();
        assert!(there.is_current() && secret.read().is_err());
        std::fs::write(dir.path().join("new"), "no certificate").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        assert!(!there.is_current());
    }

    #[test]
    fn a_file_beyond_measure_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, vec![b'#'; MAX_FILE as usize + 1]).unwrap();
        let read = FileSecret::Roots(path).read();
        assert!(
            matches!(read, Err(FileSecretError::TooLarge(_))),
            "{read:?}"
        );
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (chain, key) = (dir.path().join("c"), dir.path().join("k"));
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        std::fs::write(&chain, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let secret = FileSecret::Certificate {
            chain,
            key: key.clone(),
        };
        assert!(matches!(secret.read(), Ok(FileContent::Certificate { .. })));
        let other = rcgen::KeyPair::generate().unwrap();
        std::fs::write(&key, other.serialize_pem()).unwrap();
        assert!(matches!(secret.read(), Err(FileSecretError::Pair { .. })));
    }
}
