//! What routes do.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use lateen_envoy::pb::envoy::config::core::v3 as core;
use lateen_envoy::pb::envoy::config::route::v3 as rds;
use lateen_envoy::pb::envoy::extensions::path::rewrite::uri_template::v3 as template_rewrite;

use super::basic::{
    data_source, flag, inherited_timeout, metadata_match, non_empty, number, optional_duration,
    port, runtime_fraction, timeout,
};
use super::error::Within as _;
use super::{XdsError, extension, headers, matchers, overrides, rbac, retry};
use crate::access_log::LogFormat;
use crate::cors::CorsPolicy;
use crate::matcher::Fraction;
use crate::route::{
    DirectResponse, Forward, HashCookie, HashPolicy, HashPolicyKind, HostRewrite,
    InternalRedirects, MirrorPolicy, PathRewrite, Redirect, RedirectPath, RedirectPredicate,
    RouteTimeouts, RouteUpgrade, Target, WeightedCluster, WeightedClusters, WeightedTarget,
};
use crate::tls::DataSource;

/// Time for a whole request unless set otherwise. Source: Envoy.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// A forwarding action.
pub(super) fn forward(
    from: &rds::RouteAction,
    conditions: &rds::RouteMatch,
) -> Result<Forward, XdsError> {
    refuse_unsupported(from)?;
    let hash_policy = from
        .hash_policy
        .iter()
        .enumerate()
        .map(|(index, policy)| hash_policy(policy).at("hash_policy", index));
    let upgrades = from.upgrade_configs.iter().enumerate();
    let upgrades = upgrades.map(|(index, config)| upgrade(config).at("upgrade_configs", index));
    #[expect(deprecated, reason = "Istio still writes CORS policies into routes")]
    let cors = from.cors.as_ref().map(cors).transpose().within("cors")?;
    let redirects = from.internal_redirect_policy.as_ref();
    let redirects = redirects.map(internal_redirects).transpose();
    Ok(Forward {
        target: target(from)?,
        cluster_not_found_status: match from.cluster_not_found_response_code() {
            rds::route_action::ClusterNotFoundResponseCode::ServiceUnavailable => 503,
            rds::route_action::ClusterNotFoundResponseCode::NotFound => 404,
            rds::route_action::ClusterNotFoundResponseCode::InternalServerError => 500,
        },
        metadata_match: metadata_match(from.metadata_match.as_ref()),
        path_rewrite: path_rewrite(from, conditions)?,
        host_rewrite: host_rewrite(from)?,
        append_x_forwarded_host: from.append_x_forwarded_host,
        timeouts: timeouts(from)?,
        retry: from
            .retry_policy
            .as_ref()
            .map(retry::compile)
            .transpose()
            .within("retry_policy")?
            .map(Arc::new),
        mirrors: mirrors(&from.request_mirror_policies)?,
        hash_policy: hash_policy.collect::<Result<_, _>>()?,
        cors: cors.map(Arc::new),
        upgrades: upgrades.collect::<Result<_, _>>()?,
        high_priority: from.priority() == core::RoutingPriority::High,
        internal_redirects: redirects.within("internal_redirect_policy")?,
    })
}

fn internal_redirects(from: &rds::InternalRedirectPolicy) -> Result<InternalRedirects, XdsError> {
    let predicates = from.predicates.iter().enumerate();
    let predicates = predicates.map(|(index, one)| redirect_predicate(one).at("predicates", index));
    let code = |(index, code): (usize, &u32)| match *code {
        301 | 302 | 303 | 307 | 308 => Ok(u16::try_from(*code).unwrap_or_default()),
        other => Err(XdsError::new(format!("{other} is no redirect")))
            .at("redirect_response_codes", index),
    };
    let codes = from.redirect_response_codes.iter().enumerate().map(code);
    let codes: Vec<u16> = codes.collect::<Result<_, _>>()?;
    let copied = from.response_headers_to_copy.iter().enumerate();
    let copied =
        copied.map(|(index, name)| headers::name(name).at("response_headers_to_copy", index));
    Ok(InternalRedirects {
        most: number(from.max_internal_redirects.as_ref()).unwrap_or(1),
        codes: if codes.is_empty() { vec![302] } else { codes },
        cross_scheme: from.allow_cross_scheme_redirect,
        copied_headers: copied.collect::<Result<_, _>>()?,
        predicates: predicates.collect::<Result<_, _>>()?,
    })
}

fn redirect_predicate(from: &core::TypedExtensionConfig) -> Result<RedirectPredicate, XdsError> {
    use lateen_envoy::pb::envoy::extensions::internal_redirect::allow_listed_routes::v3::AllowListedRoutesConfig;
    const PACKAGE: &str = "envoy.extensions.internal_redirect.";
    let missing = || XdsError::new("the configuration is missing");
    let any = from.typed_config.as_ref().ok_or_else(missing)?;
    let name = extension::type_name(any)?;
    match name.strip_prefix(PACKAGE) {
        Some("allow_listed_routes.v3.AllowListedRoutesConfig") => {
            let config: AllowListedRoutesConfig = extension::message(any)?;
            let names = super::basic::texts(&config.allowed_route_names);
            Ok(RedirectPredicate::AllowListedRoutes(names))
        }
        Some("previous_routes.v3.PreviousRoutesConfig") => Ok(RedirectPredicate::PreviousRoutes),
        Some("safe_cross_scheme.v3.SafeCrossSchemeConfig") => {
            Ok(RedirectPredicate::SafeCrossScheme)
        }
        _ => Err(XdsError::new(format!("{name} is not supported"))),
    }
}

fn upgrade(from: &rds::route_action::UpgradeConfig) -> Result<RouteUpgrade, XdsError> {
    let connect = from.connect_config.as_ref();
    if connect.is_some() && !from.upgrade_type.eq_ignore_ascii_case("CONNECT") {
        let message = "only an upgrade of type CONNECT may have it";
        return Err(XdsError::new(message).within("connect_config"));
    }
    let proxy = connect.and_then(|connect| connect.proxy_protocol_config.as_ref());
    Ok(RouteUpgrade {
        token: from.upgrade_type.as_str().into(),
        enabled: flag(from.enabled.as_ref(), true),
        terminate_connect: connect.is_some(),
        terminate_post: connect.is_some_and(|connect| connect.allow_post),
        connect_proxy: proxy.map(super::cluster::proxy_version),
    })
}

fn refuse_unsupported(from: &rds::RouteAction) -> Result<(), XdsError> {
    let unsupported = [
        (
            from.retry_policy_typed_config.is_some(),
            "retry_policy_typed_config",
        ),
        (!from.path_rewrite.is_empty(), "path_rewrite"),
    ];
    match unsupported.into_iter().find(|(set, _)| *set) {
        Some((_, field)) => Err(XdsError::new("is not supported").within(field)),
        None => Ok(()),
    }
}

fn target(from: &rds::RouteAction) -> Result<Target, XdsError> {
    use rds::route_action::ClusterSpecifier;
    match from.cluster_specifier.as_ref() {
        Some(ClusterSpecifier::Cluster(name)) => Ok(Target::Cluster(name.as_str().into())),
        Some(ClusterSpecifier::ClusterHeader(name)) => headers::name(name)
            .within("cluster_header")
            .map(Target::Header),
        Some(ClusterSpecifier::WeightedClusters(list)) => weighted(list)
            .within("weighted_clusters")
            .map(Target::Weighted),
        Some(_) => Err(XdsError::new("cluster specifier plugins are not supported")),
        None => Err(XdsError::new("the cluster is missing").within("cluster")),
    }
}

fn weighted(from: &rds::WeightedCluster) -> Result<WeightedClusters, XdsError> {
    use rds::weighted_cluster::RandomValueSpecifier;
    let clusters = from
        .clusters
        .iter()
        .enumerate()
        .map(|(index, entry)| weighted_cluster(entry).at("clusters", index));
    let clusters: Vec<WeightedCluster> = clusters.collect::<Result<_, _>>()?;
    let total: u64 = clusters.iter().map(|entry| u64::from(entry.weight)).sum();
    if total == 0 {
        return Err(XdsError::new("the sum of the weights must be more than 0"));
    }
    let random_header = match from.random_value_specifier.as_ref() {
        Some(RandomValueSpecifier::HeaderName(name)) => {
            headers::optional_name(name, "header_name")?
        }
        _ => None,
    };
    let use_hash_policy = match from.random_value_specifier.as_ref() {
        Some(RandomValueSpecifier::UseHashPolicy(value)) => value.value,
        _ => false,
    };
    Ok(WeightedClusters {
        clusters,
        total,
        random_header,
        use_hash_policy,
    })
}

fn weighted_cluster(
    from: &rds::weighted_cluster::ClusterWeight,
) -> Result<WeightedCluster, XdsError> {
    let target = named_target(&from.name, &from.cluster_header)?;
    let host_rewrite = from.host_rewrite_specifier.as_ref().map(|specifier| {
        let rds::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host) =
            specifier;
        HostRewrite::Literal(host.as_str().into())
    });
    Ok(WeightedCluster {
        target,
        weight: number(from.weight.as_ref()).unwrap_or(0),
        metadata_match: metadata_match(from.metadata_match.as_ref()),
        request_headers: headers::mutations(
            &from.request_headers_to_add,
            &from.request_headers_to_remove,
            "request_headers",
        )?,
        response_headers: headers::mutations(
            &from.response_headers_to_add,
            &from.response_headers_to_remove,
            "response_headers",
        )?,
        per_filter: overrides::per_filter(&from.typed_per_filter_config)?,
        host_rewrite,
    })
}

fn named_target(name: &str, header: &str) -> Result<WeightedTarget, XdsError> {
    match (name, header) {
        ("", "") => Err(XdsError::new("the cluster is missing").within("name")),
        ("", header) => headers::name(header)
            .within("cluster_header")
            .map(WeightedTarget::Header),
        (name, "") => Ok(WeightedTarget::Cluster(name.into())),
        _ => Err(XdsError::new(
            "only one of name and cluster_header may be given",
        )),
    }
}

fn path_rewrite(
    from: &rds::RouteAction,
    conditions: &rds::RouteMatch,
) -> Result<Option<PathRewrite>, XdsError> {
    let given = [
        !from.prefix_rewrite.is_empty(),
        from.regex_rewrite.is_some(),
        from.path_rewrite_policy.is_some(),
    ];
    if given.iter().filter(|set| **set).count() > 1 {
        return Err(XdsError::new(
            "only one of prefix_rewrite, regex_rewrite and path_rewrite_policy may be given",
        ));
    }
    if let Some(regex) = &from.regex_rewrite {
        return matchers::rewrite(regex)
            .within("regex_rewrite")
            .map(|regex| Some(PathRewrite::Regex(regex)));
    }
    if let Some(policy) = &from.path_rewrite_policy {
        return template_rewrite(policy, conditions)
            .within("path_rewrite_policy")
            .map(Some);
    }
    Ok((!from.prefix_rewrite.is_empty())
        .then(|| PathRewrite::Prefix(from.prefix_rewrite.as_str().into())))
}

/// A template's rewriting uses the variables of the template in the route's match.
fn template_rewrite(
    policy: &core::TypedExtensionConfig,
    conditions: &rds::RouteMatch,
) -> Result<PathRewrite, XdsError> {
    let any = policy
        .typed_config
        .as_ref()
        .ok_or_else(|| XdsError::new("the configuration is missing"))?;
    let config: template_rewrite::UriTemplateRewriteConfig = extension::message(any)?;
    let Some(rds::route_match::PathSpecifier::PathMatchPolicy(matched)) =
        conditions.path_specifier.as_ref()
    else {
        return Err(XdsError::new(
            "needs a path_match_policy in the route's match",
        ));
    };
    Ok(PathRewrite::Template {
        pattern: rbac::template(matched)?,
        rewrite: config.path_template_rewrite.into(),
    })
}

fn host_rewrite(from: &rds::RouteAction) -> Result<Option<HostRewrite>, XdsError> {
    use rds::route_action::HostRewriteSpecifier as Specifier;
    Ok(match from.host_rewrite_specifier.as_ref() {
        None => None,
        Some(Specifier::HostRewriteLiteral(host)) => {
            Some(HostRewrite::Literal(host.as_str().into()))
        }
        Some(Specifier::AutoHostRewrite(auto)) => auto.value.then_some(HostRewrite::Auto),
        Some(Specifier::HostRewriteHeader(name)) => Some(HostRewrite::Header(
            headers::name(name).within("host_rewrite_header")?,
        )),
        Some(Specifier::HostRewritePathRegex(regex)) => Some(HostRewrite::PathRegex(
            matchers::rewrite(regex).within("host_rewrite_path_regex")?,
        )),
        Some(Specifier::HostRewrite(_)) => {
            return Err(XdsError::new("is not supported").within("host_rewrite"));
        }
    })
}

fn timeouts(from: &rds::RouteAction) -> Result<RouteTimeouts, XdsError> {
    let stream = from.max_stream_duration.unwrap_or_default();
    #[expect(deprecated, reason = "older control planes write max_grpc_timeout")]
    let max_grpc = from.max_grpc_timeout.as_ref();
    let max_grpc_stream = stream.grpc_timeout_header_max.as_ref();
    #[expect(deprecated, reason = "older control planes write grpc_timeout_offset")]
    let offset = stream
        .grpc_timeout_header_offset
        .as_ref()
        .or(from.grpc_timeout_offset.as_ref());
    Ok(RouteTimeouts {
        request: timeout(from.timeout.as_ref(), Some(DEFAULT_TIMEOUT), "timeout")?,
        idle: inherited_timeout(from.idle_timeout.as_ref(), "idle_timeout")?,
        max_stream: inherited_timeout(stream.max_stream_duration.as_ref(), "max_stream_duration")?,
        max_grpc: inherited_timeout(max_grpc, "max_grpc_timeout")?,
        max_grpc_stream: inherited_timeout(
            max_grpc_stream,
            "max_stream_duration.grpc_timeout_header_max",
        )?,
        grpc_offset: optional_duration(offset, "max_stream_duration.grpc_timeout_header_offset")?
            .unwrap_or_default(),
    })
}

/// Mirror policies.
pub(super) fn mirrors(
    from: &[rds::route_action::RequestMirrorPolicy],
) -> Result<Vec<MirrorPolicy>, XdsError> {
    from.iter()
        .enumerate()
        .map(|(index, policy)| mirror(policy).at("request_mirror_policies", index))
        .collect()
}

fn mirror(from: &rds::route_action::RequestMirrorPolicy) -> Result<MirrorPolicy, XdsError> {
    let fraction = from
        .runtime_fraction
        .as_ref()
        .map_or(Ok(Fraction::ALL), runtime_fraction);
    Ok(MirrorPolicy {
        target: named_target(&from.cluster, &from.cluster_header)?,
        fraction: fraction.within("runtime_fraction")?,
        disable_host_suffix: from.disable_shadow_host_suffix_append,
        host_rewrite: non_empty(&from.host_rewrite_literal),
        headers: headers::mutation_list(
            &from.request_headers_mutations,
            "request_headers_mutations",
        )?,
    })
}

fn hash_policy(from: &rds::route_action::HashPolicy) -> Result<HashPolicy, XdsError> {
    use rds::route_action::hash_policy::PolicySpecifier;
    let kind = match from
        .policy_specifier
        .as_ref()
        .ok_or_else(|| XdsError::new("the policy is empty"))?
    {
        PolicySpecifier::Header(header) => HashPolicyKind::Header {
            name: headers::name(&header.header_name).within("header.header_name")?,
            rewrite: header
                .regex_rewrite
                .as_ref()
                .map(matchers::rewrite)
                .transpose()
                .within("header.regex_rewrite")?,
        },
        PolicySpecifier::Cookie(cookie) => HashPolicyKind::Cookie(HashCookie {
            name: cookie.name.as_str().into(),
            ttl: optional_duration(cookie.ttl.as_ref(), "cookie.ttl")?,
            path: cookie.path.as_str().into(),
            attributes: cookie
                .attributes
                .iter()
                .map(|attribute| {
                    (
                        attribute.name.as_str().into(),
                        attribute.value.as_str().into(),
                    )
                })
                .collect(),
        }),
        PolicySpecifier::ConnectionProperties(properties) if properties.source_ip => {
            HashPolicyKind::SourceIp
        }
        // Hashes nothing, and is no reason to refuse a route (Istio's `useSourceIp: false`).
        PolicySpecifier::ConnectionProperties(_) => HashPolicyKind::Nothing,
        PolicySpecifier::QueryParameter(parameter) => {
            HashPolicyKind::QueryParameter(parameter.name.as_str().into())
        }
        PolicySpecifier::FilterState(state) => {
            HashPolicyKind::FilterState(state.key.as_str().into())
        }
    };
    Ok(HashPolicy {
        kind,
        terminal: from.terminal,
    })
}

/// A redirect.
pub(super) fn redirect(from: &rds::RedirectAction) -> Result<Redirect, XdsError> {
    use rds::redirect_action::{
        PathRewriteSpecifier as Path, RedirectResponseCode as Code,
        SchemeRewriteSpecifier as Scheme,
    };
    let path = match from.path_rewrite_specifier.as_ref() {
        None => RedirectPath::Same,
        Some(Path::PathRedirect(path)) => RedirectPath::Literal(path.as_str().into()),
        Some(Path::PrefixRewrite(prefix)) => RedirectPath::Prefix(prefix.as_str().into()),
        Some(Path::RegexRewrite(regex)) => {
            RedirectPath::Regex(matchers::rewrite(regex).within("regex_rewrite")?)
        }
        Some(Path::PathRewrite(_)) => {
            return Err(XdsError::new("is not supported").within("path_rewrite"));
        }
    };
    Ok(Redirect {
        status: match from.response_code() {
            Code::MovedPermanently => 301,
            Code::Found => 302,
            Code::SeeOther => 303,
            Code::TemporaryRedirect => 307,
            Code::PermanentRedirect => 308,
        },
        scheme: match from.scheme_rewrite_specifier.as_ref() {
            Some(Scheme::HttpsRedirect(true)) => Some("https".into()),
            Some(Scheme::SchemeRedirect(scheme)) => non_empty(scheme),
            Some(Scheme::HttpsRedirect(false)) | None => None,
        },
        host: non_empty(&from.host_redirect),
        port: (from.port_redirect != 0)
            .then(|| port(from.port_redirect))
            .transpose()
            .within("port_redirect")?,
        path,
        strip_query: from.strip_query,
    })
}

/// A direct response.
pub(super) fn direct_response(
    from: &rds::DirectResponseAction,
    max_body: u32,
) -> Result<DirectResponse, XdsError> {
    let status = u16::try_from(from.status)
        .ok()
        .filter(|status| (200..600).contains(status));
    let status = status
        .ok_or_else(|| XdsError::new(format!("{} is no status", from.status)).within("status"))?;
    let body = from
        .body
        .as_ref()
        .map(data_source)
        .transpose()
        .within("body")?;
    if let Some(DataSource::Inline(bytes)) = &body
        && bytes.len() > max_body as usize
    {
        let length = bytes.len();
        let reason = format!("the body has {length} bytes, which is more than {max_body}");
        return Err(XdsError::new(reason).within("body"));
    }
    let content_type = from
        .body_format
        .as_ref()
        .map(content_type)
        .transpose()
        .within("body_format")?
        .flatten();
    Ok(DirectResponse {
        status,
        body,
        content_type,
    })
}

/// A body format may only name the content type: the body itself is not formatted.
fn content_type(from: &core::SubstitutionFormatString) -> Result<Option<Arc<str>>, XdsError> {
    match headers::log_format(from)? {
        LogFormat::Text(text) if &*text == "%LOCAL_REPLY_BODY%" => {
            Ok(non_empty(&from.content_type))
        }
        _ => Err(XdsError::new(
            "only the format %LOCAL_REPLY_BODY% is supported",
        )),
    }
}

/// A CORS policy in a route or virtual host.
pub(super) fn cors(from: &rds::CorsPolicy) -> Result<CorsPolicy, XdsError> {
    use rds::cors_policy::EnabledSpecifier;
    let origins = from.allow_origin_string_match.iter().enumerate();
    let origins = origins
        .map(|(index, matcher)| matchers::string(matcher).at("allow_origin_string_match", index));
    let enabled = from
        .enabled_specifier
        .as_ref()
        .map(|EnabledSpecifier::FilterEnabled(share)| runtime_fraction(share));
    Ok(CorsPolicy {
        allow_origins: origins.collect::<Result<_, _>>()?,
        allow_methods: header_value(&from.allow_methods, "allow_methods")?,
        allow_headers: header_value(&from.allow_headers, "allow_headers")?,
        expose_headers: header_value(&from.expose_headers, "expose_headers")?,
        max_age: header_value(&from.max_age, "max_age")?,
        allow_credentials: flag(from.allow_credentials.as_ref(), false),
        allow_private_network: flag(from.allow_private_network_access.as_ref(), false),
        enabled: enabled.transpose().within("filter_enabled")?,
        shadow_enabled: from
            .shadow_enabled
            .as_ref()
            .map(runtime_fraction)
            .transpose()
            .within("shadow_enabled")?,
        forward_not_matching_preflights: flag(from.forward_not_matching_preflights.as_ref(), true),
    })
}

/// A header value, unless it is empty.
pub(super) fn header_value(text: &str, field: &str) -> Result<Option<HeaderValue>, XdsError> {
    if text.is_empty() {
        return Ok(None);
    }
    HeaderValue::from_str(text)
        .map(Some)
        .map_err(|_| XdsError::new(format!("{text:?} is no header value")).within(field))
}
