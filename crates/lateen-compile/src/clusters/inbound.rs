//! Inbound clusters: from a sidecar to its own workload.

use lateen_api::networking::{ConnectionPoolSettings, TrafficPolicy};

use crate::mesh::Mesh;
use crate::meta::{ISTIO, Meta, list};
use crate::model::{Port, Service};
use crate::names;
use crate::proto::{PbDuration, cluster, core, endpoint, pipe_address, socket_address};
use crate::rules::MergedRule;
use crate::shared::Shared;

use super::draft::Draft;
use super::policy::{EffectivePolicy, apply_connection_pool};
use super::{ClusterView, inbound_source, service_metadata};
use cluster::cluster::DiscoveryType;

/// Everything the inbound cluster of one port depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct InboundClusterInputs {
    pub(crate) view: ClusterView,
    pub(crate) mesh: Shared<Mesh>,
    /// The port the workload listens on, which names the cluster.
    pub(crate) listen_port: u32,
    /// The service port it was found by.
    pub(crate) port: Port,
    /// Every service that has this port of the workload behind a port of the same number.
    pub(crate) services: Vec<Shared<Service>>,
    /// Where the workload is to be reached: an address and port, `unix://path`, or empty for where the client was going.
    pub(crate) target: Target,
    /// The rule for the service, of which only the connection pool applies to inbound connections.
    pub(crate) rule: Option<Shared<MergedRule>>,
    /// The Sidecar's limits for the port.
    pub(crate) connection_pool: Option<ConnectionPoolSettings>,
}

/// Where an inbound cluster leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Target {
    /// Where the client was going.
    #[default]
    Original,
    /// An address.
    Address(String, u32),
    /// A Unix socket.
    Pipe(String),
}

/// The inbound cluster of one port.
pub(crate) fn inbound(inputs: &InboundClusterInputs) -> cluster::Cluster {
    let name = names::inbound_cluster(inputs.listen_port);
    let mut draft = match &inputs.target {
        Target::Original => {
            let mut draft = Draft::new(&name, DiscoveryType::OriginalDst);
            draft.cluster.lb_policy = cluster::cluster::LbPolicy::ClusterProvided as i32;
            // The only host is the workload itself: never cleaned up. Envoy's limit is what 64-bit nanoseconds hold.
            draft.cluster.cleanup_interval = Some(PbDuration {
                seconds: 9_223_372_035,
                nanos: 0,
            });
            draft
        }
        Target::Address(address, port) => fixed(&name, socket_address(address, *port)),
        Target::Pipe(path) => fixed(&name, pipe_address(path)),
    };
    super::set_upstream_protocol(&mut draft, &inputs.port, inputs.view.router);
    let policy = policy(inputs);
    apply_connection_pool(
        &mut draft,
        &inputs.mesh,
        policy.connection_pool.as_ref(),
        policy.retry_budget.as_ref(),
    );
    if !is_loopback(&inputs.target) {
        draft.cluster.upstream_bind_config = Some(inbound_source(&inputs.view));
    } else if inputs.view.marks_sources {
        draft.cluster.upstream_bind_config = Some(core::BindConfig {
            socket_options: super::source_mark(&inputs.view),
            ..Default::default()
        });
    }
    draft.cluster.metadata = metadata(inputs).build();
    draft.build()
}

fn policy(inputs: &InboundClusterInputs) -> EffectivePolicy {
    let rule: Option<&TrafficPolicy> = inputs
        .rule
        .as_ref()
        .and_then(|rule| rule.spec.traffic_policy.as_ref());
    let (mut policy, _) = EffectivePolicy::of_port(rule, inputs.port.number);
    policy = policy.with_mesh_defaults(&inputs.mesh);
    if inputs.connection_pool.is_some() {
        policy.connection_pool.clone_from(&inputs.connection_pool);
    }
    policy
}

/// One host that does not change.
pub(super) fn fixed(name: &str, address: crate::proto::core::Address) -> Draft {
    let mut draft = Draft::new(name, DiscoveryType::Static);
    draft.cluster.load_assignment = Some(endpoint::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            lb_endpoints: vec![endpoint::LbEndpoint {
                host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
                    endpoint::Endpoint {
                        address: Some(address),
                        ..Default::default()
                    },
                )),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    });
    draft
}

/// Loopback is not redirected, so that connections to it need no exempted source.
fn is_loopback(target: &Target) -> bool {
    match target {
        Target::Original => false,
        Target::Address(address, _) => address == "127.0.0.1" || address == "::1",
        Target::Pipe(_) => true,
    }
}

fn metadata(inputs: &InboundClusterInputs) -> Meta {
    let mut meta = Meta::default();
    let services: Vec<_> = inputs
        .services
        .iter()
        .map(|service| service_metadata(service))
        .collect();
    if !services.is_empty() {
        meta = meta.value(ISTIO, "services", list(services));
    }
    if let Some(rule) = inputs
        .rule
        .as_deref()
        .filter(|rule| rule.spec.traffic_policy.is_some())
    {
        return meta.config(&rule.object, "spec.trafficPolicy");
    }
    match inputs.services.first() {
        Some(service) => meta.provenance(&service.object, ""),
        None => meta,
    }
}
