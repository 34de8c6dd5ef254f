//! Tests of both variants of the protocol, without a stream.

use std::sync::Arc;

use super::super::{DEFAULT, ROOT_CA};
use super::*;
use lateen_envoy::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use lateen_envoy::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use lateen_envoy::unpack;
use lateen_identity::ca::{CaOptions, CaSource, CertificateAuthority};
use lateen_identity::csr::KeyAndRequest;
use lateen_identity::tls::CertifiedKeyPair;
use lateen_identity::{SpiffeId, WorkloadIdentity};
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
        let now = SystemTime::now();
        Self {
            ca: CertificateAuthority::open(source, CaOptions::default(), now).unwrap(),
            _dir: dir,
        }
    }

    /// A fresh certificate of the same workload.
    fn identity(&self) -> Arc<WorkloadIdentity> {
        let id: SpiffeId = "spiffe://cluster.local/ns/default/sa/a".parse().unwrap();
        let made = KeyAndRequest::generate(&id).unwrap();
        let issued = self
            .ca
            .sign(&made.csr_pem, &id, None, SystemTime::now())
            .unwrap();
        let pair = CertifiedKeyPair::new(issued.chain, made.key).unwrap();
        Arc::new(WorkloadIdentity::new(pair, issued.bundle).unwrap())
    }
}

/// A source that has nothing but an identity.
fn has(identity: &Arc<WorkloadIdentity>) -> Source {
    Source::of_identity(Arc::clone(identity))
}

fn sotw(names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(ToString::to_string).collect(),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    }
}

fn delta(subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    DeltaDiscoveryRequest {
        resource_names_subscribe: owned(subscribe),
        resource_names_unsubscribe: owned(unsubscribe),
        ..DeltaDiscoveryRequest::default()
    }
}

#[test]
fn the_certificate_has_its_key_and_the_roots_are_a_secret_of_their_own() {
    let identity = Mesh::new().identity();
    let mut state = SotwState::default();
    assert!(state.on_request(sotw(&[DEFAULT, ROOT_CA, "unknown"], "")));
    let response = state.respond(&mut has(&identity)).unwrap();
    let secrets: Vec<Secret> = response
        .resources
        .iter()
        .map(|any| unpack(any).unwrap())
        .collect();
    let names: Vec<_> = secrets.iter().map(|secret| secret.name.as_str()).collect();
    assert_eq!(names, [ROOT_CA, DEFAULT]);
    assert!(matches!(
        secrets[0].r#type,
        Some(Type::ValidationContext(_))
    ));
    let Some(Type::TlsCertificate(certificate)) = &secrets[1].r#type else {
        panic!("a certificate")
    };
    assert!(certificate.private_key.is_some() && certificate.certificate_chain.is_some());
}

#[test]
fn an_acknowledgement_is_not_answered_and_a_rotation_is_pushed() {
    let mesh = Mesh::new();
    let (first, second) = (mesh.identity(), mesh.identity());
    let mut state = SotwState::default();
    state.on_request(sotw(&[DEFAULT], ""));
    let sent = state.respond(&mut has(&first)).unwrap();
    assert!(state.on_request(sotw(&[DEFAULT], &sent.nonce)));
    assert!(state.respond(&mut has(&first)).is_none());
    let pushed = state.respond(&mut has(&second)).unwrap();
    assert_ne!(pushed.version_info, sent.version_info);
    assert!(
        !state.on_request(sotw(&[DEFAULT], &sent.nonce)),
        "an overtaken answer"
    );
}

#[test]
fn a_name_that_was_dropped_is_sent_again_when_it_is_wanted_again() {
    let identity = Mesh::new().identity();
    let mut state = SotwState::default();
    state.on_request(sotw(&[DEFAULT], ""));
    state.respond(&mut has(&identity)).unwrap();
    state.on_request(sotw(&[], "1"));
    assert!(state.respond(&mut has(&identity)).is_none());
    state.on_request(sotw(&[DEFAULT], "1"));
    assert!(state.respond(&mut has(&identity)).is_some());
}

#[test]
fn delta_tells_only_what_the_other_side_does_not_have() {
    let mesh = Mesh::new();
    let (first, second) = (mesh.identity(), mesh.identity());
    let mut state = DeltaState::default();
    state.on_request(delta(&[DEFAULT], &[]));
    let sent = state.respond(&mut has(&first)).unwrap();
    state.on_request(delta(&[ROOT_CA], &[]));
    let roots = state.respond(&mut has(&first)).unwrap();
    assert_eq!(roots.resources.len(), 1);
    let pushed = state.respond(&mut has(&second)).unwrap();
    assert_eq!(
        pushed.resources[0].name, DEFAULT,
        "the roots are the same as before"
    );
    state.on_request(delta(&[], &[DEFAULT]));
    assert!(state.respond(&mut has(&first)).is_none());

    let mut reconnected = DeltaState::default();
    let versions = [(DEFAULT.to_owned(), sent.resources[0].version.clone())];
    reconnected.on_request(DeltaDiscoveryRequest {
        initial_resource_versions: versions.into_iter().collect(),
        ..delta(&[DEFAULT], &[])
    });
    assert!(reconnected.respond(&mut has(&first)).is_none());
    assert!(reconnected.respond(&mut has(&second)).is_some());
}

#[test]
fn one_stream_cannot_make_us_remember_without_end() {
    let many: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut state = DeltaState::default();
    state.on_request(delta(&many, &[]));
    assert_eq!(state.names.len(), MAX_NAMES);
}

#[test]
fn certificates_in_files_are_served_and_told_again_when_they_change() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    let (first, second) = (Mesh::new().identity(), Mesh::new().identity());
    let name = format!("file-root:{}", path.display());
    let mut source = Source::default();
    let mut state = DeltaState::default();
    state.on_request(delta(&[&name, "file-root:system"], &[]));
    let before = state.respond(&mut source);
    let about = |response: &DeltaDiscoveryResponse| {
        response
            .resources
            .iter()
            .any(|resource| resource.name == name)
    };
    assert!(
        before.is_none_or(|response| !about(&response)),
        "the file is not there yet"
    );

    std::fs::write(&path, first.bundle().to_pem()).unwrap();
    assert!(source.files_changed());
    assert!(about(&state.respond(&mut source).unwrap()));
    std::fs::write(&path, "half a fi").unwrap();
    assert!(!source.files_changed(), "the last good version stays");
    assert!(state.respond(&mut source).is_none());
    std::fs::write(&path, second.bundle().to_pem()).unwrap();
    assert!(source.files_changed());
    assert!(about(&state.respond(&mut source).unwrap()));
    state.on_request(delta(&[], &[&name, "file-root:system"]));
    state.respond(&mut source);
    assert!(!source.has_files());
}
