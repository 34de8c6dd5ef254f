//! What the agent asks of whichever proxy it stands beside.

use std::time::Duration;

use bytes::Bytes;
use lateen_envoy::with_causes;
use lateen_identity::BoxFuture;

use crate::envoy::Drain;
use crate::http_client::{self, HttpError, Target};

/// How long one of these questions may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Why the proxy cannot take traffic yet; shown to whoever probes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotReady(pub String);

/// A proxy.
pub trait DataPlane: Send + Sync + 'static {
    /// Whether it can take traffic.
    fn ready(&self) -> BoxFuture<'_, Result<(), NotReady>>;

    /// Its metrics in Prometheus' text format; `query` is that of the scrape.
    fn metrics<'a>(&'a self, query: Option<&'a str>) -> BoxFuture<'a, Result<Bytes, HttpError>>;

    /// Tells it to drain and go on serving what is open.
    fn drain(&self) -> BoxFuture<'_, Result<(), HttpError>>;
}

/// A proxy that answers as Envoy does on its admin and metrics ports.
#[derive(Clone, Debug)]
pub struct EnvoyDataPlane {
    /// The admin port on the loopback interface.
    pub admin_port: u16,
    /// The metrics port.
    pub prometheus_port: u16,
    /// How it drains.
    pub drain: Drain,
}

/// `^(server\.state|listener_manager\.workers_started|….update_(success|rejected))$`, percent-encoded.
const READINESS_STATS: &str = "/stats?filter=%5E(server%5C.state%7Clistener_manager%5C.workers_started%7C\
    (cluster_manager%5C.cds%7Clistener_manager%5C.lds)%5C.update_(success%7Crejected))$";

impl EnvoyDataPlane {
    async fn check(&self) -> Result<(), NotReady> {
        let answer = http_client::get(&Target::loopback(self.admin_port), READINESS_STATS, TIMEOUT)
            .await
            .map_err(|error| NotReady(with_causes(&error)))?;
        judge(&String::from_utf8_lossy(&answer.body))
    }
}

/// Ready is a proxy that is live (state 0), whose workers run, and that has accepted a first set of clusters and listeners. Source:
/// `pilot/cmd/pilot-agent/status/ready/probe.go`.
fn judge(stats: &str) -> Result<(), NotReady> {
    let value = |name: &str| {
        let line = stats
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.and_then(|value| value.trim().parse::<u64>().ok())
    };
    for (kind, name) in [
        ("cluster", "cluster_manager.cds"),
        ("listener", "listener_manager.lds"),
    ] {
        let accepted = value(&format!("{name}.update_success")).unwrap_or(0);
        let rejected = value(&format!("{name}.update_rejected")).unwrap_or(0);
        if accepted == 0 {
            let text = format!(
                "no {kind}s accepted from the control plane yet ({rejected} updates rejected)"
            );
            return Err(NotReady(text));
        }
    }
    if value("listener_manager.workers_started") != Some(1) {
        return Err(NotReady("workers have not started".to_owned()));
    }
    match value("server.state") {
        Some(0) => Ok(()),
        Some(1) => Err(NotReady("proxy is draining".to_owned())),
        Some(2 | 3) => Err(NotReady("proxy is initializing".to_owned())),
        other => Err(NotReady(format!("proxy is in the unknown state {other:?}"))),
    }
}

impl DataPlane for EnvoyDataPlane {
    fn ready(&self) -> BoxFuture<'_, Result<(), NotReady>> {
        Box::pin(self.check())
    }

    fn metrics<'a>(&'a self, query: Option<&'a str>) -> BoxFuture<'a, Result<Bytes, HttpError>> {
        Box::pin(async move {
            let query = query.map(|query| format!("?{query}")).unwrap_or_default();
            let path = format!("/stats/prometheus{query}");
            let target = Target::loopback(self.prometheus_port);
            Ok(http_client::get(&target, &path, TIMEOUT * 5).await?.body)
        })
    }

    fn drain(&self) -> BoxFuture<'_, Result<(), HttpError>> {
        Box::pin(async move {
            let scope = if self.drain.inbound_only {
                "&inboundonly"
            } else {
                ""
            };
            let path = format!("/drain_listeners?graceful&skip_exit{scope}");
            http_client::post(&Target::loopback(self.admin_port), &path, TIMEOUT)
                .await
                .map(drop)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: &str = "cluster_manager.cds.update_success: 1\ncluster_manager.cds.update_rejected: 0\n\
        listener_manager.lds.update_success: 2\nlistener_manager.workers_started: 1\nserver.state: 0\n";

    #[test]
    fn ready_means_configured_and_live() {
        assert_eq!(judge(READY), Ok(()));
        let cases = [
            (
                "cds.update_success: 1",
                "cds.update_success: 0",
                "no clusters",
            ),
            (
                "lds.update_success: 2",
                "lds.update_success: 0",
                "no listeners",
            ),
            ("workers_started: 1", "workers_started: 0", "workers"),
            ("server.state: 0", "server.state: 1", "draining"),
            ("server.state: 0", "server.state: 2", "initializing"),
            ("server.state: 0", "", "unknown"),
        ];
        for (from, to, reason) in cases {
            let error = judge(&READY.replace(from, to)).unwrap_err();
            assert!(error.0.contains(reason), "{error}");
        }
    }
}
