//! The control plane server.
//!
//! [`mesh`] turns watched sources into published snapshots; [`discovery`] compiles them for each connected proxy; [`serve`] opens
//! the ports: ADS and the CA over mutual TLS on 15012, ADS in plain text on loopback's 15010, metrics on 15014, and debug
//! answers on a unix socket that only the owner can open. [`findings`] asks the same of a mesh that does not run.

mod debug;
pub mod discovery;
pub mod expiry;
pub mod findings;
mod jwks;
pub mod mesh;
mod metrics;
mod reply;
mod secure;
pub mod serve;
mod workloads;

pub use jwks::{AddressGuard, Blocked, JwksSettings};
pub use serve::{Config, ControlPlane, StartError};
pub use workloads::WorkloadRegistry;
