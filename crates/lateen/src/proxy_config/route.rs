//! `proxy-config route`: one line per route.

use serde_json::Value;

use super::dump::{list, origin, text};
use super::{Filter, Rows};

/// The route configurations a filter admits, numbered names first and in their order.
pub(crate) fn select<'a>(routes: Vec<&'a Value>, filter: &Filter) -> Vec<&'a Value> {
    let mut chosen: Vec<&Value> = routes
        .into_iter()
        .filter(|r| {
            filter
                .name
                .as_ref()
                .is_none_or(|wanted| text(r, "name") == wanted)
        })
        .collect();
    chosen.sort_by_key(|r| {
        let name = text(r, "name");
        (name.parse::<u32>().unwrap_or(u32::MAX), name.to_owned())
    });
    chosen
}

/// One row per route; a virtual host without routes answers 404.
pub(crate) fn rows(routes: &[&Value]) -> Rows {
    let mut rows = Rows::new(&["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"]);
    for config in routes {
        let name = text(config, "name");
        for host in list(config, "virtual_hosts") {
            let mut row = |matches: String, owner: String| {
                let host_name = text(host, "name").to_owned();
                rows.push(vec![
                    name.to_owned(),
                    host_name,
                    describe_domains(host),
                    matches,
                    owner,
                ]);
            };
            if host["routes"].as_array().is_none_or(Vec::is_empty) {
                row("/*".to_owned(), "404".to_owned());
            }
            for route in list(host, "routes") {
                if text(&route["route"], "cluster") != "PassthroughCluster" {
                    row(describe_match(&route["match"]), origin(route));
                }
            }
        }
    }
    rows
}

/// How a route's path match reads: `/a*` for a prefix, `/a` exact, `regex …`.
pub(crate) fn describe_match(matches: &Value) -> String {
    let mut parts = Vec::new();
    let mut add = |text: &str, render: fn(&str) -> String| {
        if !text.is_empty() {
            parts.push(render(text));
        }
    };
    add(text(matches, "prefix"), |t| format!("{t}*"));
    add(text(matches, "path_separated_prefix"), |t| {
        format!("PathPrefix:{t}")
    });
    add(text(matches, "path"), str::to_owned);
    add(text(&matches["safe_regex"], "regex"), |t| {
        format!("regex {t}")
    });
    parts.join(" ")
}

/// Two domains at most: those without a port, and of a name's forms only the shortest.
fn describe_domains(host: &Value) -> String {
    const SHOWN: usize = 2;
    let all: Vec<&str> = list(host, "domains").filter_map(Value::as_str).collect();
    if all.len() < SHOWN {
        return all.join(", ");
    }
    let without_port: Vec<&str> = all.into_iter().filter(|d| !has_port(d)).collect();
    let shorter_form = |domain: &str| {
        [".svc.cluster.local", ".svc"]
            .iter()
            .filter_map(|suffix| domain.strip_suffix(suffix))
            .any(|short| without_port.contains(&short))
    };
    let kept: Vec<&str> = without_port
        .iter()
        .copied()
        .filter(|d| !shorter_form(d))
        .collect();
    if kept.len() <= SHOWN {
        return kept.join(", ");
    }
    format!(
        "{} + {} more...",
        kept[..SHOWN].join(", "),
        kept.len() - SHOWN
    )
}

fn has_port(domain: &str) -> bool {
    let is_ipv6 = domain.matches(':').count() > 2;
    if is_ipv6 {
        !domain.ends_with(']')
    } else {
        domain.contains(':')
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_services_many_names_shrink_to_the_shortest_ones() {
        let host = json!({"domains": [
            "reviews.default.svc.cluster.local", "reviews.default.svc.cluster.local:9080", "reviews",
            "reviews:9080", "reviews.default.svc", "reviews.default", "10.96.3.4", "[fd00:10:96::7fc7]:9080"
        ]});
        assert_eq!(
            describe_domains(&host),
            "reviews, reviews.default + 1 more..."
        );
    }

    #[test]
    fn a_route_shows_its_match_and_the_virtual_service_behind_it() {
        let config = json!({"name": "9080", "virtual_hosts": [{
            "name": "reviews.default.svc.cluster.local:9080", "domains": ["reviews"],
            "routes": [{
                "match": {"prefix": "/"},
                "route": {"cluster": "outbound|9080|v1|reviews.default.svc.cluster.local"},
                "metadata": {"filter_metadata": {"istio": {
                    "config": "/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews"}}}
            }]
        }, {"name": "empty", "domains": ["x"]}]});
        assert_eq!(
            rows(&[&config]).cells(),
            [
                [
                    "9080",
                    "reviews.default.svc.cluster.local:9080",
                    "reviews",
                    "/*",
                    "reviews.default"
                ],
                ["9080", "empty", "x", "/*", "404"],
            ]
        );
    }
}
