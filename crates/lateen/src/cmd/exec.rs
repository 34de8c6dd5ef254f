//! `lateen exec`: a command in a workload's network, with its environment.

use std::process::ExitCode;

use anyhow::{Context, Result};
use lateen_local::exec::{self, ExecError, PodProcesses};

use crate::cli::ExecArgs;
use crate::state::StateDir;
use crate::target;
use crate::up::images;

/// Exit status for a command that was ended by a signal, as shells have it: 128 and the signal's number.
const SIGNALLED: i32 = 128;
/// Exit status for a command that is not there, as shells have it.
const NOT_FOUND: u8 = 127;

pub(crate) fn run(state: &StateDir, namespace: Option<&str>, args: &ExecArgs) -> Result<ExitCode> {
    state.expect_running()?;
    let pods = state.read_pods()?;
    let pod = target::find(&pods, &args.target, namespace)?;
    let container = target::container(pod, args.container.as_deref())?;
    let path = state.containers();
    let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let all: Vec<PodProcesses> =
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
    let processes = all
        .iter()
        .find(|p| p.namespace == pod.namespace && p.pod == pod.name)
        .with_context(|| format!("{} is not running", pod.name))?;
    let (program, arguments) = args.command.split_first().context("no command")?;
    let instead = images::program(program).map(|mut argv| {
        argv.extend(arguments.iter().cloned());
        argv
    });
    let status = match exec::run(processes, container, &args.command, instead.as_deref()) {
        Err(error @ ExecError::NoProgram(_)) => {
            super::report_error(&error.into());
            return Ok(ExitCode::from(NOT_FOUND));
        }
        other => other?,
    };
    let code = status.code().unwrap_or_else(|| {
        SIGNALLED + std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0)
    });
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}
