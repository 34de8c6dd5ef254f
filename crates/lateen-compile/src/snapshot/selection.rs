//! Who selects whom within a namespace, without comparing everyone with everyone: the services of a workload's labels
//! ([`Selectors`]), and the workloads of a selector ([`Labelled`]).
//!
//! Both give few that may be meant, found by hashes; whoever asks compares them whole ([`crate::labels::is_subset`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_api::networking::ServiceEntry;
use lateen_api::{Resource, kube};
use lateen_envoy::SharedMap;

use crate::shared::stable_hash;

use super::hashed::Hashed;
use super::roster::Place;

/// Labels, or what a selector asks of them.
pub(super) type Labels = BTreeMap<String, String>;

/// The labels by which a service finds its workloads. A Service without any finds none, a ServiceEntry without any all of its namespace.
pub(super) fn selector(origin: &Resource) -> Option<&Labels> {
    if let Some(service) = origin.spec_as::<kube::Service>() {
        let selector = &service.spec.selector;
        return (!selector.is_empty()).then_some(selector);
    }
    let entry = origin.spec_as::<ServiceEntry>()?;
    entry.workload_selector.as_ref().map(|s| &s.labels)
}

/// The keys that a selector asks for, in order. Few of them are different: most services of a mesh ask for the same keys.
type Shape = Arc<[String]>;

/// Services by what they select. Cheap to clone.
///
/// For each shape of selector all of whose keys a workload has it is asked which services want there what the workload has. Shapes are found
/// by their first key, so that one of a service's own costs those alone who have that key.
#[derive(Clone, Debug, Default)]
pub(super) struct Selectors {
    /// How many services have a shape, by the hash of the namespace and the first key.
    shapes: SharedMap<(u64, Shape), usize>,
    /// By namespace, and all keys and values.
    places: Hashed<Place>,
}

impl Selectors {
    /// Of services, in order.
    pub(super) fn new<'a>(services: impl Iterator<Item = (Place, &'a Resource)>) -> Self {
        let mut out = Self::default();
        let mut places = Vec::new();
        for (place, origin) in services {
            let Some(selector) = selector(origin) else {
                continue;
            };
            out.count(origin.namespace(), selector, 1);
            places.push((whole(origin.namespace(), selector.iter()), place));
        }
        out.places = places.into_iter().collect();
        out
    }

    /// Adds a service.
    pub(super) fn insert(&mut self, place: Place, origin: &Resource) {
        if let Some(selector) = selector(origin) {
            let namespace = origin.namespace();
            self.count(namespace, selector, 1);
            self.places.insert(whole(namespace, selector.iter()), place);
        }
    }

    /// Takes a service out.
    pub(super) fn remove(&mut self, place: Place, origin: &Resource) {
        if let Some(selector) = selector(origin) {
            let namespace = origin.namespace();
            self.count(namespace, selector, -1);
            self.places.remove(whole(namespace, selector.iter()), place);
        }
    }

    fn count(&mut self, namespace: &str, selector: &Labels, more: isize) {
        let first = first(namespace, selector.keys().next());
        let known = self
            .shapes(first)
            .find(|(shape, _)| shape.iter().eq(selector.keys()));
        let (shape, count) = match known {
            Some((shape, count)) => (Arc::clone(shape), count),
            None => (selector.keys().cloned().collect(), 0),
        };
        match count.saturating_add_signed(more) {
            0 => drop(self.shapes.remove(&(first, shape))),
            count => drop(self.shapes.insert((first, shape), count)),
        }
    }

    fn shapes(&self, first: u64) -> impl Iterator<Item = (&Shape, usize)> {
        let entries = self.shapes.iter_after(move |(hash, _)| *hash < first);
        entries
            .take_while(move |((hash, _), _)| *hash == first)
            .map(|((_, shape), count)| (shape, *count))
    }

    /// The services that may select a workload.
    pub(super) fn of<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a Labels,
    ) -> impl Iterator<Item = Place> + 'a {
        let firsts = labels.keys().map(Some).chain([None]);
        let shapes = firsts.flat_map(move |key| self.shapes(first(namespace, key)));
        shapes
            .filter(|(shape, _)| shape.iter().all(|key| labels.contains_key(key)))
            .flat_map(move |(shape, _)| {
                let wanted = shape.iter().filter_map(|key| labels.get_key_value(key));
                self.places.get(whole(namespace, wanted)).copied()
            })
    }
}

/// A namespace, and the first key of a selector if it has one.
fn first(namespace: &str, key: Option<&String>) -> u64 {
    stable_hash(&(namespace, key))
}

/// A namespace, and keys and values in order.
fn whole<'a>(namespace: &str, labels: impl Iterator<Item = (&'a String, &'a String)>) -> u64 {
    labels.fold(stable_hash(&namespace), |hash, label| {
        stable_hash(&(hash, label))
    })
}

/// A namespace, a key and its value.
fn one(namespace: &str, (key, value): (&String, &String)) -> u64 {
    stable_hash(&(namespace, key, value))
}

/// Workloads by each of their labels. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Labelled<T: Ord>(Hashed<T>);

impl<T: Ord> Default for Labelled<T> {
    fn default() -> Self {
        Self(Hashed::default())
    }
}

impl<T: Ord + Clone> Labelled<T> {
    /// Of workloads, in their order, each with its namespace and labels.
    pub(super) fn new<'a>(workloads: impl Iterator<Item = (T, &'a str, &'a Labels)>) -> Self {
        let labels = workloads.flat_map(|(workload, namespace, labels)| {
            let labels = labels.iter();
            labels.map(move |label| (one(namespace, label), workload.clone()))
        });
        Self(labels.collect())
    }

    /// Adds a workload.
    pub(super) fn insert(&mut self, workload: &T, namespace: &str, labels: &Labels) {
        for label in labels {
            self.0.insert(one(namespace, label), workload.clone());
        }
    }

    /// Takes a workload out that has these labels.
    pub(super) fn remove(&mut self, workload: &T, namespace: &str, labels: &Labels) {
        for label in labels {
            self.0.remove(one(namespace, label), workload.clone());
        }
    }

    /// The workloads that a selector may select, in order: those with the one of its labels that the fewest have. `None` if it asks for nothing,
    /// which anyone has.
    pub(super) fn with<'a>(
        &'a self,
        namespace: &str,
        selector: &Labels,
    ) -> Option<impl Iterator<Item = &'a T> + use<'a, T>> {
        let labels = selector.iter();
        let having: Vec<_> = labels
            .map(|label| self.0.get(one(namespace, label)))
            .collect();
        let fewest = shortest(&having);
        having.into_iter().nth(fewest)
    }
}

/// Which of some iterators ends first; takes that many steps of each.
fn shortest<I: Iterator + Clone>(all: &[I]) -> usize {
    if all.len() < 2 {
        return 0;
    }
    let mut all = all.to_vec();
    loop {
        if let Some(first) = all.iter_mut().position(|one| one.next().is_none()) {
            return first;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::{ObjectChange, PodChange, Snapshot, SnapshotInputs};
    use super::*;
    use crate::labels::COMPARED;
    use crate::pod::Pod;

    fn labels(text: &str) -> Labels {
        let pairs = text.split(' ').filter_map(|pair| pair.split_once('='));
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    fn service(selector: &str) -> Resource {
        let labels = labels(selector);
        let text = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: a, namespace: a}}, spec: {{selector: {labels:?}, \
             ports: [{{name: http, port: 80}}]}}}}"
        );
        let file = lateen_api::SourceFile::new("x.yaml", text.as_str());
        lateen_api::parse_file(&file, "a").resources.remove(0)
    }

    fn of(selectors: &Selectors, workload: &str) -> Vec<Place> {
        let mut found: Vec<Place> = selectors.of("a", &labels(workload)).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn a_workload_finds_the_services_that_want_what_it_has_and_no_others() {
        let written = [
            "app=x",
            "app=x team=t",
            "app=y team=t",
            "team=t",
            "own-3=true",
            "",
        ];
        let origins: Vec<Resource> = written.iter().map(|text| service(text)).collect();
        let places = || (1..).zip(&origins);
        let mut selectors = Selectors::new(places());
        assert_eq!(of(&selectors, "app=x team=t zone=z"), [1, 2, 4]);
        assert_eq!(of(&selectors, "own-3=true app=x"), [1, 5]);
        assert_eq!(of(&selectors, "app=z"), [0; 0]);
        assert_eq!(selectors.of("b", &labels("app=x")).count(), 0);
        let first = selectors.clone();
        selectors.remove(2, &origins[1]);
        selectors.insert(2, &origins[0]);
        assert_eq!(of(&selectors, "app=x team=t"), [1, 2, 4]);
        for (place, origin) in places().filter(|(place, _)| *place != 2) {
            selectors.remove(place, origin);
        }
        selectors.remove(2, &origins[0]);
        assert!(selectors.shapes.is_empty(), "{selectors:?}");
        assert_eq!(of(&first, "app=x team=t"), [1, 2, 4]);
    }

    /// One namespace, in which so many services have a pod each; all pods have a label in common, and every selector asks for it.
    fn namespace(services: usize) -> SnapshotInputs {
        let origins = (0..services).map(|n| {
            let mut one = service(&format!("app=a{n} team=t"));
            Arc::make_mut(&mut one.meta).name = format!("a{n}");
            one
        });
        let pods = (0..services).map(|n| Pod {
            namespace: "a".to_owned(),
            name: format!("a{n}-0"),
            labels: labels(&format!("app=a{n} team=t version=v1")),
            ips: vec![IpAddr::from([10, 1, (n / 256) as u8, (n % 256) as u8])],
            ready: true,
            ..Pod::default()
        });
        SnapshotInputs {
            resources: origins.collect(),
            pods: pods.collect(),
            ..SnapshotInputs::default()
        }
    }

    fn comparisons<T>(what: impl FnOnce() -> T) -> (u64, T) {
        let before = COMPARED.get();
        let out = what();
        (COMPARED.get() - before, out)
    }

    #[test]
    fn selectors_are_compared_with_what_they_select_in_a_namespace_of_any_size() {
        for services in [200, 2000] {
            let inputs = namespace(services);
            let (first, snapshot) = comparisons(|| Snapshot::new(inputs.clone()).0);
            assert_eq!(first, services as u64, "each with its own pod");
            let mut pod = inputs.pods[7].clone();
            pod.ready = false;
            let unready = PodChange::Is(Arc::new(pod.clone()));
            let (change, next) = comparisons(|| snapshot.with_pods(&[unready]).0);
            assert_eq!(
                change, 3,
                "the pod as it was, as it is, and the service's pods"
            );
            pod.labels = labels("app=a8 team=t");
            let moves = PodChange::Is(Arc::new(pod));
            let (change, next) = comparisons(|| next.with_pods(&[moves]).0);
            assert_eq!(change, 4, "one service loses it and another gains it");
            let behind = |snapshot: &Snapshot, name: &str| {
                let service = snapshot.services().find(|s| s.name == name).unwrap();
                snapshot.endpoints(service, 80).unwrap().len()
            };
            assert_eq!([behind(&next, "a7"), behind(&next, "a8")], [0, 2]);
            let mut new = inputs.resources[8].clone();
            Arc::make_mut(&mut new.meta).name = "new".to_owned();
            let come = ObjectChange {
                old: None,
                new: Some(new),
            };
            let ips = Arc::clone(&inputs.cluster_ips);
            let (change, next) = comparisons(|| next.after(vec![come], ips, &[]).unwrap().0);
            assert_eq!((change, behind(&next, "new")), (2, 2), "both pods");
        }
    }

    #[test]
    fn a_selector_finds_workloads_by_its_rarest_label() {
        let pods: Vec<Labels> = (0..100)
            .map(|n| labels(&format!("team=t app=a{} half={}", n / 2, n % 2)))
            .collect();
        let each = || (0..).zip(&pods).map(|(n, labels)| (n, "a", labels));
        let mut labelled: Labelled<u32> = Labelled::new(each());
        let found = |labelled: &Labelled<u32>, selector: &str| -> Option<Vec<u32>> {
            let found = labelled.with("a", &labels(selector))?;
            Some(found.copied().collect())
        };
        let rare = Some(vec![14, 15]);
        assert_eq!(found(&labelled, "team=t app=a7 half=1"), rare);
        assert_eq!(found(&labelled, "team=t").map(|all| all.len()), Some(100));
        assert_eq!(found(&labelled, "team=t no=such"), Some(Vec::new()));
        assert_eq!(found(&labelled, ""), None, "anyone will do");
        labelled.remove(&14, "a", &pods[14]);
        labelled.insert(&14, "b", &pods[14]);
        assert_eq!(found(&labelled, "app=a7"), Some(vec![15]));
    }
}
