//! What a sidecar holds for each service that it is told of and that nobody calls, in bytes of the heap: counts, so that any machine can
//! hold a change to them.
//!
//! A budget here may go down. One that has to go up is a decision, made in the commit that raises it.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "support/ads.rs"]
mod ads;
#[path = "support/heap.rs"]
mod heap;
mod support;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ads::{Mesh, proxy, serve};
use heap::{Held, opt_out};
use lateen_api::{SourceFile, parse_file};
use lateen_compile::{Compiler, ProxyKind, ProxyNode, Snapshot, SnapshotInputs};
use lateen_envoy::{ResourceSet, TypeUrl};
use support::identity::Root;

/// Services told of in the smaller and the larger mesh. Both beyond what is kept compiled because it is little.
const FEW: usize = 200;
const MANY: usize = 1200;
/// Bytes of the heap for each of them: its cluster, its endpoints, its virtual host, and every place that has its names.
const EACH: i64 = 5_000;

/// Services with an address behind each, as `lateen-bench footprint` has them.
fn services(count: usize) -> ResourceSet {
    let mut yaml = String::new();
    for index in 0..count {
        let (name, port) = (format!("other-{index:05}"), [8080, 9090, 7070][index % 3]);
        let [_, _, c, d] = u32::try_from(index).unwrap().to_be_bytes();
        write!(
            yaml,
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: others}}\nspec:\n  clusterIP: 10.96.{c}.{d}\n  \
             ports: [{{name: http, port: {port}}}]\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: \
             {name}-1, namespace: others, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{name: http, \
             port: {port}}}]\nendpoints: [{{addresses: [10.128.{c}.{d}]}}]\n---\n"
        )
        .unwrap();
    }
    let parsed = parse_file(&SourceFile::new("services.yaml", yaml.as_str()), "others");
    let (snapshot, _) = Snapshot::new(SnapshotInputs {
        resources: parsed.resources,
        ..SnapshotInputs::default()
    });
    let node = ProxyNode {
        id: "sidecar~10.244.0.1~web.foo~foo.svc.cluster.local".to_owned(),
        kind: ProxyKind::Sidecar,
        namespace: "foo".to_owned(),
        name: "web".to_owned(),
        ips: vec![IpAddr::from([10, 244, 0, 1])],
        dns_domain: "foo.svc.cluster.local".to_owned(),
        ..ProxyNode::default()
    };
    let mut set = Compiler::new().compile(&snapshot, &node).resources;
    // Those that bind ports would be in the way of other tests, and are as large in any mesh.
    let listeners = set.get(TypeUrl::Listener);
    let unbound = listeners
        .iter()
        .filter(|(name, _)| !name.starts_with("virtual"));
    let unbound = unbound.map(|(name, listener)| (Arc::clone(name), listener.clone()));
    set.set(TypeUrl::Listener, Arc::new(unbound.collect()));
    set
}

/// What a proxy holds once it has settled.
async fn held(count: usize) -> Held {
    let before = Held::now();
    let set = services(count);
    for ty in [
        TypeUrl::Cluster,
        TypeUrl::ClusterLoadAssignment,
        TypeUrl::RouteConfiguration,
    ] {
        let bytes: usize = set.get(ty).values().map(|one| one.body.value.len()).sum();
        println!(
            "{count} services: {ty} has {} bytes for each",
            bytes / count
        );
    }
    let mesh = Mesh::new(Some(set));
    let (server, serving) = serve(&mesh).await;
    let handle = proxy(server, Some(Root::new().workload("web")));
    let ready = tokio::time::timeout(Duration::from_secs(60), handle.ready()).await;
    assert!(ready.unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let held = Held::now().since(&before);
    handle.shutdown().await;
    serving.abort();
    held
}

#[tokio::test(flavor = "current_thread")]
async fn services_that_nobody_calls_stay_within_their_budget() {
    opt_out();
    let more = i64::try_from(MANY - FEW).unwrap();
    let few = held(FEW).await;
    let grown = held(MANY).await.since(&few);
    grown.print(more);
    let each = grown.bytes / more;
    println!("{each} bytes for each service, budget {EACH}");
    assert!(each <= EACH, "{each} bytes, the budget is {EACH}");
}
