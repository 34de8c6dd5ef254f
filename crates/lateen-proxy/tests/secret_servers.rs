//! Certificates from another server than the control plane: fetched by SDS by way of a cluster, and followed.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use lateen_envoy::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use lateen_envoy::pb::envoy::extensions::transport_sockets::tls::v3::{
    Secret, TlsCertificate, secret::Type,
};
use lateen_envoy::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use lateen_envoy::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use lateen_envoy::{Resource, TypeUrl};
use lateen_identity::tls::{ClientSettings, ClientVerification, TlsVersions, client_config};
use rcgen::CertifiedKey;
use serde_json::json;
use support::*;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A server with one secret, under whatever name it is asked for.
struct Server {
    secret: watch::Receiver<Arc<Type>>,
    requests: mpsc::UnboundedSender<DiscoveryRequest>,
}

fn response(names: &[String], secret: &Type, version: u32) -> DiscoveryResponse {
    let secrets = names.iter().map(|name| {
        let secret = Secret {
            name: name.clone(),
            r#type: Some(secret.clone()),
        };
        (*Resource::new(name.as_str(), &secret).body).clone()
    });
    DiscoveryResponse {
        version_info: version.to_string(),
        nonce: version.to_string(),
        type_url: TypeUrl::Secret.as_str().to_owned(),
        resources: secrets.collect(),
        ..DiscoveryResponse::default()
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Server {
    type DeltaSecretsStream = Boxed<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Boxed<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        _request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("state of the world only"))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let (mut inbound, requests) = (request.into_inner(), self.requests.clone());
        let mut secret = self.secret.clone();
        let (out, responses) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut names = Vec::new();
            let mut version = 0;
            loop {
                let send = tokio::select! {
                    request = inbound.message() => {
                        let Ok(Some(request)) = request else { return };
                        let new = names != request.resource_names;
                        names.clone_from(&request.resource_names);
                        let _ = requests.send(request);
                        new
                    }
                    changed = secret.changed() => changed.is_ok(),
                };
                if send {
                    version += 1;
                    let response = response(&names, &secret.borrow_and_update().clone(), version);
                    if out.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
            }
        });
        let responses = tokio_stream::wrappers::ReceiverStream::new(responses);
        Ok(Response::new(responses.boxed()))
    }

    async fn fetch_secrets(
        &self,
        _request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("secrets are streamed"))
    }
}

/// A certificate as a secret, and as it is sent to clients.
fn certificate() -> (Arc<Type>, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
    let CertifiedKey { cert, signing_key } = made;
    let inline = |text: String| {
        Some(DataSource {
            specifier: Some(Specifier::InlineString(text)),
            ..DataSource::default()
        })
    };
    let secret = TlsCertificate {
        certificate_chain: inline(cert.pem()),
        private_key: inline(signing_key.serialize_pem()),
        ..TlsCertificate::default()
    };
    (Arc::new(Type::TlsCertificate(secret)), cert.der().to_vec())
}

/// The certificate that a listener shows; none while it has none.
async fn shown(address: SocketAddr) -> Option<Vec<u8>> {
    let config = client_config(ClientSettings {
        certificate: None,
        verification: ClientVerification::Insecure,
        alpn: Vec::new(),
        versions: TlsVersions::default(),
        send_sni: false,
    });
    let tcp = tokio::net::TcpStream::connect(address).await.ok()?;
    let name = rustls_pki_types::ServerName::try_from("a.example").unwrap();
    let connector = tokio_rustls::TlsConnector::from(config.unwrap());
    let stream = connector.connect(name, tcp).await.ok()?;
    let certificates = stream.get_ref().1.peer_certificates()?;
    Some(certificates.first()?.to_vec())
}

#[tokio::test]
async fn a_listener_shows_the_certificate_that_another_server_has_and_follows_it() {
    let (first, first_der) = certificate();
    let (secret, seen) = watch::channel(first);
    let (requests, mut asked) = mpsc::unbounded_channel();
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let service = Server {
        secret: seen,
        requests,
    };
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(SecretDiscoveryServiceServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(tcp)),
    );
    let source = json!({"api_config_source": {
        "api_type": "GRPC", "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "secrets"}}],
    }, "resource_api_version": "V3"});
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [{"name": "web", "sds_config": source}],
        },
    });
    let proxy = start(vec![
        cluster("secrets", &[address], http2()),
        listener("secure", json!([{
            "filters": [hcm(json!([{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]), json!({}))],
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        }])),
    ])
    .await;
    // The listener waited for its certificate.
    let at = proxy.address("secure");
    assert_eq!(shown(at).await, Some(first_der));
    let request = asked.recv().await.unwrap();
    assert_eq!(request.resource_names, ["web"]);
    assert!(
        request
            .node
            .is_some_and(|node| node.id.starts_with("sidecar~"))
    );
    let acknowledged = asked.recv().await.unwrap();
    assert_eq!(
        (
            acknowledged.response_nonce.as_str(),
            acknowledged.error_detail
        ),
        ("1", None)
    );

    let (second, second_der) = certificate();
    secret.send_replace(second);
    wait_for(|| async { shown(at).await.as_ref() == Some(&second_der) }).await;

    // One that cannot be used is refused, and the last good one stays.
    let nonsense = TlsCertificate::default();
    secret.send_replace(Arc::new(Type::TlsCertificate(nonsense)));
    let mut refused = asked.recv().await.unwrap();
    while refused.error_detail.is_none() {
        refused = asked.recv().await.unwrap();
    }
    assert_eq!(refused.version_info, "2");
    assert_eq!(shown(at).await.as_ref(), Some(&second_der));
    proxy.handle.shutdown().await;
}
