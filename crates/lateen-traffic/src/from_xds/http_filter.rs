//! HTTP filters.

mod istio;

use std::sync::Arc;

use lateen_envoy::pb::envoy::extensions::filters::common::fault::v3 as common_fault;
use lateen_envoy::pb::envoy::extensions::filters::common::set_filter_state::v3 as filter_state;
use lateen_envoy::pb::envoy::extensions::filters::http::{
    buffer::v3 as buffer, cors::v3 as cors, fault::v3 as fault, grpc_stats::v3 as grpc_stats,
    header_mutation::v3 as header_mutation, health_check::v3 as health_check,
    rbac::v3 as http_rbac, router::v3 as router, set_filter_state::v3 as set_filter_state,
};
use lateen_envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use lateen_envoy::pb::envoy::r#type::v3 as ty;
use lateen_envoy::pb::google::protobuf::Any;

pub(super) use istio::{metadata_exchange, stats};

use super::basic::{duration, flag, fraction, number, runtime_fraction};
use super::error::Within as _;
use super::{
    XdsError, access_log, ext_authz, extension, headers, jwt, matchers, rate_limit, rbac,
    route_action,
};
use crate::cors::CorsPolicy;
use crate::fault::{Abort, AbortStatus, Delay, DelayDuration, Fault};
use crate::filter::{
    GrpcStats, HeaderMutationFilter, HealthCheckFilter, HttpFilter, HttpFilterKind, Router,
    SetFilterState,
};
use crate::matcher::Fraction;

/// Compiles a chain of filters. Optional ones that are not known are passed over.
pub(super) fn compile_all(
    filters: &[hcm::HttpFilter],
    field: &str,
) -> Result<Vec<HttpFilter>, XdsError> {
    let mut out = Vec::with_capacity(filters.len());
    for (index, filter) in filters.iter().enumerate() {
        match kind(filter) {
            Ok(kind) => out.push(HttpFilter {
                name: filter.name.as_str().into(),
                disabled: filter.disabled,
                kind,
            }),
            Err(Refusal::Unknown(_)) if filter.is_optional => {}
            Err(Refusal::Unknown(reason) | Refusal::Invalid(reason)) => {
                return Err(reason).at(field, index);
            }
        }
    }
    Ok(out)
}

/// Why a filter was refused: only one that is not known may be passed over.
enum Refusal {
    Unknown(XdsError),
    Invalid(XdsError),
}

impl From<XdsError> for Refusal {
    fn from(error: XdsError) -> Self {
        Self::Invalid(error)
    }
}

fn kind(filter: &hcm::HttpFilter) -> Result<HttpFilterKind, Refusal> {
    let any = match filter.config_type.as_ref() {
        Some(hcm::http_filter::ConfigType::TypedConfig(any)) => any,
        Some(hcm::http_filter::ConfigType::ConfigDiscovery(_)) => {
            let reason = format!(
                "filter {:?} comes by ECDS, which is not supported",
                filter.name
            );
            return Err(Refusal::Unknown(
                XdsError::new(reason).within("config_discovery"),
            ));
        }
        None => {
            let reason = format!("filter {:?} has no configuration", filter.name);
            return Err(Refusal::Unknown(
                XdsError::new(reason).within("typed_config"),
            ));
        }
    };
    let name = extension::type_name(any)?;
    let compiled = match name.strip_prefix("envoy.extensions.filters.http.") {
        Some(short) => envoys(short, any),
        None => istio::kind(&name, any),
    };
    match compiled {
        Ok(Some(kind)) => Ok(kind),
        Ok(None) => {
            let reason = format!("filter {:?} of type {name} is not supported", filter.name);
            Err(Refusal::Unknown(
                XdsError::new(reason).within("typed_config"),
            ))
        }
        Err(error) => Err(Refusal::Invalid(error.within("typed_config"))),
    }
}

/// Envoy's own filters, by type name.
fn envoys(name: &str, any: &Any) -> Result<Option<HttpFilterKind>, XdsError> {
    Ok(Some(match name {
        "router.v3.Router" => HttpFilterKind::Router(Arc::new(router(&extension::message(any)?)?)),
        "fault.v3.HTTPFault" => HttpFilterKind::Fault(Arc::new(fault(&extension::message(any)?)?)),
        "cors.v3.Cors" => HttpFilterKind::Cors,
        "rbac.v3.RBAC" => {
            let from: http_rbac::Rbac = extension::message(any)?;
            HttpFilterKind::Rbac(rbac::http(&from)?)
        }
        "jwt_authn.v3.JwtAuthentication" => {
            HttpFilterKind::JwtAuthn(Arc::new(jwt::compile(&extension::message(any)?)?))
        }
        "ext_authz.v3.ExtAuthz" => {
            HttpFilterKind::ExtAuthz(Arc::new(ext_authz::http(&extension::message(any)?)?))
        }
        "local_ratelimit.v3.LocalRateLimit" => {
            HttpFilterKind::LocalRateLimit(Arc::new(rate_limit::local(&extension::message(any)?)?))
        }
        "grpc_stats.v3.FilterConfig" => {
            HttpFilterKind::GrpcStats(grpc_stats(&extension::message(any)?))
        }
        "grpc_web.v3.GrpcWeb" => HttpFilterKind::GrpcWeb,
        "dynamic_forward_proxy.v3.FilterConfig" => HttpFilterKind::DynamicForwardProxy,
        "health_check.v3.HealthCheck" => {
            HttpFilterKind::HealthCheck(Arc::new(health_check(&extension::message(any)?)?))
        }
        "header_mutation.v3.HeaderMutation" => {
            let from: header_mutation::HeaderMutation = extension::message(any)?;
            let mutations = from.mutations.unwrap_or_default();
            HttpFilterKind::HeaderMutation(Arc::new(HeaderMutationFilter {
                most_specific_wins: from.most_specific_header_mutations_wins,
                ..header_mutations(&mutations).within("mutations")?
            }))
        }
        "buffer.v3.Buffer" => HttpFilterKind::Buffer {
            max_request_bytes: buffer_limit(&extension::message(any)?)?,
        },
        "set_filter_state.v3.Config" => {
            let from: set_filter_state::Config = extension::message(any)?;
            HttpFilterKind::SetFilterState(filter_states(
                &from.on_request_headers,
                "on_request_headers",
            )?)
        }
        _ => return Ok(None),
    }))
}

fn router(from: &router::Router) -> Result<Router, XdsError> {
    if !from
        .upstream_http_filters
        .iter()
        .all(|filter| filter.name == "envoy.filters.http.upstream_codec")
    {
        return Err(XdsError::new("is not supported").within("upstream_http_filters"));
    }
    Ok(Router {
        suppress_envoy_headers: from.suppress_envoy_headers,
        respect_expected_timeout: from.respect_expected_rq_timeout,
        upstream_log: access_log::compile_all(&from.upstream_log, "upstream_log")?,
    })
}

/// A fault, of the filter or of a route.
pub(super) fn fault(from: &fault::HttpFault) -> Result<Fault, XdsError> {
    if from.response_rate_limit.is_some() {
        return Err(XdsError::new("is not supported").within("response_rate_limit"));
    }
    Ok(Fault {
        delay: from.delay.as_ref().map(delay).transpose().within("delay")?,
        abort: from.abort.as_ref().map(abort).transpose().within("abort")?,
        upstream_cluster: from.upstream_cluster.clone(),
        headers: matchers::headers(&from.headers, "headers")?,
        downstream_nodes: from.downstream_nodes.clone(),
        max_active_faults: number(from.max_active_faults.as_ref()),
    })
}

fn share(from: Option<&ty::FractionalPercent>) -> Result<Fraction, XdsError> {
    from.map_or(Ok(Fraction::NONE), fraction)
        .within("percentage")
}

fn delay(from: &common_fault::FaultDelay) -> Result<Delay, XdsError> {
    use common_fault::fault_delay::FaultDelaySecifier as Specifier;
    let length = match from.fault_delay_secifier.as_ref() {
        Some(Specifier::FixedDelay(fixed)) => {
            DelayDuration::Fixed(duration(fixed).within("fixed_delay")?)
        }
        Some(Specifier::HeaderDelay(_)) => DelayDuration::Header,
        None => return Err(XdsError::new("the delay is missing")),
    };
    Ok(Delay {
        duration: length,
        percentage: share(from.percentage.as_ref())?,
    })
}

fn abort(from: &fault::FaultAbort) -> Result<Abort, XdsError> {
    use fault::fault_abort::ErrorType;
    let status = match from.error_type.as_ref() {
        Some(ErrorType::HttpStatus(code)) => {
            let valid = u16::try_from(*code)
                .ok()
                .filter(|code| (200..600).contains(code));
            AbortStatus::Http(valid.ok_or_else(|| {
                XdsError::new(format!("{code} is no status")).within("http_status")
            })?)
        }
        Some(ErrorType::GrpcStatus(code)) => AbortStatus::Grpc(*code),
        Some(ErrorType::HeaderAbort(_)) => AbortStatus::Header,
        None => return Err(XdsError::new("the status is missing")),
    };
    Ok(Abort {
        status,
        percentage: share(from.percentage.as_ref())?,
    })
}

/// A CORS policy as an override.
pub(super) fn cors(from: &cors::CorsPolicy) -> Result<CorsPolicy, XdsError> {
    let origins = from.allow_origin_string_match.iter().enumerate();
    let origins = origins
        .map(|(index, matcher)| matchers::string(matcher).at("allow_origin_string_match", index));
    let value = route_action::header_value;
    Ok(CorsPolicy {
        allow_origins: origins.collect::<Result<_, _>>()?,
        allow_methods: value(&from.allow_methods, "allow_methods")?,
        allow_headers: value(&from.allow_headers, "allow_headers")?,
        expose_headers: value(&from.expose_headers, "expose_headers")?,
        max_age: value(&from.max_age, "max_age")?,
        allow_credentials: flag(from.allow_credentials.as_ref(), false),
        allow_private_network: flag(from.allow_private_network_access.as_ref(), false),
        enabled: from
            .filter_enabled
            .as_ref()
            .map(runtime_fraction)
            .transpose()
            .within("filter_enabled")?,
        shadow_enabled: from
            .shadow_enabled
            .as_ref()
            .map(runtime_fraction)
            .transpose()
            .within("shadow_enabled")?,
        forward_not_matching_preflights: flag(from.forward_not_matching_preflights.as_ref(), true),
    })
}

fn grpc_stats(from: &grpc_stats::FilterConfig) -> GrpcStats {
    use grpc_stats::filter_config::PerMethodStatSpecifier as Specifier;
    GrpcStats {
        emit_filter_state: from.emit_filter_state,
        per_method: match from.per_method_stat_specifier.as_ref() {
            Some(Specifier::StatsForAllMethods(all)) => all.value,
            Some(Specifier::IndividualMethodStatsAllowlist(_)) => true,
            None => false,
        },
    }
}

fn health_check(from: &health_check::HealthCheck) -> Result<HealthCheckFilter, XdsError> {
    if !from.cluster_min_healthy_percentages.is_empty() {
        return Err(XdsError::new("is not supported").within("cluster_min_healthy_percentages"));
    }
    Ok(HealthCheckFilter {
        pass_through: flag(from.pass_through_mode.as_ref(), false),
        headers: matchers::headers(&from.headers, "headers")?,
    })
}

/// Header changes, of the filter or of a route.
pub(super) fn header_mutations(
    from: &header_mutation::Mutations,
) -> Result<HeaderMutationFilter, XdsError> {
    let unsupported = [
        (
            !from.query_parameter_mutations.is_empty(),
            "query_parameter_mutations",
        ),
        (
            !from.request_trailers_mutations.is_empty(),
            "request_trailers_mutations",
        ),
        (
            !from.response_trailers_mutations.is_empty(),
            "response_trailers_mutations",
        ),
    ];
    if let Some((_, field)) = unsupported.into_iter().find(|(set, _)| *set) {
        return Err(XdsError::new("is not supported").within(field));
    }
    Ok(HeaderMutationFilter {
        most_specific_wins: false,
        request: headers::mutation_list(&from.request_mutations, "request_mutations")?,
        response: headers::mutation_list(&from.response_mutations, "response_mutations")?,
    })
}

/// A buffer's limit.
pub(super) fn buffer_limit(from: &buffer::Buffer) -> Result<u32, XdsError> {
    let limit = number(from.max_request_bytes.as_ref()).filter(|limit| *limit > 0);
    limit.ok_or_else(|| XdsError::new("must be more than 0").within("max_request_bytes"))
}

/// Strings for the filter state.
pub(super) fn filter_states(
    from: &[filter_state::FilterStateValue],
    field: &str,
) -> Result<Vec<SetFilterState>, XdsError> {
    from.iter()
        .enumerate()
        .map(|(index, value)| filter_state_value(value).at(field, index))
        .collect()
}

/// Objects of Envoy's own that other parts of it act on: the server name sent upstream, the cluster of a TCP connection, …
fn is_acted_on_by_envoy(key: &str) -> bool {
    [
        "envoy.network.",
        "envoy.tcp_proxy.",
        "envoy.upstream.",
        "envoy.ratelimit.",
    ]
    .iter()
    .any(|known| key.starts_with(known))
}

fn filter_state_value(from: &filter_state::FilterStateValue) -> Result<SetFilterState, XdsError> {
    let Some(filter_state::filter_state_value::Key::ObjectKey(key)) = from.key.as_ref() else {
        return Err(XdsError::new("the key is missing").within("object_key"));
    };
    if is_acted_on_by_envoy(key) && from.factory_key.is_empty() {
        let reason = format!("{key:?} would change how Envoy goes on, which is not supported here");
        return Err(XdsError::new(reason).within("object_key"));
    }
    let Some(filter_state::filter_state_value::Value::FormatString(value)) = from.value.as_ref()
    else {
        return Err(XdsError::new("the value is missing").within("format_string"));
    };
    Ok(SetFilterState {
        key: key.as_str().into(),
        value: headers::text_format(value).within("format_string")?,
        skip_if_empty: from.skip_if_empty,
    })
}
