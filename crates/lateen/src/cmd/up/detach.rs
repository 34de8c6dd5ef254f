//! `lateen up --detach`: the same command in the background, and a wait until it is ready.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::progress::Progress;
use super::report;
use crate::output::print;
use crate::state::StateDir;

/// Longest wait for every pod to be ready.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long all that is not ready must be containers that cannot run, for waiting to be of no use.
const HOPELESS: Duration = Duration::from_secs(2);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(50);
/// Which process waits for this one. It is compared, since whatever the mesh starts inherits the variable.
const WAITING: &str = "LATEEN_WAITING";

/// Whether this is the process in the background.
pub(crate) fn is_background() -> bool {
    std::env::var(WAITING).is_ok_and(|waiting| waiting == parent_id().to_string())
}

/// Starts this program in the background, and passes on what it says until the mesh is ready.
pub(crate) fn run(state: &StateDir) -> Result<ExitCode> {
    let log = state.root().join("up.log");
    let mut child = start(state, &log)?;
    let mut said = Said::open(&log)?;
    let started = Instant::now();
    let mut progress = Progress::new(started);
    let mut hopeless_since = None;
    loop {
        if let Some(status) = child.try_wait().context("waiting")? {
            bail!("the mesh ended at once ({status}):\n{}", said.rest()?);
        }
        // Looked at before what was said is passed on: the last of that is that it is ready.
        let is_ready = state.running()?.is_some_and(|up| up.ready);
        let pods = state.read_pods().unwrap_or_default();
        let lines = said.lines()?;
        if !lines.is_empty() {
            progress.clear();
            print(&lines)?;
        }
        if is_ready {
            progress.clear();
            print(&format!(
                "running in the background; log: {}\n",
                log.display()
            ))?;
            return Ok(ExitCode::SUCCESS);
        }
        let since = report::is_hopeless(&pods).then(Instant::now);
        hopeless_since = since.map(|now| hopeless_since.unwrap_or(now));
        let is_hopeless = hopeless_since.is_some_and(|since| since.elapsed() > HOPELESS);
        if is_hopeless || started.elapsed() > PATIENCE {
            progress.clear();
            print(&report::not_ready(&pods))?;
            bail!(
                "not everything is ready after {} s; the mesh keeps running and picks up edits, log: {}",
                started.elapsed().as_secs(),
                log.display()
            );
        }
        progress.show_on_terminal(&pods, pods.len());
        std::thread::sleep(LOOK);
    }
}

fn start(state: &StateDir, log: &Path) -> Result<Child> {
    let out = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    let program = std::env::current_exe().context("finding this program")?;
    Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(WAITING, std::process::id().to_string())
        .env("LATEEN_STATE", state.root())
        .stdin(Stdio::null())
        .stdout(out.try_clone().context("sharing the log")?)
        .stderr(out)
        // A group of its own, so that Ctrl-C in this terminal does not reach it.
        .process_group(0)
        .spawn()
        .context("starting in the background")
}

/// What the mesh in the background says.
struct Said {
    log: File,
    /// What is not passed on yet: the beginning of a line.
    rest: Vec<u8>,
}

impl Said {
    fn open(log: &Path) -> Result<Self> {
        let log = File::open(log).with_context(|| format!("reading {}", log.display()))?;
        let rest = Vec::new();
        Ok(Self { log, rest })
    }

    /// The lines that have come.
    fn lines(&mut self) -> Result<String> {
        self.read()?;
        let end = self.rest.iter().rposition(|byte| *byte == b'\n');
        let lines: Vec<u8> = self.rest.drain(..end.map_or(0, |end| end + 1)).collect();
        Ok(String::from_utf8_lossy(&lines).into_owned())
    }

    /// All that is left.
    fn rest(&mut self) -> Result<String> {
        self.read()?;
        Ok(String::from_utf8_lossy(&self.rest).into_owned())
    }

    fn read(&mut self) -> Result<()> {
        let read = self.log.read_to_end(&mut self.rest);
        read.map(drop).context("reading the log")
    }
}
