//! Istio's metrics as Telemetry objects change them: which are reported, and with which labels.
//!
//! Source: Istio, `model/telemetry.go` (`mergeMetrics`, `generateStatsConfig`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lateen_api::telemetry::{
    IstioMetric, MetricSelector, Metrics, MetricsOverrides, Telemetry, WorkloadMode,
};

use super::provider;
use crate::mesh::{ClassStats, Mesh, MetricOverride, Stats};

/// The provider of metrics that every mesh has.
const BUILT_IN: &str = "prometheus";

/// What clients and what servers report; one of both is all that a class of listeners has.
const MODES: [WorkloadMode; 2] = [WorkloadMode::Client, WorkloadMode::Server];

/// Metrics by their names in the API, in Istio's order, and by those that the filter knows.
const METRICS: [(&str, &str); 10] = [
    ("GRPC_REQUEST_MESSAGES", "request_messages_total"),
    ("GRPC_RESPONSE_MESSAGES", "response_messages_total"),
    ("REQUEST_COUNT", "requests_total"),
    ("REQUEST_DURATION", "request_duration_milliseconds"),
    ("REQUEST_SIZE", "request_bytes"),
    ("RESPONSE_SIZE", "response_bytes"),
    ("TCP_CLOSED_CONNECTIONS", "tcp_connections_closed_total"),
    ("TCP_OPENED_CONNECTIONS", "tcp_connections_opened_total"),
    ("TCP_RECEIVED_BYTES", "tcp_received_bytes_total"),
    ("TCP_SENT_BYTES", "tcp_sent_bytes_total"),
];

/// What objects say of one provider, by mode.
#[derive(Default)]
struct Merged<'a> {
    interval: Option<Duration>,
    modes: [Mode<'a>; 2],
}

#[derive(Default)]
struct Mode<'a> {
    /// Nothing is reported at all.
    off: bool,
    metrics: BTreeMap<&'a str, Overridden<'a>>,
}

#[derive(Default)]
struct Overridden<'a> {
    disabled: bool,
    /// The expression of a label's value; none takes the label away.
    tags: BTreeMap<&'a str, Option<&'a str>>,
}

/// The metrics of a workload.
pub(super) fn stats(objects: &[&Telemetry], mesh: &Mesh) -> ClassStats {
    let entries: Vec<&Metrics> = objects.iter().flat_map(|spec| &spec.metrics).collect();
    let built_in = [BUILT_IN.to_owned()];
    let defaults = match mesh.default_metric_providers.as_slice() {
        [] => &built_in[..],
        named => named,
    };
    let merged = merge(&entries, defaults);
    let reports = merged
        .iter()
        .filter(|(name, _)| is_prometheus(mesh, name))
        .map(|(_, merged)| merged);
    let of = |mode: usize| reports.clone().filter_map(move |m| m.stats(mode)).collect();
    ClassStats {
        client: of(0),
        server: of(1),
    }
}

/// Whether a provider is one of metrics. Others are for traces and logs.
fn is_prometheus(mesh: &Mesh, name: &str) -> bool {
    match provider(mesh, name) {
        Some(found) => found.prometheus.is_some(),
        None => name.eq_ignore_ascii_case(BUILT_IN),
    }
}

fn merge<'a>(entries: &[&'a Metrics], defaults: &'a [String]) -> BTreeMap<&'a str, Merged<'a>> {
    let defaults: Vec<&str> = defaults.iter().map(String::as_str).collect();
    let in_scope: BTreeSet<&str> = entries
        .iter()
        .rev()
        .map(|entry| names(entry))
        .find(|names| !names.is_empty())
        .unwrap_or_else(|| defaults.clone())
        .into_iter()
        .collect();
    let mut out: BTreeMap<&str, Merged<'_>> = BTreeMap::new();
    if entries.is_empty() {
        out.extend(defaults.iter().map(|name| (*name, Merged::default())));
    }
    let mut inherited = defaults;
    for entry in entries {
        let named = names(entry);
        if !named.is_empty() {
            inherited = named;
        }
        for name in inherited.iter().filter(|name| in_scope.contains(*name)) {
            let merged = out.entry(name).or_default();
            merged.interval = entry.reporting_interval.or(merged.interval);
            for change in &entry.overrides {
                merged.change(change);
            }
        }
    }
    out
}

fn names(entry: &Metrics) -> Vec<&str> {
    let providers = entry.providers.iter();
    providers.map(|provider| provider.name.as_str()).collect()
}

impl<'a> Merged<'a> {
    fn change(&mut self, change: &'a MetricsOverrides) {
        let selector = change.r#match.as_ref();
        let wanted = selector.map_or(WorkloadMode::ClientAndServer, |selector| selector.mode);
        let applies = |mode| wanted == WorkloadMode::ClientAndServer || wanted == mode;
        for (mode, own) in MODES.into_iter().zip(&mut self.modes) {
            if applies(mode) {
                own.change(selector, change);
            }
        }
    }

    /// What a class of listeners reports; none if it is switched off.
    fn stats(&self, mode: usize) -> Option<Stats> {
        let own = &self.modes[mode];
        (!own.off).then(|| Stats {
            interval: self.interval,
            overrides: own.metrics.iter().map(|(name, own)| own.of(name)).collect(),
        })
    }
}

impl<'a> Mode<'a> {
    fn change(&mut self, selector: Option<&'a MetricSelector>, change: &'a MetricsOverrides) {
        let selected = selected(selector);
        if selected.is_none() && change.disabled == Some(true) {
            self.off = true;
            return;
        }
        self.off = false;
        let all = || METRICS.iter().map(|(name, _)| *name).collect();
        for metric in selected.map_or_else(all, |name| vec![name]) {
            let own = self.metrics.entry(metric).or_default();
            own.disabled = change.disabled.unwrap_or(own.disabled);
            for (tag, to) in &change.tag_overrides {
                use lateen_api::telemetry::TagOverrideOperation::{Remove, Upsert};
                let value = match to.operation {
                    Upsert => Some(to.value.as_str()),
                    Remove => None,
                };
                own.tags.insert(tag, value);
            }
        }
    }
}

/// The one metric that is selected; none stands for all.
fn selected(selector: Option<&MetricSelector>) -> Option<&str> {
    let selector = selector?;
    match (&selector.custom_metric, selector.metric) {
        (Some(custom), _) => Some(custom),
        (None, None | Some(IstioMetric::AllMetrics)) => None,
        (None, Some(metric)) => Some(metric.as_str()),
    }
}

impl Overridden<'_> {
    fn of(&self, name: &str) -> MetricOverride {
        let known = METRICS.iter().find(|(ours, _)| *ours == name);
        let removed = self.tags.iter().filter(|(_, value)| value.is_none());
        let text = |(tag, value): (&&str, &Option<&str>)| {
            value.map(|value| ((*tag).to_owned(), value.to_owned()))
        };
        MetricOverride {
            name: known.map_or(name, |(_, filters)| filters).to_owned(),
            disabled: self.disabled,
            dimensions: self.tags.iter().filter_map(text).collect(),
            removed: removed.map(|(tag, _)| (*tag).to_owned()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lateen_api::telemetry::{ProviderRef, TagOverride, TagOverrideOperation};

    fn change(metric: IstioMetric, mode: WorkloadMode, disabled: Option<bool>) -> MetricsOverrides {
        MetricsOverrides {
            r#match: Some(MetricSelector {
                metric: Some(metric),
                mode,
                ..Default::default()
            }),
            disabled,
            ..Default::default()
        }
    }

    fn tag(metric: IstioMetric, name: &str, value: Option<&str>) -> MetricsOverrides {
        let to = TagOverride {
            operation: match value {
                Some(_) => TagOverrideOperation::Upsert,
                None => TagOverrideOperation::Remove,
            },
            value: value.unwrap_or_default().to_owned(),
        };
        MetricsOverrides {
            tag_overrides: BTreeMap::from([(name.to_owned(), to)]),
            ..change(metric, WorkloadMode::ClientAndServer, None)
        }
    }

    fn object(overrides: Vec<MetricsOverrides>) -> Telemetry {
        Telemetry {
            metrics: vec![Metrics {
                overrides,
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    fn of(objects: &[Telemetry]) -> ClassStats {
        stats(&objects.iter().collect::<Vec<_>>(), &Mesh::default())
    }

    #[test]
    fn without_telemetry_the_standard_metrics_are_reported_once() {
        assert_eq!(of(&[]), ClassStats::default());
        assert_eq!(of(&[]).client, vec![Stats::default()]);
    }

    #[test]
    fn a_label_is_set_for_one_metric_and_taken_from_all() {
        use IstioMetric::{AllMetrics, RequestCount};
        let made = of(&[
            object(vec![tag(RequestCount, "host", Some("request.host"))]),
            object(vec![tag(AllMetrics, "source_app", None)]),
        ]);
        assert_eq!(made.client, made.server);
        let [stats] = &made.client[..] else {
            panic!("{made:?}");
        };
        assert_eq!(stats.overrides.len(), METRICS.len());
        let count = &stats.overrides[2];
        assert_eq!(count.name, "requests_total");
        assert_eq!(count.dimensions["host"], "request.host");
        assert!(stats.overrides.iter().all(|o| o.removed == ["source_app"]));
    }

    #[test]
    fn what_is_switched_off_for_all_is_switched_on_again_by_the_namespace() {
        use IstioMetric::{AllMetrics, RequestCount};
        let off = || object(vec![change(AllMetrics, WorkloadMode::Client, Some(true))]);
        let made = of(&[off()]);
        assert!(made.client.is_empty() && made.server.len() == 1);
        let on = object(vec![change(
            RequestCount,
            WorkloadMode::Client,
            Some(false),
        )]);
        assert_eq!(of(&[off(), on]).client.len(), 1);
    }

    #[test]
    fn one_metric_can_be_dropped_and_an_interval_set() {
        let dropped = change(IstioMetric::RequestSize, WorkloadMode::Server, Some(true));
        let mut dropping = object(vec![dropped]);
        dropping.metrics[0].reporting_interval = Some(Duration::from_secs(7));
        let made = of(&[dropping]);
        assert_eq!(made.server[0].interval, Some(Duration::from_secs(7)));
        let [request_size] = &made.server[0].overrides[..] else {
            panic!("{made:?}");
        };
        assert!(request_size.disabled && request_size.name == "request_bytes");
        assert!(made.client[0].overrides.is_empty());
    }

    #[test]
    fn a_provider_that_is_none_of_metrics_reports_none() {
        let elsewhere = Telemetry {
            metrics: vec![Metrics {
                providers: vec![ProviderRef {
                    name: "stackdriver".to_owned(),
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        assert!(of(&[elsewhere]).client.is_empty());
    }
}
