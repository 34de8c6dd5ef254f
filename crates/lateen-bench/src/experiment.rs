//! The experiments there are, their cases, and which of them a command line selects. That nothing is selected is an error: a
//! measurement that was asked for and not made must not look like one that was.

use std::fmt::Write as _;

use anyhow::{Result, bail};

use crate::mesh::Rival;
use crate::options::Options;
use crate::rivals::Subject;
use crate::{control, filters, footprint, hop, instructions, mesh, micro};

/// Something that is measured in one go and written to one file.
struct Experiment {
    /// Its name on the command line and of its results.
    name: &'static str,
    /// What it measures.
    what: &'static str,
    /// The names of its cases, in order.
    cases: fn() -> Vec<String>,
    run: fn(&Options) -> Result<()>,
}

/// In the order `make bench` runs them.
const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        name: "hop",
        what: "one proxy between a client and a server, beside Envoy, nginx and HAProxy",
        cases: hop::cases,
        run: hop::run,
    },
    Experiment {
        name: "mesh",
        what: "two sidecars with mTLS and redirection between a client and a server, beside Envoy, linkerd2-proxy, ztunnel and HAProxy",
        cases: mesh::cases,
        run: mesh::run,
    },
    Experiment {
        name: "instructions",
        what: "instructions of the proxy for each request (callgrind)",
        cases: instructions::cases,
        run: instructions::run,
    },
    Experiment {
        name: "control",
        what: "the control plane with many services and proxies: cold start, five changes, a steady rate, growth",
        cases: control::cases,
        run: control::run,
    },
    Experiment {
        name: "footprint",
        what: "a sidecar's memory and start by the services it knows, beside Envoy",
        cases: footprint::cases,
        run: footprint::run,
    },
    Experiment {
        name: "filters",
        what: "what routes, access rules, tokens and rate limits add to a request, beside Envoy",
        cases: filters::cases,
        run: filters::run,
    },
    Experiment {
        name: "micro",
        what: "single decisions and formats (criterion)",
        cases: micro::cases,
        run: micro::run,
    },
];

/// Runs what is selected.
///
/// # Errors
/// Nothing is, or an experiment fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let named = named(&options.names)?;
    let selected: Vec<&&Experiment> = named
        .iter()
        .filter(|experiment| (experiment.cases)().iter().any(|c| options.wants_case(c)))
        .collect();
    if selected.is_empty() {
        let part = options.case.as_deref().unwrap_or_default();
        bail!(
            "no case holds `{part}`, so nothing is measured; there are:\n{}",
            list(&options.names)?
        );
    }
    for experiment in selected {
        (experiment.run)(options)?;
    }
    Ok(())
}

/// A line for each case of the experiments that are named, or of all.
///
/// # Errors
/// A name is not known.
pub(crate) fn list(names: &[String]) -> Result<String> {
    let mut text = String::new();
    for experiment in named(names)? {
        for case in (experiment.cases)() {
            // A string takes whatever is written.
            let _ = writeln!(text, "{}: {case}", experiment.name);
        }
    }
    Ok(text)
}

/// Every subject there is, and how to get it.
pub(crate) fn subjects() -> impl Iterator<Item = (&'static str, &'static str)> {
    let alone = Subject::ALL.into_iter().map(|s| (s.name(), s.install()));
    let pairs = Rival::ALL.into_iter().map(|r| (r.name(), r.install()));
    // HAProxy is both.
    let pairs = pairs.filter(|(name, _)| *name != Subject::Haproxy.name());
    let direct = (hop::DIRECT, "no proxy at all: nothing to install");
    alone.chain(pairs).chain([direct])
}

/// The usage.
pub(crate) fn help() -> String {
    let mut text = String::from(
        "Usage: lateen-bench [EXPERIMENT…] [OPTION…]\n\nMeasures what Lateen costs, beside others where there are any. Without a name, \
         everything is measured.\n\nExperiments:\n",
    );
    for Experiment { name, what, .. } in EXPERIMENTS {
        // A string takes whatever is written.
        let _ = writeln!(text, "  {name:<14}{what}");
    }
    text.push_str(OPTIONS);
    for (name, install) in subjects() {
        let _ = writeln!(text, "  {name:<16}{install}");
    }
    text
}

const OPTIONS: &str = "
Options:
  --case TEXT     only cases whose name holds TEXT, in whichever case
  --list          name the cases, and measure nothing
  --runs N        runs of each subject in each case; they take turns (default 5)
  --seconds S     length of a run (default 5)
  --subjects A,B  only these subjects
  --out DIR       where NAME.json is written (default bench/results)
  --help          this

A result is {\"name\", \"machine\", \"rows\": [{\"case\", \"subject\", \"runs\", FIGURE, FIGURE_min, FIGURE_max, …}], \"skipped\"}: the median of the
runs with the least and the most, the unit in the figure's name.

Variables: LATEEN (the program that meshes are made with; default: beside this one), LATEEN_ENVOY, BENCH_NGINX, BENCH_HAPROXY,
BENCH_LINKERD, BENCH_ZTUNNEL.

Subjects, and how to get them:
";

fn named(names: &[String]) -> Result<Vec<&'static Experiment>> {
    let known = || EXPERIMENTS.iter();
    for name in names {
        if !known().any(|experiment| experiment.name == name) {
            let all: Vec<&str> = known().map(|experiment| experiment.name).collect();
            bail!(
                "no experiment is called `{name}`; there are {}",
                all.join(", ")
            );
        }
    }
    let wanted =
        |experiment: &&Experiment| names.is_empty() || names.iter().any(|n| n == experiment.name);
    Ok(known().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_of_nothing_is_an_error_that_lists_the_cases() {
        let options = Options {
            names: vec!["hop".to_owned()],
            case: Some("HTTP/1.1".to_owned()),
            ..Options::default()
        };
        let error = run(&options).unwrap_err().to_string();
        assert!(
            error.contains("HTTP/1.1") && error.contains("hop: http1 1 KiB"),
            "{error}"
        );
        assert!(!error.contains("mesh:"), "only of what was named: {error}");
    }

    #[test]
    fn every_experiment_names_its_cases_once() {
        for experiment in EXPERIMENTS {
            let mut cases = (experiment.cases)();
            assert!(!cases.is_empty(), "{}", experiment.name);
            let count = cases.len();
            cases.sort();
            cases.dedup();
            assert_eq!(cases.len(), count, "{}", experiment.name);
            assert!(help().contains(experiment.name));
        }
        assert!(list(&["nothing".to_owned()]).is_err());
    }
}
