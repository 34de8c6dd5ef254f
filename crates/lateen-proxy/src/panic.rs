//! What a panic ends, and what it says of itself for the log.

use std::any::Any;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

/// The message a panic was raised with.
pub(crate) fn reason(panic: &(dyn Any + Send)) -> &str {
    let fixed = panic.downcast_ref::<&str>().copied();
    fixed
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no reason given")
}

/// Ends one connection, and nothing else, if serving it panics. What the connection held (places below limits, gauges, its
/// record) is given back by unwinding, as by any other end.
pub(crate) async fn isolated(remote: SocketAddr, serving: impl Future<Output = ()>) {
    // The worker's shared state is in cells whose borrows never outlive a call, so a panic leaves none of them borrowed.
    if let Err(panic) = AssertUnwindSafe(serving).catch_unwind().await {
        let reason = reason(&*panic);
        tracing::error!(%remote, reason, "a bug ended this connection");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    struct Held(Rc<Cell<usize>>);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_connection_only_and_gives_back_what_it_held() {
        let remote = SocketAddr::from(([127, 0, 0, 1], 1));
        let held = Rc::new(Cell::new(2));
        let tasks = tokio::task::LocalSet::new();
        let (first, second) = (Held(Rc::clone(&held)), Held(Rc::clone(&held)));
        let broken = tasks.spawn_local(isolated(remote, async move {
            let _first = first;
            tokio::task::yield_now().await;
            panic!("as told");
        }));
        let sound = tasks.spawn_local(async move {
            let mut turns = 0;
            isolated(remote, async {
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                    turns += 1;
                }
            })
            .await;
            drop(second);
            turns
        });
        let ended = tasks.run_until(async { (broken.await, sound.await) }).await;
        assert!(ended.0.is_ok(), "the panic stays within");
        assert_eq!(ended.1.unwrap(), 10);
        assert_eq!(held.get(), 0);
    }
}
