//! `conformance`: runs the suites of a directory, prints what fails and one line per suite. `make conformance` calls it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use lateen_testkit::conformance::{self, KnownFailures, Suite, Verbosity};

/// Runs Istio's own cases against the compiler and the traffic engine.
#[derive(Debug, Parser)]
struct Arguments {
    /// The directory that holds one directory per suite.
    #[arg(
        long,
        env = "LATEEN_CONFORMANCE",
        default_value = "../shared/conformance"
    )]
    dir: PathBuf,
    /// The suite: one by name, or all that are there.
    #[arg(long, default_value = "all")]
    suite: String,
    /// A file of cases that are known not to pass, one per line: `SUITE: NAME = REASON`.
    #[arg(long)]
    known: Option<PathBuf>,
    /// Also prints each case that passes, and differences that do not count.
    #[arg(long, short)]
    verbose: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the suites asked for; whether all cases passed.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let known = match &arguments.known {
        Some(path) => KnownFailures::read(path)?,
        None => KnownFailures::default(),
    };
    let verbosity = if arguments.verbose {
        Verbosity::Everything
    } else {
        Verbosity::Failures
    };
    let mut good = true;
    for suite in Suite::parse(&arguments.suite)? {
        let Some(report) = conformance::run(suite, &arguments.dir)? else {
            println!(
                "{suite}: SKIPPED: there is no directory {}",
                suite.directory(&arguments.dir).display()
            );
            continue;
        };
        print!("{}", report.render(&known, verbosity));
        good &= report.is_good(&known);
    }
    Ok(good)
}
