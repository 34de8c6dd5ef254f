//! Asks a container's probes for as long as one run of it lasts, and tells the engine what follows.

use std::net::IpAddr;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::process::{Content, Message, Request};
use super::reconcile::PodKey;
use crate::probe::schedule::{Kind, Schedule, Verdict};
use crate::probe::{self, Check, ContainerProbes, Probe};

const KINDS: [Kind; 3] = [Kind::Startup, Kind::Readiness, Kind::Liveness];

/// A task that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Probing(JoinHandle<()>);

impl Drop for Probing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where a container is and whom to tell.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) key: PodKey,
    pub(crate) run: u64,
    pub(crate) container: String,
    pub(crate) address: IpAddr,
    pub(crate) pod: mpsc::Sender<Request>,
    pub(crate) engine: mpsc::Sender<Message>,
}

/// Begins for a container that was just started.
pub(crate) fn begin(subject: Subject, probes: ContainerProbes) -> Probing {
    Probing(tokio::spawn(watch(subject, Schedule::new(probes))))
}

async fn watch(subject: Subject, mut schedule: Schedule) {
    let began = Instant::now();
    let delay = |kind, schedule: &Schedule| {
        began
            + schedule
                .probe(kind)
                .map_or_else(Default::default, |probe| probe.initial_delay)
    };
    let mut next = KINDS.map(|kind| delay(kind, &schedule));
    // A bad answer counts when a period has passed since the one before, or since the start.
    let mut counted = next;
    loop {
        let due = KINDS.into_iter().filter(|kind| schedule.is_due(*kind));
        let Some(kind) = due.min_by_key(|kind| next[*kind as usize]) else {
            return;
        };
        let Some(probe) = schedule.probe(kind).cloned() else {
            return;
        };
        tokio::time::sleep_until(next[kind as usize]).await;
        let asked = Instant::now();
        let good = ask(&subject, &probe).await;
        let counts = asked.duration_since(counted[kind as usize]) >= probe.period;
        if !good && counts {
            counted[kind as usize] = asked;
        }
        let verdict = schedule.answer(kind, good, counts);
        next[kind as usize] = asked + schedule.pause(kind);
        if verdict != Verdict::Same {
            subject.tell(verdict).await;
        }
    }
}

async fn ask(subject: &Subject, probe: &Probe) -> bool {
    let Check::Exec { argv } = &probe.check else {
        return probe::ask(&probe.check, subject.address, probe.timeout).await;
    };
    let (reply, answer) = oneshot::channel();
    let request = Request::Exec {
        container: subject.container.clone(),
        argv: argv.clone(),
        timeout_ms: u64::try_from(probe.timeout.as_millis()).unwrap_or(u64::MAX),
        reply,
    };
    subject.pod.send(request).await.is_ok() && matches!(answer.await, Ok(Some(0)))
}

impl Subject {
    async fn tell(&self, verdict: Verdict) {
        let content = Content::Probe {
            container: self.container.clone(),
            verdict,
        };
        let message = Message {
            key: self.key.clone(),
            run: self.run,
            content,
        };
        let _ = self.engine.send(message).await;
    }
}
