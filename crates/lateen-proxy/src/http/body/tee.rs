//! Copies of a request's body for mirrors, made while the original goes by.
//!
//! A copy never holds the original up: it takes what was read anyway (the bytes are shared, not copied), and one whose reader falls
//! behind by more than its limit breaks off.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::BodyError;

/// The end at which frames are put in. Dropping it breaks a copy off that has not ended.
#[derive(Debug)]
pub(super) struct CopyWriter(Rc<Shared>);

/// The end at which a mirror reads.
#[derive(Debug)]
pub(crate) struct CopyReader(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    waiting: RefCell<VecDeque<Bytes>>,
    bytes: Cell<usize>,
    limit: usize,
    trailers: RefCell<Option<HeaderMap>>,
    state: Cell<State>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Complete,
    Broken,
}

/// Makes a copy of which up to `limit` bytes wait for their reader.
pub(super) fn copy(limit: usize) -> (CopyWriter, CopyReader) {
    let shared = Rc::new(Shared {
        waiting: RefCell::default(),
        bytes: Cell::new(0),
        limit,
        trailers: RefCell::default(),
        state: Cell::new(State::Open),
        waker: RefCell::default(),
    });
    (CopyWriter(Rc::clone(&shared)), CopyReader(shared))
}

impl CopyWriter {
    /// Puts in what was read of the original.
    pub(super) fn data(&self, data: &Bytes) {
        let shared = &self.0;
        if shared.state.get() != State::Open {
            return;
        }
        let bytes = shared.bytes.get() + data.len();
        if bytes > shared.limit {
            shared.waiting.borrow_mut().clear();
            shared.end(State::Broken);
            return;
        }
        shared.bytes.set(bytes);
        shared.waiting.borrow_mut().push_back(data.clone());
        shared.wake();
    }

    /// Puts in the original's trailers.
    pub(super) fn trailers(&self, trailers: &HeaderMap) {
        *self.0.trailers.borrow_mut() = Some(trailers.clone());
    }

    /// The original was read to its end.
    pub(super) fn complete(&self) {
        if self.0.state.get() == State::Open {
            self.0.end(State::Complete);
        }
    }
}

impl Drop for CopyWriter {
    fn drop(&mut self) {
        if self.0.state.get() == State::Open {
            self.0.end(State::Broken);
        }
    }
}

impl CopyReader {
    /// The next frame.
    pub(super) fn poll(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let shared = &self.0;
        if let Some(data) = shared.waiting.borrow_mut().pop_front() {
            shared.bytes.set(shared.bytes.get() - data.len());
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match shared.state.get() {
            State::Open => {
                *shared.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Complete => {
                let trailers = shared.trailers.borrow_mut().take();
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            State::Broken => Poll::Ready(Some(Err(BodyError::NotReplayable))),
        }
    }

    /// Whether nothing more comes.
    pub(super) fn is_end(&self) -> bool {
        self.0.state.get() == State::Complete
            && self.0.waiting.borrow().is_empty()
            && self.0.trailers.borrow().is_none()
    }
}

impl Shared {
    fn end(&self, state: State) {
        self.state.set(state);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(reader: &CopyReader) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        reader.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_copy_gets_the_bytes_and_the_end() {
        let (writer, reader) = copy(10);
        assert!(next(&reader).is_pending());
        writer.data(&Bytes::from_static(b"abc"));
        writer.complete();
        assert!(!reader.is_end());
        assert!(
            matches!(next(&reader), Poll::Ready(Some(Ok(frame))) if frame.data_ref().unwrap() == "abc")
        );
        assert!(reader.is_end());
        assert!(matches!(next(&reader), Poll::Ready(None)));
    }

    #[test]
    fn a_reader_that_falls_behind_loses_its_copy_and_holds_no_memory() {
        let (writer, reader) = copy(4);
        writer.data(&Bytes::from_static(b"abc"));
        writer.data(&Bytes::from_static(b"def"));
        assert!(reader.0.waiting.borrow().is_empty());
        assert!(matches!(next(&reader), Poll::Ready(Some(Err(_)))));
    }

    #[test]
    fn a_request_that_ends_early_breaks_its_copies_off() {
        let (writer, reader) = copy(4);
        drop(writer);
        assert!(matches!(next(&reader), Poll::Ready(Some(Err(_)))));
    }
}
