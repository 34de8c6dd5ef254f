//! RBAC rules. Whatever cannot be compiled refuses the resource: a policy is never served looser than written.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_envoy::pb::envoy::config::core::v3 as core;
use lateen_envoy::pb::envoy::config::rbac::v3 as rbac;
use lateen_envoy::pb::envoy::extensions::filters::http::rbac::v3 as http_rbac;
use lateen_envoy::pb::envoy::extensions::filters::network::rbac::v3 as network_rbac;
use lateen_envoy::pb::envoy::extensions::path::r#match::uri_template::v3 as uri_template;
use lateen_envoy::pb::envoy::extensions::rbac::principals::mtls_authenticated::v3 as mtls;
use lateen_envoy::pb::envoy::r#type::matcher::v3 as matcher;

use super::basic::{cidr, port};
use super::error::Within as _;
use super::{XdsError, extension, matchers, tls};
use crate::rbac::{Condition, Policy, RbacAction, RbacConfig, Rules, ShadowKeys};
use crate::route::UriTemplate;
use crate::tls::{SanMatcher, SanType};

/// Rules nested in one rule, at most; what evaluates them recurses.
const MAX_DEPTH: usize = 64;

/// The HTTP filter's settings.
pub(super) fn http(from: &http_rbac::Rbac) -> Result<RbacConfig, XdsError> {
    if from.matcher.is_some() || from.shadow_matcher.is_some() {
        return Err(XdsError::new("matcher trees are not supported; use rules").within("matcher"));
    }
    Ok(RbacConfig {
        rules: rules(from.rules.as_ref(), Scope::Http).within("rules")?,
        shadow_rules: rules(from.shadow_rules.as_ref(), Scope::Http).within("shadow_rules")?,
        rules_stat_prefix: from.rules_stat_prefix.as_str().into(),
        shadow_rules_stat_prefix: from.shadow_rules_stat_prefix.as_str().into(),
        shadow_keys: ShadowKeys::new(&from.shadow_rules_stat_prefix),
    })
}

/// The network filter's settings.
pub(super) fn network(from: &network_rbac::Rbac) -> Result<RbacConfig, XdsError> {
    if from.matcher.is_some() || from.shadow_matcher.is_some() {
        return Err(XdsError::new("matcher trees are not supported; use rules").within("matcher"));
    }
    Ok(RbacConfig {
        rules: rules(from.rules.as_ref(), Scope::Network).within("rules")?,
        shadow_rules: rules(from.shadow_rules.as_ref(), Scope::Network).within("shadow_rules")?,
        rules_stat_prefix: from.stat_prefix.as_str().into(),
        shadow_rules_stat_prefix: from.shadow_rules_stat_prefix.as_str().into(),
        shadow_keys: ShadowKeys::new(&from.shadow_rules_stat_prefix),
    })
}

/// Where rules are evaluated. Header and path rules are refused on connections, as Envoy refuses them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Http,
    Network,
}

fn rules(from: Option<&rbac::Rbac>, scope: Scope) -> Result<Option<Arc<Rules>>, XdsError> {
    let Some(from) = from else { return Ok(None) };
    let action = match rbac::rbac::Action::try_from(from.action) {
        Ok(rbac::rbac::Action::Allow) => RbacAction::Allow,
        Ok(rbac::rbac::Action::Deny) => RbacAction::Deny,
        Ok(rbac::rbac::Action::Log) => RbacAction::Log,
        Err(_) => {
            return Err(XdsError::new(format!("{} is no action", from.action)).within("action"));
        }
    };
    // Envoy evaluates policies in the order of their names.
    let sorted: BTreeMap<&String, &rbac::Policy> = from.policies.iter().collect();
    let policies = sorted
        .into_iter()
        .map(|(name, from)| policy(name, from, scope).within(&format!("policies[{name:?}]")));
    let policies = policies.collect::<Result<_, _>>()?;
    Ok(Some(Arc::new(Rules::new(action, policies))))
}

fn policy(name: &str, from: &rbac::Policy, scope: Scope) -> Result<Policy, XdsError> {
    if from.condition.is_some() || from.checked_condition.is_some() {
        return Err(XdsError::new("CEL conditions are not supported").within("condition"));
    }
    Ok(Policy {
        name: name.into(),
        permissions: permissions(&from.permissions, scope, MAX_DEPTH).within("permissions")?,
        principals: principals(&from.principals, scope, MAX_DEPTH).within("principals")?,
    })
}

fn permissions(
    from: &[rbac::Permission],
    scope: Scope,
    depth: usize,
) -> Result<Vec<Condition>, XdsError> {
    from.iter()
        .enumerate()
        .map(|(index, from)| permission(from, scope, depth).at("", index))
        .collect()
}

fn permission(from: &rbac::Permission, scope: Scope, depth: usize) -> Result<Condition, XdsError> {
    use rbac::permission::Rule;
    let depth = deeper(depth)?;
    Ok(
        match from
            .rule
            .as_ref()
            .ok_or_else(|| XdsError::new("the permission is empty"))?
        {
            Rule::AndRules(set) => {
                Condition::And(permissions(&set.rules, scope, depth).within("and_rules")?)
            }
            Rule::OrRules(set) => {
                Condition::Or(permissions(&set.rules, scope, depth).within("or_rules")?)
            }
            Rule::Any(true) => Condition::Any,
            Rule::Any(false) => Condition::Not(Box::new(Condition::Any)),
            Rule::Header(from) => {
                http_only(scope, "header")?;
                Condition::Header(matchers::header(from).within("header")?)
            }
            Rule::UrlPath(from) => {
                http_only(scope, "url_path")?;
                Condition::UrlPath(url_path(from).within("url_path")?)
            }
            Rule::UriTemplate(from) => {
                http_only(scope, "uri_template")?;
                Condition::UriTemplate(template(from).within("uri_template")?)
            }
            Rule::DestinationIp(range) => {
                Condition::DestinationIp(cidr(range).within("destination_ip")?)
            }
            Rule::DestinationPort(number) => {
                Condition::DestinationPort(port(*number).within("destination_port")?)
            }
            Rule::DestinationPortRange(range) => {
                let invalid =
                    || XdsError::new("the port range is invalid").within("destination_port_range");
                let start = u16::try_from(range.start).map_err(|_| invalid())?;
                let end = u32::try_from(range.end)
                    .ok()
                    .filter(|end| *end <= 65_536)
                    .ok_or_else(invalid)?;
                Condition::DestinationPortRange(start, end)
            }
            #[expect(deprecated, reason = "Istio writes this field")]
            Rule::Metadata(from) => {
                Condition::Metadata(matchers::metadata(from).within("metadata")?)
            }
            Rule::SourcedMetadata(from) => {
                Condition::Metadata(sourced(from).within("sourced_metadata")?)
            }
            Rule::NotRule(inner) => Condition::Not(Box::new(
                permission(inner, scope, depth).within("not_rule")?,
            )),
            Rule::RequestedServerName(from) => Condition::RequestedServerName(
                matchers::string(from).within("requested_server_name")?,
            ),
            Rule::Matcher(from) => return Err(unsupported_extension(from).within("matcher")),
        },
    )
}

fn principals(
    from: &[rbac::Principal],
    scope: Scope,
    depth: usize,
) -> Result<Vec<Condition>, XdsError> {
    from.iter()
        .enumerate()
        .map(|(index, from)| principal(from, scope, depth).at("", index))
        .collect()
}

fn principal(from: &rbac::Principal, scope: Scope, depth: usize) -> Result<Condition, XdsError> {
    use rbac::principal::Identifier;
    let depth = deeper(depth)?;
    Ok(
        match from
            .identifier
            .as_ref()
            .ok_or_else(|| XdsError::new("the principal is empty"))?
        {
            Identifier::AndIds(set) => {
                Condition::And(principals(&set.ids, scope, depth).within("and_ids")?)
            }
            Identifier::OrIds(set) => {
                Condition::Or(principals(&set.ids, scope, depth).within("or_ids")?)
            }
            Identifier::Any(true) => Condition::Any,
            Identifier::Any(false) => Condition::Not(Box::new(Condition::Any)),
            Identifier::Authenticated(from) => {
                let name = from
                    .principal_name
                    .as_ref()
                    .map(matchers::string)
                    .transpose();
                Condition::Authenticated(name.within("authenticated.principal_name")?)
            }
            #[expect(deprecated, reason = "EnvoyFilters still use this field")]
            Identifier::SourceIp(range) => Condition::SourceIp(cidr(range).within("source_ip")?),
            Identifier::DirectRemoteIp(range) => {
                Condition::DirectRemoteIp(cidr(range).within("direct_remote_ip")?)
            }
            Identifier::RemoteIp(range) => Condition::RemoteIp(cidr(range).within("remote_ip")?),
            Identifier::Header(from) => {
                http_only(scope, "header")?;
                Condition::Header(matchers::header(from).within("header")?)
            }
            Identifier::UrlPath(from) => {
                http_only(scope, "url_path")?;
                Condition::UrlPath(url_path(from).within("url_path")?)
            }
            #[expect(deprecated, reason = "Istio writes this field")]
            Identifier::Metadata(from) => {
                Condition::Metadata(matchers::metadata(from).within("metadata")?)
            }
            Identifier::SourcedMetadata(from) => {
                Condition::Metadata(sourced(from).within("sourced_metadata")?)
            }
            Identifier::FilterState(from) => filter_state(from).within("filter_state")?,
            Identifier::NotId(inner) => {
                Condition::Not(Box::new(principal(inner, scope, depth).within("not_id")?))
            }
            Identifier::Custom(from) => custom_principal(from).within("custom")?,
        },
    )
}

fn deeper(depth: usize) -> Result<usize, XdsError> {
    depth
        .checked_sub(1)
        .ok_or_else(|| XdsError::new("the rule is nested too deeply"))
}

fn http_only(scope: Scope, field: &str) -> Result<(), XdsError> {
    match scope {
        Scope::Http => Ok(()),
        Scope::Network => Err(XdsError::new("there are no requests on connections").within(field)),
    }
}

fn url_path(from: &matcher::PathMatcher) -> Result<crate::matcher::StringMatcher, XdsError> {
    match from.rule.as_ref() {
        Some(matcher::path_matcher::Rule::Path(path)) => matchers::string(path).within("path"),
        None => Err(XdsError::new("the path matcher is empty")),
    }
}

/// A template in a typed extension.
pub(super) fn template(from: &core::TypedExtensionConfig) -> Result<UriTemplate, XdsError> {
    let any = from
        .typed_config
        .as_ref()
        .ok_or_else(|| XdsError::new("the configuration is missing"))?;
    let config: uri_template::UriTemplateMatchConfig = extension::message(any)?;
    UriTemplate::new(&config.path_template)
        .map_err(|error| XdsError::from_error(&error).within("path_template"))
}

fn sourced(from: &rbac::SourcedMetadata) -> Result<crate::matcher::MetadataMatcher, XdsError> {
    if from.metadata_source() != rbac::MetadataSource::Dynamic {
        return Err(XdsError::new("only dynamic metadata is supported").within("metadata_source"));
    }
    let missing = || XdsError::new("the matcher is missing").within("metadata_matcher");
    matchers::metadata(from.metadata_matcher.as_ref().ok_or_else(missing)?)
        .within("metadata_matcher")
}

fn filter_state(from: &matcher::FilterStateMatcher) -> Result<Condition, XdsError> {
    match from.matcher.as_ref() {
        Some(matcher::filter_state_matcher::Matcher::StringMatch(text)) => {
            let matcher = matchers::string(text).within("string_match")?;
            Ok(Condition::FilterState {
                key: from.key.as_str().into(),
                matcher,
            })
        }
        _ => Err(XdsError::new("only string matches are supported")),
    }
}

fn custom_principal(from: &core::TypedExtensionConfig) -> Result<Condition, XdsError> {
    let Some(any) = from.typed_config.as_ref() else {
        return Err(unsupported_extension(from));
    };
    if extension::type_name(any)? != "envoy.extensions.rbac.principals.mtls_authenticated.v3.Config"
    {
        return Err(unsupported_extension(from));
    }
    let config: mtls::Config = extension::message(any)?;
    match config.san_matcher.as_ref() {
        Some(san) => {
            let san = known_san(tls::san_matcher(san)?).within("san_matcher")?;
            Ok(Condition::MtlsAuthenticated(Some(san)))
        }
        None if config.any_validated_client_certificate => Ok(Condition::MtlsAuthenticated(None)),
        None => Err(XdsError::new(
            "neither a SAN matcher nor any certificate is asked for",
        )),
    }
}

fn known_san(san: SanMatcher) -> Result<SanMatcher, XdsError> {
    match san.san_type {
        SanType::Any | SanType::Dns | SanType::Uri => Ok(san),
        SanType::Email | SanType::IpAddress | SanType::OtherName => {
            Err(XdsError::new("only URI and DNS names are supported"))
        }
    }
}

fn unsupported_extension(from: &core::TypedExtensionConfig) -> XdsError {
    XdsError::new(format!("the extension {:?} is not supported", from.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> rbac::Permission {
        use rbac::permission::Rule;
        let rule = match depth {
            0 => Rule::Any(true),
            depth => Rule::NotRule(Box::new(nested(depth - 1))),
        };
        rbac::Permission { rule: Some(rule) }
    }

    #[test]
    fn rules_that_are_nested_too_deep_are_refused() {
        let read = |depth| permissions(&[nested(depth)], Scope::Http, MAX_DEPTH).map(drop);
        assert!(read(MAX_DEPTH - 2).is_ok());
        let error = read(MAX_DEPTH + 1).unwrap_err().to_string();
        assert!(error.contains("nested too deeply"), "{error}");
    }
}
