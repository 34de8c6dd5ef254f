//! Sending spans to their collector, as Zipkin, OpenTelemetry, Datadog and SkyWalking take them.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue};
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_telemetry::metrics::{Registry, Shard};
use lateen_telemetry::trace::Span;
use lateen_telemetry::trace::context::{Context, Propagation, TraceId};
use lateen_telemetry::trace::datadog;
use lateen_telemetry::trace::otlp::{self, KeyValue};
use lateen_telemetry::trace::skywalking::{self, Going, Origin};
use lateen_telemetry::trace::zipkin::{self, Endpoint};
use lateen_traffic::tracing::{Collector, HttpCollector, SkyWalking, Tracer};

use crate::export::{self, Message, Queue, Report};
use crate::net::HostAddress;
use crate::worker::Worker;

/// Where spans go.
#[derive(Debug)]
enum To {
    Zipkin(HttpCollector),
    OpenTelemetry(Collector),
    Datadog(HttpCollector, Arc<str>),
    SkyWalking(Box<SkyWalking>, Origin),
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
            Tracer::Datadog(datadog) => (
                To::Datadog(datadog.collector.clone(), Arc::clone(&datadog.service_name)),
                "tracing.datadog",
                Propagation::Datadog,
                true,
            ),
            Tracer::SkyWalking(settings) => (
                To::SkyWalking(Box::new(settings.clone()), origin(settings, node)),
                "tracing.skywalking",
                Propagation::SkyWalking,
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
            (Propagation::Datadog, _) => begun_now() << 96 | u128::from(span),
            (Propagation::W3c | Propagation::SkyWalking, _) => {
                (upper | u128::from(rand::random::<u64>())).max(1)
            }
            (_, true) => upper | u128::from(span),
            (_, false) => u128::from(span),
        })
    }

    /// A trace that begins with a span.
    pub(crate) fn begin(&self, span: u64, sampled: bool) -> Context {
        Context {
            trace: self.fresh_trace(span),
            span,
            parent: None,
            sampled,
            state: match self.propagation {
                Propagation::Datadog => datadog::fresh_state(sampled),
                _ => String::new(),
            },
        }
    }

    /// A span of a trace that came. SkyWalking's segments have an id of their own, whatever they go on from.
    pub(crate) fn go_on(&self, carried: Context, span: u64, sampled: bool) -> Context {
        let (trace, parent) = match self.propagation {
            Propagation::SkyWalking => (self.fresh_trace(span), None),
            _ => (carried.trace, Some(carried.span)),
        };
        Context {
            trace,
            span,
            parent,
            sampled,
            state: carried.state,
        }
    }

    /// Tells the next hop of the span it is called from. `path` is what the client asked for, `host` where it goes; `number` is the span's among
    /// those of this request.
    pub(crate) fn tell(
        &self,
        context: &Context,
        (number, path, host): (u64, &str, Option<&HostAddress>),
        headers: &mut HeaderMap,
    ) {
        match &self.to {
            To::SkyWalking(_, origin) => {
                let to = host.map(ToString::to_string).unwrap_or_default();
                let going = Going {
                    span: number,
                    path,
                    to: &to,
                };
                skywalking::write(context, going, origin, headers);
            }
            _ => self.propagation.write(context, headers),
        }
    }

    /// Whether spans are called by the path that was asked for, whatever the route calls it.
    pub(crate) fn names_by_path(&self) -> bool {
        matches!(self.to, To::SkyWalking(..))
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
                export::over_http(to, "application/json", body)
            }
            To::OpenTelemetry(Collector::Http(to)) => {
                export::over_http(to, "application/x-protobuf", otlp())
            }
            To::Datadog(to, service) => {
                let (body, traces) = datadog::body(&spans, service);
                let mut message = export::over_http(to, "application/msgpack", body);
                let headers = &mut message.head.headers;
                headers.insert("x-datadog-trace-count", HeaderValue::from(traces));
                headers.insert("datadog-meta-lang", HeaderValue::from_static("rust"));
                let version = HeaderValue::from_static(env!("CARGO_PKG_VERSION"));
                headers.insert("datadog-meta-tracer-version", version);
                message
            }
            To::SkyWalking(settings, origin) => {
                let mut head = export::grpc(&settings.service, skywalking::COLLECT);
                let token = settings.token.as_deref();
                if let Some(Ok(token)) = token.map(HeaderValue::from_str) {
                    head.headers.insert("authentication", token);
                }
                let segments = skywalking::segments(&spans, origin);
                let mut body = BytesMut::new();
                for segment in &segments {
                    body.extend_from_slice(&export::framed(segment));
                }
                Message {
                    cluster: &settings.service.cluster,
                    head,
                    body: body.freeze(),
                    timeout: settings.service.timeout,
                }
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

/// The seconds since 1970, which begin Datadog's ids.
fn begun_now() -> u128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u128::from(since.unwrap_or_default().as_secs() & u64::from(u32::MAX))
}

fn origin(settings: &SkyWalking, node: &Node) -> Origin {
    let own = |name: &Option<Arc<str>>, node: &str| name.as_deref().unwrap_or(node).to_owned();
    Origin {
        service: own(&settings.service_name, &node.cluster),
        instance: own(&settings.instance_name, &node.id),
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
