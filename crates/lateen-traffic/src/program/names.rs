//! Values by name: hashed for the request path, in order for everyone who lists them, shared between versions.
//!
//! A proxy of a large mesh has tens of thousands of names, and each change makes another map while workers still hold the one before.
//! So the map is in shards behind pointers, and a change copies one of them.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;

/// Entries of a shard, on average, at which there are made to be twice as many shards.
const FULL: usize = 64;

type Shard<T> = HashMap<Arc<str>, Arc<T>, FixedState>;

/// Values by name. Cloning shares every value.
#[derive(Debug)]
pub struct ByName<T> {
    /// A power of two of them, by the hash of the name; none if the map is empty.
    shards: Vec<Arc<Shard<T>>>,
    len: usize,
}

impl<T> Clone for ByName<T> {
    fn clone(&self) -> Self {
        Self {
            shards: self.shards.clone(),
            len: self.len,
        }
    }
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self {
            shards: Vec::new(),
            len: 0,
        }
    }
}

impl<T> ByName<T> {
    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&Arc<T>> {
        if self.len == 0 {
            return None; // as for every name of a first configuration
        }
        self.shards.get(self.shard_of(name))?.get(name)
    }

    /// All of them, in name order. They are sorted for it: this is for people and for listings.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<T>)> {
        self.iter_where(|_| true)
    }

    /// Some of them, in name order: only those are sorted.
    pub fn iter_where(
        &self,
        wanted: impl Fn(&T) -> bool,
    ) -> impl Iterator<Item = (&Arc<str>, &Arc<T>)> {
        let wanted = self.entries().filter(|(_, value)| wanted(value));
        let mut wanted: Vec<(&Arc<str>, &Arc<T>)> = wanted.collect();
        wanted.sort_unstable_by_key(|(name, _)| *name);
        wanted.into_iter()
    }

    /// All values, in no order that means anything.
    pub(super) fn values(&self) -> impl Iterator<Item = &Arc<T>> {
        self.entries().map(|(_, value)| value)
    }

    fn entries(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<T>)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes room for so many more at once.
    pub(super) fn expect(&mut self, more: usize) {
        let shards = (self.len + more).div_ceil(FULL).next_power_of_two();
        if shards > self.shards.len() {
            self.spread(shards, self.len + more);
        }
    }

    pub(super) fn insert(&mut self, name: Arc<str>, value: Arc<T>) {
        if self.len >= self.shards.len() * FULL {
            self.spread((self.shards.len() * 2).max(1), self.len);
        }
        let at = self.shard_of(&name);
        if Arc::make_mut(&mut self.shards[at])
            .insert(name, value)
            .is_none()
        {
            self.len += 1;
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        let at = self.shard_of(name);
        if let Some(shard) = self.shards.get_mut(at)
            && shard.contains_key(name)
        {
            Arc::make_mut(shard).remove(name);
            self.len -= 1;
        }
    }

    fn shard_of(&self, name: &str) -> usize {
        // The low bits choose within a shard.
        let high = FixedState::default().hash_one(name) >> 40;
        usize::try_from(high).unwrap_or(0) & self.shards.len().saturating_sub(1)
    }

    /// Spreads them over so many shards, which have room for so many as are expected in all.
    fn spread(&mut self, count: usize, expected: usize) {
        let old = std::mem::take(&mut self.shards);
        let each = expected.div_ceil(count);
        let shard = || Arc::new(Shard::with_capacity_and_hasher(each, FixedState::default()));
        self.shards.resize_with(count, shard);
        for (name, value) in old.iter().flat_map(|shard| shard.iter()) {
            let at = self.shard_of(name);
            Arc::make_mut(&mut self.shards[at]).insert(Arc::clone(name), Arc::clone(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(count: usize) -> ByName<usize> {
        let mut map = ByName::default();
        for number in 0..count {
            map.insert(format!("name-{number:05}").into(), Arc::new(number));
        }
        map
    }

    #[test]
    fn what_is_put_in_is_found_in_order_and_taken_out() {
        let mut map = numbered(5000);
        assert_eq!(map.len(), 5000);
        let listed: Vec<usize> = map.iter().map(|(_, value)| **value).collect();
        assert_eq!(listed, (0..5000).collect::<Vec<_>>());
        let few = map.iter_where(|value| *value > 4997);
        assert!(few.map(|(_, value)| **value).eq([4998, 4999]));
        assert_eq!(map.get("name-04999").map(|value| **value), Some(4999));
        assert_eq!(map.get("name-5"), None);
        map.insert("name-00007".into(), Arc::new(70));
        assert_eq!((map.len(), **map.get("name-00007").unwrap()), (5000, 70));
        map.remove("name-00007");
        map.remove("none");
        assert_eq!((map.len(), map.get("name-00007")), (4999, None));
        assert!(ByName::<usize>::default().get("x").is_none());
    }

    #[test]
    fn room_for_more_is_the_room_that_they_would_take() {
        let mut map = numbered(100);
        map.expect(4900);
        let roomy = map.shards.len();
        (100..5000).for_each(|n| map.insert(format!("name-{n:05}").into(), Arc::new(n)));
        assert_eq!((map.len(), map.shards.len()), (5000, roomy));
        assert_eq!(roomy, numbered(5000).shards.len());
        assert_eq!(map.get("name-00099").map(|value| **value), Some(99));
        map.expect(1);
        assert_eq!(map.shards.len(), roomy);
    }

    #[test]
    fn a_change_copies_one_shard() {
        let old = numbered(5000);
        let mut new = old.clone();
        new.insert("name-00001".into(), Arc::new(0));
        let shared = |(a, b): (&Arc<Shard<usize>>, &Arc<Shard<usize>>)| Arc::ptr_eq(a, b);
        let same = old
            .shards
            .iter()
            .zip(&new.shards)
            .filter(|pair| shared(*pair));
        assert_eq!(same.count(), old.shards.len() - 1);
        assert!(old.shards.len() > 32);
        assert_eq!(**old.get("name-00001").unwrap(), 1);
    }
}
