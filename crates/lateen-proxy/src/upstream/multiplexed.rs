//! Calling over a connection that carries many requests at once, whatever its frames look like.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::task::AbortHandle;

use super::h1::ConnectionFacts;
use crate::doze::Doze;
use crate::http::body::RequestBody;
use crate::net::Stream;
use crate::streams::Error;
use crate::streams::upload::{Sink, Upload, UploadError};
use crate::streams::wire::{Link, Wire};

/// A host that does not take a connection's end gets none after this.
const LINGER: Duration = Duration::from_secs(1);

/// A response's body.
#[derive(Debug)]
pub(crate) struct Body<I> {
    incoming: I,
    /// What is left of the request, if the response came before all of it was sent. It ends with the response.
    _upload: Option<Rest>,
}

/// A task that sends, ended with this.
#[derive(Debug)]
struct Rest(AbortHandle);

impl<I> Body<I> {
    /// What is left to read, for a request that has nothing left to send.
    pub(super) fn into_incoming(self) -> I {
        self.incoming
    }
}

/// Moves a connection's bytes until it ends, or `lost` does.
pub(super) async fn drive<L: Link>(
    link: Rc<L>,
    stream: Stream,
    info: Rc<ConnectionFacts>,
    lost: impl Future<Output = ()>,
) {
    let mut wire = Wire::new(stream);
    let mut lost = Doze::new(Box::pin(lost));
    let ended = std::future::poll_fn(|cx| {
        let ended = wire.poll(&link, cx, &mut |_| ());
        if ended.is_pending() && (link.is_over() || lost.is_done(cx)) {
            return Poll::Ready(Error::Closed);
        }
        ended
    })
    .await;
    if link.active() > 0 {
        tracing::debug!(error = %ended, streams = link.active(), "connection with streams ended");
    }
    link.close(ended);
    let closed = std::future::poll_fn(|cx| wire.poll_close(&*link, cx));
    let _ = tokio::time::timeout(LINGER, closed).await;
    drop(info);
}

/// Sends a request's body while its response's head is waited for; what is left of it goes on beside the response.
///
/// # Errors
/// There is no response.
pub(super) async fn ask<S, I, H>(
    mut upload: Option<Upload<S, RequestBody>>,
    mut incoming: I,
    mut poll_head: impl FnMut(&mut I, &mut Context<'_>) -> Poll<Result<H, Error>>,
) -> Result<(H, Body<I>), Error>
where
    S: Sink + 'static,
{
    let head = std::future::poll_fn(|cx| {
        if let Some(sending) = &mut upload
            && let Poll::Ready(result) = sending.poll(cx)
        {
            match result {
                // Nobody is left who would send the rest: there is no answer to wait for.
                Err(UploadError::Body(_)) => return Poll::Ready(Err(Error::Body)),
                // A host may answer without having read all: its answer counts for more than what it did not take.
                Ok(()) | Err(UploadError::Stream) => upload = None,
            }
        }
        poll_head(&mut incoming, cx)
    })
    .await?;
    let _upload = upload.filter(|upload| !upload.is_done()).map(send_rest);
    Ok((head, Body { incoming, _upload }))
}

/// Sends the rest of a request beside its response, so that neither waits for the other.
fn send_rest(mut upload: Upload<impl Sink + 'static, RequestBody>) -> Rest {
    let rest = std::future::poll_fn(move |cx| upload.poll(cx).map(drop));
    Rest(tokio::task::spawn_local(rest).abort_handle())
}

impl<I> http_body::Body for Body<I>
where
    I: http_body::Body<Data = Bytes, Error = Error> + Unpin,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.incoming).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.0.abort();
    }
}
