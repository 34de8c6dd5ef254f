//! What all workers share: the configuration of the moment, limits that hold for the whole process, statistics' families.
//!
//! **Invariant:** nothing here is locked on a request's path. A worker loads the [`Live`] of the moment when a version number
//! says that there is a new one; breakers and outlier states are atomics it found when it first met the cluster.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use lateen_telemetry::metrics::envoy::{
    ClusterFamilies, HealthFamilies, HttpFamilies, ListenerFamilies, OutlierFamilies,
    RouteFamilies, ServerStats, TcpFamilies,
};
use lateen_telemetry::metrics::istio::IstioMetrics;
use lateen_telemetry::metrics::{Registry, Snapshot};
use lateen_traffic::cluster::Discovery;
use lateen_traffic::lb::Vicinity;
use lateen_traffic::{Cluster, EndpointSet, Program};
use tokio::sync::{Notify, watch};

use crate::cluster::breaker::Breakers;
use crate::cluster::outlier::Outliers;
use crate::config::ProxyConfig;
use crate::connection::ConnectionCounts;
use crate::decisions::{DecisionIds, Decisions};
use crate::drains;
use crate::handle::State;
use crate::http::log::LogSinks;
use crate::jwks::KnownSets;
use crate::node::Identity;
use crate::rate_limit::{ConnectionRates, RateLimits};
use crate::secrets::Secrets;
use crate::tls::TlsContexts;

/// Everything that is in effect at one moment. Immutable; requests and connections hold the one they began with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Live {
    /// Grows with every publication.
    pub(crate) version: u64,
    /// Listeners, routes, clusters, endpoints.
    pub(crate) program: Program,
    /// Certificates and trust bundles.
    pub(crate) secrets: Secrets,
    /// Endpoints of DNS clusters with their names resolved, by cluster.
    pub(crate) resolved: Arc<BTreeMap<Arc<str>, Arc<EndpointSet>>>,
    /// Where this proxy and its peers are; `None` where that is not known.
    pub(crate) vicinity: Option<Arc<Vicinity>>,
}

impl Live {
    /// The endpoints of a cluster, with names resolved; `None` while they are not known.
    pub(crate) fn endpoints_of<'a>(&'a self, cluster: &'a Cluster) -> Option<&'a Arc<EndpointSet>> {
        match &cluster.discovery {
            Discovery::StrictDns(..) | Discovery::LogicalDns(..) => {
                self.resolved.get(&cluster.name)
            }
            _ => self.program.endpoints_of(cluster),
        }
    }

    /// The same for a listing: nothing is compiled that nobody uses.
    pub(crate) fn peek_endpoints_of(&self, cluster: &Cluster) -> Option<Arc<EndpointSet>> {
        match &cluster.discovery {
            Discovery::Eds { service_name } => self.program.peek_endpoints(service_name),
            _ => self.endpoints_of(cluster).map(Arc::clone),
        }
    }
}

/// What all threads of one proxy share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// How it was started.
    pub(crate) config: Arc<ProxyConfig>,
    /// Who it is.
    pub(crate) identity: Identity,
    /// rustls configurations.
    pub(crate) tls: TlsContexts,
    /// Statistics.
    pub(crate) stats: Families,
    /// Token buckets of requests.
    pub(crate) rate_limits: RateLimits,
    /// Token buckets of connections.
    pub(crate) connection_rates: ConnectionRates,
    /// Keys of token issuers that this proxy fetches.
    pub(crate) key_sets: KnownSets,
    /// Connections per limit.
    pub(crate) connection_counts: ConnectionCounts,
    /// Access logs by path.
    pub(crate) logs: LogSinks,
    /// The last denials.
    pub(crate) decisions: Decisions,
    /// Ids of denials are taken out of upstreams' answers: clients are outside the mesh, and are not to be told.
    pub(crate) hides_decisions: bool,
    live: ArcSwap<Live>,
    version: AtomicU64,
    changed: watch::Sender<u64>,
    state: watch::Sender<State>,
    /// What listeners were asked to do.
    pub(crate) drains: drains::Orders,
    /// Health checks are to fail.
    failing: AtomicBool,
    breakers: Mutex<HashMap<Arc<str>, Arc<Breakers>>>,
    outliers: Mutex<HashMap<Arc<str>, Arc<Outliers>>>,
    bound: Mutex<BTreeMap<(Arc<str>, SocketAddr), SocketAddr>>,
    next_connection: AtomicU64,
    /// The version each worker's listeners are at.
    workers: watch::Sender<Vec<u64>>,
    /// Told when a worker has given memory back: most of its connections have gone.
    pub(crate) emptied: Notify,
}

/// Families of statistics.
#[derive(Debug)]
pub(crate) struct Families {
    pub(crate) registry: Registry,
    pub(crate) cluster: ClusterFamilies,
    pub(crate) outlier: OutlierFamilies,
    pub(crate) health: HealthFamilies,
    pub(crate) route: RouteFamilies,
    pub(crate) http: HttpFamilies,
    pub(crate) listener: ListenerFamilies,
    pub(crate) tcp: TcpFamilies,
    pub(crate) istio: IstioMetrics,
    pub(crate) server: ServerStats,
}

impl Families {
    fn new(registry: Registry) -> Self {
        Self {
            cluster: ClusterFamilies::new(&registry),
            outlier: OutlierFamilies::new(&registry),
            health: HealthFamilies::new(&registry),
            route: RouteFamilies::new(&registry),
            http: HttpFamilies::new(&registry),
            listener: ListenerFamilies::new(&registry),
            tcp: TcpFamilies::new(&registry),
            istio: IstioMetrics::new(&registry),
            server: ServerStats::new(&registry),
            registry,
        }
    }
}

impl Shared {
    /// What was counted, as far as it is shown.
    pub(crate) fn statistics(&self) -> Snapshot {
        let all = self.stats.registry.snapshot();
        match &self.config.stats {
            Some(matcher) => matcher.shown(all),
            None => all,
        }
    }

    /// The state of a proxy that knows nothing yet.
    pub(crate) fn new(config: Arc<ProxyConfig>, workers: u16) -> Self {
        let hides_decisions =
            config.node.id.starts_with("router~") && config.decision_ids != DecisionIds::Everybody;
        Self {
            identity: Identity::of(&config.node),
            config,
            tls: TlsContexts::default(),
            stats: Families::new(Registry::default()),
            rate_limits: RateLimits::default(),
            connection_rates: ConnectionRates::default(),
            key_sets: KnownSets::default(),
            connection_counts: ConnectionCounts::default(),
            logs: LogSinks::default(),
            decisions: Decisions::new(workers),
            hides_decisions,
            live: ArcSwap::default(),
            version: AtomicU64::new(0),
            changed: watch::Sender::new(0),
            state: watch::Sender::new(State::Initializing),
            drains: drains::Orders::default(),
            failing: AtomicBool::new(false),
            breakers: Mutex::default(),
            outliers: Mutex::default(),
            bound: Mutex::default(),
            next_connection: AtomicU64::new(1),
            workers: watch::Sender::new(vec![0; usize::from(workers)]),
            emptied: Notify::new(),
        }
    }

    /// What is in effect.
    pub(crate) fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// The version in effect; one relaxed load.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Puts a new configuration into effect. Only the control runtime does.
    pub(crate) fn publish(&self, mut live: Live) {
        live.version = self.live.load().version + 1;
        let version = live.version;
        self.live.store(Arc::new(live));
        self.version.store(version, Ordering::Release);
        self.changed.send_replace(version);
    }

    /// Wakes workers that reconcile their listeners.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Notes that a worker's listeners are as a version says.
    pub(crate) fn note_reconciled(&self, worker: u16, version: u64) {
        self.workers.send_modify(|versions| {
            if let Some(at) = versions.get_mut(usize::from(worker)) {
                *at = version;
            }
        });
    }

    /// Returns when the listeners of every worker are as a version (or a later one) says.
    pub(crate) async fn reconciled(&self, version: u64) {
        let mut workers = self.workers.subscribe();
        // The sender is `self`: waiting cannot fail.
        let _ = workers
            .wait_for(|versions| versions.iter().all(|at| *at >= version))
            .await;
    }

    /// The proxy's state.
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Moves the state forward; it never goes back.
    pub(crate) fn advance(&self, to: State) {
        self.state.send_if_modified(|state| {
            let forward = to > *state;
            if forward {
                *state = to;
            }
            forward
        });
    }

    /// The state now.
    pub(crate) fn state_now(&self) -> State {
        *self.state.borrow()
    }

    /// Has health checks fail, or pass again.
    pub(crate) fn fail_health_checks(&self, fail: bool) {
        self.failing.store(fail, Ordering::Relaxed);
    }

    /// Whether health checks are to fail.
    pub(crate) fn fails_health_checks(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// The circuit breakers of a cluster, which hold for all workers together.
    pub(crate) fn breakers(&self, cluster: &Arc<str>) -> Arc<Breakers> {
        let mut all = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(Arc::clone(cluster)).or_default())
    }

    /// The outlier state of a cluster's hosts, which holds for all workers together.
    pub(crate) fn outliers(&self, cluster: &Arc<str>) -> Arc<Outliers> {
        let mut all = self.outliers.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Arc::new(Outliers::new(&self.stats.outlier, cluster));
        Arc::clone(all.entry(Arc::clone(cluster)).or_insert_with(make))
    }

    /// The outlier state of a cluster, if it has one: to look, without leaving a trace.
    pub(crate) fn known_outliers(&self, cluster: &str) -> Option<Arc<Outliers>> {
        let all = self.outliers.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(cluster).map(Arc::clone)
    }

    /// Every cluster that has an outlier state.
    pub(crate) fn all_outliers(&self) -> Vec<(Arc<str>, Arc<Outliers>)> {
        let all = self.outliers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = all
            .iter()
            .map(|(name, state)| (Arc::clone(name), Arc::clone(state)))
            .collect();
        list.sort_by(|a, b| a.0.cmp(&b.0));
        list
    }

    /// Forgets the state of clusters that are gone.
    pub(crate) fn forget_clusters(&self, is_gone: impl Fn(&str) -> bool) {
        self.breakers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|name, _| !is_gone(name));
        self.outliers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|name, _| !is_gone(name));
    }

    /// Opens a listener's socket and notes where it is bound. A listener on port 0 gets its port on the first worker, and the
    /// others join it.
    ///
    /// # Errors
    /// What `open` says.
    pub(crate) fn bind<T>(
        &self,
        listener: &Arc<str>,
        wanted: SocketAddr,
        open: impl FnOnce(SocketAddr) -> std::io::Result<(T, SocketAddr)>,
    ) -> std::io::Result<T> {
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::clone(listener), wanted);
        let (socket, actual) = open(bound.get(&key).copied().unwrap_or(wanted))?;
        bound.insert(key, actual);
        Ok(socket)
    }

    /// Notes that a listener is closed.
    pub(crate) fn note_closed(&self, listener: &Arc<str>, wanted: SocketAddr) {
        self.bound
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(Arc::clone(listener), wanted));
    }

    /// Where listeners are bound.
    pub(crate) fn bound(&self) -> Vec<(Arc<str>, SocketAddr)> {
        let bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        bound
            .iter()
            .map(|((name, _), actual)| (Arc::clone(name), *actual))
            .collect()
    }

    /// A number for a connection, unique in the process.
    pub(crate) fn connection_id(&self) -> u64 {
        self.next_connection.fetch_add(1, Ordering::Relaxed)
    }
}
