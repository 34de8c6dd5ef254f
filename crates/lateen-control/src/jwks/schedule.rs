//! When keys are fetched again, and what stays in force meanwhile. No clock and no network: both are arguments.
//!
//! A set is fetched anew long before anybody would miss it. If that fails the last good set stays, and it is tried again soon and then
//! less and less often. A source's failures are its own: no other source waits for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_compile::Jwks;

/// The longest until a good set is fetched again. Source: Istio, `PILOT_JWT_PUB_KEY_REFRESH_INTERVAL`.
const REFRESH: Duration = Duration::from_secs(20 * 60);
/// The shortest, whatever the server says of its answer.
const SHORTEST_REFRESH: Duration = Duration::from_secs(60);
/// The pause after the first failure; it doubles. Istio waits a minute, during which a workload that has just started refuses
/// every token.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest pause after a failure.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// How long a set stays in force that could not be fetched again. Source: Istio, `JwtPubKeyEvictionDuration`.
const LAST_GOOD: Duration = Duration::from_secs(7 * 24 * 3600);

/// A set that was fetched.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    pub(crate) keys: Arc<str>,
    /// For how long the server says its answer may be kept.
    pub(crate) max_age: Option<Duration>,
}

/// What is known of a source, and when it is looked at again.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    keys: Option<(Arc<str>, Instant)>,
    problem: Option<String>,
    failures: u32,
    next: Instant,
    tried: bool,
}

impl Entry {
    /// A source that is to be fetched at once.
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            keys: None,
            problem: None,
            failures: 0,
            next: now,
            tried: false,
        }
    }

    /// When it is to be fetched.
    pub(crate) const fn next(&self) -> Instant {
        self.next
    }

    /// Notes a good answer.
    pub(crate) fn succeeded(&mut self, fetched: Fetched, now: Instant) {
        let age = fetched.max_age.unwrap_or(REFRESH);
        self.keys = Some((fetched.keys, now));
        self.problem = None;
        self.failures = 0;
        self.tried = true;
        self.next = now + age.clamp(SHORTEST_REFRESH, REFRESH);
    }

    /// Notes a failure. Whether it is the first since the last good answer.
    pub(crate) fn failed(&mut self, problem: String, now: Instant) -> bool {
        let first = self.failures == 0;
        let pause = FIRST_RETRY
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.problem = Some(problem);
        self.tried = true;
        self.next = now + pause;
        if self
            .keys
            .as_ref()
            .is_some_and(|(_, fetched)| now.duration_since(*fetched) >= LAST_GOOD)
        {
            self.keys = None;
        }
        first
    }

    /// Tries again at once what failed last, and soon after that: the place has changed, and earlier failures say nothing of it.
    pub(crate) fn hurry(&mut self, now: Instant) {
        if self.problem.is_some() {
            self.next = now;
            self.failures = 0;
        }
    }

    /// What a snapshot is given; `None` before the first attempt has ended.
    pub(crate) fn state(&self) -> Option<Jwks> {
        self.tried.then(|| Jwks {
            keys: self.keys.as_ref().map(|(keys, _)| Arc::clone(keys)),
            problem: self.problem.clone(),
        })
    }

    /// How old its set is.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        let (_, fetched) = self.keys.as_ref()?;
        Some(now.duration_since(*fetched))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetched(keys: &str, max_age: Option<u64>) -> Fetched {
        Fetched {
            keys: keys.into(),
            max_age: max_age.map(Duration::from_secs),
        }
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_good_set_is_fetched_again_ahead_of_time() {
        let now = Instant::now();
        let mut entry = Entry::new(now);
        assert_eq!(entry.next(), now);
        assert_eq!(entry.state(), None);
        entry.succeeded(fetched("a", None), now);
        assert_eq!(entry.next(), now + REFRESH);
        for (max_age, pause) in [(0, 60), (300, 300), (86_400, 1200)] {
            entry.succeeded(fetched("a", Some(max_age)), now);
            assert_eq!(entry.next(), now + seconds(pause), "{max_age}");
        }
    }

    #[test]
    fn the_last_good_set_outlives_an_outage_of_days_but_not_forever() {
        let start = Instant::now();
        let mut entry = Entry::new(start);
        entry.succeeded(fetched("a", None), start);
        let mut now = start + REFRESH;
        assert!(entry.failed("down".to_owned(), now));
        assert!(!entry.failed("down".to_owned(), now));
        let state = entry.state().unwrap();
        assert_eq!(state.keys.as_deref(), Some("a"));
        assert_eq!(state.problem.as_deref(), Some("down"));
        now = start + LAST_GOOD;
        entry.failed("down".to_owned(), now);
        assert_eq!(entry.state().unwrap().keys, None);
        entry.succeeded(fetched("b", None), now);
        assert_eq!(entry.state().unwrap().problem, None);
    }

    #[test]
    fn failures_are_tried_again_soon_and_then_less_often() {
        let now = Instant::now();
        let mut entry = Entry::new(now);
        let pauses: Vec<u64> = (0..9)
            .map(|_| {
                entry.failed("no".to_owned(), now);
                entry.next().duration_since(now).as_secs()
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(
            entry.state().unwrap().keys,
            None,
            "tried, and nothing is known"
        );
        for _ in 0..100 {
            entry.failed("no".to_owned(), now);
        }
        entry.succeeded(fetched("a", None), now);
        entry.failed("no".to_owned(), now);
        assert_eq!(entry.next(), now + seconds(1));
    }

    #[test]
    fn what_failed_is_tried_at_once_when_there_is_reason_to() {
        let now = Instant::now();
        let mut entry = Entry::new(now);
        entry.failed("no".to_owned(), now);
        entry.hurry(now);
        assert_eq!(entry.next(), now);
        entry.succeeded(fetched("a", None), now);
        entry.hurry(now);
        assert_eq!(entry.next(), now + REFRESH, "what works is left alone");
    }
}
