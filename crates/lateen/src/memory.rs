//! Memory that was freed and is kept for the thread's next use, given back.

use std::time::Duration;

/// How often the agent, which allocates little but for a name table now and then, gives memory back.
const EVERY: Duration = Duration::from_secs(60);

/// Gives back to the system what the calling thread has freed.
#[expect(unsafe_code, reason = "the allocator is foreign code")]
pub(crate) fn give_back() {
    unsafe extern "C" {
        /// mimalloc's; it frees what no block is in.
        fn mi_collect(force: bool);
    }
    // SAFETY: it takes no pointer and may be called by any thread at any time; the library is linked as the global allocator.
    unsafe { mi_collect(true) };
}

/// Gives back what the calling thread has freed, again and again.
pub(crate) async fn keep_giving_back() {
    loop {
        tokio::time::sleep(EVERY).await;
        give_back();
    }
}
