//! Certificates, keys and trust bundles by their SDS names, parsed once and shared.
//!
//! Secrets come from two places: the workload's own identity (`default`, `ROOTCA`), handed over by the embedder, and SDS over
//! the same stream as everything else (gateway credentials). Whoever uses a secret holds the `Arc` of the version it read,
//! so a rotation never touches a connection that is open.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use lateen_identity::WorkloadIdentity;
use lateen_identity::file_secret::{self, FileContent, FileSecret, FileSecretError};
use lateen_traffic::secret::SecretKind;
use lateen_traffic::tls::{DataSource, TlsCertificate, Validation};
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// SDS name of the workload's own certificate.
pub(crate) const WORKLOAD_CERTIFICATE: &str = "default";
/// SDS name of the mesh's trust bundle.
pub(crate) const TRUST_BUNDLE: &str = "ROOTCA";

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    /// The PEM cannot be read.
    #[error("cannot read the PEM of {what}")]
    Pem {
        /// Which part.
        what: &'static str,
        /// What is wrong.
        source: pem::Error,
    },
    /// There is no such part in the PEM.
    #[error("no {0} in the PEM")]
    Missing(&'static str),
    /// The key is of a kind that is not supported, or does not belong to the certificate.
    #[error("unusable private key")]
    Key(#[source] rustls::Error),
    /// A root is not a certificate.
    #[error("unusable trusted root")]
    Root(#[source] rustls::Error),
    /// A revocation list is none.
    #[error("unusable revocation list")]
    RevocationList(#[source] webpki::Error),
    /// Certificates in files cannot be used.
    #[error("unusable files")]
    Files(#[source] FileSecretError),
    /// A file or variable cannot be read.
    #[error("cannot read {0}")]
    Unreadable(String, #[source] std::io::Error),
}

/// Parsed roots, shared.
pub(crate) type Roots = Arc<RootCertStore>;

/// A parsed secret.
#[derive(Debug)]
pub(crate) enum Material {
    /// A certificate with its key.
    Certificate(Arc<CertifiedKey>),
    /// Roots and conditions.
    Validation {
        /// The roots, parsed.
        roots: Roots,
        /// As it was configured.
        settings: Arc<Validation>,
    },
}

/// The secrets of one moment, by name. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Secrets(BTreeMap<Arc<str>, Arc<Material>>);

impl Secrets {
    /// The secret of a name, if it has arrived.
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Material>> {
        self.0.get(name)
    }

    /// Adds or replaces a secret.
    pub(crate) fn insert(&mut self, name: impl Into<Arc<str>>, material: Material) {
        self.0.insert(name.into(), Arc::new(material));
    }

    /// Forgets a secret.
    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Every secret, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Material>)> {
        self.0.iter()
    }

    /// Takes over a (rotated) workload identity under Istio's names.
    pub(crate) fn set_identity(&mut self, identity: &WorkloadIdentity) {
        let bundle = identity.bundle();
        let settings = Validation {
            trusted_ca: Some(DataSource::Inline(Bytes::from(bundle.to_pem()))),
            ..Validation::default()
        };
        let validation = Material::Validation {
            roots: Arc::clone(bundle.store()),
            settings: Arc::new(settings),
        };
        self.insert(
            WORKLOAD_CERTIFICATE,
            Material::Certificate(Arc::clone(identity.pair().certified())),
        );
        self.insert(TRUST_BUNDLE, validation);
    }
}

/// Parses a secret that arrived by SDS; `None` for kinds the proxy has no use for.
///
/// # Errors
/// Its content cannot be read or parsed.
pub(crate) fn material(kind: &SecretKind) -> Result<Option<Material>, SecretError> {
    Ok(match kind {
        SecretKind::TlsCertificate(certificate) => Some(Material::Certificate(Arc::new(
            inline_certificate(certificate)?,
        ))),
        SecretKind::Validation(validation) => {
            revocation_lists(validation)?; // refused now rather than with the first connection
            Some(Material::Validation {
                roots: validation_roots(validation)?,
                settings: Arc::clone(validation),
            })
        }
        SecretKind::SessionTicketKeys(_) | SecretKind::Generic(_) => None,
    })
}

/// Parses a certificate given in place.
///
/// # Errors
/// It cannot be read or parsed.
pub(crate) fn inline_certificate(
    certificate: &TlsCertificate,
) -> Result<CertifiedKey, SecretError> {
    certified_key(&read(&certificate.chain)?, &read(&certificate.key)?)
}

/// The revocation lists of a validation context.
///
/// # Errors
/// They cannot be read or parsed, or there is none where one was named.
pub(crate) fn revocation_lists(
    validation: &Validation,
) -> Result<Vec<webpki::CertRevocationList<'static>>, SecretError> {
    let Some(source) = &validation.crl else {
        return Ok(Vec::new());
    };
    let pem = read(source)?;
    let lists = CertificateRevocationListDer::pem_slice_iter(&pem).map(|list| {
        let list = list.map_err(|source| SecretError::Pem {
            what: "revocation lists",
            source,
        })?;
        crate::tls::revocation_list(&list).map_err(SecretError::RevocationList)
    });
    let lists: Vec<_> = lists.collect::<Result<_, _>>()?;
    if lists.is_empty() {
        return Err(SecretError::Missing("revocation list"));
    }
    Ok(lists)
}

/// The roots a validation context trusts, of all its trust domains together.
///
/// # Errors
/// They cannot be read or parsed.
pub(crate) fn validation_roots(validation: &Validation) -> Result<Roots, SecretError> {
    let mut store = RootCertStore::empty();
    let domains = validation.trust_domains.iter().map(|domain| &domain.bundle);
    for source in validation.trusted_ca.iter().chain(domains) {
        store.extend(roots(&read(source)?)?.roots);
    }
    if validation.system_roots {
        store.extend(system_roots()?.roots);
    }
    Ok(Arc::new(store))
}

/// A secret that lies in files.
///
/// # Errors
/// The files cannot be read or used.
pub(crate) fn from_files(files: &FileSecret) -> Result<Material, SecretError> {
    let content = files.read().map_err(SecretError::Files)?;
    match content {
        FileContent::Certificate { chain, key } => certified_key(&chain, &key)
            .map(Arc::new)
            .map(Material::Certificate),
        FileContent::Roots { pem } => {
            let store = match files {
                FileSecret::SystemRoots => parsable_roots(&pem)?,
                _ => roots(&pem)?,
            };
            let settings = Validation {
                trusted_ca: Some(DataSource::Inline(Bytes::from(pem))),
                ..Validation::default()
            };
            Ok(Material::Validation {
                roots: Arc::new(store),
                settings: Arc::new(settings),
            })
        }
    }
}

/// Reads a data source.
///
/// # Errors
/// The file or variable is not there.
pub(crate) fn read(source: &DataSource) -> Result<Bytes, SecretError> {
    match source {
        DataSource::Inline(bytes) => Ok(bytes.clone()),
        DataSource::File(path) => std::fs::read(&**path)
            .map(Bytes::from)
            .map_err(|error| SecretError::Unreadable(path.to_string(), error)),
        DataSource::Environment(name) => std::env::var(&**name).map(Bytes::from).map_err(|error| {
            let error = std::io::Error::new(std::io::ErrorKind::NotFound, error);
            SecretError::Unreadable(name.to_string(), error)
        }),
    }
}

/// Parses certificates, in the order of the PEM.
///
/// # Errors
/// The PEM is malformed.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SecretError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|source| SecretError::Pem {
            what: "certificates",
            source,
        })
}

fn certified_key(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, SecretError> {
    let chain = certificates(chain)?;
    if chain.is_empty() {
        return Err(SecretError::Missing("certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| SecretError::Pem {
        what: "the private key",
        source,
    })?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider())
        .map_err(SecretError::Key)
}

fn roots(pem: &[u8]) -> Result<RootCertStore, SecretError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem)? {
        store.add(certificate).map_err(SecretError::Root)?;
    }
    if store.is_empty() {
        return Err(SecretError::Missing("trusted root"));
    }
    Ok(store)
}

fn system_roots() -> Result<RootCertStore, SecretError> {
    match FileSecret::SystemRoots.read() {
        Ok(FileContent::Roots { pem }) => parsable_roots(&pem),
        Ok(FileContent::Certificate { .. }) => Err(SecretError::Missing("trusted root")),
        Err(error) => Err(SecretError::Files(error)),
    }
}

/// A bundle with one odd root still has all the others.
fn parsable_roots(pem: &[u8]) -> Result<RootCertStore, SecretError> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(certificates(pem)?);
    if store.is_empty() {
        return Err(SecretError::Missing("trusted root"));
    }
    Ok(store)
}

/// What tells one state of a data source's file from another.
#[derive(Debug)]
pub(crate) struct Stamp(file_secret::Stamp);

impl Stamp {
    /// The state of a source's file now; `None` for what is no file.
    pub(crate) fn of_source(source: &DataSource) -> Option<Self> {
        match source {
            DataSource::File(path) => Some(Self(file_secret::Stamp::of([Path::new(&**path)]))),
            DataSource::Inline(_) | DataSource::Environment(_) => None,
        }
    }

    /// Whether the file is as it was.
    pub(crate) fn is_current(&self) -> bool {
        self.0.is_current()
    }
}
