//! One host's record over all workers: failures in a row, and whether it is out.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lateen_traffic::cluster::{OutlierDetection, Rate};
use lateen_traffic::health_check::Verdict;
use tokio::time::Instant;

use super::counts::{HostCounts, sum};
use super::{Detected, Ended};
use crate::cluster::reports::Reported;

/// Shards of hosts that come and go are added up beyond so many.
const MOST_SHARDS: usize = 64;

/// Bits of what checks found.
const KNOWN: u8 = 1;
const HEALTHY: u8 = 2;
const DEGRADED: u8 = 4;

/// One host's record.
#[derive(Debug, Default)]
pub(crate) struct HostRecord {
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    out: AtomicBool,
    /// What active health checks found, in bits.
    checked: AtomicU8,
    /// What it reports of its load.
    pub(crate) reported: Reported,
    times: Mutex<Times>,
    /// What each worker counted, and counted before its state of the host was made anew.
    shards: Mutex<Vec<Arc<HostCounts>>>,
}

/// When it was ejected, and what the rates were at the last sweep.
#[derive(Debug, Default)]
struct Times {
    ejected: Option<Instant>,
    returned: Option<Instant>,
    jitter: Duration,
    /// Ejections of late; each sweep without one takes one away.
    recent: u32,
    external: Rate,
    local: Rate,
}

impl HostRecord {
    /// Counters for one worker.
    pub(crate) fn shard(&self) -> Arc<HostCounts> {
        let counts = Arc::<HostCounts>::default();
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        // A host that comes and goes would add shards without end; those that nobody writes any more are added up.
        if shards.len() >= MOST_SHARDS {
            let sum = sum(&shards);
            if shards.iter().all(|shard| Arc::strong_count(shard) == 1) {
                *shards = vec![Arc::new(sum)];
            }
        }
        shards.push(Arc::clone(&counts));
        counts
    }

    /// The sum of what all workers counted.
    pub(crate) fn counts(&self) -> HostCounts {
        sum(&self.shards.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the host is out.
    pub(crate) fn is_out(&self) -> bool {
        self.out.load(Ordering::Relaxed)
    }

    /// What active health checks found.
    pub(crate) fn checked(&self) -> Verdict {
        let bits = self.checked.load(Ordering::Relaxed);
        Verdict {
            known: bits & KNOWN != 0,
            healthy: bits & HEALTHY != 0,
            degraded: bits & DEGRADED != 0,
        }
    }

    /// Notes what they found.
    pub(crate) fn set_checked(&self, verdict: Verdict) {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        let bits = bit(verdict.known, KNOWN)
            | bit(verdict.healthy, HEALTHY)
            | bit(verdict.degraded, DEGRADED);
        self.checked.store(bits, Ordering::Relaxed);
    }

    /// Nobody checks the host any more.
    pub(crate) fn forget_checks(&self) {
        self.checked.store(0, Ordering::Relaxed);
    }

    /// Counts how something ended. What that makes one failure too many is told once.
    pub(super) fn count(
        &self,
        counts: &HostCounts,
        ended: Ended,
        settings: &OutlierDetection,
    ) -> [Option<Detected>; 2] {
        let split = settings.split_external_local_origin_errors;
        match ended {
            Ended::Status(status) if split => {
                let found = self.answered(counts, status, settings);
                if status < 500 {
                    self.reached(counts, true, settings);
                }
                found
            }
            Ended::Status(status) => self.answered(counts, status, settings),
            Ended::LocalFailure | Ended::Timeout if split => {
                [self.reached(counts, false, settings), None]
            }
            // Without a split, failures of this side count as what a gateway would answer.
            Ended::LocalFailure => self.answered(counts, 503, settings),
            Ended::Timeout => self.answered(counts, 504, settings),
            Ended::Connected { .. } if split => [self.reached(counts, true, settings), None],
            Ended::Connected { last: true } => self.answered(counts, 200, settings),
            Ended::Connected { last: false } => [None, None],
        }
    }

    fn answered(
        &self,
        counts: &HostCounts,
        status: u16,
        settings: &OutlierDetection,
    ) -> [Option<Detected>; 2] {
        if settings.compares_rates() {
            counts.external.add(status < 500);
        }
        let is_gateway = matches!(status, 502..=504);
        let gateway = bump(
            &self.consecutive_gateway,
            is_gateway,
            settings.consecutive_gateway_failure,
        );
        let error = bump(
            &self.consecutive_5xx,
            status >= 500,
            settings.consecutive_5xx,
        );
        [
            gateway.then_some(Detected::ConsecutiveGatewayFailure),
            error.then_some(Detected::Consecutive5xx),
        ]
    }

    fn reached(
        &self,
        counts: &HostCounts,
        success: bool,
        settings: &OutlierDetection,
    ) -> Option<Detected> {
        if settings.compares_rates() {
            counts.local.add(success);
        }
        let limit = settings.consecutive_local_origin_failure;
        bump(&self.consecutive_local, !success, limit)
            .then_some(Detected::ConsecutiveLocalOriginFailure)
    }

    /// Begins a row anew that was told of.
    pub(super) fn begin_anew(&self, detected: Detected) {
        let row = match detected {
            Detected::Consecutive5xx => &self.consecutive_5xx,
            Detected::ConsecutiveGatewayFailure => &self.consecutive_gateway,
            Detected::ConsecutiveLocalOriginFailure => &self.consecutive_local,
            _ => return,
        };
        row.store(0, Ordering::Relaxed);
    }

    /// Puts the host out; whether it was in.
    pub(super) fn put_out(
        &self,
        settings: &OutlierDetection,
        now: Instant,
        jitter: Duration,
    ) -> bool {
        let mut times = self.times();
        if self.out.swap(true, Ordering::AcqRel) {
            return false;
        }
        times.ejected = Some(now);
        times.jitter = jitter;
        let longest = settings.max_ejection_time + settings.base_ejection_time;
        if settings.base_ejection_time.saturating_mul(times.recent) < longest {
            times.recent += 1;
        }
        true
    }

    /// Whether its time is over.
    pub(super) fn is_due(&self, settings: &OutlierDetection, now: Instant) -> bool {
        let times = self.times();
        let time = settings.ejection_time(times.recent, times.jitter);
        times
            .ejected
            .is_none_or(|ejected| now.saturating_duration_since(ejected) >= time)
    }

    /// Lets the host back in.
    pub(super) fn come_back(&self, now: Instant) {
        self.times().returned = Some(now);
        self.out.store(false, Ordering::Relaxed);
        for count in [
            &self.consecutive_5xx,
            &self.consecutive_gateway,
            &self.consecutive_local,
        ] {
            count.store(0, Ordering::Relaxed);
        }
    }

    /// A host that stayed in for an interval is forgiven one ejection.
    pub(super) fn forgive(&self, settings: &OutlierDetection, now: Instant) {
        let mut times = self.times();
        let stayed = times
            .returned
            .is_some_and(|returned| now.saturating_duration_since(returned) >= settings.interval);
        if stayed && !self.is_out() {
            times.recent = times.recent.saturating_sub(1);
        }
    }

    /// What the host answered, and how reaching it went, since this was last asked.
    pub(super) fn take_rates(&self) -> (Rate, Rate) {
        let counts = self.counts();
        let (external, local) = (counts.external.read(), counts.local.read());
        let mut times = self.times();
        let since = |now: Rate, before: Rate| Rate {
            success: now.success.saturating_sub(before.success),
            total: now.total.saturating_sub(before.total),
        };
        let rates = (since(external, times.external), since(local, times.local));
        (times.external, times.local) = (external, local);
        rates
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One more, or back to none; whether the limit is reached by this one. A limit of 0 is never reached.
fn bump(count: &AtomicU32, failed: bool, limit: u32) -> bool {
    if failed {
        return count.fetch_add(1, Ordering::Relaxed) + 1 == limit;
    }
    // A host without failures is not written to.
    if count.load(Ordering::Relaxed) != 0 {
        count.store(0, Ordering::Relaxed);
    }
    false
}
