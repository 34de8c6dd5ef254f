//! What hosts report of their load in answers (ORCA), and how long it counts.
//!
//! Source: Envoy 1.40, `source/common/orca`: the headers or trailers `endpoint-load-metrics-bin` (protobuf in base64) and
//! `endpoint-load-metrics` (`TEXT `, `JSON ` or `BIN ` and what follows). A report that cannot be read is none.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName};
use lateen_traffic::cluster::Cluster;
use lateen_traffic::lb::{HostSet, LoadReport, UtilizationWeights};
use prost::Message;

use super::host::HostState;

static BINARY: HeaderName = HeaderName::from_static("endpoint-load-metrics-bin");
static TEXT: HeaderName = HeaderName::from_static("endpoint-load-metrics");

/// Bytes of a report that are read.
const MAX_REPORT: usize = 8 * 1024;

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What a host's reports came to, over all workers. Times are milliseconds of this process; 0 is never.
#[derive(Debug, Default)]
pub(crate) struct Reported {
    weight: AtomicU32,
    since: AtomicU64,
    last: AtomicU64,
}

/// Whose reports are listened to in trailers.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    pub(crate) host: Rc<HostState>,
    pub(crate) settings: Arc<UtilizationWeights>,
}

impl Listener {
    /// Takes the report of trailers, if there is one.
    pub(crate) fn note(&self, trailers: &HeaderMap) {
        self.host.record.reported.note(&self.settings, trailers);
    }
}

impl Reported {
    /// Takes the report of headers or trailers, if there is one.
    pub(crate) fn note(&self, settings: &UtilizationWeights, headers: &HeaderMap) {
        let report = read(headers);
        if let Some(weight) = report.and_then(|report| settings.weight(&report)) {
            self.set(weight, now());
        }
    }

    fn set(&self, weight: u32, now: u64) {
        self.weight.store(weight, Ordering::Relaxed);
        self.last.store(now, Ordering::Relaxed);
        // Only the first of a row of reports begins it.
        let _ = self
            .since
            .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The weight, where reports have come for long enough, and of late.
    fn weight(&self, settings: &UtilizationWeights, now: u64) -> Option<u32> {
        let (since, last) = (
            self.since.load(Ordering::Relaxed),
            self.last.load(Ordering::Relaxed),
        );
        if since == 0 {
            return None;
        }
        if now.saturating_sub(last) > millis(settings.expiration) {
            self.since.store(0, Ordering::Relaxed);
            return None;
        }
        let lasted = now.saturating_sub(since) >= millis(settings.blackout);
        lasted.then(|| self.weight.load(Ordering::Relaxed))
    }
}

/// Weighs the hosts of a cluster by their reports, if it asks for that; when to do so again.
pub(super) fn weigh(
    cluster: &Cluster,
    hosts: &[Option<Rc<HostState>>],
    set: &mut HostSet,
) -> Option<tokio::time::Instant> {
    let settings = cluster.utilization.as_ref()?;
    let now = now();
    let weights: Vec<Option<u32>> = hosts
        .iter()
        .map(|host| host.as_ref()?.record.reported.weight(settings, now))
        .collect();
    set.weigh(&weights);
    Some(tokio::time::Instant::now() + settings.update)
}

fn now() -> u64 {
    millis(BEGAN.elapsed()).max(1)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `xds.data.orca.v3.OrcaLoadReport`, by its numbers.
#[derive(Clone, PartialEq, Message)]
struct Wire {
    #[prost(double, tag = "1")]
    cpu_utilization: f64,
    #[prost(double, tag = "2")]
    mem_utilization: f64,
    #[prost(map = "string, double", tag = "5")]
    utilization: HashMap<String, f64>,
    #[prost(double, tag = "6")]
    rps_fractional: f64,
    #[prost(double, tag = "7")]
    eps: f64,
    #[prost(map = "string, double", tag = "8")]
    named_metrics: HashMap<String, f64>,
    #[prost(double, tag = "9")]
    application_utilization: f64,
}

fn read(headers: &HeaderMap) -> Option<LoadReport> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &http::HeaderValue| value.to_str().ok())
    };
    let within = |text: &&str| text.len() <= MAX_REPORT;
    if let Some(binary) = text(&BINARY).filter(within) {
        return from_binary(binary);
    }
    let text = text(&TEXT).filter(within)?;
    let (form, rest) = text.split_once(' ')?;
    match form {
        "BIN" => from_binary(rest),
        "JSON" => from_json(rest),
        "TEXT" => from_text(rest),
        _ => None,
    }
}

fn from_binary(text: &str) -> Option<LoadReport> {
    // gRPC leaves the padding out.
    let bytes = STANDARD
        .decode(text)
        .or_else(|_| base64::engine::general_purpose::STANDARD_NO_PAD.decode(text));
    let wire = Wire::decode(&*bytes.ok()?).ok()?;
    Some(LoadReport {
        cpu: wire.cpu_utilization,
        memory: wire.mem_utilization,
        application: wire.application_utilization,
        requests: wire.rps_fractional,
        errors: wire.eps,
        utilization: wire.utilization.into_iter().collect(),
        named: wire.named_metrics.into_iter().collect(),
    })
}

fn from_json(text: &str) -> Option<LoadReport> {
    let object: serde_json::Value = serde_json::from_str(text).ok()?;
    let number = |names: [&str; 2]| {
        let found = names.iter().find_map(|name| object.get(*name)?.as_f64());
        found.unwrap_or(0.0)
    };
    let map = |names: [&str; 2]| -> Vec<(String, f64)> {
        let found = names.iter().find_map(|name| object.get(*name)?.as_object());
        let entries = found.into_iter().flatten();
        entries
            .filter_map(|(key, value)| Some((key.clone(), value.as_f64()?)))
            .collect()
    };
    Some(LoadReport {
        cpu: number(["cpuUtilization", "cpu_utilization"]),
        memory: number(["memUtilization", "mem_utilization"]),
        application: number(["applicationUtilization", "application_utilization"]),
        requests: number(["rpsFractional", "rps_fractional"]),
        errors: number(["eps", "eps"]),
        utilization: map(["utilization", "utilization"]),
        named: map(["namedMetrics", "named_metrics"]),
    })
}

/// `cpu_utilization=0.5, rps_fractional=10, named_metrics.queue=0.3`. One pair that is none spoils all of it.
fn from_text(text: &str) -> Option<LoadReport> {
    let mut report = LoadReport::default();
    for pair in text
        .split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
    {
        let (key, value) = pair.split_once(['=', ':'])?;
        let value: f64 = value.trim().parse().ok()?;
        match key.trim() {
            "cpu_utilization" => report.cpu = value,
            "mem_utilization" => report.memory = value,
            "application_utilization" => report.application = value,
            "rps_fractional" | "rps" => report.requests = value,
            "eps" => report.errors = value,
            key => match key.split_once('.')? {
                ("named_metrics", name) => report.named.push((name.to_owned(), value)),
                ("utilization", name) => report.utilization.push((name.to_owned(), value)),
                _ => {}
            },
        }
    }
    Some(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &HeaderName, value: &str) -> Option<LoadReport> {
        read(&HeaderMap::from_iter([(
            name.clone(),
            value.parse().unwrap(),
        )]))
    }

    fn settings() -> UtilizationWeights {
        UtilizationWeights {
            blackout: Duration::from_secs(10),
            expiration: Duration::from_secs(180),
            update: Duration::from_secs(1),
            error_penalty: 1.0,
            metrics: Vec::new(),
        }
    }

    #[test]
    fn a_report_says_the_same_in_every_form() {
        let expected = LoadReport {
            cpu: 0.5,
            requests: 100.0,
            errors: 2.0,
            named: vec![("queue".to_owned(), 0.25)],
            ..LoadReport::default()
        };
        let wire = Wire {
            cpu_utilization: 0.5,
            rps_fractional: 100.0,
            eps: 2.0,
            named_metrics: [("queue".to_owned(), 0.25)].into(),
            ..Wire::default()
        };
        let encoded = STANDARD.encode(wire.encode_to_vec());
        for (name, text) in [
            (&BINARY, encoded.clone()),
            (&BINARY, encoded.trim_end_matches('=').to_owned()),
            (&TEXT, format!("BIN {encoded}")),
            (&TEXT, "TEXT cpu_utilization=0.5, rps_fractional=100,eps=2,named_metrics.queue=0.25".to_owned()),
            (&TEXT, r#"JSON {"cpu_utilization": 0.5, "rps_fractional": 100, "eps": 2, "named_metrics": {"queue": 0.25}}"#.to_owned()),
        ] {
            assert_eq!(of(name, &text), Some(expected.clone()), "{text}");
        }
        let long = format!("TEXT {}", "a=1,".repeat(MAX_REPORT));
        for text in [
            "nothing",
            "TEXT a",
            "TEXT cpu_utilization=x",
            "JSON {",
            "BIN ?",
            "XML a",
            &long,
        ] {
            assert_eq!(of(&TEXT, text), None, "{}", &text[..text.len().min(40)]);
        }
    }

    #[test]
    fn reports_count_after_a_while_and_for_a_while() {
        let (reported, settings) = (Reported::default(), settings());
        assert_eq!(reported.weight(&settings, 5), None);
        reported.set(70, 1_000);
        assert_eq!(reported.weight(&settings, 10_999), None);
        reported.set(80, 11_000);
        assert_eq!(reported.weight(&settings, 11_000), Some(80));
        assert_eq!(reported.weight(&settings, 191_001), None);
        // A new row of reports has to last again.
        reported.set(90, 191_002);
        assert_eq!(reported.weight(&settings, 191_003), None);
        assert_eq!(reported.weight(&settings, 201_002), Some(90));
    }
}
