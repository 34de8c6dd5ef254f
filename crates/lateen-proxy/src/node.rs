//! Who this proxy is, as metrics label it and as it introduces itself to peers; and reading the introductions of peers.
//!
//! Istio's proxies exchange `x-envoy-peer-metadata` (a `Struct`) and `x-envoy-peer-metadata-id` (the node id): over HTTP as headers, the
//! former in base64; over TCP as the fields of a `Struct` in an `Any`, which [`crate::metadata_exchange`] frames.
//! Source: Istio 1.30, the `peer_metadata` and `metadata_exchange` filters of its proxy; field names as in its `BootstrapNodeMetadata`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::HeaderValue;
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_envoy::pb::google::protobuf::value::Kind;
use lateen_envoy::pb::google::protobuf::{Any, Struct, Value};
use lateen_telemetry::metrics::istio::Peer;
use prost::Message;

/// Longest introduction that is read. Istio's are 300 to 1000 bytes; a peer with many labels may need a few more.
const MAX_METADATA: usize = 8 * 1024;

/// The fields of an introduction over TCP; over HTTP they are headers.
const METADATA: &str = "x-envoy-peer-metadata";
const METADATA_ID: &str = "x-envoy-peer-metadata-id";
const STRUCT: &str = "type.googleapis.com/google.protobuf.Struct";

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
    /// Both as an encoded `google.protobuf.Any` of a `Struct`, for TCP.
    pub(crate) told: Bytes,
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
            told: told(shown, &node.id),
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
    const LABELS: [&str; 6] = [
        "app",
        "app.kubernetes.io/name",
        "app.kubernetes.io/version",
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

/// What is said over TCP.
fn told(metadata: Struct, id: &str) -> Bytes {
    let value = |kind| Value { kind: Some(kind) };
    let mut fields = BTreeMap::from([(METADATA.to_owned(), value(Kind::StructValue(metadata)))]);
    if !id.is_empty() {
        let id = value(Kind::StringValue(id.to_owned()));
        fields.insert(METADATA_ID.to_owned(), id);
    }
    let fields = Struct {
        fields: fields.into_iter().collect(),
    };
    let any = Any {
        type_url: STRUCT.to_owned(),
        value: fields.encode_to_vec(),
    };
    any.encode_to_vec().into()
}

/// Reads what a peer says over TCP; `None` if that is no introduction.
pub(crate) fn read_told(bytes: &[u8]) -> Option<Peer> {
    let any = Any::decode(bytes).ok()?;
    if any.type_url != STRUCT {
        return None;
    }
    let fields = Struct::decode(&*any.value).ok()?;
    match fields.fields.get(METADATA)?.kind.as_ref()? {
        Kind::StructValue(metadata) => Some(peer_of(metadata)),
        _ => None,
    }
}

/// Reads what a control plane says of an endpoint: `workload;namespace;canonical name;canonical revision;cluster`.
///
/// Source: Istio, `istio.workload` in the metadata of an endpoint; used where the peer says nothing itself.
pub(crate) fn read_endpoint(text: &str) -> Option<Peer> {
    let mut parts = text.split(';').map(str::to_owned);
    Some(Peer {
        workload: parts.next()?,
        namespace: parts.next()?,
        canonical_service: parts.next()?,
        canonical_revision: parts.next()?,
        cluster: parts.next()?,
        ..Peer::default()
    })
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
    let app = label("app.kubernetes.io/name").or_else(|| label("app"));
    let version = label("app.kubernetes.io/version").or_else(|| label("version"));
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
    fn what_is_said_over_tcp_is_the_same() {
        let node = Node {
            id: "sidecar~10.0.0.1~a.default~x".to_owned(),
            metadata: json!({
                "WORKLOAD_NAME": "a", "NAMESPACE": "default",
                "LABELS": {"app": "a", "app.kubernetes.io/name": "qualified"},
            })
            .as_object()
            .map(lateen_envoy::struct_from_json),
            ..Node::default()
        };
        let identity = Identity::of(&node);
        let peer = read_told(&identity.told).unwrap();
        assert_eq!(peer, identity.peer);
        assert_eq!(peer.app, "qualified");
        // Field 1 of an `Any` is its type, which peers look at.
        assert!(
            identity
                .told
                .windows(STRUCT.len())
                .any(|w| w == STRUCT.as_bytes())
        );
        assert!(read_told(b"").is_none());
        assert!(read_told(&identity.told[..20]).is_none());
    }

    #[test]
    fn an_endpoints_workload_is_read_and_a_shorter_text_is_nobody() {
        let peer = read_endpoint("reviews-v1;shop;reviews;v1;Kubernetes").unwrap();
        assert_eq!(
            (peer.workload.as_str(), peer.namespace.as_str()),
            ("reviews-v1", "shop")
        );
        assert_eq!(
            (peer.canonical_service.as_str(), peer.cluster.as_str()),
            ("reviews", "Kubernetes")
        );
        assert!(read_endpoint("reviews-v1;shop;reviews;v1").is_none());
    }

    #[test]
    fn nonsense_is_nobody() {
        assert!(read_peer(&HeaderValue::from_static("!!")).is_none());
        assert!(read_peer(&HeaderValue::from_str(&"A".repeat(9000)).unwrap()).is_none());
    }
}
