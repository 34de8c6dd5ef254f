//! Tests of signing, of the state directory, of `cacerts` sets and of rotation.

use super::*;
use crate::csr::KeyAndRequest;
use crate::spiffe::identity_of;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::ParsedCertificate;
use rustls_pki_types::UnixTime;
use std::io::{self, Write as _};
use std::path::Path;

const DAY: Duration = Duration::from_secs(86_400);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

fn id() -> SpiffeId {
    "spiffe://cluster.local/ns/default/sa/reviews"
        .parse()
        .unwrap()
}

fn self_made(dir: &Path) -> CaSource {
    CaSource::SelfMade {
        dir: dir.join("ca"),
    }
}

fn open(dir: &Path) -> CertificateAuthority {
    CertificateAuthority::open(self_made(dir), CaOptions::default(), now()).unwrap()
}

fn sign(ca: &CertificateAuthority, at: SystemTime) -> Result<IssuedCertificate, SignError> {
    let csr = KeyAndRequest::generate(&id()).unwrap().csr_pem;
    ca.sign(&csr, &id(), None, at)
}

fn verifies(issued: &IssuedCertificate, bundle: &TrustBundle, at: SystemTime) -> bool {
    let leaf = ParsedCertificate::try_from(&issued.chain[0]).unwrap();
    let at = UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap());
    let algorithms = crate::tls::provider().signature_verification_algorithms.all;
    let chain = &issued.chain[1..];
    verify_server_cert_signed_by_trust_anchor(&leaf, bundle.store(), chain, at, algorithms).is_ok()
}

#[test]
fn a_certificate_names_whom_the_authority_authenticated_and_not_whom_the_request_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let ca = open(dir.path());
    let admin = "spiffe://cluster.local/ns/kube-system/sa/admin"
        .parse()
        .unwrap();
    let csr = KeyAndRequest::generate(&admin).unwrap().csr_pem;
    let issued = ca.sign(&csr, &id(), None, now()).unwrap();
    assert_eq!(identity_of(&issued.chain[0]).unwrap(), id());
}

#[test]
fn a_certificate_is_backdated_lives_a_day_and_chains_to_the_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let issued = sign(&open(dir.path()), now()).unwrap();
    assert_eq!(issued.facts.not_before, now() - Duration::from_secs(120));
    assert_eq!(issued.facts.not_after, now() + DAY);
    assert!(!issued.facts.is_ca);
    assert!(verifies(
        &issued,
        &issued.bundle,
        now() - Duration::from_secs(60)
    ));
    assert!(!verifies(&issued, &issued.bundle, now() + 2 * DAY));
}

#[test]
fn serial_numbers_never_repeat() {
    let dir = tempfile::tempdir().unwrap();
    let ca = open(dir.path());
    let serials: std::collections::BTreeSet<_> = (0..20)
        .map(|_| sign(&ca, now()).unwrap().facts.serial)
        .collect();
    assert_eq!(serials.len(), 20);
    assert!(serials.iter().all(|serial| serial.len() == 32));
}

#[test]
fn the_lifetime_is_bounded_by_the_options_and_by_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let ca = open(dir.path());
    let csr = KeyAndRequest::generate(&id()).unwrap().csr_pem;
    let long = ca.sign(&csr, &id(), Some(91 * DAY), now());
    assert!(matches!(long, Err(SignError::Lifetime { .. })));
    let near_end = now() + 3650 * DAY - Duration::from_secs(3600);
    let cut = ca.sign(&csr, &id(), None, near_end).unwrap();
    assert_eq!(cut.facts.not_after, now() + 3650 * DAY);
    let after = ca.sign(&csr, &id(), None, now() + 3651 * DAY);
    assert!(matches!(
        after,
        Err(SignError::Signer(SignerError::Expired(_)))
    ));
}

#[test]
fn the_root_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).bundle().borrow().clone();
    let second = open(dir.path()).bundle().borrow().clone();
    assert_eq!(first, second);
}

#[test]
fn a_readable_key_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let key = dir.path().join("ca/ca.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = CertificateAuthority::open(self_made(dir.path()), CaOptions::default(), now());
    assert!(matches!(
        error,
        Err(CaError::File(FileError::Exposed { .. }))
    ));
}

#[test]
fn the_response_ends_with_all_roots() {
    let dir = tempfile::tempdir().unwrap();
    let ca = open(dir.path());
    ca.begin_rotation(now()).unwrap();
    let response = sign(&ca, now()).unwrap().to_response();
    assert_eq!(
        response.len(),
        2,
        "a self-made root has nothing between it and its certificates"
    );
    assert_eq!(
        TrustBundle::from_pem(response[1].as_bytes())
            .unwrap()
            .roots()
            .len(),
        2
    );
}

#[test]
fn a_rotation_never_leaves_a_certificate_that_nobody_trusts() {
    let dir = tempfile::tempdir().unwrap();
    let ca = open(dir.path());
    let before = sign(&ca, now()).unwrap();
    ca.begin_rotation(now()).unwrap();
    assert_eq!(ca.rotation_phase().unwrap(), RotationPhase::Distributing);
    let distributed = ca.bundle().borrow().clone();
    assert_eq!(distributed.roots()[0], before.bundle.roots()[0]);
    assert!(
        verifies(&sign(&ca, now()).unwrap(), &before.bundle, now()),
        "the old one signs"
    );

    ca.switch_signer(now()).unwrap();
    let after = sign(&ca, now()).unwrap();
    assert!(!verifies(&after, &before.bundle, now()));
    assert!(verifies(&after, &distributed, now()));
    assert!(verifies(&before, &ca.bundle().borrow(), now()));

    let early = ca.finish_rotation(Finish::WhenSafe, now() + DAY);
    assert!(matches!(early, Err(CaError::TooEarly { .. })));
    ca.finish_rotation(Finish::WhenSafe, now() + 91 * DAY)
        .unwrap();
    assert_eq!(ca.rotation_phase().unwrap(), RotationPhase::Steady);
    assert!(!verifies(&before, &ca.bundle().borrow(), now()));
    assert!(verifies(&after, &ca.bundle().borrow(), now()));
}

#[test]
fn a_rotation_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).begin_rotation(now()).unwrap();
    let ca = open(dir.path());
    assert!(matches!(
        ca.begin_rotation(now()),
        Err(CaError::Phase { .. })
    ));
    ca.switch_signer(now()).unwrap();
    let ca = open(dir.path());
    assert_eq!(ca.rotation_phase().unwrap(), RotationPhase::Retiring);
    ca.finish_rotation(Finish::Now, now()).unwrap();
    assert_eq!(open(dir.path()).bundle().borrow().roots().len(), 1);
}

#[test]
fn roots_appended_by_hand_are_trusted_and_survive_a_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let foreign = open(other.path()).bundle().borrow().roots()[0].clone();
    let ca = open(dir.path());
    let path = dir.path().join("ca/root-cert.pem");
    let mut pem = std::fs::read_to_string(&path).unwrap();
    pem.push_str(&certificates_to_pem([&foreign]));
    std::fs::write(&path, pem).unwrap();
    let mut watch = ca.bundle();
    ca.reload(now()).unwrap();
    assert!(watch.has_changed().unwrap());
    assert!(watch.borrow_and_update().contains(&foreign));
    ca.begin_rotation(now()).unwrap();
    ca.switch_signer(now()).unwrap();
    ca.finish_rotation(Finish::Now, now()).unwrap();
    assert!(ca.bundle().borrow().contains(&foreign));
}

#[test]
fn a_server_certificate_has_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let ca = open(dir.path());
    let names = ServerNames {
        dns: vec!["istiod.istio-system.svc".to_owned()],
        ips: vec!["127.0.0.1".parse().unwrap()],
        id: None,
    };
    let (issued, _key) = ca.issue_server(&names, now()).unwrap();
    let leaf = ParsedCertificate::try_from(&issued.chain[0]).unwrap();
    for name in ["istiod.istio-system.svc", "127.0.0.1"] {
        let name = name.try_into().unwrap();
        rustls::client::verify_server_name(&leaf, &name).unwrap();
    }
}

mod plugged_in {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyUsagePurpose};

    struct Set {
        dir: tempfile::TempDir,
    }

    fn params(name: &str, is_ca: IsCa) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = is_ca;
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = (now() - DAY).into();
        params.not_after = (now() + 365 * DAY).into();
        params
    }

    fn ca() -> IsCa {
        IsCa::Ca(BasicConstraints::Unconstrained)
    }

    impl Set {
        /// root → intermediate → ca-cert, as Istio's documentation lays it out.
        fn new(change: impl FnOnce(&mut CertificateParams)) -> Self {
            let root_key = KeyPair::generate().unwrap();
            let root = params("root", ca());
            let root_cert = root.self_signed(&root_key).unwrap();
            let root = Issuer::new(root, root_key);
            let middle_key = KeyPair::generate().unwrap();
            let middle = params("middle", ca());
            let middle_cert = middle.signed_by(&middle_key, &root).unwrap();
            let middle = Issuer::new(middle, middle_key);
            let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
            let mut leaf = params("istiod", ca());
            change(&mut leaf);
            let cert = leaf.signed_by(&key, &middle).unwrap();
            let set = Self {
                dir: tempfile::tempdir().unwrap(),
            };
            let chain = format!("{}{}{}", cert.pem(), middle_cert.pem(), root_cert.pem());
            set.write("root-cert.pem", &root_cert.pem());
            set.write("ca-cert.pem", &cert.pem());
            set.write("cert-chain.pem", &chain);
            set.write("ca-key.pem", &key.serialize_pem());
            set
        }

        fn write(&self, name: &str, content: &str) {
            crate::files::write_atomic(&self.dir.path().join(name), content.as_bytes(), 0o600)
                .unwrap();
        }

        fn open(&self, at: SystemTime) -> Result<CertificateAuthority, CaError> {
            let source = CaSource::Cacerts {
                dir: self.dir.path().to_owned(),
                key_access: KeyAccess::OwnerOnly,
            };
            CertificateAuthority::open(source, CaOptions::default(), at)
        }

        fn refusal(&self, at: SystemTime) -> SignerError {
            match self.open(at) {
                Err(CaError::Signer { source, .. }) => source,
                other => panic!("expected a refusal, got {other:?}"),
            }
        }
    }

    #[test]
    fn a_set_with_intermediates_signs_certificates_that_verify() {
        let set = Set::new(|_| {});
        let issued = sign(&set.open(now()).unwrap(), now()).unwrap();
        assert_eq!(
            issued.chain.len(),
            3,
            "leaf, ca-cert and the one between; no root"
        );
        assert!(verifies(&issued, &issued.bundle, now()));
        assert_eq!(issued.to_response().len(), 4);
    }

    #[test]
    fn a_key_of_another_set_is_named() {
        let set = Set::new(|_| {});
        set.write("ca-key.pem", &KeyPair::generate().unwrap().serialize_pem());
        assert!(matches!(set.refusal(now()), SignerError::KeyMismatch));
    }

    #[test]
    fn a_certificate_that_is_no_authority_is_named() {
        let set = Set::new(|leaf| leaf.is_ca = IsCa::ExplicitNoCa);
        assert!(matches!(set.refusal(now()), SignerError::NotCa));
    }

    #[test]
    fn an_expired_set_is_named() {
        let set = Set::new(|_| {});
        assert!(matches!(
            set.refusal(now() + 400 * DAY),
            SignerError::Expired(_)
        ));
    }

    #[test]
    fn a_missing_link_of_the_chain_is_named() {
        let set = Set::new(|_| {});
        set.write("cert-chain.pem", "");
        let refusal = set.refusal(now());
        assert!(matches!(refusal, SignerError::Chain(_)));
        assert!(refusal.to_string().contains("cert-chain.pem"));
    }

    #[test]
    fn it_is_not_ours_to_rotate() {
        let set = Set::new(|_| {});
        assert!(matches!(
            set.open(now()).unwrap().begin_rotation(now()),
            Err(CaError::PluggedIn)
        ));
    }

    #[test]
    fn an_rsa_key_as_openssl_writes_it_signs() {
        let Ok(made) = openssl_rsa_set() else {
            let _ = writeln!(io::stderr(), "SKIPPED: openssl is not installed");
            return;
        };
        let source = CaSource::Cacerts {
            dir: made.path().to_owned(),
            key_access: KeyAccess::MountedSecret,
        };
        let at = SystemTime::now();
        let ca = CertificateAuthority::open(source, CaOptions::default(), at).unwrap();
        let issued = sign(&ca, at).unwrap();
        assert!(verifies(&issued, &issued.bundle, at));
    }

    fn openssl_rsa_set() -> std::io::Result<tempfile::TempDir> {
        let dir = tempfile::tempdir()?;
        let status = std::process::Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
            ])
            .args([
                "-subj",
                "/O=Istio/CN=Root CA",
                "-keyout",
                "ca-key.pem",
                "-out",
                "ca-cert.pem",
            ])
            .current_dir(dir.path())
            .output()?;
        assert!(status.status.success());
        std::fs::copy(
            dir.path().join("ca-cert.pem"),
            dir.path().join("root-cert.pem"),
        )?;
        Ok(dir)
    }
}
