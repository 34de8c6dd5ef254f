//! The order in which a snapshot keeps its objects, whatever order they came in.
//!
//! Sorting ten thousand objects by their names takes longer than everything else that one changed object needs. Nearly all objects of a list
//! were in the last one, where they stood in order, and are known by their address; so only what is new is compared with others.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use lateen_api::Resource;

use crate::shared::stable_hash;

use super::reuse::by_key;

/// Objects in order; `last` are others in order, some of which may be among them.
pub(super) fn in_order(resources: Vec<Resource>, last: &[&Resource]) -> Vec<Resource> {
    let ranks: HashMap<Address, usize, FixedState> = last
        .iter()
        .enumerate()
        .map(|(rank, r)| (address(r), rank))
        .collect();
    let mut known: Vec<Option<Resource>> = vec![None; last.len()];
    let mut new = Vec::new();
    for resource in resources {
        let slot = ranks
            .get(&address(&resource))
            .and_then(|rank| known.get_mut(*rank));
        match slot {
            Some(slot) if slot.is_none() => *slot = Some(resource),
            _ => new.push(resource),
        }
    }
    new.sort_by(compare);
    merge(known.into_iter().flatten(), new)
}

/// What tells one object from another while both are held: what it says and what it is called.
type Address = (usize, usize);

fn address(resource: &Resource) -> Address {
    (
        Arc::as_ptr(&resource.meta).addr(),
        Arc::as_ptr(&resource.spec).addr(),
    )
}

/// The hash decides between objects that should not be twice, so that even they come in a fixed order.
fn compare(a: &Resource, b: &Resource) -> std::cmp::Ordering {
    let twice = || stable_hash(a).cmp(&stable_hash(b));
    by_key(a, b).then_with(twice)
}

/// Two lists in order as one.
fn merge(known: impl Iterator<Item = Resource>, new: Vec<Resource>) -> Vec<Resource> {
    let mut out = Vec::with_capacity(new.len() + known.size_hint().1.unwrap_or(0));
    let mut new = new.into_iter().peekable();
    for resource in known {
        while let Some(before) = new.next_if(|new| compare(new, &resource).is_lt()) {
            out.push(before);
        }
        out.push(resource);
    }
    out.extend(new);
    out
}

#[cfg(test)]
mod tests {
    use lateen_api::{SourceFile, parse_file};

    use super::*;

    fn objects(names: &[&str]) -> Vec<Resource> {
        let texts = names.iter().map(|name| {
            format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: a}}}}\n---\n"
            )
        });
        let text: String = texts.collect();
        parse_file(&SourceFile::new("x.yaml", text.as_str()), "a").resources
    }

    fn names(list: &[Resource]) -> Vec<&str> {
        list.iter().map(Resource::name).collect()
    }

    #[test]
    fn what_was_there_and_what_is_new_come_in_one_order() {
        let last = in_order(objects(&["d", "b", "f"]), &[]);
        assert_eq!(names(&last), ["b", "d", "f"]);
        let mut next = objects(&["g", "c", "b", "a"]);
        next.extend([last[2].clone(), last[0].clone()]);
        let next = in_order(next, &last.iter().collect::<Vec<_>>());
        assert_eq!(names(&next), ["a", "b", "b", "c", "f", "g"]);
    }

    #[test]
    fn an_object_that_is_there_twice_stays_twice() {
        let last = in_order(objects(&["a"]), &[]);
        let twice = [last.clone(), last.clone()].concat();
        assert_eq!(
            names(&in_order(twice, &last.iter().collect::<Vec<_>>())),
            ["a", "a"]
        );
    }
}
