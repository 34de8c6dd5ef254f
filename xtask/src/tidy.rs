//! The layering, header and size checks, and that every code of a message is explained.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Where every message is explained by its code.
const DIAGNOSTICS: &str = "docs/reference/diagnostics.md";

/// What each crate may use of ours, straight from the table in `docs/architecture.md`. A crate that is not listed fails the
/// check, so a new crate cannot appear without a place.
const LAYERS: &[(&str, &[&str])] = &[
    ("lateen-api", &[]),
    ("lateen-envoy", &[]),
    ("lateen-traffic", &["lateen-envoy"]),
    ("lateen-compile", &["lateen-api", "lateen-envoy"]),
    (
        "lateen-explain",
        &[
            "lateen-api",
            "lateen-compile",
            "lateen-envoy",
            "lateen-traffic",
        ],
    ),
    ("lateen-xds", &["lateen-envoy"]),
    ("lateen-identity", &["lateen-envoy"]),
    ("lateen-sources", &["lateen-api", "lateen-compile"]),
    ("lateen-telemetry", &["lateen-envoy"]),
    (
        "lateen-control",
        &[
            "lateen-api",
            "lateen-compile",
            "lateen-envoy",
            "lateen-identity",
            "lateen-sources",
            "lateen-telemetry",
            "lateen-traffic",
            "lateen-xds",
        ],
    ),
    (
        "lateen-agent",
        &[
            "lateen-api",
            "lateen-envoy",
            "lateen-identity",
            "lateen-xds",
        ],
    ),
    (
        "lateen-proxy",
        &[
            "lateen-envoy",
            "lateen-traffic",
            "lateen-telemetry",
            "lateen-identity",
            "lateen-xds",
        ],
    ),
    (
        "lateen-local",
        &["lateen-api", "lateen-identity", "lateen-sources"],
    ),
    ("lateen-apps", &[]),
    (
        "lateen-testkit",
        &[
            "lateen-agent",
            "lateen-api",
            "lateen-compile",
            "lateen-envoy",
            "lateen-identity",
            "lateen-proxy",
            "lateen-traffic",
            "lateen-xds",
        ],
    ),
    (
        "lateen-bench",
        &[
            "lateen-api",
            "lateen-compile",
            "lateen-control",
            "lateen-envoy",
            "lateen-identity",
            "lateen-proxy",
            "lateen-sources",
            "lateen-xds",
        ],
    ),
    ("xtask", &[]),
];

/// The binary may use every crate but the development ones.
const BINARY: &str = "lateen";
const DEVELOPMENT: &[&str] = &["lateen-bench", "lateen-testkit", "xtask"];

/// Crates without I/O, and what they must therefore not depend on directly.
const PURE: &[&str] = &[
    "lateen-api",
    "lateen-envoy",
    "lateen-traffic",
    "lateen-compile",
    "lateen-explain",
];
const IMPURE: &[&str] = &[
    "tokio",
    "hyper",
    "hyper-util",
    "rand",
    "rustix",
    "socket2",
    "notify",
    "tracing",
    "reqwest",
];

/// Longest file, in lines, that needs no exemption.
const LONGEST_FILE: usize = 1000;

/// Runs every check and returns a one-line summary.
pub(crate) fn run() -> Result<String> {
    let metadata = MetadataCommand::new()
        .no_deps()
        .exec()
        .context("reading cargo metadata")?;
    let mut problems = Vec::new();
    for package in metadata.workspace_packages() {
        problems.extend(layering(package));
        problems.extend(purity(package));
        problems.extend(lints(package)?);
    }
    let files = sources(&metadata)?;
    let reference = metadata.workspace_root.join(DIAGNOSTICS);
    let documented =
        fs::read_to_string(&reference).with_context(|| format!("reading {reference}"))?;
    for file in &files {
        problems.extend(headers_and_size(file)?);
        problems.extend(undocumented(file, &documented)?);
    }
    if problems.is_empty() {
        let crates = metadata.workspace_packages().len();
        return Ok(format!(
            "tidy: {crates} crates, {} files, no problems",
            files.len()
        ));
    }
    let mut message = String::new();
    for problem in &problems {
        writeln!(message, "tidy: {problem}")?;
    }
    bail!("{message}tidy: {} problems", problems.len())
}

fn layering(package: &Package) -> Vec<String> {
    let layers: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    let name = package.name.as_str();
    let used: BTreeSet<&str> = package
        .dependencies
        .iter()
        .filter(|d| d.kind != DependencyKind::Development && d.name.starts_with("lateen"))
        .map(|d| d.name.as_str())
        .collect();
    if name == BINARY {
        return used
            .into_iter()
            .filter(|d| DEVELOPMENT.contains(d))
            .map(|d| format!("{name} depends on {d}, which is for tests only"))
            .collect();
    }
    let Some(allowed) = layers.get(name) else {
        return vec![format!(
            "{name} has no place in the layers; add it to xtask and docs/architecture.md"
        )];
    };
    used.into_iter()
        .filter(|d| !allowed.contains(d))
        .map(|d| format!("{name} depends on {d}: arrows point down only (docs/architecture.md)"))
        .collect()
}

fn purity(package: &Package) -> Vec<String> {
    if !PURE.contains(&package.name.as_str()) {
        return Vec::new();
    }
    package
        .dependencies
        .iter()
        .filter(|d| d.kind == DependencyKind::Normal && IMPURE.contains(&d.name.as_str()))
        .map(|d| format!("{} is pure and may not depend on {}", package.name, d.name))
        .collect()
}

fn lints(package: &Package) -> Result<Option<String>> {
    let manifest = fs::read_to_string(&package.manifest_path)
        .with_context(|| format!("reading {}", package.manifest_path))?;
    Ok((!manifest.contains("[lints]\nworkspace = true"))
        .then(|| format!("{} does not inherit the workspace's lints", package.name)))
}

fn sources(metadata: &Metadata) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for package in metadata.workspace_packages() {
        let dir = package
            .manifest_path
            .parent()
            .context("a manifest has a directory")?;
        walk(dir.as_std_path(), &mut files)?;
    }
    files.sort();
    Ok(files)
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn headers_and_size(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let mut problems = Vec::new();
    if !text.starts_with("//!") {
        problems.push(format!(
            "{} does not start with a `//!` header",
            file.display()
        ));
    }
    let lines = text.lines().count();
    if lines > LONGEST_FILE {
        problems.push(format!(
            "{} has {lines} lines; split it at {LONGEST_FILE}",
            file.display()
        ));
    }
    Ok(problems)
}

/// Codes of messages (`"LAT0101"`, `"IST0101"`) that the reference does not have.
fn undocumented(file: &Path, documented: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    // A test may make codes up.
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let is_code = |word: &&str| {
        let digits = word
            .strip_prefix("LAT")
            .or_else(|| word.strip_prefix("IST"));
        digits.is_some_and(|digits| digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit()))
    };
    let codes: BTreeSet<&str> = code.split('"').filter(is_code).collect();
    Ok(codes
        .into_iter()
        .filter(|code| !documented.contains(code))
        .map(|code| {
            format!(
                "{}: {DIAGNOSTICS} does not say what {code} is",
                file.display()
            )
        })
        .collect())
}
