//! Rules that match nothing, by their own text.

use std::collections::BTreeSet;

use lateen_api::Diagnostic;
use lateen_api::security::{Operation, Rule, Source};

use super::covers::{any_covers, namespace_of};
use super::{Policy, effect_of_none, on_rule};
use crate::diagnostics::NEVER_MATCHES;

/// A part of a rule that matches nothing, and why.
struct Dead {
    part: String,
    why: String,
    fix: &'static str,
}

type Fields<'a> = [(&'static str, &'a [String], &'a [String])];

/// What of a rule matches nothing. An alternative that does not leaves the others; one value of several, too.
pub(super) fn never(policy: &Policy<'_>, index: usize, rule: &Rule) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (number, from) in rule.from.iter().enumerate() {
        if let Some(source) = &from.source {
            let base = format!("from[{number}].source");
            found.extend(contradiction(&base, &source_fields(source)));
            found.extend(two_namespaces(&base, source));
        }
    }
    for (number, to) in rule.to.iter().enumerate() {
        if let Some(operation) = &to.operation {
            let base = format!("to[{number}].operation");
            found.extend(contradiction(&base, &operation_fields(operation)));
            found.extend(impossible_values(&base, operation));
        }
    }
    for (number, condition) in rule.when.iter().enumerate() {
        let fields = [("values", &condition.values[..], &condition.not_values[..])];
        found.extend(contradiction(&format!("when[{number}]"), &fields));
    }
    let tell = |dead: Dead| {
        on_rule(NEVER_MATCHES, policy, index, &dead.part, dead.why)
            .effect(effect_of_none(policy.spec.action))
            .fix(dead.fix)
    };
    found.into_iter().map(tell).collect()
}

fn source_fields(source: &Source) -> [(&'static str, &[String], &[String]); 7] {
    [
        ("principals", &source.principals, &source.not_principals),
        (
            "requestPrincipals",
            &source.request_principals,
            &source.not_request_principals,
        ),
        ("namespaces", &source.namespaces, &source.not_namespaces),
        (
            "serviceAccounts",
            &source.service_accounts,
            &source.not_service_accounts,
        ),
        ("ipBlocks", &source.ip_blocks, &source.not_ip_blocks),
        (
            "remoteIpBlocks",
            &source.remote_ip_blocks,
            &source.not_remote_ip_blocks,
        ),
        (
            "trustDomains",
            &source.trust_domains,
            &source.not_trust_domains,
        ),
    ]
}

fn operation_fields(operation: &Operation) -> [(&'static str, &[String], &[String]); 4] {
    [
        ("hosts", &operation.hosts, &operation.not_hosts),
        ("methods", &operation.methods, &operation.not_methods),
        ("paths", &operation.paths, &operation.not_paths),
        ("ports", &operation.ports, &operation.not_ports),
    ]
}

/// Values all of which are ruled out by the field's own `not…`.
fn contradiction(base: &str, fields: &Fields<'_>) -> Option<Dead> {
    let (name, values, _) = fields.iter().find(|(_, values, not)| {
        !values.is_empty() && values.iter().all(|value| any_covers(not, value))
    })?;
    Some(Dead {
        part: format!("{base}.{name}"),
        why: format!(
            "all of [{}] are ruled out by the `not` list beside it",
            values.join(", ")
        ),
        fix: "take the values out of one of the two lists",
    })
}

/// Principals of other namespaces than those asked for in the same source: both have to hold.
fn two_namespaces(base: &str, source: &Source) -> Option<Dead> {
    let (namespaces, principals) = (&source.namespaces, &source.principals);
    if namespaces.is_empty() || principals.is_empty() {
        return None;
    }
    let elsewhere = principals
        .iter()
        .all(|name| namespace_of(name).is_some_and(|namespace| !any_covers(namespaces, namespace)));
    elsewhere.then(|| Dead {
        part: format!("{base}.namespaces"),
        why: format!(
            "no principal of [{}] is in namespace {}: within one source all fields have to hold",
            principals.join(", "),
            namespaces.join(" or ")
        ),
        fix: "write two sources (`- source:` twice) if either is enough",
    })
}

/// Values that no request has.
fn impossible_values(base: &str, operation: &Operation) -> Vec<Dead> {
    let mut found = Vec::new();
    let all = |values: &[String], is: &dyn Fn(&String) -> bool| {
        !values.is_empty() && values.iter().all(is)
    };
    if all(&operation.methods, &|method| {
        method.bytes().any(|b| b.is_ascii_lowercase())
    }) {
        found.push(Dead {
            part: format!("{base}.methods"),
            why: format!(
                "methods are in capitals; no client sends `{}`",
                operation.methods[0]
            ),
            fix: "write GET, POST, …",
        });
    }
    if all(&operation.paths, &|path| !path.starts_with(['/', '*', '{'])) {
        found.push(Dead {
            part: format!("{base}.paths"),
            why: format!(
                "every path begins with a slash, `{}` does not",
                operation.paths[0]
            ),
            fix: "put a slash before it",
        });
    }
    if all(&operation.paths, &|path| path.contains(['?', '#'])) {
        found.push(Dead {
            part: format!("{base}.paths"),
            why: format!(
                "`{}` has a query, and paths are compared without theirs",
                operation.paths[0]
            ),
            fix: "end it before the question mark",
        });
    }
    found
}

/// The first field of a rule that is known of requests alone.
pub(super) fn http_field(rule: &Rule) -> Option<String> {
    let from = rule.from.iter().enumerate().find_map(|(number, from)| {
        let source = from.source.as_ref()?;
        let asked =
            !source.request_principals.is_empty() || !source.not_request_principals.is_empty();
        asked.then(|| format!("from[{number}].source.requestPrincipals"))
    });
    let to = || {
        rule.to.iter().enumerate().find_map(|(number, to)| {
            let operation = to.operation.as_ref()?;
            let (name, ..) = operation_fields(operation)
                .into_iter()
                .filter(|(name, ..)| *name != "ports")
                .find(|(_, values, not)| !(values.is_empty() && not.is_empty()))?;
            Some(format!("to[{number}].operation.{name}"))
        })
    };
    let when = || {
        let number = rule
            .when
            .iter()
            .position(|condition| condition.key.starts_with("request."))?;
        Some(format!("when[{number}].key"))
    };
    from.or_else(to).or_else(when)
}

/// The ports a rule is for; none for all.
pub(super) fn ports(rule: &Rule) -> BTreeSet<u32> {
    let lists = rule
        .to
        .iter()
        .filter_map(|to| to.operation.as_ref())
        .map(|o| &o.ports);
    if lists.clone().any(Vec::is_empty) {
        return BTreeSet::new();
    }
    lists
        .flatten()
        .filter_map(|port| port.parse().ok())
        .collect()
}

/// The last part of a field's path.
pub(super) fn leaf(field: &str) -> &str {
    field.rsplit('.').next().unwrap_or(field)
}
