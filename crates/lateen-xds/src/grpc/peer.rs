//! Who is at the other end of a connection, as far as its transport has verified it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::Extensions;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// The peer of a stream. Whoever accepts connections says it, with [`PeerStream`] or in an interceptor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerInfo {
    /// The address of the peer.
    pub remote: Option<SocketAddr>,
    /// The bytes of the SPIFFE id that the peer proved to own, by its certificate or a token. `None`: it proved nothing.
    pub identity: Option<Arc<[u8]>>,
}

impl PeerInfo {
    /// What the extensions of a request say; a plain TCP connection says only its address.
    pub fn of(extensions: &Extensions) -> Self {
        if let Some(peer) = extensions.get::<Self>() {
            return peer.clone();
        }
        let remote = extensions
            .get::<TcpConnectInfo>()
            .and_then(TcpConnectInfo::remote_addr);
        Self {
            remote,
            identity: None,
        }
    }

    /// The identity as text, if it is UTF-8.
    pub fn identity_str(&self) -> Option<&str> {
        std::str::from_utf8(self.identity.as_deref()?).ok()
    }
}

/// An accepted connection that says who its peer is to every request on it.
#[derive(Debug)]
pub struct PeerStream<S> {
    io: S,
    peer: PeerInfo,
}

impl<S> PeerStream<S> {
    /// Names the peer of `io`.
    pub fn new(io: S, peer: PeerInfo) -> Self {
        Self { io, peer }
    }
}

impl<S> Connected for PeerStream<S> {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.peer.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PeerStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PeerStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
