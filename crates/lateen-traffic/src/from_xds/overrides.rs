//! Overrides of HTTP filters on routes and virtual hosts (`typed_per_filter_config`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use lateen_envoy::pb::envoy::config::route::v3 as rds;
use lateen_envoy::pb::envoy::extensions::filters::http::{
    buffer::v3 as buffer, cors::v3 as cors, header_mutation::v3 as header_mutation,
    rbac::v3 as http_rbac,
};
use lateen_envoy::pb::google::protobuf::Any;

use super::error::Within as _;
use super::{XdsError, ext_authz, extension, http_filter, jwt, rate_limit, rbac};
use crate::filter::{FilterOverride, PerFilter};

/// Compiles the overrides of one level.
pub(super) fn per_filter(from: &HashMap<String, Any>) -> Result<PerFilter, XdsError> {
    let sorted: BTreeMap<&String, &Any> = from.iter().collect();
    let mut out = PerFilter::new();
    for (name, any) in sorted {
        let field = format!("typed_per_filter_config[{name:?}]");
        if let Some(compiled) = compile(any).within(&field)? {
            out.insert(name.as_str().into(), compiled);
        }
    }
    Ok(out)
}

/// `None` if it is optional and not known.
fn compile(any: &Any) -> Result<Option<FilterOverride>, XdsError> {
    if extension::type_name(any)? != "envoy.config.route.v3.FilterConfig" {
        return specific(any).map(Some);
    }
    let wrapper: rds::FilterConfig = extension::message(any)?;
    match (&wrapper.config, wrapper.disabled) {
        (_, true) => Ok(Some(FilterOverride::Disabled)),
        (None, false) => Ok(Some(FilterOverride::Enabled)),
        // An empty `Any` only enables the filter.
        (Some(inner), false) if inner.type_url.is_empty() => Ok(Some(FilterOverride::Enabled)),
        (Some(inner), false) => match specific(inner) {
            Err(_) if wrapper.is_optional => Ok(None),
            result => result.map(Some),
        },
    }
}

fn specific(any: &Any) -> Result<FilterOverride, XdsError> {
    let name = extension::type_name(any)?;
    Ok(
        match name
            .strip_prefix("envoy.extensions.filters.http.")
            .unwrap_or(&name)
        {
            "rbac.v3.RBACPerRoute" => {
                let from: http_rbac::RbacPerRoute = extension::message(any)?;
                FilterOverride::Rbac(
                    from.rbac
                        .as_ref()
                        .map(rbac::http)
                        .transpose()
                        .within("rbac")?,
                )
            }
            "fault.v3.HTTPFault" => {
                FilterOverride::Fault(Arc::new(http_filter::fault(&extension::message(any)?)?))
            }
            "cors.v3.CorsPolicy" => {
                let from: cors::CorsPolicy = extension::message(any)?;
                FilterOverride::Cors(Arc::new(http_filter::cors(&from)?))
            }
            "local_ratelimit.v3.LocalRateLimit" => FilterOverride::LocalRateLimit(Arc::new(
                rate_limit::local(&extension::message(any)?)?,
            )),
            "header_mutation.v3.HeaderMutationPerRoute" => {
                let from: header_mutation::HeaderMutationPerRoute = extension::message(any)?;
                let mutations = from.mutations.unwrap_or_default();
                FilterOverride::HeaderMutation(Arc::new(http_filter::header_mutations(&mutations)?))
            }
            "buffer.v3.BufferPerRoute" => buffer_override(&extension::message(any)?)?,
            "jwt_authn.v3.PerRouteConfig" => jwt::per_route(&extension::message(any)?)?,
            "ext_authz.v3.ExtAuthzPerRoute" => {
                match ext_authz::per_route(&extension::message(any)?)? {
                    None => FilterOverride::Disabled,
                    Some(settings) => FilterOverride::ExtAuthz(Arc::new(settings)),
                }
            }
            "stateful_session.v3.StatefulSessionPerRoute" => {
                FilterOverride::Raw(Arc::new(extension::raw(any)))
            }
            other => {
                return Err(XdsError::new(format!(
                    "the filter override {other} is not supported"
                )));
            }
        },
    )
}

fn buffer_override(from: &buffer::BufferPerRoute) -> Result<FilterOverride, XdsError> {
    match from.r#override.as_ref() {
        Some(buffer::buffer_per_route::Override::Disabled(true)) => Ok(FilterOverride::Disabled),
        Some(buffer::buffer_per_route::Override::Buffer(limit)) => {
            http_filter::buffer_limit(limit).map(FilterOverride::Buffer)
        }
        _ => Err(XdsError::new("says neither disabled nor a limit")),
    }
}
