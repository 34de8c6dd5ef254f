//! The ext_authz filters. A setting that narrows what an authorizer may do and is not known here refuses the resource.

use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::pb::envoy::config::core::v3 as core;
use lateen_envoy::pb::envoy::extensions::filters::http::ext_authz::v3 as http_authz;
use lateen_envoy::pb::envoy::extensions::filters::network::ext_authz::v3 as network_authz;
use lateen_envoy::pb::envoy::r#type::matcher::v3 as matcher;

use super::basic::{duration, fraction, non_empty, optional_duration, texts};
use super::error::Within as _;
use super::{XdsError, headers, matchers};
use crate::ext_authz::{
    BodySettings, ExtAuthz, GrpcService, HeaderChoice, HttpService, NetworkExtAuthz, RouteSettings,
    Service, When,
};
use crate::format::Format;
use crate::matcher::{Fraction, StringMatcher, StringPattern};

/// How long an authorizer has if the filter does not say; Envoy's default.
const TIMEOUT: Duration = Duration::from_millis(200);
/// What an HTTP authorizer is told whatever the list says.
const ALWAYS_TOLD: [&str; 4] = [":method", ":path", ":authority", "authorization"];

/// The HTTP filter.
pub(super) fn http(from: &http_authz::ExtAuthz) -> Result<ExtAuthz, XdsError> {
    refuse_unknown(from)?;
    let service = match from.services.as_ref() {
        Some(http_authz::ext_authz::Services::HttpService(http)) => {
            Service::Http(Box::new(http_service(http).within("http_service")?))
        }
        Some(http_authz::ext_authz::Services::GrpcService(grpc)) => {
            Service::Grpc(grpc_service(grpc).within("grpc_service")?)
        }
        None => return Err(XdsError::new("nobody to ask: no service")),
    };
    let share = from
        .filter_enabled
        .as_ref()
        .and_then(|enabled| enabled.default_value.as_ref());
    let status = from
        .status_on_error
        .as_ref()
        .map_or(403, |status| status.code);
    Ok(ExtAuthz {
        when: When {
            share: share
                .map_or(Ok(Fraction::ALL), fraction)
                .within("filter_enabled")?,
            metadata: enabled_metadata(from.filter_enabled_metadata.as_ref())?,
        },
        headers: header_choice(from, &service)?,
        service,
        deny_at_disable: from
            .deny_at_disable
            .as_ref()
            .and_then(|flag| flag.default_value.as_ref())
            .is_some_and(|flag| flag.value),
        failure_mode_allow: from.failure_mode_allow,
        failure_mode_allow_header: from.failure_mode_allow_header_add,
        clear_route_cache: from.clear_route_cache,
        status_on_error: u16::try_from(status)
            .ok()
            .filter(|status| (200..600).contains(status))
            .ok_or_else(|| XdsError::new("is no status").within("status_on_error.code"))?,
        body: from.with_request_body.as_ref().map(body).transpose()?,
        metadata_namespaces: texts(&from.metadata_context_namespaces),
        include_tls_session: from.include_tls_session,
        stat_prefix: match from.stat_prefix.as_str() {
            "" => Arc::from(""),
            prefix => format!("{prefix}.").into(),
        },
    })
}

/// The network filter.
pub(super) fn network(from: &network_authz::ExtAuthz) -> Result<NetworkExtAuthz, XdsError> {
    if from.shadow_mode {
        return Err(XdsError::new("is not supported").within("shadow_mode"));
    }
    let missing = || XdsError::new("nobody to ask: no service").within("grpc_service");
    let service = from.grpc_service.as_ref().ok_or_else(missing)?;
    Ok(NetworkExtAuthz {
        service: grpc_service(service).within("grpc_service")?,
        when: When {
            share: Fraction::ALL,
            metadata: enabled_metadata(from.filter_enabled_metadata.as_ref())?,
        },
        failure_mode_allow: from.failure_mode_allow,
        metadata_namespaces: texts(&from.metadata_context_namespaces),
        include_tls_session: from.include_tls_session,
        stat_prefix: from.stat_prefix.as_str().into(),
    })
}

/// What a route says; `None` switches the filter off.
pub(super) fn per_route(
    from: &http_authz::ExtAuthzPerRoute,
) -> Result<Option<RouteSettings>, XdsError> {
    use http_authz::ext_authz_per_route::Override;
    let settings = match from.r#override.as_ref() {
        Some(Override::Disabled(true)) => return Ok(None),
        Some(Override::CheckSettings(settings)) => settings,
        _ => return Err(XdsError::new("says neither disabled nor settings")),
    };
    if settings.service_override.is_some() {
        return Err(XdsError::new("is not supported").within("service_override"));
    }
    let mut context: Vec<(Arc<str>, Arc<str>)> = settings
        .context_extensions
        .iter()
        .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
        .collect();
    context.sort();
    Ok(Some(RouteSettings {
        context,
        without_body: settings.disable_request_body_buffering,
        body: settings.with_request_body.as_ref().map(body).transpose()?,
    }))
}

fn refuse_unknown(from: &http_authz::ExtAuthz) -> Result<(), XdsError> {
    let unknown = [
        (
            from.decoder_header_mutation_rules.is_some(),
            "decoder_header_mutation_rules",
        ),
        (from.shadow_mode, "shadow_mode"),
        (
            from.max_denied_response_body_bytes != 0,
            "max_denied_response_body_bytes",
        ),
    ];
    match unknown.iter().find(|(set, _)| *set) {
        Some((_, field)) => Err(XdsError::new("is not supported").within(field)),
        None => Ok(()),
    }
}

fn enabled_metadata(
    from: Option<&matcher::MetadataMatcher>,
) -> Result<Option<crate::matcher::MetadataMatcher>, XdsError> {
    from.map(matchers::metadata)
        .transpose()
        .within("filter_enabled_metadata")
}

fn body(from: &http_authz::BufferSettings) -> Result<BodySettings, XdsError> {
    if from.max_request_bytes == 0 {
        return Err(
            XdsError::new("must be more than 0").within("with_request_body.max_request_bytes")
        );
    }
    Ok(BodySettings {
        max_bytes: usize::try_from(from.max_request_bytes).unwrap_or(usize::MAX),
        allow_partial: from.allow_partial_message,
        pack_as_bytes: from.pack_as_bytes,
    })
}

fn header_choice(from: &http_authz::ExtAuthz, service: &Service) -> Result<HeaderChoice, XdsError> {
    #[expect(deprecated, reason = "EnvoyFilters still use this field")]
    let own = match from.services.as_ref() {
        Some(http_authz::ext_authz::Services::HttpService(http)) => http
            .authorization_request
            .as_ref()
            .and_then(|request| request.allowed_headers.as_ref()),
        _ => None,
    };
    let listed = own.or(from.allowed_headers.as_ref());
    let list = |from: Option<&matcher::ListStringMatcher>, field: &str| {
        strings(from).map_err(|error| error.within(field))
    };
    let mut allowed = match listed {
        Some(_) => Some(list(listed, "allowed_headers")?),
        None => None,
    };
    if let Service::Http(_) = service {
        let always =
            ALWAYS_TOLD.map(|name| StringMatcher::new(StringPattern::Exact(name.into()), true));
        allowed.get_or_insert_default().extend(always);
    }
    Ok(HeaderChoice {
        allowed,
        disallowed: list(from.disallowed_headers.as_ref(), "disallowed_headers")?,
    })
}

fn http_service(from: &http_authz::HttpService) -> Result<HttpService, XdsError> {
    let missing = || XdsError::new("is missing").within("server_uri");
    let server = from.server_uri.as_ref().ok_or_else(missing)?;
    let Some(core::http_uri::HttpUpstreamType::Cluster(cluster)) =
        server.http_upstream_type.as_ref()
    else {
        return Err(XdsError::new("is missing").within("server_uri.cluster"));
    };
    let request = from.authorization_request.clone().unwrap_or_default();
    let response = from.authorization_response.clone().unwrap_or_default();
    let list = |from: Option<&matcher::ListStringMatcher>, field: &str| {
        strings(from).map_err(|error| error.within(field).within("authorization_response"))
    };
    Ok(HttpService {
        cluster: cluster.as_str().into(),
        timeout: server
            .timeout
            .as_ref()
            .map_or(Ok(TIMEOUT), duration)
            .within("server_uri.timeout")?,
        path_prefix: from.path_prefix.as_str().into(),
        path_override: non_empty(&from.path_override),
        headers_to_add: added(&request.headers_to_add)
            .within("authorization_request.headers_to_add")?,
        to_upstream: list(
            response.allowed_upstream_headers.as_ref(),
            "allowed_upstream_headers",
        )?,
        append_to_upstream: list(
            response.allowed_upstream_headers_to_append.as_ref(),
            "allowed_upstream_headers_to_append",
        )?,
        to_client_on_deny: list(
            response.allowed_client_headers.as_ref(),
            "allowed_client_headers",
        )?,
        to_client_on_allow: list(
            response.allowed_client_headers_on_success.as_ref(),
            "allowed_client_headers_on_success",
        )?,
        to_metadata: list(
            response.dynamic_metadata_from_headers.as_ref(),
            "dynamic_metadata_from_headers",
        )?,
    })
}

pub(super) fn grpc_service(from: &core::GrpcService) -> Result<GrpcService, XdsError> {
    use core::grpc_service::TargetSpecifier;
    let Some(TargetSpecifier::EnvoyGrpc(target)) = from.target_specifier.as_ref() else {
        return Err(XdsError::new("only envoy_grpc is supported").within("target_specifier"));
    };
    if target.cluster_name.is_empty() {
        return Err(XdsError::new("is missing").within("envoy_grpc.cluster_name"));
    }
    Ok(GrpcService {
        cluster: target.cluster_name.as_str().into(),
        authority: target.authority.as_str().into(),
        // Zero, as no timeout at all, waits as long as it takes.
        timeout: optional_duration(from.timeout.as_ref(), "timeout")?.filter(|t| !t.is_zero()),
        initial_metadata: added(&from.initial_metadata).within("initial_metadata")?,
    })
}

fn strings(from: Option<&matcher::ListStringMatcher>) -> Result<Vec<StringMatcher>, XdsError> {
    let patterns = from.map_or(&[][..], |list| &list.patterns);
    patterns
        .iter()
        .enumerate()
        .map(|(index, pattern)| matchers::string(pattern).at("patterns", index))
        .collect()
}

fn added(from: &[core::HeaderValue]) -> Result<Vec<(http::HeaderName, Format)>, XdsError> {
    let one = |(index, header): (usize, &core::HeaderValue)| {
        let name = headers::name(&header.key).at("", index)?;
        Ok((name, headers::format(&header.value).at("", index)?))
    };
    from.iter().enumerate().map(one).collect()
}
