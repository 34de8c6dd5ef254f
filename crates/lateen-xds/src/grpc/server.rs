//! The server side: tonic's `AggregatedDiscoveryService` over a [`Discovery`].
//!
//! A stream is one future that tonic polls: no task, no queue. While a client does not read, its future is not polled, nothing is
//! encoded for it, and newer resources replace older ones in its watch; other clients notice nothing.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt, unfold};
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_envoy::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use lateen_envoy::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use lateen_envoy::pb::google::rpc::Status as RpcStatus;
use lateen_envoy::{ResourceSet, TypeUrl};
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::admission::Admission;
use super::{AdmissionConfig, PeerInfo};
use crate::server::{Received, SessionConfig, SessionStatus, Variant};

mod stream;

use stream::{Opening, State};

/// Where streams get their resources from.
#[tonic::async_trait]
pub trait Discovery: Send + Sync + 'static {
    /// Who opens a stream, before a byte of it is read and before it takes a turn: whoever may not have one costs others nothing.
    /// What is known then (`peer`, completed) is handed to [`connect`](Self::connect).
    ///
    /// # Errors
    /// The status ends the stream.
    async fn authenticate(
        &self,
        peer: PeerInfo,
        _metadata: &MetadataMap,
    ) -> Result<PeerInfo, Status> {
        Ok(peer)
    }

    /// A client has opened a stream and was admitted. Check that the peer may be this node; begin to compile for it.
    ///
    /// # Errors
    /// The status ends the stream.
    async fn connect(&self, request: ConnectRequest) -> Result<Connection, Status>;

    /// Something happened on a stream; for metrics and logs. Called on the stream's own path, so it must be quick.
    fn observe(&self, _node_id: &str, _event: &StreamEvent) {}
}

/// A client that opens a stream.
#[derive(Debug)]
pub struct ConnectRequest {
    /// Who it is, as far as the transport has verified.
    pub peer: PeerInfo,
    /// Who it says it is.
    pub node: Node,
    /// The headers of the stream, such as `authorization`.
    pub metadata: MetadataMap,
    /// The protocol it speaks.
    pub variant: Variant,
}

/// A stream's other half, held by whoever serves the node.
///
/// Dropping the sender of `resources` closes the stream, which makes the client reconnect. When the stream ends, both of these are
/// dropped: the receiver of `status` sees its channel closed.
#[derive(Debug)]
pub struct Connection {
    /// What the node is to have. `None` until it is known; the latest wins.
    pub resources: watch::Receiver<Option<ResourceSet>>,
    /// Told after every change.
    pub status: watch::Sender<SessionStatus>,
}

/// Something that happened on a stream.
#[derive(Clone, Debug)]
pub enum StreamEvent {
    /// A response was handed to the transport.
    Sent {
        /// Its type.
        ty: TypeUrl,
        /// Resources in it.
        resources: usize,
        /// Its encoded size.
        bytes: usize,
    },
    /// A request arrived.
    Received(Received),
    /// The client says how its workload is (`istio.v1.HealthInformation`): well, or what is wrong with it.
    Health(Option<String>),
    /// The stream ended.
    Closed,
}

/// How streams are served.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The protocol's limits and waits.
    pub session: SessionConfig,
    /// How fast new streams are let in.
    pub admission: AdmissionConfig,
    /// Largest request in bytes. A delta client that reconnects names every resource it holds.
    pub max_request_bytes: usize,
    /// Requests a second that are read of one stream in the long run, and at once. More are left in the connection's window: a
    /// client that floods waits, and no other does. A healthy one answers each response once.
    pub request_rate: (f64, u32),
    /// Streams at a time on one connection. A proxy and its agent use one each.
    pub streams_per_connection: u32,
    /// How long a new stream may stay silent.
    pub first_request_timeout: Duration,
    /// How often an idle connection is asked whether it is still there, and how long it has to answer.
    pub keep_alive: (Duration, Duration),
    /// Ends every stream when cancelled, so that clients reconnect to another replica.
    pub drain: CancellationToken,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            session: SessionConfig::default(),
            admission: AdmissionConfig::default(),
            max_request_bytes: 16 << 20,
            request_rate: (100.0, 1000),
            streams_per_connection: 32,
            first_request_timeout: Duration::from_secs(15),
            keep_alive: (Duration::from_secs(30), Duration::from_secs(10)),
            drain: CancellationToken::new(),
        }
    }
}

impl ServerConfig {
    /// Sets up the HTTP/2 side of a tonic server for long idle streams.
    pub fn transport(&self) -> tonic::transport::Server {
        tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(self.keep_alive.0))
            .http2_keepalive_timeout(Some(self.keep_alive.1))
            .max_concurrent_streams(self.streams_per_connection)
            .tcp_nodelay(true)
    }
}

/// Serves ADS, both variants, from a [`Discovery`].
#[derive(Clone)]
pub struct AdsServer {
    shared: Arc<Shared>,
}

struct Shared {
    discovery: Arc<dyn Discovery>,
    config: ServerConfig,
    admission: Admission,
}

impl AdsServer {
    /// A server of `discovery`'s resources.
    pub fn new(discovery: Arc<dyn Discovery>, config: ServerConfig) -> Self {
        let admission = Admission::new(&config.admission);
        Self {
            shared: Arc::new(Shared {
                discovery,
                config,
                admission,
            }),
        }
    }

    /// The service to add to a tonic server.
    pub fn into_service(self) -> AggregatedDiscoveryServiceServer<Self> {
        let max = self.shared.config.max_request_bytes;
        AggregatedDiscoveryServiceServer::new(self)
            .max_decoding_message_size(max)
            .max_encoding_message_size(usize::MAX)
    }

    fn serve<P: Protocol>(&self, request: Request<Streaming<P>>) -> Responses<P::Response> {
        let peer = PeerInfo::of(request.extensions());
        let (metadata, _, inbound) = request.into_parts();
        let opening = Opening {
            shared: self.shared.clone(),
            peer,
            metadata,
            inbound,
        };
        unfold(State::Opening(Box::new(opening)), State::step).boxed()
    }
}

type Responses<R> = BoxStream<'static, Result<R, Status>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for AdsServer {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(Response::new(self.serve(request)))
    }

    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(Response::new(self.serve(request)))
    }
}

/// What the two variants differ in, seen from the stream.
trait Protocol: Message + Default + Send + 'static {
    type Response: Message + Send + 'static;
    const VARIANT: Variant;

    fn take_node(&mut self) -> Option<Node>;
    /// What it says of the workload's health, if it is about that and nothing else.
    fn health(&self) -> Option<Option<String>>;
    fn feed(
        &self,
        session: &mut crate::server::ServerSession,
        now: std::time::Instant,
    ) -> Result<Received, crate::server::RequestError>;
    /// `None` for a response of the other variant, which a session never gives.
    fn response(response: crate::server::Response) -> Option<(Self::Response, String, usize)>;
}

/// A request of this type subscribes to nothing. Source: Istio, `HealthInfoType`.
fn health(type_url: &str, error: Option<&RpcStatus>) -> Option<Option<String>> {
    (type_url == crate::HEALTH_INFORMATION).then(|| error.map(crate::server::reason))
}

impl Protocol for DiscoveryRequest {
    type Response = DiscoveryResponse;
    const VARIANT: Variant = Variant::StateOfTheWorld;

    fn take_node(&mut self) -> Option<Node> {
        self.node.take()
    }

    fn health(&self) -> Option<Option<String>> {
        health(&self.type_url, self.error_detail.as_ref())
    }

    fn feed(
        &self,
        session: &mut crate::server::ServerSession,
        now: std::time::Instant,
    ) -> Result<Received, crate::server::RequestError> {
        session.on_request(self, now)
    }

    fn response(response: crate::server::Response) -> Option<(DiscoveryResponse, String, usize)> {
        match response {
            crate::server::Response::StateOfTheWorld(response) => {
                let (url, count) = (response.type_url.clone(), response.resources.len());
                Some((response, url, count))
            }
            crate::server::Response::Delta(_) => None,
        }
    }
}

impl Protocol for DeltaDiscoveryRequest {
    type Response = DeltaDiscoveryResponse;
    const VARIANT: Variant = Variant::Delta;

    fn take_node(&mut self) -> Option<Node> {
        self.node.take()
    }

    fn health(&self) -> Option<Option<String>> {
        health(&self.type_url, self.error_detail.as_ref())
    }

    fn feed(
        &self,
        session: &mut crate::server::ServerSession,
        now: std::time::Instant,
    ) -> Result<Received, crate::server::RequestError> {
        session.on_delta_request(self, now)
    }

    fn response(
        response: crate::server::Response,
    ) -> Option<(DeltaDiscoveryResponse, String, usize)> {
        match response {
            crate::server::Response::Delta(response) => {
                let (url, count) = (response.type_url.clone(), response.resources.len());
                Some((response, url, count))
            }
            crate::server::Response::StateOfTheWorld(_) => None,
        }
    }
}
