//! A control plane of one node.

use std::net::SocketAddr;
use std::sync::Arc;

use lateen_envoy::{ResourceSet, TypeUrl};
use lateen_xds::grpc::{AdsServer, ConnectRequest, Connection, Discovery, ServerConfig};
use lateen_xds::server::{SessionStatus, SyncState};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::PATIENCE;

pub(crate) struct ControlPlane {
    address: SocketAddr,
    node: Arc<OneNode>,
    drain: CancellationToken,
    serving: JoinHandle<()>,
}

struct OneNode {
    resources: watch::Sender<Option<ResourceSet>>,
    /// Of the latest stream.
    status: watch::Sender<SessionStatus>,
}

#[tonic::async_trait]
impl Discovery for OneNode {
    async fn connect(&self, _request: ConnectRequest) -> Result<Connection, Status> {
        let resources = self.resources.subscribe();
        Ok(Connection {
            resources,
            status: self.status.clone(),
        })
    }
}

impl ControlPlane {
    pub(crate) async fn start(address: Option<SocketAddr>) -> Self {
        let address = address.unwrap_or(([127, 0, 0, 1], 0).into());
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (resources, status) = (
            watch::channel(None).0,
            watch::channel(SessionStatus::default()).0,
        );
        let node = Arc::new(OneNode { resources, status });
        let config = ServerConfig::default();
        let drain = config.drain.clone();
        let mut transport = config.transport();
        let ads = AdsServer::new(node.clone(), config).into_service();
        let serving = transport.add_service(ads).serve_with_incoming_shutdown(
            TcpListenerStream::new(listener),
            drain.clone().cancelled_owned(),
        );
        let serving = tokio::spawn(async move { serving.await.unwrap() });
        Self {
            address,
            node,
            drain,
            serving,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn set(&self, resources: ResourceSet) {
        self.node.resources.send_replace(Some(resources));
    }

    pub(crate) fn status(&self) -> SessionStatus {
        self.node.status.borrow().clone()
    }

    /// Waits until the client has answered the present version of each of `types` in the way given.
    pub(crate) async fn settled(&self, types: &[TypeUrl], state: SyncState) {
        let target = self.node.resources.borrow().clone().unwrap();
        let settled = |status: &SessionStatus| {
            types.iter().all(|ty| {
                let Some(status) = status.types.get(ty) else {
                    return false;
                };
                let sent = status
                    .sent
                    .as_ref()
                    .is_some_and(|s| s.version == version(&target, *ty));
                sent && status.sync() == state
            })
        };
        let mut status = self.node.status.subscribe();
        if timeout(PATIENCE, status.wait_for(settled)).await.is_err() {
            panic!("{types:?} are not {state:?}: {:#?}", self.status());
        }
    }

    pub(crate) async fn stop(self) {
        self.drain.cancel();
        self.serving.await.unwrap();
    }
}

/// The version of a type as a session writes it: the one an otherwise unused session sends.
fn version(target: &ResourceSet, ty: TypeUrl) -> String {
    use lateen_envoy::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
    use lateen_xds::server::{Response, ServerSession, SessionConfig, Variant};

    let mut session = ServerSession::new(Variant::Delta, SessionConfig::default());
    session.set_resources(target.clone());
    let request = DeltaDiscoveryRequest {
        type_url: ty.as_str().to_owned(),
        resource_names_subscribe: vec!["*".to_owned()],
        ..DeltaDiscoveryRequest::default()
    };
    let now = std::time::Instant::now();
    session.on_delta_request(&request, now).unwrap();
    match session.poll(now).unwrap() {
        Response::Delta(response) => response.system_version_info,
        Response::StateOfTheWorld(_) => unreachable!("a delta session"),
    }
}
