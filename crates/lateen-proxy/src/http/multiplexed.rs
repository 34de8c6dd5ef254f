//! Serving a connection that carries many requests at once, whatever its frames look like.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use lateen_traffic::hcm::HttpConnectionManager;
use tokio::task::AbortHandle;

use super::response::ResponseBody;
use super::server::Session;
use crate::doze::Doze;
use crate::net::Stream;
use crate::streams::Error;
use crate::streams::upload::{Sink, Upload};
use crate::streams::wire::{self, Wire};

/// How long a connection that was told to end, and carries nothing, waits for its client to close it.
const LINGER: Duration = Duration::from_secs(5);

/// A server's connection.
pub(super) trait Serving: wire::Link {
    /// Asks the client to begin no more streams.
    fn go_away(&self);

    /// Tells the client that it asks for too much.
    fn calm(&self);
}

/// What happened beside the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    /// The client takes back too many requests.
    Abused,
    /// The connection is to end gracefully.
    Ending,
    /// The client is not there any more, or it was asked to go and has nothing left to do.
    Over,
}

/// Serves a connection to its end. `begun` takes the streams that the client begins; `lost` ends when it is gone.
pub(super) async fn serve<L: Serving>(
    (session, config): (&Rc<Session>, &HttpConnectionManager),
    (link, stream): (&Rc<L>, Stream),
    mut begun: impl FnMut(L::Begun),
    lost: impl Future<Output = ()>,
) {
    let mut wire = Wire::new(stream);
    let happened = Cell::new(Beside::Ending);
    let mut lost = pin!(lost);
    let mut beside = Doze::new(Box::pin(async {
        happened.set(tokio::select! {
            () = session.abused() => Beside::Abused,
            () = session.ending(config) => Beside::Ending,
            () = &mut lost => Beside::Over,
        });
        if happened.get() != Beside::Ending {
            return;
        }
        link.go_away();
        happened.set(tokio::select! {
            () = session.abused() => Beside::Abused,
            () = forsaken(&**link) => Beside::Over,
            () = &mut lost => Beside::Over,
        });
    }));
    let ended = std::future::poll_fn(|cx| {
        if let Poll::Ready(error) = wire.poll(link, cx, &mut begun) {
            return Poll::Ready(error);
        }
        if link.is_over() {
            return Poll::Ready(Error::Closed);
        }
        if !beside.is_done(cx) {
            return Poll::Pending;
        }
        Poll::Ready(match happened.get() {
            Beside::Abused => Error::Protocol("too many requests were taken back"),
            Beside::Ending | Beside::Over => Error::Closed,
        })
    })
    .await;
    drop(beside);
    if matches!(ended, Error::Protocol(_)) {
        session.count_protocol_error();
    }
    if happened.get() == Beside::Abused {
        link.calm();
    }
    tracing::debug!(connection = session.connection.facts.id, %ended, "connection with streams ended");
    link.close(ended);
    let closed = std::future::poll_fn(|cx| wire.poll_close(&**link, cx));
    let _ = tokio::time::timeout(LINGER, closed).await; // a client that does not take the end gets none
}

/// Answers a request in a task of its own. What a task runs is copied into it and, at its end, over; a request's future is several
/// kilobytes, so it is written where it stays and the task is given its place.
#[inline]
pub(super) fn spawn<F: Future<Output = ()> + 'static>(answer: impl FnOnce() -> F) -> AbortHandle {
    let room = Box::new_uninit();
    let placed = Box::into_pin(Box::write(room, answer()));
    tokio::task::spawn_local(placed).abort_handle()
}

/// Returns once a connection that was told to end has carried nothing for a while.
async fn forsaken(link: &impl Serving) {
    loop {
        tokio::time::sleep(LINGER).await;
        if link.active() == 0 {
            return;
        }
    }
}

/// Sends a body, as long as the client takes it: it may stall for so long.
pub(super) async fn send(outgoing: impl Sink, body: ResponseBody, stall: Option<Duration>) {
    let mut upload = Upload::new(outgoing, body);
    loop {
        let before = upload.progress();
        let sent = std::future::poll_fn(|cx| upload.poll(cx));
        let Some(stall) = stall else {
            let _ = sent.await; // what broke off was recorded with the request
            return;
        };
        if tokio::time::timeout(stall, sent).await.is_ok() {
            return;
        }
        let (bytes, waits) = upload.progress();
        if waits && bytes == before.0 {
            return; // dropping it gives the stream up
        }
    }
}
