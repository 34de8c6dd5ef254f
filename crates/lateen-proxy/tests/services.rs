//! What a sidecar holds for each service that it is told of and that nobody calls, in bytes of the heap: counts, so that any machine can
//! hold a change to them.
//!
//! A budget here may go down. One that has to go up is a decision, made in the commit that raises it.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "support/ads.rs"]
mod ads;
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use ads::{Mesh, proxy, serve};
use lateen_api::{SourceFile, parse_file};
use lateen_compile::{Compiler, ProxyKind, ProxyNode, Snapshot, SnapshotInputs};
use lateen_envoy::{ResourceSet, TypeUrl};
use support::identity::Root;

/// Counts the bytes of threads that do not opt out.
struct Counting;

/// Bytes there are now.
static LIVE: AtomicI64 = AtomicI64::new(0);
/// Bytes there are now in pieces by their size in steps of [`STEP`].
static PIECES: [AtomicI64; 512] = [const { AtomicI64::new(0) }; 512];
const STEP: usize = 16;

thread_local! {
    static UNCOUNTED: Cell<bool> = const { Cell::new(false) };
}

fn count(size: usize, sign: i64) {
    if !UNCOUNTED.try_with(Cell::get).unwrap_or(true) {
        let bytes = sign * i64::try_from(size).unwrap_or(0);
        LIVE.fetch_add(bytes, Ordering::Relaxed);
        PIECES[(size / STEP).min(PIECES.len() - 1)].fetch_add(bytes, Ordering::Relaxed);
    }
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait")]
// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

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

/// The bytes that a proxy holds once it has settled, and of pieces of which size they are.
async fn held(count: usize) -> (i64, Vec<i64>) {
    let before = LIVE.load(Ordering::Relaxed);
    let pieces = || PIECES.iter().map(|bytes| bytes.load(Ordering::Relaxed));
    let pieces_before: Vec<i64> = pieces().collect();
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
    let held = LIVE.load(Ordering::Relaxed) - before;
    let by_size = pieces().zip(pieces_before).map(|(now, then)| now - then);
    let by_size = by_size.collect();
    handle.shutdown().await;
    serving.abort();
    (held, by_size)
}

#[tokio::test(flavor = "current_thread")]
async fn services_that_nobody_calls_stay_within_their_budget() {
    UNCOUNTED.set(true);
    let more = i64::try_from(MANY - FEW).unwrap();
    let (few, few_by_size) = held(FEW).await;
    let (many, many_by_size) = held(MANY).await;
    let each = (many - few) / more;
    for (at, (few, many)) in few_by_size.iter().zip(&many_by_size).enumerate() {
        if (many - few) / more >= 16 {
            println!(
                "{:>6} bytes in pieces of {}",
                (many - few) / more,
                at * STEP
            );
        }
    }
    println!("{each} bytes for each service, budget {EACH}");
    assert!(each <= EACH, "{each} bytes, the budget is {EACH}");
}
