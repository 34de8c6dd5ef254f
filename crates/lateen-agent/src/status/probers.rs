//! The application's probes as the injector moved them here: `ISTIO_KUBE_APP_PROBERS`.
//!
//! kubelet cannot probe an application whose inbound traffic needs mTLS, so the injector points kubelet at the agent and tells the
//! agent what was to be probed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;

/// kubelet's default, when a probe has no `timeoutSeconds`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
const KINDS: [&str; 5] = ["livez", "readyz", "startupz", "prestopz", "poststartz"];

/// Why the probes cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Not the JSON it should be.
    #[error("`ISTIO_KUBE_APP_PROBERS` does not hold probes as JSON")]
    Json(#[source] serde_json::Error),
    /// A path that is none of ours.
    #[error(
        "`ISTIO_KUBE_APP_PROBERS` has the path `{0}`; expected `/app-health/CONTAINER/(livez|readyz|startupz)`"
    )]
    Path(String),
    /// Not exactly one of the three kinds.
    #[error("probe `{0}` must have exactly one of `httpGet`, `tcpSocket` and `grpc`")]
    Kind(String),
    /// A port that is a name: the agent does not know the container's ports.
    #[error("probe `{path}` has the port `{port}`, expected a number")]
    Port {
        /// The probe.
        path: String,
        /// Its port.
        port: String,
    },
}

/// The probes by the path at which they are asked for.
#[derive(Clone, Debug)]
pub struct AppProbers {
    pub(super) probers: BTreeMap<String, Prober>,
    /// Where the application listens: the pod's address, as kubelet would probe it.
    pub(super) destination: IpAddr,
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prober {
    /// What is done.
    pub action: Action,
    /// How long it may take.
    pub timeout: Duration,
}

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// An HTTP request whose answer must be below 400.
    Http {
        /// The port.
        port: u16,
        /// Another host than the pod.
        host: Option<String>,
        /// Path and query.
        path: String,
        /// TLS, without verification, as kubelet does.
        tls: bool,
        /// Headers to send.
        headers: Vec<(String, String)>,
    },
    /// A connection that is accepted.
    Tcp {
        /// The port.
        port: u16,
    },
    /// A call of `grpc.health.v1.Health/Check` that answers `SERVING`.
    Grpc {
        /// The port.
        port: u16,
        /// The service asked about.
        service: String,
    },
}

/// A probe as it is written, in Kubernetes' words.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WrittenProbe {
    http_get: Option<HttpGet>,
    tcp_socket: Option<TcpSocket>,
    grpc: Option<Grpc>,
    #[serde(default)]
    timeout_seconds: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HttpGet {
    #[serde(default)]
    path: String,
    port: serde_json::Value,
    #[serde(default)]
    host: String,
    #[serde(default)]
    scheme: String,
    #[serde(default)]
    http_headers: Option<Vec<HttpHeader>>,
}

#[derive(Deserialize)]
struct HttpHeader {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct TcpSocket {
    port: serde_json::Value,
    #[serde(default)]
    host: String,
}

#[derive(Deserialize)]
struct Grpc {
    port: serde_json::Value,
    #[serde(default)]
    service: Option<String>,
}

impl AppProbers {
    /// Reads the variable; `None` means there are no probes.
    ///
    /// # Errors
    /// It is not what the injector writes.
    pub fn parse(json: Option<&str>, destination: IpAddr) -> Result<Self, ProbeError> {
        let written: BTreeMap<String, WrittenProbe> = match json {
            Some(json) => serde_json::from_str(json).map_err(ProbeError::Json)?,
            None => BTreeMap::new(),
        };
        let mut probers = BTreeMap::new();
        for (path, probe) in written {
            let prober = prober(&path, probe)?;
            probers.insert(path, prober);
        }
        Ok(Self {
            probers,
            destination,
        })
    }
}

fn prober(path: &str, probe: WrittenProbe) -> Result<Prober, ProbeError> {
    if !is_probe_path(path) {
        return Err(ProbeError::Path(path.to_owned()));
    }
    let timeout = match probe.timeout_seconds {
        0 => DEFAULT_TIMEOUT,
        seconds => Duration::from_secs(seconds.min(3600)),
    };
    let action = probe.action(path)?;
    Ok(Prober { action, timeout })
}

impl WrittenProbe {
    /// Reads a probe; what it does not know it leaves out.
    pub(crate) fn read(json: &serde_json::Value) -> Result<Self, ProbeError> {
        Self::deserialize(json).map_err(ProbeError::Json)
    }

    /// Takes the host out where it is an address.
    pub(crate) fn take_address(&mut self) -> Option<IpAddr> {
        let host = match (&mut self.http_get, &mut self.tcp_socket) {
            (Some(get), _) => &mut get.host,
            (None, Some(tcp)) => &mut tcp.host,
            (None, None) => return None,
        };
        let address = host.parse().ok()?;
        host.clear();
        Some(address)
    }

    /// What is to be done; `path` names the probe in errors.
    pub(crate) fn action(self, path: &str) -> Result<Action, ProbeError> {
        let probe = self;
        Ok(match (probe.http_get, probe.tcp_socket, probe.grpc) {
            (Some(get), None, None) => Action::Http {
                port: port(path, &get.port)?,
                host: Some(get.host).filter(|host| !host.is_empty()),
                path: if get.path.starts_with('/') {
                    get.path
                } else {
                    format!("/{}", get.path)
                },
                tls: get.scheme.eq_ignore_ascii_case("https"),
                headers: get
                    .http_headers
                    .unwrap_or_default()
                    .into_iter()
                    .map(|header| (header.name, header.value))
                    .collect(),
            },
            (None, Some(tcp), None) => Action::Tcp {
                port: port(path, &tcp.port)?,
            },
            (None, None, Some(grpc)) => Action::Grpc {
                port: port(path, &grpc.port)?,
                service: grpc.service.unwrap_or_default(),
            },
            _ => return Err(ProbeError::Kind(path.to_owned())),
        })
    }
}

fn is_probe_path(path: &str) -> bool {
    let mut parts = path.split('/');
    matches!(
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()),
        (Some(""), Some("app-health" | "app-lifecycle"), Some(container), Some(kind), None)
            if !container.is_empty() && KINDS.contains(&kind)
    )
}

fn port(path: &str, value: &serde_json::Value) -> Result<u16, ProbeError> {
    let port = value
        .as_u64()
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0);
    port.ok_or_else(|| ProbeError::Port {
        path: path.to_owned(),
        port: value.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<AppProbers, ProbeError> {
        AppProbers::parse(Some(json), IpAddr::from([127, 0, 0, 1]))
    }

    #[test]
    fn the_injectors_json_is_read() {
        let json = r#"{
            "/app-health/web/livez": {"httpGet":{"path":"ok?a=b","port":8080,"scheme":"HTTPS",
                "httpHeaders":[{"name":"X","value":"y"}]},"timeoutSeconds":3},
            "/app-health/web/readyz": {"tcpSocket":{"port":9000}},
            "/app-health/web/startupz": {"grpc":{"port":9001,"service":"s"}}
        }"#;
        let probers = parse(json).unwrap().probers;
        let live = &probers["/app-health/web/livez"];
        assert_eq!(live.timeout, Duration::from_secs(3));
        assert!(matches!(&live.action, Action::Http { path, tls: true, .. } if path == "/ok?a=b"));
        assert_eq!(probers["/app-health/web/readyz"].timeout, DEFAULT_TIMEOUT);
        let startup = &probers["/app-health/web/startupz"].action;
        assert_eq!(
            *startup,
            Action::Grpc {
                port: 9001,
                service: "s".to_owned()
            }
        );
    }

    #[test]
    fn what_is_no_probe_is_named() {
        let refused = [
            r#"{"/elsewhere":{"tcpSocket":{"port":1}}}"#,
            r#"{"/app-health//livez":{"tcpSocket":{"port":1}}}"#,
            r#"{"/app-health/a/livez/x":{"tcpSocket":{"port":1}}}"#,
            r#"{"/app-health/a/livez":{}}"#,
            r#"{"/app-health/a/livez":{"tcpSocket":{"port":1},"grpc":{"port":1}}}"#,
            r#"{"/app-health/a/livez":{"tcpSocket":{"port":"http"}}}"#,
            r#"{"/app-health/a/livez":{"tcpSocket":{"port":70000}}}"#,
            "[]",
        ];
        for json in refused {
            assert!(parse(json).is_err(), "{json}");
        }
    }
}
