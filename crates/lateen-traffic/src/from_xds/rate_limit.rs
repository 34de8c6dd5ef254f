//! Local rate limits of the filter and of routes, and the rules that make descriptors.

use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::pb::envoy::config::route::v3 as rds;
use lateen_envoy::pb::envoy::extensions::common::ratelimit::v3 as common;
use lateen_envoy::pb::envoy::extensions::filters::http::local_ratelimit::v3 as local_ratelimit;
use lateen_envoy::pb::envoy::r#type::metadata::v3 as metadata;
use lateen_envoy::pb::envoy::r#type::v3 as ty;

use super::basic::{cidrs, duration, flag, number, runtime_fraction};
use super::error::Within as _;
use super::{XdsError, headers, matchers};
use crate::matcher::{Fraction, HeaderKey};
use crate::rate_limit::{
    DEFAULT_DYNAMIC_DESCRIPTORS, EntryValue, LimitedDescriptor, LocalRateLimit, RateLimitAction,
    RateLimitRule, TokenBucket, VirtualHostRules,
};

/// Shortest interval of a bucket. Source: Envoy.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// A local rate limit, of the filter or of a route.
pub(super) fn local(from: &local_ratelimit::LocalRateLimit) -> Result<LocalRateLimit, XdsError> {
    if from.local_cluster_rate_limit.is_some() {
        return Err(XdsError::new(
            "sharing a limit among the proxies of a cluster is not supported",
        )
        .within("local_cluster_rate_limit"));
    }
    let status = from.status.as_ref().map_or(429, |status| status.code);
    let share = |from: Option<_>| from.map_or(Ok(Fraction::NONE), runtime_fraction);
    let common_bucket = from.token_bucket.as_ref().map(bucket).transpose();
    let common_bucket = common_bucket.within("token_bucket")?;
    let descriptors = from
        .descriptors
        .iter()
        .enumerate()
        .map(|(index, one)| descriptor(one, common_bucket.as_ref()).at("descriptors", index));
    Ok(LocalRateLimit {
        stat_prefix: from.stat_prefix.as_str().into(),
        bucket: common_bucket,
        // Envoy answers 429 for anything below 400.
        status: u16::try_from(status)
            .ok()
            .filter(|status| (400..600).contains(status))
            .unwrap_or(429),
        enabled: share(from.filter_enabled.as_ref()).within("filter_enabled")?,
        enforced: share(from.filter_enforced.as_ref()).within("filter_enforced")?,
        response_headers: headers::mutations(
            &from.response_headers_to_add,
            &[],
            "response_headers",
        )?,
        unenforced_request_headers: headers::mutations(
            &from.request_headers_to_add_when_not_enforced,
            &[],
            "request_headers",
        )?,
        per_connection: from.local_rate_limit_per_downstream_connection,
        descriptors: descriptors.collect::<Result<_, _>>()?,
        stage: from.stage,
        rules: rules(&from.rate_limits)?,
        virtual_host_rules: match from.vh_rate_limits() {
            common::VhRateLimitsOptions::Override => VirtualHostRules::Override,
            common::VhRateLimitsOptions::Include => VirtualHostRules::Include,
            common::VhRateLimitsOptions::Ignore => VirtualHostRules::Ignore,
        },
        always_take_common: flag(from.always_consume_default_token_bucket.as_ref(), true),
        tells_limits: from.enable_x_ratelimit_headers()
            == common::XRateLimitHeadersRfcVersion::DraftVersion03,
        tells_retry: from.enable_retry_after_header,
        resource_exhausted: from.rate_limited_as_resource_exhausted,
        max_dynamic: number(from.max_dynamic_descriptors.as_ref())
            .unwrap_or(DEFAULT_DYNAMIC_DESCRIPTORS)
            .max(1),
    })
}

/// A token bucket.
pub(super) fn bucket(from: &ty::TokenBucket) -> Result<TokenBucket, XdsError> {
    let interval = from
        .fill_interval
        .as_ref()
        .map(duration)
        .transpose()
        .within("fill_interval")?
        .unwrap_or_default();
    if from.max_tokens == 0 || from.tokens_per_fill.as_ref().is_some_and(|n| n.value == 0) {
        return Err(XdsError::new("needs tokens"));
    }
    if interval < MIN_INTERVAL {
        return Err(XdsError::new("must be 50 ms or more").within("fill_interval"));
    }
    Ok(TokenBucket {
        max_tokens: from.max_tokens,
        tokens_per_fill: number(from.tokens_per_fill.as_ref()).unwrap_or(1),
        fill_interval: interval,
    })
}

fn descriptor(
    from: &common::LocalRateLimitDescriptor,
    common_bucket: Option<&TokenBucket>,
) -> Result<LimitedDescriptor, XdsError> {
    if from.entries.is_empty() {
        return Err(XdsError::new("needs entries").within("entries"));
    }
    let missing = || XdsError::new("the bucket is missing");
    let own = from.token_bucket.as_ref().ok_or_else(missing);
    let own = own.and_then(bucket).within("token_bucket")?;
    let multiple = common_bucket.is_none_or(|common| {
        own.fill_interval
            .as_nanos()
            .is_multiple_of(common.fill_interval.as_nanos())
    });
    if !multiple {
        let reason = "must be a multiple of the common bucket's";
        return Err(XdsError::new(reason).within("token_bucket.fill_interval"));
    }
    let entries = from.entries.iter();
    Ok(LimitedDescriptor {
        entries: entries
            .map(|entry| (entry.key.as_str().into(), entry.value.as_str().into()))
            .collect(),
        bucket: own,
        shadow: from.shadow_mode,
    })
}

/// The rules of a route, a virtual host or the filter.
pub(super) fn rules(from: &[rds::RateLimit]) -> Result<Vec<RateLimitRule>, XdsError> {
    from.iter()
        .enumerate()
        .map(|(index, one)| rule(one).at("rate_limits", index))
        .collect()
}

fn rule(from: &rds::RateLimit) -> Result<RateLimitRule, XdsError> {
    if from.apply_on_stream_done {
        return Err(XdsError::new("is not supported").within("apply_on_stream_done"));
    }
    let hits = from.hits_addend.clone().unwrap_or_default();
    if !hits.format.is_empty() || hits.is_negative_hits {
        return Err(XdsError::new("only a number is supported").within("hits_addend"));
    }
    let actions = from.actions.iter().enumerate();
    let actions = actions.map(|(index, one)| action(one).at("actions", index));
    Ok(RateLimitRule {
        stage: number(from.stage.as_ref()).unwrap_or(0),
        actions: actions.collect::<Result<_, _>>()?,
        hits: hits.number.map_or(1, |number| number.value),
    })
}

fn action(from: &rds::rate_limit::Action) -> Result<RateLimitAction, XdsError> {
    use rds::rate_limit::action::ActionSpecifier as Kind;
    let missing = || XdsError::new("the action says nothing");
    Ok(match from.action_specifier.as_ref().ok_or_else(missing)? {
        Kind::SourceCluster(_) => RateLimitAction::SourceCluster,
        Kind::DestinationCluster(_) => RateLimitAction::DestinationCluster,
        Kind::RequestHeaders(from) => RateLimitAction::Header {
            name: HeaderKey::parse(&from.header_name).ok_or_else(|| {
                XdsError::new(format!("{:?} is no header name", from.header_name))
                    .within("request_headers.header_name")
            })?,
            key: from.descriptor_key.as_str().into(),
            optional: from.skip_if_absent,
        },
        Kind::QueryParameters(from) => RateLimitAction::Query {
            name: from.query_parameter_name.as_str().into(),
            key: from.descriptor_key.as_str().into(),
            optional: from.skip_if_absent,
        },
        Kind::RemoteAddress(_) => RateLimitAction::RemoteAddress,
        Kind::MaskedRemoteAddress(from) => RateLimitAction::MaskedRemoteAddress {
            v4: bits(from.v4_prefix_mask_len.as_ref(), 32),
            v6: bits(from.v6_prefix_mask_len.as_ref(), 128),
        },
        Kind::GenericKey(from) => RateLimitAction::Generic {
            key: key(&from.descriptor_key, "generic_key"),
            value: value(&from.descriptor_value, &from.default_value).within("generic_key")?,
        },
        Kind::HeaderValueMatch(from) => RateLimitAction::HeaderMatch {
            key: key(&from.descriptor_key, "header_match"),
            value: value(&from.descriptor_value, &from.default_value)
                .within("header_value_match")?,
            expect: flag(from.expect_match.as_ref(), true),
            headers: matchers::headers(&from.headers, "headers").within("header_value_match")?,
        },
        Kind::QueryParameterValueMatch(from) => {
            query_match(from).within("query_parameter_value_match")?
        }
        Kind::RemoteAddressMatch(from) => address_match(from).within("remote_address_match")?,
        Kind::Metadata(from) => metadata_value(from).within("metadata")?,
        // Extensions, and what is gone from Envoy since.
        _ => return Err(XdsError::new("the action is not supported")),
    })
}

fn bits(from: Option<&lateen_envoy::pb::google::protobuf::UInt32Value>, most: u8) -> u8 {
    number(from).map_or(most, |bits| u8::try_from(bits).unwrap_or(most).min(most))
}

fn key(given: &str, default: &str) -> Arc<str> {
    if given.is_empty() { default } else { given }.into()
}

fn value(text: &str, default: &str) -> Result<EntryValue, XdsError> {
    Ok(EntryValue {
        format: headers::format(text).within("descriptor_value")?,
        default: default.into(),
    })
}

fn query_match(
    from: &rds::rate_limit::action::QueryParameterValueMatch,
) -> Result<RateLimitAction, XdsError> {
    let parameters = from.query_parameters.iter().enumerate();
    let parameters =
        parameters.map(|(index, one)| matchers::query(one).at("query_parameters", index));
    Ok(RateLimitAction::QueryMatch {
        key: key(&from.descriptor_key, "query_match"),
        value: value(&from.descriptor_value, &from.default_value)?,
        expect: flag(from.expect_match.as_ref(), true),
        parameters: parameters.collect::<Result<_, _>>()?,
    })
}

fn address_match(
    from: &rds::rate_limit::action::RemoteAddressMatch,
) -> Result<RateLimitAction, XdsError> {
    let missing = || XdsError::new("is missing").within("address_matcher");
    let matcher = from.address_matcher.as_ref().ok_or_else(missing)?;
    Ok(RateLimitAction::AddressMatch {
        key: key(&from.descriptor_key, "remote_address_match"),
        value: value(&from.descriptor_value, &from.default_value)?,
        ranges: cidrs_of(matcher)?,
        invert: matcher.invert_match,
    })
}

fn cidrs_of(
    matcher: &lateen_envoy::pb::envoy::r#type::matcher::v3::AddressMatcher,
) -> Result<Vec<ipnet::IpNet>, XdsError> {
    use lateen_envoy::pb::envoy::config::core::v3::CidrRange;
    let ranges: Vec<CidrRange> = matcher
        .ranges
        .iter()
        .map(|range| CidrRange {
            address_prefix: range.address_prefix.clone(),
            prefix_len: range.prefix_len,
        })
        .collect();
    cidrs(&ranges, "address_matcher.ranges")
}

fn metadata_value(from: &rds::rate_limit::action::MetaData) -> Result<RateLimitAction, XdsError> {
    use metadata::metadata_key::path_segment::Segment;
    use rds::rate_limit::action::meta_data::Source;
    let of_route = match from.source() {
        Source::Dynamic => false,
        Source::RouteEntry => true,
        Source::ClusterEntry | Source::ClusterLocalityEntry => {
            return Err(
                XdsError::new("only DYNAMIC and ROUTE_ENTRY are supported").within("source")
            );
        }
    };
    let whole = from.metadata_key.clone().unwrap_or_default();
    let path = whole.path.iter().filter_map(|segment| {
        let Some(Segment::Key(key)) = segment.segment.as_ref() else {
            return None;
        };
        Some(key.as_str().into())
    });
    Ok(RateLimitAction::Metadata {
        key: from.descriptor_key.as_str().into(),
        namespace: whole.key.as_str().into(),
        path: path.collect(),
        default: from.default_value.as_str().into(),
        of_route,
        optional: from.skip_if_absent,
    })
}
