//! The certificate authority: certificates for others, keys that are none, requests beyond measure.

use std::time::{Duration, Instant, SystemTime};

use lateen_identity::csr::KeyAndRequest;
use lateen_identity::grpc::{FetchError, FetchedCertificate, fetch_certificate};
use lateen_identity::spiffe::identity_of;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use tonic::Code;

use crate::plane::{Plane, is_served};

fn request(key: &KeyPair, names: Vec<SanType>) -> String {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "istiod.istio-system.svc");
    params.subject_alt_names = names;
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

async fn fetch(
    plane: &Plane,
    csr: String,
    token: Option<&str>,
) -> Result<FetchedCertificate, Code> {
    let fetched = fetch_certificate(plane.secure(None), csr, token, None).await;
    fetched.map_err(|error| match error {
        FetchError::Call(status) => status.code(),
        other => panic!("expected a refusal, got {other}"),
    })
}

/// Class: a certificate in another's name. A request's names are not looked at: what is signed is who asked.
#[tokio::test]
async fn a_request_for_another_identity_gets_ones_own() {
    let plane = Plane::start("").await;
    let token = plane.token("foo", "web");
    let key = KeyPair::generate().unwrap();
    let many: Vec<SanType> = (0..500)
        .map(|n| uri(&format!("spiffe://cluster.local/ns/bar/sa/{n}")))
        .collect();
    let names = [
        vec![uri("spiffe://cluster.local/ns/bar/sa/web")],
        vec![
            uri("spiffe://cluster.local/ns/foo/sa/web"),
            uri("spiffe://cluster.local/ns/bar/sa/web"),
        ],
        vec![SanType::DnsName(
            "istiod.istio-system.svc".try_into().unwrap(),
        )],
        vec![SanType::DnsName("*".try_into().unwrap())],
        many,
        Vec::new(),
    ];
    for names in names {
        let count = names.len();
        let fetched = fetch(&plane, request(&key, names), Some(&token))
            .await
            .unwrap();
        let leaf = &fetched.chain[0];
        let id = identity_of(leaf).unwrap();
        assert_eq!(
            id.to_string(),
            "spiffe://cluster.local/ns/foo/sa/web",
            "{count}"
        );
        assert!(leaf.len() < 2048, "{} bytes for {count} names", leaf.len());
    }
}

/// Class: keys that cannot or should not be signed, and requests that are none. Each is refused as the caller's mistake.
#[tokio::test]
async fn unusable_keys_and_requests_are_refused() {
    let plane = Plane::start("").await;
    let token = plane.token("foo", "web");
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let good = request(&KeyPair::generate().unwrap(), Vec::new());
    let pem = |body: &str| {
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
    };
    let requests = [
        request(&ed25519, Vec::new()),
        String::new(),
        "junk".to_owned(),
        pem("AAAA"),
        pem(&"MIIB".repeat(64)),
        good.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
        // Too long for a request, and not for a message.
        pem(&"A".repeat(200 * 1024)),
    ];
    for csr in requests {
        let refused = fetch(&plane, csr.clone(), Some(&token)).await.unwrap_err();
        assert_eq!(refused, Code::InvalidArgument, "{csr:.80}");
    }
    // Too long for a message: not even read.
    let refused = fetch(&plane, "A".repeat(1 << 20), Some(&token))
        .await
        .unwrap_err();
    assert_eq!(refused, Code::OutOfRange);
    fetch(&plane, good, Some(&token)).await.unwrap();
}

/// Class: the authority without authentication, and with tokens of yesterday. Nothing is signed.
#[tokio::test]
async fn without_a_good_credential_nothing_is_signed() {
    let plane = Plane::start("").await;
    let id = "spiffe://cluster.local/ns/foo/sa/web".parse().unwrap();
    let csr = KeyAndRequest::generate(&id).unwrap().csr_pem;
    let hour = Duration::from_secs(3600);
    let expired = plane.token_at("foo", "web", SystemTime::now() - hour);
    let early = plane.token_at("foo", "web", SystemTime::now() + hour);
    for token in [
        None,
        Some("x"),
        Some(expired.as_str()),
        Some(early.as_str()),
    ] {
        let refused = fetch(&plane, csr.clone(), token).await.unwrap_err();
        assert_eq!(refused, Code::Unauthenticated, "{token:?}");
    }
}

/// Class: an authority kept busy. One identity's requests are bounded, and do not keep others from theirs.
#[tokio::test]
async fn a_flood_of_requests_keeps_nobody_else_waiting() {
    let plane = Plane::start("").await;
    let id = "spiffe://cluster.local/ns/foo/sa/web".parse().unwrap();
    let csr = KeyAndRequest::generate(&id).unwrap().csr_pem;
    let token = plane.token("foo", "web");
    let mut refused = 0;
    for _ in 0..80 {
        match fetch(&plane, csr.clone(), Some(&token)).await {
            Ok(_) => {}
            Err(code) => {
                assert_eq!(code, Code::ResourceExhausted);
                refused += 1;
            }
        }
    }
    assert!(refused > 10, "{refused} of 80 refused");
    let began = Instant::now();
    let other = plane.token("bar", "web");
    fetch(&plane, csr, Some(&other)).await.unwrap();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    is_served(&plane, "bar").await;
}
