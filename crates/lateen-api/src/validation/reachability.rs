//! Rules and matches of a VirtualService that can never be reached, because an earlier one takes all of it.
//!
//! These are warnings: the traffic goes where the first rule says, which is what was written, if not what was meant.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use super::Report;
use crate::diagnostic::{Severity, codes};
use crate::networking::{HttpMatchRequest, VirtualService};
use crate::value::StringMatch;

/// Every match is compared with all earlier ones; above this many that would take longer than it helps.
const MAX_COMPARED: usize = 1000;

pub(crate) fn check(spec: &VirtualService, report: &mut Report<'_>) {
    let matches_of = |route: &crate::networking::HttpRoute| -> Vec<HttpMatchRequest> {
        let unnamed = |matched: &HttpMatchRequest| HttpMatchRequest {
            name: String::new(),
            stat_prefix: String::new(),
            ..matched.clone()
        };
        route.r#match.iter().map(unnamed).collect()
    };
    let http: Vec<Vec<HttpMatchRequest>> = spec.http.iter().map(matches_of).collect();
    rules("http", &http, report);
    prefixes(&http, report);
    let tls: Vec<_> = spec.tls.iter().map(|route| route.r#match.clone()).collect();
    rules("tls", &tls, report);
    let tcp: Vec<_> = spec.tcp.iter().map(|route| route.r#match.clone()).collect();
    rules("tcp", &tcp, report);
}

/// Rules after one without matches, and matches that were already there.
fn rules<M: Eq + Hash>(key: &str, rules: &[Vec<M>], report: &mut Report<'_>) {
    let catch_all = rules.iter().position(Vec::is_empty);
    let mut seen: HashMap<&M, usize> = HashMap::new();
    for (index, matches) in rules.iter().enumerate() {
        if let Some(first) = catch_all.filter(|first| *first < index) {
            unreachable(
                key,
                index,
                &format!("rule {first} has no match and takes everything"),
                report,
            );
            continue;
        }
        let mut duplicates = 0;
        for (at, matched) in matches.iter().enumerate() {
            match seen.get(matched) {
                Some(rule) => {
                    duplicates += 1;
                    ineffective(
                        key,
                        index,
                        at,
                        &format!("rule {rule} has the same match"),
                        report,
                    );
                }
                None => {
                    seen.insert(matched, index);
                }
            }
        }
        if !matches.is_empty() && duplicates == matches.len() {
            unreachable(key, index, "earlier rules have all of its matches", report);
        }
    }
}

/// A prefix below one that an earlier rule takes whatever else the request says.
fn prefixes(http: &[Vec<HttpMatchRequest>], report: &mut Report<'_>) {
    if http.iter().map(Vec::len).sum::<usize>() > MAX_COMPARED {
        return;
    }
    for (index, matches) in http.iter().enumerate() {
        for (at, matched) in matches.iter().enumerate() {
            let taken = http[..index].iter().enumerate().find(|(_, earlier)| {
                earlier
                    .iter()
                    .any(|first| first != matched && covers(first, matched))
            });
            if let Some((rule, _)) = taken {
                ineffective(
                    "http",
                    index,
                    at,
                    &format!("rule {rule} takes a shorter prefix"),
                    report,
                );
            }
        }
    }
}

/// Whether everything that `second` matches is matched by `first`, as far as prefixes of the path can tell.
fn covers(first: &HttpMatchRequest, second: &HttpMatchRequest) -> bool {
    let (Some(StringMatch::Prefix(short)), Some(long)) = (&first.uri, &second.uri) else {
        return false;
    };
    let path_covered = match long {
        StringMatch::Exact(path) | StringMatch::Prefix(path) => path.starts_with(short.as_str()),
        StringMatch::Present | StringMatch::Regex(_) => false,
    };
    // Anything else the first match asks for, the second has to ask for in the same words.
    path_covered
        && (!second.ignore_uri_case || first.ignore_uri_case)
        && asks_no_more(&first.scheme, &second.scheme)
        && asks_no_more(&first.method, &second.method)
        && asks_no_more(&first.authority, &second.authority)
        && (first.port == 0 || first.port == second.port)
        && (first.gateways.is_empty() || first.gateways == second.gateways)
        && (first.source_namespace.is_empty() || first.source_namespace == second.source_namespace)
        && contains(&second.source_labels, &first.source_labels)
        && contains(&second.headers, &first.headers)
        && contains(&second.without_headers, &first.without_headers)
        && contains(&second.query_params, &first.query_params)
}

fn asks_no_more(first: &Option<StringMatch>, second: &Option<StringMatch>) -> bool {
    first.is_none() || first == second
}

fn contains<V: PartialEq>(all: &BTreeMap<String, V>, some: &BTreeMap<String, V>) -> bool {
    some.iter().all(|(key, value)| all.get(key) == Some(value))
}

fn unreachable(key: &str, index: usize, why: &str, report: &mut Report<'_>) {
    let message = format!("this rule is never used: {why}");
    report.key(key, |report| {
        report.index(index, |report| {
            let effect = "requests go where the earlier rule sends them";
            report.push(
                codes::UNREACHABLE_RULE,
                Severity::Warning,
                message,
                effect,
                None,
            );
        });
    });
}

fn ineffective(key: &str, index: usize, at: usize, why: &str, report: &mut Report<'_>) {
    let message = format!("this match is never used: {why}");
    let fix = Some("put the more specific rule first".to_owned());
    report.key(key, |report| {
        report.index(index, |report| {
            report.key("match", |report| {
                report.index(at, |report| {
                    let effect = "requests go where the earlier rule sends them";
                    report.push(
                        codes::INEFFECTIVE_MATCH,
                        Severity::Warning,
                        message,
                        effect,
                        fix,
                    );
                });
            });
        });
    });
}
