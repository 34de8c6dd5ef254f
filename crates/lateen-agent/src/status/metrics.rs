//! Metrics of the pod in one answer: the agent's own, the proxy's, the application's.
//!
//! The application is named by the pod's `prometheus.io/*` annotations, which the injector passes on in
//! `ISTIO_PROMETHEUS_ANNOTATIONS` while it points Prometheus at the agent. A part that fails is left out and counted: the others are
//! still worth having.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use lateen_envoy::with_causes;
use lateen_identity::rotation::IdentityHandle;
use serde::Deserialize;

use super::{Answer, StatusOptions, with_type};
use crate::dns::DnsCounters;
use crate::http_client::{self, Target};

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How long an application may take. Prometheus' own default is 10 s for everything.
const TIMEOUT: Duration = Duration::from_secs(8);
/// Most that one application's endpoint may send, in bytes. Istio's bound.
const MAX_APP_BODY: usize = 10 * 1024 * 1024;
/// Ports of the data plane: scraping them would count twice or never end. Source: Istio's `istioReservedPorts`.
const RESERVED: [u16; 9] = [
    15000, 15001, 15004, 15006, 15008, 15020, 15021, 15053, 15090,
];

/// Why the application's metrics cannot be scraped.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeConfigError {
    /// Not the JSON it should be.
    #[error("`ISTIO_PROMETHEUS_ANNOTATIONS` does not hold annotations as JSON")]
    Json(#[source] serde_json::Error),
    /// Not a port.
    #[error("annotation `prometheus.io/port` has the value `{0}`, expected a port")]
    Port(String),
    /// A port of the data plane.
    #[error("annotation `prometheus.io/port` names {0}, a port of the proxy itself")]
    Reserved(u16),
}

/// Where the application's metrics are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrapeConfig {
    /// The endpoints, all on this pod.
    pub targets: Vec<ScrapeTarget>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrapeTarget {
    /// The port.
    pub port: u16,
    /// The path.
    pub path: String,
}

#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    scrape: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    port: String,
    #[serde(default)]
    targets: Vec<WrittenTarget>,
}

#[derive(Deserialize)]
struct WrittenTarget {
    port: String,
    #[serde(default)]
    path: String,
}

impl ScrapeConfig {
    /// Reads the variable. `None` if there is nothing to scrape.
    ///
    /// # Errors
    /// It is not what the injector writes, or names a port of the proxy.
    pub fn parse(json: Option<&str>, status_port: u16) -> Result<Option<Self>, ScrapeConfigError> {
        let Some(json) = json else { return Ok(None) };
        let written: Written = serde_json::from_str(json).map_err(ScrapeConfigError::Json)?;
        if written.scrape == "false" {
            return Ok(None);
        }
        let targets = if written.targets.is_empty() {
            let port = if written.port.is_empty() {
                "80".to_owned()
            } else {
                written.port
            };
            vec![WrittenTarget {
                port,
                path: written.path,
            }]
        } else {
            written.targets
        };
        let targets = targets
            .into_iter()
            .map(|target| resolve(target, status_port));
        Ok(Some(Self {
            targets: targets.collect::<Result<_, _>>()?,
        }))
    }
}

fn resolve(target: WrittenTarget, status_port: u16) -> Result<ScrapeTarget, ScrapeConfigError> {
    let port = target.port.parse().ok().filter(|port| *port != 0);
    let port: u16 = port.ok_or(ScrapeConfigError::Port(target.port))?;
    if port == status_port || RESERVED.contains(&port) {
        return Err(ScrapeConfigError::Reserved(port));
    }
    let path = if target.path.is_empty() {
        "/metrics".to_owned()
    } else {
        target.path
    };
    let path = if path.starts_with('/') {
        path
    } else {
        format!("/{path}")
    };
    Ok(ScrapeTarget { port, path })
}

/// The agent's own metrics, under Istio's names.
#[derive(Clone, Debug, Default)]
pub struct AgentMetrics {
    /// For `cert_expiry_seconds`.
    pub identity: Option<IdentityHandle>,
    /// For `dns_*`.
    pub dns: Option<Arc<DnsCounters>>,
    /// Scrapes and what failed of them.
    pub(crate) scrapes: Arc<Scrapes>,
}

#[derive(Debug, Default)]
pub(crate) struct Scrapes {
    total: AtomicU64,
    envoy_failures: AtomicU64,
    application_failures: AtomicU64,
}

impl AgentMetrics {
    fn render(&self, now: SystemTime) -> String {
        let mut text = String::new();
        let mut counter = |name: &str, help: &str, series: &[(&str, u64)]| {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "# HELP istio_agent_{name} {help}\n# TYPE istio_agent_{name} counter"
            );
            for (labels, value) in series {
                let _ = writeln!(text, "istio_agent_{name}{labels} {value}");
            }
        };
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let scrapes = &self.scrapes;
        counter(
            "scrapes_total",
            "The total number of scrapes.",
            &[("", load(&scrapes.total))],
        );
        counter(
            "scrape_failures_total",
            "The total number of failed scrapes.",
            &[
                ("{type=\"envoy\"}", load(&scrapes.envoy_failures)),
                (
                    "{type=\"application\"}",
                    load(&scrapes.application_failures),
                ),
            ],
        );
        if let Some(dns) = &self.dns {
            counter(
                "dns_requests_total",
                "DNS requests.",
                &[("", load(&dns.requests))],
            );
            let upstream = load(&dns.upstream_requests);
            counter(
                "dns_upstream_requests_total",
                "DNS requests passed on.",
                &[("", upstream)],
            );
            counter(
                "dns_failures_total",
                "DNS failures.",
                &[("", load(&dns.failures))],
            );
        }
        if let Some(identity) = self.identity.as_ref().and_then(IdentityHandle::current) {
            let left = identity
                .facts()
                .not_after
                .duration_since(now)
                .unwrap_or_default()
                .as_secs();
            let name = "istio_agent_cert_expiry_seconds";
            let _ = writeln!(
                text,
                "# HELP {name} Seconds until the workload certificate expires.\n# TYPE {name} gauge\n\
                 {name}{{resource_name=\"default\"}} {left}"
            );
        }
        text
    }
}

pub(super) async fn merged(options: &StatusOptions, query: Option<&str>) -> Answer {
    let scrapes = &options.metrics.scrapes;
    scrapes.total.fetch_add(1, Ordering::Relaxed);
    let targets = options.scrape.iter().flat_map(|config| &config.targets);
    let applications = join_all(targets.map(scrape));
    let (proxy, applications) = tokio::join!(options.data_plane.metrics(query), applications);
    let mut body = BytesMut::from(options.metrics.render(SystemTime::now()).as_bytes());
    match proxy {
        Ok(text) => append(&mut body, &text),
        Err(error) => {
            scrapes.envoy_failures.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(error = %with_causes(&error), "proxy's metrics are missing");
        }
    }
    for application in applications {
        match application {
            Some(text) => append(&mut body, &text),
            None => drop(scrapes.application_failures.fetch_add(1, Ordering::Relaxed)),
        }
    }
    with_type(StatusCode::OK, TEXT, body.freeze())
}

async fn scrape(target: &ScrapeTarget) -> Option<Bytes> {
    let mut headers = HeaderMap::new();
    // OpenMetrics and the text format cannot be mixed in one answer, and every client library speaks the latter.
    headers.insert(
        header::ACCEPT,
        HeaderValue::from_static("text/plain;version=0.0.4"),
    );
    let address = Target::loopback(target.port);
    let sent = http_client::send(&address, Method::GET, &target.path, headers, TIMEOUT).await;
    match sent {
        Ok(answer) if answer.status == StatusCode::OK && answer.body.len() <= MAX_APP_BODY => {
            Some(answer.body)
        }
        Ok(answer) => {
            let (status, length) = (answer.status, answer.body.len());
            tracing::warn!(?target, %status, length, "application's metrics are missing");
            None
        }
        Err(error) => {
            tracing::warn!(?target, error = %with_causes(&error), "application's metrics are missing");
            None
        }
    }
}

/// Appends a part, without the marker by which OpenMetrics ends everything, and with a line of its own.
fn append(body: &mut BytesMut, part: &[u8]) {
    let part = part.trim_ascii_end();
    let part = part.strip_suffix(b"# EOF").unwrap_or(part).trim_ascii_end();
    if !part.is_empty() {
        body.extend_from_slice(part);
        body.extend_from_slice(b"\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_name_what_is_scraped() {
        let parse = |json| ScrapeConfig::parse(Some(json), 15020);
        let one = parse(r#"{"scrape":"true","path":"m","port":"9090"}"#)
            .unwrap()
            .unwrap();
        assert_eq!(
            one.targets,
            [ScrapeTarget {
                port: 9090,
                path: "/m".to_owned()
            }]
        );
        let bare = parse(r#"{"scrape":"true"}"#).unwrap().unwrap();
        assert_eq!(
            bare.targets,
            [ScrapeTarget {
                port: 80,
                path: "/metrics".to_owned()
            }]
        );
        let two = parse(r#"{"targets":[{"port":"1"},{"port":"2","path":"/x"}]}"#)
            .unwrap()
            .unwrap();
        assert_eq!(two.targets.len(), 2);
        assert_eq!(parse(r#"{"scrape":"false"}"#).unwrap(), None);
        assert_eq!(ScrapeConfig::parse(None, 15020).unwrap(), None);
    }

    #[test]
    fn the_proxys_own_ports_are_refused() {
        for port in ["15020", "015020", "15090", "0", "http", "70000"] {
            let json = format!(r#"{{"port":"{port}"}}"#);
            assert!(ScrapeConfig::parse(Some(&json), 15020).is_err(), "{port}");
        }
    }

    #[test]
    fn parts_are_joined_without_end_markers() {
        let mut body = BytesMut::new();
        for part in ["a 1", "b 2\n# EOF\n", "", "# EOF", "c 3\r\n"] {
            append(&mut body, part.as_bytes());
        }
        assert_eq!(body, "a 1\nb 2\nc 3\n");
    }
}
