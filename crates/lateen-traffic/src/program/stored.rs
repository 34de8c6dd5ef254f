//! Resources as they came, compiled when they are first used.
//!
//! A sidecar of a large mesh knows ten thousand services and calls ten. Compiled, a cluster or a set of endpoints takes several times
//! the room of its message. So each is compiled once when it comes, which tells whether it is to be refused, and what is
//! kept is the message, shared with whoever else holds it. What is used is compiled again, once, for everybody.

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
        T::compile(&self.body).expect("the same message compiled when it came")
    }
}

/// A cluster, and what has to be known of it before it is used.
#[derive(Debug)]
pub struct StoredCluster {
    stored: Stored<Cluster>,
    /// Under which name its endpoints come by EDS.
    pub(super) service_name: Option<Arc<str>>,
    /// The secrets it refers to.
    pub(super) secrets: Arc<[Arc<str>]>,
    /// Whether its hosts are names to be resolved.
    pub(super) is_dns: bool,
    is_checked: bool,
}

impl StoredCluster {
    /// Notes what a cluster needs. Most need the same secrets, so those of another are taken if they are equal.
    pub(super) fn new(
        name: &Arc<str>,
        body: &Arc<Any>,
        cluster: &Cluster,
        like: &Arc<[Arc<str>]>,
    ) -> Self {
        let service_name = match &cluster.discovery {
            Discovery::Eds { service_name } if service_name == name => Some(name),
            Discovery::Eds { service_name } => Some(service_name),
            _ => None,
        };
        let transports = cluster.transports();
        let tls = transports.filter_map(|transport| Some(&transport.tls()?.common));
        let secrets: Vec<Arc<str>> = tls.flat_map(|tls| tls.sds_names()).cloned().collect();
        Self {
            service_name: service_name.cloned(),
            secrets: match secrets == **like {
                true => Arc::clone(like),
                false => secrets.into(),
            },
            is_dns: matches!(
                cluster.discovery,
                Discovery::StrictDns(..) | Discovery::LogicalDns(..)
            ),
            is_checked: cluster.health_check.is_some(),
            stored: Stored::new(body),
        }
    }

    /// Whether its hosts are asked how they are.
    pub fn is_checked(&self) -> bool {
        self.is_checked
    }
}

impl std::ops::Deref for StoredCluster {
    type Target = Stored<Cluster>;

    fn deref(&self) -> &Stored<Cluster> {
        &self.stored
    }
}
