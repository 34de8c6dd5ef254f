//! Responses of upstreams, whichever version of HTTP they came in.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::{Body, Incoming};
use hyper::client::conn::TrySendError;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response};

use super::{h1, mux};
use crate::http::body::RequestBody;
use crate::http::record::is_stream_reset;
use crate::net::Stream;

/// The body of an upstream's response.
#[derive(Debug)]
pub(crate) enum UpstreamBody {
    /// None.
    Empty,
    /// Over HTTP/1.
    H1(h1::Body),
    /// By hyper, over HTTP/2.
    Hyper(Incoming),
    /// Over a shared connection.
    Mux(mux::Body),
}

/// The upstream's side of an upgrade.
pub(crate) enum Upgraded {
    /// The connection itself.
    Stream(Box<Stream>),
    /// What hyper makes of it.
    Hyper(OnUpgrade),
}

/// Why an upstream gave no response, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// Over HTTP/1.
    #[error(transparent)]
    H1(h1::Error),
    /// By hyper.
    #[error(transparent)]
    Hyper(hyper::Error),
    /// Over a shared connection.
    #[error(transparent)]
    Mux(crate::mux::Error),
}

/// A request without a response.
#[derive(Debug)]
pub(crate) struct SendError {
    /// Why.
    pub(crate) error: UpstreamError,
    /// Whether the upstream certainly saw nothing of it.
    pub(crate) unsent: bool,
}

impl SendError {
    /// What became of a request that hyper sent.
    pub(crate) fn of(
        sent: Result<Response<Incoming>, TrySendError<Request<RequestBody>>>,
    ) -> Result<Response<UpstreamBody>, Self> {
        match sent {
            Ok(response) => Ok(response.map(UpstreamBody::Hyper)),
            Err(mut failed) => Err(Self {
                unsent: failed.take_message().is_some(),
                error: UpstreamError::Hyper(failed.into_error()),
            }),
        }
    }
}

impl UpstreamError {
    /// Whether a stream was reset, rather than its connection ended.
    pub(crate) fn is_stream_reset(&self) -> bool {
        match self {
            Self::H1(_) => false,
            Self::Hyper(error) => is_stream_reset(error),
            Self::Mux(error) => *error == crate::mux::Error::Reset,
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
            Self::Hyper(body) => Pin::new(body).poll_frame(cx).map_err(UpstreamError::Hyper),
            Self::Mux(body) => Pin::new(body).poll_frame(cx).map_err(UpstreamError::Mux),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::H1(body) => body.is_end_stream(),
            Self::Hyper(body) => body.is_end_stream(),
            Self::Mux(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::H1(body) => body.size_hint(),
            Self::Hyper(body) => body.size_hint(),
            Self::Mux(body) => body.size_hint(),
        }
    }
}
