//! Which of Istio's metrics are reported, and with which labels: the standard ones, or those changed by configuration.
//!
//! A plan is made when configuration arrives. It names its families once; a request of a known kind costs nothing more for it.

use std::sync::Arc;

use super::labels::{MESSAGE_LABELS, REQUEST_LABELS, TCP_LABELS, UNKNOWN};
use crate::metrics::{
    CounterFamily, DEFAULT_BUCKETS, Descriptor, HistogramFamily, OVERFLOW_VALUE, Registry,
};

/// What differs from the standard metrics, in the order in which it was configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Changes {
    /// Each.
    pub metrics: Vec<Change>,
}

/// What differs of one metric.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Change {
    /// Without `istio_`; empty for every metric.
    pub metric: Arc<str>,
    /// It is not reported.
    pub drop: bool,
    /// Labels that are left out.
    pub remove: Vec<Arc<str>>,
    /// Labels that are added or have another value: the number of that value among those of a request.
    pub set: Vec<(Arc<str>, usize)>,
}

/// Where the value of a label is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The standard label of this number.
    Standard(usize),
    /// The configured value of this number.
    Value(usize),
}

/// A metric as a plan has it.
#[derive(Clone, Debug)]
pub(super) struct Planned<F> {
    pub(super) family: F,
    /// None: the standard labels as they are.
    sources: Option<Box<[Source]>>,
}

impl<F> Planned<F> {
    /// The values of the labels, of the standard ones and what was configured beside them.
    pub(super) fn values<'a>(&self, standard: &[&'a str], values: &'a [Box<str>]) -> Vec<&'a str> {
        let Some(sources) = &self.sources else {
            return standard.to_vec();
        };
        let value = |source: &Source| match *source {
            Source::Standard(index) => standard.get(index).copied().unwrap_or_default(),
            Source::Value(index) => match values.get(index) {
                Some(value) => value,
                // The values of the kind of request that stands for all beyond the limit.
                None if values.len() == 1 && &*values[0] == OVERFLOW_VALUE => OVERFLOW_VALUE,
                None => UNKNOWN,
            },
        };
        sources.iter().map(value).collect()
    }
}

/// Istio's metrics, each unless it is dropped.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) requests: Option<Planned<CounterFamily>>,
    pub(super) durations: Option<Planned<HistogramFamily>>,
    pub(super) request_bytes: Option<Planned<HistogramFamily>>,
    pub(super) response_bytes: Option<Planned<HistogramFamily>>,
    pub(super) request_messages: Option<Planned<CounterFamily>>,
    pub(super) response_messages: Option<Planned<CounterFamily>>,
    pub(super) tcp_sent: Option<Planned<CounterFamily>>,
    pub(super) tcp_received: Option<Planned<CounterFamily>>,
    pub(super) tcp_opened: Option<Planned<CounterFamily>>,
    pub(super) tcp_closed: Option<Planned<CounterFamily>>,
}

impl Plan {
    pub(super) fn new(registry: &Registry, changes: &Changes) -> Self {
        let counters = |name: &str, standard: &[&str]| {
            changes.of(name, standard).map(|(labels, sources)| Planned {
                family: registry.counters(descriptor(name, &labels)),
                sources,
            })
        };
        let histograms = |name: &str| {
            changes
                .of(name, &REQUEST_LABELS)
                .map(|(labels, sources)| Planned {
                    family: registry.histograms(descriptor(name, &labels), DEFAULT_BUCKETS),
                    sources,
                })
        };
        Self {
            requests: counters("requests_total", &REQUEST_LABELS),
            durations: histograms("request_duration_milliseconds"),
            request_bytes: histograms("request_bytes"),
            response_bytes: histograms("response_bytes"),
            request_messages: counters("request_messages_total", &MESSAGE_LABELS),
            response_messages: counters("response_messages_total", &MESSAGE_LABELS),
            tcp_sent: counters("tcp_sent_bytes_total", &TCP_LABELS),
            tcp_received: counters("tcp_received_bytes_total", &TCP_LABELS),
            tcp_opened: counters("tcp_connections_opened_total", &TCP_LABELS),
            tcp_closed: counters("tcp_connections_closed_total", &TCP_LABELS),
        }
    }
}

fn descriptor(name: &str, labels: &[Arc<str>]) -> Descriptor {
    let labels: Vec<&str> = labels.iter().map(|label| &**label).collect();
    Descriptor::new(&format!("istio_{name}"), "", &labels)
}

/// The labels of a metric, and where their values are from if they are not the standard ones.
type Labels = (Vec<Arc<str>>, Option<Box<[Source]>>);

impl Changes {
    /// The labels of a metric; none if it is dropped.
    fn of(&self, metric: &str, standard: &[&str]) -> Option<Labels> {
        let standard = standard.iter().enumerate();
        let mut labels: Vec<(Arc<str>, Source)> = standard
            .map(|(index, label)| (Arc::from(*label), Source::Standard(index)))
            .collect();
        let mut own = self
            .metrics
            .iter()
            .filter(|change| change.metric.is_empty() || &*change.metric == metric);
        let mut changed = false;
        if own.clone().any(|change| change.drop) {
            return None;
        }
        own.by_ref().for_each(|change| {
            changed |= !change.remove.is_empty() || !change.set.is_empty();
            labels.retain(|(label, _)| !change.remove.contains(label));
            for (label, value) in &change.set {
                match labels.iter_mut().find(|(known, _)| known == label) {
                    Some((_, source)) => *source = Source::Value(*value),
                    None => labels.push((Arc::clone(label), Source::Value(*value))),
                }
            }
        });
        let (labels, sources): (Vec<_>, Vec<_>) = labels.into_iter().unzip();
        Some((labels, changed.then(|| sources.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Arc<str> {
        text.into()
    }

    #[test]
    fn labels_are_removed_replaced_and_added_for_the_metrics_that_ask() {
        let changes = Changes {
            metrics: vec![
                Change {
                    metric: text(""),
                    remove: vec![text("source_app")],
                    ..Change::default()
                },
                Change {
                    metric: text("requests_total"),
                    set: vec![(text("host"), 1), (text("reporter"), 0)],
                    ..Change::default()
                },
                Change {
                    metric: text("request_bytes"),
                    drop: true,
                    ..Change::default()
                },
            ],
        };
        let registry = Registry::default();
        let plan = Plan::new(&registry, &changes);
        assert!(plan.request_bytes.is_none());
        let values: [Box<str>; 2] = ["me".into(), "shop".into()];
        let standard: Vec<String> = (0..REQUEST_LABELS.len()).map(|i| i.to_string()).collect();
        let standard: Vec<&str> = standard.iter().map(String::as_str).collect();
        let requests = plan.requests.unwrap().values(&standard, &values);
        assert_eq!((requests[0], requests[5], requests[6]), ("me", "5", "7"));
        assert_eq!(requests.last(), Some(&"shop"));
        let durations = plan.durations.unwrap().values(&standard, &values);
        assert_eq!(durations.len(), REQUEST_LABELS.len() - 1);
    }

    #[test]
    fn a_value_that_is_not_there_is_unknown() {
        let changes = Changes {
            metrics: vec![Change {
                set: vec![(text("host"), 0)],
                ..Change::default()
            }],
        };
        let plan = Plan::new(&Registry::default(), &changes);
        let requests = plan.requests.unwrap();
        assert_eq!(requests.values(&[], &[]).last(), Some(&UNKNOWN));
        let overflow: [Box<str>; 1] = [OVERFLOW_VALUE.into()];
        assert_eq!(
            requests.values(&[], &overflow).last(),
            Some(&OVERFLOW_VALUE)
        );
    }
}
