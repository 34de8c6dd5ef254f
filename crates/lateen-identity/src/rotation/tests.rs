//! Tests of renewal with time in the test's hands.

use super::*;
use crate::ca::{CaOptions, CaSource, CertificateAuthority};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const HOUR: Duration = Duration::from_secs(3600);

/// The wall clock, moved by tokio's paused one.
fn clock() -> Clock {
    let start = Instant::now();
    let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    Clock::new(move || epoch + (Instant::now() - start))
}

fn id() -> SpiffeId {
    "spiffe://cluster.local/ns/default/sa/a".parse().unwrap()
}

#[derive(Clone)]
struct Issuer(Arc<Inner>);

struct Inner {
    ca: CertificateAuthority,
    clock: Clock,
    away: AtomicBool,
    asked: AtomicUsize,
    names: Mutex<SpiffeId>,
    _dir: tempfile::TempDir,
}

impl Issuer {
    fn new(clock: &Clock) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = CaSource::SelfMade {
            dir: dir.path().join("ca"),
        };
        let ca = CertificateAuthority::open(source, CaOptions::default(), clock.now()).unwrap();
        Self(Arc::new(Inner {
            ca,
            clock: clock.clone(),
            away: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            names: Mutex::new(id()),
            _dir: dir,
        }))
    }

    fn asked(&self) -> usize {
        self.0.asked.load(Ordering::Relaxed)
    }
}

impl CertificateIssuer for Issuer {
    fn issue(&self, csr_pem: String) -> BoxFuture<'_, Result<FetchedCertificate, FetchError>> {
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        let answer = if self.0.away.load(Ordering::Relaxed) {
            Err(FetchError::Call(Box::new(tonic::Status::unavailable(
                "away",
            ))))
        } else {
            let id = self.0.names.lock().unwrap().clone();
            let issued = self
                .0
                .ca
                .sign(&csr_pem, &id, None, self.0.clock.now())
                .unwrap();
            Ok(FetchedCertificate {
                chain: issued.chain,
                bundle: (*issued.bundle).clone(),
            })
        };
        Box::pin(std::future::ready(answer))
    }
}

fn start(issuer: &Issuer, options: RotationOptions) -> IdentityHandle {
    let (manager, handle) = IdentityManager::new(options, issuer.clone(), issuer.0.clock.clone());
    tokio::spawn(manager.run(std::future::pending()));
    handle
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_at_half_of_its_life_with_another_key() {
    let issuer = Issuer::new(&clock());
    let handle = start(&issuer, RotationOptions::new(id()));
    let first = handle.ready().await.unwrap();
    let mut watch = handle.watch();
    watch.mark_unchanged();
    tokio::time::sleep(HOUR * 11).await;
    assert_eq!(issuer.asked(), 1);
    tokio::time::sleep(HOUR * 2).await;
    assert!(watch.has_changed().unwrap());
    let second = handle.current().unwrap();
    assert_ne!(first.facts().serial, second.facts().serial);
    assert_ne!(first.pair().key_pem(), second.pair().key_pem());
}

#[tokio::test(start_paused = true)]
async fn the_old_certificate_stays_while_the_authority_is_away() {
    let issuer = Issuer::new(&clock());
    let handle = start(&issuer, RotationOptions::new(id()));
    let first = handle.ready().await.unwrap();
    issuer.0.away.store(true, Ordering::Relaxed);
    tokio::time::sleep(HOUR * 20).await;
    assert_eq!(
        handle.current().unwrap().facts().serial,
        first.facts().serial
    );
    let attempts = issuer.asked();
    assert!(
        (2000..8000).contains(&attempts),
        "eight hours of waits of 5 to 10 s: {attempts}"
    );
    issuer.0.away.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_ne!(
        handle.current().unwrap().facts().serial,
        first.facts().serial
    );
}

#[tokio::test(start_paused = true)]
async fn a_rotation_can_be_forced_and_says_how_it_went() {
    let issuer = Issuer::new(&clock());
    let handle = start(&issuer, RotationOptions::new(id()));
    let first = handle.ready().await.unwrap();
    handle.rotate().await.unwrap();
    let second = handle.current().unwrap();
    assert_ne!(first.facts().serial, second.facts().serial);
    issuer.0.away.store(true, Ordering::Relaxed);
    assert!(matches!(
        &*handle.rotate().await.unwrap_err(),
        RotationError::Issue { .. }
    ));
    assert_eq!(
        handle.current().unwrap().facts().serial,
        second.facts().serial
    );
}

#[tokio::test(start_paused = true)]
async fn a_new_root_reaches_the_workload_with_a_renewal_and_extra_roots_at_once() {
    let issuer = Issuer::new(&clock());
    let foreign = Issuer::new(&clock()).0.ca.bundle().borrow().clone();
    let (extra, watched) = watch::channel(issuer.0.ca.bundle().borrow().clone());
    let mut options = RotationOptions::new(id());
    options.extra_roots = Some(watched);
    let handle = start(&issuer, options);
    assert_eq!(handle.ready().await.unwrap().bundle().roots().len(), 1);
    issuer.0.ca.begin_rotation(issuer.0.clock.now()).unwrap();
    handle.rotate().await.unwrap();
    assert_eq!(handle.current().unwrap().bundle().roots().len(), 2);
    extra.send_replace(foreign);
    let mut watch = handle.watch();
    let grown = |identity: &Option<Arc<WorkloadIdentity>>| {
        identity
            .as_ref()
            .is_some_and(|identity| identity.bundle().roots().len() == 3)
    };
    watch.wait_for(grown).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn roots_of_other_meshes_are_for_peers_alone_and_come_and_go_without_a_renewal() {
    let issuer = Issuer::new(&clock());
    let foreign = Issuer::new(&clock()).0.ca.bundle().borrow().clone();
    let (peers, watched) = watch::channel(None);
    let mut options = RotationOptions::new(id());
    options.peer_roots = Some(watched);
    let handle = start(&issuer, options);
    handle.ready().await.unwrap();
    let mut watch = handle.watch();
    for (sent, roots) in [(Some(foreign.clone()), 2), (None, 1), (Some(foreign), 2)] {
        peers.send_replace(sent);
        let there = |identity: &Option<Arc<WorkloadIdentity>>| {
            identity
                .as_ref()
                .is_some_and(|identity| identity.bundle().roots().len() == roots)
        };
        let identity = watch.wait_for(there).await.unwrap().clone().unwrap();
        assert_eq!(identity.authority().roots().len(), 1);
    }
    assert_eq!(issuer.asked(), 1);
    handle.rotate().await.unwrap();
    assert_eq!(handle.current().unwrap().bundle().roots().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_for_somebody_else_is_not_used() {
    let issuer = Issuer::new(&clock());
    *issuer.0.names.lock().unwrap() = "spiffe://cluster.local/ns/default/sa/b".parse().unwrap();
    let handle = start(&issuer, RotationOptions::new(id()));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(handle.current().is_none());
    let error = handle.rotate().await.unwrap_err();
    assert!(matches!(&*error, RotationError::OtherIdentity { .. }));
}

#[tokio::test(start_paused = true)]
async fn the_report_names_the_certificate_and_its_root() {
    let issuer = Issuer::new(&clock());
    let handle = start(&issuer, RotationOptions::new(id()));
    handle.ready().await.unwrap();
    let report: Vec<_> = handle
        .expiries()
        .into_iter()
        .map(|one| (one.what, one.name))
        .collect();
    assert_eq!(
        report[0],
        ("workload certificate".to_owned(), id().to_string())
    );
    assert_eq!(report[1].0, "root");
}

/// The roots of the pod's file, as a supervisor that follows the authority would write them.
fn with_root_file(issuer: &Issuer) -> (watch::Sender<Arc<TrustBundle>>, RotationOptions) {
    let (file, watched) = watch::channel(issuer.0.ca.bundle().borrow().clone());
    let mut options = RotationOptions::new(id());
    options.extra_roots = Some(watched);
    (file, options)
}

fn root_of(identity: &WorkloadIdentity) -> String {
    CertificateFacts::from_der(&identity.pair().chain()[0])
        .unwrap()
        .issuer
}

#[tokio::test(start_paused = true)]
async fn a_rotated_root_is_followed_step_by_step_without_waiting_for_half_of_a_life() {
    let issuer = Issuer::new(&clock());
    let (file, options) = with_root_file(&issuer);
    let handle = start(&issuer, options);
    let first = handle.ready().await.unwrap();
    let ca = &issuer.0.ca;
    let publish = || file.send_replace(ca.bundle().borrow().clone());
    let step = || tokio::time::sleep(Duration::from_secs(10));

    ca.begin_rotation(issuer.0.clock.now()).unwrap();
    publish();
    step().await;
    assert_eq!(handle.current().unwrap().bundle().roots().len(), 2);
    assert_eq!(
        issuer.asked(),
        1,
        "a root that is only added needs no new certificate"
    );

    ca.switch_signer(issuer.0.clock.now()).unwrap();
    publish();
    step().await;
    let second = handle.current().unwrap();
    assert_ne!(root_of(&first), root_of(&second));
    assert_eq!(second.bundle().roots().len(), 2);

    ca.finish_rotation(crate::ca::Finish::Now, issuer.0.clock.now())
        .unwrap();
    publish();
    step().await;
    assert_eq!(handle.current().unwrap().bundle().roots().len(), 1);
    assert_eq!(issuer.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_root_file_that_is_faster_than_the_authority_is_followed_a_little_later() {
    let issuer = Issuer::new(&clock());
    let (file, options) = with_root_file(&issuer);
    let handle = start(&issuer, options);
    let first = handle.ready().await.unwrap();
    let ca = &issuer.0.ca;
    ca.begin_rotation(issuer.0.clock.now()).unwrap();
    let turned: Vec<_> = ca.bundle().borrow().roots().iter().rev().cloned().collect();
    file.send_replace(Arc::new(TrustBundle::new(turned).unwrap()));
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(
        issuer.asked() > 1,
        "it asked and was given the old root's signature"
    );
    ca.switch_signer(issuer.0.clock.now()).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_ne!(root_of(&handle.current().unwrap()), root_of(&first));
    let asked = issuer.asked();
    tokio::time::sleep(HOUR).await;
    assert_eq!(issuer.asked(), asked, "and is content then");
}
