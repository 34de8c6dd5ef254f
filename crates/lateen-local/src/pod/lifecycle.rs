//! The end of a pod: hooks, SIGTERM, SIGKILL; the proxy and other sidecars after the containers, in reverse order.

use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::containers::Run;
use crate::sandbox::{Hook, Spec};

/// What sidecars get at least, even if the containers used the whole grace period (the kubelet's 2 s).
const LAST_GRACE: Duration = Duration::from_secs(2);
/// The longest a hook's answer is read.
const HOOK_ANSWER: u64 = 64 << 10;

/// A pod being ended.
#[derive(Debug)]
pub(super) struct Stop {
    deadline: Instant,
    /// Groups of containers, those to end first at the back.
    groups: Vec<Vec<usize>>,
    hooks: Vec<(usize, HookRun)>,
    signalled: bool,
}

/// A `preStop` hook under way.
#[derive(Debug)]
enum HookRun {
    Process(u32),
    Request(JoinHandle<()>),
    Until(Instant),
}

impl Stop {
    pub(super) fn new(runs: &[Run], grace: Duration, now: Instant) -> Self {
        let all = || runs.iter().enumerate();
        let sidecars = all()
            .filter(|(_, run)| run.container.sidecar)
            .map(|(at, _)| vec![at]);
        let mut groups: Vec<Vec<usize>> = sidecars.collect();
        groups.push(
            all()
                .filter(|(_, run)| !run.container.sidecar)
                .map(|(at, _)| at)
                .collect(),
        );
        Self {
            deadline: now + grace,
            groups,
            hooks: Vec::new(),
            signalled: false,
        }
    }

    /// Does what is due; true when nothing runs any more.
    pub(super) fn advance(&mut self, spec: &Spec, runs: &[Run], now: Instant) -> bool {
        while let Some(group) = self.groups.last() {
            let running: Vec<usize> = group
                .iter()
                .copied()
                .filter(|at| runs[*at].pid().is_some())
                .collect();
            if running.is_empty() {
                self.next_group(now);
                continue;
            }
            if !self.signalled {
                self.signalled = true;
                self.hooks = running
                    .iter()
                    .map(|at| (*at, begin_hook(spec, &runs[*at], now)))
                    .collect();
            }
            self.signal_after_hooks(runs, now);
            if now >= self.deadline {
                running.iter().for_each(|at| runs[*at].signal(Signal::KILL));
            }
            return false;
        }
        true
    }

    /// A hook's process ended.
    pub(super) fn hook_ended(&mut self, pid: u32) {
        for (_, hook) in &mut self.hooks {
            if matches!(hook, HookRun::Process(own) if *own == pid) {
                // It is over as of now.
                *hook = HookRun::Until(Instant::now());
            }
        }
    }

    fn next_group(&mut self, now: Instant) {
        self.groups.pop();
        self.hooks.clear();
        self.signalled = false;
        self.deadline = self.deadline.max(now + LAST_GRACE);
    }

    fn signal_after_hooks(&mut self, runs: &[Run], now: Instant) {
        let late = now >= self.deadline;
        self.hooks.retain(|(at, hook)| {
            let over = late
                || match hook {
                    HookRun::Process(_) => false,
                    HookRun::Request(task) => task.is_finished(),
                    HookRun::Until(until) => now >= *until,
                };
            if over {
                runs[*at].signal(Signal::TERM);
            }
            !over
        });
    }
}

fn begin_hook(spec: &Spec, run: &Run, now: Instant) -> HookRun {
    match run.container.pre_stop.clone() {
        None => HookRun::Until(now),
        Some(Hook::Sleep(seconds)) => HookRun::Until(now + Duration::from_secs(seconds)),
        Some(Hook::Exec(argv)) => run
            .exec(spec, argv)
            .map_or(HookRun::Until(now), HookRun::Process),
        Some(Hook::HttpGet { port, path }) => {
            HookRun::Request(tokio::spawn(request(pod_address(spec), port, path)))
        }
    }
}

/// Runs a `postStart` hook that is a request; its failure is not held against the container.
pub(super) fn post_start_request(spec: &Spec, port: u16, path: String) {
    tokio::spawn(request(pod_address(spec), port, path));
}

fn pod_address(spec: &Spec) -> std::net::IpAddr {
    spec.ipv4
        .map_or(std::net::Ipv4Addr::LOCALHOST.into(), Into::into)
}

/// A plain GET; only that it was made matters.
async fn request(address: std::net::IpAddr, port: u16, path: String) {
    let Ok(mut stream) = TcpStream::connect((address, port)).await else {
        return;
    };
    let text =
        format!("GET {path} HTTP/1.1\r\nHost: {address}:{port}\r\nConnection: close\r\n\r\n");
    if stream.write_all(text.as_bytes()).await.is_ok() {
        let mut answer = Vec::new();
        let _ = stream.take(HOOK_ANSWER).read_to_end(&mut answer).await;
    }
}
