//! What a session reads from the resources it sends, and how it writes them.

use lateen_envoy::Resource;
use lateen_envoy::pb::envoy::service::discovery::v3::Resource as WireResource;
use lateen_envoy::pb::google::protobuf::Any;
use prost::Message;

/// A resource of a delta response.
pub(super) fn wire_resource(resource: &Resource) -> WireResource {
    WireResource {
        name: String::from(&*resource.name),
        version: resource.version_string(),
        resource: Some(Any::clone(&resource.body)),
        ..WireResource::default()
    }
}

/// The few fields of a `Cluster` that say where its endpoints come from; the rest is skipped over.
#[derive(Clone, PartialEq, prost::Message)]
struct ClusterHead {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, optional, tag = "2")]
    discovery: Option<i32>,
    #[prost(message, optional, tag = "3")]
    eds: Option<EdsHead>,
}

/// The same of an `EdsClusterConfig`.
#[derive(Clone, PartialEq, prost::Message)]
struct EdsHead {
    #[prost(string, tag = "2")]
    service_name: String,
}

/// The name under which a cluster's endpoints are asked for, if it asks for any.
pub(super) fn endpoints_of(cluster: &Resource) -> Option<String> {
    /// `Cluster.DiscoveryType.EDS`.
    const EDS: i32 = 3;
    let head = ClusterHead::decode(cluster.body.value.as_slice()).ok()?;
    if head.discovery != Some(EDS) {
        return None;
    }
    let service = head.eds.map(|eds| eds.service_name).unwrap_or_default();
    Some(if service.is_empty() {
        head.name
    } else {
        service
    })
}
