//! What an explanation consists of. Plain data with one order, so that it prints and serialises the same every time.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::place::Place;

/// The way of a request: what happens to every such request, then the branches among which chance decides.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The request, as `GET http://reviews:9080/reviews/0`.
    pub request: String,
    /// Who sends it.
    pub from: String,
    /// What happens before chance decides anything.
    pub steps: Vec<Step>,
    /// What may happen then, in the order of configuration; at least one.
    pub branches: Vec<Branch>,
}

impl Explanation {
    /// The branch to show in full: the likeliest, the first of several.
    pub fn main(&self) -> Option<&Branch> {
        self.branches.iter().reduce(|best, next| {
            if next.percent > best.percent {
                next
            } else {
                best
            }
        })
    }

    /// Whether every such request succeeds.
    pub fn succeeds(&self) -> bool {
        self.branches.iter().all(|branch| branch.outcome.succeeds())
    }
}

/// One way a request may go.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Branch {
    /// Its probability, percent.
    pub percent: f64,
    /// Where it leads, in short.
    pub to: String,
    /// What happens.
    pub steps: Vec<Step>,
    /// What holds for it.
    pub facts: Facts,
    /// How it ends.
    pub outcome: Outcome,
}

/// One decision on the way.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The proxy that decides, or who else.
    pub at: String,
    /// What is decided.
    pub stage: Stage,
    /// Whether the request goes on.
    pub verdict: Verdict,
    /// What was decided, in a line.
    pub what: String,
    /// What decided it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Alternatives and remarks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
}

/// What a step decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Who sends the request.
    Client,
    /// What the host's name means.
    Name,
    /// The listener of a connection.
    Listener,
    /// The filter chain.
    Chain,
    /// TLS.
    Tls,
    /// Access rules.
    Authorization,
    /// A token.
    Authentication,
    /// A network or HTTP filter.
    Filter,
    /// Path and host in the form all decisions see.
    Normalization,
    /// The virtual host.
    Host,
    /// The route.
    Route,
    /// Among weighted destinations.
    Weights,
    /// Changes to path and host.
    Rewrite,
    /// Changes to headers.
    Headers,
    /// Timeouts.
    Timeout,
    /// Retries.
    Retries,
    /// Injected faults.
    Fault,
    /// Copies.
    Mirror,
    /// The cluster, and the rule and subset behind it.
    Cluster,
    /// The endpoint.
    Endpoint,
    /// The workload that is reached.
    Workload,
}

impl Stage {
    /// A word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Name => "name",
            Self::Listener => "listener",
            Self::Chain => "chain",
            Self::Tls => "tls",
            Self::Authorization => "access",
            Self::Authentication => "token",
            Self::Filter => "filter",
            Self::Normalization => "path",
            Self::Host => "host",
            Self::Route => "route",
            Self::Weights => "weights",
            Self::Rewrite => "rewrite",
            Self::Headers => "headers",
            Self::Timeout => "timeout",
            Self::Retries => "retries",
            Self::Fault => "fault",
            Self::Mirror => "mirror",
            Self::Cluster => "cluster",
            Self::Endpoint => "endpoint",
            Self::Workload => "workload",
        }
    }
}

/// Whether a request goes on after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It does.
    Pass,
    /// It does; the step only tells something.
    Info,
    /// It ends here.
    Stop,
}

/// A remark on a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// What kind of remark.
    pub kind: NoteKind,
    /// The remark.
    pub text: String,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

/// What a remark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoteKind {
    /// An alternative that was passed over.
    Passed,
    /// An alternative that one condition kept from being taken.
    NearMiss,
    /// One of several that chance decides among.
    Choice,
    /// Worth knowing.
    Info,
}

/// How a request ends.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// In what way.
    pub end: End,
    /// The status, where a proxy answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Envoy's response flags, as in access logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flags: Option<&'static str>,
    /// In a line.
    pub summary: String,
    /// What decided it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

/// In what way a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// It reaches a workload of the mesh.
    Delivered,
    /// It leaves for a place that is not described here.
    LeavesMesh,
    /// A proxy answers as it was told to: a redirect, a direct response, a CORS preflight.
    Answered,
    /// An access rule, a token or TLS stops it.
    Denied,
    /// Nothing can be done with it: no route, no cluster, no host, no chain.
    Failed,
}

impl Outcome {
    /// Whether the user would call it a success.
    pub fn succeeds(&self) -> bool {
        match self.end {
            End::Delivered | End::LeavesMesh => true,
            End::Answered => self.status.is_none_or(|status| status < 400),
            End::Denied | End::Failed => false,
        }
    }
}

/// What holds for a request: what assertions are compared with.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// The route's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The cluster the last proxy before the destination chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The shares of the cluster's workloads, percent, by `namespace/name`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub workloads: BTreeMap<String, f64>,
    /// The workload that is reached, or that refuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// The path as the destination sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The host as the destination sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Headers as the destination sees them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Headers that routes set on the response.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub response_headers: BTreeMap<String, String>,
    /// Where a redirect leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The timeout of the first proxy.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// The retry policy of the first proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<RetryFacts>,
    /// Copies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<MirrorFacts>,
    /// Injected faults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<FaultFacts>,
    /// Limits of the cluster's connection pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitFacts>,
    /// How the last proxy before the destination speaks to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsMode>,
    /// The peer's identity as the destination sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The rules that decided, by object and field: what coverage counts.
    #[serde(skip)]
    pub touched: Vec<(String, String)>,
}

/// A retry policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryFacts {
    /// Retries after the first attempt.
    pub attempts: u32,
    /// The conditions, as in `retryOn`.
    pub on: String,
    /// Time for each attempt.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "duration")]
    pub per_try_timeout: Option<Duration>,
}

/// Limits of a connection pool; what has none is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitFacts {
    /// Connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Requests waiting for a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pending_requests: Option<u32>,
    /// Requests under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// Retries under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
}

impl LimitFacts {
    /// The limits in words, those there are.
    pub(crate) fn words(&self) -> Vec<String> {
        let all = [
            (self.max_connections, "connections"),
            (self.max_pending_requests, "pending requests"),
            (self.max_requests, "requests"),
            (self.max_retries, "retries"),
        ];
        all.into_iter()
            .filter_map(|(limit, what)| Some(format!("{} {what}", limit?)))
            .collect()
    }
}

/// A copy.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MirrorFacts {
    /// The cluster it goes to.
    pub cluster: String,
    /// For which share of requests.
    pub percent: f64,
}

/// Injected faults.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultFacts {
    /// How long requests are held up.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "duration")]
    pub delay: Option<Duration>,
    /// How many of them, percent.
    pub delay_percent: f64,
    /// What is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort_status: Option<u16>,
    /// What is answered to gRPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort_grpc_status: Option<u32>,
    /// To how many of them, percent.
    pub abort_percent: f64,
}

/// How a proxy speaks to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum TlsMode {
    /// Plain text.
    #[serde(rename = "DISABLE")]
    Disable,
    /// TLS without a client certificate.
    #[serde(rename = "SIMPLE")]
    Simple,
    /// TLS with a client certificate of the user's.
    #[serde(rename = "MUTUAL")]
    Mutual,
    /// TLS with the mesh's own certificates.
    #[serde(rename = "ISTIO_MUTUAL")]
    IstioMutual,
}

impl TlsMode {
    /// As in a DestinationRule.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "DISABLE",
            Self::Simple => "SIMPLE",
            Self::Mutual => "MUTUAL",
            Self::IstioMutual => "ISTIO_MUTUAL",
        }
    }
}

/// A duration as Istio writes it: `1.500s`.
#[expect(clippy::ref_option, reason = "serde's signature")]
fn duration<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.serialize_str(&seconds(*value)),
        None => serializer.serialize_none(),
    }
}

/// A duration for people: `250ms`, `3s`, `1.5s`.
pub(crate) fn seconds(value: Duration) -> String {
    format!("{value:?}")
}

/// A percentage without needless digits: `80%`, `33.3%`.
pub(crate) fn percent(value: f64) -> String {
    let rounded = (value * 10.0).round() / 10.0;
    format!("{rounded}%")
}
