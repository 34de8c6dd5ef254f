//! Which statistics Envoy keeps and how it takes labels out of their names. Source: Istio's bootstrap; a scrape of every
//! statistic Envoy has would cost more than the traffic.

use serde_json::{Value, json};

use crate::config::AgentConfig;

/// Prefixes that are always kept.
const PREFIXES: [&str; 9] = [
    "reporter=",
    "cluster_manager",
    "listener_manager",
    "server",
    "cluster.xds-grpc",
    "wasm",
    "component",
    "istio",
    "tls_inspector",
];
/// Suffixes that are always kept: authorization results, and what draining waits for.
const SUFFIXES: [&str; 5] = [
    "rbac.allowed",
    "rbac.denied",
    "shadow_allowed",
    "shadow_denied",
    "downstream_cx_active",
];
/// Regular expressions that are always kept: statistics of routes that ask for them (`stat_prefix`).
const REGEXPS: [&str; 1] = [r"vhost\..*\.route\..*"];

/// Tag name and the expression that finds it.
const TAGS: [(&str, &str); 10] = [
    ("cluster_name", r"^cluster(\.(.+);)"),
    (
        "http_conn_manager_prefix",
        r"^http\.(((?:[_.[:digit:]\w]*|[_\[\]aAbBcCdDeEfF[:digit:]\w\:]*));\.)",
    ),
    ("tcp_prefix", r"^tcp\.((.*?)\.)\w+?$"),
    ("response_code", r"_rq(_(\d{3}))$"),
    ("response_code_class", r"_rq(_(\dxx))$"),
    (
        "http_conn_manager_listener_prefix",
        r"^listener(?=\.).*?\.http\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)",
    ),
    (
        "listener_address",
        r"^listener\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)",
    ),
    ("authz_enforce_result", r"rbac(\.(allowed|denied))"),
    ("authz_dry_run_action", r"(\.istio_dry_run_(allow|deny)_)"),
    ("authz_dry_run_result", r"(\.shadow_(allowed|denied))"),
];

pub(super) fn config(config: &AgentConfig) -> Value {
    let inclusion = &config.proxy_config.stats_inclusion;
    let prefixes = PREFIXES
        .into_iter()
        .chain(inclusion.prefixes.iter().map(String::as_str));
    let suffixes = SUFFIXES
        .into_iter()
        .chain(inclusion.suffixes.iter().map(String::as_str));
    let regexps = REGEXPS
        .into_iter()
        .chain(inclusion.regexps.iter().map(String::as_str));
    let patterns: Vec<Value> = prefixes
        .map(|prefix| json!({"prefix": prefix}))
        .chain(suffixes.map(|suffix| json!({"suffix": suffix})))
        .chain(regexps.map(|regex| json!({"safe_regex": {"regex": regex}})))
        .collect();
    let tags = TAGS.map(|(name, regex)| json!({"tag_name": name, "regex": regex}));
    let extra = config.proxy_config.extra_stat_tags.iter();
    let extra =
        extra.map(|tag| json!({"tag_name": tag, "regex": format!(r"({tag}=\.=(.*?);\.;)")}));
    json!({
        "use_all_default_tags": false,
        "stats_tags": tags.into_iter().chain(extra).collect::<Vec<_>>(),
        "stats_matcher": {"inclusion_list": {"patterns": patterns}},
    })
}
