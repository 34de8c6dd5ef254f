//! What Envoy is to have.

use std::net::SocketAddr;

use lateen_envoy::TypeUrl::{
    Cluster as Cds, ClusterLoadAssignment as Eds, Listener as Lds, RouteConfiguration as Rds,
};
use lateen_envoy::pb::envoy::config::cluster::v3::Cluster;
use lateen_envoy::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_envoy::pb::envoy::config::listener::v3::Listener;
use lateen_envoy::pb::envoy::config::route::v3::RouteConfiguration;
use lateen_envoy::{Resource, ResourceSet, json};
use serde_json::{Value, json};

/// A listener, a route, and a cluster named after `number`, with its endpoint.
pub(crate) fn generation(number: u32, backend: SocketAddr) -> ResourceSet {
    let name = format!("cluster{number}");
    let cluster: Cluster = parse(json!({
        "name": name, "type": "EDS", "connect_timeout": "1s",
        "eds_cluster_config": { "eds_config": { "ads": {}, "resource_api_version": "V3" } },
    }));
    let endpoints: ClusterLoadAssignment = parse(json!({
        "cluster_name": name,
        "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": { "socket_address": {
            "address": backend.ip().to_string(), "port_value": backend.port(),
        } } } }] }],
    }));
    let route: RouteConfiguration = parse(json!({
        "name": "80",
        "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [
            { "match": { "prefix": "/" }, "route": { "cluster": name } },
        ] }],
    }));
    let mut set = ResourceSet::default();
    set.insert(Cds, Resource::new(name.as_str(), &cluster));
    set.insert(Eds, Resource::new(name.as_str(), &endpoints));
    set.insert(Lds, Resource::new("listener", &listener(json!([]))));
    set.insert(Rds, Resource::new("80", &route));
    set
}

/// The same listener with a filter that Envoy does not have.
pub(crate) fn bad_listener() -> Resource {
    let bad = listener(json!([{ "name": "no.such.filter", "typed_config": {
        "@type": "type.googleapis.com/udpa.type.v1.TypedStruct", "type_url": "no/no.such.filter",
    } }]));
    Resource::new("listener", &bad)
}

fn listener(filters: Value) -> Listener {
    let mut filters = filters.as_array().unwrap().clone();
    filters.push(
        json!({ "name": "envoy.filters.http.router", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
    } }),
    );
    parse(json!({
        "name": "listener",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "test",
                "rds": { "route_config_name": "80", "config_source": { "ads": {}, "resource_api_version": "V3" } },
                "http_filters": filters,
            },
        }] }],
    }))
}

fn parse<M: prost::Message + prost::Name + Default>(value: Value) -> M {
    json::from_value(value).unwrap()
}
