//! The client of a server of secrets: one state-of-the-world stream of SDS on a connection that its owner has made.
//!
//! Other servers than the control plane are reached by way of the mesh, so that who connects is the proxy, and this speaks.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_envoy::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use lateen_envoy::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use lateen_envoy::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use lateen_envoy::pb::google::rpc::Status as RpcStatus;
use lateen_envoy::{Resource, TypeUrl, unpack};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Largest response, in bytes. A secret has a few kilobytes.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// Most secrets of one response.
const MAX_SECRETS: usize = 1024;
/// `google.rpc.Code.INVALID_ARGUMENT`, which Envoy rejects with.
const INVALID_ARGUMENT: i32 = 3;

/// Secrets that came, and the duty to say whether they can be used.
#[derive(Debug)]
pub struct Delivery {
    /// The secrets, by their names at the server.
    pub secrets: Vec<Resource>,
    /// Dropped without an answer it rejects them.
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// Asks for secrets on a connection until it ends. The names may change meanwhile.
///
/// # Errors
/// What ended the stream.
pub async fn secrets<S>(
    io: S,
    authority: &str,
    node: Node,
    mut names: watch::Receiver<BTreeSet<Arc<str>>>,
    deliveries: mpsc::Sender<Delivery>,
) -> Result<(), Status>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let channel = channel_over(io, authority).await?;
    // One request is made per response and per change of names, and each waits for the last to be taken.
    let (requests, queue) = mpsc::channel(4);
    let mut asked = Asked::default();
    let first = asked.request(&names.borrow_and_update(), None);
    let first = DiscoveryRequest {
        node: Some(node),
        ..first
    };
    let gone = |_| Status::unavailable("the stream is gone");
    requests.send(first).await.map_err(gone)?;
    let mut client =
        SecretDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let answered = client.stream_secrets(ReceiverStream::new(queue)).await?;
    let mut responses = answered.into_inner();
    loop {
        let request = tokio::select! {
            response = responses.message() => {
                let Some(response) = response? else { return Ok(()) };
                let error = deliver(&response, &deliveries).await.err();
                asked.nonce = response.nonce;
                if error.is_none() {
                    asked.version = response.version_info;
                }
                asked.request(&names.borrow_and_update(), error)
            }
            changed = names.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                asked.request(&names.borrow_and_update(), None)
            }
        };
        requests.send(request).await.map_err(gone)?;
    }
}

/// What was said last.
#[derive(Debug, Default)]
struct Asked {
    version: String,
    nonce: String,
}

impl Asked {
    fn request(&self, names: &BTreeSet<Arc<str>>, error: Option<String>) -> DiscoveryRequest {
        DiscoveryRequest {
            version_info: self.version.clone(),
            response_nonce: self.nonce.clone(),
            type_url: TypeUrl::Secret.as_str().to_owned(),
            resource_names: names.iter().map(|name| name.to_string()).collect(),
            error_detail: error.map(|message| RpcStatus {
                code: INVALID_ARGUMENT,
                message,
                ..RpcStatus::default()
            }),
            ..DiscoveryRequest::default()
        }
    }
}

async fn deliver(
    response: &DiscoveryResponse,
    deliveries: &mpsc::Sender<Delivery>,
) -> Result<(), String> {
    if response.resources.len() > MAX_SECRETS {
        return Err(format!("more than {MAX_SECRETS} secrets in one response"));
    }
    let secrets = response.resources.iter().map(|any| {
        let secret: Secret = unpack(any).map_err(|error| error.to_string())?;
        Ok(Resource::from_any(secret.name, any.clone()))
    });
    let (answer, verdict) = oneshot::channel();
    let delivery = Delivery {
        secrets: secrets.collect::<Result<_, String>>()?,
        answer,
    };
    let nobody = || "nobody takes the secrets".to_owned();
    deliveries.send(delivery).await.map_err(|_| nobody())?;
    verdict.await.unwrap_or_else(|_| Err(nobody()))
}

/// A channel on a connection that is there already; it is given away once.
async fn channel_over<S>(io: S, authority: &str) -> Result<Channel, Status>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut once = Some(TokioIo::new(io));
    let connector = tower::service_fn(move |_| {
        let stream = once.take();
        let stream = stream.ok_or_else(|| io::Error::other("the connection is gone"));
        std::future::ready(stream)
    });
    let endpoint = Endpoint::from_shared(format!("http://{authority}"));
    let endpoint = endpoint.map_err(|error| Status::internal(error.to_string()))?;
    let connected = endpoint.connect_with_connector(connector).await;
    connected.map_err(|error| Status::unavailable(error.to_string()))
}
