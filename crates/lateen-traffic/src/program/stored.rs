//! Resources as they came, compiled when they are first used.
//!
//! A sidecar of a large mesh knows ten thousand services and calls ten. Compiled, a cluster or a set of endpoints takes several times
//! the room of its message. So each is compiled once when it comes, or checked to be like one that compiled (`seen`), which tells whether
//! it is to be refused, and what is kept is the message, shared with whoever else holds it. What is used is compiled again, once, for everybody.

use std::sync::{Arc, OnceLock};

use lateen_envoy::pb::google::protobuf::Any;

use crate::EndpointSet;
use crate::cluster::{Cluster, Discovery};
use crate::from_xds::{self, XdsError};

/// What a message is compiled to.
pub trait Compile: Sized {
    /// Compiles a message.
    ///
    /// # Errors
    /// It is not valid, or asks for something that is not supported.
    fn compile(body: &Any) -> Result<Self, XdsError>;
}

impl Compile for Cluster {
    fn compile(body: &Any) -> Result<Self, XdsError> {
        from_xds::cluster(body)
    }
}

impl Compile for EndpointSet {
    fn compile(body: &Any) -> Result<Self, XdsError> {
        from_xds::endpoints(body)
    }
}

/// A resource that is known to compile.
#[derive(Debug)]
pub struct Stored<T> {
    body: Arc<Any>,
    compiled: OnceLock<Arc<T>>,
}

impl<T: Compile> Stored<T> {
    /// A resource whose message is known to compile.
    pub(super) fn new(body: &Arc<Any>) -> Self {
        Self {
            body: Arc::clone(body),
            compiled: OnceLock::new(),
        }
    }

    /// The resource, compiled. Whoever asks first waits for it.
    pub fn get(&self) -> &Arc<T> {
        self.compiled.get_or_init(|| Arc::new(self.compile()))
    }

    /// The resource, compiled for the one who asks and kept for nobody, unless it is in use: for listings.
    pub fn peek(&self) -> Arc<T> {
        match self.compiled.get() {
            Some(compiled) => Arc::clone(compiled),
            None => Arc::new(self.compile()),
        }
    }

    /// Whether anybody has used it.
    pub fn is_used(&self) -> bool {
        self.compiled.get().is_some()
    }

    /// Keeps what was compiled, as what it replaces is in use.
    pub(super) fn keep(&self, compiled: T) {
        self.compiled.get_or_init(|| Arc::new(compiled));
    }

    fn compile(&self) -> T {
        let compiled = T::compile(&self.body);
        compiled.expect("this message, or one like it, compiled when it came")
    }
}

/// A cluster, and what has to be known of it before it is used.
#[derive(Debug)]
pub struct StoredCluster {
    stored: Stored<Cluster>,
    /// Under which name its endpoints come by EDS.
    pub(super) service_name: Option<Arc<str>>,
    pub(super) facts: ClusterFacts,
}

/// What has to be known of a cluster before it is used, besides names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClusterFacts {
    /// Whether its endpoints come by EDS.
    pub(super) is_eds: bool,
    /// The secrets it refers to.
    pub(super) secrets: Arc<[Arc<str>]>,
    /// Whether its hosts are names to be resolved.
    pub(super) is_dns: bool,
    is_checked: bool,
}

impl ClusterFacts {
    /// Of a cluster. Most need the same secrets, so those of another are taken if they are equal.
    pub(super) fn of(cluster: &Cluster, like: &Arc<[Arc<str>]>) -> Self {
        let transports = cluster.transports();
        let tls = transports.filter_map(|transport| Some(&transport.tls()?.common));
        let secrets: Vec<Arc<str>> = tls.flat_map(|tls| tls.sds_names()).cloned().collect();
        Self {
            is_eds: matches!(cluster.discovery, Discovery::Eds { .. }),
            secrets: match secrets == **like {
                true => Arc::clone(like),
                false => secrets.into(),
            },
            is_dns: matches!(
                cluster.discovery,
                Discovery::StrictDns(..) | Discovery::LogicalDns(..)
            ),
            is_checked: cluster.health_check.is_some(),
        }
    }
}

impl StoredCluster {
    /// A cluster whose message is known to compile, and under which name its endpoints come.
    pub(super) fn new(
        name: &Arc<str>,
        body: &Arc<Any>,
        service: Option<&str>,
        facts: ClusterFacts,
    ) -> Self {
        let service_name = service.map(|service| match *service == **name {
            true => Arc::clone(name),
            false => service.into(),
        });
        Self {
            stored: Stored::new(body),
            service_name,
            facts,
        }
    }

    /// Whether its hosts are asked how they are.
    pub fn is_checked(&self) -> bool {
        self.facts.is_checked
    }
}

impl std::ops::Deref for StoredCluster {
    type Target = Stored<Cluster>;

    fn deref(&self) -> &Stored<Cluster> {
        &self.stored
    }
}
