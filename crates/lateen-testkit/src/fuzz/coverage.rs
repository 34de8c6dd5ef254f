//! Which edges of the program an input took: counters that the compiler puts there if it is asked to (`cargo xtask fuzz`).
//!
//! Without them there is nothing to see, and inputs are made of the corpus alone.
//! Source: <https://clang.llvm.org/docs/SanitizerCoverage.html>, "Inline 8bit-counters".

use std::sync::OnceLock;

/// Where the counters are: the address of the first, and how many.
static COUNTERS: OnceLock<(usize, usize)> = OnceLock::new();

/// Counters that are looked at together first: an input takes few of several hundred thousand edges.
const GROUP: usize = 256;

/// Called before `main` by every object file that has counters, each time with all of the program's.
#[expect(unsafe_code, reason = "the name is the compiler's")]
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    let start = start.addr();
    let _ = COUNTERS.set((start, stop.addr() - start));
}

/// What all inputs so far have reached.
pub(super) struct Coverage {
    counters: &'static mut [u8],
    /// For each counter a bit for each order of magnitude it has had.
    seen: Vec<u8>,
}

impl Coverage {
    /// None if the program was built without counters. There must be one at a time, and what it watches must run on its thread.
    pub(super) fn new() -> Option<Self> {
        let &(start, length) = COUNTERS.get()?;
        #[expect(unsafe_code, reason = "the counters are the linker's")]
        // SAFETY: the range is the section of the counters, bytes that are there for as long as the program; what counts in them is
        // other crates' code, which does not run while this one looks at them.
        let counters = unsafe {
            std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut(start), length)
        };
        // What ran until now belongs to no input.
        counters.fill(0);
        Some(Self {
            seen: vec![0; counters.len()],
            counters,
        })
    }

    /// Whether what ran since the last look took an edge that nothing took before, or one more often by an order of magnitude.
    pub(super) fn is_news(&mut self) -> bool {
        let mut news = false;
        let groups = self
            .counters
            .chunks_mut(GROUP)
            .zip(self.seen.chunks_mut(GROUP));
        for (counters, seen) in groups {
            if counters.iter().fold(0, |any, count| any | count) == 0 {
                continue;
            }
            for (count, seen) in counters.iter_mut().zip(seen) {
                let magnitude = magnitude(std::mem::take(count));
                news |= *seen & magnitude != magnitude;
                *seen |= magnitude;
            }
        }
        news
    }

    /// How many edges were ever taken.
    pub(super) fn edges(&self) -> usize {
        self.seen.iter().filter(|seen| **seen != 0).count()
    }
}

/// A bit for how often an edge was taken.
fn magnitude(count: u8) -> u8 {
    match count {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 4,
        4..=7 => 8,
        8..=15 => 16,
        16..=31 => 32,
        32..=127 => 64,
        128.. => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_is_news_once_for_each_order_of_magnitude() {
        let mut coverage = Coverage {
            counters: vec![0; 20].leak(),
            seen: vec![0; 20],
        };
        assert!(!coverage.is_news(), "nothing ran");
        for (count, news) in [(1, true), (1, false), (9, true), (12, false), (2, true)] {
            coverage.counters[17] = count;
            assert_eq!(coverage.is_news(), news, "{count}");
        }
        assert_eq!(coverage.edges(), 1);
    }
}
