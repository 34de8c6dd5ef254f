//! The server's sockets: UDP and TCP on each address.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lateen_envoy::istio::nds::NameTable;
use rand::Rng as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::query::{Answered, Protocol, answer};
use super::table::{Scope, Table};
use super::upstream::Upstream;

/// Queries passed on at once. One more is refused: a name server that does not answer must not use up our sockets.
const MAX_FORWARDED: usize = 512;
/// TCP connections at once.
const MAX_STREAMS: usize = 256;
/// How long a TCP connection may be silent.
const IDLE: Duration = Duration::from_secs(10);

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// An address cannot be bound.
    #[error("cannot listen for DNS on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What happened so far; Istio's `istio_agent_dns_*` metrics.
#[derive(Debug, Default)]
pub struct DnsCounters {
    /// `dns_requests_total`.
    pub requests: AtomicU64,
    /// `dns_upstream_requests_total`.
    pub upstream_requests: AtomicU64,
    /// `dns_failures_total`: neither we nor another server had an answer.
    pub failures: AtomicU64,
}

/// The server. Bound when made; answers while it runs.
#[derive(Debug)]
pub struct DnsServer {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    shared: Arc<Shared>,
    names: watch::Receiver<Option<Arc<NameTable>>>,
    scope: Scope,
    table: watch::Sender<Option<Arc<Table>>>,
}

#[derive(Debug)]
struct Shared {
    table: watch::Receiver<Option<Arc<Table>>>,
    upstream: Upstream,
    forwarded: Arc<Semaphore>,
    counters: Arc<DnsCounters>,
}

impl DnsServer {
    /// Binds UDP and TCP of each address. An IPv6 address on a machine without IPv6 is passed over if another one works.
    ///
    /// # Errors
    /// An address cannot be bound.
    pub async fn bind(
        addresses: &[SocketAddr],
        names: watch::Receiver<Option<Arc<NameTable>>>,
        scope: Scope,
        upstream: Upstream,
    ) -> Result<Self, DnsError> {
        let (mut udp, mut tcp) = (Vec::new(), Vec::new());
        for address in addresses {
            match bind(*address).await {
                Ok((datagrams, streams)) => {
                    udp.push(datagrams);
                    tcp.push(streams);
                }
                Err(error) if address.is_ipv6() && is_no_ipv6(&error) && addresses.len() > 1 => {
                    tracing::debug!(%address, "no IPv6 here");
                }
                Err(source) => {
                    return Err(DnsError::Bind {
                        address: *address,
                        source,
                    });
                }
            }
        }
        let (table, current) = watch::channel(None);
        let shared = Arc::new(Shared {
            table: current,
            upstream,
            forwarded: Arc::new(Semaphore::new(MAX_FORWARDED)),
            counters: Arc::default(),
        });
        Ok(Self {
            udp,
            tcp,
            shared,
            names,
            scope,
            table,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.udp
            .iter()
            .filter_map(|socket| socket.local_addr().ok())
            .collect()
    }

    /// What happened so far.
    pub fn counters(&self) -> Arc<DnsCounters> {
        self.shared.counters.clone()
    }

    /// Answers until dropped. Every task it starts is its own and ends with it.
    pub async fn run(self) {
        let mut tasks = JoinSet::new();
        for socket in self.udp {
            tasks.spawn(serve_udp(Arc::new(socket), self.shared.clone()));
        }
        for listener in self.tcp {
            tasks.spawn(serve_tcp(listener, self.shared.clone()));
        }
        let mut names = self.names;
        loop {
            let table = names.borrow_and_update().clone();
            if let Some(table) = table {
                let compiled = Table::new(&table, self.scope.clone());
                tracing::debug!(names = compiled.len(), "name table is in use");
                self.table.send_replace(Some(Arc::new(compiled)));
            }
            if names.changed().await.is_err() {
                // Nobody will change it any more; what is known stays known.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Shared {
    /// The answer to a query, empty for none.
    async fn handle(&self, query: &[u8], protocol: Protocol) -> Vec<u8> {
        match self.local(query, protocol) {
            Answered::Locally(answer) => answer,
            Answered::Nothing => Vec::new(),
            Answered::AskUpstream { on_failure } => self.forward(query, protocol, on_failure).await,
        }
    }

    fn local(&self, query: &[u8], protocol: Protocol) -> Answered {
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        let table = self.table.borrow().clone();
        let mut shuffle = |below: usize| rand::rng().random_range(0..below);
        answer(query, table.as_deref(), protocol, &mut shuffle)
    }

    async fn forward(&self, query: &[u8], protocol: Protocol, on_failure: Vec<u8>) -> Vec<u8> {
        let Ok(_permit) = self.forwarded.try_acquire() else {
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
            return on_failure;
        };
        self.counters
            .upstream_requests
            .fetch_add(1, Ordering::Relaxed);
        self.upstream.ask(query, protocol).await.unwrap_or_else(|| {
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
            on_failure
        })
    }
}

/// Binds both protocols at one port. With port 0 the system picks it for TCP alone, and it may be taken for UDP; then another is tried.
async fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let tries = if address.port() == 0 { 16 } else { 1 };
    let mut taken = io::ErrorKind::AddrInUse.into();
    for _ in 0..tries {
        let streams = TcpListener::bind(address).await?;
        let address = SocketAddr::new(address.ip(), streams.local_addr()?.port());
        match UdpSocket::bind(address).await {
            Ok(datagrams) => return Ok((datagrams, streams)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => taken = error,
            Err(error) => return Err(error),
        }
    }
    Err(taken)
}

fn is_no_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let codes = [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT].map(Errno::raw_os_error);
    error
        .raw_os_error()
        .is_some_and(|code| codes.contains(&code))
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut forwarded = JoinSet::new();
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        while forwarded.try_join_next().is_some() {}
        // An error is about an earlier datagram (its receiver is gone), never about the socket.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let query = buffer.get(..length).unwrap_or_default();
        match shared.local(query, Protocol::Udp) {
            Answered::Nothing => {}
            Answered::Locally(answer) => send(&socket, &answer, client).await,
            Answered::AskUpstream { on_failure } => {
                let (socket, shared, query) = (socket.clone(), shared.clone(), query.to_vec());
                forwarded.spawn(async move {
                    let answer = shared.forward(&query, Protocol::Udp, on_failure).await;
                    send(&socket, &answer, client).await;
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    if answer.is_empty() {
        return;
    }
    if let Err(error) = socket.send_to(answer, client).await {
        tracing::debug!(%error, %client, "DNS answer not sent");
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let permits = Arc::new(Semaphore::new(MAX_STREAMS));
    let mut streams = JoinSet::new();
    loop {
        while streams.try_join_next().is_some() {}
        let Ok(permit) = permits.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                streams.spawn(async move {
                    // How a client leaves is its own affair.
                    let _ = serve_stream(stream, &shared).await;
                    drop(permit);
                });
            }
            // Out of descriptors, say: give what holds them time to end.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Queries on one connection, one after the other (RFC 7766 allows a server to do so).
async fn serve_stream(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    loop {
        let length = tokio::time::timeout(IDLE, stream.read_u16()).await??;
        let mut query = vec![0; usize::from(length)];
        tokio::time::timeout(IDLE, stream.read_exact(&mut query)).await??;
        let answer = shared.handle(&query, Protocol::Tcp).await;
        let Some(length) = u16::try_from(answer.len())
            .ok()
            .filter(|length| *length > 0)
        else {
            return Ok(());
        };
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        tokio::time::timeout(IDLE, stream.write_all(&framed)).await??;
    }
}
