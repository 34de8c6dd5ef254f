//! The control plane's own metrics, under istiod's names.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lateen_envoy::TypeUrl;
use lateen_identity::grpc::CaCounters;
use lateen_xds::grpc::StreamEvent;
use lateen_xds::server::Answer;
use tracing::warn;

use crate::discovery::Work;
use crate::jwks::JwksCounters;

/// Counters that other parts count into.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    pub(crate) ca: Arc<CaCounters>,
    pub(crate) jwks: Arc<JwksCounters>,
}

/// Counters of streams and compilations.
#[derive(Debug)]
pub(crate) struct Metrics {
    started: Instant,
    pushes: BTreeMap<TypeUrl, AtomicU64>,
    rejects: BTreeMap<TypeUrl, AtomicU64>,
    sent_bytes: AtomicU64,
    compilations: AtomicU64,
    compile_micros: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        let zeros = || {
            TypeUrl::ALL
                .into_iter()
                .map(|ty| (ty, AtomicU64::new(0)))
                .collect()
        };
        Self {
            started: Instant::now(),
            pushes: zeros(),
            rejects: zeros(),
            sent_bytes: AtomicU64::new(0),
            compilations: AtomicU64::new(0),
            compile_micros: AtomicU64::new(0),
        }
    }
}

impl Metrics {
    pub(crate) fn observe(&self, node_id: &str, event: &StreamEvent) {
        match event {
            StreamEvent::Sent { ty, bytes, .. } => {
                add(&self.pushes, *ty);
                self.sent_bytes.fetch_add(*bytes as u64, Ordering::Relaxed);
            }
            StreamEvent::Received(received) => {
                if let (Some(ty), Answer::Nack(message)) = (received.ty, &received.answer) {
                    add(&self.rejects, ty);
                    warn!(proxy = node_id, %ty, message, "a proxy rejected its configuration");
                }
            }
            StreamEvent::Health(_) | StreamEvent::Closed => {}
        }
    }

    /// What was sent and compiled.
    pub(crate) fn work(&self) -> Work {
        Work {
            compilations: read(&self.compilations),
            responses: self.pushes.values().map(read).sum(),
            sent_bytes: read(&self.sent_bytes),
            ..Work::default()
        }
    }

    pub(crate) fn compiled(&self, took: Duration) {
        self.compilations.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.compile_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The Prometheus text.
    pub(crate) fn render(&self, connected: usize, counters: &Counters) -> String {
        let mut text = String::new();
        metric(
            &mut text,
            "pilot_xds",
            "gauge",
            "Proxies connected.",
            &[("", connected as u64)],
        );
        let pushes: Vec<(String, u64)> = self
            .pushes
            .iter()
            .map(|(ty, n)| (format!("{{type=\"{}\"}}", short(*ty)), read(n)))
            .collect();
        metric(
            &mut text,
            "pilot_xds_pushes",
            "counter",
            "Responses sent, by type.",
            &pushes,
        );
        for (ty, rejected) in &self.rejects {
            let name = format!("pilot_xds_{}_reject", short(*ty));
            metric(
                &mut text,
                &name,
                "counter",
                "Responses rejected.",
                &[("", read(rejected))],
            );
        }
        for (name, kind, help, value) in self
            .totals()
            .into_iter()
            .chain(authority(&counters.ca))
            .chain(fetches(&counters.jwks))
        {
            metric(&mut text, name, kind, help, &[("", value)]);
        }
        text
    }

    fn totals(&self) -> [Line; 5] {
        let rejects = self.rejects.values().map(read).sum();
        let uptime = self.started.elapsed().as_secs();
        let compiling = read(&self.compile_micros);
        [
            (
                "pilot_total_xds_rejects",
                "counter",
                "Responses rejected, of any type.",
                rejects,
            ),
            (
                "lateen_xds_sent_bytes_total",
                "counter",
                "Bytes of responses sent.",
                read(&self.sent_bytes),
            ),
            (
                "lateen_compilations_total",
                "counter",
                "Compilations for a proxy.",
                read(&self.compilations),
            ),
            (
                "lateen_compile_microseconds_total",
                "counter",
                "Time spent in compilations.",
                compiling,
            ),
            (
                "istiod_uptime_seconds",
                "gauge",
                "Seconds since the start.",
                uptime,
            ),
        ]
    }
}

/// Name, type, help and value of a metric without labels.
type Line = (&'static str, &'static str, &'static str, u64);

/// Fetches of token issuers' keys, under istiod's names.
fn fetches(jwks: &JwksCounters) -> [Line; 2] {
    [
        (
            "pilot_jwks_resolver_network_fetch_success_total",
            "counter",
            "Fetches of token issuers' keys that worked.",
            read(&jwks.successes),
        ),
        (
            "pilot_jwks_resolver_network_fetch_fail_total",
            "counter",
            "Fetches of token issuers' keys that failed.",
            read(&jwks.failures),
        ),
    ]
}

fn authority(ca: &CaCounters) -> [Line; 5] {
    let failures = read(&ca.authentication_failure_count);
    let unreadable = read(&ca.csr_parsing_err_count);
    let unsigned = read(&ca.csr_sign_err_count);
    let issued = read(&ca.success_cert_issuance_count);
    [
        (
            "citadel_server_csr_count",
            "counter",
            "Signing requests.",
            read(&ca.csr_count),
        ),
        (
            "citadel_server_authentication_failure_count",
            "counter",
            "Signing requests of nobody known.",
            failures,
        ),
        (
            "citadel_server_csr_parsing_err_count",
            "counter",
            "Signing requests that cannot be read.",
            unreadable,
        ),
        (
            "citadel_server_csr_sign_err_count",
            "counter",
            "Signings that failed.",
            unsigned,
        ),
        (
            "citadel_server_success_cert_issuance_count",
            "counter",
            "Certificates issued.",
            issued,
        ),
    ]
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn add(counters: &BTreeMap<TypeUrl, AtomicU64>, ty: TypeUrl) {
    if let Some(counter) = counters.get(&ty) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn metric<L: AsRef<str>>(
    text: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    values: &[(L, u64)],
) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in values {
        let _ = writeln!(text, "{name}{} {value}", labels.as_ref());
    }
}

/// The name a type has in istiod's metrics.
pub(crate) fn short(ty: TypeUrl) -> &'static str {
    match ty {
        TypeUrl::Cluster => "cds",
        TypeUrl::ClusterLoadAssignment => "eds",
        TypeUrl::Listener => "lds",
        TypeUrl::RouteConfiguration => "rds",
        TypeUrl::Secret => "sds",
        TypeUrl::TypedExtensionConfig => "ecds",
        TypeUrl::NameTable => "nds",
        TypeUrl::ProxyConfig => "pcds",
    }
}
