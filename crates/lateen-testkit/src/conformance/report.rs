//! What a suite found, and how it is printed: a line per failure, a line per suite.

use std::fmt::Write as _;

use super::KnownFailures;

/// Something that was not as expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The call of the case, or the part of it, that differs.
    pub call: String,
    /// What was expected.
    pub expected: String,
    /// What was there.
    pub got: String,
}

impl Finding {
    pub(super) fn new(
        call: impl Into<String>,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Self {
        Self {
            call: call.into(),
            expected: expected.into(),
            got: got.into(),
        }
    }
}

/// How a case went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As expected.
    Passed,
    /// Not as expected.
    Failed(Vec<Finding>),
    /// It was not run.
    Skipped(String),
}

/// One case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// How it went.
    pub verdict: Verdict,
    /// Differences that do not count.
    pub remarks: Vec<String>,
}

impl Outcome {
    /// Passed if nothing was found.
    pub(super) fn of(name: String, findings: Vec<Finding>) -> Self {
        let verdict = if findings.is_empty() {
            Verdict::Passed
        } else {
            Verdict::Failed(findings)
        };
        Self {
            name,
            verdict,
            remarks: Vec::new(),
        }
    }
}

/// A suite's cases, and further counts to print below the line of the suite.
#[derive(Clone, Debug, Default)]
pub struct SuiteReport {
    /// The suite's name.
    pub suite: &'static str,
    /// The cases, as they ran.
    pub outcomes: Vec<Outcome>,
    /// Further counts.
    pub scores: Vec<String>,
}

/// How much is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// What fails or is skipped.
    Failures,
    /// Every case, and differences that do not count.
    Everything,
}

impl SuiteReport {
    /// Whether every case that failed is known to.
    pub fn is_good(&self, known: &KnownFailures) -> bool {
        self.outcomes.iter().all(|outcome| {
            !matches!(outcome.verdict, Verdict::Failed(_))
                || known.reason(self.suite, &outcome.name).is_some()
        })
    }

    /// The lines to print.
    pub fn render(&self, known: &KnownFailures, verbosity: Verbosity) -> String {
        let mut out = String::new();
        for outcome in &self.outcomes {
            self.render_case(outcome, known, verbosity, &mut out);
        }
        let count = |wanted: fn(&Verdict) -> bool| {
            self.outcomes
                .iter()
                .filter(|outcome| wanted(&outcome.verdict))
                .count()
        };
        let failed = |outcome: &&Outcome| matches!(outcome.verdict, Verdict::Failed(_));
        let expected = self
            .outcomes
            .iter()
            .filter(failed)
            .filter(|outcome| known.reason(self.suite, &outcome.name).is_some())
            .count();
        let _ = write!(
            out,
            "{}: {} passed, {} failed",
            self.suite,
            count(|verdict| *verdict == Verdict::Passed),
            count(|verdict| matches!(verdict, Verdict::Failed(_)))
        );
        if expected > 0 {
            let _ = write!(out, " ({expected} of them known)");
        }
        let skipped = count(|verdict| matches!(verdict, Verdict::Skipped(_)));
        if skipped > 0 {
            let _ = write!(out, ", {skipped} skipped");
        }
        out.push('\n');
        for score in &self.scores {
            let _ = writeln!(out, "  {score}");
        }
        out
    }

    fn render_case(
        &self,
        outcome: &Outcome,
        known: &KnownFailures,
        verbosity: Verbosity,
        out: &mut String,
    ) {
        let (suite, name) = (self.suite, &outcome.name);
        match &outcome.verdict {
            Verdict::Passed if verbosity == Verbosity::Everything => {
                let _ = writeln!(out, "ok      {suite}: {name}");
            }
            Verdict::Passed => {}
            Verdict::Skipped(why) => {
                let _ = writeln!(out, "SKIPPED {suite}: {name}: {why}");
            }
            Verdict::Failed(findings) => {
                let word = match known.reason(suite, name) {
                    Some(reason) => format!("KNOWN ({reason})"),
                    None => "FAILED ".to_owned(),
                };
                for finding in findings {
                    let _ = writeln!(
                        out,
                        "{word} {suite}: {name}: {}: expected {}, got {}",
                        finding.call, finding.expected, finding.got
                    );
                }
            }
        }
        if verbosity == Verbosity::Everything {
            for remark in &outcome.remarks {
                let _ = writeln!(out, "        {remark}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> SuiteReport {
        let skipped = Outcome {
            verdict: Verdict::Skipped("no".to_owned()),
            ..Outcome::of("c".to_owned(), Vec::new())
        };
        SuiteReport {
            suite: "simulation",
            outcomes: vec![
                Outcome::of("a".to_owned(), Vec::new()),
                Outcome::of("b".to_owned(), vec![Finding::new("call", "x", "y")]),
                skipped,
            ],
            scores: Vec::new(),
        }
    }

    #[test]
    fn a_suite_ends_with_its_counts_and_names_what_failed() {
        let text = report().render(&KnownFailures::default(), Verbosity::Failures);
        assert_eq!(
            text,
            "FAILED  simulation: b: call: expected x, got y\nSKIPPED simulation: c: no\n\
             simulation: 1 passed, 1 failed, 1 skipped\n"
        );
        assert!(!report().is_good(&KnownFailures::default()));
    }
}
