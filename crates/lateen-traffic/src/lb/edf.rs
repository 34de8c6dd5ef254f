//! Schedules that give every entry its share in turn: earliest deadline first, as in Envoy's `EdfScheduler`.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A schedule over the entries `0..n`.
#[derive(Clone, Debug)]
pub(super) enum Scheduler {
    /// All weigh the same.
    Rotate { next: usize, length: usize },
    /// Weights differ.
    Edf(Edf),
}

/// Earliest deadline first.
#[derive(Clone, Debug, Default)]
pub(super) struct Edf {
    queue: BinaryHeap<Entry>,
    now: f64,
    order: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    deadline: f64,
    order: u64,
    index: usize,
}

impl Ord for Entry {
    /// The earliest deadline is the greatest; among equals the one that has waited longest.
    fn cmp(&self, other: &Self) -> Ordering {
        other
            .deadline
            .total_cmp(&self.deadline)
            .then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl Scheduler {
    /// A schedule that begins at a random place, so that workers and proxies do not march in step.
    pub(super) fn new(weights: &[f64], random: u64) -> Self {
        let equal = weights
            .windows(2)
            .all(|pair| (pair[0] - pair[1]).abs() < f64::EPSILON);
        let start = usize::try_from(random % weights.len().max(1) as u64).unwrap_or(0);
        if equal {
            return Self::Rotate {
                next: start,
                length: weights.len(),
            };
        }
        let mut edf = Edf::default();
        for (index, weight) in weights.iter().enumerate() {
            edf.add(index, *weight);
        }
        for _ in 0..start {
            edf.pick(|index| weights[index]);
        }
        Self::Edf(edf)
    }

    /// The next entry; `weight` gives its weight for the time after. `None` if there are none.
    pub(super) fn pick(&mut self, weight: impl Fn(usize) -> f64) -> Option<usize> {
        match self {
            Self::Rotate { length: 0, .. } => None,
            Self::Rotate { next, length } => {
                let picked = *next;
                *next = (picked + 1) % *length;
                Some(picked)
            }
            Self::Edf(edf) => edf.pick(weight),
        }
    }
}

impl Edf {
    fn add(&mut self, index: usize, weight: f64) {
        let deadline = self.now + 1.0 / weight.max(f64::MIN_POSITIVE);
        self.queue.push(Entry {
            deadline,
            order: self.order,
            index,
        });
        self.order += 1;
    }

    fn pick(&mut self, weight: impl Fn(usize) -> f64) -> Option<usize> {
        let entry = self.queue.pop()?;
        self.now = entry.deadline;
        self.add(entry.index, weight(entry.index));
        Some(entry.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(weights: &[f64], picks: usize) -> Vec<usize> {
        let mut scheduler = Scheduler::new(weights, 0);
        let mut counts = vec![0; weights.len()];
        for _ in 0..picks {
            counts[scheduler.pick(|index| weights[index]).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn equal_weights_take_turns() {
        assert_eq!(counts(&[3.0, 3.0, 3.0], 9), [3, 3, 3]);
    }

    #[test]
    fn picks_are_in_proportion_to_weights() {
        assert_eq!(counts(&[1.0, 2.0, 7.0], 1000), [100, 200, 700]);
    }

    #[test]
    fn nothing_is_picked_from_nothing() {
        assert_eq!(Scheduler::new(&[], 7).pick(|_| 1.0), None);
    }
}
