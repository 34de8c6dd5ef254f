//! Token buckets of local rate limits, shared by all workers of the process as Envoy's are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lateen_traffic::filter::{LocalRateLimit, TokenBucket};
use tokio::time::Instant;

/// The buckets of all filters, by the settings they belong to.
///
/// The lock is the one exception to "no lock on a request's path": a limit over all workers is one number, and only requests that
/// a limit is configured for come here.
#[derive(Debug, Default)]
pub(crate) struct RateLimits(Mutex<HashMap<usize, Bucket>>);

#[derive(Debug)]
struct Bucket {
    /// Keeps the address that is the key from being used again.
    settings: Arc<LocalRateLimit>,
    tokens: u32,
    filled: Instant,
}

impl RateLimits {
    /// Takes a token; whether there was one.
    pub(crate) fn take(&self, settings: &Arc<LocalRateLimit>, bucket: TokenBucket) -> bool {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let key = Arc::as_ptr(settings).addr();
        if !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| Arc::strong_count(&bucket.settings) > 1);
        }
        let state = buckets.entry(key).or_insert_with(|| Bucket {
            settings: Arc::clone(settings),
            tokens: bucket.max_tokens,
            filled: now,
        });
        state.refill(bucket, now);
        match state.tokens.checked_sub(1) {
            Some(left) => {
                state.tokens = left;
                true
            }
            None => false,
        }
    }
}

impl Bucket {
    /// Adds the tokens of every interval that has passed.
    fn refill(&mut self, bucket: TokenBucket, now: Instant) {
        let interval = bucket.fill_interval.max(Duration::from_millis(1));
        let passed = now.duration_since(self.filled).as_nanos() / interval.as_nanos();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed > 0 {
            let fill = passed.saturating_mul(bucket.tokens_per_fill);
            self.tokens = self.tokens.saturating_add(fill).min(bucket.max_tokens);
            self.filled += interval * passed;
        }
    }
}
