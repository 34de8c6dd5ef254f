//! Istio's own cases of accepted and refused resources, read in place from `$LATEEN_CONFORMANCE/crd-validation`.
//!
//! The verdict has to agree for every case. The wording is Kubernetes', which ours is not; how often it would be
//! contained is not counted.

use std::path::PathBuf;

use lateen_api::{SourceFile, parse_file, validate};
use serde_json::Value;

#[test]
fn verdicts_agree_with_the_api_server() {
    let Some(root) = std::env::var_os("LATEEN_CONFORMANCE") else {
        eprintln!("SKIPPED crd-validation: LATEEN_CONFORMANCE is not set");
        return;
    };
    let path = PathBuf::from(root).join("crd-validation/cases.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let suite: Value = serde_json::from_str(&text).expect("the cases are JSON");
    let cases = suite["cases"].as_array().expect("the cases are a list");
    let failed: Vec<&Value> = cases.iter().filter(|case| !agrees(case)).collect();
    println!(
        "crd-validation: {} passed, {} failed",
        cases.len() - failed.len(),
        failed.len()
    );
    assert!(failed.is_empty(), "{} cases failed", failed.len());
}

fn agrees(case: &Value) -> bool {
    let name = case["name"].as_str().unwrap_or("(unnamed)");
    let valid = case["valid"]
        .as_bool()
        .expect("a case says whether it is valid");
    let file = SourceFile::new(name, case["yaml"].as_str().expect("a case has text"));
    let parsed = parse_file(&file, "default");
    let mut found = parsed.diagnostics;
    found.extend(
        parsed
            .resources
            .iter()
            .chain(&parsed.refused)
            .flat_map(validate),
    );
    let errors: Vec<String> = found
        .iter()
        .filter(|diagnostic| diagnostic.is_error())
        .map(|diagnostic| format!("{}: {}", diagnostic.field, diagnostic.message))
        .collect();
    let agrees = valid == errors.is_empty();
    if !agrees {
        let expected = case["error_contains"].as_str().unwrap_or_default();
        println!("FAILED {name}: valid {valid}, expected {expected:?}, found {errors:?}");
    }
    agrees
}
