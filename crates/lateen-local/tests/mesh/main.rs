//! A small mesh for real: pods in namespaces, services, redirection, probes, the end of everything.
//!
//! Pods are made by executing the current binary, so this test has a `main` of its own: without arguments it runs every
//! scenario in a process of its own, as root and as an ordinary user, and looks for what was left behind.

#![expect(
    clippy::unwrap_used,
    reason = "all of this is a test: a panic is a failure"
)]

use std::process::ExitCode;

mod apps;
mod manifests;
mod residue;
mod runner;
mod scenarios;
mod world;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("pod") => lateen_local::pod::main(&arguments[1..]),
        Some("app") => apps::main(&arguments[1..]),
        Some("scenario") => scenarios::main(&arguments[1..]),
        _ => runner::main(&arguments),
    }
}
