//! A body on its way to the peer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;

use super::Error;

/// Where a message goes, one frame after the other. Dropping it before the message's end gives the stream up.
pub(crate) trait Sink {
    /// Sends bytes, the message's last if `end`; ready when all of them were taken out of `data`.
    ///
    /// # Errors
    /// The stream or its connection has ended.
    fn poll_data(
        &self,
        data: &mut Bytes,
        end: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>>;

    /// Sends trailers, the message's end.
    fn trailers(&self, trailers: &HeaderMap);
}

/// What is left of a message after its head.
#[derive(Debug)]
pub(crate) struct Upload<S, B> {
    outgoing: S,
    body: B,
    data: Bytes,
    end: bool,
    done: bool,
    sent: u64,
}

/// Why a message was not sent whole.
#[derive(Debug)]
pub(crate) enum UploadError<E> {
    /// Its body broke off.
    Body(E),
    /// The stream or its connection has ended.
    Stream,
}

impl<S: Sink, B: Body<Data = Bytes> + Unpin> Upload<S, B> {
    /// A body that nothing was taken of.
    pub(crate) fn new(outgoing: S, body: B) -> Self {
        Self {
            outgoing,
            body,
            data: Bytes::new(),
            end: false,
            done: false,
            sent: 0,
        }
    }

    /// Whether all of it was handed to the connection.
    pub(crate) const fn is_done(&self) -> bool {
        self.done
    }

    /// Bytes handed to the connection, and whether more are there that the peer does not take.
    pub(crate) const fn progress(&self) -> (u64, bool) {
        (self.sent, !self.data.is_empty())
    }

    /// Sends what can be sent now; ready when all is.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadError<B::Error>>> {
        while !self.done {
            if self.end || !self.data.is_empty() {
                let before = self.data.len();
                let taken = self.outgoing.poll_data(&mut self.data, self.end, cx);
                self.sent += (before - self.data.len()) as u64;
                ready!(taken).map_err(|_| UploadError::Stream)?;
                self.done = self.end;
                continue;
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => self.end = true,
                Some(Err(error)) => return Poll::Ready(Err(UploadError::Body(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.data = data;
                        // A body that says so beforehand saves a frame.
                        self.end = self.body.is_end_stream();
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.outgoing.trailers(&trailers);
                            self.done = true;
                        }
                    }
                },
            }
        }
        Poll::Ready(Ok(()))
    }
}
