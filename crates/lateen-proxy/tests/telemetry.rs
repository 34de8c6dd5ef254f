//! Spans as collectors get them: our proxy and a real Envoy say the same of the same requests, and a collector that is slow or gone costs
//! requests nothing. And Istio's metrics with the labels that configuration gives them.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;
#[path = "telemetry/vendors.rs"]
mod vendors;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use prost::Message;
use serde_json::{Value, json};
use support::twins::Twins;
use support::*;

/// What a collector got: the path, the content type and the body of each request.
type Reports = Arc<Mutex<Vec<(String, String, Bytes)>>>;

async fn collector() -> (SocketAddr, Reports) {
    let reports = Reports::default();
    let kept = Arc::clone(&reports);
    let address = backend(move |request: Request<_>| {
        let kept = Arc::clone(&kept);
        async move {
            let (head, mut body) = request.into_parts();
            let kind = head.headers["content-type"].to_str().unwrap().to_owned();
            let is_grpc = kind == "application/grpc";
            let path = head.uri.path().to_owned();
            if path == vendors::COLLECT {
                // A stream that stays open: what comes is taken as it comes.
                while let Some(Ok(frame)) = body.frame().await {
                    if let Ok(data) = frame.into_data() {
                        let one = (path.clone(), kind.clone(), data);
                        kept.lock().unwrap().push(one);
                    }
                }
            } else {
                let body = BodyExt::collect(body).await.unwrap().to_bytes();
                kept.lock().unwrap().push((path, kind, body));
            }
            let mut answer = Response::builder();
            if is_grpc {
                answer = answer
                    .header("content-type", "application/grpc")
                    .header("grpc-status", "0");
            }
            answer.body(Full::new(Bytes::new()).boxed()).unwrap()
        }
    })
    .await;
    (address, reports)
}

/// A span, without what differs between any two.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    name: String,
    kind: String,
    parent: String,
    trace: String,
    failed: bool,
    tags: BTreeMap<String, String>,
}

fn tags(pairs: impl Iterator<Item = (String, String)>) -> BTreeMap<String, String> {
    let plain = |(name, value): (String, String)| {
        let value = match name.as_str() {
            "guid:x-request-id" => format!("{} letters", value.len()),
            "node_id" => "a node".to_owned(),
            _ => value,
        };
        (name, value)
    };
    pairs.map(plain).collect()
}

/// Ids that tests send begin with `5ee`; others are made.
fn id(text: &str) -> String {
    if text.is_empty() || text.starts_with("5ee") {
        return text.to_owned();
    }
    format!("{} digits", text.len())
}

fn zipkin_spans(reports: &Reports) -> Vec<Span> {
    let reports = reports.lock().unwrap();
    let bodies = reports.iter().filter(|(path, ..)| path == "/api/v2/spans");
    let lists = bodies.map(|(_, kind, body)| {
        assert_eq!(kind, "application/json");
        serde_json::from_slice::<Vec<Value>>(body).unwrap()
    });
    let span = |span: Value| {
        let text = |key: &str| span[key].as_str().unwrap_or_default().to_owned();
        assert_eq!(span["localEndpoint"]["serviceName"], "test");
        assert!(span["timestamp"].as_u64().unwrap() > 1_600_000_000_000_000);
        assert!(span["duration"].as_u64().unwrap() > 0);
        let pairs = span["tags"].as_object().unwrap().iter();
        Span {
            name: text("name"),
            kind: text("kind"),
            parent: id(&text("parentId")),
            trace: id(&text("traceId")),
            failed: false,
            tags: tags(pairs.map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()))),
        }
    };
    lists.flatten().map(span).collect()
}

/// OTLP's messages as the collector reads them, by their numbers in its own files.
mod otlp {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Request {
        #[prost(message, repeated, tag = "1")]
        pub(crate) resource_spans: Vec<ResourceSpans>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct ResourceSpans {
        #[prost(message, optional, tag = "1")]
        pub(crate) resource: Option<Resource>,
        #[prost(message, repeated, tag = "2")]
        pub(crate) scope_spans: Vec<ScopeSpans>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Resource {
        #[prost(message, repeated, tag = "1")]
        pub(crate) attributes: Vec<KeyValue>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct KeyValue {
        #[prost(string, tag = "1")]
        pub(crate) key: String,
        #[prost(message, optional, tag = "2")]
        pub(crate) value: Option<AnyValue>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct AnyValue {
        #[prost(string, optional, tag = "1")]
        pub(crate) string_value: Option<String>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct ScopeSpans {
        #[prost(message, repeated, tag = "2")]
        pub(crate) spans: Vec<Span>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Span {
        #[prost(bytes = "vec", tag = "1")]
        pub(crate) trace_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "4")]
        pub(crate) parent_span_id: Vec<u8>,
        #[prost(string, tag = "5")]
        pub(crate) name: String,
        #[prost(int32, tag = "6")]
        pub(crate) kind: i32,
        #[prost(fixed64, tag = "7")]
        pub(crate) start: u64,
        #[prost(fixed64, tag = "8")]
        pub(crate) end: u64,
        #[prost(message, repeated, tag = "9")]
        pub(crate) attributes: Vec<KeyValue>,
        #[prost(message, optional, tag = "15")]
        pub(crate) status: Option<Status>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Status {
        #[prost(int32, tag = "3")]
        pub(crate) code: i32,
    }
}

fn otlp_spans(reports: &Reports, over: &str) -> Vec<Span> {
    let pairs = |list: Vec<otlp::KeyValue>| {
        let pair = |pair: otlp::KeyValue| {
            let value = pair.value.unwrap_or_default().string_value;
            (pair.key, value.unwrap_or_default())
        };
        list.into_iter().map(pair)
    };
    let hex = |bytes: &[u8]| {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        id(&digits)
    };
    let mut out = Vec::new();
    for (_, kind, body) in &*reports.lock().unwrap() {
        let message = match kind.as_str() {
            "application/grpc" if over == "grpc" => body.slice(5..),
            "application/x-protobuf" if over == "http" => body.clone(),
            _ => continue,
        };
        for resource in otlp::Request::decode(message).unwrap().resource_spans {
            let about: BTreeMap<_, _> = pairs(resource.resource.unwrap().attributes).collect();
            assert_eq!(about["service.name"], "me.shop");
            for span in resource.scope_spans.into_iter().flat_map(|s| s.spans) {
                assert!(span.start > 0 && span.end > span.start);
                out.push(Span {
                    name: span.name,
                    kind: span.kind.to_string(),
                    parent: hex(&span.parent_span_id),
                    trace: hex(&span.trace_id),
                    failed: span.status.unwrap_or_default().code == 2,
                    tags: tags(pairs(span.attributes)),
                });
            }
        }
    }
    out
}

fn traced(provider: Value, extra: Value) -> Value {
    let mut tracing = json!({
        "random_sampling": {"value": 100},
        "max_path_tag_length": 12,
        "custom_tags": [
            {"tag": "said", "literal": {"value": "this"}},
            {"tag": "asked-by", "request_header": {"name": "x-user"}},
            {"tag": "nobody", "request_header": {"name": "x-nobody"}},
            {"tag": "default", "request_header": {"name": "x-nobody", "default_value": "somebody"}},
            {"tag": "home", "environment": {"name": "NO_SUCH_VARIABLE", "default_value": "homeless"}},
            {"tag": "formed", "value": "%PROTOCOL% %RESPONSE_CODE%"},
        ],
        "provider": provider,
    });
    merge(&mut tracing, extra);
    json!({"tracing": tracing, "stat_prefix": "traced"})
}

fn zipkin() -> Value {
    json!({"name": "envoy.tracers.zipkin", "typed_config": {
        "@type": "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig",
        "collector_endpoint_version": "HTTP_JSON", "trace_id_128bit": true, "shared_span_context": false,
        "collector_service": {"http_uri": {"uri": "http://zipkin/api/v2/spans", "cluster": "collector", "timeout": "5s"}},
    }})
}

fn otel(service: Value) -> Value {
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
        "service_name": "me.shop",
    });
    merge(&mut config, service);
    json!({"name": "envoy.tracers.opentelemetry", "typed_config": config})
}

fn over_http() -> Value {
    otel(
        json!({"http_service": {"http_uri": {"uri": "http://otel/v1/traces", "cluster": "collector", "timeout": "5s"}}}),
    )
}

fn over_grpc() -> Value {
    otel(json!({"grpc_service": {"envoy_grpc": {"cluster_name": "collector-h2"}, "timeout": "5s"}}))
}

fn routes() -> Value {
    json!([
        {"name": "named", "match": {"prefix": "/named"}, "route": {"cluster": "up"}, "decorator": {"operation": "up:80/*"}},
        {"name": "here", "match": {"prefix": "/here"}, "direct_response": {"status": 503, "body": {"inline_string": "no"}}},
        {"name": "all", "match": {"prefix": "/"}, "route": {"cluster": "up"}},
    ])
}

fn traced_listener(name: &str, direction: &str, manager: Value) -> Value {
    let mut made = listener(name, json!([{"filters": [hcm(routes(), manager)]}]));
    made["traffic_direction"] = json!(direction);
    made
}

/// Sends what the test is about.
async fn ask(address: SocketAddr) {
    let asked = [
        ("/", "x-user: jason"),
        ("/named/and/long/path?x=1", "user-agent: test"),
        ("/missing", "x-client-trace-id: mine"),
        ("/here", "x-none: 1"),
        (
            "/",
            "b3: 5ee92f3577b34da6a3ce929d0e0e4736-5ee067aa0ba902b7-1",
        ),
        (
            "/",
            "sw8: 1-dHJhY2UtMQ==-c2VnLTE=-3-bWVzaA==-aW5zdA==-L2FwaQ==-MTAuMC4wLjE6ODA=",
        ),
        (
            "/named",
            "traceparent: 00-5ee92f3577b34da6a3ce929d0e0e4736-5ee067aa0ba902b7-01",
        ),
    ];
    for (path, header) in asked {
        let (name, value) = header.split_once(": ").unwrap();
        let request = Request::builder()
            .uri(path)
            .header("host", "shop.example")
            .header(name, value)
            .body(Full::default())
            .unwrap();
        let mut client = client(address).await;
        let answer = client.send_request(request).await.unwrap();
        answer.into_body().collect().await.unwrap();
    }
}

/// What both say of the same requests.
async fn compare(provider: Value, extra: Value, read: impl Fn(&Reports) -> Vec<Span>) -> Vec<Span> {
    let up = backend(|request| async move {
        let status = if request.uri().path() == "/missing" {
            404
        } else {
            200
        };
        Response::builder()
            .status(status)
            .body(Full::new(Bytes::from("hello")).boxed())
            .unwrap()
    })
    .await;
    let (to, reports) = collector().await;
    let manager = || traced(provider.clone(), extra.clone());
    let twins = Twins::start(vec![
        traced_listener("in", "INBOUND", manager()),
        traced_listener("out", "OUTBOUND", manager()),
        cluster("up", &[up], json!({})),
        cluster("collector", &[to], json!({})),
        cluster("collector-h2", &[to], http2()),
    ])
    .await;
    let mut sides = Vec::new();
    for listener in ["in", "out"] {
        for (who, address) in twins.addresses(listener) {
            reports.lock().unwrap().clear();
            ask(address).await;
            // Envoy waits for a fifth span, or for five seconds.
            let same = |side: &&(&str, &str, Vec<Span>)| side.0 == listener;
            let wanted = sides
                .iter()
                .find(same)
                .map_or(7, |(_, _, spans)| spans.len());
            let end = Instant::now() + Duration::from_secs(30);
            while read(&reports).len() < wanted && Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            tokio::time::sleep(Duration::from_millis(1500)).await;
            let mut spans = read(&reports);
            spans.sort();
            sides.push((listener, who, spans));
        }
    }
    let mut out = Vec::new();
    for sides in sides.chunk_by(|a, b| a.0 == b.0) {
        let (listener, _, ours) = &sides[0];
        assert!(ours.len() >= 7, "{listener}: {ours:#?}");
        if let Some((_, _, envoys)) = sides.get(1) {
            let differing: Vec<_> = ours.iter().zip(envoys).filter(|(a, b)| a != b).collect();
            assert!(differing.is_empty(), "{listener}: {differing:#?}");
            assert_eq!(
                ours.len(),
                envoys.len(),
                "{listener}: {ours:#?} {envoys:#?}"
            );
        }
        out.extend(ours.iter().cloned());
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn zipkins_spans_are_envoys() {
    let spans = compare(zipkin(), json!({}), zipkin_spans).await;
    let named = spans.iter().find(|span| span.name == "up:80/*").unwrap();
    assert_eq!(named.tags["said"], "this");
    assert!(spans.iter().any(|span| span.parent == "5ee067aa0ba902b7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn datadogs_spans_are_envoys() {
    let two = json!({"spawn_upstream_span": true});
    let spans = compare(vendors::datadog(), two, vendors::datadog_spans).await;
    let named = spans.iter().find(|span| span.name == "up:80/*").unwrap();
    assert_eq!(named.tags["said"], "this");
    assert!(spans.iter().any(|span| span.parent == "5ee067aa0ba902b7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn skywalkings_segments_are_envoys() {
    let two = json!({"spawn_upstream_span": true});
    let spans = compare(vendors::skywalking(), two, vendors::skywalking_spans).await;
    assert!(
        spans
            .iter()
            .any(|span| span.trace == "trace-1" && span.parent.contains("seg-1"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn opentelemetrys_spans_over_http_are_envoys() {
    let read = |reports: &Reports| otlp_spans(reports, "http");
    let spans = compare(over_http(), json!({}), read).await;
    assert!(spans.iter().any(|span| span.failed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_makes_two_spans_of_a_request_over_grpc() {
    let read = |reports: &Reports| otlp_spans(reports, "grpc");
    let extra = json!({"spawn_upstream_span": true});
    let spans = compare(over_grpc(), extra, read).await;
    assert!(spans.iter().any(|span| span.name == "router up egress"));
}

/// A collector that never answers holds nothing up: spans are dropped once the queue is full, and requests go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_does_not_answer_costs_requests_nothing() {
    let up = backend(|_| async { text("hello") }).await;
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let running = start(vec![
        traced_listener("in", "INBOUND", traced(zipkin(), json!({}))),
        cluster("up", &[up], json!({})),
        cluster("collector", &[mute.local_addr().unwrap()], json!({})),
    ])
    .await;
    let address = running.address("in");
    let mut client = client(address).await;
    let count = |name: &str| running.handle.metrics().counter(name, &[]);
    let end = Instant::now() + Duration::from_secs(60);
    while count("envoy_tracing_zipkin_spans_dropped") == 0 {
        assert!(Instant::now() < end, "nothing was dropped");
        for _ in 0..500 {
            let request = Request::builder()
                .uri("/")
                .header("host", "x")
                .body(Full::default())
                .unwrap();
            client.ready().await.unwrap();
            let answer = client.send_request(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            answer.into_body().collect().await.unwrap();
        }
    }
    assert!(count("envoy_tracing_zipkin_spans_sent") > 0);
}

const STATS: &str = "type.googleapis.com/stats.PluginConfig";

/// Labels are set by expressions, of one metric or of all; labels are left out; a metric is dropped.
#[tokio::test(flavor = "multi_thread")]
async fn istios_metrics_have_the_labels_that_configuration_gives_them() {
    let up = backend(|_| async { text("hello") }).await;
    let stats = json!({"@type": STATS, "metrics": [
        {"dimensions": {
            "request_host": "request.host",
            "answered": "string(response.code)",
            "fixed": "'text'",
            "broken": "no such expression",
            "absent": "request.headers['x-absent']",
            "who": "node.id",
        }, "name": "requests_total"},
        {"tags_to_remove": ["source_app", "source_version"]},
        {"name": "request_bytes", "drop": true},
        {"dimensions": {"response_code": "'hidden'"}, "name": "response_bytes"},
    ]});
    let filters = json!({"http_filters": [
        filter("istio.stats", stats),
        filter("envoy.filters.http.router", json!({"@type": ROUTER})),
    ]});
    let running = start(vec![
        listener(
            "in",
            json!([{"filters": [hcm(route_to("up", json!({})), filters)]}]),
        ),
        cluster("up", &[up], json!({})),
    ])
    .await;
    let (status, ..) = get(running.address("in"), "/").await;
    assert_eq!(status, 200);
    let counted = |name: &str, labels: &[(&str, &str)]| {
        let found = running.handle.metrics().value(name, labels);
        found.is_some()
    };
    wait_for(|| async { counted("istio_requests_total", &[]) }).await;
    let labels = [
        ("request_host", "test.example"),
        ("answered", "200"),
        ("fixed", "text"),
        ("broken", "unknown"),
        ("absent", "unknown"),
        (
            "who",
            "sidecar~127.0.0.1~test.default~default.svc.cluster.local",
        ),
        ("response_code", "200"),
    ];
    assert!(counted("istio_requests_total", &labels));
    assert!(!counted(
        "istio_requests_total",
        &[("source_app", "unknown")]
    ));
    assert!(counted(
        "istio_response_bytes",
        &[("response_code", "hidden")]
    ));
    assert!(!counted("istio_request_bytes", &[]));
    let admin = running.handle.admin_address().unwrap();
    let (_, _, text) = get(admin, "/stats/prometheus").await;
    let types = text.matches("# TYPE istio_requests_total counter").count();
    assert_eq!(types, 1);
    assert!(text.contains("request_host=\"test.example\""), "{text}");
}

/// The messages that a collector got over gRPC, as they came in: Envoy keeps its streams open.
type Messages = Arc<Mutex<Vec<(String, Bytes)>>>;

async fn log_service() -> (SocketAddr, Messages) {
    let messages = Messages::default();
    let kept = Arc::clone(&messages);
    let address = backend(move |request: Request<hyper::body::Incoming>| {
        let kept = Arc::clone(&kept);
        async move {
            let (head, mut body) = request.into_parts();
            let mut waiting = Vec::new();
            // A stream may be broken off when a test ends.
            while let Some(Ok(frame)) = body.frame().await {
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                waiting.extend_from_slice(&data);
                while waiting.len() >= 5 {
                    let length = u32::from_be_bytes(waiting[1..5].try_into().unwrap());
                    let end = 5 + usize::try_from(length).unwrap();
                    if waiting.len() < end {
                        break;
                    }
                    let message: Vec<u8> = waiting.drain(..end).skip(5).collect();
                    let path = head.uri.path().to_owned();
                    kept.lock().unwrap().push((path, message.into()));
                }
            }
            Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", "0")
                .body(Full::new(Bytes::new()).boxed())
                .unwrap()
        }
    })
    .await;
    (address, messages)
}

/// Takes out of an entry what differs between any two.
fn plain(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for chance in [
                "start_time",
                "duration",
                "stream_id",
                "port_value",
                "request_id",
                "node",
                // Before or after the proxies' own headers.
                "request_headers_bytes",
                "response_headers_bytes",
            ] {
                if fields.contains_key(chance) {
                    fields.insert(chance.to_owned(), json!("something"));
                }
            }
            // Points in time that ours does not keep, and sizes on the wire.
            fields.retain(|name, _| {
                !name.starts_with("time_to_")
                    && !name.contains("_wire_bytes")
                    && !name.contains("_header_bytes_")
            });
            fields.values_mut().for_each(plain);
        }
        Value::Array(list) => list.iter_mut().for_each(plain),
        _ => {}
    }
}

fn entries(messages: &Messages) -> Vec<Value> {
    use lateen_envoy::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
    let mut out = Vec::new();
    for (path, message) in &*messages.lock().unwrap() {
        assert_eq!(
            path,
            "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
        );
        let message = StreamAccessLogsMessage::decode(message.clone()).unwrap();
        let mut value = lateen_envoy::json::to_value(&message);
        plain(&mut value);
        for kind in ["http_logs", "tcp_logs"] {
            let list = value[kind]["log_entry"].as_array();
            out.extend(list.into_iter().flatten().map(|entry| json!({kind: entry})));
        }
    }
    out.sort_by_key(Value::to_string);
    out
}

fn service_log(name: &str, kind: &str, more: Value) -> Value {
    let mut config = json!({
        "@type": format!("type.googleapis.com/envoy.extensions.access_loggers.{kind}"),
        "common_config": {
            "log_name": "mine", "transport_api_version": "V3", "buffer_flush_interval": "0.2s",
            "grpc_service": {"envoy_grpc": {"cluster_name": "collector-h2"}},
        },
    });
    merge(&mut config, more);
    json!({"name": name, "typed_config": config})
}

/// What both tell a service of the same requests.
async fn told(log: Value, read: impl Fn(&Messages) -> Vec<Value>) {
    let up = backend(|_| async { text("hello") }).await;
    let (to, messages) = log_service().await;
    let manager = json!({"access_log": [log], "stat_prefix": "logged"});
    let twins = Twins::start(vec![
        traced_listener("in", "INBOUND", manager),
        cluster("up", &[up], json!({})),
        cluster("collector-h2", &[to], http2()),
    ])
    .await;
    let mut sides = Vec::new();
    for (_, address) in twins.addresses("in") {
        messages.lock().unwrap().clear();
        ask(address).await;
        let end = Instant::now() + Duration::from_secs(15);
        while read(&messages).len() < 7 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        sides.push(read(&messages));
    }
    let ours = &sides[0];
    assert_eq!(ours.len(), 7, "{ours:#?}");
    if let Some(envoys) = sides.get(1) {
        for (ours, envoys) in ours.iter().zip(envoys) {
            assert_eq!(ours, envoys);
        }
        assert_eq!(ours.len(), envoys.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn envoys_service_is_told_of_requests_what_envoy_tells() {
    let more = json!({"additional_request_headers_to_log": ["x-user", "x-nobody"], "additional_response_headers_to_log": ["date-of-nothing", "content-length"]});
    let log = service_log(
        "envoy.access_loggers.http_grpc",
        "grpc.v3.HttpGrpcAccessLogConfig",
        more,
    );
    told(log, entries).await;
}

/// OpenTelemetry's logs as the collector reads them.
mod logs {
    use super::otlp;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Request {
        #[prost(message, repeated, tag = "1")]
        pub(crate) resource_logs: Vec<ResourceLogs>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct ResourceLogs {
        #[prost(message, repeated, tag = "2")]
        pub(crate) scope_logs: Vec<ScopeLogs>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct ScopeLogs {
        #[prost(message, repeated, tag = "2")]
        pub(crate) records: Vec<Record>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Record {
        #[prost(fixed64, tag = "1")]
        pub(crate) time: u64,
        #[prost(message, optional, tag = "5")]
        pub(crate) body: Option<otlp::AnyValue>,
        #[prost(message, repeated, tag = "6")]
        pub(crate) attributes: Vec<otlp::KeyValue>,
    }
}

/// The records of a message, without their times.
fn records(message: Bytes) -> Vec<Value> {
    let logs = logs::Request::decode(message).unwrap();
    let scopes = logs.resource_logs.into_iter().flat_map(|r| r.scope_logs);
    let plain = |record: logs::Record| {
        assert!(record.time > 0);
        let text = |value: Option<otlp::AnyValue>| value.and_then(|v| v.string_value);
        let pairs = record.attributes.into_iter();
        let mut pairs: Vec<_> = pairs.map(|pair| (pair.key, text(pair.value))).collect();
        pairs.sort();
        json!({"body": text(record.body), "attributes": pairs})
    };
    scopes.flat_map(|scope| scope.records).map(plain).collect()
}

fn otel_log(to: Value) -> Value {
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
        "disable_builtin_labels": true,
        "buffer_flush_interval": "0.2s",
        "body": {"string_value": "%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %REQ(X-USER)%\n"},
        "attributes": {"values": [{"key": "code", "value": {"string_value": "%RESPONSE_CODE%"}}]},
    });
    merge(&mut config, to);
    json!({"name": "envoy.access_loggers.open_telemetry", "typed_config": config})
}

#[tokio::test(flavor = "multi_thread")]
async fn opentelemetrys_service_gets_records_with_formats_filled_in() {
    let read = |messages: &Messages| {
        let mut out = Vec::new();
        for (path, message) in &*messages.lock().unwrap() {
            assert_eq!(
                path,
                "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
            );
            out.extend(records(message.clone()));
        }
        out.sort_by_key(Value::to_string);
        out
    };
    let common = json!({"common_config": {
        "log_name": "mine", "transport_api_version": "V3", "buffer_flush_interval": "0.2s",
        "grpc_service": {"envoy_grpc": {"cluster_name": "collector-h2"}},
    }});
    told(otel_log(common), read).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opentelemetrys_service_gets_the_same_records_over_http() {
    let up = backend(|_| async { text("hello") }).await;
    let (to, reports) = collector().await;
    let service = json!({"http_service": {"http_uri": {
        "uri": "http://otel/v1/logs", "cluster": "collector", "timeout": "5s",
    }}});
    let twins = Twins::start(vec![
        traced_listener(
            "in",
            "INBOUND",
            json!({"access_log": [otel_log(service)], "stat_prefix": "logged"}),
        ),
        cluster("up", &[up], json!({})),
        cluster("collector", &[to], json!({})),
    ])
    .await;
    let read = || {
        let mut out = Vec::new();
        for (path, kind, body) in &*reports.lock().unwrap() {
            assert_eq!(
                (path.as_str(), kind.as_str()),
                ("/v1/logs", "application/x-protobuf")
            );
            out.extend(records(body.clone()));
        }
        out.sort_by_key(Value::to_string);
        out
    };
    let mut sides = Vec::new();
    for (_, address) in twins.addresses("in") {
        reports.lock().unwrap().clear();
        ask(address).await;
        let end = Instant::now() + Duration::from_secs(15);
        while read().len() < 7 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        sides.push(read());
    }
    assert_eq!(sides[0].len(), 7, "{:#?}", sides[0]);
    assert!(
        sides.windows(2).all(|pair| pair[0] == pair[1]),
        "{sides:#?}"
    );
}
