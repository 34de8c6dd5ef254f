//! The data plane under an xDS server: subscriptions, warming, refusals, and a control plane that goes away.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use lateen_envoy::ResourceSet;
use lateen_envoy::TypeUrl;
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_proxy::{ConfigSource, Proxy, ProxyConfig, ProxyHandle, XdsSource};
use lateen_xds::grpc::client::{ClientConfig, endpoint};
use lateen_xds::grpc::{
    AdsServer, ConnectRequest, Connection, Discovery, KeepAlive, PeerInfo, PeerStream, ServerConfig,
};
use lateen_xds::server::SessionStatus;
use serde_json::{Value, json};
use support::*;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;

struct Mesh {
    resources: watch::Sender<Option<ResourceSet>>,
    status: Mutex<Vec<watch::Receiver<SessionStatus>>>,
}

#[tonic::async_trait]
impl Discovery for Mesh {
    async fn connect(&self, _: ConnectRequest) -> Result<Connection, Status> {
        let (status, watched) = watch::channel(SessionStatus::default());
        self.status.lock().unwrap().push(watched);
        Ok(Connection {
            resources: self.resources.subscribe(),
            status,
        })
    }
}

async fn serve(mesh: &Arc<Mesh>) -> (SocketAddr, AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = ServerConfig::default();
    let mut transport = config.transport();
    let ads = AdsServer::new(mesh.clone(), config).into_service();
    let incoming = TcpListenerStream::new(listener).map(|io| {
        io.map(|io| {
            let peer = PeerInfo {
                remote: io.peer_addr().ok(),
                identity: None,
            };
            PeerStream::new(io, peer)
        })
    });
    let serving = transport.add_service(ads).serve_with_incoming(incoming);
    let task = tokio::spawn(async move { serving.await.unwrap() }).abort_handle();
    (address, task)
}

fn proxy(server: SocketAddr) -> ProxyHandle {
    let uri: tonic::transport::Uri = format!("http://{server}").parse().unwrap();
    let source = XdsSource {
        connect: Box::new(move || {
            let endpoint = endpoint(uri.clone(), KeepAlive::default());
            Box::pin(async move { Ok(endpoint.connect().await?.into()) })
        }),
        client: ClientConfig::new(Node::default()),
    };
    let node = Node {
        id: "sidecar~127.0.0.1~a.b~c".to_owned(),
        ..Node::default()
    };
    let mut config = ProxyConfig::new(node, ConfigSource::xds(source), watch::channel(None).1);
    config.admin = Some("127.0.0.1:0".parse().unwrap());
    (config.prometheus, config.health) = (None, None);
    Proxy::start(config).unwrap()
}

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
    let state = Arc::new(Mesh {
        resources: watch::channel(None).0,
        status: Mutex::default(),
    });
    let (server, serving) = serve(&state).await;
    let handle = proxy(server);
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
    let state = Arc::new(Mesh {
        resources: watch::channel(Some(set.clone())).0,
        status: Mutex::default(),
    });
    let (server, serving) = serve(&state).await;
    let handle = proxy(server);
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
