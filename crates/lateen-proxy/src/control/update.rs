//! The next program of changed resources, whatever bug one of them meets. What is done with it is `apply`'s.
//!
//! A sidecar of a large mesh starts with tens of thousands of resources, of which some route configurations have thousands of virtual hosts. All
//! cores share in compiling them: until it is done, there is nothing else for them to do.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use lateen_envoy::TypeUrl;
use lateen_traffic::program::{Change, CompiledPart, Part, Seen};
use lateen_traffic::{Program, Rejection};

use crate::panic;

/// A program with changes applied. Where a bug breaks that off, each change is tried by itself, so that what it stumbles over is refused
/// like any other bad resource, and the rest is applied.
pub(super) fn updated(program: &Program, changes: &[Change]) -> (Program, Vec<Rejection>) {
    isolating(program, changes, |program, changes| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let parts = match is_much(program, changes) {
            true => Part::all(changes),
            false => Vec::new(),
        };
        match parts.len() > FEW {
            true => shared_out(program, changes, &parts, threads.min(MOST_THREADS)),
            false => program.update(changes),
        }
    })
}

/// Changes above this many may be shared out, whatever they are.
const MANY: usize = 512;
/// Parts up to this many are not.
const FEW: usize = 8;
/// Who takes part in it at most.
const MOST_THREADS: usize = 4;

/// Whether cores may be taken that carry traffic, too: for what comes with a first configuration, and not each time that one route among
/// thousands changes.
fn is_much(program: &Program, changes: &[Change]) -> bool {
    let is_new = |change: &Change| match change {
        Change::Upsert(TypeUrl::RouteConfiguration, routes) => {
            program.route_config(&routes.name).is_none()
        }
        _ => true,
    };
    changes.len() > MANY || changes.iter().all(is_new)
}

/// A program with changes applied that several threads compile. A panic in one of them is this one's.
fn shared_out(
    program: &Program,
    changes: &[Change],
    parts: &[Part<'_>],
    threads: usize,
) -> (Program, Vec<Rejection>) {
    // From the end: route configurations come after clusters and their endpoints, and who ends one of them puts it together.
    let left = AtomicUsize::new(parts.len());
    let work = || {
        let next = || {
            left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1))
                .ok()
        };
        let taken = std::iter::from_fn(|| {
            let at = next()? - 1;
            Some((at, parts.get(at)?))
        });
        let mut seen = Seen::default();
        let made = taken.map(|(at, part)| (at, program.compile_part(part, &mut seen)));
        made.collect::<Vec<(usize, CompiledPart)>>()
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
    program.update_with(changes, made.into_iter().map(|(_, part)| part).collect())
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
    use lateen_envoy::Resource;
    use lateen_envoy::pb::envoy::config::cluster::v3::Cluster;
    use lateen_envoy::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};

    use super::*;

    fn cluster(name: &str) -> Change {
        let cluster = Cluster {
            name: name.to_owned(),
            ..Cluster::default()
        };
        Change::Upsert(TypeUrl::Cluster, Resource::new(name, &cluster))
    }

    /// A route configuration with many virtual hosts, the last of which has these domains, too.
    fn routes(name: &str, also: &[&str]) -> Change {
        let host = |n: usize| VirtualHost {
            name: format!("h{n}"),
            domains: vec![format!(
                "h{n}.example.with.a.long.name.that.fills.its.place.{name}"
            )],
            response_headers_to_remove: vec!["x-removed-for-no-reason-but-length".to_owned()],
            ..VirtualHost::default()
        };
        let mut virtual_hosts: Vec<VirtualHost> = (0..1000).map(host).collect();
        let last = &mut virtual_hosts[999];
        last.domains
            .extend(also.iter().map(|one| (*one).to_owned()));
        let routes = RouteConfiguration {
            name: name.to_owned(),
            virtual_hosts,
            response_headers_to_remove: vec!["x-of-all".to_owned()],
            ..RouteConfiguration::default()
        };
        Change::Upsert(TypeUrl::RouteConfiguration, Resource::new(name, &routes))
    }

    #[test]
    fn what_several_share_out_is_what_one_would_make() {
        let bad = Change::Upsert(TypeUrl::Cluster, Resource::new("bad", &Cluster::default()));
        let mut changes: Vec<Change> = (0..1000).map(|n| cluster(&format!("c{n}"))).collect();
        changes.insert(500, bad);
        changes.push(Change::Remove(TypeUrl::Cluster, "gone".into()));
        let taken = "H3.example.with.a.long.name.that.fills.its.place.taken";
        changes.push(routes("good", &["*.also.good"]));
        changes.push(routes("bad", &["fine", "b*d"]));
        changes.push(routes("taken", &[taken]));
        changes.push(cluster("last"));
        let before = Program::default().update(&[cluster("gone")]).0;
        let (alone, refused) = before.update(&changes);
        let reasons: Vec<&str> = refused.iter().map(|one| one.reason.as_str()).collect();
        assert_eq!(
            reasons[0],
            "virtual_hosts[999].domains[2]: \"b*d\" is no domain"
        );
        let other = format!("the domain {taken:?} is already that of virtual host \"h3\"");
        assert_eq!(
            reasons[1],
            format!("virtual_hosts[999].domains[1]: {other}")
        );
        let parts = Part::all(&changes);
        assert!(parts.len() > FEW + 24, "{}", parts.len());
        for threads in [1, 3] {
            let (together, also) = shared_out(&before, &changes, &parts, threads);
            assert_eq!(also, refused);
            let names = |program: &Program| -> Vec<Arc<str>> {
                program
                    .clusters()
                    .iter()
                    .map(|(name, _)| Arc::clone(name))
                    .collect()
            };
            assert_eq!(names(&together), names(&alone));
            assert!(!together.has_cluster("gone") && together.has_cluster("last"));
            let made = together.route_config("good").unwrap();
            assert_eq!((made.vhosts.len(), made.vhosts.compiled()), (1000, 8));
            let found = made.hosts.find("x.also.good", false).unwrap();
            assert_eq!(&*made.vhosts.at(found.vhost).name, "h999");
            let frame = |program: &Program| {
                let routes = program.route_config("good").unwrap();
                format!("{:?}", routes.response_headers)
            };
            assert_eq!(frame(&together), frame(&alone));
            assert!(together.route_config("bad").is_none());
            let again = [routes("good", &[])];
            assert!(is_much(&before, &again) && !is_much(&together, &again));
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
