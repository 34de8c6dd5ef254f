//! The corpus' listeners and clusters as Envoy's messages in JSON, for both proxies.

use serde_json::{Value, json};

use super::case::{Cluster, File, Listener};
use super::support::{HCM, ROUTER};
use super::tls;
use super::upstream::Upstream;

/// What the access log says of a request, field by field.
pub(crate) const LOG_FIELDS: [(&str, &str); 14] = [
    ("client", "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"),
    ("code", "%RESPONSE_CODE%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("details", "%RESPONSE_CODE_DETAILS%"),
    ("route", "%ROUTE_NAME%"),
    ("cluster", "%UPSTREAM_CLUSTER%"),
    ("received", "%BYTES_RECEIVED%"),
    ("sent", "%BYTES_SENT%"),
    ("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
    ("protocol", "%PROTOCOL%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("grpc", "%GRPC_STATUS_NUMBER%"),
    ("remote", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
    (
        "expressions",
        "%CEL(response.code)% %COALESCE({\"operators\": [{\"command\": \"REQ\", \"param\": \"x-none\"}, \"PROTOCOL\"]})%",
    ),
];

/// The name a listener or cluster has beside those of other files.
pub(crate) fn scoped(file: &str, name: &str) -> String {
    format!("{file}.{name}")
}

/// All listeners; each on an address of its own, so that ports of the system's choice do not clash.
pub(crate) fn listeners(files: &[File], log: &str) -> Vec<Value> {
    let mut list = Vec::new();
    for file in files {
        for (name, from) in &file.listeners {
            let number = list.len() + 1;
            let mut value = listener(file, name, from, log);
            rename(&mut value, file);
            value["address"] = json!({"socket_address": {
                "address": format!("127.1.{}.{}", number / 250, number % 250 + 1), "port_value": 0
            }});
            list.push(value);
        }
    }
    list
}

fn listener(file: &File, name: &str, from: &Listener, log: &str) -> Value {
    let filters = match &from.filters {
        Some(filters) => with_logs(filters.clone(), log),
        None => json!([manager(file, name, from, log)]),
    };
    let chains = match &from.tls {
        Some(chains) => chains.iter().map(|tls| tls::chain(tls, &filters)).collect(),
        None => vec![json!({"filters": filters})],
    };
    let mut value = json!({"name": scoped(&file.name, name), "filter_chains": chains});
    if from.tls.is_some() {
        value["listener_filters"] = tls::inspector();
    }
    if let Some(filters) = &from.listener_filters {
        value["listener_filters"] = filters.clone();
    }
    if let Some(direction) = &from.direction {
        value["traffic_direction"] = json!(direction);
    }
    value
}

fn manager(file: &File, name: &str, from: &Listener, log: &str) -> Value {
    let mut vhost =
        json!({"name": "all", "domains": ["*"], "routes": from.routes.clone().unwrap_or_default()});
    merge(&mut vhost, from.virtual_host.clone());
    let vhosts = from.virtual_hosts.clone().unwrap_or_else(|| json!([vhost]));
    let mut routes = json!({"name": "routes", "virtual_hosts": vhosts, "validate_clusters": false});
    merge(&mut routes, from.route_config.clone());
    let mut filters = from.http_filters.clone().unwrap_or_default();
    filters.push(json!({"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}));
    let mut manager = json!({
        "@type": HCM,
        "stat_prefix": scoped(&file.name, name),
        "route_config": routes,
        "http_filters": filters,
        "access_log": access_log(log),
        // Envoy would keep a connection that it closes open for a second.
        "delayed_close_timeout": "0s",
    });
    merge(&mut manager, from.manager.clone());
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager})
}

fn access_log(path: &str) -> Value {
    let format: Vec<&str> = LOG_FIELDS.iter().map(|(_, operator)| *operator).collect();
    json!([{
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"text_format_source": {"inline_string": format!("{}\n", format.join("\u{1}"))}},
        },
    }])
}

/// TCP proxies log, too.
fn with_logs(mut filters: Value, log: &str) -> Value {
    for filter in filters.as_array_mut().unwrap() {
        let kind = filter["typed_config"]["@type"].as_str().unwrap_or_default();
        if kind.ends_with("TcpProxy") {
            filter["typed_config"]["access_log"] = access_log(log);
        }
    }
    filters
}

/// All clusters.
pub(crate) fn clusters(files: &[File], upstream: &Upstream) -> Vec<Value> {
    let mut list = Vec::new();
    for file in files {
        for (name, from) in &file.clusters {
            list.push(cluster(&scoped(&file.name, name), from, upstream));
        }
    }
    list
}

fn cluster(name: &str, from: &Cluster, upstream: &Upstream) -> Value {
    let localities: Vec<Value> = match &from.localities {
        None => vec![json!({"lb_endpoints": hosts(&from.hosts, upstream)})],
        Some(localities) => {
            let filled = localities.iter().cloned().map(|mut locality| {
                let wanted = locality.as_object_mut().unwrap().remove("hosts").unwrap();
                locality["lb_endpoints"] = hosts(&wanted, upstream);
                locality
            });
            filled.collect()
        }
    };
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.25s",
    });
    if !(from.hosts.is_null() && from.localities.is_none()) {
        cluster["load_assignment"] = json!({"cluster_name": name, "endpoints": localities});
    }
    merge(&mut cluster, Some(Value::Object(from.fields.clone())));
    cluster
}

fn hosts(wanted: &Value, upstream: &Upstream) -> Value {
    let list: Vec<Value> = match wanted {
        Value::Number(number) => (0..number.as_u64().unwrap()).map(|n| json!(n)).collect(),
        Value::Array(list) => list.clone(),
        Value::Null => Vec::new(),
        other => vec![other.clone()],
    };
    list.iter().map(|host| endpoint(host, upstream)).collect()
}

/// A host by number or name, or an object with `host` and further fields of `LbEndpoint`.
fn endpoint(wanted: &Value, upstream: &Upstream) -> Value {
    let (host, extra) = match wanted {
        Value::Object(fields) => (&fields["host"], Some(fields)),
        other => (other, None),
    };
    let port = match host {
        Value::Number(number) => upstream.http[usize::try_from(number.as_u64().unwrap()).unwrap()],
        Value::String(name) => match name.as_str() {
            "dead" => upstream.dead,
            "mute" => upstream.mute,
            "unix" => 0,
            name => {
                let index = name.strip_prefix("tcp").unwrap();
                upstream.tcp[index.parse::<usize>().unwrap_or(0)]
            }
        },
        other => panic!("{other} is no host"),
    };
    let address = if port == 0 {
        json!({"pipe": {"path": upstream.unix}})
    } else {
        json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
    };
    let mut endpoint = json!({"endpoint": {"address": address}});
    let Some(extra) = extra else { return endpoint };
    for (key, value) in extra.iter().filter(|(key, _)| *key != "host") {
        match key.as_str() {
            "hostname" => endpoint["endpoint"]["hostname"] = value.clone(),
            _ => endpoint[key] = value.clone(),
        }
    }
    endpoint
}

fn merge(into: &mut Value, extra: Option<Value>) {
    if let (Value::Object(into), Some(Value::Object(extra))) = (into, extra) {
        into.extend(extra);
    }
}

/// Cluster names in routes are those of the file: `$up` stands for the file's cluster `up`.
fn rename(value: &mut Value, file: &File) {
    match value {
        Value::String(text) => {
            if let Some(name) = text.strip_prefix('$') {
                *text = scoped(&file.name, name);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|item| rename(item, file)),
        Value::Object(map) => map.values_mut().for_each(|item| rename(item, file)),
        _ => {}
    }
}

/// The same resource with its type, as our proxy takes it.
pub(crate) fn typed(mut value: Value, kind: &str) -> Value {
    value["@type"] = json!(format!("type.googleapis.com/envoy.config.{kind}"));
    value
}
