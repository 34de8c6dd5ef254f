//! The traffic engine: "given this configuration and this connection or request, what happens and why?"
//!
//! Envoy v3 resources are compiled once into a [`Program`]; decisions are pure functions over it. The proxy runs them on
//! sockets, `explain` and `test` on descriptions of requests. There is no I/O, clock, randomness or lock in here: whatever
//! varies (a random number, the load of a host, a host's health) is an argument.
//!
//! How a proxy uses it, in order:
//! 1. [`Program::update`] with what xDS delivered; [`Program::references`] says what to subscribe to next.
//! 2. [`Program::dispatch`] for the original destination, then [`Listener::match_filter_chain`].
//! 3. [`hcm::HttpConnectionManager`] or [`tcp::TcpProxy`] of the chain's [`filter::NetworkFilter`]s.
//! 4. [`path::PathOptions::normalize`], the HTTP filters, [`RouteConfig::route`].
//! 5. [`Program::cluster`], [`Program::endpoints_of`], [`lb::HostSet`] and [`lb::LbState::pick`].
//! 6. [`retry::RetryPolicy::should_retry`] after every attempt.

pub mod access_log;
pub mod cel;
pub mod cluster;
pub mod cors;
pub mod endpoint;
pub mod ext_authz;
pub mod fault;
pub mod filter;
pub mod format;
pub mod from_xds;
pub mod hcm;
pub mod headers;
pub mod health_check;
pub mod jwt;
pub mod lb;
pub mod listener;
pub mod matcher;
pub mod path;
pub mod program;
pub mod provenance;
pub mod rate_limit;
pub mod rbac;
pub mod request;
pub mod retry;
pub mod route;
pub mod secret;
pub mod tcp;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod tracing;
pub mod value;

pub use cluster::Cluster;
pub use endpoint::EndpointSet;
pub use listener::Listener;
pub use program::{Change, Program, Rejection};
pub use provenance::Provenance;
pub use request::{ConnectionInfo, PeerTls, RequestView};
pub use route::RouteConfig;
pub use secret::Secret;
