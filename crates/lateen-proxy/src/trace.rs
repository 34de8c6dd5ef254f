//! Sending spans to their collector, as Zipkin and OpenTelemetry take them.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_telemetry::metrics::{Registry, Shard};
use lateen_telemetry::trace::Span;
use lateen_telemetry::trace::context::{Propagation, TraceId};
use lateen_telemetry::trace::otlp::{self, KeyValue};
use lateen_telemetry::trace::zipkin::{self, Endpoint};
use lateen_traffic::tracing::{Collector, HttpCollector, Tracer};

use crate::export::{self, Message, Queue, Report};
use crate::http::head::Head;
use crate::worker::Worker;

/// Where spans go.
#[derive(Debug)]
enum To {
    Zipkin(HttpCollector),
    OpenTelemetry(Collector),
}

/// What one worker sends to one collector of spans.
#[derive(Debug)]
pub(crate) struct Exporter {
    /// The headers its context is in.
    pub(crate) propagation: Propagation,
    /// Whether ids of traces that begin here have 128 bits.
    wide_ids: bool,
    to: To,
    endpoint: Endpoint,
    resource: Vec<KeyValue>,
    queue: Queue<Span>,
}

impl Exporter {
    /// What sends a tracer's spans; none for a tracer that is not known here.
    pub(crate) fn of(
        tracer: &Arc<Tracer>,
        node: &Node,
        address: Option<IpAddr>,
        counted: (&Registry, Shard),
    ) -> Option<Rc<Self>> {
        let (to, prefix, propagation, wide_ids) = match &**tracer {
            Tracer::Zipkin(zipkin) => (
                To::Zipkin(zipkin.collector.clone()),
                "tracing.zipkin",
                if zipkin.w3c {
                    Propagation::B3WithW3c
                } else {
                    Propagation::B3
                },
                zipkin.wide_ids,
            ),
            Tracer::OpenTelemetry(otel) => (
                To::OpenTelemetry(otel.collector.clone()),
                "tracing.opentelemetry",
                Propagation::W3c,
                true,
            ),
            Tracer::Unsupported(kind) => {
                tracing::warn!(%kind, "this tracer is not supported: no spans are made");
                return None;
            }
        };
        let names = [
            "spans_sent",
            "spans_dropped",
            "reports_success",
            "reports_dropped",
        ];
        Some(Rc::new(Self {
            propagation,
            wide_ids,
            to,
            endpoint: Endpoint {
                service: node.cluster.clone(),
                address,
            },
            resource: resource(tracer),
            queue: Queue::new(counted, prefix, names),
        }))
    }

    /// The id of a trace that begins with a span. With B3 that span has the lower half of it, as Zipkin's own libraries do it.
    pub(crate) fn fresh_trace(&self, span: u64) -> TraceId {
        let upper = u128::from(rand::random::<u64>()) << 64;
        TraceId(match (self.propagation, self.wide_ids) {
            (Propagation::W3c, _) => (upper | u128::from(rand::random::<u64>())).max(1),
            (_, true) => upper | u128::from(span),
            (_, false) => u128::from(span),
        })
    }

    /// Whether spans without another name are called by the host that is asked.
    pub(crate) fn names_by_host(&self) -> bool {
        matches!(self.to, To::Zipkin(_))
    }

    /// Takes a span. It never waits.
    pub(crate) fn push(self: &Rc<Self>, worker: &Rc<Worker>, span: Span) {
        export::push(self, worker, span);
    }
}

impl Report for Exporter {
    type Item = Span;

    fn queue(&self) -> &Queue<Span> {
        &self.queue
    }

    fn message(&self, _: &Worker, spans: Vec<Span>) -> Message<'_> {
        let otlp = || otlp::body(&spans, &self.resource, env!("CARGO_PKG_VERSION"));
        match &self.to {
            To::Zipkin(to) => {
                let body = zipkin::body(&spans, &self.endpoint);
                over_http(to, "application/json", body)
            }
            To::OpenTelemetry(Collector::Http(to)) => {
                over_http(to, "application/x-protobuf", otlp())
            }
            To::OpenTelemetry(Collector::Grpc(to)) => Message {
                cluster: &to.cluster,
                head: export::grpc(to, otlp::TRACES),
                body: export::framed(&otlp()),
                timeout: to.timeout,
            },
        }
    }
}

fn over_http<'a>(to: &'a HttpCollector, kind: &'static str, body: Vec<u8>) -> Message<'a> {
    Message {
        cluster: &to.cluster,
        head: head(to, kind),
        body: body.into(),
        timeout: to.timeout,
    }
}

fn head(to: &HttpCollector, kind: &'static str) -> Head {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in &to.headers {
        headers.insert(name, value.clone());
    }
    export::post(&to.authority, &to.path, headers)
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
