//! The fields of `networking.v1alpha3` (workload group), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use std::collections::BTreeMap;

use super::WorkloadEntry;
use crate::schema::object;

object! {
    /// `networking.v1alpha3.WorkloadGroup` of Istio's API.
    pub struct WorkloadGroup {
        metadata: Option<WorkloadGroupMeta>,
        template: Option<WorkloadEntry>,
        probe: Option<ReadinessProbe>,
    }
}

object! {
    /// `networking.v1alpha3.WorkloadGroup.ObjectMeta` of Istio's API.
    pub struct WorkloadGroupMeta {
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
    }
}

object! {
    /// `networking.v1alpha3.ReadinessProbe` of Istio's API.
    pub struct ReadinessProbe {
        initial_delay_seconds: i32,
        timeout_seconds: i32,
        period_seconds: i32,
        success_threshold: i32,
        failure_threshold: i32,
        http_get: Option<HttpHealthCheckConfig>,
        tcp_socket: Option<TcpHealthCheckConfig>,
        exec: Option<ExecHealthCheckConfig>,
        grpc: Option<GrpcHealthCheckConfig>,
    }
}

object! {
    /// `networking.v1alpha3.HTTPHealthCheckConfig` of Istio's API.
    pub struct HttpHealthCheckConfig {
        path: String,
        port: u32,
        host: String,
        scheme: String,
        http_headers: Vec<HttpHeader>,
    }
}

object! {
    /// `networking.v1alpha3.GrpcHealthCheckConfig` of Istio's API.
    pub struct GrpcHealthCheckConfig {
        port: u32,
        service: String,
    }
}

object! {
    /// `networking.v1alpha3.HTTPHeader` of Istio's API.
    pub struct HttpHeader {
        name: String,
        value: String,
    }
}

object! {
    /// `networking.v1alpha3.TCPHealthCheckConfig` of Istio's API.
    pub struct TcpHealthCheckConfig {
        host: String,
        port: u32,
    }
}

object! {
    /// `networking.v1alpha3.ExecHealthCheckConfig` of Istio's API.
    pub struct ExecHealthCheckConfig {
        command: Vec<String>,
    }
}
