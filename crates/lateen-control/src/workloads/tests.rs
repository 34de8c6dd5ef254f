//! Tests of workloads that register themselves.

use std::net::IpAddr;

use lateen_api::{SourceFile, parse_file};
use lateen_compile::ProxyKind;

use super::*;

const GROUP: &str = "
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: web, namespace: vms}
spec:
  metadata: {labels: {app: legacy, class: vm}, annotations: {team: a}}
  template: {serviceAccount: web, ports: {http: 8080}, labels: {app: template}, weight: 5}
";
const PROBED_ENTRY: &str = "
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: manual, namespace: vms, annotations: {proxy.istio.io/health-checks-enabled: 'true'}}
spec: {address: 10.0.0.5}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: plain, namespace: vms}
spec: {address: 10.0.0.6}
";

fn resources(yaml: &str) -> Vec<Resource> {
    let parsed = parse_file(&SourceFile::new("a.yaml", yaml), "default");
    assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
    parsed.resources
}

fn node(address: [u8; 4]) -> ProxyNode {
    ProxyNode {
        id: format!("sidecar~{address:?}~vm.vms~vms.svc.cluster.local"),
        kind: ProxyKind::Sidecar,
        namespace: "vms".to_owned(),
        ips: vec![IpAddr::from(address)],
        labels: [("class".to_owned(), "own".to_owned())].into(),
        auto_register_group: "web".to_owned(),
        ..ProxyNode::default()
    }
}

fn identity(account: &str) -> SpiffeId {
    SpiffeId::parse(format!("spiffe://cluster.local/ns/vms/sa/{account}").as_bytes()).unwrap()
}

/// The names of what is added to no files at all.
fn names(workloads: &Workloads) -> Vec<String> {
    let registered = workloads.watch().borrow().clone();
    let added = registered.apply(Vec::new());
    added.iter().map(|entry| entry.name().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_workload_is_an_entry_of_its_group_while_it_is_connected_and_for_a_grace_period() {
    let workloads = Workloads::new(GRACE);
    let known = Known::of(&resources(GROUP));
    let mut node = node([10, 0, 0, 7]);
    let claim = workloads
        .connect(&mut node, Some(&identity("web")), &known)
        .unwrap()
        .unwrap();
    let other = workloads
        .connect(&mut node, Some(&identity("web")), &known)
        .unwrap()
        .unwrap();
    let registered = workloads.watch().borrow().clone();
    let [entry] = &registered.apply(Vec::new())[..] else {
        panic!()
    };
    assert_eq!((entry.namespace(), entry.name()), ("vms", "web-10.0.0.7"));
    let spec = entry.spec_as::<WorkloadEntry>().unwrap();
    assert_eq!(
        (spec.address.as_str(), spec.weight, spec.ports["http"]),
        ("10.0.0.7", 5, 8080)
    );
    assert_eq!(
        (spec.labels["app"].as_str(), spec.labels["class"].as_str()),
        ("legacy", "own")
    );
    assert_eq!(entry.meta.annotations["team"], "a");
    assert_eq!(node.labels, spec.labels);

    other.release().await;
    assert_eq!(
        names(&workloads),
        ["web-10.0.0.7"],
        "another stream is open"
    );
    let leaving = tokio::spawn(claim.release());
    tokio::time::sleep(GRACE / 2).await;
    assert_eq!(names(&workloads), ["web-10.0.0.7"]);
    // It comes back in time: the end of that period is not the end of the entry.
    let back = workloads
        .connect(&mut node, Some(&identity("web")), &known)
        .unwrap()
        .unwrap();
    leaving.await.unwrap();
    assert_eq!(names(&workloads), ["web-10.0.0.7"]);
    back.release().await;
    assert!(names(&workloads).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_probed_workload_counts_only_once_it_has_said_that_it_is_well() {
    let workloads = Workloads::new(GRACE);
    let known = Known::of(&resources(GROUP));
    let mut node = ProxyNode {
        readiness_probe: true,
        ..node([10, 0, 0, 7])
    };
    let _claim = workloads
        .connect(&mut node, Some(&identity("web")), &known)
        .unwrap();
    assert!(names(&workloads).is_empty());
    workloads.health(&node.id, None);
    assert_eq!(names(&workloads), ["web-10.0.0.7"]);
    workloads.health("somebody", Some("else"));
    workloads.health(&node.id, Some("down"));
    assert!(names(&workloads).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_entry_in_a_file_that_is_probed_needs_its_proxy_to_vouch_for_it() {
    let workloads = Workloads::new(GRACE);
    let files = resources(PROBED_ENTRY);
    let shown = |workloads: &Workloads| {
        let registered = workloads.watch().borrow().clone();
        let all = registered.apply(files.clone());
        all.iter()
            .map(|entry| entry.name().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(shown(&workloads), ["plain"]);
    let known = Known::of(&files);
    let mut node = ProxyNode {
        auto_register_group: String::new(),
        workload_entry: "manual".to_owned(),
        ..node([10, 0, 0, 5])
    };
    let claim = workloads
        .connect(&mut node, Some(&identity("any")), &known)
        .unwrap()
        .unwrap();
    workloads.health(&node.id, None);
    assert_eq!(shown(&workloads), ["manual", "plain"]);
    claim.release().await;
    assert_eq!(shown(&workloads), ["plain"]);
}

#[test]
fn nobody_registers_for_a_group_that_is_not_there_or_not_theirs() {
    let workloads = Workloads::new(GRACE);
    let known = Known::of(&resources(GROUP));
    let refused = |node: ProxyNode, id: Option<SpiffeId>| {
        let connected = workloads.connect(&mut node.clone(), id.as_ref(), &known);
        connected.unwrap_err().code()
    };
    let unknown = ProxyNode {
        auto_register_group: "other".to_owned(),
        ..node([10, 0, 0, 7])
    };
    assert_eq!(
        refused(unknown, Some(identity("web"))),
        tonic::Code::FailedPrecondition
    );
    assert_eq!(
        refused(node([10, 0, 0, 7]), Some(identity("else"))),
        tonic::Code::PermissionDenied
    );
    assert_eq!(
        refused(node([10, 0, 0, 7]), None),
        tonic::Code::PermissionDenied
    );
    let nowhere = ProxyNode {
        ips: Vec::new(),
        ..node([10, 0, 0, 7])
    };
    assert_eq!(
        refused(nowhere, Some(identity("web"))),
        tonic::Code::InvalidArgument
    );
    assert!(names(&workloads).is_empty());
}

#[test]
fn a_name_that_is_too_long_keeps_its_end() {
    let mut node = ProxyNode {
        network: "n1".to_owned(),
        ..node([10, 0, 0, 7])
    };
    assert_eq!(entry_name(&node, "fd00::1"), "web-fd00--1-n1");
    node.auto_register_group = "g".repeat(300);
    let name = entry_name(&node, "10.0.0.7");
    assert_eq!(name.len(), 253);
    assert!(name.ends_with("g-10.0.0.7-n1"));
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_starts_again_knows_who_counted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("workloads.json");
    let known = Known::of(&resources(GROUP));
    let before = Workloads::new(GRACE);
    before.recall(&path, &known); // there is nothing yet
    let web = identity("web");
    for (address, readiness_probe) in [(7, false), (8, false), (9, true)] {
        let mut node = ProxyNode {
            readiness_probe,
            ..node([10, 0, 0, address])
        };
        before.connect(&mut node, Some(&web), &known).unwrap();
    }
    let writing = Arc::clone(&before);
    let to = path.clone();
    let writing = tokio::spawn(async move { writing.write_down(to).await });
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    writing.abort();

    let after = Workloads::new(GRACE);
    after.recall(&path, &known);
    let all = ["web-10.0.0.7", "web-10.0.0.8"];
    assert_eq!(
        names(&after),
        all,
        "the third has never said that it is well"
    );
    let again = after
        .connect(&mut node([10, 0, 0, 7]), Some(&web), &known)
        .unwrap();
    tokio::time::sleep(RETURN + GRACE).await;
    assert_eq!(names(&after), ["web-10.0.0.7"], "the other did not return");
    drop(again);

    let moved = Workloads::new(GRACE);
    moved.recall(&path, &Known::default());
    assert!(names(&moved).is_empty(), "the group is gone");
    std::fs::write(&path, "no list").unwrap();
    moved.recall(&path, &known);
    assert!(names(&moved).is_empty(), "what cannot be read is nobody");
}
