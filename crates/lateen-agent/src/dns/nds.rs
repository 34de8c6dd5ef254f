//! The name table over xDS: a subscription to nothing but NDS.
//!
//! Beside a stock Envoy the agent asks for it itself, since Envoy knows no such type; beside our own proxy it does the same, so
//! that names do not depend on the proxy's stream.

use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::istio::nds::NameTable;
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_envoy::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use lateen_envoy::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use lateen_envoy::{TypeUrl, unpack};
use lateen_xds::client::{ClientSession, Incoming, Update};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

/// Requests waiting to be sent. One is made per response, so more never wait.
const QUEUE: usize = 8;
/// The first wait before a stream is tried again, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A large mesh's table: a hundred thousand names.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// Keeps `names` up to date until it is dropped by every reader. The last table stays while the control plane is away.
pub async fn subscribe(channel: Channel, node: Node, names: watch::Sender<Option<Arc<NameTable>>>) {
    let mut session = ClientSession::new(node);
    session.subscribe_all(TypeUrl::NameTable);
    let mut wait = BACKOFF.0;
    while !names.is_closed() {
        let ended = stream(channel.clone(), &mut session, &names, &mut wait).await;
        session.disconnected();
        if let Err(status) = ended {
            tracing::info!(code = ?status.code(), message = status.message(), "name table's stream ended");
        }
        tokio::select! {
            () = tokio::time::sleep(wait.mul_f64(0.5 + rand::random::<f64>() / 2.0)) => {}
            () = names.closed() => return,
        }
        wait = (wait * 2).min(BACKOFF.1);
    }
}

async fn stream(
    channel: Channel,
    session: &mut ClientSession,
    names: &watch::Sender<Option<Arc<NameTable>>>,
    wait: &mut Duration,
) -> Result<(), Status> {
    let (requests, queue) = mpsc::channel::<DeltaDiscoveryRequest>(QUEUE);
    for request in session.restart() {
        // The queue is empty and longer than what a session of one type says first.
        let _ = requests.try_send(request);
    }
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let mut responses = client
        .delta_aggregated_resources(ReceiverStream::new(queue))
        .await?
        .into_inner();
    while let Some(response) = responses.next().await {
        *wait = BACKOFF.0;
        let answer = match session.on_response(response?) {
            Incoming::Update(update) => apply(session, &update, names),
            Incoming::Refused(request) => Some(*request),
            Incoming::Ignored => None,
        };
        if let Some(answer) = answer
            && requests.send(answer).await.is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

/// The control plane sends one resource that holds the whole table.
fn apply(
    session: &mut ClientSession,
    update: &Update,
    names: &watch::Sender<Option<Arc<NameTable>>>,
) -> Option<DeltaDiscoveryRequest> {
    for resource in &update.changed {
        match unpack::<NameTable>(&resource.body) {
            Ok(table) => drop(names.send_replace(Some(Arc::new(table)))),
            Err(error) => {
                return session.nack(&update.ticket, &crate::error_chain(&error).to_string());
            }
        }
    }
    session.ack(&update.ticket)
}
