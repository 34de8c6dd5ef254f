//! Tests of the service over real connections on the loopback interface.

use super::*;
use crate::ca::{CaOptions, CaSource, CertificateAuthority, ServerNames};
use crate::csr::KeyAndRequest;
use crate::spiffe::{TrustDomains, identity_of};
use crate::tls::{
    ALPN_H2, CertifiedKeyPair, ClientAuth, ClientSettings, ClientVerification, HostnameCheck,
    ServerSettings, TlsVersions, client_config, server_config,
};
use crate::token::{PodRef, TokenKey};
use crate::{Clock, SpiffeId, TrustBundle, TrustDomain};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};
use tonic::Code;
use tonic::transport::Channel;

/// Connections of one address that the server takes here.
const MOST: usize = 6;

struct Istiod {
    ca: Arc<CertificateAuthority>,
    key: TokenKey,
    address: SocketAddr,
    counters: Arc<CaCounters>,
    server: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Drop for Istiod {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Istiod {
    async fn start(limiter: RateLimiter) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = CaSource::SelfMade {
            dir: dir.path().join("ca"),
        };
        let now = SystemTime::now();
        let ca = Arc::new(CertificateAuthority::open(source, CaOptions::default(), now).unwrap());
        let key = TokenKey::ephemeral();
        let domains = TrustDomains::new(TrustDomain::cluster_local(), []);
        let authenticators = Authenticators::new(vec![
            Box::new(WorkloadToken::new(key.clone(), domains.clone())),
            Box::new(PeerCertificate::new(domains)),
        ]);
        let service = CertificateService::new(ca.clone(), authenticators, limiter, Clock::system());
        let counters = service.counters();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = tls(&ca);
        let incoming = TlsIncoming::with_most(listener, move || Some(config.clone()), MOST);
        let server = tokio::spawn(async move {
            let router = tonic::transport::Server::builder().add_service(service.into_server());
            router.serve_with_incoming(incoming).await.unwrap();
        });
        Self {
            ca,
            key,
            address,
            counters,
            server,
            _dir: dir,
        }
    }

    fn bundle(&self) -> Arc<TrustBundle> {
        self.ca.bundle().borrow().clone()
    }

    fn channel(&self, certificate: Option<CertifiedKeyPair>) -> Channel {
        channel(self.options(certificate)).unwrap()
    }

    fn options(&self, certificate: Option<CertifiedKeyPair>) -> ChannelOptions {
        let verification = ClientVerification::Verify {
            bundle: self.bundle(),
            names: Vec::new(),
            hostname: HostnameCheck::ServerName,
        };
        let config = client_config(ClientSettings {
            certificate,
            verification,
            alpn: vec![ALPN_H2.to_vec()],
            versions: TlsVersions::default(),
            send_sni: true,
        })
        .unwrap();
        ChannelOptions {
            address: self.address.to_string(),
            server_name: "istiod.istio-system.svc".to_owned(),
            tls: Some(Arc::new(move || Some(config.clone()))),
            mark: None,
            connect_timeout: Duration::from_secs(5),
        }
    }

    fn token(&self) -> String {
        let pod = PodRef {
            namespace: "default",
            service_account: "a",
            name: "a-0",
            uid: "1",
        };
        self.key
            .issue(pod, Duration::from_secs(600), SystemTime::now())
    }
}

#[tokio::test]
async fn an_address_has_only_so_many_connections_even_if_they_carry_nothing() {
    let istiod = Istiod::start(RateLimiter::default()).await;
    let options = istiod.options(None);
    let mut idle = Vec::new();
    for _ in 0..MOST {
        idle.push(transport::connect(&options).await.unwrap());
    }
    transport::connect(&options).await.unwrap_err();
    let ask = || async {
        let csr = KeyAndRequest::generate(&id()).unwrap().csr_pem;
        fetch_certificate(istiod.channel(None), csr, Some(&istiod.token()), None).await
    };
    ask().await.unwrap_err();
    drop(idle);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while ask().await.is_err() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "places come back when connections end"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn tls(ca: &CertificateAuthority) -> Arc<rustls::ServerConfig> {
    let names = ServerNames {
        dns: vec!["istiod.istio-system.svc".to_owned()],
        ..Default::default()
    };
    let (issued, key) = ca.issue_server(&names, SystemTime::now()).unwrap();
    server_config(ServerSettings {
        certificate: CertifiedKeyPair::new(issued.chain, key).unwrap(),
        client_auth: ClientAuth::Optional {
            bundle: issued.bundle,
            names: Vec::new(),
        },
        alpn: vec![ALPN_H2.to_vec()],
        versions: TlsVersions::default(),
    })
    .unwrap()
}

fn id() -> SpiffeId {
    "spiffe://cluster.local/ns/default/sa/a".parse().unwrap()
}

fn code(error: FetchError) -> Code {
    match error {
        FetchError::Call(status) => status.code(),
        other => panic!("expected a refusal, got {other}"),
    }
}

#[tokio::test]
async fn a_token_gets_the_first_certificate_and_the_certificate_the_next() {
    let istiod = Istiod::start(RateLimiter::default()).await;
    let made = KeyAndRequest::generate(&id()).unwrap();
    let token = istiod.token();
    let first = fetch_certificate(istiod.channel(None), made.csr_pem, Some(&token), None).await;
    let first = first.unwrap();
    assert_eq!(identity_of(&first.chain[0]).unwrap(), id());
    assert_eq!(first.bundle, *istiod.bundle());

    let pair = CertifiedKeyPair::new(first.chain, made.key).unwrap();
    let admin = "spiffe://cluster.local/ns/kube-system/sa/admin"
        .parse()
        .unwrap();
    let csr = KeyAndRequest::generate(&admin).unwrap().csr_pem;
    let second = fetch_certificate(istiod.channel(Some(pair)), csr, None, None)
        .await
        .unwrap();
    assert_eq!(
        identity_of(&second.chain[0]).unwrap(),
        id(),
        "the request's name is not looked at"
    );
    assert_eq!(
        istiod
            .counters
            .success_cert_issuance_count
            .load(Ordering::Relaxed),
        2
    );
}

#[tokio::test]
async fn without_a_credential_or_with_a_bad_one_nothing_is_issued() {
    let istiod = Istiod::start(RateLimiter::default()).await;
    let csr = || KeyAndRequest::generate(&id()).unwrap().csr_pem;
    let channel = istiod.channel(None);
    let none = fetch_certificate(channel.clone(), csr(), None, None)
        .await
        .unwrap_err();
    assert_eq!(code(none), Code::Unauthenticated);
    let forged = TokenKey::ephemeral();
    let pod = PodRef {
        namespace: "default",
        service_account: "a",
        name: "a-0",
        uid: "1",
    };
    let forged = forged.issue(pod, Duration::from_secs(600), SystemTime::now());
    let bad = fetch_certificate(channel, csr(), Some(&forged), None)
        .await
        .unwrap_err();
    assert_eq!(code(bad), Code::Unauthenticated);
    assert_eq!(
        istiod
            .counters
            .authentication_failure_count
            .load(Ordering::Relaxed),
        2
    );
}

#[tokio::test]
async fn a_bad_request_is_told_why() {
    let istiod = Istiod::start(RateLimiter::default()).await;
    let token = istiod.token();
    let junk = fetch_certificate(istiod.channel(None), "junk".to_owned(), Some(&token), None);
    let error = junk.await.unwrap_err();
    assert!(!error.is_retryable());
    assert_eq!(code(error), Code::InvalidArgument);
    let csr = KeyAndRequest::generate(&id()).unwrap().csr_pem;
    let year = Some(Duration::from_secs(365 * 86_400));
    let long = fetch_certificate(istiod.channel(None), csr, Some(&token), year).await;
    assert_eq!(code(long.unwrap_err()), Code::InvalidArgument);
}

#[tokio::test]
async fn a_caller_over_its_limit_is_told_to_wait() {
    let rare = RateLimit {
        per_second: 0.001,
        burst: 1.0,
    };
    let often = RateLimit {
        per_second: 1000.0,
        burst: 1000.0,
    };
    let istiod = Istiod::start(RateLimiter::new(often, rare)).await;
    let token = istiod.token();
    let csr = || KeyAndRequest::generate(&id()).unwrap().csr_pem;
    let channel = istiod.channel(None);
    fetch_certificate(channel.clone(), csr(), Some(&token), None)
        .await
        .unwrap();
    let second = fetch_certificate(channel, csr(), Some(&token), None)
        .await
        .unwrap_err();
    assert!(second.is_retryable());
    assert_eq!(code(second), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_silent_connection_does_not_hold_up_others() {
    let istiod = Istiod::start(RateLimiter::default()).await;
    let silent = tokio::net::TcpStream::connect(istiod.address)
        .await
        .unwrap();
    let csr = KeyAndRequest::generate(&id()).unwrap().csr_pem;
    let token = istiod.token();
    fetch_certificate(istiod.channel(None), csr, Some(&token), None)
        .await
        .unwrap();
    drop(silent);
}

#[tokio::test]
async fn plain_text_is_refused() {
    let istiod = Istiod::start(RateLimiter::default()).await;
    let csr = KeyAndRequest::generate(&id()).unwrap().csr_pem;
    let plain = channel(ChannelOptions {
        address: istiod.address.to_string(),
        server_name: "istiod.istio-system.svc".to_owned(),
        tls: None,
        mark: None,
        connect_timeout: Duration::from_secs(5),
    });
    let refused = fetch_certificate(plain.unwrap(), csr, Some(&istiod.token()), None).await;
    refused.unwrap_err();
}
