//! The cells workers count into: an increment is one relaxed atomic add and never waits.
//!
//! A handle belongs to one shard (one worker), so that its cache line stays with that worker; the family sums the
//! shards when it is read. What a cell means (name, labels) is the family's business.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Envoy's and Istio's histogram bounds: milliseconds for durations, bytes for sizes.
/// Source: Envoy 1.40 `source/common/stats/histogram_impl.cc`, the default buckets.
pub const DEFAULT_BUCKETS: &[f64] = &[
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10000.0,
    30000.0,
    60000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// A monotonically growing count. `Default` gives one that no registry reads.
#[derive(Clone, Debug, Default)]
pub struct Counter(pub(crate) Arc<AtomicU64>);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// What this shard has counted.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A level that rises and falls. Shards are summed, so only one shard may `set`.
#[derive(Clone, Debug, Default)]
pub struct Gauge(pub(crate) Arc<AtomicI64>);

impl Gauge {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Subtracts one.
    pub fn dec(&self) {
        self.add(-1);
    }

    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Sets this shard's part.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// This shard's part.
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A distribution of whole numbers (milliseconds, bytes) over fixed buckets.
#[derive(Clone, Debug)]
pub struct Histogram(pub(crate) Arc<HistogramCell>);

#[derive(Debug)]
pub(crate) struct HistogramCell {
    /// Bounds rounded down: a whole number is `<= 0.5` exactly when it is `<= 0`.
    limits: Arc<[u64]>,
    /// One per bound, then one for what exceeds them all. Not cumulative.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// Counts one observation.
    pub fn record(&self, value: u64) {
        let cell = &*self.0;
        let bucket = cell.limits.partition_point(|limit| *limit < value);
        cell.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        cell.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// How many observations this shard has counted.
    pub fn count(&self) -> u64 {
        self.0
            .buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .sum()
    }
}

impl Default for Histogram {
    /// A histogram over [`DEFAULT_BUCKETS`] that no registry reads.
    fn default() -> Self {
        Histogram(Arc::new(HistogramCell::new(whole_limits(DEFAULT_BUCKETS))))
    }
}

impl HistogramCell {
    fn new(limits: Arc<[u64]>) -> Self {
        let buckets = (0..=limits.len()).map(|_| AtomicU64::new(0)).collect();
        HistogramCell {
            limits,
            buckets,
            sum: AtomicU64::new(0),
        }
    }
}

/// `bounds` as the largest whole number that each admits.
pub(crate) fn whole_limits(bounds: &[f64]) -> Arc<[u64]> {
    // A float-to-integer cast saturates, so that an odd bound can only make an odd bucket.
    bounds.iter().map(|bound| bound.floor() as u64).collect()
}

/// A cell of any kind, as a series keeps it.
#[derive(Debug)]
pub(crate) enum Cell {
    Counter(Arc<AtomicU64>),
    Gauge(Arc<AtomicI64>),
    Histogram(Arc<HistogramCell>),
}

/// What kind of metric a family is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram {
        bounds: Arc<[f64]>,
        limits: Arc<[u64]>,
    },
}

impl Kind {
    pub(crate) fn histogram(bounds: &[f64]) -> Kind {
        Kind::Histogram {
            bounds: bounds.into(),
            limits: whole_limits(bounds),
        }
    }

    /// The word Prometheus' `# TYPE` line and Envoy's `type` filter use.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram { .. } => "histogram",
        }
    }

    pub(crate) fn cell(&self) -> Cell {
        match self {
            Kind::Counter => Cell::Counter(Arc::default()),
            Kind::Gauge => Cell::Gauge(Arc::default()),
            Kind::Histogram { limits, .. } => {
                Cell::Histogram(Arc::new(HistogramCell::new(Arc::clone(limits))))
            }
        }
    }

    pub(crate) fn zero(&self) -> Value {
        match self {
            Kind::Counter => Value::Counter(0),
            Kind::Gauge => Value::Gauge(0),
            Kind::Histogram { limits, .. } => Value::Histogram {
                buckets: vec![0; limits.len() + 1].into(),
                sum: 0,
            },
        }
    }
}

impl Cell {
    /// Whether no handle to this cell is left, so that it cannot change any more.
    pub(crate) fn is_released(&mut self) -> bool {
        // `get_mut` (unlike `strong_count`) orders the last handle's writes before what we read next.
        match self {
            Cell::Counter(cell) => Arc::get_mut(cell).is_some(),
            Cell::Gauge(cell) => Arc::get_mut(cell).is_some(),
            Cell::Histogram(cell) => Arc::get_mut(cell).is_some(),
        }
    }

    /// Adds this cell's content to `total`, which is of the same kind.
    pub(crate) fn add_to(&self, total: &mut Value) {
        match (self, total) {
            (Cell::Counter(cell), Value::Counter(total)) => {
                *total = total.wrapping_add(cell.load(Ordering::Relaxed));
            }
            (Cell::Gauge(cell), Value::Gauge(total)) => {
                *total = total.wrapping_add(cell.load(Ordering::Relaxed));
            }
            (Cell::Histogram(cell), Value::Histogram { buckets, sum }) => {
                for (total, bucket) in buckets.iter_mut().zip(&cell.buckets) {
                    *total = total.wrapping_add(bucket.load(Ordering::Relaxed));
                }
                *sum = sum.wrapping_add(cell.sum.load(Ordering::Relaxed));
            }
            _ => debug_assert!(false, "a series holds cells of its family's kind only"),
        }
    }
}

/// The value of one series: the sum over all shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A count.
    Counter(u64),
    /// A level.
    Gauge(i64),
    /// Observations per bucket (not cumulative; the last one is above every bound) and their sum.
    Histogram {
        /// One count per bound, and one more.
        buckets: Box<[u64]>,
        /// Sum of the observed values.
        sum: u64,
    },
}

impl Value {
    /// A number that changes whenever something is counted.
    pub(crate) fn activity(&self) -> u64 {
        match self {
            Value::Counter(value) => *value,
            Value::Gauge(value) => value.cast_unsigned(),
            Value::Histogram { buckets, sum } => buckets
                .iter()
                .fold(*sum, |total, bucket| total.wrapping_add(*bucket)),
        }
    }

    /// Whether nothing was ever counted (for a gauge: whether it stands at zero).
    pub fn is_zero(&self) -> bool {
        match self {
            Value::Counter(value) => *value == 0,
            Value::Gauge(value) => *value == 0,
            Value::Histogram { buckets, .. } => buckets.iter().all(|bucket| *bucket == 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_falls_into_the_first_bucket_that_admits_it() {
        let histogram = Histogram::default();
        for value in [0, 1, 2, 5, 6, 3_600_000, 3_600_001] {
            histogram.record(value);
        }
        let mut total = Kind::histogram(DEFAULT_BUCKETS).zero();
        Cell::Histogram(Arc::clone(&histogram.0)).add_to(&mut total);
        let Value::Histogram { buckets, sum } = total else {
            panic!("a histogram")
        };
        assert_eq!(buckets[..4], [1, 1, 2, 1], "<=0.5, <=1, <=5, <=10");
        assert_eq!(buckets[18..], [1, 1], "the last bound and above it");
        assert_eq!(sum, 7_200_015);
    }

    #[test]
    fn a_cell_is_released_only_when_the_last_handle_is_gone() {
        let counter = Counter::default();
        let mut cell = Cell::Counter(Arc::clone(&counter.0));
        assert!(!cell.is_released());
        drop(counter);
        assert!(cell.is_released());
    }
}
