//! What the supervisor and a pod's process 1 say to each other: JSON lines over a socket pair.
//!
//! Everything is resolved before it is sent: a pod's process needs no manifests, no images and no cluster.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::redirect::{PacketFilter, Redirection};

/// The longest message either side accepts, in bytes: a pod with every volume inlined stays far below it.
pub const MAX_MESSAGE: usize = 16 << 20;

/// The name of the container that holds the proxy.
pub const PROXY_CONTAINER: &str = "istio-proxy";

/// One pod, resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its host name.
    pub host_name: String,
    /// `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname`, by path.
    pub files: BTreeMap<String, String>,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// The rules that send its traffic through the proxy; `None` without a sidecar.
    pub redirection: Option<Redirection>,
    /// By what those are set.
    #[serde(default)]
    pub packet_filter: PacketFilter,
    /// Where its logs go.
    pub logs: PathBuf,
    /// The empty directory its private memory is mounted on.
    pub vault: PathBuf,
    /// Volumes by name; those of the mesh (`istio-token`, …) among them.
    pub volumes: BTreeMap<String, Volume>,
    /// Started one after another before the containers.
    pub init: Vec<Container>,
    /// Started together.
    pub containers: Vec<Container>,
    /// How long the containers wait for the proxy at most, in milliseconds. `None`: they do not wait.
    pub hold_ms: Option<u64>,
}

/// When a container is started again after it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Whatever its exit status.
    #[default]
    Always,
    /// If it failed.
    OnFailure,
    /// Never.
    Never,
}

/// One container, resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// What to run, or why nothing can be run.
    pub start: Start,
    /// What to run if the machine does not have that program.
    #[serde(default)]
    pub instead: Option<Vec<String>>,
    /// Its image, for messages.
    #[serde(default)]
    pub image: String,
    /// Environment, complete: nothing is inherited.
    pub env: Vec<(String, String)>,
    /// Working directory; `/` when unset.
    pub working_dir: Option<String>,
    /// Volumes it sees.
    pub mounts: Vec<Mount>,
    /// When it is started again.
    pub restart: RestartPolicy,
    /// A native sidecar: an init container that keeps running (`restartPolicy: Always`).
    pub sidecar: bool,
    /// User, group and supplementary groups; `None` keeps those of the node.
    pub user: Option<u32>,
    /// Group.
    pub group: Option<u32>,
    /// Linux capabilities it may hold, as a bit set; `None` means all of the node's.
    pub capabilities: Option<u64>,
    /// Run before SIGTERM.
    pub pre_stop: Option<Hook>,
    /// Run after the start.
    pub post_start: Option<Hook>,
}

/// What a container's process is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// This command line.
    Command(Vec<String>),
    /// None; `status` is what `get pods` shows, `message` what the user can do about it.
    Blocked {
        /// Such as `ErrImageNeverPull`.
        status: String,
        /// What is missing and how to give it.
        message: String,
    },
}

impl Default for Start {
    fn default() -> Self {
        Self::Command(Vec::new())
    }
}

/// A lifecycle hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hook {
    /// A command in the container.
    Exec(Vec<String>),
    /// A GET request to the pod.
    HttpGet {
        /// Port on the pod.
        port: u16,
        /// Path and query.
        path: String,
    },
    /// A pause, in seconds.
    Sleep(u64),
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Volume {
    /// Memory, empty at first.
    Empty,
    /// Files with their content.
    Files(Vec<File>),
    /// A path of the machine.
    Host(PathBuf),
}

/// A file of a [`Volume::Files`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Path relative to the volume; no `..`.
    pub path: String,
    /// Content.
    pub content: Vec<u8>,
    /// Mode bits.
    pub mode: u32,
}

/// A volume seen by a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Name of the volume.
    pub volume: String,
    /// Where it appears.
    pub path: String,
    /// A part of it only.
    pub sub_path: Option<String>,
    /// Not writable.
    pub read_only: bool,
}

/// From the supervisor to the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first message; the pod's interface is there already.
    Start(Box<Spec>),
    /// The proxy is ready: held containers may start.
    ProxyReady,
    /// End the pod: hooks, SIGTERM, SIGKILL after this many milliseconds.
    Stop {
        /// Grace period.
        grace_ms: u64,
    },
    /// A liveness or startup probe failed: end this container; its restart policy decides on.
    Kill {
        /// Which container.
        container: String,
        /// Why, for its log.
        reason: String,
    },
    /// Run a command in a container, for a probe.
    Exec {
        /// Echoed in the answer.
        id: u64,
        /// Which container.
        container: String,
        /// What to run.
        argv: Vec<String>,
        /// Killed after this many milliseconds.
        timeout_ms: u64,
    },
    /// Replace the files of a volume: a new token, a new root.
    Refresh {
        /// Which volume.
        volume: String,
        /// All its files.
        files: Vec<File>,
    },
}

/// From the pod to the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// Namespaces exist; process 1 runs.
    Up {
        /// Process 1 of the pod, as the supervisor sees it.
        pid: u32,
    },
    /// A container changed.
    Container {
        /// Which.
        name: String,
        /// How it is now.
        state: ContainerStatus,
        /// How often it was restarted.
        restarts: u32,
        /// Exit status of the last run that ended.
        exit_code: Option<i32>,
    },
    /// An [`Command::Exec`] ended.
    ExecDone {
        /// Of which.
        id: u64,
        /// Exit status; `None` when it could not be run or took too long.
        code: Option<i32>,
    },
    /// All containers ended for good.
    Finished {
        /// All with exit status 0.
        succeeded: bool,
    },
    /// The pod could not be set up.
    Failed {
        /// What failed, with causes.
        message: String,
    },
}

/// How a container is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerStatus {
    /// Not started, with Kubernetes' reason (`PodInitializing`, `CrashLoopBackOff`, …).
    Waiting {
        /// The reason.
        reason: String,
        /// More for people; may be empty.
        message: String,
    },
    /// Its process runs.
    Running {
        /// Process id inside the pod.
        pid: u32,
    },
    /// Ended and not started again (yet).
    Ended {
        /// `Completed`, `Error` or a signal's name.
        reason: String,
    },
}
