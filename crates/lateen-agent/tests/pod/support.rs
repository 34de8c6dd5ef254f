//! A small istiod in the test's process, and a pod's files for an agent beside it.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, SystemTime};

use lateen_agent::config::Environment;
use lateen_agent::{AgentConfig, AgentOptions, DataPlaneKind, NodeType};
use lateen_envoy::istio::nds::NameTable;
use lateen_envoy::istio::nds::name_table::NameInfo;
use lateen_envoy::{Resource, ResourceSet, TypeUrl};
use lateen_identity::ca::{CaOptions, CaSource, CertificateAuthority, ServerNames};
use lateen_identity::csr::KeyAndRequest;
use lateen_identity::grpc::{
    Authenticators, CertificateService, PeerCertificate, RateLimiter, TlsIncoming, WorkloadToken,
};
use lateen_identity::spiffe::TrustDomains;
use lateen_identity::tls::{
    ALPN_H2, CertifiedKeyPair, ClientAuth, ServerSettings, TlsVersions, server_config,
};
use lateen_identity::token::{PodRef, TokenKey};
use lateen_identity::{Clock, SpiffeId, TrustDomain, WorkloadIdentity};
use lateen_xds::grpc::{AdsServer, ConnectRequest, Connection, Discovery, ServerConfig};
use tokio::sync::watch;
use tonic::Status;

const NAME: &str = "istiod.istio-system.svc";

/// The same resources for whoever asks.
struct Fixed(watch::Receiver<Option<ResourceSet>>);

#[tonic::async_trait]
impl Discovery for Fixed {
    async fn connect(&self, _request: ConnectRequest) -> Result<Connection, Status> {
        Ok(Connection {
            resources: self.0.clone(),
            status: watch::Sender::default(),
        })
    }
}

pub(super) struct Istiod {
    pub(super) ca: Arc<CertificateAuthority>,
    pub(super) resources: watch::Sender<Option<ResourceSet>>,
    tokens: TokenKey,
    address: SocketAddr,
    /// A runtime of its own: when it ends, so does every connection.
    server: Option<tokio::runtime::Runtime>,
    /// Whether it goes by its address, as an authority outside the mesh, and not by istiod's name.
    external: bool,
    dir: tempfile::TempDir,
}

impl Drop for Istiod {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
    }
}

impl Istiod {
    pub(super) fn start() -> Self {
        Self::start_with(TokenKey::ephemeral(), false)
    }

    /// An authority of its own that knows this one's workloads by their tokens.
    pub(super) fn external(&self) -> Self {
        Self::start_with(self.tokens.clone(), true)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    fn start_with(tokens: TokenKey, external: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = CaSource::SelfMade {
            dir: dir.path().join("ca"),
        };
        let now = SystemTime::now();
        let ca = Arc::new(CertificateAuthority::open(source, CaOptions::default(), now).unwrap());
        let mut resources = ResourceSet::default();
        resources.insert(TypeUrl::NameTable, name_table());
        let mut istiod = Self {
            ca,
            resources: watch::Sender::new(Some(resources)),
            tokens,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            server: None,
            external,
            dir,
        };
        istiod.serve();
        istiod
    }

    /// Serves, on the same address as before if there was one.
    pub(super) fn serve(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.address = listener.local_addr().unwrap();
        let domains = TrustDomains::new(TrustDomain::cluster_local(), []);
        let authenticators = Authenticators::new(vec![
            Box::new(WorkloadToken::new(self.tokens.clone(), domains.clone())),
            Box::new(PeerCertificate::new(domains)),
        ]);
        let limiter = RateLimiter::default();
        let ca = CertificateService::new(self.ca.clone(), authenticators, limiter, Clock::system());
        let ads = AdsServer::new(
            Arc::new(Fixed(self.resources.subscribe())),
            ServerConfig::default(),
        );
        let tls = self.tls();
        let server = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        server.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let incoming = TlsIncoming::new(listener, move || Some(tls.clone()));
            let router = tonic::transport::Server::builder()
                .add_service(ca.into_server())
                .add_service(ads.into_service());
            router.serve_with_incoming(incoming).await.unwrap();
        });
        self.server = Some(server);
    }

    /// Goes away without a word.
    pub(super) async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
        let address = self.address;
        eventually("istiod is gone", || async move {
            tokio::net::TcpStream::connect(address).await.is_err()
        })
        .await;
    }

    fn tls(&self) -> Arc<rustls::ServerConfig> {
        let names = match self.external {
            true => ServerNames {
                ips: vec![self.address.ip()],
                ..ServerNames::default()
            },
            false => ServerNames {
                dns: vec![NAME.to_owned()],
                ..ServerNames::default()
            },
        };
        let (issued, key) = self.ca.issue_server(&names, SystemTime::now()).unwrap();
        server_config(ServerSettings {
            certificate: CertifiedKeyPair::new(issued.chain, key).unwrap(),
            client_auth: ClientAuth::Optional {
                bundle: issued.bundle,
                names: Vec::new(),
            },
            alpn: vec![ALPN_H2.to_vec()],
            versions: TlsVersions::default(),
        })
        .unwrap()
    }

    /// A workload of the mesh, to call others with.
    pub(super) fn workload(&self, account: &str) -> WorkloadIdentity {
        let id: SpiffeId = format!("spiffe://cluster.local/ns/default/sa/{account}")
            .parse()
            .unwrap();
        let made = KeyAndRequest::generate(&id).unwrap();
        let issued = self
            .ca
            .sign(&made.csr_pem, &id, None, SystemTime::now())
            .unwrap();
        let pair = CertifiedKeyPair::new(issued.chain, made.key).unwrap();
        WorkloadIdentity::new(pair, issued.bundle).unwrap()
    }

    /// The settings of an agent in a pod of this mesh, with ports of its own.
    pub(super) fn agent(&self, data_plane: DataPlaneKind, extra: &[(&str, String)]) -> AgentConfig {
        let dir = self.dir.path();
        let pod = PodRef {
            namespace: "default",
            service_account: "web",
            name: "web-0",
            uid: "1",
        };
        let token = self
            .tokens
            .issue(pod, Duration::from_secs(3600), SystemTime::now());
        std::fs::write(dir.join("token"), token).unwrap();
        std::fs::write(
            dir.join("root-cert.pem"),
            self.ca.bundle().borrow().to_pem(),
        )
        .unwrap();
        let proxy_config = format!(
            r#"{{"discoveryAddress":"{}","proxyAdminPort":{},"statusPort":{},
            "drainDuration":"1s","terminationDrainDuration":"1s","concurrency":1}}"#,
            self.address,
            free_port(),
            free_port()
        );
        let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
        let mut environment: Environment = [
            ("POD_NAME", "web-0".to_owned()),
            ("POD_NAMESPACE", "default".to_owned()),
            ("SERVICE_ACCOUNT", "web".to_owned()),
            ("INSTANCE_IP", "127.0.0.1".to_owned()),
            ("ISTIOD_SAN", NAME.to_owned()),
            ("LATEEN_TOKEN_FILE", path("token")),
            ("LATEEN_ROOT_FILE", path("root-cert.pem")),
            ("ISTIO_META_DNS_CAPTURE", "true".to_owned()),
            ("DNS_PROXY_ADDR", format!("127.0.0.1:{}", free_port())),
            ("ENVOY_STATUS_PORT", free_port().to_string()),
            ("ENVOY_PROMETHEUS_PORT", free_port().to_string()),
            ("PROXY_CONFIG", proxy_config),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        environment.extend(
            extra
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone())),
        );
        let mut options = AgentOptions::new(NodeType::Sidecar, data_plane);
        options.run_dir = Some(dir.join("run"));
        AgentConfig::from_env(environment, options).unwrap()
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

fn name_table() -> Resource {
    let info = NameInfo {
        ips: vec!["10.96.1.1".to_owned()],
        registry: "Kubernetes".to_owned(),
        shortname: "ratings".to_owned(),
        namespace: "default".to_owned(),
        ..NameInfo::default()
    };
    let table = [("ratings.default.svc.cluster.local".to_owned(), info)]
        .into_iter()
        .collect();
    Resource::new("nametable", &NameTable { table })
}

/// A port for a listener that starts later: from below the ephemeral ports, so that no connection made meanwhile has it.
pub(super) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 170) as u16 * 128;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until `check` holds.
pub(super) async fn eventually<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) {
    for _ in 0..300 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within 30 s: {what}");
}
