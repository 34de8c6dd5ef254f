//! Istio's metrics as a scraper sees them.

use super::*;
use crate::metrics::{Value, render};

fn reviews() -> Peer {
    Peer {
        workload: "reviews-v1".to_owned(),
        namespace: "default".to_owned(),
        app: "reviews".to_owned(),
        version: "v1".to_owned(),
        cluster: "Kubernetes".to_owned(),
        canonical_service: "reviews".to_owned(),
        canonical_revision: "v1".to_owned(),
    }
}

fn service() -> DestinationService {
    DestinationService {
        host: "reviews.default.svc.cluster.local".to_owned(),
        name: "reviews".to_owned(),
        namespace: "default".to_owned(),
    }
}

fn key(worker: &mut WorkerMetrics) -> RequestKey {
    RequestKey {
        reporter: Reporter::Destination,
        source: PeerId::default(),
        destination: worker.peer(&reviews()),
        source_principal: worker.principal("spiffe://cluster.local/ns/default/sa/a"),
        destination_principal: worker.principal("spiffe://cluster.local/ns/default/sa/b"),
        service: worker.service(&service()),
        protocol: RequestProtocol::Http,
        response_code: 200,
        grpc_status: None,
        response_flags: ResponseFlags::NONE,
        security: ConnectionSecurityPolicy::MutualTls,
        shape: Shape::default(),
    }
}

#[test]
fn a_request_is_exposed_with_istios_labels_in_istios_order() {
    let registry = Registry::default();
    let mut worker = IstioMetrics::new(&registry).worker(Shard::worker(0));
    let key = key(&mut worker);
    worker.record_request(
        &key,
        RequestSample {
            duration_milliseconds: 7,
            ..Default::default()
        },
    );
    let mut text = String::new();
    render::prometheus(&registry.snapshot(), &render::Filter::default(), &mut text);
    let line = text
        .lines()
        .find(|line| line.starts_with("istio_requests_total{"))
        .unwrap();
    assert_eq!(
        line,
        "istio_requests_total{reporter=\"destination\",source_workload=\"unknown\",\
         source_canonical_service=\"unknown\",source_canonical_revision=\"latest\",\
         source_workload_namespace=\"default\",\
         source_principal=\"spiffe://cluster.local/ns/default/sa/a\",source_app=\"unknown\",\
         source_version=\"unknown\",source_cluster=\"unknown\",destination_workload=\"reviews-v1\",\
         destination_workload_namespace=\"default\",\
         destination_principal=\"spiffe://cluster.local/ns/default/sa/b\",\
         destination_app=\"reviews\",destination_version=\"v1\",\
         destination_service=\"reviews.default.svc.cluster.local\",\
         destination_canonical_service=\"reviews\",destination_canonical_revision=\"v1\",\
         destination_service_name=\"reviews\",destination_service_namespace=\"default\",\
         destination_cluster=\"Kubernetes\",request_protocol=\"http\",response_code=\"200\",\
         response_flags=\"-\",connection_security_policy=\"mutual_tls\"} 1"
    );
    assert!(text.contains("istio_request_duration_milliseconds_sum{"));
    assert!(
        !text.contains("istio_request_messages_total{"),
        "only gRPC has messages"
    );
}

#[test]
fn grpc_requests_carry_their_status_and_count_messages() {
    let registry = Registry::default();
    let mut worker = IstioMetrics::new(&registry).worker(Shard::worker(0));
    let key = RequestKey {
        protocol: RequestProtocol::Grpc,
        grpc_status: Some(14),
        ..key(&mut worker)
    };
    worker.record_request(&key, RequestSample::default());
    worker.record_messages(&key, 2, 3);
    let labels = [("grpc_response_status", "14"), ("request_protocol", "grpc")];
    let snapshot = registry.snapshot();
    assert_eq!(snapshot.counter("istio_requests_total", &labels), 1);
    // Messages are counted before the status is known.
    let labels = [("reporter", "destination")];
    assert_eq!(snapshot.counter("istio_request_messages_total", &labels), 2);
    assert_eq!(
        snapshot.counter("istio_response_messages_total", &labels),
        3
    );
}

fn line_of(registry: &Registry, name: &str) -> String {
    let mut text = String::new();
    render::prometheus(&registry.snapshot(), &render::Filter::default(), &mut text);
    let found = text.lines().find(|line| line.starts_with(name)).unwrap();
    found.to_owned()
}

#[test]
fn a_destination_that_no_cluster_named_is_the_workload_itself() {
    let registry = Registry::default();
    let mut worker = IstioMetrics::new(&registry).worker(Shard::worker(0));
    let key = RequestKey {
        service: worker.service(&DestinationService::default()),
        ..key(&mut worker)
    };
    worker.record_request(&key, RequestSample::default());
    let line = line_of(&registry, "istio_requests_total{");
    for expected in [
        "destination_service=\"reviews\"",
        "destination_service_name=\"reviews\"",
        "destination_service_namespace=\"default\"",
    ] {
        assert!(line.contains(expected), "{expected} in {line}");
    }
}

#[test]
fn a_source_takes_the_other_sides_namespace_from_its_certificate_and_says_latest_for_no_revision() {
    let registry = Registry::default();
    let mut worker = IstioMetrics::new(&registry).worker(Shard::worker(0));
    let key = RequestKey {
        reporter: Reporter::Source,
        source: worker.peer(&reviews()),
        destination: PeerId::default(),
        destination_principal: worker.principal("spiffe://cluster.local/ns/shop/sa/b"),
        service: worker.service(&DestinationService {
            namespace: String::new(),
            ..service()
        }),
        ..key(&mut worker)
    };
    worker.record_request(&key, RequestSample::default());
    let line = line_of(&registry, "istio_requests_total{");
    for expected in [
        "destination_workload=\"unknown\"",
        "destination_workload_namespace=\"shop\"",
        "destination_service_namespace=\"shop\"",
        "destination_canonical_revision=\"latest\"",
        "source_workload_namespace=\"default\"",
    ] {
        assert!(line.contains(expected), "{expected} in {line}");
    }
}

#[test]
fn workers_count_apart_and_are_summed_when_read() {
    let registry = Registry::default();
    let metrics = IstioMetrics::new(&registry);
    for index in 0..3 {
        let mut worker = metrics.worker(Shard::worker(index));
        let key = key(&mut worker);
        worker.record_request(
            &key,
            RequestSample {
                request_bytes: 10,
                ..Default::default()
            },
        );
    }
    let snapshot = registry.snapshot();
    assert_eq!(
        snapshot.counter("istio_requests_total", &[("response_code", "200")]),
        3
    );
    let Some(Value::Histogram { sum, .. }) = snapshot.value("istio_request_bytes", &[]) else {
        panic!("request bytes are a histogram");
    };
    assert_eq!(sum, 30);
}

#[test]
fn tcp_connections_have_no_response_code() {
    let registry = Registry::default();
    let mut worker = IstioMetrics::new(&registry).worker(Shard::worker(0));
    let request = key(&mut worker);
    let key = TcpKey {
        reporter: Reporter::Source,
        source: request.destination,
        destination: request.destination,
        source_principal: request.source_principal,
        destination_principal: request.destination_principal,
        service: request.service,
        response_flags: ResponseFlags::NONE,
        security: ConnectionSecurityPolicy::Unknown,
        shape: Shape::default(),
    };
    let handles = worker.tcp(&key);
    handles.opened.inc();
    handles.sent_bytes.add(100);
    let snapshot = registry.snapshot();
    let labels = [("request_protocol", "tcp"), ("reporter", "source")];
    assert_eq!(
        snapshot.counter("istio_tcp_connections_opened_total", &labels),
        1
    );
    assert_eq!(snapshot.counter("istio_tcp_sent_bytes_total", &labels), 100);
    assert_eq!(
        snapshot.value("istio_tcp_sent_bytes_total", &[("response_code", "200")]),
        None
    );
}

#[test]
fn a_flood_of_peers_ends_in_other() {
    let registry = Registry::default();
    let mut worker = IstioMetrics::new(&registry).worker(Shard::worker(0));
    let mut last = PeerId::default();
    for index in 0..INTERNED + 10 {
        last = worker.peer(&Peer {
            workload: format!("w{index}"),
            ..Peer::default()
        });
    }
    let key = RequestKey {
        source: last,
        ..key(&mut worker)
    };
    worker.record_request(&key, RequestSample::default());
    let snapshot = registry.snapshot();
    assert_eq!(
        snapshot.counter("istio_requests_total", &[("source_workload", "other")]),
        1
    );
}

#[test]
fn unused_handles_are_let_go_after_one_whole_sweep() {
    let registry = Registry::default();
    let mut worker = IstioMetrics::new(&registry).worker(Shard::worker(0));
    let key = key(&mut worker);
    worker.record_request(&key, RequestSample::default());
    worker.sweep();
    assert_eq!(worker.requests.len(), 1, "used since the sweep before");
    worker.sweep();
    assert!(worker.requests.is_empty());
    worker.record_request(&key, RequestSample::default());
    assert_eq!(
        registry.snapshot().counter("istio_requests_total", &[]),
        2,
        "nothing is lost"
    );
}
