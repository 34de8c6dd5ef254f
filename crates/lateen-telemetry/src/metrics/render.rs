//! Renderings of a snapshot: Prometheus' text exposition and Envoy's `/stats` as text and JSON.
//!
//! Source: Prometheus text format 0.0.4; Envoy 1.40 admin interface (`/stats`, `/stats?format=json`,
//! `/stats/prometheus`). One difference: a gauge counts as used when it is not zero.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::cell::Kind;
use super::family::Labels;
use super::{FamilySnapshot, Snapshot, Value};

/// The content type of [`prometheus`].
pub const PROMETHEUS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The quantiles Envoy reports of a histogram, in percent.
const QUANTILES: [f64; 10] = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

/// Which stats to render.
#[derive(Clone, Copy, Default)]
pub struct Filter<'a> {
    /// Envoy's `usedonly`: leave out what was never counted.
    pub used_only: bool,
    /// Envoy's `filter`: keeps stats whose stat name it accepts.
    pub name: Option<&'a dyn Fn(&str) -> bool>,
    /// Envoy's `type`.
    pub kind: Option<StatKind>,
}

/// Envoy's `type` parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum StatKind {
    Counters,
    Gauges,
    Histograms,
}

impl Filter<'_> {
    fn accepts_kind(&self, kind: &Kind) -> bool {
        match self.kind {
            None => true,
            Some(StatKind::Counters) => matches!(kind, Kind::Counter),
            Some(StatKind::Gauges) => matches!(kind, Kind::Gauge),
            Some(StatKind::Histograms) => matches!(kind, Kind::Histogram { .. }),
        }
    }

    fn accepts(&self, family: &FamilySnapshot, labels: &Labels, value: &Value) -> bool {
        if self.used_only && value.is_zero() {
            return false;
        }
        self.name
            .is_none_or(|accepts| accepts(&stat_name(family, labels)))
    }
}

fn stat_name(family: &FamilySnapshot, labels: &Labels) -> String {
    let mut name = String::new();
    family.descriptor.write_stat_name(labels, &mut name);
    name
}

/// The series of `snapshot` that `filter` accepts, by family; families without any are left out.
fn selected<'a>(
    snapshot: &'a Snapshot,
    filter: &'a Filter<'_>,
) -> impl Iterator<Item = (&'a FamilySnapshot, Vec<&'a (Labels, Value)>)> {
    snapshot
        .families
        .iter()
        .filter(|family| filter.accepts_kind(&family.kind))
        .filter_map(|family| {
            let accepted = family
                .series
                .iter()
                .filter(|(l, value)| filter.accepts(family, l, value));
            let series: Vec<_> = accepted.collect();
            (!series.is_empty()).then_some((family, series))
        })
}

/// Appends `snapshot` in Prometheus' text exposition format.
pub fn prometheus(snapshot: &Snapshot, filter: &Filter<'_>, out: &mut String) {
    let mut scratch = String::new();
    let mut last = "";
    for (family, series) in selected(snapshot, filter) {
        let name = &*family.descriptor.prometheus;
        // Families of one name are told once; they differ in their labels alone, and stand together.
        let is_told = std::mem::replace(&mut last, name) == name;
        if !is_told && !family.descriptor.help.is_empty() {
            out.push_str("# HELP ");
            out.push_str(name);
            out.push(' ');
            escape_help(&family.descriptor.help, out);
            out.push('\n');
        }
        if !is_told {
            let _ = writeln!(out, "# TYPE {name} {}", family.kind.word());
        }
        for (labels, value) in series {
            prometheus_series(family, labels, value, &mut scratch, out);
        }
    }
}

/// Appends the lines of one series. `scratch` is reused from series to series.
fn prometheus_series(
    family: &FamilySnapshot,
    labels: &Labels,
    value: &Value,
    scratch: &mut String,
    out: &mut String,
) {
    // A histogram repeats its labels on every line: they are escaped once.
    scratch.clear();
    write_labels(family, labels, scratch);
    let line = Line {
        name: &family.descriptor.prometheus,
        labels: scratch,
    };
    match (value, &family.kind) {
        (Value::Counter(value), _) => {
            line.write("", None, out);
            let _ = writeln!(out, " {value}");
        }
        (Value::Gauge(value), _) => {
            line.write("", None, out);
            let _ = writeln!(out, " {value}");
        }
        (Value::Histogram { buckets, sum }, Kind::Histogram { bounds, .. }) => {
            let mut count = 0u64;
            let limits = bounds.iter().copied().chain([f64::INFINITY]);
            for (bucket, limit) in buckets.iter().zip(limits) {
                count = count.wrapping_add(*bucket);
                line.write("_bucket", Some(limit), out);
                let _ = writeln!(out, " {count}");
            }
            line.write("_sum", None, out);
            let _ = writeln!(out, " {sum}");
            line.write("_count", None, out);
            let _ = writeln!(out, " {count}");
        }
        (Value::Histogram { .. }, _) => {}
    }
}

/// What every line of a series has.
struct Line<'a> {
    name: &'a str,
    /// `name="value",…`, without braces.
    labels: &'a str,
}

impl Line<'_> {
    fn write(&self, suffix: &str, le: Option<f64>, out: &mut String) {
        out.push_str(self.name);
        out.push_str(suffix);
        if self.labels.is_empty() && le.is_none() {
            return;
        }
        out.push('{');
        out.push_str(self.labels);
        if let Some(limit) = le {
            if !self.labels.is_empty() {
                out.push(',');
            }
            // Writing to a `String` cannot fail.
            let _ = match limit.is_infinite() {
                true => write!(out, "le=\"+Inf\""),
                false => write!(out, "le=\"{limit}\""),
            };
        }
        out.push('}');
    }
}

/// Appends the labels of a series. Those with an empty value are the same as absent ones, and left out.
fn write_labels(family: &FamilySnapshot, values: &[Arc<str>], out: &mut String) {
    for (label, value) in family.descriptor.labels.iter().zip(values) {
        if value.is_empty() {
            continue;
        }
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(label);
        out.push_str("=\"");
        escape_label(value, out);
        out.push('"');
    }
}

/// Source: Prometheus exposition formats, "label_value".
fn escape_label(value: &str, out: &mut String) {
    if !value.contains(['\\', '"', '\n']) {
        return out.push_str(value);
    }
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

fn escape_help(help: &str, out: &mut String) {
    for c in help.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

/// Appends `snapshot` as Envoy's plain `/stats`: counters and gauges by name, then histograms by name.
pub fn text(snapshot: &Snapshot, filter: &Filter<'_>, out: &mut String) {
    let (mut plain, mut histograms) = (Vec::new(), Vec::new());
    for (family, series) in selected(snapshot, filter) {
        for (labels, value) in series {
            let name = stat_name(family, labels);
            match value {
                Value::Counter(value) => plain.push((name, value.to_string())),
                Value::Gauge(value) => plain.push((name, value.to_string())),
                Value::Histogram { buckets, .. } => {
                    histograms.push((name, quantile_text(buckets, &family.kind)));
                }
            }
        }
    }
    for stats in [&mut plain, &mut histograms] {
        stats.sort();
        for (name, value) in stats {
            let _ = writeln!(out, "{name}: {value}");
        }
    }
}

fn quantile_text(buckets: &[u64], kind: &Kind) -> String {
    if buckets.iter().all(|bucket| *bucket == 0) {
        return "No recorded values".to_owned();
    }
    let mut text = String::new();
    for percent in QUANTILES {
        let value = quantile(buckets, kind, percent / 100.0).unwrap_or(f64::NAN);
        let space = if text.is_empty() { "" } else { " " };
        // The first number is of the flush interval that has no samples here, as Envoy prints it without a sink.
        let _ = write!(text, "{space}P{percent}(nan,{})", rounded(value));
    }
    text
}

/// `snapshot` as Envoy's `/stats?format=json`.
pub fn json(snapshot: &Snapshot, filter: &Filter<'_>) -> Json {
    let mut stats = Vec::new();
    let mut computed = Vec::new();
    for (family, series) in selected(snapshot, filter) {
        for (labels, value) in series {
            let name = stat_name(family, labels);
            match value {
                Value::Counter(value) => stats.push((name.clone(), json!(value))),
                Value::Gauge(value) => stats.push((name.clone(), json!(value))),
                Value::Histogram { buckets, .. } => {
                    let values: Vec<Json> = QUANTILES
                        .iter()
                        .map(|percent| {
                            quantile(buckets, &family.kind, percent / 100.0).map(rounded)
                        })
                        .map(|value| json!({ "interval": null, "cumulative": value }))
                        .collect();
                    computed.push((name, json!(values)));
                }
            }
        }
    }
    stats.sort_by(|a, b| a.0.cmp(&b.0));
    computed.sort_by(|a, b| a.0.cmp(&b.0));
    let mut entries: Vec<Json> = stats
        .into_iter()
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect();
    if !computed.is_empty() {
        let computed: Vec<Json> = computed
            .into_iter()
            .map(|(name, values)| json!({ "name": name, "values": values }))
            .collect();
        entries.push(json!({
            "histograms": { "supported_quantiles": QUANTILES, "computed_quantiles": computed }
        }));
    }
    json!({ "stats": entries })
}

/// The value below which `share` of the observations lie, interpolated within its bucket; `None` without any.
/// Observations above the last bound are reported as that bound.
fn quantile(buckets: &[u64], kind: &Kind, share: f64) -> Option<f64> {
    let Kind::Histogram { bounds, .. } = kind else {
        return None;
    };
    let total: u64 = buckets.iter().sum();
    if total == 0 {
        return None;
    }
    let wanted = share * total as f64;
    let mut below = 0.0;
    for (index, count) in buckets.iter().enumerate() {
        let count = *count as f64;
        if count > 0.0 && below + count >= wanted {
            let low = index
                .checked_sub(1)
                .and_then(|i| bounds.get(i))
                .copied()
                .unwrap_or(0.0);
            let high = bounds.get(index).copied().unwrap_or(low);
            return Some(low + (high - low) * ((wanted - below) / count).clamp(0.0, 1.0));
        }
        below += count;
    }
    bounds.last().copied()
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
