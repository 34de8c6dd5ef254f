//! Access logs as MeshConfig and Telemetry ask for them.

use crate::filters::Class;
use crate::mesh::{AccessLog, Collector, LogFormat, LogSink, Mesh};
use crate::meta::string;
use crate::proto::{Any, Struct, accesslog, any, core, extensions, inline_string};

use extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
};
use extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
use lateen_api::mesh::{
    EnvoyHttpGrpcV3LogProvider, EnvoyOpenTelemetryLogProvider, EnvoyTcpGrpcV3LogProvider,
};
use lateen_api::value::Value;

/// Istio's default format.
pub(crate) const DEFAULT_TEXT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" ",
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% ",
    "\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% ",
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% ",
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n",
);

/// Istio's default fields of JSON logs.
pub(crate) const DEFAULT_JSON: [(&str, &str); 24] = [
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    (
        "connection_termination_details",
        "%CONNECTION_TERMINATION_DETAILS%",
    ),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    (
        "upstream_service_time",
        "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    ),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
];

/// The logs of requests and connections.
pub(crate) fn logs(mesh: &Mesh, class: Class) -> Vec<accesslog::AccessLog> {
    of_class(mesh, class)
        .iter()
        .map(|log| one(log, log.filter.as_deref().map(cel)))
        .collect()
}

/// A gateway's logs are a client's. Source: Istio, `workloadMode`.
fn of_class(mesh: &Mesh, class: Class) -> &[AccessLog] {
    match class {
        Class::SidecarInbound => &mesh.access_logs.server,
        Class::SidecarOutbound | Class::Gateway => &mesh.access_logs.client,
    }
}

/// What an expression holds for.
fn cel(expression: &str) -> accesslog::AccessLogFilter {
    use extensions::access_loggers::filters::cel::v3::ExpressionFilter;
    let config = ExpressionFilter {
        expression: expression.to_owned(),
        ..Default::default()
    };
    accesslog::AccessLogFilter {
        filter_specifier: Some(
            accesslog::access_log_filter::FilterSpecifier::ExtensionFilter(
                accesslog::ExtensionFilter {
                    name: "envoy.access_loggers.extension_filters.cel".to_owned(),
                    config_type: Some(accesslog::extension_filter::ConfigType::TypedConfig(any(
                        &config,
                    ))),
                },
            ),
        ),
    }
}

/// The log of connections that no filter chain took, which no other log would show.
pub(crate) fn listener_logs(mesh: &Mesh, class: Class) -> Vec<accesslog::AccessLog> {
    if !mesh.listener_log {
        return Vec::new();
    }
    let filter = accesslog::AccessLogFilter {
        filter_specifier: Some(
            accesslog::access_log_filter::FilterSpecifier::ResponseFlagFilter(
                accesslog::ResponseFlagFilter {
                    flags: vec!["NR".to_owned()],
                },
            ),
        ),
    };
    of_class(mesh, class)
        .iter()
        .map(|log| one(log, Some(filter.clone())))
        .collect()
}

fn one(log: &AccessLog, filter: Option<accesslog::AccessLogFilter>) -> accesslog::AccessLog {
    let (name, config) = match &log.sink {
        LogSink::File {
            path,
            format,
            omit_empty,
        } => ("envoy.access_loggers.file", file(path, format, *omit_empty)),
        LogSink::Http(to, settings) => ("envoy.access_loggers.http_grpc", http_grpc(to, settings)),
        LogSink::Tcp(to, settings) => ("envoy.access_loggers.tcp_grpc", tcp_grpc(to, settings)),
        LogSink::OpenTelemetry(to, settings) => (
            "envoy.access_loggers.open_telemetry",
            open_telemetry(to, settings),
        ),
    };
    accesslog::AccessLog {
        name: name.to_owned(),
        filter,
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(config)),
    }
}

fn file(path: &str, log_format: &LogFormat, omit_empty: bool) -> Any {
    use extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
    any(&FileAccessLog {
        path: path.to_owned(),
        access_log_format: Some(file_access_log::AccessLogFormat::LogFormat(
            core::SubstitutionFormatString {
                omit_empty_values: omit_empty,
                ..format(log_format)
            },
        )),
    })
}

/// What Istio's proxies leave for logs of what they know of peers.
const PEERS: [&str; 2] = ["upstream_peer", "downstream_peer"];

/// What logs that services take have in common.
fn common(
    to: &Collector,
    name: &str,
    default: &str,
    state: &[String],
) -> CommonGrpcAccessLogConfig {
    let peers = || PEERS.map(str::to_owned).to_vec();
    CommonGrpcAccessLogConfig {
        log_name: if name.is_empty() { default } else { name }.to_owned(),
        grpc_service: Some(crate::tracing::grpc_service(to)),
        transport_api_version: core::ApiVersion::V3 as i32,
        filter_state_objects_to_log: if state.is_empty() {
            peers()
        } else {
            state.to_vec()
        },
        ..Default::default()
    }
}

fn http_grpc(to: &Collector, settings: &EnvoyHttpGrpcV3LogProvider) -> Any {
    let state = &settings.filter_state_objects_to_log;
    any(&HttpGrpcAccessLogConfig {
        common_config: Some(common(
            to,
            &settings.log_name,
            "http_envoy_accesslog",
            state,
        )),
        additional_request_headers_to_log: settings.additional_request_headers_to_log.clone(),
        additional_response_headers_to_log: settings.additional_response_headers_to_log.clone(),
        additional_response_trailers_to_log: settings.additional_response_trailers_to_log.clone(),
    })
}

fn tcp_grpc(to: &Collector, settings: &EnvoyTcpGrpcV3LogProvider) -> Any {
    let state = &settings.filter_state_objects_to_log;
    any(&TcpGrpcAccessLogConfig {
        common_config: Some(common(to, &settings.log_name, "tcp_envoy_accesslog", state)),
    })
}

#[expect(
    deprecated,
    reason = "Istio writes `common_config`, which proxies of every version read"
)]
fn open_telemetry(to: &Collector, settings: &EnvoyOpenTelemetryLogProvider) -> Any {
    use lateen_envoy::pb::opentelemetry::proto::common::v1 as otlp;
    let value = |text: &str| otlp::AnyValue {
        value: Some(otlp::any_value::Value::StringValue(text.to_owned())),
    };
    let format = settings.log_format.clone().unwrap_or_default();
    let body = match format.text.as_str() {
        "" => DEFAULT_TEXT,
        text => text,
    };
    let labels = match &format.labels {
        Some(Value::Object(labels)) => labels.clone(),
        _ => Default::default(),
    };
    let labels = labels.iter().filter_map(|(key, label)| match label {
        Value::String(text) => Some(otlp::KeyValue {
            key: key.clone(),
            value: Some(value(text)),
            ..Default::default()
        }),
        _ => None,
    });
    let values: Vec<otlp::KeyValue> = labels.collect();
    any(&OpenTelemetryAccessLogConfig {
        common_config: Some(common(to, &settings.log_name, "otel_envoy_accesslog", &[])),
        disable_builtin_labels: true,
        body: Some(value(body)),
        attributes: (!values.is_empty()).then_some(otlp::KeyValueList { values }),
        ..Default::default()
    })
}

fn format(format: &LogFormat) -> core::SubstitutionFormatString {
    use core::substitution_format_string::Format;
    let (format, text) = match format {
        LogFormat::Text(text) => (Format::TextFormatSource(inline_string(text)), text.clone()),
        LogFormat::Json(fields) => {
            let text: String = fields.values().map(String::as_str).collect();
            let fields = fields
                .iter()
                .map(|(key, value)| (key.clone(), string(value)))
                .collect();
            (Format::JsonFormat(Struct { fields }), text)
        }
    };
    core::SubstitutionFormatString {
        formatters: formatters(&text),
        format: Some(format),
        ..Default::default()
    }
}

/// The extensions some operators need.
fn formatters(text: &str) -> Vec<core::TypedExtensionConfig> {
    use extensions::formatter;
    let mut out = Vec::new();
    if text.contains("%REQ_WITHOUT_QUERY") {
        out.push(crate::proto::extension(
            "envoy.formatter.req_without_query",
            &formatter::req_without_query::v3::ReqWithoutQuery {},
        ));
    }
    if text.contains("%METADATA") {
        out.push(crate::proto::extension(
            "envoy.formatter.metadata",
            &formatter::metadata::v3::Metadata {},
        ));
    }
    if text.contains("%CEL") {
        out.push(crate::proto::extension(
            "envoy.formatter.cel",
            &formatter::cel::v3::Cel::default(),
        ));
    }
    out
}
