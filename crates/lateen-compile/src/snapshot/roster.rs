//! The services of a mesh in their order, found by host and by namespace, with what each was written in.
//!
//! A service has a *place*: a number that orders it among the others and stays while others come and go, so that what is kept by place
//! stays good. Places lie apart, and a service that is new is given one between its neighbours'. They are made anew when all services are,
//! and nothing that a proxy is told depends on which numbers they are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::FixedState;
use lateen_api::Resource;
use lateen_envoy::SharedMap;

use crate::labels;
use crate::model::{Registry, Service};
use crate::shared::{Shared, stable_hash};

use super::hashed::Hashed;
use super::selection::{self, Labels, Selectors};
use super::services::order;

/// Where a service is among the services.
pub(super) type Place = u64;

/// How far apart places are when they are made: thirty-two services can come to be between two neighbours before all places are made anew.
const APART: Place = 1 << 32;

/// Every service, oldest first, then by namespace and name. Cheap to clone; a clone with one more shares the others.
#[derive(Clone, Debug, Default)]
pub(super) struct Roster {
    services: SharedMap<Place, Shared<Service>>,
    /// The object of each.
    origins: SharedMap<Place, Resource>,
    /// In the order of places, as the next.
    by_host: SharedMap<String, Arc<[Place]>>,
    by_namespace: SharedMap<String, Arc<[Place]>>,
    /// By the hash of [`name_of`].
    by_name: Hashed<Place>,
    selectors: Selectors,
    aliases: Arc<Aliases>,
    has_twins: bool,
    /// The same in all that follow one another by single changes.
    numbering: Arc<()>,
}

/// Names that stand for others, by the name they stand for.
pub(super) type Aliases = BTreeMap<String, Vec<String>>;

/// What services are made of all objects.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// In order, each with its object.
    pub(super) services: Vec<(Resource, Service)>,
    pub(super) aliases: Aliases,
    /// Whether some Service was there twice: then one that goes may leave another.
    pub(super) has_twins: bool,
}

impl Roster {
    /// Of a list. What is equal in the last one is taken from there, all of it if all is.
    pub(super) fn new(listed: Listed, last: Option<&Self>) -> Self {
        let (origins, services): (Vec<Resource>, Vec<Service>) =
            listed.services.into_iter().unzip();
        let mut services: Vec<Shared<Service>> = services.into_iter().map(Shared::new).collect();
        let of = |maps: Self, places: Vec<Place>, origins: Vec<Resource>| Self {
            selectors: Selectors::new(places.iter().copied().zip(&origins)),
            origins: places.into_iter().zip(origins).collect(),
            aliases: Arc::new(listed.aliases),
            has_twins: listed.has_twins,
            ..maps
        };
        if let Some(last) = last {
            if last.len() == services.len() && last.iter().zip(&services).all(|(a, b)| a == b) {
                let places = last.services.keys().copied().collect();
                return of(last.clone(), places, origins);
            }
            adopt(last.iter(), &mut services);
        }
        let places: Vec<Place> = (1..).map(|n| n * APART).take(services.len()).collect();
        let index = |key: fn(&Service) -> &String| {
            let mut out: BTreeMap<String, Vec<Place>> = BTreeMap::new();
            for (place, service) in places.iter().zip(&services) {
                out.entry(key(service).clone()).or_default().push(*place);
            }
            let lists = out.into_iter().map(|(key, list)| (key, list.into()));
            lists.collect()
        };
        let maps = Self {
            by_host: index(|service| &service.hostname),
            by_namespace: index(|service| &service.namespace),
            by_name: {
                let names = services
                    .iter()
                    .map(|service| stable_hash(&name_of(service)));
                names.zip(places.iter().copied()).collect()
            },
            services: places.iter().copied().zip(services).collect(),
            ..Self::default()
        };
        of(maps, places, origins)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.services.len()
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Shared<Service>> + Clone {
        self.services.values()
    }

    /// The same with their places.
    pub(super) fn placed(&self) -> impl Iterator<Item = (Place, &Shared<Service>)> {
        self.services
            .iter()
            .map(|(place, service)| (*place, service))
    }

    /// The service at a place.
    pub(super) fn get(&self, place: Place) -> Option<&Shared<Service>> {
        self.services.get(&place)
    }

    /// What the service at a place was written in.
    pub(super) fn origin(&self, place: Place) -> Option<&Resource> {
        self.origins.get(&place)
    }

    /// The places of a host name.
    pub(super) fn of_host(&self, host: &str) -> &[Place] {
        self.by_host.get(host).map_or(&[], |places| places)
    }

    /// The services with a host name.
    pub(super) fn with_host(&self, host: &str) -> impl Iterator<Item = &Shared<Service>> {
        let places = self.of_host(host).iter();
        places.filter_map(|place| self.get(*place))
    }

    /// The places of a namespace.
    pub(super) fn in_namespace(&self, namespace: &str) -> &[Place] {
        self.by_namespace
            .get(namespace)
            .map_or(&[], |places| places)
    }

    /// The places of what a namespace calls by a name.
    pub(super) fn named(&self, namespace: &str, name: &str) -> Vec<Place> {
        let wanted = (namespace, name);
        let is_named = |place: &&Place| self.get(**place).is_some_and(|s| name_of(s) == wanted);
        let places = self.by_name.get(stable_hash(&wanted));
        places.filter(is_named).copied().collect()
    }

    /// The places of the services that select a workload of a namespace.
    pub(super) fn selecting<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a Labels,
    ) -> impl Iterator<Item = Place> + 'a {
        let selects = move |place: &Place| {
            let origin = self.origin(*place);
            let origin = origin.filter(|origin| origin.namespace() == namespace);
            let selector = origin.and_then(selection::selector);
            selector.is_some_and(|selector| labels::is_subset(selector, labels))
        };
        self.selectors.of(namespace, labels).filter(selects)
    }

    /// The place of a service.
    pub(super) fn place_of(&self, service: &Service) -> Option<Place> {
        let same = |place: &&Place| {
            self.get(**place).is_some_and(|known| {
                known.namespace == service.namespace && known.registry == service.registry
            })
        };
        self.of_host(&service.hostname).iter().find(same).copied()
    }

    /// Whether the services are the same ones, whatever they were written in.
    pub(super) fn has_services_of(&self, other: &Self) -> bool {
        self.services.is_same(&other.services)
    }

    /// The same, and what they were written in.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.has_services_of(other) && self.origins == other.origins
    }

    /// Whether a service that is in both is at the same place in both, but for one that is older in one of them.
    pub(super) fn has_numbering_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.numbering, &other.numbering)
    }

    /// What stands for a host.
    pub(super) fn aliases_of(&self, host: &str) -> Vec<String> {
        self.aliases.get(host).cloned().unwrap_or_default()
    }

    /// Puts in place what a Service has become; `is_known` is whether it was there before. `None` if there is more to it: it is there twice,
    /// or no place is left.
    pub(super) fn put(
        &mut self,
        origin: &Resource,
        service: Service,
        is_known: bool,
    ) -> Option<()> {
        let known = self.kubernetes(&service.namespace, &service.name);
        if self.has_twins || known.is_some() != is_known {
            return None;
        }
        if let Some(place) = known {
            let since = |origin: &Resource| origin.meta.creation_timestamp.clone();
            let keeps_place = self.origin(place).map(since) == Some(since(origin));
            if keeps_place {
                if let Some(last) = self.origins.insert(place, origin.clone()) {
                    self.selectors.remove(place, &last);
                }
                self.selectors.insert(place, origin);
                if self.get(place).is_none_or(|known| **known != service) {
                    self.services.insert(place, Shared::new(service));
                }
                return Some(());
            }
            self.take_out(place);
        }
        let place = self.place_for(origin, &service)?;
        insert(&mut self.by_host, &service.hostname, place);
        insert(&mut self.by_namespace, &service.namespace, place);
        self.by_name.insert(stable_hash(&name_of(&service)), place);
        self.selectors.insert(place, origin);
        self.services.insert(place, Shared::new(service));
        self.origins.insert(place, origin.clone());
        Some(())
    }

    /// Takes out what a Service was. `None` if there is more to it.
    pub(super) fn remove(&mut self, namespace: &str, name: &str) -> Option<()> {
        if self.has_twins {
            return None;
        }
        let place = self.kubernetes(namespace, name)?;
        self.take_out(place);
        Some(())
    }

    fn kubernetes(&self, namespace: &str, name: &str) -> Option<Place> {
        let mut places = self.named(namespace, name).into_iter();
        let of_kubernetes = |place: &Place| {
            let service = self.get(*place);
            service.is_some_and(|s| s.registry == Registry::Kubernetes)
        };
        places.rfind(of_kubernetes)
    }

    fn take_out(&mut self, place: Place) {
        if let Some(service) = self.services.remove(&place) {
            remove(&mut self.by_host, &service.hostname, place);
            remove(&mut self.by_namespace, &service.namespace, place);
            self.by_name.remove(stable_hash(&name_of(&service)), place);
        }
        if let Some(origin) = self.origins.remove(&place) {
            self.selectors.remove(place, &origin);
        }
    }

    /// A place between those that come before and after a service.
    fn place_for(&self, origin: &Resource, service: &Service) -> Option<Place> {
        let wanted = order(origin, service);
        let comes_before = |place: &Place, known: &Shared<Service>| {
            let origin = self.origin(*place);
            origin.is_some_and(|origin| order(origin, known) < wanted)
        };
        let [before, after] = self.services.around(comes_before);
        let before = before.copied().unwrap_or(0);
        let after = match after {
            Some(place) => *place,
            None => before.checked_add(2 * APART)?,
        };
        let between = before + (after - before) / 2;
        (between > before).then_some(between)
    }
}

/// Namespace and name.
fn name_of(service: &Service) -> (&str, &str) {
    (&service.namespace, &service.name)
}

/// Takes what is equal from a list of before.
pub(super) fn adopt<'a, T: Eq + 'a>(
    last: impl Iterator<Item = &'a Shared<T>>,
    new: &mut [Shared<T>],
) {
    let known: HashMap<u64, &Shared<T>, FixedState> =
        last.map(|item| (item.digest(), item)).collect();
    for item in new {
        if let Some(known) = known.get(&item.digest()).filter(|known| **known == item) {
            *item = Shared::clone(known);
        }
    }
}

/// Adds a place to the list of a key, in order.
pub(super) fn insert<K: Ord + Clone>(
    lists: &mut SharedMap<K, Arc<[Place]>>,
    key: &K,
    place: Place,
) {
    let mut list = lists.get(key).map_or(Vec::new(), |list| list.to_vec());
    if let Err(at) = list.binary_search(&place) {
        list.insert(at, place);
        lists.insert(key.clone(), list.into());
    }
}

/// Takes a place out of the list of a key.
pub(super) fn remove<K: Ord + Clone>(
    lists: &mut SharedMap<K, Arc<[Place]>>,
    key: &K,
    place: Place,
) {
    let list = lists.get(key).map_or(&[][..], |list| list);
    let left: Vec<Place> = list.iter().copied().filter(|p| *p != place).collect();
    match left.is_empty() {
        true => drop(lists.remove(key)),
        false => drop(lists.insert(key.clone(), left.into())),
    }
}

#[cfg(test)]
mod tests {
    use lateen_api::{SourceFile, parse_file};

    use super::super::{Inputs, services};
    use super::*;
    use crate::mesh::Mesh;

    fn origin(name: &str, since: &str) -> Resource {
        let text = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: a, creationTimestamp: '{since}'}}}}"
        );
        parse_file(&SourceFile::new("x.yaml", text.as_str()), "a")
            .resources
            .remove(0)
    }

    fn service(name: &str) -> Service {
        let (inputs, mesh) = (Inputs::default(), Mesh::default());
        let mesh = Mesh {
            domain_suffix: "cluster.local".to_owned(),
            ..mesh
        };
        services::one(&origin(name, ""), &inputs, &mesh, &Roster::default()).unwrap()
    }

    fn names(roster: &Roster) -> Vec<&str> {
        roster.iter().map(|service| service.name.as_str()).collect()
    }

    #[test]
    fn services_come_and_go_in_their_order_and_others_keep_their_places() {
        let listed = ["b", "d"].map(|name| (origin(name, ""), service(name)));
        let listed = Listed {
            services: listed.into(),
            ..Listed::default()
        };
        let first = Roster::new(listed, None);
        let mut roster = first.clone();
        for name in ["c", "a", "e", "cc"] {
            roster.put(&origin(name, ""), service(name), false).unwrap();
        }
        assert_eq!(names(&roster), ["a", "b", "c", "cc", "d", "e"]);
        for name in ["b", "d"] {
            assert_eq!(
                roster.place_of(&service(name)),
                first.place_of(&service(name))
            );
        }
        assert_eq!(roster.in_namespace("a").len(), 6);
        roster.remove("a", "c").unwrap();
        assert!(roster.of_host("c.a.svc.cluster.local").is_empty());
        // One that is as old as none goes to the end, and back again.
        let late = origin("b", "2026-01-01T00:00:00Z");
        roster.put(&late, service("b"), true).unwrap();
        assert_eq!(names(&roster), ["a", "cc", "d", "e", "b"]);
        roster.put(&origin("b", ""), service("b"), true).unwrap();
        assert_eq!(names(&roster), ["a", "b", "cc", "d", "e"]);
        assert_eq!(names(&first), ["b", "d"]);
    }

    #[test]
    fn what_cannot_be_told_from_one_service_alone_is_refused() {
        let listed = Listed {
            services: vec![(origin("b", ""), service("b"))],
            ..Listed::default()
        };
        let mut roster = Roster::new(listed, None);
        let twin = roster.put(&origin("b", ""), service("b"), false);
        assert!(twin.is_none(), "it is there already");
        assert!(roster.put(&origin("c", ""), service("c"), true).is_none());
        assert!(roster.remove("a", "c").is_none());
        // Between two neighbours places run out at last.
        let names = (0..100).map(|n| format!("a{}", "a".repeat(n)));
        let put = |name: String| roster.put(&origin(&name, ""), service(&name), false);
        let placed = names.map_while(put).count();
        assert!((16..100).contains(&placed), "{placed}");
    }

    #[test]
    fn the_same_services_are_kept_whole() {
        let listed = || Listed {
            services: vec![(origin("b", ""), service("b"))],
            ..Listed::default()
        };
        let first = Roster::new(listed(), None);
        let second = Roster::new(listed(), Some(&first));
        assert!(second.has_services_of(&first) && second.is_like(&first));
    }
}
