//! Making each next [`Live`] of what arrives, and putting it into effect when it is whole.
//!
//! **Invariant:** what is published refers to nothing that is missing: a listener waits for its routes, a cluster for its endpoints,
//! both for their secrets, and everything else stays as it was meanwhile ("warming"). A server that never delivers what it
//! referred to holds changes back for [`PATIENCE`] once, Envoy's `initial_fetch_timeout`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use lateen_envoy::{Resource, TypeUrl};
use lateen_identity::WorkloadIdentity;
use lateen_traffic::program::Change;
use lateen_traffic::secret;
use lateen_traffic::{Program, Rejection};
use lateen_xds::grpc::client::Acknowledge;
use tokio::sync::watch;
use tokio::time::Instant;

use super::dns::Resolver;
use super::files::{self, Files};
use super::secret_servers::{Delivered, SecretServers};
use super::source::{Event, Names, Running, Source};
use super::surroundings::Surroundings;
use super::update::updated;
use crate::handle::State;
use crate::secrets::{self, Secrets, TRUST_BUNDLE, WORKLOAD_CERTIFICATE};
use crate::shared::{Live, Shared};

/// How long changes wait for what they refer to.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the first configuration may take to be bound by every worker before the proxy calls itself live anyway.
const BIND_PATIENCE: Duration = Duration::from_secs(5);

/// What was received, for the admin interface.
#[derive(Debug, Default)]
pub(crate) struct Dump {
    /// Resources by type and name.
    pub(crate) resources: BTreeMap<TypeUrl, BTreeMap<Arc<str>, DumpEntry>>,
    /// Resources that were refused, with the reason.
    pub(crate) rejected: BTreeMap<(TypeUrl, Arc<str>), (String, SystemTime)>,
    /// The version of the last answer, by type.
    pub(crate) versions: BTreeMap<TypeUrl, String>,
}

/// One received resource.
#[derive(Clone, Debug)]
pub(crate) struct DumpEntry {
    /// The resource.
    pub(crate) resource: Resource,
    /// When it came.
    pub(crate) updated: SystemTime,
}

/// Builds and publishes.
pub(super) struct Applier {
    shared: Arc<Shared>,
    dump: Arc<Mutex<Dump>>,
    program: Program,
    secrets: Secrets,
    identity: watch::Receiver<Option<Arc<WorkloadIdentity>>>,
    resolver: Resolver,
    files: Files,
    servers: SecretServers,
    surroundings: Surroundings,
    told: BTreeSet<TypeUrl>,
    absent: BTreeSet<(TypeUrl, Arc<str>)>,
    held_since: Option<Instant>,
    dirty: bool,
    /// Nothing that is referred to is missing, and nothing has happened since that could change that.
    complete: bool,
}

impl Applier {
    /// An applier that knows nothing yet.
    pub(super) fn new(shared: Arc<Shared>, dump: Arc<Mutex<Dump>>) -> Self {
        Self {
            identity: shared.config.identity.clone(),
            resolver: Resolver::new(),
            files: Files::default(),
            servers: SecretServers::new(Arc::clone(&shared)),
            surroundings: Surroundings::new(&shared.config),
            shared,
            dump,
            program: Program::new(),
            secrets: Secrets::default(),
            told: BTreeSet::new(),
            absent: BTreeSet::new(),
            held_since: None,
            dirty: false,
            complete: false,
        }
    }

    /// Applies what comes until the runtime stops.
    pub(super) async fn run(mut self, source: Source) {
        let mut source = Running::start(source, &self.shared);
        let mut identity_open = true;
        self.take_identity();
        loop {
            let deadline = self.held_since.map(|since| since + PATIENCE);
            let over = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = source.next() => self.event(event, &mut source).await,
                changed = self.identity.changed(), if identity_open => match changed {
                    Ok(()) => self.take_identity(),
                    Err(_) => identity_open = false,
                },
                () = self.resolver.changed() => self.dirty = true,
                delivered = self.servers.next() => self.take_delivered(delivered),
                () = self.files.time_to_look() => self.dirty |= self.files.look(&mut self.secrets),
                () = over => self.give_up_waiting(),
            }
            self.servers
                .see(|| live(&self.program, &self.secrets, &self.resolver));
            self.publish().await;
        }
    }

    /// Takes secrets of another server than the control plane.
    fn take_delivered(&mut self, (changes, answer): Delivered) {
        let (next, mut rejections) = updated(&self.program, &changes);
        self.program = next;
        rejections.extend(self.take_secrets(&changes));
        self.note(&changes, &rejections, &[], "");
        self.dirty = true;
        let said = match rejections.first() {
            None => Ok(()),
            Some(first) => Err(format!("{}: {}", first.name, first.reason)),
        };
        // A server that is gone meanwhile has nobody to tell.
        let _ = answer.send(said);
    }

    async fn event(&mut self, event: Event, source: &mut Running) {
        let (changes, told, version, answer) = match event {
            Event::Connected(connected) => {
                self.shared
                    .stats
                    .server
                    .control_plane_connected
                    .set(i64::from(connected));
                return;
            }
            Event::Changes {
                changes,
                told,
                version,
                answer,
            } => (changes, told, version, answer),
        };
        let (next, mut rejections) = updated(&self.program, &changes);
        self.program = next;
        rejections.extend(self.take_secrets(&changes));
        self.note(&changes, &rejections, &told, &version);
        self.told.extend(told);
        self.dirty = true;
        self.count(&changes);
        respond(answer, &rejections);
        self.complete &= !changes.iter().any(may_lack);
        if !changes.iter().any(refers) {
            return;
        }
        for ty in [
            TypeUrl::ClusterLoadAssignment,
            TypeUrl::RouteConfiguration,
            TypeUrl::Secret,
        ] {
            if ty != TypeUrl::Secret && !source.is_asked() {
                continue;
            }
            let references = self.program.references(ty).into_iter();
            let mut wanted: Names = references.cloned().collect();
            if ty == TypeUrl::ClusterLoadAssignment {
                wanted.extend(self.surroundings.subscription(&self.program));
            }
            if ty == TypeUrl::Secret {
                let names: BTreeSet<Arc<str>> = wanted.iter().cloned().collect();
                self.files.follow(&names, &mut self.secrets);
                self.servers.follow(&names);
                self.forget_external(&names);
            }
            wanted.retain(|name| !is_elsewhere(ty, name));
            let dropped = source.subscribe(ty, wanted).await;
            let removals: Vec<Change> = dropped
                .into_iter()
                .map(|name| Change::Remove(ty, name))
                .collect();
            if !removals.is_empty() {
                self.program = updated(&self.program, &removals).0;
                self.take_secrets(&removals);
                self.note(&removals, &[], &[], "");
            }
        }
    }

    /// Lets go of secrets of other servers that nobody refers to any more.
    fn forget_external(&mut self, wanted: &BTreeSet<Arc<str>>) {
        let known = self.program.secrets().iter();
        let gone =
            known.filter(|(key, _)| secret::external(key).is_some() && !wanted.contains(*key));
        let removals: Vec<Change> = gone
            .map(|(key, _)| Change::Remove(TypeUrl::Secret, Arc::clone(key)))
            .collect();
        if !removals.is_empty() {
            self.program = updated(&self.program, &removals).0;
            self.take_secrets(&removals);
            self.note(&removals, &[], &[], "");
        }
    }

    /// Parses secrets that came, so that a broken one is refused like any other resource.
    fn take_secrets(&mut self, changes: &[Change]) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        for change in changes {
            match change {
                Change::Upsert(TypeUrl::Secret, resource) => {
                    let Some(secret) = self.program.secret(&resource.name) else {
                        continue;
                    };
                    match secrets::material(&secret.kind) {
                        Ok(Some(material)) => {
                            self.secrets.insert(Arc::clone(&resource.name), material)
                        }
                        Ok(None) => {}
                        Err(error) => rejections.push(Rejection {
                            type_url: TypeUrl::Secret,
                            name: Arc::clone(&resource.name),
                            reason: error.to_string(),
                        }),
                    }
                }
                Change::Remove(TypeUrl::Secret, name) => self.secrets.remove(name),
                _ => {}
            }
        }
        rejections
    }

    fn take_identity(&mut self) {
        let identity = self.identity.borrow_and_update().clone();
        if let Some(identity) = identity {
            self.secrets.set_identity(&identity);
            self.dirty = true;
        }
    }

    /// Keeps what the admin interface shows, and which references are known to lead nowhere.
    fn note(
        &mut self,
        changes: &[Change],
        rejections: &[Rejection],
        told: &[TypeUrl],
        version: &str,
    ) {
        for change in changes {
            match change {
                Change::Upsert(ty, resource) if !self.absent.is_empty() => {
                    self.absent.remove(&(*ty, Arc::clone(&resource.name)));
                }
                Change::Upsert(..) => {}
                Change::Remove(ty, name) => drop(self.absent.insert((*ty, Arc::clone(name)))),
            }
        }
        let mut dump = self.dump.lock().unwrap_or_else(PoisonError::into_inner);
        dump.note(changes, rejections, SystemTime::now());
        for ty in told {
            dump.versions.insert(*ty, version.to_owned());
        }
    }

    fn count(&self, changes: &[Change]) {
        let server = &self.shared.stats.server;
        let live = self.shared.live();
        for change in changes {
            match change {
                Change::Upsert(TypeUrl::Cluster, resource)
                    if live.program.has_cluster(&resource.name) =>
                {
                    server.cluster_modified.inc();
                }
                Change::Upsert(TypeUrl::Cluster, _) => server.cluster_added.inc(),
                Change::Remove(TypeUrl::Cluster, _) => server.cluster_removed.inc(),
                _ => {}
            }
        }
    }

    /// What the program refers to and nobody has delivered yet.
    fn missing(&self) -> BTreeSet<(TypeUrl, Arc<str>)> {
        let mut missing = BTreeSet::new();
        for ty in [
            TypeUrl::ClusterLoadAssignment,
            TypeUrl::RouteConfiguration,
            TypeUrl::Secret,
        ] {
            for name in self.program.references(ty) {
                let there = match ty {
                    TypeUrl::ClusterLoadAssignment => self.program.has_endpoints(name),
                    TypeUrl::RouteConfiguration => self.program.route_config(name).is_some(),
                    _ => self.secrets.get(name).is_some(),
                };
                // A file may come at any time, or never: nothing else waits for it.
                if there || (ty == TypeUrl::Secret && files::is_file(name)) {
                    continue;
                }
                let key = (ty, Arc::clone(name));
                if !self.absent.contains(&key) {
                    missing.insert(key);
                }
            }
        }
        missing
    }

    fn give_up_waiting(&mut self) {
        self.complete = false;
        let mut missing = self.missing();
        // Without its own identity a workload is not ready, however long that takes.
        missing.retain(|(ty, name)| !is_local(*ty, name));
        self.held_since = Some(Instant::now());
        for (ty, name) in &missing {
            tracing::warn!(%ty, %name, "not delivered in time; going on without it");
        }
        self.absent.extend(missing);
        self.dirty = true;
    }

    /// Publishes if there is something new and nothing is missing.
    async fn publish(&mut self) {
        if !self.dirty {
            return;
        }
        let first = [TypeUrl::Cluster, TypeUrl::Listener];
        if !first.iter().all(|ty| self.told.contains(ty)) {
            return; // half of a first configuration would answer 404 for the other half
        }
        self.resolver.follow(&self.program);
        self.complete = self.complete || self.missing().is_empty();
        if !self.complete {
            self.held_since.get_or_insert_with(Instant::now);
            return;
        }
        self.held_since = None;
        self.dirty = false;
        let mut live = live(&self.program, &self.secrets, &self.resolver);
        live.vicinity = self.surroundings.look(&live);
        self.shared.publish(live);
        if self.shared.state_now() == State::Initializing {
            let version = self.shared.version();
            let _ = tokio::time::timeout(BIND_PATIENCE, self.shared.reconciled(version)).await;
            self.shared.advance(State::Live);
        }
    }
}

/// Everything that came, as it would be in effect.
fn live(program: &Program, secrets: &Secrets, resolver: &Resolver) -> Live {
    Live {
        version: 0, // set by publishing
        program: program.clone(),
        secrets: secrets.clone(),
        resolved: Arc::new(resolver.resolved(program)),
        vicinity: None,
    }
}

/// Whether what a program refers to may be something else after a change: only clusters and listeners refer to anything.
fn refers(change: &Change) -> bool {
    let (Change::Upsert(ty, _) | Change::Remove(ty, _)) = change;
    matches!(ty, TypeUrl::Cluster | TypeUrl::Listener)
}

/// Whether something may be missing after a change that was there before.
fn may_lack(change: &Change) -> bool {
    refers(change) || matches!(change, Change::Remove(..))
}

/// The workload's own identity comes from the embedder, certificates in files from there, others from servers of their own: none of them
/// from the control plane.
fn is_elsewhere(ty: TypeUrl, name: &str) -> bool {
    is_local(ty, name) || (ty == TypeUrl::Secret && secret::external(name).is_some())
}

/// The workload's own identity comes from the embedder, certificates in files from there, neither by SDS.
fn is_local(ty: TypeUrl, name: &str) -> bool {
    ty == TypeUrl::Secret
        && (name == WORKLOAD_CERTIFICATE || name == TRUST_BUNDLE || files::is_file(name))
}

fn respond(answer: Option<Acknowledge>, rejections: &[Rejection]) {
    let Some(answer) = answer else { return };
    if rejections.is_empty() {
        answer.ack();
        return;
    }
    let message: Vec<String> = rejections
        .iter()
        .map(|r| format!("{}: {}", r.name, r.reason))
        .collect();
    let refused = rejections.iter().map(|r| Arc::clone(&r.name)).collect();
    answer.nack_some(message.join("; "), refused);
}

impl Dump {
    /// Keeps what came, and what of it was refused.
    fn note(&mut self, changes: &[Change], rejections: &[Rejection], now: SystemTime) {
        let refused = rejections.iter();
        let refused: BTreeMap<(TypeUrl, &str), &Rejection> = refused
            .map(|one| ((one.type_url, &*one.name), one))
            .collect();
        let mut accepted: BTreeMap<TypeUrl, Vec<(Arc<str>, DumpEntry)>> = BTreeMap::new();
        for change in changes {
            let (ty, name) = match change {
                Change::Upsert(ty, resource) => (*ty, &resource.name),
                Change::Remove(ty, name) => (*ty, name),
            };
            if !self.rejected.is_empty() {
                self.rejected.remove(&(ty, Arc::clone(name)));
            }
            match change {
                Change::Remove(..) => drop(self.resources.entry(ty).or_default().remove(name)),
                Change::Upsert(_, resource) => match refused.get(&(ty, &**name)) {
                    Some(rejection) => {
                        let reason = &rejection.reason;
                        tracing::warn!(%ty, %name, reason, "resource refused");
                        let why = (reason.clone(), now);
                        self.rejected.insert((ty, Arc::clone(name)), why);
                    }
                    None => accepted.entry(ty).or_default().push((
                        Arc::clone(name),
                        DumpEntry {
                            resource: resource.clone(),
                            updated: now,
                        },
                    )),
                },
            }
        }
        for (ty, entries) in accepted {
            let known = self.resources.entry(ty).or_default();
            match known.is_empty() {
                // At once, which is much faster than one by one where they come in order.
                true => *known = entries.into_iter().collect(),
                false => known.extend(entries),
            }
        }
    }

    /// The resources of a type that the admin interface shows.
    pub(crate) fn of(&self, ty: TypeUrl) -> impl Iterator<Item = (&Arc<str>, &DumpEntry)> {
        self.resources.get(&ty).into_iter().flatten()
    }
}
