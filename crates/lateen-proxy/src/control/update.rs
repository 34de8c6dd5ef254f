//! The next program of changed resources, whatever bug one of them meets. What is done with it is `apply`'s.
//!
//! A sidecar of a large mesh starts with tens of thousands of resources. Each is compiled by itself, so all cores share in it: until it is done,
//! there is nothing else for them to do.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use lateen_traffic::program::{Change, Compiled};
use lateen_traffic::{Program, Rejection};

use crate::panic;

/// A program with changes applied. Where a bug breaks that off, each change is tried by itself, so that what it stumbles over is refused
/// like any other bad resource, and the rest is applied.
pub(super) fn updated(program: &Program, changes: &[Change]) -> (Program, Vec<Rejection>) {
    isolating(program, changes, |program, changes| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        match changes.len() > MANY {
            true => shared_out(program, changes, threads.min(MOST_THREADS)),
            false => program.update(changes),
        }
    })
}

/// Changes above this many are shared out.
const MANY: usize = 512;
/// Changes that one takes at a time.
const PART: usize = 64;
/// Who takes part in it at most.
const MOST_THREADS: usize = 4;

/// A program with changes applied that several threads compile. A panic in one of them is this one's.
fn shared_out(program: &Program, changes: &[Change], threads: usize) -> (Program, Vec<Rejection>) {
    let parts: Vec<&[Change]> = changes.chunks(PART).collect();
    // From the end: what takes longest is a route configuration, which comes after clusters and their endpoints.
    let left = AtomicUsize::new(parts.len());
    let work = || {
        let next = || {
            left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1))
                .ok()
        };
        let taken = std::iter::from_fn(|| Some(next()? - 1));
        let made = taken.map(|at| (at, program.compile(parts[at])));
        made.collect::<Vec<(usize, Vec<Compiled>)>>()
    };
    let mut made = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut made = work();
        for other in others {
            match other.join() {
                Ok(more) => made.extend(more),
                Err(panic) => resume_unwind(panic),
            }
        }
        made
    });
    made.sort_unstable_by_key(|(at, _)| *at);
    let compiled = made.into_iter().flat_map(|(_, part)| part);
    program.update_with(changes, compiled.collect())
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
    fn what_several_share_out_is_what_one_would_make() {
        let bad = Change::Upsert(TypeUrl::Cluster, Resource::new("bad", &Cluster::default()));
        let mut changes: Vec<Change> = (0..1000).map(|n| cluster(&format!("c{n}"))).collect();
        changes.insert(500, bad);
        changes.push(Change::Remove(TypeUrl::Cluster, "gone".into()));
        let before = Program::default().update(&[cluster("gone")]).0;
        let (alone, refused) = before.update(&changes);
        for threads in [1, 3] {
            let (together, also) = shared_out(&before, &changes, threads);
            assert_eq!(also, refused);
            let names = |program: &Program| -> Vec<Arc<str>> {
                program
                    .clusters()
                    .iter()
                    .map(|(name, _)| Arc::clone(name))
                    .collect()
            };
            assert_eq!(names(&together), names(&alone));
            assert!(!together.has_cluster("gone"));
        }
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
