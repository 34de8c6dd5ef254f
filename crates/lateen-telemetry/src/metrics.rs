//! The metrics registry: families of counters, gauges and histograms for workers that share nothing.
//!
//! A worker resolves handles ahead ([`CounterFamily::handle`]) or through a cache of its own ([`istio::WorkerMetrics`]);
//! an increment is then one relaxed atomic add on a cell that no other worker writes. [`Registry::snapshot`] sums
//! the shards, and [`render`] prints a snapshot as Envoy's `/stats` does. Memory is bounded ([`Limits`]): a full
//! family counts what is new under `other`, and idle series are forgotten by [`Registry::sweep`].
//!
//! It does not serve HTTP, run timers or read the clock for its callers.

mod cell;
pub mod envoy;
mod family;
pub mod istio;
mod name;
pub mod render;
mod strings;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub use cell::{Counter, DEFAULT_BUCKETS, Gauge, Histogram, Value};
pub use family::{CounterFamily, GaugeFamily, HistogramFamily, Limits, OVERFLOW_VALUE, Shard};
pub use name::Descriptor;

use cell::Kind;
use family::{Family, Labels};
use strings::Strings;

/// Counts resolutions that met a full family, by family.
const OVERFLOW_NAME: &str = "lateen_metrics_overflow_total";

/// What tells families apart. Of one name there may be several, with other labels each, where configuration changes labels.
type FamilyKey = (Arc<str>, Arc<[Arc<str>]>);

/// All metric families of a process. Clones share it.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: Limits,
    strings: Arc<Strings>,
    overflow: CounterFamily,
    families: Mutex<BTreeMap<FamilyKey, Arc<Family>>>,
    kept: Mutex<Vec<Gauge>>,
}

impl Default for Registry {
    fn default() -> Self {
        Registry::new(Limits::default())
    }
}

impl Registry {
    /// An empty registry.
    pub fn new(limits: Limits) -> Registry {
        let strings = Arc::new(Strings::default());
        let descriptor = Descriptor::new(
            OVERFLOW_NAME,
            "Label sets counted under `other` because their family was full.",
            &["family"],
        );
        let name = key(&descriptor);
        let family = Family::new(
            descriptor,
            Kind::Counter,
            limits,
            Arc::clone(&strings),
            None,
        );
        let family = Arc::new(family);
        let families = BTreeMap::from([(name, Arc::clone(&family))]);
        let overflow = CounterFamily(family);
        let families = Mutex::new(families);
        Registry(Arc::new(Inner {
            limits,
            strings,
            overflow,
            families,
            kept: Mutex::default(),
        }))
    }

    /// The family of counters with this descriptor, made if it is new.
    pub fn counters(&self, descriptor: Descriptor) -> CounterFamily {
        CounterFamily(self.family(descriptor, Kind::Counter))
    }

    /// The family of gauges with this descriptor, made if it is new.
    pub fn gauges(&self, descriptor: Descriptor) -> GaugeFamily {
        GaugeFamily(self.family(descriptor, Kind::Gauge))
    }

    /// The family of histograms with this descriptor, made if it is new. `bounds` ascend; [`DEFAULT_BUCKETS`] are
    /// Envoy's.
    pub fn histograms(&self, descriptor: Descriptor, bounds: &[f64]) -> HistogramFamily {
        HistogramFamily(self.family(descriptor, Kind::histogram(bounds)))
    }

    /// Two different metrics under one name are a bug in the caller: the later one counts, but is not shown.
    fn family(&self, descriptor: Descriptor, kind: Kind) -> Arc<Family> {
        let inner = &*self.0;
        let mut families = self.families();
        let key = key(&descriptor);
        let known = families.get(&key);
        if let Some(known) = known
            && known.kind == kind
        {
            return Arc::clone(known);
        }
        let same = families.range((Arc::clone(&key.0), Arc::from([]))..);
        let mut same = same.take_while(|((name, _), _)| *name == key.0);
        let conflict = same.any(|(_, family)| family.kind != kind);
        let name = Arc::clone(&key.0);
        let overflow = inner.overflow.clone();
        let strings = Arc::clone(&inner.strings);
        let family = Family::new(descriptor, kind, inner.limits, strings, Some(overflow));
        let family = Arc::new(family);
        if conflict {
            debug_assert!(false, "two metrics are called {name}");
            tracing::error!(%name, "two metrics have one name; the later one is not shown");
        } else {
            families.insert(key, Arc::clone(&family));
        }
        family
    }

    /// Holds `gauge` for the registry's life: what says what the process is must not expire for want of a holder.
    pub fn keep(&self, gauge: Gauge) -> Gauge {
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(gauge.clone());
        gauge
    }

    fn families(&self) -> MutexGuard<'_, BTreeMap<FamilyKey, Arc<Family>>> {
        self.0
            .families
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The value of every series now, families by name and series by label values.
    ///
    /// Increments never wait for it. A worker that meets a series for the first time waits at most until that one
    /// family is copied.
    pub fn snapshot(&self) -> Snapshot {
        let families: Vec<Arc<Family>> = self.families().values().cloned().collect();
        let families = families
            .into_iter()
            .map(|family| FamilySnapshot {
                descriptor: family.descriptor.clone(),
                kind: family.kind.clone(),
                series: family.values(),
            })
            .collect();
        Snapshot { families }
    }

    /// Sets every counter to 0 (Envoy's `/reset_counters`). Gauges and histograms stay.
    pub fn reset_counters(&self) {
        let families: Vec<Arc<Family>> = self.families().values().cloned().collect();
        for family in families {
            family.reset_counters();
        }
    }

    /// Forgets what was idle for [`Limits::idle`] and is held by nobody. Meant to run every half minute or so, off
    /// the workers.
    pub fn sweep(&self, now: Instant) {
        let families: Vec<Arc<Family>> = self.families().values().cloned().collect();
        for family in families {
            family.sweep(now);
        }
        self.0.strings.sweep();
    }
}

fn key(descriptor: &Descriptor) -> FamilyKey {
    (
        Arc::clone(&descriptor.prometheus),
        Arc::clone(&descriptor.labels),
    )
}

/// The values of a registry at one time.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) families: Vec<FamilySnapshot>,
}

#[derive(Clone, Debug)]
pub(crate) struct FamilySnapshot {
    pub(crate) descriptor: Descriptor,
    pub(crate) kind: Kind,
    pub(crate) series: Vec<(Labels, Value)>,
}

impl Snapshot {
    /// Leaves out the series whose stat name (as `/stats` shows it) is not to be kept.
    #[must_use]
    pub fn keeping(mut self, keep: impl Fn(&str) -> bool) -> Self {
        let mut name = String::new();
        for family in &mut self.families {
            let descriptor = &family.descriptor;
            family.series.retain(|(labels, _)| {
                name.clear();
                descriptor.write_stat_name(labels, &mut name);
                keep(&name)
            });
        }
        self
    }

    /// The value of the series of `name` (Prometheus' name) whose labels include all of `labels`, summed; `None` if
    /// there is no such series.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<Value> {
        let families = self.families.iter();
        let named = families.filter(|family| family.descriptor.prometheus_name() == name);
        let matches = |family: &FamilySnapshot, values: &Labels| {
            labels.iter().all(|(name, value)| {
                let mut names = family.descriptor.label_names();
                let index = names.position(|label| label == *name);
                index.is_some_and(|index| &*values[index] == *value)
            })
        };
        let found = named.flat_map(|family| {
            let series = family.series.iter();
            series.filter(move |(values, _)| matches(family, values))
        });
        found.map(|(_, value)| value.clone()).reduce(sum)
    }

    /// [`Snapshot::value`] of a counter, 0 if there is none.
    pub fn counter(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        match self.value(name, labels) {
            Some(Value::Counter(value)) => value,
            _ => 0,
        }
    }
}

fn sum(left: Value, right: Value) -> Value {
    match (left, right) {
        (Value::Counter(a), Value::Counter(b)) => Value::Counter(a.wrapping_add(b)),
        (Value::Gauge(a), Value::Gauge(b)) => Value::Gauge(a.wrapping_add(b)),
        (
            Value::Histogram { mut buckets, sum },
            Value::Histogram {
                buckets: more,
                sum: plus,
            },
        ) => {
            for (bucket, more) in buckets.iter_mut().zip(&more) {
                *bucket = bucket.wrapping_add(*more);
            }
            Value::Histogram {
                buckets,
                sum: sum.wrapping_add(plus),
            }
        }
        (left, _) => left,
    }
}

#[cfg(test)]
mod tests;
