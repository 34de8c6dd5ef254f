//! The fields of `networking.v1alpha3` (sidecar), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use std::collections::BTreeMap;

use super::{ConnectionPoolSettings, Destination, ServerTlsSettings};
use crate::schema::{enumeration, object};

object! {
    /// `networking.v1alpha3.Sidecar` of Istio's API.
    pub struct Sidecar {
        workload_selector: Option<WorkloadSelector>,
        ingress: Vec<IstioIngressListener>,
        egress: Vec<IstioEgressListener>,
        inbound_connection_pool: Option<ConnectionPoolSettings>,
        outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    }
}

object! {
    /// `networking.v1alpha3.IstioIngressListener` of Istio's API.
    pub struct IstioIngressListener {
        port: Option<SidecarPort> [REQUIRED],
        bind: String,
        capture_mode: CaptureMode,
        default_endpoint: String,
        tls: Option<ServerTlsSettings>,
        connection_pool: Option<ConnectionPoolSettings>,
    }
}

object! {
    /// `networking.v1alpha3.IstioEgressListener` of Istio's API.
    pub struct IstioEgressListener {
        port: Option<SidecarPort>,
        bind: String,
        capture_mode: CaptureMode,
        hosts: Vec<String> [REQUIRED],
    }
}

object! {
    /// `networking.v1alpha3.WorkloadSelector` of Istio's API.
    pub struct WorkloadSelector {
        labels: BTreeMap<String, String> [Check::Properties(0, 256), LABEL_VALUES, LABEL_LENGTHS],
    }
}

object! {
    /// `networking.v1alpha3.OutboundTrafficPolicy` of Istio's API.
    pub struct OutboundTrafficPolicy {
        mode: OutboundTrafficPolicyMode,
        egress_proxy: Option<Destination>,
    }
}

enumeration! {
    /// `networking.v1alpha3.OutboundTrafficPolicy.Mode` of Istio's API.
    pub enum OutboundTrafficPolicyMode {
        RegistryOnly = "REGISTRY_ONLY",
        AllowAny = "ALLOW_ANY",
    }
}

object! {
    /// `networking.v1alpha3.SidecarPort` of Istio's API.
    pub struct SidecarPort {
        number: u32,
        protocol: String,
        name: String,
        target_port: u32,
    }
}

enumeration! {
    /// `networking.v1alpha3.CaptureMode` of Istio's API.
    pub enum CaptureMode {
        Default = "DEFAULT",
        Iptables = "IPTABLES",
        None = "NONE",
    }
}
