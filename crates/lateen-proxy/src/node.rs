//! Who this proxy is, as metrics label it and as it introduces itself to peers; and reading the introductions of peers.
//!
//! Istio's proxies exchange `x-envoy-peer-metadata` (a base64 `Struct`) and `x-envoy-peer-metadata-id` (the node id).
//! Source: Istio 1.30, the `peer_metadata` filter of its proxy; field names as in its `BootstrapNodeMetadata`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderValue;
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_envoy::pb::google::protobuf::value::Kind;
use lateen_envoy::pb::google::protobuf::{Struct, Value};
use lateen_telemetry::metrics::istio::Peer;
use prost::Message;

/// Longest introduction that is read. Istio's are 300 to 1000 bytes; a peer with many labels may need a few more.
const MAX_METADATA: usize = 8 * 1024;

/// Peers pad or do not, depending on their version.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What is derived once from the node.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// How metrics label this workload.
    pub(crate) peer: Peer,
    /// `x-envoy-peer-metadata`.
    pub(crate) metadata: HeaderValue,
    /// `x-envoy-peer-metadata-id`.
    pub(crate) id: HeaderValue,
    /// Its address, as the second part of Istio's node ids says.
    pub(crate) address: Option<IpAddr>,
}

impl Identity {
    /// Reads the node.
    pub(crate) fn of(node: &Node) -> Self {
        let empty = Struct::default();
        let metadata = node.metadata.as_ref().unwrap_or(&empty);
        let shown = introduction(metadata);
        let peer = peer_of(&shown);
        let header = |text: &str| {
            HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
        };
        Self {
            metadata: header(&STANDARD_NO_PAD.encode(shown.encode_to_vec())),
            id: header(&node.id),
            address: node.id.split('~').nth(1).and_then(|ip| ip.parse().ok()),
            peer,
        }
    }
}

/// The part of a node's metadata that peers are told.
fn introduction(metadata: &Struct) -> Struct {
    const SHOWN: [&str; 6] = [
        "NAME",
        "NAMESPACE",
        "WORKLOAD_NAME",
        "OWNER",
        "CLUSTER_ID",
        "INSTANCE_IPS",
    ];
    const LABELS: [&str; 4] = [
        "app",
        "version",
        "service.istio.io/canonical-name",
        "service.istio.io/canonical-revision",
    ];
    let mut fields: BTreeMap<String, Value> = SHOWN
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), metadata.fields.get(*key)?.clone())))
        .collect();
    if let Some(Kind::StructValue(labels)) =
        metadata.fields.get("LABELS").and_then(|v| v.kind.as_ref())
    {
        let labels = LABELS
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), labels.fields.get(*key)?.clone())))
            .collect();
        let labels = Kind::StructValue(Struct { fields: labels });
        fields.insert("LABELS".to_owned(), Value { kind: Some(labels) });
    }
    Struct {
        fields: fields.into_iter().collect(),
    }
}

/// Reads a peer's `x-envoy-peer-metadata`; `None` if it is not one.
pub(crate) fn read_peer(header: &HeaderValue) -> Option<Peer> {
    if header.len() > MAX_METADATA {
        return None;
    }
    let bytes = BASE64.decode(header.as_bytes()).ok()?;
    Some(peer_of(&Struct::decode(bytes.as_slice()).ok()?))
}

fn peer_of(metadata: &Struct) -> Peer {
    let text = |key: &str| string(metadata, key).unwrap_or_default();
    let labels = match metadata.fields.get("LABELS").and_then(|v| v.kind.as_ref()) {
        Some(Kind::StructValue(labels)) => Some(labels),
        _ => None,
    };
    let label = |key: &str| labels.and_then(|labels| string(labels, key));
    let workload = text("WORKLOAD_NAME");
    let app = label("app");
    let version = label("version");
    Peer {
        canonical_service: label("service.istio.io/canonical-name")
            .or_else(|| app.clone())
            .unwrap_or_else(|| workload.clone()),
        canonical_revision: label("service.istio.io/canonical-revision")
            .or_else(|| version.clone())
            .unwrap_or_else(|| "latest".to_owned()),
        namespace: text("NAMESPACE"),
        cluster: text("CLUSTER_ID"),
        app: app.unwrap_or_default(),
        version: version.unwrap_or_default(),
        workload,
    }
}

fn string(fields: &Struct, key: &str) -> Option<String> {
    match fields.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_one_proxy_says_of_itself_another_reads() {
        let metadata = json!({
            "WORKLOAD_NAME": "reviews-v1", "NAMESPACE": "default", "CLUSTER_ID": "Kubernetes",
            "LABELS": {"app": "reviews", "version": "v1", "secret": "no"}, "PROXY_CONFIG": {"x": 1},
        });
        let node = Node {
            id: "sidecar~10.0.0.1~reviews.default~default.svc.cluster.local".to_owned(),
            metadata: metadata.as_object().map(lateen_envoy::struct_from_json),
            ..Node::default()
        };
        let identity = Identity::of(&node);
        let peer = read_peer(&identity.metadata).unwrap();
        assert_eq!(peer, identity.peer);
        assert_eq!(
            (
                peer.canonical_service.as_str(),
                peer.canonical_revision.as_str()
            ),
            ("reviews", "v1")
        );
    }

    #[test]
    fn nonsense_is_nobody() {
        assert!(read_peer(&HeaderValue::from_static("!!")).is_none());
        assert!(read_peer(&HeaderValue::from_str(&"A".repeat(9000)).unwrap()).is_none());
    }
}
