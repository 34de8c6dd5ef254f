//! The control runtime: everything that is not traffic, on one thread of its own.
//!
//! It receives configuration, certificates and DNS answers, makes each new [`Live`] of them and publishes it; it serves the admin
//! interface; it starts, drains and stops the workers.

mod apply;
mod dns;
mod files;
mod resident;
mod secret_servers;
mod source;
mod surroundings;
mod update;

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::FutureExt;
use lateen_telemetry::metrics::Snapshot;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use self::apply::{Dump, DumpEntry};

use crate::admin::{self, Ports};
use crate::cluster::outlier;
use crate::config::ProxyConfig;
use crate::drains::Scope;
use crate::handle::{StartError, State};
use crate::health;
use crate::net::HostAddress;
use crate::panic;
use crate::shared::{Live, Shared};
use crate::worker::{self, Orders};

/// How often a draining proxy looks whether connections are left.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// A pause before what a bug ended begins anew, so that one that shows at once does not spin.
const PAUSE: Duration = Duration::from_secs(1);

/// How long each log may take for its last lines; one that is stuck does not keep the process.
const LOG_PATIENCE: Duration = Duration::from_secs(2);

/// Why a source of configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The source was taken by another proxy.
    #[error("the xDS source was used already")]
    SourceTaken,
}

/// The threads of a running proxy.
#[derive(Debug)]
pub(crate) struct Control {
    shared: Arc<Shared>,
    orders: Orders,
    threads: Mutex<Vec<JoinHandle<()>>>,
    admin: Option<SocketAddr>,
}

impl Control {
    /// Opens the proxy's own ports and starts its threads.
    pub(crate) fn start(config: Arc<ProxyConfig>) -> Result<Self, StartError> {
        let source = source::take(&config.source).map_err(StartError::Source)?;
        let ports = Ports::open(&config)?;
        let admin = ports.admin_address();
        let workers = worker_count(&config);
        let shared = Arc::new(Shared::new(config, workers));
        let orders = Orders {
            stop: CancellationToken::new(),
            open: Arc::new(AtomicUsize::new(0)),
        };
        let control = Self {
            shared,
            orders,
            threads: Mutex::default(),
            admin,
        };
        control.spawn_workers(workers)?;
        control.spawn_control(source, ports)?;
        Ok(control)
    }

    fn spawn_workers(&self, workers: u16) -> Result<(), StartError> {
        for index in 0..workers {
            let (shared, orders) = (Arc::clone(&self.shared), self.orders.clone());
            self.spawn(format!("wrk:{index}"), move || {
                work(&shared, index, &orders);
            })?;
        }
        Ok(())
    }

    fn spawn_control(&self, source: source::Source, ports: Ports) -> Result<(), StartError> {
        let (shared, orders) = (Arc::clone(&self.shared), self.orders.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::Runtime)?;
        self.spawn("control".to_owned(), move || {
            let stop = orders.stop.clone();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async {
                tokio::select! {
                    () = attend(Arc::clone(&shared), source, ports, orders) => {}
                    () = stop.cancelled() => {}
                }
            });
            drop(local);
            stop.cancel();
            shared.advance(State::Stopped);
            // A name resolution may hang in the system's resolver; it must not keep the process.
            runtime.shutdown_background();
        })
    }

    fn spawn(&self, name: String, run: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(run)
            .map_err(|error| {
                self.orders.stop.cancel();
                StartError::Runtime(error)
            })?;
        self.threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(thread);
        Ok(())
    }

    /// The state, as it changes.
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.shared.state()
    }

    /// Where listeners are bound.
    pub(crate) fn bound(&self) -> Vec<(Arc<str>, SocketAddr)> {
        self.shared.bound()
    }

    /// Where the admin interface listens.
    pub(crate) const fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The statistics now.
    pub(crate) fn metrics(&self) -> Snapshot {
        self.shared.statistics()
    }

    /// Drains: returns when no connection is left or the drain time is over.
    pub(crate) async fn drain(&self) {
        self.shared.advance(State::Draining);
        self.shared.drains.drain(Scope::All);
        let end = Instant::now() + self.shared.config.drain.termination;
        while self.orders.open.load(Ordering::Relaxed) > 0 && Instant::now() < end {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }

    /// Ends everything, joins the threads, and has written what they logged.
    pub(crate) async fn shutdown(self) {
        self.orders.stop.cancel();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let shared = Arc::clone(&self.shared);
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // A thread that panicked has said so; there is nothing left to stop in it.
                let _ = thread.join();
            }
            shared.logs.flush(LOG_PATIENCE);
        });
        let _ = joined.await;
        self.shared.advance(State::Stopped);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.orders.stop.cancel();
    }
}

fn work(shared: &Arc<Shared>, index: u16, orders: &Orders) {
    persist(index, &orders.stop, || {
        worker::run(Arc::clone(shared), index, orders.clone())
    });
}

/// Runs a worker, again if a bug ends it: its connections are lost, but not its share of those to come.
fn persist(index: u16, stop: &CancellationToken, mut run: impl FnMut() -> std::io::Result<()>) {
    while !stop.is_cancelled() {
        // Nothing of a worker outlives its run but counters, which are atomic.
        match std::panic::catch_unwind(AssertUnwindSafe(&mut run)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::error!(%error, "a worker cannot run");
                return;
            }
            Err(panic) => {
                let reason = panic::reason(&*panic);
                tracing::error!(
                    worker = index,
                    reason,
                    "a bug ended a worker; it begins anew"
                );
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// Runs a task of the control runtime again and again if a bug ends it.
async fn again<F: Future<Output = ()>>(name: &str, mut task: impl FnMut() -> F) {
    // What the tasks share is read and written whole, in calls that do not panic in between.
    while let Err(panic) = AssertUnwindSafe(task()).catch_unwind().await {
        let reason = panic::reason(&*panic);
        tracing::error!(task = name, reason, "a bug ended a task; it begins anew");
        tokio::time::sleep(PAUSE).await;
    }
}

fn worker_count(config: &ProxyConfig) -> u16 {
    let wanted = match config.concurrency {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n,
    };
    u16::try_from(wanted).unwrap_or(u16::MAX)
}

/// The control runtime's main task.
async fn attend(shared: Arc<Shared>, source: source::Source, ports: Ports, orders: Orders) {
    let dump = Arc::new(Mutex::new(Dump::default()));
    let applying = apply::Applier::new(Arc::clone(&shared), Arc::clone(&dump)).run(source);
    let applying = async {
        if let Err(panic) = AssertUnwindSafe(applying).catch_unwind().await {
            // Without configuration a proxy would go stale with nobody knowing; whoever watches it starts it again.
            let reason = panic::reason(&*panic);
            tracing::error!(
                reason,
                "a bug ended the configuration's task, and the proxy with it"
            );
            orders.stop.cancel();
        }
    };
    let serving = admin::serve(
        ports,
        admin::Context::new(Arc::clone(&shared), dump, orders.clone()),
    );
    let ticking = again("tick", || tick(&shared, &orders));
    let checking = again("health", || health::run(Arc::clone(&shared)));
    let trimming = again("trim", || resident::trim(Arc::clone(&shared)));
    tokio::join!(applying, serving, ticking, checking, trimming);
}

/// Once a second: keeps gauges current, forgets what is gone; as often as clusters want it: looks after ejected hosts.
async fn tick(shared: &Shared, orders: &Orders) {
    let started = Instant::now();
    let mut ticks = 0_u64;
    let mut next = started;
    loop {
        tokio::time::sleep_until(next).await;
        let now = Instant::now();
        let live = shared.live();
        let due = look_after_hosts(shared, &live, now);
        let whole = started + outlier::TICK * u32::try_from(ticks).unwrap_or(u32::MAX);
        next = due.map_or(whole + outlier::TICK, |due| due.min(whole + outlier::TICK));
        next = next.max(now + outlier::SHORTEST_TICK);
        if now < whole {
            continue;
        }
        ticks = now.duration_since(started).as_secs() + 1;
        if ticks.is_multiple_of(30) {
            shared.forget_clusters(|name| !live.program.has_cluster(name));
            shared.stats.registry.sweep(std::time::Instant::now());
        }
        gauges(shared, orders, &live, started);
    }
}

/// Lets ejected hosts back in, ejects those that do worse than others; when that is due again.
fn look_after_hosts(shared: &Shared, live: &Live, now: Instant) -> Option<Instant> {
    let mut next: Option<Instant> = None;
    for (name, outliers) in shared.all_outliers() {
        let cluster = live.program.cluster(&name);
        let endpoints = cluster.and_then(|cluster| live.endpoints_of(cluster));
        let members: Option<BTreeSet<HostAddress>> = endpoints.map(|set| {
            let addresses = set.endpoints.iter().map(|endpoint| &endpoint.address);
            addresses.filter_map(HostAddress::of).collect()
        });
        let settings = cluster.and_then(|cluster| cluster.outlier_detection.as_ref());
        let due = outliers.tick(now, settings, |address, host| match &members {
            Some(members) => !members.contains(address),
            // Hosts that only requests name are members as long as a worker knows them.
            None => Arc::strong_count(host) == 1,
        });
        next = next.into_iter().chain(due).min();
    }
    next
}

fn gauges(shared: &Shared, orders: &Orders, live: &Live, started: Instant) {
    let server = &shared.stats.server;
    let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let state = shared.state_now();
    server
        .uptime
        .set(i64::try_from(started.elapsed().as_secs()).unwrap_or(i64::MAX));
    let failing = shared.fails_health_checks();
    server.live.set(i64::from(state == State::Live && !failing));
    // Envoy: 0 live, 1 draining, 2 pre-initializing, 3 initializing.
    server.state.set(match state {
        State::Live if !failing => 0,
        State::Live | State::Draining | State::Stopped => 1,
        State::Initializing => 3,
    });
    server
        .concurrency
        .set(i64::from(worker_count(&shared.config)));
    server
        .total_connections
        .set(number(orders.open.load(Ordering::Relaxed)));
    server
        .listeners_active
        .set(number(live.program.listeners().len()));
    server
        .clusters_active
        .set(number(live.program.clusters().len()));
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_worker_that_a_bug_ends_begins_anew_until_the_proxy_stops() {
        let (stop, runs) = (CancellationToken::new(), Cell::new(0));
        persist(0, &stop, || {
            runs.set(runs.get() + 1);
            if runs.get() == 2 {
                stop.cancel();
            }
            panic!("a bug")
        });
        assert_eq!(runs.get(), 2);
    }

    #[test]
    fn a_worker_that_ends_as_it_should_does_not_begin_anew() {
        let runs = Cell::new(0);
        persist(0, &CancellationToken::new(), || {
            runs.set(runs.get() + 1);
            Ok(())
        });
        assert_eq!(runs.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_a_bug_ends_begins_anew() {
        let runs = Cell::new(0);
        again("test", || async {
            runs.set(runs.get() + 1);
            assert!(runs.get() > 1, "a bug");
        })
        .await;
        assert_eq!(runs.get(), 2);
    }
}
