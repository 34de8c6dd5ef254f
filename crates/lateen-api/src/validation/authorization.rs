//! AuthorizationPolicy.

use super::{Report, common, forms};
use crate::path;
use crate::security::{Action, AuthorizationPolicy, Condition, Operation, Rule, Source};

pub(crate) fn check(spec: &AuthorizationPolicy, report: &mut Report<'_>) {
    common::selector(spec.selector.as_ref(), report);
    common::targets(spec.target_ref.as_ref(), &spec.target_refs, report);
    action(spec, report);
    split_rules(&spec.rules, report);
    report.each("rules", &spec.rules, |report, rule| {
        empty_lists(rule, report);
        report.each("from", &rule.from, |report, from| match &from.source {
            Some(source) => report.key("source", |report| check_source(source, report)),
            None => report.error("`source` is required"),
        });
        report.each("to", &rule.to, |report, to| match &to.operation {
            Some(operation) => report.key("operation", |report| check_operation(operation, report)),
            None => report.error("`operation` is required"),
        });
        report.each("when", &rule.when, condition);
        if spec.action == Action::Custom {
            custom_rule(rule, report);
        }
        if spec.action == Action::Deny && denies_all_tcp(rule) {
            report.warning(
                "this DENY rule asks only for what HTTP has",
                "every TCP connection to the workloads is denied; add `ports` to narrow it",
            );
        }
    });
}

fn action(spec: &AuthorizationPolicy, report: &mut Report<'_>) {
    let provider = spec
        .provider
        .as_ref()
        .map(|provider| provider.name.as_str());
    let never = "without rules it never applies";
    match spec.action {
        Action::Custom if spec.rules.is_empty() => {
            report.error_with(
                format!("CUSTOM: {never}"),
                "write `rules: [{}]` for every request",
            );
        }
        Action::Custom if provider.unwrap_or_default().is_empty() => {
            report.error("CUSTOM needs `provider: {name: …}`, an extension provider of the mesh");
        }
        Action::Deny if spec.rules.is_empty() => {
            report.error_with(
                format!("DENY: {never}"),
                "write `rules: [{}]` for every request",
            );
        }
        Action::Custom => {}
        action if provider.is_some() => {
            report.error_at(
                "provider",
                format!("a provider goes only with CUSTOM, not {action}"),
            );
        }
        _ => {}
    }
}

/// `- from`, `- to` and `- when` as items of `rules`: three alternatives where one rule was meant, which allows or denies far more.
fn split_rules(rules: &[Rule], report: &mut Report<'_>) {
    let parts = |rule: &Rule| {
        [
            !rule.from.is_empty(),
            !rule.to.is_empty(),
            !rule.when.is_empty(),
        ]
    };
    let single = |rule: &&Rule| parts(rule).iter().filter(|there| **there).count() == 1;
    let mut seen = [false; 3];
    for rule in rules.iter().filter(single) {
        for (seen, there) in seen.iter_mut().zip(parts(rule)) {
            *seen |= there;
        }
    }
    let different = seen.iter().filter(|there| **there).count();
    if different < 2 || !rules.iter().all(|rule| single(&rule)) {
        return;
    }
    report.key("rules", |report| {
        report.warning(
            "each item is a rule of its own, and one that holds is enough: `from`, `to` and `when` of different items are not joined",
            "the policy matches whatever any one of them matches; to ask for all, write them in one item, with a single dash",
        );
    });
}

/// A list that is written, but empty, asks for nothing: the rule would match more than it seems to say.
fn empty_lists(rule: &Rule, report: &mut Report<'_>) {
    for (key, is_empty) in [("from", rule.from.is_empty()), ("to", rule.to.is_empty())] {
        if is_empty && is_written(key, report) {
            let message = format!("`{key}` is empty, and would match everything");
            report.key(key, |report| {
                report.error_with(message, format!("leave `{key}` out"))
            });
        }
    }
}

/// Whether the file has something other than null at `.key`.
fn is_written(key: &str, report: &mut Report<'_>) -> bool {
    let root = &report.resource.origin.root;
    report.key(key, |report| {
        path::node(root, &report.path).is_some_and(|node| !node.is_null())
    })
}

/// A field's name and its values.
type Values<'a> = (&'static str, &'a [String]);

fn check_source(source: &Source, report: &mut Report<'_>) {
    let names: [Values<'_>; 6] = [
        ("principals", &source.principals),
        ("notPrincipals", &source.not_principals),
        ("requestPrincipals", &source.request_principals),
        ("notRequestPrincipals", &source.not_request_principals),
        ("namespaces", &source.namespaces),
        ("notNamespaces", &source.not_namespaces),
    ];
    let addresses: [Values<'_>; 4] = [
        ("ipBlocks", &source.ip_blocks),
        ("notIpBlocks", &source.not_ip_blocks),
        ("remoteIpBlocks", &source.remote_ip_blocks),
        ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
    ];
    let accounts: [Values<'_>; 2] = [
        ("serviceAccounts", &source.service_accounts),
        ("notServiceAccounts", &source.not_service_accounts),
    ];
    let domains: [Values<'_>; 2] = [
        ("trustDomains", &source.trust_domains),
        ("notTrustDomains", &source.not_trust_domains),
    ];
    let all = names
        .iter()
        .chain(&addresses)
        .chain(&accounts)
        .chain(&domains);
    not_nothing(&all.copied().collect::<Vec<_>>(), report);
    for (key, values) in names {
        each_value(key, values, no_empty, report);
    }
    for (key, values) in addresses {
        each_value(key, values, address, report);
    }
    for (key, values) in accounts {
        each_value(key, values, service_account, report);
    }
    for (key, values) in domains {
        each_value(key, values, trust_domain, report);
    }
}

fn check_operation(operation: &Operation, report: &mut Report<'_>) {
    let names: [Values<'_>; 4] = [
        ("hosts", &operation.hosts),
        ("notHosts", &operation.not_hosts),
        ("methods", &operation.methods),
        ("notMethods", &operation.not_methods),
    ];
    let ports: [Values<'_>; 2] = [
        ("ports", &operation.ports),
        ("notPorts", &operation.not_ports),
    ];
    let paths: [Values<'_>; 2] = [
        ("paths", &operation.paths),
        ("notPaths", &operation.not_paths),
    ];
    not_nothing(
        &names
            .iter()
            .chain(&ports)
            .chain(&paths)
            .copied()
            .collect::<Vec<_>>(),
        report,
    );
    for (key, values) in names {
        each_value(key, values, no_empty, report);
    }
    for (key, values) in ports {
        each_value(key, values, port, report);
    }
    for (key, values) in paths {
        each_value(key, values, path_template, report);
    }
}

/// At least one of the fields has values; one that is written has some.
fn not_nothing(fields: &[Values<'_>], report: &mut Report<'_>) {
    if fields.iter().all(|(_, values)| values.is_empty()) {
        report.error("it asks for nothing, and would match everything");
        return;
    }
    for (key, _) in fields.iter().filter(|(_, values)| values.is_empty()) {
        if is_written(key, report) {
            report.key(key, |report| {
                report.warning("the list is empty", "it is as if it were left out");
            });
        }
    }
}

fn each_value(key: &str, values: &[String], check: ValueCheck, report: &mut Report<'_>) {
    report.each(key, values, |report, value| {
        if let Some(why) = check(value) {
            report.error(why);
        }
    });
}

fn no_empty(value: &str) -> Option<String> {
    value
        .is_empty()
        .then(|| "an empty value matches nothing".to_owned())
}

fn address(value: &str) -> Option<String> {
    (!forms::is_ip_or_cidr(value))
        .then(|| format!("`{value}` is neither an IP address nor a CIDR range"))
}

fn port(value: &str) -> Option<String> {
    value
        .parse::<u16>()
        .is_err()
        .then(|| format!("`{value}` is not a port"))
}

fn service_account(value: &str) -> Option<String> {
    let holds = match value.split_once('/') {
        Some((namespace, name)) => !namespace.is_empty() && !name.is_empty() && !name.contains('/'),
        None => !value.is_empty(),
    };
    (!holds || value.contains('*')).then(|| {
        format!("`{value}` is not a service account: write name or namespace/name, no wildcard")
    })
}

/// One wildcard at most, at the start or the end.
fn wildcard(value: &str) -> Option<String> {
    let inner = value
        .strip_prefix('*')
        .or_else(|| value.strip_suffix('*'))
        .unwrap_or(value);
    (value.is_empty() || inner.contains('*'))
        .then(|| format!("`{value}` can have one wildcard, at its start or its end"))
}

fn trust_domain(value: &str) -> Option<String> {
    wildcard(value).or_else(|| {
        value
            .contains('/')
            .then(|| format!("`{value}` is not a trust domain: it has a `/`"))
    })
}

/// Path templates: `{*}` is one segment, `{**}` the rest.
fn path_template(value: &str) -> Option<String> {
    if value.is_empty() {
        return no_empty(value);
    }
    let is_template = value.contains("{*}") || value.contains("{**}");
    let mut rest_taken = false;
    for segment in value.trim_matches('/').split('/') {
        match segment {
            "{*}" | "{**}" if rest_taken => {
                return Some(format!("`{value}`: {{**}} has to be the last operator"));
            }
            "{*}" => {}
            "{**}" => rest_taken = true,
            segment if segment.contains(['{', '}']) => {
                return Some(format!(
                    "`{value}`: only {{*}} and {{**}} can stand in braces"
                ));
            }
            segment if is_template && !is_literal(segment) => {
                return Some(format!(
                    "`{value}`: `{segment}` is not a segment of a path template"
                ));
            }
            _ => {}
        }
    }
    None
}

/// RFC 3986's `pchar`s, as Envoy wants them in path templates.
fn is_literal(segment: &str) -> bool {
    !segment.is_empty()
        && segment
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&b))
}

/// What is wrong with a value, if anything.
type ValueCheck = fn(&str) -> Option<String>;

/// What a condition's key asks for, by its exact name.
const ATTRIBUTES: &[(&str, ValueCheck)] = &[
    ("source.ip", address),
    ("remote.ip", address),
    ("destination.ip", address),
    ("destination.port", port),
    ("source.namespace", no_empty),
    ("source.serviceAccount", service_account),
    ("source.principal", no_empty),
    ("source.trustDomain", wildcard),
    ("request.auth.principal", no_empty),
    ("request.auth.audiences", no_empty),
    ("request.auth.presenter", no_empty),
    ("connection.sni", no_empty),
];

/// Keys that take a name in brackets.
const MAPS: [&str; 3] = [
    "request.headers",
    "request.auth.claims",
    "experimental.envoy.filters.",
];

fn condition(report: &mut Report<'_>, condition: &Condition) {
    let key = condition.key.as_str();
    if key.is_empty() {
        return;
    }
    if condition.values.is_empty() && condition.not_values.is_empty() {
        report.error(format!(
            "the condition on `{key}` needs `values` or `notValues`"
        ));
    }
    let lists: [Values<'_>; 2] = [
        ("values", &condition.values),
        ("notValues", &condition.not_values),
    ];
    if let Some((_, check)) = ATTRIBUTES.iter().find(|(name, _)| *name == key) {
        for (field, values) in lists {
            each_value(field, values, *check, report);
        }
        return;
    }
    if MAPS.iter().any(|prefix| key.starts_with(prefix)) {
        let open = key.find('[').unwrap_or(0);
        if !key.ends_with(']') || open == 0 || open + 2 >= key.len() {
            let message = format!("`{key}` needs a name in brackets, as in request.headers[name]");
            report.error_at("key", message);
        }
        for (field, values) in lists {
            each_value(field, values, no_empty, report);
        }
        return;
    }
    unknown_key(key, report);
}

fn unknown_key(key: &str, report: &mut Report<'_>) {
    let names: Vec<&str> = ATTRIBUTES
        .iter()
        .map(|(name, _)| *name)
        .chain(MAPS[..2].iter().copied())
        .collect();
    let fix = match key {
        "destination.namespace" => {
            "a policy applies to its own namespace: `metadata.namespace`".to_owned()
        }
        key if key.starts_with("destination.labels") => {
            "select workloads with `selector: {matchLabels: {…}}`".to_owned()
        }
        key => match crate::schema::suggest::nearest(key, &names) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("known are {}", crate::schema::suggest::list(&names)),
        },
    };
    let message = format!("there is no attribute `{key}`");
    report.key("key", |report| report.error_with(message, fix));
}

/// What an external authorizer is not asked about yet.
fn custom_rule(rule: &Rule, report: &mut Report<'_>) {
    report.each("from", &rule.from, |report, from| {
        let Some(source) = &from.source else { return };
        let unsupported: [Values<'_>; 10] = [
            ("namespaces", &source.namespaces),
            ("notNamespaces", &source.not_namespaces),
            ("serviceAccounts", &source.service_accounts),
            ("notServiceAccounts", &source.not_service_accounts),
            ("trustDomains", &source.trust_domains),
            ("notTrustDomains", &source.not_trust_domains),
            ("principals", &source.principals),
            ("notPrincipals", &source.not_principals),
            ("requestPrincipals", &source.request_principals),
            ("notRequestPrincipals", &source.not_request_principals),
        ];
        report.key("source", |report| {
            for (key, _) in unsupported.iter().filter(|(_, values)| !values.is_empty()) {
                report.error_at(key, format!("`{key}` does not go with the action CUSTOM"));
            }
        });
    });
    report.each("when", &rule.when, |report, condition| {
        let key = condition.key.as_str();
        let unsupported = matches!(
            key,
            "source.namespace"
                | "source.serviceAccount"
                | "source.trustDomain"
                | "source.principal"
        ) || key.starts_with("request.auth.");
        if unsupported {
            report.error_at("key", format!("`{key}` does not go with the action CUSTOM"));
        }
    });
}

/// A DENY rule about HTTP alone matches every TCP connection, since none shows that it is not meant.
fn denies_all_tcp(rule: &Rule) -> bool {
    let sources: Vec<&Source> = rule
        .from
        .iter()
        .filter_map(|from| from.source.as_ref())
        .collect();
    let operations: Vec<&Operation> = rule
        .to
        .iter()
        .filter_map(|to| to.operation.as_ref())
        .collect();
    let known_by_tcp = |source: &&Source| {
        [
            &source.principals,
            &source.not_principals,
            &source.ip_blocks,
            &source.not_ip_blocks,
            &source.namespaces,
            &source.not_namespaces,
            &source.remote_ip_blocks,
            &source.not_remote_ip_blocks,
            &source.service_accounts,
            &source.not_service_accounts,
        ]
        .iter()
        .any(|values| !values.is_empty())
    };
    let has_ports =
        |operation: &&Operation| !operation.ports.is_empty() || !operation.not_ports.is_empty();
    let only_from = !sources.is_empty() && operations.is_empty();
    (only_from && !sources.iter().any(known_by_tcp))
        || (!operations.is_empty() && !operations.iter().any(has_ports))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_templates_end_with_the_rest() {
        for fine in ["/a/*", "/a/{*}/b", "/a/{**}", "/{*}/{**}/x"] {
            assert_eq!(path_template(fine), None, "{fine}");
        }
        for wrong in ["/{**}/{*}", "/{a}", "/{*}x", "/{*}/ /x"] {
            assert!(path_template(wrong).is_some(), "{wrong}");
        }
    }

    #[test]
    fn rules_taken_apart_by_their_dashes_are_pointed_out() {
        let found = |rules: &str| {
            let text = format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p}}\nspec: {{rules: {rules}}}\n"
            );
            let parsed = crate::parse_file(&crate::SourceFile::new("p.yaml", &text), "default");
            assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
            crate::validate(&parsed.resources[0]).len()
        };
        let from = "from: [{source: {namespaces: [a]}}]";
        let to = "to: [{operation: {methods: [GET]}}]";
        assert_eq!(found(&format!("[{{{from}}}, {{{to}}}]")), 1);
        assert_eq!(found(&format!("[{{{from}, {to}}}]")), 0);
        assert_eq!(found(&format!("[{{{from}}}, {{{from}}}]")), 0);
        assert_eq!(found(&format!("[{{{from}, {to}}}, {{{to}}}]")), 0);
    }

    #[test]
    fn a_service_account_has_no_wildcard() {
        assert_eq!(service_account("ns/sa"), None);
        assert!(service_account("ns/*").is_some());
        assert!(service_account("a/b/c").is_some());
    }
}
