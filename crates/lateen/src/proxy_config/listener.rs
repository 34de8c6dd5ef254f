//! `proxy-config listener`: one line per filter chain, saying what it matches and where it leads.

use serde_json::Value;

use super::dump::{list, number, text};
use super::route::describe_match;
use super::{Filter, Rows};

/// The listeners a filter admits, in istioctl's order: port, address, kind.
pub(crate) fn select<'a>(listeners: Vec<&'a Value>, filter: &Filter) -> Vec<&'a Value> {
    let mut chosen: Vec<&Value> = listeners
        .into_iter()
        .filter(|l| admits(filter, l))
        .collect();
    chosen.sort_by_key(|l| (port(l), address(l), kind(l)));
    chosen
}

fn admits(filter: &Filter, listener: &Value) -> bool {
    let addresses = addresses(listener);
    filter.port.is_none_or(|wanted| port(listener) == wanted)
        && filter
            .address
            .as_ref()
            .is_none_or(|wanted| addresses.contains(wanted))
        && filter
            .kind
            .as_ref()
            .is_none_or(|wanted| kind(listener).eq_ignore_ascii_case(wanted))
}

/// One row per chain.
pub(crate) fn rows(listeners: &[&Value]) -> Rows {
    let mut rows = Rows::new(&["ADDRESSES", "PORT", "MATCH", "DESTINATION"]);
    for listener in listeners {
        let place = addresses(listener).join(",");
        let mut chains: Vec<(String, String)> = chains(listener)
            .map(|c| {
                (
                    describe_chain_match(&c["filter_chain_match"]),
                    destination(c),
                )
            })
            .collect();
        chains.sort_by(|a, b| b.1.cmp(&a.1));
        for (matches, destination) in chains {
            rows.push(vec![
                place.clone(),
                port(listener).to_string(),
                matches,
                destination,
            ]);
        }
    }
    rows
}

fn chains(listener: &Value) -> impl Iterator<Item = &Value> {
    let default = Some(&listener["default_filter_chain"]).filter(|c| c.is_object());
    list(listener, "filter_chains").chain(default)
}

fn address(listener: &Value) -> String {
    let address = &listener["address"];
    let socket = text(&address["socket_address"], "address");
    if socket.is_empty() {
        text(&address["pipe"], "path").to_owned()
    } else {
        socket.to_owned()
    }
}

fn addresses(listener: &Value) -> Vec<String> {
    let more = list(listener, "additional_addresses")
        .map(|a| text(&a["address"]["socket_address"], "address").to_owned());
    std::iter::once(address(listener)).chain(more).collect()
}

fn port(listener: &Value) -> u64 {
    number(&listener["address"]["socket_address"]["port_value"]).unwrap_or(0)
}

fn kind(listener: &Value) -> &'static str {
    let filters = || chains(listener).flat_map(|c| list(c, "filters"));
    let http = filters().any(is_http);
    let tcp =
        filters().any(|f| is_tcp(f) && text(&f["typed_config"], "cluster") != "BlackHoleCluster");
    match (http, tcp) {
        (true, true) => "HTTP+TCP",
        (true, false) => "HTTP",
        (false, true) => "TCP",
        (false, false) => "UNKNOWN",
    }
}

fn is_http(filter: &Value) -> bool {
    text(filter, "name") == "envoy.filters.network.http_connection_manager"
}

fn is_tcp(filter: &Value) -> bool {
    text(filter, "name") == "envoy.filters.network.tcp_proxy"
}

/// Application protocols that Istio always uses together, and what istioctl calls them.
const PROTOCOLS: &[(&str, &[&str])] = &[
    (
        "App: HTTP TLS",
        &[
            "http/1.0",
            "http/1.1",
            "h2c",
            "istio-http/1.0",
            "istio-http/1.1",
            "istio-h2",
        ],
    ),
    (
        "App: Istio HTTP Plain",
        &["istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"],
    ),
    ("App: TCP TLS", &["istio-peer-exchange", "istio"]),
    ("App: HTTP", &["http/1.0", "http/1.1", "h2c"]),
];

fn describe_chain_match(chain: &Value) -> String {
    let strings = |key| -> Vec<&str> { list(chain, key).filter_map(Value::as_str).collect() };
    let mut parts = Vec::new();
    let names = strings("server_names");
    if !names.is_empty() {
        parts.push(format!("SNI: {}", names.join(",")));
    }
    let transport = text(chain, "transport_protocol");
    if !transport.is_empty() {
        parts.push(format!("Trans: {transport}"));
    }
    let protocols = strings("application_protocols");
    if !protocols.is_empty() {
        let known = PROTOCOLS
            .iter()
            .find(|(_, set)| *set == protocols.as_slice());
        parts.push(known.map_or_else(
            || format!("App: {}", protocols.join(",")),
            |(description, _)| (*description).to_owned(),
        ));
    }
    let port = number(&chain["destination_port"]).map_or(String::new(), |p| format!(":{p}"));
    let ranges: Vec<String> = list(chain, "prefix_ranges")
        .map(|r| {
            format!(
                "{}/{}",
                text(r, "address_prefix"),
                number(&r["prefix_len"]).unwrap_or(0)
            )
        })
        .collect();
    if !ranges.is_empty() {
        parts.push(format!("Addr: {}{port}", ranges.join(",")));
    } else if !port.is_empty() {
        parts.push(format!("Addr: *{port}"));
    }
    if parts.is_empty() {
        "ALL".to_owned()
    } else {
        parts.join("; ")
    }
}

fn destination(chain: &Value) -> String {
    for filter in list(chain, "filters") {
        let config = &filter["typed_config"];
        if is_http(filter) {
            return http_destination(config);
        }
        let cluster = text(config, "cluster");
        if is_tcp(filter) && cluster != "BlackHoleCluster" {
            return describe_cluster(cluster);
        }
    }
    "Non-HTTP/Non-TCP".to_owned()
}

fn http_destination(config: &Value) -> String {
    if config["route_config"].is_object() {
        return describe_inline(&config["route_config"]);
    }
    match text(&config["rds"], "route_config_name") {
        "" => "HTTP".to_owned(),
        name => format!("Route: {name}"),
    }
}

fn describe_cluster(cluster: &str) -> String {
    if cluster.contains("Cluster") {
        cluster.to_owned()
    } else {
        format!("Cluster: {cluster}")
    }
}

fn describe_inline(routes: &Value) -> String {
    if let Some(cluster) = only_cluster(routes) {
        return describe_cluster(cluster);
    }
    let hosts: Vec<String> = list(routes, "virtual_hosts")
        .map(describe_virtual_host)
        .collect();
    format!("Inline Route: {}", hosts.join("; "))
}

fn describe_virtual_host(host: &Value) -> String {
    let domains: Vec<&str> = list(host, "domains").filter_map(Value::as_str).collect();
    let matches: Vec<String> = list(host, "routes")
        .map(|r| describe_match(&r["match"]))
        .collect();
    if domains == ["*"] {
        return matches.join(", ");
    }
    format!("{} {}", domains.join("/"), matches.join(", "))
}

/// The cluster, when the routes send every request to one.
fn only_cluster(routes: &Value) -> Option<&str> {
    let [host] = routes["virtual_hosts"].as_array()?.as_slice() else {
        return None;
    };
    let [route] = host["routes"].as_array()?.as_slice() else {
        return None;
    };
    let everything =
        host["domains"] == serde_json::json!(["*"]) && text(&route["match"], "prefix") == "/";
    everything
        .then(|| route["route"]["cluster"].as_str())
        .flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sample() -> Value {
        json!({
            "name": "0.0.0.0_9080",
            "address": {"socket_address": {"address": "0.0.0.0", "port_value": 9080}},
            "filter_chains": [{
                "filter_chain_match": {
                    "transport_protocol": "raw_buffer",
                    "application_protocols": ["http/1.0", "http/1.1", "h2c"]
                },
                "filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {"rds": {"route_config_name": "9080"}}
                }]
            }],
            "default_filter_chain": {
                "filters": [{
                    "name": "envoy.filters.network.tcp_proxy",
                    "typed_config": {"cluster": "PassthroughCluster"}
                }]
            }
        })
    }

    #[test]
    fn every_chain_has_a_line_with_its_match_and_destination() {
        let listener = sample();
        let rows = rows(&[&listener]);
        assert_eq!(
            rows.cells(),
            [
                [
                    "0.0.0.0",
                    "9080",
                    "Trans: raw_buffer; App: HTTP",
                    "Route: 9080"
                ],
                ["0.0.0.0", "9080", "ALL", "PassthroughCluster"],
            ]
        );
    }

    #[test]
    fn listeners_are_chosen_by_port_and_kind() {
        let listener = sample();
        let by = |filter: Filter| select(vec![&listener], &filter).len();
        assert_eq!(
            by(Filter {
                port: Some(9080),
                ..Filter::default()
            }),
            1
        );
        assert_eq!(
            by(Filter {
                port: Some(80),
                ..Filter::default()
            }),
            0
        );
        assert_eq!(
            by(Filter {
                kind: Some("http+tcp".to_owned()),
                ..Filter::default()
            }),
            1
        );
    }
}
