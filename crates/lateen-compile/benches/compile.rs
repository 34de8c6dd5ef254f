//! What a proxy costs the compiler: all of its configuration from nothing, another proxy of the same namespace, and what follows a change.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use lateen_api::{SourceFile, parse_file};
use lateen_compile::{
    Compiler, Pod, PodChange, PodRole, ProxyKind, ProxyNode, Snapshot, SnapshotInputs,
};

/// What each of a hundred services has besides itself.
const KINDS: &[(&str, &str)] = &[
    ("http", ""),
    ("tcp", ""),
    (
        "http_with_routes",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: NAME, namespace: a}\nspec:\n  hosts: [NAME]\n  http:\n  - match: [{uri: {prefix: /v2}}]\n    route: [{destination: {host: NAME, subset: v2}}]\n  - route: [{destination: {host: NAME, subset: v1}}]\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: NAME, namespace: a}\nspec:\n  host: NAME\n  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]\n---\n",
    ),
    (
        "http_with_policies",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: NAME, namespace: a}\nspec:\n  rules: [{from: [{source: {namespaces: [b]}}], to: [{operation: {paths: [/NAME/*]}}]}]\n---\n",
    ),
];

fn inputs(kind: &str, more: &str, count: usize) -> SnapshotInputs {
    let mut yaml = String::new();
    let (port, number) = if kind == "tcp" {
        ("tcp", 3306)
    } else {
        ("http", 80)
    };
    for index in 0..count {
        let [_, _, c, d] = u32::try_from(index).unwrap_or(0).to_be_bytes();
        let name = format!("service-{index:05}");
        // A string takes whatever is written.
        let _ = write!(
            yaml,
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: a}}\nspec: {{clusterIP: 10.96.{c}.{d}, selector: \
             {{app: {name}}}, ports: [{{name: {port}, port: {number}}}]}}\n---\n{}",
            more.replace("NAME", &name)
        );
    }
    let file = SourceFile::new("bench.yaml", yaml.as_str());
    SnapshotInputs {
        resources: parse_file(&file, "a").resources,
        pods: (0..count).map(pod).collect(),
        ..SnapshotInputs::default()
    }
}

fn pod(index: usize) -> Pod {
    let [_, _, c, d] = u32::try_from(index).unwrap_or(0).to_be_bytes();
    let app = format!("service-{index:05}");
    Pod {
        namespace: "a".to_owned(),
        name: format!("{app}-0"),
        labels: BTreeMap::from([
            ("app".to_owned(), app),
            ("version".to_owned(), "v1".to_owned()),
        ]),
        ips: vec![IpAddr::from([10, 64, c, d])],
        ready: true,
        role: PodRole::Sidecar,
        ..Pod::default()
    }
}

fn node(pod: &Pod) -> ProxyNode {
    ProxyNode {
        kind: ProxyKind::Sidecar,
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        labels: pod.labels.clone(),
        ips: pod.ips.clone(),
        dns_domain: "a.svc.cluster.local".to_owned(),
        dns_capture: true,
        native: true,
        ..ProxyNode::default()
    }
}

fn generators(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile_100_services");
    let first = node(&pod(0));
    for (kind, more) in KINDS {
        let (snapshot, _) = Snapshot::new(inputs(kind, more, 100));
        group.bench_function(*kind, |bencher| {
            bencher.iter_batched(
                Compiler::new,
                |c| c.compile(&snapshot, &first),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn changes(criterion: &mut Criterion) {
    let (first, second) = (node(&pod(0)), node(&pod(1)));
    for count in [1_000, 10_000] {
        let inputs = inputs("http", "", count);
        let mut group = criterion.benchmark_group(format!("of_{count}_services"));
        group.sample_size(20);
        let (snapshot, _) = Snapshot::new(inputs.clone());
        group.bench_function("snapshot", |bencher| {
            bencher.iter_batched(|| inputs.clone(), Snapshot::new, BatchSize::LargeInput);
        });
        let compiler = Compiler::new();
        compiler.compile(&snapshot, &first);
        group.bench_function("another_proxy", |bencher| {
            bencher.iter(|| black_box(compiler.compile(&snapshot, &second)));
        });
        let (mut current, mut ready) = (snapshot.clone(), true);
        group.bench_function("endpoint_change", |bencher| {
            bencher.iter(|| {
                ready = !ready;
                let change = PodChange::Is(Arc::new(Pod {
                    ready,
                    ..pod(count / 2)
                }));
                current = current.with_pods(&[change]).0;
                black_box(compiler.compile(&current, &first))
            });
        });
        group.finish();
    }
}

criterion_group!(benches, generators, changes);
criterion_main!(benches);
