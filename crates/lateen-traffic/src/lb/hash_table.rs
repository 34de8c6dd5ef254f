//! Consistent hashing: Envoy's ring (Ketama) and Maglev's table, entry for entry, so that a mixed fleet agrees on hosts.

use crate::route::xx_hash64;

/// Entries of a Maglev table unless set otherwise. Source: Envoy.
pub const PRIME_DEFAULT: u64 = 65_537;

/// A table from hashes to hosts.
#[derive(Clone, Debug)]
pub enum HashTable {
    /// A ring: hashes in order, each with its host.
    Ring(Vec<(u64, u32)>),
    /// Maglev's table.
    Maglev(Vec<u32>),
}

/// A host in a table: its index, its key and its share of all weight (shares add up to 1).
#[derive(Clone, Debug)]
pub(super) struct HashEntry {
    pub(super) host: u32,
    pub(super) key: String,
    pub(super) share: f64,
}

impl HashTable {
    /// Builds a ring. Source: Envoy's `RingHashLoadBalancer::Ring`.
    pub(super) fn ring(entries: &[HashEntry], minimum: u64, maximum: u64) -> Self {
        let least = entries
            .iter()
            .map(|entry| entry.share)
            .fold(f64::INFINITY, f64::min);
        #[expect(clippy::cast_precision_loss, reason = "ring sizes are far below 2^52")]
        let (minimum, maximum) = (minimum as f64, maximum as f64);
        // The host of least weight gets a whole number of entries, unless the ring would become too large.
        let scale = ((least * minimum).ceil() / least).min(maximum);
        let mut ring = Vec::new();
        let (mut current, mut target) = (0.0, 0.0);
        for entry in entries {
            target += scale * entry.share;
            let mut number = 0_u64;
            while current < target {
                ring.push((
                    xx_hash64(format!("{}_{number}", entry.key).as_bytes(), 0),
                    entry.host,
                ));
                number += 1;
                current += 1.0;
            }
        }
        ring.sort_by_key(|(hash, _)| *hash);
        Self::Ring(ring)
    }

    /// Builds a Maglev table. Source: Envoy's `MaglevTable`.
    pub(super) fn maglev(entries: &[HashEntry], size: u64) -> Self {
        let size = size.max(2);
        let mut builders: Vec<Permutation> = entries
            .iter()
            .map(|entry| Permutation::new(entry, size))
            .collect();
        let most = entries.iter().map(|entry| entry.share).fold(0.0, f64::max);
        let mut table = vec![u32::MAX; usize::try_from(size).unwrap_or(0)];
        let mut left = table.len();
        let mut iteration = 1.0;
        while left > 0 && !builders.is_empty() {
            for builder in &mut builders {
                if left == 0 {
                    break;
                }
                // The heaviest host takes an entry in every iteration, others in proportion.
                if iteration * builder.share < builder.target {
                    continue;
                }
                builder.target += most;
                builder.claim(&mut table);
                left -= 1;
            }
            iteration += 1.0;
        }
        Self::Maglev(table)
    }

    /// The host of a hash; later attempts give others.
    pub fn find(&self, hash: u64, attempt: u32) -> Option<usize> {
        match self {
            Self::Ring(ring) if ring.is_empty() => None,
            Self::Ring(ring) => {
                let first = ring.partition_point(|(entry, _)| *entry < hash);
                Some(ring[(first + attempt as usize) % ring.len()].1 as usize)
            }
            Self::Maglev(table) => {
                let hash = if attempt == 0 {
                    hash
                } else {
                    hash ^ (!0 - u64::from(attempt) + 1)
                };
                let slot = hash.checked_rem(table.len() as u64)?;
                table
                    .get(usize::try_from(slot).ok()?)
                    .filter(|host| **host != u32::MAX)
                    .map(|host| *host as usize)
            }
        }
    }
}

/// The order in which a host claims entries of a Maglev table.
struct Permutation {
    host: u32,
    share: f64,
    target: f64,
    offset: u64,
    skip: u64,
    next: u64,
    size: u64,
}

impl Permutation {
    fn new(entry: &HashEntry, size: u64) -> Self {
        let offset = xx_hash64(entry.key.as_bytes(), 0) % size;
        let skip = xx_hash64(entry.key.as_bytes(), 1) % (size - 1) + 1;
        Self {
            host: entry.host,
            share: entry.share,
            target: 0.0,
            offset,
            skip,
            next: 0,
            size,
        }
    }

    /// Takes the next free entry. There is one, and as the size is prime the permutation comes by it.
    fn claim(&mut self, table: &mut [u32]) {
        for _ in 0..self.size {
            let slot = (self.offset + self.skip * self.next) % self.size;
            self.next += 1;
            let entry = usize::try_from(slot)
                .ok()
                .and_then(|slot| table.get_mut(slot));
            if let Some(entry @ &mut u32::MAX) = entry {
                *entry = self.host;
                return;
            }
        }
    }
}
