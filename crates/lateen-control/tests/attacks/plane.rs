//! A control plane on loopback, and clients that speak to it without manners.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant, SystemTime};

use lateen_control::mesh::Debounce;
use lateen_control::{Config, ControlPlane, JwksSettings};
use lateen_envoy::TypeUrl;
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_envoy::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use lateen_envoy::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use lateen_envoy::pb::google::protobuf::{Struct, Value, value::Kind};
use lateen_identity::TrustBundle;
use lateen_identity::ca::CaSource;
use lateen_identity::grpc::{ChannelOptions, channel};
use lateen_identity::tls::{
    ALPN_H2, CertifiedKeyPair, ClientSettings, ClientVerification, HostnameCheck, TlsVersions,
    client_config,
};
use lateen_identity::token::{PodRef, TokenKey};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

/// How long anything may take on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running control plane.
pub(crate) struct Plane {
    _plane: ControlPlane,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) ip: IpAddr,
    key: TokenKey,
}

/// A namespace with a workload and a gateway, and one of somebody else.
pub(crate) const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: foo}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: bar}
spec: {clusterIP: 10.96.0.2, selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gateway, namespace: foo}
spec:
  selector: {istio: gateway}
  servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: credential}}]
---
apiVersion: v1
kind: Service
metadata: {name: gateway, namespace: foo}
spec: {clusterIP: 10.96.0.3, selector: {istio: gateway}, ports: [{name: https, port: 443}]}
---
apiVersion: v1
kind: Secret
metadata: {name: credential, namespace: foo}
type: kubernetes.io/tls
stringData: {tls.crt: certificate, tls.key: key}
";

impl Plane {
    /// One for [`MESH`] and more.
    pub(crate) async fn start(more: &str) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        // The ports are Istio's, so each control plane has an address of its own.
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let ip = IpAddr::V4(Ipv4Addr::new(127, 100 + high % 100, low, number));
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::create_dir(path("mesh")).unwrap();
        std::fs::write(path("mesh/mesh.yaml"), format!("{MESH}---\n{more}")).unwrap();
        std::fs::write(path("pods.json"), pods()).unwrap();
        std::fs::create_dir(path("keys")).unwrap();
        std::fs::set_permissions(
            path("keys"),
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )
        .unwrap();
        let key = TokenKey::open(&path("keys/tokens.key")).unwrap();
        let config = Config {
            paths: vec![path("mesh")],
            default_namespace: "default".to_owned(),
            pods: Some(path("pods.json")),
            ca: CaSource::SelfMade { dir: path("ca") },
            token_key: path("keys/tokens.key"),
            listen: vec![ip],
            plain: Some(SocketAddr::new(ip, 15010)),
            workloads: path("workloads.json"),
            debug_socket: path("debug.sock"),
            settings: lateen_compile::Settings::default(),
            debounce: Debounce::default(),
            jwks: JwksSettings::default(),
        };
        Self {
            _plane: ControlPlane::start(config).await.unwrap(),
            directory,
            ip,
            key,
        }
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file of the mesh.
    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path("mesh").join(name), text).unwrap();
    }

    pub(crate) fn token(&self, namespace: &str, account: &str) -> String {
        self.token_at(namespace, account, SystemTime::now())
    }

    /// A token for ten minutes from a time on.
    pub(crate) fn token_at(&self, namespace: &str, account: &str, at: SystemTime) -> String {
        let pod = PodRef {
            namespace,
            service_account: account,
            name: "pod",
            uid: "1",
        };
        self.key.issue(pod, Duration::from_secs(600), at)
    }

    /// A connection to the port with TLS, with a certificate or none.
    pub(crate) fn secure(&self, certificate: Option<CertifiedKeyPair>) -> Channel {
        let config = client_config(ClientSettings {
            certificate,
            verification: ClientVerification::Verify {
                bundle: Arc::new(roots(&self.path("ca/root-cert.pem"))),
                names: Vec::new(),
                hostname: HostnameCheck::ServerName,
            },
            alpn: vec![ALPN_H2.to_vec()],
            versions: TlsVersions::default(),
            send_sni: true,
        })
        .unwrap();
        channel(ChannelOptions {
            address: SocketAddr::new(self.ip, 15012).to_string(),
            server_name: "istiod.istio-system.svc".to_owned(),
            tls: Some(Arc::new(move || Some(config.clone()))),
            mark: None,
            connect_timeout: PATIENCE,
        })
        .unwrap()
    }

    /// A connection to the port without TLS.
    pub(crate) fn plain(&self) -> Channel {
        channel(ChannelOptions {
            address: SocketAddr::new(self.ip, 15010).to_string(),
            server_name: "istiod.istio-system.svc".to_owned(),
            tls: None,
            mark: None,
            connect_timeout: PATIENCE,
        })
        .unwrap()
    }
}

fn roots(path: &Path) -> TrustBundle {
    TrustBundle::from_pem(&std::fs::read(path).unwrap()).unwrap()
}

/// The pods that are known: a workload in each namespace, and the gateway.
fn pods() -> String {
    let pod = |namespace: &str, name: &str, account: &str, role: &str, number: u8| {
        let label = if role == "gateway" { "istio" } else { "app" };
        json!({
            "namespace": namespace, "name": name, "owner": {"kind": "Pod", "name": name},
            "template_hash": 0, "labels": {label: if role == "gateway" { "gateway" } else { "web" }},
            "service_account": account, "ipv4": format!("10.244.0.{number}"), "ipv6": null,
            "role": role, "ports": {}, "phase": "Running", "ready": true, "terminating": false,
            "containers": [], "started_at_ms": 0, "pid": null,
        })
    };
    json!([
        pod("foo", "web", "web", "sidecar", 1),
        pod("foo", "gateway", "gateway", "gateway", 2),
        pod("bar", "web", "web", "sidecar", 3),
    ])
    .to_string()
}

/// A node as a proxy names itself.
pub(crate) fn node(kind: &str, pod: &str, namespace: &str, metadata: &[(&str, &str)]) -> Node {
    let text = |value: &str| Value {
        kind: Some(Kind::StringValue(value.to_owned())),
    };
    let labels = metadata
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix("LABELS.")?.to_owned(), text(value))))
        .collect();
    let labels = Value {
        kind: Some(Kind::StructValue(Struct { fields: labels })),
    };
    let plain = metadata
        .iter()
        .filter(|(name, _)| !name.starts_with("LABELS."))
        .map(|(name, value)| ((*name).to_owned(), text(value)));
    let fields = plain.chain([("LABELS".to_owned(), labels)]).collect();
    Node {
        id: format!("{kind}~10.244.0.9~{pod}.{namespace}~{namespace}.svc.cluster.local"),
        metadata: Some(Struct { fields }),
        ..Node::default()
    }
}

/// A first request for resources of a type; no names mean all.
pub(crate) fn first(node: Node, ty: TypeUrl, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(node),
        type_url: ty.as_str().to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// A discovery stream.
pub(crate) struct Stream {
    pub(crate) requests: mpsc::Sender<DeltaDiscoveryRequest>,
    pub(crate) answers: Streaming<DeltaDiscoveryResponse>,
}

impl Stream {
    /// Opens one and sends the first request.
    pub(crate) async fn open(
        channel: Channel,
        token: Option<&str>,
        request: DeltaDiscoveryRequest,
    ) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(64);
        requests.send(request).await.unwrap();
        let mut call = Request::new(ReceiverStream::new(receiver));
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            call.metadata_mut().insert("authorization", value);
        }
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(usize::MAX);
        let answers = client.delta_aggregated_resources(call).await?.into_inner();
        Ok(Self { requests, answers })
    }

    /// The next response.
    pub(crate) async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let next = tokio::time::timeout(PATIENCE, self.answers.message()).await;
        match next.map_err(|_| Status::deadline_exceeded("the test waited long enough"))?? {
            Some(response) => Ok(response),
            None => Err(Status::aborted("the stream ended")),
        }
    }

    /// Acknowledges what comes until something does that fits, and says when that was.
    pub(crate) async fn until(
        &mut self,
        fits: impl Fn(&DeltaDiscoveryResponse) -> bool,
    ) -> Instant {
        loop {
            let response = self.next().await.unwrap();
            let acknowledged = DeltaDiscoveryRequest {
                type_url: response.type_url.clone(),
                response_nonce: response.nonce.clone(),
                ..DeltaDiscoveryRequest::default()
            };
            self.requests.send(acknowledged).await.unwrap();
            if fits(&response) {
                return Instant::now();
            }
        }
    }
}

/// Asks once: the names of what comes, or the refusal.
pub(crate) async fn ask(
    channel: Channel,
    token: Option<&str>,
    request: DeltaDiscoveryRequest,
) -> Result<Vec<String>, Code> {
    let mut stream = Stream::open(channel, token, request)
        .await
        .map_err(|status| status.code())?;
    let response = stream.next().await.map_err(|status| status.code())?;
    Ok(response.resources.into_iter().map(|one| one.name).collect())
}

/// A workload's own listeners: what an honest client gets.
pub(crate) async fn is_served(plane: &Plane, namespace: &str) -> Duration {
    let began = Instant::now();
    let token = plane.token(namespace, "web");
    let request = first(
        node("sidecar", "web", namespace, &[]),
        TypeUrl::Listener,
        &[],
    );
    let names = ask(plane.secure(None), Some(&token), request)
        .await
        .unwrap();
    assert!(
        names.iter().any(|name| name == "virtualInbound"),
        "{names:?}"
    );
    began.elapsed()
}
