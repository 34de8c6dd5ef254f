//! When small messages are written: together, at the end of a turn of the worker's event loop.
//!
//! On one machine a write delivers its bytes to the peer's socket itself and wakes whoever waits there, which costs more than the write. Of
//! several written one shortly after the other only the first wakes the peer; with work between them it has gone to sleep again each
//! time. So where a turn has several messages to write they wait until what else the turn has to do is done. A turn with one or two
//! writes them at once: there is nothing to wait for.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

/// A turn is taken for a busy one if the one before it wrote so many messages.
const BUSY: u32 = 4;
/// As many messages wait at most: the first of them should not wait for too much.
const MOST: usize = 32;

thread_local! {
    static TURN: Turn = const { Turn::new() };
}

/// What is known of this thread's turns. Where nobody begins any, nothing waits.
struct Turn {
    /// Messages of this turn.
    writes: Cell<u32>,
    /// Messages of the last turn that had any.
    before: Cell<u32>,
    /// How often those that waited were let go.
    releases: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Turn {
    const fn new() -> Self {
        Self {
            writes: Cell::new(0),
            before: Cell::new(0),
            releases: Cell::new(0),
            waiting: RefCell::new(Vec::new()),
        }
    }

    fn release(&self) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            return false;
        }
        self.releases.set(self.releases.get() + 1);
        // Waking a task runs none of it.
        waiting.drain(..).for_each(Waker::wake);
        true
    }
}

/// A turn begins.
pub(crate) fn begin() {
    TURN.with(|turn| {
        // A turn without messages says nothing about the next one with some.
        if turn.writes.get() > 0 {
            turn.before.set(turn.writes.take());
        }
    });
}

/// Lets those write that wait, once everything else is done; whether there were any.
pub(crate) fn release() -> bool {
    TURN.with(Turn::release)
}

/// A message's wait for its turn to end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Hold {
    /// It has not asked yet.
    #[default]
    New,
    /// It waits, since there were so many releases.
    Waiting(u64),
    /// It may be written.
    Over,
}

impl Hold {
    /// Ready when the message may be written.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if matches!(self, Self::Over) {
            return Poll::Ready(());
        }
        TURN.with(|turn| {
            if let Self::Waiting(since) = self
                && *since != turn.releases.get()
            {
                *self = Self::Over;
                return Poll::Ready(());
            }
            if matches!(self, Self::New) {
                turn.writes.set(turn.writes.get() + 1);
                if turn.before.get() < BUSY {
                    *self = Self::Over;
                    return Poll::Ready(());
                }
            }
            if turn.waiting.borrow().len() >= MOST {
                turn.release();
                *self = Self::Over;
                return Poll::Ready(());
            }
            *self = Self::Waiting(turn.releases.get());
            // Asked again by another wake it may be another task's by now, so the waker is left once more.
            turn.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
    }

    /// Whether it waits.
    pub(crate) const fn is_waiting(self) -> bool {
        matches!(self, Self::Waiting(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(hold: &mut Hold) -> bool {
        hold.poll(&Context::from_waker(Waker::noop())).is_ready()
    }

    /// Each test has a thread of its own, and so turns of its own.
    fn turn_of(messages: u32) {
        begin();
        for _ in 0..messages {
            let mut hold = Hold::default();
            if !poll(&mut hold) {
                release();
                assert!(poll(&mut hold));
            }
        }
    }

    #[test]
    fn messages_wait_for_each_other_in_busy_turns_only() {
        turn_of(BUSY - 1);
        begin();
        assert!(poll(&mut Hold::default()), "the last turn was a quiet one");
        turn_of(BUSY);
        begin();
        let (mut first, mut second) = (Hold::default(), Hold::default());
        assert!(!poll(&mut first) && !poll(&mut second) && !poll(&mut first));
        assert!(first.is_waiting());
        assert!(release() && !release());
        assert!(poll(&mut first) && poll(&mut second) && poll(&mut first));
        assert!(!first.is_waiting());
    }

    #[test]
    fn turns_without_messages_do_not_count() {
        turn_of(BUSY);
        begin();
        begin();
        assert!(!poll(&mut Hold::default()));
    }

    #[test]
    fn so_many_wait_and_no_more() {
        turn_of(BUSY);
        begin();
        let mut holds = [Hold::default(); MOST + 1];
        let waiting = holds.iter_mut().map(poll).filter(|ready| !ready).count();
        assert_eq!(waiting, MOST);
        assert!(holds.iter_mut().all(poll), "the one too many lets all go");
    }
}
