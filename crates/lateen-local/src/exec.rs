//! Enters the namespaces of a running mesh from another process: of a pod, of one of its containers, of the node.
//!
//! To be called at process start, before any thread exists: a user namespace takes single-threaded processes only.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use crate::sys;

/// The processes of a pod; `run/containers.json` is a list of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodProcesses {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Process 1 of the pod as the machine sees it.
    pub pid: u32,
    /// Containers in the order of the manifest, each with its process id inside the pod.
    pub containers: Vec<(String, u32)>,
}

/// A namespace could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// Called too late.
    #[error("namespaces have to be entered before any thread is started (there are {0})")]
    Threads(usize),
    /// The process is gone or belongs to somebody else.
    #[error("cannot enter the {kind} namespace of process {pid}; is it running, and yours?")]
    Enter {
        /// `net`, `mnt`, ….
        kind: &'static str,
        /// Whose.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The container does not run now.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// The machine does not have the program.
    #[error(
        "there is no program `{0}` on this machine: containers are its processes, so only its own programs can be run in them"
    )]
    NoProgram(String),
    /// The command could not be run.
    #[error("cannot run `{program}`")]
    Run {
        /// Which.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Enters the node's user, network and mount namespaces: those of the supervisor, process `pid`.
///
/// Afterwards istiod's address and all pods are reachable as from the node.
///
/// # Errors
/// See [`ExecError`].
pub fn enter_node(pid: u32) -> Result<(), ExecError> {
    enter(pid, &["user", "net", "mnt"])
}

/// Enters a pod's namespaces (`pid` is `PodState::pid`); the next child process is a process of the pod.
///
/// # Errors
/// See [`ExecError`].
pub fn enter_pod(pid: u32) -> Result<(), ExecError> {
    enter(pid, &["user", "net", "uts", "ipc", "pid", "mnt"])
}

/// Enters a pod's network only, to ask its proxy something from here.
///
/// # Errors
/// See [`ExecError`].
pub fn enter_network(pid: u32) -> Result<(), ExecError> {
    enter(pid, &["user", "net"])
}

/// Runs a command in a container and waits for it. Standard streams, terminal included, are this process's own.
///
/// Environment and working directory are the container's. `instead` is run where the machine does not have the program.
///
/// # Errors
/// See [`ExecError`]; a command that ran is no error, whatever its status.
pub fn run(
    pod: &PodProcesses,
    container: &str,
    argv: &[String],
    instead: Option<&[String]>,
) -> Result<ExitStatus, ExecError> {
    let not_running = || ExecError::NotRunning(container.to_owned());
    let inside = pod
        .containers
        .iter()
        .find(|(name, _)| name == container)
        .map(|(_, pid)| *pid);
    let inside = inside.filter(|pid| *pid != 0).ok_or_else(not_running)?;
    enter_pod(pod.pid)?;
    wait_until_set_up(inside);
    let process = PathBuf::from(format!("/proc/{inside}"));
    let environment = fs::read(process.join("environ")).map_err(|_| not_running())?;
    let directory = fs::read_link(process.join("cwd")).unwrap_or_else(|_| PathBuf::from("/"));
    join(inside, "mnt")?;
    let environment = parse_environment(&environment);
    let status = |argv: &[String]| {
        let program = argv.first().cloned().unwrap_or_default();
        let mut command = Command::new(&program);
        command
            .args(argv.iter().skip(1))
            .env_clear()
            .envs(environment.clone())
            .current_dir(existing(&directory));
        if let Ok(terminal) = std::env::var("TERM") {
            command.env("TERM", terminal);
        }
        let path = environment.iter().find(|(name, _)| name == "PATH");
        let path = path.map(|(_, value)| OsStr::new(value));
        command.status().map_err(|source| {
            if is_missing(&program, path, &source) {
                ExecError::NoProgram(program)
            } else {
                ExecError::Run { program, source }
            }
        })
    };
    match (status(argv), instead) {
        (Err(ExecError::NoProgram(_)), Some(instead)) => status(instead),
        (outcome, _) => outcome,
    }
}

/// Whether an error of running a program means that the machine does not have it. Where `PATH` holds a directory that may not be
/// read, the system's answer is "permission denied" for every program that is nowhere else.
pub(crate) fn is_missing(program: &str, path: Option<&OsStr>, error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::NotFound => true,
        io::ErrorKind::PermissionDenied => {
            let mut places = path.into_iter().flat_map(std::env::split_paths);
            !program.contains('/') && !places.any(|place| place.join(program).exists())
        }
        _ => false,
    }
}

/// The kernel's `environ` file: `NAME=VALUE` pieces ended by zeros.
fn parse_environment(bytes: &[u8]) -> Vec<(String, String)> {
    let text = |piece: &[u8]| String::from_utf8_lossy(piece).into_owned();
    bytes
        .split(|b| *b == 0)
        .filter_map(|piece| {
            let at = piece.iter().position(|b| *b == b'=')?;
            Some((text(&piece[..at]), text(&piece[at + 1..])))
        })
        .filter(|(name, _)| !name.is_empty())
        .collect()
}

fn existing(directory: &Path) -> &Path {
    if directory.is_dir() {
        directory
    } else {
        Path::new("/")
    }
}

fn enter(pid: u32, kinds: &[&'static str]) -> Result<(), ExecError> {
    let threads = sys::thread_count().unwrap_or(1);
    if threads != 1 {
        return Err(ExecError::Threads(threads));
    }
    // All are opened first: after the first step /proc may show other processes.
    let mut links = Vec::new();
    for kind in kinds {
        let wrap = |source| ExecError::Enter { kind, pid, source };
        let path = format!("/proc/{pid}/ns/{kind}");
        let ours = fs::read_link(format!("/proc/self/ns/{kind}")).map_err(wrap)?;
        if fs::read_link(&path).map_err(wrap)? != ours {
            links.push((*kind, File::open(&path).map_err(wrap)?));
        }
    }
    for (kind, link) in &links {
        join_link(link, kind).map_err(|source| ExecError::Enter { kind, pid, source })?;
    }
    Ok(())
}

/// Waits until a container's last stage has made its mounts: then it starts a session of its own.
///
/// Bounded; a container that is slower is entered as it is.
pub(crate) fn wait_until_set_up(pid: u32) {
    const STEP: Duration = Duration::from_millis(5);
    for _ in 0..400 {
        match session(pid) {
            Some(leader) if leader != pid => std::thread::sleep(STEP),
            _ => return,
        }
    }
}

/// The session of a process; `None` when there is no such process.
fn session(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; after it come state, parent, group, session.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(3)?.parse().ok()
}

/// Enters one namespace of a process of the current pid namespace.
pub(crate) fn join(pid: u32, kind: &'static str) -> Result<(), ExecError> {
    let wrap = |source| ExecError::Enter { kind, pid, source };
    let link = File::open(format!("/proc/{pid}/ns/{kind}")).map_err(wrap)?;
    join_link(&link, kind).map_err(wrap)
}

fn join_link(link: &File, kind: &str) -> io::Result<()> {
    let kind = match kind {
        "user" => LinkNameSpaceType::User,
        "net" => LinkNameSpaceType::Network,
        "uts" => LinkNameSpaceType::HostNameAndNISDomainName,
        "ipc" => LinkNameSpaceType::InterProcessCommunication,
        "pid" => LinkNameSpaceType::ProcessID,
        _ => LinkNameSpaceType::Mount,
    };
    Ok(move_into_link_name_space(link.as_fd(), Some(kind))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_nowhere_is_missing_and_one_that_may_not_be_run_is_not() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let path = Some(OsStr::new("/nowhere:/bin"));
        assert!(is_missing("made-up", path, &denied));
        assert!(!is_missing("sh", path, &denied));
        assert!(!is_missing("/etc/passwd", path, &denied));
    }

    #[test]
    fn a_processs_environment_is_read_as_the_kernel_writes_it() {
        let pairs = parse_environment(b"A=1\0B=x=y\0=bad\0nonsense\0");
        let wanted = [("A", "1"), ("B", "x=y")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(pairs, wanted);
    }
}
