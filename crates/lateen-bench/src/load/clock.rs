//! When paced requests are due: a timer of the kernel, since tokio's counts in milliseconds.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::Run;

/// The most requests that may be due and not begun; more means the proxy cannot keep the rate at all.
const MOST_DUE: usize = 100_000;

/// The times at which requests are due.
#[derive(Debug)]
pub(crate) struct Pace {
    timer: AsyncFd<OwnedFd>,
    interval: Duration,
    started: Instant,
    given: Cell<u64>,
    queue: RefCell<VecDeque<Instant>>,
    ready: Notify,
}

impl Pace {
    /// `rate` requests a second.
    ///
    /// # Errors
    /// The rate is no rate, or there is no timer.
    pub(crate) fn new(rate: f64) -> Result<Self> {
        if !(1.0..=1e6).contains(&rate) {
            bail!("--rate is between 1 and a million");
        }
        let interval = Duration::from_secs_f64(1.0 / rate);
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).context("making a timer")?;
        let every = Timespec {
            tv_sec: interval.as_secs().try_into().unwrap_or(0),
            tv_nsec: interval.subsec_nanos().into(),
        };
        let times = Itimerspec {
            it_interval: every,
            it_value: every,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times).context("setting the timer")?;
        Ok(Self {
            timer: watch(timer)?,
            interval,
            started: Instant::now(),
            given: Cell::new(0),
            queue: RefCell::default(),
            ready: Notify::new(),
        })
    }

    /// The next due time, once it is reached.
    pub(crate) async fn next(&self) -> Option<Instant> {
        loop {
            if let Some(due) = self.queue.borrow_mut().pop_front() {
                return Some(due);
            }
            self.ready.notified().await;
        }
    }

    fn give(&self, count: u64) {
        let mut queue = self.queue.borrow_mut();
        for _ in 0..count {
            let at = self.given.get() + 1;
            self.given.set(at);
            if queue.len() < MOST_DUE {
                let nanoseconds = self.interval.as_nanos() * u128::from(at);
                let offset = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
                queue.push_back(self.started + offset);
                self.ready.notify_one();
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "an owned descriptor stays open for as long as it is watched"
)]
fn watch(timer: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(timer, Interest::READABLE).context("watching the timer")
}

/// Hands out due times until the run ends.
pub(crate) async fn tick(run: Rc<Run>) {
    let Some(pace) = &run.pace else { return };
    while !run.stop.get() {
        let Ok(mut guard) = pace.timer.readable().await else {
            return;
        };
        let mut count = [0_u8; 8];
        let read = guard.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut count)?));
        if let Ok(Ok(8)) = read {
            pace.give(u64::from_ne_bytes(count));
        }
    }
}
