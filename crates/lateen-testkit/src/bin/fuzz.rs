//! `fuzz yaml|compile CORPUS`, `fuzz network|NAME` `[--seconds N] [--seed N] [--found DIR]`: exit status 1 if an input broke something.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use lateen_testkit::fuzz::{self, Options};

/// Changes manifests and feeds them to the front end or the compiler, or bytes to the parsers that face the network.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn main() -> Result<ExitCode> {
    let options = Cli::parse().options;
    let outcomes = fuzz::run(&options)?;
    for outcome in &outcomes {
        let reached = outcome.reached.map(|(edges, learned)| {
            format!(", {edges} edges of the program, {learned} inputs reached one first")
        });
        println!(
            "{}: {} inputs, {} broke something, slowest {:?}, codes {:?}{}",
            outcome.target,
            outcome.inputs,
            outcome.broken,
            outcome.slowest,
            outcome.codes,
            reached.unwrap_or_default(),
        );
    }
    let broken = outcomes.iter().any(|outcome| outcome.broken > 0);
    Ok(ExitCode::from(u8::from(broken)))
}
