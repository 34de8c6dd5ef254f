//! Route configurations: which virtual host and route an HTTP request takes.
//!
//! A sidecar has one per port it sends HTTP to, a gateway one per server or shared plain port. What a listener's own workload
//! gets is inline in the listener ([`inbound`]).

mod actions;
mod gateway;
mod matches;
mod sidecar;
mod translate;

use lateen_api::networking::HttpRetry;

use crate::meta::Meta;
use crate::names::{self, ObjectRef};
use crate::proto::{bool_value, route, u32_value};
use crate::protocol::Protocol;
use crate::snapshot::Semantics;

pub(crate) use gateway::{GatewayRouteInputs, gateway};
pub(crate) use sidecar::{SidecarRouteInputs, sidecar};
pub(crate) use translate::{DestinationFacts, cluster_of, relevant_labels};

/// Direct responses may be this large: users put whole pages there. Source: Istio.
const MAX_DIRECT_RESPONSE: u32 = 1024 * 1024;

/// A route configuration as Istio makes them: ports in the host header are ignored, and clusters need not exist yet.
fn configuration(name: &str, virtual_hosts: Vec<route::VirtualHost>) -> route::RouteConfiguration {
    route::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts,
        validate_clusters: bool_value(false),
        max_direct_response_body_size_bytes: u32_value(MAX_DIRECT_RESPONSE),
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

/// The route of a service that no virtual service says anything about.
#[expect(
    deprecated,
    reason = "Istio sends max_grpc_timeout, and older proxies read nothing else"
)]
fn default_route(
    cluster: &str,
    operation: String,
    retry: Option<&HttpRetry>,
    hash: Option<&lateen_api::networking::ConsistentHashLb>,
    object: &ObjectRef,
) -> route::Route {
    let action = route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(
            cluster.to_owned(),
        )),
        timeout: Some(Default::default()),
        max_grpc_timeout: Some(Default::default()),
        retry_policy: actions::retry_policy(retry, hash.is_some()),
        hash_policy: hash.and_then(actions::hash_policy).into_iter().collect(),
        ..Default::default()
    };
    let mut out = route::Route {
        name: "default".to_owned(),
        r#match: Some(matches::route_match(None, Semantics::Istio)),
        action: Some(route::route::Action::Route(action)),
        decorator: Some(route::Decorator {
            operation,
            ..Default::default()
        }),
        metadata: Meta::default().provenance(object, "").build(),
        ..Default::default()
    };
    if retry.is_none() {
        actions::mark_default_retries(&mut out);
    }
    out
}

/// The inline routes of an inbound listener: everything to the workload.
pub(crate) fn inbound(
    cluster: &str,
    port: u32,
    protocol: Protocol,
    host: &str,
    object: Option<&ObjectRef>,
) -> route::RouteConfiguration {
    let zero = Some(Default::default());
    let action = route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(
            cluster.to_owned(),
        )),
        timeout: zero,
        max_stream_duration: Some(route::route_action::MaxStreamDuration {
            max_stream_duration: zero,
            grpc_timeout_header_max: zero,
            ..Default::default()
        }),
        // gRPC has its own retries, and a stream cannot be tried again.
        retry_policy: (!protocol.is_grpc()).then(actions::inbound_retry_policy),
        ..Default::default()
    };
    let built = route::Route {
        name: "default".to_owned(),
        r#match: Some(matches::route_match(None, Semantics::Istio)),
        action: Some(route::route::Action::Route(action)),
        decorator: Some(route::Decorator {
            operation: format!("{host}:{port}/*"),
            ..Default::default()
        }),
        metadata: object.and_then(|object| Meta::default().provenance(object, "").build()),
        ..Default::default()
    };
    route::RouteConfiguration {
        name: cluster.to_owned(),
        virtual_hosts: vec![route::VirtualHost {
            name: format!("inbound|http|{port}"),
            domains: vec!["*".to_owned()],
            routes: vec![built],
            ..Default::default()
        }],
        validate_clusters: bool_value(false),
        ..Default::default()
    }
}

/// Where requests to unknown hosts go: where they were going, to an egress proxy, or nowhere.
#[expect(
    deprecated,
    reason = "Istio sends max_grpc_timeout, and older proxies read nothing else"
)]
fn catch_all(outbound: &crate::mesh::OutboundPolicy) -> route::VirtualHost {
    use crate::mesh::OutboundPolicy;
    let to = |cluster: &str| {
        route::route::Action::Route(route::RouteAction {
            cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(
                cluster.to_owned(),
            )),
            timeout: Some(Default::default()),
            max_grpc_timeout: Some(Default::default()),
            ..Default::default()
        })
    };
    let (name, action) = match outbound {
        OutboundPolicy::AllowAny => (names::ALLOW_ANY, to(names::PASSTHROUGH_CLUSTER)),
        OutboundPolicy::AllowAnyDynamicDns => (
            names::ALLOW_ANY_DYNAMIC_DNS,
            to(names::ALLOW_ANY_DYNAMIC_DNS_CLUSTER),
        ),
        OutboundPolicy::EgressProxy(cluster) => (names::ALLOW_ANY, to(cluster)),
        OutboundPolicy::RegistryOnly => (
            names::BLOCK_ALL,
            route::route::Action::DirectResponse(route::DirectResponseAction {
                status: 502,
                ..Default::default()
            }),
        ),
    };
    route::VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route::Route {
            name: name.to_owned(),
            r#match: Some(route::RouteMatch {
                path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
                ..Default::default()
            }),
            action: Some(action),
            ..Default::default()
        }],
        include_request_attempt_count: true,
        ..Default::default()
    }
}

/// The inline routes of requests to destinations nobody knows.
pub(crate) fn unknown_hosts(outbound: &crate::mesh::OutboundPolicy) -> route::RouteConfiguration {
    let host = catch_all(outbound);
    configuration(&host.name.clone(), vec![host])
}
