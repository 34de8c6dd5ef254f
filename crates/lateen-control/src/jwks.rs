//! The keys of token issuers, fetched: what RequestAuthentications name by URI or by issuer. And the roots of other meshes that MeshConfig
//! names by SPIFFE bundle endpoints, which are fetched alike.
//!
//! One task owns what is known of every source and fetches each on its own: a source that is slow or down costs the others
//! nothing. Snapshots are given what is known, never made to wait for more than a moment when a source is new
//! ([`JwksHandle::settle`]).

mod bundle;
mod fetch;
mod guard;
mod location;
mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lateen_compile::{JwksSource, JwksStore, Snapshot};
use lateen_envoy::with_causes;
use lateen_identity::tls::system_roots;
use lateen_identity::x509::certificates_from_pem;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

pub use guard::{AddressGuard, Blocked};

use fetch::{FetchError, Fetcher, Names};
use schedule::{Entry, Fetched};

/// Fetches at the same time.
const AT_ONCE: usize = 16;

/// The longest a snapshot waits for sources that were never tried. A push with keys spares clients the refusals between it and the
/// next; a source that does not answer must not hold up everyone's configuration.
const SETTLE: Duration = Duration::from_millis(500);

/// How keys are fetched.
#[derive(Clone, Debug, Default)]
pub struct JwksSettings {
    /// Where from.
    pub guard: AddressGuard,
    /// Roots that servers of keys are verified with, beside the machine's (PEM). Istio: `/cacerts/extra.pem`.
    pub extra_roots: Option<PathBuf>,
}

/// How often fetching worked. Names: istiod's.
#[derive(Debug, Default)]
pub(crate) struct JwksCounters {
    pub(crate) successes: AtomicU64,
    pub(crate) failures: AtomicU64,
}

/// What is wanted, and the names it may be reached by.
#[derive(Clone, Debug, Default)]
struct Wanted {
    sources: BTreeMap<JwksSource, Duration>,
    snapshot: Option<Snapshot>,
}

/// What is known of sources, for who builds snapshots.
#[derive(Debug)]
pub(crate) struct JwksHandle {
    wanted: watch::Sender<Wanted>,
    store: watch::Receiver<Arc<JwksStore>>,
    /// Sources that a snapshot has waited for: none waits for them again.
    waited_for: BTreeSet<JwksSource>,
    pub(crate) counters: Arc<JwksCounters>,
}

impl JwksHandle {
    /// Starts fetching. The task ends with the handle.
    pub(crate) fn start(settings: &JwksSettings) -> Self {
        let (wanted, asked) = watch::channel(Wanted::default());
        let (known, store) = watch::channel(Arc::new(JwksStore::new()));
        let counters = Arc::new(JwksCounters::default());
        let task = Task {
            fetcher: Fetcher {
                guard: settings.guard.clone(),
                tls: tls(settings),
            },
            asked,
            known,
            counters: Arc::clone(&counters),
            entries: BTreeMap::new(),
            running: JoinSet::new(),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
        };
        tokio::spawn(task.run());
        Self {
            wanted,
            store,
            waited_for: BTreeSet::new(),
            counters,
        }
    }

    /// Says which sources are wanted, and waits for a moment for those that were never tried. Returns what is known.
    pub(crate) async fn settle(
        &mut self,
        sources: BTreeMap<JwksSource, Duration>,
    ) -> Arc<JwksStore> {
        let fresh: Vec<JwksSource> = sources
            .keys()
            .filter(|source| !self.waited_for.contains(*source))
            .cloned()
            .collect();
        self.waited_for = sources.keys().cloned().collect();
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted.sources != sources;
            wanted.sources = sources;
            changed
        });
        let all = |store: &Arc<JwksStore>| fresh.iter().all(|source| store.contains_key(source));
        // Nothing follows from running out of time: what comes later makes another snapshot.
        let _ = tokio::time::timeout(SETTLE, self.store.wait_for(all)).await;
        Arc::clone(&self.store.borrow_and_update())
    }

    /// The keys that are known, of whatever was asked for last.
    pub(crate) fn newest(&mut self) -> Arc<JwksStore> {
        self.store.borrow_and_update().clone()
    }

    /// Tells by which names the mesh's services are reached from now on.
    pub(crate) fn names(&self, snapshot: &Snapshot) {
        self.wanted
            .send_modify(|wanted| wanted.snapshot = Some(snapshot.clone()));
    }

    /// What is known, for who waits until something else is.
    pub(crate) fn store(&mut self) -> &mut watch::Receiver<Arc<JwksStore>> {
        &mut self.store
    }
}

/// TLS to servers of keys.
fn tls(settings: &JwksSettings) -> Option<Arc<rustls::ClientConfig>> {
    let mut store = rustls::RootCertStore::empty();
    match system_roots(None) {
        Ok(bundle) => store.roots.extend(bundle.store().roots.iter().cloned()),
        Err(error) => warn!(%error, "keys are not fetched by https with the machine's roots"),
    }
    if let Some(path) = &settings.extra_roots {
        match std::fs::read(path).map(|pem| certificates_from_pem(&pem)) {
            Ok(Ok(certificates)) => {
                store.add_parsable_certificates(certificates);
            }
            Ok(Err(error)) => {
                warn!(path = %path.display(), %error, "roots for fetching keys are not used")
            }
            Err(error) => {
                warn!(path = %path.display(), %error, "roots for fetching keys cannot be read")
            }
        }
    }
    if store.is_empty() {
        return None;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .with_root_certificates(store)
        .with_no_client_auth();
    Some(Arc::new(config))
}

/// What a fetch came to.
type Done = (JwksSource, Result<Fetched, FetchError>);

/// The task that fetches.
struct Task {
    fetcher: Fetcher,
    asked: watch::Receiver<Wanted>,
    known: watch::Sender<Arc<JwksStore>>,
    counters: Arc<JwksCounters>,
    entries: BTreeMap<JwksSource, Source>,
    running: JoinSet<Done>,
    permits: Arc<Semaphore>,
}

/// One source.
struct Source {
    entry: Entry,
    /// Whether it is being fetched.
    running: bool,
    /// Where the mesh has it, if it is a service of the mesh.
    addresses: Option<Vec<SocketAddr>>,
}

impl Task {
    async fn run(mut self) {
        loop {
            self.start_due();
            let next = self.next();
            tokio::select! {
                asked = self.asked.changed() => match asked {
                    Ok(()) => self.take_wanted(),
                    Err(_) => return, // nobody wants anything any more
                },
                Some(done) = self.running.join_next() => {
                    if let Ok(done) = done {
                        self.finish(done);
                    }
                }
                () = sleep_until(next) => {}
            }
        }
    }

    /// Takes what is wanted: forgets what nobody asks for, begins with what is new.
    fn take_wanted(&mut self) {
        let now = Instant::now();
        let Wanted { sources, snapshot } = self.asked.borrow_and_update().clone();
        self.entries
            .retain(|source, _| sources.contains_key(source));
        let names = names(snapshot);
        for source in sources.into_keys() {
            let addresses = fetch::host_of(&source).and_then(|(host, port)| names(&host, port));
            let known = self.entries.entry(source).or_insert_with(|| Source {
                entry: Entry::new(now),
                running: false,
                addresses: None,
            });
            // A service of the mesh that could not be reached and has other endpoints now is asked at once.
            if known.addresses != addresses {
                known.addresses = addresses;
                known.entry.hurry(now);
            }
        }
        self.publish();
    }

    /// When the next source is due; `None` if none is.
    fn next(&self) -> Option<Instant> {
        self.asked.borrow().snapshot.as_ref()?;
        let waiting = self.entries.values().filter(|known| !known.running);
        waiting.map(|known| known.entry.next()).min()
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        let Wanted { sources, snapshot } = self.asked.borrow().clone();
        if snapshot.is_none() {
            return; // which names are the mesh's is not known yet; DNS would be asked for them, and may take long to say no
        }
        let names = names(snapshot);
        for (source, known) in &mut self.entries {
            if known.running || known.entry.next() > now {
                continue;
            }
            known.running = true;
            let timeout = sources
                .get(source)
                .copied()
                .unwrap_or(lateen_compile::DEFAULT_JWKS_TIMEOUT);
            let (source, names) = (source.clone(), Arc::clone(&names));
            let (fetcher, permits) = (self.fetcher.clone(), Arc::clone(&self.permits));
            self.running.spawn(async move {
                // Never closed; without a permit it is fetched all the same.
                let _permit = permits.acquire_owned().await;
                let fetched = fetcher.fetch(&source, &names, timeout).await;
                (source, fetched)
            });
        }
    }

    fn finish(&mut self, (source, fetched): Done) {
        let Some(known) = self.entries.get_mut(&source) else {
            return;
        };
        known.running = false;
        let entry = &mut known.entry;
        let now = Instant::now();
        match fetched {
            Ok(fetched) => {
                self.counters.successes.fetch_add(1, Ordering::Relaxed);
                if entry.age(now).is_none() {
                    info!(%source, "fetched keys");
                }
                entry.succeeded(fetched, now);
            }
            Err(error) => {
                self.counters.failures.fetch_add(1, Ordering::Relaxed);
                let problem = with_causes(&error);
                if entry.failed(problem.clone(), now) {
                    let last_good = entry.age(now).map(|age| age.as_secs());
                    warn!(%source, problem, last_good_seconds = last_good, "cannot fetch keys");
                }
            }
        }
        self.publish();
    }

    /// Publishes what is known, if it is something else than before.
    fn publish(&self) {
        let store: JwksStore = self
            .entries
            .iter()
            .filter_map(|(source, known)| Some((source.clone(), known.entry.state()?)))
            .collect();
        self.known.send_if_modified(|known| {
            let changed = **known != store;
            if changed {
                *known = Arc::new(store);
            }
            changed
        });
    }
}

/// The addresses of the mesh's services, as the last snapshot knows them.
fn names(snapshot: Option<Snapshot>) -> Names {
    Arc::new(move |host, port| -> Option<Vec<SocketAddr>> {
        snapshot.as_ref()?.service_addresses(host, port)
    })
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Why nothing can be fetched from where a SPIFFE bundle is written to be.
pub(crate) fn bundle_url_problem(url: &str) -> Option<String> {
    Some(bundle::location(url).err()?.to_string())
}

#[cfg(test)]
mod tests;
