//! A mesh that runs: `lateen up` on files of the experiment's own, with Lateen or a stock Envoy beside the workloads.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lateen_sources::plan::PodState;
use serde_json::Value;

use crate::load::Outcome;
use crate::process::{self, Core, Process};

/// How long a mesh has to become ready.
const START: Duration = Duration::from_secs(180);
/// How long it has to end.
const STOP: Duration = Duration::from_secs(20);

/// Where the workloads are.
const NAMESPACE: &str = "default";

/// Which proxy runs beside the workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataPlane {
    /// This project's.
    Lateen,
    /// A stock Envoy under the same control plane.
    Envoy,
}

impl DataPlane {
    /// Both, the baseline first.
    pub(crate) const BOTH: [Self; 2] = [Self::Envoy, Self::Lateen];

    /// Its name in tables and on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Lateen => "lateen",
            Self::Envoy => "envoy",
        }
    }
}

/// A running mesh; ended with the value.
#[derive(Debug)]
pub(crate) struct Mesh {
    process: Option<Process>,
    home: tempfile::TempDir,
    lateen: PathBuf,
    log: PathBuf,
}

/// A sidecar: the data plane's process, and the agent's if that is another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sidecar {
    /// The pod.
    pub(crate) pod: String,
    /// The process that carries traffic.
    pub(crate) proxy: u32,
}

/// The `lateen` binary: `$LATEEN`, else beside this program.
///
/// # Errors
/// There is none.
pub(crate) fn lateen() -> Result<PathBuf> {
    if let Some(set) = std::env::var_os("LATEEN").filter(|v| !v.is_empty()) {
        return Ok(PathBuf::from(set));
    }
    let this = std::env::current_exe().context("finding this program")?;
    let beside = this.with_file_name("lateen");
    if !beside.is_file() {
        bail!(
            "{} is missing: build it with `cargo build --release -p lateen`",
            beside.display()
        );
    }
    Ok(beside)
}

impl Mesh {
    /// Starts a mesh from files and waits until every pod is ready.
    ///
    /// # Errors
    /// It does not become ready.
    pub(crate) fn up(files: &[(&str, String)], data_plane: DataPlane) -> Result<Self> {
        let home = tempfile::tempdir().context("making a directory")?;
        let dir = home.path().join("config");
        fs::create_dir(&dir).context("making a directory")?;
        for (name, text) in files {
            fs::write(dir.join(name), text).with_context(|| format!("writing {name}"))?;
        }
        let (lateen, log) = (lateen()?, home.path().join("up.log"));
        let mut command = Command::new(&lateen);
        command
            .arg("--state")
            .arg(home.path().join("state"))
            .arg("up")
            .arg(&dir);
        command.args(["--data-plane", data_plane.name()]);
        let process = Process::start_anywhere(&mut command, &log)?;
        let mut mesh = Self {
            process: Some(process),
            home,
            lateen,
            log,
        };
        mesh.wait_until_ready()?;
        Ok(mesh)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            if log.contains("ready in ") {
                return Ok(());
            }
            let ended = self.process.as_mut().is_none_or(Process::has_ended);
            if ended || Instant::now() > deadline {
                bail!("the mesh is not ready:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs the load generator in a workload's network.
    ///
    /// # Errors
    /// It fails, or a request does.
    pub(crate) fn load(&self, target: &str, arguments: &[&str]) -> Result<Outcome> {
        let mut command = self.command(&["exec", target, "--"]);
        command.arg(std::env::current_exe().context("finding this program")?);
        command.arg("load").args(arguments);
        let text = process::output(&mut command)?;
        let outcome: Outcome = serde_json::from_str(&text).context("the generator's output")?;
        if outcome.errors > 0 || outcome.requests == 0 {
            let log = process::tail(&self.log, 10);
            bail!(
                "{} requests failed: {}\n{log}",
                outcome.errors,
                outcome.error.unwrap_or_default()
            );
        }
        Ok(outcome)
    }

    /// The address of a workload's pod.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn address(&self, owner: &str) -> Result<Ipv4Addr> {
        let path = self.home.path().join("state/run/pods.json");
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let pods: Vec<PodState> = serde_json::from_slice(&text).context("the list of pods")?;
        let of = |pod: &&PodState| pod.namespace == NAMESPACE && pod.owner.name == owner;
        let pod = pods.iter().find(of);
        Ok(pod.with_context(|| format!("no pod of {owner}"))?.ipv4)
    }

    /// A `lateen` command on this mesh.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.lateen);
        command
            .arg("--state")
            .arg(self.home.path().join("state"))
            .args(arguments);
        command
    }

    /// The sidecars, found below their pods' processes and kept to the subject's core.
    ///
    /// # Errors
    /// The pods are not known.
    pub(crate) fn sidecars(&self, data_plane: DataPlane) -> Result<Vec<Sidecar>> {
        let path = self.home.path().join("state/run/containers.json");
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let pods: Value = serde_json::from_slice(&text).context("the list of pods")?;
        let all = process::command_lines();
        let mut found = Vec::new();
        for pod in pods.as_array().into_iter().flatten() {
            if pod["namespace"] != NAMESPACE {
                continue; // the gateways that every mesh has
            }
            let name = pod["pod"].as_str().unwrap_or_default();
            let Some(root) = pod["pid"].as_u64().and_then(|p| u32::try_from(p).ok()) else {
                continue;
            };
            let proxy = all
                .iter()
                .find(|(pid, words)| carries(words, data_plane) && process::is_below(*pid, root));
            if let Some((pid, _)) = proxy {
                process::pin(*pid, Core::Subject)?;
                found.push(Sidecar {
                    pod: name.to_owned(),
                    proxy: *pid,
                });
            }
        }
        Ok(found)
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            process.stop(STOP);
        }
    }
}

/// Whether a command line is that of a process which carries traffic.
fn carries(words: &[String], data_plane: DataPlane) -> bool {
    match data_plane {
        DataPlane::Lateen => words.windows(2).any(|w| w == ["proxy", "sidecar"]),
        DataPlane::Envoy => words
            .first()
            .is_some_and(|program| Path::new(program).file_name().is_some_and(|n| n == "envoy")),
    }
}
