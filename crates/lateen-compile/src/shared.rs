//! A value shared by pointer that hashes in constant time: what the inputs of generators are made of.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use foldhash::quality::FixedState;

/// A shared value with its hash.
///
/// Hashing writes the stored hash; equality first compares pointers, then hashes, then values. So a generator's inputs can hold
/// whole services and policies and still be cheap to look up. The hash has a fixed seed: it is the same in every run.
pub struct Shared<T> {
    value: Arc<T>,
    hash: u64,
}

/// An arbitrary fixed seed: determinism matters, resistance to chosen keys does not, because equality decides.
const SEED: u64 = 0x6c61_7465_656e;

/// A hash that is the same in every run.
pub(crate) fn stable_hash<T: Hash>(value: &T) -> u64 {
    FixedState::with_seed(SEED).hash_one(value)
}

impl<T: Hash> Shared<T> {
    /// Shares `value`.
    pub fn new(value: T) -> Self {
        let hash = stable_hash(&value);
        Self {
            value: Arc::new(value),
            hash,
        }
    }
}

impl<T> Shared<T> {
    /// Whether two are the same value in memory; such are equal. The reverse need not hold.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.value, &other.value)
    }

    /// Where the value is.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.value).addr()
    }

    /// The stored hash.
    pub(crate) fn digest(&self) -> u64 {
        self.hash
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self {
            value: Arc::clone(&self.value),
            hash: self.hash,
        }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.value, &other.value)
            || (self.hash == other.hash && self.value == other.value)
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<T: Hash + Default> Default for Shared<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_equal_and_hash_alike_whoever_made_them() {
        let (a, b) = (Shared::new(vec![1, 2]), Shared::new(vec![1, 2]));
        assert_eq!(a, b);
        assert_eq!(a.hash, b.hash);
        assert_ne!(a, Shared::new(vec![2, 1]));
    }
}
