//! What is wrong with RequestAuthentication when everything is known.

use lateen_api::security::{AuthorizationPolicy, RequestAuthentication, Rule};
use lateen_api::{Diagnostic, Resource};

use crate::authentication::cluster_of_keys;
use crate::diagnostics::{JWKS_STALE, JWKS_UNAVAILABLE, NO_REQUEST_AUTHENTICATION, on_resource};
use crate::jwks::JwksSource;
use crate::pod::Pod;

use super::attached::{applies, unknown_target};
use super::objects::Objects;
use super::{Snapshot, sorted};

/// What shows only when everything is known: keys that cannot be had, and policies that ask for tokens nobody verifies.
pub(super) fn findings(snapshot: &Snapshot, resources: &Objects) -> Vec<Diagnostic> {
    let mut out = Vec::new();
    for (resource, spec) in sorted::<RequestAuthentication>(resources) {
        out.extend(unknown_target(resource, spec));
        for (index, rule) in spec.jwt_rules.iter().enumerate() {
            // What proxies fetch is theirs to tell.
            if let Some(source) = JwksSource::of(rule)
                && cluster_of_keys(snapshot, rule).is_none()
            {
                out.extend(keys(snapshot, resource, index, &source));
            }
        }
    }
    for (resource, spec) in sorted::<AuthorizationPolicy>(resources) {
        out.extend(unverified(snapshot, resource, spec));
    }
    out
}

/// What is wrong with a source of keys.
fn keys(
    snapshot: &Snapshot,
    resource: &Resource,
    index: usize,
    source: &JwksSource,
) -> Option<Diagnostic> {
    let known = snapshot.jwks(source)?;
    let problem = known.problem.as_deref()?;
    let field = match source {
        JwksSource::Uri(_) => "jwksUri",
        JwksSource::Discovery(_) | JwksSource::SpiffeBundle(_) => "issuer",
    };
    let field = format!("spec.jwtRules[{index}].{field}");
    let (code, effect) = if known.keys.is_some() {
        (JWKS_STALE, "the keys fetched last stay in force")
    } else {
        (
            JWKS_UNAVAILABLE,
            "every token of this issuer is refused with 401; requests without one pass",
        )
    };
    let message = format!("the keys at {source} cannot be fetched: {problem}");
    Some(
        on_resource(code, resource, &field, message)
            .effect(effect)
            .fix("make the address reachable from the control plane, or put the keys into `jwks`"),
    )
}

/// A policy that asks for what only a verified token has, on a workload whose tokens nobody verifies. Nothing is looser for it:
/// what it allows is refused, what it denies unless there is a token is denied.
fn unverified(
    snapshot: &Snapshot,
    resource: &Resource,
    spec: &AuthorizationPolicy,
) -> Option<Diagnostic> {
    let field = asks_for_token(spec)?;
    let pod = snapshot
        .pods()
        .find(|pod| applies(snapshot, resource, spec, pod) && !verifies(snapshot, pod))?;
    let message = format!(
        "this asks for a verified token, but no RequestAuthentication verifies tokens for pod {}.{}",
        pod.name, pod.namespace
    );
    Some(
        on_resource(NO_REQUEST_AUTHENTICATION, resource, &field, message)
            .effect("no request has a verified token there: the condition never holds, and a `not…` condition always does")
            .fix("add a RequestAuthentication with the token's issuer for the same workloads"),
    )
}

fn verifies(snapshot: &Snapshot, pod: &Pod) -> bool {
    !snapshot.request_authentication(&pod.workload()).is_empty()
}

/// The first field of a policy that only a verified token satisfies.
fn asks_for_token(spec: &AuthorizationPolicy) -> Option<String> {
    spec.rules
        .iter()
        .enumerate()
        .find_map(|(index, rule)| Some(format!("spec.rules[{index}].{}", field_of_token(rule)?)))
}

fn field_of_token(rule: &Rule) -> Option<String> {
    let from = rule.from.iter().enumerate().find_map(|(index, from)| {
        let source = from.source.as_ref()?;
        let name = if !source.request_principals.is_empty() {
            "requestPrincipals"
        } else if !source.not_request_principals.is_empty() {
            "notRequestPrincipals"
        } else {
            return None;
        };
        Some(format!("from[{index}].source.{name}"))
    });
    from.or_else(|| {
        let index = rule
            .when
            .iter()
            .position(|condition| condition.key.starts_with("request.auth."))?;
        Some(format!("when[{index}].key"))
    })
}
