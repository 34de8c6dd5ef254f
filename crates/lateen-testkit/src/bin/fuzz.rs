//! `fuzz yaml|compile CORPUS [--seconds N] [--seed N] [--found DIR]`: exit status 1 if an input broke something.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use lateen_testkit::fuzz::{self, Options};

/// Changes manifests and feeds them to the front end or the compiler.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn main() -> Result<ExitCode> {
    let options = Cli::parse().options;
    let outcome = fuzz::run(&options)?;
    println!(
        "{:?}: {} inputs, {} broke something, slowest {:?}, codes {:?}",
        options.target, outcome.inputs, outcome.broken, outcome.slowest, outcome.codes
    );
    Ok(ExitCode::from(u8::from(outcome.broken > 0)))
}
