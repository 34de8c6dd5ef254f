//! How requests are traced: which are, what spans say, and where they go. Settings only; `lateen-proxy` makes the spans.
//!
//! [`TraceReason`] is what an `x-request-id` says of its request; which requests are traced is decided here.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::ext_authz::GrpcService;

/// An HTTP connection manager's tracing.
#[derive(Clone, Debug)]
pub struct Tracing {
    /// Share of requests with `x-client-trace-id` that are traced, percent.
    pub client_sampling: f64,
    /// Share of requests that are traced at random, percent.
    pub random_sampling: f64,
    /// Share of all requests that may be traced, percent.
    pub overall_sampling: f64,
    /// Longest path in a tag, bytes.
    pub max_path_tag_length: usize,
    /// What spans say beside the standard tags.
    pub tags: Vec<CustomTag>,
    /// What makes spans; without one only `x-request-id` is marked.
    pub tracer: Option<Arc<Tracer>>,
    /// What a request is sent as is a span of its own.
    pub spawn_upstream_span: bool,
    /// The next hop is told of the trace.
    pub propagates: bool,
}

/// A tag of every span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomTag {
    /// Its name.
    pub name: Arc<str>,
    /// Where its value is from.
    pub value: TagValue,
}

/// Where a tag's value is from. One without a value is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagValue {
    /// It is this.
    Literal(Arc<str>),
    /// A variable of the proxy's environment, else the text if it is not empty.
    Environment(Arc<str>, Arc<str>),
    /// A header of the request, else the text if it is not empty.
    Header(HeaderName, Arc<str>),
    /// What a filter wrote: namespace and path, else the text if it is not empty.
    Metadata(Arc<str>, Vec<Arc<str>>, Arc<str>),
    /// A format with command operators, as of access logs.
    Format(Arc<str>),
}

/// What makes spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tracer {
    /// Zipkin's: B3 headers, JSON.
    Zipkin(Zipkin),
    /// OpenTelemetry's: W3C headers, OTLP.
    OpenTelemetry(OpenTelemetry),
    /// Datadog's: its own headers and W3C's, MessagePack to an agent.
    Datadog(Datadog),
    /// SkyWalking's: the header `sw8`, segments over gRPC.
    SkyWalking(SkyWalking),
    /// One that Lateen does not have, by its type: nothing is propagated and no span is made.
    Unsupported(Arc<str>),
}

/// Settings of Zipkin's tracer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zipkin {
    /// Where spans go.
    pub collector: HttpCollector,
    /// Ids of traces that begin here have 128 bits rather than 64.
    pub wide_ids: bool,
    /// `traceparent` is understood where there is no B3, and sent beside it.
    pub w3c: bool,
}

/// Settings of OpenTelemetry's tracer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenTelemetry {
    /// Where spans go.
    pub collector: Collector,
    /// `service.name`.
    pub service_name: Arc<str>,
    /// `OTEL_RESOURCE_ATTRIBUTES` is read.
    pub reads_environment: bool,
}

/// Settings of Datadog's tracer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datadog {
    /// The agent.
    pub collector: HttpCollector,
    /// The service of its spans.
    pub service_name: Arc<str>,
}

/// Settings of SkyWalking's tracer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkyWalking {
    /// Where segments go.
    pub service: GrpcService,
    /// The service of its segments, where it is not the node's cluster.
    pub service_name: Option<Arc<str>>,
    /// The instance, where it is not the node's id.
    pub instance_name: Option<Arc<str>>,
    /// What the collector knows its clients by.
    pub token: Option<Arc<str>>,
}

/// Where spans in OTLP go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Collector {
    /// Over gRPC.
    Grpc(GrpcService),
    /// Over HTTP.
    Http(HttpCollector),
}

/// A collector that speaks HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCollector {
    /// Its cluster.
    pub cluster: Arc<str>,
    /// The host in requests.
    pub authority: Arc<str>,
    /// The path.
    pub path: Arc<str>,
    /// How long it has; none: as long as it takes.
    pub timeout: Option<Duration>,
    /// Headers of requests.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why a request is traced, or that it is not: what the fifteenth letter of its `x-request-id` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceReason {
    /// It is not.
    NotTraceable,
    /// By chance.
    Sampling,
    /// A service asked for it (`x-envoy-force-trace`).
    ServiceForced,
    /// The client asked for it (`x-client-trace-id`).
    ClientForced,
}

/// The letter of a UUID that says whether its request is traced. Source: Envoy, `UUIDRequestIDExtension`.
pub const REASON_AT: usize = 14;

impl TraceReason {
    /// The letter in a UUID.
    pub const fn letter(self) -> u8 {
        match self {
            Self::NotTraceable => b'4',
            Self::Sampling => b'9',
            Self::ServiceForced => b'a',
            Self::ClientForced => b'b',
        }
    }

    /// What a request id says. None if it is no UUID.
    pub fn of(id: &[u8]) -> Option<Self> {
        is_uuid(id).then(|| match id[REASON_AT] {
            b'9' => Self::Sampling,
            b'a' => Self::ServiceForced,
            b'b' => Self::ClientForced,
            _ => Self::NotTraceable,
        })
    }
}

/// A request id as long as a UUID. Envoy looks at no more.
const fn is_uuid(id: &[u8]) -> bool {
    id.len() == 36
}

/// What a request says of its tracing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// It has `x-client-trace-id`.
    pub by_client: bool,
    /// It has `x-envoy-force-trace`.
    pub forced: bool,
}

impl Tracing {
    /// Why a request with an id is traced. The id alone decides where chance does, so that every hop decides alike. None if the id is
    /// no UUID: then it is not traced, and stays as it is. Source: Envoy, `ConnectionManagerUtility::mutateTracingRequestHeader`.
    pub fn reason(&self, id: &[u8], asked: Asked) -> Option<TraceReason> {
        let mut reason = TraceReason::of(id)?;
        let number = std::str::from_utf8(&id[..8]).ok()?;
        let number = u32::from_str_radix(number, 16).ok()?;
        let hit = |percent: f64| f64::from(number % 10_000) < percent * 100.0;
        if reason == TraceReason::NotTraceable {
            reason = if asked.by_client && hit(self.client_sampling) {
                TraceReason::ClientForced
            } else if asked.forced {
                TraceReason::ServiceForced
            } else if hit(self.random_sampling) {
                TraceReason::Sampling
            } else {
                reason
            };
        }
        if !hit(self.overall_sampling) {
            reason = TraceReason::NotTraceable;
        }
        Some(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracing(random_sampling: f64) -> Tracing {
        Tracing {
            client_sampling: 100.0,
            random_sampling,
            overall_sampling: 100.0,
            max_path_tag_length: 256,
            tags: Vec::new(),
            tracer: None,
            spawn_upstream_span: false,
            propagates: true,
        }
    }

    #[test]
    fn the_id_alone_decides_by_chance() {
        // 0x00000063 is 99 of 10000.
        let id = b"00000063-0000-4000-8000-000000000000";
        let by_chance = |share| tracing(share).reason(id, Asked::default());
        assert_eq!(by_chance(0.99), Some(TraceReason::NotTraceable));
        assert_eq!(by_chance(1.0), Some(TraceReason::Sampling));
        assert_eq!(by_chance(0.0), Some(TraceReason::NotTraceable));
    }

    #[test]
    fn what_an_earlier_hop_decided_holds() {
        let id = b"00000063-0000-9000-8000-000000000000";
        let decided = tracing(0.0).reason(id, Asked::default());
        assert_eq!(decided, Some(TraceReason::Sampling));
        let mut none = tracing(0.0);
        none.overall_sampling = 0.0;
        let decided = none.reason(id, Asked::default());
        assert_eq!(decided, Some(TraceReason::NotTraceable));
    }

    #[test]
    fn clients_and_services_may_ask_for_it() {
        let id = b"00000063-0000-4000-8000-000000000000";
        let asked = |by_client, forced| tracing(0.0).reason(id, Asked { by_client, forced });
        assert_eq!(asked(true, true), Some(TraceReason::ClientForced));
        assert_eq!(asked(false, true), Some(TraceReason::ServiceForced));
    }

    #[test]
    fn an_id_that_is_no_uuid_is_left_alone() {
        let of = |id: &[u8]| tracing(100.0).reason(id, Asked::default());
        assert_eq!(of(b"abc"), None);
        assert_eq!(of(b"zzzzzzzz-0000-4000-8000-000000000000"), None);
        assert_eq!(of("é".repeat(18).as_bytes()), None);
    }
}
