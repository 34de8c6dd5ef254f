//! SDS on a Unix socket: the workload's certificate and roots for a data plane that takes them from us.
//!
//! Secrets are `default` (certificate and key) and `ROOTCA` (roots), and certificates in files by the names Istio gives them
//! (`file-cert:CERT~KEY`, `file-root:PATH`, `file-root:system`). State-of-the-world and delta are served; a rotation is pushed to every
//! stream, and so is a changed file. Another name is never answered, as xDS demands of a resource that may yet come.

mod source;
mod state;

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use lateen_envoy::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use lateen_envoy::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use lateen_identity::WorkloadIdentity;
use lateen_identity::file_secret::POLL;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use source::Source;
use state::{DeltaState, SotwState};

/// The name of the workload's certificate.
pub const DEFAULT: &str = "default";
/// The name of its roots.
pub const ROOT_CA: &str = "ROOTCA";

/// Responses waiting for Envoy to read them. When full the stream waits; the identity is a watch, so nothing piles up.
const QUEUE: usize = 4;

/// The identity as SDS serves it.
type Identity = watch::Receiver<Option<Arc<WorkloadIdentity>>>;
type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service.
#[derive(Clone, Debug)]
pub struct SecretService {
    identity: Identity,
}

impl SecretService {
    /// Serves `identity` as it changes.
    pub fn new(identity: Identity) -> Self {
        Self { identity }
    }

    /// As a service of a tonic server.
    pub fn into_server(self) -> SecretDiscoveryServiceServer<Self> {
        SecretDiscoveryServiceServer::new(self)
    }
}

/// One variant of the protocol: what to answer to a request, and to a new identity.
trait Variant: Default + Send + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;

    /// Takes a request; `true` if it may need an answer.
    fn on_request(&mut self, request: Self::Request) -> bool;

    /// What is to be sent given what there is.
    fn respond(&mut self, source: &mut Source) -> Option<Self::Response>;
}

/// Serves one stream until either side ends it. The task is owned by the stream it feeds: it ends when that is dropped.
async fn serve<V: Variant>(
    mut requests: Streaming<V::Request>,
    mut identity: Identity,
    responses: mpsc::Sender<Result<V::Response, Status>>,
) {
    let mut state = V::default();
    let mut source = Source::default();
    let mut look = tokio::time::interval(POLL);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    identity.mark_changed();
    loop {
        // All branches are cancel-safe.
        tokio::select! {
            request = requests.next() => match request {
                Some(Ok(request)) => if !state.on_request(request) { continue },
                Some(Err(_)) | None => return,
            },
            changed = identity.changed() => if changed.is_err() { return },
            _ = look.tick(), if source.has_files() => if !source.files_changed() { continue },
            () = responses.closed() => return,
        }
        source.identity.clone_from(&identity.borrow_and_update());
        if let Some(response) = state.respond(&mut source)
            && responses.send(Ok(response)).await.is_err()
        {
            return;
        }
    }
}

fn start<V: Variant>(
    requests: Streaming<V::Request>,
    identity: Identity,
) -> Response<Responses<V::Response>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(serve::<V>(requests, identity, sender));
    Response::new(Box::pin(ReceiverStream::new(receiver)))
}

#[tonic::async_trait]
impl SecretDiscoveryService for SecretService {
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Responses<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Ok(start::<DeltaState>(
            request.into_inner(),
            self.identity.clone(),
        ))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        Ok(start::<SotwState>(
            request.into_inner(),
            self.identity.clone(),
        ))
    }

    async fn fetch_secrets(
        &self,
        _request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("secrets are streamed"))
    }
}
