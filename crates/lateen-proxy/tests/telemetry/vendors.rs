//! Spans as Datadog's agent and SkyWalking's collector get them, read for comparison.

use std::collections::BTreeMap;

use prost::Message;
use serde_json::{Map, Value, json};

use super::{Reports, Span, id, tags};

/// Where SkyWalking's collector takes segments.
pub(crate) const COLLECT: &str = "/skywalking.v3.TraceSegmentReportService/collect";

/// Datadog's tracer.
pub(crate) fn datadog() -> Value {
    json!({"name": "envoy.tracers.datadog", "typed_config": {
        "@type": "type.googleapis.com/envoy.config.trace.v3.DatadogConfig",
        "collector_cluster": "collector", "collector_hostname": "agent", "service_name": "me.shop",
    }})
}

/// SkyWalking's tracer.
pub(crate) fn skywalking() -> Value {
    json!({"name": "envoy.tracers.skywalking", "typed_config": {
        "@type": "type.googleapis.com/envoy.config.trace.v3.SkyWalkingConfig",
        "grpc_service": {"envoy_grpc": {"cluster_name": "collector-h2"}},
        "client_config": {"service_name": "me.shop", "instance_name": "me"},
    }})
}

/// Reads MessagePack, in the forms that Datadog's libraries write.
struct Unpack<'a>(&'a [u8]);

impl<'a> Unpack<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn length(&mut self) -> usize {
        u32::from_be_bytes(self.take(4).try_into().unwrap()) as usize
    }

    fn eight(&mut self) -> [u8; 8] {
        self.take(8).try_into().unwrap()
    }

    fn value(&mut self) -> Value {
        match self.take(1)[0] {
            0xdd => (0..self.length()).map(|_| self.value()).collect(),
            0xdf => {
                let mut out = Map::new();
                for _ in 0..self.length() {
                    let key = self.value().as_str().unwrap().to_owned();
                    out.insert(key, self.value());
                }
                out.into()
            }
            0xdb => {
                let length = self.length();
                std::str::from_utf8(self.take(length)).unwrap().into()
            }
            0xcf => u64::from_be_bytes(self.eight()).into(),
            0xd3 => i64::from_be_bytes(self.eight()).into(),
            0xcb => f64::from_be_bytes(self.eight()).into(),
            other => panic!("{other:x} is not read here"),
        }
    }
}

/// What each library says of itself.
const OWN: [&str; 3] = ["language", "runtime-id", "version"];

pub(crate) fn datadog_spans(reports: &Reports) -> Vec<Span> {
    let reports = reports.lock().unwrap();
    let bodies = reports.iter().filter(|(path, ..)| path == "/v0.4/traces");
    let traces = bodies.flat_map(|(_, kind, body)| {
        assert_eq!(kind, "application/msgpack");
        let Value::Array(traces) = Unpack(body).value() else {
            panic!("no list of traces");
        };
        traces
    });
    let mut out = Vec::new();
    for trace in traces {
        let spans = trace.as_array().unwrap().clone();
        let known: Vec<Value> = spans.iter().map(|span| span["span_id"].clone()).collect();
        for span in spans {
            assert_eq!(
                (span["service"].as_str(), span["name"].as_str()),
                (Some("me.shop"), Some("envoy.proxy"))
            );
            assert!(span["start"].as_u64().unwrap() > 1_600_000_000_000_000_000);
            let first = !known.contains(&span["parent_id"]);
            assert_eq!(
                span["metrics"]["_sampling_priority_v1"] == json!(1.0),
                first,
                "{span}"
            );
            let meta = span["meta"].as_object().unwrap().iter();
            let meta = meta.filter(|(key, _)| !OWN.contains(&key.as_str()) && *key != "_dd.p.tid");
            out.push(Span {
                name: span["resource"].as_str().unwrap().to_owned(),
                kind: span["type"].as_str().unwrap().to_owned(),
                parent: match (first, span["parent_id"].as_u64()) {
                    (_, Some(0)) => String::new(),
                    (true, Some(parent)) => id(&format!("{parent:016x}")),
                    _ => "the request's".to_owned(),
                },
                trace: id(&format!("{:016x}", span["trace_id"].as_u64().unwrap())),
                failed: span["error"] == 1,
                tags: tags(meta.map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()))),
            });
        }
    }
    out
}

/// SkyWalking's messages, by their numbers in its own files.
mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Segment {
        #[prost(string, tag = "1")]
        pub(super) trace_id: String,
        #[prost(string, tag = "2")]
        pub(super) segment_id: String,
        #[prost(message, repeated, tag = "3")]
        pub(super) spans: Vec<Span>,
        #[prost(string, tag = "4")]
        pub(super) service: String,
        #[prost(string, tag = "5")]
        pub(super) instance: String,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Span {
        #[prost(int32, tag = "1")]
        pub(super) id: i32,
        #[prost(int32, tag = "2")]
        pub(super) parent: i32,
        #[prost(int64, tag = "3")]
        pub(super) start: i64,
        #[prost(int64, tag = "4")]
        pub(super) end: i64,
        #[prost(message, repeated, tag = "5")]
        pub(super) refs: Vec<Reference>,
        #[prost(string, tag = "6")]
        pub(super) name: String,
        #[prost(string, tag = "7")]
        pub(super) peer: String,
        #[prost(int32, tag = "8")]
        pub(super) kind: i32,
        #[prost(int32, tag = "9")]
        pub(super) layer: i32,
        #[prost(int32, tag = "10")]
        pub(super) component: i32,
        #[prost(bool, tag = "11")]
        pub(super) failed: bool,
        #[prost(message, repeated, tag = "12")]
        pub(super) tags: Vec<Tag>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Reference {
        #[prost(string, tag = "2")]
        pub(super) trace_id: String,
        #[prost(string, tag = "3")]
        pub(super) segment: String,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Tag {
        #[prost(string, tag = "1")]
        pub(super) key: String,
        #[prost(string, tag = "2")]
        pub(super) value: String,
    }
}

pub(crate) fn skywalking_spans(reports: &Reports) -> Vec<Span> {
    let mut out = Vec::new();
    for (path, _, body) in &*reports.lock().unwrap() {
        if path != COLLECT {
            continue;
        }
        let mut left = &body[..];
        while left.len() > 5 {
            let length = u32::from_be_bytes(left[1..5].try_into().unwrap()) as usize;
            let segment = wire::Segment::decode(&left[5..5 + length]).unwrap();
            left = &left[5 + length..];
            out.extend(spans_of(segment));
        }
    }
    out
}

fn spans_of(segment: wire::Segment) -> Vec<Span> {
    assert_eq!(
        (segment.service.as_str(), segment.instance.as_str()),
        ("me.shop", "me")
    );
    assert_eq!(segment.segment_id.len(), 36);
    let trace = match segment.trace_id.len() {
        36 => "made here".to_owned(),
        _ => segment.trace_id,
    };
    let spans = segment.spans.into_iter().map(|span| {
        assert_eq!((span.layer, span.component), (3, 9000));
        assert!(span.start > 1_600_000_000_000 && span.end >= span.start);
        let mut about: BTreeMap<String, String> =
            tags(span.tags.into_iter().map(|tag| (tag.key, tag.value)));
        about.insert("peer".to_owned(), span.peer);
        let refs = span.refs.iter();
        let refs: Vec<String> = refs
            .map(|one| format!("{}/{}", one.trace_id, one.segment))
            .collect();
        Span {
            name: span.name,
            kind: format!("{} {}", span.kind, span.id),
            parent: format!("{} {}", span.parent, refs.join(" ")),
            trace: trace.clone(),
            failed: span.failed,
            tags: about,
        }
    });
    spans.collect()
}
