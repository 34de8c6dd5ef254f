//! Tests of SPIFFE parsing and of what is read from certificates.

use super::*;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};

fn certificate(sans: Vec<SanType>) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "spiffe://cluster.local/ns/x/sa/cn");
    params.subject_alt_names = sans;
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

fn uri(value: &str) -> SanType {
    SanType::URI(value.try_into().unwrap())
}

#[test]
fn an_identity_survives_formatting_and_parsing() {
    let text = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews";
    let id: SpiffeId = text.parse().unwrap();
    assert_eq!(id.to_string(), text);
    assert_eq!(id.namespace(), "default");
    assert_eq!(id.service_account(), "bookinfo-reviews");
    assert_eq!(
        id.principal(),
        "cluster.local/ns/default/sa/bookinfo-reviews"
    );
    assert_eq!(
        SpiffeId::new(TrustDomain::cluster_local(), "default", "bookinfo-reviews"),
        Ok(id)
    );
}

#[test]
fn what_is_not_canonical_is_refused() {
    let refused: [(&[u8], SpiffeError); 16] = [
        (b"", SpiffeError::Scheme),
        (b"https://cluster.local/ns/a/sa/b", SpiffeError::Scheme),
        (b"SPIFFE://cluster.local/ns/a/sa/b", SpiffeError::Scheme),
        (b"spiffe:///ns/a/sa/b", SpiffeError::TrustDomain),
        (
            b"spiffe://Cluster.local/ns/a/sa/b",
            SpiffeError::TrustDomain,
        ),
        (
            b"spiffe://user@cluster.local/ns/a/sa/b",
            SpiffeError::TrustDomain,
        ),
        (
            b"spiffe://cluster.local:80/ns/a/sa/b",
            SpiffeError::TrustDomain,
        ),
        (b"spiffe://cluster.local", SpiffeError::Path),
        (b"spiffe://cluster.local/ns/a/sa", SpiffeError::Path),
        (b"spiffe://cluster.local/ns/a/sa/b/c", SpiffeError::Path),
        (b"spiffe://cluster.local/sa/a/ns/b", SpiffeError::Path),
        (b"spiffe://cluster.local/ns/a/sa/", SpiffeError::Segment),
        (b"spiffe://cluster.local/ns/../sa/b", SpiffeError::Segment),
        (
            b"spiffe://cluster.local/ns/a/sa/b%2fc",
            SpiffeError::Segment,
        ),
        (b"spiffe://cluster.local/ns/a/sa/b\0", SpiffeError::Segment),
        (
            b"spiffe://cluster.local/ns/a/sa/b?x=y",
            SpiffeError::Segment,
        ),
    ];
    for (input, error) in refused {
        assert_eq!(
            SpiffeId::parse(input),
            Err(error),
            "{}",
            String::from_utf8_lossy(input)
        );
    }
    let long = format!("spiffe://cluster.local/ns/a/sa/{}", "b".repeat(MAX_URI));
    assert_eq!(long.parse::<SpiffeId>(), Err(SpiffeError::TooLong));
}

#[test]
fn the_one_uri_san_is_the_identity() {
    let der = certificate(vec![
        SanType::DnsName("reviews.default.svc".try_into().unwrap()),
        uri("spiffe://cluster.local/ns/default/sa/reviews"),
    ]);
    assert_eq!(identity_of(&der).unwrap().service_account(), "reviews");
}

#[test]
fn two_uris_are_no_identity() {
    let der = certificate(vec![
        uri("spiffe://cluster.local/ns/default/sa/a"),
        uri("spiffe://cluster.local/ns/default/sa/b"),
    ]);
    assert_eq!(uri_san(&der), Err(SanError::SeveralUris(2)));
}

#[test]
fn a_dns_name_or_a_common_name_is_no_identity() {
    let name = "spiffe://cluster.local/ns/default/sa/a";
    let der = certificate(vec![SanType::DnsName(name.try_into().unwrap())]);
    assert_eq!(uri_san(&der), Err(SanError::NoUri));
    assert_eq!(uri_san(&certificate(Vec::new())), Err(SanError::NoUri));
}

#[test]
fn a_nul_does_not_end_an_identity() {
    let der = certificate(vec![uri(
        "spiffe://cluster.local/ns/default/sa/admin\0.evil",
    )]);
    assert_eq!(uri_san(&der), Err(SanError::Characters));
}

#[test]
fn bytes_that_are_no_certificate_are_refused() {
    let mut der = certificate(vec![uri("spiffe://cluster.local/ns/a/sa/b")]);
    der.push(0);
    assert_eq!(uri_san(&der), Err(SanError::Malformed));
    assert_eq!(uri_san(b"not a certificate"), Err(SanError::Malformed));
}

#[test]
fn an_identity_goes_by_every_alias_of_its_domain() {
    let old = TrustDomain::parse(b"old.example").unwrap();
    let domains = TrustDomains::new(TrustDomain::cluster_local(), [old.clone()]);
    let id = SpiffeId::new(old, "a", "b").unwrap();
    let names: Vec<_> = domains
        .names_of(&id)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        names,
        [
            "spiffe://old.example/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/b"
        ]
    );
    let foreign: SpiffeId = "spiffe://elsewhere/ns/a/sa/b".parse().unwrap();
    assert_eq!(domains.names_of(&foreign), std::slice::from_ref(&foreign));
}
