//! From watched sources to published snapshots.
//!
//! One task owns the newest inputs. When they change it waits for a short pause, builds the next snapshot off the runtime and
//! publishes it whole. Readers hold an `Arc` for as long as they need one.
//!
//! Pods come and go far more often than anything else changes; where nothing else has, the next snapshot is the last one with those pods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_api::{Diagnostic, Kind, Resource};
use lateen_compile::{
    JwksFetch, JwksSource, JwksStore, ObjectChange, Pod, PodChange, Settings, Snapshot,
    SnapshotInputs, bundle_sources, jwks_sources,
};
use lateen_sources::files::{Blocks, Loaded};
use lateen_sources::plan::{ClusterIps, PodState, given_ips};
use lateen_sources::pods::{PodStates, compile_pods, pod_changes};
use lateen_sources::{defaults, mesh};
use tokio::sync::watch;
use tracing::{error, info};

use self::changes::{followed, readdresses};
use crate::findings::roots;
use crate::jwks::{JwksHandle, JwksSettings};
use crate::workloads::{GRACE, Known, Registered, WorkloadRegistry, Workloads};

mod changes;

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
    /// Those that are about the mesh's own settings.
    about_mesh: Arc<[Diagnostic]>,
    /// How long it took to build.
    pub took: Duration,
    /// Pods that are ready in it.
    pub ready_pods: usize,
    /// The Secrets it is made of, for what they hold that expires.
    pub secrets: Arc<[Resource]>,
    /// What it is made of that workloads outside can register for.
    pub(crate) workloads: Known,
    cluster_ips: Arc<ClusterIps>,
}

/// What a snapshot was made of.
#[derive(Clone)]
struct Inputs {
    loaded: Arc<Loaded>,
    pods: PodStates,
    settings: Settings,
    jwks: Arc<JwksStore>,
    workloads: Arc<Registered>,
}

/// The last snapshot and its inputs.
struct Last {
    inputs: Inputs,
    published: Arc<Published>,
}

/// The newest inputs.
#[derive(Debug)]
pub struct Sources {
    /// Configuration files.
    pub files: watch::Receiver<Arc<Loaded>>,
    /// The pods' state.
    pub pods: watch::Receiver<PodStates>,
    /// What the installation fixes.
    pub settings: Settings,
    /// The keys of token issuers.
    pub(crate) jwks: JwksHandle,
    /// Workloads that registered.
    workloads: WorkloadRegistry,
    registered: watch::Receiver<Arc<Registered>>,
}

impl Sources {
    /// Sources whose token issuers' keys are fetched with default settings. Starts the task that fetches: call it on a runtime.
    pub fn new(
        files: watch::Receiver<Arc<Loaded>>,
        pods: watch::Receiver<PodStates>,
        settings: Settings,
    ) -> Self {
        Self::with_jwks(
            files,
            pods,
            settings,
            JwksHandle::start(&JwksSettings::default()),
        )
    }

    pub(crate) fn with_jwks(
        files: watch::Receiver<Arc<Loaded>>,
        pods: watch::Receiver<PodStates>,
        settings: Settings,
        jwks: JwksHandle,
    ) -> Self {
        let workloads = WorkloadRegistry(Workloads::new(GRACE));
        Self {
            files,
            pods,
            settings,
            jwks,
            registered: workloads.0.watch(),
            workloads,
        }
    }

    /// Where workloads that are no pods register, to be given to whoever serves proxies.
    pub fn workloads(&self) -> WorkloadRegistry {
        self.workloads.clone()
    }
}

/// Builds the first snapshot, then keeps publishing until nobody listens.
///
/// The first one is built before this returns.
pub async fn publish(mut sources: Sources, debounce: Debounce) -> watch::Receiver<Arc<Published>> {
    let mut last = match build(&mut sources, None).await {
        Some(first) => first,
        // Without a snapshot there is nothing to serve; an empty one at least answers and says so.
        None => {
            let inputs = Inputs {
                loaded: Arc::default(),
                pods: PodStates::default(),
                settings: sources.settings.clone(),
                jwks: Arc::default(),
                workloads: Arc::default(),
            };
            Last {
                published: Arc::new(compile(&inputs, 1)),
                inputs,
            }
        }
    };
    let (sender, receiver) = watch::channel(Arc::clone(&last.published));
    tokio::spawn(async move {
        while changed(&mut sources, &sender, debounce).await {
            let Some(next) = build(&mut sources, Some(&last)).await else {
                continue;
            };
            last = next;
            let Published {
                generation, took, ..
            } = *last.published;
            let diagnostics = last.published.diagnostics.len();
            info!(generation, ?took, diagnostics, "new snapshot");
            sender.send_replace(Arc::clone(&last.published));
        }
    });
    receiver
}

/// Waits for a change and then for a pause. False when nobody listens any more.
async fn changed(
    sources: &mut Sources,
    sender: &watch::Sender<Arc<Published>>,
    debounce: Debounce,
) -> bool {
    tokio::select! {
        () = sender.closed() => return false,
        () = next_change(sources) => {}
    }
    let deadline = tokio::time::Instant::now() + debounce.longest;
    loop {
        let pause = (tokio::time::Instant::now() + debounce.after).min(deadline);
        if tokio::time::timeout_at(pause, next_change(sources))
            .await
            .is_err()
        {
            return true;
        }
    }
}

/// Waits until any source has something new. One that has ended has nothing new for ever, which ends no other.
async fn next_change(sources: &mut Sources) {
    tokio::select! {
        () = news(&mut sources.files) => {}
        () = news(&mut sources.pods) => {}
        () = news(sources.jwks.store()) => {}
        () = news(&mut sources.registered) => {}
    }
}

async fn news<T>(source: &mut watch::Receiver<T>) {
    if source.changed().await.is_err() {
        std::future::pending().await
    }
}

/// `None` when building panicked: that is a bug, and the last good snapshot stays in force.
async fn build(sources: &mut Sources, last: Option<&Last>) -> Option<Last> {
    let mut inputs = Inputs {
        loaded: sources.files.borrow_and_update().clone(),
        pods: sources.pods.borrow_and_update().clone(),
        settings: sources.settings.clone(),
        jwks: Arc::default(),
        workloads: sources.registered.borrow_and_update().clone(),
    };
    let changed = last.and_then(|last| {
        let (old, new) = (&last.inputs.loaded, &inputs.loaded);
        match Arc::ptr_eq(old, new) {
            true => Some(Vec::new()),
            false => followed(&old.resources, &new.resources),
        }
    });
    let wanted = match changed {
        // Looking for them takes a walk through every object.
        Some(_) => None,
        None => Some(sources_of_keys(
            &inputs.loaded.resources.to_vec(),
            &inputs.settings,
        )),
    };
    if last.is_none() && wanted.as_ref().is_some_and(|wanted| !wanted.is_empty()) {
        // Keys may be with services of the mesh, which are known by a snapshot alone: one that nobody gets.
        let inputs = inputs.clone();
        let work = move || compile(&inputs, 0);
        if let Ok(known) = tokio::task::spawn_blocking(work).await {
            sources.jwks.names(&known.snapshot);
        }
    }
    inputs.jwks = match wanted {
        Some(wanted) => sources.jwks.settle(wanted).await,
        None => sources.jwks.newest(),
    };
    let follows = last.map(|last| (last.inputs.clone(), Arc::clone(&last.published)));
    let made = inputs.clone();
    let work = move || match follows {
        Some((before, last)) => follow(&before, &last, &made, changed),
        None => compile(&made, 1),
    };
    let built = tokio::task::spawn_blocking(work).await;
    let published = built
        .inspect(|published| sources.jwks.names(&published.snapshot))
        .inspect_err(|error| error!(%error, "building a snapshot failed; the last one stays"))
        .ok()?;
    Some(Last {
        inputs,
        published: Arc::new(published),
    })
}

/// What is to be fetched: keys of token issuers, unless proxies fetch them, and roots of other meshes.
fn sources_of_keys(resources: &[Resource], settings: &Settings) -> BTreeMap<JwksSource, Duration> {
    let (mesh, _) = mesh::config(resources);
    let mut out = jwks_sources(resources);
    if settings.features.jwks_fetch == JwksFetch::Envoy {
        out.retain(|source, _| !matches!(source, JwksSource::Uri(_)));
    }
    out.extend(bundle_sources(&mesh));
    out
}

/// The snapshot after another. `changed` are the objects that are not the same, if no other kinds have changed than such as can be followed.
fn follow(
    before: &Inputs,
    last: &Published,
    inputs: &Inputs,
    changed: Option<Vec<ObjectChange>>,
) -> Published {
    let pods = pod_changes(&before.pods, &inputs.pods);
    let is_alike = Arc::ptr_eq(&before.jwks, &inputs.jwks)
        && Arc::ptr_eq(&before.workloads, &inputs.workloads);
    let changed = changed.filter(|_| is_alike);
    let known = (last, &*before.pods);
    let followed = changed.and_then(|changed| step(known, inputs, changed, &pods));
    followed.unwrap_or_else(|| {
        let make = |made| last.snapshot.next(made, &pods);
        let known = (&before.loaded.resources, &last.cluster_ips);
        build_with(inputs, last.generation + 1, Some(known), Vec::new(), make)
    })
}

/// The snapshot after another from which it differs in some objects and pods alone, for work in proportion to those. `None` if it takes a look at
/// all objects.
fn step(
    (last, before): (&Published, &[Arc<PodState>]),
    inputs: &Inputs,
    changed: Vec<ObjectChange>,
    pods: &[PodChange],
) -> Option<Published> {
    let started = Instant::now();
    let mut cluster_ips = Arc::clone(&last.cluster_ips);
    let dual_stack = inputs.settings.dual_stack;
    if readdresses(&changed, !cluster_ips.is_empty(), dual_stack) {
        let resources = defaults::with_defaults(&inputs.loaded.resources.to_vec());
        cluster_ips = Arc::new(given_ips(&resources, dual_stack));
    }
    let (snapshot, found) = match changed.is_empty() {
        true => last.snapshot.with_pods(pods),
        false => last
            .snapshot
            .after(changed, Arc::clone(&cluster_ips), pods)?,
    };
    let about_mesh = last.about_mesh.iter().cloned();
    Some(Published {
        generation: last.generation + 1,
        snapshot,
        diagnostics: about_mesh.chain(found).collect(),
        about_mesh: Arc::clone(&last.about_mesh),
        took: started.elapsed(),
        ready_pods: ready_after(last.ready_pods, before, &inputs.pods),
        secrets: Arc::clone(&last.secrets),
        workloads: last.workloads.clone(),
        cluster_ips,
    })
}

/// A snapshot from nothing.
fn compile(inputs: &Inputs, generation: u64) -> Published {
    build_with(
        inputs,
        generation,
        None,
        compile_pods(&inputs.pods),
        Snapshot::new,
    )
}

/// `known` are objects of before, and the addresses that Services had among them.
fn build_with(
    inputs: &Inputs,
    generation: u64,
    known: Option<(&Blocks<Resource>, &Arc<ClusterIps>)>,
    pods: Vec<Pod>,
    make: impl FnOnce(SnapshotInputs) -> (Snapshot, Vec<Diagnostic>),
) -> Published {
    let started = Instant::now();
    let written = inputs.loaded.resources.to_vec();
    let settings = &inputs.settings;
    let resources = defaults::with_defaults(&written);
    let known = known.filter(|(before, _)| same_services(before, &inputs.loaded.resources));
    let cluster_ips = known.map_or_else(
        || Arc::new(given_ips(&resources, settings.dual_stack)),
        |(_, known)| Arc::clone(known),
    );
    let (mesh, mut about_mesh) = mesh::in_trust_domain(&resources, &settings.trust_domain);
    about_mesh.extend(roots::findings(&mesh, &resources, &inputs.jwks));
    let secrets = written.iter().filter(|r| r.kind == Kind::Secret);
    let secrets = secrets.cloned().collect();
    let workloads = Known::of(&written);
    let resources = inputs.workloads.apply(resources);
    let (snapshot, found) = make(SnapshotInputs {
        mesh,
        resources,
        pods,
        cluster_ips: Arc::clone(&cluster_ips),
        settings: settings.clone(),
        jwks: Arc::clone(&inputs.jwks),
    });
    let diagnostics = about_mesh.iter().cloned().chain(found).collect();
    Published {
        generation,
        snapshot,
        diagnostics,
        about_mesh: about_mesh.into(),
        took: started.elapsed(),
        ready_pods: ready(&inputs.pods),
        secrets,
        workloads,
        cluster_ips,
    }
}

/// Whether two lists have the very same Services, in the same order.
fn same_services(before: &Blocks<Resource>, after: &Blocks<Resource>) -> bool {
    let service = |resource: &&Resource| resource.kind == Kind::Service;
    let is_same = |(a, b): (&Resource, &Resource)| {
        Arc::ptr_eq(&a.meta, &b.meta) && Arc::ptr_eq(&a.spec, &b.spec)
    };
    let old = before.iter().filter(service);
    let new = after.iter().filter(service);
    old.clone().count() == new.clone().count() && old.zip(new).all(is_same)
}

fn ready(pods: &[Arc<PodState>]) -> usize {
    pods.iter().filter(|pod| pod.ready).count()
}

/// The same, given how many were ready in another list, which shares most of its pods with this one: of those none is looked at.
fn ready_after(known: usize, old: &[Arc<PodState>], new: &[Arc<PodState>]) -> usize {
    if std::ptr::eq(old, new) {
        return known;
    }
    if old.len() != new.len() {
        return ready(new);
    }
    let pairs = old.iter().zip(new).filter(|(a, b)| !Arc::ptr_eq(a, b));
    let (gone, come) = pairs.fold((0, 0), |(gone, come), (a, b)| {
        (gone + usize::from(a.ready), come + usize::from(b.ready))
    });
    (known + come).saturating_sub(gone)
}

#[cfg(test)]
mod tests {
    use lateen_api::{SourceFile, parse_file};

    use super::*;

    fn loaded(text: &str) -> Arc<Loaded> {
        let parsed = parse_file(&SourceFile::new("x.yaml", text), "default");
        Arc::new(Loaded {
            resources: parsed.resources.into(),
            ..Loaded::default()
        })
    }

    #[tokio::test]
    async fn a_source_that_has_ended_ends_no_other() {
        let (files, files_seen) = watch::channel(loaded(""));
        // A control plane that is told of no pods.
        let pods_seen = watch::channel(PodStates::default()).1;
        let sources = Sources::new(files_seen, pods_seen, Settings::default());
        let mut published = publish(sources, Debounce::default()).await;
        for generation in 2..4 {
            let name = format!("s{generation}");
            files.send_replace(loaded(&format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}}}"
            )));
            let next = published.wait_for(|published| published.generation == generation);
            let next = tokio::time::timeout(Duration::from_secs(10), next).await;
            drop(next.expect("edits are followed").unwrap());
        }
    }
}
