//! The body of a response, read from its connection as it is asked for.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::task::AbortHandle;

use super::Error;
use super::head::Framing;
use super::wire::Wire;
use crate::codec::chunked::{Chunked, Step};
use crate::net::splice::Splice;

/// The most that is read at a time.
const MOST_ROOM: usize = 64 * 1024;
/// What is read at a time of a body whose length is not known.
const USUAL_ROOM: usize = 16 * 1024;

/// A response's body.
#[derive(Debug)]
pub(crate) struct Body {
    wire: Rc<RefCell<Wire>>,
    reading: Reading,
    keep_alive: bool,
    /// What is left of the request, if the response came before all of it was sent. It ends with the response.
    upload: Option<AbortHandle>,
}

#[derive(Debug)]
enum Reading {
    Done,
    Length(u64),
    Chunked(Chunked),
    UntilClose,
}

impl Body {
    /// The body that follows a head.
    pub(super) fn new(
        wire: &Rc<RefCell<Wire>>,
        framing: Framing,
        keep_alive: bool,
        upload: Option<AbortHandle>,
    ) -> Self {
        let mut body = Self {
            wire: Rc::clone(wire),
            reading: match framing {
                Framing::None | Framing::Upgrade => Reading::Done,
                Framing::Length(length) => Reading::Length(length),
                Framing::Chunked => Reading::Chunked(Chunked::new()),
                Framing::UntilClose => Reading::UntilClose,
            },
            keep_alive: keep_alive && framing != Framing::Upgrade,
            upload,
        };
        if matches!(body.reading, Reading::Done) {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        self.reading = Reading::Done;
        let sent = self.upload.as_ref().is_none_or(AbortHandle::is_finished);
        if self.keep_alive && sent {
            self.wire.borrow_mut().release();
        }
    }

    fn poll_length(&mut self, left: u64, cx: &mut Context<'_>) -> Poll<Result<Bytes, Error>> {
        let mut wire = self.wire.borrow_mut();
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        if wire.buffer.is_empty() && ready!(wire.poll_fill(cx, most.min(MOST_ROOM)))? == 0 {
            return Poll::Ready(Err(Error::Closed));
        }
        let take = most.min(wire.buffer.len());
        let data = wire.buffer.split_to(take).freeze();
        drop(wire);
        self.took(left, data.len());
        Poll::Ready(Ok(data))
    }

    /// So many bytes of what is `left` were taken.
    fn took(&mut self, left: u64, bytes: usize) {
        let left = left.saturating_sub(bytes as u64);
        self.reading = Reading::Length(left);
        if left == 0 {
            self.finish();
        }
    }

    /// Whether what comes next can go from socket to socket.
    pub(crate) fn can_splice(&self) -> bool {
        matches!(self.reading, Reading::Length(_)) && self.wire.borrow().socket().is_some()
    }

    /// Reads what comes next into a pipe; how much it is, never nothing.
    pub(crate) fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Splice,
    ) -> Poll<Result<usize, Error>> {
        let wire = self.wire.borrow();
        let (Reading::Length(left), Some(socket)) = (&self.reading, wire.socket()) else {
            return Poll::Ready(Err(Error::Closed));
        };
        let left = *left;
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        let read = ready!(pipe.poll_fill(cx, socket, most)).map_err(Error::Io);
        drop(wire);
        match read {
            Ok(moved @ 1..) => {
                self.took(left, moved);
                Poll::Ready(Ok(moved))
            }
            failed => {
                self.reading = Reading::Done;
                Poll::Ready(Err(failed.err().unwrap_or(Error::Closed)))
            }
        }
    }

    fn poll_until_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        let mut wire = self.wire.borrow_mut();
        if wire.buffer.is_empty() && ready!(wire.poll_fill(cx, USUAL_ROOM))? == 0 {
            self.reading = Reading::Done;
            return Poll::Ready(Ok(None));
        }
        Poll::Ready(Ok(Some(wire.buffer.split().freeze())))
    }
}

/// Reads a chunked body on.
fn poll_chunked(
    decoder: &mut Chunked,
    wire: &mut Wire,
    cx: &mut Context<'_>,
) -> Poll<Result<Step, Error>> {
    loop {
        match decoder.decode(&mut wire.buffer).map_err(Error::Chunked)? {
            Step::NeedMore => {
                if ready!(wire.poll_fill(cx, USUAL_ROOM))? == 0 {
                    return Poll::Ready(Err(Error::Closed));
                }
            }
            step => return Poll::Ready(Ok(step)),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let frame = match &mut this.reading {
            Reading::Done => Ok(None),
            Reading::Length(left) => {
                let left = *left;
                ready!(this.poll_length(left, cx)).map(|data| Some(Frame::data(data)))
            }
            Reading::UntilClose => {
                ready!(this.poll_until_close(cx)).map(|data| data.map(Frame::data))
            }
            Reading::Chunked(decoder) => {
                let step = ready!(poll_chunked(decoder, &mut this.wire.borrow_mut(), cx));
                step.map(|step| match step {
                    Step::Data(data) => Some(Frame::data(data)),
                    Step::End(trailers) => {
                        this.finish();
                        trailers.map(Frame::trailers)
                    }
                    Step::NeedMore => None,
                })
            }
        };
        if frame.is_err() {
            this.reading = Reading::Done;
        }
        Poll::Ready(frame.transpose())
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.reading, Reading::Done)
    }

    fn size_hint(&self) -> SizeHint {
        match self.reading {
            Reading::Done => SizeHint::with_exact(0),
            Reading::Length(left) => SizeHint::with_exact(left),
            Reading::Chunked(_) | Reading::UntilClose => SizeHint::default(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload {
            upload.abort();
        }
    }
}
