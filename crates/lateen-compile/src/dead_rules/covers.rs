//! Whether one rule matches everything another does. `false` where that cannot be told.

use ipnet::IpNet;
use lateen_api::security::{Condition, Operation, Rule, Source};

/// Whether `wide` matches whatever `narrow` does.
pub(super) fn rule(wide: &Rule, narrow: &Rule) -> bool {
    let sources: Vec<&Source> = narrow
        .from
        .iter()
        .filter_map(|f| f.source.as_ref())
        .collect();
    let operations: Vec<&Operation> = narrow
        .to
        .iter()
        .filter_map(|t| t.operation.as_ref())
        .collect();
    let from = wide.from.is_empty()
        || (!sources.is_empty()
            && sources.iter().all(|own| {
                let mut wider = wide.from.iter().filter_map(|from| from.source.as_ref());
                wider.any(|wider| source(wider, own))
            }));
    let to = wide.to.is_empty()
        || (!operations.is_empty()
            && operations.iter().all(|own| {
                let mut wider = wide.to.iter().filter_map(|to| to.operation.as_ref());
                wider.any(|wider| operation(wider, own))
            }));
    from && to
        && wide
            .when
            .iter()
            .all(|wider| narrow.when.iter().any(|own| condition(wider, own)))
}

type List<'a> = (&'a [String], &'a [String]);

fn source(wide: &Source, narrow: &Source) -> bool {
    // An identity says which namespace it is of.
    let namespaces: Vec<String> = match &narrow.namespaces[..] {
        [] => narrow
            .principals
            .iter()
            .map(|name| namespace_of(name).unwrap_or_default().to_owned())
            .collect(),
        own => own.to_vec(),
    };
    let pairs: [(List<'_>, List<'_>); 7] = [
        (
            (&wide.principals, &wide.not_principals),
            (&narrow.principals, &narrow.not_principals),
        ),
        (
            (&wide.request_principals, &wide.not_request_principals),
            (&narrow.request_principals, &narrow.not_request_principals),
        ),
        (
            (&wide.namespaces, &wide.not_namespaces),
            (&namespaces, &narrow.not_namespaces),
        ),
        (
            (&wide.service_accounts, &wide.not_service_accounts),
            (&narrow.service_accounts, &narrow.not_service_accounts),
        ),
        (
            (&wide.ip_blocks, &wide.not_ip_blocks),
            (&narrow.ip_blocks, &narrow.not_ip_blocks),
        ),
        (
            (&wide.remote_ip_blocks, &wide.not_remote_ip_blocks),
            (&narrow.remote_ip_blocks, &narrow.not_remote_ip_blocks),
        ),
        (
            (&wide.trust_domains, &wide.not_trust_domains),
            (&narrow.trust_domains, &narrow.not_trust_domains),
        ),
    ];
    pairs.iter().all(|(wide, narrow)| lists(*wide, *narrow))
}

fn operation(wide: &Operation, narrow: &Operation) -> bool {
    let pairs: [(List<'_>, List<'_>); 4] = [
        (
            (&wide.hosts, &wide.not_hosts),
            (&narrow.hosts, &narrow.not_hosts),
        ),
        (
            (&wide.methods, &wide.not_methods),
            (&narrow.methods, &narrow.not_methods),
        ),
        (
            (&wide.paths, &wide.not_paths),
            (&narrow.paths, &narrow.not_paths),
        ),
        (
            (&wide.ports, &wide.not_ports),
            (&narrow.ports, &narrow.not_ports),
        ),
    ];
    pairs.iter().all(|(wide, narrow)| lists(*wide, *narrow))
}

fn condition(wide: &Condition, narrow: &Condition) -> bool {
    wide.key == narrow.key
        && lists(
            (&wide.values, &wide.not_values),
            (&narrow.values, &narrow.not_values),
        )
}

/// Whether one field's values, and those it must not have, let everything pass that another's do.
fn lists((wide, wide_not): List<'_>, (narrow, narrow_not): List<'_>) -> bool {
    let wanted =
        wide.is_empty() || (!narrow.is_empty() && narrow.iter().all(|own| any_covers(wide, own)));
    let unwanted = wide_not.iter().all(|value| {
        any_covers(narrow_not, value)
            || (!narrow.is_empty()
                && narrow
                    .iter()
                    .all(|own| !own.contains('*') && !own.contains('{') && !pattern(value, own)))
    });
    wanted && unwanted
}

/// The namespace in an exact principal, `TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
pub(super) fn namespace_of(principal: &str) -> Option<&str> {
    let mut parts = principal.split('/');
    let _domain = parts.next()?;
    let namespace = (parts.next()? == "ns").then(|| parts.next()).flatten()?;
    (!namespace.contains('*')).then_some(namespace)
}

/// Whether one of the values matches all that `narrow` does.
pub(super) fn any_covers(values: &[String], narrow: &str) -> bool {
    values.iter().any(|value| pattern(value, narrow))
}

/// Whether a value with its wildcard matches all that another does.
pub(super) fn pattern(wide: &str, narrow: &str) -> bool {
    if wide == narrow || (wide == "*" && !narrow.is_empty()) {
        return true;
    }
    if let (Some(wide), Some(narrow)) = (range(wide), range(narrow)) {
        return wide.contains(&narrow);
    }
    if wide.contains('{') || narrow.contains('{') {
        return false;
    }
    if let Some(start) = wide.strip_suffix('*') {
        return !narrow.starts_with('*') && narrow.trim_end_matches('*').starts_with(start);
    }
    if let Some(end) = wide.strip_prefix('*') {
        return !narrow.ends_with('*') && narrow.trim_start_matches('*').ends_with(end);
    }
    false
}

fn range(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use lateen_api::security::{RuleFrom, RuleTo};

    use super::*;

    fn list(values: &[&str]) -> Vec<String> {
        values.iter().map(|&value| value.to_owned()).collect()
    }

    fn to(methods: &[&str], paths: &[&str]) -> Rule {
        Rule {
            to: vec![RuleTo {
                operation: Some(Operation {
                    methods: list(methods),
                    paths: list(paths),
                    ..Operation::default()
                }),
            }],
            ..Rule::default()
        }
    }

    fn from(source: Source) -> Rule {
        Rule {
            from: vec![RuleFrom {
                source: Some(source),
            }],
            ..Rule::default()
        }
    }

    #[test]
    fn a_wildcard_matches_what_its_text_begins_or_ends() {
        for (wide, narrow, expected) in [
            ("/api/*", "/api/users/*", true),
            ("/api/users/*", "/api/*", false),
            ("*.example.com", "a.example.com", true),
            ("*", "GET", true),
            ("/a*", "*a", false),
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.1.2.3", "10.0.0.0/8", false),
            ("/a/*", "/a/{*}/b", false),
        ] {
            assert_eq!(pattern(wide, narrow), expected, "{wide} {narrow}");
        }
    }

    #[test]
    fn a_rule_without_conditions_matches_all_and_each_alternative_has_to_be_matched() {
        let all = Rule::default();
        let reads = to(&["GET", "HEAD"], &["/api/*"]);
        assert!(rule(&all, &reads) && !rule(&reads, &all));
        assert!(rule(&to(&["GET", "HEAD", "POST"], &[]), &reads));
        assert!(!rule(&to(&["GET"], &[]), &reads));
    }

    #[test]
    fn what_the_wider_rule_leaves_out_the_narrower_must_leave_out_too() {
        let mut wide = to(&[], &[]);
        wide.to[0].operation.as_mut().unwrap().not_methods = list(&["DELETE"]);
        assert!(rule(&wide, &to(&["GET"], &[])));
        assert!(!rule(&wide, &to(&["*"], &[])));
        assert!(!rule(&wide, &to(&[], &["/x"])));
    }

    #[test]
    fn a_principal_is_of_its_namespace() {
        let dev = from(Source {
            namespaces: list(&["dev"]),
            ..Source::default()
        });
        let web = from(Source {
            principals: list(&["cluster.local/ns/dev/sa/web"]),
            ..Source::default()
        });
        assert!(rule(&dev, &web) && !rule(&web, &dev));
        let any = from(Source {
            principals: list(&["*/sa/web"]),
            ..Source::default()
        });
        assert!(!rule(&dev, &any));
    }
}
