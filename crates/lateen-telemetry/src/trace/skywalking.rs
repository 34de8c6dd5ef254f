//! Spans as SkyWalking takes them: segments of a trace over gRPC; and the context in its header `sw8`.
//!
//! A segment is what one proxy did for one request: the request that came is its first span, and each try that went out another. Source:
//! SkyWalking's cross-process propagation headers protocol 3 and `language-agent/Tracing.proto`, whose fields are written here by their
//! numbers; names and values as Envoy 1.40 sends them.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;

use super::context::{Carried, Context, TraceId};
use super::{Kind, Span, since_epoch};

/// The method of the gRPC service for segments: a stream of them.
pub const COLLECT: &str = "/skywalking.v3.TraceSegmentReportService/collect";

static SW8: HeaderName = HeaderName::from_static("sw8");

/// Bytes of a context that are read. Its parts are names of services and paths.
const MAX_CONTEXT: usize = 4096;
/// Envoy's number among the components that SkyWalking knows.
const ENVOY: i32 = 9000;
/// `SpanType`: something came, something went out.
const ENTRY: i32 = 0;
const EXIT: i32 = 1;
/// `SpanLayer.Http`.
const HTTP: i32 = 3;

/// Who makes segments.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The service: Envoy's `--service-cluster`.
    pub service: String,
    /// The instance: the node's id.
    pub instance: String,
}

/// What a request goes out as.
#[derive(Clone, Copy, Debug)]
pub struct Going<'g> {
    /// The number of its span in the segment.
    pub span: u64,
    /// What was asked for.
    pub path: &'g str,
    /// Where it goes.
    pub to: &'g str,
}

/// The parts of a context that came.
#[derive(Clone, PartialEq, Eq, Message)]
struct Reference {
    #[prost(int32, tag = "1")]
    ref_type: i32,
    #[prost(string, tag = "2")]
    trace_id: String,
    #[prost(string, tag = "3")]
    parent_trace_segment_id: String,
    #[prost(int32, tag = "4")]
    parent_span_id: i32,
    #[prost(string, tag = "5")]
    parent_service: String,
    #[prost(string, tag = "6")]
    parent_service_instance: String,
    #[prost(string, tag = "7")]
    parent_endpoint: String,
    #[prost(string, tag = "8")]
    network_address_used_at_peer: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Segment {
    #[prost(string, tag = "1")]
    trace_id: String,
    #[prost(string, tag = "2")]
    trace_segment_id: String,
    #[prost(message, repeated, tag = "3")]
    spans: Vec<Wire>,
    #[prost(string, tag = "4")]
    service: String,
    #[prost(string, tag = "5")]
    service_instance: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Wire {
    #[prost(int32, tag = "1")]
    span_id: i32,
    #[prost(int32, tag = "2")]
    parent_span_id: i32,
    #[prost(int64, tag = "3")]
    start_time: i64,
    #[prost(int64, tag = "4")]
    end_time: i64,
    #[prost(message, repeated, tag = "5")]
    refs: Vec<Reference>,
    #[prost(string, tag = "6")]
    operation_name: String,
    #[prost(string, tag = "7")]
    peer: String,
    #[prost(int32, tag = "8")]
    span_type: i32,
    #[prost(int32, tag = "9")]
    span_layer: i32,
    #[prost(int32, tag = "10")]
    component_id: i32,
    #[prost(bool, tag = "11")]
    is_error: bool,
    #[prost(message, repeated, tag = "12")]
    tags: Vec<Tag>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Tag {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// Reads the header. The context keeps it whole, as its state; the ids are the new segment's, which whoever begins one draws. Whether
/// its spans are kept is for this hop to decide, as Envoy has it.
pub(super) fn read(headers: &HeaderMap) -> Carried {
    let Some(value) = headers.get(&SW8) else {
        return Carried::Nothing(None);
    };
    let text = value.to_str().ok().filter(|text| text.len() <= MAX_CONTEXT);
    // What is no context begins a trace anew, and so does none.
    match text.and_then(reference).zip(text) {
        None => Carried::Nothing(None),
        Some((_, text)) => {
            let context = Context {
                trace: TraceId(0),
                span: 0,
                parent: None,
                sampled: false,
                state: text.to_owned(),
            };
            Carried::Context(context, None)
        }
    }
}

/// Writes the header of a request that goes out.
pub fn write(context: &Context, going: Going<'_>, origin: &Origin, headers: &mut HeaderMap) {
    let part = |text: &str| STANDARD.encode(text);
    let value = format!(
        "{}-{}-{}-{}-{}-{}-{}-{}",
        u8::from(context.sampled),
        part(&trace_of(&context.state, context.trace)),
        part(&segment_of(context.trace)),
        going.span,
        part(&origin.service),
        part(&origin.instance),
        part(going.path),
        part(going.to),
    );
    if let Ok(value) = HeaderValue::from_str(&value) {
        headers.insert(&SW8, value);
    }
}

/// The id of the trace: the one that came, or the segment's where it begins here.
pub fn trace_of(state: &str, segment: TraceId) -> String {
    match reference(state) {
        Some(carried) => carried.trace_id,
        None => segment_of(segment),
    }
}

/// A segment's id, as a UUID is written.
fn segment_of(id: TraceId) -> String {
    let text = id.long();
    let parts = [
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..],
    ];
    parts.join("-")
}

fn reference(text: &str) -> Option<Reference> {
    let parts: Vec<&str> = text.split('-').collect();
    let [
        sampled,
        trace,
        segment,
        span,
        service,
        instance,
        endpoint,
        address,
    ] = parts[..]
    else {
        return None;
    };
    if !matches!(sampled, "0" | "1") {
        return None;
    }
    let part = |text: &str| String::from_utf8(STANDARD.decode(text).ok()?).ok();
    Some(Reference {
        ref_type: 0,
        trace_id: part(trace).filter(|id| !id.is_empty())?,
        parent_trace_segment_id: part(segment)?,
        parent_span_id: span.parse().ok()?,
        parent_service: part(service)?,
        parent_service_instance: part(instance)?,
        parent_endpoint: part(endpoint)?,
        network_address_used_at_peer: part(address)?,
    })
}

/// The segments of spans, each a message of the stream.
pub fn segments(spans: &[Span], origin: &Origin) -> Vec<Vec<u8>> {
    let mut order: Vec<u128> = Vec::new();
    let mut by_segment: BTreeMap<u128, Vec<&Span>> = BTreeMap::new();
    for span in spans {
        let list = by_segment.entry(span.trace.0).or_default();
        if list.is_empty() {
            order.push(span.trace.0);
        }
        list.push(span);
    }
    let found = order.iter().filter_map(|id| by_segment.get(id));
    found
        .map(|spans| segment(spans, origin).encode_to_vec())
        .collect()
}

fn segment(spans: &[&Span], origin: &Origin) -> Segment {
    let first = spans[0];
    let wires = (0..).zip(spans).map(|(index, span)| wire(index, span));
    Segment {
        trace_id: trace_of(&first.state, first.trace),
        trace_segment_id: segment_of(first.trace),
        spans: wires.collect(),
        service: origin.service.clone(),
        service_instance: origin.instance.clone(),
    }
}

fn wire(index: i32, span: &Span) -> Wire {
    let millis = |time| i64::try_from(since_epoch(time).as_millis()).unwrap_or(i64::MAX);
    let tag = |name: &str| {
        let mut tags = span.tags.iter();
        tags.find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    };
    let entry = index == 0;
    let peer = if entry {
        tag("peer.address")
    } else {
        tag("upstream_address")
    };
    // This is a field of a span of SkyWalking's, and no tag.
    let tags = span.tags.iter().filter(|(key, _)| key != "peer.address");
    Wire {
        span_id: index,
        parent_span_id: if entry { -1 } else { 0 },
        start_time: millis(span.start),
        end_time: millis(span.end()),
        refs: reference(&span.state)
            .filter(|_| entry)
            .into_iter()
            .collect(),
        operation_name: span.name.clone(),
        peer: peer.unwrap_or_default(),
        span_type: if entry && span.kind == Kind::Server {
            ENTRY
        } else {
            EXIT
        },
        span_layer: HTTP,
        component_id: ENVOY,
        is_error: tag("error").is_some(),
        tags: tags
            .map(|(key, value)| Tag {
                // SkyWalking's own names of two of Envoy's tags.
                key: match &**key {
                    "http.url" => "url".to_owned(),
                    "http.status_code" => "status_code".to_owned(),
                    key => key.to_owned(),
                },
                value: value.clone(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const CARRIED: &str = "1-dHJhY2UtMQ==-c2VnLTE=-3-bWVzaA==-aW5zdA==-L2FwaQ==-MTAuMC4wLjE6ODA=";

    fn headers(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(SW8.clone(), HeaderValue::from_str(text).unwrap())])
    }

    fn origin() -> Origin {
        Origin {
            service: "web.default".to_owned(),
            instance: "sidecar~127.0.0.1~a.b~c".to_owned(),
        }
    }

    fn span(id: u64, state: &str, kind: Kind) -> Span {
        Span {
            trace: TraceId(0x316d_4236_514f_4658_9a62_3159_7251_4777),
            id,
            parent: None,
            state: state.to_owned(),
            kind,
            name: "/b".to_owned(),
            start: UNIX_EPOCH + Duration::from_millis(5),
            duration: Duration::from_millis(2),
            tags: vec![
                ("http.status_code".into(), "200".to_owned()),
                ("peer.address".into(), "10.0.0.9".to_owned()),
                ("upstream_address".into(), "10.0.0.2:80".to_owned()),
            ],
            failed: false,
        }
    }

    #[test]
    fn a_trace_goes_on_with_a_segment_of_this_hop() {
        let Carried::Context(context, None) = read(&headers(CARRIED)) else {
            panic!("no context");
        };
        let context = Context {
            trace: TraceId(0x316d_4236_514f_4658_9a62_3159_7251_4777),
            sampled: true,
            ..context
        };
        let going = Going {
            span: 1,
            path: "/b",
            to: "127.0.0.1:28180",
        };
        let mut sent = HeaderMap::new();
        write(&context, going, &origin(), &mut sent);
        // As Envoy 1.40 writes it.
        let expected = "1-dHJhY2UtMQ==-MzE2ZDQyMzYtNTE0Zi00NjU4LTlhNjItMzE1OTcyNTE0Nzc3-1-d2ViLmRlZmF1bHQ=-c2lkZWNhcn4xMjcuMC4wLjF+YS5ifmM=-L2I=-MTI3LjAuMC4xOjI4MTgw";
        assert_eq!(sent["sw8"], expected);
    }

    #[test]
    fn what_is_no_context_begins_a_trace_anew() {
        let long = format!("{CARRIED}{}", "A".repeat(MAX_CONTEXT));
        for text in ["nonsense", "", "2-a-b-c-d-e-f-g", &CARRIED[..40], &long] {
            assert_eq!(read(&headers(text)), Carried::Nothing(None), "{text}");
        }
        assert_eq!(
            trace_of("", TraceId(1)),
            "00000000-0000-0000-0000-000000000001"
        );
    }

    #[test]
    fn what_came_and_each_try_are_spans_of_one_segment() {
        let spans = [
            span(1, CARRIED, Kind::Server),
            span(2, CARRIED, Kind::Client),
        ];
        let sent = segments(&spans, &origin());
        assert_eq!(sent.len(), 1);
        let segment = Segment::decode(&*sent[0]).unwrap();
        assert_eq!(segment.trace_id, "trace-1");
        assert_eq!(
            segment.trace_segment_id,
            "316d4236-514f-4658-9a62-315972514777"
        );
        let [entry, exit] = &segment.spans[..] else {
            panic!("{segment:?}")
        };
        assert_eq!(
            (
                entry.span_type,
                entry.parent_span_id,
                exit.span_type,
                exit.parent_span_id
            ),
            (ENTRY, -1, EXIT, 0)
        );
        assert_eq!(entry.refs[0].parent_trace_segment_id, "seg-1");
        assert_eq!(
            (entry.refs[0].parent_span_id, entry.peer.as_str()),
            (3, "10.0.0.9")
        );
        assert_eq!((exit.refs.len(), exit.peer.as_str()), (0, "10.0.0.2:80"));
        assert!(entry.tags.iter().any(|tag| tag.key == "status_code"));
        assert_eq!((entry.start_time, entry.end_time), (5, 7));
    }
}
