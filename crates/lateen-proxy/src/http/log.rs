//! The access log of HTTP requests: formats compiled once, lines written into the worker's buffer when a request has ended.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::Version;
use lateen_telemetry::ResponseFlags;
use lateen_telemetry::access_log::{
    Address, AddressField, Attempted, Content, ENVOY_TEXT_FORMAT, Environment,
    Expression as Compiled, FilterStateForm, Format, HeaderKey, HeaderSource, JsonFormat,
    LogContext, LogValue, LogWriter, MetadataSource, NumberField, Side, Sink, SinkOptions,
    TextField, TextFormat, TimePoint, ValueForm,
};
use lateen_traffic::access_log::{Finished, LogFilter, LogFormat, LogSink, More};
use lateen_traffic::cel::Expression;
use lateen_traffic::request::FilterState;
use lateen_traffic::value::{Metadata, Value};
use lateen_traffic::{ConnectionInfo, RequestView};

use super::file_content::FileContent;
use super::record::{Heads, Record};
use crate::access_log_service::ServiceLog;
use crate::net::HostAddress;
use crate::worker::Worker;

/// The files that are logged to, each opened once for the whole process.
#[derive(Debug, Default)]
pub(crate) struct LogSinks(Mutex<BTreeMap<PathBuf, Arc<Sink>>>);

impl LogSinks {
    /// A worker's buffer for a file; `None` if it cannot be opened, which is logged once per worker.
    pub(crate) fn writer(&self, path: &Path) -> Option<LogWriter> {
        let mut sinks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sink) = sinks.get(path) {
            return Some(sink.writer());
        }
        match Sink::open(path, SinkOptions::default()) {
            Ok(sink) => {
                let writer = sink.writer();
                sinks.insert(path.to_owned(), Arc::new(sink));
                Some(writer)
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot open the access log");
                None
            }
        }
    }

    /// Waits until what workers handed over is written, `patience` at most for each file. Blocks.
    pub(crate) fn flush(&self, patience: Duration) {
        let sinks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (path, sink) in &*sinks {
            if !sink.flush(patience) {
                tracing::warn!(path = %path.display(), "the last lines of the access log are not written");
            }
        }
    }

    /// Opens every file again, for rotation.
    pub(crate) fn reopen(&self) {
        for sink in self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            sink.reopen();
        }
    }
}

/// One access log, compiled.
#[derive(Debug)]
pub(crate) struct AccessLog {
    target: Target,
    filter: Option<LogFilter>,
}

/// Where an access log goes.
#[derive(Debug)]
enum Target {
    File(PathBuf, Format),
    Service(ServiceLog),
}

impl AccessLog {
    /// Compiles an access log; `None` for sinks this proxy has not, or a format that is none.
    pub(crate) fn compile(log: &lateen_traffic::access_log::AccessLog) -> Option<Self> {
        let file = |path: &str| {
            let format = format(&log.format, log.omit_empty)?;
            Ok(Target::File(PathBuf::from(path), format))
        };
        let target = match &log.sink {
            LogSink::Stdout => file("/dev/stdout"),
            LogSink::Stderr => file("/dev/stderr"),
            LogSink::File(path) => file(path),
            LogSink::Service(service) => {
                let text = |text: &Arc<str>| format(&LogFormat::Text(Arc::clone(text)), false);
                ServiceLog::compile(service, text).map(Target::Service)
            }
            LogSink::Unsupported(kind) => {
                tracing::debug!(%kind, "access logs of this kind are not written");
                return None;
            }
        };
        match target {
            Ok(target) => Some(Self {
                target,
                filter: log.filter.clone(),
            }),
            Err(error) => {
                tracing::warn!(log = %log.name, %error, "access log format cannot be used");
                None
            }
        }
    }

    /// Writes what has ended, whether or not it is wanted.
    pub(crate) fn write<C: LogContext + ?Sized>(&self, worker: &Rc<Worker>, context: &C) {
        match &self.target {
            Target::File(path, format) => {
                worker.write_log(path, |out| format.write(context, out));
            }
            Target::Service(log) => log.write(worker, context),
        }
    }

    /// Whether something finished is to be logged.
    pub(crate) fn wants(&self, done: &Finished<'_>) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.wants(done))
    }
}

/// Compiles a format.
///
/// # Errors
/// It is none, or has an operator this proxy has not.
pub(super) fn format(format: &LogFormat, omit_empty: bool) -> Result<Format, String> {
    let hostname = std::env::var("HOSTNAME").unwrap_or_default();
    let variable = |name: &str| std::env::var(name).ok();
    let environment = Environment {
        hostname: &hostname,
        variable: &variable,
        expression: &expression,
        file: &|path| FileContent::open(path).map(|content| content as Arc<dyn Content>),
    };
    let text = |format: &str| {
        TextFormat::parse(format, omit_empty, &environment)
            .map(Format::Text)
            .map_err(|error| error.to_string())
    };
    match format {
        LogFormat::Default => text(ENVOY_TEXT_FORMAT),
        LogFormat::Text(format) => text(format),
        LogFormat::Json(tree) => JsonFormat::parse(&json(tree), omit_empty, &environment)
            .map(Format::Json)
            .map_err(|error| error.to_string()),
    }
}

fn expression(text: &str) -> Result<Compiled, String> {
    let parsed = Expression::parse(text).map_err(|error| error.to_string())?;
    Ok(Arc::new(parsed))
}

/// The value of an expression that [`expression`] compiled.
pub(crate) fn evaluated(
    expression: &(dyn Any + Send + Sync),
    form: ValueForm,
    done: &Finished<'_>,
) -> Option<serde_json::Value> {
    let expression = expression.downcast_ref::<Expression>()?;
    match form {
        ValueForm::Text => expression.print(done).map(serde_json::Value::String),
        ValueForm::Json => expression.value(done).as_ref().map(json),
    }
}

fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Number(number) => {
            serde_json::Number::from_f64(*number).map_or(serde_json::Value::Null, Into::into)
        }
        Value::String(text) => text.to_string().into(),
        Value::Bool(bool) => (*bool).into(),
        Value::List(list) => list.iter().map(json).collect(),
        Value::Struct(fields) => fields
            .iter()
            .map(|(key, value)| (key.to_string(), json(value)))
            .collect(),
    }
}

/// Writes a finished request to the logs that want it.
pub(crate) fn write(record: &Record, started_at: SystemTime) {
    let line = Line {
        record,
        started_at,
        emitted_at: started_at + record.started.elapsed(),
        local_body: None,
    };
    for log in &record.manager.logs {
        if log
            .filter
            .as_ref()
            .is_none_or(|filter| line.is_wanted_by(filter))
        {
            log.write(&record.connection.worker, &line);
        }
    }
}

/// A request as formats see it.
pub(super) struct Line<'a> {
    record: &'a Record,
    started_at: SystemTime,
    emitted_at: SystemTime,
    local_body: Option<&'a str>,
}

impl<'a> Line<'a> {
    /// A request that the proxy is about to answer itself, with this text.
    pub(super) fn of_reply(record: &'a Record, body: &'a str) -> Self {
        let now = SystemTime::now();
        Self {
            record,
            started_at: record.started_at.unwrap_or(now),
            emitted_at: now,
            local_body: Some(body),
        }
    }

    /// A request that has ended, at this moment.
    pub(super) fn of_record(record: &'a Record, now: SystemTime) -> Self {
        Self {
            record,
            started_at: now - record.started.elapsed(),
            emitted_at: now,
            local_body: None,
        }
    }
}

/// Shows what filters and expressions may look at of a request that has ended.
pub(super) fn finished<T>(record: &Record, look: impl FnOnce(&Finished<'_>) -> T) -> T {
    Line::of_record(record, SystemTime::now()).finished(look)
}

impl Line<'_> {
    /// Whether a filter passes the request as it is known now.
    pub(super) fn is_wanted_by(&self, filter: &LogFilter) -> bool {
        self.finished(|done| filter.wants(done))
    }

    /// What filters and expressions may look at, as it is known now.
    fn finished<T>(&self, look: impl FnOnce(&Finished<'_>) -> T) -> T {
        let record = self.record;
        let flags: Vec<&str> = record
            .flags
            .iter()
            .map(lateen_telemetry::ResponseFlag::short)
            .collect();
        let facts = &record.connection.facts;
        let info = facts.info();
        self.with_view(|view| {
            look(&Finished {
                request: view,
                status: record.status,
                grpc_status: record.grpc_status,
                duration_ms: u64::try_from(record.started.elapsed().as_millis())
                    .unwrap_or(u64::MAX),
                flags: &flags,
                health_check: false,
                traced: record.is_traced(),
                random: rand::random(),
                more: More {
                    connection: Some(&info),
                    peer: record.connection.peer_tls(),
                    response: self.heads().map(|heads| &heads.response),
                    cluster: record.upstream.cluster.as_deref().unwrap_or_default(),
                    route: record.route.as_deref().unwrap_or_default(),
                    upstream: record.upstream.host.as_ref().and_then(HostAddress::ip),
                    details: &record.details,
                    protocol: self.text(TextField::Protocol).unwrap_or_default(),
                    request_bytes: record.request.bytes.get(),
                    response_bytes: record.response_bytes(),
                },
            })
        })
    }

    /// The request as decisions see it, if its head was kept.
    pub(super) fn with_view<T>(&self, look: impl FnOnce(Option<&RequestView<'_>>) -> T) -> T {
        let record = self.record;
        let connection = ConnectionInfo::plain(
            record.connection.facts.remote,
            record.connection.facts.local,
        );
        let peer = record.connection.peer_tls();
        let none = (Metadata::default(), FilterState::default());
        let (metadata, state) = record.noted.as_deref().unwrap_or(&none);
        let view = self.heads().map(|heads| RequestView {
            method: heads.method.as_str(),
            scheme: heads.scheme,
            authority: &heads.authority,
            path: &heads.path,
            protocol: heads.protocol.as_deref(),
            headers: &heads.request,
            client: record.remote,
            connection: &connection,
            peer: &peer,
            dynamic_metadata: metadata,
            filter_state: state,
        });
        look(view.as_ref())
    }

    /// Sizes on the wire: heads and bodies as they were read and written, without what frames them.
    fn size(&self, field: NumberField) -> Option<u64> {
        let record = self.record;
        let (request, response) = (record.head_bytes, record.response_head_bytes());
        let (received, sent) = match field {
            NumberField::WireBytesReceived(_) | NumberField::WireBytesSent(_) => (
                request + record.request.bytes.get(),
                response + record.response_bytes(),
            ),
            NumberField::HeaderBytesReceived(_) | NumberField::HeaderBytesSent(_) => {
                (request, response)
            }
            _ => return None,
        };
        // What a client sends goes to the host, and the other way round.
        match field {
            NumberField::WireBytesReceived(Side::Downstream)
            | NumberField::WireBytesSent(Side::Upstream)
            | NumberField::HeaderBytesReceived(Side::Downstream)
            | NumberField::HeaderBytesSent(Side::Upstream) => Some(received),
            _ => Some(sent),
        }
    }

    fn heads(&self) -> Option<&Heads> {
        self.record.heads.as_deref()
    }
}

impl LogContext for Line<'_> {
    fn evaluate(
        &self,
        expression: &(dyn Any + Send + Sync),
        form: ValueForm,
    ) -> Option<serde_json::Value> {
        self.finished(|done| evaluated(expression, form, done))
    }

    fn start_time(&self) -> SystemTime {
        self.started_at
    }

    fn emit_time(&self) -> SystemTime {
        self.emitted_at
    }

    fn header(&self, source: HeaderSource, key: &HeaderKey) -> Option<&[u8]> {
        let heads = self.heads()?;
        if source == HeaderSource::Request {
            match key {
                HeaderKey::Method => return Some(heads.method.as_str().as_bytes()),
                HeaderKey::Scheme => return Some(heads.scheme.as_bytes()),
                HeaderKey::Authority => return Some(heads.authority.as_bytes()),
                // CONNECT has none.
                HeaderKey::Path if heads.path.is_empty() => return None,
                HeaderKey::Path => return Some(heads.path.as_bytes()),
                HeaderKey::Protocol => return heads.protocol.as_deref().map(str::as_bytes),
                HeaderKey::Status | HeaderKey::Name(_) => {}
            }
        }
        let HeaderKey::Name(name) = key else {
            return None;
        };
        let headers = match source {
            HeaderSource::Request => &heads.request,
            HeaderSource::Response => &heads.response,
            HeaderSource::ResponseTrailer => &heads.trailers,
        };
        headers.get(name).map(http::HeaderValue::as_bytes)
    }

    fn text(&self, field: TextField) -> Option<&str> {
        let record = self.record;
        let facts = &record.connection.facts;
        match field {
            TextField::Protocol => Some(match record.version {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            }),
            TextField::UpstreamProtocol => record.upstream.host.as_ref().map(|_| {
                if record.upstream.h2 {
                    "HTTP/2"
                } else {
                    "HTTP/1.1"
                }
            }),
            TextField::ResponseCodeDetails => Some(&record.details),
            TextField::UpstreamTransportFailureReason => {
                record.upstream.transport_failure.as_deref()
            }
            TextField::UpstreamCluster | TextField::UpstreamClusterRaw => {
                record.upstream.cluster.as_deref()
            }
            TextField::RequestedServerName => facts.server_name.as_deref(),
            TextField::LocalReplyBody => self.local_body,
            TextField::RouteName => record.route.as_deref(),
            TextField::ListenerName => Some(&facts.listener),
            TextField::FilterChainName => Some(&facts.chain),
            TextField::UpstreamHostName => record.upstream.host_name.as_deref(),
            // Envoy gives every request an id: the one that it is traced by, where there is one.
            TextField::StreamId => self.heads().and_then(|heads| {
                heads
                    .request
                    .get(&super::headers::REQUEST_ID)?
                    .to_str()
                    .ok()
            }),
            TextField::TraceId => record.span.as_ref()?.trace_text(),
            TextField::SpanId => record.span.as_ref()?.span_text(),
            TextField::Tls(Side::Downstream, field) => record.connection.tls_text(field),
            TextField::Tls(Side::Upstream, field) => record.upstream.tls_text(field),
            _ => None,
        }
    }

    fn number(&self, field: NumberField) -> Option<u64> {
        let record = self.record;
        match field {
            NumberField::ResponseCode => Some(u64::from(record.status)),
            NumberField::BytesReceived => Some(record.request.bytes.get()),
            NumberField::BytesSent => Some(record.response_bytes()),
            NumberField::UpstreamRequestAttemptCount => Some(u64::from(record.upstream.attempts)),
            NumberField::ConnectionId => Some(record.connection.facts.id),
            NumberField::RequestHeadersBytes => Some(record.head_bytes),
            NumberField::ResponseHeadersBytes => Some(record.response_head_bytes()),
            NumberField::GrpcStatus => record.grpc_status.map(u64::from),
            _ => self.size(field),
        }
    }

    fn address(&self, field: AddressField) -> Option<Address<'_>> {
        let record = self.record;
        let facts = &record.connection.facts;
        if let AddressField::UpstreamHost | AddressField::UpstreamRemote = field {
            return record.upstream.host.as_ref().map(HostAddress::logged);
        }
        let address = match field {
            AddressField::DownstreamLocal => facts.local,
            AddressField::DownstreamDirectLocal => facts.direct_local,
            AddressField::DownstreamRemote => record.remote,
            AddressField::DownstreamDirectRemote => facts.direct_remote,
            AddressField::UpstreamHost | AddressField::UpstreamRemote => return None,
            AddressField::UpstreamLocal => record.upstream.local?,
        };
        Some(Address::Ip(address))
    }

    fn attempted(&self, index: usize) -> Option<Attempted<'_>> {
        let upstream = &self.record.upstream;
        let (host, name) = match upstream.tried.get(index) {
            Some((host, name)) => (host, name),
            None if index == upstream.tried.len() => (upstream.host.as_ref()?, &upstream.host_name),
            None => return None,
        };
        Some(Attempted {
            address: host.logged(),
            name: name.as_deref(),
        })
    }

    fn time_point(&self, point: TimePoint) -> Option<Duration> {
        match point {
            TimePoint::End | TimePoint::DownstreamTxEnd => Some(self.record.started.elapsed()),
            TimePoint::DownstreamRxEnd => self.record.request_end(),
            TimePoint::UpstreamRxBegin | TimePoint::DownstreamTxBegin => {
                self.record.service_time.map(Duration::from_millis)
            }
            _ => None,
        }
    }

    fn response_flags(&self) -> ResponseFlags {
        self.record.flags
    }

    fn peer_cert_validity(&self, side: Side) -> Option<(SystemTime, SystemTime)> {
        let record = self.record;
        match side {
            Side::Downstream => record.connection.peer.as_ref()?.validity,
            Side::Upstream => record.upstream.certificate.as_ref()?.validity,
        }
    }

    /// Texts, numbers and truth values of what filters wrote; lists and structs have no form here.
    fn metadata(
        &self,
        source: MetadataSource,
        namespace: &str,
        path: &[Box<str>],
    ) -> Option<LogValue<'_>> {
        let (metadata, _) = self.record.noted.as_deref()?;
        match metadata.get(namespace, path)? {
            _ if source != MetadataSource::Dynamic => None,
            Value::String(text) => Some(LogValue::Text(text)),
            Value::Number(number) => Some(LogValue::Number(*number)),
            Value::Bool(value) => Some(LogValue::Bool(*value)),
            Value::Null | Value::List(_) | Value::Struct(_) => None,
        }
    }

    fn filter_state(
        &self,
        side: Side,
        key: &str,
        _form: FilterStateForm<'_>,
    ) -> Option<LogValue<'_>> {
        let (_, state) = self.record.noted.as_deref()?;
        let value = state.get(key).filter(|_| side == Side::Downstream)?;
        Some(LogValue::Text(value))
    }
}
