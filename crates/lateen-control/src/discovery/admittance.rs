//! Who may open a stream, as whom, and who may have Secrets.
//!
//! A stream's peer is known by its certificate or a token before a byte of the stream is read. What it then says of itself has to fit
//! what it proved, and the pods that are known: a node's namespace, service account and pod are claims.

use std::sync::Arc;
use std::time::SystemTime;

use lateen_compile::{ProxyNode, Snapshot};
use lateen_identity::SpiffeId;
use lateen_identity::grpc::{Authenticators, Credentials, RateLimit, RateLimiter};
use lateen_identity::spiffe::TrustDomains;
use lateen_xds::grpc::PeerInfo;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tracing::warn;

/// Streams of one identity from one address at a time. A proxy and its agent have one each, and for a moment two when they
/// reconnect; behind a shared address there may be several of them.
pub(super) const MAX_STREAMS: usize = 32;
/// Streams that one identity may open from one address: in the long run, and at once.
const EACH: RateLimit = RateLimit {
    per_second: 1.0,
    burst: 32.0,
};
/// For all together the server's own admission is what limits; this bounds the work of refusing.
const ALL: RateLimit = RateLimit {
    per_second: 10_000.0,
    burst: 10_000.0,
};

/// Lets peers in by what they prove.
#[derive(Debug)]
pub(super) struct Admittance {
    authenticators: Authenticators,
    domains: TrustDomains,
    limiter: RateLimiter,
}

impl Admittance {
    pub(super) fn new(authenticators: Authenticators, domains: TrustDomains) -> Self {
        Self {
            authenticators,
            domains,
            limiter: RateLimiter::new(ALL, EACH),
        }
    }

    /// The peer with its identity.
    pub(super) async fn admit(
        &self,
        peer: PeerInfo,
        metadata: &MetadataMap,
    ) -> Result<PeerInfo, Status> {
        let id = self.identify(&peer, metadata).await?;
        let ip = peer.remote.map(|address| address.ip());
        let who = format!("{id} {ip:?}");
        self.limiter.admit(&who).map_err(|wait| {
            warn!(%id, ?ip, "a workload opens streams too often");
            Status::resource_exhausted(format!("too many streams; try again in {wait:?}"))
        })?;
        Ok(PeerInfo {
            identity: Some(Arc::from(id.to_string().into_bytes())),
            ..peer
        })
    }

    async fn identify(&self, peer: &PeerInfo, metadata: &MetadataMap) -> Result<SpiffeId, Status> {
        if let Some(name) = peer.identity.as_deref() {
            let id = SpiffeId::parse(name).map_err(|error| refused(peer, &error))?;
            // A root may sign for other meshes too; their workloads have nothing to ask here.
            if !self.domains.contains(id.trust_domain()) {
                return Err(refused(peer, &format!("`{id}` is of another mesh")));
            }
            return Ok(id.in_domain(self.domains.own().clone()));
        }
        let bearer = metadata
            .get("authorization")
            .and_then(|v| v.to_str().ok()?.strip_prefix("Bearer "))
            .map(str::to_owned);
        let credentials = Credentials {
            bearer,
            address: peer.remote,
            ..Credentials::default()
        };
        let now = SystemTime::now();
        let caller = self.authenticators.authenticate(&credentials, now).await;
        caller
            .map(|caller| caller.id)
            .map_err(|error| refused(peer, &error))
    }
}

/// Why is for our log; who asks learns only that it was refused.
fn refused(peer: &PeerInfo, why: &dyn std::fmt::Display) -> Status {
    warn!(%why, peer = ?peer.remote, "a stream was refused");
    Status::unauthenticated("authentication failed")
}

/// The identity that [`Admittance::admit`] has found.
pub(super) fn identity(peer: &PeerInfo) -> Result<SpiffeId, Status> {
    let name = peer.identity.as_deref().unwrap_or_default();
    SpiffeId::parse(name).map_err(|_| Status::unauthenticated("authentication failed"))
}

/// Whether an identity may ask as a node: of its own namespace and service account, and not in the name of a pod that has another.
pub(super) fn may_be(id: &SpiffeId, node: &ProxyNode, snapshot: &Snapshot) -> Result<(), Status> {
    let own = |account: &str| account.is_empty() || account == id.service_account();
    let pods_account = snapshot
        .pod(&node.namespace, &node.name)
        .map_or("", |pod| &pod.service_account);
    if id.namespace() == node.namespace && own(&node.service_account) && own(pods_account) {
        return Ok(());
    }
    warn!(%id, node = node.id, "an identity asked for another's configuration");
    Err(Status::permission_denied(
        "the node is of another namespace or service account than its identity",
    ))
}

/// Whether a node may have the Secrets that its configuration names: if it is a pod that is known, and has proved to be of its
/// service account. A node that no pod is known for could have made up the labels by which a Gateway selects it.
pub(super) fn may_have_secrets(
    id: Option<&SpiffeId>,
    node: &ProxyNode,
    snapshot: &Snapshot,
) -> bool {
    let Some(id) = id else { return false };
    let pod = snapshot.pod(&node.namespace, &node.name);
    pod.is_some_and(|pod| pod.service_account == id.service_account())
}
