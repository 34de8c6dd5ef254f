//! `lateen up --detach`: the same command in the background, and a wait until it is ready.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::report;
use crate::state::StateDir;

/// Longest wait for every pod to be ready.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn run(state: &StateDir) -> Result<ExitCode> {
    let log = state.root().join("up.log");
    let out = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    let program = std::env::current_exe().context("finding this program")?;
    let arguments = std::env::args_os()
        .skip(1)
        .filter(|a| a != "--detach" && a != "-d");
    let mut child = Command::new(program)
        .args(arguments)
        .env("LATEEN_STATE", state.root())
        .stdin(Stdio::null())
        .stdout(out.try_clone().context("sharing the log")?)
        .stderr(out)
        // A group of its own, so that Ctrl-C in this terminal does not reach it.
        .process_group(0)
        .spawn()
        .context("starting in the background")?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("waiting")? {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("the mesh ended at once ({status}):\n{text}");
        }
        let pods = state.read_pods().unwrap_or_default();
        if state.running()?.is_some_and(|up| up.ready) {
            crate::output::print(&report::ready(&pods, started.elapsed()))?;
            crate::output::print(&format!(
                "running in the background; log: {}\n",
                log.display()
            ))?;
            return Ok(ExitCode::SUCCESS);
        }
        if started.elapsed() > PATIENCE {
            crate::output::print(&report::not_ready(&pods))?;
            bail!(
                "not everything is ready after {PATIENCE:?}; the mesh keeps running, log: {}",
                log.display()
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
