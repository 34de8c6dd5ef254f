//! What stands beside a data plane: identity, SDS, DNS, health and probes, and running a stock Envoy.
//!
//! It is to Lateen what `pilot-agent` is to Istio and reads the same environment. It runs beside either data plane in a pod's
//! network namespace: our own proxy takes its certificates and xDS channel as plain values ([`Agent::identity`],
//! [`Agent::xds`], [`Agent::node`]); a stock Envoy takes them over two Unix sockets ([`ads`], [`sds`]) and is run as a child
//! ([`envoy`]). It carries no traffic of the mesh itself.

mod grpc_health;
mod uds;

pub mod ads;
pub mod agent;
pub mod bootstrap;
pub mod config;
pub mod data_plane;
pub mod dns;
pub mod envoy;
pub mod http_client;
pub mod istiod;
pub mod node;
pub mod sds;
pub mod status;
pub mod subscription;
pub mod workload_health;

pub use agent::{Agent, AgentError};
pub use config::{AgentConfig, AgentOptions, ConfigError, DataPlaneKind, NodeType};
pub use data_plane::{DataPlane, NotReady};
