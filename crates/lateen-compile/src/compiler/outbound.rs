//! What proxies of one kind need to send, made once for all of them and carried from one snapshot to the next.
//!
//! While nothing but pods has changed, the services whose pods did are made again and everything else is shared with the last
//! snapshot's. Otherwise all of it is made again, from generators that remember, and whatever came out equal is shared.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::FixedState;
use lateen_api::Diagnostic;
use lateen_envoy::{Resource, Resources, TypeUrl};

use crate::clusters::Mode;
use crate::model::Service;
use crate::node::ProxyKind;
use crate::rules::for_workload;
use crate::scope::Scope;
use crate::secrets::Reference;
use crate::shared::Shared;
use crate::snapshot::Snapshot;

use super::client::Client;
use super::{Compiler, Output, rule_credentials};

/// Kinds of clients that no proxy is of are forgotten after this many generations.
const KEEP_GENERATIONS: u64 = 3;

/// What clients of a kind are to have.
#[derive(Clone, Debug)]
pub(super) struct Outbound {
    snapshot: Snapshot,
    scope: Arc<Scope>,
    pub(super) types: BTreeMap<TypeUrl, Arc<Resources>>,
    pub(super) diagnostics: Vec<Diagnostic>,
    /// The credentials that rules name, for rules that select workloads and for all.
    pub(super) credentials: Vec<(Selects, Reference)>,
}

/// Whether a rule says which workloads it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selects {
    Workloads,
    Everyone,
}

/// Every kind of client that was asked for lately.
#[derive(Default)]
pub(super) struct Clients {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    kinds: HashMap<Client, Entry, FixedState>,
    generation: u64,
}

struct Entry {
    slot: Slot,
    used: u64,
}

/// What clients of a kind are to have. Locked while it is made, so that of many proxies that ask at once one does the work.
pub(super) type Slot = Arc<Mutex<Option<Arc<Outbound>>>>;

impl Clients {
    /// The place of a kind; it stays for as long as somebody holds it.
    pub(super) fn slot(&self, client: &Client) -> Slot {
        let mut table = lock(&self.table);
        let generation = table.generation;
        if let Some(entry) = table.kinds.get_mut(client) {
            entry.used = generation;
            return Arc::clone(&entry.slot);
        }
        let entry = Entry {
            slot: Slot::default(),
            used: generation,
        };
        let slot = Arc::clone(&entry.slot);
        table.kinds.insert(client.clone(), entry);
        slot
    }

    /// Begins a generation.
    pub(super) fn advance(&self) {
        let mut table = lock(&self.table);
        table.generation += 1;
        let oldest = table.generation.saturating_sub(KEEP_GENERATIONS);
        table
            .kinds
            .retain(|_, entry| entry.used >= oldest || Arc::strong_count(&entry.slot) > 1);
    }
}

/// What is stored is replaced whole, so a panic elsewhere leaves the last good one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Compiler {
    /// What clients of a kind are to have.
    pub(super) fn outbound(
        &self,
        slot: &Slot,
        client: &Client,
        snapshot: &Snapshot,
        scope: &Arc<Scope>,
    ) -> Arc<Outbound> {
        let mut known = lock(slot);
        if let Some(known) = &*known
            && known.snapshot.is_same(snapshot)
        {
            return Arc::clone(known);
        }
        let followed = known
            .as_ref()
            .filter(|last| Arc::ptr_eq(&last.scope, scope))
            .and_then(|last| self.follow(client, last, snapshot));
        let next = followed.unwrap_or_else(|| {
            let made = self.make(client, snapshot, scope);
            match known.as_deref() {
                Some(last) => made.sharing_with(last),
                None => made,
            }
        });
        let next = Arc::new(next);
        *known = Some(Arc::clone(&next));
        next
    }

    fn make(&self, client: &Client, snapshot: &Snapshot, scope: &Arc<Scope>) -> Outbound {
        let proxy = client.proxy(snapshot);
        let mut out = Output::default();
        self.add_outbound_clusters(&proxy, scope, &mut out);
        if proxy.node.kind == ProxyKind::Sidecar {
            self.add_outbound(&proxy, scope, &client.mesh, &mut out);
        }
        if proxy.node.dns_capture {
            self.add_name_table(&proxy, scope, &mut out);
        }
        self.add_peer_roots(snapshot, &mut out);
        let credentials = scope.services.iter().flat_map(|service| {
            let rules = snapshot.rules(&scope.namespace, service);
            let rule = for_workload(&rules, &proxy.node.namespace, proxy.labels);
            let selects = match rule.map(|rule| rule.spec.workload_selector.is_some()) {
                Some(true) => Selects::Workloads,
                _ => Selects::Everyone,
            };
            let references = rule.map(|rule| rule_credentials(rule)).unwrap_or_default();
            references.into_iter().map(move |found| (selects, found))
        });
        let credentials = credentials.collect();
        let types = out.types.into_iter();
        Outbound {
            snapshot: snapshot.clone(),
            scope: Arc::clone(scope),
            types: types.map(|(ty, map)| (ty, Arc::new(map))).collect(),
            diagnostics: out.diagnostics,
            credentials,
        }
    }

    /// The same at another snapshot, if the two differ in pods alone, and not in those of services whose clients choose an address
    /// themselves: of them listeners are made.
    fn follow(&self, client: &Client, last: &Outbound, snapshot: &Snapshot) -> Option<Outbound> {
        let moved = last.snapshot.moved(snapshot)?;
        let in_scope = moved
            .into_iter()
            .filter_map(|service| last.scope.service_of(service));
        let moved: Vec<&Shared<Service>> = in_scope.collect();
        if moved.iter().any(|service| service.is_headless()) {
            return None;
        }
        let mut next = Outbound {
            snapshot: snapshot.clone(),
            ..last.clone()
        };
        for service in moved {
            let make = |snapshot: &Snapshot| {
                let mut out = Output::default();
                self.add_service(
                    &client.proxy(snapshot),
                    &last.scope,
                    Mode::Service,
                    service,
                    &mut out,
                );
                out.types
            };
            let (old, new) = (make(&last.snapshot), make(snapshot));
            for ty in [TypeUrl::Cluster, TypeUrl::ClusterLoadAssignment] {
                let none = Resources::default();
                let (old, new) = (old.get(&ty).unwrap_or(&none), new.get(&ty).unwrap_or(&none));
                change(next.types.entry(ty).or_default(), old, new);
            }
        }
        Some(next)
    }
}

/// What clients of a kind are to have, carried to a later snapshot for a proxy of the kind that was found not to be concerned: then none of
/// the kind is. So no earlier snapshot is kept for it, and the next change is told from this one.
pub(super) fn carry(slot: &Slot, from: &Snapshot, to: &Snapshot) {
    // Whoever is at it makes what is newer; nobody waits for that here.
    if let Ok(mut known) = slot.try_lock()
        && let Some(known) = &mut *known
        && known.snapshot.is_same(from)
    {
        Arc::make_mut(known).snapshot = to.clone();
    }
}

impl Outbound {
    /// The same, with everything that is equal in `last` taken from there: who has that is told nothing about it.
    fn sharing_with(mut self, last: &Self) -> Self {
        for (ty, made) in &mut self.types {
            if let Some(known) = last.types.get(ty) {
                let mut shared = Arc::clone(known);
                change(&mut shared, known, made);
                *made = shared;
            }
        }
        self
    }
}

/// Does to a map what makes `new` of `old`.
fn change(map: &mut Arc<Resources>, old: &Resources, new: &Resources) {
    let differences: Vec<(Arc<str>, Option<Resource>)> = old
        .differences(new)
        .map(|difference| (difference.key.clone(), difference.new.cloned()))
        .collect();
    if differences.is_empty() {
        return;
    }
    let map = Arc::make_mut(map);
    for (name, resource) in differences {
        match resource {
            Some(resource) => drop(map.insert(name, resource)),
            None => drop(map.remove(&name)),
        }
    }
}

/// The credentials of rules that are wanted, in the order of services.
pub(super) fn references(outbound: &Outbound, wanted: impl Fn(Selects) -> bool) -> Vec<Reference> {
    let all = outbound.credentials.iter();
    all.filter(|(selects, _)| wanted(*selects))
        .map(|(_, reference)| reference.clone())
        .collect()
}

/// What a proxy has on its own is laid over what it has in common with others.
pub(super) fn begin(outbound: &Outbound) -> Output {
    let types = outbound.types.iter();
    Output {
        types: types
            .map(|(ty, map)| (*ty, Resources::clone(map)))
            .collect(),
        diagnostics: outbound.diagnostics.clone(),
    }
}
