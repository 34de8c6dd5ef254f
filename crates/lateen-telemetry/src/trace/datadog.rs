//! Spans as Datadog's agent takes them: `POST /v0.4/traces`, traces of spans in MessagePack; and the context in Datadog's own headers.
//!
//! Source: Datadog's trace agent API 0.4 and its propagation style; fields, names and types as Envoy 1.40 sends them. Ids are 128 bits wide:
//! the lower half is what the agent and the headers call the id, the upper half goes beside it as `_dd.p.tid`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::context::{Carried, Context, TraceId};
use super::{Span, since_epoch};

/// Where the agent takes traces.
pub const PATH: &str = "/v0.4/traces";

static TRACE_ID: HeaderName = HeaderName::from_static("x-datadog-trace-id");
static PARENT_ID: HeaderName = HeaderName::from_static("x-datadog-parent-id");
static PRIORITY: HeaderName = HeaderName::from_static("x-datadog-sampling-priority");
static ORIGIN: HeaderName = HeaderName::from_static("x-datadog-origin");
static TAGS: HeaderName = HeaderName::from_static("x-datadog-tags");

/// A tag that is a field of a span of Datadog's.
const ERROR: &str = "error";
/// The upper half of a trace's id, in tags that are handed on.
const UPPER: &str = "_dd.p.tid";
/// Bytes of tags that are handed on; Datadog's own libraries hand on as many.
const MAX_TAGS: usize = 512;
/// Bytes of an origin that are handed on.
const MAX_ORIGIN: usize = 128;
/// The parent of a trace that none of Datadog's spans was in before.
const NO_PARENT: &str = "0000000000000000";
/// What Envoy calls every span; what was done is its resource.
const NAME: &str = "envoy.proxy";

/// What is handed on beside the ids: lines of a [`Context`]'s state.
#[derive(Default)]
struct State<'s> {
    /// The sampling priority that came; whether it is above 0 says whether spans are kept.
    priority: &'s str,
    origin: &'s str,
    /// `_dd.p.…` but for the upper half of the id.
    tags: &'s str,
    /// Members of `tracestate` that are not Datadog's.
    others: &'s str,
    /// The last of Datadog's spans, where the context came in W3C's headers alone.
    parent: &'s str,
}

impl<'s> State<'s> {
    fn of(state: &'s str) -> Self {
        let mut lines = state.split('\n');
        let mut next = || lines.next().unwrap_or_default();
        Self {
            priority: next(),
            origin: next(),
            tags: next(),
            others: next(),
            parent: next(),
        }
    }

    fn keep(&self) -> String {
        [
            self.priority,
            self.origin,
            self.tags,
            self.others,
            self.parent,
        ]
        .join("\n")
    }
}

/// The same of a context that came in W3C's headers alone: Datadog's member of `tracestate` is read, the others are handed on.
pub(super) fn of_w3c(context: Context) -> Context {
    let members = context.state.split(',').map(str::trim);
    let (own, others): (Vec<&str>, Vec<&str>) = members
        .filter(|member| !member.is_empty())
        .partition(|member| member.starts_with("dd="));
    let fields = || own.iter().flat_map(|own| own["dd=".len()..].split(';'));
    let field = |name: &str| {
        let found = fields().find_map(|field| field.strip_prefix(name)?.strip_prefix(':'));
        found.unwrap_or_default()
    };
    let tags = fields().filter_map(|field| field.strip_prefix("t.")?.split_once(':'));
    let tags: Vec<String> = tags
        .map(|(name, value)| format!("_dd.p.{name}={value}"))
        .collect();
    let priority = field("s");
    // What the flags of `traceparent` say wins over a priority that contradicts them.
    let agrees = priority
        .parse::<i32>()
        .is_ok_and(|priority| (priority > 0) == context.sampled);
    let default = if context.sampled { "1" } else { "0" };
    let state = State {
        priority: if agrees { priority } else { default },
        origin: field("o"),
        tags: &tags.join(","),
        others: &others.join(","),
        parent: match field("p") {
            "" => NO_PARENT,
            parent => parent,
        },
    };
    let state = state.keep();
    Context { state, ..context }
}

/// Reads Datadog's headers; [`Carried::Nothing`] if there are none.
pub(super) fn read(headers: &HeaderMap) -> Carried {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    if !headers.contains_key(&TRACE_ID) {
        return Carried::Nothing(None);
    }
    let number = |name| text(name).and_then(|text| text.trim().parse::<u64>().ok());
    let (Some(lower), Some(parent)) = (number(&TRACE_ID), number(&PARENT_ID)) else {
        return Carried::Broken;
    };
    let tags = text(&TAGS)
        .filter(|tags| tags.len() <= MAX_TAGS)
        .unwrap_or_default();
    let upper = tags
        .split(',')
        .find_map(|tag| tag.strip_prefix(UPPER)?.strip_prefix('='));
    let upper = upper.and_then(|upper| u64::from_str_radix(upper, 16).ok());
    let trace = u128::from(upper.unwrap_or(0)) << 64 | u128::from(lower);
    if trace == 0 {
        return Carried::Broken;
    }
    let origin = text(&ORIGIN)
        .filter(|origin| origin.len() <= MAX_ORIGIN)
        .unwrap_or_default();
    let rest: Vec<&str> = tags
        .split(',')
        .filter(|tag| tag.starts_with("_dd.p.") && !tag.starts_with(UPPER))
        .collect();
    let priority = text(&PRIORITY).map(str::trim);
    let priority = priority.filter(|text| text.parse::<i32>().is_ok());
    let sampled = priority.and_then(|text| text.parse::<i32>().ok());
    let sampled = sampled.map(|priority| priority > 0);
    let state = State {
        priority: priority.unwrap_or_default(),
        origin,
        tags: &rest.join(","),
        others: "",
        parent: "",
    };
    let context = Context {
        trace: TraceId(trace),
        span: parent,
        parent: None,
        sampled: sampled.unwrap_or(false),
        state: state.keep(),
    };
    Carried::Context(context, sampled)
}

/// Writes Datadog's headers and, as its libraries do, those of W3C beside them.
pub(super) fn write(context: &Context, headers: &mut HeaderMap) {
    let mut set = |name: &HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    let state = State::of(&context.state);
    let flags = u8::from(context.sampled);
    let priority = match (state.priority, context.sampled) {
        ("", true) => "1",
        // Nobody before this one decided: it is this one's word that nothing is kept.
        ("", false) => "-1",
        (carried, _) => carried,
    };
    let (upper, lower) = halves(context.trace);
    set(&TRACE_ID, &lower.to_string());
    set(&PARENT_ID, &context.span.to_string());
    set(&PRIORITY, priority);
    if !state.origin.is_empty() {
        set(&ORIGIN, state.origin);
    }
    let upper = (upper != 0).then(|| format!("{UPPER}={upper:016x}"));
    let mut tags: Vec<&str> = upper.as_deref().into_iter().collect();
    if !state.tags.is_empty() {
        // In which order depends on where they came from, in Envoy as well.
        let at = if state.parent.is_empty() {
            tags.len()
        } else {
            0
        };
        tags.insert(at, state.tags);
    }
    if !tags.is_empty() {
        set(&TAGS, &tags.join(","));
    }
    let trace = context.trace.long();
    set(
        &super::context::TRACEPARENT,
        &format!("00-{trace}-{:016x}-{flags:02x}", context.span),
    );
    let mut told = format!("dd=s:{priority};p:{:016x}", context.span);
    if !state.origin.is_empty() {
        told.push_str(&format!(
            ";o:{}",
            state.origin.replace([',', ';', '='], "_")
        ));
    }
    for tag in state.tags.split(',') {
        if let Some((name, value)) = tag
            .strip_prefix("_dd.p.")
            .and_then(|tag| tag.split_once('='))
        {
            told.push_str(&format!(";t.{name}:{value}"));
        }
    }
    if !state.others.is_empty() {
        told.push(',');
        told.push_str(state.others);
    }
    set(&super::context::TRACESTATE, &told);
}

/// The state of a trace that begins here: its sampling was decided by default.
pub fn fresh_state(sampled: bool) -> String {
    let tags = if sampled { "_dd.p.dm=-0" } else { "" };
    let state = State {
        tags,
        ..State::default()
    };
    state.keep()
}

fn halves(trace: TraceId) -> (u64, u64) {
    let [upper, lower] = [trace.0 >> 64, trace.0 & u128::from(u64::MAX)];
    // Each is below 2^64.
    (
        u64::try_from(upper).unwrap_or(0),
        u64::try_from(lower).unwrap_or(0),
    )
}

/// Traces of spans, and how many traces they are.
pub fn body(spans: &[Span], service: &str) -> (Vec<u8>, usize) {
    let mut traces: BTreeMap<u128, Vec<&Span>> = BTreeMap::new();
    for span in spans {
        traces.entry(span.trace.0).or_default().push(span);
    }
    let mut out = Pack::default();
    out.array(traces.len());
    for spans in traces.values() {
        out.array(spans.len());
        for (index, span) in spans.iter().enumerate() {
            out.span(span, service, index == 0);
        }
    }
    (out.0, traces.len())
}

/// MessagePack, in the few forms that are needed.
#[derive(Default)]
struct Pack(Vec<u8>);

impl Pack {
    fn length(&mut self, kind: u8, length: usize) {
        self.0.push(kind);
        // What a queue holds is far below 4 GiB.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&length.to_be_bytes());
    }

    fn array(&mut self, length: usize) {
        self.length(0xdd, length);
    }

    fn map(&mut self, length: usize) {
        self.length(0xdf, length);
    }

    fn text(&mut self, text: &str) {
        self.length(0xdb, text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn unsigned(&mut self, number: u64) {
        self.0.push(0xcf);
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn signed(&mut self, number: i64) {
        self.0.push(0xd3);
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn float(&mut self, number: f64) {
        self.0.push(0xcb);
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn span(&mut self, span: &Span, service: &str, first: bool) {
        let (upper, lower) = halves(span.trace);
        let state = State::of(&span.state);
        let nanos = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(0);
        self.map(12);
        let texts = [
            ("service", service),
            ("name", NAME),
            ("resource", &span.name),
        ];
        for (key, value) in texts {
            self.text(key);
            self.text(value);
        }
        let numbers = [
            ("trace_id", lower),
            ("span_id", span.id),
            ("parent_id", span.parent.unwrap_or(0)),
            ("start", nanos(since_epoch(span.start))),
            ("duration", nanos(span.duration)),
        ];
        for (key, value) in numbers {
            self.text(key);
            self.unsigned(value);
        }
        self.text("error");
        self.signed(i64::from(span.tags.iter().any(|(key, _)| key == ERROR)));
        let meta = meta(span, &state, upper, first);
        self.text("meta");
        self.map(meta.len());
        for (key, value) in &meta {
            self.text(key);
            self.text(value);
        }
        self.text("metrics");
        self.map(if first { 1 } else { 0 });
        if first {
            self.text("_sampling_priority_v1");
            self.float(1.0);
        }
        self.text("type");
        self.text("web");
    }
}

/// The texts of a span: its tags, and in a trace's first span what concerns the trace.
fn meta<'s>(
    span: &'s Span,
    state: &State<'s>,
    upper: u64,
    first: bool,
) -> BTreeMap<Cow<'s, str>, Cow<'s, str>> {
    let tags = span.tags.iter().filter(|(key, _)| key != ERROR);
    let mut meta: BTreeMap<Cow<'s, str>, Cow<'s, str>> = tags
        .map(|(key, value)| (Cow::Borrowed(&**key), Cow::Borrowed(value.as_str())))
        .collect();
    if !first {
        return meta;
    }
    if upper != 0 {
        meta.insert(UPPER.into(), format!("{upper:016x}").into());
    }
    if !state.parent.is_empty() {
        meta.insert("_dd.parent_id".into(), state.parent.into());
    }
    if !state.origin.is_empty() {
        meta.insert("_dd.origin".into(), state.origin.into());
    }
    let tags = state.tags.split(',').filter_map(|tag| tag.split_once('='));
    meta.extend(tags.map(|(key, value)| (key.into(), value.into())));
    meta
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::Kind;
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let one = |(name, value): &(&'static str, &str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )
        };
        list.iter().map(one).collect()
    }

    #[test]
    fn what_is_written_is_read_again_with_origin_and_tags() {
        let context = Context {
            trace: TraceId(0x6b01_cc1c_0000_0000_de81_d507_98c1_8465),
            span: 0x371f_8bf7_8c6d_a56b,
            parent: None,
            sampled: true,
            state: "1\nrum\n_dd.p.dm=-0\n\n".to_owned(),
        };
        let mut sent = HeaderMap::new();
        write(&context, &mut sent);
        // As Envoy 1.40 writes them.
        assert_eq!(sent["x-datadog-trace-id"], "16033330377019982949");
        assert_eq!(sent["x-datadog-parent-id"], "3972047291693245803");
        assert_eq!(
            sent["x-datadog-tags"],
            "_dd.p.tid=6b01cc1c00000000,_dd.p.dm=-0"
        );
        assert_eq!(
            sent["traceparent"],
            "00-6b01cc1c00000000de81d50798c18465-371f8bf78c6da56b-01"
        );
        assert_eq!(
            sent["tracestate"],
            "dd=s:1;p:371f8bf78c6da56b;o:rum;t.dm:-0"
        );
        assert_eq!(read(&sent), Carried::Context(context, Some(true)));
    }

    #[test]
    fn ids_of_64_bits_are_ids_and_what_is_no_number_is_none() {
        let ids = [
            ("x-datadog-trace-id", "123"),
            ("x-datadog-parent-id", "456"),
        ];
        let Carried::Context(context, None) = read(&headers(&ids)) else {
            panic!("no context");
        };
        assert_eq!((context.trace, context.span), (TraceId(123), 456));
        let mut sent = HeaderMap::new();
        write(&context, &mut sent);
        assert!(!sent.contains_key("x-datadog-tags") && !sent.contains_key("x-datadog-origin"));
        for broken in [
            [("x-datadog-trace-id", "0"), ("x-datadog-parent-id", "1")],
            [("x-datadog-trace-id", "x"), ("x-datadog-parent-id", "1")],
            [("x-datadog-trace-id", "1"), ("x-datadog-parent-id", "-1")],
        ] {
            assert_eq!(read(&headers(&broken)), Carried::Broken, "{broken:?}");
        }
        assert_eq!(read(&HeaderMap::new()), Carried::Nothing(None));
    }

    #[test]
    fn w3cs_headers_stand_in_and_other_vendors_states_go_on() {
        let came = Context {
            trace: TraceId(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736),
            span: 7,
            parent: None,
            sampled: true,
            state: "a=b,dd=s:2;o:rum;p:0000000000000007;t.dm:-4".to_owned(),
        };
        let mut sent = HeaderMap::new();
        write(&of_w3c(came), &mut sent);
        assert_eq!(sent["x-datadog-trace-id"], "11803532876627986230");
        assert_eq!(sent["x-datadog-sampling-priority"], "2");
        assert_eq!(
            sent["x-datadog-tags"],
            "_dd.p.dm=-4,_dd.p.tid=4bf92f3577b34da6"
        );
        assert_eq!(
            sent["tracestate"],
            "dd=s:2;p:0000000000000007;o:rum;t.dm:-4,a=b"
        );
    }

    #[test]
    fn spans_are_grouped_by_trace_and_the_first_says_what_concerns_all() {
        let span = |trace, id, parent| Span {
            trace: TraceId(trace),
            id,
            parent,
            state: fresh_state(true),
            kind: Kind::Client,
            name: "web:80/*".to_owned(),
            start: UNIX_EPOCH + Duration::from_secs(1),
            duration: Duration::from_micros(2),
            tags: vec![("http.method".into(), "GET".to_owned())],
            failed: id == 3,
        };
        let spans = [
            span(7, 1, None),
            span(1 << 64 | 8, 2, None),
            span(7, 3, Some(1)),
        ];
        let (body, traces) = body(&spans, "web.shop");
        assert_eq!((traces, &body[..5]), (2, &[0xdd, 0, 0, 0, 2][..]));
        let text = String::from_utf8_lossy(&body);
        assert_eq!(text.matches("_sampling_priority_v1").count(), 2);
        assert_eq!(text.matches("_dd.p.tid").count(), 1);
        assert_eq!(text.matches("web.shop").count(), 3);
        assert!(text.contains("envoy.proxy") && text.contains("http.method"));
    }
}
