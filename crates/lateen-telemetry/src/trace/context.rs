//! The context of a trace in headers: read from a request, and written to the next.
//!
//! What a client writes may be anything: nothing is read that is not exactly in the form of its standard, and a request with a context
//! that is broken is not traced at all, as with Envoy.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{datadog, skywalking};

static B3: HeaderName = HeaderName::from_static("b3");
static TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
static SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
static PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
static SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
pub(super) static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Bytes of `traceparent` in version 00, and in those that follow it as far as they are understood.
const TRACEPARENT_LENGTH: usize = 55;
/// Bytes of `tracestate` that are handed on. The standard asks for 512 at least.
const MAX_STATE: usize = 4096;

/// The id of a trace: 64 or 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub u128);

impl TraceId {
    /// Lower-case hexadecimal digits: 16 if that is enough, else 32.
    pub fn short(self) -> String {
        match u64::try_from(self.0) {
            Ok(narrow) => format!("{narrow:016x}"),
            Err(_) => self.long(),
        }
    }

    /// 32 digits.
    pub fn long(self) -> String {
        format!("{:032x}", self.0)
    }
}

/// Which headers carry the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// `b3` or `x-b3-…`.
    B3,
    /// The same, or `traceparent` where there is none of them; both are written.
    B3WithW3c,
    /// `traceparent` and `tracestate`.
    W3c,
    /// `x-datadog-…`, or `traceparent` where there is none of them; both are written.
    Datadog,
    /// `sw8`, which says more than a context holds: [`super::skywalking::write`] writes it.
    SkyWalking,
}

/// Where a request stands in its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    /// The span that the request is.
    pub span: u64,
    /// The span that one is a part of.
    pub parent: Option<u64>,
    /// Whether its spans are kept.
    pub sampled: bool,
    /// What is handed on beside: `tracestate`, or what the form of the headers has in its place.
    pub state: String,
}

/// What a request carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carried {
    /// No context, but maybe whether it is to be traced.
    Nothing(Option<bool>),
    /// A context. Whether it is traced may be left to who reads it.
    Context(Context, Option<bool>),
    /// Something that is no context.
    Broken,
}

impl Propagation {
    /// Reads the context of a request.
    pub fn read(self, headers: &HeaderMap) -> Carried {
        let b3 = || match read_b3(headers) {
            None => Carried::Broken,
            Some((None, sampled)) => Carried::Nothing(sampled),
            Some((Some(context), sampled)) => Carried::Context(context, sampled),
        };
        match self {
            Self::B3 => b3(),
            Self::W3c => read_w3c(headers),
            Self::B3WithW3c => match b3() {
                Carried::Nothing(None) => read_w3c(headers),
                found => found,
            },
            Self::Datadog => match datadog::read(headers) {
                // A context that is broken begins a trace anew.
                Carried::Nothing(_) | Carried::Broken => match read_w3c(headers) {
                    Carried::Context(context, sampled) => {
                        Carried::Context(datadog::of_w3c(context), sampled)
                    }
                    Carried::Nothing(_) | Carried::Broken => Carried::Nothing(None),
                },
                found @ Carried::Context(..) => found,
            },
            Self::SkyWalking => skywalking::read(headers),
        }
    }

    /// Writes a context into the headers of the request that it is sent with: into one header if B3 came in one.
    pub fn write(self, context: &Context, headers: &mut HeaderMap) {
        match self {
            Self::Datadog => return datadog::write(context, headers),
            Self::SkyWalking => return,
            Self::B3 | Self::B3WithW3c | Self::W3c => {}
        }
        if self != Self::W3c && headers.contains_key(&B3) {
            if let Ok(value) = HeaderValue::from_str(&single(context)) {
                headers.insert(&B3, value);
            }
        } else if self != Self::W3c {
            let mut set = |name: &HeaderName, value: &str| {
                // Digits are fine in a header.
                if let Ok(value) = HeaderValue::from_str(value) {
                    headers.insert(name, value);
                }
            };
            set(&TRACE_ID, &context.trace.short());
            set(&SPAN_ID, &format!("{:016x}", context.span));
            if let Some(parent) = context.parent {
                set(&PARENT_ID, &format!("{parent:016x}"));
            }
            set(&SAMPLED, if context.sampled { "1" } else { "0" });
        }
        if self != Self::B3 {
            let flags = u8::from(context.sampled);
            let trace = context.trace.long();
            let parent = format!("00-{trace}-{:016x}-{flags:02x}", context.span);
            if let Ok(value) = HeaderValue::from_str(&parent) {
                headers.insert(&TRACEPARENT, value);
            }
            if self == Self::W3c
                && let Ok(value) = HeaderValue::from_str(&context.state)
            {
                headers.insert(&TRACESTATE, value);
            }
        }
    }
}

/// A context as it is in one header.
fn single(context: &Context) -> String {
    let sampled = u8::from(context.sampled);
    let parent = context.parent.map(|parent| format!("-{parent:016x}"));
    format!(
        "{}-{:016x}-{sampled}{}",
        context.trace.short(),
        context.span,
        parent.unwrap_or_default()
    )
}

/// A context in B3 and whether it is sampled, each if there; `None` if what is there is broken.
fn read_b3(headers: &HeaderMap) -> Option<(Option<Context>, Option<bool>)> {
    if let Some(single) = headers.get(&B3) {
        return read_single(single.as_bytes());
    }
    // `true` is what old tracers write. `x-b3-flags` is nothing to Envoy.
    let sampled = headers
        .get(&SAMPLED)
        .map(|sampled| matches!(sampled.as_bytes(), b"1" | b"true"));
    let (Some(trace), Some(span)) = (headers.get(&TRACE_ID), headers.get(&SPAN_ID)) else {
        return Some((None, sampled));
    };
    let parent = match headers.get(&PARENT_ID) {
        Some(parent) if !parent.is_empty() => Some(span_id(parent.as_bytes())?),
        _ => None,
    };
    let context = Context {
        trace: trace_id(trace.as_bytes())?,
        span: span_id(span.as_bytes())?,
        parent,
        sampled: sampled.unwrap_or(false),
        state: String::new(),
    };
    Some((Some(context), sampled))
}

/// `TRACE-SPAN`, `TRACE-SPAN-SAMPLED`, `TRACE-SPAN-SAMPLED-PARENT`, or `SAMPLED` alone.
fn read_single(text: &[u8]) -> Option<(Option<Context>, Option<bool>)> {
    let flag = |text: &[u8]| match text {
        b"1" | b"d" => Some(true),
        b"0" => Some(false),
        _ => None,
    };
    if let [_] = text {
        return flag(text).map(|sampled| (None, Some(sampled)));
    }
    let parts: Vec<&[u8]> = text.splitn(5, |byte| *byte == b'-').collect();
    let (trace, span, sampled, parent) = match parts[..] {
        [trace, span] => (trace, span, None, None),
        [trace, span, sampled] => (trace, span, Some(flag(sampled)?), None),
        [trace, span, sampled, parent] => (trace, span, Some(flag(sampled)?), Some(parent)),
        _ => return None,
    };
    let context = Context {
        trace: trace_id(trace)?,
        span: span_id(span)?,
        parent: match parent {
            Some(parent) => Some(span_id(parent)?),
            None => None,
        },
        sampled: sampled.unwrap_or(false),
        state: String::new(),
    };
    Some((Some(context), sampled))
}

fn read_w3c(headers: &HeaderMap) -> Carried {
    let Some(parent) = headers.get(&TRACEPARENT) else {
        return Carried::Nothing(None);
    };
    let mut states: Vec<&str> = Vec::new();
    for state in headers.get_all(&TRACESTATE) {
        // A state that cannot be read is left out; the trace goes on without it, as the standard says.
        states.extend(state.to_str());
    }
    let mut state = states.join(",");
    if state.len() > MAX_STATE {
        state.clear();
    }
    match traceparent(parent.as_bytes(), state) {
        Some(context) => {
            let sampled = Some(context.sampled);
            Carried::Context(context, sampled)
        }
        None => Carried::Broken,
    }
}

fn traceparent(text: &[u8], state: String) -> Option<Context> {
    if text.len() != TRACEPARENT_LENGTH {
        return None;
    }
    let mut parts = text.split(|byte| *byte == b'-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || version.len() != 2 || trace.len() != 32 || flags.len() != 2 {
        return None;
    }
    hex(version)?;
    Some(Context {
        trace: trace_id(trace)?,
        span: span_id(span)?,
        parent: None,
        sampled: hex(flags)? & 1 == 1,
        state,
    })
}

/// 16 or 32 digits that are not all zero.
fn trace_id(text: &[u8]) -> Option<TraceId> {
    let id = hex(text).filter(|_| matches!(text.len(), 16 | 32))?;
    (id != 0).then_some(TraceId(id))
}

/// 16 digits that are not all zero.
fn span_id(text: &[u8]) -> Option<u64> {
    let id = hex(text).filter(|_| text.len() == 16)?;
    u64::try_from(id).ok().filter(|id| *id != 0)
}

fn hex(text: &[u8]) -> Option<u128> {
    if !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u128::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let each = list.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )
        });
        each.collect()
    }

    fn read(how: Propagation, list: &[(&'static str, &str)]) -> Carried {
        how.read(&headers(list))
    }

    #[test]
    fn what_is_written_is_read_again() {
        let context = Context {
            trace: TraceId(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736),
            span: 0x00f0_67aa_0ba9_02b7,
            parent: None,
            sampled: true,
            state: "a=1,b=2".to_owned(),
        };
        let mut w3c = HeaderMap::new();
        Propagation::W3c.write(&context, &mut w3c);
        assert_eq!(
            w3c["traceparent"],
            format!("00-{TRACE}-00f067aa0ba902b7-01")
        );
        let read = Propagation::W3c.read(&w3c);
        assert_eq!(read, Carried::Context(context.clone(), Some(true)));
        let mut b3 = HeaderMap::new();
        let child = Context {
            parent: Some(7),
            state: String::new(),
            ..context
        };
        Propagation::B3.write(&child, &mut b3);
        assert_eq!(b3["x-b3-parentspanid"], "0000000000000007");
        assert!(!b3.contains_key("traceparent"));
        assert_eq!(
            Propagation::B3.read(&b3),
            Carried::Context(child, Some(true))
        );
    }

    #[test]
    fn b3_in_one_header_is_understood_in_all_its_lengths() {
        let b3 = |text: &str| read(Propagation::B3, &[("b3", text)]);
        assert_eq!(b3("0"), Carried::Nothing(Some(false)));
        assert_eq!(b3("d"), Carried::Nothing(Some(true)));
        let Carried::Context(context, None) = b3("a3ce929d0e0e4736-00f067aa0ba902b7") else {
            panic!("no context");
        };
        assert_eq!(context.trace.short(), "a3ce929d0e0e4736");
        let mut headers = headers(&[("b3", "1")]);
        Propagation::B3.write(&context, &mut headers);
        assert_eq!(headers["b3"], "a3ce929d0e0e4736-00f067aa0ba902b7-0");
        assert_eq!(headers.len(), 1);
        let whole = format!("{TRACE}-00f067aa0ba902b7-1-05e3ac9a4f6e3b90");
        let Carried::Context(context, Some(true)) = b3(&whole) else {
            panic!("no context");
        };
        assert_eq!(context.parent, Some(0x05e3_ac9a_4f6e_3b90));
    }

    #[test]
    fn what_is_no_context_is_told_from_none() {
        for text in [
            "2",
            "",
            "x-y",
            "a3ce929d0e0e4736-00f067aa0ba902b7-2",
            "a-b-c-d-e",
        ] {
            assert_eq!(
                read(Propagation::B3, &[("b3", text)]),
                Carried::Broken,
                "{text}"
            );
        }
        let zero = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let long = format!("00-{TRACE}-00f067aa0ba902b7-01-more");
        let letters = format!("00-{}-00f067aa0ba902b7-01", TRACE.replace('4', "g"));
        for text in [zero.as_str(), &long, &letters, "00"] {
            let found = read(Propagation::W3c, &[("traceparent", text)]);
            assert_eq!(found, Carried::Broken, "{text}");
        }
        assert_eq!(read(Propagation::W3c, &[]), Carried::Nothing(None));
    }

    #[test]
    fn a_long_state_is_left_out_and_the_trace_goes_on() {
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        for (length, kept) in [(MAX_STATE, MAX_STATE), (MAX_STATE + 1, 0)] {
            let state = "a".repeat(length);
            let found = read(
                Propagation::W3c,
                &[("traceparent", &parent), ("tracestate", &state)],
            );
            let Carried::Context(context, _) = found else {
                panic!("no context");
            };
            assert_eq!(context.state.len(), kept);
        }
    }

    #[test]
    fn w3c_stands_in_where_there_is_no_b3() {
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-00");
        let w3c = ("traceparent", parent.as_str());
        let fallback = read(Propagation::B3WithW3c, &[w3c]);
        assert!(matches!(fallback, Carried::Context(_, Some(false))));
        let b3 = read(Propagation::B3WithW3c, &[w3c, ("b3", "1")]);
        assert_eq!(b3, Carried::Nothing(Some(true)));
        assert_eq!(read(Propagation::B3, &[w3c]), Carried::Nothing(None));
    }
}
