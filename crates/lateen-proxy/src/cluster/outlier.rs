//! Outlier detection: hosts that fail are left out for a while, over all workers.
//!
//! Failures in a row eject at once. Every `interval` a sweep of the control runtime lets hosts back in whose time is over, and ejects
//! those that did worse than the others. Source: Envoy's "Outlier detection" and `outlier_detection_impl.cc`.

mod counts;
mod record;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use lateen_telemetry::metrics::envoy::{OutlierFamilies, OutlierStats};
use lateen_telemetry::metrics::{Counter, Shard};
use lateen_traffic::cluster::{OutlierDetection, Rate};
use tokio::time::Instant;

pub(crate) use self::counts::{HostCounts, Waiting, count, uncount};
pub(crate) use self::record::HostRecord;

use crate::net::HostAddress;

/// The hosts of one cluster.
#[derive(Debug)]
pub(crate) struct Outliers {
    /// Changes whenever a host goes out or comes back: workers then build their host set again.
    epoch: AtomicU64,
    ejected: AtomicU32,
    /// Whether any worker has met the cluster.
    traffic: AtomicBool,
    hosts: Mutex<HashMap<HostAddress, Arc<HostRecord>>>,
    due: Mutex<Option<Instant>>,
    families: OutlierFamilies,
    cluster: Arc<str>,
    /// Made with the first host that stands out: most clusters have none.
    stats: OnceLock<OutlierStats>,
    /// The worker that says how many hosts there are: all see the same, and what they say is summed.
    speaker: OnceLock<Shard>,
}

/// How a request or connection to a host ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With this HTTP status.
    Status(u16),
    /// Without a response: no connection, or one that broke.
    LocalFailure,
    /// Without a response in time.
    Timeout,
    /// The host was reached; `last` if nothing else is known of how it does (TCP).
    Connected {
        /// Nothing follows that would be judged.
        last: bool,
    },
}

/// Why a host stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detected {
    /// Server errors in a row.
    Consecutive5xx,
    /// Gateway errors in a row.
    ConsecutiveGatewayFailure,
    /// Failures of this side in a row.
    ConsecutiveLocalOriginFailure,
    /// A success rate far below the mean.
    SuccessRate,
    /// The same, of connections.
    LocalOriginSuccessRate,
    /// A high percentage of failures.
    FailurePercentage,
    /// The same, of connections.
    LocalOriginFailurePercentage,
}

impl Detected {
    /// The chance, in percent, that this ejects.
    const fn enforcing(self, settings: &OutlierDetection) -> u32 {
        let enforcing = &settings.enforcing;
        match self {
            Self::Consecutive5xx => enforcing.consecutive_5xx,
            Self::ConsecutiveGatewayFailure => enforcing.consecutive_gateway_failure,
            Self::ConsecutiveLocalOriginFailure => enforcing.consecutive_local_origin_failure,
            Self::SuccessRate => enforcing.success_rate,
            Self::LocalOriginSuccessRate => enforcing.local_origin_success_rate,
            Self::FailurePercentage => enforcing.failure_percentage,
            Self::LocalOriginFailurePercentage => enforcing.failure_percentage_local_origin,
        }
    }

    /// What counts that it was detected, and that it was enforced.
    const fn counters(self, stats: &OutlierStats) -> (&Counter, &Counter) {
        match self {
            Self::Consecutive5xx => (
                &stats.ejections_detected_consecutive_5xx,
                &stats.ejections_enforced_consecutive_5xx,
            ),
            Self::ConsecutiveGatewayFailure => (
                &stats.ejections_detected_consecutive_gateway_failure,
                &stats.ejections_enforced_consecutive_gateway_failure,
            ),
            Self::ConsecutiveLocalOriginFailure => (
                &stats.ejections_detected_consecutive_local_origin_failure,
                &stats.ejections_enforced_consecutive_local_origin_failure,
            ),
            Self::SuccessRate => (
                &stats.ejections_detected_success_rate,
                &stats.ejections_enforced_success_rate,
            ),
            Self::LocalOriginSuccessRate => (
                &stats.ejections_detected_local_origin_success_rate,
                &stats.ejections_enforced_local_origin_success_rate,
            ),
            Self::FailurePercentage => (
                &stats.ejections_detected_failure_percentage,
                &stats.ejections_enforced_failure_percentage,
            ),
            Self::LocalOriginFailurePercentage => (
                &stats.ejections_detected_local_origin_failure_percentage,
                &stats.ejections_enforced_local_origin_failure_percentage,
            ),
        }
    }
}

impl Outliers {
    /// The hosts of a cluster nothing is known of.
    pub(crate) fn new(families: &OutlierFamilies, cluster: &Arc<str>) -> Self {
        Self {
            epoch: AtomicU64::new(0),
            ejected: AtomicU32::new(0),
            traffic: AtomicBool::new(false),
            hosts: Mutex::default(),
            due: Mutex::default(),
            families: families.clone(),
            cluster: Arc::clone(cluster),
            stats: OnceLock::new(),
            speaker: OnceLock::new(),
        }
    }

    /// Whether a worker is to say how many hosts there are: the first that asks.
    pub(crate) fn speaks(&self, worker: Shard) -> bool {
        *self.speaker.get_or_init(|| worker) == worker
    }

    /// The number that changes with every ejection and return.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Notes that what is thought of a host has changed: workers build their host sets again.
    pub(crate) fn touch(&self) {
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Notes that somebody asks for the cluster.
    pub(crate) fn note_traffic(&self) {
        self.traffic.store(true, Ordering::Relaxed);
    }

    /// Whether anybody ever has.
    pub(crate) fn has_traffic(&self) -> bool {
        self.traffic.load(Ordering::Relaxed)
    }

    /// The record of a host.
    pub(crate) fn host(&self, address: &HostAddress) -> Arc<HostRecord> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(hosts.entry(address.clone()).or_default())
    }

    /// The record of a host, if anything is known of it: to look, without leaving a trace.
    pub(crate) fn known_host(&self, address: &HostAddress) -> Option<Arc<HostRecord>> {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.get(address).map(Arc::clone)
    }

    /// Counts how something ended and ejects the host if that was one failure too many. `random` decides partial enforcement,
    /// `hosts` is the cluster's size.
    pub(crate) fn record(
        &self,
        (host, counts): (&HostRecord, &HostCounts),
        ended: Ended,
        settings: &OutlierDetection,
        hosts: usize,
        random: u64,
    ) {
        for detected in host.count(counts, ended, settings).into_iter().flatten() {
            if !host.is_out() {
                self.eject(host, detected, settings, (hosts, random), Instant::now());
                host.begin_anew(detected);
            }
        }
    }

    fn stats(&self) -> &OutlierStats {
        let make = || self.families.handles(Shard::CONTROL, &self.cluster);
        self.stats.get_or_init(make)
    }

    fn eject(
        &self,
        host: &HostRecord,
        detected: Detected,
        settings: &OutlierDetection,
        (hosts, random): (usize, u64),
        now: Instant,
    ) {
        let stats = self.stats();
        let (found, enforced) = detected.counters(stats);
        found.inc();
        let out = self.ejected.load(Ordering::Relaxed) as usize;
        if !settings.may_eject(out, hosts) {
            stats.ejections_overflow.inc();
            return;
        }
        if random % 100 >= u64::from(detected.enforcing(settings)) {
            return;
        }
        if host.put_out(settings, now, jitter(settings, random)) {
            tracing::info!(cluster = %self.cluster, ?detected, "a host is ejected");
            stats.ejections_enforced_total.inc();
            enforced.inc();
            self.moved(1);
        }
    }

    /// Notes that a host went out (1) or came back (-1).
    fn moved(&self, by: i32) {
        let out = if by > 0 {
            self.ejected.fetch_add(1, Ordering::Relaxed) + 1
        } else {
            self.ejected.fetch_sub(1, Ordering::Relaxed) - 1
        };
        self.stats().ejections_active.set(i64::from(out));
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Forgets hosts that are gone and, if a sweep is due, makes it; when the next one is. Without settings nobody is out.
    pub(crate) fn tick(
        &self,
        now: Instant,
        settings: Option<&OutlierDetection>,
        is_gone: impl Fn(&HostAddress, &Arc<HostRecord>) -> bool,
    ) -> Option<Instant> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|address, host| {
            let gone = is_gone(address, host);
            if host.is_out() && (gone || settings.is_none()) {
                host.come_back(now);
                self.moved(-1);
            }
            !gone
        });
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(settings) = settings else {
            *due = None;
            return None;
        };
        match *due {
            Some(at) if at > now => return Some(at),
            // The first interval begins with the cluster.
            None => {}
            Some(_) => {
                let mut all: Vec<_> = hosts.iter().collect();
                all.sort_by_key(|(address, _)| *address);
                let all: Vec<&HostRecord> = all.iter().map(|(_, host)| &***host).collect();
                self.sweep(&all, settings, now);
            }
        }
        *due = Some(now + settings.interval);
        *due
    }

    fn sweep(&self, hosts: &[&HostRecord], settings: &OutlierDetection, now: Instant) {
        for host in hosts {
            if host.is_out() && host.is_due(settings, now) {
                host.come_back(now);
                self.moved(-1);
            }
        }
        if settings.compares_rates() {
            let rates: Vec<(Rate, Rate)> = hosts.iter().map(|host| host.take_rates()).collect();
            let external = [Detected::SuccessRate, Detected::FailurePercentage];
            let local = [
                Detected::LocalOriginSuccessRate,
                Detected::LocalOriginFailurePercentage,
            ];
            self.compare(hosts, settings, now, external, |at| rates[at].0);
            self.compare(hosts, settings, now, local, |at| rates[at].1);
        }
        for host in hosts {
            host.forgive(settings, now);
        }
    }

    /// Ejects hosts that did worse than the others, by their rates.
    fn compare(
        &self,
        hosts: &[&HostRecord],
        settings: &OutlierDetection,
        now: Instant,
        [below, failing]: [Detected; 2],
        rate: impl Fn(usize) -> Rate,
    ) {
        let inside = (0..hosts.len()).filter(|at| !hosts[*at].is_out());
        let (at, rates): (Vec<usize>, Vec<Rate>) = inside.map(|at| (at, rate(at))).unzip();
        let found = settings.below_the_mean(&rates).into_iter();
        let found = found.map(|index| (index, below)).chain(
            settings
                .failing(&rates)
                .into_iter()
                .map(|index| (index, failing)),
        );
        for (index, detected) in found {
            let host = hosts[at[index]];
            if !host.is_out() {
                let size = (hosts.len(), rand::random());
                self.eject(host, detected, settings, size, now);
            }
        }
    }
}

/// A part of the largest jitter.
fn jitter(settings: &OutlierDetection, random: u64) -> Duration {
    let most = u64::try_from(settings.max_ejection_time_jitter.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis((random >> 8) % most.saturating_add(1))
}

/// How often hosts are looked at, if no sweep is due before.
pub(crate) const TICK: Duration = Duration::from_secs(1);
/// How often they are looked at, at most.
pub(crate) const SHORTEST_TICK: Duration = Duration::from_millis(10);
