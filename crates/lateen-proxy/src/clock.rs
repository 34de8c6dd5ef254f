//! The time of a worker, read once for each turn of its event loop rather than once for each question.
//!
//! Asking the system costs little once and much twenty times a request. What is measured with this clock (how long a request took, since
//! when a connection is idle) is exact to the length of a turn. Timers are set and judged by tokio's own clock.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

thread_local! {
    /// The time of this turn, where turns are told apart.
    static TURN: Cell<Turn> = const { Cell::new(Turn::Untold) };
}

#[derive(Clone, Copy)]
enum Turn {
    /// Nobody says when a turn begins: each question is asked of the system.
    Untold,
    /// A turn began in which nobody has asked yet.
    Begun,
    /// Somebody has.
    Known(Instant),
}

/// The time of this turn.
pub(crate) fn now() -> Instant {
    TURN.with(|turn| match turn.get() {
        Turn::Untold => Instant::now(),
        Turn::Known(now) => now,
        Turn::Begun => {
            let now = Instant::now();
            turn.set(Turn::Known(now));
            now
        }
    })
}

/// How long ago a moment was.
pub(crate) fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// A turn of this thread's event loop begins.
pub(crate) fn turn() {
    TURN.with(|turn| turn.set(Turn::Begun));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_still_within_a_turn_and_nowhere_else() {
        let pause = || std::thread::sleep(Duration::from_millis(2));
        std::thread::spawn(move || {
            let first = now();
            pause();
            assert!(now() > first, "without turns it is the system's");
            turn();
            let first = now();
            pause();
            assert_eq!(now(), first);
            turn();
            assert!(now() > first);
        })
        .join()
        .unwrap();
    }
}
