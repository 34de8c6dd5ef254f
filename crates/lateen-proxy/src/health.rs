//! Active health checks: a task of the control runtime for each host of clusters that ask for them.
//!
//! What is thought of a host is in its record, which all workers read when they build their hosts anew. Until its first check a host counts as
//! unhealthy; a cluster of such hosts is in a panic, so that requests reach it all the same. A host that is taken out of the configuration is
//! gone at once, well or not (Envoy keeps it until it fails a check).

mod exchange;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use lateen_telemetry::metrics::Shard;
use lateen_telemetry::metrics::envoy::HealthStats;
use lateen_traffic::Cluster;
use lateen_traffic::endpoint::Endpoint;
use lateen_traffic::health_check::{Answer, HealthCheck, HostCheck};
use lateen_traffic::program::StoredCluster;
use lateen_traffic::value::Metadata;
use tokio::task::AbortHandle;

use crate::cluster::outlier::{HostRecord, Outliers};
use crate::net::HostAddress;
use crate::shared::{Live, Shared};

/// A cluster and one of its hosts.
type Key = (Arc<str>, HostAddress);

/// A host that is checked.
struct Running {
    check: Arc<HealthCheck>,
    subject: Rc<RefCell<Subject>>,
    record: Arc<HostRecord>,
    outliers: Arc<Outliers>,
    task: AbortHandle,
}

/// What a host is asked by, as the configuration says now.
#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) endpoint: Arc<Endpoint>,
    /// The metadata of its locality.
    pub(crate) locality: Metadata,
}

impl Running {
    /// Ends the checks of a host; nothing is thought of it then.
    fn end(self) {
        self.task.abort();
        self.record.forget_checks();
        self.outliers.touch();
    }
}

/// Checks hosts as the configuration says, until it is dropped.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut changes = shared.changes();
    let mut running: BTreeMap<Key, Running> = BTreeMap::new();
    let mut stats: BTreeMap<Arc<str>, Rc<HealthStats>> = BTreeMap::new();
    loop {
        changes.borrow_and_update();
        let live = shared.live();
        follow(&shared, &live, &mut running, &mut stats);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn follow(
    shared: &Arc<Shared>,
    live: &Live,
    running: &mut BTreeMap<Key, Running>,
    stats: &mut BTreeMap<Arc<str>, Rc<HealthStats>>,
) {
    let mut last = std::mem::take(running);
    let clusters = live.program.clusters();
    for (name, cluster) in clusters.iter_where(StoredCluster::is_checked) {
        let cluster = cluster.get();
        let Some(check) = &cluster.health_check else {
            continue;
        };
        let handles = stats
            .entry(Arc::clone(name))
            .or_insert_with(|| Rc::new(shared.stats.health.handles(Shard::CONTROL, name)));
        for (address, subject) in subjects(live, cluster) {
            let key = (Arc::clone(name), address);
            let kept = last.remove(&key).and_then(|kept| {
                if Arc::ptr_eq(&kept.check, check) {
                    *kept.subject.borrow_mut() = subject.clone();
                    return Some(kept);
                }
                kept.task.abort(); // what was thought of the host stays until it is asked anew
                None
            });
            let now = kept.unwrap_or_else(|| start(shared, &key, check, subject, handles));
            running.insert(key, now);
        }
    }
    for (_, gone) in last {
        gone.end();
    }
    stats.retain(|name, _| live.program.cluster(name).is_some());
}

/// The hosts of a cluster that are to be checked. One address is one host.
fn subjects(live: &Live, cluster: &Arc<Cluster>) -> BTreeMap<HostAddress, Subject> {
    let mut out = BTreeMap::new();
    let Some(set) = live.endpoints_of(cluster) else {
        return out;
    };
    for group in &set.localities {
        for endpoint in &set.endpoints[group.endpoints.clone()] {
            let address = HostAddress::of(&endpoint.address);
            let Some(address) = address.filter(|_| !endpoint.health_check.disabled) else {
                continue;
            };
            let subject = Subject {
                cluster: Arc::clone(cluster),
                endpoint: Arc::clone(endpoint),
                locality: group.metadata.clone(),
            };
            out.entry(address).or_insert(subject);
        }
    }
    out
}

fn start(
    shared: &Arc<Shared>,
    (name, address): &Key,
    check: &Arc<HealthCheck>,
    subject: Subject,
    stats: &Rc<HealthStats>,
) -> Running {
    let outliers = shared.outliers(name);
    let record = outliers.host(address);
    let subject = Rc::new(RefCell::new(subject));
    let host = CheckedHost {
        shared: Arc::clone(shared),
        check: Arc::clone(check),
        subject: Rc::clone(&subject),
        record: Arc::clone(&record),
        outliers: Arc::clone(&outliers),
        stats: Rc::clone(stats),
        name: Arc::clone(name),
        address: address.clone(),
    };
    let task = tokio::task::spawn_local(host.attend());
    Running {
        check: Arc::clone(check),
        subject,
        record,
        outliers,
        task: task.abort_handle(),
    }
}

/// One host and what is known of it.
struct CheckedHost {
    shared: Arc<Shared>,
    check: Arc<HealthCheck>,
    subject: Rc<RefCell<Subject>>,
    record: Arc<HostRecord>,
    outliers: Arc<Outliers>,
    stats: Rc<HealthStats>,
    name: Arc<str>,
    address: HostAddress,
}

impl CheckedHost {
    /// Checks again and again.
    async fn attend(self) {
        let mut host = HostCheck::default();
        let mut kept = None;
        tokio::time::sleep(self.check.intervals.first(rand::random())).await;
        loop {
            self.stats.attempt.inc();
            let subject = self.subject.borrow().clone();
            let live = self.shared.live();
            let asked = exchange::ask(&self.shared, &live, &subject, &self.check, &mut kept);
            let answer = match tokio::time::timeout(self.check.timeout, asked).await {
                Ok(answer) => answer,
                Err(_) => {
                    kept = None; // what comes late is nobody's
                    Answer::Network
                }
            };
            if !self.check.reuse_connection {
                kept = None;
            }
            self.count(answer);
            let before = host.verdict();
            let wait = host.take(
                &self.check,
                answer,
                self.outliers.has_traffic(),
                rand::random(),
            );
            let now = host.verdict();
            if now != before {
                tracing::info!(cluster = %self.name, host = %self.address, healthy = now.healthy, ?answer, "health check");
                self.record.set_checked(now);
                self.outliers.touch();
                if before.healthy != now.healthy {
                    let by = if now.healthy { 1 } else { -1 };
                    self.stats.healthy.add(by);
                }
            }
            tokio::time::sleep(wait).await;
        }
    }

    fn count(&self, answer: Answer) {
        match answer {
            Answer::Healthy { .. } => self.stats.success.inc(),
            Answer::Network => {
                self.stats.failure.inc();
                self.stats.network_failure.inc();
            }
            Answer::Unhealthy | Answer::Retriable => self.stats.failure.inc(),
        }
    }
}
