//! The small things, by criterion: the benches of the crates themselves, run by cargo and put together.
//!
//! Times are of this machine at this moment; what they are good for is beside each other, and beside those of another commit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::options::Options;
use crate::report::{Figures, Report, Row};

/// The benches, by crate and name.
const BENCHES: &[(&str, &str)] = &[
    ("lateen-traffic", "route"),
    ("lateen-traffic", "policy"),
    ("lateen-telemetry", "telemetry"),
    ("lateen-compile", "compile"),
    ("lateen-xds", "diff"),
    ("lateen-api", "yaml"),
    ("lateen-sources", "edit"),
];

/// The names of the cases: of the benches, each of which measures several things.
pub(crate) fn cases() -> Vec<String> {
    let names = BENCHES.iter().map(|(_, bench)| (*bench).to_owned());
    names.collect()
}

/// Runs the experiment.
///
/// # Errors
/// A bench does not build, or fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut report = Report::new("micro");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    if Command::new(&cargo).arg("--version").output().is_err() {
        report.skip(
            "cargo is not installed, and the benches are built by it (https://rustup.rs)"
                .to_owned(),
        );
        return report.finish(&options.out);
    }
    let dir = tempfile::tempdir().context("making a directory")?;
    for (package, bench) in BENCHES
        .iter()
        .filter(|(_, bench)| options.wants_case(bench))
    {
        eprintln!("micro: {package}, {bench} …");
        let home = dir.path().join(bench);
        let status = Command::new(&cargo)
            .args([
                "bench",
                "--quiet",
                // All packages, so that features are what they are for the program, and nothing is built anew for them.
                "--workspace",
                "--bench",
                bench,
                "--",
            ])
            .args([
                "--noplot",
                "--measurement-time",
                &options.time.as_secs_f64().to_string(),
            ])
            .env("CRITERION_HOME", &home)
            .status()
            .context("running cargo")?;
        ensure!(
            status.success(),
            "cargo bench of {package} ended with {status}"
        );
        let mut found = Vec::new();
        estimates(&home, &mut found)?;
        found.sort();
        for path in found {
            report.extend([row(&home, &path)?]);
        }
    }
    report.finish(&options.out)
}

/// Finds criterion's newest results below a directory.
fn estimates(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            estimates(&path, found)?;
        } else if path.ends_with("new/estimates.json") {
            found.push(path);
        }
    }
    Ok(())
}

/// A median, and the ends of its confidence interval as further runs.
fn row(home: &Path, path: &Path) -> Result<Row> {
    let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let value: Value = serde_json::from_slice(&text).context("criterion's estimates")?;
    let median = &value["median"];
    let times = [
        &median["confidence_interval"]["lower_bound"],
        &median["point_estimate"],
        &median["confidence_interval"]["upper_bound"],
    ];
    let runs =
        times.map(|ns| Figures::from([("us_per_operation", ns.as_f64().unwrap_or(0.0) / 1000.0)]));
    let name = path.strip_prefix(home).unwrap_or(path);
    let name = name.parent().and_then(Path::parent).unwrap_or(name);
    Ok(Row {
        case: name.display().to_string(),
        subject: "lateen".to_owned(),
        runs: runs.into(),
    })
}
