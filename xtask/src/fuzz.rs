//! `cargo xtask fuzz TARGET …`: the fuzzer of `lateen-testkit`, built so that it sees which edges of the program an input takes.
//!
//! The compiler counts them in the crates that read what others send. It is asked to by standing between cargo and rustc: cargo keeps
//! what such a wrapper makes of the workspace apart, and builds nothing else anew.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;

/// Crates whose edges are counted: a counter of every other crate would have to be looked at for each input, too.
const COUNTED: [&str; 6] = [
    "lateen_agent",
    "lateen_identity",
    "lateen_proxy",
    "lateen_telemetry",
    "lateen_traffic",
    "lateen_xds",
];
/// What makes the compiler count.
const FLAGS: [&str; 3] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=3",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
];
/// Says that this program stands before rustc.
const WRAPPING: &str = "LATEEN_XTASK_COUNTS_EDGES";

/// Whether this is a call of rustc's.
pub(crate) fn is_wrapping() -> bool {
    env::var_os(WRAPPING).is_some()
}

/// Builds the fuzzer and becomes it.
///
/// # Errors
/// It does not build.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let this = env::current_exe().context("finding this program")?;
    let built = Command::new(cargo)
        .args(["build", "--workspace", "--bin", "fuzz"])
        .args(["--config", "profile.dev.opt-level=2"])
        .env("RUSTC_WORKSPACE_WRAPPER", &this)
        .env(WRAPPING, "1")
        .status()
        .context("running cargo")?;
    if !built.success() {
        bail!("the fuzzer was not built");
    }
    let metadata = MetadataCommand::new().no_deps().exec();
    let metadata = metadata.context("asking cargo where it builds")?;
    let program = metadata.target_directory.join("debug/fuzz");
    let error = Command::new(&program).args(arguments).exec();
    Err(error).with_context(|| format!("running {program}"))
}

/// Becomes rustc, which cargo gave as the first argument.
///
/// # Errors
/// It cannot be run.
pub(crate) fn wrap() -> Result<()> {
    let mut arguments = env::args_os().skip(1);
    let rustc = arguments.next().context("rustc is missing")?;
    let arguments: Vec<_> = arguments.collect();
    let name = arguments
        .iter()
        .position(|argument| argument == "--crate-name")
        .and_then(|at| arguments.get(at + 1)?.to_str());
    let flags = name
        .filter(|name| COUNTED.contains(name))
        .map_or(&[][..], |_| &FLAGS);
    let error = Command::new(rustc).args(&arguments).args(flags).exec();
    Err(error).context("running rustc")
}
