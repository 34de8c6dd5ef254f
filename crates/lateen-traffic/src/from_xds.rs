//! Envoy's messages to this crate's types. Besides `lateen-envoy`, only this module names the messages.
//!
//! Every function takes a message and returns a compiled value, or an [`XdsError`] that names the field. What a message asks
//! for and this engine does not do is refused, never passed over: a route or a policy that is served looser than written is
//! worse than one that is not served.

mod access_log;
mod alike;
mod basic;
mod cluster;
mod endpoint;
mod error;
mod ext_authz;
mod extension;
mod hcm;
mod headers;
mod http_filter;
mod jwt;
mod listener;
mod matchers;
mod network_filter;
mod overrides;
mod rate_limit;
mod rbac;
mod retry;
mod route;
mod route_action;
mod tls;
mod tracing;

use std::sync::Arc;

use bytes::Bytes;
use lateen_envoy::TypeUrl;
use lateen_envoy::pb::envoy::config::{
    cluster::v3 as cds, endpoint::v3 as eds, listener::v3 as lds, route::v3 as rds,
};
use lateen_envoy::pb::envoy::extensions::transport_sockets::tls::v3 as sds;
use lateen_envoy::pb::google::protobuf::{Any, Struct};

pub(crate) use alike::{Alike, Told};
pub use error::XdsError;
pub(crate) use route::{CheckedHost, SplitRoutes};

use crate::route::VirtualHost;
use crate::value::Value;
use crate::{Cluster, EndpointSet, Listener, RouteConfig, Secret};

/// Compiles a listener. A listener without a name of its own gets that of the resource.
///
/// # Errors
/// It is not valid, or asks for something that is not supported.
pub fn listener(any: &Any, name: &str) -> Result<Listener, XdsError> {
    listener::compile(extension::message::<lds::Listener>(any)?, name)
}

/// Compiles a route configuration.
///
/// # Errors
/// It is not valid, or asks for something that is not supported.
pub fn route_config(any: &Any) -> Result<RouteConfig, XdsError> {
    route::compile(extension::message::<rds::RouteConfiguration>(any)?)
}

/// Compiles a route configuration whose message is kept anyway: what is compiled later refers to it.
///
/// # Errors
/// As [`route_config`].
pub(crate) fn shared_route_config(
    any: &Arc<Any>,
    hosts: &mut Alike<()>,
) -> Result<RouteConfig, XdsError> {
    match split_routes(any) {
        Some(split) => split.finish(split.check(0..split.len(), hosts)),
        // The decoder says what is wrong with it.
        None => route_config(any),
    }
}

/// A route configuration, its virtual hosts as they came; `None` if it did not come as such.
pub(crate) fn split_routes(any: &Arc<Any>) -> Option<SplitRoutes> {
    /// A message's bytes, shared.
    struct Body(Arc<Any>);
    impl AsRef<[u8]> for Body {
        fn as_ref(&self) -> &[u8] {
            &self.0.value
        }
    }
    let is_message = any.type_url == TypeUrl::RouteConfiguration.as_str();
    let encoded = is_message.then(|| Bytes::from_owner(Body(Arc::clone(any))));
    SplitRoutes::new(&encoded?)
}

/// Compiles a virtual host again that compiled before.
pub(crate) fn virtual_host(encoded: &[u8], max_body: u32) -> VirtualHost {
    route::known_virtual_host(encoded, max_body)
}

/// Compiles a cluster.
///
/// # Errors
/// It is not valid, or asks for something that is not supported.
pub fn cluster(any: &Any) -> Result<Cluster, XdsError> {
    cluster::compile(extension::message::<cds::Cluster>(any)?)
}

/// Compiles an endpoint set.
///
/// # Errors
/// It is not valid, or asks for something that is not supported.
pub fn endpoints(any: &Any) -> Result<EndpointSet, XdsError> {
    endpoint::compile(
        &extension::message::<eds::ClusterLoadAssignment>(any)?,
        endpoint::Names::Forbidden,
    )
}

/// A struct, as metadata holds it.
pub fn object(fields: &Struct) -> Value {
    basic::object(fields)
}

/// Compiles a secret.
///
/// # Errors
/// It is not valid, or asks for something that is not supported.
pub fn secret(any: &Any) -> Result<Secret, XdsError> {
    tls::secret(&extension::message::<sds::Secret>(any)?)
}

/// Compiles the configuration of the JWT filter, for who runs that filter alone.
///
/// # Errors
/// It is not valid, or asks for something that is not supported.
pub fn jwt_authn(any: &Any) -> Result<crate::jwt::JwtAuthn, XdsError> {
    jwt::compile(&extension::message(any)?)
}

#[cfg(test)]
mod tests;
