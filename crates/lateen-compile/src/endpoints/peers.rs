//! A proxy's peers: the instances of its own workload in its own region, by which it keeps requests in its zone.
//!
//! Source: Istio 1.30, the self-discovery cluster of `pilot/pkg/xds/eds.go`. Rules of destinations do not concern it.

use crate::endpoints::{group, is_ip_or_pipe, locality::Group, select};
use crate::model::Endpoint;
use crate::proto::endpoint;
use crate::shared::Shared;

/// The cluster's name, which the bootstrap of a proxy names, too.
pub const LOCAL_CLUSTER: &str = "local_cluster";

/// Labels that tell one rollout of a workload from the next: load is even within each, not over both.
const ROLLOUTS: [&str; 2] = ["pod-template-hash", "rollouts-pod-template-hash"];

/// Everything the peers of a proxy depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PeerInputs {
    /// What is behind the first service that the proxy is behind; none if it is behind none.
    pub(crate) endpoints: Shared<Vec<Endpoint>>,
    pub(crate) workload: String,
    pub(crate) region: String,
    pub(crate) network: String,
    rollouts: [String; 2],
}

impl PeerInputs {
    /// The inputs of a proxy with such labels.
    pub(crate) fn new(
        endpoints: Shared<Vec<Endpoint>>,
        (workload, region, network): (&str, &str, &str),
        label: impl Fn(&str) -> Option<String>,
    ) -> Self {
        Self {
            endpoints,
            workload: workload.to_owned(),
            region: region.to_owned(),
            network: network.to_owned(),
            rollouts: ROLLOUTS.map(|key| label(key).unwrap_or_default()),
        }
    }

    fn includes(&self, endpoint: &Endpoint) -> bool {
        let label = |key| endpoint.labels.get(key).map_or("", String::as_str);
        endpoint.workload == self.workload
            && endpoint.locality.region == self.region
            && ROLLOUTS.map(label) == self.rollouts.each_ref().map(String::as_str)
            && endpoint
                .addresses
                .first()
                .is_some_and(|ip| is_ip_or_pipe(ip))
    }
}

/// The peers, by locality.
pub(crate) fn peers(inputs: &PeerInputs) -> endpoint::ClusterLoadAssignment {
    let selected = select(&inputs.endpoints, None, &inputs.network, |endpoint| {
        inputs.includes(endpoint)
    });
    let groups = group(&selected, None).into_iter();
    endpoint::ClusterLoadAssignment {
        cluster_name: LOCAL_CLUSTER.to_owned(),
        endpoints: groups.map(Group::build).collect(),
        ..Default::default()
    }
}
