//! Keeps the control plane's process running. Pods do not notice when it is restarted.

use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::Instant;

use super::CommandLine;
use crate::logs::{self, Log};
use crate::pod;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A run this long was a good one: the next pause is the first again.
const GOOD_RUN: Duration = Duration::from_secs(30);
/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// Runs it until `stop` becomes true, then ends it. Its output goes to `discovery.log` in `logs`.
pub(crate) async fn keep(command: CommandLine, logs: PathBuf, mut stop: watch::Receiver<bool>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let began = Instant::now();
        match start(&command, &logs) {
            Err(error) => tracing::error!(%error, "cannot start the control plane"),
            Ok(mut child) => {
                // Dropping `wait` leaves the process as it is.
                tokio::select! {
                    status = child.wait() => report(status),
                    () = stopped(&mut stop) => return end(child).await,
                }
            }
        }
        if began.elapsed() >= GOOD_RUN {
            pause = FIRST_PAUSE;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stopped(&mut stop) => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn start(command: &CommandLine, logs: &std::path::Path) -> io::Result<Child> {
    let log = Log::start(logs, "discovery")?;
    let (reader, writer) = io::pipe()?;
    let mut process = Command::new("/proc/self/exe");
    process.args(pod::child_arguments(&command.argv));
    process.envs(command.env.iter().map(|(name, value)| (name, value)));
    process.stdin(Stdio::null());
    process
        .stdout(Stdio::from(writer.try_clone()?))
        .stderr(Stdio::from(writer));
    let child = process.kill_on_drop(true).spawn()?;
    // Ends with the process: nobody else has the pipe's other end.
    tokio::spawn(logs::keep(reader, log));
    Ok(child)
}

fn report(status: io::Result<ExitStatus>) {
    match status {
        Ok(status) => tracing::warn!(%status, "the control plane ended; it is started again"),
        Err(error) => tracing::warn!(%error, "cannot wait for the control plane"),
    }
}

async fn end(mut child: Child) {
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}
