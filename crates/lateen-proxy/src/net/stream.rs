//! Byte streams of connections: plain or TLS, with the bytes that inspection already took put back in front.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::copy::Carrier;
use super::direct;
use crate::metadata_exchange::{Introduction, Listening, PROTOCOL};
use crate::mux::Carries;

/// A connection's socket.
#[derive(Debug)]
pub(crate) enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

/// A stream whose first bytes were already read.
#[derive(Debug)]
pub(crate) struct Prefixed {
    prefix: Bytes,
    socket: Socket,
    /// The last read filled what there was room for, and more is likely to be there.
    brims: bool,
}

/// Room below which reads of a stream that brims are made larger: TLS asks for 4 KiB at a time, a quarter of a record.
const SMALL_READ: usize = 4 * 1024;
/// How large they are made.
const LARGE_READ: usize = 64 * 1024;

thread_local! {
    /// Where such reads go first.
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl From<TcpStream> for Socket {
    fn from(tcp: TcpStream) -> Self {
        Self::Tcp(tcp)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => direct::poll_send(s, cx, buf),
            Self::Unix(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_flush(cx),
            Self::Unix(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Self::Unix(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl Prefixed {
    /// Puts `prefix` back in front of what the socket still has to deliver.
    pub(crate) fn new(prefix: Bytes, socket: impl Into<Socket>) -> Self {
        Self {
            prefix,
            socket: socket.into(),
            brims: false,
        }
    }

    /// Reads more than is asked for at the moment, which is kept for what is asked next.
    fn poll_read_ahead(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ROOM.with_borrow_mut(|room| {
            room.resize(LARGE_READ, 0);
            let mut read = ReadBuf::new(room);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut read))?;
            let read = read.filled();
            self.brims = read.len() == LARGE_READ;
            let (now, later) = read.split_at(read.len().min(buf.remaining()));
            buf.put_slice(now);
            if !later.is_empty() {
                self.prefix = Bytes::copy_from_slice(later);
            }
            Poll::Ready(Ok(()))
        })
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(tcp) => tcp.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.prefix.is_empty() {
            let room = buf.remaining();
            if this.brims && room <= SMALL_READ {
                return this.poll_read_ahead(cx, buf);
            }
            ready!(Pin::new(&mut this.socket).poll_read(cx, buf))?;
            this.brims = buf.remaining() == 0 && room == SMALL_READ;
            return Poll::Ready(Ok(()));
        }
        let n = this.prefix.len().min(buf.remaining());
        buf.put_slice(&this.prefix[..n]);
        this.prefix.advance(n);
        if this.prefix.is_empty() {
            this.prefix = Bytes::new(); // lets go of the inspection buffer
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

/// A connection's stream, in either direction.
#[derive(Debug)]
pub(crate) enum Stream {
    /// No transport security.
    Plain(Prefixed),
    /// TLS, as client or as server. Boxed: a TLS session is over a kilobyte.
    Tls(Box<tokio_rustls::TlsStream<Prefixed>>),
    /// TLS of which some bytes were read and put back.
    Unread(Box<tokio_rustls::TlsStream<Prefixed>>, Bytes),
    /// TLS whose peer says who it is before anything else.
    Introduced(Box<Introduced>),
}

/// A TLS stream, and what listens to its peer's introduction.
#[derive(Debug)]
pub(crate) struct Introduced {
    tls: tokio_rustls::TlsStream<Prefixed>,
    listening: Listening,
}

impl Stream {
    /// Reads once and hands on what came, where it need not be read into a buffer of the caller's; how much it was, 0 at the end.
    pub(crate) fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [MaybeUninit<u8>],
        mut take: impl FnMut(&[u8]),
    ) -> Poll<io::Result<usize>> {
        if let Some(socket) = self.socket() {
            return direct::poll_recv(socket, cx, room, take);
        }
        let mut read = ReadBuf::uninit(room);
        ready!(Pin::new(self).poll_read(cx, &mut read))?;
        take(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Whether both ends agreed on Istio's metadata exchange.
    pub(crate) fn agreed_on_exchange(&self) -> bool {
        let chosen = self.tls().and_then(|tls| tls.alpn_protocol());
        chosen == Some(PROTOCOL.as_bytes()) || Carries::agreed(chosen) == Some(Carries::Tcp)
    }

    /// Says who this proxy is, and listens for who the peer is from here on. For connections that agreed on it; others stay as they are.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) async fn introduce(self, frame: &[u8]) -> io::Result<Self> {
        match self {
            Self::Tls(mut tls) => {
                tls.write_all(frame).await?;
                Ok(Self::Introduced(Box::new(Introduced {
                    tls: *tls,
                    listening: Listening::default(),
                })))
            }
            other => Ok(other),
        }
    }

    /// What the peer says of itself, if it is to say anything.
    pub(crate) fn introduction(&self) -> Option<&Arc<Introduction>> {
        match self {
            Self::Introduced(stream) => Some(stream.listening.introduction()),
            Self::Plain(_) | Self::Tls(_) | Self::Unread(..) => None,
        }
    }

    /// The TLS session's state, if there is one.
    pub(crate) fn tls(&self) -> Option<&rustls::CommonState> {
        let tls = match self {
            Self::Plain(_) => return None,
            Self::Tls(tls) | Self::Unread(tls, _) => tls,
            Self::Introduced(stream) => &stream.tls,
        };
        Some(match tls {
            tokio_rustls::TlsStream::Client(client) => client.get_ref().1,
            tokio_rustls::TlsStream::Server(server) => server.get_ref().1,
        })
    }

    /// Puts bytes that were read back in front.
    pub(crate) fn unread(self, bytes: Bytes) -> Self {
        match self {
            Self::Plain(mut plain) => {
                let prefix = &plain.prefix;
                plain.prefix = if prefix.is_empty() {
                    bytes
                } else {
                    [&bytes[..], &prefix[..]].concat().into()
                };
                Self::Plain(plain)
            }
            Self::Tls(tls) | Self::Unread(tls, _) => Self::Unread(tls, bytes),
            Self::Introduced(mut stream) => {
                stream.listening.unread(&bytes);
                Self::Introduced(stream)
            }
        }
    }

    /// The address of this end; none of a Unix socket.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Plain(plain) => plain.local_addr(),
            Self::Tls(tls) | Self::Unread(tls, _) => tls.get_ref().0.local_addr(),
            Self::Introduced(stream) => stream.tls.get_ref().0.local_addr(),
        }
    }
}

impl Carrier for Stream {
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(Prefixed {
                prefix,
                socket: Socket::Tcp(tcp),
                ..
            }) if prefix.is_empty() => Some(tcp),
            _ => None,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Self::Unread(s, left) if left.is_empty() => Pin::new(s.as_mut()).poll_read(cx, buf),
            Self::Unread(_, left) => {
                let n = left.len().min(buf.remaining());
                buf.put_slice(&left.split_to(n));
                Poll::Ready(Ok(()))
            }
            Self::Tls(s) => Pin::new(s.as_mut()).poll_read(cx, buf),
            Self::Introduced(stream) => {
                let Introduced { tls, listening } = &mut **stream;
                listening.poll_read(Pin::new(tls), cx, buf)
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) | Self::Unread(s, _) => Pin::new(s.as_mut()).poll_write(cx, buf),
            Self::Introduced(s) => Pin::new(&mut s.tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) | Self::Unread(s, _) => Pin::new(s.as_mut()).poll_flush(cx),
            Self::Introduced(s) => Pin::new(&mut s.tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) | Self::Unread(s, _) => Pin::new(s.as_mut()).poll_shutdown(cx),
            Self::Introduced(s) => Pin::new(&mut s.tls).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Self::Tls(s) | Self::Unread(s, _) => Pin::new(s.as_mut()).poll_write_vectored(cx, bufs),
            Self::Introduced(s) => Pin::new(&mut s.tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(s) => s.is_write_vectored(),
            Self::Tls(s) | Self::Unread(s, _) => s.is_write_vectored(),
            Self::Introduced(s) => s.tls.is_write_vectored(),
        }
    }
}
