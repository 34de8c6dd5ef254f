//! Processes under test: kept to a core, accounted for, ended with the value that holds them.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::machine::cores;

/// How long a process has to open its port.
const START: Duration = Duration::from_secs(60);

/// Which core a process runs on. With one core there is nothing to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    /// The proxy under test.
    Subject,
    /// Load and origin.
    Load,
}

/// A child process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts a program on a core, its output into a file.
    ///
    /// # Errors
    /// It cannot be run.
    pub(crate) fn start(command: &mut Command, core: Core, log: &Path) -> Result<Self> {
        let process = Self::start_anywhere(command, log)?;
        pin(process.pid(), core)?;
        Ok(process)
    }

    /// Starts a program, its output into a file.
    ///
    /// # Errors
    /// It cannot be run.
    pub(crate) fn start_anywhere(command: &mut Command, log: &Path) -> Result<Self> {
        let out = fs::File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone().context("duplicating a file")?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("running {program}"))?;
        Ok(Self { child })
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it accepts connections.
    ///
    /// # Errors
    /// It ends, or takes too long.
    pub(crate) fn wait_for_port(&mut self, address: SocketAddr, log: &Path) -> Result<()> {
        let deadline = Instant::now() + START;
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            let ended = self.child.try_wait().context("waiting")?;
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(log).unwrap_or_default();
                bail!("nothing listens on {address}; its output:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM), waits a while, then kills it.
    pub(crate) fn stop(mut self, patience: Duration) {
        // It may have ended already.
        let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end and gives its standard output.
///
/// # Errors
/// It cannot be run or fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {program}"))?;
    let mut text = String::new();
    if let Some(mut out) = child.stdout.take() {
        out.read_to_string(&mut text)
            .context("reading its output")?;
    }
    let status = child.wait().context("waiting")?;
    if !status.success() {
        bail!("{program} ended with {status}");
    }
    Ok(text)
}

/// Keeps this process, which is one of the roles, to the load's core.
///
/// # Errors
/// It may not.
pub(crate) fn join_load() -> Result<()> {
    pin(std::process::id(), Core::Load)
}

/// Keeps all threads of a process to a core.
///
/// # Errors
/// The process is gone or somebody else's.
pub(crate) fn pin(pid: u32, core: Core) -> Result<()> {
    if cores() < 2 {
        return Ok(());
    }
    let mut set = CpuSet::new();
    set.set(match core {
        Core::Subject => 0,
        Core::Load => 1,
    });
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .with_context(|| format!("listing the threads of process {pid}"))?;
    for thread in threads.flatten() {
        let id = thread.file_name().to_str().and_then(|t| t.parse().ok());
        let Some(id) = id.and_then(Pid::from_raw) else {
            continue;
        };
        // A thread may end between being listed and being pinned.
        let _ = sched_setaffinity(Some(id), &set);
    }
    Ok(())
}

/// CPU time of a process and of its threads that have ended, in microseconds. The kernel counts it exactly and tells it in
/// hundredths of a second.
pub(crate) fn cpu_us(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in field 2 may hold spaces; what follows it does not.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_ascii_whitespace().collect())
        .unwrap_or_default();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|f| f.parse::<u64>().ok())
            .unwrap_or(0)
    };
    (ticks(11) + ticks(12)) * 10_000
}

/// Resident memory of a process in KiB.
pub(crate) fn rss_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Every process with its command line, for finding those that others started.
pub(crate) fn command_lines() -> Vec<(u32, Vec<String>)> {
    let Ok(all) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    all.flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let words = line
                .split(|b| *b == 0)
                .map(|word| String::from_utf8_lossy(word).into_owned());
            Some((pid, words.collect()))
        })
        .collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Whether a process was started by another, or by one that was.
pub(crate) fn is_below(mut pid: u32, root: u32) -> bool {
    while let Some(above) = parent(pid).filter(|p| *p > 1) {
        if above == root {
            return true;
        }
        pid = above;
    }
    false
}

/// The last lines of a file, for error messages.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let Ok(file) = fs::File::open(path) else {
        return String::new();
    };
    let all: Vec<String> = BufReader::new(file).lines().map_while(Result::ok).collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
