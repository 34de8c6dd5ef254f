//! Keeps the desired pods running: starts, probes, replaces and ends them, and keeps the control plane's process alive.
//!
//! One task owns all state and reacts to events; pods have a task each for their socket and one for each probe.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lateen_sources::plan::{PodPlan, PodState};
use tokio::sync::{mpsc, oneshot, watch};

use crate::images::Images;
use crate::redirect::PacketFilter;
use crate::services::Protocol;
use crate::state::StateDir;

mod control_plane;
mod endpoints;
mod engine;
mod link;
mod pod;
mod probing;
mod process;
mod reconcile;

pub use endpoints::Target;

/// Requests of the handle; there are few, and the engine always reads.
const CONTROL_QUEUE: usize = 16;

/// The keys of a `ConfigMap` or `Secret` and what they hold.
pub type Data = Arc<BTreeMap<String, Vec<u8>>>;

/// `ConfigMap`s or `Secret`s by namespace and name.
pub type Objects = BTreeMap<(String, String), Data>;

/// What is to run. A new value replaces the whole; what did not change is not touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Pods, in the order in which they are started.
    pub pods: Vec<PodPlan>,
    /// `ConfigMap`s by namespace and name.
    pub config_maps: Objects,
    /// `Secret`s by namespace and name, decoded.
    pub secrets: Objects,
    /// Services by namespace and name, for the node's own balancing of plain pods' traffic.
    pub services: Vec<Service>,
}

/// A Kubernetes service as far as the node balances it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its virtual addresses; empty for a headless one.
    pub ips: Vec<IpAddr>,
    /// Which pods of the namespace belong to it; empty selects none.
    pub selector: BTreeMap<String, String>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where on the pod.
    pub target: TargetPort,
    /// Endpoints that are not pods of this mesh, used as they stand (`EndpointSlice`s of a service without a selector).
    pub fixed: Vec<SocketAddr>,
}

/// `targetPort`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The name of a container port.
    Name(String),
}

/// A command line with its environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// Program and arguments; `/proc/self/exe` as the first word is this binary.
    pub argv: Vec<String>,
    /// Environment on top of what this crate sets.
    pub env: Vec<(String, String)>,
}

/// What a workload authenticates with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// `/var/run/secrets/tokens/istio-token`.
    pub token: String,
    /// `/var/run/secrets/istio/root-cert.pem`: whom to trust as the control plane.
    pub root_cert_pem: String,
    /// When to ask for new ones.
    pub refresh_after: Option<Duration>,
}

/// The proxy's command line for a pod: `lateen proxy sidecar …` or `lateen proxy router …`.
pub type ProxyTemplate = Arc<dyn Fn(&PodPlan) -> CommandLine + Send + Sync>;
/// The credentials of a pod; called at its start and again after `refresh_after`.
pub type IssueCredentials = Arc<dyn Fn(&PodPlan) -> Credentials + Send + Sync>;

/// How the supervisor works. Fixed for its life.
#[derive(Clone)]
pub struct Options {
    /// The state directory.
    pub state: StateDir,
    /// What to run for an image.
    pub images: Images,
    /// How the proxy is run.
    pub proxy: ProxyTemplate,
    /// How a pod's credentials are made.
    pub credentials: IssueCredentials,
    /// The control plane's command line; `None` if somebody else runs it.
    pub control_plane: Option<CommandLine>,
    /// Trust domain, for the proxy's environment.
    pub trust_domain: String,
    /// Cluster id, for the proxy's environment.
    pub cluster_id: String,
    /// How long a terminating pod still serves after it was marked as not ready, so that proxies learn of it first.
    pub drain_delay: Duration,
    /// How long containers wait for the proxy at most; `None`: they start beside it.
    pub hold_for_proxy: Option<Duration>,
    /// By what packet-filter rules are set.
    pub packet_filter: PacketFilter,
}

/// The supervisor could not be started or has failed.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// Its thread or runtime could not be made.
    #[error("cannot start the supervisor's thread")]
    Start(#[source] std::io::Error),
    /// It has ended by a bug; all pods have ended with it.
    #[error("the supervisor has failed; all pods are ended")]
    Failed,
}

/// A running supervisor.
///
/// It works on a thread of its own: pods' processes die with the thread that started them, and traffic never waits for
/// their upkeep. When this value is dropped, pods are ended in the background; use [`Supervisor::shutdown`] to wait.
#[derive(Debug)]
pub struct Supervisor {
    pods: watch::Receiver<Arc<Vec<PodState>>>,
    control: mpsc::Sender<Control>,
}

/// Requests to the engine.
#[derive(Debug)]
pub(crate) enum Control {
    Watch(Target, watch::Sender<Vec<SocketAddr>>),
    Refresh,
    Shutdown(oneshot::Sender<()>),
}

impl Supervisor {
    /// Starts the supervisor in the current namespaces (see [`crate::node::enter`]).
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start(
        options: Options,
        desired: watch::Receiver<Arc<Desired>>,
    ) -> Result<Self, SupervisorError> {
        let (publish, pods) = watch::channel(Arc::new(Vec::new()));
        let (control, requests) = mpsc::channel(CONTROL_QUEUE);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(SupervisorError::Start)?;
        let work = move || runtime.block_on(engine::run(options, desired, publish, requests));
        std::thread::Builder::new()
            .name("supervisor".to_owned())
            .spawn(work)
            .map_err(SupervisorError::Start)?;
        Ok(Self { pods, control })
    }

    /// The pods, sorted by namespace and name. The same is in `run/pods.json`.
    pub fn pods(&self) -> watch::Receiver<Arc<Vec<PodState>>> {
        self.pods.clone()
    }

    /// The ready endpoints of a service's port, kept up to date; for [`crate::publish::publish`].
    ///
    /// # Errors
    /// When the supervisor has failed.
    pub async fn endpoints(
        &self,
        target: Target,
    ) -> Result<watch::Receiver<Vec<SocketAddr>>, SupervisorError> {
        let (sender, receiver) = watch::channel(Vec::new());
        let request = Control::Watch(target, sender);
        self.control
            .send(request)
            .await
            .map_err(|_| SupervisorError::Failed)?;
        Ok(receiver)
    }

    /// Asks for every pod's credentials again and gives them to the pods: the roots have changed, say.
    ///
    /// # Errors
    /// When the supervisor has failed.
    pub async fn refresh(&self) -> Result<(), SupervisorError> {
        let sent = self.control.send(Control::Refresh).await;
        sent.map_err(|_| SupervisorError::Failed)
    }

    /// Ends all pods, each within its grace period, then the control plane.
    ///
    /// # Errors
    /// When the supervisor had failed before; then nothing runs any more either.
    pub async fn shutdown(self) -> Result<(), SupervisorError> {
        let (done, ended) = oneshot::channel();
        let request = Control::Shutdown(done);
        self.control
            .send(request)
            .await
            .map_err(|_| SupervisorError::Failed)?;
        ended.await.map_err(|_| SupervisorError::Failed)
    }
}
