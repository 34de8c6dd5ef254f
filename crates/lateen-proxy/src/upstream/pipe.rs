//! What carries a connection's bytes to an upstream: a connection of its own, or a stream inside HTTP.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::UpstreamBody;
use crate::h2;
use crate::http::body::PipeWriter;
use crate::metadata_exchange::Introduction;
use crate::mux;
use crate::net::Stream;
use crate::net::copy::Carrier;

/// An upstream's bytes.
#[derive(Debug)]
pub(crate) enum Pipe {
    /// A connection.
    Connection(Stream),
    /// A stream that CONNECT opened.
    Tunnel(Box<h2::Tunnel>),
    /// A stream of a connection that is shared with another of our own sidecars.
    Shared(Box<Shared>),
    /// The bodies of a POST and its answer.
    Bodies(Box<Bodies>),
}

/// A stream of a shared connection.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Its bytes.
    pub(crate) tunnel: mux::Tunnel,
    /// What the peer said of itself when the connection was made.
    pub(crate) introduction: Option<Arc<Introduction>>,
}

/// A request's body to write and a response's to read.
#[derive(Debug)]
pub(crate) struct Bodies {
    writer: PipeWriter,
    answer: UpstreamBody,
    /// What was read of the answer and not yet handed out.
    left: Bytes,
}

impl Bodies {
    /// Joins the two.
    pub(crate) const fn new(writer: PipeWriter, answer: UpstreamBody) -> Self {
        Self {
            writer,
            answer,
            left: Bytes::new(),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.left.is_empty() {
            match ready!(Pin::new(&mut self.answer).poll_frame(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                // Trailers end the body and carry no bytes of the connection.
                Some(Ok(frame)) => self.left = frame.into_data().unwrap_or_default(),
            }
        }
        let n = self.left.len().min(buf.remaining());
        buf.put_slice(&self.left[..n]);
        self.left.advance(n);
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.writer.poll_ready(cx))?;
        self.writer.put(Bytes::copy_from_slice(data));
        Poll::Ready(Ok(data.len()))
    }
}

impl Pipe {
    /// What the peer told of itself; none inside HTTP.
    pub(crate) fn introduction(&self) -> Option<&Arc<Introduction>> {
        match self {
            Self::Connection(stream) => stream.introduction(),
            Self::Shared(shared) => shared.introduction.as_ref(),
            Self::Tunnel(_) | Self::Bodies(_) => None,
        }
    }
}

impl Carrier for Pipe {
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Connection(stream) => stream.socket(),
            Self::Tunnel(_) | Self::Shared(_) | Self::Bodies(_) => None,
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Connection(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_read(cx, buf),
            Self::Shared(shared) => Pin::new(&mut shared.tunnel).poll_read(cx, buf),
            Self::Bodies(bodies) => bodies.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Connection(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_write(cx, data),
            Self::Shared(shared) => Pin::new(&mut shared.tunnel).poll_write(cx, data),
            Self::Bodies(bodies) => bodies.poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Connection(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_flush(cx),
            Self::Shared(shared) => Pin::new(&mut shared.tunnel).poll_flush(cx),
            // What was put in is sent as soon as it can be.
            Self::Bodies(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Connection(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_shutdown(cx),
            Self::Shared(shared) => Pin::new(&mut shared.tunnel).poll_shutdown(cx),
            Self::Bodies(bodies) => {
                bodies.writer.close();
                Poll::Ready(Ok(()))
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Connection(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_write_vectored(cx, parts),
            Self::Shared(shared) => Pin::new(&mut shared.tunnel).poll_write_vectored(cx, parts),
            Self::Bodies(bodies) => {
                let first = parts.iter().find(|part| !part.is_empty());
                bodies.poll_write(cx, first.map_or(&[], |part| &part[..]))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self, Self::Connection(_))
    }
}
