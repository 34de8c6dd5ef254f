//! From watched sources to published snapshots.
//!
//! One task owns the newest inputs. When they change it waits for a short pause, builds the next snapshot off the runtime and
//! publishes it whole. Readers hold an `Arc` for as long as they need one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_api::{Diagnostic, Kind, Resource};
use lateen_compile::{JwksStore, Settings, Snapshot, SnapshotInputs, jwks_sources};
use lateen_sources::files::Loaded;
use lateen_sources::plan::{PodState, plan};
use lateen_sources::pods::compile_pods;
use lateen_sources::{defaults, mesh};
use tokio::sync::watch;
use tracing::{error, info};

use crate::jwks::JwksHandle;

/// How long inputs must be quiet before they are compiled, and the longest they are waited for. Istio waits 100 ms and 10 s
/// (`PILOT_DEBOUNCE_AFTER`, `PILOT_DEBOUNCE_MAX`) because a change there costs work for the whole mesh.
#[derive(Clone, Copy, Debug)]
pub struct Debounce {
    /// The pause that ends a burst.
    pub after: Duration,
    /// The longest burst.
    pub longest: Duration,
}

impl Default for Debounce {
    fn default() -> Self {
        Self {
            after: Duration::from_millis(10),
            longest: Duration::from_millis(200),
        }
    }
}

/// A snapshot and what was found while making it.
#[derive(Debug)]
pub struct Published {
    /// Counts snapshots of this process, from 1.
    pub generation: u64,
    /// The snapshot.
    pub snapshot: Snapshot,
    /// What is wrong with the configuration.
    pub diagnostics: Vec<Diagnostic>,
    /// How long it took to build.
    pub took: Duration,
    /// Pods that are ready in it.
    pub ready_pods: usize,
    /// The Secrets it is made of, for what they hold that expires.
    pub secrets: Vec<Resource>,
}

/// The newest inputs.
#[derive(Debug)]
pub struct Sources {
    /// Configuration files.
    pub files: watch::Receiver<Loaded>,
    /// The pods' state.
    pub pods: watch::Receiver<Vec<PodState>>,
    /// What the installation fixes.
    pub settings: Settings,
    /// The keys of token issuers.
    pub(crate) jwks: JwksHandle,
}

/// Builds the first snapshot, then keeps publishing until nobody listens or the sources end.
///
/// The first one is built before this returns.
pub async fn publish(mut sources: Sources, debounce: Debounce) -> watch::Receiver<Arc<Published>> {
    let first = match build(&mut sources, 1).await {
        Some(first) => first,
        // Without a snapshot there is nothing to serve; an empty one at least answers and says so.
        None => {
            let (settings, keys) = (sources.settings.clone(), Arc::default());
            compile(&Loaded::default(), &[], settings, keys, 1)
        }
    };
    let (sender, receiver) = watch::channel(Arc::new(first));
    tokio::spawn(async move {
        let mut generation = 1;
        while changed(&mut sources, &sender, debounce).await {
            let Some(next) = build(&mut sources, generation + 1).await else {
                continue;
            };
            generation = next.generation;
            info!(generation, took = ?next.took, diagnostics = next.diagnostics.len(), "new snapshot");
            sender.send_replace(Arc::new(next));
        }
    });
    receiver
}

/// Waits for a change and then for a pause. False when publishing should end.
async fn changed(
    sources: &mut Sources,
    sender: &watch::Sender<Arc<Published>>,
    debounce: Debounce,
) -> bool {
    let alive = tokio::select! {
        () = sender.closed() => false,
        changed = next_change(sources) => changed,
    };
    let deadline = tokio::time::Instant::now() + debounce.longest;
    loop {
        let pause = (tokio::time::Instant::now() + debounce.after).min(deadline);
        if !alive || tokio::time::timeout_at(pause, next_change(sources)).await != Ok(true) {
            return alive;
        }
    }
}

async fn next_change(sources: &mut Sources) -> bool {
    tokio::select! {
        changed = sources.files.changed() => changed.is_ok(),
        changed = sources.pods.changed() => changed.is_ok(),
        changed = sources.jwks.changed() => changed,
    }
}

/// `None` when building panicked: that is a bug, and the last good snapshot stays in force.
async fn build(sources: &mut Sources, generation: u64) -> Option<Published> {
    let loaded = sources.files.borrow_and_update().clone();
    let pods = sources.pods.borrow_and_update().clone();
    let settings = sources.settings.clone();
    let wanted = jwks_sources(&loaded.resources);
    if generation == 1 && !wanted.is_empty() {
        // Keys may be with services of the mesh, which are known by a snapshot alone: one that nobody gets.
        let (loaded, pods, settings) = (loaded.clone(), pods.clone(), settings.clone());
        let work = move || compile(&loaded, &pods, settings, Arc::default(), 0);
        if let Ok(known) = tokio::task::spawn_blocking(work).await {
            sources.jwks.names(&known.snapshot);
        }
    }
    let jwks = sources.jwks.settle(wanted).await;
    let work = move || compile(&loaded, &pods, settings, jwks, generation);
    let built = tokio::task::spawn_blocking(work).await;
    built
        .inspect(|published| sources.jwks.names(&published.snapshot))
        .inspect_err(|error| error!(%error, "building a snapshot failed; the last one stays"))
        .ok()
}

fn compile(
    loaded: &Loaded,
    pods: &[PodState],
    settings: Settings,
    jwks: Arc<JwksStore>,
    generation: u64,
) -> Published {
    let started = Instant::now();
    let resources = defaults::with_defaults(&loaded.resources);
    let (plan, _) = plan(&resources, settings.dual_stack);
    let (mesh, mut diagnostics) = mesh::in_trust_domain(&resources, &settings.trust_domain);
    let inputs = SnapshotInputs {
        mesh,
        resources,
        pods: compile_pods(pods),
        cluster_ips: plan.cluster_ips,
        settings,
        jwks,
    };
    let secrets = loaded.resources.iter().filter(|r| r.kind == Kind::Secret);
    let secrets = secrets.cloned().collect();
    let ready_pods = pods.iter().filter(|pod| pod.ready).count();
    let (snapshot, found) = Snapshot::new(inputs);
    diagnostics.extend(found);
    Published {
        generation,
        snapshot,
        diagnostics,
        took: started.elapsed(),
        ready_pods,
        secrets,
    }
}
