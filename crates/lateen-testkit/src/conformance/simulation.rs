//! Where a connection or request goes, or why it is refused: compiled for one proxy, decided by the traffic engine.
//!
//! Names that Istio gives to Envoy's objects are compared and remarked on, and never make a case fail.

mod call;
mod case;
mod expect;
mod extras;
mod world;

use std::path::Path;

use anyhow::Result;

use super::{Finding, Outcome, SuiteReport, read_cases};
use case::Case;
use world::World;

/// How many calls went as expected: exactly, and with every refusal before routing taken for the same.
#[derive(Default)]
struct Score {
    calls: usize,
    exact: usize,
    soft: usize,
}

/// Runs every case.
pub(super) fn run(directory: &Path) -> Result<SuiteReport> {
    let mut report = SuiteReport {
        suite: "simulation",
        ..SuiteReport::default()
    };
    let mut score = Score::default();
    for case in read_cases::<Case>(directory)? {
        let outcome = case.map_or_else(|outcome| outcome, |case| run_case(&case, &mut score));
        report.outcomes.push(outcome);
    }
    report.scores.push(format!(
        "{} of {} calls as expected; {} if every refusal before routing counts as one",
        score.exact, score.calls, score.soft
    ));
    Ok(report)
}

fn run_case(case: &Case, score: &mut Score) -> Outcome {
    let world = match World::new(case) {
        Ok(world) => world,
        Err(error) => {
            score.calls += case.calls.len();
            let finding = Finding::new("the case", "a mesh", format!("{error:#}"));
            return Outcome::of(case.name.clone(), vec![finding]);
        }
    };
    let mut findings = Vec::new();
    let mut remarks = world.remarks.clone();
    if !case.skip_validation {
        findings.extend(world.unexpected_rejections(case));
    }
    for named in &case.calls {
        let result = call::run(&world, &named.call);
        let found = expect::compare(
            &named.name,
            &named.expect,
            &result,
            world.tells_ambiguous_servers(),
        );
        score.calls += 1;
        score.exact += usize::from(found.is_empty());
        score.soft += usize::from(found.is_empty() || expect::same_class(&named.expect, &result));
        findings.extend(found);
        remarks.extend(expect::remarks(&named.name, &named.expect, &result));
    }
    findings.extend(extras::compare(case, &world, &mut remarks));
    Outcome {
        remarks,
        ..Outcome::of(case.name.clone(), findings)
    }
}
