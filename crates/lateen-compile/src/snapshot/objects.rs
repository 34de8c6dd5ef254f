//! Every object of a mesh, by kind and then by namespace and name.
//!
//! Kept so that the next mesh shares with the last one all but what has changed: a list of ten thousand objects takes longer to copy, and to
//! let go of, than everything else that one changed object needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_api::{Kind, ObjectMeta, Resource};
use lateen_envoy::SharedMap;

use super::order::in_order;
use super::reuse::by_key;

/// An object that is not the very same as before, to the line it was written in.
#[derive(Clone, Debug)]
pub struct ObjectChange {
    /// What it was, if it was there.
    pub old: Option<Resource>,
    /// What it is, if it is there. Of the same kind, namespace and name.
    pub new: Option<Resource>,
}

impl ObjectChange {
    /// What it was and what it is.
    pub(super) fn either(&self) -> impl Iterator<Item = &Resource> {
        self.old.iter().chain(&self.new)
    }
}

/// Objects in the order of kinds, namespaces and names. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    kinds: BTreeMap<Kind, SharedMap<Name, Resource>>,
    /// Whether one of them is there twice: then one that goes may leave another.
    has_twins: bool,
}

/// Namespace and name of an object, and which of those that are called so it is.
#[derive(Clone, Debug)]
struct Name {
    meta: Arc<ObjectMeta>,
    twin: usize,
}

impl Name {
    fn of(resource: &Resource) -> Self {
        Self {
            meta: Arc::clone(&resource.meta),
            twin: 0,
        }
    }

    fn key(&self) -> (&str, &str, usize) {
        (&self.meta.namespace, &self.meta.name, self.twin)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl Objects {
    /// Of a list in any order.
    pub(super) fn new(resources: Vec<Resource>) -> Self {
        Self::sorted(in_order(resources, &[]))
    }

    /// Of a list in order.
    pub(super) fn sorted(resources: Vec<Resource>) -> Self {
        let mut kinds: BTreeMap<Kind, Vec<(Name, Resource)>> = BTreeMap::new();
        let mut has_twins = false;
        for resource in resources {
            let list = kinds.entry(resource.kind).or_default();
            let mut name = Name::of(&resource);
            let before = list.last();
            if let Some((before, _)) = before.filter(|(_, other)| by_key(other, &resource).is_eq())
            {
                name.twin = before.twin + 1;
                has_twins = true;
            }
            list.push((name, resource));
        }
        let kinds = kinds.into_iter();
        Self {
            kinds: kinds
                .map(|(kind, list)| (kind, list.into_iter().collect()))
                .collect(),
            has_twins,
        }
    }

    /// The same with some changed. `None` if that takes a look at all of them: one is there twice, or is not what it is said to have been.
    pub(super) fn with(&self, changes: &[ObjectChange]) -> Option<Self> {
        if self.has_twins {
            return None;
        }
        let mut next = self.clone();
        let old = changes.iter().filter_map(|change| change.old.as_ref());
        for resource in old {
            next.kinds
                .get_mut(&resource.kind)?
                .remove(&Name::of(resource))?;
        }
        let new = changes.iter().filter_map(|change| change.new.as_ref());
        for resource in new {
            let of_kind = next.kinds.entry(resource.kind).or_default();
            if of_kind
                .insert(Name::of(resource), resource.clone())
                .is_some()
            {
                return None;
            }
        }
        Some(next)
    }

    /// Whether one of them is there twice.
    pub(super) fn has_twins(&self) -> bool {
        self.has_twins
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Resource> {
        self.kinds.values().flat_map(SharedMap::values)
    }

    /// Those of a kind.
    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Resource> {
        self.kinds
            .get(&kind)
            .into_iter()
            .flat_map(SharedMap::values)
    }

    /// An object; of several the first.
    pub(super) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Resource> {
        let meta = ObjectMeta {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..ObjectMeta::default()
        };
        let name = Name {
            meta: Arc::new(meta),
            twin: 0,
        };
        self.kinds.get(&kind)?.get(&name)
    }
}

#[cfg(test)]
mod tests {
    use lateen_api::{SourceFile, parse_file};

    use super::*;

    fn object(kind: &str, name: &str) -> Resource {
        let text =
            format!("{{apiVersion: v1, kind: {kind}, metadata: {{name: {name}, namespace: a}}}}");
        parse_file(&SourceFile::new("x.yaml", text.as_str()), "a")
            .resources
            .remove(0)
    }

    fn names(objects: &Objects) -> Vec<String> {
        let names = objects.iter();
        names
            .map(|r| format!("{} {}", r.kind.as_str(), r.name()))
            .collect()
    }

    fn change(old: Option<&Resource>, new: Option<&Resource>) -> ObjectChange {
        ObjectChange {
            old: old.cloned(),
            new: new.cloned(),
        }
    }

    #[test]
    fn objects_come_and_go_in_their_order() {
        let (b, d, secret) = (
            object("Service", "b"),
            object("Service", "d"),
            object("Secret", "c"),
        );
        let first = Objects::new(vec![d.clone(), secret.clone(), b.clone()]);
        let c = object("Service", "c");
        let next = first.with(&[
            change(None, Some(&c)),
            change(Some(&d), Some(&d)),
            change(Some(&secret), None),
        ]);
        assert_eq!(
            names(&next.unwrap()),
            ["Service b", "Service c", "Service d"]
        );
        assert_eq!(names(&first).len(), 3, "the first is left as it was");
        assert!(first.get(Kind::Service, "a", "b").is_some());
        assert!(first.get(Kind::Service, "b", "b").is_none());
        assert_eq!(first.of_kind(Kind::Service).count(), 2);
    }

    #[test]
    fn what_takes_a_look_at_all_of_them_is_refused() {
        let (b, c) = (object("Service", "b"), object("Service", "c"));
        let first = Objects::new(vec![b.clone()]);
        assert!(
            first.with(&[change(None, Some(&b))]).is_none(),
            "it is there"
        );
        assert!(first.with(&[change(Some(&c), None)]).is_none(), "it is not");
        let twins = Objects::new(vec![b.clone(), b.clone()]);
        assert_eq!(names(&twins), ["Service b", "Service b"]);
        assert!(twins.with(&[change(Some(&b), None)]).is_none());
    }
}
