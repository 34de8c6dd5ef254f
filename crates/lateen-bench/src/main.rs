//! `make bench`: what Lateen costs, side by side with Envoy, nginx and HAProxy on one machine in one run.
//!
//! `lateen-bench [NAME…] [--runs N] [--seconds S] [--case TEXT]` runs experiments; each prints a table and writes
//! `bench/results/NAME.json`. The load generator, the origin server and the proxy under test are this program again in
//! processes of their own (`lateen-bench load|origin|proxy|plane|clients|ready …`), so that each can be kept to a core.
//!
//! What is here measures; it asserts nothing. The budgets that a change may not exceed are tests of the crates concerned.

mod control;
mod filters;
mod footprint;
mod hop;
mod instructions;
mod load;
mod machine;
mod mesh;
mod micro;
mod options;
mod origin;
mod process;
mod proxy;
mod report;
mod rivals;

use std::process::ExitCode;

use anyhow::{Result, bail};

use self::options::Options;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What runs an experiment.
type Experiment = fn(&Options) -> Result<()>;

/// The experiments, in the order `make bench` runs them.
const EXPERIMENTS: &[(&str, Experiment)] = &[
    ("hop", hop::run),
    ("mesh", mesh::run),
    ("instructions", instructions::run),
    ("control", control::run),
    ("footprint", footprint::run),
    ("filters", filters::run),
    ("micro", micro::run),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let done = match first.as_str() {
        "load" => load::main(&rest),
        "origin" => origin::main(&rest),
        "proxy" => proxy::main(&rest),
        "plane" => control::plane::main(&rest),
        "clients" => control::clients::main(&rest),
        "ready" => footprint::ready::main(&rest),
        _ => Options::parse(std::env::args().skip(1)).and_then(|options| experiments(&options)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn experiments(options: &Options) -> Result<()> {
    for name in &options.names {
        if !EXPERIMENTS.iter().any(|(known, _)| known == name) {
            let known: Vec<&str> = EXPERIMENTS.iter().map(|(known, _)| *known).collect();
            bail!(
                "no experiment is called `{name}`; there are {}",
                known.join(", ")
            );
        }
    }
    for (name, run) in EXPERIMENTS {
        if options.names.is_empty() || options.names.iter().any(|n| n == name) {
            run(options)?;
        }
    }
    Ok(())
}
