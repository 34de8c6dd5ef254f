//! A destination rule's traffic policy applied to a cluster: connection pool, outlier detection, load balancing.
//!
//! TLS is in `tls`. What a policy does not say is Istio's default, which differs from Envoy's mostly in having no limits.

use std::time::Duration;

use lateen_api::networking::{
    BackendUtilization, ClientTlsSettings, ConnectionPoolSettings, ConsistentHashLb,
    DestinationRule, H2UpgradePolicy, LoadBalancerSettings, LocalityFailover,
    LocalityLoadBalancerSetting, OutlierDetection, PortTrafficPolicy, RetryBudget, SimpleLb,
    TrafficPolicy, WarmupConfiguration, ZoneAwareLoadBalancerSetting,
};

use crate::mesh::{Keepalive, Mesh};
use crate::model::{Distribution, Port, Service};
use crate::proto::{FloatValue, cluster, core, duration, envoy_type, route, u32_value, u64_value};
use crate::proto::{exact, extension, extensions, upstream_http};

use super::draft::Draft;

/// The part of a traffic policy that applies to one port of one subset.
#[derive(Clone, Debug, Default)]
pub(crate) struct EffectivePolicy {
    pub(crate) load_balancer: Option<LoadBalancerSettings>,
    pub(crate) connection_pool: Option<ConnectionPoolSettings>,
    pub(crate) outlier_detection: Option<OutlierDetection>,
    pub(crate) tls: Option<ClientTlsSettings>,
    pub(crate) proxy_protocol: Option<lateen_api::networking::ProxyProtocol>,
    pub(crate) retry_budget: Option<RetryBudget>,
}

impl EffectivePolicy {
    fn from_policy(policy: &TrafficPolicy) -> Self {
        Self {
            load_balancer: policy.load_balancer.clone(),
            connection_pool: policy.connection_pool.clone(),
            outlier_detection: policy.outlier_detection.clone(),
            tls: policy.tls.clone(),
            proxy_protocol: policy.proxy_protocol.clone(),
            retry_budget: policy.retry_budget.clone(),
        }
    }

    fn from_port(policy: &PortTrafficPolicy) -> Self {
        Self {
            load_balancer: policy.load_balancer.clone(),
            connection_pool: policy.connection_pool.clone(),
            outlier_detection: policy.outlier_detection.clone(),
            tls: policy.tls.clone(),
            ..Self::default()
        }
    }

    /// The policy of a port. Settings for the port replace the general ones as a whole; nothing is inherited field by field.
    pub(crate) fn of_port(policy: Option<&TrafficPolicy>, port: u32) -> (Self, bool) {
        let Some(policy) = policy else {
            return (Self::default(), false);
        };
        match port_settings(policy, port) {
            Some(settings) => (Self::from_port(settings), true),
            None => (Self::from_policy(policy), false),
        }
    }

    /// The policy of a port of a subset: what the subset says wins over what the rule says; settings for the port in the subset
    /// replace everything but tunnel, proxy protocol and retry budget.
    pub(crate) fn of_subset(
        rule: &DestinationRule,
        subset: Option<&TrafficPolicy>,
        port: u32,
    ) -> Self {
        let (mut merged, _) = Self::of_port(rule.traffic_policy.as_ref(), port);
        let Some(subset) = subset else { return merged };
        let (own, whole) = Self::of_port(Some(subset), port);
        if rule.traffic_policy.is_none() {
            return own;
        }
        if whole || own.connection_pool.is_some() {
            merged.connection_pool = own.connection_pool;
        }
        if whole || own.outlier_detection.is_some() {
            merged.outlier_detection = own.outlier_detection;
        }
        if whole || own.load_balancer.is_some() {
            merged.load_balancer = own.load_balancer;
        }
        if whole || own.tls.is_some() {
            merged.tls = own.tls;
        }
        if own.proxy_protocol.is_some() {
            merged.proxy_protocol = own.proxy_protocol;
        }
        if own.retry_budget.is_some() {
            merged.retry_budget = own.retry_budget;
        }
        merged
    }

    /// Fills in the mesh-wide default connection pool and outlier detection.
    pub(crate) fn with_mesh_defaults(mut self, mesh: &Mesh) -> Self {
        if self.connection_pool.is_none() {
            self.connection_pool
                .clone_from(&mesh.default_connection_pool);
        }
        if self.outlier_detection.is_none() {
            self.outlier_detection
                .clone_from(&mesh.default_outlier_detection);
        }
        self
    }

    /// Whether connections go to the address the client chose.
    pub(crate) fn is_passthrough(&self) -> bool {
        self.load_balancer.as_ref().is_some_and(is_passthrough)
    }
}

pub(crate) fn is_passthrough(lb: &LoadBalancerSettings) -> bool {
    lb.simple == Some(SimpleLb::Passthrough)
}

fn port_settings(policy: &TrafficPolicy, port: u32) -> Option<&PortTrafficPolicy> {
    policy
        .port_level_settings
        .iter()
        .find(|settings| settings.port.as_ref().is_some_and(|p| p.number == port))
}

fn positive(value: i32) -> Option<u32> {
    u32::try_from(value).ok().filter(|v| *v > 0)
}

/// HTTP/2 upgrade: by the rule, else by the mesh for ports that are HTTP.
pub(crate) fn upgrades_to_h2(
    mesh: &Mesh,
    port: &Port,
    pool: Option<&ConnectionPoolSettings>,
) -> bool {
    if let Some(http) = pool.and_then(|pool| pool.http.as_ref()) {
        if http.use_client_protocol {
            return false;
        }
        match http.h2_upgrade_policy {
            H2UpgradePolicy::Upgrade => return true,
            H2UpgradePolicy::DoNotUpgrade => return false,
            H2UpgradePolicy::Default => {}
        }
    }
    port.protocol.is_http() && mesh.h2_upgrade
}

/// Timeouts, limits, keep-alive.
pub(crate) fn apply_connection_pool(
    draft: &mut Draft,
    mesh: &Mesh,
    pool: Option<&ConnectionPoolSettings>,
    budget: Option<&RetryBudget>,
) {
    let mut limits = unlimited();
    limits.retry_budget = budget.map(retry_budget);
    let tcp = pool.and_then(|pool| pool.tcp.as_ref());
    let http = pool.and_then(|pool| pool.http.as_ref());
    if let Some(http) = http {
        let set = |slot: &mut Option<_>, value| {
            if let Some(value) = positive(value) {
                *slot = u32_value(value);
            }
        };
        set(&mut limits.max_requests, http.http2_max_requests);
        set(
            &mut limits.max_pending_requests,
            http.http1_max_pending_requests,
        );
        set(&mut limits.max_retries, http.max_retries);
    }
    if let Some(max) = tcp.and_then(|tcp| positive(tcp.max_connections)) {
        limits.max_connections = u32_value(max);
    }
    let connect_timeout = tcp
        .and_then(|tcp| tcp.connect_timeout)
        .unwrap_or(mesh.connect_timeout);
    draft.cluster.connect_timeout = Some(duration(connect_timeout));
    draft.cluster.circuit_breakers = Some(cluster::CircuitBreakers {
        thresholds: vec![limits],
        ..Default::default()
    });
    apply_keepalive(draft, mesh.keepalive);
    apply_keepalive(
        draft,
        tcp.and_then(|tcp| tcp.tcp_keepalive.as_ref())
            .map(Keepalive::from),
    );
    apply_http_limits(draft, pool);
    if http.is_some_and(|http| http.use_client_protocol) {
        draft.use_downstream_protocol();
    }
}

/// No limits at all: Istio's default, so that a limit exists only where somebody set one.
fn unlimited() -> cluster::circuit_breakers::Thresholds {
    cluster::circuit_breakers::Thresholds {
        max_retries: u32_value(u32::MAX),
        max_requests: u32_value(u32::MAX),
        max_connections: u32_value(u32::MAX),
        max_pending_requests: u32_value(u32::MAX),
        track_remaining: true,
        ..Default::default()
    }
}

fn retry_budget(budget: &RetryBudget) -> cluster::circuit_breakers::thresholds::RetryBudget {
    // 20 % and 3 concurrent retries where unset. Source: Istio.
    let percent = budget
        .percent
        .as_ref()
        .map_or(20.0, |percent| percent.get());
    let concurrency = if budget.min_retry_concurrency > 0 {
        budget.min_retry_concurrency
    } else {
        3
    };
    cluster::circuit_breakers::thresholds::RetryBudget {
        budget_percent: Some(envoy_type::Percent { value: percent }),
        min_retry_concurrency: u32_value(concurrency),
        budget_interval: budget.budget_interval.map(duration),
    }
}

fn apply_keepalive(draft: &mut Draft, keepalive: Option<Keepalive>) {
    let Some(keepalive) = keepalive else { return };
    let options = draft
        .cluster
        .upstream_connection_options
        .get_or_insert_default();
    let tcp = options.tcp_keepalive.get_or_insert_default();
    if let Some(probes) = keepalive.probes {
        tcp.keepalive_probes = u32_value(probes);
    }
    if let Some(seconds) = keepalive.time_seconds {
        tcp.keepalive_time = u32_value(seconds);
    }
    if let Some(seconds) = keepalive.interval_seconds {
        tcp.keepalive_interval = u32_value(seconds);
    }
}

fn apply_http_limits(draft: &mut Draft, pool: Option<&ConnectionPoolSettings>) {
    let Some(pool) = pool else { return };
    let http = pool.http.as_ref();
    let tcp = pool.tcp.as_ref();
    let idle = http
        .and_then(|http| http.idle_timeout)
        .or_else(|| tcp.and_then(|tcp| tcp.idle_timeout));
    let max_duration = tcp.and_then(|tcp| tcp.max_connection_duration);
    let max_requests = http.and_then(|http| positive(http.max_requests_per_connection));
    let max_streams = http.and_then(|http| positive(http.max_concurrent_streams));
    let keepalive = http.and_then(|http| http.http2_keep_alive.as_ref());
    if let (None, None, None, None, None) =
        (idle, max_duration, max_requests, max_streams, keepalive)
    {
        return;
    }
    let options = draft.http_options();
    let common = options.common_http_protocol_options.get_or_insert_default();
    common.idle_timeout = idle.map(duration).or(common.idle_timeout);
    common.max_connection_duration = max_duration.map(duration);
    common.max_requests_per_connection = max_requests.and_then(u32_value);
    if let Some(h2) = draft.explicit_h2() {
        h2.max_concurrent_streams = max_streams.and_then(u32_value);
        h2.connection_keepalive = keepalive.map(|keepalive| core::KeepaliveSettings {
            interval: keepalive.interval.map(duration),
            timeout: keepalive.timeout.map(duration),
            ..Default::default()
        });
    }
}

/// Outlier detection. Only what the rule asks for is enforced; Envoy's own success-rate ejection is off.
pub(crate) fn apply_outlier_detection(draft: &mut Draft, outlier: Option<&OutlierDetection>) {
    let Some(outlier) = outlier else { return };
    let enforce = |count: u32| u32_value(if count > 0 { 100 } else { 0 });
    let mut out = cluster::OutlierDetection {
        enforcing_success_rate: u32_value(0),
        interval: outlier.interval.map(duration),
        base_ejection_time: outlier.base_ejection_time.map(duration),
        max_ejection_percent: positive(outlier.max_ejection_percent).and_then(u32_value),
        ..Default::default()
    };
    if let Some(count) = outlier.consecutive_5xx_errors {
        out.consecutive_5xx = u32_value(count);
        out.enforcing_consecutive_5xx = enforce(count);
    }
    if let Some(count) = outlier.consecutive_gateway_errors {
        out.consecutive_gateway_failure = u32_value(count);
        out.enforcing_consecutive_gateway_failure = enforce(count);
    }
    if outlier.split_external_local_origin_errors {
        out.split_external_local_origin_errors = true;
        if let Some(count) = outlier.consecutive_local_origin_failures.filter(|c| *c > 0) {
            out.consecutive_local_origin_failure = u32_value(count);
            out.enforcing_consecutive_local_origin_failure = u32_value(100);
        }
        out.enforcing_local_origin_success_rate = u32_value(0);
    }
    draft.cluster.outlier_detection = Some(out);
    if outlier.min_health_percent >= 0 {
        draft.common_lb().healthy_panic_threshold = Some(envoy_type::Percent {
            value: f64::from(outlier.min_health_percent),
        });
    }
    if !outlier.outlier_detection_http_error_codes.is_empty() {
        let matcher = error_codes(&outlier.outlier_detection_http_error_codes);
        draft.http_options().outlier_detection =
            Some(upstream_http::http_protocol_options::OutlierDetection {
                error_matcher: Some(matcher),
            });
    }
}

type MatchPredicate = lateen_envoy::pb::envoy::config::common::matcher::v3::MatchPredicate;

fn error_codes(codes: &[u32]) -> MatchPredicate {
    use lateen_envoy::pb::envoy::config::common::matcher::v3 as common;
    let rule = |rule| common::MatchPredicate { rule: Some(rule) };
    let mut rules: Vec<_> = codes
        .iter()
        .map(|code| {
            rule(common::match_predicate::Rule::HttpResponseHeadersMatch(
                common::HttpHeadersMatch {
                    headers: vec![route::HeaderMatcher {
                        name: ":status".to_owned(),
                        header_match_specifier: Some(
                            route::header_matcher::HeaderMatchSpecifier::StringMatch(exact(
                                &code.to_string(),
                            )),
                        ),
                        ..Default::default()
                    }],
                },
            ))
        })
        .collect();
    match rules.len() {
        1 => rules.remove(0),
        _ => rule(common::match_predicate::Rule::OrMatch(
            common::match_predicate::MatchSet { rules },
        )),
    }
}

/// How locality decides, after precedence between rule, service and mesh.
#[derive(Clone, Debug)]
pub(crate) struct LocalityPolicy {
    pub(crate) setting: LocalityLoadBalancerSetting,
    /// Whether failover holds even without outlier detection.
    pub(crate) force: bool,
    /// Set where proxies are to weigh the zones of their region themselves, so that only regions are told apart here.
    pub(crate) zone_aware: Option<ZoneAware>,
}

/// Zone-aware routing, which proxies do themselves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ZoneAware {
    enabled: bool,
    /// Below so many hosts zones are disregarded.
    min_cluster_size: Option<u64>,
}

impl ZoneAware {
    /// Whether regions are told apart.
    pub(crate) const fn is_enabled(self) -> bool {
        self.enabled
    }
}

impl LocalityPolicy {
    /// The rule's setting, else the service's traffic distribution, else the mesh's; zone-aware settings first at each level. None
    /// where it is switched off.
    pub(crate) fn of(
        mesh: &Mesh,
        lb: Option<&LoadBalancerSettings>,
        service: Option<&Service>,
    ) -> Option<Self> {
        let enabled = |setting: &LocalityLoadBalancerSetting| {
            (setting.enabled != Some(false)).then(|| Self {
                setting: setting.clone(),
                force: false,
                zone_aware: None,
            })
        };
        if let Some(setting) = lb.and_then(|lb| lb.zone_aware_lb_setting.as_ref()) {
            return Some(Self::by_zone(setting));
        }
        if let Some(setting) = lb.and_then(|lb| lb.locality_lb_setting.as_ref()) {
            return enabled(setting);
        }
        match service.map_or(Distribution::Any, |service| service.distribution) {
            Distribution::Any => match &mesh.zone_aware_lb {
                Some(setting) => Some(Self::by_zone(setting)),
                None => mesh.locality_lb.as_ref().and_then(enabled),
            },
            Distribution::SameZone => Some(Self::near(&ZONE_LABELS)),
            Distribution::SameNode => Some(Self::near(&DISTRIBUTION_LABELS)),
        }
    }

    fn by_zone(setting: &ZoneAwareLoadBalancerSetting) -> Self {
        let enabled = setting.enabled != Some(false);
        let failover = setting.failover.iter().map(|rule| LocalityFailover {
            from: rule.from.clone(),
            to: rule.to.clone(),
        });
        Self {
            setting: LocalityLoadBalancerSetting {
                failover: failover.collect(),
                failover_priority: setting.failover_priority.clone(),
                ..Default::default()
            },
            force: enabled,
            zone_aware: Some(ZoneAware {
                enabled,
                min_cluster_size: setting.min_cluster_size,
            }),
        }
    }

    fn near(labels: &[&str]) -> Self {
        Self {
            setting: LocalityLoadBalancerSetting {
                enabled: Some(true),
                failover_priority: labels.iter().map(|&label| label.to_owned()).collect(),
                ..Default::default()
            },
            force: true,
            zone_aware: None,
        }
    }
}

const ZONE_LABELS: [&str; 3] = [
    "topology.istio.io/network",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// Of the same node; those of the same zone are among them.
pub(crate) const DISTRIBUTION_LABELS: [&str; 5] = [
    "topology.istio.io/network",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
    "kubernetes.io/hostname",
];

/// What tells a proxy to weigh zones, or not to.
fn zone_aware(zones: ZoneAware) -> cluster::cluster::common_lb_config::LocalityConfigSpecifier {
    use cluster::cluster::common_lb_config::{LocalityConfigSpecifier, ZoneAwareLbConfig};
    LocalityConfigSpecifier::ZoneAwareLbConfig(ZoneAwareLbConfig {
        routing_enabled: (!zones.enabled).then_some(envoy_type::Percent { value: 0.0 }),
        min_cluster_size: zones.min_cluster_size.and_then(u64_value),
        ..Default::default()
    })
}

/// The load-balancing policy and whether localities have weights.
pub(crate) fn apply_load_balancer(
    draft: &mut Draft,
    lb: Option<&LoadBalancerSettings>,
    locality: Option<&LocalityPolicy>,
) {
    use cluster::cluster::LbPolicy;
    if let Some(zones) = locality.and_then(|policy| policy.zone_aware) {
        draft.common_lb().locality_config_specifier = Some(zone_aware(zones));
    } else if let Some(policy) = locality {
        let failover = policy.force || draft.cluster.outlier_detection.is_some();
        let setting = &policy.setting;
        let targets = !setting.failover.is_empty() || !setting.failover_priority.is_empty();
        if !setting.distribute.is_empty() || (failover && targets) {
            draft.common_lb().locality_config_specifier = Some(
                cluster::cluster::common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(
                    Default::default(),
                ),
            );
        }
    }
    if draft.is_original_dst() {
        draft.cluster.lb_policy = LbPolicy::ClusterProvided as i32;
        return;
    }
    let slow_start = lb.and_then(slow_start);
    match lb.and_then(|lb| lb.simple) {
        Some(SimpleLb::Random) => draft.cluster.lb_policy = LbPolicy::Random as i32,
        Some(SimpleLb::RoundRobin) => round_robin(draft, slow_start),
        Some(SimpleLb::Passthrough) => draft.become_original_dst(),
        Some(SimpleLb::Unspecified | SimpleLb::LeastConn | SimpleLb::LeastRequest) | None => {
            least_request(draft, slow_start);
        }
    }
    if let Some(hash) = lb.and_then(|lb| lb.consistent_hash.as_ref()) {
        consistent_hash(draft, hash);
    }
    if let Some(utilization) = lb.and_then(|lb| lb.backend_utilization.as_ref()) {
        by_utilization(draft, utilization);
    }
}

/// Hosts are weighed by what they report of their load. Localities are weighed as before: that is a policy around this one.
fn by_utilization(draft: &mut Draft, from: &BackendUtilization) {
    use cluster::cluster::common_lb_config::LocalityConfigSpecifier;
    use extensions::load_balancing_policies::client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin;
    use extensions::load_balancing_policies::wrr_locality::v3::WrrLocality;
    let penalty = from.error_utilization_penalty_percent;
    let config = ClientSideWeightedRoundRobin {
        blackout_period: from.weight_stabilization_period.map(duration),
        weight_expiration_period: from.weight_expiration_period.map(duration),
        weight_update_period: from.weight_update_period.map(duration),
        #[expect(clippy::cast_precision_loss, reason = "percentages are far below 2^24")]
        error_utilization_penalty: penalty.map(|percent| FloatValue {
            value: percent as f32 / 100.0,
        }),
        metric_names_for_computing_utilization: from.metric_names_for_computing_utilization.clone(),
        ..Default::default()
    };
    let only = |named| cluster::LoadBalancingPolicy {
        policies: vec![cluster::load_balancing_policy::Policy {
            typed_extension_config: Some(named),
        }],
    };
    let picking = only(extension(
        "envoy.load_balancing_policies.client_side_weighted_round_robin",
        &config,
    ));
    // Envoy refuses both at once.
    let specifier = draft.common_lb().locality_config_specifier.take();
    let weighted = matches!(
        specifier,
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_))
    );
    draft.cluster.load_balancing_policy = Some(match weighted {
        false => picking,
        true => only(extension(
            "envoy.load_balancing_policies.wrr_locality",
            &WrrLocality {
                endpoint_picking_policy: Some(picking),
            },
        )),
    });
}

type SlowStart = cluster::cluster::SlowStartConfig;

fn slow_start(lb: &LoadBalancerSettings) -> Option<SlowStart> {
    if let Some(warmup) = &lb.warmup {
        return Some(warmup_config(warmup));
    }
    let window: Duration = lb.warmup_duration_secs?;
    Some(SlowStart {
        slow_start_window: Some(duration(window)),
        ..Default::default()
    })
}

fn warmup_config(warmup: &WarmupConfiguration) -> SlowStart {
    SlowStart {
        slow_start_window: warmup.duration.map(duration),
        aggression: Some(core::RuntimeDouble {
            default_value: warmup.aggression.as_ref().map_or(1.0, |value| value.get()),
            // The field is required; this key cannot be set by anyone.
            runtime_key: "(".to_owned(),
        }),
        min_weight_percent: Some(envoy_type::Percent {
            value: warmup
                .minimum_percent
                .as_ref()
                .map_or(10.0, |value| value.get()),
        }),
    }
}

fn round_robin(draft: &mut Draft, slow_start: Option<SlowStart>) {
    draft.cluster.lb_policy = cluster::cluster::LbPolicy::RoundRobin as i32;
    if slow_start.is_some() {
        draft.cluster.lb_config = Some(cluster::cluster::LbConfig::RoundRobinLbConfig(
            cluster::cluster::RoundRobinLbConfig {
                slow_start_config: slow_start,
            },
        ));
    }
}

fn least_request(draft: &mut Draft, slow_start: Option<SlowStart>) {
    draft.cluster.lb_policy = cluster::cluster::LbPolicy::LeastRequest as i32;
    if slow_start.is_some() {
        draft.cluster.lb_config = Some(cluster::cluster::LbConfig::LeastRequestLbConfig(
            cluster::cluster::LeastRequestLbConfig {
                slow_start_config: slow_start,
                ..Default::default()
            },
        ));
    }
}

fn consistent_hash(draft: &mut Draft, hash: &ConsistentHashLb) {
    use cluster::cluster::{LbConfig, LbPolicy, MaglevLbConfig, RingHashLbConfig};
    let ring = |size: u64| {
        LbConfig::RingHashLbConfig(RingHashLbConfig {
            minimum_ring_size: u64_value(size),
            ..Default::default()
        })
    };
    if let Some(maglev) = &hash.maglev {
        draft.cluster.lb_policy = LbPolicy::Maglev as i32;
        draft.cluster.lb_config = (maglev.table_size != 0).then(|| {
            LbConfig::MaglevLbConfig(MaglevLbConfig {
                table_size: u64_value(maglev.table_size),
            })
        });
        return;
    }
    draft.cluster.lb_policy = LbPolicy::RingHash as i32;
    draft.cluster.lb_config = match &hash.ring_hash {
        Some(ring_hash) if ring_hash.minimum_ring_size == 0 => None,
        Some(ring_hash) => Some(ring(ring_hash.minimum_ring_size)),
        None if hash.minimum_ring_size != 0 => Some(ring(hash.minimum_ring_size)),
        // Istio's default, smaller than Envoy's maximum and enough for a few hundred endpoints.
        None => Some(ring(1024)),
    };
}

/// Wraps every transport socket so that it first says, in the PROXY protocol, who the client was.
pub(crate) fn apply_proxy_protocol(
    draft: &mut Draft,
    settings: Option<&lateen_api::networking::ProxyProtocol>,
) {
    use lateen_api::networking::ProxyProtocolVersion;
    let Some(settings) = settings else { return };
    let version = match settings.version {
        ProxyProtocolVersion::V1 => core::proxy_protocol_config::Version::V1,
        ProxyProtocolVersion::V2 => core::proxy_protocol_config::Version::V2,
    };
    let wrap = |inner: core::TransportSocket| {
        crate::proto::transport_socket(
            "envoy.transport_sockets.upstream_proxy_protocol",
            &extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport {
                config: Some(core::ProxyProtocolConfig {
                    version: version as i32,
                    ..Default::default()
                }),
                transport_socket: Some(inner),
                ..Default::default()
            },
        )
    };
    let cluster = &mut draft.cluster;
    for entry in &mut cluster.transport_socket_matches {
        entry.transport_socket = entry.transport_socket.take().map(wrap);
    }
    if cluster.transport_socket_matches.is_empty() {
        let inner = cluster
            .transport_socket
            .take()
            .unwrap_or_else(super::tls::raw_socket);
        cluster.transport_socket = Some(wrap(inner));
    }
}
