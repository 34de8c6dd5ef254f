//! The next program of changed resources, whatever bug one of them meets. What is done with it is `apply`'s.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use lateen_traffic::program::Change;
use lateen_traffic::{Program, Rejection};

use crate::panic;

/// A program with changes applied. Where a bug breaks that off, each change is tried by itself, so that what it stumbles over is refused
/// like any other bad resource, and the rest is applied.
pub(super) fn updated(program: &Program, changes: &[Change]) -> (Program, Vec<Rejection>) {
    isolating(program, changes, Program::update)
}

fn isolating(
    program: &Program,
    changes: &[Change],
    update: impl Fn(&Program, &[Change]) -> (Program, Vec<Rejection>),
) -> (Program, Vec<Rejection>) {
    // A program is immutable, so one that was not finished is nowhere.
    let apply = |program: &Program, changes: &[Change]| {
        catch_unwind(AssertUnwindSafe(|| update(program, changes)))
    };
    if let Ok(updated) = apply(program, changes) {
        return updated;
    }
    let (mut program, mut rejections) = (program.clone(), Vec::new());
    for change in changes {
        match apply(&program, std::slice::from_ref(change)) {
            Ok((next, refused)) => {
                program = next;
                rejections.extend(refused);
            }
            Err(panic) => rejections.extend(stumbled(change, panic::reason(&*panic))),
        }
    }
    (program, rejections)
}

fn stumbled(change: &Change, reason: &str) -> Option<Rejection> {
    match change {
        Change::Upsert(ty, resource) => Some(Rejection {
            type_url: *ty,
            name: Arc::clone(&resource.name),
            reason: format!("a bug of the proxy: {reason}"),
        }),
        Change::Remove(ty, name) => {
            tracing::error!(%ty, %name, reason, "a bug kept a resource that is gone");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use lateen_envoy::pb::envoy::config::cluster::v3::Cluster;
    use lateen_envoy::{Resource, TypeUrl};

    use super::*;

    fn cluster(name: &str) -> Change {
        let cluster = Cluster {
            name: name.to_owned(),
            ..Cluster::default()
        };
        Change::Upsert(TypeUrl::Cluster, Resource::new(name, &cluster))
    }

    #[test]
    fn what_a_bug_stumbles_over_is_refused_and_the_rest_applied() {
        let changes = [cluster("good"), cluster("bad"), cluster("better")];
        let is_bad = |change: &Change| matches!(change, Change::Upsert(_, r) if &*r.name == "bad");
        let (program, rejections) = isolating(&Program::default(), &changes, |program, changes| {
            assert!(!changes.iter().any(is_bad), "a bug");
            program.update(changes)
        });
        let refused: Vec<_> = rejections.iter().map(|r| (&*r.name, &*r.reason)).collect();
        assert_eq!(refused, [("bad", "a bug of the proxy: a bug")]);
        for (name, there) in [("good", true), ("bad", false), ("better", true)] {
            assert_eq!(program.cluster(name).is_some(), there, "{name}");
        }
    }
}
