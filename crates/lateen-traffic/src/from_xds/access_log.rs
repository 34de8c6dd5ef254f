//! Access logs.

use std::sync::Arc;

use lateen_envoy::pb::envoy::config::accesslog::v3 as als;
use lateen_envoy::pb::envoy::config::core::v3 as core;
use lateen_envoy::pb::envoy::extensions::access_loggers::{
    file::v3 as file, filters::cel::v3 as cel, stream::v3 as stream,
};

use super::XdsError;
use super::basic::{flag, fraction, object, texts};
use super::error::Within as _;
use super::{extension, headers, matchers};
use crate::access_log::{AccessLog, Compare, CompareOp, LogFilter, LogFormat, LogSink};
use crate::cel::Expression;

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
    let filter = log
        .filter
        .as_ref()
        .map(|filter| self::filter(filter).within("filter"))
        .transpose()?;
    Ok(AccessLog {
        name: log.name.as_str().into(),
        sink,
        format,
        filter,
    })
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
