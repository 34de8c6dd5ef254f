//! The format of the corpus: what both proxies are given, what they are asked, and what may differ.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::tls;

/// One file: a few listeners and clusters, and what is asked of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// The file's name without its extension.
    #[serde(skip)]
    pub(crate) name: String,
    /// By name; see [`Listener`].
    pub(crate) listeners: BTreeMap<String, Listener>,
    /// By name: fields of Envoy's `Cluster`, and `hosts` (see [`Cluster`]).
    #[serde(default)]
    pub(crate) clusters: BTreeMap<String, Cluster>,
    pub(crate) cases: Vec<Case>,
}

/// A listener. HTTP unless it has `filters`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listener {
    /// Routes of one virtual host for every host.
    pub(crate) routes: Option<Value>,
    /// Virtual hosts, in place of `routes`.
    pub(crate) virtual_hosts: Option<Value>,
    /// Further fields of the route configuration.
    pub(crate) route_config: Option<Value>,
    /// Further fields of the only virtual host, with `routes`.
    pub(crate) virtual_host: Option<Value>,
    /// Further fields of the connection manager.
    pub(crate) manager: Option<Value>,
    /// HTTP filters before the router.
    pub(crate) http_filters: Option<Vec<Value>>,
    /// Network filters, in place of a connection manager.
    pub(crate) filters: Option<Value>,
    /// Listener filters.
    pub(crate) listener_filters: Option<Value>,
    /// A filter chain for each, with TLS, in place of one without.
    pub(crate) tls: Option<Vec<tls::Chain>>,
    /// `traffic_direction`.
    pub(crate) direction: Option<String>,
}

/// A cluster of the test's own hosts.
#[derive(Debug, Deserialize)]
pub(crate) struct Cluster {
    /// A number of HTTP hosts, or a list of hosts: numbers, `dead` (nobody listens), `mute` (accepts and says nothing),
    /// `tcp` (echoes bytes), `unix` (HTTP on a Unix socket).
    #[serde(default)]
    pub(crate) hosts: Value,
    /// Localities with `hosts`, in place of one without a name; further fields are Envoy's.
    pub(crate) localities: Option<Vec<Value>>,
    /// Further fields of Envoy's `Cluster`.
    #[serde(flatten)]
    pub(crate) fields: serde_json::Map<String, Value>,
}

/// Something asked of both.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// The listener, if the file has several.
    pub(crate) listener: Option<String>,
    /// One request, or several in turn on one connection.
    pub(crate) send: OneOrMany,
    /// How often the requests are sent, each time on a new connection; hosts are compared by their shares then.
    #[serde(default = "one")]
    pub(crate) repeat: usize,
    /// The repetitions are sent at the same time.
    #[serde(default)]
    pub(crate) parallel: bool,
    /// Which host answered must be the same, too.
    #[serde(default)]
    pub(crate) same_host: bool,
    /// How far shares of outcomes may be apart, of 1, in repeated cases whose outcomes are random.
    pub(crate) tolerance: Option<f64>,
    /// The time both must take, in milliseconds: at least and at most.
    pub(crate) takes: Option<(u64, u64)>,
    /// What both must have done; keeps the case honest.
    #[serde(default)]
    pub(crate) expect: Expect,
    /// What may differ, and why.
    #[serde(default)]
    pub(crate) differs: Vec<Differs>,
}

fn one() -> usize {
    1
}

/// What both must have done.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    /// The statuses of the answers, in order.
    pub(crate) status: Option<OneOrMany<u16>>,
    /// Requests that hosts saw.
    pub(crate) seen: Option<usize>,
    /// `%RESPONSE_FLAGS%` of the last request.
    pub(crate) flags: Option<String>,
    /// `%RESPONSE_CODE_DETAILS%` of the last request.
    pub(crate) details: Option<String>,
    /// A part of the last answer's body (or of the bytes that came back).
    pub(crate) body: Option<String>,
    /// No byte comes back.
    #[serde(default)]
    pub(crate) nothing: bool,
}

/// A difference that is known.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Differs {
    /// Where, as failures name it (a prefix suffices).
    pub(crate) at: String,
    /// Why; also in `docs/compatibility.md`.
    pub(crate) because: String,
    /// It may also not differ: it depends on time or chance.
    #[serde(default)]
    pub(crate) sometimes: bool,
}

/// One thing or a list.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany<T = Send> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub(crate) fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// One request, or raw bytes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Send {
    pub(crate) method: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) host: Option<String>,
    /// Header lines, `name: value`.
    pub(crate) headers: Vec<String>,
    /// What the host is to do, see [`super::upstream`].
    pub(crate) upstream: Option<String>,
    pub(crate) body: Option<String>,
    /// A body of so many bytes.
    pub(crate) body_bytes: Option<usize>,
    /// Trailer lines.
    pub(crate) trailers: Vec<String>,
    /// `:protocol` of HTTP/2's extended CONNECT.
    pub(crate) protocol: Option<String>,
    /// Bytes to send in the tunnel that the answer opens; what comes back is the reply's body.
    pub(crate) tunnel: Option<String>,
    /// HTTP version: 1 or 2.
    pub(crate) http: Option<u8>,
    /// TLS is spoken, and this said in its beginning. The first request on a connection counts.
    pub(crate) tls: Option<tls::Hello>,
    /// Bytes to send instead; what comes back is compared. `\r\n` is written as a new line if `lines` is set.
    pub(crate) raw: Option<String>,
    /// Each line of `raw` ends with CR LF.
    pub(crate) lines: bool,
    /// After `raw` the client's direction is closed.
    pub(crate) half_close: bool,
    /// A pause before, in milliseconds.
    pub(crate) after: u64,
}

/// Reads the corpus, in the order of the files' names.
pub(crate) fn read_all(directory: &Path, filter: &str) -> Vec<File> {
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .collect();
    paths.sort();
    let files = paths.iter().map(|path| {
        let text = std::fs::read_to_string(path).unwrap();
        let mut file: File = yaml_serde::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        file.name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let name = file.name.clone();
        file.cases
            .retain(|case| format!("{name}: {}", case.name).contains(filter));
        file
    });
    files.filter(|file| !file.cases.is_empty()).collect()
}
