//! What workers count of hosts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lateen_traffic::cluster::Rate;

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
    /// What the host answered, where rates are compared.
    pub(super) external: RateCounts,
    /// Connections to it, likewise.
    pub(super) local: RateCounts,
}

/// What a success rate is made of.
#[derive(Debug, Default)]
pub(super) struct RateCounts {
    success: AtomicU64,
    total: AtomicU64,
}

impl RateCounts {
    /// Counts one.
    pub(super) fn add(&self, success: bool) {
        self.total.fetch_add(1, Ordering::Relaxed);
        self.success
            .fetch_add(u64::from(success), Ordering::Relaxed);
    }

    /// The counts so far.
    pub(super) fn read(&self) -> Rate {
        Rate {
            success: self.success.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
        }
    }
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

/// The sum of several workers' counts.
pub(super) fn sum(shards: &[Arc<HostCounts>]) -> HostCounts {
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
        external: RateCounts {
            success: of(|c| &c.external.success),
            total: of(|c| &c.external.total),
        },
        local: RateCounts {
            success: of(|c| &c.local.success),
            total: of(|c| &c.local.total),
        },
    }
}
