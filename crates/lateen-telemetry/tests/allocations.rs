//! Holds the hot paths to their word: counting and logging a request allocates nothing once warm.
#![expect(unsafe_code, reason = "an allocator that counts is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lateen_telemetry::access_log::{
    Address, AddressField, Environment, Format, HeaderKey, HeaderSource, ISTIO_TEXT_FORMAT,
    JsonFormat, LogContext, NumberField, TextField, TextFormat, TimePoint, istio_json_format,
};
use lateen_telemetry::metrics::envoy::ClusterFamilies;
use lateen_telemetry::metrics::istio::{
    ConnectionSecurityPolicy, IstioMetrics, Peer, PrincipalId, Reporter, RequestKey,
    RequestProtocol, RequestSample, ServiceId, Shape,
};
use lateen_telemetry::metrics::{Registry, Shard};
use lateen_telemetry::{ResponseFlag, ResponseFlags};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LIVE_BYTES: Cell<i64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        LIVE_BYTES.with(|bytes| bytes.set(bytes.get() + layout.size() as i64));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.with(|bytes| bytes.set(bytes.get() - layout.size() as i64));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often this thread allocates in `work`.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

struct Request;

impl LogContext for Request {
    fn start_time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_527_593_000_528)
    }

    fn emit_time(&self) -> SystemTime {
        self.start_time()
    }

    fn header(&self, _source: HeaderSource, key: &HeaderKey) -> Option<&[u8]> {
        match key {
            HeaderKey::Name(name) if name == "user-agent" => None,
            _ => Some(b"value"),
        }
    }

    fn text(&self, field: TextField) -> Option<&str> {
        (field != TextField::RequestedServerName).then_some("text")
    }

    fn number(&self, _field: NumberField) -> Option<u64> {
        Some(200)
    }

    fn address(&self, field: AddressField) -> Option<Address<'_>> {
        Some(Address::Ip(match field {
            AddressField::UpstreamHost => ([10, 244, 0, 7], 9080).into(),
            _ => ([0xfd00, 0, 0, 0, 0, 0, 0, 1], 41000).into(),
        }))
    }

    fn time_point(&self, _point: TimePoint) -> Option<Duration> {
        Some(Duration::from_millis(7))
    }

    fn response_flags(&self) -> ResponseFlags {
        ResponseFlags::of(ResponseFlag::UpstreamOverflow)
    }
}

#[test]
fn counting_a_request_allocates_nothing() {
    let registry = Registry::default();
    let cluster = ClusterFamilies::new(&registry).handles(Shard::worker(0), "a");
    let mut worker = IstioMetrics::new(&registry).worker(Shard::worker(0));
    let peer = Peer {
        workload: "reviews-v1".to_owned(),
        ..Peer::default()
    };
    let key = RequestKey {
        reporter: Reporter::Destination,
        source: worker.peer(&peer),
        destination: worker.peer(&peer),
        source_principal: PrincipalId::default(),
        destination_principal: PrincipalId::default(),
        service: ServiceId::default(),
        protocol: RequestProtocol::Http,
        response_code: 200,
        grpc_status: None,
        response_flags: ResponseFlags::NONE,
        security: ConnectionSecurityPolicy::MutualTls,
        shape: Shape::default(),
    };
    let sample = RequestSample::default();
    worker.record_request(&key, sample);
    let counted = allocations(|| {
        cluster.upstream_rq_total.inc();
        cluster.upstream_rq_time.record(7);
        worker.peer(&peer);
        worker.record_request(&key, sample);
    });
    assert_eq!(counted, 0);
}

/// A mesh has many services, and a sidecar little memory.
#[test]
fn the_stats_of_a_cluster_cost_little_memory() {
    let registry = Registry::default();
    let families = ClusterFamilies::new(&registry);
    let before = LIVE_BYTES.with(Cell::get);
    let clusters: Vec<_> = (0..1000)
        .map(|index| {
            let name = format!("outbound|9080||service-{index}.default.svc.cluster.local");
            families.handles(Shard::worker(0), &name)
        })
        .collect();
    let each = (LIVE_BYTES.with(Cell::get) - before) / clusters.len() as i64;
    assert!(each < 12 * 1024, "{each} bytes per cluster and worker");
}

#[test]
fn logging_a_request_allocates_nothing() {
    let environment = Environment::default();
    let text = TextFormat::parse(ISTIO_TEXT_FORMAT, false, &environment).unwrap();
    let json = JsonFormat::parse(&istio_json_format(), false, &environment).unwrap();
    for format in [Format::Text(text), Format::Json(json)] {
        let mut out = Vec::with_capacity(4096);
        assert_eq!(
            allocations(|| format.write(&Request, &mut out)),
            0,
            "{format:?}"
        );
        assert!(out.ends_with(b"\n"));
    }
}
