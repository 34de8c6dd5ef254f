//! The hot paths of telemetry: an increment, a request's metrics, an access-log line; and a scrape beside them.

use std::hint::black_box;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use criterion::{Criterion, criterion_group, criterion_main};
use lateen_telemetry::ResponseFlags;
use lateen_telemetry::access_log::{
    Address, AddressField, Environment, HeaderKey, HeaderSource, ISTIO_TEXT_FORMAT, JsonFormat,
    LogContext, NumberField, TextField, TextFormat, TimePoint, istio_json_format,
};
use lateen_telemetry::metrics::envoy::ClusterFamilies;
use lateen_telemetry::metrics::istio::{
    ConnectionSecurityPolicy, IstioMetrics, Peer, PrincipalId, Reporter, RequestKey,
    RequestProtocol, RequestSample, ServiceId, Shape, WorkerMetrics,
};
use lateen_telemetry::metrics::{Registry, Shard, render};

struct Request;

impl LogContext for Request {
    fn start_time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::new(1_527_593_000, 528_000_000)
    }

    fn emit_time(&self) -> SystemTime {
        self.start_time()
    }

    fn header(&self, _source: HeaderSource, key: &HeaderKey) -> Option<&[u8]> {
        match key {
            HeaderKey::Method => Some(b"GET"),
            HeaderKey::Path => Some(b"/reviews/0"),
            HeaderKey::Authority => Some(b"reviews:9080"),
            HeaderKey::Name(name) if name == "x-envoy-original-path" => None,
            _ => Some(b"7d1ab88e-6a1b-9d1f-b8fd-0d0c4d8a6b3e"),
        }
    }

    fn text(&self, field: TextField) -> Option<&str> {
        match field {
            TextField::Protocol => Some("HTTP/1.1"),
            TextField::ResponseCodeDetails => Some("via_upstream"),
            TextField::UpstreamClusterRaw => {
                Some("outbound|9080|v1|reviews.default.svc.cluster.local")
            }
            TextField::RouteName => Some("default"),
            _ => None,
        }
    }

    fn number(&self, _field: NumberField) -> Option<u64> {
        Some(200)
    }

    fn address(&self, _field: AddressField) -> Option<Address<'_>> {
        Some(Address::Ip(([10, 244, 0, 7], 9080).into()))
    }

    fn time_point(&self, _point: TimePoint) -> Option<Duration> {
        Some(Duration::from_millis(7))
    }
}

fn key(worker: &mut WorkerMetrics, index: u32) -> RequestKey {
    RequestKey {
        reporter: Reporter::Destination,
        source: worker.peer(&Peer {
            workload: format!("w{index}"),
            ..Peer::default()
        }),
        destination: worker.peer(&Peer {
            workload: "reviews-v1".to_owned(),
            ..Peer::default()
        }),
        source_principal: PrincipalId::default(),
        destination_principal: PrincipalId::default(),
        service: ServiceId::default(),
        protocol: RequestProtocol::Http,
        response_code: 200,
        grpc_status: None,
        response_flags: ResponseFlags::NONE,
        security: ConnectionSecurityPolicy::MutualTls,
        shape: Shape::default(),
    }
}

fn metrics(c: &mut Criterion) {
    let registry = Registry::default();
    let counter = ClusterFamilies::new(&registry)
        .handles(Shard::worker(0), "a")
        .upstream_rq_total;
    c.bench_function("increment", |b| b.iter(|| black_box(&counter).inc()));

    let mut worker = IstioMetrics::new(&registry).worker(Shard::worker(0));
    let keys: Vec<RequestKey> = (0..100).map(|index| key(&mut worker, index)).collect();
    let sample = RequestSample {
        duration_milliseconds: 7,
        request_bytes: 300,
        response_bytes: 3000,
    };
    let mut index = 0;
    c.bench_function("record_request/100_kinds", |b| {
        b.iter(|| {
            index = (index + 1) % keys.len();
            worker.record_request(black_box(&keys[index]), sample);
        });
    });
    let mut text = String::new();
    c.bench_function("scrape/100_kinds", |b| {
        b.iter(|| {
            text.clear();
            render::prometheus(&registry.snapshot(), &render::Filter::default(), &mut text);
            text.len()
        });
    });
}

fn access_log(c: &mut Criterion) {
    let environment = Environment::default();
    let text = TextFormat::parse(ISTIO_TEXT_FORMAT, false, &environment).expect("Istio's format");
    let json =
        JsonFormat::parse(&istio_json_format(), false, &environment).expect("Istio's format");
    let mut out = Vec::with_capacity(1024);
    c.bench_function("access_log/istio_text", |b| {
        b.iter(|| {
            out.clear();
            text.write(black_box(&Request), &mut out);
            out.len()
        });
    });
    c.bench_function("access_log/istio_json", |b| {
        b.iter(|| {
            out.clear();
            json.write(black_box(&Request), &mut out);
            out.len()
        });
    });
}

criterion_group!(benches, metrics, access_log);
criterion_main!(benches);
