//! Opening the control plane's ports.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lateen_compile::Settings;
use lateen_identity::Clock;
use lateen_identity::ca::{CaError, CaOptions, CaSource, CertificateAuthority, SignError};
use lateen_identity::grpc::{
    Authenticators, CertificateService, PeerCertificate, PeerInfo as TlsPeer, RateLimiter,
    TlsIncoming, WorkloadToken,
};
use lateen_identity::spiffe::{TrustDomain, TrustDomains};
use lateen_identity::tls::{IdentityError, TlsError, peer_identity};
use lateen_identity::token::{TokenKey, TokenKeyError};
use lateen_sources::files::Reader;
use lateen_sources::pods::PodStates;
use lateen_sources::watch::{watch_files, watch_pods};
use lateen_xds::grpc::{AdsServer, PeerInfo, ServerConfig};
use rustls::ServerConfig as TlsConfig;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tracing::{error, info};

use crate::WorkloadRegistry;
use crate::discovery::{Door, Proxies, Trust};
use crate::jwks::{JwksHandle, JwksSettings};
use crate::mesh::{Debounce, Published, Sources, publish};
use crate::metrics::Counters;
use crate::reply::{self, Answer, Reply};
use crate::workloads::Known;
use crate::{debug, expiry, secure};

/// Plain-text ADS, where Istio has it, on loopback.
pub const PLAIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15010);
/// ADS and CA over TLS.
pub const SECURE_PORT: u16 = 15012;
/// Metrics.
pub const MONITORING_PORT: u16 = 15014;
/// How often the authority's files are looked at.
const FOLLOW: Duration = Duration::from_secs(1);

/// How a control plane is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Files and directories of configuration.
    pub paths: Vec<PathBuf>,
    /// Namespace of objects that name none.
    pub default_namespace: String,
    /// The pods' state, as the supervisor writes it; `None` where there are no pods.
    pub pods: Option<PathBuf>,
    /// Where workloads that are no pods are written down, so that a control plane that starts again knows them.
    pub workloads: PathBuf,
    /// The CA's files.
    pub ca: CaSource,
    /// The key that workloads' tokens are signed with.
    pub token_key: PathBuf,
    /// Addresses that proxies reach us at; metrics and TLS are served there.
    pub listen: Vec<IpAddr>,
    /// Where ADS is served in plain text, to whoever asks and without Secrets; `None` for nowhere. It has to be on loopback.
    pub plain: Option<SocketAddr>,
    /// Where debug answers are served.
    pub debug_socket: PathBuf,
    /// What the installation fixes.
    pub settings: Settings,
    /// How long changes are gathered.
    pub debounce: Debounce,
    /// How keys of token issuers are fetched.
    pub jwks: JwksSettings,
}

/// Why a control plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The CA's files cannot be used.
    #[error("opening the certificate authority")]
    Ca(#[source] CaError),
    /// The key of workloads' tokens cannot be used.
    #[error("opening the key of workload tokens")]
    TokenKey(#[source] TokenKeyError),
    /// Our own certificate could not be issued.
    #[error("issuing the control plane's certificate")]
    Certificate(#[source] SignError),
    /// Our own certificate cannot be used.
    #[error("using the control plane's certificate")]
    Identity(#[source] IdentityError),
    /// TLS cannot be set up.
    #[error("setting up TLS")]
    Tls(#[source] TlsError),
    /// A port is taken.
    #[error("listening on {address}")]
    Listen {
        /// Which.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Plain text would be served to others.
    #[error("plain-text ADS on {0}: it proves nobody's identity, so it has to be on loopback")]
    PlainAddress(SocketAddr),
    /// The trust domain is not one.
    #[error("`{0}` is not a trust domain")]
    TrustDomain(String),
}

/// A running control plane. Its tasks end with it.
#[derive(Debug)]
pub struct ControlPlane {
    proxies: Arc<Proxies>,
    tasks: JoinSet<()>,
    drain: CancellationToken,
}

impl ControlPlane {
    /// Reads the configuration, then opens the ports.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let name = &config.settings.trust_domain;
        let domain = TrustDomain::parse(name.as_bytes())
            .map_err(|_| StartError::TrustDomain(name.clone()))?;
        let options = CaOptions {
            trust_domain: domain,
            ..CaOptions::default()
        };
        let jwks = JwksHandle::start(&config.jwks);
        let fetches = Arc::clone(&jwks.counters);
        let (published, aliases, workloads) = published(&config, jwks).await;
        // Certificates of the domains the mesh had before are still good for getting new ones.
        let aliases = aliases
            .iter()
            .filter_map(|a| TrustDomain::parse(a.as_bytes()).ok());
        let domains = TrustDomains::new(options.trust_domain.clone(), aliases);
        let ca = CertificateAuthority::open(config.ca.clone(), options, SystemTime::now());
        let ca = Arc::new(ca.map_err(StartError::Ca)?);
        let key = TokenKey::open(&config.token_key).map_err(StartError::TokenKey)?;
        let authenticators = Authenticators::new(vec![
            Box::new(WorkloadToken::new(key, domains.clone())),
            Box::new(PeerCertificate::new(domains.clone())),
        ]);
        let proxies = Proxies::new(published, authenticators.clone(), domains);
        let registry = Arc::clone(&workloads.0);
        let proxies = Arc::new(proxies.with_workloads(workloads));
        let service = CertificateService::new(
            ca.clone(),
            authenticators,
            RateLimiter::default(),
            Clock::system(),
        );
        let mut plane = Self {
            proxies,
            tasks: JoinSet::new(),
            drain: CancellationToken::new(),
        };
        let tls = secure::server_tls(ca.clone(), config.listen.clone())?;
        let path = config.workloads.clone();
        plane
            .tasks
            .spawn(async move { registry.write_down(path).await });
        let (followed, warned) = (ca.clone(), ca.clone());
        plane
            .tasks
            .spawn(async move { followed.follow_files(FOLLOW).await });
        let proxies = plane.proxies.clone();
        plane.tasks.spawn(expiry::warn_ahead(warned, proxies));
        plane.debug(&config)?;
        if let Some(address) = config.plain {
            plane.plain(address).await?;
        }
        for ip in &config.listen {
            plane.secure(*ip, &tls, service.clone()).await?;
            let counters = Counters {
                ca: service.counters(),
                jwks: Arc::clone(&fetches),
            };
            plane.monitoring(*ip, counters, ca.clone()).await?;
        }
        Ok(plane)
    }

    /// Who is connected.
    pub fn proxies(&self) -> &Arc<Proxies> {
        &self.proxies
    }

    /// Ends all streams, so that proxies connect elsewhere or again, and waits for the servers to end.
    pub async fn shutdown(mut self) {
        self.drain.cancel();
        self.tasks.shutdown().await;
    }

    /// Waits until a server ends, which none does by itself: something is badly wrong then.
    pub async fn failed(&mut self) {
        self.tasks.join_next().await;
    }

    fn ads(&self, trust: Trust) -> AdsServer {
        let door = Door {
            proxies: self.proxies.clone(),
            trust,
        };
        let config = ServerConfig {
            drain: self.drain.clone(),
            ..ServerConfig::default()
        };
        AdsServer::new(Arc::new(door), config)
    }

    /// Plain text carries no proof of who asks, so it is for this machine alone.
    async fn plain(&mut self, address: SocketAddr) -> Result<(), StartError> {
        if !address.ip().is_loopback() {
            return Err(StartError::PlainAddress(address));
        }
        let listener = listen(address).await?;
        let server = ServerConfig::default()
            .transport()
            .add_service(self.ads(Trust::Anyone).into_service())
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
        self.run("plain ADS", server);
        Ok(())
    }

    async fn secure(
        &mut self,
        ip: IpAddr,
        tls: &watch::Receiver<Arc<TlsConfig>>,
        ca: CertificateService,
    ) -> Result<(), StartError> {
        let listener = listen(SocketAddr::new(ip, SECURE_PORT)).await?;
        let tls = tls.clone();
        let incoming = TlsIncoming::new(listener, move || Some(tls.borrow().clone()));
        let ads = self.ads(Trust::Authenticated).into_service();
        let server = ServerConfig::default()
            .transport()
            .add_service(InterceptedService::new(ads, name_peer))
            .add_service(ca.into_server())
            .serve_with_incoming(incoming);
        self.run("secure ADS and CA", server);
        Ok(())
    }

    async fn monitoring(
        &mut self,
        ip: IpAddr,
        counters: Counters,
        ca: Arc<CertificateAuthority>,
    ) -> Result<(), StartError> {
        let listener = listen(SocketAddr::new(ip, MONITORING_PORT)).await?;
        let proxies = self.proxies.clone();
        let answer: Answer = Arc::new(move |path, _| match path {
            "/metrics" => {
                let mut text = proxies.metrics.render(proxies.connected().len(), &counters);
                text.push_str(&expiry::render(&ca, &proxies, SystemTime::now()));
                Reply::text(text)
            }
            "/ready" => Reply::text("ready\n"),
            "/version" => Reply::text(concat!(env!("CARGO_PKG_VERSION"), "\n")),
            _ => Reply::not_found("there are /metrics, /ready and /version"),
        });
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                while connections.try_join_next().is_some() {}
                match listener.accept().await {
                    Ok((stream, _)) => {
                        drop(connections.spawn(reply::serve(stream, answer.clone())))
                    }
                    Err(error) => pause_after(&error).await,
                }
            }
        });
        Ok(())
    }

    fn debug(&mut self, config: &Config) -> Result<(), StartError> {
        let path = &config.debug_socket;
        let failed = |source| StartError::Listen {
            address: path.display().to_string(),
            source,
        };
        // A socket left by a control plane that was killed.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let proxies = self.proxies.clone();
        let answer: Answer = Arc::new(move |path, query| debug::answer(&proxies, path, query));
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                while connections.try_join_next().is_some() {}
                match listener.accept().await {
                    Ok((stream, _)) => {
                        drop(connections.spawn(reply::serve(stream, answer.clone())))
                    }
                    Err(error) => pause_after(&error).await,
                }
            }
        });
        Ok(())
    }

    fn run<E: std::error::Error + Send + 'static>(
        &mut self,
        what: &'static str,
        server: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.tasks.spawn(async move {
            match server.await {
                Ok(()) => info!(what, "a server ended"),
                Err(error) => error!(what, %error, "a server failed"),
            }
        });
    }
}

/// Starts publishing snapshots. The trust domain's aliases are those of the first one.
async fn published(
    config: &Config,
    jwks: JwksHandle,
) -> (
    watch::Receiver<Arc<Published>>,
    Vec<String>,
    WorkloadRegistry,
) {
    let files = watch_files(Reader::new(
        config.paths.clone(),
        config.default_namespace.as_str(),
    ));
    let (mesh, _) = lateen_sources::mesh::config(&files.borrow().resources.to_vec());
    let known = Known::of(&files.borrow().resources.to_vec());
    let pods = match &config.pods {
        Some(path) => watch_pods(path.clone()),
        None => watch::channel(PodStates::default()).1,
    };
    let sources = Sources::with_jwks(files, pods, config.settings.clone(), jwks);
    let workloads = sources.workloads();
    workloads.0.recall(&config.workloads, &known);
    (
        publish(sources, config.debounce).await,
        mesh.trust_domain_aliases,
        workloads,
    )
}

/// Says who a TLS connection's peer is to the xDS server. The handshake has verified the chain; the identity is the bytes of the
/// only URI name in the leaf.
fn name_peer(mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
    let peer = request
        .extensions()
        .get::<TlsPeer>()
        .cloned()
        .unwrap_or_default();
    let identity = peer_identity(Some(&peer.certificates)).and_then(|p| p.id);
    let identity = identity.map(|id| Arc::from(id.to_string().into_bytes()));
    request.extensions_mut().insert(PeerInfo {
        remote: peer.address,
        identity,
    });
    Ok(request)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Listen {
            address: address.to_string(),
            source,
        })
}

/// Out of descriptors: waiting is all that helps.
async fn pause_after(error: &io::Error) {
    error!(%error, "cannot accept; pausing");
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
}
