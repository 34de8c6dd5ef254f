//! `proxy-config cluster` and `proxy-config endpoint`.

use serde_json::Value;

use super::dump::{list, number, origin, text};
use super::{Filter, Rows};

/// The parts of Istio's cluster name, `outbound|9080|v1|reviews.default.svc.cluster.local`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Parts<'a> {
    host: &'a str,
    subset: &'a str,
    port: u32,
    direction: &'a str,
}

fn parts(name: &str) -> Option<Parts<'_>> {
    let [direction, port, subset, host] = name.split('|').collect::<Vec<_>>()[..] else {
        return None;
    };
    Some(Parts {
        host,
        subset,
        port: port.parse().unwrap_or(0),
        direction,
    })
}

/// The clusters a filter admits, by host, subset and port.
pub(crate) fn select<'a>(clusters: Vec<&'a Value>, filter: &Filter) -> Vec<&'a Value> {
    let mut chosen: Vec<&Value> = clusters
        .into_iter()
        .filter(|c| admits(filter, text(c, "name")))
        .collect();
    chosen.sort_by_key(|c| {
        let name = text(c, "name");
        parts(name).unwrap_or(Parts {
            host: name,
            subset: "",
            port: 0,
            direction: "",
        })
    });
    chosen
}

fn admits(filter: &Filter, name: &str) -> bool {
    let contains =
        |wanted: &Option<String>| wanted.as_ref().is_none_or(|w| name.contains(w.as_str()));
    contains(&filter.fqdn)
        && contains(&filter.direction)
        && contains(&filter.subset)
        && filter
            .port
            .is_none_or(|port| name.contains(&format!("|{port}|")))
}

/// One row per cluster.
pub(crate) fn rows(clusters: &[&Value]) -> Rows {
    let header = [
        "SERVICE FQDN",
        "PORT",
        "SUBSET",
        "DIRECTION",
        "TYPE",
        "DESTINATION RULE",
    ];
    let mut rows = Rows::new(&header);
    for cluster in clusters {
        let name = text(cluster, "name");
        let [fqdn, port, subset, direction] = match parts(name) {
            Some(p) => [
                p.host.to_owned(),
                p.port.to_string(),
                if p.subset.is_empty() {
                    "-".to_owned()
                } else {
                    p.subset.to_owned()
                },
                p.direction.to_owned(),
            ],
            None => [
                name.to_owned(),
                "-".to_owned(),
                "-".to_owned(),
                "-".to_owned(),
            ],
        };
        let kind = match text(cluster, "type") {
            "" if cluster["cluster_type"].is_object() => "CUSTOM",
            "" => "STATIC",
            kind => kind,
        };
        rows.push(vec![
            fqdn,
            port,
            subset,
            direction,
            kind.to_owned(),
            origin(cluster),
        ]);
    }
    rows
}

/// One row per endpoint, from the body of `/clusters?format=json`.
pub(crate) fn endpoint_rows(clusters: &Value, filter: &Filter) -> Rows {
    let mut lines: Vec<(String, u64, String, [String; 2])> = Vec::new();
    for cluster in list(clusters, "cluster_statuses") {
        let name = text(cluster, "name");
        for host in list(cluster, "host_statuses") {
            let (address, port) = place(&host["address"]);
            let health = &host["health_status"];
            let status = match text(health, "eds_health_status") {
                "" => "UNKNOWN",
                status => status,
            };
            let outlier = if health["failed_outlier_check"] == true {
                "FAILED"
            } else {
                "OK"
            };
            if admits_endpoint(filter, name, &address, port, status) {
                lines.push((
                    address,
                    port,
                    name.to_owned(),
                    [status.to_owned(), outlier.to_owned()],
                ));
            }
        }
    }
    lines.sort();
    let mut rows = Rows::new(&["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"]);
    for (address, port, cluster, [status, outlier]) in lines {
        let endpoint = if port == 0 {
            address
        } else {
            format!("{address}:{port}")
        };
        rows.push(vec![endpoint, status, outlier, cluster]);
    }
    rows
}

fn admits_endpoint(filter: &Filter, cluster: &str, address: &str, port: u64, status: &str) -> bool {
    filter.port.is_none_or(|p| p == port)
        && filter
            .address
            .as_ref()
            .is_none_or(|a| a.eq_ignore_ascii_case(address))
        && filter
            .cluster
            .as_ref()
            .is_none_or(|c| c.eq_ignore_ascii_case(cluster))
        && filter
            .status
            .as_ref()
            .is_none_or(|s| s.eq_ignore_ascii_case(status))
}

fn place(address: &Value) -> (String, u64) {
    let socket = &address["socket_address"];
    if socket.is_object() {
        return (
            text(socket, "address").to_owned(),
            number(&socket["port_value"]).unwrap_or(0),
        );
    }
    let pipe = text(&address["pipe"], "path");
    if !pipe.is_empty() {
        return (format!("unix://{pipe}"), 0);
    }
    let internal = &address["envoy_internal_address"];
    let name = text(internal, "server_listener_name");
    (
        format!("envoy://{name}/{}", text(internal, "endpoint_id")),
        0,
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cluster_name_is_taken_apart() {
        let cluster =
            json!({"name": "outbound|9080|v1|reviews.default.svc.cluster.local", "type": "EDS"});
        let plain = json!({"name": "PassthroughCluster", "type": "ORIGINAL_DST"});
        assert_eq!(
            rows(&[&cluster, &plain]).cells(),
            [
                [
                    "reviews.default.svc.cluster.local",
                    "9080",
                    "v1",
                    "outbound",
                    "EDS",
                    ""
                ],
                ["PassthroughCluster", "-", "-", "-", "ORIGINAL_DST", ""],
            ]
        );
    }

    #[test]
    fn endpoints_are_chosen_by_cluster_and_sorted_by_address() {
        let host = |address: &str, failed: bool| {
            json!({
                "address": {"socket_address": {"address": address, "port_value": 9080}},
                "health_status": {"eds_health_status": "HEALTHY", "failed_outlier_check": failed}
            })
        };
        let clusters = json!({"cluster_statuses": [
            {"name": "a", "host_statuses": [host("10.244.0.9", true), host("10.244.0.8", false)]},
            {"name": "b", "host_statuses": [host("10.244.0.7", false)]}
        ]});
        let filter = Filter {
            cluster: Some("a".to_owned()),
            ..Filter::default()
        };
        assert_eq!(
            endpoint_rows(&clusters, &filter).cells(),
            [
                ["10.244.0.8:9080", "HEALTHY", "OK", "a"],
                ["10.244.0.9:9080", "HEALTHY", "FAILED", "a"],
            ]
        );
    }
}
