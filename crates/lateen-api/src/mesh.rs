//! Settings of a whole mesh: `MeshConfig`, the proxies' `ProxyConfig`, `MeshNetworks` and `IstioOperator`.
//!
//! `mesh::ProxyConfig` is `mesh.v1alpha1.ProxyConfig` (`meshConfig.defaultConfig` and the annotation
//! `proxy.istio.io/config`); the resource kind of the same name is [`crate::networking::ProxyConfig`].

mod config;
mod network;
mod operator;
mod proxy;

pub use config::*;
pub use network::*;
pub use operator::*;
pub use proxy::*;
