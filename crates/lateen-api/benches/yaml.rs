//! Reading ten thousand objects.

use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lateen_api::{SourceFile, parse_file};

const OBJECTS: usize = 10_000;

fn manifests() -> String {
    let mut text = String::new();
    for index in 0..OBJECTS / 2 {
        // A string takes whatever is written.
        let _ = write!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: service-{index}\n  namespace: a\n  labels: {{app: service-{index}}}\n\
             spec:\n  selector:\n    app: service-{index}\n  ports:\n  - name: http\n    port: 80\n    targetPort: 8080\n---\n\
             apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: service-{index}, namespace: a}}\nspec:\n  \
             hosts: [service-{index}]\n  http:\n  - match:\n    - uri: {{prefix: /api}}\n      headers: {{end-user: {{exact: jason}}}}\n    \
             timeout: 5s\n    route:\n    - destination: {{host: service-{index}, port: {{number: 80}}}}\n      weight: 100\n---\n"
        );
    }
    text
}

fn yaml(criterion: &mut Criterion) {
    let text = manifests();
    let mut group = criterion.benchmark_group("yaml");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("parse_10000_objects", |bencher| {
        let file = SourceFile::new("bench.yaml", text.as_str());
        bencher.iter(|| black_box(parse_file(black_box(&file), "default")));
    });
    group.finish();
}

criterion_group!(benches, yaml);
criterion_main!(benches);
