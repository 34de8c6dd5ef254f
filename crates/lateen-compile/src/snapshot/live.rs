//! What pods decide: who they are, what is behind each service, and which services each address is behind.
//!
//! Pods come and go all the time while everything else stays, so this part of a snapshot is kept apart and can be carried over to the next
//! one: [`Live::with`] does work for the pods that changed and the services they are behind, and shares the rest. It gives what
//! [`Live::new`] would give, and a property test holds the two equal.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lateen_envoy::SharedMap;

use crate::labels;
use crate::model::Endpoint;
use crate::pod::Pod;
use crate::shared::Shared;

use super::endpoints::{Context, Sources};
use super::roster::Place;
use super::selection::{Labelled, Labels};
use super::{Config, ServiceTarget};

/// A namespace and a name.
pub(super) type PodKey = (String, String);

/// What is behind one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Behind {
    /// The endpoints of each port.
    pub(crate) ports: BTreeMap<u32, Shared<Vec<Endpoint>>>,
    /// The identities its workloads may present.
    pub(crate) identities: Vec<String>,
    /// The names and addresses of its pods, if each of them has a name of its own in DNS: of headless services.
    pub(crate) pods: Vec<(String, Vec<String>)>,
}

/// The pods of a mesh.
#[derive(Clone, Debug, Default)]
pub(super) struct Pods {
    by_name: SharedMap<Arc<PodKey>, Arc<Pod>>,
    by_label: Labelled<Arc<PodKey>>,
    /// In the order of their names.
    by_ip: SharedMap<IpAddr, Arc<[Arc<Pod>]>>,
}

/// A pod that is new or has changed, or one that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodChange {
    /// What it is now.
    Is(Arc<Pod>),
    /// Its namespace and name.
    Gone(String, String),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Live {
    pub(super) pods: Pods,
    /// By the service's place among the services.
    pub(super) behind: SharedMap<Place, Arc<Behind>>,
    /// The service ports that the workload at an address is behind, in the order of services.
    pub(super) targets: SharedMap<IpAddr, Arc<[ServiceTarget]>>,
}

fn key(pod: &Pod) -> PodKey {
    (pod.namespace.clone(), pod.name.clone())
}

impl Pods {
    fn new(pods: Vec<Pod>) -> Self {
        let by_name: SharedMap<Arc<PodKey>, Arc<Pod>> = pods
            .into_iter()
            .map(|pod| (Arc::new(key(&pod)), Arc::new(pod)))
            .collect();
        let each = by_name.iter();
        let each = each.map(|(key, pod)| (Arc::clone(key), pod.namespace.as_str(), &pod.labels));
        let by_label = Labelled::new(each);
        let mut by_ip: BTreeMap<IpAddr, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in by_name.values() {
            for ip in &pod.ips {
                by_ip.entry(*ip).or_default().push(Arc::clone(pod));
            }
        }
        let by_ip = by_ip.into_iter().map(|(ip, pods)| (ip, pods.into()));
        Self {
            by_ip: by_ip.collect(),
            by_label,
            by_name,
        }
    }

    /// By namespace and name.
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&Pod> {
        let key = (namespace.to_owned(), name.to_owned());
        self.by_name.get(&key).map(|pod| &**pod)
    }

    /// The pod with an address; of several the last by name.
    pub(super) fn at(&self, ip: IpAddr) -> Option<&Pod> {
        self.by_ip.get(&ip)?.last().map(|pod| &**pod)
    }

    /// Those of a namespace, by name.
    fn of<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a Arc<Pod>> + use<'a> {
        let namespace = namespace.to_owned();
        let from = (namespace.clone(), String::new());
        let entries = self.by_name.iter_from(&from);
        entries
            .take_while(move |(key, _)| key.0 == namespace)
            .map(|(_, pod)| pod)
    }

    /// Those of a namespace that are selected, by name.
    pub(super) fn selected<'a>(
        &'a self,
        namespace: &str,
        selector: &'a Labels,
    ) -> impl Iterator<Item = &'a Pod> + use<'a> {
        let having = self.by_label.with(namespace, selector);
        let all = having.is_none().then(|| self.of(namespace));
        let having = having.into_iter().flatten();
        let having = having.filter_map(|key| self.by_name.get(key));
        let pods = having.chain(all.into_iter().flatten()).map(|pod| &**pod);
        let namespace = namespace.to_owned();
        pods.filter(move |pod| {
            pod.namespace == namespace && labels::is_subset(selector, &pod.labels)
        })
    }

    /// All of them, by namespace and name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Pod> {
        self.by_name.values().map(|pod| &**pod)
    }

    /// Applies a change; gives the pod as it was and as it is.
    fn apply(&mut self, change: &PodChange) -> (Option<Arc<Pod>>, Option<Arc<Pod>>) {
        let (name, new) = match change {
            PodChange::Is(pod) => (key(pod), Some(Arc::clone(pod))),
            PodChange::Gone(namespace, name) => ((namespace.clone(), name.clone()), None),
        };
        let known = self.by_name.get_key_value(&name);
        let name = known.map_or_else(|| Arc::new(name), |(name, _)| Arc::clone(name));
        let old = match &new {
            Some(pod) => self.by_name.insert(Arc::clone(&name), Arc::clone(pod)),
            None => self.by_name.remove(&name),
        };
        self.relabel(&name, old.as_deref(), new.as_deref());
        self.readdress(old.as_ref(), new.as_ref());
        (old, new)
    }

    fn relabel(&mut self, name: &Arc<PodKey>, old: Option<&Pod>, new: Option<&Pod>) {
        let (old, new) = (old.map(|pod| &pod.labels), new.map(|pod| &pod.labels));
        if old == new {
            return;
        }
        if let Some(labels) = old {
            self.by_label.remove(name, &name.0, labels);
        }
        if let Some(labels) = new {
            self.by_label.insert(name, &name.0, labels);
        }
    }

    fn readdress(&mut self, old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) {
        let ips: BTreeSet<IpAddr> = [old, new]
            .into_iter()
            .flatten()
            .flat_map(|pod| pod.ips.iter().copied())
            .collect();
        for ip in ips {
            let before = self.by_ip.get(&ip).map_or(&[][..], |pods| pods);
            let others = before
                .iter()
                .filter(|pod| old.is_none_or(|old| !Arc::ptr_eq(old, pod)));
            let mut pods: Vec<Arc<Pod>> = others.cloned().collect();
            pods.extend(new.filter(|pod| pod.ips.contains(&ip)).cloned());
            pods.sort_by_cached_key(|pod| key(pod));
            match pods.is_empty() {
                true => drop(self.by_ip.remove(&ip)),
                false => drop(self.by_ip.insert(ip, pods.into())),
            }
        }
    }
}

impl Live {
    /// Everything that follows from some pods.
    pub(super) fn new(config: &Config, pods: Vec<Pod>) -> Self {
        Self::of(config, Pods::new(pods))
    }

    fn of(config: &Config, pods: Pods) -> Self {
        let sources = Sources::new(config.context(), &pods);
        let mut targets: BTreeMap<IpAddr, Vec<ServiceTarget>> = BTreeMap::new();
        let mut behind = Vec::new();
        for (place, service) in config.base.roster.placed() {
            let found = sources.behind(place, service);
            for (address, target) in targets_of(config.context(), place, &found) {
                push(targets.entry(address).or_default(), target);
            }
            behind.push((place, Arc::new(found)));
        }
        let targets = targets.into_iter().map(|(ip, list)| (ip, list.into()));
        Self {
            targets: targets.collect(),
            behind: behind.into_iter().collect(),
            pods,
        }
    }

    /// The same with some pods changed.
    pub(super) fn with(&self, config: &Config, changes: &[PodChange]) -> Self {
        self.with_services(config, config, changes, &BTreeSet::new())
    }

    /// The same with some pods changed, and some services or what lists their endpoints.
    fn with_services(
        &self,
        last: &Config,
        config: &Config,
        changes: &[PodChange],
        services: &BTreeSet<Place>,
    ) -> Self {
        let mut next = self.clone();
        let mut concerned = services.clone();
        for change in changes {
            let (old, new) = next.pods.apply(change);
            if old != new {
                for pod in [old, new].into_iter().flatten() {
                    concerned.extend(config.context().services_of(&pod));
                }
            }
        }
        let sources = Sources::new(config.context(), &next.pods);
        let mut moved: BTreeMap<IpAddr, Vec<(Place, ServiceTarget)>> = BTreeMap::new();
        let mut changed: BTreeSet<Place> = BTreeSet::new();
        for place in concerned {
            let old = self.behind.get(&place);
            let service = config.base.roster.get(place);
            let found = service.map(|service| Arc::new(sources.behind(place, service)));
            let is_same = old == found.as_ref();
            if is_same && !services.contains(&place) {
                continue;
            }
            let targets = |config: &Config, behind: Option<&Arc<Behind>>| {
                behind.map_or(Vec::new(), |b| targets_of(config.context(), place, b))
            };
            for (address, _) in targets(last, old) {
                moved.entry(address).or_default();
            }
            for (address, target) in targets(config, found.as_ref()) {
                moved.entry(address).or_default().push((place, target));
            }
            changed.insert(place);
            match found {
                Some(_) if is_same => {}
                Some(found) => drop(next.behind.insert(place, found)),
                None => drop(next.behind.remove(&place)),
            }
        }
        for (address, found) in moved {
            next.retarget(config, address, found, &changed);
        }
        next
    }

    /// The same for another configuration, with some pods changed. `services` are the places of those that are all that has changed of
    /// services and what is behind them, besides pods; `None` if more has.
    pub(super) fn after(
        &self,
        last: &Config,
        config: &Config,
        changes: &[PodChange],
        services: Option<&BTreeSet<Place>>,
    ) -> Self {
        if config.is_like(last) {
            if config.lists_endpoints_as(last) {
                return self.with(config, changes);
            }
            if let Some(services) = services {
                return self.with_services(last, config, changes, services);
            }
        }
        let mut pods = self.pods.clone();
        for change in changes {
            pods.apply(change);
        }
        Self::of(config, pods)
    }

    /// Says anew which services an address is behind: of those that have changed what was found, and what is known of the others.
    fn retarget(
        &mut self,
        config: &Config,
        address: IpAddr,
        mut found: Vec<(Place, ServiceTarget)>,
        changed: &BTreeSet<Place>,
    ) {
        let known = self.targets.get(&address).map_or(&[][..], |list| list);
        found.extend(known.iter().filter_map(|target| {
            let place = config.base.roster.place_of(&target.service)?;
            (!changed.contains(&place)).then(|| (place, target.clone()))
        }));
        found.sort_by_key(|(place, _)| *place);
        let mut list = Vec::new();
        for (_, target) in found {
            push(&mut list, target);
        }
        match list.is_empty() {
            true => drop(self.targets.remove(&address)),
            false => drop(self.targets.insert(address, list.into())),
        }
    }
}

fn push(list: &mut Vec<ServiceTarget>, target: ServiceTarget) {
    if !list.contains(&target) {
        list.push(target);
    }
}

/// The addresses that a service leads to within the mesh, with what each is there for.
fn targets_of(context: Context<'_>, place: Place, behind: &Behind) -> Vec<(IpAddr, ServiceTarget)> {
    let service = context.roster.get(place);
    let Some(service) = service.filter(|service| context.leads_inside(place, service)) else {
        return Vec::new();
    };
    let mut out = Vec::new();
    for port in &service.ports {
        let endpoints = behind.ports.get(&port.number).into_iter();
        for endpoint in endpoints.flat_map(|endpoints| endpoints.iter()) {
            let addresses = endpoint
                .addresses
                .iter()
                .filter_map(|text| text.parse().ok());
            out.extend(addresses.map(|address: IpAddr| {
                let target = ServiceTarget {
                    service: service.clone(),
                    port: port.clone(),
                    target: endpoint.port,
                };
                (address, target)
            }));
        }
    }
    out
}
