//! `make bench`: what Lateen costs, side by side with others on one machine in one run.
//!
//! `lateen-bench [NAME…] [--runs N] [--seconds S] [--case TEXT]` runs experiments; each prints a table and writes
//! `bench/results/NAME.json`. `--help` says more, `--list` names every case. The load generator, the origin server and the proxy
//! under test are this program again in processes of their own (`lateen-bench load|origin|proxy|plane|clients|ready|linkerd-control …`),
//! so that each can be kept to a core.
//!
//! What is here measures; it asserts nothing. The budgets that a change may not exceed are tests of the crates concerned.

mod control;
mod experiment;
mod filters;
mod footprint;
mod hop;
mod instructions;
mod linkerd;
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

use anyhow::Result;

use self::options::{Asked, Options};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
        "linkerd-control" => linkerd::main(&rest),
        _ => asked(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn asked() -> Result<()> {
    match Options::parse(std::env::args().skip(1))? {
        Asked::Help => print!("{}", experiment::help()),
        Asked::List(names) => print!("{}", experiment::list(&names)?),
        Asked::Run(options) => experiment::run(&options)?,
    }
    Ok(())
}
