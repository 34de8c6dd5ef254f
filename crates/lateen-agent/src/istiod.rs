//! How the agent reaches istiod: verified by the pod's root file, proved by a token first and a certificate from then on. Certificates may
//! come from another authority (`CA_ADDR`), which is verified by its own name and, if there are (`CA_ROOT_CA`), its own roots.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lateen_envoy::with_causes;
use lateen_identity::bundle::BundleError;
use lateen_identity::grpc::client::TokenSource;
use lateen_identity::grpc::{ChannelOptions, IssuerClient, channel};
use lateen_identity::rotation::{IdentityHandle, IdentityManager, RotationOptions};
use lateen_identity::tls::{
    ALPN_H2, CertifiedKeyPair, ClientSettings, ClientVerification, HostnameCheck, RootsError,
    TlsVersions, client_config, system_roots,
};
use lateen_identity::{Clock, TrustBundle, WorkloadIdentity};
use tokio::sync::watch;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::Channel;

use crate::config::{AgentConfig, CaRoots};

/// How long connecting to istiod may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How often the root file is looked at. A mounted ConfigMap is replaced within a minute; nobody waits for these seconds.
const ROOT_POLL: Duration = Duration::from_secs(2);

/// Why istiod cannot be reached at all.
#[derive(Debug, thiserror::Error)]
pub enum IstiodError {
    /// The root file cannot be read.
    #[error(
        "reading istiod's roots from `{path}`; they come from the ConfigMap `istio-ca-root-cert`"
    )]
    RootFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The root file holds no roots.
    #[error("reading istiod's roots from `{path}`")]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: BundleError,
    },
    /// The machine has no roots, and those were asked for.
    #[error("reading the machine's roots, which CA_ROOT_CA=SYSTEM asks for")]
    SystemRoots(#[source] RootsError),
    /// A header for the authority is none.
    #[error("`CA_HEADER_{0}` cannot be a header of HTTP/2")]
    CaHeader(String),
    /// The name cannot be a host.
    #[error("`{name}` cannot be the name of a server")]
    Name {
        /// The name.
        name: String,
        /// What is wrong.
        #[source]
        source: tonic::transport::Error,
    },
}

/// The connection to istiod: an identity that stays fresh, and a channel for xDS that uses it.
#[derive(Clone, Debug)]
pub struct Istiod {
    /// The workload's identity.
    pub identity: IdentityHandle,
    /// xDS, with mTLS. Each connection uses the certificate that is current when it is made.
    pub xds: Channel,
    /// The roots of the pod's root file, as they change.
    pub roots: watch::Receiver<Arc<TrustBundle>>,
    /// Where roots of other meshes are told, for peers to be verified with.
    pub peer_roots: watch::Sender<Option<Arc<TrustBundle>>>,
}

/// The tasks behind an [`Istiod`], to be run by their owner until it is done.
#[derive(Debug)]
pub struct IstiodTasks {
    manager: IdentityManager<IssuerClient>,
    roots: RootFile,
    ca_roots: Option<RootFile>,
}

impl IstiodTasks {
    /// Runs until `shutdown` resolves.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = self.manager.run(shutdown) => {}
            () = self.roots.watch() => {}
            () = watch_if_any(self.ca_roots) => {}
        }
    }
}

/// Prepares the connection. Nothing is sent before the tasks run.
///
/// # Errors
/// The root file is not there or holds no roots, or istiod's name is none.
pub fn prepare(config: &AgentConfig) -> Result<(Istiod, IstiodTasks), IstiodError> {
    let (root_file, roots) = RootFile::open(config.root_file.clone())?;
    let (known, identity) = watch::channel(None);
    let (ca_file, own) = ca_roots(&config.ca_roots)?;
    let tls = ca_tls(roots.clone(), own, identity);
    let ca = channel_to(config, &config.ca_address, &config.ca_name, tls)?;
    let issuer = IssuerClient::new(
        ca,
        TokenSource::File(config.token_file.clone()),
        Some(config.certificate_ttl),
    )
    .with_headers(ca_headers(&config.ca_headers)?);
    let (peer_roots, told) = watch::channel(None);
    let options = RotationOptions {
        grace_ratio: config.grace_ratio,
        jitter: config.grace_jitter,
        extra_roots: Some(roots.clone()),
        peer_roots: Some(told),
        ..RotationOptions::new(config.identity.clone())
    };
    let (manager, handle) = IdentityManager::new(options, issuer, Clock::system());
    let tls = xds_tls(handle.watch());
    let xds = channel_to(config, &config.discovery_address, &config.istiod_name, tls)?;
    // The authority's channel was made before there was a handle to read the identity from.
    known.send_replace(Some(handle.clone()));
    Ok((
        Istiod {
            identity: handle,
            xds,
            roots,
            peer_roots,
        },
        IstiodTasks {
            manager,
            roots: root_file,
            ca_roots: ca_file,
        },
    ))
}

type TlsSource = lateen_identity::grpc::transport::ClientConfigSource;
type Roots = watch::Receiver<Arc<TrustBundle>>;

/// The roots of an authority that has its own, and the file they are read from again when it changes.
fn ca_roots(roots: &CaRoots) -> Result<(Option<RootFile>, Option<Roots>), IstiodError> {
    match roots {
        CaRoots::Mesh => Ok((None, None)),
        CaRoots::System => {
            let system = system_roots(None).map_err(IstiodError::SystemRoots)?;
            Ok((None, Some(watch::channel(Arc::new(system)).1)))
        }
        CaRoots::File(path) => {
            let (file, roots) = RootFile::open(path.clone())?;
            Ok((Some(file), Some(roots)))
        }
    }
}

async fn watch_if_any(file: Option<RootFile>) {
    match file {
        Some(file) => file.watch().await,
        None => std::future::pending().await,
    }
}

fn ca_headers(named: &BTreeMap<String, String>) -> Result<MetadataMap, IstiodError> {
    let mut headers = MetadataMap::new();
    for (name, value) in named {
        let key = AsciiMetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes());
        let (Ok(key), Ok(mut value)) = (key, value.parse::<AsciiMetadataValue>()) else {
            return Err(IstiodError::CaHeader(name.clone()));
        };
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    Ok(headers)
}

fn channel_to(
    config: &AgentConfig,
    address: &str,
    name: &str,
    tls: TlsSource,
) -> Result<Channel, IstiodError> {
    let options = ChannelOptions {
        address: address.to_owned(),
        server_name: name.to_owned(),
        tls: Some(tls),
        mark: config.mark,
        connect_timeout: CONNECT,
    };
    channel(options).map_err(|source| IstiodError::Name {
        name: name.to_owned(),
        source,
    })
}

/// Without a certificate at first, with the current one later. One that has expired is not shown: it would be refused, while
/// the token may still be good.
fn ca_tls(
    roots: watch::Receiver<Arc<TrustBundle>>,
    own: Option<watch::Receiver<Arc<TrustBundle>>>,
    handle: watch::Receiver<Option<IdentityHandle>>,
) -> TlsSource {
    Arc::new(move || {
        let identity = handle.borrow().as_ref().and_then(IdentityHandle::current);
        let valid = identity.filter(|one| one.facts().is_valid_at(SystemTime::now()));
        let bundle = match (&own, &valid) {
            (Some(own), _) => own.borrow().clone(),
            (None, Some(identity)) => identity.authority().clone(),
            (None, None) => roots.borrow().clone(),
        };
        tls(valid.map(|identity| identity.pair().clone()), bundle)
    })
}

fn xds_tls(identity: watch::Receiver<Option<Arc<WorkloadIdentity>>>) -> TlsSource {
    Arc::new(move || {
        let identity = identity.borrow().clone()?;
        tls(Some(identity.pair().clone()), identity.authority().clone())
    })
}

fn tls(
    certificate: Option<CertifiedKeyPair>,
    bundle: Arc<TrustBundle>,
) -> Option<Arc<rustls::ClientConfig>> {
    let made = client_config(ClientSettings {
        certificate,
        verification: ClientVerification::Verify {
            bundle,
            names: Vec::new(),
            hostname: HostnameCheck::ServerName,
        },
        alpn: vec![ALPN_H2.to_vec()],
        versions: TlsVersions::default(),
        send_sni: true,
    });
    made.inspect_err(|error| tracing::error!(error = %with_causes(error), "no TLS to istiod"))
        .ok()
}

/// The pod's root file, read again when it changes.
#[derive(Debug)]
struct RootFile {
    path: PathBuf,
    content: Vec<u8>,
    roots: watch::Sender<Arc<TrustBundle>>,
}

impl RootFile {
    fn open(path: PathBuf) -> Result<(Self, watch::Receiver<Arc<TrustBundle>>), IstiodError> {
        let failed = |source| IstiodError::RootFile {
            path: path.clone(),
            source,
        };
        let content = std::fs::read(&path).map_err(failed)?;
        let bundle = TrustBundle::from_pem(&content).map_err(|source| IstiodError::Roots {
            path: path.clone(),
            source,
        })?;
        let (roots, watched) = watch::channel(Arc::new(bundle));
        Ok((
            Self {
                path,
                content,
                roots,
            },
            watched,
        ))
    }

    /// Never ends. A file that is gone or broken leaves the roots as they are.
    async fn watch(mut self) {
        loop {
            tokio::time::sleep(ROOT_POLL).await;
            match tokio::fs::read(&self.path).await {
                Ok(content) if content != self.content => self.replace(content),
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "root file cannot be read; keeping the roots")
                }
            }
        }
    }

    fn replace(&mut self, content: Vec<u8>) {
        match TrustBundle::from_pem(&content) {
            Ok(bundle) => {
                tracing::info!(roots = bundle.roots().len(), "istiod's roots have changed");
                self.roots.send_replace(Arc::new(bundle));
            }
            Err(error) => {
                tracing::warn!(error = %with_causes(&error), "new root file is unusable; keeping the roots");
            }
        }
        self.content = content;
    }
}
