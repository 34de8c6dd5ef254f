//! An xDS server over loopback, and a proxy under it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use lateen_envoy::ResourceSet;
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_identity::WorkloadIdentity;
use lateen_proxy::{ConfigSource, Proxy, ProxyConfig, ProxyHandle, XdsSource};
use lateen_xds::grpc::client::{ClientConfig, endpoint};
use lateen_xds::grpc::{
    AdsServer, ConnectRequest, Connection, Discovery, KeepAlive, PeerInfo, PeerStream, ServerConfig,
};
use lateen_xds::server::SessionStatus;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;

/// What the server serves.
pub(crate) struct Mesh {
    pub(crate) resources: watch::Sender<Option<ResourceSet>>,
    status: Mutex<Vec<watch::Receiver<SessionStatus>>>,
}

impl Mesh {
    /// A server of these resources, or of none yet.
    pub(crate) fn new(resources: Option<ResourceSet>) -> Arc<Self> {
        Arc::new(Self {
            resources: watch::channel(resources).0,
            status: Mutex::default(),
        })
    }
}

#[tonic::async_trait]
impl Discovery for Mesh {
    async fn connect(&self, _: ConnectRequest) -> Result<Connection, Status> {
        let (status, watched) = watch::channel(SessionStatus::default());
        self.status.lock().unwrap().push(watched);
        Ok(Connection {
            resources: self.resources.subscribe(),
            status,
        })
    }
}

/// Serves on loopback until aborted.
pub(crate) async fn serve(mesh: &Arc<Mesh>) -> (SocketAddr, AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = ServerConfig::default();
    let mut transport = config.transport();
    let ads = AdsServer::new(mesh.clone(), config).into_service();
    let incoming = TcpListenerStream::new(listener).map(|io| {
        io.map(|io| {
            let peer = PeerInfo {
                remote: io.peer_addr().ok(),
                identity: None,
            };
            PeerStream::new(io, peer)
        })
    });
    let serving = transport.add_service(ads).serve_with_incoming(incoming);
    let task = tokio::spawn(async move { serving.await.unwrap() }).abort_handle();
    (address, task)
}

/// A proxy under a server.
pub(crate) fn proxy(server: SocketAddr, identity: Option<Arc<WorkloadIdentity>>) -> ProxyHandle {
    let uri: tonic::transport::Uri = format!("http://{server}").parse().unwrap();
    let source = XdsSource {
        connect: Box::new(move || {
            let endpoint = endpoint(uri.clone(), KeepAlive::default());
            Box::pin(async move { Ok(endpoint.connect().await?.into()) })
        }),
        client: ClientConfig::new(Node::default()),
    };
    let node = Node {
        id: "sidecar~127.0.0.1~a.b~c".to_owned(),
        ..Node::default()
    };
    let mut config = ProxyConfig::new(node, ConfigSource::xds(source), watch::channel(identity).1);
    config.admin = Some("127.0.0.1:0".parse().unwrap());
    (config.prometheus, config.health) = (None, None);
    Proxy::start(config).unwrap()
}
