//! Probes: what they ask and what their answers mean. Asking is in the submodules.
//!
//! HTTP, TCP and gRPC probes come from the node, as a kubelet's do; for a pod with a sidecar they are rewritten to the
//! proxy's status port (`podspec::probes`). `exec` probes run in the container.

use std::net::IpAddr;
use std::time::Duration;

use tokio::net::TcpStream;

mod grpc;
mod http;
pub(crate) mod schedule;

/// One probe of a container, with Kubernetes' defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What it asks.
    pub check: Check,
    /// From the container's start to the first question.
    pub initial_delay: Duration,
    /// Between questions.
    pub period: Duration,
    /// For one answer.
    pub timeout: Duration,
    /// Good answers in a row before it counts as passing.
    pub success_threshold: u32,
    /// Bad answers in a row before it counts as failing.
    pub failure_threshold: u32,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A GET request; a status from 200 to 399 is good.
    Http {
        /// Where; `None` is the pod.
        host: Option<String>,
        /// Port.
        port: u16,
        /// Path and query.
        path: String,
        /// Headers; `Host` replaces the address.
        headers: Vec<(String, String)>,
        /// Over TLS. Certificates are not verified: the address is the pod's own.
        tls: bool,
    },
    /// A connection that can be made.
    Tcp {
        /// Port.
        port: u16,
    },
    /// gRPC's health service says `SERVING`.
    Grpc {
        /// Port.
        port: u16,
        /// The service asked about.
        service: String,
    },
    /// A command in the container that ends with 0.
    Exec {
        /// Its command line.
        argv: Vec<String>,
    },
}

/// The probes of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerProbes {
    /// Whether it may take traffic.
    pub readiness: Option<Probe>,
    /// Whether it has to be restarted.
    pub liveness: Option<Probe>,
    /// Until this passes, the others wait.
    pub startup: Option<Probe>,
}

/// Asks once. `Exec` cannot be asked from here and counts as bad.
pub(crate) async fn ask(check: &Check, pod: IpAddr, timeout: Duration) -> bool {
    let answer = async {
        match check {
            Check::Http {
                host,
                port,
                path,
                headers,
                tls,
            } => {
                let target = http::Target {
                    pod,
                    host: host.as_deref(),
                    port: *port,
                    tls: *tls,
                };
                http::get(&target, path, headers).await
            }
            Check::Tcp { port } => TcpStream::connect((pod, *port)).await.is_ok(),
            Check::Grpc { port, service } => grpc::is_serving(pod, *port, service).await,
            Check::Exec { .. } => false,
        }
    };
    tokio::time::timeout(timeout, answer).await.unwrap_or(false)
}
