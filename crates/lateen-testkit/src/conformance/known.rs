//! Cases that are known not to pass, with the reason: a file beside the data, never in it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Known failures by suite and case.
#[derive(Clone, Debug, Default)]
pub struct KnownFailures {
    reasons: BTreeMap<(String, String), String>,
}

impl KnownFailures {
    /// Reads a file of lines `SUITE: NAME = REASON`; empty lines and those that start with `#` are passed over.
    ///
    /// # Errors
    /// The file cannot be read, or a line is not of that form.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("reading {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut reasons = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let parts = line.split_once(": ").and_then(|(suite, rest)| {
                let (name, reason) = rest.rsplit_once(" = ")?;
                Some((suite.trim(), name.trim(), reason.trim()))
            });
            let Some((suite, name, reason)) = parts else {
                bail!("line {}: expected `SUITE: NAME = REASON`", index + 1);
            };
            reasons.insert((suite.to_owned(), name.to_owned()), reason.to_owned());
        }
        Ok(Self { reasons })
    }

    /// Why a case is known to fail.
    pub fn reason(&self, suite: &str, name: &str) -> Option<&str> {
        self.reasons
            .get(&(suite.to_owned(), name.to_owned()))
            .map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_suite_case_and_reason() {
        let known =
            KnownFailures::parse("# why\n\nsimulation: A = b/c d = not served yet\n").unwrap();
        assert_eq!(
            known.reason("simulation", "A = b/c d"),
            Some("not served yet")
        );
        assert_eq!(known.reason("authz", "A = b/c d"), None);
        assert!(KnownFailures::parse("simulation A").is_err());
    }
}
