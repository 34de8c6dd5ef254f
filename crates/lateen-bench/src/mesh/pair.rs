//! A pair of somebody else's proxies in place of the sidecars. The pods are the mesh's without injection.

mod haproxy;
mod linkerd;
mod ztunnel;

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::running::{DataPlane, Mesh, Sidecar};
use super::{Case, SERVICE};
use crate::process::{self, Core, Process};
use crate::rivals::{Subject, set_or_found};

/// How long both have until a first request is answered.
const START: Duration = Duration::from_secs(20);
/// The origin's ports: HTTP/1.1, gRPC, bytes.
const PORTS: [u16; 3] = [8081, 8082, 8083];

/// Whose proxies they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rival {
    /// HAProxy: HTTP/1.1 and TCP, nothing else that a mesh does.
    Haproxy,
    /// Linkerd's sidecar.
    Linkerd,
    /// The proxy of Istio's ambient mode: TCP alone.
    Ztunnel,
}

impl Rival {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Haproxy, Self::Linkerd, Self::Ztunnel];

    /// Its name in tables and on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Haproxy => Subject::Haproxy.name(),
            Self::Linkerd => "linkerd2-proxy",
            Self::Ztunnel => "ztunnel",
        }
    }

    /// How to get it.
    pub(crate) const fn install(self) -> &'static str {
        match self {
            Self::Haproxy => Subject::Haproxy.install(),
            Self::Linkerd => {
                "in a clone of github.com/linkerd/linkerd2-proxy `RUSTFLAGS='--cfg tokio_unstable' cargo build --release`, and set BENCH_LINKERD to its binary"
            }
            Self::Ztunnel => {
                "in a clone of github.com/istio/ztunnel `cargo build --release --features testing`, and set BENCH_ZTUNNEL to its binary"
            }
        }
    }

    /// Where its program is; `None` if it is not installed.
    pub(super) fn program(self) -> Option<PathBuf> {
        match self {
            Self::Haproxy => Subject::Haproxy.program(),
            Self::Linkerd => set_or_found("BENCH_LINKERD", self.name()),
            Self::Ztunnel => set_or_found("BENCH_ZTUNNEL", self.name()),
        }
    }

    /// What the client calls.
    pub(super) const fn host(self) -> &'static str {
        match self {
            Self::Haproxy => "127.0.0.1",
            Self::Linkerd | Self::Ztunnel => SERVICE,
        }
    }

    /// Whether it carries a case: of HTTP/2 HAProxy would make nothing that compares.
    pub(super) fn can(self, case: &Case) -> bool {
        self != Self::Haproxy || case.protocol != "grpc"
    }

    fn sides(self, pods: &Pods, files: &Path) -> Result<[Side; 2]> {
        match self {
            Self::Haproxy => haproxy::sides(pods, files),
            Self::Linkerd => linkerd::sides(pods, files),
            Self::Ztunnel => ztunnel::sides(pods, files),
        }
    }
}

/// The addresses of the two pods.
#[derive(Clone, Copy, Debug)]
struct Pods {
    client: Ipv4Addr,
    server: Ipv4Addr,
}

/// What runs in one pod, all of it in the pod's network.
#[derive(Debug, Default)]
struct Side {
    pod: &'static str,
    /// A command that is run first, to its end.
    setup: Vec<OsString>,
    /// A process that stays beside the proxy and is not measured.
    companion: Vec<OsString>,
    /// Set for the proxy.
    environment: Vec<(String, OsString)>,
    /// The proxy's.
    arguments: Vec<OsString>,
}

/// The command that redirects connections to the origin's ports, from `chain` of the NAT and for those that `matches`, to a port
/// of the pod.
fn redirect(chain: &str, matches: &str, to: u16) -> Vec<OsString> {
    let ports = PORTS.map(|port| port.to_string()).join(", ");
    let rules = format!(
        "add table ip bench; add chain ip bench {chain} {{ type nat hook {chain} priority -100; }}; add rule ip bench {chain} {matches} \
         tcp dport {{ {ports} }} redirect to :{to}"
    );
    vec!["nft".into(), rules.into()]
}

/// Two proxies that run; ended with the value.
#[derive(Debug)]
pub(super) struct Pair {
    _processes: Vec<Process>,
    files: tempfile::TempDir,
}

/// Starts the pods and a proxy in each.
///
/// # Errors
/// They do not start.
pub(super) fn up(
    rival: Rival,
    program: &Path,
    manifests: String,
) -> Result<(Mesh, Vec<Sidecar>, Pair)> {
    let mesh = Mesh::up(&[("mesh.yaml", manifests)], DataPlane::Lateen)?;
    let pods = Pods {
        client: mesh.address("client")?,
        server: mesh.address("server")?,
    };
    let files = tempfile::tempdir().context("making a directory")?;
    let (mut processes, mut sidecars) = (Vec::new(), Vec::new());
    for side in rival.sides(&pods, files.path())? {
        let log = files.path().join(format!("{}.log", side.pod));
        processes.extend(side.companion(&mesh, files.path())?);
        let proxy = side.start(&mesh, program, &log)?;
        sidecars.push(side.found(&proxy, program, &log)?);
        processes.push(proxy);
    }
    let pair = Pair {
        _processes: processes,
        files,
    };
    pair.wait_for_answer(rival, &mesh)?;
    for sidecar in &sidecars {
        // Threads that were started since.
        process::pin(sidecar.proxy, Core::Subject)?;
    }
    Ok((mesh, sidecars, pair))
}

impl Pair {
    /// Waits until a request goes through both.
    fn wait_for_answer(&self, rival: Rival, mesh: &Mesh) -> Result<()> {
        let target = format!("{}:{}", rival.host(), PORTS[0]);
        let one = [
            "--target",
            &target,
            "--connections",
            "1",
            "--count",
            "1",
            "--seconds",
            "5",
        ];
        let deadline = Instant::now() + START;
        while let Err(error) = mesh.load("deploy/client", &one) {
            if Instant::now() > deadline {
                let logs = ["client", "server"].map(|pod| {
                    let log = self.files.path().join(format!("{pod}.log"));
                    format!("{pod}:\n{}", process::tail(&log, 10))
                });
                bail!(
                    "nothing goes through a pair of {}: {error:#}\n{}",
                    rival.name(),
                    logs.join("\n")
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}

impl Side {
    /// Sets the pod's network up and starts what stays beside the proxy.
    fn companion(&self, mesh: &Mesh, files: &Path) -> Result<Option<Process>> {
        if !self.setup.is_empty() {
            process::output(self.exec(mesh).args(&self.setup))?;
        }
        if self.companion.is_empty() {
            return Ok(None);
        }
        let log = files.join(format!("{}-companion.log", self.pod));
        Process::start_anywhere(self.exec(mesh).args(&self.companion), &log).map(Some)
    }

    fn start(&self, mesh: &Mesh, program: &Path, log: &Path) -> Result<Process> {
        let mut command = self.exec(mesh);
        command.arg("env");
        for (name, value) in &self.environment {
            let mut set = OsString::from(format!("{name}="));
            set.push(value);
            command.arg(set);
        }
        command.arg(program).args(&self.arguments);
        Process::start_anywhere(&mut command, log)
    }

    fn exec(&self, mesh: &Mesh) -> std::process::Command {
        mesh.command(&["exec", &format!("deploy/{}", self.pod), "--"])
    }

    /// The proxy's own process, at or below the one that was started.
    fn found(&self, started: &Process, program: &Path, log: &Path) -> Result<Sidecar> {
        let deadline = Instant::now() + START;
        let runs = |words: &[String]| words.first().is_some_and(|word| Path::new(word) == program);
        while Instant::now() < deadline {
            let all = process::command_lines();
            let proxy = all.iter().find(|(pid, words)| {
                runs(words) && (*pid == started.pid() || process::is_below(*pid, started.pid()))
            });
            if let Some((pid, _)) = proxy {
                return Ok(Sidecar {
                    pod: self.pod.to_owned(),
                    proxy: *pid,
                });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!(
            "{} does not run in {}:\n{}",
            program.display(),
            self.pod,
            process::tail(log, 10)
        )
    }
}
