//! `envoy.filters.http.jwt_authn`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Uri};
use lateen_envoy::pb::envoy::config::core::v3 as core;
use lateen_envoy::pb::envoy::extensions::filters::http::jwt_authn::v3 as jwt;

use super::basic::{non_empty, optional_duration, texts};
use super::error::Within as _;
use super::{XdsError, matchers, route};
use crate::filter::FilterOverride;
use crate::jwt::{
    Audiences, ClaimHeader, DEFAULT_CLOCK_SKEW, Group, JwtAuthn, JwtStatus, KeySet, Keys,
    Locations, Provider, RemoteKeys, Requirement, Retries, RouteRequirement, Rule,
};

/// Requirements may be nested so deep.
const MAX_DEPTH: usize = 32;

/// How long fetched keys are used unless it is said. Source: Envoy, `RemoteJwks`, as the others here.
const KEPT: Duration = Duration::from_secs(600);
/// How long after a failed fetch ahead of need the next begins.
const REFETCH: Duration = Duration::from_secs(1);
/// How long the first retry of a fetch waits.
const BACK_OFF: Duration = Duration::from_secs(1);
/// The least that keys are kept and that a fetch waits: Envoy's is a millisecond, with which every request would fetch.
const SHORTEST: Duration = Duration::from_millis(100);
/// Retries of one fetch, whatever the configuration says.
const MOST_RETRIES: u32 = 32;

/// Compiles the filter's configuration.
pub(super) fn compile(from: &jwt::JwtAuthentication) -> Result<JwtAuthn, XdsError> {
    if from.filter_state_rules.is_some() {
        return Err(XdsError::new("is not supported").within("filter_state_rules"));
    }
    let sorted: BTreeMap<&String, &jwt::JwtProvider> = from.providers.iter().collect();
    let mut providers = Vec::with_capacity(sorted.len());
    for (name, provider) in sorted {
        providers.push(compile_provider(name, provider).within(&format!("providers[{name:?}]"))?);
    }
    let sorted: BTreeMap<&String, &jwt::JwtRequirement> = from.requirement_map.iter().collect();
    let mut named = BTreeMap::new();
    for (name, requirement) in sorted {
        let field = format!("requirement_map[{name:?}]");
        let compiled = compile_requirement(requirement, &providers, 0).within(&field)?;
        named.insert(Arc::from(name.as_str()), compiled);
    }
    let mut rules = Vec::with_capacity(from.rules.len());
    for (index, from) in from.rules.iter().enumerate() {
        rules.push(rule(from, &providers, &named).at("rules", index)?);
    }
    Ok(JwtAuthn {
        providers,
        rules,
        named,
        bypass_cors_preflight: from.bypass_cors_preflight,
        strip_failure_response: from.strip_failure_response,
        stat_prefix: from.stat_prefix.as_str().into(),
    })
}

/// Compiles what a route says of the filter.
pub(super) fn per_route(from: &jwt::PerRouteConfig) -> Result<FilterOverride, XdsError> {
    use jwt::per_route_config::RequirementSpecifier;
    match from.requirement_specifier.as_ref() {
        Some(RequirementSpecifier::Disabled(true)) => Ok(FilterOverride::Disabled),
        Some(RequirementSpecifier::RequirementName(name)) => Ok(FilterOverride::Jwt(
            RouteRequirement::Named(name.as_str().into()),
        )),
        _ => Err(XdsError::new("says neither disabled nor a requirement")),
    }
}

fn rule(
    from: &jwt::RequirementRule,
    providers: &[Provider],
    named: &BTreeMap<Arc<str>, Requirement>,
) -> Result<Rule, XdsError> {
    use jwt::requirement_rule::RequirementType;
    let matcher = from
        .r#match
        .as_ref()
        .ok_or_else(|| XdsError::new("the match is missing").within("match"))?;
    let requirement = match from.requirement_type.as_ref() {
        None => None,
        Some(RequirementType::Requires(requirement)) => {
            Some(compile_requirement(requirement, providers, 0).within("requires")?)
        }
        Some(RequirementType::RequirementName(name)) => {
            let found = named.get(name.as_str()).cloned().ok_or_else(|| {
                XdsError::new(format!("requirement {name:?} is not in requirement_map"))
                    .within("requirement_name")
            })?;
            Some(found)
        }
    };
    Ok(Rule {
        matcher: route::route_match(matcher).within("match")?,
        requirement,
    })
}

fn compile_requirement(
    from: &jwt::JwtRequirement,
    providers: &[Provider],
    depth: usize,
) -> Result<Requirement, XdsError> {
    use jwt::jwt_requirement::RequiresType;
    if depth == MAX_DEPTH {
        return Err(XdsError::new("requirements are nested too deep"));
    }
    Ok(match from.requires_type.as_ref() {
        None => Requirement::Nothing,
        Some(RequiresType::ProviderName(name)) => Requirement::Provider {
            provider: provider_index(name, providers).within("provider_name")?,
            audiences: None,
        },
        Some(RequiresType::ProviderAndAudiences(both)) => Requirement::Provider {
            provider: provider_index(&both.provider_name, providers)
                .within("provider_and_audiences")?,
            audiences: (!both.audiences.is_empty())
                .then(|| Audiences::new(both.audiences.iter().map(String::as_str))),
        },
        Some(RequiresType::RequiresAny(list)) => any(&list.requirements, providers, depth)?,
        Some(RequiresType::RequiresAll(list)) => {
            let all = list.requirements.iter().enumerate();
            let all = all.map(|(index, inner)| {
                compile_requirement(inner, providers, depth + 1).at("requires_all", index)
            });
            Requirement::All(all.collect::<Result<_, _>>()?)
        }
        Some(RequiresType::AllowMissingOrFailed(_)) => {
            Requirement::AllowMissingOrFailed(group(&[], providers))
        }
        Some(RequiresType::AllowMissing(_)) => Requirement::AllowMissing(group(&[], providers)),
        Some(RequiresType::ExtractOnlyWithoutValidation(_)) => {
            return Err(XdsError::new(
                "is not supported: claims that nobody verified would look like verified ones",
            )
            .within("extract_only_without_validation"));
        }
    })
}

/// Alternatives. What lets a token be missing comes last, and looks where the other alternatives' providers have their tokens. Source:
/// Envoy, `AnyVerifierImpl`.
fn any(
    list: &[jwt::JwtRequirement],
    providers: &[Provider],
    depth: usize,
) -> Result<Requirement, XdsError> {
    let (mut out, mut used) = (Vec::with_capacity(list.len()), Vec::new());
    let (mut missing, mut failed) = (false, false);
    for (index, inner) in list.iter().enumerate() {
        let compiled =
            compile_requirement(inner, providers, depth + 1).at("requires_any", index)?;
        match compiled {
            Requirement::AllowMissing(_) => missing = true,
            Requirement::AllowMissingOrFailed(_) => failed = true,
            regular => {
                if let Requirement::Provider { provider, .. } = regular {
                    used.push(provider);
                }
                out.push(regular);
            }
        }
    }
    if failed {
        out.push(Requirement::AllowMissingOrFailed(group(&used, providers)));
    } else if missing {
        out.push(Requirement::AllowMissing(group(&used, providers)));
    }
    Ok(Requirement::Any(out))
}

/// Several providers together; all of them if none is named.
fn group(used: &[usize], providers: &[Provider]) -> Group {
    let all: Vec<usize> = (0..providers.len()).collect();
    let used = if used.is_empty() { &all } else { used };
    let mut locations = Locations::default();
    for index in used {
        locations.merge(&providers[*index].locations);
    }
    Group {
        providers: used.to_vec(),
        locations,
    }
}

fn provider_index(name: &str, providers: &[Provider]) -> Result<usize, XdsError> {
    providers
        .iter()
        .position(|provider| *provider.name == *name)
        .ok_or_else(|| XdsError::new(format!("required provider {name:?} is not configured")))
}

fn compile_provider(name: &str, from: &jwt::JwtProvider) -> Result<Provider, XdsError> {
    let issuer: Arc<str> = from.issuer.as_str().into();
    let space_delimited = from
        .normalize_payload_in_metadata
        .as_ref()
        .map(|normalize| texts(&normalize.space_delimited_claims))
        .unwrap_or_default();
    Ok(Provider {
        name: name.into(),
        locations: locations(from, &issuer)?,
        issuer,
        audiences: Audiences::new(from.audiences.iter().map(String::as_str)),
        subjects: from
            .subjects
            .as_ref()
            .map(matchers::string)
            .transpose()
            .within("subjects")?,
        require_expiration: from.require_expiration,
        max_lifetime: optional_duration(from.max_lifetime.as_ref(), "max_lifetime")?,
        keys: keys(from)?,
        forward: from.forward,
        payload_header: non_empty(&from.forward_payload_header)
            .map(|name| header_name(&name))
            .transpose()
            .within("forward_payload_header")?,
        pad_payload: from.pad_forward_payload_header,
        claim_headers: claim_headers(&from.claim_to_headers)?,
        payload_in_metadata: from.payload_in_metadata.as_str().into(),
        header_in_metadata: from.header_in_metadata.as_str().into(),
        failure_in_metadata: from.failed_status_in_metadata.as_str().into(),
        space_delimited,
        clock_skew: match from.clock_skew_seconds {
            0 => DEFAULT_CLOCK_SKEW,
            seconds => u64::from(seconds),
        },
        clear_route_cache: from.clear_route_cache,
    })
}

/// The provider's keys. What cannot be used as keys does not refuse the listener, but every token: so does Envoy.
fn keys(from: &jwt::JwtProvider) -> Result<Keys, XdsError> {
    use core::data_source::Specifier;
    use jwt::jwt_provider::JwksSourceSpecifier;
    let source = match from.jwks_source_specifier.as_ref() {
        Some(JwksSourceSpecifier::LocalJwks(source)) => source,
        Some(JwksSourceSpecifier::RemoteJwks(remote)) => {
            let remote = remote_keys(remote).within("remote_jwks")?;
            return Ok(Keys::Remote(Arc::new(remote)));
        }
        None => return Err(XdsError::new("the source of keys is missing").within("local_jwks")),
    };
    let text = match source.specifier.as_ref() {
        Some(Specifier::InlineString(text)) => text.as_str(),
        Some(Specifier::InlineBytes(bytes)) => std::str::from_utf8(bytes).unwrap_or_default(),
        _ => return Ok(Keys::Given(Err(JwtStatus::NoValidKeys))),
    };
    let keys = KeySet::parse(text).map(Arc::new);
    Ok(Keys::Given(keys.map_err(|_| JwtStatus::NoValidKeys)))
}

/// Keys that have to be fetched.
fn remote_keys(from: &jwt::RemoteJwks) -> Result<RemoteKeys, XdsError> {
    use core::http_uri::HttpUpstreamType;
    let missing = || XdsError::new("is missing").within("http_uri");
    let http = from.http_uri.as_ref().ok_or_else(missing)?;
    let Some(HttpUpstreamType::Cluster(cluster)) = http.http_upstream_type.as_ref() else {
        return Err(XdsError::new("the cluster is missing").within("http_uri"));
    };
    let uri: Uri = http
        .uri
        .parse()
        .map_err(|_| XdsError::new(format!("{:?} is no URI", http.uri)).within("http_uri.uri"))?;
    let no_host = || XdsError::new(format!("{:?} has no host", http.uri)).within("http_uri.uri");
    let authority = uri.authority().ok_or_else(no_host)?;
    let kept = optional_duration(from.cache_duration.as_ref(), "cache_duration")?;
    let ahead = from.async_fetch.as_ref().map(|ahead| {
        let again = ahead.failed_refetch_duration.as_ref();
        optional_duration(again, "async_fetch.failed_refetch_duration")
            .map(|again| again.unwrap_or(REFETCH))
    });
    Ok(RemoteKeys {
        cluster: cluster.as_str().into(),
        secure: uri.scheme_str() == Some("https"),
        authority: authority.as_str().into(),
        path: uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .into(),
        timeout: optional_duration(http.timeout.as_ref(), "http_uri.timeout")?
            .filter(|timeout| !timeout.is_zero()),
        kept: kept.unwrap_or(KEPT).max(SHORTEST),
        ahead: ahead.transpose()?.map(|again| again.max(SHORTEST)),
        retries: retries(from.retry_policy.as_ref())?,
    })
}

/// Retries of a fetch: none unless there is a policy, and then one unless it says how many.
fn retries(from: Option<&core::RetryPolicy>) -> Result<Retries, XdsError> {
    let Some(from) = from else {
        return Ok(Retries::default());
    };
    let back_off = from.retry_back_off.as_ref();
    let base = back_off.and_then(|back_off| back_off.base_interval.as_ref());
    let base = optional_duration(base, "retry_policy.retry_back_off.base_interval")?;
    let longest = back_off.and_then(|back_off| back_off.max_interval.as_ref());
    let longest = optional_duration(longest, "retry_policy.retry_back_off.max_interval")?;
    let base = base.unwrap_or(BACK_OFF);
    Ok(Retries {
        most: from
            .num_retries
            .map_or(1, |most| most.value)
            .min(MOST_RETRIES),
        base,
        longest: longest.unwrap_or_else(|| base.saturating_mul(10)),
    })
}

fn locations(from: &jwt::JwtProvider, issuer: &Arc<str>) -> Result<Locations, XdsError> {
    let mut out = Locations::default();
    for (index, header) in from.from_headers.iter().enumerate() {
        let name = header_name(&header.name).at("from_headers", index)?;
        out.add_header(issuer, &name, &header.value_prefix);
    }
    for name in &from.from_params {
        out.add_parameter(issuer, name);
    }
    for name in &from.from_cookies {
        out.add_cookie(issuer, name);
    }
    if out.is_empty() {
        out.add_default(issuer);
    }
    Ok(out)
}

fn claim_headers(from: &[jwt::JwtClaimToHeader]) -> Result<Vec<ClaimHeader>, XdsError> {
    let one = |(index, from): (usize, &jwt::JwtClaimToHeader)| {
        let header = header_name(&from.header_name).at("claim_to_headers", index)?;
        let path = if from.claim_path.is_empty() {
            from.claim_name.split('.').map(Arc::from).collect()
        } else {
            let keys = from.claim_path.iter();
            keys.map(|segment| segment.key.as_str().into()).collect()
        };
        Ok(ClaimHeader { header, path })
    };
    from.iter().enumerate().map(one).collect()
}

fn header_name(name: &str) -> Result<HeaderName, XdsError> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| XdsError::new(format!("{name:?} is no header name")))
}
