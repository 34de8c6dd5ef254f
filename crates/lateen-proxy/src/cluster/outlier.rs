//! Outlier detection: hosts that fail are left out for a while, over all workers.
//!
//! Consecutive failures eject at once; a tick of the control runtime lets hosts back in. At most `max_ejection_percent` of the
//! hosts are out at a time, and one host always may be if the cluster says so. Source: Envoy's "Outlier detection".

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lateen_traffic::cluster::OutlierDetection;
use tokio::time::Instant;

use crate::net::HostAddress;

/// The hosts of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Outliers {
    /// Changes whenever a host goes out or comes back: workers then build their host set again.
    epoch: AtomicU64,
    ejected: AtomicU32,
    hosts: Mutex<HashMap<HostAddress, Arc<HostRecord>>>,
}

/// One host's record.
#[derive(Debug, Default)]
pub(crate) struct HostRecord {
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    out: AtomicBool,
    times_out: AtomicU32,
    until: Mutex<Option<Instant>>,
    /// What each worker counted, and counted before its state of the host was made anew.
    shards: Mutex<Vec<Arc<HostCounts>>>,
}

/// What one worker counts of a host, for the admin interface. Only that worker writes.
#[derive(Debug, Default)]
pub(crate) struct HostCounts {
    /// Connections made or tried.
    pub(crate) cx_total: AtomicU64,
    /// Connections that could not be made.
    pub(crate) cx_connect_fail: AtomicU64,
    /// Connections open.
    pub(crate) cx_active: AtomicU64,
    /// Requests sent.
    pub(crate) rq_total: AtomicU64,
    /// Requests under way.
    pub(crate) rq_active: AtomicU64,
    /// Requests that wait for a connection.
    pub(crate) rq_pending_active: AtomicU64,
    /// Requests answered with less than 500.
    pub(crate) rq_success: AtomicU64,
    /// Requests answered with 500 or more, or not at all.
    pub(crate) rq_error: AtomicU64,
    /// Requests whose try took too long.
    pub(crate) rq_timeout: AtomicU64,
}

/// A request that waits for a connection to a host.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<HostCounts>);

impl Waiting {
    /// Counts one for as long as it exists.
    pub(crate) fn begin(counts: &Arc<HostCounts>) -> Self {
        count(&counts.rq_pending_active);
        Self(Arc::clone(counts))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        uncount(&self.0.rq_pending_active);
    }
}

/// Counts one more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Counts one less.
pub(crate) fn uncount(counter: &AtomicU64) {
    counter.fetch_sub(1, Ordering::Relaxed);
}

/// How a request to a host ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With this HTTP status.
    Status(u16),
    /// Without a response: no connection, or one that broke.
    LocalFailure,
}

impl Outliers {
    /// The number that changes with every ejection and return.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The record of a host.
    pub(crate) fn host(&self, address: &HostAddress) -> Arc<HostRecord> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(hosts.entry(address.clone()).or_default())
    }

    /// Counts how a request ended and ejects the host if that was one failure too many. `random` decides partial enforcement,
    /// `hosts` is the cluster's size.
    pub(crate) fn record(
        &self,
        host: &HostRecord,
        ended: Ended,
        settings: &OutlierDetection,
        hosts: usize,
        random: u64,
    ) {
        if host.count(ended, settings, random)
            && !host.out.load(Ordering::Relaxed)
            && self.may_eject(settings, hosts)
        {
            self.eject(host, settings);
        }
    }

    fn may_eject(&self, settings: &OutlierDetection, hosts: usize) -> bool {
        let out = self.ejected.load(Ordering::Relaxed) as usize;
        let allowed = hosts * settings.max_ejection_percent as usize / 100;
        out < allowed || (out == 0 && settings.always_eject_one_host)
    }

    fn eject(&self, host: &HostRecord, settings: &OutlierDetection) {
        if host.out.swap(true, Ordering::AcqRel) {
            return;
        }
        let times = host.times_out.fetch_add(1, Ordering::Relaxed) + 1;
        let longest = settings.max_ejection_time.max(settings.base_ejection_time);
        let time = settings
            .base_ejection_time
            .saturating_mul(times)
            .min(longest);
        *host.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + time);
        self.ejected.fetch_add(1, Ordering::Relaxed);
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Lets hosts back in whose time is over, and forgets hosts that are gone.
    pub(crate) fn tick(&self, now: Instant, is_member: impl Fn(&HostAddress) -> bool) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|address, host| {
            let gone = !is_member(address);
            if host.out.load(Ordering::Relaxed) && (gone || host.is_due(now)) {
                host.come_back();
                self.ejected.fetch_sub(1, Ordering::Relaxed);
                self.epoch.fetch_add(1, Ordering::Release);
            }
            !gone
        });
    }
}

fn sum(shards: &[Arc<HostCounts>]) -> HostCounts {
    let of = |field: fn(&HostCounts) -> &AtomicU64| {
        let values = shards
            .iter()
            .map(|shard| field(shard).load(Ordering::Relaxed));
        AtomicU64::new(values.fold(0, u64::wrapping_add))
    };
    HostCounts {
        cx_total: of(|c| &c.cx_total),
        cx_connect_fail: of(|c| &c.cx_connect_fail),
        cx_active: of(|c| &c.cx_active),
        rq_total: of(|c| &c.rq_total),
        rq_active: of(|c| &c.rq_active),
        rq_pending_active: of(|c| &c.rq_pending_active),
        rq_success: of(|c| &c.rq_success),
        rq_error: of(|c| &c.rq_error),
        rq_timeout: of(|c| &c.rq_timeout),
    }
}

impl HostRecord {
    /// Counters for one worker.
    pub(crate) fn shard(&self) -> Arc<HostCounts> {
        let counts = Arc::<HostCounts>::default();
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        // A host that comes and goes would add shards without end; those that nobody writes any more are added up.
        if shards.len() >= 64 {
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

    /// Counts; whether a limit was reached that is to be enforced.
    fn count(&self, ended: Ended, settings: &OutlierDetection, random: u64) -> bool {
        let (is_5xx, is_gateway, is_local) = match ended {
            Ended::Status(status) => (status >= 500, matches!(status, 502..=504), false),
            // Without a split Envoy counts failures of its own side as gateway errors and as 5xx.
            Ended::LocalFailure if settings.split_external_local_origin_errors => {
                (false, false, true)
            }
            Ended::LocalFailure => (true, true, false),
        };
        let enforce = |percent: u32| random % 100 < u64::from(percent);
        let reached = [
            bump(&self.consecutive_5xx, is_5xx, settings.consecutive_5xx)
                && enforce(settings.enforcing_consecutive_5xx),
            bump(
                &self.consecutive_gateway,
                is_gateway,
                settings.consecutive_gateway_failure,
            ) && enforce(settings.enforcing_consecutive_gateway_failure),
            bump(
                &self.consecutive_local,
                is_local,
                settings.consecutive_local_origin_failure,
            ) && enforce(settings.enforcing_consecutive_local_origin_failure),
        ];
        reached.contains(&true)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none_or(|until| until <= now)
    }

    fn come_back(&self) {
        self.out.store(false, Ordering::Relaxed);
        for count in [
            &self.consecutive_5xx,
            &self.consecutive_gateway,
            &self.consecutive_local,
        ] {
            count.store(0, Ordering::Relaxed);
        }
    }
}

/// One more, or back to none; whether the limit is reached now. A limit of 0 is off.
fn bump(count: &AtomicU32, failed: bool, limit: u32) -> bool {
    if !failed {
        count.store(0, Ordering::Relaxed);
        return false;
    }
    limit > 0 && count.fetch_add(1, Ordering::Relaxed) + 1 >= limit
}

/// How often hosts are looked at for a return.
pub(crate) const TICK: Duration = Duration::from_secs(1);
