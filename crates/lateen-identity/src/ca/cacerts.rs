//! Istio's plugged-in certificate authority: the four files of the `cacerts` Secret.
//!
//! Source: <https://istio.io/latest/docs/tasks/security/cert-management/plugin-ca-cert/>.

use std::path::Path;
use std::time::SystemTime;

use rcgen::KeyPair;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::signer::{Signer, SignerError};
use super::{CaError, FileError, KeyAccess, Loaded};
use crate::x509::certificates_from_pem;
use crate::{TrustBundle, files};

/// The files without which there is no authority; `cert-chain.pem` is needed where the root stays elsewhere.
const NEEDED: [&str; 3] = ["ca-cert.pem", "ca-key.pem", "root-cert.pem"];

pub(super) fn load(dir: &Path, access: KeyAccess, now: SystemTime) -> Result<Loaded, CaError> {
    let absent = |name: &&str| matches!(dir.join(name).try_exists(), Ok(false));
    let missing: Vec<&str> = NEEDED.into_iter().filter(absent).collect();
    if !missing.is_empty() {
        return Err(CaError::Incomplete {
            dir: dir.to_owned(),
            missing: missing.join("`, `"),
        });
    }
    let root_path = dir.join("root-cert.pem");
    let roots = files::read_public(&root_path).map_err(CaError::File)?;
    let bundle = TrustBundle::from_pem(&roots).map_err(|source| CaError::Roots {
        path: root_path,
        source,
    })?;
    let cert_path = dir.join("ca-cert.pem");
    let refused = |source| CaError::Signer {
        path: cert_path.clone(),
        source,
    };
    let mut between = certificates(&cert_path)?;
    let certificate = between.remove(0);
    between.extend(chain(&dir.join("cert-chain.pem"))?);
    let key = private_key(&dir.join("ca-key.pem"), access)?.map_err(refused)?;
    let signer = Signer::new(certificate, key, between, &bundle, now).map_err(refused)?;
    Ok(Loaded { signer, bundle })
}

/// The chain is absent or empty where the authority's certificate is itself a root.
fn chain(path: &Path) -> Result<Vec<rustls_pki_types::CertificateDer<'static>>, CaError> {
    match files::read_public(path) {
        Ok(content) if content.trim_ascii().is_empty() => Ok(Vec::new()),
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        _ => certificates(path),
    }
}

fn certificates(path: &Path) -> Result<Vec<rustls_pki_types::CertificateDer<'static>>, CaError> {
    let content = files::read_public(path).map_err(CaError::File)?;
    certificates_from_pem(&content).map_err(|source| CaError::Certificates {
        path: path.to_owned(),
        source,
    })
}

fn private_key(path: &Path, access: KeyAccess) -> Result<Result<KeyPair, SignerError>, CaError> {
    let read: fn(&Path) -> Result<Vec<u8>, FileError> = match access {
        KeyAccess::OwnerOnly => files::read_private,
        KeyAccess::MountedSecret => files::read_public,
    };
    let content = read(path).map_err(CaError::File)?;
    Ok(key_from_pem(&content))
}

pub(super) fn key_from_pem(pem: &[u8]) -> Result<KeyPair, SignerError> {
    let unreadable = |_| SignerError::Key(rcgen::Error::CouldNotParseKeyPair);
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(unreadable)?;
    KeyPair::try_from(&key).map_err(SignerError::Key)
}
