//! What must hold whatever is compiled: order changes nothing, and remembering changes nothing.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::{BOOKINFO, GATEWAY, World, bookinfo_pods, gateway_pod, router, sidecar};
use lateen_api::networking::{ServiceEntry, WorkloadEntry};
use lateen_api::{Resource, kube};
use lateen_compile::{
    Compiled, Compiler, ObjectChange, Pod, PodChange, ProxyNode, Snapshot, SnapshotInputs,
};
use lateen_envoy::TypeUrl;
use proptest::prelude::*;

fn inputs() -> SnapshotInputs {
    let mut pods = bookinfo_pods();
    pods.push(gateway_pod(100));
    World::new(&format!("{BOOKINFO}\n---\n{GATEWAY}"), pods).inputs()
}

/// Every byte of every resource, with names and versions.
fn bytes(compiled: &Compiled) -> Vec<(TypeUrl, String, Vec<u8>)> {
    compiled
        .resources
        .iter()
        .flat_map(|(ty, resources)| {
            resources
                .values()
                .map(move |r| (ty, r.name.to_string(), r.body.value.clone()))
        })
        .collect()
}

fn compile_all(
    compiler: &Compiler,
    inputs: SnapshotInputs,
) -> Vec<Vec<(TypeUrl, String, Vec<u8>)>> {
    let pods = bookinfo_pods();
    let (snapshot, _) = Snapshot::new(inputs);
    let mut native = sidecar(&pods[1]);
    native.native = true;
    [sidecar(&pods[0]), native, router(&gateway_pod(100))]
        .iter()
        .map(|node| bytes(&compiler.compile(&snapshot, node)))
        .collect()
}

/// An edit of the world.
#[derive(Clone, Debug)]
enum Edit {
    Drop(usize),
    Unready(usize),
    Leave(usize),
    MakeStrict,
    Relabel(usize, usize),
    Join(usize),
    Write(usize),
    Readdress(u8),
}

/// Objects that say how traffic is treated, of which some have a part in others; and services, with what lists their endpoints.
const WRITTEN: [&str; 32] = [
    "{apiVersion: v1, kind: Service, metadata: {name: new, namespace: default}, \
     spec: {clusterIP: 10.96.7.1, selector: {app: echo}, ports: [{name: http, port: 80}]}}",
    "{apiVersion: v1, kind: Service, metadata: {name: ratings, namespace: default}, \
     spec: {clusterIP: 10.96.7.2, selector: {app: reviews}, ports: [{name: http, port: 9080}, {name: tcp, port: 91}]}}",
    "{apiVersion: v1, kind: Service, metadata: {name: ratings, namespace: default, creationTimestamp: '2026-01-01T00:00:00Z'}, \
     spec: {clusterIP: 10.96.7.2, selector: {app: ratings}, ports: [{name: http, port: 9080}]}}",
    "{apiVersion: v1, kind: Service, metadata: {name: listed, namespace: default}, \
     spec: {clusterIP: 10.96.0.9, ports: [{name: http, port: 8000}, {name: grpc, port: 8001}]}}",
    "{apiVersion: v1, kind: Service, metadata: {name: alias, namespace: default}, \
     spec: {type: ExternalName, externalName: ratings.default.svc.cluster.local}}",
    "{apiVersion: v1, kind: Service, metadata: {name: alias, namespace: default}, \
     spec: {clusterIP: None, selector: {app: ratings}, ports: [{name: http, port: 80}]}}",
    "{apiVersion: v1, kind: Service, metadata: {name: elsewhere, namespace: other}, \
     spec: {selector: {app: ratings}, ports: [{name: http, port: 80}]}}",
    "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: listed-1, namespace: default, \
     labels: {kubernetes.io/service-name: listed}}, addressType: IPv4, ports: [{name: http, port: 8000}], \
     endpoints: [{addresses: [10.244.0.14]}]}",
    "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: listed-1, namespace: default, \
     labels: {kubernetes.io/service-name: new}}, addressType: IPv4, ports: [{name: http, port: 8000}], \
     endpoints: [{addresses: [10.244.0.13]}]}",
    "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: listed-2, namespace: default, \
     labels: {kubernetes.io/service-name: listed}}, addressType: IPv4, ports: [{name: http, port: 8002}], \
     endpoints: [{addresses: [10.244.0.13]}, {addresses: [172.16.0.1]}]}",
    "{apiVersion: v1, kind: Endpoints, metadata: {name: listed, namespace: default}, \
     subsets: [{addresses: [{ip: 10.244.0.12}], ports: [{name: http, port: 8003}]}]}",
    "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: door, namespace: default}, spec: {rules: [{host: a.example, \
     http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: ratings, port: {name: http}}}}]}}]}}",
    "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: ratings, namespace: default}, \
     spec: {hosts: [ratings], http: [{timeout: 1s, route: [{destination: {host: ratings}}]}]}}",
    "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: root, namespace: default}, \
     spec: {hosts: [reviews], http: [{match: [{uri: {prefix: /a}}], delegate: {name: part}}]}}",
    "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: part, namespace: default}, \
     spec: {http: [{match: [{uri: {prefix: /a/b}}], route: [{destination: {host: reviews}}]}]}}",
    "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: again, namespace: default}, \
     spec: {host: ratings, subsets: [{name: v1, labels: {version: v1}}]}}",
    "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: some, namespace: default}, \
     spec: {rules: [{to: [{operation: {paths: [/x]}}]}]}}",
    "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: all, namespace: istio-system}, spec: {}}",
    "{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {name: logs, namespace: istio-system}, \
     spec: {accessLogging: [{providers: [{name: envoy}]}]}}",
    "{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: default, namespace: default}, \
     spec: {egress: [{hosts: ['./*']}]}}",
    // What another namespace says, which some see and some do not.
    "{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: default, namespace: other}, \
     spec: {egress: [{hosts: ['./*', 'default/reviews.default.svc.cluster.local']}]}}",
    "{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: default, namespace: other}, \
     spec: {egress: [{hosts: ['./*']}]}}",
    "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: ratings, namespace: default}, \
     spec: {hosts: [ratings], http: [{route: [{destination: {host: elsewhere.other.svc.cluster.local}}]}]}}",
    "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: far, namespace: other}, \
     spec: {hosts: [elsewhere], http: [{timeout: 2s, route: [{destination: {host: reviews.default.svc.cluster.local}}]}]}}",
    "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: far, namespace: other}, \
     spec: {hosts: [elsewhere], http: [{timeout: 3s, route: [{destination: {host: elsewhere}}]}]}}",
    "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: far, namespace: other, \
     creationTimestamp: '2026-01-01T00:00:00Z'}, spec: {hosts: [elsewhere], http: [{match: [{sourceLabels: {app: far}}], \
     route: [{destination: {host: elsewhere}}]}]}}",
    "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: reviews, namespace: other}, \
     spec: {hosts: [reviews.default.svc.cluster.local], exportTo: ['.'], http: [{timeout: 4s, route: [{destination: {host: reviews.default.svc.cluster.local}}]}]}}",
    "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: far, namespace: other}, \
     spec: {host: elsewhere, subsets: [{name: v1, labels: {version: v1}}]}}",
    "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: reviews, namespace: other}, \
     spec: {host: reviews.default.svc.cluster.local, trafficPolicy: {loadBalancer: {simple: RANDOM}}}}",
    "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: wide, namespace: istio-system}, \
     spec: {host: '*.local', trafficPolicy: {loadBalancer: {simple: LEAST_REQUEST}}}}",
    "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: far, namespace: other}, \
     spec: {rules: [{to: [{operation: {paths: [/y]}}]}]}}",
    "{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {name: far, namespace: other}, \
     spec: {accessLogging: [{disabled: true}]}}",
];

fn apply(inputs: &mut SnapshotInputs, edit: &Edit) {
    match edit {
        Edit::Drop(index) if !inputs.resources.is_empty() => {
            let index = index % inputs.resources.len();
            inputs.resources.remove(index);
        }
        Edit::Unready(index) if !inputs.pods.is_empty() => {
            let index = index % inputs.pods.len();
            inputs.pods[index].ready = !inputs.pods[index].ready;
        }
        Edit::Leave(index) if !inputs.pods.is_empty() => {
            let index = index % inputs.pods.len();
            inputs.pods.remove(index);
        }
        Edit::Relabel(index, to) if !inputs.pods.is_empty() => {
            let (index, to) = (index % inputs.pods.len(), to % inputs.pods.len());
            inputs.pods[index].labels = inputs.pods[to].labels.clone();
        }
        // Another pod of the same workload, perhaps at the address of one that is there.
        Edit::Join(index) if !inputs.pods.is_empty() => {
            let mut pod = inputs.pods[index % inputs.pods.len()].clone();
            pod.name = format!("{}-{index}", pod.name);
            if index.is_multiple_of(2) {
                pod.ips = vec![std::net::IpAddr::from([10, 244, 1, *index as u8])];
            }
            if !inputs.pods.iter().any(|known| known.name == pod.name) {
                inputs.pods.push(pod);
            }
        }
        Edit::Readdress(last) => {
            let key = ("default".to_owned(), "reviews".to_owned());
            let ip = std::net::IpAddr::from([10, 96, 9, *last]);
            Arc::make_mut(&mut inputs.cluster_ips).insert(key, vec![ip]);
        }
        Edit::Write(index) => {
            let new = common::resources(WRITTEN[index % WRITTEN.len()]).remove(0);
            inputs.resources.retain(|old| old.key() != new.key());
            inputs.resources.push(new);
        }
        Edit::MakeStrict => inputs.resources.extend(common::resources(
            "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, \
             metadata: {name: default, namespace: istio-system}, spec: {mtls: {mode: STRICT}}}",
        )),
        _ => {}
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        1 => (0..64_usize).prop_map(Edit::Drop),
        1 => (0..64_usize).prop_map(Edit::Unready),
        1 => (0..64_usize).prop_map(Edit::Leave),
        1 => Just(Edit::MakeStrict),
        1 => (0..3_u8).prop_map(Edit::Readdress),
        1 => (0..64_usize, 0..64_usize).prop_map(|(index, to)| Edit::Relabel(index, to)),
        1 => (0..64_usize).prop_map(Edit::Join),
        3 => (0..64_usize).prop_map(Edit::Write),
    ]
}

/// Objects that find pods in every way there is, and clients that are told apart.
const WAYS: &str = r"
apiVersion: v1
kind: Service
metadata: {name: members, namespace: default}
spec: {clusterIP: None, selector: {app: ratings}, ports: [{name: tcp, port: 7100}]}
---
apiVersion: v1
kind: Service
metadata: {name: listed, namespace: default}
spec: {clusterIP: 10.96.0.9, ports: [{name: http, port: 8000}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: listed-1, namespace: default, labels: {kubernetes.io/service-name: listed}}
addressType: IPv4
ports: [{name: http, port: 8000}]
endpoints: [{addresses: [10.244.0.13]}, {addresses: [10.244.1.4]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: chosen, namespace: default}
spec:
  hosts: [chosen.example]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 8443, name: tcp, protocol: TCP}]
  workloadSelector: {labels: {app: echo}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings, namespace: default}
spec:
  hosts: [ratings]
  http:
  - match: [{sourceLabels: {version: v2}}]
    route: [{destination: {host: reviews}}]
  - route: [{destination: {host: ratings}}]
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: echo, namespace: default}
spec:
  workloadSelector: {labels: {app: echo}}
  egress: [{hosts: ['./ratings.default.svc.cluster.local', './members.default.svc.cluster.local']}]
";

/// One in a namespace of its own.
fn far_pod() -> Pod {
    Pod {
        namespace: "other".to_owned(),
        name: "far-0".to_owned(),
        ips: vec![std::net::IpAddr::from([10, 244, 9, 1])],
        ..bookinfo_pods()[0].clone()
    }
}

fn many_ways() -> SnapshotInputs {
    let mut pods = bookinfo_pods();
    pods.push(gateway_pod(100));
    pods.push(far_pod());
    World::new(&format!("{BOOKINFO}\n---\n{GATEWAY}\n---\n{WAYS}"), pods).inputs()
}

fn nodes() -> Vec<ProxyNode> {
    let pods = bookinfo_pods();
    let mut nodes: Vec<ProxyNode> = pods.iter().map(sidecar).collect();
    nodes[1].native = true;
    nodes.push(router(&gateway_pod(100)));
    nodes.push(sidecar(&far_pod()));
    nodes
}

fn changes(before: &[Pod], after: &[Pod]) -> Vec<PodChange> {
    let is = |a: &Pod, b: &Pod| (&a.namespace, &a.name) == (&b.namespace, &b.name);
    let gone = before
        .iter()
        .filter(|old| !after.iter().any(|new| is(old, new)));
    let gone = gone.map(|pod| PodChange::Gone(pod.namespace.clone(), pod.name.clone()));
    let changed = after.iter().filter(|new| !before.contains(new));
    gone.chain(changed.map(|pod| PodChange::Is(Arc::new(pod.clone()))))
        .collect()
}

/// The snapshot of `after`, by way of the one of `before`.
fn step(last: &Snapshot, before: &SnapshotInputs, after: &SnapshotInputs) -> Snapshot {
    let changes = changes(&before.pods, &after.pods);
    let same = before.resources == after.resources && before.cluster_ips == after.cluster_ips;
    let (next, found) = if same {
        last.with_pods(&changes)
    } else {
        let inputs = SnapshotInputs {
            pods: Vec::new(),
            ..after.clone()
        };
        last.next(inputs, &changes)
    };
    assert_eq!(found, Snapshot::new(after.clone()).1);
    let changed = object_changes(&before.resources, &after.resources);
    let ips = Arc::clone(&after.cluster_ips);
    let Some((straight, found)) = last.after(changed, ips, &changes) else {
        return next;
    };
    assert_eq!(found, Snapshot::new(after.clone()).1);
    // Who follows every step and who follows some is told the same.
    if after.resources.len().is_multiple_of(2) {
        straight
    } else {
        next
    }
}

/// The objects that are not the same, each with what it was.
fn object_changes(before: &[Resource], after: &[Resource]) -> Vec<ObjectChange> {
    let is_same =
        |a: &Resource, b: &Resource| Arc::ptr_eq(&a.meta, &b.meta) && Arc::ptr_eq(&a.spec, &b.spec);
    let missing = |list: &[Resource], other: &[Resource]| -> Vec<Resource> {
        let is_missing = |r: &&Resource| !other.iter().any(|o| is_same(o, r));
        list.iter().filter(is_missing).cloned().collect()
    };
    let (gone, mut come) = (missing(before, after), missing(after, before));
    let mut changes: Vec<ObjectChange> = gone
        .into_iter()
        .map(|old| {
            let again = come
                .iter()
                .position(|new| new.kind == old.kind && new.key() == old.key());
            ObjectChange {
                new: again.map(|at| come.remove(at)),
                old: Some(old),
            }
        })
        .collect();
    let come = come.into_iter().map(|new| ObjectChange {
        old: None,
        new: Some(new),
    });
    changes.extend(come);
    changes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_order_of_inputs_never_changes_a_byte(
        resources in Just(inputs().resources).prop_shuffle(),
        pods in Just(inputs().pods).prop_shuffle(),
    ) {
        let shuffled = SnapshotInputs { resources, pods, ..inputs() };
        prop_assert_eq!(
            compile_all(&Compiler::new(), shuffled),
            compile_all(&Compiler::new(), inputs())
        );
    }

    #[test]
    fn a_compiler_that_remembers_gives_what_one_that_does_not_would(
        edits in prop::collection::vec(edit(), 1..6),
    ) {
        let compiler = Compiler::new();
        let mut world = inputs();
        compile_all(&compiler, world.clone());
        for edit in &edits {
            apply(&mut world, edit);
            prop_assert_eq!(
                compile_all(&compiler, world.clone()),
                compile_all(&Compiler::new(), world.clone())
            );
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_snapshot_that_follows_another_is_what_one_from_nothing_would_be(
        edits in prop::collection::vec(edit(), 1..8),
    ) {
        let compiler = Compiler::new();
        let mut world = many_ways();
        let mut snapshot = Snapshot::new(world.clone()).0;
        let mut held: Vec<Compiled> =
            nodes().iter().map(|node| compiler.compile(&snapshot, node)).collect();
        for edit in &edits {
            let before = world.clone();
            apply(&mut world, edit);
            snapshot = step(&snapshot, &before, &world);
            let fresh = Snapshot::new(world.clone()).0;
            for (node, held) in nodes().iter().zip(&mut held) {
                let wanted = Compiler::new().compile(&fresh, node);
                if !held.also_holds_for(&snapshot, node) {
                    *held = compiler.compile(&snapshot, node);
                }
                prop_assert_eq!(bytes(held), bytes(&wanted), "{}", node.id);
                prop_assert_eq!(&held.diagnostics, &wanted.diagnostics);
            }
        }
    }
}

/// What selects in one namespace, or is selected there.
#[derive(Clone, Debug)]
enum Selecting {
    /// A Service of this number with these labels for its selector.
    Service(usize, Labels),
    /// A ServiceEntry.
    Entry(usize, Labels),
    Workload(usize, Labels),
    Pod(usize, Labels),
    /// Something of this number that is there goes.
    Gone(usize),
}

type Labels = BTreeMap<String, String>;

/// Labels that many have in common, and some that few have.
fn some_labels() -> impl Strategy<Value = Labels> {
    let common = [("team", 2), ("app", 4), ("tier", 2), ("zone", 1)];
    let pairs = (0..8_usize, 0..4_usize).prop_map(move |(key, value)| match common.get(key) {
        Some((key, values)) => ((*key).to_owned(), format!("v{}", value % values)),
        None => (format!("own-{value}"), "true".to_owned()),
    });
    prop::collection::vec(pairs, 0..5).prop_map(|pairs| pairs.into_iter().collect())
}

fn selecting() -> impl Strategy<Value = Selecting> {
    prop_oneof![
        3 => (0..6_usize, some_labels()).prop_map(|(n, labels)| Selecting::Service(n, labels)),
        1 => (0..3_usize, some_labels()).prop_map(|(n, labels)| Selecting::Entry(n, labels)),
        1 => (0..3_usize, some_labels()).prop_map(|(n, labels)| Selecting::Workload(n, labels)),
        4 => (0..9_usize, some_labels()).prop_map(|(n, labels)| Selecting::Pod(n, labels)),
        1 => (0..64_usize).prop_map(Selecting::Gone),
    ]
}

/// Every second thing is in another namespace, where the same labels mean something else.
fn place(number: usize) -> &'static str {
    ["one", "two"][number % 2]
}

fn select(inputs: &mut SnapshotInputs, edit: &Selecting) {
    let write = |kind: &str, n: usize, spec: String| {
        let at = place(n);
        let text = format!(
            "{{{kind}, metadata: {{name: {}-{n}, namespace: {at}}}, spec: {spec}}}",
            kind.len()
        );
        common::resources(&text).remove(0)
    };
    let new = match edit {
        Selecting::Service(n, labels) => write(
            "apiVersion: v1, kind: Service",
            *n,
            format!(
                "{{clusterIP: 10.96.0.{n}, selector: {labels:?}, ports: [{{name: http, port: 80}}]}}"
            ),
        ),
        Selecting::Entry(n, labels) => write(
            "apiVersion: networking.istio.io/v1, kind: ServiceEntry",
            *n,
            format!(
                "{{hosts: [e{n}.example], location: MESH_INTERNAL, resolution: STATIC, ports: [{{number: 80, name: http, protocol: \
                 HTTP}}], workloadSelector: {{labels: {labels:?}}}}}"
            ),
        ),
        Selecting::Workload(n, labels) => write(
            "apiVersion: networking.istio.io/v1, kind: WorkloadEntry",
            *n,
            format!("{{address: 10.7.0.{n}, labels: {labels:?}}}"),
        ),
        Selecting::Pod(n, labels) => {
            let pod = Pod {
                labels: labels.clone(),
                ..common::pod(place(*n), &format!("p{n}"), "", "", *n as u8)
            };
            inputs.pods.retain(|known| known.name != pod.name);
            inputs.pods.push(pod);
            return;
        }
        Selecting::Gone(n) => {
            let all = inputs.resources.len() + inputs.pods.len();
            match n.checked_rem(all) {
                Some(n) if n < inputs.resources.len() => drop(inputs.resources.remove(n)),
                Some(n) => drop(inputs.pods.remove(n - inputs.resources.len())),
                None => {}
            }
            return;
        }
    };
    inputs
        .resources
        .retain(|old| (old.kind, old.key()) != (new.kind, new.key()));
    inputs.resources.push(new);
}

/// The addresses that a selector finds, by looking at everything there is.
fn selected(inputs: &SnapshotInputs, namespace: &str, selector: &Labels) -> BTreeSet<String> {
    let has = |labels: &Labels| {
        selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    };
    let pods = inputs.pods.iter();
    let pods = pods.filter(|pod| pod.namespace == namespace && has(&pod.labels));
    let pods = pods.map(|pod| pod.ips[0].to_string());
    let entries = inputs
        .resources
        .iter()
        .filter(|r| r.namespace() == namespace);
    let entries = entries.filter_map(|r| r.spec_as::<WorkloadEntry>());
    let entries = entries
        .filter(|entry| has(&entry.labels))
        .map(|entry| entry.address.clone());
    pods.chain(entries).collect()
}

/// What each service leads to, as a snapshot says and as everything there is says.
fn behind(inputs: &SnapshotInputs, snapshot: &Snapshot) -> [Vec<BTreeSet<String>>; 2] {
    let mut out = [Vec::new(), Vec::new()];
    for service in snapshot.services() {
        let endpoints = snapshot.endpoints(service, 80).unwrap().iter();
        out[0].push(
            endpoints
                .flat_map(|endpoint| endpoint.addresses.clone())
                .collect(),
        );
        let is_origin =
            |r: &&Resource| r.name() == service.name && r.namespace() == service.namespace;
        let origin = inputs.resources.iter().find(is_origin).unwrap();
        let selector = match origin.spec_as::<kube::Service>() {
            // One that asks for nothing finds nothing.
            Some(service) if service.spec.selector.is_empty() => None,
            Some(service) => Some(&service.spec.selector),
            None => origin
                .spec_as::<ServiceEntry>()
                .and_then(|entry| entry.workload_selector.as_ref())
                .map(|selector| &selector.labels),
        };
        let found = selector.map(|selector| selected(inputs, &service.namespace, selector));
        out[1].push(found.unwrap_or_default());
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn selectors_find_what_looking_at_everything_would(
        edits in prop::collection::vec(selecting(), 1..40),
    ) {
        let mut world = SnapshotInputs::default();
        let mut snapshot = Snapshot::new(world.clone()).0;
        for edit in &edits {
            let before = world.clone();
            select(&mut world, edit);
            snapshot = step(&snapshot, &before, &world);
            let fresh = Snapshot::new(world.clone()).0;
            for snapshot in [&snapshot, &fresh] {
                let [found, wanted] = behind(&world, snapshot);
                prop_assert_eq!(found, wanted, "{:?}", edit);
            }
        }
        let fresh = Snapshot::new(world.clone()).0;
        for pod in world.pods.iter().take(3) {
            let compile = |snapshot| bytes(&Compiler::new().compile(snapshot, &sidecar(pod)));
            prop_assert_eq!(compile(&snapshot), compile(&fresh), "{}", &pod.name);
        }
    }
}

#[test]
fn a_pod_that_comes_or_goes_costs_one_assignment() {
    let compiler = Compiler::new();
    let pods = bookinfo_pods();
    let node = sidecar(&pods[0]);
    let mut world = inputs();
    compiler.compile(&Snapshot::new(world.clone()).0, &node);
    let before = compiler.stats();
    world.pods.retain(|pod| pod.name != "reviews-v1-a");
    compiler.compile(&Snapshot::new(world).0, &node);
    let after = compiler.stats();
    assert_eq!(
        after.endpoints.misses - before.endpoints.misses,
        3,
        "reviews, v1 and v2"
    );
    assert_eq!(after.clusters.misses, before.clusters.misses);
    assert_eq!(after.listeners.misses, before.listeners.misses);
    assert_eq!(after.routes.misses, before.routes.misses);
}
