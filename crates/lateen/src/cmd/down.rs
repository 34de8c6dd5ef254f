//! `lateen down`: ends the running mesh and waits until it is gone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::state::{StateDir, start_ticks};

/// Pods have 30 s to end by default; after that they are killed, and a little later all is gone.
const PATIENCE: Duration = Duration::from_secs(45);

pub(crate) fn run(state: &StateDir) -> Result<()> {
    let Some(up) = state.running()? else {
        println!("no mesh is running");
        return Ok(());
    };
    let pid = i32::try_from(up.pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("the recorded pid is not one")?;
    kill_process(pid, Signal::TERM).with_context(|| format!("signalling process {}", up.pid))?;
    let started = Instant::now();
    let mut told = false;
    while start_ticks(up.pid) == Some(up.start_ticks) {
        if started.elapsed() > PATIENCE {
            bail!(
                "process {} has not ended after {PATIENCE:?}; `kill -9 {}` ends it and all its pods",
                up.pid,
                up.pid
            );
        }
        if !told && started.elapsed() > Duration::from_secs(1) {
            eprintln!("waiting for the pods to end …");
            told = true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    state.clear_up();
    println!("the mesh is down");
    Ok(())
}
