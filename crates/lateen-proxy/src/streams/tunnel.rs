//! A stream whose bodies are a connection's bytes: what CONNECT makes of one over HTTP/2 (RFC 9113 section 8.5, RFC 8441), and what our own
//! sidecars carry TCP in ([`crate::mux`]).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Error;
use super::upload::Sink;
use crate::net::copy::Carrier;

/// Bytes that are copied into frames at once.
const MOST: usize = 64 * 1024;

/// The half of a stream that the peer writes.
pub(crate) trait Source: Body<Data = Bytes, Error = Error> + Unpin {
    /// Whether the peer gave the stream up without an error.
    fn is_gentle(&self) -> bool {
        false
    }
}

/// Both halves of a stream.
#[derive(Debug)]
pub(crate) struct Tunnel<I, O> {
    incoming: I,
    outgoing: O,
    /// What was read and not yet handed out.
    left: Bytes,
    /// This side has ended.
    shut: bool,
}

impl<I, O> Tunnel<I, O> {
    /// Joins the two.
    pub(crate) const fn new(incoming: I, outgoing: O) -> Self {
        Self {
            incoming,
            outgoing,
            left: Bytes::new(),
            shut: false,
        }
    }
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(kind) => kind.into(),
        Error::Reset => io::ErrorKind::ConnectionReset.into(),
        other => io::Error::new(io::ErrorKind::BrokenPipe, other),
    }
}

impl<I: Source, O: Sink + Unpin> Carrier for Tunnel<I, O> {}

impl<I: Source, O: Unpin> AsyncRead for Tunnel<I, O> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.left.is_empty() {
            match ready!(Pin::new(&mut this.incoming).poll_frame(cx)) {
                None => return Poll::Ready(Ok(())),
                // A stream that is given up without an error has ended, and no more can be said of it.
                Some(Err(Error::Reset)) if this.incoming.is_gentle() => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                // Trailers carry none of the connection's bytes.
                Some(Ok(frame)) => this.left = frame.into_data().unwrap_or_default(),
            }
        }
        let n = this.left.len().min(buf.remaining());
        buf.put_slice(&this.left[..n]);
        this.left.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<I: Unpin, O: Sink + Unpin> AsyncWrite for Tunnel<I, O> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let data = &data[..data.len().min(MOST)];
        let mut rest = Bytes::copy_from_slice(data);
        let sent = self.outgoing.poll_data(&mut rest, false, cx);
        if let Poll::Ready(Err(error)) = sent {
            return Poll::Ready(Err(broken(error)));
        }
        let n = data.len() - rest.len();
        if n == 0 && !data.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was taken is written as soon as it can be.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            let ended = self.outgoing.poll_data(&mut Bytes::new(), true, cx);
            ready!(ended).map_err(broken)?;
            self.shut = true;
        }
        Poll::Ready(Ok(()))
    }
}
