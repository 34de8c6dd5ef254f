//! The labels of Istio's standard metrics: names, order, and what stands where something is not known.

/// What Istio writes for everything it does not know.
pub const UNKNOWN: &str = "unknown";

macro_rules! labels {
    ($($own:literal),*) => {
        [
            "reporter",
            "source_workload",
            "source_canonical_service",
            "source_canonical_revision",
            "source_workload_namespace",
            "source_principal",
            "source_app",
            "source_version",
            "source_cluster",
            "destination_workload",
            "destination_workload_namespace",
            "destination_principal",
            "destination_app",
            "destination_version",
            "destination_service",
            "destination_canonical_service",
            "destination_canonical_revision",
            "destination_service_name",
            "destination_service_namespace",
            "destination_cluster",
            $($own,)*
        ]
    };
}

/// Labels of the HTTP and gRPC metrics. `grpc_response_status` is empty (so: absent) for HTTP.
pub(super) const REQUEST_LABELS: [&str; 25] = labels!(
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy"
);
/// Labels of the TCP metrics.
pub(super) const TCP_LABELS: [&str; 23] = labels!(
    "request_protocol",
    "response_flags",
    "connection_security_policy"
);
/// Labels of the counts of gRPC messages: they are counted while the stream goes on, when how it ends is not known.
pub(super) const MESSAGE_LABELS: [&str; 20] = labels!();

/// Who reports a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The proxy beside the caller (or a gateway).
    Source,
    /// The proxy beside the called workload.
    Destination,
    /// A waypoint.
    Waypoint,
}

impl Reporter {
    /// The label's value.
    pub const fn label(self) -> &'static str {
        match self {
            Reporter::Source => "source",
            Reporter::Destination => "destination",
            Reporter::Waypoint => "waypoint",
        }
    }
}

/// The `request_protocol` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestProtocol {
    /// Any HTTP that is not gRPC.
    Http,
    /// gRPC, by content type.
    Grpc,
}

impl RequestProtocol {
    /// The label's value.
    pub const fn label(self) -> &'static str {
        match self {
            RequestProtocol::Http => "http",
            RequestProtocol::Grpc => "grpc",
        }
    }
}

/// The `connection_security_policy` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionSecurityPolicy {
    /// What a source reports: only the destination knows.
    Unknown,
    /// Plain text, or TLS without a client certificate.
    None,
    /// mTLS.
    MutualTls,
}

impl ConnectionSecurityPolicy {
    /// The label's value.
    pub const fn label(self) -> &'static str {
        match self {
            ConnectionSecurityPolicy::Unknown => UNKNOWN,
            ConnectionSecurityPolicy::None => "none",
            ConnectionSecurityPolicy::MutualTls => "mutual_tls",
        }
    }
}

/// A workload as its peer metadata describes it. Empty fields are reported as unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Name of the Deployment or the like.
    pub workload: String,
    /// Namespace of the workload.
    pub namespace: String,
    /// The `app` label.
    pub app: String,
    /// The `version` label.
    pub version: String,
    /// The cluster id.
    pub cluster: String,
    /// `service.istio.io/canonical-name`, or what stands for it.
    pub canonical_service: String,
    /// `service.istio.io/canonical-revision`, `latest` if unset.
    pub canonical_revision: String,
}

impl Peer {
    pub(super) fn of(text: &str) -> Peer {
        let text = || text.to_owned();
        Peer {
            workload: text(),
            namespace: text(),
            app: text(),
            version: text(),
            cluster: text(),
            canonical_service: text(),
            canonical_revision: text(),
        }
    }
}

/// The service a request or connection was meant for. Empty fields are reported as unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DestinationService {
    /// Its host: `reviews.default.svc.cluster.local`, `PassthroughCluster`.
    pub host: String,
    /// Its short name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
}

impl DestinationService {
    pub(super) fn of(text: &str) -> DestinationService {
        let text = || text.to_owned();
        DestinationService {
            host: text(),
            name: text(),
            namespace: text(),
        }
    }
}

/// The two ends of a request.
#[derive(Clone, Copy)]
pub(super) struct Ends<'a> {
    pub(super) source: &'a Peer,
    pub(super) destination: &'a Peer,
    pub(super) service: &'a DestinationService,
}

/// What stands for the revision of a workload that does not say. Source: Istio, canonical revisions.
const LATEST: &str = "latest";

/// The values of the labels up to and including `destination_cluster`, with room for the rest.
///
/// Who reports knows itself best, and of the other side its certificate counts before what it says of itself. Source: the rules of Istio's
/// `istio.stats` filter.
pub(super) fn ends<'a>(
    reporter: Reporter,
    ends: Ends<'a>,
    (source_principal, destination_principal): (&'a str, &'a str),
) -> Vec<&'a str> {
    let Ends {
        source,
        destination,
        service,
    } = ends;
    let (source_namespace, destination_namespace) = match reporter {
        Reporter::Source => (
            source.namespace.as_str(),
            known(namespace_of(destination_principal), &destination.namespace),
        ),
        Reporter::Destination | Reporter::Waypoint => (
            known(namespace_of(source_principal), &source.namespace),
            destination.namespace.as_str(),
        ),
    };
    let [host, name, service_namespace]: [&str; 3] = match reporter {
        Reporter::Source => [
            &service.host,
            &service.name,
            known(&service.namespace, destination_namespace),
        ],
        // Whatever was called is this workload's.
        Reporter::Destination => [
            known(&service.host, &destination.canonical_service),
            known(&service.name, &destination.canonical_service),
            destination_namespace,
        ],
        Reporter::Waypoint => [&service.host, &service.name, &service.namespace],
    };
    let mut values = Vec::with_capacity(REQUEST_LABELS.len());
    values.push(reporter.label());
    let all: [&str; 19] = [
        &source.workload,
        &source.canonical_service,
        known(&source.canonical_revision, LATEST),
        source_namespace,
        source_principal,
        &source.app,
        &source.version,
        &source.cluster,
        &destination.workload,
        destination_namespace,
        destination_principal,
        &destination.app,
        &destination.version,
        host,
        &destination.canonical_service,
        known(&destination.canonical_revision, LATEST),
        name,
        service_namespace,
        &destination.cluster,
    ];
    values.extend(all.map(|value| known(value, UNKNOWN)));
    values
}

/// The first, unless it is empty.
const fn known<'a>(value: &'a str, otherwise: &'a str) -> &'a str {
    if value.is_empty() { otherwise } else { value }
}

/// The namespace in a workload's identity (`spiffe://cluster.local/ns/default/sa/web`); empty if it names none.
fn namespace_of(principal: &str) -> &str {
    let found = principal.split_once("/ns/").map(|(_, rest)| rest);
    found
        .and_then(|rest| rest.split('/').next())
        .unwrap_or_default()
}
