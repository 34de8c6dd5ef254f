//! A cluster as one worker sees it: its hosts, their pools and loads, and picking one.
//!
//! The state follows the configuration: a request asks for the cluster under the [`Live`] it reads, and hosts that are still
//! there keep their connections and counts through any number of updates.

pub(crate) mod breaker;
pub(crate) mod host;
pub(crate) mod outlier;
pub(crate) mod reports;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::response::Parts;
use lateen_telemetry::metrics::envoy::ClusterStats;
use lateen_telemetry::metrics::{Gauge, Shard};
use lateen_traffic::cluster::{CircuitBreaker, Discovery, OutlierDetection, TransportSocket};
use lateen_traffic::endpoint::{Endpoint, EndpointAddress, Locality};
use lateen_traffic::lb::{HostHealth, HostSet, LbState, PickRequest, Vicinity};
use lateen_traffic::tls::UpstreamTls;
use lateen_traffic::value::Metadata;
use lateen_traffic::{Cluster, EndpointSet};
use tokio::time::Instant;

use self::breaker::{Breakers, Permit, Resource};
use self::host::HostState;
use self::outlier::{Ended, HostRecord, Outliers, count, uncount};
use crate::clock;
use crate::http::grpc;
use crate::level::Level;
use crate::net::HostAddress;
use crate::net::socket::{ConnectOptions, Keepalive};
use crate::shared::{Live, Shared};
use crate::tls::{ClientTls, ContextError, NameRule, TlsContexts};

/// Hosts of an ORIGINAL_DST cluster without a request for so long are forgotten, as Envoy's `cleanup_interval` does.
const ORIGINAL_DST_IDLE: Duration = Duration::from_secs(60);

/// How often the weights of hosts in slow start are made anew.
const SLOW_START_STEP: Duration = Duration::from_millis(500);

/// TLS configurations remembered per cluster; with server names by request there may be any number.
const TLS_REMEMBERED: usize = 64;

/// A cluster in one worker.
#[derive(Debug)]
pub(crate) struct ClusterState {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Its statistics.
    pub(crate) stats: ClusterStats,
    shard: Shard,
    /// Limits over all workers.
    pub(crate) breakers: Arc<Breakers>,
    outliers: Arc<Outliers>,
    hosts: RefCell<BTreeMap<HostAddress, Rc<HostState>>>,
    current: RefCell<Option<Rc<Members>>>,
    tls: RefCell<TlsInUse>,
}

/// The TLS configurations a cluster's requests used under one version of the configuration, so that a request finds its own
/// without a lock. A cluster has one or two transport sockets and three ALPN lists, so a list is the fastest map.
#[derive(Debug, Default)]
struct TlsInUse {
    version: u64,
    entries: Vec<TlsUse>,
}

#[derive(Debug)]
struct TlsUse {
    context: usize,
    alpn: Option<usize>,
    rule: NameRule,
    client: ClientTls,
}

/// The hosts of a cluster under one endpoint set and one state of health.
#[derive(Debug)]
pub(crate) struct Members {
    /// The cluster's settings.
    pub(crate) cluster: Arc<Cluster>,
    endpoints: Arc<EndpointSet>,
    epoch: u64,
    vicinity: Option<Arc<Vicinity>>,
    set: HostSet,
    lb: RefCell<LbState>,
    states: Vec<Option<Rc<HostState>>>,
    healthy: usize,
    /// When weights of hosts in slow start are due again.
    renewed: Option<Instant>,
}

impl Members {
    /// Where hosts stand now: what was tried before an update may stand elsewhere after it.
    fn indexes_of(&self, hosts: &[Rc<HostState>]) -> Vec<usize> {
        if hosts.is_empty() {
            return Vec::new();
        }
        let is_one = |state: &Rc<HostState>| hosts.iter().any(|host| Rc::ptr_eq(host, state));
        let states = self.states.iter().enumerate();
        states
            .filter(|(_, state)| state.as_ref().is_some_and(is_one))
            .map(|(index, _)| index)
            .collect()
    }
}

/// A host that was picked.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// Its state in this worker.
    pub(crate) state: Rc<HostState>,
    /// What the configuration says of it.
    pub(crate) endpoint: Arc<Endpoint>,
    /// How it is spoken to.
    pub(crate) transport: TransportSocket,
    /// Its priority, for not picking that again.
    pub(crate) priority: u32,
}

/// What a pick goes by.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// A random number.
    pub(crate) random: u64,
    /// The request's hash, for consistent hashing.
    pub(crate) hash: Option<u64>,
    /// Hosts tried already that are to be avoided.
    pub(crate) avoid: &'a [Rc<HostState>],
    /// Priorities tried already that are to be avoided.
    pub(crate) avoid_priorities: &'a [u32],
    /// How often to pick again for that.
    pub(crate) attempts: u32,
    /// Where the connection was going, for ORIGINAL_DST.
    pub(crate) original_dst: Option<SocketAddr>,
}

/// How a host is: out, or as its checks and the control plane say.
fn health_of(cluster: &Cluster, endpoint: &Endpoint, record: &HostRecord) -> HostHealth {
    let told = HostHealth::from(endpoint.health);
    if record.is_out() {
        return HostHealth::Unhealthy;
    }
    if cluster.health_check.is_none() || endpoint.health_check.disabled {
        return told;
    }
    let checked = record.checked();
    match (checked.known, checked.healthy) {
        (false, _) if cluster.common_lb.ignore_new_hosts_until_checked => HostHealth::Excluded,
        (_, false) => HostHealth::Unhealthy,
        (_, true) if checked.degraded && told == HostHealth::Healthy => HostHealth::Degraded,
        (_, true) => told,
    }
}

impl ClusterState {
    /// The state of a cluster that a worker meets for the first time.
    pub(crate) fn new(name: &Arc<str>, shared: &Shared, shard: Shard) -> Self {
        let outliers = shared.outliers(name);
        outliers.note_traffic();
        Self {
            name: Arc::clone(name),
            stats: shared.stats.cluster.handles(shard, name),
            shard,
            breakers: shared.breakers(name),
            outliers,
            hosts: RefCell::default(),
            current: RefCell::new(None),
            tls: RefCell::default(),
        }
    }

    /// The TLS configuration of a transport socket, with the ALPN protocols of a request and for servers of a name, which may take part in
    /// Istio's metadata exchange.
    ///
    /// # Errors
    /// A secret is missing or unusable.
    pub(crate) fn client_tls(
        &self,
        contexts: &TlsContexts,
        context: &Arc<UpstreamTls>,
        alpn: Option<&[Arc<str>]>,
        rule: &NameRule,
        exchange: bool,
        now: &Live,
    ) -> Result<ClientTls, ContextError> {
        let mut tls = self.tls.borrow_mut();
        if tls.version != now.version {
            *tls = TlsInUse {
                version: now.version,
                entries: Vec::new(),
            };
        }
        let key = (
            Arc::as_ptr(context).addr(),
            alpn.map(|list| list.as_ptr().addr()),
        );
        let found = tls
            .entries
            .iter()
            .find(|e| (e.context, e.alpn) == key && e.rule == *rule);
        if let Some(found) = found {
            return Ok(found.client.clone());
        }
        let client = contexts.client(context, alpn, rule, exchange, &now.secrets)?;
        if client.from_files {
            return Ok(client); // nobody tells when a file changes: it is looked at for each
        }
        if tls.entries.len() >= TLS_REMEMBERED {
            tls.entries.clear();
        }
        tls.entries.push(TlsUse {
            context: key.0,
            alpn: key.1,
            rule: rule.clone(),
            client: client.clone(),
        });
        Ok(client)
    }

    /// Picks a host under the given configuration.
    pub(crate) fn pick(
        &self,
        cluster: &Arc<Cluster>,
        live: &Live,
        wanted: Wanted<'_>,
    ) -> Option<Host> {
        if let Discovery::OriginalDst(settings) = &cluster.discovery {
            let mut address = wanted.original_dst?;
            if let Some(port) = settings.port_override {
                address.set_port(port);
            }
            return Some(self.original_dst(cluster, address));
        }
        if matches!(cluster.discovery, Discovery::DynamicForwardProxy(_)) {
            return Some(self.original_dst(cluster, wanted.original_dst?));
        }
        let members = self.members(cluster, live)?;
        let load = |index: usize| {
            members
                .states
                .get(index)
                .and_then(Option::as_ref)
                .map_or(0, |state| state.active.get())
        };
        let request = PickRequest {
            random: wanted.random,
            hash: wanted.hash,
            avoid: &members.indexes_of(wanted.avoid),
            attempts: wanted.attempts,
            load: &load,
            avoid_priorities: wanted.avoid_priorities,
        };
        let pick = members.lb.borrow_mut().pick(&members.set, &request).ok()?;
        let endpoint = Arc::clone(members.endpoints.endpoints.get(pick.host)?);
        let state = members.states.get(pick.host)?.clone()?;
        let locality = members.endpoints.group_of(pick.host);
        let none;
        let locality = match locality {
            Some(group) => &group.metadata,
            None => {
                none = Metadata::default();
                &none
            }
        };
        let transport = cluster
            .transport_for(&endpoint.metadata, locality)
            .0
            .clone();
        Some(Host {
            state,
            endpoint,
            transport,
            priority: pick.priority,
        })
    }

    /// How many hosts there are, and how many take requests.
    pub(crate) fn membership(&self) -> (usize, usize) {
        let current = self.current.borrow();
        current.as_ref().map_or((0, 0), |members| {
            (members.endpoints.endpoints.len(), members.healthy)
        })
    }

    fn members(&self, cluster: &Arc<Cluster>, live: &Live) -> Option<Rc<Members>> {
        let endpoints = live.endpoints_of(cluster)?;
        let epoch = self.outliers.epoch();
        if let Some(members) = &*self.current.borrow()
            && Arc::ptr_eq(&members.cluster, cluster)
            && Arc::ptr_eq(&members.endpoints, endpoints)
            && members.epoch == epoch
            && members.vicinity.as_ref().map(Arc::as_ptr) == live.vicinity.as_ref().map(Arc::as_ptr)
            && members.renewed.is_none_or(|due| clock::now() < due)
        {
            return Some(Rc::clone(members));
        }
        let members = Rc::new(self.build(cluster, endpoints, live, epoch));
        *self.current.borrow_mut() = Some(Rc::clone(&members));
        Some(members)
    }

    fn build(
        &self,
        cluster: &Arc<Cluster>,
        endpoints: &Arc<EndpointSet>,
        live: &Live,
        epoch: u64,
    ) -> Members {
        let mut old = self.hosts.borrow_mut();
        let mut kept = BTreeMap::new();
        let states: Vec<Option<Rc<HostState>>> = endpoints
            .endpoints
            .iter()
            .map(|endpoint| {
                let address = HostAddress::of(&endpoint.address)?;
                let state = old
                    .remove(&address)
                    .or_else(|| kept.get(&address).map(Rc::clone));
                let state = state.unwrap_or_else(|| {
                    let record = self.outliers.host(&address);
                    Rc::new(HostState::new(address.clone(), record))
                });
                kept.insert(address, Rc::clone(&state));
                Some(state)
            })
            .collect();
        // Hosts that are gone finish what they have; their idle connections are closed.
        for gone in std::mem::take(&mut *old).into_values() {
            gone.close_idle();
        }
        *old = kept;
        let health: Vec<HostHealth> = states
            .iter()
            .zip(&endpoints.endpoints)
            .map(|(state, endpoint)| match state {
                Some(state) => health_of(cluster, endpoint, &state.record),
                None => HostHealth::Unhealthy,
            })
            .collect();
        if cluster.close_connections_on_health_failure {
            let unhealthy = states.iter().zip(&health);
            let unhealthy = unhealthy.filter(|(_, health)| **health == HostHealth::Unhealthy);
            unhealthy
                .flat_map(|(state, _)| state)
                .for_each(|state| state.close_idle());
        }
        let vicinity = live.vicinity.clone();
        let mut set = HostSet::near(cluster, endpoints, &health, vicinity.as_deref());
        let weighed = reports::weigh(cluster, &states, &mut set);
        let young = slow_start(cluster, &states, &mut set);
        let renewed = [weighed, young].into_iter().flatten().min();
        Members {
            healthy: health.iter().filter(|h| **h == HostHealth::Healthy).count(),
            cluster: Arc::clone(cluster),
            endpoints: Arc::clone(endpoints),
            epoch,
            vicinity,
            lb: RefCell::new(LbState::new(&set, rand::random())),
            set,
            states,
            renewed,
        }
    }

    fn original_dst(&self, cluster: &Arc<Cluster>, address: SocketAddr) -> Host {
        let mut hosts = self.hosts.borrow_mut();
        let state = hosts.entry(address.into()).or_insert_with_key(|address| {
            let record = self.outliers.host(address);
            Rc::new(HostState::new(address.clone(), record))
        });
        state.last_used.set(Instant::now());
        let endpoint = Endpoint {
            address: EndpointAddress::Socket(address),
            additional_addresses: Vec::new(),
            hostname: Arc::from(""),
            weight: 1,
            health: lateen_traffic::endpoint::HealthStatus::Unknown,
            health_check: Default::default(),
            metadata: Metadata::default(),
            locality: Arc::new(Locality::default()),
        };
        let none = Metadata::default();
        let transport = cluster.transport_for(&none, &none).0.clone();
        Host {
            state: Rc::clone(state),
            endpoint: Arc::new(endpoint),
            transport,
            priority: 0,
        }
    }

    /// Counts how a request to a host ended, for outlier detection.
    pub(crate) fn record(&self, cluster: &Cluster, host: &HostState, ended: Ended, random: u64) {
        match ended {
            Ended::Status(..500) => count(&host.counts.rq_success),
            Ended::Status(_) | Ended::LocalFailure | Ended::Timeout => count(&host.counts.rq_error),
            Ended::Connected { .. } => {}
        }
        self.judge(cluster, host, ended, random);
    }

    /// Counts a response. Which ones are errors is the cluster's to say; of gRPC it is the status the response's head tells.
    pub(crate) fn answered(&self, cluster: &Cluster, host: &HostState, answer: &Parts) {
        let status = answer.status.as_u16();
        count(match status {
            ..500 => &host.counts.rq_success,
            _ => &host.counts.rq_error,
        });
        if let Some(settings) = &cluster.utilization {
            host.record.reported.note(settings, &answer.headers);
        }
        if cluster.outlier_detection.is_none() {
            return;
        }
        let judged = match &cluster.http.error_matcher {
            Some(matcher) if matcher.matches(status, &answer.headers) => 500,
            Some(_) => 200,
            None => grpc::status_in(&answer.headers).map_or(status, grpc::http_of_status),
        };
        self.judge(cluster, host, Ended::Status(judged), rand::random());
    }

    /// Notes that a host was reached, where that is judged apart from what it answers.
    pub(crate) fn reached(&self, cluster: &Cluster, host: &HostState) {
        let split = |settings: &OutlierDetection| settings.split_external_local_origin_errors;
        if cluster.outlier_detection.as_ref().is_some_and(split) {
            self.judge(
                cluster,
                host,
                Ended::Connected { last: false },
                rand::random(),
            );
        }
    }

    fn judge(&self, cluster: &Cluster, host: &HostState, ended: Ended, random: u64) {
        if let Some(settings) = &cluster.outlier_detection {
            let size = self.hosts.borrow().len();
            let host = (&*host.record, &*host.counts);
            self.outliers.record(host, ended, settings, size, random);
        }
    }

    /// Takes a place among the cluster's requests or retries.
    pub(crate) fn permit(
        &self,
        cluster: &Cluster,
        high_priority: bool,
        resource: Resource,
    ) -> Option<Permit> {
        let limits: &CircuitBreaker = &cluster.circuit_breakers[usize::from(high_priority)];
        let limit = match resource {
            Resource::Connections => limits.max_connections,
            Resource::Pending => limits.max_pending_requests,
            // A budget is a share of the requests, so they are counted even where they are not limited.
            Resource::Requests if limits.retry_budget.is_some() => {
                limits.max_requests.min(breaker::UNLIMITED - 1)
            }
            Resource::Requests => limits.max_requests,
            Resource::Retries => {
                let active = self.breakers.taken(high_priority, Resource::Requests);
                u32::try_from(limits.retry_limit(u64::from(active))).unwrap_or(u32::MAX)
            }
        };
        self.breakers.acquire(high_priority, resource, limit)
    }

    /// Closes what was idle for too long and forgets hosts that only an original destination named.
    pub(crate) fn sweep(&self, cluster: &Cluster) {
        let now = Instant::now();
        let keeps = |host: &HostState| {
            host.active.get() > 0
                || host.has_connections()
                || now.duration_since(host.last_used.get()) < ORIGINAL_DST_IDLE
        };
        let mut hosts = self.hosts.borrow_mut();
        for host in hosts.values() {
            host.sweep(&cluster.http);
        }
        if matches!(
            cluster.discovery,
            Discovery::OriginalDst(_) | Discovery::DynamicForwardProxy(_)
        ) {
            hosts.retain(|_, host| keeps(host));
        }
        drop(hosts);
        if !self.outliers.speaks(self.shard) {
            return;
        }
        let (all, well) = self.membership();
        self.stats
            .membership_total
            .set(i64::try_from(all).unwrap_or(i64::MAX));
        self.stats
            .membership_healthy
            .set(i64::try_from(well).unwrap_or(i64::MAX));
    }

    /// Closes every idle connection: the cluster is gone.
    pub(crate) fn close(&self) {
        for host in self.hosts.borrow().values() {
            host.close_idle();
        }
        *self.current.borrow_mut() = None;
    }
}

/// Takes the weight of young hosts back, if the cluster wants that; when to look again.
fn slow_start(
    cluster: &Cluster,
    states: &[Option<Rc<HostState>>],
    set: &mut HostSet,
) -> Option<Instant> {
    let settings = cluster.lb_policy.slow_start()?;
    let now = Instant::now();
    let factors: Vec<f64> = states
        .iter()
        .map(|state| {
            let since = state.as_ref().map(|state| state.created);
            since.map_or(1.0, |since| settings.factor(now.duration_since(since)))
        })
        .collect();
    if factors.iter().all(|factor| *factor >= 1.0) {
        return None;
    }
    set.scale(&factors);
    Some(now + SLOW_START_STEP)
}

/// Socket options of connections to a cluster's host.
pub(crate) fn connect_options(
    cluster: &Cluster,
    address: &HostAddress,
    mark: Option<u32>,
) -> ConnectOptions {
    let sources = cluster
        .bind
        .source
        .iter()
        .chain(&cluster.bind.additional_sources);
    let source = sources.map(SocketAddr::ip).find(|ip| {
        address
            .ip()
            .is_some_and(|address| address.is_ipv4() == ip.is_ipv4())
    });
    let keepalive = cluster.keepalive.map(|k| Keepalive {
        probes: k.probes,
        time: k.time,
        interval: k.interval,
    });
    ConnectOptions {
        mark,
        source,
        keepalive,
        original_source: None,
    }
}

/// Counts a request (or TCP connection) as active on its host and on its cluster's gauge until dropped.
#[derive(Debug)]
pub(crate) struct ActiveRequest {
    host: Rc<HostState>,
    _level: Level,
}

impl ActiveRequest {
    /// Counts one.
    pub(crate) fn begin(host: &Rc<HostState>, gauge: &Gauge) -> Self {
        host.active.set(host.active.get() + 1);
        count(&host.counts.rq_active);
        count(&host.counts.rq_total);
        Self {
            host: Rc::clone(host),
            _level: Level::hold(gauge),
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let active: &Cell<u32> = &self.host.active;
        active.set(active.get().saturating_sub(1));
        uncount(&self.host.counts.rq_active);
        self.host.last_used.set(clock::now());
    }
}
