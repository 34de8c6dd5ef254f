//! What a change costs in a large mesh, counted: how many proxies are compiled for again, and how many generators run.
//!
//! Counts do not depend on the machine, and hold the promise that work follows the change and not the mesh.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use common::{World, pod, resources, sidecar};
use lateen_compile::{
    Compiled, Compiler, ObjectChange, Pod, PodChange, ProxyNode, Snapshot, SnapshotInputs,
};
use lateen_envoy::TypeUrl;

const SERVICES: usize = 20;

/// Counts allocations of each thread, and their bytes.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait")]
// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Threads that end have no counter any more.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        let _ = BYTES.try_with(|count| count.set(count.get() + layout.size()));
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn namespace(index: usize) -> String {
    format!("team-{index}")
}

/// Namespaces of twenty services each; a Sidecar in each lets in its own and one service of the next.
fn mesh(namespaces: usize) -> SnapshotInputs {
    let mut yaml = String::new();
    let mut pods = Vec::new();
    for ns in 0..namespaces {
        let (own, next) = (namespace(ns), namespace((ns + 1) % namespaces));
        writeln!(
            yaml,
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: default, namespace: {own}}}\nspec: \
             {{egress: [{{hosts: ['./*', '{next}/s0.{next}.svc.cluster.local']}}]}}\n---"
        )
        .unwrap();
        for service in 0..SERVICES {
            writeln!(
                yaml,
                "apiVersion: v1\nkind: Service\nmetadata: {{name: s{service}, namespace: {own}}}\nspec: {{clusterIP: \
                 10.96.{ns}.{service}, selector: {{app: s{service}}}, ports: [{{name: http, port: 80}}]}}\n---"
            )
            .unwrap();
            pods.push(Pod {
                ips: vec![IpAddr::from([10, 1, ns as u8, service as u8])],
                ..pod(
                    &own,
                    &format!("s{service}-0"),
                    &format!("s{service}"),
                    "v1",
                    0,
                )
            });
        }
    }
    World::new(&yaml, pods).inputs()
}

/// A proxy in each namespace.
struct Fleet {
    compiler: Compiler,
    proxies: Vec<(ProxyNode, Compiled)>,
}

impl Fleet {
    fn of(inputs: &SnapshotInputs, snapshot: &Snapshot) -> Self {
        let compiler = Compiler::new();
        let pods = inputs.pods.iter().filter(|pod| pod.name == "s0-0");
        let proxies = pods.map(|pod| {
            let node = sidecar(pod);
            let compiled = compiler.compile(snapshot, &node);
            (node, compiled)
        });
        Self {
            proxies: proxies.collect(),
            compiler,
        }
    }

    /// What goes to whom, and how many generators ran for it.
    fn change(&mut self, snapshot: &Snapshot) -> (BTreeMap<String, Vec<String>>, u64) {
        let before = self.compiler.stats().all.misses;
        let mut told = BTreeMap::new();
        for (node, held) in &mut self.proxies {
            if held.also_holds_for(snapshot, node) {
                continue;
            }
            let next = self.compiler.compile(snapshot, node);
            let mut names = Vec::new();
            for ty in TypeUrl::ALL {
                let (old, new) = (held.resources.get(ty), next.resources.get(ty));
                let changed = old.differences(&new);
                names.extend(
                    changed
                        .map(|d| format!("{} {}", ty.as_str().rsplit('.').next().unwrap(), d.key)),
                );
            }
            *held = next;
            told.insert(node.namespace.clone(), names);
        }
        (told, self.compiler.stats().all.misses - before)
    }
}

fn unready(inputs: &SnapshotInputs, namespace: &str, name: &str) -> PodChange {
    let known = |pod: &&Pod| pod.namespace == namespace && pod.name == name;
    let pod = inputs.pods.iter().find(known).unwrap();
    PodChange::Is(Arc::new(Pod {
        ready: false,
        ..pod.clone()
    }))
}

#[test]
fn an_endpoint_change_is_work_for_those_alone_who_see_the_service() {
    for namespaces in [4, 40] {
        let inputs = mesh(namespaces);
        let snapshot = Snapshot::new(inputs.clone()).0;
        let mut fleet = Fleet::of(&inputs, &snapshot);
        let (next, _) = snapshot.with_pods(&[unready(&inputs, "team-2", "s7-0")]);
        let (told, generators) = fleet.change(&next);
        let name = "ClusterLoadAssignment outbound|80||s7.team-2.svc.cluster.local";
        assert_eq!(
            told,
            BTreeMap::from([("team-2".to_owned(), vec![name.to_owned()])])
        );
        assert_eq!(generators, 1, "whatever the size of the mesh");
        // One that the namespace before imports, too.
        let (next, _) = next.with_pods(&[unready(&inputs, "team-2", "s0-0")]);
        let (told, generators) = fleet.change(&next);
        let concerned: Vec<&String> = told.keys().collect();
        assert_eq!(concerned, ["team-1", "team-2"]);
        assert_eq!(generators, 1, "the assignment is the same for both");
    }
}

#[test]
fn what_proxies_share_is_made_once() {
    let inputs = mesh(4);
    let snapshot = Snapshot::new(inputs.clone()).0;
    let compiler = Compiler::new();
    let in_one: Vec<&Pod> = inputs
        .pods
        .iter()
        .filter(|p| p.namespace == "team-0")
        .collect();
    let first = compiler.compile(&snapshot, &sidecar(in_one[0]));
    let made = compiler.stats().all.misses;
    let second = compiler.compile(&snapshot, &sidecar(in_one[1]));
    assert!(
        compiler.stats().all.misses - made <= 2,
        "its own listener and cluster"
    );
    let (a, b) = (
        first.resources.get(TypeUrl::ClusterLoadAssignment),
        second.resources.get(TypeUrl::ClusterLoadAssignment),
    );
    assert!(a.is_same(&b), "stored once");
}

#[test]
fn an_object_that_changes_is_work_for_those_alone_who_see_it() {
    for namespaces in [4, 40] {
        let mut inputs = mesh(namespaces);
        let snapshot = Snapshot::new(inputs.clone()).0;
        let mut fleet = Fleet::of(&inputs, &snapshot);
        inputs.resources.extend(resources(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: s3, namespace: team-2}\n\
             spec: {hosts: [s3], http: [{timeout: 3s, route: [{destination: {host: s3}}]}]}",
        ));
        let bare = SnapshotInputs {
            pods: Vec::new(),
            ..inputs.clone()
        };
        let (next, _) = snapshot.next(bare, &[]);
        let (told, generators) = fleet.change(&next);
        let asked: Vec<_> = told.keys().collect();
        assert_eq!(
            asked,
            ["team-1", "team-2"],
            "who sees something of the namespace"
        );
        let concerned: Vec<_> = told.iter().filter(|(_, names)| !names.is_empty()).collect();
        assert_eq!(concerned.len(), 1, "{concerned:?}");
        assert_eq!(told["team-2"], ["RouteConfiguration 80"]);
        assert_eq!(generators, 1, "the route configuration of its namespace");
    }
}

/// Objects that say how the services of [`mesh`] are treated, a few to each namespace.
fn treatment(namespaces: usize) -> String {
    let mut yaml = String::new();
    for ns in (0..namespaces).map(namespace) {
        writeln!(
            yaml,
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: s1, namespace: {ns}}}\nspec: {{hosts: [s1], \
             http: [{{route: [{{destination: {{host: s1}}}}]}}]}}\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
             metadata: {{name: s1, namespace: {ns}}}\nspec: {{host: s1, subsets: [{{name: v1, labels: {{version: v1}}}}]}}\n---\n\
             apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: default, namespace: {ns}}}\nspec: {{rules: \
             [{{from: [{{source: {{namespaces: [{ns}]}}}}]}}]}}\n---"
        )
        .unwrap();
    }
    yaml
}

const CHANGES: [&str; 7] = [
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: s1, namespace: team-2}\n\
     spec: {hosts: [s1], http: [{timeout: 3s, route: [{destination: {host: s1}}]}]}",
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: s3, namespace: team-2}\n\
     spec: {hosts: [s3], http: [{timeout: 3s, route: [{destination: {host: s3}}]}]}",
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: default, namespace: team-2}\nspec: {}",
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: team-2, labels: {a: b}}",
    "apiVersion: v1\nkind: Service\nmetadata: {name: new, namespace: team-2}\nspec: {clusterIP: 10.97.0.1, selector: {app: s3}, ports: \
     [{name: http, port: 80}]}",
    "apiVersion: v1\nkind: Service\nmetadata: {name: s3, namespace: team-2}\nspec: {clusterIP: 10.97.0.1, selector: {app: s4}, ports: \
     [{name: http, port: 80}]}",
    "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s3-1, namespace: team-2, labels: {kubernetes.io/service-name: \
     s3}}\naddressType: IPv4\nports: [{name: http, port: 80}]\nendpoints: [{addresses: [10.9.0.1]}]",
];

/// How many bytes may be allocated for each of [`CHANGES`] in a mesh ten times as large, in hundredths of what the smaller one takes: what was
/// counted, and some room. Chunks are fuller, and lists of pointers are longer: a virtual service that is new puts those of its kind in order again.
const BYTES_AT_MOST: [usize; 7] = [190, 280, 215, 190, 150, 160, 160];

/// Allocations made for the snapshot after a change, in a mesh of so many namespaces.
fn allocations_for(change: &str, namespaces: usize) -> u64 {
    let mut inputs = mesh(namespaces);
    inputs.resources.extend(resources(&treatment(namespaces)));
    let snapshot = Snapshot::new(inputs.clone()).0;
    let new = resources(change).remove(0);
    inputs.resources.retain(|old| old.key() != new.key());
    inputs.resources.push(new);
    let bare = SnapshotInputs {
        pods: Vec::new(),
        ..inputs.clone()
    };
    let before = ALLOCATIONS.get();
    let (next, _) = snapshot.next(bare, &[]);
    let made = ALLOCATIONS.get() - before;
    let new = usize::from(change.contains("name: new"));
    assert_eq!(next.services().count(), namespaces * SERVICES + new);
    made
}

/// Who is compiled for after each of [`CHANGES`]: team-1 sees a service of team-2.
const CONCERNED: [&[&str]; 7] = [
    &["team-1", "team-2"],
    &["team-1", "team-2"],
    &["team-2"],
    &[],
    &["team-1", "team-2"],
    &["team-1", "team-2"],
    &["team-2"],
];

#[test]
fn proxies_that_read_nothing_of_what_changed_are_not_looked_at_in_a_mesh_of_any_size() {
    for namespaces in [5, 20] {
        let mut inputs = mesh(namespaces);
        inputs.resources.extend(resources(&treatment(namespaces)));
        let snapshot = Snapshot::new(inputs.clone()).0;
        for (change, concerned) in CHANGES.iter().zip(CONCERNED) {
            let mut fleet = Fleet::of(&inputs, &snapshot);
            let change = object_change(&inputs, change);
            let ips = Arc::clone(&inputs.cluster_ips);
            let (next, _) = snapshot.after(vec![change.clone()], ips, &[]).unwrap();
            let told: Vec<String> = fleet.change(&next).0.into_keys().collect();
            assert_eq!(told, concerned, "{change:?}");
        }
    }
}

/// A change to an object that may be there.
fn object_change(inputs: &SnapshotInputs, yaml: &str) -> ObjectChange {
    let new = resources(yaml).remove(0);
    let is_old = |old: &&lateen_api::Resource| old.kind == new.kind && old.key() == new.key();
    ObjectChange {
        old: inputs.resources.iter().find(is_old).cloned(),
        new: Some(new),
    }
}

/// Allocations, and their bytes, of the snapshot after a change that is told of by itself.
fn work_of_following(change: &str, namespaces: usize) -> (u64, usize) {
    let mut inputs = mesh(namespaces);
    inputs.resources.extend(resources(&treatment(namespaces)));
    let snapshot = Snapshot::new(inputs.clone()).0;
    let change = object_change(&inputs, change);
    let before = (ALLOCATIONS.get(), BYTES.get());
    let next = snapshot.after(vec![change], inputs.cluster_ips, &[]);
    let made = (ALLOCATIONS.get() - before.0, BYTES.get() - before.1);
    assert!(next.is_some());
    made
}

#[test]
fn a_snapshot_that_follows_from_a_change_is_as_much_work_in_a_mesh_of_any_size() {
    for (change, at_most) in CHANGES.into_iter().zip(BYTES_AT_MOST) {
        let (small, large) = (
            work_of_following(change, 10),
            work_of_following(change, 100),
        );
        println!(
            "{small:?} allocations and bytes, and {large:?} in a mesh ten times as large: {change}"
        );
        assert!(2 * large.0 <= 3 * small.0, "{large:?}, {small:?}: {change}");
        assert!(
            100 * large.1 <= at_most * small.1,
            "{large:?}, {small:?}: {change}"
        );
    }
}

#[test]
fn a_change_makes_as_little_of_a_snapshot_anew_in_a_mesh_of_any_size() {
    for change in CHANGES {
        let (small, large) = (allocations_for(change, 10), allocations_for(change, 100));
        println!(
            "{small} allocations in the small mesh, {large} in one ten times as large: {change}"
        );
        assert!(
            large * 2 <= small * 3,
            "{large} allocations instead of {small}: {change}"
        );
    }
}

/// Allocations, and their bytes, of the snapshot after a pod of a namespace of so many services and pods has changed.
fn work_of_a_pod(services: usize, change: impl FnOnce(&mut Pod)) -> (u64, usize) {
    let mut yaml = String::new();
    let mut pods = Vec::new();
    for n in 0..services {
        writeln!(
            yaml,
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s{n}, namespace: one}}\nspec: {{clusterIP: 10.96.{}.{}, selector: {{app: \
             s{n}, version: v1}}, ports: [{{name: http, port: 80}}]}}\n---",
            n / 256,
            n % 256
        )
        .unwrap();
        pods.push(Pod {
            ips: vec![IpAddr::from([10, 1, (n / 256) as u8, (n % 256) as u8])],
            ..pod("one", &format!("s{n}-0"), &format!("s{n}"), "v1", 0)
        });
    }
    let snapshot = Snapshot::new(World::new(&yaml, pods.clone()).inputs()).0;
    let mut pod = pods.swap_remove(7);
    change(&mut pod);
    let changed = [PodChange::Is(Arc::new(pod))];
    let before = (ALLOCATIONS.get(), BYTES.get());
    let next = snapshot.with_pods(&changed);
    let made = (ALLOCATIONS.get() - before.0, BYTES.get() - before.1);
    assert_eq!(next.0.services().count(), services);
    made
}

#[test]
fn a_pod_is_as_much_work_in_a_namespace_of_any_size() {
    let unready = |pod: &mut Pod| pod.ready = false;
    let relabelled = |pod: &mut Pod| drop(pod.labels.insert("app".to_owned(), "s8".to_owned()));
    let changes: [fn(&mut Pod); 2] = [unready, relabelled];
    for change in changes {
        let (small, large) = (work_of_a_pod(200, change), work_of_a_pod(2000, change));
        println!(
            "{small:?} allocations and bytes, and {large:?} in a namespace ten times as large"
        );
        assert!(10 * large.0 <= 11 * small.0, "{large:?}, {small:?}");
        assert!(2 * large.1 <= 3 * small.1, "{large:?}, {small:?}");
    }
}
