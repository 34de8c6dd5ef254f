//! Responses of upstreams, whichever version of HTTP they came in.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{h1, h2, mux, raw};
use crate::h2::Tunnel;
use crate::net::Stream;
use crate::net::splice::Splice;
use crate::streams;

/// The body of an upstream's response.
#[derive(Debug)]
pub(crate) enum UpstreamBody {
    /// None.
    Empty,
    /// Over HTTP/1.
    H1(h1::Body),
    /// Over HTTP/2.
    H2(h2::Body),
    /// Over a shared connection.
    Mux(mux::Body),
    /// All bytes of a connection.
    Raw(raw::Body),
}

/// The upstream's side of an upgrade.
pub(crate) enum Upgraded {
    /// The connection itself.
    Stream(Box<Stream>),
    /// A stream of HTTP/2.
    H2(Box<Tunnel>),
}

/// Why an upstream gave no response, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// Over HTTP/1.
    #[error(transparent)]
    H1(h1::Error),
    /// On a connection with many streams.
    #[error(transparent)]
    Stream(streams::Error),
}

/// A request without a response.
#[derive(Debug)]
pub(crate) struct SendError {
    /// Why.
    pub(crate) error: UpstreamError,
    /// Whether the upstream certainly saw nothing of it.
    pub(crate) unsent: bool,
}

impl UpstreamError {
    /// Whether a stream was reset, rather than its connection ended.
    pub(crate) fn is_stream_reset(&self) -> bool {
        match self {
            Self::H1(_) => false,
            Self::Stream(error) => {
                matches!(error, streams::Error::Reset | streams::Error::Refused)
            }
        }
    }
}

impl UpstreamBody {
    /// Whether what comes next can go from socket to socket.
    pub(crate) fn can_splice(&self) -> bool {
        matches!(self, Self::H1(body) if body.can_splice())
    }

    /// Reads what comes next into a pipe; how much it is, never nothing.
    pub(crate) fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Splice,
    ) -> Poll<Result<usize, UpstreamError>> {
        match self {
            Self::H1(body) => body.poll_splice(cx, pipe).map_err(UpstreamError::H1),
            Self::Empty | Self::H2(_) | Self::Mux(_) | Self::Raw(_) => Poll::Pending,
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::H1(body) => Pin::new(body).poll_frame(cx).map_err(UpstreamError::H1),
            Self::H2(body) => Pin::new(body).poll_frame(cx).map_err(UpstreamError::Stream),
            Self::Mux(body) => Pin::new(body).poll_frame(cx).map_err(UpstreamError::Stream),
            Self::Raw(body) => body
                .poll(cx)
                .map_err(|error| UpstreamError::H1(h1::Error::Io(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::H1(body) => body.is_end_stream(),
            Self::H2(body) => body.is_end_stream(),
            Self::Mux(body) => body.is_end_stream(),
            Self::Raw(body) => body.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::H1(body) => body.size_hint(),
            Self::H2(body) => body.size_hint(),
            Self::Mux(body) => body.size_hint(),
            Self::Raw(_) => SizeHint::default(),
        }
    }
}
