//! Kubernetes kinds: workloads, services and what they refer to.
//!
//! Fields that nothing in the mesh reads are kept as [`crate::value::Value`] trees, so that they can be shown and
//! passed on but cost no types.

mod config;
mod gateway_api;
mod pod;
mod service;
mod workload;

pub use config::*;
pub use gateway_api::*;
pub use pod::*;
pub use service::*;
pub use workload::*;
