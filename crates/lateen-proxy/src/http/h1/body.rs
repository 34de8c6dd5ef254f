//! The body of a client's request, read from its connection as it is asked for, and the client's side of an upgrade.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::oneshot;

use super::wire::Wire;
use crate::net::Stream;
use crate::net::splice::Splice;

/// The stream of a connection that becomes a tunnel, once the client was told.
pub(crate) type Upgrade = oneshot::Receiver<Stream>;

/// Why a request's body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The connection broke.
    #[error("connection broke")]
    Io(#[source] io::Error),
    /// The client closed it before the body was complete.
    #[error("connection closed before the body was complete")]
    Closed,
    /// The chunked coding is broken.
    #[error("malformed chunked body: {0}")]
    Chunked(&'static str),
}

/// A request's body.
#[derive(Debug)]
pub(crate) struct Body {
    wire: Rc<RefCell<Wire>>,
    /// The request it belongs to. What comes after that is not its own.
    number: u64,
}

impl Body {
    /// The body of the request that a connection reads now.
    pub(super) fn new(wire: &Rc<RefCell<Wire>>) -> Self {
        Self {
            number: wire.borrow().number(),
            wire: Rc::clone(wire),
        }
    }

    /// Asks for the stream, for when the request is granted an upgrade.
    pub(crate) fn upgrade(&self) -> Upgrade {
        self.wire.borrow_mut().upgrade()
    }

    /// The next frame.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.wire.borrow_mut().poll_body(self.number, cx)
    }

    /// Whether what comes next can go from socket to socket.
    pub(crate) fn can_splice(&self) -> bool {
        self.wire.borrow().can_splice(self.number)
    }

    /// Reads what comes next into a pipe; how much it is, never nothing.
    pub(crate) fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Splice,
    ) -> Poll<Result<usize, BodyError>> {
        self.wire.borrow_mut().poll_splice(cx, pipe)
    }

    /// Whether all of it was read.
    pub(crate) fn is_end(&self) -> bool {
        let wire = self.wire.borrow();
        wire.number() != self.number || wire.is_read()
    }

    /// How long what is left of it is.
    pub(crate) fn size(&self) -> SizeHint {
        match self.wire.borrow().left() {
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}
