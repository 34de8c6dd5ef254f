//! istiod's debug answers: who is connected, what they have, what is wrong. Served on a unix socket that only its owner can
//! open, since they show every namespace's configuration.

use lateen_compile::{Jwks, JwksSource};
use lateen_envoy::{TypeUrl, json};
use lateen_xds::server::TypeStatus;
use serde_json::{Map, Value, json};

use crate::discovery::{Proxies, Proxy, behind};
use crate::reply::Reply;

/// Answers a path.
pub(crate) fn answer(proxies: &Proxies, path: &str, query: Option<&str>) -> Reply {
    match path {
        "/ready" => Reply::text("ready\n"),
        "/version" => Reply::text(concat!(env!("CARGO_PKG_VERSION"), "\n")),
        "/debug" | "/debug/list" => Reply::text(PATHS.join("\n") + "\n"),
        "/debug/syncz" => Reply::json(&syncz(proxies)),
        "/debug/config_dump" => config_dump(proxies, query),
        "/debug/diagnosticsz" => diagnostics(proxies),
        "/debug/jwksz" => Reply::json(&jwks(proxies)),
        "/debug/snapshotz" => {
            let published = proxies.published();
            let connected = proxies.connected();
            let behind = behind(connected.iter(), published.generation).len();
            Reply::json(&json!({
                "readyPods": published.ready_pods,
                "connected": connected.len(),
                "behind": behind,
                "generation": published.generation,
                "buildMicroseconds": u64::try_from(published.took.as_micros()).unwrap_or(u64::MAX),
                "diagnostics": published.diagnostics.len(),
            }))
        }
        _ => Reply::not_found("no such page; /debug lists them"),
    }
}

const PATHS: [&str; 7] = [
    "/ready",
    "/version",
    "/debug/syncz",
    "/debug/config_dump?proxyID=POD.NAMESPACE",
    "/debug/diagnosticsz",
    "/debug/jwksz",
    "/debug/snapshotz",
];

/// One line for each proxy. An agent has a stream of its own for the name table; its types belong to the same proxy.
fn syncz(proxies: &Proxies) -> Value {
    let mut lines: Vec<Value> = Vec::new();
    for line in proxies.connected().iter().map(|p| sync(p)) {
        match lines
            .iter_mut()
            .find(|known| known["proxy"] == line["proxy"])
        {
            Some(known) => {
                if let (Some(all), Value::Object(more)) =
                    (known["types"].as_object_mut(), &line["types"])
                {
                    all.extend(more.iter().map(|(ty, state)| (ty.clone(), state.clone())));
                }
            }
            None => lines.push(line),
        }
    }
    Value::Array(lines)
}

/// One stream's line of `proxy-status`.
fn sync(proxy: &Proxy) -> Value {
    let status = proxy.status.borrow();
    let wanted = proxy.resources.borrow();
    let types: Map<String, Value> = status
        .types
        .iter()
        .map(|(ty, state)| {
            let known = wanted.as_ref().map_or(0, |set| set.get(*ty).len());
            (ty.as_str().to_owned(), type_sync(state, known))
        })
        .collect();
    json!({
        "proxy": pod_and_namespace(&proxy.raw.id),
        "namespace": proxy.node.namespace,
        "cluster": proxy.node.cluster_id,
        "istiod": "istiod",
        "version": proxy.node.istio_version,
        "dataPlane": if proxy.node.native { "lateen" } else { "envoy" },
        "identity": proxy.identity.as_ref().map(ToString::to_string),
        "types": types,
    })
}

fn type_sync(state: &TypeStatus, known: usize) -> Value {
    json!({
        "status": state.sync().as_str(),
        "resources": known,
        "subscribed": if state.wildcard { json!("*") } else { json!(state.names.len()) },
        "sentVersion": state.sent.as_ref().map(|t| &t.version),
        "ackedVersion": state.acked.as_ref().map(|t| &t.version),
        "error": state.error.as_ref().map(|e| &e.message),
    })
}

/// `sidecar~IP~pod.namespace~domain` to `pod.namespace`.
fn pod_and_namespace(id: &str) -> &str {
    id.split('~').nth(2).unwrap_or(id)
}

/// What a proxy is to have, in the form of its own config dump's resources.
fn config_dump(proxies: &Proxies, query: Option<&str>) -> Reply {
    let wanted = query.and_then(|q| q.split('&').find_map(|pair| pair.strip_prefix("proxyID=")));
    let Some(wanted) = wanted else {
        return Reply::not_found("say which with ?proxyID=POD.NAMESPACE");
    };
    let all = proxies.connected();
    let Some(proxy) = all.iter().find(|p| pod_and_namespace(&p.raw.id) == wanted) else {
        return Reply::not_found(&format!("no proxy {wanted} is connected"));
    };
    let resources = proxy.resources.borrow().clone().unwrap_or_default();
    let types: Map<String, Value> = resources
        .iter()
        // Keys are not for debugging.
        .filter(|(ty, _)| *ty != TypeUrl::Secret)
        .map(|(ty, set)| {
            let list = set.values().map(|r| json::any_to_value(&r.body)).collect();
            (crate::metrics::short(ty).to_owned(), Value::Array(list))
        })
        .collect();
    Reply::json(&Value::Object(types))
}

/// The keys of token issuers that were fetched: public ones, as proxies have them.
fn jwks(proxies: &Proxies) -> Value {
    let published = proxies.published();
    let known = published.snapshot.known_jwks().iter();
    let line = |(source, jwks): (&JwksSource, &Jwks)| {
        let (uri, issuer) = match source {
            JwksSource::Uri(uri) => (Some(uri), None),
            JwksSource::Discovery(issuer) => (None, Some(issuer)),
            JwksSource::SpiffeBundle(_) => return None,
        };
        let keys = &jwks.keys;
        Some(json!({"jwksUri": uri, "issuer": issuer, "jwks": keys, "problem": jwks.problem}))
    };
    known.filter_map(line).collect()
}

/// What is wrong with the snapshot, then what was found for single proxies, each finding once.
fn diagnostics(proxies: &Proxies) -> Reply {
    let mut found = proxies.published().diagnostics.clone();
    for proxy in proxies.connected() {
        let own = proxy.diagnostics.borrow();
        let new: Vec<_> = own.iter().filter(|d| !found.contains(d)).cloned().collect();
        found.extend(new);
    }
    Reply::json(&serde_json::to_value(found).unwrap_or_default())
}
