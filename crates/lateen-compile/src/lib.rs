//! The configuration compiler: snapshots of resources to Envoy resources.
//!
//! [`Snapshot`] is everything the control plane knows, indexed and immutable. [`Compiler::compile`] turns it into what one proxy
//! is to have. Between the two are generators: pure functions of small inputs that are `Eq + Hash`, memoised by them.
//!
//! No clock, environment, randomness or I/O is read here, and no hash map is iterated: the same inputs give the same bytes, in
//! whatever order they come.

mod accesslog;
mod attachment;
mod authentication;
mod authorization;
mod clusters;
mod compiler;
mod credentials;
mod dead_rules;
mod diagnostics;
mod endpoints;
mod features;
mod filters;
mod gateways;
mod host;
mod ignored;
mod jwks;
mod labels;
mod listeners;
mod memo;
mod mesh;
mod meta;
mod model;
mod names;
mod nametable;
mod node;
mod pod;
mod proto;
mod routes;
mod rules;
mod scope;
mod secrets;
mod security;
mod shared;
mod snapshot;
mod telemetry;
mod tracing;

pub use compiler::{Compiled, Compiler, CompilerStats};
pub use dead_rules::dead_rules;
pub use diagnostics::DEAD_RULES;
pub use endpoints::LOCAL_CLUSTER;
pub use features::{Features, JwksFetch};
pub use ignored::{IGNORED, ignored};
pub use jwks::{
    DEFAULT_TIMEOUT as DEFAULT_JWKS_TIMEOUT, Jwks, JwksSource, JwksStore,
    MAX_BYTES as MAX_JWKS_BYTES, NotAKeySet, bundle_sources, jwks_sources, public_set,
};
pub use memo::MemoStats;
pub use mesh::Settings;
pub use model::{Distribution, Endpoint, Health, Port, Registry, Resolution, Service, Visibility};
pub use names::ObjectRef;
pub use node::{Interception, IpMode, NodeError, ProxyKind, ProxyNode};
pub use pod::{Locality, Pod, PodRole};
pub use protocol::{Handling, Protocol};
pub use shared::Shared;
pub use snapshot::{ObjectChange, PodChange, Snapshot, SnapshotInputs};

mod protocol;
