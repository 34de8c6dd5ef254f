//! The supervisor's loop: takes an event in, decides what to start and end, publishes how things are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lateen_sources::plan::{PodPlan, PodState};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::control_plane;
use super::endpoints::{self, Target};
use super::pod::{Ending, Pod, Pods, Stage};
use super::probing::{self, Subject};
use super::process::{self, Content, Message, Request};
use super::reconcile::{PodKey, reconcile};
use super::{Control, Desired, Options, link};
use crate::netlink::link::Links;
use crate::podspec::{self, Resolved, Surroundings};
use crate::sandbox::{Command, Event, Start, Volume};
use crate::services::{ServiceProxy, ServiceVip};
use crate::state::write_atomically;

/// Events of all pods that wait; pods wait when it is full.
const EVENT_QUEUE: usize = 1024;
/// Events taken in before the result is published.
const BATCH: usize = 256;
/// How long the loop sleeps without a reason.
const IDLE: Duration = Duration::from_secs(60);
/// After the grace period, for a pod's process to end by itself.
const LAST_CALL: Duration = Duration::from_secs(5);

/// Runs until shutdown, or until the handle is dropped.
pub(crate) async fn run(
    options: Options,
    mut desired: watch::Receiver<Arc<Desired>>,
    publish: watch::Sender<Arc<Vec<PodState>>>,
    mut control: mpsc::Receiver<Control>,
) {
    let (events, mut incoming) = mpsc::channel(EVENT_QUEUE);
    let (stop_control_plane, stopping) = watch::channel(false);
    let logs = options.state.pod_logs("istio-system", "istiod");
    let control_plane = options.control_plane.clone();
    let control_plane =
        control_plane.map(|command| tokio::spawn(control_plane::keep(command, logs, stopping)));
    let mut engine = Engine::new(options, events, publish);
    engine.set_desired(desired.borrow_and_update().clone());
    let mut finished: Option<oneshot::Sender<()>> = None;
    let mut desired_open = true;
    loop {
        let now = Instant::now();
        engine.advance(now);
        engine.publish();
        if engine.shutting_down && engine.pods.is_empty() {
            break;
        }
        let wake = engine.wake_at(now);
        // All of these may be dropped halfway without losing anything.
        tokio::select! {
            message = incoming.recv() => engine.take(message, &mut incoming),
            changed = desired.changed(), if desired_open && !engine.shutting_down => match changed {
                Ok(()) => engine.set_desired(desired.borrow_and_update().clone()),
                Err(_) => desired_open = false,
            },
            request = control.recv(), if finished.is_none() => match request {
                Some(Control::Watch(target, sender)) => engine.watch(target, sender),
                Some(Control::Refresh) => engine.refresh_all(),
                Some(Control::Shutdown(done)) => {
                    finished = Some(done);
                    engine.shut_down();
                }
                None => {
                    finished = Some(oneshot::channel().0);
                    engine.shut_down();
                }
            },
            () = tokio::time::sleep_until(wake) => {}
        }
    }
    let _ = stop_control_plane.send(true);
    if let Some(task) = control_plane {
        let _ = task.await;
    }
    if let Some(done) = finished {
        let _ = done.send(());
    }
}

struct Engine {
    options: Options,
    desired: Arc<Desired>,
    pods: Pods,
    runs: u64,
    events: mpsc::Sender<Message>,
    publish: watch::Sender<Arc<Vec<PodState>>>,
    services: ServiceProxy,
    vips: Option<Vec<ServiceVip>>,
    watched: Vec<(Target, watch::Sender<Vec<SocketAddr>>)>,
    shutting_down: bool,
    path: String,
    home: String,
}

impl Engine {
    fn new(
        options: Options,
        events: mpsc::Sender<Message>,
        publish: watch::Sender<Arc<Vec<PodState>>>,
    ) -> Self {
        let default_path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let services = ServiceProxy::new(options.packet_filter);
        Self {
            options,
            desired: Arc::default(),
            pods: Pods::new(),
            runs: 0,
            events,
            publish,
            services,
            vips: None,
            watched: Vec::new(),
            shutting_down: false,
            path: std::env::var("PATH").unwrap_or_else(|_| default_path.to_owned()),
            home: std::env::var("HOME").unwrap_or_else(|_| "/".to_owned()),
        }
    }

    /// Takes one message in and those that wait behind it.
    fn take(&mut self, first: Option<Message>, more: &mut mpsc::Receiver<Message>) {
        let mut message = first;
        for _ in 0..BATCH {
            let Some(next) = message else { return };
            self.message(next);
            message = more.try_recv().ok();
        }
        if let Some(last) = message {
            self.message(last);
        }
    }

    fn set_desired(&mut self, desired: Arc<Desired>) {
        self.desired = desired;
        self.vips = None;
        self.refresh_all();
    }

    fn refresh_all(&mut self) {
        let keys: Vec<PodKey> = self.pods.keys().cloned().collect();
        for key in keys {
            self.refresh(&key);
        }
    }

    /// What follows from time and from what changed.
    fn advance(&mut self, now: Instant) {
        self.advance_endings(now);
        self.retry(now);
        self.refresh_credentials(now);
        if self.shutting_down {
            return;
        }
        let existing: Vec<_> = self.pods.values().map(Pod::existing).collect();
        let desired = self.desired.clone();
        let actions = reconcile(&desired.pods, &existing);
        for key in actions.stop {
            self.stop(&key, now);
        }
        for at in actions.start {
            self.start(desired.pods[at].clone(), 0);
        }
    }

    fn resolve(&self, plan: &PodPlan) -> Resolved {
        let credentials = (self.options.credentials)(plan);
        let proxy = (self.options.proxy)(plan);
        let around = Surroundings {
            desired: &self.desired,
            images: &self.options.images,
            state: &self.options.state,
            proxy: &proxy,
            credentials: &credentials,
            trust_domain: &self.options.trust_domain,
            cluster_id: &self.options.cluster_id,
            hold: self.options.hold_for_proxy,
            packet_filter: self.options.packet_filter,
            path: &self.path,
            home: &self.home,
        };
        podspec::resolve(plan, &around)
    }

    fn start(&mut self, plan: PodPlan, failures: u32) {
        self.runs += 1;
        let resolved = self.resolve(&plan);
        for problem in &resolved.problems {
            tracing::warn!(namespace = %plan.namespace, pod = %plan.name, "{problem}");
        }
        let mut pod = Pod::new(plan, resolved, self.runs, failures);
        let key = pod.key();
        let logs = &pod.resolved.spec.logs;
        match process::start(key.clone(), pod.run, logs, self.events.clone()) {
            Ok((_, requests)) => pod.requests = Some(requests),
            Err(error) => {
                tracing::error!(namespace = %key.0, pod = %key.1, %error, "cannot start a pod's process");
                pod.exited(Instant::now());
            }
        }
        pod.refresh_at = pod
            .resolved
            .refresh_after
            .map(|after| Instant::now() + after);
        self.pods.insert(key, pod);
    }

    fn message(&mut self, message: Message) {
        let Some(pod) = self.pods.get_mut(&message.key) else {
            return;
        };
        if pod.run != message.run {
            return;
        }
        match message.content {
            Content::Event(event) => self.event(&message.key, event),
            Content::Probe { container, verdict } => {
                if let Some(command) = pod.probed(&container, verdict) {
                    send(pod, Request::Send(command));
                }
            }
            Content::Exited => self.exited(&message.key),
        }
    }

    fn event(&mut self, key: &PodKey, event: Event) {
        let Some(pod) = self.pods.get_mut(key) else {
            return;
        };
        match event {
            Event::Up { pid } => self.connect(key, pid),
            Event::Container {
                name,
                state,
                restarts,
                exit_code,
            } => {
                if pod.container_changed(&name, state, restarts, exit_code) {
                    self.begin_probes(key, &name);
                }
            }
            Event::Finished { succeeded } => pod.finished(succeeded),
            Event::Failed { message } => {
                tracing::error!(namespace = %key.0, pod = %key.1, "cannot set up the pod: {message}");
            }
            Event::ExecDone { .. } => {}
        }
    }

    /// Gives a pod its link, then its specification.
    fn connect(&mut self, key: &PodKey, pid: u32) {
        let Some(pod) = self.pods.get_mut(key) else {
            return;
        };
        pod.link = link::name(key, pod.run);
        let connected = Links::open()
            .and_then(|mut links| link::connect(&mut links, &pod.link, &pod.plan, pid));
        match connected {
            Ok(()) => {
                pod.up(pid);
                let spec = Box::new(pod.resolved.spec.clone());
                send(pod, Request::Send(Command::Start(spec)));
            }
            Err(error) => {
                tracing::error!(namespace = %key.0, pod = %key.1, error = &error as &dyn std::error::Error, "cannot connect a pod");
                send(pod, Request::Kill);
            }
        }
    }

    fn begin_probes(&mut self, key: &PodKey, container: &str) {
        let Some(pod) = self.pods.get_mut(key) else {
            return;
        };
        let (Some(probes), Some(requests)) = (
            pod.resolved.probes.get(container).cloned(),
            pod.requests.clone(),
        ) else {
            return;
        };
        let subject = Subject {
            key: key.clone(),
            run: pod.run,
            container: container.to_owned(),
            address: pod.plan.ipv4.into(),
            pod: requests,
            engine: self.events.clone(),
        };
        pod.set_probing(container, probing::begin(subject, probes));
    }

    fn exited(&mut self, key: &PodKey) {
        let Some(pod) = self.pods.get_mut(key) else {
            return;
        };
        // The namespace goes in the background; the link and its routes have to be gone before a successor comes.
        if !pod.link.is_empty()
            && let Err(error) = Links::open().and_then(|mut links| links.delete(&pod.link))
        {
            tracing::debug!(%error, "cannot remove a pod's link");
        }
        if pod.ending.is_some() {
            self.pods.remove(key);
            return;
        }
        pod.exited(Instant::now());
        if pod.retry_at.is_some() {
            tracing::warn!(namespace = %key.0, pod = %key.1, "a pod's process ended; it is started again");
        }
    }

    /// Marks a pod as ending. It goes on serving until proxies have learned of it.
    fn stop(&mut self, key: &PodKey, now: Instant) {
        let Some(pod) = self.pods.get_mut(key) else {
            return;
        };
        if matches!(pod.stage, Stage::Ended { .. }) {
            self.pods.remove(key);
            return;
        }
        let delay = if pod.is_ready() && !self.shutting_down {
            self.options.drain_delay
        } else {
            Duration::ZERO
        };
        if pod.ending.is_none() {
            pod.ending = Some(Ending::Draining { until: now + delay });
        }
    }

    fn advance_endings(&mut self, now: Instant) {
        for pod in self.pods.values_mut() {
            match pod.ending {
                Some(Ending::Draining { until }) if until <= now => {
                    let grace = pod.resolved.grace;
                    pod.ending = Some(Ending::Stopping {
                        deadline: now + grace + LAST_CALL,
                    });
                    let request = if pod.stage == Stage::Running {
                        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
                        Request::Send(Command::Stop { grace_ms })
                    } else {
                        Request::Kill
                    };
                    send(pod, request);
                }
                Some(Ending::Stopping { deadline }) if deadline <= now => {
                    pod.ending = Some(Ending::Stopping {
                        deadline: now + LAST_CALL,
                    });
                    send(pod, Request::Kill);
                }
                _ => {}
            }
        }
    }

    fn retry(&mut self, now: Instant) {
        let due = |pod: &&Pod| pod.retry_at.is_some_and(|at| at <= now);
        let keys: Vec<PodKey> = self.pods.values().filter(due).map(Pod::key).collect();
        for key in keys {
            if let Some(pod) = self.pods.remove(&key)
                && !self.shutting_down
            {
                let failures = pod.failures() + 1;
                self.start(pod.plan, failures);
            }
        }
    }

    fn refresh_credentials(&mut self, now: Instant) {
        let due = |pod: &&Pod| pod.refresh_at.is_some_and(|at| at <= now);
        let keys: Vec<PodKey> = self.pods.values().filter(due).map(Pod::key).collect();
        for key in keys {
            self.refresh(&key);
        }
    }

    /// Resolves a running pod again: files of volumes are replaced; a container that can start now gets a new pod.
    fn refresh(&mut self, key: &PodKey) {
        let Some(plan) = self.pods.get(key).map(|pod| pod.plan.clone()) else {
            return;
        };
        let resolved = self.resolve(&plan);
        let Some(pod) = self.pods.get_mut(key) else {
            return;
        };
        if pod.stage == Stage::Starting {
            // It has not been given its specification yet.
            pod.resolved = resolved;
            return;
        }
        if pod.stage != Stage::Running || pod.ending.is_some() {
            return;
        }
        let unblocked = blocked(&pod.resolved) && !blocked(&resolved);
        for (volume, content) in &resolved.spec.volumes {
            if let Volume::Files(files) = content
                && pod.resolved.spec.volumes.get(volume) != Some(content)
            {
                let (volume, files) = (volume.clone(), files.clone());
                send(pod, Request::Send(Command::Refresh { volume, files }));
            }
        }
        pod.refresh_at = resolved.refresh_after.map(|after| Instant::now() + after);
        pod.resolved.spec.volumes = resolved.spec.volumes;
        if unblocked {
            // The process is ended and, being wanted, made anew.
            self.stop(key, Instant::now());
        }
    }

    fn watch(&mut self, target: Target, sender: watch::Sender<Vec<SocketAddr>>) {
        self.watched.push((target, sender));
        self.vips = None;
    }

    fn shut_down(&mut self) {
        self.shutting_down = true;
        let now = Instant::now();
        let keys: Vec<PodKey> = self.pods.keys().cloned().collect();
        for key in keys {
            self.stop(&key, now);
        }
        self.advance_endings(now);
    }

    fn wake_at(&self, now: Instant) -> Instant {
        let times = |pod: &Pod| {
            let ending = pod.ending.map(|ending| match ending {
                Ending::Draining { until } => until,
                Ending::Stopping { deadline } => deadline,
            });
            [ending, pod.retry_at, pod.refresh_at]
        };
        let next = self.pods.values().flat_map(times).flatten().min();
        next.unwrap_or(now + IDLE).max(now)
    }

    /// Sets services' rules if endpoints changed, then writes and sends the pods' states if they did: whoever hears that
    /// a pod is ready reaches it through its services.
    fn publish(&mut self) {
        let states: Vec<PodState> = self.pods.values().map(Pod::state).collect();
        let changed = **self.publish.borrow() != states;
        if changed || self.vips.is_none() {
            self.publish_endpoints(&states);
        }
        if changed {
            self.write_files(&states);
            self.publish.send_replace(Arc::new(states));
        }
    }

    fn publish_endpoints(&mut self, states: &[PodState]) {
        let vips = endpoints::vips(&self.desired.services, states);
        if self.vips.as_ref() != Some(&vips) {
            // What could not be set is tried again at the next turn.
            self.vips = match self.services.apply(&vips) {
                Ok(()) => Some(vips),
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(error, "cannot set the rules of services");
                    None
                }
            };
        }
        self.watched.retain(|(_, sender)| !sender.is_closed());
        for (target, sender) in &self.watched {
            let now = endpoints::of_target(target, &self.desired.services, states);
            sender.send_if_modified(|old| {
                let changed = *old != now;
                *old = now;
                changed
            });
        }
    }

    fn write_files(&self, states: &[PodState]) {
        let processes: Vec<_> = self.pods.values().filter_map(Pod::processes).collect();
        let state = &self.options.state;
        let files = [
            (state.pods_json(), serde_json::to_vec_pretty(states)),
            (state.containers_json(), serde_json::to_vec(&processes)),
        ];
        for (path, content) in files {
            let Ok(content) = content else { continue };
            if let Err(error) = write_atomically(&path, &content) {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "cannot write the pods' state");
            }
        }
    }
}

/// A full queue means that the pod does not read; its deadlines decide then.
fn send(pod: &Pod, request: Request) {
    if let Some(requests) = &pod.requests
        && requests.try_send(request).is_err()
    {
        tracing::warn!(namespace = %pod.plan.namespace, pod = %pod.plan.name, "a pod does not take commands");
    }
}

fn blocked(resolved: &Resolved) -> bool {
    let all = resolved.spec.init.iter().chain(&resolved.spec.containers);
    all.into_iter()
        .any(|container| matches!(container.start, Start::Blocked { .. }))
}
