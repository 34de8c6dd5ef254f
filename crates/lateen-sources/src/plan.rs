//! The pods a set of manifests describes, without a cluster to create them.
//!
//! Kubernetes' controllers turn Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs and CronJobs into pods with random
//! names and addresses. Here the same is a pure function: names and addresses follow from the manifests alone, so they are
//! the same after a restart, and the same in `lateen explain` as in a running mesh.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What made a pod: the workload a user wrote.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// `Deployment`, `StatefulSet`, `Job`, …; `Pod` for a bare pod.
    pub kind: String,
    /// Its name, in the pod's namespace.
    pub name: String,
}

/// What a pod is for the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodRole {
    /// A workload with a sidecar.
    Sidecar,
    /// A workload that is not in the mesh.
    Plain,
    /// A gateway: the proxy is its only container.
    Gateway,
}

/// One pod that is to run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodPlan {
    /// Its namespace.
    pub namespace: String,
    /// Its name, such as `reviews-v1-7d9f8c5b6d-x2k4p`.
    pub name: String,
    /// The workload it belongs to.
    pub owner: Owner,
    /// A hash of everything that needs a new pod when it changes (the pod template and its injection).
    pub template_hash: u64,
    /// Labels, with those that controllers and injection add.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// `serviceAccountName`, `default` when unset.
    pub service_account: String,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address, when the mesh is dual-stack.
    pub ipv6: Option<Ipv6Addr>,
    /// Sidecar, plain or gateway.
    pub role: PodRole,
    /// The pod spec as written.
    pub spec: Arc<lateen_api::kube::PodSpec>,
}

/// How far a pod has come. Kubernetes' phases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Not all containers have started.
    #[default]
    Pending,
    /// At least one container runs.
    Running,
    /// All containers ended with exit status 0 and will not be restarted.
    Succeeded,
    /// A container ended with another status and will not be restarted.
    Failed,
}

/// One container of a running pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContainerState {
    /// Its name.
    pub name: String,
    /// Whether its readiness probe passes (or it runs and has none).
    pub ready: bool,
    /// How often it was restarted.
    pub restarts: u32,
    /// `Running`, `Waiting`, `CrashLoopBackOff`, `Completed`, `Error`, …: what `get pods` shows.
    pub status: String,
    /// The exit status of the last run that ended.
    pub exit_code: Option<i32>,
}

/// What the supervisor knows of a pod; `run/pods.json` is a list of these.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodState {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The workload it belongs to.
    pub owner: Owner,
    /// The plan's template hash this pod was started from.
    pub template_hash: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Its service account.
    pub service_account: String,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Sidecar, plain or gateway.
    pub role: PodRole,
    /// Named container ports, for `targetPort` by name.
    pub ports: BTreeMap<String, u16>,
    /// How far it has come.
    pub phase: Phase,
    /// Ready to take traffic. A terminating pod is never ready.
    pub ready: bool,
    /// Being ended.
    pub terminating: bool,
    /// Its containers, the proxy (`istio-proxy`) among them.
    pub containers: Vec<ContainerState>,
    /// Start time, milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// The process whose namespaces are the pod's, as the host sees it.
    pub pid: Option<u32>,
}
