//! The state directory: where it is, and what a running mesh leaves there for other commands to find.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lateen_identity::ca::{CaSource, KeyAccess};
use lateen_local::state::{StateDir as Runtime, write_atomically};
use lateen_sources::plan::PodState;
use serde::{Deserialize, Serialize};

/// Longest wait for a mesh that was killed to have ended.
const TO_END: Duration = Duration::from_secs(5);

/// Paths below the state directory: the runtime's own, and what the commands keep beside them.
#[derive(Clone, Debug)]
pub(crate) struct StateDir {
    runtime: Runtime,
}

/// `run/up.json`: the mesh that runs now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Up {
    /// The supervisor's process, as the host sees it.
    pub(crate) pid: u32,
    /// When that process started, in clock ticks since boot: a pid that was given to another process is told apart by it.
    pub(crate) start_ticks: u64,
    /// The files and directories the mesh was started with.
    pub(crate) paths: Vec<PathBuf>,
    /// Namespace of objects that name none.
    pub(crate) namespace: String,
    /// `lateen` or `envoy`.
    pub(crate) data_plane: String,
    /// Whether everything was ready once.
    pub(crate) ready: bool,
    /// When it was started, in seconds since the Unix epoch.
    pub(crate) started_at: u64,
    /// Published ports, as given.
    pub(crate) publish: Vec<String>,
    /// The directory of a plugged-in certificate authority.
    #[serde(default)]
    pub(crate) cacerts: Option<PathBuf>,
}

impl Up {
    /// Where the mesh's certificate authority is.
    pub(crate) fn ca_source(&self, state: &StateDir) -> CaSource {
        ca_source(state, self.cacerts.clone())
    }
}

/// The plugged-in authority, or the one that is made in the state directory.
pub(crate) fn ca_source(state: &StateDir, cacerts: Option<PathBuf>) -> CaSource {
    match cacerts {
        Some(dir) => CaSource::Cacerts {
            dir,
            key_access: KeyAccess::OwnerOnly,
        },
        None => CaSource::SelfMade { dir: state.ca() },
    }
}

impl StateDir {
    /// The directory given, or the one that `$LATEEN_STATE`, `$XDG_STATE_HOME` or `$HOME` imply.
    pub(crate) fn locate(given: Option<PathBuf>) -> Result<Self> {
        let from_env = |name: &str| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let root = given
            .or_else(|| from_env("LATEEN_STATE"))
            .or_else(|| from_env("XDG_STATE_HOME").map(|d| d.join("lateen")))
            .or_else(|| from_env("HOME").map(|d| d.join(".local/state/lateen")))
            .context("no place for state: set --state, LATEEN_STATE or HOME")?;
        let root =
            std::path::absolute(&root).with_context(|| format!("resolving {}", root.display()))?;
        Ok(Self {
            runtime: Runtime::at(root),
        })
    }

    /// Creates it and its parts, readable by the owner only.
    pub(crate) fn create(&self) -> Result<()> {
        let root = self.root().to_owned();
        for dir in [root, self.runtime.run(), self.runtime.logs(), self.ca()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .with_context(|| format!("creating {}", dir.display()))?;
        }
        Ok(())
    }

    pub(crate) fn root(&self) -> &Path {
        self.runtime.root()
    }

    pub(crate) fn pod_logs(&self, namespace: &str, pod: &str) -> PathBuf {
        self.runtime.pod_logs(namespace, pod)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.root().join("ca")
    }

    pub(crate) fn token_key(&self) -> PathBuf {
        self.runtime.run().join("tokens.key")
    }

    pub(crate) fn pods(&self) -> PathBuf {
        self.runtime.pods_json()
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.runtime.containers_json()
    }

    pub(crate) fn istiod_socket(&self) -> PathBuf {
        self.runtime.run().join("istiod.sock")
    }

    /// The workloads that are no pods and have registered.
    pub(crate) fn workloads_json(&self) -> PathBuf {
        self.runtime.run().join("workloads.json")
    }

    fn up(&self) -> PathBuf {
        self.runtime.run().join("up.json")
    }

    /// Records that a mesh runs.
    pub(crate) fn write_up(&self, up: &Up) -> Result<()> {
        let text = serde_json::to_vec_pretty(up).context("encoding up.json")?;
        write_atomically(&self.up(), &text).context("recording the mesh")
    }

    /// Removes the record.
    pub(crate) fn clear_up(&self) {
        // A missing file is what is wanted; anything else is repaired by the next `up`, which overwrites it.
        let _ = fs::remove_file(self.up());
        let _ = fs::remove_file(self.pods());
    }

    /// The mesh that runs, if its process is still the one recorded.
    pub(crate) fn running(&self) -> Result<Option<Up>> {
        let path = self.up();
        let Ok(text) = fs::read(&path) else {
            return Ok(None);
        };
        let up: Up =
            serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
        Ok((start_ticks(up.pid) == Some(up.start_ticks)).then_some(up))
    }

    /// As [`Self::running`], but waits for a mesh that was killed and has not quite ended: it is no reason not to start another,
    /// which needs its ports.
    pub(crate) fn running_on(&self) -> Result<Option<Up>> {
        let deadline = Instant::now() + TO_END;
        loop {
            let up = self.running()?;
            let ends = up
                .as_ref()
                .and_then(|up| Process::read(up.pid))
                .is_some_and(|p| p.ends);
            if !ends || Instant::now() > deadline {
                return Ok(up);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The mesh that runs, or an error that says how to start one.
    pub(crate) fn expect_running(&self) -> Result<Up> {
        match self.running()? {
            Some(up) => Ok(up),
            None => bail!(
                "no mesh is running (state in {}); start one with `lateen up DIR`",
                self.root().display()
            ),
        }
    }

    /// The pods' state as the supervisor last wrote it.
    pub(crate) fn read_pods(&self) -> Result<Vec<PodState>> {
        let path = self.pods();
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
    }
}

/// When a process started, in clock ticks since boot; none for one that has ended, even if its parent has not looked yet.
pub(crate) fn start_ticks(pid: u32) -> Option<u64> {
    Process::read(pid).map(|p| p.start_ticks)
}

/// A process that has not ended, as `/proc/PID/stat` tells of it (proc(5)).
struct Process {
    /// The kernel is taking it apart: it runs no more, and may still hold its ports.
    ends: bool,
    start_ticks: u64,
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        /// `PF_EXITING` of linux/sched.h.
        const EXITING: u32 = 0x4;
        // The second field is the command in parentheses and may hold anything; count from its end.
        let rest = stat.rsplit_once(')')?.1.trim_start();
        if rest.starts_with(['Z', 'X']) {
            return None;
        }
        let mut fields = rest.split_whitespace();
        let flags: u32 = fields.nth(6)?.parse().ok()?;
        Some(Self {
            ends: flags & EXITING != 0,
            start_ticks: fields.nth(12)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(pid: u32, start_ticks: u64) -> Up {
        Up {
            pid,
            start_ticks,
            paths: vec![],
            namespace: "default".to_owned(),
            data_plane: "lateen".to_owned(),
            ready: false,
            started_at: 0,
            publish: vec![],
            cacerts: None,
        }
    }

    #[test]
    fn a_record_whose_pid_was_given_to_another_process_is_no_running_mesh() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let state = StateDir::locate(Some(dir.path().join("state"))).expect("located");
        state.create().expect("created");
        let me = std::process::id();
        let ticks = start_ticks(me).expect("this process has a start time");
        state.write_up(&up(me, ticks)).expect("written");
        assert!(state.running().expect("readable").is_some());
        state.write_up(&up(me, ticks + 1)).expect("written");
        assert!(state.running().expect("readable").is_none());
    }

    #[test]
    fn a_process_that_is_taken_apart_is_told_from_one_that_runs() {
        let stat = |state: &str, flags: u32| {
            let fields = "1 2 3 0 -1";
            let more = "0 ".repeat(12);
            Process::parse(&format!(
                "7 (a ) b) {state} {fields} {flags} {more}815 9 10"
            ))
        };
        let runs = stat("S", 0x40_0040).expect("a process");
        assert_eq!((runs.ends, runs.start_ticks), (false, 815));
        assert!(stat("D", 0x40_0044).expect("a process").ends);
        assert!(stat("Z", 0x40_0044).is_none());
        let me = Process::read(std::process::id()).expect("this process");
        assert!(!me.ends);
    }

    #[test]
    fn the_state_directory_is_the_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let state = StateDir::locate(Some(dir.path().join("state"))).expect("located");
        state.create().expect("created");
        let mode = fs::metadata(state.root())
            .expect("metadata")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
