//! Keys of token issuers that this proxy fetches itself (`remote_jwks`), one worker's, and what workers know of each other's.
//!
//! Keys go through the cluster that the configuration names, like any request. They are fetched once for all requests that wait for
//! them, and once for all workers: each has its own copy of what is known, and before it asks it looks at what another was told
//! ([`Known`]). A fetch goes on if who began it goes away. Keys that were fetched stay in force while their server cannot be reached, as those do
//! that the control plane fetches, and a server that fails is left in peace for a while: a client that sends tokens does not decide how
//! often it is asked.
//!
//! Source: Envoy, `jwt_authn`'s `jwks_cache` and `jwks_async_fetcher`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Version};
use lateen_traffic::Program;
use lateen_traffic::filter::{HttpFilterKind, NetworkFilterKind};
use lateen_traffic::jwt::{FetchedKeys, JwtStatus, KeySet, MAX_JWKS_BYTES, RemoteKeys, Retries};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::http::head::{Head, Verbatim};
use crate::http::present::Present;
use crate::upstream::call::{Call, CallError, call};
use crate::worker::Worker;

/// How long the keys of a server that cannot be reached stay in force. The control plane has the same limit.
const OUTAGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long a server that failed is not asked again; doubled with each failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long before they are to be fetched again keys are fetched ahead of need. Source: Envoy, `RefetchBeforeExpiredSec`.
const EARLY: Duration = Duration::from_secs(5);

/// What the process knows, by where it is from, for as long as a worker has use for it. Locked when a worker first hears of a source.
#[derive(Debug, Default)]
pub(crate) struct KnownSets(Mutex<BTreeMap<Arc<RemoteKeys>, Weak<Known>>>);

/// What the last fetch of any worker came to. Held locked by who fetches; who waits for it finds what was fetched.
type Known = tokio::sync::Mutex<State>;

impl KnownSets {
    fn of(&self, from: &Arc<RemoteKeys>) -> Arc<Known> {
        let mut sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sets.get(from).and_then(Weak::upgrade) {
            return known;
        }
        sets.retain(|_, known| known.strong_count() > 0);
        let known = Arc::default();
        sets.insert(Arc::clone(from), Arc::downgrade(&known));
        known
    }
}

/// Keys by where they are from.
#[derive(Debug, Default)]
pub(crate) struct Jwks {
    sets: RefCell<BTreeMap<Arc<RemoteKeys>, Rc<Set>>>,
    /// The version of the configuration that `ahead` and `sets` were last brought in line with.
    version: Cell<Option<u64>>,
}

/// What is known of one.
#[derive(Debug)]
struct Set {
    state: RefCell<State>,
    known: Arc<Known>,
    fetching: Cell<bool>,
    /// Told when a fetch has ended.
    ended: Notify,
}

impl Set {
    fn new(known: Arc<Known>) -> Self {
        Self {
            state: RefCell::default(),
            known,
            fetching: Cell::new(false),
            ended: Notify::new(),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct State {
    keys: Option<Arc<KeySet>>,
    /// When they were fetched.
    since: Option<Instant>,
    failures: u32,
    /// When the last fetch failed.
    failed: Option<Instant>,
}

impl FetchedKeys for Jwks {
    fn get(&self, from: &RemoteKeys) -> Option<Result<Arc<KeySet>, JwtStatus>> {
        let sets = self.sets.borrow();
        let state = sets.get(from)?.state.borrow();
        state.usable(from, Instant::now())
    }
}

impl State {
    /// What can be used without a fetch; `None` if a fetch is due.
    fn usable(&self, from: &RemoteKeys, now: Instant) -> Option<Result<Arc<KeySet>, JwtStatus>> {
        let age = self.since.map(|since| now.duration_since(since));
        if let Some(keys) = &self.keys
            && age.is_some_and(|age| age < from.kept)
        {
            return Some(Ok(Arc::clone(keys)));
        }
        self.is_left_in_peace(from, now)
            .then(|| self.remaining(age))
    }

    /// What there is without newer keys.
    fn remaining(&self, age: Option<Duration>) -> Result<Arc<KeySet>, JwtStatus> {
        let keys = self.keys.as_ref();
        keys.filter(|_| age.is_some_and(|age| age < OUTAGE))
            .map(Arc::clone)
            .ok_or(JwtStatus::KeysNotFetched)
    }

    fn is_left_in_peace(&self, from: &RemoteKeys, now: Instant) -> bool {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.saturating_sub(1).min(10));
        let pause = from.ahead.unwrap_or(doubled.min(LONGEST_PAUSE));
        self.failed
            .is_some_and(|failed| now.duration_since(failed) < pause)
    }

    /// Whether keys should be fetched before they are needed.
    fn is_due(&self, from: &RemoteKeys, now: Instant) -> bool {
        let early = from.kept.saturating_sub(EARLY).max(from.kept / 2);
        let age = self.since.map(|since| now.duration_since(since));
        age.is_none_or(|age| age >= early) && !self.is_left_in_peace(from, now)
    }

    /// Whether there is nothing to ask the server for, neither now nor ahead of need.
    fn answers(&self, from: &RemoteKeys, now: Instant) -> bool {
        let ahead = from.ahead.is_some() && self.is_due(from, now);
        !ahead && self.usable(from, now).is_some()
    }

    fn note(&mut self, fetched: Result<KeySet, FetchError>, from: &RemoteKeys) {
        match fetched {
            Ok(keys) => {
                *self = Self {
                    keys: Some(Arc::new(keys)),
                    since: Some(Instant::now()),
                    ..Self::default()
                };
            }
            Err(error) => {
                tracing::warn!(
                    cluster = &*from.cluster,
                    authority = &*from.authority,
                    path = &*from.path,
                    kept = self.keys.is_some(),
                    error = &error as &dyn std::error::Error,
                    "keys of a token issuer cannot be fetched"
                );
                self.failures = self.failures.saturating_add(1);
                self.failed = Some(Instant::now());
            }
        }
    }
}

impl Jwks {
    /// Waits for keys that are missing, and says what came of it.
    pub(crate) async fn fetch(
        &self,
        worker: &Rc<Worker>,
        from: &Arc<RemoteKeys>,
    ) -> Result<Arc<KeySet>, JwtStatus> {
        let set = self.set(worker, from);
        if !set.fetching.get() {
            begin(worker, from, &set);
        }
        set.ended.notified().await;
        let state = set.state.borrow();
        let age = state.since.map(|since| since.elapsed());
        state.remaining(age)
    }

    fn set(&self, worker: &Worker, from: &Arc<RemoteKeys>) -> Rc<Set> {
        let mut sets = self.sets.borrow_mut();
        let new = || Rc::new(Set::new(worker.shared.key_sets.of(from)));
        Rc::clone(sets.entry(Arc::clone(from)).or_insert_with(new))
    }

    /// Forgets what is not configured any more, and begins the fetches that are due ahead of need.
    pub(crate) fn attend(&self, worker: &Rc<Worker>, (version, program): (u64, &Program)) {
        if self.version.replace(Some(version)) != Some(version) {
            let configured = configured(program);
            self.sets
                .borrow_mut()
                .retain(|from, _| configured.contains(from));
            for from in configured.iter().filter(|from| from.ahead.is_some()) {
                self.set(worker, from);
            }
        }
        let now = Instant::now();
        for (from, set) in &*self.sets.borrow() {
            let due = from.ahead.is_some() && set.state.borrow().is_due(from, now);
            if due && !set.fetching.get() {
                begin(worker, from, set);
            }
        }
    }
}

/// Where a configuration's keys are from.
fn configured(program: &Program) -> BTreeSet<Arc<RemoteKeys>> {
    let chains = program
        .listeners()
        .iter()
        .flat_map(|(_, listener)| listener.all_chains());
    let managers = chains
        .flat_map(|chain| &chain.filters)
        .filter_map(|filter| match &filter.kind {
            NetworkFilterKind::Http(manager) => Some(manager),
            _ => None,
        });
    let filters = managers
        .flat_map(|manager| &manager.filters)
        .filter_map(|filter| match &filter.kind {
            HttpFilterKind::JwtAuthn(config) => Some(config),
            _ => None,
        });
    filters
        .flat_map(|config| config.remote_keys().cloned())
        .collect()
}

/// Begins a fetch, as a task of its own.
fn begin(worker: &Rc<Worker>, from: &Arc<RemoteKeys>, set: &Rc<Set>) {
    set.fetching.set(true);
    let (worker, from) = (Rc::clone(worker), Arc::clone(from));
    let ending = Ending(Rc::clone(set));
    tokio::task::spawn_local(async move {
        let mut known = ending.0.known.lock().await;
        // Another worker may have been told meanwhile, or just before.
        if !known.answers(&from, Instant::now()) {
            let fetched = fetch(&worker, &from).await;
            known.note(fetched, &from);
        }
        ending.0.state.replace(known.clone());
        drop(known);
        drop(ending);
    });
}

/// A fetch under way. However it ends, who waits for it is told.
struct Ending(Rc<Set>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.fetching.set(false);
        self.0.ended.notify_waiters();
    }
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("the server did not answer")]
    Call(#[from] CallError),
    #[error("the server answered {0}")]
    Status(StatusCode),
    #[error("the answer is no key set")]
    Keys(#[from] lateen_traffic::jwt::KeySetError),
    #[error("the answer is not text")]
    Text(#[from] std::str::Utf8Error),
}

impl FetchError {
    /// Whether another try may be better. Source: Envoy, the `retry_on` of its fetcher: `5xx,gateway-error,connect-failure,reset`.
    fn is_passing(&self) -> bool {
        match self {
            Self::Call(error) => !matches!(error, CallError::NoCluster(_) | CallError::Head),
            Self::Status(status) => status.is_server_error(),
            Self::Keys(_) | Self::Text(_) => false,
        }
    }
}

async fn fetch(worker: &Worker, from: &RemoteKeys) -> Result<KeySet, FetchError> {
    let tries = fetch_repeatedly(worker, from);
    match from.timeout {
        None => tries.await,
        Some(limit) => tokio::time::timeout(limit, tries)
            .await
            .unwrap_or(Err(FetchError::Call(CallError::TimedOut))),
    }
}

async fn fetch_repeatedly(worker: &Worker, from: &RemoteKeys) -> Result<KeySet, FetchError> {
    let mut tried = 0;
    loop {
        match fetch_once(worker, from).await {
            Err(error) if error.is_passing() && tried < from.retries.most => {
                tokio::time::sleep(pause(&from.retries, tried)).await;
                tried += 1;
            }
            fetched => return fetched,
        }
    }
}

/// How long a retry waits: something below the base, doubled with each. Source: Envoy, `JitteredExponentialBackOffStrategy`.
fn pause(retries: &Retries, tried: u32) -> Duration {
    let most = retries.base.saturating_mul(1 << tried.min(20));
    most.min(retries.longest)
        .mul_f64(rand::random_range(0.0..1.0))
}

async fn fetch_once(worker: &Worker, from: &RemoteKeys) -> Result<KeySet, FetchError> {
    let asked = Call {
        cluster: &from.cluster,
        head: Head {
            method: Method::GET,
            scheme: if from.secure { "https" } else { "http" },
            authority: from.authority.to_string(),
            path: from.path.to_string(),
            protocol: None,
            version: Version::HTTP_11,
            headers: HeaderMap::new(),
            extensions: http::Extensions::default(),
            present: Present::default(),
            verbatim: Verbatim::default(),
        },
        body: Bytes::new(),
        timeout: None, // the whole fetch has one
        max_answer: MAX_JWKS_BYTES,
    };
    let answer = call(worker, &worker.now(), &asked).await?;
    if answer.head.status != StatusCode::OK {
        return Err(FetchError::Status(answer.head.status));
    }
    Ok(KeySet::parse(std::str::from_utf8(&answer.body)?)?.of_public_keys()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: &str =
        r#"{"keys":[{"kty":"oct","k":"YSBzaGFyZWQgc2VjcmV0IG9mIDMyIGJ5dGVzLi4uLi4"}]}"#;

    fn from(kept: u64, ahead: Option<Duration>) -> RemoteKeys {
        RemoteKeys {
            cluster: "keys".into(),
            secure: true,
            authority: "issuer.example".into(),
            path: "/jwks".into(),
            timeout: None,
            kept: Duration::from_secs(kept),
            ahead,
            retries: Retries::default(),
        }
    }

    fn after(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    fn fail(state: &mut State, from: &RemoteKeys) {
        state.note(Err(FetchError::Status(StatusCode::NOT_FOUND)), from);
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_used_until_they_are_to_be_fetched_again() {
        let (mut state, from) = (State::default(), from(300, None));
        assert!(state.usable(&from, Instant::now()).is_none());
        state.note(Ok(KeySet::parse(SOME).unwrap()), &from);
        assert!(state.usable(&from, after(299)).unwrap().is_ok());
        assert!(state.usable(&from, after(300)).is_none());
        assert!(!state.is_due(&from, after(294)));
        assert!(state.is_due(&from, after(295)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_keys_stay_while_the_server_cannot_be_reached_but_not_for_ever() {
        let (mut state, from) = (State::default(), from(300, None));
        state.note(Ok(KeySet::parse(SOME).unwrap()), &from);
        tokio::time::advance(Duration::from_secs(400)).await;
        fail(&mut state, &from);
        assert!(state.usable(&from, Instant::now()).unwrap().is_ok());
        assert!(state.usable(&from, after(2)).is_none(), "it is asked again");
        tokio::time::advance(OUTAGE).await;
        fail(&mut state, &from);
        let refused = state.usable(&from, Instant::now()).unwrap();
        assert_eq!(refused.map(drop), Err(JwtStatus::KeysNotFetched));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_fails_is_asked_ever_less_often() {
        let (mut state, own) = (State::default(), from(300, None));
        for (failures, pause) in [(1, 1), (2, 2), (3, 4), (7, 60), (40, 60)] {
            while state.failures < failures {
                fail(&mut state, &own);
            }
            let at_the_end = after(pause) - Duration::from_millis(1);
            assert!(state.is_left_in_peace(&own, at_the_end), "{failures}");
            assert!(!state.is_left_in_peace(&own, after(pause)), "{failures}");
        }
        let told = from(300, Some(Duration::from_secs(3)));
        assert!(state.is_left_in_peace(&told, after(2)));
        assert!(!state.is_left_in_peace(&told, after(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_takes_what_another_was_told() {
        let (sets, from) = (KnownSets::default(), Arc::new(from(300, None)));
        let (one, other) = (sets.of(&from), sets.of(&from));
        assert!(!other.lock().await.answers(&from, Instant::now()));
        one.lock()
            .await
            .note(Ok(KeySet::parse(SOME).unwrap()), &from);
        assert!(other.lock().await.answers(&from, after(299)));
        assert!(!other.lock().await.answers(&from, after(300)));
        fail(&mut *one.lock().await, &from);
        assert!(
            other.lock().await.answers(&from, Instant::now()),
            "it is left in peace"
        );
        drop((one, other));
        assert!(!sets.of(&from).lock().await.answers(&from, Instant::now()));
    }

    #[test]
    fn retries_wait_longer_each_time_up_to_a_limit() {
        let retries = Retries {
            most: 5,
            base: Duration::from_millis(10),
            longest: Duration::from_millis(40),
        };
        for (tried, most) in [(0, 10), (1, 20), (2, 40), (9, 40), (31, 40)] {
            assert!(pause(&retries, tried) <= Duration::from_millis(most));
        }
    }
}
