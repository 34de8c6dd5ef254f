//! What is being waited for, while the mesh takes more than a second to get ready: one line on a terminal, now and then one in a log.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Result;
use lateen_sources::plan::{Phase, PodState};

use super::crashes::Crashes;
use super::report;
use crate::output::print;
use crate::state::StateDir;

/// Nothing is said of what is done sooner.
const PATIENCE: Duration = Duration::from_secs(1);
/// When the first line goes to a log; the next comes when twice the time has passed.
const FIRST_LOGGED: Duration = Duration::from_secs(10);
/// How many pods are named.
const NAMED: usize = 2;

/// The line.
pub(super) struct Progress {
    since: Instant,
    terminal: bool,
    /// When the next line goes to a log.
    logged: Duration,
    shown: String,
    /// What was said of containers that cannot run.
    blocked: BTreeSet<String>,
    crashes: Crashes,
}

impl Progress {
    pub(super) fn new(since: Instant) -> Self {
        Self {
            since,
            terminal: std::io::stderr().is_terminal(),
            logged: FIRST_LOGGED,
            shown: String::new(),
            blocked: BTreeSet::new(),
            crashes: Crashes::default(),
        }
    }

    /// Writes the line anew, if it has anything new to say.
    pub(super) fn show(&mut self, pods: &[PodState], planned: usize) {
        let waited = self.since.elapsed();
        if !self.terminal {
            if waited >= self.logged {
                self.logged = waited * 2;
                // As below: there may be nobody to read it.
                let _ = writeln!(std::io::stderr(), "{}", line(pods, planned, waited));
            }
            return;
        }
        self.show_on_terminal(pods, planned);
    }

    /// The same, but nothing goes to a log.
    pub(super) fn show_on_terminal(&mut self, pods: &[PodState], planned: usize) {
        let waited = self.since.elapsed();
        if !self.terminal || waited < PATIENCE {
            return;
        }
        let line = line(pods, planned, waited);
        if line != self.shown {
            // Standard error may be closed; there is nobody to wait with then.
            let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
            self.shown = line;
        }
    }

    /// Says once of each container that cannot run, or that ends again and again, why that is so.
    pub(super) fn tell_stuck(&mut self, state: &StateDir, pods: &[PodState]) -> Result<()> {
        let blocked = report::blocked(pods);
        let mut news: String = blocked.difference(&self.blocked).cloned().collect();
        news.push_str(&self.crashes.news(state, pods));
        self.blocked = blocked;
        if news.is_empty() {
            return Ok(());
        }
        self.clear();
        print(&news)
    }

    /// Takes the line away, so that something else can be printed.
    pub(super) fn clear(&mut self) {
        if !self.shown.is_empty() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
            self.shown.clear();
        }
    }
}

fn line(pods: &[PodState], planned: usize, waited: Duration) -> String {
    let settled = |pod: &&PodState| pod.ready || pod.phase == Phase::Succeeded;
    let ready = pods.iter().filter(settled).count();
    let mut waiting: Vec<String> = pods
        .iter()
        .filter(|pod| !settled(pod) && !pod.terminating)
        .map(reason)
        .collect();
    let more = waiting.len().saturating_sub(NAMED);
    waiting.truncate(NAMED);
    if more > 0 {
        waiting.push(format!("{more} more"));
    }
    let what = match waiting.is_empty() {
        true => "proxies to have their configuration".to_owned(),
        false => waiting.join(", "),
    };
    let seconds = waited.as_secs();
    format!("{ready} of {planned} pods ready after {seconds} s; waiting for {what}")
}

/// `reviews-v1-… (reviews: CrashLoopBackOff)`: the first container that is not ready says why.
fn reason(pod: &PodState) -> String {
    let late = pod.containers.iter().find(|container| !container.ready);
    match late {
        Some(container) => format!("{} ({}: {})", pod.name, container.name, container.status),
        None => pod.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use lateen_sources::plan::{ContainerState, Owner, PodRole};

    use super::*;

    fn pod(name: &str, ready: bool) -> PodState {
        PodState {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            owner: Owner {
                kind: "Deployment".to_owned(),
                name: name.to_owned(),
            },
            template_hash: 0,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            service_account: "default".to_owned(),
            ipv4: Ipv4Addr::LOCALHOST,
            ipv6: None,
            role: PodRole::Sidecar,
            ports: BTreeMap::new(),
            phase: Phase::Running,
            ready,
            terminating: false,
            containers: vec![ContainerState {
                name: "app".to_owned(),
                ready,
                status: "Running".to_owned(),
                ..ContainerState::default()
            }],
            started_at_ms: 0,
            pid: None,
            admin_port: 15000,
        }
    }

    #[test]
    fn the_line_names_a_few_pods_and_what_they_do() {
        let pods = [
            pod("a", true),
            pod("b", false),
            pod("c", false),
            pod("d", false),
        ];
        assert_eq!(
            line(&pods, 5, Duration::from_secs(3)),
            "1 of 5 pods ready after 3 s; waiting for b (app: Running), c (app: Running), 1 more"
        );
    }

    #[test]
    fn when_all_pods_are_ready_it_is_the_proxies_that_are_waited_for() {
        let line = line(&[pod("a", true)], 1, Duration::from_secs(1));
        assert!(line.ends_with("waiting for proxies to have their configuration"));
    }
}
