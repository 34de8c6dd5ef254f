//! What the integration tests share: resources as JSON, backends, a proxy on loopback.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod identity;
pub(crate) mod twins;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lateen_envoy::ResourceSet;
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_identity::WorkloadIdentity;
use lateen_proxy::{ConfigSource, Proxy, ProxyConfig, ProxyHandle, resources_from_json};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) const HCM: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
pub(crate) const ROUTER: &str =
    "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
pub(crate) const H2: &str =
    "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// A listener on a port of the system's choice, each name on a loopback address of its own.
pub(crate) fn listener(name: &str, chains: Value) -> Value {
    let last = name
        .bytes()
        .fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte))
        % 200
        + 2;
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": name,
        "address": {"socket_address": {"address": format!("127.0.1.{last}"), "port_value": 0}},
        "filter_chains": chains,
    })
}

/// A filter with its settings.
pub(crate) fn filter(name: &str, config: Value) -> Value {
    json!({"name": name, "typed_config": config})
}

/// An HTTP connection manager with routes in place and further settings.
pub(crate) fn hcm(routes: Value, extra: Value) -> Value {
    let mut manager = json!({
        "@type": HCM,
        "stat_prefix": "test",
        "route_config": {
            "name": "local",
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
        },
        "http_filters": [filter("envoy.filters.http.router", json!({"@type": ROUTER}))],
    });
    merge(&mut manager, extra);
    filter("envoy.filters.network.http_connection_manager", manager)
}

pub(crate) fn merge(into: &mut Value, extra: Value) {
    if let (Value::Object(into), Value::Object(extra)) = (into, extra) {
        into.extend(extra);
    }
}

/// A route of everything to a cluster, with further settings of the action.
pub(crate) fn route_to(cluster: &str, extra: Value) -> Value {
    let mut action = json!({"cluster": cluster, "timeout": "0s"});
    merge(&mut action, extra);
    json!([{"name": "to-it", "match": {"prefix": "/"}, "route": action}])
}

/// A static cluster.
pub(crate) fn cluster(name: &str, hosts: &[SocketAddr], extra: Value) -> Value {
    let endpoints: Vec<Value> = hosts
        .iter()
        .map(|host| {
            json!({"endpoint": {"address": {"socket_address": {
                "address": host.ip().to_string(), "port_value": host.port()
            }}}})
        })
        .collect();
    let mut cluster = json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    });
    merge(&mut cluster, extra);
    cluster
}

/// Makes a cluster speak HTTP/2.
pub(crate) fn http2() -> Value {
    json!({"typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": H2, "explicit_http_config": {"http2_protocol_options": {}}
        }
    }})
}

pub(crate) fn resources(list: Vec<Value>) -> ResourceSet {
    match resources_from_json(&list) {
        Ok(set) => set,
        Err(error) => panic!(
            "{error}: {:?}",
            std::error::Error::source(&error).map(ToString::to_string)
        ),
    }
}

/// A proxy on loopback whose resources can be replaced.
pub(crate) struct Running {
    pub(crate) handle: ProxyHandle,
    pub(crate) resources: watch::Sender<Arc<ResourceSet>>,
    pub(crate) identity: watch::Sender<Option<Arc<WorkloadIdentity>>>,
}

pub(crate) async fn start(list: Vec<Value>) -> Running {
    start_with(list, None, |_| {}).await
}

pub(crate) async fn start_with(
    list: Vec<Value>,
    identity: Option<Arc<WorkloadIdentity>>,
    change: impl FnOnce(&mut ProxyConfig),
) -> Running {
    let (sender, receiver) = watch::channel(Arc::new(resources(list)));
    let (identity_sender, identity) = watch::channel(identity);
    let node = Node {
        id: "sidecar~127.0.0.1~test.default~default.svc.cluster.local".to_owned(),
        cluster: "test".to_owned(),
        ..Node::default()
    };
    let mut config = ProxyConfig::new(node, ConfigSource::Resources(receiver), identity);
    config.admin = Some("127.0.0.1:0".parse().unwrap());
    config.prometheus = None;
    config.health = None;
    change(&mut config);
    let handle = Proxy::start(config).unwrap();
    assert!(
        tokio::time::timeout(Duration::from_secs(20), handle.ready())
            .await
            .unwrap()
    );
    Running {
        handle,
        resources: sender,
        identity: identity_sender,
    }
}

impl Running {
    /// Where a listener is bound.
    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        let bound = self.handle.bound();
        let found = bound.iter().find(|(name, _)| &**name == listener);
        found
            .unwrap_or_else(|| panic!("{listener} is not bound: {bound:?}"))
            .1
    }

    pub(crate) fn url(&self, listener: &str, path: &str) -> String {
        format!("http://{}{path}", self.address(listener))
    }

    pub(crate) fn replace(&self, list: Vec<Value>) {
        self.resources.send_replace(Arc::new(resources(list)));
    }
}

/// A backend that answers with `answer`, over HTTP/1 and HTTP/2.
pub(crate) async fn backend<F, A>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let service = hyper::service::service_fn(move |request| {
                    let answered = answer(request);
                    async move { Ok::<_, Infallible>(answered.await) }
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

pub(crate) fn text(text: impl Into<String>) -> Response<Body> {
    Response::new(Full::new(Bytes::from(text.into())).boxed())
}

/// A client's HTTP/1 connection to an address.
pub(crate) async fn client(
    address: SocketAddr,
) -> hyper::client::conn::http1::SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(driver.with_upgrades());
    sender
}

/// Waits for a condition, ten seconds at most.
pub(crate) async fn wait_for<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(std::time::Instant::now() < end, "it never came to hold");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One request on a connection of its own.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, http::HeaderMap, String) {
    send(
        address,
        Request::get(path)
            .header("host", "test.example")
            .body(Full::default())
            .unwrap(),
    )
    .await
}

pub(crate) async fn send(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
) -> (u16, http::HeaderMap, String) {
    let mut sender = client(address).await;
    let response = sender.send_request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (
        parts.status.as_u16(),
        parts.headers,
        String::from_utf8_lossy(&bytes).into_owned(),
    )
}
