//! Workloads that are no pods: who registered by connecting, and who says that it is healthy.
//!
//! A proxy whose node names a WorkloadGroup (`AUTO_REGISTER_GROUP`) becomes a WorkloadEntry made of the group's template, as long as it
//! is connected and for a grace period after. A workload that is probed says how it is with `istio.v1.HealthInformation`; until it has said
//! that it is healthy, it is behind no service. The same holds for WorkloadEntries in files that ask for it by annotation and whose proxy
//! names them (`WORKLOAD_ENTRY`).
//!
//! Entries are handed to the next snapshot beside what the files say. They are written down ([`memory`]) for a control plane that starts
//! again, so that nobody is gone for the moment it takes to connect anew.
//!
//! Source: Istio, `pilot/pkg/autoregistration`.

mod memory;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lateen_api::networking::{WorkloadEntry, WorkloadGroup};
use lateen_api::{Kind, ObjectMeta, Resource, Spec};
use lateen_compile::ProxyNode;
use lateen_identity::SpiffeId;
use tokio::sync::watch;
use tonic::Status;
use tracing::{info, warn};

use self::memory::Remembered;

/// How long an entry outlives its proxy's connection. Source: Istio, `PILOT_WORKLOAD_ENTRY_GRACE_PERIOD`.
pub(crate) const GRACE: Duration = Duration::from_secs(10);
/// How long one that was written down has to connect after the control plane's start. Proxies try again within 30 s.
const RETURN: Duration = Duration::from_secs(60);
/// The annotation by which a WorkloadEntry counts only while it is healthy.
const PROBED: &str = "proxy.istio.io/health-checks-enabled";
/// The annotation that says which group an entry was made of.
const GROUP: &str = "istio.io/autoRegistrationGroup";
/// The longest name of an object in Kubernetes.
const LONGEST_NAME: usize = 253;

/// A namespace and a name.
type Key = (String, String);

/// What connected workloads add to the files, and take from them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Registered {
    /// Entries of workloads that registered and are not unhealthy.
    entries: Vec<Resource>,
    /// The entries in files that have said they are healthy.
    healthy: BTreeSet<Key>,
}

impl Registered {
    /// The objects of a mesh, with these entries, and without those that are not known to be healthy.
    pub(crate) fn apply(&self, mut resources: Vec<Resource>) -> Vec<Resource> {
        resources
            .retain(|resource| !is_probed(resource) || self.healthy.contains(&key_of(resource)));
        let taken: BTreeSet<Key> = resources
            .iter()
            .filter(|resource| resource.kind == Kind::WorkloadEntry)
            .map(key_of)
            .collect();
        let new = self
            .entries
            .iter()
            .filter(|entry| !taken.contains(&key_of(entry)));
        resources.extend(new.cloned());
        resources
    }
}

fn key_of(resource: &Resource) -> Key {
    (resource.meta.namespace.clone(), resource.meta.name.clone())
}

fn is_probed(resource: &Resource) -> bool {
    let asked = resource.meta.annotations.get(PROBED);
    resource.kind == Kind::WorkloadEntry && asked.is_some_and(|value| value == "true")
}

/// The entries in files that count only while they are healthy.
pub(crate) fn probed(resources: &[Resource]) -> impl Iterator<Item = &Resource> {
    resources.iter().filter(|resource| is_probed(resource))
}

/// The connected workloads.
#[derive(Debug)]
pub(crate) struct Workloads {
    state: Mutex<State>,
    registered: watch::Sender<Arc<Registered>>,
    grace: Duration,
}

/// Where workloads that are no pods register.
#[derive(Clone, Debug)]
pub struct WorkloadRegistry(pub(crate) Arc<Workloads>);

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Key, Entry>,
    /// The entry of each connected node, by the node's id.
    nodes: BTreeMap<String, Key>,
}

#[derive(Debug)]
struct Entry {
    /// What it is, if it registered itself; none if a file says so.
    object: Option<Resource>,
    /// What its proxy said about itself.
    node: Remembered,
    /// Whether it counts only while it is healthy.
    probed: bool,
    healthy: bool,
    /// Its proxy's open streams.
    streams: usize,
    /// Counts disconnections: one that was followed by another connection ends nothing.
    left: u64,
}

impl Entry {
    /// Whether it takes requests.
    fn counts(&self) -> bool {
        self.healthy || !self.probed
    }
}

/// A claim on an entry for as long as a stream is open.
#[derive(Debug)]
pub(crate) struct Claim {
    workloads: Arc<Workloads>,
    key: Key,
    node_id: String,
}

/// What a snapshot knows of workloads outside.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// The WorkloadGroups.
    pub(crate) groups: Arc<[Resource]>,
    /// The WorkloadEntries that count only while they are healthy.
    pub(crate) probed: Arc<[Resource]>,
}

impl Known {
    /// Of the objects of a mesh.
    pub(crate) fn of(resources: &[Resource]) -> Self {
        let groups = resources.iter().filter(|r| r.kind == Kind::WorkloadGroup);
        Self {
            groups: groups.cloned().collect(),
            probed: probed(resources).cloned().collect(),
        }
    }

    fn group(&self, namespace: &str, name: &str) -> Option<(&Resource, &WorkloadGroup)> {
        let found = self
            .groups
            .iter()
            .find(|r| r.meta.namespace == namespace && r.meta.name == name)?;
        Some((found, found.spec_as::<WorkloadGroup>()?))
    }
}

impl Workloads {
    /// Nobody yet.
    pub(crate) fn new(grace: Duration) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            registered: watch::channel(Arc::default()).0,
            grace,
        })
    }

    /// What they add to the files, as it changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Registered>> {
        self.registered.subscribe()
    }

    /// A proxy connects. None if it is no workload of this kind. Its node then has the labels of its entry.
    ///
    /// # Errors
    /// There is no such group or entry, or it is not this identity's.
    pub(crate) fn connect(
        self: &Arc<Self>,
        node: &mut ProxyNode,
        identity: Option<&SpiffeId>,
        known: &Known,
    ) -> Result<Option<Claim>, Status> {
        let Some(claimed) = claimed(node, known)? else {
            return Ok(None);
        };
        may_control(identity, &claimed.object)?;
        let key = key_of(&claimed.object);
        let entry = claimed.entry(node);
        if let Some(entry) = entry
            .object
            .as_ref()
            .and_then(Resource::spec_as::<WorkloadEntry>)
        {
            node.labels.clone_from(&entry.labels);
        }
        let mut state = self.lock();
        state.nodes.insert(node.id.clone(), key.clone());
        state.entries.entry(key.clone()).or_insert(entry).streams += 1;
        self.publish(&state);
        drop(state);
        info!(namespace = key.0, entry = key.1, "a workload registered");
        Ok(Some(Claim {
            workloads: Arc::clone(self),
            key,
            node_id: node.id.clone(),
        }))
    }

    /// A proxy says how its workload is: nothing, or what is wrong.
    pub(crate) fn health(&self, node_id: &str, trouble: Option<&str>) {
        let mut state = self.lock();
        let State { entries, nodes } = &mut *state;
        let Some((key, entry)) = nodes
            .get(node_id)
            .and_then(|key| Some((key, entries.get_mut(key)?)))
        else {
            return;
        };
        let healthy = trouble.is_none();
        if !entry.probed || entry.healthy == healthy {
            return;
        }
        entry.healthy = healthy;
        match trouble {
            None => info!(namespace = key.0, entry = key.1, "a workload is healthy"),
            Some(trouble) => warn!(
                namespace = key.0,
                entry = key.1,
                trouble,
                "a workload is not healthy"
            ),
        }
        self.publish(&state);
    }

    /// A stream of a workload ended; gives the number of the departure if it was the last one.
    fn disconnect(&self, claim: &Claim) -> Option<u64> {
        let mut state = self.lock();
        let entry = state.entries.get_mut(&claim.key)?;
        entry.streams = entry.streams.saturating_sub(1);
        if entry.streams > 0 {
            return None;
        }
        entry.left += 1;
        let left = entry.left;
        state.nodes.remove(&claim.node_id);
        Some(left)
    }

    /// The grace period after a departure is over.
    fn expire(&self, key: &Key, left: u64) {
        let mut state = self.lock();
        let Some(entry) = state.entries.get(key) else {
            return;
        };
        if entry.streams > 0 || entry.left != left {
            return;
        }
        state.entries.remove(key);
        info!(namespace = key.0, entry = key.1, "a workload is gone");
        self.publish(&state);
    }

    fn publish(&self, state: &State) {
        let next = Registered {
            entries: state
                .entries
                .values()
                .filter(|entry| entry.counts())
                .filter_map(|entry| entry.object.clone())
                .collect(),
            healthy: state
                .entries
                .iter()
                .filter(|(_, entry)| entry.object.is_none() && entry.healthy)
                .map(|(key, _)| key.clone())
                .collect(),
        };
        self.registered.send_if_modified(|known| {
            let differ = **known != next;
            if differ {
                *known = Arc::new(next);
            }
            differ
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Each change is whole before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// The stream is over. Waits for the grace period, so let it run beside.
    pub(crate) async fn release(self) {
        let Some(left) = self.workloads.disconnect(&self) else {
            return;
        };
        tokio::time::sleep(self.workloads.grace).await;
        self.workloads.expire(&self.key, left);
    }
}

/// The entry that a proxy says it is.
struct Claimed {
    object: Resource,
    in_file: bool,
}

impl Claimed {
    fn entry(self, node: &ProxyNode) -> Entry {
        Entry {
            probed: self.in_file || is_probed(&self.object),
            object: (!self.in_file).then_some(self.object),
            node: Remembered::of(node),
            healthy: false,
            streams: 0,
            left: 0,
        }
    }
}

/// None if it is no workload of this kind.
fn claimed(node: &ProxyNode, known: &Known) -> Result<Option<Claimed>, Status> {
    if !node.auto_register_group.is_empty() {
        let object = entry_of_group(node, known)?;
        return Ok(Some(Claimed {
            object,
            in_file: false,
        }));
    }
    // An entry that is always there needs no connection.
    let found = known
        .probed
        .iter()
        .find(|r| (r.namespace(), r.name()) == (&*node.namespace, &*node.workload_entry));
    Ok(found.cloned().map(|object| Claimed {
        object,
        in_file: true,
    }))
}

/// What a group makes of a proxy. Labels of the node go before those of the group's metadata, those before the template's.
fn entry_of_group(node: &ProxyNode, known: &Known) -> Result<Resource, Status> {
    let (namespace, name) = (&node.namespace, &node.auto_register_group);
    let (resource, group) = known.group(namespace, name).ok_or_else(|| {
        Status::failed_precondition(format!(
            "there is no WorkloadGroup `{name}` in namespace `{namespace}`"
        ))
    })?;
    let address = node.main_ip().ok_or_else(|| {
        Status::invalid_argument("a workload without an address cannot be registered")
    })?;
    let mut entry = group.template.clone().unwrap_or_default();
    entry.address = address.to_string();
    let metadata = group.metadata.clone().unwrap_or_default();
    entry.labels.extend(metadata.labels);
    entry.labels.extend(node.labels.clone());
    // It stands in the entry's own field; and a label cannot hold slashes.
    entry.labels.remove("istio-locality");
    if !node.network.is_empty() {
        entry.network.clone_from(&node.network);
    }
    if !node.locality.is_empty() {
        let place = &node.locality;
        let parts = [&place.region, &place.zone, &place.sub_zone];
        let parts = parts
            .map(String::as_str)
            .into_iter()
            .take_while(|part| !part.is_empty());
        entry.locality = parts.collect::<Vec<_>>().join("/");
    }
    let mut annotations = BTreeMap::from([(GROUP.to_owned(), name.clone())]);
    annotations.extend(metadata.annotations);
    if node.readiness_probe {
        annotations.insert(PROBED.to_owned(), "true".to_owned());
    }
    Ok(Resource {
        kind: Kind::WorkloadEntry,
        meta: Arc::new(ObjectMeta {
            name: entry_name(node, &entry.address),
            namespace: namespace.clone(),
            labels: entry.labels.clone(),
            annotations,
            ..ObjectMeta::default()
        }),
        spec: Arc::new(Spec::WorkloadEntry(entry)),
        origin: Arc::clone(&resource.origin),
    })
}

/// `GROUP-ADDRESS-NETWORK`, of which the end is kept if it is too long.
fn entry_name(node: &ProxyNode, address: &str) -> String {
    let mut name = format!("{}-{}", node.auto_register_group, address.replace(':', "-"));
    if !node.network.is_empty() {
        name = format!("{name}-{}", node.network);
    }
    let mut from = name.len().saturating_sub(LONGEST_NAME);
    while !name.is_char_boundary(from) {
        from += 1;
    }
    name.split_off(from)
}

/// An entry is its own namespace's and, if it names one, its own service account's.
fn may_control(identity: Option<&SpiffeId>, object: &Resource) -> Result<(), Status> {
    let account = object
        .spec_as::<WorkloadEntry>()
        .map_or("", |entry| entry.service_account.as_str());
    let fits = identity.is_some_and(|id| {
        id.namespace() == object.meta.namespace
            && (account.is_empty() || account == id.service_account())
    });
    if fits {
        return Ok(());
    }
    warn!(
        ?identity,
        entry = object.meta.name,
        "an identity asked to be another's workload entry"
    );
    Err(Status::permission_denied(
        "the workload entry is of another namespace or service account than the identity",
    ))
}

#[cfg(test)]
mod tests;
