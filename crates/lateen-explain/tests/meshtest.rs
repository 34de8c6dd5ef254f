//! The repository's own assertions about its examples, which are those of the pattern documents users come from.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::directory;
use lateen_api::SourceFile;
use lateen_api::diagnostic::Diagnostic;
use lateen_explain::meshtest::{CaseResult, Coverage, TestFile, junit};
use lateen_explain::{Mesh, Options};

fn read(path: &Path) -> TestFile {
    let text = std::fs::read_to_string(path).expect("a test file");
    let (file, found) = TestFile::parse(&SourceFile::new(&path.to_string_lossy(), &text));
    assert!(!found.iter().any(Diagnostic::is_error), "{found:#?}");
    file
}

fn examples() -> Vec<PathBuf> {
    let dirs = std::fs::read_dir("../../examples").expect("examples");
    let files = dirs
        .filter_map(|entry| std::fs::read_dir(entry.ok()?.path()).ok())
        .flatten();
    let mut files: Vec<PathBuf> = files
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(".meshtest.yaml"))
        .collect();
    files.sort();
    files
}

fn failures(results: &[CaseResult]) -> Vec<String> {
    let failed = results.iter().flat_map(|result| {
        let of = move |failure: &lateen_explain::meshtest::Failure| {
            format!("{}: {}: {}", result.name, failure.field, failure.message)
        };
        result.failures.iter().map(of)
    });
    failed.collect()
}

#[test]
fn the_examples_do_what_their_assertions_say() {
    let mut meshes: BTreeMap<String, Mesh> = BTreeMap::new();
    let files = examples();
    assert!(files.len() >= 7, "{files:?}");
    for path in files {
        let dir = path
            .parent()
            .and_then(Path::file_name)
            .expect("a directory");
        let dir = format!("examples/{}", dir.to_string_lossy());
        let mesh = meshes.entry(dir.clone()).or_insert_with(|| directory(&dir));
        let results = read(&path)
            .run(mesh, Options::default())
            .expect("clients that exist");
        assert_eq!(
            failures(&results),
            Vec::<String>::new(),
            "{}",
            path.display()
        );
    }
}

fn run(text: &str) -> Vec<CaseResult> {
    let mesh = directory("examples/patterns");
    let (file, found) = TestFile::parse(&SourceFile::new("own.meshtest.yaml", text));
    assert!(found.is_empty(), "{found:#?}");
    file.run(&mesh, Options::default())
        .expect("clients that exist")
}

#[test]
fn what_is_not_as_asserted_is_told_with_what_is() {
    let results = run(r"
from: deploy/shop
tests:
- request: GET http://user-service/
  expect:
    to: {user-service/v1: 50%}
    timeout: 1s
    retries: 7
    tls: DISABLE
- request: POST http://reviews/
  expect: {verdict: allow}
- request: GET http://reviews/
  expect: {verdict: deny, path: /other, mirror: {reviews/v2: 10}}
");
    let told = failures(&results).join("\n");
    for part in [
        "to: expected 50% to user-service/v1, it is 95%",
        "timeout: expected 1s, it is none",
        "retries: expected 7 retries, there are 2",
        "tls: expected \"DISABLE\", it is \"ISTIO_MUTUAL\"",
        "verdict: expected success, it is 403",
        "verdict: expected deny, it is reaches",
        "path: expected \"/other\", it is \"/\"",
        "mirror: expected 10% to reviews/v2, it is 100%",
    ] {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
    assert_eq!(results[0].failures[0].source.line, 6);
}

#[test]
fn a_denial_nobody_asserted_is_a_failure() {
    let results = run("from: deploy/shop\ntests:\n- request: POST http://reviews/\n");
    assert!(!results[0].passed());
}

#[test]
fn mistakes_in_a_test_are_diagnostics_with_their_place() {
    let text = "tests:\n- request: GET ftp://x/\n- request: curl --proxy x http://y/\n";
    let (_, found) = TestFile::parse(&SourceFile::new("own.meshtest.yaml", text));
    let lines: Vec<u32> = found
        .iter()
        .filter_map(|d| Some(d.span.as_ref()?.line))
        .collect();
    assert_eq!(lines, [2, 3]);

    let (file, _) = TestFile::parse(&SourceFile::new(
        "own.meshtest.yaml",
        "from: deploy/nobody\ntests:\n- request: GET http://reviews/\n",
    ));
    let wrong = file
        .run(&directory("examples/patterns"), Options::default())
        .expect_err("unknown client");
    assert!(
        wrong[0]
            .message
            .contains("there is no workload `deploy/nobody`")
    );
}

#[test]
fn coverage_names_the_rules_no_test_took() {
    let mesh = directory("examples/patterns");
    let (file, _) = TestFile::parse(&SourceFile::new(
        "own.meshtest.yaml",
        "from: deploy/shop\ntests:\n- request: GET http://user-service/\n  headers: {canary: 'true'}\n",
    ));
    let results = file.run(&mesh, Options::default()).expect("results");
    let coverage = Coverage::of(&mesh, &results);
    let missing: Vec<String> = coverage
        .missing()
        .filter(|place| place.object.ends_with("/user-service"))
        .map(|place| place.field.clone())
        .collect();
    assert_eq!(missing, ["spec.http[1].route[0]", "spec.http[1].route[1]"]);
    assert!(coverage.exercised() > 0);
}

#[test]
fn junit_holds_every_test_and_escapes_what_users_write() {
    let results = run(
        "from: deploy/shop\ntests:\n- name: 'a < b & \"c\"'\n  request: POST http://reviews/\n- request: GET http://reviews/\n",
    );
    let xml = junit(&[("x.meshtest.yaml".to_owned(), results)]);
    assert!(xml.contains("tests=\"2\" failures=\"1\""), "{xml}");
    assert!(
        xml.contains("name=\"a &lt; b &amp; &quot;c&quot;\""),
        "{xml}"
    );
}
