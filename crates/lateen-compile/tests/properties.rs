//! What must hold whatever is compiled: order changes nothing, and remembering changes nothing.

mod common;

use common::{BOOKINFO, GATEWAY, World, bookinfo_pods, gateway_pod, router, sidecar};
use lateen_compile::{Compiled, Compiler, Snapshot, SnapshotInputs};
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
}

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
        Edit::MakeStrict => inputs.resources.extend(common::resources(
            "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, \
             metadata: {name: default, namespace: istio-system}, spec: {mtls: {mode: STRICT}}}",
        )),
        _ => {}
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (0..64_usize).prop_map(Edit::Drop),
        (0..64_usize).prop_map(Edit::Unready),
        (0..64_usize).prop_map(Edit::Leave),
        Just(Edit::MakeStrict),
    ]
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
