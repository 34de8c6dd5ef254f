//! Watching a future beside others without the cost of asking it each time: it is polled only once it has asked for that itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// A future that is left alone until it wakes its task.
pub(crate) struct Doze<'a> {
    future: Pin<Box<dyn Future<Output = ()> + 'a>>,
    alarm: Option<(Arc<Alarm>, Waker)>,
    done: bool,
}

/// Passes a wake on and remembers it.
#[derive(Debug)]
struct Alarm {
    rang: AtomicBool,
    task: Waker,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rang.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

/// Does `work` until it is done, or `end` is.
pub(crate) async fn until(
    end: impl Future<Output = ()>,
    mut work: Pin<&mut impl Future<Output = ()>>,
) {
    let mut end = Doze::new(Box::pin(end));
    std::future::poll_fn(|cx| {
        let over = work.as_mut().poll(cx).is_ready() || end.is_done(cx);
        if over { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

impl<'a> Doze<'a> {
    /// Watches a future.
    pub(crate) fn new(future: Pin<Box<dyn Future<Output = ()> + 'a>>) -> Self {
        Self {
            future,
            alarm: None,
            done: false,
        }
    }

    /// Whether it is done.
    pub(crate) fn is_done(&mut self, cx: &mut Context<'_>) -> bool {
        if self.done {
            return true;
        }
        let waker = match &self.alarm {
            Some((alarm, waker)) if alarm.task.will_wake(cx.waker()) => {
                // Mostly it did not, and looking costs less than taking.
                if !alarm.rang.load(Ordering::Relaxed) {
                    return false;
                }
                alarm.rang.swap(false, Ordering::Acquire);
                waker.clone()
            }
            _ => {
                // The first look, or another task than before: the future has to be told whom to wake.
                let alarm = Arc::new(Alarm {
                    rang: AtomicBool::new(false),
                    task: cx.waker().clone(),
                });
                let waker = Waker::from(Arc::clone(&alarm));
                self.alarm = Some((alarm, waker.clone()));
                waker
            }
        };
        self.done = matches!(
            self.future.as_mut().poll(&mut Context::from_waker(&waker)),
            Poll::Ready(())
        );
        self.done
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[tokio::test]
    async fn a_future_is_polled_when_it_asks_for_it_and_not_before() {
        let polls = Rc::new(Cell::new(0));
        let (ring, mut rung) = tokio::sync::oneshot::channel::<()>();
        let counted = Rc::clone(&polls);
        let mut doze = Doze::new(Box::pin(std::future::poll_fn(move |cx| {
            counted.set(counted.get() + 1);
            Pin::new(&mut rung).poll(cx).map(|_| ())
        })));
        for _ in 0..5 {
            let done = std::future::poll_fn(|cx| Poll::Ready(doze.is_done(cx))).await;
            assert!(!done);
        }
        assert_eq!(polls.get(), 1);
        ring.send(()).unwrap();
        std::future::poll_fn(|cx| match doze.is_done(cx) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
        assert_eq!(polls.get(), 2);
    }
}
