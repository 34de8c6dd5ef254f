//! Which resources are accepted: the verdict of parsing and validation against that of Istio's custom resource definitions.
//!
//! The verdict has to agree. The wording is Kubernetes', which ours is not: how often it is contained is a second number.

use std::path::Path;

use anyhow::Result;
use lateen_api::{SourceFile, parse_file, validate};
use serde::Deserialize;

use super::{Finding, Outcome, SuiteReport, read_cases};

#[derive(Deserialize)]
struct Case {
    name: String,
    valid: bool,
    #[serde(default)]
    error_contains: Option<String>,
    yaml: String,
}

/// Runs every case.
pub(super) fn run(directory: &Path) -> Result<SuiteReport> {
    let mut report = SuiteReport {
        suite: "crd-validation",
        ..SuiteReport::default()
    };
    let (mut worded, mut invalid) = (0_usize, 0_usize);
    for case in read_cases::<Case>(directory)? {
        let case = match case {
            Ok(case) => case,
            Err(outcome) => {
                report.outcomes.push(outcome);
                continue;
            }
        };
        let errors = errors(&case);
        let mut findings = Vec::new();
        if case.valid != errors.is_empty() {
            findings.push(Finding::new("verdict", expected(&case), got(&errors)));
        }
        if let (false, Some(wording)) = (case.valid, &case.error_contains) {
            invalid += 1;
            worded += usize::from(errors.iter().any(|error| error.contains(wording.as_str())));
        }
        report.outcomes.push(Outcome::of(case.name, findings));
    }
    report.scores.push(format!(
        "{worded} of {invalid} refusals in Kubernetes' words"
    ));
    Ok(report)
}

fn expected(case: &Case) -> String {
    match (case.valid, &case.error_contains) {
        (true, _) => "accepted".to_owned(),
        (false, Some(wording)) => format!("refused ({wording})"),
        (false, None) => "refused".to_owned(),
    }
}

fn got(errors: &[String]) -> String {
    if errors.is_empty() {
        "accepted".to_owned()
    } else {
        format!("refused ({})", errors.join("; "))
    }
}

/// Everything that makes the resource unusable.
fn errors(case: &Case) -> Vec<String> {
    let file = SourceFile::new(case.name.as_str(), case.yaml.as_str());
    let parsed = parse_file(&file, "default");
    let mut found = parsed.diagnostics;
    found.extend(
        parsed
            .resources
            .iter()
            .chain(&parsed.refused)
            .flat_map(validate),
    );
    found
        .iter()
        .filter(|diagnostic| diagnostic.is_error())
        .map(|diagnostic| format!("{}: {}", diagnostic.field, diagnostic.message))
        .collect()
}
