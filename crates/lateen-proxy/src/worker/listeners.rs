//! A worker's sockets: opened, kept and closed as the configuration says.
//!
//! A listener whose settings change keeps its socket and its connections; only one that is gone, or bound elsewhere, drains.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lateen_telemetry::metrics::envoy::ListenerStats;
use lateen_traffic::Listener;
use lateen_traffic::listener::{ListenAddress, TrafficDirection};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::connection;
use crate::doze::until;
use crate::drains::Drains;
use crate::net::socket;
use crate::panic::isolated;

/// A pause after an accept that failed for want of file descriptors or memory, so that the worker does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a listener's connections hold on to.
#[derive(Debug)]
pub(crate) struct ListenerHandle {
    /// Its name; another listener may take over the address.
    pub(crate) name: RefCell<Arc<str>>,
    /// Its statistics.
    pub(crate) stats: ListenerStats,
    /// Says that connections are to end gracefully.
    pub(crate) drain: CancellationToken,
    /// The same for whoever asks with every request: asking the token takes a lock.
    drains: Cell<bool>,
    /// Says that they are to end now.
    pub(crate) kill: CancellationToken,
}

impl ListenerHandle {
    /// Whether connections are to end gracefully.
    pub(crate) fn drains(&self) -> bool {
        self.drains.get()
    }

    fn begin_drain(&self) {
        self.drains.set(true);
        self.drain.cancel();
    }
}

/// All sockets of a worker.
pub(super) struct Listeners {
    worker: Rc<Worker>,
    open: BTreeMap<SocketAddr, Open>,
}

struct Open {
    handle: Rc<ListenerHandle>,
    accepting: JoinHandle<()>,
    direction: TrafficDirection,
}

impl Listeners {
    pub(super) fn new(worker: &Rc<Worker>) -> Self {
        Self {
            worker: Rc::clone(worker),
            open: BTreeMap::new(),
        }
    }

    /// Brings the sockets in line with the configuration.
    pub(super) fn reconcile(&mut self) {
        let now = self.worker.now();
        let wanted: BTreeMap<SocketAddr, &Arc<Listener>> = now
            .program
            .listeners()
            .iter()
            .filter(|(_, listener)| listener.bind_to_port)
            .flat_map(|(_, listener)| listener.addresses().map(move |address| (address, listener)))
            .filter_map(|(address, listener)| match address {
                ListenAddress::Socket(address) => Some((*address, listener)),
                ListenAddress::Pipe(_) | ListenAddress::Internal => None,
            })
            .collect();
        let gone: Vec<SocketAddr> = self
            .open
            .keys()
            .filter(|a| !wanted.contains_key(a))
            .copied()
            .collect();
        for address in gone {
            self.close(address);
        }
        for (address, listener) in wanted {
            match self.open.get_mut(&address) {
                Some(open) => {
                    *open.handle.name.borrow_mut() = Arc::clone(&listener.name);
                    open.direction = listener.direction;
                }
                None => self.open(address, listener),
            }
        }
        self.worker
            .shared
            .note_reconciled(self.worker.index, now.version);
    }

    fn open(&mut self, wanted: SocketAddr, listener: &Arc<Listener>) {
        let shared = &self.worker.shared;
        let drains = shared.drains.now();
        if drains.stopped.covers(listener.direction) {
            return; // as in Envoy, what comes later does not begin
        }
        // Envoy binds `::` for IPv6 only unless `ipv4_compat` is set; Istio has a second address for IPv4 then.
        let bound = shared.bind(&listener.name, wanted, |address| {
            let socket = socket::listen(address, listener.transparent)?;
            let actual = socket.local_addr()?;
            Ok((socket, actual))
        });
        let socket = match bound {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(listener = %listener.name, address = %wanted, %error, "cannot listen");
                shared.stats.server.listener_create_failure.inc();
                return;
            }
        };
        shared.stats.server.listener_create_success.inc();
        let handle = Rc::new(ListenerHandle {
            name: RefCell::new(Arc::clone(&listener.name)),
            stats: shared
                .stats
                .listener
                .handles(self.worker.shard, &stat_prefix(listener, wanted)),
            drain: CancellationToken::new(),
            drains: Cell::new(false),
            kill: CancellationToken::new(),
        });
        let accepting =
            tokio::task::spawn_local(accept(Rc::clone(&self.worker), Rc::clone(&handle), socket));
        let open = Open {
            handle,
            accepting,
            direction: listener.direction,
        };
        open.obey(drains);
        self.open.insert(wanted, open);
    }

    /// Stops accepting and lets connections end within the drain time.
    fn close(&mut self, address: SocketAddr) {
        let Some(open) = self.open.remove(&address) else {
            return;
        };
        open.accepting.abort();
        self.worker
            .shared
            .note_closed(&open.handle.name.borrow(), address);
        open.handle.begin_drain();
        let time = self.worker.shared.config.drain.listener;
        let kill = open.handle.kill.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(time).await;
            kill.cancel();
        });
    }

    /// Does what all workers are asked to.
    pub(super) fn obey(&self, drains: Drains) {
        for open in self.open.values() {
            open.obey(drains);
        }
    }
}

impl Open {
    fn obey(&self, drains: Drains) {
        if drains.draining.covers(self.direction) {
            self.handle.begin_drain();
        }
        if drains.stopped.covers(self.direction) {
            self.accepting.abort(); // which closes its socket
        }
    }
}

/// Envoy: `stat_prefix`, else the address with what would separate stat names replaced.
fn stat_prefix(listener: &Listener, address: SocketAddr) -> String {
    match &listener.stat_prefix {
        Some(prefix) => prefix.to_string(),
        None => address.to_string().replace(':', "_"),
    }
}

async fn accept(worker: Rc<Worker>, handle: Rc<ListenerHandle>, socket: TcpListener) {
    loop {
        let (stream, remote) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(listener = %handle.name.borrow(), %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(admitted) = worker.admit() else {
            handle.stats.downstream_cx_overflow.inc();
            continue; // dropping the stream closes it
        };
        let kill = handle.kill.clone();
        let (worker, handle) = (Rc::clone(&worker), Rc::clone(&handle));
        tokio::task::spawn_local(async move {
            let _admitted = admitted;
            let served = isolated(remote, connection::serve(worker, handle, stream, remote));
            until(kill.cancelled(), pin!(served)).await;
        });
    }
}
