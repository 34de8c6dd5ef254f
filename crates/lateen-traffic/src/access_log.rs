//! Access log settings, as written; `lateen-telemetry` compiles the formats and writes the lines.

mod attributes;

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use crate::cel::Expression;
use crate::matcher::{Fraction, HeaderMatcher, MetadataMatcher};
use crate::request::{ConnectionInfo, PeerTls, RequestView};
use crate::tracing::Collector;
use crate::value::Value;

/// One access log of a listener, HTTP connection manager, TCP proxy or router.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// The extension's name.
    pub name: Arc<str>,
    /// Where the lines go.
    pub sink: LogSink,
    /// How a line looks.
    pub format: LogFormat,
    /// Nothing stands for what is not known, rather than `-`.
    pub omit_empty: bool,
    /// Which requests are logged; `None` logs all.
    pub filter: Option<LogFilter>,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogSink {
    /// Standard output (`/dev/stdout`, or the stdout logger).
    Stdout,
    /// Standard error.
    Stderr,
    /// A file.
    File(Arc<str>),
    /// A service.
    Service(Arc<GrpcLog>),
    /// A logger that Lateen does not have; the logs are not written, and the type says whose.
    Unsupported(Arc<str>),
}

/// A log that a service takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcLog {
    /// What the service is, and what it gets.
    pub kind: GrpcLogKind,
    /// What it calls the log.
    pub name: Arc<str>,
    /// Where it is. Over HTTP only OpenTelemetry's can be.
    pub to: Collector,
}

/// What a service that takes logs gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrpcLogKind {
    /// Envoy's entries of requests, with these headers.
    Http {
        /// Of the request.
        request: Vec<HeaderName>,
        /// Of the response.
        response: Vec<HeaderName>,
        /// Of its trailers.
        trailers: Vec<HeaderName>,
    },
    /// Envoy's entries of connections.
    Tcp,
    /// OpenTelemetry's records.
    OpenTelemetry {
        /// The format of the body.
        body: Option<Arc<str>>,
        /// Attributes, by their formats.
        attributes: Vec<(Arc<str>, Arc<str>)>,
        /// It is told whose log it is.
        builtin_labels: bool,
    },
}

/// The form of a log line.
#[derive(Clone, Debug, PartialEq)]
pub enum LogFormat {
    /// Envoy's own default.
    Default,
    /// A line with command operators; its line break is part of it.
    Text(Arc<str>),
    /// An object whose texts hold command operators.
    Json(Value),
}

/// Which requests are logged: `AccessLogFilter`.
#[derive(Clone, Debug)]
pub enum LogFilter {
    /// Compares the response code.
    StatusCode(Compare),
    /// Compares the duration in milliseconds.
    Duration(Compare),
    /// Not health checks.
    NotHealthCheck,
    /// Sampled for tracing.
    Traceable,
    /// A share of all.
    Runtime(Fraction),
    /// All of them hold.
    And(Vec<LogFilter>),
    /// One of them holds.
    Or(Vec<LogFilter>),
    /// A header of the request matches.
    Header(HeaderMatcher),
    /// A response flag is set; empty asks for any flag.
    ResponseFlag(Vec<Arc<str>>),
    /// The gRPC status is one of these (or none of them).
    GrpcStatus {
        /// Status codes.
        codes: Vec<u32>,
        /// The result is turned around.
        exclude: bool,
    },
    /// Dynamic metadata matches.
    Metadata {
        /// The condition.
        matcher: MetadataMatcher,
        /// The result if the value is absent.
        if_missing: bool,
    },
    /// A CEL expression holds.
    Cel(Arc<Expression>),
}

/// A comparison with a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The operator.
    pub op: CompareOp,
    /// The constant.
    pub value: u32,
}

/// A comparison operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOp {
    /// Equal.
    Eq,
    /// Greater or equal.
    Ge,
    /// Less or equal.
    Le,
    /// Not equal.
    Ne,
}

impl Compare {
    /// Whether a number satisfies the comparison.
    pub fn holds(self, number: u64) -> bool {
        let value = u64::from(self.value);
        match self.op {
            CompareOp::Eq => number == value,
            CompareOp::Ge => number >= value,
            CompareOp::Le => number <= value,
            CompareOp::Ne => number != value,
        }
    }
}

/// What a filter may look at when a request or connection has ended.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a> {
    /// The request; `None` for TCP.
    pub request: Option<&'a RequestView<'a>>,
    /// The response code; 0 if there was none.
    pub status: u16,
    /// The gRPC status, if it was gRPC.
    pub grpc_status: Option<u32>,
    /// Milliseconds from the first byte of the request to the last of the response.
    pub duration_ms: u64,
    /// Envoy's short response flags.
    pub flags: &'a [&'a str],
    /// Whether it was a health check.
    pub health_check: bool,
    /// Whether it is sampled for tracing.
    pub traced: bool,
    /// For [`LogFilter::Runtime`].
    pub random: u64,
    /// What else attributes of expressions speak of.
    pub more: More<'a>,
}

/// What attributes of CEL expressions speak of, beyond what other filters need.
#[derive(Clone, Copy, Debug, Default)]
pub struct More<'a> {
    /// The connection.
    pub connection: Option<&'a ConnectionInfo<'a>>,
    /// The peer's certificate.
    pub peer: PeerTls<'a>,
    /// The response's headers.
    pub response: Option<&'a HeaderMap>,
    /// The upstream cluster.
    pub cluster: &'a str,
    /// The route's name.
    pub route: &'a str,
    /// The upstream host.
    pub upstream: Option<SocketAddr>,
    /// Response code details.
    pub details: &'a str,
    /// The protocol: `HTTP/1.1`, `HTTP/2`.
    pub protocol: &'a str,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the response's body.
    pub response_bytes: u64,
}

impl LogFilter {
    /// Whether a finished request is to be logged.
    pub fn wants(&self, done: &Finished<'_>) -> bool {
        match self {
            Self::StatusCode(compare) => compare.holds(u64::from(done.status)),
            Self::Duration(compare) => compare.holds(done.duration_ms),
            Self::NotHealthCheck => !done.health_check,
            Self::Traceable => done.traced,
            Self::Runtime(fraction) => fraction.hit(done.random),
            Self::And(all) => all.iter().all(|filter| filter.wants(done)),
            Self::Or(any) => any.iter().any(|filter| filter.wants(done)),
            Self::Header(matcher) => done.request.is_some_and(|request| matcher.matches(request)),
            Self::ResponseFlag(flags) if flags.is_empty() => !done.flags.is_empty(),
            Self::ResponseFlag(flags) => done
                .flags
                .iter()
                .any(|set| flags.iter().any(|flag| &**flag == *set)),
            Self::GrpcStatus { codes, exclude } => {
                done.grpc_status.is_some_and(|code| codes.contains(&code)) != *exclude
            }
            Self::Metadata {
                matcher,
                if_missing,
            } => done.request.map_or(*if_missing, |request| {
                match request
                    .dynamic_metadata
                    .get(&matcher.namespace, &matcher.path)
                {
                    None => *if_missing,
                    Some(_) => matcher.matches(request.dynamic_metadata),
                }
            }),
            Self::Cel(expression) => expression.holds(done),
        }
    }
}
