//! Access logs that services take: Envoy's gRPC access log service, for requests and for connections, and OpenTelemetry's.
//!
//! An entry is made when a request has ended; entries go out in batches ([`crate::export`]). A batch to Envoy's service is a stream of one
//! message, which says who sends it each time.
//! Source: Envoy's `envoy.access_loggers.http_grpc`, `tcp_grpc`, `open_telemetry`.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lateen_envoy::pb::envoy::config::core::v3 as core;
use lateen_envoy::pb::envoy::data::accesslog::v3 as entry;
use lateen_envoy::pb::envoy::service::accesslog::v3 as service;
use lateen_envoy::pb::google::protobuf as google;
use lateen_telemetry::access_log::{
    Address, AddressField, Format, HeaderKey, HeaderSource, LogContext, NumberField, TextField,
    TimePoint,
};
use lateen_telemetry::metrics::{Registry, Shard};
use lateen_telemetry::trace::otlp::{self, KeyValue, LogRecord};
use lateen_telemetry::{ResponseFlag, ResponseFlags};
use lateen_traffic::access_log::{GrpcLog, GrpcLogKind};
use lateen_traffic::tracing::Collector;
use prost::Message as _;

use entry::AccessLogType;

use crate::export::{self, Message, Queue, Report};
use crate::worker::Worker;

const METHOD: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";

/// A log that a service takes, with its formats compiled.
#[derive(Debug)]
pub(crate) struct ServiceLog {
    log: Arc<GrpcLog>,
    /// OpenTelemetry's body and attributes.
    body: Option<Format>,
    attributes: Vec<(Arc<str>, Format)>,
}

/// What is told of a request or a connection.
#[derive(Debug)]
pub(crate) enum Entry {
    Http(Box<entry::HttpAccessLogEntry>),
    Tcp(Box<entry::TcpAccessLogEntry>),
    Otel(LogRecord),
}

/// What one worker sends to one such service.
#[derive(Debug)]
pub(crate) struct Exporter {
    pub(crate) log: Arc<GrpcLog>,
    queue: Queue<Entry>,
}

impl Exporter {
    /// What sends a log's entries.
    pub(crate) fn of(log: &Arc<GrpcLog>, counted: (&Registry, Shard)) -> Rc<Self> {
        let prefix = match log.kind {
            GrpcLogKind::OpenTelemetry { .. } => "access_logs.open_telemetry_access_log",
            GrpcLogKind::Http { .. } | GrpcLogKind::Tcp => "access_logs.grpc_access_log",
        };
        let names = [
            "logs_sent",
            "logs_dropped",
            "reports_success",
            "reports_dropped",
        ];
        Rc::new(Self {
            log: Arc::clone(log),
            queue: Queue::new(counted, prefix, names),
        })
    }
}

impl Report for Exporter {
    type Item = Entry;

    fn queue(&self) -> &Queue<Entry> {
        &self.queue
    }

    fn message(&self, worker: &Worker, batch: Vec<Entry>) -> Message<'_> {
        let (method, body) = match self.log.kind {
            GrpcLogKind::OpenTelemetry { builtin_labels, .. } => {
                let records = batch.into_iter().filter_map(|entry| match entry {
                    Entry::Otel(record) => Some(record),
                    Entry::Http(_) | Entry::Tcp(_) => None,
                });
                let resource = if builtin_labels {
                    self.labels(&worker.shared.config.node)
                } else {
                    Vec::new()
                };
                (otlp::LOGS, otlp::logs(records.collect(), &resource))
            }
            GrpcLogKind::Http { .. } | GrpcLogKind::Tcp => {
                let message = self.stream(&worker.shared.config.node, batch);
                (METHOD, message.encode_to_vec())
            }
        };
        match &self.log.to {
            Collector::Grpc(to) => Message {
                cluster: &to.cluster,
                head: export::grpc(to, method),
                body: export::framed(&body),
                timeout: to.timeout,
            },
            Collector::Http(to) => export::over_http(to, "application/x-protobuf", body),
        }
    }
}

impl Exporter {
    /// Whose log it is.
    fn labels(&self, node: &core::Node) -> Vec<KeyValue> {
        let zone = node.locality.as_ref().map(|locality| &*locality.zone);
        vec![
            otlp::attribute("log_name", &self.log.name),
            otlp::attribute("zone_name", zone.unwrap_or_default()),
            otlp::attribute("cluster_name", &node.cluster),
            otlp::attribute("node_name", &node.id),
        ]
    }

    fn stream(&self, node: &core::Node, batch: Vec<Entry>) -> service::StreamAccessLogsMessage {
        use service::stream_access_logs_message::{
            HttpAccessLogEntries, Identifier, LogEntries, TcpAccessLogEntries,
        };
        let (mut http, mut tcp) = (Vec::new(), Vec::new());
        for entry in batch {
            match entry {
                Entry::Http(entry) => http.push(*entry),
                Entry::Tcp(entry) => tcp.push(*entry),
                Entry::Otel(_) => {}
            }
        }
        service::StreamAccessLogsMessage {
            identifier: Some(Identifier {
                node: Some(node.clone()),
                log_name: self.log.name.to_string(),
            }),
            log_entries: Some(if self.log.kind == GrpcLogKind::Tcp {
                LogEntries::TcpLogs(TcpAccessLogEntries { log_entry: tcp })
            } else {
                LogEntries::HttpLogs(HttpAccessLogEntries { log_entry: http })
            }),
        }
    }
}

impl ServiceLog {
    /// Compiles a log; `format` compiles its formats.
    ///
    /// # Errors
    /// A format is none.
    pub(crate) fn compile(
        log: &Arc<GrpcLog>,
        format: impl Fn(&Arc<str>) -> Result<Format, String>,
    ) -> Result<Self, String> {
        let (mut body, mut attributes) = (None, Vec::new());
        if let GrpcLogKind::OpenTelemetry {
            body: text,
            attributes: texts,
            ..
        } = &log.kind
        {
            body = text.as_ref().map(&format).transpose()?;
            for (key, text) in texts {
                attributes.push((Arc::clone(key), format(text)?));
            }
        }
        Ok(Self {
            log: Arc::clone(log),
            body,
            attributes,
        })
    }

    /// Tells of a request or connection that has ended.
    pub(crate) fn write<C: LogContext + ?Sized>(&self, worker: &Rc<Worker>, context: &C) {
        let entry = match &self.log.kind {
            GrpcLogKind::Http { .. } => Entry::Http(Box::new(http_entry(&self.log, context))),
            GrpcLogKind::Tcp => Entry::Tcp(Box::new(tcp_entry(context))),
            GrpcLogKind::OpenTelemetry { .. } => Entry::Otel(self.record(context)),
        };
        export::push(&worker.log_exporter(&self.log), worker, entry);
    }

    fn record<C: LogContext + ?Sized>(&self, context: &C) -> LogRecord {
        let text = |format: &Format| {
            let mut out = Vec::new();
            format.write(context, &mut out);
            String::from_utf8_lossy(&out).into_owned()
        };
        let attributes = self.attributes.iter();
        let attributes = attributes.map(|(key, format)| otlp::attribute(key, &text(format)));
        LogRecord::new(
            context.start_time(),
            self.body.as_ref().map(text),
            attributes.collect(),
        )
    }
}

fn tcp_entry<C: LogContext + ?Sized>(context: &C) -> entry::TcpAccessLogEntry {
    let number = |field| context.number(field).unwrap_or_default();
    entry::TcpAccessLogEntry {
        common_properties: Some(common(context, AccessLogType::TcpConnectionEnd)),
        connection_properties: Some(entry::ConnectionProperties {
            received_bytes: number(NumberField::BytesReceived),
            sent_bytes: number(NumberField::BytesSent),
        }),
    }
}

fn http_entry<C: LogContext + ?Sized>(log: &GrpcLog, context: &C) -> entry::HttpAccessLogEntry {
    use entry::http_access_log_entry::HttpVersion;
    let version = match context.text(TextField::Protocol) {
        Some("HTTP/1.0") => HttpVersion::Http10,
        Some("HTTP/1.1") => HttpVersion::Http11,
        Some("HTTP/2") => HttpVersion::Http2,
        _ => HttpVersion::ProtocolUnspecified,
    };
    entry::HttpAccessLogEntry {
        common_properties: Some(common(context, AccessLogType::DownstreamEnd)),
        protocol_version: version as i32,
        request: Some(request(log, context)),
        response: Some(response(log, context)),
    }
}

fn request<C: LogContext + ?Sized>(log: &GrpcLog, context: &C) -> entry::HttpRequestProperties {
    let header = |key: HeaderKey| lossy(context.header(HeaderSource::Request, &key));
    let named = |name: &'static str| header(HeaderKey::Name(http::HeaderName::from_static(name)));
    let number = |field| context.number(field).unwrap_or_default();
    let method = header(HeaderKey::Method);
    let more = match &log.kind {
        GrpcLogKind::Http { request, .. } => chosen(request, HeaderSource::Request, context),
        GrpcLogKind::Tcp | GrpcLogKind::OpenTelemetry { .. } => HashMap::new(),
    };
    entry::HttpRequestProperties {
        request_method: core::RequestMethod::from_str_name(&method)
            .unwrap_or(core::RequestMethod::MethodUnspecified) as i32,
        scheme: header(HeaderKey::Scheme),
        authority: header(HeaderKey::Authority),
        path: header(HeaderKey::Path),
        user_agent: named("user-agent"),
        referer: named("referer"),
        forwarded_for: named("x-forwarded-for"),
        request_id: named("x-request-id"),
        original_path: named("x-envoy-original-path"),
        request_headers_bytes: number(NumberField::RequestHeadersBytes),
        request_body_bytes: number(NumberField::BytesReceived),
        request_headers: more,
        ..Default::default()
    }
}

fn response<C: LogContext + ?Sized>(log: &GrpcLog, context: &C) -> entry::HttpResponseProperties {
    let number = |field| context.number(field).unwrap_or_default();
    let code = number(NumberField::ResponseCode);
    let (headers, trailers) = match &log.kind {
        GrpcLogKind::Http {
            response, trailers, ..
        } => (
            chosen(response, HeaderSource::Response, context),
            chosen(trailers, HeaderSource::ResponseTrailer, context),
        ),
        GrpcLogKind::Tcp | GrpcLogKind::OpenTelemetry { .. } => Default::default(),
    };
    entry::HttpResponseProperties {
        response_code: u32::try_from(code)
            .ok()
            .filter(|code| *code > 0)
            .map(|value| google::UInt32Value { value }),
        response_headers_bytes: number(NumberField::ResponseHeadersBytes),
        response_body_bytes: number(NumberField::BytesSent),
        response_code_details: text(context, TextField::ResponseCodeDetails),
        response_headers: headers,
        response_trailers: trailers,
        ..Default::default()
    }
}

/// What every entry says.
fn common<C: LogContext + ?Sized>(context: &C, when: AccessLogType) -> entry::AccessLogCommon {
    let at = |field| context.address(field).and_then(address);
    let after = |point| context.time_point(point).map(duration);
    let attempts = context.number(NumberField::UpstreamRequestAttemptCount);
    entry::AccessLogCommon {
        downstream_remote_address: at(AddressField::DownstreamRemote),
        downstream_local_address: at(AddressField::DownstreamLocal),
        downstream_direct_remote_address: at(AddressField::DownstreamDirectRemote),
        upstream_remote_address: at(AddressField::UpstreamHost),
        upstream_local_address: at(AddressField::UpstreamLocal),
        start_time: timestamp(context.start_time()),
        time_to_last_rx_byte: after(TimePoint::DownstreamRxEnd),
        time_to_first_upstream_rx_byte: after(TimePoint::UpstreamRxBegin),
        time_to_first_downstream_tx_byte: after(TimePoint::DownstreamTxBegin),
        time_to_last_downstream_tx_byte: after(TimePoint::DownstreamTxEnd),
        duration: after(TimePoint::End),
        upstream_cluster: text(context, TextField::UpstreamCluster),
        response_flags: flags(context.response_flags()),
        upstream_transport_failure_reason: text(context, TextField::UpstreamTransportFailureReason),
        route_name: text(context, TextField::RouteName),
        upstream_request_attempt_count: attempts
            .and_then(|attempts| u32::try_from(attempts).ok())
            .unwrap_or_default(),
        connection_termination_details: text(context, TextField::ConnectionTerminationDetails),
        stream_id: text(context, TextField::StreamId),
        access_log_type: when as i32,
        ..Default::default()
    }
}

/// Flags, each as the message names it; none if there is none.
fn flags(set: ResponseFlags) -> Option<entry::ResponseFlags> {
    let mut out = entry::ResponseFlags::default();
    for flag in set.iter() {
        match flag.short() {
            "LH" => out.failed_local_healthcheck = true,
            "UH" => out.no_healthy_upstream = true,
            "UT" => out.upstream_request_timeout = true,
            "LR" => out.local_reset = true,
            "UR" => out.upstream_remote_reset = true,
            "UF" => out.upstream_connection_failure = true,
            "UC" => out.upstream_connection_termination = true,
            "UO" => out.upstream_overflow = true,
            "NR" => out.no_route_found = true,
            "DI" => out.delay_injected = true,
            "FI" => out.fault_injected = true,
            "RL" => out.rate_limited = true,
            "UAEX" => {
                use entry::response_flags::{Unauthorized, unauthorized::Reason};
                out.unauthorized_details = Some(Unauthorized {
                    reason: Reason::ExternalService as i32,
                });
            }
            "RLSE" => out.rate_limit_service_error = true,
            "DC" => out.downstream_connection_termination = true,
            "URX" => out.upstream_retry_limit_exceeded = true,
            "SI" => out.stream_idle_timeout = true,
            "IH" => out.invalid_envoy_request_headers = true,
            "DPE" => out.downstream_protocol_error = true,
            "UMSDR" => out.upstream_max_stream_duration_reached = true,
            "RFCF" => out.response_from_cache_filter = true,
            "NFCF" => out.no_filter_config_found = true,
            "DT" => out.duration_timeout = true,
            "UPE" => out.upstream_protocol_error = true,
            "NC" => out.no_cluster_found = true,
            "OM" => out.overload_manager = true,
            "DF" => out.dns_resolution_failure = true,
            "DR" => out.downstream_remote_reset = true,
            // The message has no place for it.
            _ => {}
        }
    }
    set.iter().next().map(|_: ResponseFlag| out)
}

fn text<C: LogContext + ?Sized>(context: &C, field: TextField) -> String {
    context.text(field).unwrap_or_default().to_owned()
}

/// The headers that are wanted, by their names in lower case.
fn chosen<C: LogContext + ?Sized>(
    wanted: &[http::HeaderName],
    source: HeaderSource,
    context: &C,
) -> HashMap<String, String> {
    let value = |name: &http::HeaderName| {
        let value = context.header(source, &HeaderKey::Name(name.clone()))?;
        Some((name.as_str().to_owned(), lossy(Some(value))))
    };
    wanted.iter().filter_map(value).collect()
}

fn lossy(value: Option<&[u8]>) -> String {
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

fn address(from: Address<'_>) -> Option<core::Address> {
    match from {
        Address::Ip(socket) => Some(lateen_envoy::socket_address(socket.ip(), socket.port())),
        Address::Other(path) => Some(core::Address {
            address: Some(core::address::Address::Pipe(core::Pipe {
                path: path.to_owned(),
                ..Default::default()
            })),
        }),
    }
}

fn timestamp(time: SystemTime) -> Option<google::Timestamp> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    Some(google::Timestamp {
        seconds: i64::try_from(since.as_secs()).ok()?,
        nanos: i32::try_from(since.subsec_nanos()).ok()?,
    })
}

fn duration(from: Duration) -> google::Duration {
    google::Duration {
        seconds: i64::try_from(from.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(from.subsec_nanos()).unwrap_or(0),
    }
}
