//! The TCP proxy: which cluster a connection goes to (`envoy.filters.network.tcp_proxy`).

use std::sync::Arc;
use std::time::Duration;

use crate::access_log::AccessLog;
use crate::route::HashPolicy;
use crate::value::Metadata;

/// The TCP proxy's settings.
#[derive(Clone, Debug)]
pub struct TcpProxy {
    /// The prefix of its statistics.
    pub stat_prefix: Arc<str>,
    /// Where connections go.
    pub target: TcpTarget,
    /// Time without a byte in either direction; 1 h by default, `None` never ends.
    pub idle_timeout: Option<Duration>,
    /// Longest life of a connection.
    pub max_downstream_connection_duration: Option<Duration>,
    /// Attempts to connect, at least 1.
    pub max_connect_attempts: u32,
    /// Its access logs.
    pub access_logs: Vec<AccessLog>,
    /// Access logs are flushed while the connection is open, at this interval.
    pub access_log_flush_interval: Option<Duration>,
    /// What picks the host under consistent hashing.
    pub hash_policy: Vec<HashPolicy>,
    /// The subset of endpoints, by metadata.
    pub metadata_match: Option<Arc<Metadata>>,
    /// Connections are carried in CONNECT requests.
    pub tunneling: Option<Tunneling>,
}

/// Where connections go.
#[derive(Clone, Debug)]
pub enum TcpTarget {
    /// One cluster.
    Cluster(Arc<str>),
    /// Several, by weight.
    Weighted {
        /// The clusters, with their weights.
        clusters: Vec<TcpWeightedCluster>,
        /// The sum of the weights; more than 0.
        total: u64,
    },
}

/// One of several clusters.
#[derive(Clone, Debug)]
pub struct TcpWeightedCluster {
    /// Its name.
    pub name: Arc<str>,
    /// Its weight.
    pub weight: u32,
    /// The subset of endpoints, by metadata.
    pub metadata_match: Option<Arc<Metadata>>,
}

/// Settings of CONNECT tunnels.
#[derive(Clone, Debug)]
pub struct Tunneling {
    /// The authority of the CONNECT request, with command operators.
    pub hostname: crate::format::Format,
    /// POST is used in place of CONNECT.
    pub use_post: bool,
    /// The path of a POST; `/` by default.
    pub post_path: Arc<str>,
    /// Headers of the request.
    pub headers: crate::headers::HeaderMutations,
}

impl TcpProxy {
    /// The cluster for a connection.
    pub fn pick_cluster(&self, random: u64) -> &Arc<str> {
        match &self.target {
            TcpTarget::Cluster(name) => name,
            TcpTarget::Weighted { clusters, total } => {
                let mut left = random % total.max(&1);
                for cluster in clusters {
                    match left.checked_sub(u64::from(cluster.weight)) {
                        None => return &cluster.name,
                        Some(rest) => left = rest,
                    }
                }
                &clusters
                    .last()
                    .expect("a weighted target has at least one cluster")
                    .name
            }
        }
    }

    /// Every cluster it may use.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        let (one, many) = match &self.target {
            TcpTarget::Cluster(name) => (Some(name), [].as_slice()),
            TcpTarget::Weighted { clusters, .. } => (None, clusters.as_slice()),
        };
        one.into_iter()
            .chain(many.iter().map(|cluster| &cluster.name))
    }
}
