//! How fast new streams are let in. After a restart of the control plane every proxy reconnects at once; each costs a compilation
//! and a full push, and letting them all in together would make every one of them slow (istio/istio#12664).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Status;

/// Limits on new streams.
#[derive(Clone, Debug)]
pub struct AdmissionConfig {
    /// Streams per second in the long run. Istio's `PILOT_MAX_REQUESTS_PER_SECOND` is 25 to 100, by cores, since each costs it a
    /// compilation of its own; here proxies of one kind share theirs.
    pub per_second: f64,
    /// Streams let in at once after a quiet time.
    pub burst: u32,
    /// Streams that may wait for their first resources at the same time.
    pub concurrent: usize,
    /// How long a stream may wait to be let in before it is told to try again.
    pub max_wait: Duration,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            per_second: 500.0,
            burst: 1000,
            concurrent: 64,
            max_wait: Duration::from_secs(10),
        }
    }
}

#[derive(Debug)]
pub(super) struct Admission {
    max_wait: Duration,
    rate: Mutex<Rate>,
    concurrent: Arc<Semaphore>,
}

/// Held from admission until the stream has its first resources.
pub(super) type Permit = OwnedSemaphorePermit;

impl Admission {
    pub(super) fn new(config: &AdmissionConfig) -> Self {
        Self {
            max_wait: config.max_wait,
            rate: Mutex::new(Rate::new(config.per_second, config.burst)),
            concurrent: Arc::new(Semaphore::new(config.concurrent.max(1))),
        }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if that would take too long. Clients back off and try again.
    pub(super) async fn admit(&self) -> Result<Permit, Status> {
        let busy = || Status::resource_exhausted("too many proxies are connecting; try again");
        let now = Instant::now();
        let deadline = now + self.max_wait;
        let turn = {
            // The value is whole at every point where a panic could be, so a poisoned lock is as good.
            let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
            rate.reserve(now, self.max_wait).ok_or_else(busy)?
        };
        sleep(turn).await;
        let permit = Arc::clone(&self.concurrent).acquire_owned();
        timeout_at(deadline, permit)
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or_else(busy)
    }
}

/// A token bucket, kept as the time at which it would be full again (the "generic cell rate algorithm").
#[derive(Debug)]
pub(super) struct Rate {
    interval: Duration,
    tolerance: Duration,
    /// When the next stream would arrive if all came exactly at the rate.
    next: Option<Instant>,
}

impl Rate {
    pub(super) fn new(per_second: f64, burst: u32) -> Self {
        // A rate of nothing would let in nobody ever, which no configuration can mean.
        let interval = Duration::from_secs_f64(1.0 / per_second.clamp(0.01, 1e6));
        Self {
            interval,
            tolerance: interval * burst.saturating_sub(1),
            next: None,
        }
    }

    /// Takes a turn and says how long to wait for it; takes none if that were longer than `max_wait`.
    pub(super) fn reserve(&mut self, now: Instant, max_wait: Duration) -> Option<Duration> {
        let next = self.next.map_or(now, |next| next.max(now));
        let wait = next
            .saturating_duration_since(now)
            .saturating_sub(self.tolerance);
        if wait > max_wait {
            return None;
        }
        self.next = Some(next + self.interval);
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_passes_at_once_and_the_rest_at_the_rate() {
        let mut rate = Rate::new(10.0, 3);
        let now = Instant::now();
        let waits: Vec<_> = (0..5)
            .map(|_| rate.reserve(now, SECOND).unwrap().as_millis())
            .collect();
        assert_eq!(waits, [0, 0, 0, 100, 200]);
    }

    #[test]
    fn who_would_wait_too_long_is_refused_and_takes_no_turn() {
        let mut rate = Rate::new(1.0, 1);
        let now = Instant::now();
        assert_eq!(rate.reserve(now, SECOND), Some(Duration::ZERO));
        assert_eq!(rate.reserve(now, SECOND), Some(SECOND));
        assert_eq!(rate.reserve(now, SECOND), None);
        assert_eq!(rate.reserve(now + SECOND, SECOND), Some(SECOND));
    }

    #[test]
    fn a_quiet_time_fills_the_burst_and_no_more() {
        let mut rate = Rate::new(10.0, 2);
        let now = Instant::now();
        let later = now + 100 * SECOND;
        rate.reserve(now, SECOND).unwrap();
        let waits: Vec<_> = (0..3)
            .map(|_| rate.reserve(later, SECOND).unwrap().as_millis())
            .collect();
        assert_eq!(waits, [0, 0, 100]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_wait_for_their_first_resources() {
        let config = AdmissionConfig {
            concurrent: 1,
            max_wait: SECOND,
            ..AdmissionConfig::default()
        };
        let admission = Admission::new(&config);
        let first = admission.admit().await.unwrap();
        assert_eq!(
            admission.admit().await.unwrap_err().code(),
            tonic::Code::ResourceExhausted
        );
        drop(first);
        drop(admission.admit().await.unwrap());
    }
}
