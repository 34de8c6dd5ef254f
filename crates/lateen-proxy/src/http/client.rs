//! What a client sends, whichever version of HTTP it speaks: a body, and its side of an upgrade.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::h1;
use crate::mux;

/// The body of a client's request.
#[derive(Debug)]
pub(crate) enum ClientBody {
    /// Over HTTP/1.
    H1(h1::Body),
    /// By hyper, over HTTP/2.
    Hyper(Incoming),
    /// Over a connection that another sidecar shares among its requests.
    Mux(mux::link::Incoming),
}

/// A client's side of an upgrade.
pub(crate) enum ClientUpgrade {
    /// The connection, once the client was told.
    H1(h1::Upgrade),
    /// What hyper makes of a stream.
    Hyper(OnUpgrade),
}

/// Why a client's body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Over HTTP/1.
    #[error(transparent)]
    H1(h1::BodyError),
    /// By hyper.
    #[error(transparent)]
    Hyper(hyper::Error),
    /// Over a shared connection.
    #[error(transparent)]
    Mux(mux::Error),
}

impl ClientUpgrade {
    /// The client's side of what a request asks for, where there can be one.
    pub(crate) fn of(request: &mut Request<ClientBody>) -> Option<Self> {
        match request.body() {
            ClientBody::H1(body) => Some(Self::H1(body.upgrade())),
            ClientBody::Hyper(_) => Some(Self::Hyper(hyper::upgrade::on(request))),
            ClientBody::Mux(_) => None,
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = ClientError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        match self.get_mut() {
            Self::H1(body) => body.poll(cx).map_err(ClientError::H1),
            Self::Hyper(body) => Pin::new(body).poll_frame(cx).map_err(ClientError::Hyper),
            Self::Mux(body) => Pin::new(body).poll_frame(cx).map_err(ClientError::Mux),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::H1(body) => body.is_end(),
            Self::Hyper(body) => body.is_end_stream(),
            Self::Mux(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::H1(body) => body.size(),
            Self::Hyper(body) => body.size_hint(),
            Self::Mux(body) => body.size_hint(),
        }
    }
}
