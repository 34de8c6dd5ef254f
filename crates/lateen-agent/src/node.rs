//! The node that introduces the proxy to the control plane: id, cluster, locality, metadata.
//!
//! Source: `pkg/bootstrap/config.go` and `pkg/model/proxy.go` of Istio 1.30. The metadata is made as JSON first, since half of it
//! is passed through from `ISTIO_META_*` variables without anybody here knowing what it means.

use std::path::Path;

use lateen_envoy::pb::envoy::config::core::v3::{Locality, Node};
use lateen_envoy::struct_from_json;
use serde_json::{Map, Value, json};

use crate::config::{AgentConfig, DataPlaneKind};

/// The Istio version whose behaviour this proxy has.
pub const ISTIO_VERSION: &str = "1.30.0";
/// Where a server of secrets may have its socket in the pod. The control plane is told, so that it names it for `sds://` credentials.
const CREDENTIAL_SOCKET: &str = "./var/run/secrets/credential-uds/socket";
/// Metadata key by which the control plane knows that our own proxy asks.
pub const NATIVE: &str = "LATEEN_NATIVE";

/// The node's id: `sidecar~10.244.0.7~reviews-v1-0.default~default.svc.cluster.local`.
pub fn node_id(config: &AgentConfig) -> String {
    let AgentConfig {
        pod_name,
        namespace,
        domain,
        ..
    } = config;
    format!(
        "{}~{}~{pod_name}.{namespace}~{domain}",
        config.node_type.as_str(),
        config.pod_ip()
    )
}

/// The node as a message, for a client of our own.
pub fn node(config: &AgentConfig) -> Node {
    let metadata = metadata(config);
    let locality = locality(&metadata).map(|[region, zone, sub_zone]| Locality {
        region,
        zone,
        sub_zone,
    });
    Node {
        id: node_id(config),
        cluster: cluster(config, &metadata),
        locality,
        metadata: Some(struct_from_json(&metadata)),
        user_agent_name: "lateen".to_owned(),
        ..Node::default()
    }
}

/// The node as JSON, for Envoy's bootstrap.
pub fn node_json(config: &AgentConfig) -> Value {
    let metadata = metadata(config);
    let [region, zone, sub_zone] = locality(&metadata).unwrap_or_default();
    json!({
        "id": node_id(config),
        "cluster": cluster(config, &metadata),
        "locality": {"region": region, "zone": zone, "sub_zone": sub_zone},
        "metadata": metadata,
    })
}

/// The metadata.
pub fn metadata(config: &AgentConfig) -> Map<String, Value> {
    let mut meta = passed_through(config);
    meta.entry("ISTIO_VERSION")
        .or_insert_with(|| ISTIO_VERSION.into());
    let ips: Vec<String> = config
        .instance_ips
        .iter()
        .map(ToString::to_string)
        .collect();
    meta.insert("INSTANCE_IPS".to_owned(), ips.join(",").into());
    meta.insert(
        "ENVOY_STATUS_PORT".to_owned(),
        config.envoy_status_port.into(),
    );
    meta.insert(
        "ENVOY_PROMETHEUS_PORT".to_owned(),
        config.envoy_prometheus_port.into(),
    );
    meta.insert(
        "PROXY_CONFIG".to_owned(),
        Value::Object(config.proxy_config.raw.clone()),
    );
    meta.insert("NAME".to_owned(), config.pod_name.clone().into());
    meta.insert("NAMESPACE".to_owned(), config.namespace.clone().into());
    meta.insert(
        "SERVICE_ACCOUNT".to_owned(),
        config.service_account.clone().into(),
    );
    meta.insert("PILOT_SAN".to_owned(), json!([config.istiod_name]));
    if let Some(labels) = static_labels(config) {
        meta.insert("LABELS".to_owned(), Value::Object(labels.clone()));
        meta.insert("STATIC_LABELS".to_owned(), Value::Object(labels));
    }
    if Path::new(CREDENTIAL_SOCKET).exists() {
        meta.insert("credential".to_owned(), "true".into());
    }
    if config.data_plane == DataPlaneKind::Lateen {
        meta.insert(NATIVE.to_owned(), "true".into());
    }
    meta.sort_keys();
    meta
}

/// `ISTIO_META_X=v` becomes `X: v`; the keys of the object in `ISTIO_METAJSON_*` become keys, whatever the variable is called.
/// `proxyMetadata` comes first, so that the environment wins.
fn passed_through(config: &AgentConfig) -> Map<String, Value> {
    let mut meta = Map::new();
    let from_proxy_config = config
        .proxy_config
        .proxy_metadata
        .iter()
        .map(|(k, v)| (k, v));
    for (name, value) in from_proxy_config.chain(&config.environment) {
        if let Some(key) = name.strip_prefix("ISTIO_META_") {
            meta.insert(key.to_owned(), value.as_str().into());
        }
    }
    for (name, value) in &config.environment {
        if !name.starts_with("ISTIO_METAJSON_") {
            continue;
        }
        match serde_json::from_str::<Map<String, Value>>(value) {
            Ok(object) if name == "ISTIO_METAJSON_LABELS" => drop(object),
            Ok(object) => meta.extend(object),
            Err(error) => tracing::warn!(%name, %error, "variable does not hold a JSON object"),
        }
    }
    if let Some(address) = config
        .environment
        .get("DNS_PROXY_ADDR")
        .filter(|a| !a.is_empty())
    {
        meta.insert("DNS_PROXY_ADDR".to_owned(), address.as_str().into());
    }
    meta
}

fn static_labels(config: &AgentConfig) -> Option<Map<String, Value>> {
    let text = config.environment.get("ISTIO_METAJSON_LABELS")?;
    serde_json::from_str(text)
        .ok()
        .filter(|labels: &Map<String, Value>| !labels.is_empty())
}

/// Region, zone and sub-zone from the label `topology.istio.io/locality`, or the older `istio-locality`, which separates them with
/// dots because a label's value cannot hold a slash.
fn locality(metadata: &Map<String, Value>) -> Option<[String; 3]> {
    let labels = metadata.get("LABELS")?;
    let label = |name| labels.get(name).and_then(Value::as_str);
    let text = label("topology.istio.io/locality").or_else(|| label("istio-locality"))?;
    let separator = if text.contains('/') { '/' } else { '.' };
    let mut parts = text.splitn(3, separator).map(ToOwned::to_owned);
    Some(std::array::from_fn(|_| parts.next().unwrap_or_default()))
}

/// What Envoy calls `--service-cluster`: the app or workload with its namespace (tracers show it).
fn cluster(config: &AgentConfig, metadata: &Map<String, Value>) -> String {
    let label = |name| {
        metadata
            .get("LABELS")
            .and_then(|l| l.get(name))
            .and_then(Value::as_str)
    };
    let name = label("service.istio.io/canonical-name")
        .or_else(|| label("app"))
        .or_else(|| metadata.get("WORKLOAD_NAME").and_then(Value::as_str))
        .unwrap_or("istio-proxy");
    format!("{name}.{}", config.namespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;

    #[test]
    fn the_id_is_what_istio_writes() {
        let config = config(&[]).unwrap();
        assert_eq!(
            node_id(&config),
            "sidecar~10.244.0.7~reviews-v1-0.default~default.svc.cluster.local"
        );
    }

    #[test]
    fn metadata_comes_from_the_environment_by_its_prefix() {
        let config = config(&[
            ("ISTIO_META_MESH_ID", "mesh1"),
            (
                "ISTIO_METAJSON_ANNOTATIONS",
                r#"{"sidecar.istio.io/x":"y"}"#,
            ),
            ("ISTIO_METAJSON_BROKEN", "{"),
            ("UNRELATED", "secret"),
        ])
        .unwrap();
        let meta = metadata(&config);
        assert_eq!(meta["MESH_ID"], "mesh1");
        assert_eq!(meta["CLUSTER_ID"], "Kubernetes");
        assert_eq!(meta["WORKLOAD_NAME"], "reviews-v1");
        assert_eq!(meta["sidecar.istio.io/x"], "y");
        assert_eq!(meta["LABELS"]["app"], "reviews");
        assert_eq!(meta["INSTANCE_IPS"], "10.244.0.7");
        assert_eq!(meta["PROXY_CONFIG"]["statusPort"], 15020);
        assert!(!meta.values().any(|value| value == "secret"));
        assert!(!meta.contains_key(NATIVE));
    }

    #[test]
    fn our_own_proxy_says_so() {
        let mut config = config(&[]).unwrap();
        config.data_plane = DataPlaneKind::Lateen;
        assert_eq!(metadata(&config)[NATIVE], "true");
    }

    #[test]
    fn the_locality_label_is_split() {
        let labels = r#"{"istio-locality":"eu.eu-1.rack2","app":"a"}"#;
        let config = config(&[("ISTIO_METAJSON_LABELS", labels)]).unwrap();
        let node = node(&config);
        let locality = node.locality.unwrap();
        assert_eq!(
            (locality.region, locality.zone),
            ("eu".to_owned(), "eu-1".to_owned())
        );
        assert_eq!(locality.sub_zone, "rack2");
        assert_eq!(node.cluster, "a.default");
    }
}
