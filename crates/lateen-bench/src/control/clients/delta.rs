//! A proxy that speaks the delta protocol.

use anyhow::{Context, Result};
use lateen_envoy::TypeUrl;
use lateen_envoy::pb::envoy::config::core::v3::Node;
use lateen_envoy::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use std::collections::BTreeSet;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{Answered, Client, Fleet};

/// One stream, to its end.
pub(super) async fn run(fleet: &Fleet, index: usize, node: Node, mut client: Client) -> Result<()> {
    let (sender, requests) = mpsc::unbounded_channel();
    let first = |ty: TypeUrl, node: Option<Node>| DeltaDiscoveryRequest {
        node,
        ..request(ty)
    };
    sender.send(first(TypeUrl::Cluster, Some(node)))?;
    sender.send(first(TypeUrl::Listener, None))?;
    let requests = UnboundedReceiverStream::new(requests);
    let mut stream = client
        .delta_aggregated_resources(requests)
        .await?
        .into_inner();
    let mut proxy = Proxy::default();
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

fn request(ty: TypeUrl) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: ty.as_str().to_owned(),
        ..DeltaDiscoveryRequest::default()
    }
}

#[derive(Default)]
struct Proxy {
    answered: Answered,
    routes: BTreeSet<String>,
}

impl Proxy {
    /// What is said to a response. Endpoints are asked for before the clusters are accepted, as Envoy does.
    fn take(
        &mut self,
        fleet: &Fleet,
        ty: TypeUrl,
        response: &DeltaDiscoveryResponse,
        at: u64,
    ) -> Vec<DeltaDiscoveryRequest> {
        let mut out = Vec::new();
        let names = response.resources.iter().map(|r| r.name.as_str());
        match ty {
            TypeUrl::Cluster => {
                let with_endpoints = names.filter(|name| name.starts_with("outbound|"));
                let wanted: Vec<String> = with_endpoints.map(str::to_owned).collect();
                if !wanted.is_empty() {
                    out.push(DeltaDiscoveryRequest {
                        resource_names_subscribe: wanted,
                        ..request(TypeUrl::ClusterLoadAssignment)
                    });
                }
            }
            TypeUrl::Listener => {
                let listeners = response.resources.iter();
                let routes = listeners
                    .filter_map(|r| r.resource.as_ref())
                    .flat_map(|any| fleet.routes_of(any).to_vec());
                let wanted: Vec<String> = routes
                    .filter(|name| self.routes.insert(name.clone()))
                    .collect();
                if !wanted.is_empty() {
                    out.push(DeltaDiscoveryRequest {
                        resource_names_subscribe: wanted,
                        ..request(TypeUrl::RouteConfiguration)
                    });
                }
            }
            TypeUrl::ClusterLoadAssignment => fleet.arrived(at, response.resources.len(), names),
            _ => {}
        }
        out.push(DeltaDiscoveryRequest {
            response_nonce: response.nonce.clone(),
            ..request(ty)
        });
        out
    }
}
