//! HTTP connection managers.

use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::pb::envoy::config::core::v3 as core;
use lateen_envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;

use super::basic::{cidrs, data_source, flag, limit, non_empty, number, timeout};
use super::cluster::{http1_options, http2_options};
use super::error::Within as _;
use super::{XdsError, access_log, extension, headers, http_filter, route, tracing};
use crate::access_log::LogFormat;
use crate::filter::{HttpFilter, HttpFilterKind};
use crate::hcm::{
    BodyFormat, ClientCertDetails, Codec, ForwardClientCert, HttpConnectionManager, HttpTimeouts,
    LocalReply, ReplyMapper, RequestId, RouteSource, ServerHeader, UnderscoreHeaders, Upgrade,
};
use crate::headers::StripPort;
use crate::path::{EscapedSlashes, PathOptions};

// Defaults of Envoy's HTTP connection manager.
const DEFAULT_IDLE: Duration = Duration::from_secs(3600);
const DEFAULT_STREAM_IDLE: Duration = Duration::from_secs(300);
const DEFAULT_DRAIN: Duration = Duration::from_secs(5);
const DEFAULT_DELAYED_CLOSE: Duration = Duration::from_secs(1);
const DEFAULT_HEADERS_KB: u32 = 60;
const DEFAULT_HEADERS_COUNT: u32 = 100;
const DEFAULT_SERVER_NAME: &str = "envoy";

/// Compiles an HTTP connection manager.
pub(super) fn compile(
    from: &hcm::HttpConnectionManager,
) -> Result<HttpConnectionManager, XdsError> {
    refuse_unsupported(from)?;
    let common = from.common_http_protocol_options.unwrap_or_default();
    let scheme = from
        .scheme_header_transformation
        .clone()
        .unwrap_or_default();
    let internal = from.internal_address_config.clone().unwrap_or_default();
    let log_options = from.access_log_options.unwrap_or_default();
    #[expect(
        deprecated,
        reason = "older control planes use the fields before `access_log_options`"
    )]
    let (flush, flush_new) = (
        log_options
            .access_log_flush_interval
            .as_ref()
            .or(from.access_log_flush_interval.as_ref()),
        log_options.flush_access_log_on_new_request || from.flush_access_log_on_new_request,
    );
    Ok(HttpConnectionManager {
        stat_prefix: from.stat_prefix.as_str().into(),
        codec: codec(from.codec_type()),
        routes: routes(from)?,
        filters: filters(from)?,
        access_logs: access_log::compile_all(&from.access_log, "access_log")?,
        access_log_flush_interval: timeout(
            flush,
            None,
            "access_log_options.access_log_flush_interval",
        )?,
        flush_access_log_on_new_request: flush_new,
        timeouts: timeouts(from, &common)?,
        path: path_options(from),
        strip_port: strip_port(from),
        strip_trailing_host_dot: from.strip_trailing_host_dot,
        use_remote_address: flag(from.use_remote_address.as_ref(), false),
        xff_num_trusted_hops: from.xff_num_trusted_hops,
        skip_xff_append: from.skip_xff_append,
        via: non_empty(&from.via),
        forward_client_cert: forward_client_cert(from.forward_client_cert_details()),
        client_cert_details: client_cert_details(from),
        server_name: non_empty(&from.server_name).unwrap_or_else(|| DEFAULT_SERVER_NAME.into()),
        server_header: server_header(from.server_header_transformation()),
        generate_request_id: flag(from.generate_request_id.as_ref(), true),
        preserve_external_request_id: from.preserve_external_request_id,
        always_set_request_id_in_response: from.always_set_request_id_in_response,
        upgrades: upgrades(from)?,
        max_request_headers_bytes: number(from.max_request_headers_kb.as_ref())
            .unwrap_or(DEFAULT_HEADERS_KB)
            .saturating_mul(1024),
        max_headers_count: number(common.max_headers_count.as_ref())
            .unwrap_or(DEFAULT_HEADERS_COUNT),
        max_requests_per_connection: limit(common.max_requests_per_connection.as_ref()),
        underscores: underscores(common.headers_with_underscores_action()),
        http1: http1_options(from.http_protocol_options.as_ref())
            .within("http_protocol_options")?,
        http2: http2_options(from.http2_protocol_options.as_ref())
            .within("http2_protocol_options")?,
        stream_error_on_invalid_message: flag(
            from.stream_error_on_invalid_http_message.as_ref(),
            false,
        ),
        scheme_override: scheme_override(&scheme),
        scheme_match_upstream: scheme.match_upstream,
        append_x_forwarded_port: from.append_x_forwarded_port,
        internal_addresses: cidrs(&internal.cidr_ranges, "internal_address_config.cidr_ranges")?,
        internal_unix_sockets: internal.unix_sockets,
        local_reply: local_reply(from.local_reply_config.as_ref()).within("local_reply_config")?,
        proxy_100_continue: from.proxy_100_continue,
        tracing: from
            .tracing
            .as_ref()
            .map(|from| tracing::compile(from).map(Arc::new))
            .transpose()
            .within("tracing")?,
        request_id: request_id(from.request_id_extension.as_ref()),
    })
}

/// What would change who the client is, or what the path is, is never passed over.
fn refuse_unsupported(from: &hcm::HttpConnectionManager) -> Result<(), XdsError> {
    let unsupported = [
        (
            !from.original_ip_detection_extensions.is_empty(),
            "original_ip_detection_extensions",
        ),
        (
            !from.early_header_mutation_extensions.is_empty(),
            "early_header_mutation_extensions",
        ),
        (
            from.path_normalization_options.is_some(),
            "path_normalization_options",
        ),
        (
            from.forward_client_cert_matcher.is_some(),
            "forward_client_cert_matcher",
        ),
        (
            from.typed_header_validation_config.is_some(),
            "typed_header_validation_config",
        ),
    ];
    match unsupported.into_iter().find(|(set, _)| *set) {
        Some((_, field)) => Err(XdsError::new("is not supported").within(field)),
        None => Ok(()),
    }
}

fn routes(from: &hcm::HttpConnectionManager) -> Result<RouteSource, XdsError> {
    use hcm::http_connection_manager::RouteSpecifier;
    match from.route_specifier.as_ref() {
        Some(RouteSpecifier::Rds(rds)) => {
            Ok(RouteSource::Rds(rds.route_config_name.as_str().into()))
        }
        Some(RouteSpecifier::RouteConfig(config)) => Ok(RouteSource::Inline(Arc::new(
            route::compile(config.clone()).within("route_config")?,
        ))),
        Some(RouteSpecifier::ScopedRoutes(_)) => {
            Err(XdsError::new("is not supported").within("scoped_routes"))
        }
        None => Err(XdsError::new("the routes are missing").within("route_specifier")),
    }
}

fn filters(from: &hcm::HttpConnectionManager) -> Result<Vec<HttpFilter>, XdsError> {
    let filters = http_filter::compile_all(&from.http_filters, "http_filters")?;
    ends_with_router(&filters).within("http_filters")?;
    Ok(filters)
}

fn ends_with_router(filters: &[HttpFilter]) -> Result<(), XdsError> {
    let routers = filters
        .iter()
        .filter(|filter| matches!(filter.kind, HttpFilterKind::Router(_)))
        .count();
    let last = filters
        .last()
        .is_some_and(|filter| matches!(filter.kind, HttpFilterKind::Router(_)));
    if routers == 1 && last {
        Ok(())
    } else {
        Err(XdsError::new(
            "the last filter, and no other, must be the router",
        ))
    }
}

fn codec(from: hcm::http_connection_manager::CodecType) -> Codec {
    use hcm::http_connection_manager::CodecType;
    match from {
        CodecType::Auto => Codec::Auto,
        CodecType::Http1 => Codec::Http1,
        CodecType::Http2 => Codec::Http2,
        CodecType::Http3 => Codec::Http3,
    }
}

fn timeouts(
    from: &hcm::HttpConnectionManager,
    common: &core::HttpProtocolOptions,
) -> Result<HttpTimeouts, XdsError> {
    let field = |name: &str| format!("common_http_protocol_options.{name}");
    let longest = common.max_connection_duration.as_ref();
    let delayed_close = timeout(
        from.delayed_close_timeout.as_ref(),
        Some(DEFAULT_DELAYED_CLOSE),
        "delayed_close_timeout",
    )?;
    Ok(HttpTimeouts {
        idle: timeout(
            common.idle_timeout.as_ref(),
            Some(DEFAULT_IDLE),
            &field("idle_timeout"),
        )?,
        max_connection_duration: timeout(longest, None, &field("max_connection_duration"))?,
        max_stream_duration: timeout(
            common.max_stream_duration.as_ref(),
            None,
            &field("max_stream_duration"),
        )?,
        stream_idle: timeout(
            from.stream_idle_timeout.as_ref(),
            Some(DEFAULT_STREAM_IDLE),
            "stream_idle_timeout",
        )?,
        request: timeout(from.request_timeout.as_ref(), None, "request_timeout")?,
        request_headers: timeout(
            from.request_headers_timeout.as_ref(),
            None,
            "request_headers_timeout",
        )?,
        drain: timeout(
            from.drain_timeout.as_ref(),
            Some(DEFAULT_DRAIN),
            "drain_timeout",
        )?
        .unwrap_or_default(),
        delayed_close: delayed_close.unwrap_or_default(),
    })
}

fn path_options(from: &hcm::HttpConnectionManager) -> PathOptions {
    use hcm::http_connection_manager::PathWithEscapedSlashesAction as Action;
    PathOptions {
        normalize: flag(from.normalize_path.as_ref(), false),
        merge_slashes: from.merge_slashes,
        escaped_slashes: match from.path_with_escaped_slashes_action() {
            Action::ImplementationSpecificDefault | Action::KeepUnchanged => EscapedSlashes::Keep,
            Action::RejectRequest => EscapedSlashes::Reject,
            Action::UnescapeAndRedirect => EscapedSlashes::UnescapeAndRedirect,
            Action::UnescapeAndForward => EscapedSlashes::UnescapeAndForward,
        },
    }
}

fn strip_port(from: &hcm::HttpConnectionManager) -> StripPort {
    use hcm::http_connection_manager::StripPortMode;
    match from.strip_port_mode {
        Some(StripPortMode::StripAnyHostPort(true)) => StripPort::Any,
        _ if from.strip_matching_host_port => StripPort::Matching,
        _ => StripPort::Never,
    }
}

fn forward_client_cert(
    from: hcm::http_connection_manager::ForwardClientCertDetails,
) -> ForwardClientCert {
    use hcm::http_connection_manager::ForwardClientCertDetails as Details;
    match from {
        Details::Sanitize => ForwardClientCert::Sanitize,
        Details::ForwardOnly => ForwardClientCert::ForwardOnly,
        Details::AppendForward => ForwardClientCert::AppendForward,
        Details::SanitizeSet => ForwardClientCert::SanitizeSet,
        Details::AlwaysForwardOnly => ForwardClientCert::AlwaysForwardOnly,
    }
}

fn client_cert_details(from: &hcm::HttpConnectionManager) -> ClientCertDetails {
    let details = from.set_current_client_cert_details.unwrap_or_default();
    ClientCertDetails {
        subject: flag(details.subject.as_ref(), false),
        cert: details.cert,
        chain: details.chain,
        dns: details.dns,
        uri: details.uri,
    }
}

fn server_header(from: hcm::http_connection_manager::ServerHeaderTransformation) -> ServerHeader {
    use hcm::http_connection_manager::ServerHeaderTransformation as Transformation;
    match from {
        Transformation::Overwrite => ServerHeader::Overwrite,
        Transformation::AppendIfAbsent => ServerHeader::AppendIfAbsent,
        Transformation::PassThrough => ServerHeader::PassThrough,
    }
}

fn underscores(
    from: core::http_protocol_options::HeadersWithUnderscoresAction,
) -> UnderscoreHeaders {
    use core::http_protocol_options::HeadersWithUnderscoresAction as Action;
    match from {
        Action::Allow => UnderscoreHeaders::Allow,
        Action::RejectRequest => UnderscoreHeaders::RejectRequest,
        Action::DropHeader => UnderscoreHeaders::DropHeader,
    }
}

fn scheme_override(from: &core::SchemeHeaderTransformation) -> Option<Arc<str>> {
    use core::scheme_header_transformation::Transformation;
    match from.transformation.as_ref()? {
        Transformation::SchemeToOverwrite(scheme) => non_empty(scheme),
    }
}

fn upgrades(from: &hcm::HttpConnectionManager) -> Result<Vec<Upgrade>, XdsError> {
    let compile = |(index, upgrade): (usize, &hcm::http_connection_manager::UpgradeConfig)| {
        let filters =
            http_filter::compile_all(&upgrade.filters, "filters").at("upgrade_configs", index)?;
        if !filters.is_empty() {
            ends_with_router(&filters).at("upgrade_configs", index)?;
        }
        let enabled = flag(upgrade.enabled.as_ref(), true);
        Ok(Upgrade {
            token: upgrade.upgrade_type.as_str().into(),
            enabled,
            filters,
        })
    };
    from.upgrade_configs
        .iter()
        .enumerate()
        .map(compile)
        .collect()
}

fn local_reply(from: Option<&hcm::LocalReplyConfig>) -> Result<LocalReply, XdsError> {
    let Some(from) = from else {
        return Ok(LocalReply::default());
    };
    let mappers = from
        .mappers
        .iter()
        .enumerate()
        .map(|(index, mapper)| reply_mapper(mapper).at("mappers", index));
    Ok(LocalReply {
        mappers: mappers.collect::<Result<_, _>>()?,
        body_format: from
            .body_format
            .as_ref()
            .map(body_format)
            .transpose()
            .within("body_format")?,
    })
}

fn reply_mapper(from: &hcm::ResponseMapper) -> Result<ReplyMapper, XdsError> {
    let filter = from
        .filter
        .as_ref()
        .ok_or_else(|| XdsError::new("the filter is missing"));
    let status = number(from.status_code.as_ref()).map(|code| {
        let valid = u16::try_from(code)
            .ok()
            .filter(|code| (200..600).contains(code));
        valid.ok_or_else(|| XdsError::new(format!("{code} is no status")).within("status_code"))
    });
    Ok(ReplyMapper {
        filter: filter.and_then(access_log::filter).within("filter")?,
        status: status.transpose()?,
        body: from
            .body
            .as_ref()
            .map(data_source)
            .transpose()
            .within("body")?,
        body_format: from
            .body_format_override
            .as_ref()
            .map(body_format)
            .transpose()
            .within("body_format_override")?,
        headers: headers::mutations(&from.headers_to_add, &[], "headers")?,
    })
}

fn body_format(from: &core::SubstitutionFormatString) -> Result<BodyFormat, XdsError> {
    let format: LogFormat = headers::log_format(from)?;
    Ok(BodyFormat {
        format,
        content_type: non_empty(&from.content_type),
    })
}

/// What `x-request-id` has to do with tracing. Another extension than Envoy's own is passed over.
fn request_id(from: Option<&hcm::RequestIdExtension>) -> RequestId {
    use lateen_envoy::pb::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
    let any = from.and_then(|from| from.typed_config.as_ref());
    let Some(config) = any.and_then(|any| extension::message::<UuidRequestIdConfig>(any).ok())
    else {
        return RequestId::default();
    };
    RequestId {
        packs_reason: flag(config.pack_trace_reason.as_ref(), true),
        samples: flag(config.use_request_id_for_trace_sampling.as_ref(), true),
    }
}
