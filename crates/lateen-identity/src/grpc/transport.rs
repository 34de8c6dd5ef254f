//! TLS below gRPC: accepting with the peer's certificates at hand, and connecting with whatever identity is current.
//!
//! tonic's own TLS fixes one certificate for the life of a server or a channel. Here the configuration is asked for anew for
//! each connection, so a rotated certificate or bundle takes effect without a restart.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, Stream, StreamExt as _};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Sleep;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};

use super::places::{Place, Places};

/// How long a handshake may take. Longer ones are the slow or the hostile.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at once. More wait in the kernel's queue, which is what it is for.
const MAX_HANDSHAKES: usize = 256;
/// Of those, from one address. A further one is closed, so that who sends nothing from one address does not take every place, again
/// and again. A gateway that many workloads come through is one address, too, and its handshakes take milliseconds.
const MAX_HANDSHAKES_OF_ONE: usize = 64;
/// Connections at once from one address, whether they carry anything or not. A proxy needs three.
const MAX_CONNECTIONS_OF_ONE: usize = 2048;

/// How long nothing is accepted after accepting failed: out of descriptors, say, which ends only as connections do.
const PAUSE: Duration = Duration::from_millis(50);

/// Whom a connection comes from; in the extensions of each request.
#[derive(Clone, Debug, Default)]
pub struct PeerInfo {
    /// Its address.
    pub address: Option<SocketAddr>,
    /// Its certificates, leaf first, verified by the handshake; empty if it sent none.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// A connection over TLS or plain TCP.
#[derive(Debug)]
pub enum Transport {
    /// TLS, accepting side, and its place among the connections of its address.
    Server(
        Box<tokio_rustls::server::TlsStream<TcpStream>>,
        PeerInfo,
        Place,
    ),
    /// TLS, connecting side.
    Client(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    /// Plain TCP.
    Plain(TcpStream, PeerInfo),
}

impl Transport {
    fn io(self: Pin<&mut Self>) -> Pin<&mut (dyn Io + '_)> {
        match self.get_mut() {
            Self::Server(stream, ..) => Pin::new(stream),
            Self::Client(stream) => Pin::new(stream),
            Self::Plain(stream, _) => Pin::new(stream),
        }
    }
}

trait Io: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }
}

impl Connected for Transport {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        match self {
            Self::Server(_, peer, _) | Self::Plain(_, peer) => peer.clone(),
            Self::Client(_) => PeerInfo::default(),
        }
    }
}

type Handshake = Pin<Box<dyn Future<Output = io::Result<Transport>> + Send>>;

/// Connections accepted on a listener, after their handshake. One that fails or dawdles holds up no other.
pub struct TlsIncoming<F> {
    listener: TcpListener,
    config: F,
    handshakes: FuturesUnordered<Handshake>,
    places_of_handshakes: Places,
    places: Places,
    /// Set while no connection is accepted, after accepting failed.
    pause: Option<Pin<Box<Sleep>>>,
}

impl<F: Fn() -> Option<Arc<ServerConfig>> + Unpin> TlsIncoming<F> {
    /// Accepts on `listener`. `config` is asked for each connection; `None` closes it, for want of a certificate.
    pub fn new(listener: TcpListener, config: F) -> Self {
        Self::with_most(listener, config, MAX_CONNECTIONS_OF_ONE)
    }

    pub(super) fn with_most(listener: TcpListener, config: F, connections_of_one: usize) -> Self {
        Self {
            listener,
            config,
            handshakes: FuturesUnordered::new(),
            places_of_handshakes: Places::new(MAX_HANDSHAKES_OF_ONE),
            places: Places::new(connections_of_one),
            pause: None,
        }
    }

    fn begin(&mut self, stream: TcpStream, address: SocketAddr) {
        // A connection for which there is no certificate yet is closed; the peer tries again.
        let Some(config) = (self.config)() else {
            return;
        };
        let from = address.ip();
        let (Some(handshake), Some(place)) =
            (self.places_of_handshakes.take(from), self.places.take(from))
        else {
            tracing::debug!(%from, "too many connections or TLS handshakes from one address");
            return;
        };
        self.handshakes.push(Box::pin(async move {
            let accepted = accept(stream, address, config, place).await;
            drop(handshake);
            accepted
        }));
    }
}

async fn accept(
    stream: TcpStream,
    address: SocketAddr,
    config: Arc<ServerConfig>,
    place: Place,
) -> io::Result<Transport> {
    stream.set_nodelay(true)?;
    let handshake = tokio_rustls::TlsAcceptor::from(config).accept(stream);
    let stream = tokio::time::timeout(HANDSHAKE, handshake)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "TLS handshake took too long"))??;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificates = certificates
        .iter()
        .map(|one| one.clone().into_owned())
        .collect();
    let peer = PeerInfo {
        address: Some(address),
        certificates,
    };
    Ok(Transport::Server(Box::new(stream), peer, place))
}

impl<F: Fn() -> Option<Arc<ServerConfig>> + Unpin> Stream for TlsIncoming<F> {
    type Item = io::Result<Transport>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match self.handshakes.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(transport))) => return Poll::Ready(Some(Ok(transport))),
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "TLS handshake failed");
                    continue;
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
            if self.handshakes.len() >= MAX_HANDSHAKES {
                return Poll::Pending;
            }
            if let Some(pause) = &mut self.pause {
                std::task::ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match self.listener.poll_accept(cx) {
                Poll::Ready(Ok((stream, address))) => self.begin(stream, address),
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl<F> std::fmt::Debug for TlsIncoming<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsIncoming")
            .field("listener", &self.listener)
            .finish_non_exhaustive()
    }
}

/// Asked for each connection; `None` means there is no usable configuration yet.
pub type ClientConfigSource = Arc<dyn Fn() -> Option<Arc<ClientConfig>> + Send + Sync>;

/// How the control plane is connected to.
#[derive(Clone)]
pub struct ChannelOptions {
    /// `HOST:PORT`, resolved anew for each connection.
    pub address: String,
    /// The name its certificate must have (and SNI).
    pub server_name: String,
    /// TLS; `None` connects in plain text (port 15010).
    pub tls: Option<ClientConfigSource>,
    /// `SO_MARK` of the socket, by which traffic redirection knows the proxy's own connections. Needs `CAP_NET_ADMIN`.
    pub mark: Option<u32>,
    /// How long connecting and the handshake may take together.
    pub connect_timeout: Duration,
}

impl std::fmt::Debug for ChannelOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChannelOptions")
            .field("address", &self.address)
            .field("server_name", &self.server_name)
            .field("tls", &self.tls.is_some())
            .field("mark", &self.mark)
            .finish_non_exhaustive()
    }
}

/// A gRPC channel that connects on first use and again after each loss, each time with the current TLS configuration.
///
/// # Errors
/// The server's name cannot be the authority of a URI.
pub fn channel(options: ChannelOptions) -> Result<Channel, tonic::transport::Error> {
    // Keep-alive finds a control plane that vanished without a word. Istio's agent: every 30 s, 10 s to answer.
    let endpoint = Endpoint::from_shared(format!("http://{}", options.server_name))?
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .connect_timeout(options.connect_timeout);
    let options = Arc::new(options);
    Ok(
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_uri| {
            let options = options.clone();
            async move { connect(&options).await.map(TokioIo::new) }
        })),
    )
}

/// Connects once, by the same rules as [`channel`].
///
/// # Errors
/// The name does not resolve, no address answers in time, or the handshake fails.
pub async fn connect(options: &ChannelOptions) -> io::Result<Transport> {
    let connecting = async {
        let stream = connect_tcp(&options.address, options.mark).await?;
        stream.set_nodelay(true)?;
        let Some(source) = &options.tls else {
            return Ok(Transport::Plain(stream, PeerInfo::default()));
        };
        let config =
            source().ok_or_else(|| io::Error::other("no certificate to connect with yet"))?;
        let name = ServerName::try_from(options.server_name.clone()).map_err(io::Error::other)?;
        let stream = tokio_rustls::TlsConnector::from(config)
            .connect(name, stream)
            .await?;
        Ok(Transport::Client(Box::new(stream)))
    };
    let timed = tokio::time::timeout(options.connect_timeout, connecting).await;
    timed.unwrap_or_else(|_| {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "connecting took too long",
        ))
    })
}

async fn connect_tcp(address: &str, mark: Option<u32>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(
        io::ErrorKind::NotFound,
        format!("`{address}` has no address"),
    );
    for address in tokio::net::lookup_host(address).await? {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(mark) = mark {
            socket2::SockRef::from(&socket).set_mark(mark)?;
        }
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
