//! What a client sends, whichever version of HTTP it speaks: a body, and its side of an upgrade.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use super::h1;
use crate::h2::Tunnel;
use crate::h2::link::Incoming;
use crate::mux;
use crate::streams;

/// A request as it came from a client.
#[derive(Debug)]
pub(crate) struct ClientRequest {
    /// Its head. Boxed where it is read, for it is handed on from step to step.
    pub(crate) head: Box<ClientHead>,
    /// Its body.
    pub(crate) body: ClientBody,
}

/// The head of a request as it came.
#[derive(Debug)]
pub(crate) struct ClientHead {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    /// The first `Host`, where whoever read the head kept it apart. Any other is among the headers.
    pub(crate) host: Option<HeaderValue>,
    pub(crate) headers: HeaderMap,
    /// What came beside the headers: the case of their names, the protocol of an extended CONNECT.
    pub(crate) extensions: Extensions,
}

impl From<Request<()>> for ClientHead {
    fn from(request: Request<()>) -> Self {
        let (parts, ()) = request.into_parts();
        Self {
            method: parts.method,
            uri: parts.uri,
            version: parts.version,
            host: None,
            headers: parts.headers,
            extensions: parts.extensions,
        }
    }
}

/// The body of a client's request.
#[derive(Debug)]
pub(crate) enum ClientBody {
    /// Over HTTP/1.
    H1(h1::Body),
    /// Over HTTP/2.
    H2(Incoming),
    /// None, of a CONNECT over HTTP/2; the stream may become a tunnel.
    Connect(Option<oneshot::Receiver<Tunnel>>),
    /// Over a connection that another sidecar shares among its requests.
    Mux(mux::link::Incoming),
}

/// A client's side of an upgrade.
pub(crate) enum ClientUpgrade {
    /// The connection, once the client was told.
    H1(h1::Upgrade),
    /// A stream of HTTP/2, once the client was told.
    H2(oneshot::Receiver<Tunnel>),
}

/// Why a client's body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Over HTTP/1.
    #[error(transparent)]
    H1(h1::BodyError),
    /// On a connection with many streams.
    #[error(transparent)]
    Stream(streams::Error),
}

impl ClientUpgrade {
    /// The client's side of what a request asks for, where there can be one.
    pub(crate) fn of(body: &mut ClientBody) -> Option<Self> {
        match body {
            ClientBody::H1(body) => Some(Self::H1(body.upgrade())),
            ClientBody::Connect(tunnel) => tunnel.take().map(Self::H2),
            ClientBody::H2(_) | ClientBody::Mux(_) => None,
        }
    }
}

impl ClientBody {
    /// Whether what comes next can go from socket to socket.
    pub(crate) fn can_splice(&self) -> bool {
        matches!(self, Self::H1(body) if body.can_splice())
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
            Self::H2(body) => Pin::new(body).poll_frame(cx).map_err(ClientError::Stream),
            Self::Connect(_) => Poll::Ready(None),
            Self::Mux(body) => Pin::new(body).poll_frame(cx).map_err(ClientError::Stream),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::H1(body) => body.is_end(),
            Self::H2(body) => body.is_end_stream(),
            Self::Connect(_) => true,
            Self::Mux(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::H1(body) => body.size(),
            Self::H2(body) => body.size_hint(),
            Self::Connect(_) => SizeHint::with_exact(0),
            Self::Mux(body) => body.size_hint(),
        }
    }
}
