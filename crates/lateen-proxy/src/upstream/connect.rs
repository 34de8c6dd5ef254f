//! One connection to one upstream host: TCP, then TLS if the host wants it.

use std::io;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls_pki_types::{IpAddr, ServerName};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

use crate::net::socket::{self, ConnectOptions};
use crate::net::stream::Socket;
use crate::net::{HostAddress, Prefixed, Stream};
use crate::tls::ClientTls;

/// How to reach a host.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Where.
    pub(crate) address: HostAddress,
    /// Socket options.
    pub(crate) options: ConnectOptions,
    /// What is sent before everything else: a header of the PROXY protocol.
    pub(crate) header: Option<Bytes>,
    /// TLS, and the name the connection is made under.
    pub(crate) tls: Option<(ClientTls, Option<Arc<str>>)>,
    /// What is said to servers that agree on Istio's metadata exchange.
    pub(crate) introduction: Option<Rc<[u8]>>,
    /// Time for TCP and TLS together (`connect_timeout`).
    pub(crate) timeout: Duration,
}

/// Why there is no connection. Nothing was sent that an application could have seen.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The TCP connection was refused or broke.
    #[error("cannot connect to {address}")]
    Tcp {
        /// Where to.
        address: HostAddress,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// TLS failed: the certificate, the names in it, or the protocol.
    #[error("TLS with {address} failed")]
    Tls {
        /// Where to.
        address: HostAddress,
        /// What rustls said.
        source: Arc<io::Error>,
    },
    /// It took longer than `connect_timeout`.
    #[error("connecting to {address} timed out")]
    Timeout {
        /// Where to.
        address: HostAddress,
    },
    /// The transport socket cannot be made, for want of a secret for instance.
    #[error("transport socket is not usable: {0}")]
    Transport(Arc<str>),
}

impl ConnectError {
    /// Envoy's `%UPSTREAM_TRANSPORT_FAILURE_REASON%`, also the tail of its 503 body.
    pub(crate) fn transport_failure_reason(&self) -> Option<String> {
        match self {
            Self::Tls { source, .. } => Some(format!("TLS_error:|{source}:TLS_error_end")),
            Self::Transport(reason) => Some(reason.to_string()),
            Self::Tcp { source, .. } => {
                Some(format!("delayed connect error: {}", system_text(source)))
            }
            Self::Timeout { .. } => None,
        }
    }
}

/// What `strerror(3)` says, without Rust's addition of the number.
fn system_text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}

/// Makes a connection.
///
/// # Errors
/// See [`ConnectError`]; all are safe to retry.
pub(crate) async fn connect(target: &Target) -> Result<Stream, ConnectError> {
    let address = target.address.clone();
    match tokio::time::timeout(target.timeout, open(target)).await {
        Ok(done) => done,
        Err(_) => Err(ConnectError::Timeout { address }),
    }
}

async fn open(target: &Target) -> Result<Stream, ConnectError> {
    let address = target.address.clone();
    let socket = reach(target).await.map_err(|source| ConnectError::Tcp {
        address: address.clone(),
        source: Arc::new(source),
    })?;
    let plain = Prefixed::new(Bytes::new(), socket);
    let Some((tls, name)) = &target.tls else {
        return Ok(Stream::Plain(plain));
    };
    let failed = |source| ConnectError::Tls {
        address: address.clone(),
        source: Arc::new(source),
    };
    let named = name.as_deref().and_then(server_name);
    let name = match named {
        Some(name) => name,
        None if tls.needs_name => {
            let reason = "the server's certificate is to be verified for the request's host, which is none a certificate could be for";
            return Err(ConnectError::Transport(reason.into()));
        }
        // The name under which rustls keeps sessions; it is not sent (RFC 6066).
        None => ServerName::IpAddress(IpAddr::from(place_of(&address))),
    };
    let stream = TlsConnector::from(Arc::clone(&tls.config))
        .connect(name.clone(), plain)
        .await
        .map_err(failed)?;
    tls.check_resumed(stream.get_ref().1, &name)
        .map_err(|error| failed(io::Error::other(error)))?;
    let stream = Stream::Tls(Box::new(stream.into()));
    match &target.introduction {
        Some(frame) if stream.agreed_on_exchange() => stream.introduce(frame).await.map_err(failed),
        _ => Ok(stream),
    }
}

/// Connects, and says who the client is where the host wants to know that first.
async fn reach(target: &Target) -> io::Result<Socket> {
    let mut socket = match &target.address {
        HostAddress::Ip(address) => Socket::Tcp(socket::connect(*address, target.options).await?),
        HostAddress::Pipe(path) => Socket::Unix(socket::connect_unix(path).await?),
    };
    if let Some(header) = &target.header {
        socket.write_all(header).await?;
    }
    Ok(socket)
}

/// What stands where there is no name. Nothing is sent for it; sessions of hosts on Unix sockets are kept under one name.
fn place_of(address: &HostAddress) -> std::net::IpAddr {
    address
        .ip()
        .map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip())
}

/// The name that is sent, or the address that is verified. Istio's `outbound_.80_._.host` names are valid host names with underscores, which
/// rustls allows.
fn server_name(name: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(name.to_owned()).ok()
}
