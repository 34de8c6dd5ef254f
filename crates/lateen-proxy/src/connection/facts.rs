//! What is known of a connection before anything of its protocol is served.

use std::net::SocketAddr;
use std::sync::Arc;

use lateen_traffic::ConnectionInfo;
use lateen_traffic::request::TransportProtocol;
use tokio::net::TcpStream;

use crate::net::socket::{OriginalSource, canonical};
use crate::worker::Worker;

/// Addresses and what detection found.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// A number, unique in the process.
    pub(crate) id: u64,
    /// The listener that serves it.
    pub(crate) listener: Arc<str>,
    /// The filter chain that serves it.
    pub(crate) chain: Arc<str>,
    /// Where it was going: the original destination if it was redirected.
    pub(crate) local: SocketAddr,
    /// The local address of the socket.
    pub(crate) direct_local: SocketAddr,
    /// Who opened it, after the PROXY protocol.
    pub(crate) remote: SocketAddr,
    /// The peer of the socket.
    pub(crate) direct_remote: SocketAddr,
    /// Whether it was redirected.
    pub(crate) redirected: bool,
    /// In whose name the proxy connects on, if not in its own.
    pub(crate) original_source: Option<OriginalSource>,
    /// The server name of the ClientHello.
    pub(crate) server_name: Option<String>,
    /// ALPN protocols offered, or the HTTP version detected.
    pub(crate) protocols: Vec<String>,
    /// Whether a ClientHello was seen.
    pub(crate) transport: TransportProtocol,
}

impl Facts {
    /// The client, and where it was going: as the PROXY protocol names them.
    pub(crate) const fn ends(&self) -> (SocketAddr, SocketAddr) {
        (self.remote, self.local)
    }

    /// Of a connection that was just accepted; `None` if it is gone already.
    pub(crate) fn of(worker: &Worker, tcp: &TcpStream, remote: SocketAddr) -> Option<Self> {
        let local = canonical(tcp.local_addr().ok()?);
        let remote = canonical(remote);
        Some(Self {
            id: worker.shared.connection_id(),
            listener: Arc::from(""),
            chain: Arc::from(""),
            local,
            direct_local: local,
            remote,
            direct_remote: remote,
            redirected: false,
            original_source: None,
            server_name: None,
            protocols: Vec::new(),
            transport: TransportProtocol::RawBuffer,
        })
    }

    /// Calls `with` with the view decisions take.
    pub(crate) fn with_info<T>(&self, with: impl FnOnce(&ConnectionInfo<'_>) -> T) -> T {
        let protocols: Vec<&str> = self.protocols.iter().map(String::as_str).collect();
        with(&ConnectionInfo {
            application_protocols: &protocols,
            ..self.info()
        })
    }

    /// The view without application protocols, which only filter-chain matching asks for.
    pub(crate) fn info(&self) -> ConnectionInfo<'_> {
        ConnectionInfo {
            local: self.local,
            remote: self.remote,
            direct_remote: self.direct_remote,
            server_name: self.server_name.as_deref(),
            transport_protocol: self.transport,
            application_protocols: &[],
            is_local: self.remote.ip() == self.local.ip() || self.remote.ip().is_loopback(),
        }
    }
}
