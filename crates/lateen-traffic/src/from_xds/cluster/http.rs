//! The HTTP side of a cluster.

use std::time::Duration;

use lateen_envoy::pb::envoy::config::cluster::v3 as cds;
use lateen_envoy::pb::envoy::config::core::v3 as core;
use lateen_envoy::pb::envoy::extensions::upstreams::http::v3 as upstream;

use crate::cluster::{Http1Options, Http2Options, UpstreamHttp, UpstreamProtocol};
use crate::from_xds::basic::{flag, limit, number, optional_duration, timeout};
use crate::from_xds::error::Within as _;
use crate::from_xds::{XdsError, extension};

/// Where a cluster's HTTP settings are.
const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Time without requests until a connection is closed, unless set otherwise. Source: Envoy.
const DEFAULT_IDLE: Duration = Duration::from_secs(3600);

/// The HTTP settings of a cluster.
pub(super) fn compile(from: &cds::Cluster) -> Result<UpstreamHttp, XdsError> {
    match from.typed_extension_protocol_options.get(OPTIONS) {
        Some(any) => {
            let options: upstream::HttpProtocolOptions = extension::message(any)?;
            typed(&options).within(&format!("typed_extension_protocol_options[{OPTIONS:?}]"))
        }
        None => legacy(from),
    }
}

fn typed(from: &upstream::HttpProtocolOptions) -> Result<UpstreamHttp, XdsError> {
    let (protocol, http1, http2) = protocols(from)?;
    let mut http = build(
        from.common_http_protocol_options.as_ref(),
        from.upstream_http_protocol_options.as_ref(),
        protocol,
        http1,
        http2,
    )?;
    let matcher = from
        .outlier_detection
        .as_ref()
        .and_then(|detection| detection.error_matcher.as_ref());
    http.error_matcher = matcher
        .map(super::outlier::error_matcher)
        .transpose()
        .within("outlier_detection.error_matcher")?;
    Ok(http)
}

type Protocols = (
    UpstreamProtocol,
    Option<core::Http1ProtocolOptions>,
    Option<core::Http2ProtocolOptions>,
);

fn protocols(from: &upstream::HttpProtocolOptions) -> Result<Protocols, XdsError> {
    use upstream::http_protocol_options::UpstreamProtocolOptions as Kind;
    use upstream::http_protocol_options::explicit_http_config::ProtocolConfig;
    Ok(match from.upstream_protocol_options.clone() {
        None => (UpstreamProtocol::Http1, None, None),
        Some(Kind::ExplicitHttpConfig(explicit)) => match explicit.protocol_config {
            None => (UpstreamProtocol::Http1, None, None),
            Some(ProtocolConfig::HttpProtocolOptions(http1)) => {
                (UpstreamProtocol::Http1, Some(http1), None)
            }
            Some(ProtocolConfig::Http2ProtocolOptions(http2)) => {
                (UpstreamProtocol::Http2, None, Some(http2))
            }
            Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                return Err(XdsError::new("HTTP/3 upstreams are not supported")
                    .within("explicit_http_config"));
            }
        },
        Some(Kind::UseDownstreamProtocolConfig(both)) => (
            UpstreamProtocol::Downstream,
            both.http_protocol_options,
            both.http2_protocol_options,
        ),
        Some(Kind::AutoConfig(both)) => (
            UpstreamProtocol::Auto,
            both.http_protocol_options,
            both.http2_protocol_options,
        ),
    })
}

/// The fields that `HttpProtocolOptions` replaced.
#[expect(
    deprecated,
    reason = "EnvoyFilters and other control planes still use them"
)]
fn legacy(from: &cds::Cluster) -> Result<UpstreamHttp, XdsError> {
    let protocol = match (&from.http2_protocol_options, from.protocol_selection()) {
        (_, cds::cluster::ClusterProtocolSelection::UseDownstreamProtocol) => {
            UpstreamProtocol::Downstream
        }
        (Some(_), _) => UpstreamProtocol::Http2,
        (None, _) => UpstreamProtocol::Http1,
    };
    let mut http = build(
        from.common_http_protocol_options.as_ref(),
        from.upstream_http_protocol_options.as_ref(),
        protocol,
        from.http_protocol_options.clone(),
        from.http2_protocol_options.clone(),
    )?;
    http.max_requests_per_connection = http
        .max_requests_per_connection
        .or(limit(from.max_requests_per_connection.as_ref()));
    Ok(http)
}

fn build(
    common: Option<&core::HttpProtocolOptions>,
    upstream: Option<&core::UpstreamHttpProtocolOptions>,
    protocol: UpstreamProtocol,
    http1: Option<core::Http1ProtocolOptions>,
    http2: Option<core::Http2ProtocolOptions>,
) -> Result<UpstreamHttp, XdsError> {
    let common = common.copied().unwrap_or_default();
    let max_connection_duration = common.max_connection_duration.as_ref();
    Ok(UpstreamHttp {
        protocol,
        idle_timeout: timeout(
            common.idle_timeout.as_ref(),
            Some(DEFAULT_IDLE),
            "idle_timeout",
        )?,
        max_connection_duration: timeout(max_connection_duration, None, "max_connection_duration")?,
        max_requests_per_connection: limit(common.max_requests_per_connection.as_ref()),
        max_headers_count: number(common.max_headers_count.as_ref()).unwrap_or(100),
        http1: http1_options(http1.as_ref())?,
        http2: http2_options(http2.as_ref())?,
        auto_sni: upstream.is_some_and(|upstream| upstream.auto_sni),
        auto_san_validation: upstream.is_some_and(|upstream| upstream.auto_san_validation),
        error_matcher: None,
    })
}

/// HTTP/1 settings, of clusters and listeners.
pub(in crate::from_xds) fn http1_options(
    from: Option<&core::Http1ProtocolOptions>,
) -> Result<Http1Options, XdsError> {
    use core::http1_protocol_options::header_key_format::HeaderFormat;
    let Some(from) = from else {
        return Ok(Http1Options::default());
    };
    let format = from
        .header_key_format
        .as_ref()
        .and_then(|format| format.header_format.as_ref());
    let preserve = match format {
        None => false,
        Some(HeaderFormat::StatefulFormatter(formatter))
            if formatter.name.contains("preserve_case") =>
        {
            true
        }
        Some(_) => {
            return Err(
                XdsError::new("only preserve_case is supported").within("header_key_format")
            );
        }
    };
    Ok(Http1Options {
        reject_absolute_url: !flag(from.allow_absolute_url.as_ref(), true),
        accept_http_10: from.accept_http_10,
        enable_trailers: from.enable_trailers,
        preserve_header_case: preserve,
        allow_chunked_length: from.allow_chunked_length,
    })
}

/// HTTP/2 settings, of clusters and listeners.
pub(in crate::from_xds) fn http2_options(
    from: Option<&core::Http2ProtocolOptions>,
) -> Result<Http2Options, XdsError> {
    let Some(from) = from else {
        return Ok(Http2Options::default());
    };
    let keepalive = from.connection_keepalive.unwrap_or_default();
    Ok(Http2Options {
        max_concurrent_streams: number(from.max_concurrent_streams.as_ref()),
        initial_stream_window: number(from.initial_stream_window_size.as_ref()),
        initial_connection_window: number(from.initial_connection_window_size.as_ref()),
        ping_interval: optional_duration(
            keepalive.interval.as_ref(),
            "connection_keepalive.interval",
        )?,
        ping_timeout: optional_duration(
            keepalive.timeout.as_ref(),
            "connection_keepalive.timeout",
        )?,
        allow_connect: from.allow_connect,
    })
}
