//! What a data plane is started with: who it is, where its configuration comes from, how it listens and drains.
//!
//! Everything that can change while it runs comes over xDS or a `watch`; what is here is fixed for the life of the process.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lateen_envoy::ResourceSet;
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_identity::WorkloadIdentity;
use lateen_xds::grpc::client::{ClientConfig, ConnectError, Link};
use tokio::sync::watch;

use crate::decisions::DecisionIds;
use crate::stats_matcher::StatsMatcher;

/// Settings of one proxy. [`ProxyConfig::new`] gives a sidecar's.
#[derive(Debug)]
pub struct ProxyConfig {
    /// The node as it is announced to the control plane; its metadata is also what peers and metrics are told.
    pub node: Node,
    /// Where listeners, clusters, routes and endpoints come from.
    pub source: ConfigSource,
    /// The workload's certificate and trust bundle, served under the SDS names `default` and `ROOTCA`. `None` until the first
    /// certificate was signed.
    pub identity: watch::Receiver<Option<Arc<WorkloadIdentity>>>,
    /// Worker threads; 0 means one per available core, as Envoy's `--concurrency`.
    pub concurrency: usize,
    /// The admin interface; `None` for none. Istio: `127.0.0.1:15000`.
    pub admin: Option<SocketAddr>,
    /// Prometheus' view of the statistics at `/stats/prometheus`. Istio: `0.0.0.0:15090`.
    pub prometheus: Option<SocketAddr>,
    /// Readiness at `/healthz/ready`. Istio: `0.0.0.0:15021`.
    pub health: Option<SocketAddr>,
    /// `SO_MARK` of every upstream socket. Redirection rules tell the proxy by it.
    pub socket_mark: Option<u32>,
    /// How connections end when a listener goes away or the process stops.
    pub drain: DrainSettings,
    /// What one peer may make the proxy hold.
    pub limits: Limits,
    /// Which clients are told the ids of denials.
    pub decision_ids: DecisionIds,
    /// Whether HTTP/1 requests, and TCP connections, to another of our own sidecars share connections, where that sidecar agrees.
    pub share_connections: bool,
    /// Which statistics are shown; `None` for all.
    pub stats: Option<StatsMatcher>,
    /// The cluster of this workload's own instances, by whose places requests are kept in their zone (Envoy's `local_cluster_name`);
    /// `None` for none. Its endpoints are asked for by this name.
    pub local_cluster: Option<Arc<str>>,
    /// The levels of the program's log, for `/logging`.
    pub log_control: Option<Arc<dyn LogControl>>,
    /// Has the allocator give back to the system what the calling thread has freed. The allocator is the embedder's; each thread of the proxy
    /// calls it when it has become quiet.
    pub give_back: Option<fn()>,
}

/// Shows and changes the levels of the program's log, which belongs to the embedder.
pub trait LogControl: fmt::Debug + Send + Sync {
    /// The level of one of Envoy's loggers (`http`, `pool`, …), in Envoy's words (`warning`, not `warn`).
    fn level(&self, logger: &str) -> String;

    /// Sets the level of one logger, or of all.
    fn set(&self, logger: Option<&str>, level: &str);
}

impl ProxyConfig {
    /// A sidecar with Istio's ports and no redirection mark.
    pub fn new(
        node: Node,
        source: ConfigSource,
        identity: watch::Receiver<Option<Arc<WorkloadIdentity>>>,
    ) -> Self {
        Self {
            node,
            source,
            identity,
            concurrency: 2, // Istio's default for sidecars without a CPU limit
            admin: Some(SocketAddr::from(([127, 0, 0, 1], 15000))),
            prometheus: Some(SocketAddr::from(([0, 0, 0, 0], 15090))),
            health: Some(SocketAddr::from(([0, 0, 0, 0], 15021))),
            socket_mark: None,
            drain: DrainSettings::default(),
            limits: Limits::default(),
            decision_ids: DecisionIds::default(),
            share_connections: true,
            stats: None,
            local_cluster: None,
            log_control: None,
            give_back: None,
        }
    }
}

/// Where the dynamic configuration comes from.
#[derive(Debug)]
pub enum ConfigSource {
    /// Delta ADS at an xDS server.
    ///
    /// In a lock only because the configuration is shared: it is taken once, at the start.
    Xds(Box<Mutex<Option<XdsSource>>>),
    /// Resources handed over by the embedder; each new value replaces all of the last.
    Resources(watch::Receiver<Arc<ResourceSet>>),
}

impl ConfigSource {
    /// An xDS server.
    pub fn xds(source: XdsSource) -> Self {
        Self::Xds(Box::new(Mutex::new(Some(source))))
    }

    /// Resources that never change.
    pub fn fixed(resources: ResourceSet) -> Self {
        // The sender may go: a receiver keeps its last value.
        Self::Resources(watch::channel(Arc::new(resources)).1)
    }
}

/// An xDS server, reached anew for every attempt.
pub struct XdsSource {
    /// Connects: called for each attempt, so that it may read a fresh token or certificate.
    pub connect: Box<dyn FnMut() -> XdsConnect + Send>,
    /// Further settings of the client (back-off, limits). Its node and subscriptions are set by the proxy.
    pub client: ClientConfig,
}

/// A connection to an xDS server being made.
pub type XdsConnect = Pin<Box<dyn Future<Output = Result<Link, ConnectError>> + Send>>;

impl fmt::Debug for XdsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdsSource")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// How connections end.
#[derive(Clone, Copy, Debug)]
pub struct DrainSettings {
    /// How long connections of a stopping proxy may go on. Istio: `terminationDrainDuration`, 5 s.
    pub termination: Duration,
    /// How long those of a listener that was removed, or asked to drain, may. Istio: `drainDuration`, 45 s.
    pub listener: Duration,
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self {
            termination: Duration::from_secs(5),
            listener: Duration::from_secs(45),
        }
    }
}

/// Limits on what one peer can make the proxy hold. Configuration can lower them per listener, never raise them above these.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections accepted over all listeners of a worker; beyond it new ones are closed at once.
    pub connections_per_worker: usize,
    /// Bytes of a request's head. Envoy: 60 KiB.
    pub request_head_bytes: u32,
    /// Headers of a request. Envoy: 100.
    pub request_headers: usize,
    /// Streams of one HTTP/2 connection at a time. Envoy 1.40: 1024.
    pub concurrent_streams: u32,
    /// Requests of one HTTP/2 connection that the client takes back within a second, before their answer; with so many of them, and more than
    /// half of all, the connection is ended. Envoy: 500.
    pub premature_resets: u64,
    /// Bytes of a request body that are kept for a retry.
    pub replay_bytes: usize,
    /// How long a client may take for a TLS handshake. Envoy's `transport_socket_connect_timeout` is unset; Istio sets none.
    pub handshake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_per_worker: 50_000,
            request_head_bytes: 60 * 1024,
            request_headers: 100,
            concurrent_streams: 1024,
            premature_resets: 500,
            replay_bytes: 1024 * 1024,
            handshake: Duration::from_secs(15),
        }
    }
}
