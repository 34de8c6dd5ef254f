//! A metric family: its series by label values, and the cells of each shard.
//!
//! Resolving a handle takes the family's lock, once per series and shard; counting through the handle takes none.
//! A series lives while a handle to it does, and then until it was idle for long enough ([`Limits::idle`]).

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::cell::{Cell, Counter, Gauge, Histogram, Kind, Value};
use super::name::Descriptor;
use super::strings::Strings;

/// What label values become once a family is full.
pub const OVERFLOW_VALUE: &str = "other";

/// Bounds on what the outside can make the registry remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Series per family. Beyond it everything new is counted under [`OVERFLOW_VALUE`]. 4,000 series of Istio's
    /// request histogram are about 90,000 lines, which Prometheus still reads in one scrape.
    pub series_per_family: usize,
    /// How long a series that nobody holds a handle to keeps its last value.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            series_per_family: 4_000,
            idle: Duration::from_secs(15 * 60),
        }
    }
}

/// Whose cells a handle counts into. Two workers never share a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard(u16);

impl Shard {
    /// The shard of everything that is not a worker.
    pub const CONTROL: Shard = Shard(0);

    /// The shard of the worker with this index.
    pub const fn worker(index: u16) -> Shard {
        Shard(index.saturating_add(1))
    }
}

pub(crate) type Labels = Arc<[Arc<str>]>;

#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) descriptor: Descriptor,
    pub(crate) kind: Kind,
    limits: Limits,
    strings: Arc<Strings>,
    /// Counts what overflowed; absent in the family that it belongs to.
    overflow: Option<CounterFamily>,
    state: Mutex<BTreeMap<Labels, Series>>,
}

#[derive(Debug)]
struct Series {
    cells: Vec<(Shard, Cell)>,
    /// What released cells had counted, if there were any.
    retired: Option<Box<Value>>,
    /// [`Value::activity`] at the last sweep that saw it change, and when that was.
    activity: u64,
    changed: Instant,
}

impl Family {
    pub(crate) fn new(
        descriptor: Descriptor,
        kind: Kind,
        limits: Limits,
        strings: Arc<Strings>,
        overflow: Option<CounterFamily>,
    ) -> Family {
        Family {
            descriptor,
            kind,
            limits,
            strings,
            overflow,
            state: Mutex::default(),
        }
    }

    /// A panic while the lock was held left at most a series without cells: the state stays usable.
    fn state(&self) -> MutexGuard<'_, BTreeMap<Labels, Series>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `with` with the cell of this series and shard, making both if need be.
    fn cell<T>(&self, shard: Shard, values: &[&str], with: impl FnOnce(&Cell) -> T) -> T {
        let count = self.descriptor.labels.len();
        debug_assert_eq!(values.len(), count, "{}", self.descriptor.prometheus);
        let value = |index: usize| values.get(index).copied().unwrap_or_default();
        let mut labels: Labels = (0..count).map(|i| self.strings.intern(value(i))).collect();
        let mut state = self.state();
        if count > 0 && state.len() >= self.limits.series_per_family && !state.contains_key(&labels)
        {
            labels = (0..count)
                .map(|_| self.strings.intern(OVERFLOW_VALUE))
                .collect();
            if let Some(overflow) = &self.overflow {
                overflow
                    .handle(Shard::CONTROL, &[&self.descriptor.prometheus])
                    .inc();
            }
        }
        let series = state.entry(labels).or_insert_with(|| Series {
            cells: Vec::new(),
            retired: None,
            activity: 0,
            changed: Instant::now(),
        });
        if let Some((_, cell)) = series.cells.iter().find(|(owner, _)| *owner == shard) {
            return with(cell);
        }
        let cell = self.kind.cell();
        let result = with(&cell);
        // Exactly one more: there are as many shards as workers, and many series.
        series.cells.reserve_exact(1);
        series.cells.push((shard, cell));
        result
    }

    /// The value of every series, in label order.
    pub(crate) fn values(&self) -> Vec<(Labels, Value)> {
        let state = self.state();
        state
            .iter()
            .map(|(labels, series)| (Arc::clone(labels), series.value(&self.kind)))
            .collect()
    }

    /// Sets every counter of the family to 0; what is counted at the same moment may be lost.
    pub(crate) fn reset_counters(&self) {
        for series in self.state().values_mut() {
            if let Some(Value::Counter(_)) = series.retired.as_deref() {
                series.retired = None;
            }
            for (_, cell) in &series.cells {
                if let Cell::Counter(cell) = cell {
                    cell.store(0, Ordering::Relaxed);
                }
            }
        }
    }

    /// Forgets series that nobody holds and that did not change for the idle time.
    pub(crate) fn sweep(&self, now: Instant) {
        let idle = self.limits.idle;
        self.state().retain(|_, series| {
            series.retire(&self.kind);
            let activity = series.value(&self.kind).activity();
            if activity != series.activity {
                series.activity = activity;
                series.changed = now;
            }
            !series.cells.is_empty() || now.saturating_duration_since(series.changed) < idle
        });
    }
}

impl Series {
    fn value(&self, kind: &Kind) -> Value {
        let mut total = self
            .retired
            .as_deref()
            .cloned()
            .unwrap_or_else(|| kind.zero());
        for (_, cell) in &self.cells {
            cell.add_to(&mut total);
        }
        total
    }

    /// Moves what released cells counted into `retired`, and lets the cells go.
    fn retire(&mut self, kind: &Kind) {
        let retired = &mut self.retired;
        self.cells.retain_mut(|(_, cell)| {
            if !cell.is_released() {
                return true;
            }
            cell.add_to(retired.get_or_insert_with(|| Box::new(kind.zero())));
            false
        });
    }
}

macro_rules! typed_family {
    ($(#[$doc:meta])* $family:ident, $handle:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $family(pub(crate) Arc<Family>);

        impl $family {
            /// The handle of one series in one shard. Values are in the order of the descriptor's labels.
            ///
            /// Takes the family's lock: resolve ahead or behind a cache, never per request.
            pub fn handle(&self, shard: Shard, values: &[&str]) -> $handle {
                self.0.cell(shard, values, |cell| match cell {
                    Cell::$handle(cell) => $handle(Arc::clone(cell)),
                    _ => $handle::default(),
                })
            }
        }
    };
}

typed_family!(
    /// A family of counters.
    CounterFamily, Counter
);
typed_family!(
    /// A family of gauges.
    GaugeFamily, Gauge
);
typed_family!(
    /// A family of histograms.
    HistogramFamily, Histogram
);
