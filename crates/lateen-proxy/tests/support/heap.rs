//! An allocator that counts the bytes of a test's heap, but for those of threads that opt out.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, Ordering};

/// Counts the bytes of threads that do not opt out. What one thread frees for another is counted where it is freed.
struct Counting;

/// Bytes there are now.
static LIVE: AtomicI64 = AtomicI64::new(0);
/// The same in pieces by their size in steps of [`STEP`].
static PIECES: [AtomicI64; 512] = [const { AtomicI64::new(0) }; 512];
const STEP: usize = 64;

thread_local! {
    static UNCOUNTED: Cell<bool> = const { Cell::new(false) };
}

/// Has nothing of this thread counted from now on.
pub(crate) fn opt_out() {
    UNCOUNTED.set(true);
}

/// Bytes there are now, all in all and by size.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) bytes: i64,
    by_size: Vec<i64>,
}

impl Held {
    pub(crate) fn now() -> Self {
        let by_size = PIECES.iter().map(|bytes| bytes.load(Ordering::Relaxed));
        Self {
            bytes: LIVE.load(Ordering::Relaxed),
            by_size: by_size.collect(),
        }
    }

    /// What there is more of than before.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let by_size = self.by_size.iter().zip(&before.by_size);
        Self {
            bytes: self.bytes - before.bytes,
            by_size: by_size.map(|(now, then)| now - then).collect(),
        }
    }

    /// Prints of which sizes it is, as a share for each of `count`.
    pub(crate) fn print(&self, count: i64) {
        for (at, bytes) in self.by_size.iter().enumerate() {
            if bytes / count >= 64 {
                println!("{:>7} bytes in pieces of {}", bytes / count, at * STEP);
            }
        }
    }
}

fn count(size: usize, sign: i64) {
    if !UNCOUNTED.try_with(Cell::get).unwrap_or(true) {
        let bytes = sign * i64::try_from(size).unwrap_or(0);
        LIVE.fetch_add(bytes, Ordering::Relaxed);
        PIECES[(size / STEP).min(PIECES.len() - 1)].fetch_add(bytes, Ordering::Relaxed);
    }
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait")]
// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
