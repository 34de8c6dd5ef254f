//! The data plane: listeners, TLS, HTTP and TCP proxying, upstream pools, admin.
//!
//! [`Proxy::start`] runs it. Each worker is one thread with its own runtime, listeners (SO_REUSEPORT), pools and counters;
//! nothing on a request's path takes a lock or crosses a thread. The control runtime, a thread of its own, holds xDS, secrets,
//! DNS and the admin interface, and publishes what it knows as one immutable value that workers swap in.
//!
//! What happens to a connection or request is decided by `lateen-traffic`; here it is done. A connection's way is
//! [`connection`], a request's way is [`http::exchange`].

mod access_log_service;
mod admin;
mod alarm;
mod clock;
mod cluster;
mod codec;
mod config;
mod connection;
mod control;
mod decisions;
mod doze;
mod drains;
mod export;
mod ext_authz;
#[doc(hidden)]
pub mod fuzzing;
mod h2;
mod handle;
mod health;
mod http;
mod inspect;
mod jwks;
mod level;
mod metadata_exchange;
mod mux;
mod net;
mod node;
mod panic;
mod quiet;
mod rate_limit;
mod secrets;
mod shared;
mod spare;
mod static_resources;
mod stats_matcher;
mod streams;
mod tcp;
mod tls;
mod trace;
mod turn;
mod upstream;
mod worker;

pub use admin::LOGGERS;
pub use config::{
    ConfigSource, DrainSettings, Limits, LogControl, ProxyConfig, XdsConnect, XdsSource,
};
pub use control::ControlError;
pub use decisions::DecisionIds;
pub use handle::{Proxy, ProxyHandle, StartError, State};
pub use static_resources::{StaticError, resources_from_json};
pub use stats_matcher::StatsMatcher;
