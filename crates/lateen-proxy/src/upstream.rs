//! The upstream side of one worker: connections to hosts, pools of them, and getting one for a request.

mod body;
pub(crate) mod call;
pub(crate) mod connect;
pub(crate) mod h1;
pub(crate) mod h2;
mod multiplexed;
pub(crate) mod mux;
pub(crate) mod names;
pub(crate) mod pipe;
pub(crate) mod plain;
mod pool;
pub(crate) mod raw;
pub(crate) mod target;

pub(crate) use body::{SendError, Upgraded, UpstreamBody, UpstreamError};
pub(crate) use pool::{AcquireError, Begun, Lease, Protocol, Route, Way, acquire, connection, way};

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use lateen_telemetry::metrics::Gauge;
use tokio::sync::Notify;

use crate::cluster::breaker::Permit;
use crate::cluster::host::HostState;
use crate::cluster::outlier::{HostCounts, count, uncount};
use crate::level::Level;

/// Counts an upstream connection for as long as it exists.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    _permit: Permit,
    in_pool: Rc<Cell<usize>>,
    freed: Rc<Notify>,
    counts: Arc<HostCounts>,
    _level: Level,
}

impl OpenConnection {
    /// Counts one.
    pub(crate) fn new(
        permit: Permit,
        in_pool: &Rc<Cell<usize>>,
        freed: &Rc<Notify>,
        (host, gauge): (&HostState, &Gauge),
    ) -> Self {
        count(&host.counts.cx_active);
        in_pool.set(in_pool.get() + 1);
        Self {
            _permit: permit,
            in_pool: Rc::clone(in_pool),
            freed: Rc::clone(freed),
            counts: Arc::clone(&host.counts),
            _level: Level::hold(gauge),
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.in_pool.set(self.in_pool.get().saturating_sub(1));
        uncount(&self.counts.cx_active);
        self.freed.notify_one();
    }
}
