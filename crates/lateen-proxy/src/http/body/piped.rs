//! A request's body that is written to like a stream: what a POST tunnel sends.
//!
//! One part waits at a time: a writer is held up until its reader took the last one, which is the back-pressure.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::Frame;

use super::BodyError;

/// The end that is written to. Dropping it before it was closed breaks the body off.
#[derive(Debug)]
pub(crate) struct PipeWriter(Rc<RefCell<Shared>>);

/// The end that is sent.
#[derive(Debug)]
pub(crate) struct PipeReader(Rc<RefCell<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Option<Bytes>,
    closed: bool,
    broken: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Makes a body and its writer.
pub(crate) fn pipe() -> (PipeWriter, PipeReader) {
    let shared = Rc::<RefCell<Shared>>::default();
    (PipeWriter(Rc::clone(&shared)), PipeReader(shared))
}

impl PipeWriter {
    /// Ready when a part may be put in.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let mut shared = self.0.borrow_mut();
        if shared.broken || shared.closed {
            return Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()));
        }
        if shared.waiting.is_none() {
            return Poll::Ready(Ok(()));
        }
        shared.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Puts a part in, once it may be.
    pub(crate) fn put(&self, data: Bytes) {
        let mut shared = self.0.borrow_mut();
        shared.waiting = Some(data);
        shared.wake_reader();
    }

    /// The body ends here.
    pub(crate) fn close(&self) {
        let mut shared = self.0.borrow_mut();
        shared.closed = true;
        shared.wake_reader();
    }
}

impl PipeReader {
    /// The next part.
    pub(super) fn poll(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut shared = self.0.borrow_mut();
        if let Some(data) = shared.waiting.take() {
            if let Some(writer) = shared.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if shared.closed {
            return Poll::Ready(None);
        }
        if shared.broken {
            return Poll::Ready(Some(Err(BodyError::NotReplayable)));
        }
        shared.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether nothing more comes.
    pub(super) fn is_end(&self) -> bool {
        let shared = self.0.borrow();
        shared.closed && shared.waiting.is_none()
    }
}

impl Shared {
    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        let mut shared = self.0.borrow_mut();
        if !shared.closed {
            shared.broken = true;
            shared.wake_reader();
        }
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        let mut shared = self.0.borrow_mut();
        shared.broken = true;
        if let Some(writer) = shared.writer.take() {
            writer.wake();
        }
    }
}
