//! An ordered map whose clones share what they have in common: what a thousand proxies hold is stored once, and what changed
//! between two versions is found without looking at what did not.
//!
//! Entries lie in sorted chunks behind pointers. A change copies one chunk and the list of chunks; [`differences`](SharedMap::differences)
//! passes over chunks that two maps share. Iteration is in the order of keys, whatever the map has been through.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::Index;
use std::sync::Arc;

/// Entries of a chunk when it is made; a change copies about this many.
const FILL: usize = 32;
/// Entries at which a chunk is split in two.
const MOST: usize = 64;

/// Sorted by key, never empty.
type Chunk<K, V> = Arc<Vec<(K, V)>>;

/// An ordered map that is cheap to clone and to compare with its relatives.
pub struct SharedMap<K, V> {
    /// In the order of their keys.
    chunks: Arc<Vec<Chunk<K, V>>>,
    len: usize,
}

/// A key that two maps do not agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference<'a, K, V> {
    /// The key.
    pub key: &'a K,
    /// Its value in the first map.
    pub old: Option<&'a V>,
    /// Its value in the second map.
    pub new: Option<&'a V>,
}

impl<K, V> SharedMap<K, V> {
    /// An empty map.
    pub fn new() -> Self {
        Self {
            chunks: Arc::default(),
            len: 0,
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether two maps are the same one; such maps are equal. The reverse need not hold.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chunks, &other.chunks)
    }

    /// The entries, in the order of keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> + Clone {
        let entries = self.chunks.iter().flat_map(|chunk| chunk.iter());
        entries.map(|(key, value)| (key, value))
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// The values, in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// The chunk that holds a key, or would: the last whose first key is not greater.
    fn chunk_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        let after = self
            .chunks
            .partition_point(|chunk| chunk.first().is_some_and(|(k, _)| k.borrow() <= key));
        after.saturating_sub(1)
    }

    /// The key and value of an entry.
    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let at = chunk.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
        chunk.get(at).map(|(key, value)| (key, value))
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// Whether there is a key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The last key that comes before something and the first that does not, if there are such. What comes before has to be a beginning of
    /// the map.
    pub fn around(&self, mut comes_before: impl FnMut(&K, &V) -> bool) -> [Option<&K>; 2] {
        let mut before = |(key, value): &(K, V)| comes_before(key, value);
        let index = self
            .chunks
            .partition_point(|chunk| chunk.first().is_some_and(&mut before));
        let chunk = index.checked_sub(1).and_then(|at| self.chunks.get(at));
        let after = chunk.map_or(0, |chunk| chunk.partition_point(&mut before));
        let last = chunk.and_then(|chunk| chunk.get(after.checked_sub(1)?));
        let next = chunk.and_then(|chunk| chunk.get(after));
        let next = next.or_else(|| self.chunks.get(index)?.first());
        [last.map(|(key, _)| key), next.map(|(key, _)| key)]
    }

    /// The entries that do not come before something, in the order of keys. What comes before has to be a beginning of the map.
    pub fn iter_after<'a, F: Fn(&K) -> bool>(
        &'a self,
        comes_before: F,
    ) -> impl Iterator<Item = (&'a K, &'a V)> + Clone + use<'a, K, V, F> {
        let (chunk, passed) = self.first_after(comes_before);
        self.entries_after(chunk, passed)
    }

    /// The entries from a key on, in the order of keys.
    pub fn iter_from<'a, Q: Ord + ?Sized>(
        &'a self,
        key: &Q,
    ) -> impl Iterator<Item = (&'a K, &'a V)> + Clone + use<'a, K, V, Q>
    where
        K: Borrow<Q>,
    {
        let (chunk, passed) = self.first_after(|known| known.borrow() < key);
        self.entries_after(chunk, passed)
    }

    /// A chunk, and how many of its entries come before something: the first that does not is the next, there or in the next chunk.
    fn first_after(&self, comes_before: impl Fn(&K) -> bool) -> (usize, usize) {
        let before = |(key, _): &(K, V)| comes_before(key);
        let starts_before = |chunk: &Chunk<K, V>| chunk.first().is_some_and(before);
        let after = self.chunks.partition_point(starts_before);
        let index = after.saturating_sub(1);
        let chunk = self.chunks.get(index);
        (
            index,
            chunk.map_or(0, |chunk| chunk.partition_point(before)),
        )
    }

    fn entries_after<'a>(
        &'a self,
        chunk: usize,
        passed: usize,
    ) -> impl Iterator<Item = (&'a K, &'a V)> + Clone + use<'a, K, V> {
        let rest = self.chunks.get(chunk..).unwrap_or_default();
        let entries = rest.iter().flat_map(|chunk| chunk.iter()).skip(passed);
        entries.map(|(key, value)| (key, value))
    }

    /// What has to be done to make `newer` of this map, in the order of keys. Takes time in proportion to what the two do not
    /// share.
    pub fn differences<'a>(&'a self, newer: &'a Self) -> Differences<'a, K, V> {
        // Of the same chunks there is nothing to look at.
        let same = self.is_same(newer);
        let cursor = |map: &'a Self| Cursor {
            chunks: if same { &[] } else { &map.chunks },
            at: 0,
        };
        Differences {
            old: cursor(self),
            new: cursor(newer),
        }
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// Sets the value of a key; gives the one it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let index = self.chunk_of(&key);
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(chunk) = chunks.get_mut(index).map(Arc::make_mut) else {
            chunks.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        };
        match chunk.binary_search_by(|(k, _)| k.cmp(&key)) {
            Ok(at) => return Some(std::mem::replace(&mut chunk[at].1, value)),
            Err(at) => chunk.insert(at, (key, value)),
        }
        self.len += 1;
        if chunk.len() > MOST {
            let rest = chunk.split_off(chunk.len() / 2);
            chunks.insert(index + 1, Arc::new(rest));
        }
        None
    }

    /// Takes a key out; gives the value it had.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if !self.contains_key(key) {
            return None; // and nothing is copied
        }
        let index = self.chunk_of(key);
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = chunks.get_mut(index).map(Arc::make_mut)?;
        let at = chunk.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
        let (_, value) = chunk.remove(at);
        self.len -= 1;
        if chunk.is_empty() {
            chunks.remove(index);
        } else if chunk.len() < FILL / 4 {
            join_with_next(chunks, index);
        }
        Some(value)
    }

    /// From entries sorted by key, each key once.
    fn from_sorted(entries: Vec<(K, V)>) -> Self {
        let len = entries.len();
        let mut entries = entries.into_iter().peekable();
        let mut chunks = Vec::with_capacity(len.div_ceil(FILL));
        while entries.peek().is_some() {
            chunks.push(Arc::new(entries.by_ref().take(FILL).collect()));
        }
        Self {
            chunks: Arc::new(chunks),
            len,
        }
    }
}

/// Keeps small chunks from piling up.
fn join_with_next<K: Clone, V: Clone>(chunks: &mut Vec<Chunk<K, V>>, index: usize) {
    let fits = |next: &Chunk<K, V>| next.len() <= FILL;
    if chunks.get(index + 1).is_some_and(fits) {
        let next = chunks.remove(index + 1);
        if let Some(chunk) = chunks.get_mut(index) {
            Arc::make_mut(chunk).extend(next.iter().cloned());
        }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self {
            chunks: Arc::clone(&self.chunks),
            len: self.len,
        }
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.differences(other).next().is_none()
    }
}

impl<K: Ord, V: Eq> Eq for SharedMap<K, V> {}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    /// The last of a key stays.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut entries: Vec<(K, V)> = entries.into_iter().collect();
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        // `dedup_by` keeps the first of a run, so the later value is moved there.
        entries.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                std::mem::swap(&mut later.1, &mut earlier.1);
            }
            same
        });
        Self::from_sorted(entries)
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for SharedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord + Borrow<Q>, Q: Ord + ?Sized, V> Index<&Q> for SharedMap<K, V> {
    type Output = V;

    /// # Panics
    /// There is no such key.
    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("no entry found for key")
    }
}

/// See [`SharedMap::differences`].
#[derive(Debug)]
pub struct Differences<'a, K, V> {
    old: Cursor<'a, K, V>,
    new: Cursor<'a, K, V>,
}

/// A place in a map.
#[derive(Debug)]
struct Cursor<'a, K, V> {
    /// The chunk it is in, and those after.
    chunks: &'a [Chunk<K, V>],
    /// The entry in the first of them.
    at: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn peek(&self) -> Option<&'a (K, V)> {
        self.chunks.first()?.get(self.at)
    }

    fn step(&mut self) {
        self.at += 1;
        if self
            .chunks
            .first()
            .is_some_and(|chunk| self.at == chunk.len())
        {
            self.skip_chunk();
        }
    }

    fn skip_chunk(&mut self) {
        self.chunks = self.chunks.get(1..).unwrap_or_default();
        self.at = 0;
    }

    /// The chunk it is at the beginning of.
    fn whole_chunk(&self) -> Option<&'a Chunk<K, V>> {
        self.chunks.first().filter(|_| self.at == 0)
    }
}

impl<'a, K: Ord, V: PartialEq> Iterator for Differences<'a, K, V> {
    type Item = Difference<'a, K, V>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let (Some(old), Some(new)) = (self.old.whole_chunk(), self.new.whole_chunk())
                && Arc::ptr_eq(old, new)
            {
                self.old.skip_chunk();
                self.new.skip_chunk();
                continue;
            }
            let (old, new) = (self.old.peek(), self.new.peek());
            let first = match (old, new) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            if first.is_le() {
                self.old.step();
            }
            if first.is_ge() {
                self.new.step();
            }
            let old = old.filter(|_| first.is_le());
            let new = new.filter(|_| first.is_ge());
            let key = old.or(new).map(|(key, _)| key)?;
            let (old, new) = (old.map(|(_, value)| value), new.map(|(_, value)| value));
            if old != new {
                return Some(Difference { key, old, new });
            }
        }
    }
}

#[cfg(test)]
mod tests;
