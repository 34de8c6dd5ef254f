//! One stream, whatever its frames look like: what came of the peer's message and nobody took yet, who waits, and how it ended.
//!
//! What may be sent and received is each protocol's own, and the stream's [`flow`](Stream::flow).

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Error;
use crate::clock;

/// Data shorter than this is copied, so that what it takes to keep it stays in proportion to its bytes.
const SMALL: usize = 2 * 1024;
/// A connection that was silent for so long while a request waited may be dead.
const SILENCE: Duration = Duration::from_secs(1);

/// What a connection keeps of a stream whose responses have heads `H` and trailers `T`.
#[derive(Debug)]
pub(crate) struct Stream<H, T, F> {
    began: Instant,
    /// A response's head that nobody took yet.
    head: Option<H>,
    /// The head of the peer's message was received.
    pub(crate) has_head: bool,
    data: VecDeque<Bytes>,
    /// What follows `data`, in one piece.
    small: BytesMut,
    trailers: Option<T>,
    /// The peer's message is complete.
    pub(crate) ended: bool,
    reader: Option<Waker>,
    /// The message to the peer is complete.
    pub(crate) sent: bool,
    writer: Option<Waker>,
    /// Halves somebody holds.
    pub(crate) halves: u8,
    /// Why it has no end.
    pub(crate) failed: Option<Error>,
    /// Who works on it, on the server's side.
    pub(crate) task: Option<AbortHandle>,
    /// What may be sent and received.
    pub(crate) flow: F,
}

/// A part of the peer's message after its head.
#[derive(Debug)]
pub(crate) enum Part<T> {
    /// Bytes of the body.
    Data(Bytes),
    /// The end, and what came with it.
    End(Option<T>),
}

impl<H, T, F> Stream<H, T, F> {
    /// A stream that begins now.
    pub(crate) fn new(flow: F) -> Self {
        Self {
            began: clock::now(),
            head: None,
            has_head: false,
            data: VecDeque::new(),
            small: BytesMut::new(),
            trailers: None,
            ended: false,
            reader: None,
            sent: false,
            writer: None,
            halves: 0,
            failed: None,
            task: None,
            flow,
        }
    }

    /// Keeps a response's head.
    pub(crate) fn keep_head(&mut self, head: H) {
        self.has_head = true;
        self.head = Some(head);
    }

    /// Keeps bytes of the body.
    pub(crate) fn keep(&mut self, data: Bytes) {
        if data.len() < SMALL {
            self.small.extend_from_slice(&data);
        } else {
            self.keep_in_place(data);
        }
    }

    /// Keeps bytes of the body where they lie, with all that lies around them.
    pub(crate) fn keep_in_place(&mut self, data: Bytes) {
        if !self.small.is_empty() {
            self.data.push_back(self.small.split().freeze());
        }
        self.data.push_back(data);
    }

    /// Keeps trailers.
    pub(crate) fn keep_trailers(&mut self, trailers: T) {
        self.trailers = Some(trailers);
    }

    /// Notes that something came, the last of it if `end`.
    pub(crate) fn received(&mut self, end: bool) {
        self.ended = end;
        self.wake_reader();
    }

    /// Whether bytes of the body wait to be taken.
    pub(crate) fn has_data(&self) -> bool {
        !(self.data.is_empty() && self.small.is_empty())
    }

    /// Whether there is nothing left to be taken.
    pub(crate) fn is_drained(&self) -> bool {
        self.ended && !self.has_data() && self.trailers.is_none()
    }

    /// Lets go of the bytes that nobody will take.
    pub(crate) fn forget_data(&mut self) {
        self.data = VecDeque::new();
        self.small = BytesMut::new();
    }

    /// A response's head.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<H, Error>> {
        match self.head.take() {
            Some(head) => Poll::Ready(Ok(head)),
            None => self.poll_failed(cx),
        }
    }

    /// What follows the head. A message that is complete stays so, whatever becomes of the stream.
    pub(crate) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part<T>, Error>> {
        if let Some(data) = self.next_data() {
            return Poll::Ready(Ok(Part::Data(data)));
        }
        if self.ended {
            return Poll::Ready(Ok(Part::End(self.trailers.take())));
        }
        self.poll_failed(cx)
    }

    fn next_data(&mut self) -> Option<Bytes> {
        let first = self.data.pop_front();
        first.or_else(|| {
            let small = !self.small.is_empty();
            small.then(|| std::mem::take(&mut self.small).freeze())
        })
    }

    fn poll_failed<R>(&mut self, cx: &mut Context<'_>) -> Poll<Result<R, Error>> {
        if let Some(error) = self.failed {
            return Poll::Ready(Err(error));
        }
        self.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ends it with an error, for both halves.
    pub(crate) fn fail(&mut self, error: Error) {
        self.failed.get_or_insert(error);
        self.wake_reader();
        self.wake_writer();
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Wakes a task when more may be sent.
    pub(crate) fn wait_to_write(&mut self, cx: &Context<'_>) {
        self.writer = Some(cx.waker().clone());
    }

    /// More may be sent.
    pub(crate) fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    /// Whether it has waited long without an answer on a connection last heard at a time.
    pub(crate) fn is_unheard_of(&self, heard: Instant) -> bool {
        !self.has_head && heard <= self.began && clock::since(self.began) >= SILENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(stream: &mut Stream<(), &'static str, ()>) -> Vec<Vec<u8>> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut all = Vec::new();
        while let Poll::Ready(Ok(Part::Data(data))) = stream.poll_part(&mut cx) {
            all.push(data.to_vec());
        }
        all
    }

    #[test]
    fn small_pieces_are_kept_together_and_in_their_order() {
        let mut stream = Stream::new(());
        let large = Bytes::from(vec![b'-'; SMALL]);
        for piece in [&b"a"[..], b"b", &large, b"c", b"d"] {
            stream.keep(Bytes::copy_from_slice(piece));
        }
        assert!(stream.has_data());
        assert_eq!(
            taken(&mut stream),
            [b"ab".to_vec(), large.to_vec(), b"cd".to_vec()]
        );
        assert!(!stream.has_data());
    }

    #[test]
    fn what_was_complete_is_read_to_its_end_though_the_stream_fails() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut stream: Stream<(), _, ()> = Stream::new(());
        stream.keep(Bytes::from_static(b"all"));
        stream.keep_trailers("trailers");
        stream.received(true);
        stream.fail(Error::Reset);
        assert!(matches!(
            stream.poll_part(&mut cx),
            Poll::Ready(Ok(Part::Data(data))) if data == "all"
        ));
        assert!(matches!(
            stream.poll_part(&mut cx),
            Poll::Ready(Ok(Part::End(Some("trailers"))))
        ));
        assert!(stream.is_drained());
    }

    #[test]
    fn what_was_not_complete_fails_after_what_came() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut stream: Stream<(), &str, ()> = Stream::new(());
        stream.keep(Bytes::from_static(b"half"));
        stream.received(false);
        stream.fail(Error::Reset);
        assert_eq!(taken(&mut stream), [b"half"]);
        assert!(matches!(
            stream.poll_part(&mut cx),
            Poll::Ready(Err(Error::Reset))
        ));
    }
}
