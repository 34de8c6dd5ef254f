//! Where the secrets of one SDS stream come from: the workload's identity, and files.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_envoy::Resource as Versioned;
use lateen_envoy::pb::envoy::config::core::v3::DataSource;
use lateen_envoy::pb::envoy::config::core::v3::data_source::Specifier;
use lateen_envoy::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use lateen_envoy::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate,
};
use lateen_identity::WorkloadIdentity;
use lateen_identity::file_secret::{FileContent, FileSecret, Stamp};

use super::{DEFAULT, ROOT_CA};

/// What there is to serve.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// The workload's identity, as soon as there is one.
    pub(super) identity: Option<Arc<WorkloadIdentity>>,
    files: BTreeMap<String, Watched>,
}

/// Files that the stream asked for, with what they last held that could be used.
#[derive(Debug)]
struct Watched {
    files: FileSecret,
    stamp: Stamp,
    last_good: Option<Versioned>,
}

impl Source {
    /// A source that knows an identity.
    #[cfg(test)]
    pub(super) fn of_identity(identity: Arc<WorkloadIdentity>) -> Self {
        Self {
            identity: Some(identity),
            files: BTreeMap::new(),
        }
    }

    /// Reads the files that are newly among `names`, and forgets those that no longer are.
    pub(super) fn follow<'a>(&mut self, names: impl Iterator<Item = &'a String> + Clone) {
        self.files
            .retain(|known, _| names.clone().any(|name| name == known));
        for name in names {
            if self.files.contains_key(name) {
                continue;
            }
            if let Some(files) = FileSecret::parse(name) {
                let mut watched = Watched {
                    stamp: files.stamp(),
                    files,
                    last_good: None,
                };
                watched.read(name);
                self.files.insert(name.clone(), watched);
            }
        }
    }

    /// Whether the stream asked for files.
    pub(super) fn has_files(&self) -> bool {
        !self.files.is_empty()
    }

    /// Reads again what has changed; whether anything has.
    pub(super) fn files_changed(&mut self) -> bool {
        let mut changed = false;
        for (name, watched) in &mut self.files {
            if !watched.stamp.is_current() {
                watched.stamp = watched.files.stamp();
                changed |= watched.read(name);
            }
        }
        changed
    }

    /// A secret by its name; `None` for a name that is not ours, and for what is not there yet.
    pub(super) fn secret(&self, name: &str) -> Option<Versioned> {
        if let Some(watched) = self.files.get(name) {
            return watched.last_good.clone();
        }
        let identity = self.identity.as_deref()?;
        let body = match name {
            DEFAULT => certificate(
                identity.pair().chain_pem().into_bytes(),
                identity.pair().key_pem().into_bytes(),
            ),
            ROOT_CA => roots(identity.bundle().to_pem().into_bytes()),
            _ => return None,
        };
        Some(versioned(name, body))
    }
}

impl Watched {
    /// Whether what the files hold now can be used; else what they held before stays.
    fn read(&mut self, name: &str) -> bool {
        let body = match self.files.read() {
            Ok(FileContent::Certificate { chain, key }) => certificate(chain, key),
            Ok(FileContent::Roots { pem }) => roots(pem),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                let kept = self.last_good.is_some();
                tracing::warn!(name, %error, ?cause, kept, "certificate in files cannot be used");
                return false;
            }
        };
        self.last_good = Some(versioned(name, body));
        true
    }
}

fn versioned(name: &str, body: Type) -> Versioned {
    let secret = Secret {
        name: name.to_owned(),
        r#type: Some(body),
    };
    Versioned::new(name, &secret)
}

fn certificate(chain: Vec<u8>, key: Vec<u8>) -> Type {
    Type::TlsCertificate(TlsCertificate {
        certificate_chain: Some(inline(chain)),
        private_key: Some(inline(key)),
        ..TlsCertificate::default()
    })
}

fn roots(pem: Vec<u8>) -> Type {
    Type::ValidationContext(CertificateValidationContext {
        trusted_ca: Some(inline(pem)),
        ..CertificateValidationContext::default()
    })
}

fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(bytes)),
        ..DataSource::default()
    }
}
