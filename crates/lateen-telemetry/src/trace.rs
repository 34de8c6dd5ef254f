//! Spans of traced requests: the context that requests carry from hop to hop, and the forms in which collectors take spans.
//!
//! It does not decide what is traced, and sends nothing.
//! Sources: B3 propagation of Zipkin; W3C Trace Context; Zipkin's API version 2; OTLP 1; Datadog's agent; SkyWalking's protocols 3; Envoy's
//! tracers where those leave a choice.

pub mod context;
pub mod datadog;
pub mod otlp;
pub mod skywalking;
pub mod zipkin;

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The trace it belongs to.
    pub trace: context::TraceId,
    /// Its own id.
    pub id: u64,
    /// The span it is a part of.
    pub parent: Option<u64>,
    /// `tracestate`, handed on.
    pub state: String,
    /// Which side of a request it is.
    pub kind: Kind,
    /// What is done.
    pub name: String,
    /// When it began.
    pub start: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// What is known of it, in no order.
    pub tags: Vec<(Cow<'static, str>, String)>,
    /// Whether OpenTelemetry calls it an error.
    pub failed: bool,
}

/// Which side of a request a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whoever serves it.
    Server,
    /// Whoever sends it.
    Client,
}

impl Span {
    /// When it ended.
    pub fn end(&self) -> SystemTime {
        self.start + self.duration
    }
}

/// Time since 1970; none before.
fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
