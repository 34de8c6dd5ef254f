//! Process 1 of a pod: one loop over the supervisor's commands, ended processes and clocks.

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::containers::{Run, Status};
use super::lifecycle::{self, Stop};
use super::{control_stream, die_with_parent, read_first, send, setup};
use crate::sandbox::{Command, Container, Event, Hook, PROXY_CONTAINER, Spec};

/// While containers end, hooks and deadlines are looked at this often.
const STOP_STEP: Duration = Duration::from_millis(20);
/// The longest the loop sleeps without a reason.
const IDLE: Duration = Duration::from_secs(60);
/// After SIGTERM of a failed probe.
const KILL_GRACE: Duration = Duration::from_secs(10);

/// Runs the pod to its end.
pub(super) fn main() -> io::Result<ExitCode> {
    die_with_parent()?;
    let supervisor = control_stream()?;
    let Command::Start(spec) = read_first(&supervisor)? else {
        return Err(io::Error::other("the first message has to be `Start`"));
    };
    if let Err(error) = setup::prepare(&spec) {
        send(
            &supervisor,
            &Event::Failed {
                message: error.to_string(),
            },
        )?;
        return Ok(ExitCode::FAILURE);
    }
    supervisor.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (reader, writer) = UnixStream::from_std(supervisor)?.into_split();
        Pod::new(*spec, writer)
            .run(BufReader::new(reader).lines())
            .await
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What a process other than a container's own was started for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Probe { id: u64, deadline: Instant },
    PostStart { container: usize },
}

#[derive(Debug)]
struct Pod {
    spec: Spec,
    supervisor: OwnedWriteHalf,
    /// Init containers first.
    runs: Vec<Run>,
    /// How many of `runs` are init containers.
    init: usize,
    /// How many init containers are done with, as far as those after them care.
    passed: usize,
    main_started: bool,
    proxy_ready: bool,
    hold_until: Option<Instant>,
    stop: Option<Stop>,
    others: BTreeMap<u32, Purpose>,
    told: Vec<Option<Event>>,
}

impl Pod {
    fn new(mut spec: Spec, supervisor: OwnedWriteHalf) -> Self {
        let init = std::mem::take(&mut spec.init);
        let main = std::mem::take(&mut spec.containers);
        let count = init.len();
        let runs: Vec<Run> = init.into_iter().chain(main).map(Run::new).collect();
        let told = vec![None; runs.len()];
        let hold_until = spec
            .hold_ms
            .map(|ms| Instant::now() + Duration::from_millis(ms));
        Self {
            spec,
            supervisor,
            runs,
            init: count,
            passed: 0,
            main_started: false,
            proxy_ready: false,
            hold_until,
            stop: None,
            others: BTreeMap::new(),
            told,
        }
    }

    /// Until the pod has ended or the supervisor is gone.
    async fn run(mut self, mut commands: Lines<BufReader<OwnedReadHalf>>) -> io::Result<()> {
        let mut child_ended = signal(SignalKind::child())?;
        let mut terminate = signal(SignalKind::terminate())?;
        loop {
            let ended = self.advance(Instant::now());
            self.tell().await?;
            if ended {
                return self.finish().await;
            }
            let wake = self.wake_at(Instant::now());
            // All of these may be dropped halfway without losing anything.
            tokio::select! {
                line = commands.next_line() => match line? {
                    Some(line) => self.command(serde_json::from_str(&line)?).await?,
                    None => return Ok(()),
                },
                _ = child_ended.recv() => {}
                _ = terminate.recv() => self.begin_stop(KILL_GRACE),
                () = tokio::time::sleep_until(wake) => {}
            }
            self.reap().await?;
        }
    }

    /// Starts what is due; true when the pod has come to its end.
    fn advance(&mut self, now: Instant) -> bool {
        self.enforce_deadlines(now);
        if let Some(stop) = &mut self.stop {
            return stop.advance(&self.spec, &self.runs, now);
        }
        for at in 0..self.runs.len() {
            if matches!(self.runs[at].status, Status::Pausing { until } if until <= now) {
                self.start(at, now);
            }
        }
        self.advance_init(now);
        let main = &self.runs[self.init..];
        let all_done = main
            .iter()
            .all(|run| matches!(run.status, Status::Done { .. }));
        if self.init_failed() || (self.main_started && all_done) {
            self.begin_stop(KILL_GRACE);
        }
        false
    }

    fn advance_init(&mut self, now: Instant) {
        while self.passed < self.init {
            let at = self.passed;
            if self.runs[at].status == Status::Idle {
                self.start(at, now);
            }
            let run = &self.runs[at];
            let passed = match run.status {
                Status::Done { code } => code == 0,
                Status::Running { .. } => run.container.sidecar && !self.held_by(run, now),
                _ => false,
            };
            if !passed {
                return;
            }
            self.passed += 1;
        }
        if !self.main_started {
            self.main_started = true;
            if self.hold_until.is_some_and(|until| until <= now) && !self.proxy_ready {
                eprintln!(
                    "lateen pod: the proxy is not ready yet; the containers start without it"
                );
            }
            for at in self.init..self.runs.len() {
                self.start(at, now);
            }
        }
    }

    /// Whether the containers after the proxy still have to wait for it.
    fn held_by(&self, run: &Run, now: Instant) -> bool {
        let waiting = self.hold_until.is_some_and(|until| now < until);
        run.container.name == PROXY_CONTAINER && waiting && !self.proxy_ready
    }

    fn init_failed(&self) -> bool {
        let failed = |run: &Run| matches!(run.status, Status::Done { code } if code != 0);
        self.runs[..self.init]
            .iter()
            .any(|run| !run.container.sidecar && failed(run))
    }

    fn start(&mut self, at: usize, now: Instant) {
        self.runs[at].start(&self.spec, now);
        let run = &self.runs[at];
        if run.pid().is_none() {
            return;
        }
        match run.container.post_start.clone() {
            Some(Hook::Exec(argv)) => {
                if let Ok(pid) = run.exec(&self.spec, argv) {
                    self.others
                        .insert(pid, Purpose::PostStart { container: at });
                }
            }
            Some(Hook::HttpGet { port, path }) => {
                lifecycle::post_start_request(&self.spec, port, path);
            }
            Some(Hook::Sleep(_)) | None => {}
        }
    }

    fn begin_stop(&mut self, grace: Duration) {
        if self.stop.is_none() {
            self.stop = Some(Stop::new(&self.runs, grace, Instant::now()));
        }
    }

    fn enforce_deadlines(&self, now: Instant) {
        for run in &self.runs {
            if run.kill_at.is_some_and(|at| at <= now) {
                run.signal(Signal::KILL);
            }
        }
        for (pid, purpose) in &self.others {
            if matches!(purpose, Purpose::Probe { deadline, .. } if *deadline <= now) {
                kill(*pid);
            }
        }
    }

    fn wake_at(&self, now: Instant) -> Instant {
        if self.stop.is_some() {
            return now + STOP_STEP;
        }
        let runs = self.runs.iter().filter_map(Run::wake_at);
        let probes = self.others.values().filter_map(|purpose| match purpose {
            Purpose::Probe { deadline, .. } => Some(*deadline),
            Purpose::PostStart { .. } => None,
        });
        let hold = self
            .hold_until
            .filter(|until| !self.main_started && *until > now);
        runs.chain(probes)
            .chain(hold)
            .min()
            .unwrap_or(now + IDLE)
            .max(now)
    }

    async fn command(&mut self, command: Command) -> io::Result<()> {
        match command {
            Command::Start(_) => {}
            Command::ProxyReady => self.proxy_ready = true,
            Command::Stop { grace_ms } => {
                // An earlier end of its own accord gives way to the supervisor's grace.
                self.stop = None;
                self.begin_stop(Duration::from_millis(grace_ms));
            }
            Command::Kill { container, reason } => self.kill_container(&container, &reason),
            Command::Exec {
                id,
                container,
                argv,
                timeout_ms,
            } => {
                let run = self.runs.iter().find(|run| run.container.name == container);
                match run.map(|run| run.exec(&self.spec, argv)) {
                    Some(Ok(pid)) => {
                        let deadline = Instant::now() + Duration::from_millis(timeout_ms);
                        self.others.insert(pid, Purpose::Probe { id, deadline });
                    }
                    _ => self.send(&Event::ExecDone { id, code: None }).await?,
                }
            }
            Command::Refresh { volume, files } => {
                if let Some(kind) = self.spec.volumes.get(&volume) {
                    let directory = setup::volume_path(&self.spec, &volume, kind);
                    if let Err(error) = setup::write_volume(&directory, &files) {
                        eprintln!("lateen pod: cannot refresh volume {volume}: {error}");
                    }
                }
            }
        }
        Ok(())
    }

    fn kill_container(&mut self, name: &str, reason: &str) {
        let found = self.runs.iter_mut().find(|run| run.container.name == name);
        let Some(run) = found.filter(|run| run.kill_at.is_none()) else {
            return;
        };
        eprintln!("lateen pod: ending container {name}: {reason}");
        run.signal(Signal::TERM);
        run.kill_at = Some(Instant::now() + KILL_GRACE);
    }

    /// Takes in every process that ended: containers, hooks, probes, and orphans that became ours.
    async fn reap(&mut self) -> io::Result<()> {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_pid().cast_unsigned();
            let code = exit_code(status);
            let now = Instant::now();
            if let Some(run) = self.runs.iter_mut().find(|run| run.pid() == Some(pid)) {
                // What it left running has no place any more.
                run.signal(Signal::KILL);
                run.ended(code, now);
            } else if let Some(purpose) = self.others.remove(&pid) {
                self.other_ended(purpose, code).await?;
            } else if let Some(stop) = &mut self.stop {
                stop.hook_ended(pid);
            }
        }
        Ok(())
    }

    async fn other_ended(&mut self, purpose: Purpose, code: i32) -> io::Result<()> {
        match purpose {
            Purpose::Probe { id, deadline } => {
                let code = (Instant::now() < deadline).then_some(code);
                self.send(&Event::ExecDone { id, code }).await
            }
            Purpose::PostStart { container } => {
                if code != 0 {
                    let name = self.runs[container].container.name.clone();
                    self.kill_container(&name, "its postStart hook failed");
                }
                Ok(())
            }
        }
    }

    /// Tells the supervisor what changed.
    async fn tell(&mut self) -> io::Result<()> {
        for at in 0..self.runs.len() {
            let event = self.runs[at].event();
            if self.told[at].as_ref() != Some(&event) {
                self.send(&event).await?;
                self.told[at] = Some(event);
            }
        }
        Ok(())
    }

    async fn finish(mut self) -> io::Result<()> {
        let counts = |container: &Container| !container.sidecar;
        let succeeded = self.main_started
            && self
                .runs
                .iter()
                .filter(|run| counts(&run.container))
                .all(|run| run.status == Status::Done { code: 0 });
        self.send(&Event::Finished { succeeded }).await
    }

    async fn send(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.supervisor.write_all(&line).await
    }
}

/// As shells count: 128 and the signal's number for a process that a signal ended.
fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    }
}

fn kill(pid: u32) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}
