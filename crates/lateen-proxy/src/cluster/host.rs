//! One upstream host as one worker sees it: its pools by transport, and how much it has to do.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use lateen_telemetry::metrics::istio::PeerId;
use lateen_traffic::cluster::UpstreamHttp;
use lateen_traffic::endpoint::Endpoint;
use lateen_traffic::value::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::outlier::{HostCounts, HostRecord};
use crate::net::HostAddress;
use crate::net::socket::OriginalSource;
use crate::upstream::h1::Idle;
use crate::upstream::h2::Connections;
use crate::upstream::mux::Links;
use crate::worker::Worker;

/// A host in one worker.
#[derive(Debug)]
pub(crate) struct HostState {
    /// Its address.
    pub(crate) address: HostAddress,
    /// Requests and TCP connections under way.
    pub(crate) active: Cell<u32>,
    /// A TCP connection to it that could share has one of its own.
    has_lone: Rc<Cell<bool>>,
    /// When this worker met it.
    pub(crate) created: Instant,
    /// When the last of them ended or began.
    pub(crate) last_used: Cell<Instant>,
    /// Its record over all workers.
    pub(crate) record: Arc<HostRecord>,
    /// What this worker counts of it.
    pub(crate) counts: Arc<HostCounts>,
    pools: RefCell<Vec<(TransportKey, Rc<Pool>)>>,
    introduced: RefCell<Option<(HeaderValue, PeerId)>>,
    described: RefCell<Option<(Arc<Endpoint>, PeerId)>>,
}

/// What tells connections to one host apart that may not stand for each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TransportKey {
    /// The TLS configuration; 0 is none.
    pub(crate) tls: u64,
    /// The server name sent.
    pub(crate) server_name: Option<Arc<str>>,
    /// The client and its destination that the PROXY protocol names.
    pub(crate) proxied: Option<(SocketAddr, SocketAddr)>,
    /// In whose name it is made.
    pub(crate) original_source: Option<OriginalSource>,
}

/// The connections to a host over one transport.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// HTTP/1, idle.
    pub(crate) h1: Rc<Idle>,
    /// HTTP/2.
    pub(crate) h2: Rc<Connections>,
    /// Shared by many requests.
    pub(crate) mux: Rc<Links>,
    /// Connections that exist, idle or not.
    pub(crate) open: Rc<Cell<usize>>,
    /// Rings when a connection becomes free or ends.
    pub(crate) freed: Rc<Notify>,
}

/// A TCP connection that could share and has one of its own, because there is nobody to share with: what is shared costs it more than it saves.
#[derive(Debug)]
pub(crate) struct Lone(Rc<Cell<bool>>);

impl Drop for Lone {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl HostState {
    /// A host without connections.
    pub(crate) fn new(address: HostAddress, record: Arc<HostRecord>) -> Self {
        Self {
            address,
            active: Cell::new(0),
            has_lone: Rc::default(),
            created: Instant::now(),
            last_used: Cell::new(Instant::now()),
            counts: record.shard(),
            record,
            pools: RefCell::default(),
            introduced: RefCell::default(),
            described: RefCell::default(),
        }
    }

    /// For a TCP connection that could share: whether it is the only one, for as long as this is held.
    pub(crate) fn lone(&self) -> Option<Lone> {
        let others = self.has_lone.replace(true);
        (!others).then(|| Lone(Rc::clone(&self.has_lone)))
    }

    /// The workload that introduced itself from here with this header. It hardly ever changes, so the last answer is remembered.
    pub(crate) fn introduce(&self, header: &HeaderValue, worker: &Worker) -> PeerId {
        let mut introduced = self.introduced.borrow_mut();
        if let Some((known, id)) = &*introduced
            && known == header
        {
            return *id;
        }
        let peer = crate::node::read_peer(header);
        let id = peer.map_or_else(PeerId::default, |peer| {
            worker.metrics.borrow_mut().peer(&peer)
        });
        *introduced = Some((header.clone(), id));
        id
    }

    /// The workload that is here by what the configuration says of the endpoint, for when it does not introduce itself. Remembered likewise.
    pub(crate) fn described(&self, endpoint: &Arc<Endpoint>, worker: &Worker) -> PeerId {
        let mut described = self.described.borrow_mut();
        if let Some((known, id)) = &*described
            && Arc::ptr_eq(known, endpoint)
        {
            return *id;
        }
        let workload = endpoint.metadata.get("istio", &["workload"]);
        let peer = workload
            .and_then(Value::as_str)
            .and_then(crate::node::read_endpoint);
        let id = peer.map_or_else(PeerId::default, |peer| {
            worker.metrics.borrow_mut().peer(&peer)
        });
        *described = Some((Arc::clone(endpoint), id));
        id
    }

    /// The pool for a transport. There are one or two, so a list is the fastest map.
    pub(crate) fn pool(&self, key: &TransportKey) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        if let Some((_, pool)) = pools.iter().find(|(k, _)| k == key) {
            return Rc::clone(pool);
        }
        let pool = Rc::new(Pool::default());
        pools.push((key.clone(), Rc::clone(&pool)));
        pool
    }

    /// Whether any connection exists.
    pub(crate) fn has_connections(&self) -> bool {
        self.pools
            .borrow()
            .iter()
            .any(|(_, pool)| pool.open.get() > 0)
    }

    /// Closes what was idle for too long, and forgets pools of transports that are gone.
    pub(crate) fn sweep(&self, http: &UpstreamHttp) {
        self.pools.borrow_mut().retain(|(_, pool)| {
            pool.h1.sweep(http);
            pool.h2.sweep(http);
            pool.mux.sweep(http);
            pool.open.get() > 0 || Rc::strong_count(pool) > 1
        });
    }

    /// Closes every idle connection; busy ones end with what they carry.
    pub(crate) fn close_idle(&self) {
        for (_, pool) in self.pools.borrow_mut().drain(..) {
            pool.h1.clear();
            pool.h2.clear();
            pool.mux.clear();
        }
    }
}
