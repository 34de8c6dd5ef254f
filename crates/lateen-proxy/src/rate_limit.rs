//! Token buckets of local rate limits, shared by all workers of the process as Envoy's are (or by the requests of one connection, where
//! the settings say so).
//!
//! The lock is the one exception to "no lock on a request's path": a limit over all workers is one number, and only requests that a limit
//! is configured for come here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lateen_traffic::filter::ConnectionRateLimit;
use lateen_traffic::rate_limit::{Descriptor, LimitedDescriptor, LocalRateLimit, TokenBucket};
use tokio::time::Instant;

/// The buckets of HTTP filters, by the settings they belong to.
#[derive(Debug, Default)]
pub(crate) struct RateLimits(Mutex<HashMap<usize, Buckets>>);

/// What became of a request, and what answers may tell of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Whether there were tokens in all buckets.
    pub(crate) allowed: bool,
    /// The bucket that decided; `None` if no bucket was asked.
    pub(crate) bucket: Option<BucketState>,
}

/// A bucket as it was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BucketState {
    /// Tokens that fit.
    pub(crate) limit: u32,
    /// Tokens left.
    pub(crate) remaining: u32,
    /// Time to the next tokens.
    pub(crate) reset: Duration,
}

/// The buckets of one filter.
#[derive(Debug)]
struct Buckets {
    /// Keeps the address that is the key from being used again.
    settings: Arc<LocalRateLimit>,
    common: Option<Bucket>,
    /// One for each descriptor that has no wildcard.
    fixed: Vec<Option<Bucket>>,
    /// Made for values of requests: by the descriptor's place and those values.
    dynamic: HashMap<(usize, Vec<String>), (Bucket, u64)>,
    uses: u64,
}

impl RateLimits {
    /// Takes the tokens of a request with these descriptors.
    pub(crate) fn take(&self, settings: &Arc<LocalRateLimit>, descriptors: &[Descriptor]) -> Taken {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let key = Arc::as_ptr(settings).addr();
        if !all.contains_key(&key) {
            all.retain(|_, buckets| Arc::strong_count(&buckets.settings) > 1);
        }
        let buckets = all
            .entry(key)
            .or_insert_with(|| Buckets::new(settings, now));
        buckets.take(descriptors, now)
    }
}

impl Buckets {
    fn new(settings: &Arc<LocalRateLimit>, now: Instant) -> Self {
        let fixed = settings.descriptors.iter();
        let fixed = fixed.map(|one| (!one.is_dynamic()).then(|| Bucket::full(one.bucket, now)));
        Self {
            common: settings.bucket.map(|bucket| Bucket::full(bucket, now)),
            fixed: fixed.collect(),
            dynamic: HashMap::new(),
            uses: 0,
            settings: Arc::clone(settings),
        }
    }

    /// The buckets of descriptors first, the slowest to fill before others; then the common one. A refusal leaves tokens that were taken
    /// before it taken, as in Envoy.
    fn take(&mut self, descriptors: &[Descriptor], now: Instant) -> Taken {
        let settings = Arc::clone(&self.settings);
        let mut asked: Vec<(usize, &LimitedDescriptor, &Descriptor)> = descriptors
            .iter()
            .filter_map(|descriptor| {
                let mut limited = settings.descriptors.iter().enumerate();
                // One that names the value goes before one that takes any.
                let found = limited
                    .clone()
                    .find(|(_, one)| !one.is_dynamic() && one.fits(descriptor))
                    .or_else(|| limited.find(|(_, one)| one.fits(descriptor)));
                found.map(|(index, one)| (index, one, descriptor))
            })
            .collect();
        asked.sort_by(|a, b| a.1.bucket.rate().total_cmp(&b.1.bucket.rate()));
        let mut decisive = None;
        for (index, limited, descriptor) in &asked {
            let bucket = self.bucket(*index, limited, descriptor, now);
            let enough = bucket.take(descriptor.hits, now);
            let state = bucket.state(now);
            if !enough && !limited.shadow {
                return Taken {
                    allowed: false,
                    bucket: Some(state),
                };
            }
            decisive = decisive.or(Some(state));
        }
        let wants_common = asked.is_empty() || settings.always_take_common;
        match self.common.as_mut().filter(|_| wants_common) {
            Some(common) => {
                let allowed = common.take(1, now);
                let state = common.state(now);
                let bucket = if allowed {
                    decisive.or(Some(state))
                } else {
                    Some(state)
                };
                Taken { allowed, bucket }
            }
            None => Taken {
                allowed: true,
                bucket: decisive,
            },
        }
    }

    fn bucket(
        &mut self,
        index: usize,
        limited: &LimitedDescriptor,
        descriptor: &Descriptor,
        now: Instant,
    ) -> &mut Bucket {
        if !limited.is_dynamic() {
            let bucket = self.fixed.get_mut(index).and_then(Option::as_mut);
            return bucket.expect("made with the settings for each descriptor without wildcard");
        }
        self.uses += 1;
        let values = descriptor.entries.iter().map(|(_, value)| value.clone());
        let key = (index, values.collect::<Vec<_>>());
        if !self.dynamic.contains_key(&key) {
            self.make_room(index);
        }
        let uses = self.uses;
        let (bucket, used) = self
            .dynamic
            .entry(key)
            .or_insert_with(|| (Bucket::full(limited.bucket, now), uses));
        *used = uses;
        bucket
    }

    /// Values come from requests: the bucket that was not used for longest makes room for another.
    fn make_room(&mut self, index: usize) {
        let of_it = |(key, _): &(&(usize, Vec<String>), &(Bucket, u64))| key.0 == index;
        let most = usize::try_from(self.settings.max_dynamic).unwrap_or(usize::MAX);
        if self.dynamic.iter().filter(of_it).count() < most {
            return;
        }
        let oldest = self.dynamic.iter().filter(of_it);
        let oldest = oldest.min_by_key(|(_, (_, used))| *used);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.dynamic.remove(&key);
        }
    }
}

/// One bucket.
#[derive(Debug)]
struct Bucket {
    settings: TokenBucket,
    tokens: u32,
    filled: Instant,
}

impl Bucket {
    const fn full(settings: TokenBucket, now: Instant) -> Self {
        Self {
            tokens: settings.max_tokens,
            settings,
            filled: now,
        }
    }

    fn take(&mut self, hits: u64, now: Instant) -> bool {
        self.refill(now);
        let left = u32::try_from(hits)
            .ok()
            .and_then(|hits| self.tokens.checked_sub(hits));
        self.tokens = left.unwrap_or(self.tokens);
        left.is_some()
    }

    /// Adds the tokens of every interval that has passed.
    fn refill(&mut self, now: Instant) {
        let interval = self.settings.fill_interval.max(Duration::from_millis(1));
        let passed = now.duration_since(self.filled).as_nanos() / interval.as_nanos();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed > 0 {
            let fill = passed.saturating_mul(self.settings.tokens_per_fill);
            self.tokens = self
                .tokens
                .saturating_add(fill)
                .min(self.settings.max_tokens);
            self.filled = self.filled.checked_add(interval * passed).unwrap_or(now);
        }
    }

    fn state(&self, now: Instant) -> BucketState {
        let since = now.duration_since(self.filled);
        BucketState {
            limit: self.settings.max_tokens,
            remaining: self.tokens,
            reset: self.settings.fill_interval.saturating_sub(since),
        }
    }
}

/// The buckets of network filters: a token for each connection.
#[derive(Debug, Default)]
pub(crate) struct ConnectionRates(Mutex<HashMap<RateKey, (Arc<ConnectionRateLimit>, Bucket)>>);

/// Filters that share a key and a bucket share it; others are told apart by their settings' address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum RateKey {
    Own(usize),
    Shared(Arc<str>, u32, u32, Duration),
}

impl ConnectionRates {
    /// Takes a token (or only looks whether there is one).
    pub(crate) fn take(&self, settings: &Arc<ConnectionRateLimit>, look_only: bool) -> bool {
        let TokenBucket {
            max_tokens,
            tokens_per_fill,
            fill_interval,
        } = settings.bucket;
        let key = if settings.share_key.is_empty() {
            RateKey::Own(Arc::as_ptr(settings).addr())
        } else {
            let key = Arc::clone(&settings.share_key);
            RateKey::Shared(key, max_tokens, tokens_per_fill, fill_interval)
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(&key) {
            all.retain(|_, (settings, _)| Arc::strong_count(settings) > 1);
        }
        let now = Instant::now();
        let (_, bucket) = all.entry(key).or_insert_with(|| {
            let bucket = Bucket::full(settings.bucket, now);
            (Arc::clone(settings), bucket)
        });
        if look_only {
            bucket.refill(now);
            return bucket.tokens > 0;
        }
        bucket.take(1, now)
    }
}

#[cfg(test)]
mod tests;
