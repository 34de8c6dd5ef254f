//! Tests of handshakes between the two sides, without sockets.

use super::*;
use crate::ca::{CaOptions, CaSource, CertificateAuthority};
use crate::csr::KeyAndRequest;
use crate::{SpiffeId, TrustBundle};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use std::time::SystemTime;

struct Mesh {
    ca: CertificateAuthority,
    _dir: tempfile::TempDir,
}

impl Mesh {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = CaSource::SelfMade {
            dir: dir.path().join("ca"),
        };
        let ca =
            CertificateAuthority::open(source, CaOptions::default(), SystemTime::now()).unwrap();
        Self { ca, _dir: dir }
    }

    fn workload(&self, account: &str) -> WorkloadIdentity {
        let id: SpiffeId = format!("spiffe://cluster.local/ns/default/sa/{account}")
            .parse()
            .unwrap();
        let made = KeyAndRequest::generate(&id).unwrap();
        let issued = self
            .ca
            .sign(&made.csr_pem, &id, None, SystemTime::now())
            .unwrap();
        let pair = CertifiedKeyPair::new(issued.chain, made.key).unwrap();
        WorkloadIdentity::new(pair, issued.bundle).unwrap()
    }

    fn bundle(&self) -> Arc<TrustBundle> {
        self.ca.bundle().borrow().clone()
    }

    fn server(&self, client_auth: ClientAuth) -> Arc<ServerConfig> {
        server_config(ServerSettings {
            certificate: self.workload("server").pair().clone(),
            client_auth,
            alpn: vec![ALPN_H2.to_vec()],
            versions: TlsVersions::default(),
        })
        .unwrap()
    }

    fn client(&self, certificate: Option<&str>, names: Vec<NameMatcher>) -> Arc<ClientConfig> {
        client_config(ClientSettings {
            certificate: certificate.map(|account| self.workload(account).pair().clone()),
            verification: ClientVerification::Verify {
                bundle: self.bundle(),
                names,
                hostname: HostnameCheck::Off,
            },
            alpn: vec![ALPN_H2.to_vec()],
            versions: TlsVersions::default(),
            send_sni: true,
        })
        .unwrap()
    }

    fn required(&self, names: Vec<NameMatcher>) -> ClientAuth {
        ClientAuth::Required {
            bundle: self.bundle(),
            names,
        }
    }
}

/// Runs a handshake and sends a byte each way, so that tickets and late alerts arrive.
fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let name = "reviews.default.svc.cluster.local".try_into().unwrap();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    for _ in 0..6 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        feed(&wire, |cursor| server.read_tls(cursor).map(drop));
        server.process_new_packets()?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        feed(&wire, |cursor| client.read_tls(cursor).map(drop));
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn feed(wire: &[u8], mut read: impl FnMut(&mut &[u8]) -> std::io::Result<()>) {
    let mut rest = wire;
    while !rest.is_empty() {
        read(&mut rest).unwrap();
    }
}

fn uri(account: &str) -> Vec<NameMatcher> {
    vec![NameMatcher::uri(format!(
        "spiffe://cluster.local/ns/default/sa/{account}"
    ))]
}

#[test]
fn two_workloads_know_each_other_by_identity_and_not_by_host_name() {
    let mesh = Mesh::new();
    let server = mesh.server(mesh.required(Vec::new()));
    let (client, server) = handshake(&mesh.client(Some("a"), uri("server")), &server).unwrap();
    let seen = peer_identity(server.peer_certificates()).unwrap();
    assert_eq!(seen.id.unwrap().service_account(), "a");
    let seen = peer_identity(client.peer_certificates()).unwrap();
    assert_eq!(
        seen.uri.as_deref(),
        Some("spiffe://cluster.local/ns/default/sa/server")
    );
    assert_eq!(server.alpn_protocol(), Some(ALPN_H2));
}

#[test]
fn a_server_with_another_identity_is_refused() {
    let mesh = Mesh::new();
    let server = mesh.server(ClientAuth::None);
    handshake(&mesh.client(None, uri("somebody-else")), &server).unwrap_err();
}

#[test]
fn a_client_with_another_identity_or_none_is_refused() {
    let mesh = Mesh::new();
    let server = mesh.server(mesh.required(uri("a")));
    handshake(&mesh.client(Some("a"), Vec::new()), &server).unwrap();
    handshake(&mesh.client(Some("b"), Vec::new()), &server).unwrap_err();
    handshake(&mesh.client(None, Vec::new()), &server).unwrap_err();
}

#[test]
fn an_optional_certificate_may_be_absent_but_not_wrong() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let optional = ClientAuth::Optional {
        bundle: mesh.bundle(),
        names: Vec::new(),
    };
    let server = mesh.server(optional);
    let (_, accepted) = handshake(&mesh.client(None, Vec::new()), &server).unwrap();
    assert!(peer_identity(accepted.peer_certificates()).is_none());
    let verification = ClientVerification::Insecure;
    let stranger = client_config(ClientSettings {
        certificate: Some(other.workload("a").pair().clone()),
        verification,
        alpn: vec![ALPN_H2.to_vec()],
        versions: TlsVersions::default(),
        send_sni: true,
    })
    .unwrap();
    handshake(&stranger, &server).unwrap_err();
}

#[test]
fn a_server_of_another_mesh_is_refused() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    handshake(
        &mesh.client(None, uri("server")),
        &other.server(ClientAuth::None),
    )
    .unwrap_err();
}

#[test]
fn outside_the_mesh_the_host_name_counts() {
    let mesh = Mesh::new();
    let client = |hostname| {
        client_config(ClientSettings {
            certificate: None,
            verification: ClientVerification::Verify {
                bundle: mesh.bundle(),
                names: Vec::new(),
                hostname,
            },
            alpn: Vec::new(),
            versions: TlsVersions::default(),
            send_sni: true,
        })
        .unwrap()
    };
    let server = mesh.server(ClientAuth::None);
    handshake(&client(HostnameCheck::Off), &server).unwrap();
    handshake(&client(HostnameCheck::ServerName), &server).unwrap_err();
}

#[test]
fn a_session_is_resumed_within_a_configuration_and_never_across() {
    use rustls::HandshakeKind;
    let mesh = Mesh::new();
    let client = mesh.client(Some("a"), uri("server"));
    let first = mesh.server(mesh.required(uri("a")));
    handshake(&client, &first).unwrap();
    let (_, server) = handshake(&client, &first).unwrap();
    assert_eq!(server.handshake_kind(), Some(HandshakeKind::Resumed));
    let id = peer_identity(server.peer_certificates())
        .unwrap()
        .id
        .unwrap();
    assert_eq!(
        id.service_account(),
        "a",
        "a resumed session still has its peer"
    );
    let second = mesh.server(mesh.required(uri("a")));
    let (_, server) = handshake(&client, &second).unwrap();
    assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
    let strict = mesh.server(mesh.required(uri("b")));
    handshake(&client, &strict).unwrap_err();
}

#[test]
fn versions_are_kept() {
    let mesh = Mesh::new();
    let settings = |versions| ServerSettings {
        certificate: mesh.workload("server").pair().clone(),
        client_auth: ClientAuth::None,
        alpn: Vec::new(),
        versions,
    };
    let old = TlsVersions {
        min: TlsVersion::Tls12,
        max: TlsVersion::Tls12,
    };
    let server = server_config(settings(old)).unwrap();
    let client = client_config(ClientSettings {
        certificate: None,
        verification: ClientVerification::Insecure,
        alpn: Vec::new(),
        versions: TlsVersions::TLS13,
        send_sni: true,
    });
    handshake(&client.unwrap(), &server).unwrap_err();
    let none = TlsVersions {
        min: TlsVersion::Tls13,
        max: TlsVersion::Tls12,
    };
    assert!(matches!(
        server_config(settings(none)),
        Err(TlsError::NoVersion)
    ));
}

#[test]
fn names_are_compared_as_the_matcher_says() {
    let name = b"spiffe://cluster.local/ns/default/sa/reviews";
    let exact = |value: &str| NameMatch::Exact(value.as_bytes().into());
    let yes = [
        exact("spiffe://cluster.local/ns/default/sa/reviews"),
        NameMatch::ExactIgnoreCase((*b"SPIFFE://cluster.local/ns/default/sa/REVIEWS").into()),
        NameMatch::Prefix((*b"spiffe://cluster.local/").into()),
        NameMatch::Suffix((*b"/sa/reviews").into()),
        NameMatch::Contains((*b"/ns/default/").into()),
        NameMatch::regex("spiffe://.*/sa/(reviews|ratings)").unwrap(),
        NameMatch::Predicate(Arc::new(|name| name.len() == 44)),
    ];
    for matcher in yes {
        assert!(matcher.accepts(name), "{matcher:?}");
    }
    let no = [
        exact("spiffe://cluster.local/ns/default/sa/review"),
        NameMatch::Prefix((*b"spiffe://other").into()),
        NameMatch::Suffix((*b"/sa/review").into()),
        NameMatch::Contains((*b"kube-system").into()),
        NameMatch::regex("reviews").unwrap(),
        NameMatch::regex("a|spiffe").unwrap(),
    ];
    for matcher in no {
        assert!(!matcher.accepts(name), "{matcher:?}");
    }
}
