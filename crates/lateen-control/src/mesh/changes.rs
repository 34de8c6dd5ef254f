//! Which objects differ between two lists that share the others by pointer, and whether a snapshot can follow from those alone.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use lateen_api::kube::Service;
use lateen_api::{Kind, Resource};
use lateen_compile::ObjectChange;
use lateen_sources::{defaults, plan};

/// Kinds that nothing here is made of: neither the mesh's settings, nor keys and roots, nor workloads outside, nor what expires.
const FOLLOWED: &[Kind] = &[
    Kind::AuthorizationPolicy,
    Kind::DestinationRule,
    Kind::Endpoints,
    Kind::EndpointSlice,
    Kind::Namespace,
    Kind::PeerAuthentication,
    Kind::Service,
    Kind::Sidecar,
    Kind::Telemetry,
    Kind::VirtualService,
];

/// What differs, where nothing has to be looked at but that. `None` if other kinds have changed, an object is there twice, or one takes the place
/// of one of the default installation.
pub(super) fn followed(old: &[Resource], new: &[Resource]) -> Option<Vec<ObjectChange>> {
    let (old, new) = differing(old, new);
    let all = || old.iter().chain(&new);
    if !all().all(|r| FOLLOWED.contains(&r.kind) && !defaults::is_default(r)) {
        return None;
    }
    let mut changes: BTreeMap<(Kind, &str, &str), ObjectChange> = BTreeMap::new();
    let none = || ObjectChange {
        old: None,
        new: None,
    };
    for resource in &old {
        let change = changes.entry(key(resource)).or_insert_with(none);
        if change.old.replace(Resource::clone(resource)).is_some() {
            return None;
        }
    }
    for resource in &new {
        let change = changes.entry(key(resource)).or_insert_with(none);
        if change.new.replace(Resource::clone(resource)).is_some() {
            return None;
        }
    }
    Some(changes.into_values().collect())
}

/// Whether one that was or is is given its address by the mesh.
pub(super) fn readdresses(changes: &[ObjectChange]) -> bool {
    let resources = changes.iter().flat_map(|c| c.old.iter().chain(&c.new));
    let mut services = resources.filter_map(Resource::spec_as::<Service>);
    services.any(plan::is_given_ips)
}

fn key(resource: &Resource) -> (Kind, &str, &str) {
    (resource.kind, resource.namespace(), resource.name())
}

/// The objects of each list that are not in the other. What is at the same place counted from either end is passed over by pointer.
fn differing<'a>(
    mut old: &'a [Resource],
    mut new: &'a [Resource],
) -> (Vec<&'a Resource>, Vec<&'a Resource>) {
    while let ([a, rest_old @ ..], [b, rest_new @ ..]) = (old, new)
        && address(a) == address(b)
    {
        (old, new) = (rest_old, rest_new);
    }
    while let ([rest_old @ .., a], [rest_new @ .., b]) = (old, new)
        && address(a) == address(b)
    {
        (old, new) = (rest_old, rest_new);
    }
    let addresses = |list: &[Resource]| list.iter().map(address).collect::<HashSet<Address>>();
    let (before, after) = (addresses(old), addresses(new));
    let gone = old.iter().filter(|r| !after.contains(&address(r)));
    let come = new.iter().filter(|r| !before.contains(&address(r)));
    (gone.collect(), come.collect())
}

/// Where an object is kept, with what it is called and where it was written.
type Address = [usize; 3];

fn address(resource: &Resource) -> Address {
    [
        Arc::as_ptr(&resource.meta).addr(),
        Arc::as_ptr(&resource.spec).addr(),
        Arc::as_ptr(&resource.origin).addr(),
    ]
}

#[cfg(test)]
mod tests {
    use lateen_api::{SourceFile, parse_file};

    use super::*;

    fn object(kind: &str, name: &str) -> Resource {
        let api = match kind {
            "Service" | "ConfigMap" => "v1",
            _ => "networking.istio.io/v1",
        };
        let text = format!(
            "{{apiVersion: {api}, kind: {kind}, metadata: {{name: {name}, namespace: a}}}}"
        );
        let parsed = parse_file(&SourceFile::new("x.yaml", text.as_str()), "a");
        parsed.resources.into_iter().next().unwrap()
    }

    fn names(old: &[&Resource], new: &[&Resource]) -> Option<Vec<String>> {
        let list = |all: &[&Resource]| -> Vec<Resource> { all.iter().copied().cloned().collect() };
        let changes = followed(&list(old), &list(new))?;
        let name =
            |r: &Option<Resource>| r.as_ref().map_or("-".to_owned(), |r| r.name().to_owned());
        let names = changes
            .iter()
            .map(|c| format!("{} {}", name(&c.old), name(&c.new)));
        Some(names.collect())
    }

    #[test]
    fn what_comes_goes_and_is_written_again_is_found_wherever_it_stands() {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| object("Service", name));
        let again = object("Service", "b");
        let found = |old: &[&Resource], new: &[&Resource]| names(old, new).unwrap();
        assert!(found(&[&a, &b], &[&a, &b]).is_empty());
        assert_eq!(found(&[&a, &b, &c], &[&a, &again, &c]), ["b b"]);
        assert_eq!(found(&[&a, &b, &c], &[&a, &c]), ["b -"]);
        assert_eq!(found(&[&a, &c], &[&d, &a, &b, &c]), ["- b", "- d"]);
        assert!(
            found(&[&a, &b, &c], &[&c, &a, &b]).is_empty(),
            "moved alone"
        );
    }

    #[test]
    fn what_more_hangs_on_than_a_snapshot_is_not_followed() {
        let (a, map) = (object("Service", "a"), object("ConfigMap", "istio"));
        assert_eq!(names(&[&a], &[&a, &map]), None);
        assert_eq!(names(&[], &[&a, &object("Service", "a")]), None, "twice");
        let own = defaults::resources();
        let istiod = own.iter().find(|r| r.kind == Kind::Service).unwrap();
        assert_eq!(
            names(&[], &[istiod]),
            None,
            "it takes the place of a default"
        );
    }
}
