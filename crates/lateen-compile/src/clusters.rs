//! Clusters: where connections may go, and how they are made.
//!
//! One outbound cluster per service port and subset, one inbound cluster per port of the workload, and the few that exist
//! once: passthrough, black hole. Endpoints of EDS clusters are in [`crate::endpoints`].

mod draft;
mod inbound;
mod policy;
mod tls;

use lateen_api::networking::ClientTlsMode;

use crate::credentials::{SOCKET_CLUSTER, SOCKET_PATH};
use crate::filters::TPROXY_MARK;
use crate::mesh::Mesh;
use crate::meta::{ISTIO, Meta, boolean, list, number, object, string};
use crate::model::{Endpoint, Port, Resolution, Service};
use crate::names;
use crate::node::IpMode;
use crate::pod::Locality;
use crate::proto::{cluster, core, duration, extension, extensions, pipe_address, u32_value};
use crate::rules::MergedRule;
use crate::security::MtlsMode;
use crate::shared::Shared;

pub(crate) use inbound::{InboundClusterInputs, Target, inbound};
pub(crate) use policy::{DISTRIBUTION_LABELS, EffectivePolicy, LocalityPolicy};
pub(crate) use tls::{
    ROOT_SECRET, WORKLOAD_SECRET, agent_secret, control_plane_secret, grpc_secret, inline_bytes,
    subject_alt_names, validate_by, validate_by_with_crl,
};

use cluster::cluster::DiscoveryType;
use draft::Draft;

/// What clusters need to know of the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClusterView {
    /// Whether it is a gateway.
    pub(crate) router: bool,
    /// The families of its addresses.
    pub(crate) ip_mode: IpMode,
    /// Whether it has Istio's extensions.
    pub(crate) native: bool,
    /// Whether connections to its workload have to be marked here (TPROXY): a stock Envoy lets the options of clusters, and of its
    /// bootstrap, win over those of the listener filter.
    pub(crate) marks_sources: bool,
    /// Whether there is a server of secrets on a socket in its pod.
    pub(crate) credential_socket: bool,
}

/// The client's place, for clusters whose endpoints are in the cluster itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) locality: Locality,
    pub(crate) labels: std::collections::BTreeMap<String, String>,
}

/// How an outbound cluster is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Mode {
    /// By its service.
    #[default]
    Service,
    /// By the server name that spells it: a gateway between networks hands mutual TLS on as it is.
    ServerName,
}

impl Mode {
    /// The name of a cluster.
    pub(crate) fn cluster_name(self, subset: &str, hostname: &str, port: u32) -> String {
        match self {
            Self::Service => names::outbound_cluster(subset, hostname, port),
            Self::ServerName => names::sni_cluster(subset, hostname, port),
        }
    }
}

/// Everything the outbound clusters of one service port depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClusterInputs {
    pub(crate) mode: Mode,
    pub(crate) view: ClusterView,
    pub(crate) mesh: Shared<Mesh>,
    pub(crate) service: Shared<Service>,
    pub(crate) port: Port,
    pub(crate) rule: Option<Shared<MergedRule>>,
    /// For services resolved by DNS, their endpoints; none where EDS sends them.
    pub(crate) endpoints: Option<Shared<Vec<Endpoint>>>,
    /// The identities of the service's workloads.
    pub(crate) identities: Vec<String>,
    /// What PeerAuthentication says for the service's namespace.
    pub(crate) server_mtls: MtlsMode,
    /// Whether there are endpoints and each of them can speak mutual TLS: what passthrough clusters have to know in advance.
    pub(crate) all_mtls: bool,
    /// For services resolved by DNS.
    pub(crate) place: Option<Place>,
}

/// The clusters of one service port: the whole, then its subsets in the order of the rule.
pub(crate) fn outbound(inputs: &ClusterInputs) -> Vec<cluster::Cluster> {
    if inputs.service.resolution == Resolution::Alias || inputs.port.protocol.handling().is_none() {
        return Vec::new();
    }
    let subsets = inputs
        .rule
        .as_ref()
        .map_or(0, |rule| rule.spec.subsets.len());
    let mut out: Vec<cluster::Cluster> = outbound_cluster(inputs, None).into_iter().collect();
    out.extend((0..subsets).filter_map(|index| outbound_cluster(inputs, Some(index))));
    out
}

/// One cluster; none where DNS has nothing to resolve.
fn outbound_cluster(inputs: &ClusterInputs, subset: Option<usize>) -> Option<cluster::Cluster> {
    let service = &inputs.service;
    let rule = inputs.rule.as_deref();
    let spec = subset.and_then(|index| rule.and_then(|rule| rule.spec.subsets.get(index)));
    let subset_name = spec.map_or("", |spec| spec.name.as_str());
    let name = inputs
        .mode
        .cluster_name(subset_name, &service.hostname, inputs.port.number);
    let policy = effective(inputs, spec).with_mesh_defaults(&inputs.mesh);
    let ty = discovery_type(service, inputs.view.router);
    let mut draft = if ty == DiscoveryType::Eds && service.resolution == Resolution::DynamicDns {
        dynamic_forward_proxy(&name, &inputs.view, true)
    } else {
        Draft::new(&name, ty)
    };
    if is_dns(ty) {
        let endpoints = inputs.endpoints.as_ref()?;
        set_dns(&mut draft, inputs);
        let labels = spec.map(|spec| &spec.labels);
        let assignment =
            crate::endpoints::dns_assignment(&name, endpoints, labels, inputs, &policy)?;
        draft.cluster.load_assignment = Some(assignment);
    }
    if ty == DiscoveryType::OriginalDst && inputs.port.target != 0 {
        draft.cluster.lb_config = Some(port_override(inputs.port.target));
    }
    set_upstream_protocol(&mut draft, &inputs.port, inputs.view.router);
    apply(&mut draft, inputs, &policy, subset_name);
    if inputs.view.native {
        draft.cluster.filters.push(cluster::Filter {
            name: "istio.metadata_exchange".to_owned(),
            typed_config: Some(crate::filters::metadata_exchange_config()),
            ..Default::default()
        });
    }
    let mut meta = metadata(inputs, &policy, subset);
    if !inputs.view.native && inputs.mode == Mode::Service && draft.is_mutual() && !draft.is_h2() {
        for (version, offer) in crate::filters::alpn_offers(draft.follows_client()) {
            meta = meta.string(crate::filters::ALPN_METADATA, version, offer);
        }
    }
    draft.cluster.metadata = meta.build();
    Some(draft.build())
}

fn effective(
    inputs: &ClusterInputs,
    subset: Option<&lateen_api::networking::Subset>,
) -> EffectivePolicy {
    let Some(rule) = inputs.rule.as_deref() else {
        return EffectivePolicy::default();
    };
    match subset {
        None => EffectivePolicy::of_port(rule.spec.traffic_policy.as_ref(), inputs.port.number).0,
        Some(subset) => EffectivePolicy::of_subset(
            &rule.spec,
            subset.traffic_policy.as_ref(),
            inputs.port.number,
        ),
    }
}

fn discovery_type(service: &Service, router: bool) -> DiscoveryType {
    match service.resolution {
        Resolution::Static | Resolution::Alias | Resolution::DynamicDns => DiscoveryType::Eds,
        Resolution::Dns => DiscoveryType::StrictDns,
        Resolution::DnsRoundRobin => DiscoveryType::LogicalDns,
        // A gateway has no original destination to go to.
        Resolution::Passthrough if router => DiscoveryType::Eds,
        Resolution::Passthrough => DiscoveryType::OriginalDst,
    }
}

fn is_dns(ty: DiscoveryType) -> bool {
    matches!(ty, DiscoveryType::StrictDns | DiscoveryType::LogicalDns)
}

/// Settings of the proxy's own resolver.
#[expect(
    deprecated,
    reason = "Istio sends these fields, and every Envoy reads them"
)]
fn set_dns(draft: &mut Draft, inputs: &ClusterInputs) {
    use cluster::cluster::DnsLookupFamily;
    use extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
    let family = match inputs.view.ip_mode {
        IpMode::V4 => DnsLookupFamily::V4Only,
        IpMode::V6 => DnsLookupFamily::V6Only,
        IpMode::Dual => DnsLookupFamily::All,
    };
    let cluster = &mut draft.cluster;
    cluster.dns_lookup_family = family as i32;
    cluster.dns_refresh_rate = Some(duration(inputs.mesh.dns_refresh_rate));
    cluster.respect_dns_ttl = true;
    cluster.typed_dns_resolver_config = Some(extension(
        "envoy.network.dns_resolver.cares",
        &CaresDnsResolverConfig {
            // A new local port after so many queries. Source: Istio.
            udp_max_queries: u32_value(100),
            ..Default::default()
        },
    ));
}

/// A cluster that resolves whatever host the request names.
fn dynamic_forward_proxy(name: &str, view: &ClusterView, insecure: bool) -> Draft {
    use extensions::clusters::dynamic_forward_proxy::v3::{ClusterConfig, cluster_config};
    let config = ClusterConfig {
        cluster_implementation_specifier: Some(
            cluster_config::ClusterImplementationSpecifier::DnsCacheConfig(
                crate::filters::dns_cache(view.ip_mode),
            ),
        ),
        // Envoy asks for names in certificates to be checked, or for this; without TLS there are none.
        allow_insecure_cluster_options: insecure,
        ..Default::default()
    };
    let mut draft = Draft::new(name, DiscoveryType::Static);
    draft.cluster.lb_policy = cluster::cluster::LbPolicy::ClusterProvided as i32;
    draft.cluster.cluster_discovery_type = Some(
        cluster::cluster::ClusterDiscoveryType::ClusterType(cluster::cluster::CustomClusterType {
            name: "envoy.clusters.dynamic_forward_proxy".to_owned(),
            typed_config: Some(crate::proto::any(&config)),
        }),
    );
    draft
}

/// HTTP to hosts nobody declared.
fn allow_any_dynamic_dns(inputs: &CommonClusterInputs) -> cluster::Cluster {
    let name = names::ALLOW_ANY_DYNAMIC_DNS_CLUSTER;
    let rule = inputs.mesh.outbound_tls.as_ref();
    let rule = rule.filter(|rule| rule.mode != ClientTlsMode::Disable);
    // Envoy wants certificates to be for the host that was asked for, or to be told that they need not.
    let checked = rule.is_some_and(|rule| {
        let skip = rule.insecure_skip_verify == Some(true);
        rule.sni.is_empty() && rule.subject_alt_names.is_empty() && !skip
    });
    let mut draft = dynamic_forward_proxy(name, &inputs.view, !checked);
    draft.cluster.common_lb_config = None;
    draft.use_downstream_protocol();
    let pool = inputs.mesh.default_connection_pool.as_ref();
    policy::apply_connection_pool(&mut draft, &inputs.mesh, pool, None);
    if let Some(rule) = rule {
        let identity = || tls::Identity {
            sni: rule.sni.clone(),
            identities: rule.subject_alt_names.clone(),
        };
        let security = match rule.mode {
            ClientTlsMode::IstioMutual => tls::Security::IstioMutual(identity()),
            _ => tls::Security::Rule(rule.clone()),
        };
        let context = tls::RuleContext {
            service: None,
            may_fetch_secrets: false,
            credential_socket: inputs.view.credential_socket,
            native: inputs.view.native,
            defaults: inputs.mesh.tls_defaults.as_ref(),
        };
        tls::apply(&mut draft, &security, &context);
    }
    draft.build()
}

fn port_override(port: u32) -> cluster::cluster::LbConfig {
    cluster::cluster::LbConfig::OriginalDstLbConfig(cluster::cluster::OriginalDstLbConfig {
        upstream_port_override: u32_value(port),
        ..Default::default()
    })
}

fn set_upstream_protocol(draft: &mut Draft, port: &Port, router: bool) {
    if port.protocol.is_http2() {
        draft.use_h2();
    } else if port.protocol.is_sniffed() && !router {
        draft.use_downstream_protocol();
    }
}

fn apply(draft: &mut Draft, inputs: &ClusterInputs, policy: &EffectivePolicy, subset: &str) {
    let (mesh, service, port) = (&*inputs.mesh, &*inputs.service, &inputs.port);
    if policy::upgrades_to_h2(mesh, port, policy.connection_pool.as_ref()) {
        draft.use_h2();
    }
    policy::apply_connection_pool(
        draft,
        mesh,
        policy.connection_pool.as_ref(),
        policy.retry_budget.as_ref(),
    );
    policy::apply_outlier_detection(draft, policy.outlier_detection.as_ref());
    if service.resolution != Resolution::DynamicDns {
        let locality = LocalityPolicy::of(mesh, policy.load_balancer.as_ref(), Some(service));
        policy::apply_load_balancer(draft, policy.load_balancer.as_ref(), locality.as_ref());
    }
    if inputs.mode == Mode::ServerName {
        return;
    }
    let passthrough = service.resolution == Resolution::Passthrough || policy.is_passthrough();
    let server = if passthrough && !inputs.all_mtls {
        MtlsMode::Disable
    } else {
        inputs.server_mtls
    };
    let sni = names::sni_cluster(subset, &service.hostname, port.number);
    let security = tls::decide(
        policy.tls.as_ref(),
        &inputs.identities,
        &sni,
        mesh.auto_mtls,
        service.mesh_external,
        server,
    );
    let context = tls::RuleContext {
        service: Some(service),
        may_fetch_secrets: inputs.view.router
            || inputs
                .rule
                .as_ref()
                .is_some_and(|rule| rule.spec.workload_selector.is_some()),
        credential_socket: inputs.view.credential_socket,
        native: inputs.view.native,
        defaults: mesh.tls_defaults.as_ref(),
    };
    tls::apply(draft, &security, &context);
    policy::apply_proxy_protocol(draft, policy.proxy_protocol.as_ref());
}

fn metadata(inputs: &ClusterInputs, policy: &EffectivePolicy, subset: Option<usize>) -> Meta {
    let service = &inputs.service;
    let mut meta = Meta::default()
        .value(ISTIO, "services", list(vec![service_metadata(service)]))
        .value(
            ISTIO,
            "default_original_port",
            number(f64::from(inputs.port.number)),
        );
    if service.mesh_external {
        meta = meta.value(ISTIO, "external", boolean(true));
    }
    let Some(rule) = inputs.rule.as_deref() else {
        return meta.provenance(&service.object, "");
    };
    meta = match subset.and_then(|index| rule.subset_source(index)) {
        Some((object, path)) => meta.config(object, path),
        None => meta.config(&rule.object, ""),
    };
    if let Some(spec) = subset.and_then(|index| rule.spec.subsets.get(index)) {
        meta = meta.string(ISTIO, "subset", &spec.name);
    }
    match policy.tls.as_ref().map(|tls| tls.mode) {
        Some(ClientTlsMode::Simple | ClientTlsMode::Mutual) => {
            meta.string(ISTIO, "alpn_override", "false")
        }
        _ => meta,
    }
}

/// What metrics are labelled with.
pub(crate) fn service_metadata(service: &Service) -> lateen_envoy::pb::google::protobuf::Value {
    object([
        ("host", string(&service.hostname)),
        ("name", string(&service.name)),
        ("namespace", string(&service.namespace)),
    ])
}

/// What the clusters that exist once depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CommonClusterInputs {
    pub(crate) view: ClusterView,
    pub(crate) mesh: Shared<Mesh>,
}

/// Passthrough and black hole.
pub(crate) fn common(inputs: &CommonClusterInputs) -> Vec<cluster::Cluster> {
    let mut out = vec![black_hole(&inputs.mesh)];
    if inputs.view.credential_socket {
        out.push(secret_socket(&inputs.mesh));
    }
    if !inputs.view.router {
        out.push(passthrough(inputs));
        out.push(inbound_passthrough(inputs));
        if inputs.mesh.outbound == crate::mesh::OutboundPolicy::AllowAnyDynamicDns {
            out.push(allow_any_dynamic_dns(inputs));
        }
    }
    out
}

fn black_hole(mesh: &Mesh) -> cluster::Cluster {
    let mut draft = Draft::new(names::BLACK_HOLE_CLUSTER, DiscoveryType::Static);
    draft.cluster.common_lb_config = None;
    draft.cluster.connect_timeout = Some(duration(mesh.connect_timeout));
    draft.build()
}

/// Where the server of secrets is whose socket is in the pod.
fn secret_socket(mesh: &Mesh) -> cluster::Cluster {
    let mut draft = inbound::fixed(SOCKET_CLUSTER, pipe_address(SOCKET_PATH));
    draft.cluster.common_lb_config = None;
    draft.cluster.connect_timeout = Some(duration(mesh.connect_timeout));
    draft.use_h2();
    draft.build()
}

fn passthrough_draft(name: &str, inputs: &CommonClusterInputs) -> Draft {
    let mut draft = Draft::new(name, DiscoveryType::OriginalDst);
    draft.cluster.common_lb_config = None;
    draft.cluster.lb_policy = cluster::cluster::LbPolicy::ClusterProvided as i32;
    draft.use_downstream_protocol();
    let common = draft
        .http_options()
        .common_http_protocol_options
        .get_or_insert_default();
    // Unknown destinations come and go; Envoy's hour would keep connections to all of them. Source: Istio.
    common.idle_timeout = Some(duration(std::time::Duration::from_secs(300)));
    let pool = inputs.mesh.default_connection_pool.as_ref();
    policy::apply_connection_pool(&mut draft, &inputs.mesh, pool, None);
    draft
}

fn passthrough(inputs: &CommonClusterInputs) -> cluster::Cluster {
    let mut draft = passthrough_draft(names::PASSTHROUGH_CLUSTER, inputs);
    if inputs.view.native {
        draft.cluster.filters.push(cluster::Filter {
            name: "istio.metadata_exchange".to_owned(),
            typed_config: Some(crate::filters::metadata_exchange_config()),
            ..Default::default()
        });
    }
    draft.build()
}

fn inbound_passthrough(inputs: &CommonClusterInputs) -> cluster::Cluster {
    let mut draft = passthrough_draft(names::INBOUND_PASSTHROUGH_CLUSTER, inputs);
    draft.cluster.upstream_bind_config = Some(inbound_source(&inputs.view));
    draft.build()
}

/// Connections to the workload come from an address that redirection leaves alone.
pub(crate) fn inbound_source(view: &ClusterView) -> core::BindConfig {
    let address = |address: &&str| core::SocketAddress {
        address: (*address).to_owned(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
        ..Default::default()
    };
    let sources = view.ip_mode.inbound_sources();
    core::BindConfig {
        socket_options: source_mark(view),
        source_address: sources.first().map(address),
        extra_source_addresses: sources[1..]
            .iter()
            .map(|source| core::ExtraSourceAddress {
                address: Some(address(source)),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

/// The mark of connections in a client's name, as in [`crate::filters::original_src`].
pub(crate) fn source_mark(view: &ClusterView) -> Vec<core::SocketOption> {
    const SOL_SOCKET: i64 = 1;
    const SO_MARK: i64 = 36;
    let mark = core::SocketOption {
        description: "a connection in the client's name".to_owned(),
        level: SOL_SOCKET,
        name: SO_MARK,
        state: core::socket_option::SocketState::StatePrebind.into(),
        value: Some(core::socket_option::Value::IntValue(TPROXY_MARK.into())),
        ..Default::default()
    };
    view.marks_sources.then_some(mark).into_iter().collect()
}

/// Whether a service's endpoints come by EDS for a kind of proxy.
pub(crate) fn uses_eds(service: &Service, router: bool) -> bool {
    discovery_type(service, router) == DiscoveryType::Eds
        && !matches!(
            service.resolution,
            Resolution::DynamicDns | Resolution::Alias
        )
}

/// Whether a service's endpoints are in the cluster itself.
pub(crate) fn uses_dns(service: &Service) -> bool {
    matches!(
        service.resolution,
        Resolution::Dns | Resolution::DnsRoundRobin
    )
}
