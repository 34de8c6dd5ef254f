//! Which objects differ between two lists that share the others by pointer, and whether a snapshot can follow from those alone.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use lateen_api::kube::Service;
use lateen_api::{Kind, Resource};
use lateen_compile::ObjectChange;
use lateen_sources::files::{Blocks, is_same_place};
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
pub(super) fn followed(
    old: &Blocks<Resource>,
    new: &Blocks<Resource>,
) -> Option<Vec<ObjectChange>> {
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

/// Whether other addresses follow for any Service. `given` is whether any was given its address by the mesh before.
pub(super) fn readdresses(changes: &[ObjectChange], given: bool, dual_stack: bool) -> bool {
    let claim = |resource: &Option<Resource>| {
        let service = resource.as_ref()?.spec_as::<Service>()?;
        Some(plan::Claim::of(service, dual_stack))
    };
    let claims = changes.iter().map(|c| [claim(&c.old), claim(&c.new)]);
    let mut moved = claims.filter(|[old, new]| old != new).flatten().flatten();
    // One that says its own address takes it from those that are given theirs.
    moved.any(|claim| given || claim.is_given_ips())
}

fn key(resource: &Resource) -> (Kind, &str, &str) {
    (resource.kind, resource.namespace(), resource.name())
}

/// The objects of each list that are not in the other. What is at the same place counted from either end is passed over by pointer, first whole
/// blocks and then objects.
fn differing<'a>(
    old: &'a Blocks<Resource>,
    new: &'a Blocks<Resource>,
) -> (Vec<&'a Resource>, Vec<&'a Resource>) {
    let (old, new) = apart(old.blocks(), new.blocks(), Arc::ptr_eq);
    let flat = |blocks: &'a [Arc<[Resource]>]| -> Vec<&'a Resource> {
        blocks.iter().flat_map(|block| block.iter()).collect()
    };
    let (old, new) = (flat(old), flat(new));
    let (old, new) = apart(&old, &new, |a, b| is_same_place(a, b));
    let addresses = |list: &[&Resource]| list.iter().map(|r| address(r)).collect::<HashSet<_>>();
    let (before, after) = (addresses(old), addresses(new));
    let gone = old.iter().filter(|r| !after.contains(&address(r)));
    let come = new.iter().filter(|r| !before.contains(&address(r)));
    (gone.copied().collect(), come.copied().collect())
}

/// Two lists without what is the same at their beginnings and at their ends.
fn apart<'a, T>(
    mut old: &'a [T],
    mut new: &'a [T],
    is_same: impl Fn(&T, &T) -> bool,
) -> (&'a [T], &'a [T]) {
    while let ([a, rest_old @ ..], [b, rest_new @ ..]) = (old, new)
        && is_same(a, b)
    {
        (old, new) = (rest_old, rest_new);
    }
    while let ([rest_old @ .., a], [rest_new @ .., b]) = (old, new)
        && is_same(a, b)
    {
        (old, new) = (rest_old, rest_new);
    }
    (old, new)
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
        let list = |all: &[&Resource]| -> Blocks<Resource> {
            // Some in one block and some in blocks of their own.
            let all: Vec<Resource> = all.iter().copied().cloned().collect();
            let (together, apart) = all.split_at(all.len() / 2);
            let alone = apart.iter().map(std::slice::from_ref);
            let blocks = std::iter::once(together).chain(alone);
            blocks.map(Arc::from).collect()
        };
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

    #[test]
    fn addresses_follow_from_names_and_claims_alone() {
        let service = |spec: &str| {
            let text =
                format!("{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {spec}}}");
            let parsed = parse_file(&SourceFile::new("x.yaml", text.as_str()), "a");
            parsed.resources.into_iter().next()
        };
        let moves = |old: Option<&str>, new: Option<&str>, given| {
            let [old, new] = [old, new].map(|spec| spec.and_then(service));
            readdresses(&[ObjectChange { old, new }], given, true)
        };
        let (given, own) = ("{ports: [{port: 80}]}", "{clusterIP: 10.96.1.1}");
        assert!(!moves(Some(given), Some("{ports: [{port: 81}]}"), true));
        assert!(moves(None, Some(given), false) && moves(Some(given), None, true));
        assert!(moves(Some(given), Some(own), true) && moves(Some(own), Some(given), false));
        assert!(moves(Some(given), Some("{ipFamilies: [IPv6]}"), true));
        assert!(moves(None, Some(own), true) && !moves(None, Some(own), false));
    }
}
