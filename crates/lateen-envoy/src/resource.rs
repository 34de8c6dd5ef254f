//! Named, versioned xDS resources: what the compiler produces, the protocol carries and the proxy consumes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prost::{Message, Name};

use crate::pb::google::protobuf::Any;
use crate::shared_map::SharedMap;

/// The xDS types Lateen speaks, in the order in which they must be sent so that nothing refers to what is not there yet
/// ("make before break", xDS protocol, section "Eventual consistency considerations").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TypeUrl {
    /// CDS.
    Cluster,
    /// EDS.
    ClusterLoadAssignment,
    /// LDS.
    Listener,
    /// RDS.
    RouteConfiguration,
    /// SDS.
    Secret,
    /// ECDS.
    TypedExtensionConfig,
    /// Istio's name table for the DNS proxy (NDS).
    NameTable,
    /// Istio's settings of a proxy for its agent (PCDS): the roots of other meshes.
    ProxyConfig,
}

impl TypeUrl {
    /// Every type, in push order.
    pub const ALL: [Self; 8] = [
        Self::Cluster,
        Self::ClusterLoadAssignment,
        Self::Listener,
        Self::RouteConfiguration,
        Self::Secret,
        Self::TypedExtensionConfig,
        Self::NameTable,
        Self::ProxyConfig,
    ];

    /// The type URL on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::ClusterLoadAssignment => {
                "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
            }
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::RouteConfiguration => {
                "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
            }
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::TypedExtensionConfig => {
                "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
            }
            Self::NameTable => "type.googleapis.com/istio.networking.nds.v1.NameTable",
            Self::ProxyConfig => "type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig",
        }
    }

    /// The type of a URL, if it is one of ours.
    pub fn parse(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.as_str() == url)
    }

    /// Whether clients subscribe to every resource of the type with a wildcard (CDS, LDS, NDS, PCDS) rather than by name.
    pub const fn is_wildcard(self) -> bool {
        matches!(
            self,
            Self::Cluster | Self::Listener | Self::NameTable | Self::ProxyConfig
        )
    }
}

impl fmt::Display for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One resource of any xDS type. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The name clients subscribe to.
    pub name: Arc<str>,
    /// A hash of the encoded body: equal versions mean equal bytes.
    pub version: u64,
    /// The encoded message.
    pub body: Arc<Any>,
}

impl Resource {
    /// Encodes `message` under `name`.
    pub fn new<M: Message + Name>(name: impl Into<Arc<str>>, message: &M) -> Self {
        Self::from_any(name, crate::pack(message))
    }

    /// Wraps an encoded message.
    pub fn from_any(name: impl Into<Arc<str>>, any: Any) -> Self {
        Self {
            name: name.into(),
            version: fnv1a(&any.value),
            body: Arc::new(any),
        }
    }

    /// The version as it is written on the wire.
    pub fn version_string(&self) -> String {
        format!("{:016x}", self.version)
    }
}

/// The resources of one type, by name. Proxies that are to have nearly the same share what is the same.
pub type Resources = SharedMap<Arc<str>, Resource>;

/// Everything one proxy is to have. Cheap to clone; equal parts are shared between proxies and versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceSet {
    types: BTreeMap<TypeUrl, Arc<Resources>>,
}

impl ResourceSet {
    /// The resources of a type; empty if none were set.
    pub fn get(&self, ty: TypeUrl) -> Arc<Resources> {
        self.types.get(&ty).cloned().unwrap_or_default()
    }

    /// Replaces the resources of a type.
    pub fn set(&mut self, ty: TypeUrl, resources: Arc<Resources>) {
        self.types.insert(ty, resources);
    }

    /// Adds or replaces one resource.
    pub fn insert(&mut self, ty: TypeUrl, resource: Resource) {
        let map = self.types.entry(ty).or_default();
        Arc::make_mut(map).insert(resource.name.clone(), resource);
    }

    /// The types that hold at least one resource, in push order.
    pub fn iter(&self) -> impl Iterator<Item = (TypeUrl, &Arc<Resources>)> {
        self.types.iter().map(|(ty, resources)| (*ty, resources))
    }
}

/// FNV-1a, 64 bit. Not cryptographic; stable over builds and machines, which `std`'s hasher is not promised to be.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
