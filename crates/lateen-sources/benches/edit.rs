//! An edit of one file among a hundred and among a thousand.

#![expect(clippy::expect_used, reason = "a bench ends by it")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use criterion::{Criterion, criterion_group, criterion_main};
use lateen_sources::files::Reader;

/// Services of a file, each with its VirtualService.
const IN_A_FILE: usize = 10;

fn file(number: usize, timeout: u64) -> String {
    let mut text = String::new();
    for service in number * IN_A_FILE..(number + 1) * IN_A_FILE {
        let written = write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{service}}}\n\
             spec: {{selector: {{app: s{service}}}, ports: [{{name: http, port: 80}}]}}\n\
             ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: s{service}}}\n\
             spec: {{hosts: [s{service}], http: [{{timeout: {timeout}s, route: [{{destination: {{host: s{service}}}}}]}}]}}\n"
        );
        written.expect("a string takes what is written");
    }
    text
}

fn write(dir: &Path, number: usize, timeout: u64) -> BTreeSet<PathBuf> {
    let path = dir.join(format!("f{number}.yaml"));
    fs::write(&path, file(number, timeout)).expect("written");
    BTreeSet::from([path])
}

fn edit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("edit");
    for files in [100, 1000] {
        let dir = tempfile::tempdir().expect("a directory");
        for number in 0..files {
            write(dir.path(), number, 1);
        }
        let mut reader = Reader::new(vec![dir.path().to_owned()], "default");
        reader.read().expect("the first reading");
        let mut timeout = 1;
        // What was there before is let go of, too.
        let mut last = None;
        group.bench_function(format!("one_of_{files}_files"), |bencher| {
            bencher.iter(|| {
                timeout += 1;
                let touched = write(dir.path(), files / 2, timeout);
                last = reader.read_touched(&touched);
                assert!(last.is_some());
            });
        });
        group.bench_function(format!("none_of_{files}_files_all_looked_at"), |bencher| {
            bencher.iter(|| reader.read());
        });
    }
    group.finish();
}

criterion_group!(benches, edit);
criterion_main!(benches);
