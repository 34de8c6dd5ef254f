//! Spans and log records as OpenTelemetry's collectors take them: `ExportTraceServiceRequest`, `ExportLogsServiceRequest`, in protobuf.
//!
//! The messages have the fields that are written here, by their numbers in OTLP 1 (`opentelemetry/proto/trace/v1/trace.proto`, `…/logs/v1/logs.proto`).

use std::time::SystemTime;

use prost::Message;

use super::{Kind, Span, since_epoch};

/// The method of the gRPC service for logs.
pub const LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
/// The method of the gRPC service for spans.
pub const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// The instrumentation that spans name. Tools recognise Envoy's.
const SCOPE: &str = "envoy";

/// An attribute.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct KeyValue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

/// A value: here always a text.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AnyValue {
    /// The text. It is written even if it is empty.
    #[prost(string, optional, tag = "1")]
    pub string_value: Option<String>,
}

/// What made something.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Resource {
    /// What is known of it.
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

/// The code that made something.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Scope {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its version.
    #[prost(string, tag = "2")]
    pub version: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Wire>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Wire {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct LogsRequest {
    #[prost(message, repeated, tag = "1")]
    resource_logs: Vec<ResourceLogs>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct ResourceLogs {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_logs: Vec<ScopeLogs>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct ScopeLogs {
    #[prost(message, repeated, tag = "2")]
    log_records: Vec<LogRecord>,
}

/// A log record.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LogRecord {
    #[prost(fixed64, tag = "1")]
    time_unix_nano: u64,
    #[prost(message, optional, tag = "5")]
    body: Option<AnyValue>,
    #[prost(message, repeated, tag = "6")]
    attributes: Vec<KeyValue>,
}

impl LogRecord {
    /// A record of something that began at a time.
    pub fn new(time: SystemTime, body: Option<String>, attributes: Vec<KeyValue>) -> Self {
        Self {
            time_unix_nano: nanos(time),
            body: body.map(|text| AnyValue {
                string_value: Some(text),
            }),
            attributes,
        }
    }
}

/// The message with these records, of a resource with these attributes.
pub fn logs(records: Vec<LogRecord>, resource: &[KeyValue]) -> Vec<u8> {
    let request = LogsRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(Resource {
                attributes: resource.to_vec(),
            }),
            scope_logs: vec![ScopeLogs {
                log_records: records,
            }],
        }],
    };
    request.encode_to_vec()
}

fn nanos(time: SystemTime) -> u64 {
    u64::try_from(since_epoch(time).as_nanos()).unwrap_or(u64::MAX)
}

/// `STATUS_CODE_ERROR`.
const ERROR: i32 = 2;

/// An attribute with a text.
pub fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            string_value: Some(value.to_owned()),
        }),
    }
}

/// The message with these spans, of a resource with these attributes.
pub fn body(spans: &[Span], resource: &[KeyValue], version: &str) -> Vec<u8> {
    let request = Request {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: resource.to_vec(),
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(Scope {
                    name: SCOPE.to_owned(),
                    version: version.to_owned(),
                }),
                spans: spans.iter().map(wire).collect(),
            }],
        }],
    };
    request.encode_to_vec()
}

fn wire(span: &Span) -> Wire {
    let parent = span.parent.map(|parent| parent.to_be_bytes().to_vec());
    Wire {
        trace_id: span.trace.0.to_be_bytes().to_vec(),
        span_id: span.id.to_be_bytes().to_vec(),
        trace_state: span.state.clone(),
        parent_span_id: parent.unwrap_or_default(),
        name: span.name.clone(),
        kind: match span.kind {
            Kind::Server => 2,
            Kind::Client => 3,
        },
        start_time_unix_nano: nanos(span.start),
        end_time_unix_nano: nanos(span.end()),
        attributes: span
            .tags
            .iter()
            .map(|(key, value)| attribute(key, value))
            .collect(),
        status: Some(Status {
            code: if span.failed { ERROR } else { 0 },
        }),
    }
}

/// The attributes in `OTEL_RESOURCE_ATTRIBUTES`: `key=value` with commas between, values with percent escapes. What is none is passed
/// over. Source: OpenTelemetry, "Resource SDK".
pub fn resource_attributes(text: &str) -> Vec<KeyValue> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    let pairs = pairs.map(|(key, value)| attribute(key.trim(), &unescaped(value.trim())));
    pairs.filter(|pair| !pair.key.is_empty()).collect()
}

fn unescaped(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = after.get(..2).filter(|_| *first == b'%');
        let byte = escaped
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match byte {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::context::TraceId;
    use super::*;

    #[test]
    fn a_span_keeps_its_ids_times_and_failure() {
        let span = Span {
            trace: TraceId(1),
            id: 2,
            parent: None,
            state: "a=b".to_owned(),
            kind: Kind::Server,
            name: "x".to_owned(),
            start: UNIX_EPOCH + Duration::from_nanos(5),
            duration: Duration::from_nanos(7),
            tags: vec![("empty".into(), String::new())],
            failed: true,
        };
        let bytes = body(&[span], &[attribute("service.name", "web.default")], "1");
        let read = Request::decode(&*bytes).unwrap();
        let resource = &read.resource_spans[0];
        assert_eq!(
            resource.resource.as_ref().unwrap().attributes[0].key,
            "service.name"
        );
        let span = &resource.scope_spans[0].spans[0];
        assert_eq!(span.trace_id.len(), 16);
        assert_eq!(
            (span.start_time_unix_nano, span.end_time_unix_nano),
            (5, 12)
        );
        assert_eq!(span.status.as_ref().unwrap().code, ERROR);
        let empty = span.attributes[0].value.as_ref().unwrap();
        assert_eq!(empty.string_value.as_deref(), Some(""));
    }

    #[test]
    fn the_environments_attributes_are_read_as_they_are_escaped() {
        let read = resource_attributes("a=1, b=x%20y,nonsense,=2,c=%");
        let texts: Vec<(&str, &str)> = read
            .iter()
            .map(|pair| {
                let value = pair.value.as_ref().unwrap().string_value.as_deref();
                (pair.key.as_str(), value.unwrap())
            })
            .collect();
        assert_eq!(texts, [("a", "1"), ("b", "x y"), ("c", "%")]);
    }
}
