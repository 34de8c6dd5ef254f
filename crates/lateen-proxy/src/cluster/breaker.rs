//! Circuit breakers: how many connections, requests and retries a cluster may have at a time, over all workers.
//!
//! Source: Envoy's documentation "Circuit breaking". A limit at or above [`UNLIMITED`] (Istio's default is `u32::MAX`) is not
//! counted at all, so that clusters without limits share no cache line between workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Limits from here on mean "none".
pub(super) const UNLIMITED: u32 = 1 << 30;

/// The counts of one cluster, for the default and the high priority.
#[derive(Debug, Default)]
pub(crate) struct Breakers([Counts; 2]);

#[derive(Debug, Default)]
struct Counts([AtomicU32; 4]);

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Resource {
    /// Connections.
    Connections,
    /// Requests waiting for a connection.
    Pending,
    /// Requests.
    Requests,
    /// Retries.
    Retries,
}

/// A counted place below a limit, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit(Option<(Arc<Breakers>, usize, Resource)>);

impl Breakers {
    /// Takes a place, if fewer than `limit` are taken.
    pub(crate) fn acquire(
        self: &Arc<Self>,
        high_priority: bool,
        resource: Resource,
        limit: u32,
    ) -> Option<Permit> {
        if limit >= UNLIMITED {
            return Some(Permit(None));
        }
        let count = self.count(high_priority, resource);
        let taken = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
            (n < limit).then_some(n + 1)
        });
        taken.ok().map(|_| {
            Permit(Some((
                Arc::clone(self),
                usize::from(high_priority),
                resource,
            )))
        })
    }

    /// Takes a place whatever the limit, where the limit has an exception (the first connection of a pool).
    pub(crate) fn acquire_over(
        self: &Arc<Self>,
        high_priority: bool,
        resource: Resource,
        limit: u32,
    ) -> Permit {
        if limit >= UNLIMITED {
            return Permit(None);
        }
        self.count(high_priority, resource)
            .fetch_add(1, Ordering::Relaxed);
        Permit(Some((
            Arc::clone(self),
            usize::from(high_priority),
            resource,
        )))
    }

    /// How many places are taken; 0 where there is no limit.
    pub(crate) fn taken(&self, high_priority: bool, resource: Resource) -> u32 {
        self.count(high_priority, resource).load(Ordering::Relaxed)
    }

    fn count(&self, high_priority: bool, resource: Resource) -> &AtomicU32 {
        &self.0[usize::from(high_priority)].0[resource as usize]
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some((breakers, priority, resource)) = &self.0 {
            breakers.0[*priority].0[*resource as usize].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back_and_priorities_are_apart() {
        let breakers = Arc::new(Breakers::default());
        let first = breakers.acquire(false, Resource::Requests, 1);
        assert!(first.is_some());
        assert!(breakers.acquire(false, Resource::Requests, 1).is_none());
        assert!(breakers.acquire(true, Resource::Requests, 1).is_some());
        drop(first);
        assert!(breakers.acquire(false, Resource::Requests, 1).is_some());
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let breakers = Arc::new(Breakers::default());
        let _held = breakers.acquire(false, Resource::Retries, u32::MAX);
        assert_eq!(breakers.taken(false, Resource::Retries), 0);
    }
}
