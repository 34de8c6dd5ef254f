//! The data plane under an xDS server: subscriptions, warming, refusals, and a control plane that goes away.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "support/ads.rs"]
mod ads;
mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use ads::{Mesh, proxy, serve};
use lateen_envoy::TypeUrl;
use serde_json::{Value, json};
use support::*;

fn mesh(path: &str, host: SocketAddr) -> Vec<Value> {
    let ads = json!({"ads": {}, "resource_api_version": "V3"});
    let manager = filter(
        "envoy.filters.network.http_connection_manager",
        json!({
            "@type": HCM,
            "stat_prefix": "test",
            "rds": {"route_config_name": "80", "config_source": ads},
            "http_filters": [filter("envoy.filters.http.router", json!({"@type": ROUTER}))],
        }),
    );
    vec![
        listener("in", json!([{"filters": [manager]}])),
        json!({
            "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            "name": "80",
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                {"match": {"prefix": path}, "route": {"cluster": "outbound|80||a"}}
            ]}],
        }),
        json!({
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            "name": "outbound|80||a", "type": "EDS",
            "eds_cluster_config": {"eds_config": ads, "service_name": "a.example"},
        }),
        json!({
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": "a.example",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {
                "address": host.ip().to_string(), "port_value": host.port()
            }}}}]}],
        }),
    ]
}

#[tokio::test]
async fn the_proxy_follows_a_control_plane_and_outlives_it() {
    let host = backend(|_| async { text("ok") }).await;
    let state = Mesh::new(None);
    let (server, serving) = serve(&state).await;
    let handle = proxy(server, None);
    assert!(
        tokio::time::timeout(std::time::Duration::from_millis(200), handle.ready())
            .await
            .is_err()
    );

    state
        .resources
        .send_replace(Some(resources(mesh("/one", host))));
    assert!(
        tokio::time::timeout(std::time::Duration::from_secs(10), handle.ready())
            .await
            .unwrap()
    );
    let address = handle.bound()[0].1;
    assert_eq!(get(address, "/one").await.0, 200);
    assert_eq!(get(address, "/two").await.0, 404);

    state
        .resources
        .send_replace(Some(resources(mesh("/two", host))));
    wait_for(|| async { get(address, "/two").await.0 == 200 }).await;

    // A listener that cannot be compiled is refused by name; the last good one stays.
    let mut broken = mesh("/three", host);
    broken[0]["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"] = json!([]);
    broken[0]["filter_chains"][0]["filters"][0]["typed_config"]["route_config"] = json!(null);
    broken[0]["filter_chains"][0]["filters"][0]["typed_config"]["rds"] = json!(null);
    state.resources.send_replace(Some(resources(broken)));
    wait_for(|| async { get(address, "/three").await.0 == 200 }).await;
    let admin = handle.admin_address().unwrap();
    wait_for(|| async {
        get(admin, "/config_dump").await.2.contains("errorState")
            || get(admin, "/config_dump").await.2.contains("error_state")
    })
    .await;

    serving.abort();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!(get(address, "/three").await.0, 200);
    handle.shutdown().await;
}

#[tokio::test]
async fn a_listener_waits_for_its_routes() {
    let host = backend(|_| async { text("ok") }).await;
    let mut set = resources(mesh("/", host));
    let routes = set.get(TypeUrl::RouteConfiguration);
    set.set(TypeUrl::RouteConfiguration, Arc::default());
    let state = Mesh::new(Some(set.clone()));
    let (server, serving) = serve(&state).await;
    let handle = proxy(server, None);
    // The server says that there are no such routes: that is an answer, and clients get 404 rather than nothing.
    assert!(
        tokio::time::timeout(std::time::Duration::from_secs(20), handle.ready())
            .await
            .unwrap()
    );
    let address = handle.bound()[0].1;
    assert_eq!(get(address, "/").await.0, 404);
    set.set(TypeUrl::RouteConfiguration, routes);
    state.resources.send_replace(Some(set));
    wait_for(|| async { get(address, "/").await.0 == 200 }).await;
    handle.shutdown().await;
    serving.abort();
}
