//! One rule of a policy: who, what, and under which conditions.

use lateen_api::security::{Condition, Operation, Rule, Source};

use crate::proto::{exact, extension, extensions, matcher, prefix, rbac, safe_regex};

use super::Protocol;
use super::matchers::{claim, claim_text, filter_value, header, quote, range, suffix, text};
use super::trust_domains::TrustDomains;
use rbac::permission::Rule as PermissionRule;
use rbac::principal::Identifier;

/// What a rule is translated for.
pub(super) struct RuleContext<'a> {
    /// The policy's namespace, where accounts without one are.
    pub(super) namespace: &'a str,
    pub(super) trust_domains: &'a TrustDomains,
    pub(super) effect: rbac::rbac::Action,
    pub(super) protocol: Protocol,
}

/// A value has no meaning for the connection, or none at all.
#[derive(Debug, PartialEq, Eq)]
struct Inexpressible;

type Made<T> = Result<T, Inexpressible>;

/// What permissions and principals have in common.
trait Term: Sized {
    fn anything() -> Self;
    fn all(terms: Vec<Self>) -> Self;
    fn either(terms: Vec<Self>) -> Self;
    fn not(term: Self) -> Self;
}

impl Term for rbac::Permission {
    fn anything() -> Self {
        permission(PermissionRule::Any(true))
    }

    fn all(rules: Vec<Self>) -> Self {
        permission(PermissionRule::AndRules(rbac::permission::Set { rules }))
    }

    fn either(rules: Vec<Self>) -> Self {
        permission(PermissionRule::OrRules(rbac::permission::Set { rules }))
    }

    fn not(term: Self) -> Self {
        permission(PermissionRule::NotRule(Box::new(term)))
    }
}

impl Term for rbac::Principal {
    fn anything() -> Self {
        principal(Identifier::Any(true))
    }

    fn all(ids: Vec<Self>) -> Self {
        principal(Identifier::AndIds(rbac::principal::Set { ids }))
    }

    fn either(ids: Vec<Self>) -> Self {
        principal(Identifier::OrIds(rbac::principal::Set { ids }))
    }

    fn not(term: Self) -> Self {
        principal(Identifier::NotId(Box::new(term)))
    }
}

fn permission(rule: PermissionRule) -> rbac::Permission {
    rbac::Permission { rule: Some(rule) }
}

fn principal(identifier: Identifier) -> rbac::Principal {
    rbac::Principal {
        identifier: Some(identifier),
    }
}

#[expect(
    deprecated,
    reason = "Istio sends it, and older proxies read nothing else"
)]
fn by_metadata(wanted: matcher::MetadataMatcher) -> rbac::Principal {
    principal(Identifier::Metadata(wanted))
}

#[expect(
    deprecated,
    reason = "Istio sends it, and older proxies read nothing else"
)]
fn to_metadata(wanted: matcher::MetadataMatcher) -> rbac::Permission {
    permission(PermissionRule::Metadata(wanted))
}

/// The policy that matches nothing.
pub(super) fn never() -> rbac::Policy {
    rbac::Policy {
        permissions: vec![Term::not(rbac::Permission::anything())],
        principals: vec![Term::not(rbac::Principal::anything())],
        ..Default::default()
    }
}

/// A rule. None if it allows something that cannot be told for this kind of connection, so that it does not allow it.
pub(super) fn policy(rule: &Rule, context: &RuleContext<'_>) -> Option<rbac::Policy> {
    policy_or_error(rule, context).ok()
}

fn policy_or_error(rule: &Rule, context: &RuleContext<'_>) -> Made<rbac::Policy> {
    let mut base_permissions = Vec::new();
    let mut base_principals = Vec::new();
    for condition in &rule.when {
        if let Some(terms) = condition_permission(condition, context)? {
            base_permissions.extend(terms);
        } else {
            base_principals.extend(condition_principal(condition, context)?);
        }
    }
    let mut permissions = Vec::new();
    for to in &rule.to {
        let mut terms = match &to.operation {
            Some(operation) => operation_terms(operation, context)?,
            None => Vec::new(),
        };
        terms.extend(base_permissions.clone());
        permissions.push(conjunction(terms));
    }
    if rule.to.is_empty() {
        permissions.push(conjunction(base_permissions));
    }
    let mut principals = Vec::new();
    for from in &rule.from {
        let mut terms = match &from.source {
            Some(source) => source_terms(source, context)?,
            None => Vec::new(),
        };
        terms.extend(base_principals.clone());
        principals.push(conjunction(terms));
    }
    if rule.from.is_empty() {
        principals.push(conjunction(base_principals));
    }
    Ok(rbac::Policy {
        permissions,
        principals,
        ..Default::default()
    })
}

fn conjunction<T: Term>(terms: Vec<T>) -> T {
    if terms.is_empty() {
        T::all(vec![T::anything()])
    } else {
        T::all(terms)
    }
}

/// One of the values, and none of the others. Where a denial cannot express a value it goes without it.
fn clause<T: Term>(
    context: &RuleContext<'_>,
    values: &[String],
    not_values: &[String],
    one: impl Fn(&str) -> Made<T>,
) -> Made<Vec<T>> {
    let many = |values: &[String]| -> Made<Vec<T>> {
        let mut out = Vec::new();
        for value in values {
            match one(value) {
                Ok(term) => out.push(term),
                Err(error) if context.effect == rbac::rbac::Action::Allow => return Err(error),
                Err(Inexpressible) => {}
            }
        }
        Ok(out)
    };
    let mut out = Vec::new();
    let wanted = many(values)?;
    if !wanted.is_empty() {
        out.push(T::either(wanted));
    }
    let unwanted = many(not_values)?;
    if !unwanted.is_empty() {
        out.push(T::not(T::either(unwanted)));
    }
    Ok(out)
}

/// As [`clause`], for what takes all values at once.
fn clause_at_once<T: Term>(
    context: &RuleContext<'_>,
    values: &[String],
    not_values: &[String],
    all: impl Fn(&[String]) -> Made<T>,
) -> Made<Vec<T>> {
    let once = |values: &[String]| -> Made<Option<T>> {
        if values.is_empty() {
            return Ok(None);
        }
        match all(values) {
            Ok(term) => Ok(Some(term)),
            Err(error) if context.effect == rbac::rbac::Action::Allow => Err(error),
            Err(Inexpressible) => Ok(None),
        }
    };
    let wanted = once(values)?;
    let unwanted = once(not_values)?.map(T::not);
    Ok(wanted.into_iter().chain(unwanted).collect())
}

/// What only HTTP has.
fn http_only<T>(context: &RuleContext<'_>, term: impl FnOnce() -> T) -> Made<T> {
    if context.protocol == Protocol::Http {
        Ok(term())
    } else {
        Err(Inexpressible)
    }
}

fn operation_terms(
    operation: &Operation,
    context: &RuleContext<'_>,
) -> Made<Vec<rbac::Permission>> {
    let mut out = clause(context, &operation.hosts, &operation.not_hosts, |value| {
        http_only(context, || {
            permission(PermissionRule::Header(header(":authority", value, true)))
        })
    })?;
    out.extend(clause(
        context,
        &operation.methods,
        &operation.not_methods,
        |value| {
            http_only(context, || {
                permission(PermissionRule::Header(header(":method", value, false)))
            })
        },
    )?);
    out.extend(clause(
        context,
        &operation.paths,
        &operation.not_paths,
        |value| http_only(context, || path(value)),
    )?);
    out.extend(clause(
        context,
        &operation.ports,
        &operation.not_ports,
        port,
    )?);
    Ok(out)
}

fn port(value: &str) -> Made<rbac::Permission> {
    let port: u16 = value.parse().map_err(|_| Inexpressible)?;
    Ok(permission(PermissionRule::DestinationPort(u32::from(port))))
}

/// A path, or a template with `{*}` for one part and `{**}` for any number.
fn path(value: &str) -> rbac::Permission {
    if value.contains("{*}") || value.contains("{**}") {
        let template = value.replace("{**}", "**").replace("{*}", "*");
        return permission(PermissionRule::UriTemplate(extension(
            "uri-template",
            &extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig {
                path_template: template,
            },
        )));
    }
    permission(PermissionRule::UrlPath(matcher::PathMatcher {
        rule: Some(matcher::path_matcher::Rule::Path(text(value, ""))),
    }))
}

fn source_terms(source: &Source, context: &RuleContext<'_>) -> Made<Vec<rbac::Principal>> {
    let mut out = principals(context, &source.principals, &source.not_principals)?;
    out.extend(clause_at_once(
        context,
        &source.request_principals,
        &source.not_request_principals,
        |values| http_only(context, || request_principals(values)),
    )?);
    out.extend(clause(
        context,
        &source.service_accounts,
        &source.not_service_accounts,
        |value| Ok(service_account(context.namespace, value)),
    )?);
    out.extend(trust_domains(
        context,
        &source.trust_domains,
        &source.not_trust_domains,
    )?);
    out.extend(clause(
        context,
        &source.namespaces,
        &source.not_namespaces,
        |value| Ok(namespace(value)),
    )?);
    out.extend(clause(
        context,
        &source.remote_ip_blocks,
        &source.not_remote_ip_blocks,
        remote_ip,
    )?);
    out.extend(clause(
        context,
        &source.ip_blocks,
        &source.not_ip_blocks,
        source_ip,
    )?);
    Ok(out)
}

fn remote_ip(value: &str) -> Made<rbac::Principal> {
    Ok(principal(Identifier::RemoteIp(
        range(value).ok_or(Inexpressible)?,
    )))
}

fn source_ip(value: &str) -> Made<rbac::Principal> {
    Ok(principal(Identifier::DirectRemoteIp(
        range(value).ok_or(Inexpressible)?,
    )))
}

/// A peer whose certificate names a matching identity.
fn authenticated(name: matcher::StringMatcher) -> rbac::Principal {
    principal(Identifier::Authenticated(rbac::principal::Authenticated {
        principal_name: Some(name),
    }))
}

fn principals(
    context: &RuleContext<'_>,
    values: &[String],
    not_values: &[String],
) -> Made<Vec<rbac::Principal>> {
    let values = context.trust_domains.principals(values);
    let not_values = context.trust_domains.principals(not_values);
    clause(context, &values, &not_values, |value| {
        Ok(authenticated(text(value, "spiffe://")))
    })
}

fn trust_domains(
    context: &RuleContext<'_>,
    values: &[String],
    not_values: &[String],
) -> Made<Vec<rbac::Principal>> {
    let values = context.trust_domains.domains(values);
    let not_values = context.trust_domains.domains(not_values);
    clause(context, &values, &not_values, |value| {
        Ok(authenticated(match value.split_once('*') {
            None => prefix(&format!("spiffe://{value}/")),
            Some(("", "")) => prefix("spiffe://"),
            Some((before, after)) => safe_regex(&format!(
                "spiffe://{}[^/]*{}/.*",
                quote(before),
                quote(after)
            )),
        }))
    })
}

fn namespace(value: &str) -> rbac::Principal {
    let parts: Vec<String> = value.split('*').map(quote).collect();
    authenticated(safe_regex(&format!(".*/ns/{}/.*", parts.join(".*"))))
}

/// `account`, or `namespace/account`.
fn service_account(own_namespace: &str, value: &str) -> rbac::Principal {
    let (namespace, account) = value.split_once('/').unwrap_or((own_namespace, value));
    authenticated(safe_regex(&format!(
        "spiffe://.+/ns/{}/(.+/|)sa/{}(/.+)?",
        quote(namespace),
        quote(account)
    )))
}

/// `issuer/subject` of a verified token, with a wildcard at one end.
fn request_principals(values: &[String]) -> rbac::Principal {
    let mut terms: Vec<rbac::Principal> = values
        .iter()
        .map(|value| {
            let (issuer, subject) = request_principal(value);
            rbac::Principal::all(vec![
                by_metadata(claim_text("iss", issuer)),
                by_metadata(claim_text("sub", subject)),
            ])
        })
        .collect();
    if terms.len() == 1 {
        terms.remove(0)
    } else {
        rbac::Principal::either(terms)
    }
}

/// What issuer and subject have to be. The last slash parts them, since issuers are often URLs. Source: Istio,
/// `requestPrincipalGenerator`.
fn request_principal(value: &str) -> (matcher::StringMatcher, matcher::StringMatcher) {
    let anything = || safe_regex(".+");
    if value == "*" {
        return (anything(), anything());
    }
    let parts = value.rsplit_once('/');
    if let Some(end) = value.strip_prefix('*') {
        return match parts {
            Some(("*", subject)) => (anything(), exact(subject)),
            Some((issuer, subject)) => (
                suffix(issuer.strip_prefix('*').unwrap_or(issuer)),
                exact(subject),
            ),
            None => (anything(), suffix(end)),
        };
    }
    if let Some(start) = value.strip_suffix('*') {
        return match parts {
            Some((issuer, "*")) => (exact(issuer), anything()),
            Some((issuer, subject)) => (
                exact(issuer),
                prefix(subject.strip_suffix('*').unwrap_or(subject)),
            ),
            None => (prefix(start), anything()),
        };
    }
    let (issuer, subject) = parts.unwrap_or((value, ""));
    (exact(issuer), exact(subject))
}

/// A condition on the destination; none if it is on the source.
fn condition_permission(
    condition: &Condition,
    context: &RuleContext<'_>,
) -> Made<Option<Vec<rbac::Permission>>> {
    let (values, not_values) = (&condition.values, &condition.not_values);
    let terms = match condition.key.as_str() {
        "destination.ip" => clause(context, values, not_values, |value| {
            Ok(permission(PermissionRule::DestinationIp(
                range(value).ok_or(Inexpressible)?,
            )))
        })?,
        "destination.port" => clause(context, values, not_values, port)?,
        "connection.sni" => clause(context, values, not_values, |value| {
            Ok(permission(PermissionRule::RequestedServerName(text(
                value, "",
            ))))
        })?,
        key => match key.strip_prefix("experimental.") {
            Some(rest) if rest.starts_with("envoy.filters.") => {
                let place = rest.strip_suffix(']').unwrap_or(rest).split_once('[');
                clause_at_once(context, values, not_values, |values| {
                    let (filter, key) = place.ok_or(Inexpressible)?;
                    Ok(to_metadata(filter_value(filter, key, values)))
                })?
            }
            _ => return Ok(None),
        },
    };
    Ok(Some(terms))
}

fn condition_principal(
    condition: &Condition,
    context: &RuleContext<'_>,
) -> Made<Vec<rbac::Principal>> {
    let (values, not_values) = (&condition.values, &condition.not_values);
    let claims = |path: Vec<&str>| {
        clause_at_once(context, values, not_values, |values| {
            http_only(context, || by_metadata(claim(&path, values)))
        })
    };
    match condition.key.as_str() {
        "source.ip" => clause(context, values, not_values, source_ip),
        "remote.ip" => clause(context, values, not_values, remote_ip),
        "source.namespace" => clause(context, values, not_values, |value| Ok(namespace(value))),
        "source.serviceAccount" => clause(context, values, not_values, |value| {
            Ok(service_account(context.namespace, value))
        }),
        "source.trustDomain" => trust_domains(context, values, not_values),
        "source.principal" => principals(context, values, not_values),
        "request.auth.principal" => clause_at_once(context, values, not_values, |values| {
            http_only(context, || request_principals(values))
        }),
        "request.auth.audiences" => claims(vec!["aud"]),
        "request.auth.presenter" => claims(vec!["azp"]),
        key => {
            if let Some(name) = key.strip_prefix("request.headers") {
                return clause(context, values, not_values, |value| {
                    let name = bracketed(name).ok_or(Inexpressible)?;
                    http_only(context, || {
                        principal(Identifier::Header(header(name, value, false)))
                    })
                });
            }
            if let Some(path) = key.strip_prefix("request.auth.claims") {
                return clause_at_once(context, values, not_values, |values| {
                    let path = claim_path(path).ok_or(Inexpressible)?;
                    http_only(context, || by_metadata(claim(&path, values)))
                });
            }
            // An unknown condition: a denial holds without it, an allowance does not hold.
            if context.effect == rbac::rbac::Action::Allow {
                Err(Inexpressible)
            } else {
                Ok(Vec::new())
            }
        }
    }
}

/// The name in `[name]`.
fn bracketed(text: &str) -> Option<&str> {
    text.strip_prefix('[')?.strip_suffix(']')
}

/// The names in `[a][b]`; one name, brackets and all, if they do not pair up. Source: Istio, `extractNameInNestedBrackets`.
fn claim_path(text: &str) -> Option<Vec<&str>> {
    let whole = bracketed(text)?;
    let parts: Vec<&str> = whole.split("][").collect();
    if parts.iter().any(|part| part.contains(['[', ']'])) {
        return Some(vec![whole]);
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use lateen_api::security::{RuleFrom, RuleTo};

    use super::*;

    fn context(effect: rbac::rbac::Action, protocol: Protocol) -> RuleContext<'static> {
        static DOMAINS: std::sync::LazyLock<TrustDomains> =
            std::sync::LazyLock::new(|| TrustDomains::new("new.local", &["old.local".to_owned()]));
        RuleContext {
            namespace: "ns",
            trust_domains: &DOMAINS,
            effect,
            protocol,
        }
    }

    fn paths(list: &[&str]) -> Rule {
        let paths = list.iter().map(|&path| path.to_owned()).collect();
        let operation = Operation {
            paths,
            ports: vec!["80".to_owned()],
            ..Default::default()
        };
        Rule {
            to: vec![RuleTo {
                operation: Some(operation),
            }],
            ..Default::default()
        }
    }

    #[test]
    fn what_only_http_has_makes_a_denial_broader_and_an_allowance_void() {
        let rule = paths(&["/admin"]);
        assert!(policy(&rule, &context(rbac::rbac::Action::Allow, Protocol::Tcp)).is_none());
        let denied = policy(&rule, &context(rbac::rbac::Action::Deny, Protocol::Tcp)).unwrap();
        let port = permission(PermissionRule::DestinationPort(80));
        assert_eq!(
            denied.permissions,
            [Term::all(vec![Term::either(vec![port])])]
        );
    }

    #[test]
    fn identities_of_the_mesh_count_in_every_trust_domain_it_had() {
        let source = Source {
            principals: vec![
                "cluster.local/ns/a/sa/b".to_owned(),
                "x/ns/a/sa/b".to_owned(),
            ],
            ..Default::default()
        };
        let rule = Rule {
            from: vec![RuleFrom {
                source: Some(source),
            }],
            ..Default::default()
        };
        let built = policy(&rule, &context(rbac::rbac::Action::Allow, Protocol::Http)).unwrap();
        let id = |td: &str| authenticated(crate::proto::exact(&format!("spiffe://{td}/ns/a/sa/b")));
        let expected = Term::all(vec![Term::either(vec![
            id("new.local"),
            id("old.local"),
            id("x"),
        ])]);
        assert_eq!(built.principals, [expected]);
    }

    #[test]
    fn a_request_principal_is_parted_at_the_last_slash() {
        let any = || safe_regex(".+");
        for (value, issuer, subject) in [
            ("*", any(), any()),
            ("https://a/b/me", exact("https://a/b"), exact("me")),
            ("*/me", any(), exact("me")),
            ("*.example/me", suffix(".example"), exact("me")),
            ("*me", any(), suffix("me")),
            ("https://a/*", exact("https://a"), any()),
            ("https://a/m*", exact("https://a"), prefix("m")),
            ("a*", prefix("a"), any()),
            ("a", exact("a"), exact("")),
        ] {
            assert_eq!(request_principal(value), (issuer, subject), "{value}");
        }
    }

    #[test]
    fn a_claim_is_named_by_its_path() {
        assert_eq!(claim_path("[iss]").unwrap(), ["iss"]);
        assert_eq!(claim_path("[a.b][c/d]").unwrap(), ["a.b", "c/d"]);
        assert_eq!(claim_path("[a[b]").unwrap(), ["a[b"]);
        assert_eq!(claim_path("iss"), None);
    }

    #[test]
    fn an_unknown_condition_never_widens() {
        let condition = Condition {
            key: "no.such".to_owned(),
            values: vec!["x".to_owned()],
            ..Default::default()
        };
        let rule = Rule {
            when: vec![condition],
            ..Default::default()
        };
        assert!(policy(&rule, &context(rbac::rbac::Action::Allow, Protocol::Http)).is_none());
        assert!(policy(&rule, &context(rbac::rbac::Action::Deny, Protocol::Http)).is_some());
    }
}
