//! Istio's `networking.istio.io` kinds: where traffic goes and how it is balanced, retried and secured.
//!
//! Rust names follow the API's (`HTTPRoute` is [`HttpRoute`]); a nested message that would collide takes its
//! parent's name in front (`EnvoyFilter.Patch.Operation` is [`PatchOperation`]). The field tables say nothing about
//! meaning: see `validate` for what is accepted and the compiler for what is done.

mod destination_rule;
mod envoy_filter;
mod gateway;
mod proxy_config;
mod service_entry;
mod sidecar;
mod virtual_service;
mod workload_entry;
mod workload_group;

pub use crate::value::StringMatch;
pub use destination_rule::*;
pub use envoy_filter::*;
pub use gateway::*;
pub use proxy_config::*;
pub use service_entry::*;
pub use sidecar::*;
pub use virtual_service::*;
pub use workload_entry::*;
pub use workload_group::*;
