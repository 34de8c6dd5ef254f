//! One timer for what waits until one of several times that are put off as things move.
//!
//! Most times never come: what they guard is done first. So a timer is not taken out of the wheel when nobody needs it any more but kept
//! for the next one who does, armed as it is: one that would fire too early is put off when it does, which is seldom.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep};

/// Timers that are kept, at most.
const MOST: usize = 1024;

/// Timers of a worker that nobody needs at the moment.
#[derive(Debug, Default)]
pub(crate) struct Alarms(RefCell<Vec<Pin<Box<Sleep>>>>);

/// Waits for a time that may be put off, or brought forward, at each look.
#[derive(Debug)]
pub(crate) struct Alarm {
    alarms: Rc<Alarms>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// One that is not set yet.
    pub(crate) fn new(alarms: &Rc<Alarms>) -> Self {
        Self {
            alarms: Rc::clone(alarms),
            timer: None,
        }
    }

    /// Ready once `at` has come.
    pub(crate) fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| {
            let kept = self.alarms.0.borrow_mut().pop();
            kept.unwrap_or_else(|| Box::pin(tokio::time::sleep_until(at)))
        });
        if timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        loop {
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if timer.deadline() >= at {
                return Poll::Ready(());
            }
            timer.as_mut().reset(at);
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let Some(timer) = self.timer.take() else {
            return;
        };
        let mut kept = self.alarms.0.borrow_mut();
        if kept.len() < MOST {
            kept.push(timer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn ring(alarm: &mut Alarm, at: Instant) {
        std::future::poll_fn(|cx| alarm.poll(at, cx)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_timer_rings_at_its_next_time_whether_that_is_sooner_or_later() {
        let alarms = Rc::<Alarms>::default();
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let mut alarm = Alarm::new(&alarms);
        std::future::poll_fn(|cx| {
            assert!(alarm.poll(start + second * 10, cx).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(alarm);
        for (wait, passed) in [(3, 3), (1, 4), (20, 24)] {
            let mut alarm = Alarm::new(&alarms);
            ring(&mut alarm, Instant::now() + second * wait).await;
            assert_eq!(start.elapsed().as_secs(), passed);
            drop(alarm);
            assert_eq!(alarms.0.borrow().len(), 1, "the same one each time");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_that_is_put_off_is_waited_for() {
        let mut alarm = Alarm::new(&Rc::default());
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut looks = 0;
        std::future::poll_fn(|cx| {
            looks += 1;
            let put_off = start + second * 5;
            alarm.poll(if looks == 1 { start + second } else { put_off }, cx)
        })
        .await;
        assert_eq!(start.elapsed().as_secs(), 5);
    }
}
