//! Sending spans to their collector: each worker in batches of its own, through the collector's cluster.
//!
//! A request never waits for it: a span goes into a queue of bounded length, or is dropped and counted. Whether a batch arrives is
//! counted, too, and not tried again: a collector that is late is not helped by getting everything twice.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Version, header};
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_telemetry::metrics::{Counter, Descriptor, Registry, Shard};
use lateen_telemetry::trace::Span;
use lateen_telemetry::trace::context::{Propagation, TraceId};
use lateen_telemetry::trace::otlp::{self, KeyValue};
use lateen_telemetry::trace::zipkin::{self, Endpoint};
use lateen_traffic::ext_authz::GrpcService;
use lateen_traffic::format::{Command, Values};
use lateen_traffic::tracing::{Collector, HttpCollector, Tracer};
use tokio::sync::Notify;

use crate::http::head::{Head, Verbatim};
use crate::upstream::call::{self, Answer, Call};
use crate::worker::Worker;

/// Spans that wait in a worker. At 1000 sampled requests a second in a worker that is two seconds.
const QUEUE: usize = 2048;
/// Spans after which a batch is sent at once.
const BATCH: usize = 512;
/// How long a span waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 * 1024;
/// How long a collector has that nobody gave a time.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What one worker sends to one collector.
#[derive(Debug)]
pub(crate) struct Exporter {
    /// The headers its context is in.
    pub(crate) propagation: Propagation,
    /// Whether ids of traces that begin here have 128 bits.
    wide_ids: bool,
    tracer: Arc<Tracer>,
    endpoint: Endpoint,
    resource: Vec<KeyValue>,
    queue: RefCell<Vec<Span>>,
    full: Notify,
    sending: Cell<bool>,
    counters: Counters,
}

#[derive(Debug)]
struct Counters {
    sent: Counter,
    dropped: Counter,
    success: Counter,
    failure: Counter,
}

impl Counters {
    fn of(registry: &Registry, shard: Shard, kind: &str) -> Self {
        let of = |what: &str| {
            let name = format!("tracing.{kind}.{what}");
            registry
                .counters(Descriptor::envoy(&name))
                .handle(shard, &[])
        };
        Self {
            sent: of("spans_sent"),
            dropped: of("spans_dropped"),
            success: of("reports_success"),
            failure: of("reports_dropped"),
        }
    }
}

impl Exporter {
    /// What sends a tracer's spans; none for a tracer that is not known here.
    pub(crate) fn of(
        tracer: &Arc<Tracer>,
        node: &Node,
        address: Option<IpAddr>,
        (registry, shard): (&Registry, Shard),
    ) -> Option<Rc<Self>> {
        let (kind, propagation, wide_ids) = match &**tracer {
            Tracer::Zipkin(zipkin) if zipkin.w3c => {
                ("zipkin", Propagation::B3WithW3c, zipkin.wide_ids)
            }
            Tracer::Zipkin(zipkin) => ("zipkin", Propagation::B3, zipkin.wide_ids),
            Tracer::OpenTelemetry(_) => ("opentelemetry", Propagation::W3c, true),
            Tracer::Unsupported(kind) => {
                tracing::warn!(%kind, "this tracer is not supported: no spans are made");
                return None;
            }
        };
        Some(Rc::new(Self {
            propagation,
            wide_ids,
            tracer: Arc::clone(tracer),
            endpoint: Endpoint {
                service: node.cluster.clone(),
                address,
            },
            resource: resource(tracer),
            queue: RefCell::default(),
            full: Notify::new(),
            sending: Cell::new(false),
            counters: Counters::of(registry, shard, kind),
        }))
    }

    /// The id of a trace that begins with a span. With B3 that span has the lower half of it, as Zipkin's own libraries do it.
    pub(crate) fn fresh_trace(&self, span: u64) -> TraceId {
        let upper: u64 = rand::random();
        TraceId(match (self.propagation, self.wide_ids) {
            (Propagation::W3c, _) => {
                (u128::from(upper) << 64 | u128::from(rand::random::<u64>())).max(1)
            }
            (_, true) => u128::from(upper) << 64 | u128::from(span),
            (_, false) => u128::from(span),
        })
    }

    /// Whether spans without another name are called by the host that is asked.
    pub(crate) fn names_by_host(&self) -> bool {
        matches!(*self.tracer, Tracer::Zipkin(_))
    }

    /// Takes a span. It never waits.
    pub(crate) fn push(self: &Rc<Self>, worker: &Rc<Worker>, span: Span) {
        let waiting = {
            let mut queue = self.queue.borrow_mut();
            if queue.len() >= QUEUE {
                self.counters.dropped.inc();
                return;
            }
            queue.push(span);
            queue.len()
        };
        if waiting == BATCH {
            self.full.notify_one();
        }
        if !self.sending.replace(true) {
            let exporter = Rc::clone(self);
            let worker = Rc::clone(worker);
            // It ends when nothing is left to send, and with the worker's other tasks.
            tokio::task::spawn_local(async move { exporter.send(&worker).await });
        }
    }

    /// Sends until nothing is left.
    async fn send(&self, worker: &Rc<Worker>) {
        loop {
            // Either is fine: time passed, or there is enough.
            let _ = tokio::time::timeout(LINGER, self.full.notified()).await;
            let batch = std::mem::take(&mut *self.queue.borrow_mut());
            if batch.is_empty() {
                self.sending.set(false);
                return;
            }
            self.counters.sent.add(batch.len() as u64);
            match self.report(worker, &batch).await {
                Ok(()) => self.counters.success.inc(),
                Err(error) => {
                    self.counters.failure.inc();
                    tracing::debug!(error, "spans did not arrive");
                }
            }
        }
    }

    async fn report(&self, worker: &Rc<Worker>, spans: &[Span]) -> Result<(), String> {
        let otlp = || otlp::body(spans, &self.resource, env!("CARGO_PKG_VERSION"));
        let (cluster, head, body, timeout) = match &*self.tracer {
            Tracer::Zipkin(zipkin) => {
                let to = &zipkin.collector;
                let head = post(to, "application/json");
                let body = zipkin::body(spans, &self.endpoint);
                (&to.cluster, head, body.into(), to.timeout)
            }
            Tracer::OpenTelemetry(otel) => match &otel.collector {
                Collector::Http(to) => {
                    let head = post(to, "application/x-protobuf");
                    (&to.cluster, head, otlp().into(), to.timeout)
                }
                Collector::Grpc(to) => (
                    &to.cluster,
                    grpc(to, otlp::METHOD),
                    framed(&otlp()),
                    to.timeout,
                ),
            },
            Tracer::Unsupported(_) => return Ok(()),
        };
        let is_grpc = head.headers[header::CONTENT_TYPE] == "application/grpc";
        let call = Call {
            cluster,
            head,
            body,
            timeout: Some(timeout.unwrap_or(TIMEOUT)),
            max_answer: MAX_ANSWER,
        };
        let now = worker.now();
        let answer = call::call(worker, &now, &call).await;
        let answer = answer.map_err(|error| error.to_string())?;
        taken(&answer, is_grpc)
    }
}

/// Whether a collector took what it was sent.
fn taken(answer: &Answer, is_grpc: bool) -> Result<(), String> {
    let status = answer.head.status;
    if !status.is_success() {
        return Err(format!("HTTP status {status}"));
    }
    let trailers = answer.trailers.as_ref().unwrap_or(&answer.head.headers);
    match crate::http::grpc::status_in(trailers) {
        Some(0) => Ok(()),
        Some(status) => Err(format!("gRPC status {status}")),
        None if is_grpc => Err("no gRPC status".to_owned()),
        None => Ok(()),
    }
}

/// What OpenTelemetry's spans say of who made them.
fn resource(tracer: &Tracer) -> Vec<KeyValue> {
    let Tracer::OpenTelemetry(otel) = tracer else {
        return Vec::new();
    };
    let mut out = vec![
        otlp::attribute("service.name", &otel.service_name),
        otlp::attribute("telemetry.sdk.language", "rust"),
        otlp::attribute("telemetry.sdk.name", "lateen"),
        otlp::attribute("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
    ];
    if otel.reads_environment
        && let Ok(text) = std::env::var("OTEL_RESOURCE_ATTRIBUTES")
    {
        for found in otlp::resource_attributes(&text) {
            out.retain(|known| known.key != found.key);
            out.push(found);
        }
    }
    out
}

/// The head of a request over HTTP.
fn post(to: &HttpCollector, kind: &'static str) -> Head {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in &to.headers {
        headers.insert(name, value.clone());
    }
    request_head(&to.authority, &to.path, headers)
}

/// The head of a call over gRPC.
pub(crate) fn grpc(to: &GrpcService, method: &str) -> Head {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    for (name, format) in &to.initial_metadata {
        if let Ok(value) = HeaderValue::from_str(&format.render(&Nothing)) {
            headers.append(name.clone(), value);
        }
    }
    let authority = if to.authority.is_empty() {
        &to.cluster
    } else {
        &to.authority
    };
    request_head(authority, method, headers)
}

/// A call of the proxy's own has no request whose values its metadata could show.
struct Nothing;

impl Values for Nothing {
    fn write(&self, _: &Command, _: &mut String) -> bool {
        false
    }
}

fn request_head(authority: &str, path: &str, headers: HeaderMap) -> Head {
    Head {
        method: Method::POST,
        scheme: "http",
        authority: authority.to_owned(),
        path: path.to_owned(),
        protocol: None,
        version: Version::HTTP_2,
        headers,
        extensions: http::Extensions::default(),
        verbatim: Verbatim::default(),
    }
}

/// A message with its length before it.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(5 + message.len());
    out.put_u8(0);
    // What a queue holds is far below 4 GiB.
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(message);
    out.freeze()
}
