//! What the traffic of these tests comes to, as series with all their labels.

use std::collections::BTreeMap;

pub(super) type Labels = BTreeMap<String, String>;
/// A metric's name and its labels.
pub(super) type Series = (String, Labels);

const CALLER: &str = "spiffe://cluster.local/ns/front/sa/caller";
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// Nobody is known and nothing said.
const UNKNOWN: [(&str, &str); 20] = [
    ("source_workload", "unknown"),
    ("source_canonical_service", "unknown"),
    ("source_canonical_revision", "latest"),
    ("source_workload_namespace", "unknown"),
    ("source_principal", "unknown"),
    ("source_app", "unknown"),
    ("source_version", "unknown"),
    ("source_cluster", "unknown"),
    ("destination_workload", "unknown"),
    ("destination_workload_namespace", "unknown"),
    ("destination_principal", "unknown"),
    ("destination_app", "unknown"),
    ("destination_version", "unknown"),
    ("destination_service", "unknown"),
    ("destination_canonical_service", "unknown"),
    ("destination_canonical_revision", "latest"),
    ("destination_service_name", "unknown"),
    ("destination_service_namespace", "unknown"),
    ("destination_cluster", "unknown"),
    ("reporter", "unknown"),
];

const FROM_CALLER: [(&str, &str); 5] = [
    ("source_workload", "caller"),
    ("source_canonical_service", "caller"),
    ("source_workload_namespace", "front"),
    ("source_app", "caller"),
    ("source_cluster", "Kubernetes"),
];

const WEB_WORKLOAD: [(&str, &str); 7] = [
    ("destination_workload", "web-v1"),
    ("destination_workload_namespace", "shop"),
    ("destination_app", "web"),
    ("destination_version", "v1"),
    ("destination_canonical_service", "web"),
    ("destination_canonical_revision", "v1"),
    ("destination_cluster", "Kubernetes"),
];

const WEB_SERVICE: [(&str, &str); 3] = [
    ("destination_service", "web.shop.svc.cluster.local"),
    ("destination_service_name", "web"),
    ("destination_service_namespace", "shop"),
];

const MUTUAL: [(&str, &str); 2] = [("source_principal", CALLER), ("destination_principal", WEB)];

/// Everything over UNKNOWN, the later the stronger.
fn labels(parts: &[&[(&str, &str)]]) -> Labels {
    let all = UNKNOWN.iter().chain(parts.iter().copied().flatten());
    all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn with(labels: &Labels, more: &[(&str, &str)]) -> Labels {
    let mut labels = labels.clone();
    labels.extend(more.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
    labels
}

/// Collects series.
struct Expected(BTreeMap<Series, u64>);

impl Expected {
    fn add(&mut self, name: &str, labels: &Labels, value: u64) {
        self.0.insert((name.to_owned(), labels.clone()), value);
    }

    /// Requests of one kind: all four metrics count them.
    fn requests(&mut self, ends: &Labels, more: &[(&str, &str)], count: u64) {
        let labels = with(ends, more);
        self.add("istio_requests_total", &labels, count);
        for name in [
            "istio_request_duration_milliseconds_count",
            "istio_request_bytes_count",
            "istio_response_bytes_count",
        ] {
            self.add(name, &labels, count);
        }
    }

    fn http(&mut self, ends: &Labels, security: &str, (code, flags): (&str, &str), count: u64) {
        let more = [
            ("request_protocol", "http"),
            ("response_code", code),
            ("response_flags", flags),
            ("connection_security_policy", security),
        ];
        self.requests(ends, &more, count);
    }

    fn grpc(&mut self, ends: &Labels, security: &str, grpc_status: &str, count: u64) {
        let more = [
            ("request_protocol", "grpc"),
            ("response_code", "200"),
            ("grpc_response_status", grpc_status),
            ("response_flags", "-"),
            ("connection_security_policy", security),
        ];
        self.requests(ends, &more, count);
    }

    /// What the three gRPC calls come to: two that succeed, and one of a method that does not exist, which has no answer.
    fn calls(&mut self, ends: &Labels, security: &str) {
        self.grpc(ends, security, "0", 2);
        self.grpc(ends, security, "12", 1);
        self.add("istio_request_messages_total", ends, 3);
        self.add("istio_response_messages_total", ends, 2);
    }

    fn connection(&mut self, ends: &Labels, security: &str) {
        let more = [
            ("request_protocol", "tcp"),
            ("response_flags", "-"),
            ("connection_security_policy", security),
        ];
        let labels = with(ends, &more);
        self.add("istio_tcp_connections_opened_total", &labels, 1);
        self.add("istio_tcp_connections_closed_total", &labels, 1);
    }
}

/// What the caller's proxy counts.
pub(super) fn source() -> BTreeMap<Series, u64> {
    const REPORTER: &[(&str, &str)] = &[("reporter", "source")];
    let mut all = Expected(BTreeMap::new());
    let web = labels(&[REPORTER, &FROM_CALLER, &WEB_WORKLOAD, &WEB_SERVICE, &MUTUAL]);
    all.http(&web, "unknown", ("200", "-"), 3);
    all.http(&web, "unknown", ("404", "-"), 1);
    all.calls(&web, "unknown");
    all.connection(&web, "unknown");

    let nobody = [
        ("destination_service", "nobody.shop.svc.cluster.local"),
        ("destination_service_name", "nobody"),
        ("destination_service_namespace", "shop"),
    ];
    let nobody = labels(&[REPORTER, &FROM_CALLER, &nobody]);
    all.http(&nobody, "unknown", ("503", "UH"), 1);

    // It says nothing of itself; what the control plane says of its endpoint has no app and no version.
    let bare = [
        ("destination_workload", "bare"),
        ("destination_workload_namespace", "plain"),
        ("destination_service", "bare.plain.svc.cluster.local"),
        ("destination_canonical_service", "bare"),
        ("destination_service_name", "bare"),
        ("destination_service_namespace", "plain"),
        ("destination_cluster", "Kubernetes"),
    ];
    let bare = labels(&[REPORTER, &FROM_CALLER, &bare]);
    all.http(&bare, "unknown", ("200", "-"), 1);

    let passed = [("destination_service_name", "PassthroughCluster")];
    let passed = labels(&[REPORTER, &FROM_CALLER, &passed]);
    all.connection(&passed, "unknown");
    let named = with(&passed, &[("destination_service", "unknown.example.com")]);
    all.http(&named, "unknown", ("200", "-"), 1);
    all.0
}

/// What the server's proxy counts.
pub(super) fn destination() -> BTreeMap<Series, u64> {
    const REPORTER: &[(&str, &str)] = &[("reporter", "destination")];
    let mut all = Expected(BTreeMap::new());
    let web = labels(&[REPORTER, &FROM_CALLER, &WEB_WORKLOAD, &WEB_SERVICE, &MUTUAL]);
    all.http(&web, "mutual_tls", ("200", "-"), 3);
    all.http(&web, "mutual_tls", ("404", "-"), 1);
    all.calls(&web, "mutual_tls");
    all.connection(&web, "mutual_tls");

    let stranger = labels(&[REPORTER, &WEB_WORKLOAD, &WEB_SERVICE]);
    all.http(&stranger, "none", ("200", "-"), 1);
    all.connection(&stranger, "none");
    all.0
}
