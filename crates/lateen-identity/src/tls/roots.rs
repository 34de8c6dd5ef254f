//! The roots a machine trusts by itself, for TLS to servers outside the mesh.

use std::path::{Path, PathBuf};

use crate::TrustBundle;
use crate::bundle::BundleError;
use crate::files::{self, FileError};
use crate::x509::{X509Error, certificates_from_pem};

/// Where distributions keep the list, the first that exists is it. Source: Go's `crypto/x509/root_linux.go`, which is
/// what `osCACert`-less Istio users compare with.
pub(crate) const CANDIDATES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why the machine's roots cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// None of the usual files exists.
    #[error("no list of root certificates found (looked for {}); install `ca-certificates`", CANDIDATES.join(", "))]
    NotFound,
    /// The file cannot be read.
    #[error("list of root certificates")]
    File(#[source] FileError),
    /// The file does not hold certificates.
    #[error("reading root certificates from `{path}`")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: X509Error,
    },
    /// Not one of them can be a trust anchor.
    #[error("root certificates of `{path}`")]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: BundleError,
    },
}

/// Reads the machine's roots, or those of `file` if given (what `SSL_CERT_FILE` names). Blocking; meant for start-up.
///
/// # Errors
/// There is no such list or it cannot be read.
pub fn system_roots(file: Option<&Path>) -> Result<TrustBundle, RootsError> {
    let candidates = CANDIDATES.iter().map(Path::new);
    let path = match file {
        Some(file) => file,
        None => candidates
            .into_iter()
            .find(|path| path.exists())
            .ok_or(RootsError::NotFound)?,
    };
    let pem = files::read_public(path).map_err(RootsError::File)?;
    let roots = certificates_from_pem(&pem).map_err(|source| RootsError::Certificates {
        path: path.to_owned(),
        source,
    })?;
    // A list of strangers' roots may hold one that webpki cannot read; the others are still good.
    let usable = roots
        .into_iter()
        .filter(|root| TrustBundle::new([root.clone()]).is_ok());
    TrustBundle::new(usable).map_err(|source| RootsError::Bundle {
        path: path.to_owned(),
        source,
    })
}
