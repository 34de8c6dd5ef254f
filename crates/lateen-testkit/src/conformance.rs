//! Suites of cases, read in place from a directory in the format of Istio's conformance data.
//!
//! A suite is a directory of JSON files with `cases`. Each format has a module; all report in one form.

mod authz;
mod crd_validation;
mod known;
mod report;
mod simulation;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use known::KnownFailures;
pub use report::{Finding, Outcome, SuiteReport, Verbosity, Verdict};

/// The suites that can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Where a connection or request goes, or why it is refused.
    Simulation,
    /// Which resources are accepted.
    CrdValidation,
    /// What AuthorizationPolicy becomes.
    Authz,
}

impl Suite {
    /// Every suite, in the order in which they run.
    pub const ALL: [Self; 3] = [Self::Simulation, Self::CrdValidation, Self::Authz];

    /// One suite by its name, or all.
    ///
    /// # Errors
    /// There is no such suite.
    pub fn parse(name: &str) -> Result<Vec<Self>> {
        if name == "all" {
            return Ok(Self::ALL.to_vec());
        }
        match Self::ALL.into_iter().find(|suite| suite.name() == name) {
            Some(suite) => Ok(vec![suite]),
            None => bail!(
                "there is no suite `{name}`; there are {} and all",
                Self::ALL.map(Self::name).join(", ")
            ),
        }
    }

    /// The name of its directory.
    pub fn name(self) -> &'static str {
        match self {
            Self::Simulation => "simulation",
            Self::CrdValidation => "crd-validation",
            Self::Authz => "authz",
        }
    }

    /// Where its cases are: the directory given, if that is the suite's own, else the one of its name in it.
    pub fn directory(self, root: &Path) -> PathBuf {
        if root.file_name().is_some_and(|name| name == self.name()) {
            return root.to_owned();
        }
        root.join(self.name())
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Runs a suite. `None` if its directory is not there.
///
/// # Errors
/// A file cannot be read or is not of the suite's format, or there is no case in it: a runner that runs nothing must not look
/// as if all were well.
pub fn run(suite: Suite, root: &Path) -> Result<Option<SuiteReport>> {
    let directory = suite.directory(root);
    if !directory.is_dir() {
        return Ok(None);
    }
    let report = match suite {
        Suite::Simulation => simulation::run(&directory)?,
        Suite::CrdValidation => crd_validation::run(&directory)?,
        Suite::Authz => authz::run(&directory)?,
    };
    if report.outcomes.is_empty() {
        bail!("there are no cases in {}", directory.display());
    }
    Ok(Some(report))
}

/// A file of cases.
#[derive(Deserialize)]
struct CaseFile {
    cases: Vec<Value>,
}

/// The cases of every JSON file in a directory, in the order of the files' names. A case that is not of the suite's format fails,
/// and no other with it.
fn read_cases<C: DeserializeOwned>(directory: &Path) -> Result<Vec<Result<C, Outcome>>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.path()))
                .collect::<std::io::Result<_>>()
        })
        .with_context(|| format!("reading {}", directory.display()))?;
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "json")
    });
    files.sort();
    let mut out = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("reading {}", file.display()))?;
        let read: CaseFile = serde_json::from_str(&text)
            .with_context(|| format!("{} is not of the suite's format", file.display()))?;
        out.extend(read.cases.into_iter().map(read_case));
    }
    Ok(out)
}

fn read_case<C: DeserializeOwned>(case: Value) -> Result<C, Outcome> {
    let name = case["name"].as_str().unwrap_or("a case without a name");
    serde_json::from_value(case.clone()).map_err(|error| {
        let finding = Finding::new("the case", "the suite's format", error.to_string());
        Outcome::of(name.to_owned(), vec![finding])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_of_another_format_fails_alone() {
        #[derive(Debug, Deserialize)]
        struct Case {
            port: u16,
        }
        let read = |text: &str| read_case::<Case>(serde_json::from_str(text).unwrap());
        assert_eq!(read(r#"{"name": "a", "port": 80}"#).unwrap().port, 80);
        let outcome = read(r#"{"name": "b", "port": "http"}"#).unwrap_err();
        assert_eq!(outcome.name, "b");
        assert!(matches!(outcome.verdict, Verdict::Failed(_)));
    }
}
