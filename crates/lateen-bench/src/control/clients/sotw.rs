//! A proxy that speaks the state-of-the-world protocol.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use lateen_envoy::TypeUrl;
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_envoy::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use lateen_envoy::pb::google::protobuf::Any;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{Answered, Client, Fleet};

/// One stream, to its end.
pub(super) async fn run(fleet: &Fleet, index: usize, node: Node, mut client: Client) -> Result<()> {
    let (sender, requests) = mpsc::unbounded_channel();
    let mut proxy = Proxy::default();
    sender.send(DiscoveryRequest {
        node: Some(node),
        ..proxy.request(TypeUrl::Cluster)
    })?;
    sender.send(proxy.request(TypeUrl::Listener))?;
    let requests = UnboundedReceiverStream::new(requests);
    let mut stream = client
        .stream_aggregated_resources(requests)
        .await?
        .into_inner();
    while let Some(response) = stream.message().await? {
        let at = fleet.received(index);
        let ty = TypeUrl::parse(&response.type_url).context("a type that nobody asked for")?;
        for request in proxy.take(fleet, ty, &response, at) {
            sender.send(request)?;
        }
        if proxy.answered.completes(ty) {
            fleet.became_ready(index);
        }
    }
    Ok(())
}

/// The first field of every resource that is named by it.
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

fn name(any: &Any) -> String {
    Named::decode(any.value.as_slice())
        .map(|named| named.name)
        .unwrap_or_default()
}

/// What was last said of a type.
#[derive(Default)]
struct Said {
    names: BTreeSet<String>,
    version: String,
    nonce: String,
}

#[derive(Default)]
struct Proxy {
    answered: Answered,
    said: BTreeMap<TypeUrl, Said>,
}

impl Proxy {
    /// Repeats what is wanted of a type, and accepts its last response.
    fn request(&mut self, ty: TypeUrl) -> DiscoveryRequest {
        let said = self.said.entry(ty).or_default();
        DiscoveryRequest {
            type_url: ty.as_str().to_owned(),
            version_info: said.version.clone(),
            response_nonce: said.nonce.clone(),
            resource_names: said.names.iter().cloned().collect(),
            ..DiscoveryRequest::default()
        }
    }

    fn take(
        &mut self,
        fleet: &Fleet,
        ty: TypeUrl,
        response: &DiscoveryResponse,
        at: u64,
    ) -> Vec<DiscoveryRequest> {
        let said = self.said.entry(ty).or_default();
        said.version.clone_from(&response.version_info);
        said.nonce.clone_from(&response.nonce);
        let mut out = Vec::new();
        match ty {
            TypeUrl::Cluster => {
                let names = response.resources.iter().map(name);
                let wanted = names.filter(|name| name.starts_with("outbound|")).collect();
                out.extend(self.want(TypeUrl::ClusterLoadAssignment, wanted));
            }
            TypeUrl::Listener => {
                let listeners = response.resources.iter();
                let wanted = listeners
                    .flat_map(|any| fleet.routes_of(any).to_vec())
                    .collect();
                out.extend(self.want(TypeUrl::RouteConfiguration, wanted));
            }
            TypeUrl::ClusterLoadAssignment => {
                let names: Vec<String> = response.resources.iter().map(name).collect();
                fleet.arrived(at, names.len(), names.iter().map(String::as_str));
            }
            _ => {}
        }
        out.push(self.request(ty));
        out
    }

    /// The request for names, if they are not those that were asked for before.
    fn want(&mut self, ty: TypeUrl, names: BTreeSet<String>) -> Option<DiscoveryRequest> {
        let said = self.said.entry(ty).or_default();
        if said.names == names {
            return None;
        }
        said.names = names;
        Some(self.request(ty))
    }
}
