//! The memo table of one generator: inputs to output, bounded, swept by generation.
//!
//! The key is the generator's whole argument, so an entry can be missing but never stale. What is dropped, and when, decides
//! only how much is computed again.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::FixedState;

/// Entries unused for this many generations are dropped. A change of the configuration begins one and asks for little of what it does not
/// concern, which is not to be made again for that.
const KEEP_GENERATIONS: u64 = 64;
/// Above this many entries the oldest generations go early, whatever their age.
const MAX_ENTRIES: usize = 262_144;

struct Entry<V> {
    value: Arc<V>,
    used: u64,
}

/// How often a table answered and how often it had to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoStats {
    /// Answered from the table.
    pub hits: u64,
    /// Computed.
    pub misses: u64,
    /// Entries held now.
    pub entries: usize,
}

impl std::iter::Sum for MemoStats {
    fn sum<I: Iterator<Item = Self>>(stats: I) -> Self {
        stats.fold(Self::default(), |all, one| Self {
            hits: all.hits + one.hits,
            misses: all.misses + one.misses,
            entries: all.entries + one.entries,
        })
    }
}

/// A memo table. Lookups take a short lock; computation happens outside it.
pub(crate) struct Memo<K, V> {
    state: Mutex<State<K, V>>,
}

struct State<K, V> {
    entries: HashMap<K, Entry<V>, FixedState>,
    generation: u64,
    hits: u64,
    misses: u64,
}

impl<K: Eq + Hash + Clone, V> Memo<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                entries: HashMap::with_hasher(FixedState::default()),
                generation: 0,
                hits: 0,
                misses: 0,
            }),
        }
    }

    /// The output for `key`, computed by `generate` if it is not known.
    ///
    /// Two threads may compute the same output at once; both are equal, and the first stored stays.
    pub(crate) fn get(&self, key: &K, generate: impl FnOnce(&K) -> V) -> Arc<V> {
        {
            let mut state = self.lock();
            let generation = state.generation;
            if let Some(entry) = state.entries.get_mut(key) {
                entry.used = generation;
                let value = Arc::clone(&entry.value);
                state.hits += 1;
                return value;
            }
            state.misses += 1;
        }
        let value = Arc::new(generate(key));
        let mut state = self.lock();
        let used = state.generation;
        let entry = state
            .entries
            .entry(key.clone())
            .or_insert_with(|| Entry { value, used });
        Arc::clone(&entry.value)
    }

    /// Begins a generation: entries unused for a few generations go.
    pub(crate) fn advance(&self) {
        let mut state = self.lock();
        state.generation += 1;
        let oldest = state.generation.saturating_sub(KEEP_GENERATIONS);
        state.entries.retain(|_, entry| entry.used >= oldest);
        if state.entries.len() > MAX_ENTRIES {
            let newest = state.generation.saturating_sub(1);
            state.entries.retain(|_, entry| entry.used >= newest);
        }
    }

    pub(crate) fn stats(&self) -> MemoStats {
        let state = self.lock();
        MemoStats {
            hits: state.hits,
            misses: state.misses,
            entries: state.entries.len(),
        }
    }

    /// A poisoned lock means another thread panicked between two statements that cannot panic by themselves; the table is a
    /// cache of pure results and stays valid.
    fn lock(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_input_is_not_computed_again() {
        let memo: Memo<u32, u32> = Memo::new();
        assert_eq!(*memo.get(&2, |k| k * 2), 4);
        assert_eq!(*memo.get(&2, |_| unreachable!("it is known")), 4);
        assert_eq!(
            memo.stats(),
            MemoStats {
                hits: 1,
                misses: 1,
                entries: 1
            }
        );
    }

    #[test]
    fn entries_unused_for_some_generations_go() {
        let memo: Memo<u32, u32> = Memo::new();
        memo.get(&1, |k| *k);
        memo.get(&2, |k| *k);
        for _ in 0..=KEEP_GENERATIONS {
            memo.get(&1, |k| *k);
            memo.advance();
        }
        assert_eq!(memo.stats().entries, 1);
    }

    #[test]
    fn what_was_not_asked_for_lately_goes_early_when_there_is_too_much() {
        let memo: Memo<usize, ()> = Memo::new();
        for key in 0..MAX_ENTRIES {
            memo.get(&key, |_| ());
        }
        memo.advance();
        assert_eq!(memo.stats().entries, MAX_ENTRIES);
        memo.advance();
        memo.get(&MAX_ENTRIES, |_| ());
        memo.advance();
        assert_eq!(memo.stats().entries, 1);
    }
}
