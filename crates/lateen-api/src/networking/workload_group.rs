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
        template: Option<WorkloadEntry> [REQUIRED],
        probe: Option<ReadinessProbe>,
    }
}

object! {
    /// `networking.v1alpha3.WorkloadGroup.ObjectMeta` of Istio's API.
    pub struct WorkloadGroupMeta {
        labels: BTreeMap<String, String> [Check::Properties(0, 256)],
        annotations: BTreeMap<String, String> [Check::Properties(0, 256)],
    }
}

object! {
    /// `networking.v1alpha3.ReadinessProbe` of Istio's API.
    pub struct ReadinessProbe [AtMostOne(&["httpGet", "tcpSocket", "exec", "grpc"])] {
        initial_delay_seconds: i32 [NOT_NEGATIVE],
        timeout_seconds: i32 [NOT_NEGATIVE],
        period_seconds: i32 [NOT_NEGATIVE],
        success_threshold: i32 [NOT_NEGATIVE],
        failure_threshold: i32 [NOT_NEGATIVE],
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
        port: u32 [REQUIRED, PORT],
        host: String,
        scheme: String [Check::Text(probe_scheme)],
        http_headers: Vec<HttpHeader>,
    }
}

object! {
    /// `networking.v1alpha3.GrpcHealthCheckConfig` of Istio's API.
    pub struct GrpcHealthCheckConfig {
        port: u32 [PORT],
        service: String,
    }
}

object! {
    /// `networking.v1alpha3.HTTPHeader` of Istio's API.
    pub struct HttpHeader {
        name: String [Check::Text(header_name)],
        value: String,
    }
}

object! {
    /// `networking.v1alpha3.TCPHealthCheckConfig` of Istio's API.
    pub struct TcpHealthCheckConfig {
        host: String,
        port: u32 [REQUIRED, PORT],
    }
}

object! {
    /// `networking.v1alpha3.ExecHealthCheckConfig` of Istio's API.
    pub struct ExecHealthCheckConfig {
        command: Vec<String> [REQUIRED, EACH_NOT_EMPTY],
    }
}
