//! One container's life: started, ended, started again after a pause that grows.
//!
//! Source: the kubelet's rules for restart policies and `CrashLoopBackOff`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use tokio::time::Instant;

use super::launch::Launch;
use super::{CONTAINER, SUBCOMMAND, setup};
use crate::logs::{self, Log};
use crate::sandbox::{Container, ContainerStatus, Event, RestartPolicy, Spec, Start};

/// The pause before the second restart; the first one is immediate.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A container that ran this long starts again without a pause.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// How a container is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Status {
    /// Its turn has not come.
    Idle,
    /// Nothing to run.
    Blocked,
    /// To be started again.
    Pausing { until: Instant },
    /// Its process runs.
    Running { pid: u32, since: Instant },
    /// Ended for good.
    Done { code: i32 },
}

/// A container with what is known of its runs.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) container: Container,
    pub(super) status: Status,
    pub(super) restarts: u32,
    pub(super) exit_code: Option<i32>,
    /// When a process that was asked to end is killed.
    pub(super) kill_at: Option<Instant>,
    pause: Duration,
    reason: String,
}

impl Run {
    pub(super) fn new(container: Container) -> Self {
        Self {
            container,
            status: Status::Idle,
            restarts: 0,
            exit_code: None,
            kill_at: None,
            pause: Duration::ZERO,
            reason: "PodInitializing".to_owned(),
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        match self.status {
            Status::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// When the loop has to look at this container again.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        match self.status {
            Status::Pausing { until } => Some(until),
            Status::Running { .. } => self.kill_at,
            _ => None,
        }
    }

    /// Starts the container; a failure counts as a run that ended.
    pub(super) fn start(&mut self, spec: &Spec, now: Instant) {
        if matches!(self.status, Status::Pausing { .. }) {
            self.restarts += 1;
        }
        self.kill_at = None;
        let argv = match self.container.start.clone() {
            Start::Command(argv) => argv,
            Start::Blocked { status, message } => {
                self.reason = status;
                self.status = Status::Blocked;
                let _ = self.note(spec, &message);
                return;
            }
        };
        match self.spawn(spec, argv) {
            Ok(pid) => self.status = Status::Running { pid, since: now },
            Err(error) => {
                let _ = self.note(
                    spec,
                    &format!("lateen: cannot start the container: {error}"),
                );
                self.ended(128, now);
            }
        }
    }

    /// Notes the end of a run and decides what comes next.
    pub(super) fn ended(&mut self, code: i32, now: Instant) {
        if let Status::Running { since, .. } = self.status
            && now.duration_since(since) >= FORGIVEN_AFTER
        {
            self.pause = Duration::ZERO;
        }
        self.exit_code = Some(code);
        self.kill_at = None;
        let again = match self.container.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => code != 0,
            RestartPolicy::Never => false,
        };
        if !again {
            self.status = Status::Done { code };
            return;
        }
        self.status = Status::Pausing {
            until: now + self.pause,
        };
        self.reason = if self.pause.is_zero() {
            "Restarting"
        } else {
            "CrashLoopBackOff"
        }
        .to_owned();
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
    }

    /// Signals the container's whole process group: a shell does not pass signals on.
    pub(super) fn signal(&self, signal: Signal) {
        let Some(pid) = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())) else {
            return;
        };
        // Until the last stage has made its session there is no group yet.
        if rustix::process::kill_process_group(pid, signal) == Err(Errno::SRCH) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// What the supervisor is told.
    pub(super) fn event(&self) -> Event {
        let state = match self.status {
            Status::Idle | Status::Blocked | Status::Pausing { .. } => {
                let message = match &self.container.start {
                    Start::Blocked { message, .. } => message.clone(),
                    Start::Command(_) => String::new(),
                };
                ContainerStatus::Waiting {
                    reason: self.reason.clone(),
                    message,
                }
            }
            Status::Running { pid, .. } => ContainerStatus::Running { pid },
            Status::Done { code: 0 } => ContainerStatus::Ended {
                reason: "Completed".to_owned(),
            },
            Status::Done { .. } => ContainerStatus::Ended {
                reason: "Error".to_owned(),
            },
        };
        Event::Container {
            name: self.container.name.clone(),
            state,
            restarts: self.restarts,
            exit_code: self.exit_code,
        }
    }

    fn spawn(&self, spec: &Spec, argv: Vec<String>) -> io::Result<u32> {
        let log = Log::start(&spec.logs, &self.container.name)?;
        let (reader, writer) = io::pipe()?;
        let launch = Launch {
            binds: binds(spec, &self.container),
            instead: self.container.instead.clone(),
            ..self.launch(spec, argv)
        };
        let output = (Stdio::from(writer.try_clone()?), Stdio::from(writer));
        let pid = spawn_stage(&self.container, &launch, output)?;
        tokio::spawn(logs::keep(reader, log));
        Ok(pid)
    }

    /// Runs another command in the running container; its output goes nowhere.
    pub(super) fn exec(&self, spec: &Spec, argv: Vec<String>) -> io::Result<u32> {
        let inside = self
            .pid()
            .ok_or_else(|| io::Error::other("the container is not running"))?;
        let launch = Launch {
            join: Some(inside),
            ..self.launch(spec, argv)
        };
        spawn_stage(&self.container, &launch, (Stdio::null(), Stdio::null()))
    }

    fn launch(&self, spec: &Spec, argv: Vec<String>) -> Launch {
        Launch {
            argv,
            instead: None,
            image: self.container.image.clone(),
            working_dir: self.container.working_dir.clone(),
            vault: spec.vault.clone(),
            binds: Vec::new(),
            join: None,
            user: self.container.user,
            group: self.container.group,
            capabilities: self.container.capabilities,
        }
    }

    /// A line in the container's own log, where people look first.
    fn note(&self, spec: &Spec, message: &str) -> io::Result<()> {
        Log::start(&spec.logs, &self.container.name)?.write(format!("{message}\n").as_bytes())
    }
}

/// Starts the stage that becomes the container. Its process id stays the same when it does.
fn spawn_stage(
    container: &Container,
    launch: &Launch,
    (stdout, stderr): (Stdio, Stdio),
) -> io::Result<u32> {
    let mut command = Command::new("/proc/self/exe");
    command.args([SUBCOMMAND, CONTAINER]).env_clear();
    command.envs(container.env.iter().map(|(name, value)| (name, value)));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()?;
    let text = serde_json::to_vec(launch)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&text)?;
    }
    Ok(child.id())
}

/// Outer mounts before those inside them.
fn binds(spec: &Spec, container: &Container) -> Vec<(PathBuf, PathBuf, bool)> {
    let mut binds: Vec<(PathBuf, PathBuf, bool)> = Vec::new();
    for mount in &container.mounts {
        let Some(volume) = spec.volumes.get(&mount.volume) else {
            continue;
        };
        let mut source = setup::volume_path(spec, &mount.volume, volume);
        if let Some(part) = &mount.sub_path {
            source.push(part);
        }
        binds.push((source, mount.path.clone().into(), mount.read_only));
    }
    binds.sort_by_key(|(_, target, _)| target.components().count());
    binds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(restart: RestartPolicy) -> Run {
        Run::new(Container {
            restart,
            ..Container::default()
        })
    }

    #[test]
    fn restarts_come_at_once_then_after_ten_seconds_doubling_to_five_minutes() {
        let (mut run, now) = (run(RestartPolicy::Always), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            run.status = Status::Running { pid: 1, since: now };
            run.ended(1, now);
            let Status::Pausing { until } = run.status else {
                panic!("{:?}", run.status)
            };
            pauses.push((until - now).as_secs());
        }
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(run.reason, "CrashLoopBackOff");
    }

    #[test]
    fn a_container_that_ran_long_is_forgiven() {
        let (mut run, now) = (run(RestartPolicy::Always), Instant::now());
        run.ended(1, now);
        run.ended(1, now);
        run.status = Status::Running { pid: 1, since: now };
        let later = now + FORGIVEN_AFTER;
        run.ended(1, later);
        assert_eq!(run.status, Status::Pausing { until: later });
    }

    #[test]
    fn policies_decide_by_exit_status() {
        let now = Instant::now();
        for (policy, code, again) in [
            (RestartPolicy::OnFailure, 0, false),
            (RestartPolicy::OnFailure, 3, true),
            (RestartPolicy::Never, 3, false),
            (RestartPolicy::Always, 0, true),
        ] {
            let mut run = run(policy);
            run.ended(code, now);
            assert_eq!(
                matches!(run.status, Status::Pausing { .. }),
                again,
                "{policy:?} {code}"
            );
        }
    }
}
