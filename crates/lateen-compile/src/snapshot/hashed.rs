//! What is found by a hash: of a name, of a label, of all that a selector asks for.
//!
//! Two things may have the same hash. Whoever asks compares what is found with what was looked for.

use lateen_envoy::SharedMap;

/// Things by hashes, those of one hash in their order. Cheap to clone; a clone with one more shares the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hashed<T: Ord>(SharedMap<(u64, T), ()>);

impl<T: Ord> Default for Hashed<T> {
    fn default() -> Self {
        Self(SharedMap::new())
    }
}

impl<T: Ord + Clone> Hashed<T> {
    /// Adds a thing, unless it is there.
    pub(super) fn insert(&mut self, hash: u64, thing: T) {
        self.0.insert((hash, thing), ());
    }

    /// Takes a thing out.
    pub(super) fn remove(&mut self, hash: u64, thing: T) {
        self.0.remove(&(hash, thing));
    }

    /// What is under a hash, in order.
    pub(super) fn get(&self, hash: u64) -> impl Iterator<Item = &T> + Clone + use<'_, T> {
        let entries = self.0.iter_after(move |(known, _)| *known < hash);
        let entries = entries.map(|(key, ())| key);
        entries
            .take_while(move |(known, _)| *known == hash)
            .map(|(_, thing)| thing)
    }
}

impl<T: Ord + Clone> FromIterator<(u64, T)> for Hashed<T> {
    /// Fastest where things come in their order.
    fn from_iter<I: IntoIterator<Item = (u64, T)>>(things: I) -> Self {
        let mut entries: Vec<_> = things.into_iter().map(|entry| (entry, ())).collect();
        // Stable: what comes in order need not be compared with what has the same hash.
        entries.sort_by_key(|((hash, _), ())| *hash);
        Self(entries.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_a_key_is_found_in_order_and_among_few_others() {
        let mut hashed: Hashed<u32> = (0..1000).map(|n| (u64::from(n % 7), n)).collect();
        assert!(hashed.get(3).copied().eq((0..1000).filter(|n| n % 7 == 3)));
        let before = hashed.clone();
        hashed.remove(3, 3);
        hashed.insert(3, 1003);
        hashed.insert(3, 10);
        assert_eq!(hashed.get(3).next(), Some(&10));
        assert_eq!(hashed.get(3).last(), Some(&1003));
        assert_eq!(hashed.get(3).count(), before.get(3).count());
        assert_eq!(hashed.get(7).next(), None);
    }
}
