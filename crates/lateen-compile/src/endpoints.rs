//! Endpoints: the addresses behind a cluster, by locality, with what decides how to reach each.
//!
//! Kept apart from clusters so that a pod that comes or goes changes one assignment and nothing else.

mod locality;
mod peers;

use std::collections::BTreeMap;

use lateen_api::networking::ClientTlsMode;

use crate::clusters::{ClusterInputs, EffectivePolicy, LocalityPolicy, Mode, Place};
use crate::mesh::Mesh;
use crate::meta::{ISTIO, Meta, TRANSPORT_SOCKET_MATCH};
use crate::model::{Endpoint, Health, Port, Service};
use crate::proto::{core, endpoint, pipe_address, socket_address, u32_value};
use crate::rules::MergedRule;
use crate::shared::Shared;

use locality::Group;

pub use peers::LOCAL_CLUSTER;
pub(crate) use peers::{PeerInputs, peers};

/// Everything the endpoints of one cluster depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EndpointInputs {
    pub(crate) mode: Mode,
    pub(crate) mesh: Shared<Mesh>,
    pub(crate) service: Shared<Service>,
    pub(crate) port: Port,
    /// The subset's name; empty for the whole service.
    pub(crate) subset: String,
    pub(crate) rule: Option<Shared<MergedRule>>,
    pub(crate) endpoints: Shared<Vec<Endpoint>>,
    /// Where the client is; only where locality decides anything.
    pub(crate) place: Option<Place>,
    /// The client's network; empty if there is only one.
    pub(crate) network: String,
}

impl EndpointInputs {
    /// The cluster the endpoints are for.
    pub(crate) fn cluster_name(&self) -> String {
        self.mode
            .cluster_name(&self.subset, &self.service.hostname, self.port.number)
    }

    fn policy(&self) -> EffectivePolicy {
        policy(self.rule.as_deref(), &self.subset, self.port.number)
    }

    fn labels(&self) -> Option<&BTreeMap<String, String>> {
        let rule = self.rule.as_deref()?;
        rule.spec
            .subsets
            .iter()
            .find(|s| s.name == self.subset)
            .map(|subset| &subset.labels)
    }
}

fn policy(rule: Option<&MergedRule>, subset: &str, port: u32) -> EffectivePolicy {
    let Some(rule) = rule else {
        return EffectivePolicy::default();
    };
    let subset = rule.spec.subsets.iter().find(|s| s.name == subset);
    match subset {
        None => EffectivePolicy::of_port(rule.spec.traffic_policy.as_ref(), port).0,
        Some(subset) => {
            EffectivePolicy::of_subset(&rule.spec, subset.traffic_policy.as_ref(), port)
        }
    }
}

/// Whether the client's place changes the endpoints of a cluster, so that it has to be among their inputs.
pub(crate) fn depends_on_place(
    mesh: &Mesh,
    service: &Service,
    rule: Option<&MergedRule>,
    subset: &str,
    port: u32,
) -> bool {
    let policy = policy(rule, subset, port);
    LocalityPolicy::of(mesh, policy.load_balancer.as_ref(), Some(service)).is_some_and(|locality| {
        locality.force
            || policy.outlier_detection.is_some()
            || !locality.setting.distribute.is_empty()
    })
}

/// The endpoints of one cluster.
pub(crate) fn assignment(inputs: &EndpointInputs) -> endpoint::ClusterLoadAssignment {
    let policy = inputs.policy();
    let locality = LocalityPolicy::of(
        &inputs.mesh,
        policy.load_balancer.as_ref(),
        Some(&inputs.service),
    );
    let rule = policy.tls.as_ref().map(|tls| tls.mode);
    let selected = select(
        &inputs.endpoints,
        inputs.labels(),
        &inputs.network,
        |endpoint| {
            // EDS carries addresses only; names are what DNS clusters are for. Mutual TLS is handed on to who can end it.
            endpoint
                .addresses
                .first()
                .is_some_and(|address| is_ip_or_pipe(address))
                && (inputs.mode == Mode::Service || mtls(endpoint, rule))
        },
    );
    let mut groups = group(&selected, rule);
    if let (Some(locality), Some(place)) = (&locality, &inputs.place) {
        locality::apply(
            &mut groups,
            locality,
            place,
            policy.outlier_detection.is_some(),
        );
    }
    endpoint::ClusterLoadAssignment {
        cluster_name: inputs.cluster_name(),
        endpoints: groups.into_iter().map(Group::build).collect(),
        ..Default::default()
    }
}

/// The endpoints inside a cluster that DNS resolves; none if there are none, and then there is no cluster either.
pub(crate) fn dns_assignment(
    name: &str,
    endpoints: &[Endpoint],
    labels: Option<&BTreeMap<String, String>>,
    inputs: &ClusterInputs,
    policy: &EffectivePolicy,
) -> Option<endpoint::ClusterLoadAssignment> {
    let selected = select(endpoints, labels, "", |_| true);
    let mut groups = group(&selected, policy.tls.as_ref().map(|tls| tls.mode));
    let locality = LocalityPolicy::of(
        &inputs.mesh,
        policy.load_balancer.as_ref(),
        Some(&inputs.service),
    );
    if let (Some(locality), Some(place)) = (&locality, &inputs.place) {
        locality::apply(
            &mut groups,
            locality,
            place,
            policy.outlier_detection.is_some(),
        );
    }
    if groups.is_empty() {
        return None;
    }
    Some(endpoint::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: groups.into_iter().map(Group::build).collect(),
        ..Default::default()
    })
}

fn is_ip_or_pipe(address: &str) -> bool {
    address.starts_with("unix://") || address.parse::<std::net::IpAddr>().is_ok()
}

fn select<'a>(
    endpoints: &'a [Endpoint],
    labels: Option<&BTreeMap<String, String>>,
    network: &str,
    eligible: impl Fn(&Endpoint) -> bool,
) -> Vec<&'a Endpoint> {
    endpoints
        .iter()
        .filter(|endpoint| endpoint.health == Health::Healthy && eligible(endpoint))
        .filter(|endpoint| {
            labels.is_none_or(|labels| crate::labels::is_subset(labels, &endpoint.labels))
        })
        .filter(|endpoint| {
            network.is_empty() || endpoint.network.is_empty() || endpoint.network == network
        })
        .collect()
}

/// One group per locality, in the order of localities; endpoints in their own order.
fn group<'a>(endpoints: &[&'a Endpoint], rule: Option<ClientTlsMode>) -> Vec<Group<'a>> {
    let mut groups: BTreeMap<String, Group<'a>> = BTreeMap::new();
    for endpoint in endpoints {
        let group = groups
            .entry(endpoint.locality.to_string())
            .or_insert_with(|| Group::new(endpoint.locality.clone()));
        group.push(endpoint, lb_endpoint(endpoint, rule));
    }
    groups.into_values().collect()
}

fn lb_endpoint(from: &Endpoint, rule: Option<ClientTlsMode>) -> endpoint::LbEndpoint {
    let mut addresses =
        from.addresses
            .iter()
            .map(|address| match address.strip_prefix("unix://") {
                Some(path) => pipe_address(path),
                None => socket_address(address, from.port),
            });
    endpoint::LbEndpoint {
        // Everything sent is believed healthy; what is not ready is not sent.
        health_status: core::HealthStatus::Healthy as i32,
        load_balancing_weight: u32_value(from.weight.max(1)),
        metadata: metadata(from, mtls(from, rule)).build(),
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
            endpoint::Endpoint {
                address: addresses.next(),
                additional_addresses: addresses
                    .map(|address| endpoint::endpoint::AdditionalAddress {
                        address: Some(address),
                    })
                    .collect(),
                ..Default::default()
            },
        )),
    }
}

/// Whether to reach an endpoint by mutual TLS: what the rule says, else whether it can and accepts it.
fn mtls(from: &Endpoint, rule: Option<ClientTlsMode>) -> bool {
    match rule {
        Some(mode) => mode == ClientTlsMode::IstioMutual,
        None => from.mtls_capable && from.mtls_accepted,
    }
}

fn metadata(from: &Endpoint, mtls: bool) -> Meta {
    let meta = Meta::default().string(ISTIO, "workload", &workload(from));
    if mtls {
        meta.string(TRANSPORT_SOCKET_MATCH, "tlsMode", "istio")
    } else {
        meta
    }
}

/// `workload;namespace;canonical name;canonical revision;cluster`: what metrics are labelled with when a peer says nothing.
fn workload(from: &Endpoint) -> String {
    let label = |keys: &[&str]| keys.iter().find_map(|&key| from.labels.get(key)).cloned();
    let name = label(&[
        "service.istio.io/canonical-name",
        "app.kubernetes.io/name",
        "app",
    ])
    .unwrap_or_else(|| from.workload.clone());
    let revision = label(&[
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ])
    .unwrap_or_default();
    format!(
        "{};{};{name};{revision};{}",
        from.workload, from.namespace, from.cluster_id
    )
}
