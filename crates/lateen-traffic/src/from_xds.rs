//! Envoy's messages to this crate's types. Besides `lateen-envoy`, only this module names the messages.
//!
//! Every function takes a message and returns a compiled value, or an [`XdsError`] that names the field.

mod error;

pub use error::XdsError;

use lateen_envoy::pb::google::protobuf::Any;

use crate::{Cluster, EndpointSet, Listener, RouteConfig, Secret};

fn unsupported<T>(_: &Any) -> Result<T, XdsError> {
    Err(XdsError::new("not compiled yet"))
}

/// Compiles a listener.
///
/// # Errors
/// It is not valid, or not supported.
pub fn listener(any: &Any, _name: &str) -> Result<Listener, XdsError> {
    unsupported(any)
}

/// Compiles a route configuration.
///
/// # Errors
/// It is not valid, or not supported.
pub fn route_config(any: &Any) -> Result<RouteConfig, XdsError> {
    unsupported(any)
}

/// Compiles a cluster.
///
/// # Errors
/// It is not valid, or not supported.
pub fn cluster(any: &Any) -> Result<Cluster, XdsError> {
    unsupported(any)
}

/// Compiles an endpoint set.
///
/// # Errors
/// It is not valid, or not supported.
pub fn endpoints(any: &Any) -> Result<EndpointSet, XdsError> {
    unsupported(any)
}

/// Compiles a secret.
///
/// # Errors
/// It is not valid, or not supported.
pub fn secret(any: &Any) -> Result<Secret, XdsError> {
    unsupported(any)
}
