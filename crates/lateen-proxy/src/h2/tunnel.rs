//! A stream whose bodies are a connection's bytes: what CONNECT makes of it (RFC 9113 section 8.5, RFC 8441).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::MOST;
use super::link::{Incoming, Outgoing};
use crate::net::copy::Carrier;
use crate::streams::Error;
use crate::streams::upload::Sink;

/// Both halves of a stream.
#[derive(Debug)]
pub(crate) struct Tunnel {
    incoming: Incoming,
    outgoing: Outgoing,
    /// What was read and not yet handed out.
    left: Bytes,
    /// This side has ended.
    shut: bool,
}

impl Tunnel {
    /// Joins the two.
    pub(crate) const fn new(incoming: Incoming, outgoing: Outgoing) -> Self {
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

impl Carrier for Tunnel {}

impl AsyncRead for Tunnel {
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

impl AsyncWrite for Tunnel {
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
