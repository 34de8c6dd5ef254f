//! The workloads of a mesh by their labels: those whose pods are planned, those that have none just now, and those on virtual machines.

use std::collections::{BTreeMap, BTreeSet};

use lateen_api::labels::{Labels, is_superset};
use lateen_api::{Resource, Spec};
use lateen_sources::plan::{Plan, PodPlan, PodRole};

/// A workload, or one of its pods.
pub(super) struct Workload<'a> {
    pub(super) namespace: &'a str,
    pub(super) labels: &'a Labels,
    /// What it is called: `Deployment reviews-v1`.
    pub(super) kind: &'a str,
    pub(super) name: &'a str,
    /// Its pod, if it has one.
    pub(super) pod: Option<&'a PodPlan>,
}

impl Workload<'_> {
    /// Whether it is known to have no proxy.
    pub(super) fn is_plain(&self) -> bool {
        self.pod.is_some_and(|pod| pod.role == PodRole::Plain)
    }
}

/// Every workload, found by labels.
pub(super) struct Workloads<'a> {
    all: Vec<Workload<'a>>,
    by_label: BTreeMap<(&'a str, &'a str), Vec<usize>>,
    by_namespace: BTreeMap<&'a str, Vec<usize>>,
    by_label_here: BTreeMap<(&'a str, &'a str, &'a str), Vec<usize>>,
    /// The workloads that the user wrote, by namespace, kind and name.
    written: BTreeSet<(&'a str, &'a str, &'a str)>,
}

impl<'a> Workloads<'a> {
    pub(super) fn new(user: &'a [Resource], all: &'a [Resource], plan: &'a Plan) -> Self {
        let mut known: Vec<Workload<'a>> = Vec::new();
        let mut seen: BTreeSet<(&str, &str, &str)> = BTreeSet::new();
        for pod in &plan.pods {
            let (kind, name) = (pod.owner.kind.as_str(), pod.owner.name.as_str());
            let first = seen.insert((&pod.namespace, kind, name));
            // Replicas are alike, but for a StatefulSet's own names.
            if first || kind == "StatefulSet" {
                let (namespace, labels) = (pod.namespace.as_str(), &pod.labels);
                known.push(Workload {
                    namespace,
                    labels,
                    kind,
                    name,
                    pod: Some(pod),
                });
            }
        }
        for resource in all {
            let (namespace, kind) = (resource.namespace(), resource.kind.as_str());
            let name = resource.name();
            if let Some(labels) = template(resource)
                && !seen.contains(&(namespace, kind, name))
            {
                known.push(Workload {
                    namespace,
                    labels,
                    kind,
                    name,
                    pod: None,
                });
            }
        }
        let mut out = Self {
            all: known,
            by_label: BTreeMap::new(),
            by_namespace: BTreeMap::new(),
            by_label_here: BTreeMap::new(),
            written: BTreeSet::new(),
        };
        out.index();
        let written = user.iter().filter(|resource| template(resource).is_some());
        let name = |resource: &'a Resource| {
            (
                resource.namespace(),
                resource.kind.as_str(),
                resource.name(),
            )
        };
        out.written = written.map(name).collect();
        out
    }

    fn index(&mut self) {
        for (at, workload) in self.all.iter().enumerate() {
            let namespace = workload.namespace;
            self.by_namespace.entry(namespace).or_default().push(at);
            for (key, value) in workload.labels {
                self.by_label.entry((key, value)).or_default().push(at);
                let here = self.by_label_here.entry((namespace, key, value));
                here.or_default().push(at);
            }
        }
    }

    /// Every workload.
    pub(super) fn all(&self) -> &[Workload<'a>] {
        &self.all
    }

    /// Whether the user wrote workloads in a namespace.
    pub(super) fn are_written(&self, namespace: &str) -> bool {
        let first = self.written.range((namespace, "", "")..).next();
        first.is_some_and(|(first, _, _)| *first == namespace)
    }

    /// Whether the user wrote a gateway, besides those of the default installation.
    pub(super) fn have_written_gateway(&self) -> bool {
        let is_gateway = |w: &Workload<'_>| w.pod.is_some_and(|pod| pod.role == PodRole::Gateway);
        self.all.iter().any(|workload| {
            let name = (workload.namespace, workload.kind, workload.name);
            is_gateway(workload) && self.written.contains(&name)
        })
    }

    /// Those in a namespace (`None`: anywhere) that have labels. No labels are had by all.
    pub(super) fn with<'s>(
        &'s self,
        namespace: Option<&'s str>,
        labels: &'s Labels,
    ) -> Vec<&'s Workload<'a>> {
        let lists = labels
            .iter()
            .map(|(key, value)| self.listed(namespace, key, value));
        // Those of the rarest label are looked at.
        let rarest = lists.min_by_key(|list| list.len());
        let here = |namespace| {
            self.by_namespace
                .get(namespace)
                .map_or(&[][..], Vec::as_slice)
        };
        let places: Vec<usize> = match (rarest, namespace) {
            (Some(list), _) => list.to_vec(),
            (None, Some(namespace)) => here(namespace).to_vec(),
            (None, None) => (0..self.all.len()).collect(),
        };
        let all = places.into_iter().filter_map(|at| self.all.get(at));
        all.filter(|workload| is_superset(workload.labels, labels))
            .collect()
    }

    /// The places of those with one label.
    fn listed<'s>(
        &'s self,
        namespace: Option<&'s str>,
        key: &'s str,
        value: &'s str,
    ) -> &'s [usize] {
        let list = match namespace {
            Some(namespace) => self.by_label_here.get(&(namespace, key, value)),
            None => self.by_label.get(&(key, value)),
        };
        list.map_or(&[], Vec::as_slice)
    }

    /// The values that workloads of a namespace (`None`: of any) have for a label.
    pub(super) fn values(&self, namespace: Option<&str>, key: &str) -> BTreeSet<&'a str> {
        const LOOKED_AT: usize = 5000;
        let here = |workload: &&Workload<'_>| namespace.is_none_or(|n| workload.namespace == n);
        let values = self.all.iter().filter(here).take(LOOKED_AT);
        let values = values.filter_map(|workload| workload.labels.get(key));
        values.map(String::as_str).collect()
    }
}

/// The labels of what a resource makes, if it makes workloads.
fn template(resource: &Resource) -> Option<&Labels> {
    Some(match &*resource.spec {
        Spec::Deployment(d) => &d.spec.template.metadata.labels,
        Spec::ReplicaSet(r) => &r.spec.template.metadata.labels,
        Spec::StatefulSet(s) => &s.spec.template.metadata.labels,
        Spec::DaemonSet(d) => &d.spec.template.metadata.labels,
        Spec::Job(j) => &j.spec.template.metadata.labels,
        Spec::CronJob(c) => &c.spec.job_template.spec.template.metadata.labels,
        Spec::WorkloadEntry(entry) => &entry.labels,
        Spec::WorkloadGroup(group) => match (&group.metadata, &group.template) {
            (Some(metadata), _) if !metadata.labels.is_empty() => &metadata.labels,
            (_, template) => &template.as_ref()?.labels,
        },
        Spec::Pod(_) => &resource.meta.labels,
        _ => return None,
    })
}
