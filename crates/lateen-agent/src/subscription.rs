//! What the agent itself asks of the control plane over xDS: the name table (NDS) and the roots of other meshes (PCDS).
//!
//! Beside a stock Envoy the agent asks for them itself, since Envoy knows no such types; beside our own proxy it does the same, so
//! that names and roots do not depend on the proxy's stream.

use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::istio::mesh::ProxyConfig;
use lateen_envoy::istio::nds::NameTable;
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_envoy::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use lateen_envoy::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use lateen_envoy::{Resource, TypeUrl, UnpackError, unpack, with_causes};
use lateen_identity::TrustBundle;
use lateen_identity::x509::{CertificateFacts, certificates_from_pem};
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
/// Roots of other meshes, at most: each is gone through in a handshake whose issuer is not known.
const MAX_ROOTS: usize = 256;

/// Where what the control plane says is put. The last word stays while it is away.
#[derive(Debug)]
pub struct Sinks {
    /// The name table, if names are answered.
    pub names: Option<watch::Sender<Option<Arc<NameTable>>>>,
    /// Roots of other meshes; `None` while there are none.
    pub roots: watch::Sender<Option<Arc<TrustBundle>>>,
}

/// Keeps the sinks up to date until nobody reads the roots.
pub async fn subscribe(channel: Channel, node: Node, sinks: Sinks) {
    let mut session = ClientSession::new(node);
    session.subscribe_all(TypeUrl::ProxyConfig);
    if sinks.names.is_some() {
        session.subscribe_all(TypeUrl::NameTable);
    }
    let mut wait = BACKOFF.0;
    while !sinks.roots.is_closed() {
        let ended = stream(channel.clone(), &mut session, &sinks, &mut wait).await;
        session.disconnected();
        if let Err(status) = ended {
            tracing::info!(code = ?status.code(), message = status.message(), "the agent's stream ended");
        }
        tokio::select! {
            () = tokio::time::sleep(wait.mul_f64(0.5 + rand::random::<f64>() / 2.0)) => {}
            () = sinks.roots.closed() => return,
        }
        wait = (wait * 2).min(BACKOFF.1);
    }
}

async fn stream(
    channel: Channel,
    session: &mut ClientSession,
    sinks: &Sinks,
    wait: &mut Duration,
) -> Result<(), Status> {
    let (requests, queue) = mpsc::channel::<DeltaDiscoveryRequest>(QUEUE);
    for request in session.restart() {
        // The queue is empty and longer than what a session of two types says first.
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
            Incoming::Update(update) => apply(session, &update, sinks),
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

/// The control plane sends one resource of each type, which holds all there is.
fn apply(
    session: &mut ClientSession,
    update: &Update,
    sinks: &Sinks,
) -> Option<DeltaDiscoveryRequest> {
    for resource in &update.changed {
        let taken = match update.ty {
            TypeUrl::ProxyConfig => roots(resource).map(|roots| {
                let changed = |known: &mut Option<Arc<TrustBundle>>| {
                    let changed = *known != roots;
                    known.clone_from(&roots);
                    changed
                };
                if sinks.roots.send_if_modified(changed) {
                    let roots = roots.as_ref().map_or(0, |roots| roots.roots().len());
                    tracing::info!(roots, "roots of other meshes have changed");
                }
            }),
            _ => unpack::<NameTable>(&resource.body).map(|table| {
                if let Some(names) = &sinks.names {
                    names.send_replace(Some(Arc::new(table)));
                }
            }),
        };
        if let Err(error) = taken {
            return session.nack(&update.ticket, &with_causes(&error));
        }
    }
    if update.ty == TypeUrl::ProxyConfig && !update.removed.is_empty() {
        sinks.roots.send_replace(None);
    }
    session.ack(&update.ticket)
}

/// The roots of a message. What is no certificate of an authority is left out: nobody is trusted by it, and the others stay.
fn roots(resource: &Resource) -> Result<Option<Arc<TrustBundle>>, UnpackError> {
    let config: ProxyConfig = unpack(&resource.body)?;
    let mut roots = Vec::new();
    for (index, pem) in config.ca_certificates_pem.iter().enumerate() {
        match certificates_from_pem(pem.as_bytes()) {
            Ok(certificates) => roots.extend(certificates),
            Err(error) => {
                tracing::warn!(index, %error, "a root of another mesh cannot be read, and is not trusted");
            }
        }
    }
    roots.retain(|root| CertificateFacts::from_der(root).is_ok_and(|facts| facts.is_ca));
    if roots.len() > MAX_ROOTS {
        tracing::warn!(
            roots = roots.len(),
            MAX_ROOTS,
            "too many roots of other meshes; the first are trusted"
        );
        roots.truncate(MAX_ROOTS);
    }
    // One by one: a root that rustls cannot use must not take the others with it.
    roots.retain(|root| TrustBundle::new([root.clone()]).is_ok());
    Ok(TrustBundle::new(roots).ok().map(Arc::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(is_ca: bool) -> String {
        let mut params = rcgen::CertificateParams::default();
        if is_ca {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    fn told(pem: &[String]) -> Option<usize> {
        let config = ProxyConfig {
            ca_certificates_pem: pem.to_vec(),
        };
        let roots = roots(&Resource::new("x", &config)).unwrap();
        roots.map(|roots| roots.roots().len())
    }

    #[test]
    fn what_is_no_root_is_left_out_and_the_others_are_trusted() {
        let (a, b) = (authority(true), authority(true));
        assert_eq!(told(&[a.clone(), b.clone()]), Some(2));
        assert_eq!(told(&[format!("{a}{b}"), a.clone()]), Some(2));
        assert_eq!(told(&["junk".to_owned(), authority(false), b]), Some(1));
        assert_eq!(told(&["junk".to_owned()]), None);
        assert_eq!(told(&[]), None);
    }

    #[test]
    fn there_is_a_limit_to_them() {
        let one = authority(true);
        let many: Vec<String> = (0..=MAX_ROOTS).map(|_| authority(true)).collect();
        assert_eq!(
            told(&vec![one; MAX_ROOTS * 2]),
            Some(1),
            "repetitions count once"
        );
        assert_eq!(told(&many), Some(MAX_ROOTS));
    }
}
