//! A stock Envoy as a child process: found, started, asked to drain, ended.

mod locate;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use lateen_envoy::with_causes;
use tokio::process::{Child, Command};

use crate::config::{AgentConfig, NodeType};
use crate::http_client::{self, HttpError, Target};

pub use locate::{LocateError, locate};

/// How long Envoy may take to end after it was told to, before it is killed.
const QUIT: Duration = Duration::from_secs(5);
/// How often the number of open connections is looked at while draining.
const DRAIN_POLL: Duration = Duration::from_millis(250);
/// How long an answer of Envoy's admin port may take.
const ADMIN: Duration = Duration::from_secs(2);
/// Crashes in a row that are answered by a restart. Then the agent ends, and whoever started it decides.
const MAX_RESTARTS: u32 = 3;
/// A run of this length makes earlier crashes forgotten.
const HEALTHY: Duration = Duration::from_secs(60);

/// Why Envoy does not run.
#[derive(Debug, thiserror::Error)]
pub enum EnvoyError {
    /// Its bootstrap could not be written.
    #[error("writing Envoy's bootstrap to `{path}`")]
    Bootstrap {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It could not be started.
    #[error("starting Envoy from `{path}`")]
    Start {
        /// The binary.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It cannot be waited for.
    #[error("waiting for Envoy")]
    Wait(#[source] io::Error),
    /// It ended by itself too often.
    #[error("Envoy ended with {status} after {restarts} restarts; its own log above says why")]
    Crashed {
        /// How it ended.
        status: ExitStatus,
        /// How often it was started again.
        restarts: u32,
    },
}

/// What is started.
#[derive(Clone, Debug)]
pub struct EnvoyProcess {
    /// The binary.
    pub binary: PathBuf,
    /// The bootstrap file.
    pub bootstrap: PathBuf,
    /// The arguments after it.
    pub arguments: Vec<String>,
    /// Its admin port on the loopback interface.
    pub admin_port: u16,
    /// How it ends.
    pub drain: Drain,
}

/// How a proxy is ended.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// Only inbound listeners are drained: a sidecar's workload may need the others to end its own work.
    pub inbound_only: bool,
    /// How long connections have at least.
    pub minimum: Duration,
    /// How long they have at most.
    pub maximum: Duration,
    /// Whether to end as soon as none is open.
    pub exit_on_zero_connections: bool,
}

impl EnvoyProcess {
    /// The process for these settings.
    pub fn new(config: &AgentConfig, binary: PathBuf, bootstrap: PathBuf) -> Self {
        let proxy = &config.proxy_config;
        let (level, components) = config.log_levels();
        let mut arguments: Vec<String> = [
            "--drain-time-s",
            &proxy.drain_duration.as_secs().to_string(),
            "--drain-strategy",
            "immediate",
            "--disable-hot-restart",
            "--allow-unknown-static-fields",
            "--log-level",
            &level,
        ]
        .map(ToOwned::to_owned)
        .to_vec();
        if let Some(components) = components {
            arguments.extend(["--component-log-level".to_owned(), components]);
        }
        if let Some(concurrency) = proxy.concurrency {
            arguments.extend(["--concurrency".to_owned(), concurrency.to_string()]);
        }
        let drain = Drain {
            inbound_only: config.node_type == NodeType::Sidecar,
            minimum: config.minimum_drain.min(proxy.termination_drain_duration),
            maximum: proxy.termination_drain_duration,
            exit_on_zero_connections: config.exit_on_zero_connections,
        };
        Self {
            binary,
            bootstrap,
            arguments,
            admin_port: proxy.admin_port,
            drain,
        }
    }

    /// Runs Envoy until `shutdown` resolves, then drains and ends it. A crash is answered by a restart, a few times.
    ///
    /// # Errors
    /// It cannot be started, or crashes again and again.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) -> Result<(), EnvoyError> {
        tokio::pin!(shutdown);
        let mut restarts = 0;
        loop {
            let mut child = self.start()?;
            let started = tokio::time::Instant::now();
            tokio::select! {
                () = &mut shutdown => return self.end(&mut child).await,
                status = child.wait() => {
                    let status = status.map_err(EnvoyError::Wait)?;
                    restarts = if started.elapsed() > HEALTHY { 0 } else { restarts };
                    if restarts == MAX_RESTARTS {
                        return Err(EnvoyError::Crashed { status, restarts });
                    }
                }
            }
            restarts += 1;
            tracing::warn!(restarts, "Envoy ended by itself; starting it again");
            let wait = tokio::time::sleep(Duration::from_millis(200) * 2_u32.pow(restarts));
            tokio::select! {
                () = &mut shutdown => return Ok(()),
                () = wait => {}
            }
        }
    }

    fn start(&self) -> Result<Child, EnvoyError> {
        let mut command = Command::new(&self.binary);
        command
            .arg("-c")
            .arg(&self.bootstrap)
            .args(&self.arguments)
            .kill_on_drop(true);
        die_with_parent(&mut command);
        command.spawn().map_err(|source| EnvoyError::Start {
            path: self.binary.clone(),
            source,
        })
    }

    /// Drains, waits, quits; kills only what does not go.
    async fn end(&self, child: &mut Child) -> Result<(), EnvoyError> {
        if let Err(error) = self.drain_listeners().await {
            tracing::warn!(error = %with_causes(&error), "Envoy could not be asked to drain");
        }
        let drained = self.wait_for_connections();
        tokio::select! {
            () = drained => {}
            _ = child.wait() => return Ok(()),
        }
        if let Err(error) = self.post("/quitquitquit").await {
            tracing::debug!(error = %with_causes(&error), "Envoy could not be asked to quit");
        }
        match tokio::time::timeout(QUIT, child.wait()).await {
            Ok(status) => status.map(drop).map_err(EnvoyError::Wait),
            Err(_) => child.kill().await.map_err(EnvoyError::Wait),
        }
    }

    /// Asks Envoy to drain: it closes idle connections, tells the others to go, and goes on serving.
    ///
    /// # Errors
    /// Its admin port does not answer.
    pub async fn drain_listeners(&self) -> Result<(), HttpError> {
        let scope = if self.drain.inbound_only {
            "&inboundonly"
        } else {
            ""
        };
        self.post(&format!("/drain_listeners?graceful&skip_exit{scope}"))
            .await
    }

    async fn wait_for_connections(&self) {
        tokio::time::sleep(self.drain.minimum).await;
        let rest = self.drain.maximum.saturating_sub(self.drain.minimum);
        if !self.drain.exit_on_zero_connections {
            return tokio::time::sleep(rest).await;
        }
        let none_left = async {
            while self
                .active_connections()
                .await
                .is_none_or(|active| active > 0)
            {
                tokio::time::sleep(DRAIN_POLL).await;
            }
        };
        // Whether it ended or timed out, what comes next is the same.
        let _ = tokio::time::timeout(rest, none_left).await;
    }

    /// Connections open downstream, without those to the admin port and the agent's own listeners.
    async fn active_connections(&self) -> Option<u64> {
        let path = "/stats?usedonly&filter=downstream_cx_active$";
        let answer = http_client::get(&Target::loopback(self.admin_port), path, ADMIN)
            .await
            .ok()?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let own = ["admin", "15090", "15021"];
        let foreign = text.lines().filter(|line| {
            line.starts_with("listener.") && !own.iter().any(|part| line.contains(part))
        });
        let count = |line: &str| line.rsplit(": ").next()?.trim().parse::<u64>().ok();
        Some(foreign.filter_map(count).sum())
    }

    async fn post(&self, path: &str) -> Result<(), HttpError> {
        http_client::post(&Target::loopback(self.admin_port), path, ADMIN)
            .await
            .map(drop)
    }
}

/// Writes the bootstrap where Envoy reads it.
///
/// # Errors
/// The file cannot be written.
pub fn write_bootstrap(path: &Path, bootstrap: &serde_json::Value) -> Result<(), EnvoyError> {
    let failed = |source| EnvoyError::Bootstrap {
        path: path.to_owned(),
        source,
    };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    std::fs::write(path, format!("{bootstrap:#}\n")).map_err(failed)
}

/// The child is killed when the thread that started it ends, however that happens.
#[expect(
    unsafe_code,
    reason = "what runs between fork and exec can only be set so"
)]
fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let before_exec = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // The parent may have died before the signal was asked for.
        if rustix::process::getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(
                rustix::io::Errno::SRCH.raw_os_error(),
            ))
        }
    };
    // SAFETY: the closure makes two system calls and allocates nothing, so it may run between fork and exec.
    unsafe { command.pre_exec(before_exec) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn process(dir: &Path, script: &str) -> EnvoyProcess {
        let binary = dir.join("envoy");
        std::fs::write(&binary, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o700)).unwrap();
        let drain = Drain {
            inbound_only: true,
            minimum: Duration::ZERO,
            maximum: Duration::from_millis(100),
            exit_on_zero_connections: false,
        };
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let admin_port = closed.local_addr().unwrap().port();
        let (bootstrap, arguments) = (dir.join("bootstrap.json"), Vec::new());
        EnvoyProcess {
            binary,
            bootstrap,
            arguments,
            admin_port,
            drain,
        }
    }

    #[tokio::test]
    async fn a_crash_is_answered_by_a_few_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let process = process(
            dir.path(),
            &format!("echo x >> {}/runs; exit 3", dir.path().display()),
        );
        let ended = process.run(std::future::pending()).await;
        assert!(matches!(
            ended,
            Err(EnvoyError::Crashed {
                restarts: MAX_RESTARTS,
                ..
            })
        ));
        let runs = std::fs::read_to_string(dir.path().join("runs")).unwrap();
        assert_eq!(runs.lines().count(), 4);
    }

    #[tokio::test]
    async fn one_that_does_not_answer_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let script = format!(
            "trap '' TERM; echo $$ > {}/pid; exec sleep 60",
            dir.path().display()
        );
        let process = process(dir.path(), &script);
        let pid = dir.path().join("pid");
        let began = tokio::time::Instant::now();
        process
            .run(async {
                while !pid.exists() {
                    tokio::task::yield_now().await
                }
            })
            .await
            .unwrap();
        assert!(began.elapsed() < QUIT + Duration::from_secs(5));
        let pid = std::fs::read_to_string(&pid).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists());
    }

    #[tokio::test]
    async fn a_binary_that_cannot_be_started_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let process = EnvoyProcess {
            binary: dir.path().join("absent"),
            ..process(dir.path(), "")
        };
        let ended = process.run(std::future::pending()).await;
        assert!(matches!(ended, Err(EnvoyError::Start { .. })));
    }
}
