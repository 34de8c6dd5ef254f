//! How often callers may ask for certificates: a token bucket for each of them, and one for all.
//!
//! A restart loop of one workload must not keep the authority from the others, and a whole mesh that starts at once
//! must not exhaust it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// Callers remembered at most. Beyond it those whose bucket is full again are forgotten, which changes nothing for them.
const MAX_CALLERS: usize = 16 * 1024;

/// A rate with bursts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// Requests a second in the long run.
    pub per_second: f64,
    /// Requests at once.
    pub burst: f64,
}

/// Buckets for all callers together and for each one.
#[derive(Debug)]
pub struct RateLimiter {
    all: RateLimit,
    each: RateLimit,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    all: Bucket,
    each: HashMap<String, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Default for RateLimiter {
    /// 500 a second for the mesh, and for one identity 2 a second after a burst of 50: replicas share an identity.
    fn default() -> Self {
        Self::new(
            RateLimit {
                per_second: 500.0,
                burst: 1000.0,
            },
            RateLimit {
                per_second: 2.0,
                burst: 50.0,
            },
        )
    }
}

impl RateLimiter {
    /// Limits for all callers together, and for each.
    pub fn new(all: RateLimit, each: RateLimit) -> Self {
        let full = Bucket {
            tokens: all.burst,
            at: Instant::now(),
        };
        Self {
            all,
            each,
            state: Mutex::new(State {
                all: full,
                each: HashMap::new(),
            }),
        }
    }

    /// Takes one request of `caller` off its budget.
    ///
    /// # Errors
    /// The budget is spent; the value says after how long it is worth trying again.
    pub fn admit(&self, caller: &str) -> Result<(), Duration> {
        let now = Instant::now();
        // A panic while this was held cannot leave more than a wrong count behind.
        let mut state = self
            .state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.each.len() >= MAX_CALLERS && !state.each.contains_key(caller) {
            let limit = self.each;
            state
                .each
                .retain(|_, bucket| bucket.available(limit, now) < limit.burst);
            if state.each.len() >= MAX_CALLERS {
                return Err(Duration::from_secs(1));
            }
        }
        let full = Bucket {
            tokens: self.each.burst,
            at: now,
        };
        let mut each = state.each.get(caller).copied().unwrap_or(full);
        let mut all = state.all;
        each.take(self.each, now)?;
        all.take(self.all, now)?;
        state.all = all;
        state.each.insert(caller.to_owned(), each);
        Ok(())
    }
}

impl Bucket {
    fn available(&self, limit: RateLimit, now: Instant) -> f64 {
        let earned = now.duration_since(self.at).as_secs_f64() * limit.per_second;
        (self.tokens + earned).min(limit.burst)
    }

    fn take(&mut self, limit: RateLimit, now: Instant) -> Result<(), Duration> {
        let available = self.available(limit, now);
        if available < 1.0 {
            let wait = (1.0 - available) / limit.per_second.max(0.001);
            return Err(Duration::from_secs_f64(wait.min(3600.0)));
        }
        *self = Self {
            tokens: available - 1.0,
            at: now,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(per_second: f64, burst: f64) -> RateLimit {
        RateLimit { per_second, burst }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_asks_too_often_waits_and_others_do_not() {
        let limiter = RateLimiter::new(limit(100.0, 100.0), limit(1.0, 2.0));
        assert!(limiter.admit("a").is_ok());
        assert!(limiter.admit("a").is_ok());
        assert_eq!(limiter.admit("a"), Err(Duration::from_secs(1)));
        assert!(limiter.admit("b").is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(limiter.admit("a").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn all_callers_share_a_limit_and_a_refusal_costs_nothing() {
        let limiter = RateLimiter::new(limit(1.0, 1.0), limit(10.0, 1.0));
        assert!(limiter.admit("a").is_ok());
        assert!(limiter.admit("b").is_err());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(limiter.admit("b").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let all = limit(1e9, 1e9);
        let limiter = RateLimiter::new(all, limit(1.0, 2.0));
        for caller in 0..MAX_CALLERS {
            limiter.admit(&caller.to_string()).unwrap();
        }
        assert!(limiter.admit("one more").is_err());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(limiter.admit("one more").is_ok());
        assert_eq!(limiter.state.lock().unwrap().each.len(), 1);
    }
}
