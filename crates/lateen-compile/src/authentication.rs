//! RequestAuthentication to Envoy's JWT filter.
//!
//! Source: Istio, `pilot/pkg/security/authn`: rules of all policies of a workload together, by issuer; a request may come without
//! a token, and a token that comes has to be good.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use lateen_api::security::{JwtPresence, JwtRule, RequestAuthentication};

use crate::attachment::Workload;
use crate::features::JwksFetch;
use crate::jwks::{self, JwksSource};
use crate::names::{self, ObjectRef};
use crate::proto::{any, core, duration, extensions, hcm, http_filter, inline_string, route};
use crate::shared::Shared;
use crate::snapshot::Snapshot;

use extensions::filters::http::jwt_authn::v3 as jwt;
use jwt::jwt_provider::JwksSourceSpecifier;
use jwt::jwt_requirement::RequiresType;

/// The filter's name, which is also the namespace of its metadata.
pub(crate) const JWT_FILTER: &str = "envoy.filters.http.jwt_authn";

/// The key of the metadata under which claims are.
pub(crate) const JWT_PAYLOAD: &str = "payload";

/// Claims that are lists in a text by their standards (RFC 8693, OAuth 2.0).
const SPACE_DELIMITED: [&str; 2] = ["permission", "scope"];

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RequestAuthConfig {
    pub(crate) object: ObjectRef,
    pub(crate) spec: RequestAuthentication,
}

/// A rule with its keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RuleWithKeys {
    rule: JwtRule,
    keys: Keys,
}

/// Where a proxy has a rule's keys from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Keys {
    /// From the control plane.
    Told(Arc<str>),
    /// It fetches them itself, by way of this cluster.
    Fetched { cluster: String, timeout: Duration },
}

/// For how long a proxy uses keys that it fetched. Source: Istio, `convertToEnvoyJwtConfig`.
const FETCHED_FOR: Duration = Duration::from_secs(5 * 60);

/// What tokens a workload takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct RequestAuthentications {
    /// By issuer; rules of one issuer in the order of their policies.
    rules: Vec<Shared<RuleWithKeys>>,
}

impl RequestAuthentications {
    /// The rules that hold for a workload.
    pub(crate) fn of_workload(snapshot: &Snapshot, workload: &Workload<'_>) -> Self {
        let policies = snapshot.request_authentication(workload);
        let rules = in_order(&policies).into_iter().map(|(policy, index)| {
            let rule = policy.spec.jwt_rules[index].clone();
            let keys = keys(snapshot, &rule);
            Shared::new(RuleWithKeys { rule, keys })
        });
        Self {
            rules: rules.collect(),
        }
    }

    /// The filter; `None` if no rule holds.
    ///
    /// At a gateway a token may decide the route, so that the route is looked for again once it is verified.
    pub(crate) fn http_filter(&self, gateway: bool) -> Option<hcm::HttpFilter> {
        if self.rules.is_empty() {
            return None;
        }
        let names: Vec<String> = (0..self.rules.len())
            .map(|index| format!("origins-{index}"))
            .collect();
        let providers: HashMap<String, jwt::JwtProvider> = names
            .iter()
            .cloned()
            .zip(self.rules.iter().map(|rule| provider(rule, gateway)))
            .collect();
        let requires = requirement(&self.rules, &names);
        let config = jwt::JwtAuthentication {
            providers,
            rules: vec![jwt::RequirementRule {
                r#match: Some(route::RouteMatch {
                    path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
                    ..Default::default()
                }),
                requirement_type: Some(jwt::requirement_rule::RequirementType::Requires(requires)),
            }],
            bypass_cors_preflight: true,
            ..Default::default()
        };
        Some(http_filter(JWT_FILTER, any(&config)))
    }
}

/// The rules of policies in the order in which proxies have them, as `origins-0` and so on: by issuer, those of one issuer in the order of
/// their policies.
fn in_order(policies: &[Shared<RequestAuthConfig>]) -> Vec<(&RequestAuthConfig, usize)> {
    let mut rules: Vec<(&RequestAuthConfig, usize)> = policies
        .iter()
        .flat_map(|policy| (0..policy.spec.jwt_rules.len()).map(move |index| (&**policy, index)))
        .collect();
    rules.sort_by_key(|(policy, index)| policy.spec.jwt_rules[*index].issuer.as_str());
    rules
}

/// The policy and the number of each rule for tokens that holds for a workload, by the number it has in the proxy.
pub(crate) fn rule_sources(
    snapshot: &Snapshot,
    workload: &Workload<'_>,
) -> Vec<(ObjectRef, usize)> {
    let policies = snapshot.request_authentication(workload);
    let rules = in_order(&policies).into_iter();
    rules
        .map(|(policy, index)| (policy.object.clone(), index))
        .collect()
}

/// The keys a proxy gets for a rule.
fn keys(snapshot: &Snapshot, rule: &JwtRule) -> Keys {
    if let Some(cluster) = cluster_of_keys(snapshot, rule) {
        let timeout = rule.timeout.unwrap_or(jwks::DEFAULT_TIMEOUT);
        return Keys::Fetched { cluster, timeout };
    }
    Keys::Told(match JwksSource::of(rule) {
        None => jwks::inline_set(&rule.jwks).into(),
        Some(source) => snapshot
            .jwks(&source)
            .and_then(|known| known.keys.clone())
            .unwrap_or_else(|| jwks::NO_KEYS.into()),
    })
}

/// The cluster that a proxy fetches the keys of a rule by; `None` if the control plane does. Where proxies fetch from everywhere, the
/// cluster of a server that is no service of the mesh does not exist, and every token is refused.
pub(crate) fn cluster_of_keys(snapshot: &Snapshot, rule: &JwtRule) -> Option<String> {
    let mode = snapshot.settings().features.jwks_fetch;
    if mode == JwksFetch::Istiod || rule.jwks_uri.is_empty() || !rule.jwks.is_empty() {
        return None;
    }
    let (host, port) = jwks::host_and_port(&rule.jwks_uri)?;
    let known = snapshot.provider_service(host).is_ok();
    (known || mode == JwksFetch::Envoy).then(|| names::outbound_cluster("", host, port))
}

fn provider(from: &RuleWithKeys, gateway: bool) -> jwt::JwtProvider {
    let rule = &from.rule;
    let claims = rule.output_claim_to_headers.iter();
    let headers = rule.from_headers.iter();
    jwt::JwtProvider {
        issuer: rule.issuer.clone(),
        audiences: rule.audiences.clone(),
        forward: rule.forward_original_token,
        forward_payload_header: rule.output_payload_to_header.clone(),
        payload_in_metadata: JWT_PAYLOAD.to_owned(),
        normalize_payload_in_metadata: Some(jwt::jwt_provider::NormalizePayload {
            space_delimited_claims: space_delimited(&rule.space_delimited_claims),
        }),
        clear_route_cache: gateway,
        claim_to_headers: claims
            .map(|claim| jwt::JwtClaimToHeader {
                header_name: claim.header.clone(),
                claim_name: claim.claim.clone(),
                ..Default::default()
            })
            .collect(),
        from_headers: headers
            .map(|header| jwt::JwtHeader {
                name: header.name.clone(),
                value_prefix: header.prefix.clone(),
            })
            .collect(),
        from_params: rule.from_params.clone(),
        from_cookies: rule.from_cookies.clone(),
        jwks_source_specifier: Some(source(rule, &from.keys)),
        ..Default::default()
    }
}

fn source(rule: &JwtRule, keys: &Keys) -> JwksSourceSpecifier {
    match keys {
        Keys::Told(keys) => JwksSourceSpecifier::LocalJwks(inline_string(keys)),
        Keys::Fetched { cluster, timeout } => JwksSourceSpecifier::RemoteJwks(jwt::RemoteJwks {
            http_uri: Some(core::HttpUri {
                uri: rule.jwks_uri.clone(),
                timeout: Some(duration(*timeout)),
                http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(
                    cluster.clone(),
                )),
            }),
            cache_duration: Some(duration(FETCHED_FOR)),
            ..Default::default()
        }),
    }
}

/// The claims of a rule that are lists in a text, and those that are so by themselves.
fn space_delimited(own: &[String]) -> Vec<String> {
    let all: BTreeSet<&str> = own
        .iter()
        .map(String::as_str)
        .chain(SPACE_DELIMITED)
        .collect();
    all.into_iter().map(str::to_owned).collect()
}

/// One rule: its token, or none. Several: a good token of any of them, or for each a good one or none. The alternatives come
/// first because rules may look for tokens in the same place, where another issuer's token is a bad one.
fn requirement(rules: &[Shared<RuleWithKeys>], names: &[String]) -> jwt::JwtRequirement {
    let optional: Vec<jwt::JwtRequirement> = rules
        .iter()
        .zip(names)
        .map(|(rule, name)| optional(&rule.rule, name))
        .collect();
    if let [only] = optional.as_slice() {
        return only.clone();
    }
    let mut alternatives: Vec<jwt::JwtRequirement> = names.iter().map(|name| by(name)).collect();
    alternatives.push(requires(RequiresType::RequiresAll(
        jwt::JwtRequirementAndList {
            requirements: optional,
        },
    )));
    either(alternatives)
}

/// A provider's token, or none unless the rule says that there has to be one.
fn optional(rule: &JwtRule, name: &str) -> jwt::JwtRequirement {
    if rule.presence == JwtPresence::Required {
        return by(name);
    }
    let missing = requires(RequiresType::AllowMissing(Default::default()));
    either(vec![by(name), missing])
}

fn by(name: &str) -> jwt::JwtRequirement {
    requires(RequiresType::ProviderName(name.to_owned()))
}

fn either(requirements: Vec<jwt::JwtRequirement>) -> jwt::JwtRequirement {
    requires(RequiresType::RequiresAny(jwt::JwtRequirementOrList {
        requirements,
    }))
}

fn requires(what: RequiresType) -> jwt::JwtRequirement {
    jwt::JwtRequirement {
        requires_type: Some(what),
    }
}
