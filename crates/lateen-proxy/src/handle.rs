//! Starting, watching and stopping a data plane.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

use crate::config::ProxyConfig;
use crate::control::{Control, ControlError};

/// The data plane.
#[derive(Debug)]
pub struct Proxy;

/// Why a data plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// One of its own ports (admin, Prometheus, health) cannot be opened.
    #[error("cannot listen on {address} for {purpose}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What it was for.
        purpose: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// No thread or runtime could be made.
    #[error("cannot start a thread or runtime")]
    Runtime(#[source] std::io::Error),
    /// The source of configuration cannot be used.
    #[error("cannot use the configuration source")]
    Source(#[source] ControlError),
}

/// Where a data plane is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The first listeners and clusters, with what they refer to, have not arrived yet.
    Initializing,
    /// Traffic flows.
    Live,
    /// New connections are still accepted, but clients are told to go elsewhere.
    Draining,
    /// Everything has ended.
    Stopped,
}

/// A running data plane. Dropping it stops everything at once; [`ProxyHandle::drain`] does it gracefully.
#[derive(Debug)]
pub struct ProxyHandle {
    control: Control,
}

impl Proxy {
    /// Starts workers and the control runtime, each on threads of its own. Returns once the proxy's own ports are open;
    /// [`ProxyHandle::state`] tells when traffic can flow.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running then.
    pub fn start(config: ProxyConfig) -> Result<ProxyHandle, StartError> {
        Ok(ProxyHandle {
            control: Control::start(Arc::new(config))?,
        })
    }
}

impl ProxyHandle {
    /// The state, as it changes.
    pub fn state(&self) -> watch::Receiver<State> {
        self.control.state()
    }

    /// Returns once traffic can flow; `false` if the proxy stopped before.
    pub async fn ready(&self) -> bool {
        let mut state = self.state();
        let reached = state.wait_for(|state| *state >= State::Live).await;
        reached.is_ok_and(|state| *state < State::Stopped)
    }

    /// Where listeners are bound, by listener name; for tests and tools that let the system choose ports.
    pub fn bound(&self) -> Vec<(Arc<str>, SocketAddr)> {
        self.control.bound()
    }

    /// Where the admin interface listens, if there is one.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.control.admin_address()
    }

    /// Says goodbye to clients (`connection: close`, GOAWAY) and returns when no connection is left or the drain time is
    /// over. New connections are served meanwhile, as endpoints may not know yet that this one goes.
    pub async fn drain(&self) {
        self.control.drain().await;
    }

    /// Ends everything: closes listeners and connections, joins the threads.
    pub async fn shutdown(self) {
        self.control.shutdown().await;
    }

    /// Statistics, as the admin interface serves them.
    pub fn metrics(&self) -> lateen_telemetry::metrics::Snapshot {
        self.control.metrics()
    }
}
