//! Serving a connection whose streams the peer begins, to its end, whatever its streams are.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::task::AbortHandle;

use super::Error;
use super::wire::{self, Wire};
use crate::doze::Doze;
use crate::net::Stream;

/// How long a connection that was told to end, and carries nothing, waits for its client to close it.
const LINGER: Duration = Duration::from_secs(5);

/// A server's connection.
pub(crate) trait Serving: wire::Link {
    /// Asks the client to begin no more streams.
    fn go_away(&self);

    /// Tells the client that it asks for too much.
    fn calm(&self);
}

/// What ends a connection beside its client and its streams.
#[derive(Debug)]
pub(crate) struct Ends<A, E, L> {
    /// The client asks for too much.
    pub(crate) abused: A,
    /// It is to end gracefully.
    pub(crate) ending: E,
    /// The client is gone.
    pub(crate) lost: L,
}

/// What happened beside the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    /// The client takes back too many requests.
    Abused,
    /// The connection is to end gracefully.
    Ending,
    /// The client is not there any more, or it was asked to go and has nothing left to do.
    Over,
}

/// Serves a connection to its end, and says why that was. `begun` takes the streams that the client begins.
pub(crate) async fn serve<L: Serving>(
    (link, stream): (&Rc<L>, Stream),
    mut begun: impl FnMut(L::Begun),
    ends: Ends<impl Future<Output = ()>, impl Future<Output = ()>, impl Future<Output = ()>>,
) -> Error {
    let mut wire = Wire::new(stream);
    let happened = Cell::new(Beside::Ending);
    let (mut abused, mut lost) = (pin!(ends.abused), pin!(ends.lost));
    let mut beside = Doze::new(Box::pin(async {
        happened.set(tokio::select! {
            () = &mut abused => Beside::Abused,
            () = ends.ending => Beside::Ending,
            () = &mut lost => Beside::Over,
        });
        if happened.get() != Beside::Ending {
            return;
        }
        link.go_away();
        happened.set(tokio::select! {
            () = &mut abused => Beside::Abused,
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
    if happened.get() == Beside::Abused {
        link.calm();
    }
    link.close(ended);
    let closed = std::future::poll_fn(|cx| wire.poll_close(&**link, cx));
    let _ = tokio::time::timeout(LINGER, closed).await; // a client that does not take the end gets none
    ended
}

/// Works on a stream in a task of its own. What a task runs is copied into it and, at its end, over; a request's future is several
/// kilobytes, so it is written where it stays and the task is given its place.
#[inline]
pub(crate) fn spawn<F: Future<Output = ()> + 'static>(answer: impl FnOnce() -> F) -> AbortHandle {
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
