//! TLS and certificates, over sockets: that what `tls/verify` decides is what connections are held to.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca() -> Ca {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key.
struct Leaf {
    der: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

fn leaf(ca: &Ca, names: &[SanType], serial: u64) -> Leaf {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.to_vec();
    params.serial_number = Some(SerialNumber::from(serial));
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, ca).unwrap();
    Leaf {
        der: certificate.der().clone(),
        pem: certificate.pem(),
        key,
    }
}

impl Leaf {
    fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }

    fn inline(&self) -> Value {
        json!({
            "certificate_chain": {"inline_string": self.pem},
            "private_key": {"inline_string": self.key.serialize_pem()},
        })
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// A server that shows a certificate and answers everything with 200.
async fn server(leaf: &Leaf) -> SocketAddr {
    let config = ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![leaf.der.clone()], leaf.private())
    .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer).await {
                    let _ = stream.write_all(OK).await;
                }
            });
        }
    });
    address
}

fn upstream(ca: &Ca, context: Value, http: Value) -> Value {
    let mut tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {"validation_context": {"trusted_ca": {"inline_string": ca.pem()}}},
    });
    merge(&mut tls, context);
    json!({
        "transport_socket": filter("envoy.transport_sockets.tls", tls),
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": H2, "explicit_http_config": {"http_protocol_options": {}}, "upstream_http_protocol_options": http,
        }},
    })
}

async fn originate(address: SocketAddr, socket: Value) -> Running {
    start(vec![
        listener(
            "in",
            json!([{"filters": [hcm(route_to("up", json!({})), json!({}))]}]),
        ),
        cluster("up", &[address], socket),
    ])
    .await
}

async fn status(proxy: &Running, host: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    raw(proxy.address("in"), request.as_bytes()).await
}

/// Class: a server with a valid certificate for another host. Outcome: 503 with `auto_san_validation`, as Istio asks where a rule names neither
/// a server name nor SANs.
#[tokio::test]
async fn a_server_that_is_somebody_else_is_refused() {
    let ca = ca();
    let names = [
        dns("real.example"),
        SanType::IpAddress("127.0.0.1".parse().unwrap()),
    ];
    let address = server(&leaf(&ca, &names, 1)).await;
    let auto = json!({"auto_sni": true, "auto_san_validation": true});
    let proxy = originate(address, upstream(&ca, json!({}), auto)).await;
    for host in [
        "real.example",
        "real.example:8443",
        "REAL.example",
        "127.0.0.1",
        "127.0.0.1:80",
    ] {
        let got = status(&proxy, host).await;
        assert_eq!(answers(&got, 200), 1, "{host}: {got}");
    }
    for host in [
        "evil.example",
        "real.example.evil",
        "127.0.0.2",
        "[::1]",
        "a_b-.example",
    ] {
        let got = status(&proxy, host).await;
        assert_eq!(answers(&got, 503), 1, "{host}: {got}");
    }
    proxy.handle.shutdown().await;
}

/// Class: the same by the transport socket's own setting. Outcome: the certificate has to be for the server name that is sent; without one,
/// there is no connection.
#[tokio::test]
async fn a_server_has_to_be_for_the_name_it_was_sent() {
    let ca = ca();
    let address = server(&leaf(&ca, &[dns("real.example")], 1)).await;
    for (context, expected) in [
        (
            json!({"sni": "real.example", "auto_sni_san_validation": true}),
            200,
        ),
        (
            json!({"sni": "evil.example", "auto_sni_san_validation": true}),
            503,
        ),
        (json!({"auto_sni_san_validation": true}), 503),
        (json!({"sni": "evil.example"}), 200),
    ] {
        let proxy = originate(address, upstream(&ca, context.clone(), json!({}))).await;
        let got = status(&proxy, "whatever.example").await;
        assert_eq!(answers(&got, expected), 1, "{context}: {got}");
        proxy.handle.shutdown().await;
    }
}

/// A listener that ends TLS.
fn ending(server: &Leaf, common: Value, context: Value) -> Vec<Value> {
    let mut common_tls = json!({"tls_certificates": [server.inline()]});
    merge(&mut common_tls, common);
    let mut tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": common_tls,
    });
    merge(&mut tls, context);
    let routes = json!([{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]);
    let chain = json!([{
        "transport_socket": filter("envoy.transport_sockets.tls", tls),
        "filters": [hcm(routes, json!({}))],
    }]);
    vec![listener("in", chain)]
}

fn client(ca: &Ca, identity: Option<&Leaf>) -> ClientConfig {
    client_with(
        ca,
        identity,
        rustls::crypto::aws_lc_rs::default_provider(),
        rustls::ALL_VERSIONS,
    )
}

fn client_with(
    ca: &Ca,
    identity: Option<&Leaf>,
    provider: rustls::crypto::CryptoProvider,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        Some(leaf) => builder
            .with_client_auth_cert(vec![leaf.der.clone()], leaf.private())
            .unwrap(),
        None => builder.with_no_client_auth(),
    }
}

/// Whether a request over TLS is answered, and whether its session was resumed.
async fn asks(address: SocketAddr, config: &Arc<ClientConfig>, name: &'static str) -> (bool, bool) {
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(name).unwrap();
    let Ok(mut stream) = TlsConnector::from(Arc::clone(config))
        .connect(name, tcp)
        .await
    else {
        return (false, false);
    };
    let resumed = stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let mut answer = Vec::new();
    let _ = stream.write_all(request).await;
    let _ = stream.read_to_end(&mut answer).await;
    (answer.starts_with(b"HTTP/1.1 200"), resumed)
}

fn revocation(ca: &Ca, revoked: &[u64]) -> String {
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2000, 1, 1),
        next_update: date_time_ymd(2099, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: revoked
            .iter()
            .map(|serial| RevokedCertParams {
                serial_number: SerialNumber::from(*serial),
                revocation_time: date_time_ymd(2001, 1, 1),
                reason_code: None,
                invalidity_date: None,
            })
            .collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(ca).unwrap().pem().unwrap()
}

/// Class: revocation, and sessions that outlive it (CVE-2022-21654). Outcome: a list in a file counts from when it is replaced, for sessions
/// made before, too.
#[tokio::test]
async fn a_certificate_is_refused_from_when_it_is_revoked_even_with_a_session() {
    let ca = ca();
    let (shown, mine) = (
        leaf(&ca, &[dns("a.example")], 1),
        leaf(&ca, &[dns("me.example")], 7),
    );
    let dir = std::env::temp_dir().join(format!("lateen-crl-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("ca.crl");
    std::fs::write(&file, revocation(&ca, &[99])).unwrap();
    let common = json!({"validation_context": {
        "trusted_ca": {"inline_string": ca.pem()}, "crl": {"filename": file},
    }});
    let proxy = start(ending(
        &shown,
        common,
        json!({"require_client_certificate": true}),
    ))
    .await;
    let config = Arc::new(client(&ca, Some(&mine)));
    assert_eq!(
        asks(proxy.address("in"), &config, "a.example").await,
        (true, false)
    );
    assert_eq!(
        asks(proxy.address("in"), &config, "a.example").await,
        (true, true),
        "resumed"
    );
    std::fs::write(&file, revocation(&ca, &[99, 7])).unwrap();
    assert!(!asks(proxy.address("in"), &config, "a.example").await.0);
    let other = leaf(&ca, &[dns("other.example")], 8);
    let config = Arc::new(client(&ca, Some(&other)));
    assert!(asks(proxy.address("in"), &config, "a.example").await.0);
    std::fs::write(&file, "no list").unwrap();
    assert!(
        !asks(proxy.address("in"), &config, "a.example").await.0,
        "without a list nobody is let in"
    );
    std::fs::remove_dir_all(&dir).unwrap();
    proxy.handle.shutdown().await;
}

/// Class: sessions made under other rules. Outcome: a session is resumed only under the configuration it was made under.
#[tokio::test]
async fn a_session_does_not_survive_a_stricter_configuration() {
    let ca = ca();
    let (shown, mine) = (
        leaf(&ca, &[dns("a.example")], 1),
        leaf(&ca, &[dns("me.example")], 2),
    );
    let rules = |name: &str| {
        json!({"validation_context": {
            "trusted_ca": {"inline_string": ca.pem()},
            "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": name}}],
        }})
    };
    let required = || json!({"require_client_certificate": true});
    let proxy = start(ending(&shown, rules("me.example"), required())).await;
    let config = Arc::new(client(&ca, Some(&mine)));
    assert!(asks(proxy.address("in"), &config, "a.example").await.0);
    proxy.replace(ending(&shown, rules("other.example"), required()));
    wait_for(|| async { !asks(proxy.address("in"), &config, "a.example").await.0 }).await;
    proxy.handle.shutdown().await;
}

/// Class: protocol downgrade. Limit: minimum version, cipher suites, curves of the listener. Outcome: who offers less gets no connection.
#[tokio::test]
async fn a_client_cannot_have_less_than_what_is_configured() {
    let ca = ca();
    let shown = leaf(&ca, &[dns("a.example")], 1);
    let base = rustls::crypto::aws_lc_rs::default_provider;
    let suites = |wanted: &[rustls::CipherSuite]| {
        let mut provider = base();
        provider
            .cipher_suites
            .retain(|suite| wanted.contains(&suite.suite()));
        provider
    };
    let v12: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
    let v13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
    let chacha = rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
    let aes = rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    let only = |names: &[&'static dyn rustls::crypto::SupportedKxGroup]| {
        let mut provider = base();
        provider.kx_groups = names.to_vec();
        provider
    };
    use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, X25519};
    let at_least_13 = json!({"tls_params": {"tls_minimum_protocol_version": "TLSv1_3"}});
    let only_aes = json!({"tls_params": {
        "tls_maximum_protocol_version": "TLSv1_2", "cipher_suites": ["ECDHE-ECDSA-AES128-GCM-SHA256"],
    }});
    let only_p256 = json!({"tls_params": {"ecdh_curves": ["P-256"]}});
    for (settings, offered, accepted) in [
        (&at_least_13, client_with(&ca, None, base(), v12), false),
        (&at_least_13, client_with(&ca, None, base(), v13), true),
        (
            &only_aes,
            client_with(&ca, None, suites(&[chacha]), v12),
            false,
        ),
        (&only_aes, client_with(&ca, None, suites(&[aes]), v12), true),
        (&only_aes, client_with(&ca, None, base(), v13), false),
        (
            &only_p256,
            client_with(&ca, None, only(&[X25519]), v13),
            false,
        ),
        (
            &only_p256,
            client_with(&ca, None, only(&[SECP256R1]), v13),
            true,
        ),
    ] {
        let proxy = start(ending(&shown, settings.clone(), json!({}))).await;
        let got = asks(proxy.address("in"), &Arc::new(offered), "a.example")
            .await
            .0;
        assert_eq!(got, accepted, "{settings}");
        proxy.handle.shutdown().await;
    }
}

/// Class: handshakes that never end. Limit: `transport_socket_connect_timeout`, 15 s unless it is said. Outcome: the connection ends, whether its
/// client says nothing, half a record, or one byte after the other; others are served meanwhile.
#[tokio::test]
async fn a_handshake_that_never_ends_is_not_waited_for() {
    let ca = ca();
    let shown = leaf(&ca, &[dns("a.example")], 1);
    let mut resources = ending(&shown, json!({}), json!({}));
    resources[0]["filter_chains"][0]["transport_socket_connect_timeout"] = json!("0.5s");
    let proxy = start(resources).await;
    for said in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00", b"\x16"] {
        let mut silent = TcpStream::connect(proxy.address("in")).await.unwrap();
        silent.write_all(said).await.unwrap();
        let other = Arc::new(client(&ca, None));
        assert!(asks(proxy.address("in"), &other, "a.example").await.0);
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), silent.read_to_end(&mut rest));
        assert!(ended.await.is_ok(), "{said:?}");
    }
    proxy.handle.shutdown().await;
}

/// Class: names nobody serves. Limit: `require_sni`. Outcome: no connection, rather than one with whatever certificate is first.
#[tokio::test]
async fn a_name_without_a_certificate_is_refused_where_one_is_required() {
    let ca = ca();
    let shown = leaf(&ca, &[dns("a.example")], 1);
    for (required, name, accepted) in [
        (true, "a.example", true),
        (true, "b.example", false),
        (false, "a.example", true),
    ] {
        let proxy = start(ending(&shown, json!({}), json!({"require_sni": required}))).await;
        let got = asks(proxy.address("in"), &Arc::new(client(&ca, None)), name)
            .await
            .0;
        assert_eq!(got, accepted, "{required} {name}");
        proxy.handle.shutdown().await;
    }
}

/// Class: session resumption where it is forbidden. Outcome: every handshake is a full one.
#[tokio::test]
async fn sessions_are_not_resumed_where_that_is_turned_off() {
    let ca = ca();
    let shown = leaf(&ca, &[dns("a.example")], 1);
    for (off, resumed) in [(false, true), (true, false)] {
        let context = json!({"disable_stateful_session_resumption": off});
        let proxy = start(ending(&shown, json!({}), context)).await;
        let config = Arc::new(client(&ca, None));
        asks(proxy.address("in"), &config, "a.example").await;
        assert_eq!(
            asks(proxy.address("in"), &config, "a.example").await,
            (true, resumed)
        );
        proxy.handle.shutdown().await;
    }
}

/// Class: certificates in files. Outcome: they are served by their SDS names and again when they change; what is broken changes nothing.
#[tokio::test]
async fn certificates_in_files_are_followed() {
    let ca = ca();
    let dir = std::env::temp_dir().join(format!("lateen-files-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (chain, key, roots) = (
        dir.join("chain.pem"),
        dir.join("key.pem"),
        dir.join("ca.pem"),
    );
    let write = |leaf: &Leaf| {
        std::fs::write(&key, leaf.key.serialize_pem()).unwrap();
        std::fs::write(&chain, &leaf.pem).unwrap();
    };
    std::fs::write(&roots, ca.pem()).unwrap();
    write(&leaf(&ca, &[dns("first.example")], 1));
    let sds = |name: String| {
        json!({"name": name, "sds_config": {"api_config_source": {
        "api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}]}}})
    };
    let common = json!({
        "tls_certificate_sds_secret_configs": [sds(format!("file-cert:{}~{}", chain.display(), key.display()))],
        "combined_validation_context": {
            "default_validation_context": {},
            "validation_context_sds_secret_config": sds(format!("file-root:{}", roots.display())),
        },
    });
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": common, "require_client_certificate": true,
    });
    let routes = json!([{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]);
    let chain_of_filters = json!([{
        "transport_socket": filter("envoy.transport_sockets.tls", tls), "filters": [hcm(routes, json!({}))],
    }]);
    let proxy = start(vec![listener("in", chain_of_filters)]).await;
    let mine = leaf(&ca, &[dns("me.example")], 2);
    let config = Arc::new(client(&ca, Some(&mine)));
    assert!(asks(proxy.address("in"), &config, "first.example").await.0);
    assert!(
        !asks(
            proxy.address("in"),
            &Arc::new(client(&ca, None)),
            "first.example"
        )
        .await
        .0
    );
    std::fs::write(&key, "half a ke").unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(
        asks(proxy.address("in"), &config, "first.example").await.0,
        "the last good one stays"
    );
    write(&leaf(&ca, &[dns("second.example")], 3));
    wait_for(|| async { asks(proxy.address("in"), &config, "second.example").await.0 }).await;
    std::fs::remove_dir_all(&dir).unwrap();
    proxy.handle.shutdown().await;
}
