//! Access logs.

use std::sync::Arc;

use http::HeaderName;
use lateen_envoy::pb::envoy::config::accesslog::v3 as als;
use lateen_envoy::pb::envoy::config::core::v3 as core;
use lateen_envoy::pb::envoy::extensions::access_loggers::{
    file::v3 as file, filters::cel::v3 as cel, grpc::v3 as grpc, open_telemetry::v3 as otel,
    stream::v3 as stream,
};

use super::XdsError;
use super::basic::{flag, fraction, object, texts};
use super::error::Within as _;
use super::ext_authz::grpc_service;
use super::tracing::http_collector;
use super::{extension, headers, matchers};
use crate::access_log::{
    AccessLog, Compare, CompareOp, GrpcLog, GrpcLogKind, LogFilter, LogFormat, LogSink,
};
use crate::cel::Expression;
use crate::tracing::Collector;

/// Filters nested in one filter, at most.
const MAX_DEPTH: usize = 32;

/// Access logs of a field.
pub(super) fn compile_all(
    logs: &[als::AccessLog],
    field: &str,
) -> Result<Vec<AccessLog>, XdsError> {
    logs.iter()
        .enumerate()
        .map(|(index, log)| compile(log).at(field, index))
        .collect()
}

fn compile(log: &als::AccessLog) -> Result<AccessLog, XdsError> {
    let (sink, format) = sink(log).within("typed_config")?;
    let omit_empty = omits_empty(log);
    let filter = log
        .filter
        .as_ref()
        .map(|filter| self::filter(filter).within("filter"))
        .transpose()?;
    Ok(AccessLog {
        name: log.name.as_str().into(),
        sink,
        format,
        omit_empty,
        filter,
    })
}

/// Whether nothing stands for what is not known. Only files say so.
fn omits_empty(log: &als::AccessLog) -> bool {
    use file::file_access_log::AccessLogFormat as Form;
    let Some(als::access_log::ConfigType::TypedConfig(any)) = log.config_type.as_ref() else {
        return false;
    };
    let log = extension::message::<file::FileAccessLog>(any);
    let format = log.ok().and_then(|log| log.access_log_format);
    matches!(format, Some(Form::LogFormat(format)) if format.omit_empty_values)
}

fn sink(log: &als::AccessLog) -> Result<(LogSink, LogFormat), XdsError> {
    let Some(als::access_log::ConfigType::TypedConfig(any)) = log.config_type.as_ref() else {
        return Ok((
            LogSink::Unsupported(log.name.as_str().into()),
            LogFormat::Default,
        ));
    };
    let optional = |format: Option<&core::SubstitutionFormatString>| {
        format.map_or(Ok(LogFormat::Default), headers::log_format)
    };
    match extension::type_name(any)?.as_str() {
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => {
            file_log(&extension::message(any)?)
        }
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog" => {
            use stream::stdout_access_log::AccessLogFormat::LogFormat as Form;
            let log: stream::StdoutAccessLog = extension::message(any)?;
            let format = log.access_log_format.as_ref().map(|Form(format)| format);
            Ok((LogSink::Stdout, optional(format)?))
        }
        "envoy.extensions.access_loggers.stream.v3.StderrAccessLog" => {
            use stream::stderr_access_log::AccessLogFormat::LogFormat as Form;
            let log: stream::StderrAccessLog = extension::message(any)?;
            let format = log.access_log_format.as_ref().map(|Form(format)| format);
            Ok((LogSink::Stderr, optional(format)?))
        }
        "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig" => {
            let log: grpc::HttpGrpcAccessLogConfig = extension::message(any)?;
            let kind = GrpcLogKind::Http {
                request: names(&log.additional_request_headers_to_log),
                response: names(&log.additional_response_headers_to_log),
                trailers: names(&log.additional_response_trailers_to_log),
            };
            Ok((
                service(log.common_config.as_ref(), kind)?,
                LogFormat::Default,
            ))
        }
        "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig" => {
            let log: grpc::TcpGrpcAccessLogConfig = extension::message(any)?;
            let sink = service(log.common_config.as_ref(), GrpcLogKind::Tcp)?;
            Ok((sink, LogFormat::Default))
        }
        "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig" => Ok((
            open_telemetry(&extension::message(any)?)?,
            LogFormat::Default,
        )),
        // A log that is not written is no reason to take a listener down.
        other => Ok((LogSink::Unsupported(other.into()), LogFormat::Default)),
    }
}

#[expect(
    deprecated,
    reason = "older control planes still use the fields before `log_format`"
)]
fn file_log(log: &file::FileAccessLog) -> Result<(LogSink, LogFormat), XdsError> {
    use file::file_access_log::AccessLogFormat as Form;
    let sink = match log.path.as_str() {
        "/dev/stdout" => LogSink::Stdout,
        "/dev/stderr" => LogSink::Stderr,
        path => LogSink::File(path.into()),
    };
    let format = match log.access_log_format.as_ref() {
        None => LogFormat::Default,
        Some(Form::Format(text)) => LogFormat::Text(text.as_str().into()),
        Some(Form::JsonFormat(fields) | Form::TypedJsonFormat(fields)) => {
            LogFormat::Json(object(fields))
        }
        Some(Form::LogFormat(format)) => headers::log_format(format).within("log_format")?,
    };
    Ok((sink, format))
}

/// Names of headers; what is none names nothing.
fn names(from: &[String]) -> Vec<HeaderName> {
    let names = from.iter();
    names
        .filter_map(|name| HeaderName::try_from(name.as_str()).ok())
        .collect()
}

fn service(
    common: Option<&grpc::CommonGrpcAccessLogConfig>,
    kind: GrpcLogKind,
) -> Result<LogSink, XdsError> {
    let missing = || XdsError::new("is missing").within("common_config");
    let common = common.ok_or_else(missing)?;
    let service = common.grpc_service.as_ref().ok_or_else(missing)?;
    Ok(LogSink::Service(Arc::new(GrpcLog {
        kind,
        name: common.log_name.as_str().into(),
        to: Collector::Grpc(grpc_service(service).within("common_config.grpc_service")?),
    })))
}

/// OpenTelemetry's log. Values that are no texts are left out.
fn open_telemetry(from: &otel::OpenTelemetryAccessLogConfig) -> Result<LogSink, XdsError> {
    use lateen_envoy::pb::opentelemetry::proto::common::v1 as otlp;
    let text = |value: &otlp::AnyValue| match value.value.as_ref()? {
        otlp::any_value::Value::StringValue(text) => Some(Arc::<str>::from(text.as_str())),
        _ => None,
    };
    let attributes = from.attributes.iter().flat_map(|list| &list.values);
    let attributes = attributes.filter_map(|pair| {
        let value = text(pair.value.as_ref()?)?;
        Some((Arc::from(pair.key.as_str()), value))
    });
    let kind = GrpcLogKind::OpenTelemetry {
        body: from.body.as_ref().and_then(text),
        attributes: attributes.collect(),
        builtin_labels: !from.disable_builtin_labels,
    };
    #[expect(deprecated, reason = "Istio writes it, and Envoy reads it")]
    let common = from.common_config.as_ref();
    let to = match (&from.grpc_service, &from.http_service, common) {
        (Some(grpc), ..) => Collector::Grpc(grpc_service(grpc).within("grpc_service")?),
        (None, Some(http), _) => Collector::Http(http_collector(http).within("http_service")?),
        (None, None, Some(common)) => return service(Some(common), kind),
        (None, None, None) => {
            return Err(XdsError::new("nobody gets the entries: no service"));
        }
    };
    Ok(LogSink::Service(Arc::new(GrpcLog {
        kind,
        name: from.log_name.as_str().into(),
        to,
    })))
}

/// An access log filter.
pub(super) fn filter(filter: &als::AccessLogFilter) -> Result<LogFilter, XdsError> {
    nested(filter, MAX_DEPTH)
}

fn nested(filter: &als::AccessLogFilter, depth: usize) -> Result<LogFilter, XdsError> {
    use als::access_log_filter::FilterSpecifier as Specifier;
    if depth == 0 {
        return Err(XdsError::new("the filter is nested too deeply"));
    }
    let all = |filters: &[als::AccessLogFilter]| {
        let filters = filters
            .iter()
            .enumerate()
            .map(|(index, filter)| nested(filter, depth - 1).at("filters", index));
        filters.collect::<Result<Vec<_>, _>>()
    };
    let missing = || XdsError::new("the filter says nothing");
    Ok(
        match filter.filter_specifier.as_ref().ok_or_else(missing)? {
            Specifier::StatusCodeFilter(filter) => {
                LogFilter::StatusCode(compare(filter.comparison.as_ref())?)
            }
            Specifier::DurationFilter(filter) => {
                LogFilter::Duration(compare(filter.comparison.as_ref())?)
            }
            Specifier::NotHealthCheckFilter(_) => LogFilter::NotHealthCheck,
            Specifier::TraceableFilter(_) => LogFilter::Traceable,
            Specifier::RuntimeFilter(filter) => LogFilter::Runtime(fraction(
                filter.percent_sampled.as_ref().ok_or_else(missing)?,
            )?),
            Specifier::AndFilter(and) => LogFilter::And(all(&and.filters).within("and_filter")?),
            Specifier::OrFilter(or) => LogFilter::Or(all(&or.filters).within("or_filter")?),
            Specifier::HeaderFilter(filter) => LogFilter::Header(
                matchers::header(filter.header.as_ref().ok_or_else(missing)?)
                    .within("header_filter")?,
            ),
            Specifier::ResponseFlagFilter(filter) => LogFilter::ResponseFlag(texts(&filter.flags)),
            Specifier::GrpcStatusFilter(filter) => LogFilter::GrpcStatus {
                codes: filter
                    .statuses
                    .iter()
                    .filter_map(|code| u32::try_from(*code).ok())
                    .collect(),
                exclude: filter.exclude,
            },
            Specifier::MetadataFilter(filter) => LogFilter::Metadata {
                matcher: matchers::metadata(filter.matcher.as_ref().ok_or_else(missing)?)
                    .within("metadata_filter")?,
                if_missing: flag(filter.match_if_key_not_found.as_ref(), true),
            },
            Specifier::ExtensionFilter(filter) => {
                extension_filter(filter).within("extension_filter")?
            }
            Specifier::LogTypeFilter(_) => {
                return Err(XdsError::new("log_type_filter is not supported"));
            }
        },
    )
}

fn extension_filter(filter: &als::ExtensionFilter) -> Result<LogFilter, XdsError> {
    let Some(als::extension_filter::ConfigType::TypedConfig(any)) = filter.config_type.as_ref()
    else {
        return Err(XdsError::new("the configuration is missing"));
    };
    match extension::type_name(any)?.as_str() {
        "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter" => {
            let filter: cel::ExpressionFilter = extension::message(any)?;
            let expression = Expression::parse(&filter.expression);
            expression
                .map(|expression| LogFilter::Cel(Arc::new(expression)))
                .map_err(|error| XdsError::from_error(&error))
                .within("expression")
        }
        other => Err(XdsError::new(format!(
            "the access log filter {other} is not supported"
        ))),
    }
}

fn compare(comparison: Option<&als::ComparisonFilter>) -> Result<Compare, XdsError> {
    use als::comparison_filter::Op;
    let comparison = comparison.ok_or_else(|| XdsError::new("the comparison is missing"))?;
    let op = match comparison.op() {
        Op::Eq => CompareOp::Eq,
        Op::Ge => CompareOp::Ge,
        Op::Le => CompareOp::Le,
        Op::Ne => CompareOp::Ne,
    };
    Ok(Compare {
        op,
        value: comparison
            .value
            .as_ref()
            .map_or(0, |value| value.default_value),
    })
}
