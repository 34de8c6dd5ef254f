//! Configuration and Secrets of others: who asks without proof, with somebody else's name, or under made-up labels.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use lateen_envoy::TypeUrl;
use lateen_identity::ca::{CaOptions, CaSource, CertificateAuthority};
use lateen_identity::csr::KeyAndRequest;
use lateen_identity::tls::CertifiedKeyPair;
use lateen_identity::token::{PodRef, TokenKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

use crate::plane::{Plane, ask, first, is_served, node};

/// Class: unauthenticated xDS (CVE-2022-23635's door). Nobody without a good credential gets a response, nor learns why not.
#[tokio::test]
async fn without_a_good_credential_there_is_no_configuration() {
    let plane = Plane::start("").await;
    let request = || first(node("sidecar", "web", "foo", &[]), TypeUrl::Listener, &[]);
    let foreign = TokenKey::ephemeral().issue(
        PodRef {
            namespace: "foo",
            service_account: "web",
            name: "web",
            uid: "1",
        },
        Duration::from_secs(600),
        SystemTime::now(),
    );
    let old = SystemTime::now() - Duration::from_secs(3600);
    let expired = plane.token_at("foo", "web", old);
    let good = plane.token("foo", "web");
    let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", good.split('.').nth(1).unwrap());
    let huge = "x".repeat(8 * 1024);
    for token in [
        None,
        Some(""),
        Some("x"),
        Some(&foreign),
        Some(&expired),
        Some(&unsigned),
        Some(&huge),
    ] {
        let token: Option<&str> = token.map(AsRef::as_ref);
        let answer = ask(plane.secure(None), token, request()).await;
        assert_eq!(answer, Err(Code::Unauthenticated), "{token:?}");
    }
    is_served(&plane, "foo").await;
}

/// Class: another tenant's identity, foreign node ids. A node is what its identity is: namespace, service account, and pod.
#[tokio::test]
async fn an_identity_gets_no_other_nodes_configuration() {
    let plane = Plane::start("").await;
    let token = plane.token("foo", "web");
    let foreign = [
        node("sidecar", "web", "bar", &[]),
        node("sidecar", "web", "foo", &[("NAMESPACE", "bar")]),
        node("sidecar", "web", "foo", &[("SERVICE_ACCOUNT", "gateway")]),
        // The gateway's pod is known, and has another account.
        node("router", "gateway", "foo", &[]),
        node("router", "x", "foo", &[("NAME", "gateway")]),
        node("router", "gateway", "foo", &[("SERVICE_ACCOUNT", "web")]),
        // Nobody lives in the root namespace by saying so.
        node("sidecar", "istiod", "istio-system", &[]),
    ];
    for node in foreign {
        let id = node.id.clone();
        let request = first(node, TypeUrl::Listener, &[]);
        let answer = ask(plane.secure(None), Some(&token), request).await;
        assert_eq!(answer, Err(Code::PermissionDenied), "{id}");
    }
    for id in [
        "",
        "~~~",
        "sidecar~1.2.3.4~web.foo",
        "waypoint~1.2.3.4~web.foo~x",
    ] {
        let mut node = node("sidecar", "web", "foo", &[]);
        id.clone_into(&mut node.id);
        let answer = ask(
            plane.secure(None),
            Some(&token),
            first(node, TypeUrl::Listener, &[]),
        )
        .await;
        assert_eq!(answer, Err(Code::InvalidArgument), "{id}");
    }
    is_served(&plane, "foo").await;
}

const CREDENTIAL: &str = "kubernetes://credential";

/// Class: Secrets of others (SDS). They are for the pod that a Gateway selects, proved by its account; made-up labels get none.
#[tokio::test]
async fn secrets_are_for_the_pod_that_proved_its_account() {
    let plane = Plane::start("").await;
    let gateway = plane.token("foo", "gateway");
    let request = |node| first(node, TypeUrl::Secret, &[CREDENTIAL]);
    let own = request(node("router", "gateway", "foo", &[]));
    let got = ask(plane.secure(None), Some(&gateway), own).await;
    assert_eq!(got, Ok(vec![CREDENTIAL.to_owned()]));

    let labelled = [("LABELS.istio", "gateway")];
    let foo = plane.token("foo", "web");
    let bar = plane.token("bar", "web");
    let nothing: Result<Vec<String>, Code> = Ok(Vec::new());
    // A pod that nobody knows, with the labels that the Gateway selects by.
    let invented = request(node("router", "invented", "foo", &labelled));
    assert_eq!(ask(plane.secure(None), Some(&foo), invented).await, nothing);
    // A known pod of the same namespace: the labels it claims are not those it has.
    let relabelled = request(node("router", "web", "foo", &labelled));
    assert_eq!(
        ask(plane.secure(None), Some(&foo), relabelled).await,
        nothing
    );
    // Another namespace, by every way to write the name.
    for name in [CREDENTIAL, "kubernetes://foo/credential", "*", "credential"] {
        let node = node("router", "web", "bar", &labelled);
        let request = first(node, TypeUrl::Secret, &[name]);
        let got = ask(plane.secure(None), Some(&bar), request).await;
        assert_eq!(got, nothing, "{name}");
    }
    // Plain text proves nothing.
    let plain = request(node("router", "gateway", "foo", &labelled));
    assert_eq!(ask(plane.plain(), None, plain).await, nothing);
}

/// Class: a root that several meshes share. A certificate of another trust domain is good TLS and still nobody here.
#[tokio::test]
async fn a_workload_of_another_mesh_is_refused_though_its_certificate_verifies() {
    let plane = Plane::start("").await;
    let source = CaSource::SelfMade {
        dir: plane.path("ca"),
    };
    let now = SystemTime::now();
    let ca = CertificateAuthority::open(source, CaOptions::default(), now).unwrap();
    let certificate = |name: &str| {
        let id = name.parse().unwrap();
        let made = KeyAndRequest::generate(&id).unwrap();
        let issued = ca.sign(&made.csr_pem, &id, None, now).unwrap();
        CertifiedKeyPair::new(issued.chain, made.key).unwrap()
    };
    let request = || first(node("sidecar", "web", "foo", &[]), TypeUrl::Listener, &[]);
    let other = certificate("spiffe://other.example/ns/foo/sa/web");
    let answer = ask(plane.secure(Some(other)), None, request()).await;
    assert_eq!(answer, Err(Code::Unauthenticated));
    let own = certificate("spiffe://cluster.local/ns/foo/sa/web");
    let answer = ask(plane.secure(Some(own)), None, request()).await;
    assert!(answer.is_ok(), "{answer:?}");
}

/// Class: debug endpoints that leak across namespaces (CVE-2026-31838). They are on a socket of the owner's alone; the ports
/// that others reach have metrics and nothing else.
#[tokio::test]
async fn debug_answers_are_the_owners_alone() {
    let plane = Plane::start("").await;
    let mode = std::fs::metadata(plane.path("debug.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    for path in [
        "/debug",
        "/debug/syncz",
        "/debug/config_dump?proxyID=web.foo",
        "/debug/../debug/syncz",
    ] {
        let mut stream = tokio::net::TcpStream::connect((plane.ip, 15014))
            .await
            .unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
    // Types that hold debug answers in Istio are no types here: the stream waits, and gets what it is owed.
    let token = plane.token("foo", "web");
    let mut request = first(node("sidecar", "web", "foo", &[]), TypeUrl::Listener, &[]);
    "istio.io/debug/syncz".clone_into(&mut request.type_url);
    let mut stream = crate::plane::Stream::open(plane.secure(None), Some(&token), request)
        .await
        .unwrap();
    let quiet = tokio::time::timeout(Duration::from_millis(300), stream.answers.message()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}
