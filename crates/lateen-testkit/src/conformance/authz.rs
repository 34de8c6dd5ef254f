//! What AuthorizationPolicy becomes: the filters of a workload's inbound listener against those Istio builds.
//!
//! Equal as data is equal. Where the data differ, the meaning decides: both sides' rules go through the engine, and generated
//! requests must get the same verdicts, of enforced rules and of those that only record or ask. External authorization is
//! compared as data. Names of policies and prefixes of statistics do not count.

mod build;
mod filters;
mod samples;
mod verdicts;

use std::path::Path;

use anyhow::{Context, Result, bail};
use lateen_envoy::json;
use lateen_envoy::pb::envoy::config::listener::v3::Filter;
use lateen_envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use serde::Deserialize;

use super::{Finding, Outcome, SuiteReport, read_cases};
use filters::Filters;

/// A case, as its README gives it.
#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    protocol: Protocol,
    /// The policies' file.
    input: String,
    /// A file for each filter, in order.
    expected: Vec<String>,
    #[serde(default)]
    trust_domain: Option<String>,
    #[serde(default)]
    trust_domain_aliases: Vec<String>,
    #[serde(default)]
    mesh_config: Option<String>,
    /// Only CUSTOM policies are built; else only the others.
    #[serde(default)]
    custom_action_builder: bool,
}

/// What the connection is understood as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Protocol {
    Http,
    Tcp,
}

/// Runs every case.
pub(super) fn run(directory: &Path) -> Result<SuiteReport> {
    let mut report = SuiteReport {
        suite: "authz",
        ..SuiteReport::default()
    };
    let mut equal = 0_usize;
    for case in read_cases::<Case>(directory)? {
        let case = match case {
            Ok(case) => case,
            Err(outcome) => {
                report.outcomes.push(outcome);
                continue;
            }
        };
        let mut same = false;
        let findings = match compare(directory, &case, &mut same) {
            Ok(findings) => findings,
            Err(error) => vec![Finding::new("the case", "filters", format!("{error:#}"))],
        };
        equal += usize::from(same);
        report.outcomes.push(Outcome::of(case.name, findings));
    }
    report.scores.push(format!(
        "{equal} of {} equal as data",
        report.outcomes.len()
    ));
    Ok(report)
}

/// Compares a case's filters. `same` becomes true if they are equal as data.
fn compare(directory: &Path, case: &Case, same: &mut bool) -> Result<Vec<Finding>> {
    let input = read(directory, &case.input)?;
    let built = build::filters(case, &input)?;
    let expected = expected(directory, case)?;
    if built.as_data() == expected.as_data() {
        *same = true;
        return Ok(Vec::new());
    }
    let mut findings = filters::compare_authorizers(&expected, &built);
    findings.extend(verdicts::compare(&expected, &built)?);
    Ok(findings)
}

fn read(directory: &Path, name: &str) -> Result<String> {
    let path = directory.join(name);
    std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// The filters Istio builds.
fn expected(directory: &Path, case: &Case) -> Result<Filters> {
    let mut documents = Vec::new();
    for name in &case.expected {
        let text = read(directory, name)?;
        let value: serde_json::Value =
            yaml_serde::from_str(&text).with_context(|| format!("{name} is not YAML"))?;
        documents.push((name, value));
    }
    match case.protocol {
        Protocol::Http => documents
            .into_iter()
            .map(|(name, value)| {
                json::from_value::<HttpFilter>(value).with_context(|| format!("in {name}"))
            })
            .collect::<Result<Vec<_>>>()
            .map(Filters::Http),
        Protocol::Tcp => documents
            .into_iter()
            .map(|(name, value)| {
                json::from_value::<Filter>(value).with_context(|| format!("in {name}"))
            })
            .collect::<Result<Vec<_>>>()
            .map(Filters::Tcp),
    }
}

/// The name that stands for an empty bundle: no principal is in it, so none is replaced.
const NO_TRUST_DOMAIN: &str = "no-trust-domain.invalid";

impl Case {
    fn trust_domain(&self) -> Result<&str> {
        match self.trust_domain.as_deref() {
            None => Ok(NO_TRUST_DOMAIN),
            Some("") => bail!("a trust domain has a name, or is null"),
            Some(name) => Ok(name),
        }
    }
}
