//! The memo table of one generator: inputs to output, bounded, swept when it has grown.
//!
//! The key is the generator's whole argument, so an entry can be missing but never stale. What is dropped, and when, decides
//! only how much is computed again. Looking through a table takes time in proportion to the mesh, so it is done only once a table has
//! doubled: a change costs no more than what it adds.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::FixedState;
use lateen_envoy::Resource;

/// Entries unused for this many generations are dropped, unless some proxy has what they hold: who is not concerned by a change does not ask.
const KEEP_GENERATIONS: u64 = 64;
/// Below this many entries nothing is looked through.
const FEW_ENTRIES: usize = 1024;
/// Above this many entries the oldest generations go early, whatever their age.
const MAX_ENTRIES: usize = 262_144;

/// What a table holds.
pub(crate) trait Output {
    /// Whether somebody else holds it, too.
    fn is_held(&self) -> bool;
}

impl Output for Vec<Resource> {
    fn is_held(&self) -> bool {
        self.iter()
            .any(|resource| Arc::strong_count(&resource.body) > 1)
    }
}

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
    /// The number of entries at which they are looked through.
    sweep_at: usize,
    hits: u64,
    misses: u64,
}

impl<K: Eq + Hash + Clone, V: Output> Memo<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                entries: HashMap::with_hasher(FixedState::default()),
                generation: 0,
                sweep_at: FEW_ENTRIES,
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

    /// Begins a generation: if there are many new entries, those go that nobody needs any more.
    pub(crate) fn advance(&self) {
        let mut state = self.lock();
        state.generation += 1;
        if state.entries.len() < state.sweep_at {
            return;
        }
        let oldest = state.generation.saturating_sub(KEEP_GENERATIONS);
        let needed = |entry: &Entry<V>| entry.used >= oldest || entry.value.is_held();
        state.entries.retain(|_, entry| needed(entry));
        if state.entries.len() > MAX_ENTRIES {
            let newest = state.generation.saturating_sub(1);
            state.entries.retain(|_, entry| entry.used >= newest);
        }
        let twice = FEW_ENTRIES.max(2 * state.entries.len());
        state.sweep_at = twice.min(MAX_ENTRIES + 1);
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

    /// Held by somebody if it is even.
    impl Output for u32 {
        fn is_held(&self) -> bool {
            self.is_multiple_of(2)
        }
    }

    impl Output for () {
        fn is_held(&self) -> bool {
            false
        }
    }

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
    fn entries_go_that_nobody_asked_for_or_holds_once_there_are_many() {
        let memo: Memo<u32, u32> = Memo::new();
        let few = FEW_ENTRIES as u32;
        let ask = |keys: std::ops::Range<u32>| keys.for_each(|key| drop(memo.get(&key, |k| *k)));
        ask(0..few / 2);
        for _ in 0..=KEEP_GENERATIONS {
            memo.get(&1, |k| *k);
            memo.advance();
        }
        assert_eq!(memo.stats().entries, FEW_ENTRIES / 2, "few are let be");
        ask(few..2 * few);
        memo.advance();
        let held = FEW_ENTRIES / 4;
        assert_eq!(memo.stats().entries, FEW_ENTRIES + held + 1);
        // Below twice as many as were left nothing is looked at.
        for _ in 0..=KEEP_GENERATIONS {
            memo.advance();
        }
        assert_eq!(memo.stats().entries, FEW_ENTRIES + held + 1);
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
