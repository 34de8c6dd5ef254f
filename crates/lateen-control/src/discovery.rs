//! Which proxy gets what: authentication of streams, and one compile loop for each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use lateen_api::Diagnostic;
use lateen_compile::{Compiled, Compiler, ProxyNode};
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_envoy::{ResourceSet, TypeUrl};
use lateen_identity::SpiffeId;
use lateen_identity::grpc::Authenticators;
use lateen_identity::spiffe::TrustDomains;
use lateen_xds::grpc::{ConnectRequest, Connection, Discovery, PeerInfo, StreamEvent};
use lateen_xds::server::{SessionStatus, SyncState, TypeStatus};
use tokio::sync::{Semaphore, watch};
use tonic::Status;
use tonic::metadata::MetadataMap;
use tracing::{error, info, warn};

use self::admittance::{Admittance, may_be, may_have_secrets};
use crate::mesh::Published;
use crate::metrics::Metrics;
use crate::workloads::{WorkloadRegistry, Workloads};

mod admittance;

/// A connected proxy.
#[derive(Debug)]
pub struct Proxy {
    /// What it says of itself, as Envoy's message.
    pub raw: Node,
    /// The same, read.
    pub node: ProxyNode,
    /// Who it proved to be.
    pub identity: Option<SpiffeId>,
    /// Where from.
    pub remote: Option<SocketAddr>,
    /// When it connected.
    pub connected_at: SystemTime,
    /// How far it has got.
    pub status: watch::Receiver<SessionStatus>,
    /// What it is to have.
    pub resources: watch::Receiver<Option<ResourceSet>>,
    /// The newest snapshot that was compiled for it.
    pub generation: AtomicU64,
    /// What was found while compiling for it.
    pub diagnostics: watch::Receiver<Vec<Diagnostic>>,
}

impl Proxy {
    /// Whether it has acknowledged everything of a snapshot.
    pub fn is_current(&self, generation: u64) -> bool {
        let status = self.status.borrow();
        let waits =
            |state: &TypeStatus| matches!(state.sync(), SyncState::Stale | SyncState::Error);
        self.generation.load(Ordering::Relaxed) >= generation
            && !status.types.is_empty()
            && !status.types.values().any(waits)
    }
}

/// What serving proxies has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Streams that are open.
    pub connected: usize,
    /// Those that have not acknowledged the newest snapshot.
    pub behind: usize,
    /// Compilations for one proxy.
    pub compilations: u64,
    /// Runs of generators: what no table of the compiler knew.
    pub generators: u64,
    /// Responses sent.
    pub responses: u64,
    /// Their bytes.
    pub sent_bytes: u64,
}

/// Whether streams must prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// By certificate or token: the port that others can reach.
    Authenticated,
    /// Not at all: a port that only this machine's owner can reach.
    Anyone,
}

/// What all streams share.
pub struct Proxies {
    published: watch::Receiver<Arc<Published>>,
    compiler: Arc<Compiler>,
    /// Compilations at the same time: no more than there are cores, so that answering is never starved.
    compiling: Arc<Semaphore>,
    connected: Mutex<BTreeMap<u64, Arc<Proxy>>>,
    next: AtomicU64,
    admittance: Admittance,
    /// Workloads that are no pods; none where nothing is published of them.
    workloads: Option<Arc<Workloads>>,
    pub(crate) metrics: Metrics,
}

impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxies")
            .field("connected", &self.lock().len())
            .finish_non_exhaustive()
    }
}

impl Proxies {
    /// Serves what is published.
    pub fn new(
        published: watch::Receiver<Arc<Published>>,
        authenticators: Authenticators,
        domains: TrustDomains,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            published,
            compiler: Arc::new(Compiler::new()),
            compiling: Arc::new(Semaphore::new(cores)),
            connected: Mutex::default(),
            next: AtomicU64::new(1),
            admittance: Admittance::new(authenticators, domains),
            workloads: None,
            metrics: Metrics::default(),
        }
    }

    /// Lets workloads register whose entries are published.
    pub fn with_workloads(mut self, workloads: WorkloadRegistry) -> Self {
        self.workloads = Some(workloads.0);
        self
    }

    /// The connected proxies, by node id.
    pub fn connected(&self) -> Vec<Arc<Proxy>> {
        let mut all: Vec<Arc<Proxy>> = self.lock().values().cloned().collect();
        all.sort_by(|a, b| a.raw.id.cmp(&b.raw.id));
        all
    }

    /// The newest snapshot.
    pub fn published(&self) -> Arc<Published> {
        self.published.borrow().clone()
    }

    /// What serving them has cost so far.
    pub fn work(&self) -> Work {
        let generation = self.published.borrow().generation;
        let connected = self.lock();
        let behind = behind(connected.values(), generation);
        Work {
            connected: connected.len(),
            behind: behind.len(),
            generators: self.compiler.stats().all.misses,
            ..self.metrics.work()
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<Proxy>>> {
        // Every change of the map is one call, so a panic elsewhere cannot leave it half done.
        self.connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a workload has streams left: each costs a compilation with every change.
    fn may_open_another(&self, id: &SpiffeId, remote: Option<SocketAddr>) -> Result<(), Status> {
        let ip = remote.map(|address| address.ip());
        let same = |proxy: &&Arc<Proxy>| {
            proxy.identity.as_ref() == Some(id) && proxy.remote.map(|a| a.ip()) == ip
        };
        let open = self.lock().values().filter(same).count();
        if open < admittance::MAX_STREAMS {
            return Ok(());
        }
        warn!(%id, ?ip, open, "a workload has too many streams");
        Err(Status::resource_exhausted(
            "the workload has too many streams; close some",
        ))
    }

    fn open(
        self: Arc<Self>,
        request: ConnectRequest,
        identity: Option<SpiffeId>,
    ) -> Result<Connection, Status> {
        let mut node = ProxyNode::from_node(&request.node).map_err(|error| {
            warn!(%error, id = request.node.id, "a node cannot be served");
            Status::invalid_argument(format!("node: {error}"))
        })?;
        if let Some(id) = &identity {
            may_be(id, &node, &self.published().snapshot)?;
            self.may_open_another(id, request.peer.remote)?;
        }
        let known = self.published().workloads.clone();
        let claim = match &self.workloads {
            Some(workloads) => workloads.connect(&mut node, identity.as_ref(), &known)?,
            None => None,
        };
        let (resources, resources_seen) = watch::channel(None);
        let (status, status_seen) = watch::channel(SessionStatus::default());
        let (diagnostics, diagnostics_seen) = watch::channel(Vec::new());
        let proxy = Arc::new(Proxy {
            raw: request.node,
            node,
            identity,
            remote: request.peer.remote,
            connected_at: SystemTime::now(),
            status: status_seen,
            resources: resources_seen.clone(),
            generation: AtomicU64::new(0),
            diagnostics: diagnostics_seen,
        });
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        info!(proxy = proxy.raw.id, variant = ?request.variant, "connected");
        self.lock().insert(id, proxy.clone());
        let serving = self.serve(id, proxy, resources, diagnostics);
        tokio::spawn(async move {
            serving.await;
            if let Some(claim) = claim {
                claim.release().await;
            }
        });
        Ok(Connection {
            resources: resources_seen,
            status,
        })
    }

    /// Compiles for one proxy whenever a snapshot is published, until its stream ends.
    async fn serve(
        self: Arc<Self>,
        id: u64,
        proxy: Arc<Proxy>,
        resources: watch::Sender<Option<ResourceSet>>,
        diagnostics: watch::Sender<Vec<Diagnostic>>,
    ) {
        let mut published = self.published.clone();
        let mut status = proxy.status.clone();
        let mut last: Option<Compiled> = None;
        let mut entitled = false;
        loop {
            let newest = published.borrow_and_update().clone();
            let known = last.as_mut();
            // Whether a node is a known pod does not show in what was compiled for it.
            let before = entitled;
            entitled = may_have_secrets(proxy.identity.as_ref(), &proxy.node, &newest.snapshot);
            let holds = entitled == before
                && known.is_some_and(|k| k.also_holds_for(&newest.snapshot, &proxy.node));
            if holds {
                proxy.generation.store(newest.generation, Ordering::Relaxed);
            } else if let Some(mut compiled) = self.compile(&newest, &proxy.node).await {
                if !entitled {
                    compiled.resources.set(TypeUrl::Secret, Arc::default());
                }
                diagnostics.send_if_modified(|known| {
                    let differ = *known != compiled.diagnostics;
                    known.clone_from(&compiled.diagnostics);
                    differ
                });
                if last.as_ref().map(|last| &last.resources) != Some(&compiled.resources) {
                    resources.send_replace(Some(compiled.resources.clone()));
                }
                last = Some(compiled);
                proxy.generation.store(newest.generation, Ordering::Relaxed);
            }
            let go_on = tokio::select! {
                changed = published.changed() => changed.is_ok(),
                () = closed(&mut status) => false,
            };
            if !go_on {
                break;
            }
        }
        info!(proxy = proxy.raw.id, "disconnected");
        self.lock().remove(&id);
    }

    /// `None` when compiling panicked: a bug; the proxy keeps what it has.
    async fn compile(&self, published: &Arc<Published>, node: &ProxyNode) -> Option<Compiled> {
        let _turn = self.compiling.acquire().await.ok()?;
        let (published, compiler, node) = (published.clone(), self.compiler.clone(), node.clone());
        let started = Instant::now();
        let work = move || compiler.compile(&published.snapshot, &node);
        let done = tokio::task::spawn_blocking(work).await;
        self.metrics.compiled(started.elapsed());
        done.inspect_err(
            |error| error!(%error, "compiling for a proxy failed; it keeps what it has"),
        )
        .ok()
    }
}

/// The proxies that have not acknowledged everything of a snapshot. A stream that asks for nothing is none beside one of the same node that
/// does: an agent says on it how its workload is.
pub(crate) fn behind<'a>(
    connected: impl Iterator<Item = &'a Arc<Proxy>> + Clone,
    generation: u64,
) -> Vec<&'a Arc<Proxy>> {
    let asks = |proxy: &&Arc<Proxy>| !proxy.status.borrow().types.is_empty();
    let asking: BTreeSet<&str> = connected
        .clone()
        .filter(asks)
        .map(|proxy| proxy.raw.id.as_str())
        .collect();
    connected
        .filter(|proxy| asks(proxy) || !asking.contains(proxy.raw.id.as_str()))
        .filter(|proxy| !proxy.is_current(generation))
        .collect()
}

/// Waits until the stream has dropped its side.
async fn closed(status: &mut watch::Receiver<SessionStatus>) {
    while status.changed().await.is_ok() {}
}

/// ADS for streams of one level of trust.
#[derive(Debug)]
pub struct Door {
    /// The streams' shared state.
    pub proxies: Arc<Proxies>,
    /// What streams must prove.
    pub trust: Trust,
}

#[tonic::async_trait]
impl Discovery for Door {
    async fn authenticate(
        &self,
        peer: PeerInfo,
        metadata: &MetadataMap,
    ) -> Result<PeerInfo, Status> {
        match self.trust {
            Trust::Authenticated => self.proxies.admittance.admit(peer, metadata).await,
            Trust::Anyone => Ok(PeerInfo {
                identity: None,
                ..peer
            }),
        }
    }

    async fn connect(&self, request: ConnectRequest) -> Result<Connection, Status> {
        let identity = match self.trust {
            Trust::Authenticated => Some(admittance::identity(&request.peer)?),
            Trust::Anyone => None,
        };
        self.proxies.clone().open(request, identity)
    }

    fn observe(&self, node_id: &str, event: &StreamEvent) {
        if let (StreamEvent::Health(trouble), Some(workloads)) = (event, &self.proxies.workloads) {
            workloads.health(node_id, trouble.as_deref());
        }
        self.proxies.metrics.observe(node_id, event);
    }
}
