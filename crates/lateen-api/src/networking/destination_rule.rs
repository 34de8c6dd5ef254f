//! The fields of `networking.v1alpha3` (destination rule), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::PortSelector;
use crate::schema::{enumeration, object};
use crate::selector::WorkloadSelector;
use crate::value::Double;

object! {
    /// `networking.v1alpha3.DestinationRule` of Istio's API.
    pub struct DestinationRule {
        host: String [REQUIRED],
        traffic_policy: Option<TrafficPolicy>,
        subsets: Vec<Subset>,
        export_to: Vec<String>,
        workload_selector: Option<WorkloadSelector>,
    }
}

object! {
    /// `networking.v1alpha3.TrafficPolicy` of Istio's API.
    pub struct TrafficPolicy {
        load_balancer: Option<LoadBalancerSettings>,
        connection_pool: Option<ConnectionPoolSettings>,
        outlier_detection: Option<OutlierDetection>,
        tls: Option<ClientTlsSettings>,
        port_level_settings: Vec<PortTrafficPolicy> [max_items(4096)],
        tunnel: Option<TunnelSettings>,
        proxy_protocol: Option<ProxyProtocol>,
        retry_budget: Option<RetryBudget>,
    }
}

object! {
    /// `networking.v1alpha3.TrafficPolicy.PortTrafficPolicy` of Istio's API.
    pub struct PortTrafficPolicy {
        port: Option<PortSelector>,
        load_balancer: Option<LoadBalancerSettings>,
        connection_pool: Option<ConnectionPoolSettings>,
        outlier_detection: Option<OutlierDetection>,
        tls: Option<ClientTlsSettings>,
    }
}

object! {
    /// `networking.v1alpha3.TrafficPolicy.TunnelSettings` of Istio's API.
    pub struct TunnelSettings {
        protocol: String,
        target_host: String [REQUIRED],
        target_port: u32 [REQUIRED],
    }
}

object! {
    /// `networking.v1alpha3.TrafficPolicy.ProxyProtocol` of Istio's API.
    pub struct ProxyProtocol {
        version: ProxyProtocolVersion,
    }
}

enumeration! {
    /// `networking.v1alpha3.TrafficPolicy.ProxyProtocol.VERSION` of Istio's API.
    pub enum ProxyProtocolVersion {
        V1 = "V1",
        V2 = "V2",
    }
}

object! {
    /// `networking.v1alpha3.TrafficPolicy.RetryBudget` of Istio's API.
    pub struct RetryBudget {
        percent: Option<Double> [PERCENT],
        min_retry_concurrency: u32,
        budget_interval: Option<Duration>,
    }
}

object! {
    /// `networking.v1alpha3.Subset` of Istio's API.
    pub struct Subset {
        name: String [REQUIRED],
        labels: BTreeMap<String, String>,
        traffic_policy: Option<TrafficPolicy>,
    }
}

object! {
    /// `networking.v1alpha3.LoadBalancerSettings` of Istio's API.
    pub struct LoadBalancerSettings [AtMostOne(&["simple", "consistentHash", "backendUtilization"])] {
        simple: Option<SimpleLb>,
        consistent_hash: Option<ConsistentHashLb>,
        backend_utilization: Option<BackendUtilization>,
        locality_lb_setting: Option<LocalityLoadBalancerSetting>,
        zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting>,
        warmup_duration_secs: Option<Duration> [MILLISECOND],
        warmup: Option<WarmupConfiguration>,
    }
}

object! {
    /// `networking.v1alpha3.LoadBalancerSettings.ConsistentHashLB` of Istio's API.
    pub struct ConsistentHashLb {
        http_header_name: Option<String>,
        http_cookie: Option<HttpCookie>,
        use_source_ip: Option<bool>,
        http_query_parameter_name: Option<String>,
        ring_hash: Option<RingHash>,
        maglev: Option<MagLev>,
        minimum_ring_size: u64,
    }
}

object! {
    /// `networking.v1alpha3.LoadBalancerSettings.ConsistentHashLB.RingHash` of Istio's API.
    pub struct RingHash {
        minimum_ring_size: u64,
    }
}

object! {
    /// `networking.v1alpha3.LoadBalancerSettings.ConsistentHashLB.MagLev` of Istio's API.
    pub struct MagLev {
        table_size: u64,
    }
}

object! {
    /// `networking.v1alpha3.LoadBalancerSettings.ConsistentHashLB.HTTPCookie` of Istio's API.
    pub struct HttpCookie {
        name: String [REQUIRED],
        path: String,
        ttl: Option<Duration>,
        attributes: Vec<HttpCookieAttribute>,
    }
}

object! {
    /// `networking.v1alpha3.LoadBalancerSettings.ConsistentHashLB.HTTPCookie.Attribute` of Istio's API.
    pub struct HttpCookieAttribute {
        name: String [REQUIRED],
        value: String,
    }
}

enumeration! {
    /// `networking.v1alpha3.LoadBalancerSettings.SimpleLB` of Istio's API.
    pub enum SimpleLb {
        Unspecified = "UNSPECIFIED",
        LeastConn = "LEAST_CONN",
        Random = "RANDOM",
        Passthrough = "PASSTHROUGH",
        RoundRobin = "ROUND_ROBIN",
        LeastRequest = "LEAST_REQUEST",
    }
}

object! {
    /// `networking.v1alpha3.LoadBalancerSettings.BackendUtilization` of Istio's API.
    pub struct BackendUtilization {
        error_utilization_penalty_percent: Option<u32>,
        metric_names_for_computing_utilization: Vec<String>,
        weight_expiration_period: Option<Duration>,
        weight_stabilization_period: Option<Duration>,
        weight_update_period: Option<Duration>,
    }
}

object! {
    /// `networking.v1alpha3.WarmupConfiguration` of Istio's API.
    pub struct WarmupConfiguration {
        duration: Option<Duration> [REQUIRED, MILLISECOND],
        minimum_percent: Option<Double> [PERCENT],
        aggression: Option<Double> [NOT_NEGATIVE],
    }
}

object! {
    /// `networking.v1alpha3.ConnectionPoolSettings` of Istio's API.
    pub struct ConnectionPoolSettings {
        tcp: Option<TcpSettings>,
        http: Option<HttpSettings>,
    }
}

object! {
    /// `networking.v1alpha3.ConnectionPoolSettings.TCPSettings` of Istio's API.
    pub struct TcpSettings {
        max_connections: i32,
        connect_timeout: Option<Duration> [MILLISECOND],
        tcp_keepalive: Option<TcpKeepalive>,
        max_connection_duration: Option<Duration> [MILLISECOND],
        idle_timeout: Option<Duration>,
    }
}

object! {
    /// `networking.v1alpha3.ConnectionPoolSettings.TCPSettings.TcpKeepalive` of Istio's API.
    pub struct TcpKeepalive {
        probes: u32,
        time: Option<Duration> [MILLISECOND],
        interval: Option<Duration> [MILLISECOND],
    }
}

object! {
    /// `networking.v1alpha3.ConnectionPoolSettings.HTTPSettings` of Istio's API.
    pub struct HttpSettings {
        http1_max_pending_requests: i32,
        http2_max_requests: i32,
        max_requests_per_connection: i32,
        max_retries: i32,
        idle_timeout: Option<Duration> [MILLISECOND],
        h2_upgrade_policy: H2UpgradePolicy,
        use_client_protocol: bool,
        max_concurrent_streams: i32,
        http2_keep_alive: Option<ConnectionKeepalive>,
    }
}

object! {
    /// `networking.v1alpha3.ConnectionPoolSettings.HTTPSettings.ConnectionKeepalive` of Istio's API.
    pub struct ConnectionKeepalive {
        interval: Option<Duration> [MILLISECOND],
        timeout: Option<Duration> [MILLISECOND],
    }
}

enumeration! {
    /// `networking.v1alpha3.ConnectionPoolSettings.HTTPSettings.H2UpgradePolicy` of Istio's API.
    pub enum H2UpgradePolicy {
        Default = "DEFAULT",
        DoNotUpgrade = "DO_NOT_UPGRADE",
        Upgrade = "UPGRADE",
    }
}

object! {
    /// `networking.v1alpha3.OutlierDetection` of Istio's API.
    pub struct OutlierDetection {
        consecutive_errors: i32,
        split_external_local_origin_errors: bool,
        consecutive_local_origin_failures: Option<u32>,
        consecutive_gateway_errors: Option<u32>,
        consecutive_5xx_errors: Option<u32>,
        interval: Option<Duration> [MILLISECOND],
        base_ejection_time: Option<Duration> [MILLISECOND],
        max_ejection_percent: i32,
        min_health_percent: i32,
        outlier_detection_http_error_codes: Vec<u32> [Check::Each(&Check::Range(100, 599))],
    }
}

object! {
    /// `networking.v1alpha3.ClientTLSSettings` of Istio's API.
    pub struct ClientTlsSettings {
        mode: ClientTlsMode,
        client_certificate: String,
        private_key: String,
        ca_certificates: String,
        credential_name: String,
        subject_alt_names: Vec<String>,
        sni: String,
        insecure_skip_verify: Option<bool>,
        ca_crl: String,
    }
}

enumeration! {
    /// `networking.v1alpha3.ClientTLSSettings.TLSmode` of Istio's API.
    pub enum ClientTlsMode {
        Disable = "DISABLE",
        Simple = "SIMPLE",
        Mutual = "MUTUAL",
        IstioMutual = "ISTIO_MUTUAL",
    }
}

object! {
    /// `networking.v1alpha3.LocalityLoadBalancerSetting` of Istio's API.
    pub struct LocalityLoadBalancerSetting {
        distribute: Vec<LocalityDistribute>,
        failover: Vec<LocalityFailover>,
        failover_priority: Vec<String>,
        enabled: Option<bool>,
    }
}

object! {
    /// `networking.v1alpha3.LocalityLoadBalancerSetting.Distribute` of Istio's API.
    pub struct LocalityDistribute {
        from: String,
        to: BTreeMap<String, u32>,
    }
}

object! {
    /// `networking.v1alpha3.LocalityLoadBalancerSetting.Failover` of Istio's API.
    pub struct LocalityFailover {
        from: String,
        to: String,
    }
}

object! {
    /// `networking.v1alpha3.ZoneAwareLoadBalancerSetting` of Istio's API.
    pub struct ZoneAwareLoadBalancerSetting {
        enabled: Option<bool>,
        failover: Vec<ZoneAwareFailover>,
        failover_priority: Vec<String>,
        min_cluster_size: Option<u64> [Check::Range(1, u32::MAX as i64)],
    }
}

object! {
    /// `networking.v1alpha3.ZoneAwareLoadBalancerSetting.Failover` of Istio's API.
    pub struct ZoneAwareFailover {
        from: String,
        to: String,
    }
}
