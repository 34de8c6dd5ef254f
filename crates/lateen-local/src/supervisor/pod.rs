//! One pod as the engine knows it, and how that reads as a `PodState`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lateen_sources::plan::{ContainerState, Phase, PodPlan, PodState, admin_port};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::probing::Probing;
use super::process::Request;
use super::reconcile::{Existing, PodKey};
use crate::exec::PodProcesses;
use crate::podspec::Resolved;
use crate::probe::schedule::Verdict;
use crate::sandbox::{Command, ContainerStatus, PROXY_CONTAINER};

/// The pause before a pod that failed is started again: the same as for containers.
const FIRST_RETRY: Duration = Duration::from_secs(10);
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// `backoffLimit` of Jobs.
const JOB_RETRIES: u32 = 6;

/// How far the process behind a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The process is being made.
    Starting,
    /// It has its specification and runs containers.
    Running,
    /// It has ended; `succeeded` once it said so.
    Ended { succeeded: bool },
}

/// A pod being ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Not ready any more, but still serving until then.
    Draining { until: Instant },
    /// Asked to end; killed at the deadline.
    Stopping { deadline: Instant },
}

/// A container as the engine knows it.
#[derive(Debug)]
pub(crate) struct ContainerView {
    pub(crate) name: String,
    /// An init container that is to end: it does not count for readiness.
    transient: bool,
    status: ContainerStatus,
    ready: bool,
    restarts: u32,
    exit_code: Option<i32>,
    probing: Option<Probing>,
}

/// A pod.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) plan: PodPlan,
    pub(crate) resolved: Resolved,
    /// Counts processes started for pods; tells messages of an earlier one.
    pub(crate) run: u64,
    pub(crate) stage: Stage,
    pub(crate) ending: Option<Ending>,
    pub(crate) link: String,
    pub(crate) requests: Option<mpsc::Sender<Request>>,
    pub(crate) refresh_at: Option<Instant>,
    pub(crate) retry_at: Option<Instant>,
    failures: u32,
    pid: Option<u32>,
    started_at_ms: u64,
    finished: Option<bool>,
    containers: Vec<ContainerView>,
    proxy_told: bool,
}

impl Pod {
    /// A pod whose process is about to be started for the `failures + 1`st time.
    pub(crate) fn new(plan: PodPlan, resolved: Resolved, run: u64, failures: u32) -> Self {
        let spec = &resolved.spec;
        let init = spec.init.iter().map(|c| (c, !c.sidecar));
        let main = spec.containers.iter().map(|c| (c, false));
        let containers = init
            .chain(main)
            .map(|(c, transient)| ContainerView::new(&c.name, transient));
        let containers = containers.collect();
        Self {
            plan,
            resolved,
            run,
            stage: Stage::Starting,
            ending: None,
            link: String::new(),
            requests: None,
            refresh_at: None,
            retry_at: None,
            failures,
            pid: None,
            started_at_ms: now_ms(),
            finished: None,
            containers,
            proxy_told: false,
        }
    }

    pub(crate) fn key(&self) -> PodKey {
        (self.plan.namespace.clone(), self.plan.name.clone())
    }

    /// Namespaces exist; process 1 has this id.
    pub(crate) fn up(&mut self, pid: u32) {
        self.pid = Some(pid);
        self.stage = Stage::Running;
    }

    pub(crate) fn finished(&mut self, succeeded: bool) {
        self.finished = Some(succeeded);
    }

    /// The process is gone. Sets when to try again, if that is to be.
    pub(crate) fn exited(&mut self, now: Instant) {
        let succeeded = self.finished == Some(true);
        self.stage = Stage::Ended { succeeded };
        self.pid = None;
        self.requests = None;
        for container in &mut self.containers {
            container.probing = None;
            container.ready = false;
            if matches!(container.status, ContainerStatus::Running { .. }) {
                container.status = ContainerStatus::Ended {
                    reason: "Error".to_owned(),
                };
            }
        }
        let for_good = match self.plan.owner.kind.as_str() {
            "Job" | "CronJob" => self.failures >= JOB_RETRIES,
            // A bare pod that failed by its own policy stays as it is; one that was torn down is made again.
            "Pod" => self.finished.is_some(),
            _ => false,
        };
        if !succeeded && !for_good {
            self.retry_at = Some(now + retry_pause(self.failures));
        }
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Takes a container's new state in; true when it has just started, so that its probes begin.
    pub(crate) fn container_changed(
        &mut self,
        name: &str,
        status: ContainerStatus,
        restarts: u32,
        exit_code: Option<i32>,
    ) -> bool {
        let probes = self.resolved.probes.get(name);
        let unprobed = probes.is_none_or(|p| p.readiness.is_none() && p.startup.is_none());
        let Some(view) = self.containers.iter_mut().find(|view| view.name == name) else {
            return false;
        };
        let started = matches!(status, ContainerStatus::Running { .. }) && view.status != status;
        if view.status != status {
            view.probing = None;
            view.ready = started && unprobed;
        }
        view.status = status;
        view.restarts = restarts;
        view.exit_code = exit_code;
        started
    }

    pub(crate) fn set_probing(&mut self, name: &str, probing: Probing) {
        if let Some(view) = self.containers.iter_mut().find(|view| view.name == name) {
            view.probing = Some(probing);
        }
    }

    /// Takes a probe's verdict in; gives what to tell the pod.
    pub(crate) fn probed(&mut self, name: &str, verdict: Verdict) -> Option<Command> {
        let view = self.containers.iter_mut().find(|view| view.name == name)?;
        match verdict {
            Verdict::Same => None,
            Verdict::NotReady => {
                view.ready = false;
                None
            }
            Verdict::Ready => {
                view.ready = true;
                let tell = name == PROXY_CONTAINER && !self.proxy_told;
                self.proxy_told |= tell;
                tell.then_some(Command::ProxyReady)
            }
            Verdict::Restart => {
                view.ready = false;
                view.probing = None;
                let reason = "its liveness or startup probe failed".to_owned();
                Some(Command::Kill {
                    container: name.to_owned(),
                    reason,
                })
            }
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        let counting = || self.containers.iter().filter(|view| !view.transient);
        self.ending.is_none()
            && self.stage == Stage::Running
            && counting().all(|view| view.ready)
            && counting().next().is_some()
    }

    pub(crate) fn existing(&self) -> Existing {
        Existing {
            key: self.key(),
            owner: (self.plan.owner.kind.clone(), self.plan.owner.name.clone()),
            template_hash: self.plan.template_hash,
            ipv4: self.plan.ipv4,
            ready: self.is_ready(),
            terminating: self.ending.is_some(),
            succeeded: self.stage == Stage::Ended { succeeded: true },
        }
    }

    pub(crate) fn state(&self) -> PodState {
        PodState {
            namespace: self.plan.namespace.clone(),
            name: self.plan.name.clone(),
            owner: self.plan.owner.clone(),
            template_hash: self.plan.template_hash,
            labels: self.plan.labels.clone(),
            annotations: self.plan.annotations.clone(),
            service_account: self.plan.service_account.clone(),
            ipv4: self.plan.ipv4,
            ipv6: self.plan.ipv6,
            role: self.plan.role,
            ports: self.plan.named_ports(),
            phase: self.phase(),
            ready: self.is_ready(),
            terminating: self.ending.is_some(),
            containers: self.containers.iter().map(ContainerView::state).collect(),
            started_at_ms: self.started_at_ms,
            pid: self.pid,
            admin_port: self
                .plan
                .settings
                .port("proxyAdminPort")
                .unwrap_or_else(admin_port),
        }
    }

    /// For `lateen exec`; `None` while there is no process.
    pub(crate) fn processes(&self) -> Option<PodProcesses> {
        let container = |view: &ContainerView| match view.status {
            ContainerStatus::Running { pid } => Some((view.name.clone(), pid)),
            _ => None,
        };
        Some(PodProcesses {
            namespace: self.plan.namespace.clone(),
            pod: self.plan.name.clone(),
            pid: self.pid?,
            containers: self.containers.iter().filter_map(container).collect(),
        })
    }

    fn phase(&self) -> Phase {
        let main = || self.containers.iter().filter(|view| !view.transient);
        match self.stage {
            Stage::Ended { succeeded: true } => Phase::Succeeded,
            Stage::Ended { succeeded: false } if self.retry_at.is_some() => Phase::Pending,
            Stage::Ended { succeeded: false } => Phase::Failed,
            Stage::Starting => Phase::Pending,
            Stage::Running if main().all(ContainerView::has_started) => Phase::Running,
            Stage::Running => Phase::Pending,
        }
    }
}

impl ContainerView {
    fn new(name: &str, transient: bool) -> Self {
        let reason = if transient {
            "Waiting"
        } else {
            "PodInitializing"
        };
        Self {
            name: name.to_owned(),
            transient,
            status: ContainerStatus::Waiting {
                reason: reason.to_owned(),
                message: String::new(),
            },
            ready: false,
            restarts: 0,
            exit_code: None,
            probing: None,
        }
    }

    fn has_started(&self) -> bool {
        !matches!(self.status, ContainerStatus::Waiting { .. })
            || self.restarts > 0
            || self.exit_code.is_some()
    }

    fn state(&self) -> ContainerState {
        let status = match &self.status {
            ContainerStatus::Waiting { reason, .. } | ContainerStatus::Ended { reason } => {
                reason.clone()
            }
            ContainerStatus::Running { .. } => "Running".to_owned(),
        };
        let message = match &self.status {
            ContainerStatus::Waiting { message, .. } => message.clone(),
            _ => String::new(),
        };
        ContainerState {
            name: self.name.clone(),
            ready: self.ready,
            restarts: self.restarts,
            status,
            exit_code: self.exit_code,
            message,
        }
    }
}

/// At once, then 10 s doubling to 5 min.
fn retry_pause(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => (FIRST_RETRY * 2u32.saturating_pow(doublings.min(8))).min(LONGEST_RETRY),
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Told apart by key, in the order in which they are shown.
pub(crate) type Pods = BTreeMap<PodKey, Pod>;
