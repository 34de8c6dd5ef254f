//! Which statistics Envoy keeps and how it takes labels out of their names. Source: Istio's bootstrap; a scrape of every
//! statistic Envoy has would cost more than the traffic.

use serde_json::{Value, json};

use crate::config::{AgentConfig, StatsInclusion};

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

/// Which statistics a proxy keeps: those that are always kept, and what annotations ask for, each in place of what the proxy's settings
/// (`proxyStatsMatcher`) say of its kind. `{pod_ip}` stands for each of the pod's addresses.
///
/// Source: Istio's `getStatsOptions` (`pkg/bootstrap/config.go`).
pub fn inclusion(config: &AgentConfig) -> StatsInclusion {
    let settings = &config.proxy_config.stats_inclusion;
    let list = |kind: &str, written: &[String], always: &[&str]| -> Vec<String> {
        let annotated = config.annotation(&format!("sidecar.istio.io/statsInclusion{kind}"));
        let asked = match annotated.filter(|list| !list.is_empty()) {
            Some(list) => list.split(',').map(|one| one.trim().to_owned()).collect(),
            None => written.to_vec(),
        };
        let always = always.iter().map(|one| (*one).to_owned());
        let asked = asked.into_iter().flat_map(|text| addressed(text, config));
        always
            .chain(asked)
            .filter(|text| !text.is_empty())
            .collect()
    };
    StatsInclusion {
        prefixes: list("Prefixes", &settings.prefixes, &PREFIXES),
        suffixes: list("Suffixes", &settings.suffixes, &SUFFIXES),
        regexps: list("Regexps", &settings.regexps, &REGEXPS),
    }
}

/// Whether anybody wrote which statistics to keep.
pub fn is_chosen(config: &AgentConfig) -> bool {
    const KINDS: [&str; 3] = ["Prefixes", "Suffixes", "Regexps"];
    let annotated = |kind| {
        let list = config.annotation(&format!("sidecar.istio.io/statsInclusion{kind}"));
        list.is_some_and(|list| !list.is_empty())
    };
    config.proxy_config.stats_inclusion != StatsInclusion::default()
        || KINDS.into_iter().any(annotated)
}

fn addressed(text: String, config: &AgentConfig) -> Vec<String> {
    const ADDRESS: &str = "{pod_ip}";
    if !text.contains(ADDRESS) {
        return vec![text];
    }
    let ips = config.instance_ips.iter();
    ips.map(|ip| text.replace(ADDRESS, &ip.to_string()))
        .collect()
}

pub(super) fn config(config: &AgentConfig) -> Value {
    let StatsInclusion {
        prefixes,
        suffixes,
        regexps,
    } = inclusion(config);
    let patterns: Vec<Value> = prefixes
        .iter()
        .map(|prefix| json!({"prefix": prefix}))
        .chain(suffixes.iter().map(|suffix| json!({"suffix": suffix})))
        .chain(
            regexps
                .iter()
                .map(|regex| json!({"safe_regex": {"regex": regex}})),
        )
        .collect();
    let tags = TAGS.map(|(name, regex)| json!({"tag_name": name, "regex": regex}));
    let extra = extra_tags(config).into_iter();
    let extra =
        extra.map(|tag| json!({"tag_name": tag, "regex": format!(r"({tag}=\.=(.*?);\.;)")}));
    json!({
        "use_all_default_tags": false,
        "stats_tags": tags.into_iter().chain(extra).collect::<Vec<_>>(),
        "stats_matcher": {"inclusion_list": {"patterns": patterns}},
    })
}

/// `extraStatTags`, and those of the annotation, each once.
fn extra_tags(config: &AgentConfig) -> Vec<String> {
    let mut tags = config.proxy_config.extra_stat_tags.clone();
    let annotated = config.annotation("sidecar.istio.io/extraStatTags");
    for tag in annotated.iter().flat_map(|list| list.split(',')) {
        let tag = tag.trim();
        if !tag.is_empty() && tags.iter().all(|known| known != tag) {
            tags.push(tag.to_owned());
        }
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config as read;

    const WRITTEN: (&str, &str) = (
        "PROXY_CONFIG",
        r#"{"proxyStatsMatcher":{"inclusionPrefixes":["http.{pod_ip}_"],"inclusionRegexps":["a.*"]},"extraStatTags":["x"]}"#,
    );

    #[test]
    fn an_annotation_stands_in_place_of_the_setting_of_its_kind() {
        let settings = read(&[WRITTEN]).unwrap();
        let kept = inclusion(&settings);
        assert!(
            kept.prefixes.contains(&"http.10.244.0.7_".to_owned()),
            "{kept:?}"
        );
        assert!(kept.regexps.contains(&"a.*".to_owned()));
        let annotated = (
            "ISTIO_METAJSON_ANNOTATIONS",
            r#"{"sidecar.istio.io/statsInclusionRegexps":"b.*, c.*","sidecar.istio.io/extraStatTags":"x,y"}"#,
        );
        let settings = read(&[WRITTEN, annotated]).unwrap();
        let kept = inclusion(&settings);
        assert!(kept.prefixes.contains(&"http.10.244.0.7_".to_owned()));
        assert_eq!(&kept.regexps[1..], ["b.*", "c.*"]);
        assert_eq!(extra_tags(&settings), ["x", "y"]);
        assert!(is_chosen(&settings) && !is_chosen(&read(&[]).unwrap()));
    }

    #[test]
    fn what_draining_and_dashboards_need_is_always_kept() {
        let kept = inclusion(&read(&[WRITTEN]).unwrap());
        assert!(kept.prefixes.iter().any(|prefix| prefix == "istio"));
        assert!(
            kept.suffixes
                .iter()
                .any(|suffix| suffix == "downstream_cx_active")
        );
    }
}
