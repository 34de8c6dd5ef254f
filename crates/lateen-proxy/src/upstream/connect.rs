//! One connection to one upstream host: TCP, then TLS if the host wants it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls_pki_types::{DnsName, IpAddr, ServerName};
use tokio_rustls::TlsConnector;

use crate::net::socket::{self, ConnectOptions};
use crate::net::{Prefixed, Stream};
use crate::tls::ClientTls;

/// How to reach a host.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Where.
    pub(crate) address: SocketAddr,
    /// Socket options.
    pub(crate) options: ConnectOptions,
    /// TLS, and the server name to send.
    pub(crate) tls: Option<(ClientTls, Option<Arc<str>>)>,
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
        address: SocketAddr,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// TLS failed: the certificate, the names in it, or the protocol.
    #[error("TLS with {address} failed")]
    Tls {
        /// Where to.
        address: SocketAddr,
        /// What rustls said.
        source: Arc<io::Error>,
    },
    /// It took longer than `connect_timeout`.
    #[error("connecting to {address} timed out")]
    Timeout {
        /// Where to.
        address: SocketAddr,
    },
    /// The HTTP handshake failed.
    #[error("HTTP handshake with {address} failed")]
    Http {
        /// Where to.
        address: SocketAddr,
        /// What hyper said.
        source: Arc<hyper::Error>,
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
            Self::Timeout { .. } | Self::Http { .. } => None,
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
    let address = target.address;
    match tokio::time::timeout(target.timeout, open(target)).await {
        Ok(done) => done,
        Err(_) => Err(ConnectError::Timeout { address }),
    }
}

async fn open(target: &Target) -> Result<Stream, ConnectError> {
    let address = target.address;
    let tcp = socket::connect(address, target.options)
        .await
        .map_err(|source| ConnectError::Tcp {
            address,
            source: Arc::new(source),
        })?;
    let plain = Prefixed::new(Bytes::new(), tcp);
    let Some((tls, name)) = &target.tls else {
        return Ok(Stream::Plain(plain));
    };
    let name = server_name(name.as_deref(), address);
    let stream = TlsConnector::from(Arc::clone(&tls.config))
        .connect(name, plain)
        .await
        .map_err(|source| ConnectError::Tls {
            address,
            source: Arc::new(source),
        })?;
    Ok(Stream::Tls(Box::new(stream.into())))
}

/// The name rustls keeps sessions under and sends as SNI. An address is never sent (RFC 6066), and stands where there is no
/// name. Istio's `outbound_.80_._.host` names are valid host names with underscores, which rustls allows.
fn server_name(name: Option<&str>, address: SocketAddr) -> ServerName<'static> {
    name.and_then(|name| DnsName::try_from(name.to_owned()).ok())
        .map_or_else(
            || ServerName::IpAddress(IpAddr::from(address.ip())),
            ServerName::DnsName,
        )
}
