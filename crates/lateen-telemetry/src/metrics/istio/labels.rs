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
            "request_protocol",
            $($own,)*
            "response_flags",
            "connection_security_policy",
        ]
    };
}

/// Labels of the HTTP and gRPC metrics. `grpc_response_status` is empty (so: absent) for HTTP.
pub(super) const REQUEST_LABELS: [&str; 25] = labels!("response_code", "grpc_response_status");
/// Labels of the TCP metrics.
pub(super) const TCP_LABELS: [&str; 23] = labels!();

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

/// The values of the labels up to and including `destination_cluster`, with room for the rest.
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
    let mut values = Vec::with_capacity(REQUEST_LABELS.len());
    values.push(reporter.label());
    let known = [
        &source.workload,
        &source.canonical_service,
        &source.canonical_revision,
        &source.namespace,
        source_principal,
        &source.app,
        &source.version,
        &source.cluster,
        &destination.workload,
        &destination.namespace,
        destination_principal,
        &destination.app,
        &destination.version,
        &service.host,
        &destination.canonical_service,
        &destination.canonical_revision,
        &service.name,
        &service.namespace,
        &destination.cluster,
    ];
    values.extend(known.map(|value| if value.is_empty() { UNKNOWN } else { value }));
    values
}
