//! A worker: one thread with its own runtime, listeners, pools and counters.
//!
//! Everything here is reached through an `Rc` and never leaves the thread. What other threads know comes as a whole new
//! [`Live`]; what they want comes as tokens (drain, stop).

mod listeners;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lateen_telemetry::access_log::LogWriter;
use lateen_telemetry::metrics::envoy::{ExchangeStats, RouteStats, TcpStats};
use lateen_telemetry::metrics::istio::{
    DestinationService, PeerId, PrincipalId, ServiceId, WorkerMetrics,
};
use lateen_telemetry::metrics::{Counter, Descriptor, Shard};
use lateen_traffic::Cluster;
use lateen_traffic::access_log::GrpcLog;
use lateen_traffic::filter::IstioStats;
use lateen_traffic::hcm::HttpConnectionManager;
use lateen_traffic::jwt::TokenCache;
use lateen_traffic::listener::TrafficDirection;
use lateen_traffic::tracing::Tracer;
use lateen_traffic::value::Value;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

pub(crate) use listeners::ListenerHandle;

use self::listeners::Listeners;
use crate::access_log_service;
use crate::alarm::Alarms;
use crate::clock;
use crate::cluster::ClusterState;
use crate::http::dimensions::Dimensions;
use crate::http::manager::Manager;
use crate::jwks::Jwks;
use crate::metadata_exchange;
use crate::quiet::Quiet;
use crate::secrets::{Material, WORKLOAD_CERTIFICATE};
use crate::shared::{Live, Shared};
use crate::spare;
use crate::tls::PeerCertificate;
use crate::trace::Exporter;
use crate::turn;
use crate::upstream::names::Names;

/// How often idle connections, log buffers and metric handles are looked at.
const SWEEP: Duration = Duration::from_secs(1);
/// Sweeps between two looks at metric handles.
const METRIC_SWEEPS: u32 = 60;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The configuration a request or connection reads, as one worker holds it. Cloning the `Rc` touches no other worker's cache.
#[derive(Debug)]
pub(crate) struct Now {
    live: Arc<Live>,
    /// The proxy's own mTLS identity at this moment.
    pub(crate) own_principal: Option<String>,
    /// The same for metrics, once it was asked for.
    own_principal_id: Cell<Option<PrincipalId>>,
}

impl std::ops::Deref for Now {
    type Target = Live;

    fn deref(&self) -> &Live {
        &self.live
    }
}

/// What tells a filter's counters apart: two prefixes, and what is counted.
pub(crate) type CounterKey = (Arc<str>, Arc<str>, &'static str, &'static str);

/// What tells routes with statistics apart: the virtual host and the prefix.
type RouteKey = (Arc<str>, Arc<str>);

/// The service a cluster was found to stand for.
type KnownService = (Arc<Cluster>, ServiceId);

/// What a filter's settings make of Istio's metrics of connections. The settings are held so that their address is nobody else's.
type KnownDimensions = (Arc<IstioStats>, Rc<Dimensions>);

/// One worker's state.
#[derive(Debug)]
pub(crate) struct Worker {
    /// What all workers share.
    pub(crate) shared: Arc<Shared>,
    /// Whose cells it counts into.
    pub(crate) shard: Shard,
    index: u16,
    /// Istio's metrics.
    pub(crate) metrics: RefCell<WorkerMetrics>,
    /// This workload, as metrics know it.
    pub(crate) own_peer: PeerId,
    /// What it says of itself to peers over TCP. In an `Rc`, as every connection of a pool's target holds on to it.
    pub(crate) introduction: Rc<[u8]>,
    /// What became of that.
    pub(crate) exchanges: ExchangeStats,
    /// Connections open.
    pub(crate) connections: Cell<usize>,
    quiet: Quiet,
    /// Mirrored requests under way.
    pub(crate) mirrors: Cell<usize>,
    now: RefCell<Rc<Now>>,
    clusters: RefCell<Map<Arc<str>, Rc<ClusterState>>>,
    services: RefCell<Map<Arc<str>, KnownService>>,
    managers: RefCell<Map<usize, Rc<Manager>>>,
    exporters: RefCell<Vec<(Arc<Tracer>, Rc<Exporter>)>>,
    log_exporters: RefCell<Vec<Rc<access_log_service::Exporter>>>,
    dimensions: RefCell<Map<usize, KnownDimensions>>,
    tcp_stats: RefCell<Map<Arc<str>, Rc<TcpStats>>>,
    route_stats: RefCell<Map<RouteKey, Rc<RouteStats>>>,
    counters: RefCell<Map<CounterKey, Counter>>,
    logs: RefCell<HashMap<PathBuf, Option<LogWriter>>>,
    /// Timers to be used again.
    pub(crate) alarms: Rc<Alarms>,
    /// Names that requests asked for.
    pub(crate) names: Names,
    /// Tokens whose signatures were verified.
    pub(crate) tokens: RefCell<TokenCache>,
    /// Keys that were fetched.
    pub(crate) jwks: Jwks,
    open: Arc<AtomicUsize>,
}

/// What a worker's thread is told.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    /// Ends the worker with all its connections.
    pub(crate) stop: CancellationToken,
    /// Connections open over all workers.
    pub(crate) open: Arc<AtomicUsize>,
}

/// Runs a worker until it is told to stop. Blocks its thread.
pub(crate) fn run(shared: Arc<Shared>, index: u16, orders: Orders) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    let attended = local.run_until(async {
        // A task of its own: what the set runs beside its tasks is polled whenever any of them is.
        let attended = tokio::task::spawn_local(async move {
            let worker = Worker::new(shared, index, Arc::clone(&orders.open));
            tokio::select! {
                () = worker.clone().attend() => {}
                () = orders.stop.cancelled() => {}
            }
            worker.flush_logs();
        });
        if let Err(error) = attended.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    });
    runtime.block_on(async {
        let mut attended = std::pin::pin!(attended);
        // The set runs so many of its tasks each time it is polled: that is a turn.
        std::future::poll_fn(|cx| {
            clock::turn();
            turn::begin();
            loop {
                let polled = attended.as_mut().poll(cx);
                if polled.is_ready() || !turn::release() {
                    return polled;
                }
            }
        })
        .await;
    });
    // Dropping the set drops every connection's task.
    drop(local);
    Ok(())
}

impl Worker {
    fn new(shared: Arc<Shared>, index: u16, open: Arc<AtomicUsize>) -> Rc<Self> {
        let shard = Shard::worker(index);
        let mut metrics = shared.stats.istio.worker(shard);
        let own_peer = metrics.peer(&shared.identity.peer);
        let now = Rc::new(Now::of(shared.live()));
        Rc::new(Self {
            introduction: Rc::from(&metadata_exchange::frame(&shared.identity.told)[..]),
            exchanges: ExchangeStats::new(&shared.stats.registry, shard),
            shared,
            shard,
            index,
            metrics: RefCell::new(metrics),
            own_peer,
            connections: Cell::new(0),
            quiet: Quiet::default(),
            mirrors: Cell::new(0),
            now: RefCell::new(now),
            clusters: RefCell::default(),
            services: RefCell::default(),
            managers: RefCell::default(),
            exporters: RefCell::default(),
            log_exporters: RefCell::default(),
            dimensions: RefCell::default(),
            tcp_stats: RefCell::default(),
            route_stats: RefCell::default(),
            counters: RefCell::default(),
            logs: RefCell::default(),
            alarms: Rc::default(),
            names: Names::default(),
            tokens: RefCell::default(),
            jwks: Jwks::default(),
            open,
        })
    }

    /// The worker's main loop: keeps listeners as configured, sweeps, drains.
    async fn attend(self: Rc<Self>) {
        let mut changes = self.shared.changes();
        let mut drains = self.shared.drains.watch();
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut listeners = Listeners::new(&self);
        let mut sweeps = 0_u32;
        listeners.reconcile();
        loop {
            tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => {
                        listeners.reconcile();
                        self.attend_to_keys();
                    }
                    Err(_) => return,
                },
                changed = drains.changed() => match changed {
                    Ok(()) => {
                        let drains = *drains.borrow_and_update();
                        listeners.obey(drains);
                    }
                    Err(_) => return,
                },
                _ = sweep.tick() => {
                    sweeps = sweeps.wrapping_add(1);
                    self.sweep(sweeps.is_multiple_of(METRIC_SWEEPS));
                    self.attend_to_keys();
                }
            }
        }
    }

    /// Its number.
    pub(crate) const fn index(&self) -> u16 {
        self.index
    }

    /// The configuration of the moment. One relaxed load unless it changed.
    pub(crate) fn now(&self) -> Rc<Now> {
        let mut now = self.now.borrow_mut();
        if now.version != self.shared.version() {
            *now = Rc::new(Now::of(self.shared.live()));
        }
        Rc::clone(&now)
    }

    /// The state of a cluster.
    pub(crate) fn cluster(&self, name: &Arc<str>) -> Rc<ClusterState> {
        let mut clusters = self.clusters.borrow_mut();
        if let Some(state) = clusters.get(name) {
            return Rc::clone(state);
        }
        let state = Rc::new(ClusterState::new(name, &self.shared, self.shard));
        clusters.insert(Arc::clone(name), Rc::clone(&state));
        state
    }

    /// A connection manager, prepared. Managers of replaced listeners live as long as connections use them.
    pub(crate) fn manager(
        &self,
        config: &Arc<HttpConnectionManager>,
        direction: TrafficDirection,
    ) -> Rc<Manager> {
        let mut managers = self.managers.borrow_mut();
        let key = Arc::as_ptr(config).addr();
        if let Some(manager) = managers.get(&key) {
            return Rc::clone(manager);
        }
        let tracer = config.tracing.as_ref().and_then(|t| t.tracer.as_ref());
        let exporter = tracer.and_then(|tracer| self.exporter(tracer));
        let mut metrics = self.metrics.borrow_mut();
        let own = (self.shard, &mut *metrics);
        let manager = Manager::new(config, direction, &self.shared, own, exporter);
        managers.insert(key, Rc::clone(&manager));
        manager
    }

    /// What sends a tracer's spans: one for all managers whose tracers are equal.
    fn exporter(&self, tracer: &Arc<Tracer>) -> Option<Rc<Exporter>> {
        let mut exporters = self.exporters.borrow_mut();
        if let Some((_, known)) = exporters.iter().find(|(known, _)| known == tracer) {
            return Some(Rc::clone(known));
        }
        let own = (&self.shared.stats.registry, self.shard);
        let node = &self.shared.config.node;
        let made = Exporter::of(tracer, node, self.shared.identity.address, own)?;
        exporters.push((Arc::clone(tracer), Rc::clone(&made)));
        Some(made)
    }

    /// What sends a log's entries to their service: one for all logs that are equal.
    pub(crate) fn log_exporter(&self, log: &Arc<GrpcLog>) -> Rc<access_log_service::Exporter> {
        let mut exporters = self.log_exporters.borrow_mut();
        let same = |known: &&Rc<access_log_service::Exporter>| {
            Arc::ptr_eq(&known.log, log) || known.log == *log
        };
        if let Some(known) = exporters.iter().find(same) {
            return Rc::clone(known);
        }
        let counted = (&self.shared.stats.registry, self.shard);
        let made = access_log_service::Exporter::of(log, counted);
        exporters.push(Rc::clone(&made));
        made
    }

    /// Statistics of a TCP proxy.
    pub(crate) fn tcp_stats(&self, prefix: &Arc<str>) -> Rc<TcpStats> {
        let mut all = self.tcp_stats.borrow_mut();
        let make = || Rc::new(self.shared.stats.tcp.handles(self.shard, prefix));
        Rc::clone(all.entry(Arc::clone(prefix)).or_insert_with(make))
    }

    /// What a filter's settings make of Istio's metrics of connections.
    pub(crate) fn dimensions(&self, settings: &Arc<IstioStats>) -> Rc<Dimensions> {
        let mut all = self.dimensions.borrow_mut();
        let make = || {
            let made = Dimensions::of(settings, &mut self.metrics.borrow_mut());
            (Arc::clone(settings), Rc::new(made))
        };
        let key = Arc::as_ptr(settings).addr();
        Rc::clone(&all.entry(key).or_insert_with(make).1)
    }

    /// Statistics of a route.
    pub(crate) fn route_stats(&self, virtual_host: &Arc<str>, prefix: &Arc<str>) -> Rc<RouteStats> {
        let mut all = self.route_stats.borrow_mut();
        let key = (Arc::clone(virtual_host), Arc::clone(prefix));
        let families = &self.shared.stats.route;
        let make = || Rc::new(families.handles(self.shard, virtual_host, prefix));
        Rc::clone(all.entry(key).or_insert_with(make))
    }

    /// The service a cluster stands for, by the `istio` metadata the control plane writes, else by the cluster's name.
    pub(crate) fn service(&self, cluster: &Arc<Cluster>) -> ServiceId {
        let mut services = self.services.borrow_mut();
        if let Some((known, id)) = services.get(&cluster.name)
            && Arc::ptr_eq(known, cluster)
        {
            return *id;
        }
        let id = self
            .metrics
            .borrow_mut()
            .service(&destination_service(cluster));
        services.insert(Arc::clone(&cluster.name), (Arc::clone(cluster), id));
        id
    }

    /// The id of a principal; unknown for none.
    pub(crate) fn principal(&self, principal: Option<&str>) -> PrincipalId {
        principal.map_or_else(PrincipalId::default, |p| {
            self.metrics.borrow_mut().principal(p)
        })
    }

    /// The id of the proxy's own identity.
    pub(crate) fn own_principal(&self, now: &Now) -> PrincipalId {
        now.own_principal_id.get().unwrap_or_else(|| {
            let id = self.principal(now.own_principal.as_deref());
            now.own_principal_id.set(Some(id));
            id
        })
    }

    /// A counter of a filter, by two prefixes, the filter and what it counts; `name` gives its template and label when it is first needed.
    pub(crate) fn counter(
        &self,
        key: CounterKey,
        name: impl FnOnce() -> (String, Arc<str>),
    ) -> Counter {
        let mut counters = self.counters.borrow_mut();
        let make = || {
            let (template, label) = name();
            let family = self
                .shared
                .stats
                .registry
                .counters(Descriptor::envoy(&template));
            family.handle(self.shard, &[label.trim_end_matches([';', '.'])])
        };
        counters.entry(key).or_insert_with(make).clone()
    }

    /// Writes a line to an access log.
    pub(crate) fn write_log(&self, path: &Path, line: impl FnOnce(&mut Vec<u8>)) {
        let mut logs = self.logs.borrow_mut();
        if !logs.contains_key(path) {
            logs.insert(path.to_owned(), self.shared.logs.writer(path));
        }
        if let Some(Some(writer)) = logs.get_mut(path) {
            writer.write(line);
        }
    }

    /// Counts a connection; `None` if the worker has as many as it may.
    pub(crate) fn admit(self: &Rc<Self>) -> Option<Admitted> {
        if self.connections.get() >= self.shared.config.limits.connections_per_worker {
            return None;
        }
        self.connections.set(self.connections.get() + 1);
        self.open.fetch_add(1, Ordering::Relaxed);
        Some(Admitted(Rc::clone(self)))
    }

    fn attend_to_keys(self: &Rc<Self>) {
        let now = self.now();
        self.jwks.attend(self, (now.version, &now.program));
    }

    fn sweep(&self, metrics_too: bool) {
        spare::forget();
        let now = self.now();
        self.clusters
            .borrow_mut()
            .retain(|name, state| match now.program.cluster(name) {
                Some(cluster) => {
                    state.sweep(cluster);
                    true
                }
                None => {
                    state.close();
                    Rc::strong_count(state) > 1
                }
            });
        self.services
            .borrow_mut()
            .retain(|name, _| now.program.has_cluster(name));
        self.managers.borrow_mut().retain(|_, manager| {
            // Held by this map, by its own `Rc`, and by the program as long as it is configured.
            Rc::strong_count(manager) > 1 || Arc::strong_count(&manager.config) > 1
        });
        self.exporters
            .borrow_mut()
            .retain(|(_, exporter)| Rc::strong_count(exporter) > 1);
        // The configuration holds a log as long as it is to be written, and what sends it holds it once.
        self.log_exporters.borrow_mut().retain(|exporter| {
            Rc::strong_count(exporter) > 1 || Arc::strong_count(&exporter.log) > 1
        });
        self.dimensions
            .borrow_mut()
            .retain(|_, (settings, _)| Arc::strong_count(settings) > 1);
        let at = std::time::Instant::now();
        for writer in self.logs.borrow_mut().values_mut().flatten() {
            writer.tick(at);
        }
        if metrics_too {
            self.metrics.borrow_mut().sweep();
        }
        if let Some(give_back) = self.shared.config.give_back
            && self.quiet.has_come(self.connections.get(), now.version)
        {
            give_back();
            self.shared.emptied.notify_one();
        }
    }

    fn flush_logs(&self) {
        for writer in self.logs.borrow_mut().values_mut().flatten() {
            writer.flush();
        }
    }
}

/// A counted connection.
#[derive(Debug)]
pub(crate) struct Admitted(Rc<Worker>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Now {
    fn of(live: Arc<Live>) -> Self {
        let own_principal = match live.secrets.get(WORKLOAD_CERTIFICATE).map(|m| &**m) {
            Some(Material::Certificate(key)) => key
                .end_entity_cert()
                .ok()
                .and_then(PeerCertificate::read)
                .and_then(|certificate| certificate.uri_sans.into_iter().next()),
            _ => None,
        };
        Self {
            live,
            own_principal,
            own_principal_id: Cell::new(None),
        }
    }
}

/// Clusters that stand for no service but for themselves. Source: Istio, the `istio.stats` filter.
pub(crate) const CATCH_ALL: [&str; 5] = [
    "BlackHoleCluster",
    "PassthroughCluster",
    "InboundPassthroughCluster",
    "InboundPassthroughClusterIpv4",
    "InboundPassthroughClusterIpv6",
];

fn destination_service(cluster: &Cluster) -> DestinationService {
    if CATCH_ALL.contains(&&*cluster.name) {
        return DestinationService {
            name: cluster.name.to_string(),
            ..DestinationService::default()
        };
    }
    let services = cluster.metadata.get("istio", &["services"]);
    let Some(Value::List(services)) = services else {
        return DestinationService::default();
    };
    let text = |key: &str| {
        let value = services.first().and_then(|service| service.at(&[key]));
        value.and_then(Value::as_str).map(str::to_owned)
    };
    let host = text("host").unwrap_or_default();
    let short = host.split('.').next().unwrap_or_default().to_owned();
    DestinationService {
        name: text("name").unwrap_or(short),
        namespace: text("namespace").unwrap_or_default(),
        host,
    }
}
