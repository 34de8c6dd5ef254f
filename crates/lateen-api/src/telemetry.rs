//! The fields of `telemetry.v1alpha1` (telemetry), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::schema::{enumeration, object};
use crate::selector::{PolicyTargetReference, WorkloadSelector};
use crate::tree::Node;
use crate::value::Double;

object! {
    /// `telemetry.v1alpha1.Telemetry` of Istio's API.
    pub struct Telemetry [AtMostOne(&["selector", "targetRef", "targetRefs"])] {
        selector: Option<WorkloadSelector>,
        target_ref: Option<PolicyTargetReference>,
        target_refs: Vec<PolicyTargetReference> [max_items(16)],
        tracing: Vec<Tracing>,
        metrics: Vec<Metrics>,
        access_logging: Vec<AccessLogging>,
    }
}

object! {
    /// `telemetry.v1alpha1.Tracing` of Istio's API.
    pub struct Tracing {
        r#match: Option<TracingSelector>,
        providers: Vec<ProviderRef>,
        random_sampling_percentage: Option<Double> [PERCENT],
        disable_span_reporting: Option<bool>,
        custom_tags: BTreeMap<String, CustomTag>,
        use_request_id_for_trace_sampling: Option<bool>,
        enable_istio_tags: Option<bool>,
        disable_context_propagation: Option<bool>,
    }
}

object! {
    /// `telemetry.v1alpha1.Tracing.TracingSelector` of Istio's API.
    pub struct TracingSelector {
        mode: WorkloadMode,
    }
}

object! {
    /// `telemetry.v1alpha1.Tracing.CustomTag` of Istio's API.
    pub struct CustomTag [AtMostOne(&["literal", "environment", "header", "formatter"])] {
        literal: Option<Literal>,
        environment: Option<Environment>,
        header: Option<RequestHeader>,
        formatter: Option<Formatter>,
    }
}

object! {
    /// `telemetry.v1alpha1.Tracing.Literal` of Istio's API.
    pub struct Literal {
        value: String [REQUIRED, NOT_EMPTY],
    }
}

object! {
    /// `telemetry.v1alpha1.Tracing.Environment` of Istio's API.
    pub struct Environment {
        name: String [REQUIRED, NOT_EMPTY],
        default_value: String,
    }
}

object! {
    /// `telemetry.v1alpha1.Tracing.RequestHeader` of Istio's API.
    pub struct RequestHeader {
        name: String [REQUIRED, NOT_EMPTY],
        default_value: String,
    }
}

object! {
    /// `telemetry.v1alpha1.Tracing.Formatter` of Istio's API.
    pub struct Formatter {
        value: String [REQUIRED, NOT_EMPTY],
    }
}

object! {
    /// `telemetry.v1alpha1.ProviderRef` of Istio's API.
    pub struct ProviderRef {
        name: String [REQUIRED, NOT_EMPTY],
    }
}

object! {
    /// `telemetry.v1alpha1.Metrics` of Istio's API.
    pub struct Metrics {
        providers: Vec<ProviderRef>,
        overrides: Vec<MetricsOverrides>,
        reporting_interval: Option<Duration> [MILLISECOND],
    }
}

object! {
    /// `telemetry.v1alpha1.MetricSelector` of Istio's API.
    pub struct MetricSelector [AtMostOne(&["metric", "customMetric"])] {
        metric: Option<IstioMetric>,
        custom_metric: Option<String> [NOT_EMPTY],
        mode: WorkloadMode,
    }
}

enumeration! {
    /// `telemetry.v1alpha1.MetricSelector.IstioMetric` of Istio's API.
    pub enum IstioMetric {
        AllMetrics = "ALL_METRICS",
        RequestCount = "REQUEST_COUNT",
        RequestDuration = "REQUEST_DURATION",
        RequestSize = "REQUEST_SIZE",
        ResponseSize = "RESPONSE_SIZE",
        TcpOpenedConnections = "TCP_OPENED_CONNECTIONS",
        TcpClosedConnections = "TCP_CLOSED_CONNECTIONS",
        TcpSentBytes = "TCP_SENT_BYTES",
        TcpReceivedBytes = "TCP_RECEIVED_BYTES",
        GrpcRequestMessages = "GRPC_REQUEST_MESSAGES",
        GrpcResponseMessages = "GRPC_RESPONSE_MESSAGES",
    }
}

object! {
    /// `telemetry.v1alpha1.MetricsOverrides` of Istio's API.
    pub struct MetricsOverrides {
        r#match: Option<MetricSelector>,
        disabled: Option<bool>,
        tag_overrides: BTreeMap<String, TagOverride>,
    }
}

object! {
    /// `telemetry.v1alpha1.MetricsOverrides.TagOverride` of Istio's API.
    pub struct TagOverride [Custom(tag_value)] {
        operation: TagOverrideOperation,
        value: String,
    }
}

enumeration! {
    /// `telemetry.v1alpha1.MetricsOverrides.TagOverride.Operation` of Istio's API.
    pub enum TagOverrideOperation {
        Upsert = "UPSERT",
        Remove = "REMOVE",
    }
}

object! {
    /// `telemetry.v1alpha1.AccessLogging` of Istio's API.
    pub struct AccessLogging {
        r#match: Option<LogSelector>,
        providers: Vec<ProviderRef>,
        disabled: Option<bool>,
        filter: Option<Filter>,
    }
}

object! {
    /// `telemetry.v1alpha1.AccessLogging.LogSelector` of Istio's API.
    pub struct LogSelector {
        mode: WorkloadMode,
    }
}

object! {
    /// `telemetry.v1alpha1.AccessLogging.Filter` of Istio's API.
    pub struct Filter {
        expression: String,
    }
}

enumeration! {
    /// `telemetry.v1alpha1.WorkloadMode` of Istio's API.
    pub enum WorkloadMode {
        ClientAndServer = "CLIENT_AND_SERVER",
        Client = "CLIENT",
        Server = "SERVER",
    }
}

fn tag_value(node: &Node) -> Option<(&'static str, &'static str)> {
    let value = node.get("value").and_then(Node::text);
    match node.get("operation").and_then(Node::text) {
        Some("UPSERT") if value.is_none_or(str::is_empty) => {
            Some(("operation", "UPSERT needs a value"))
        }
        Some("REMOVE") if value.is_some() => Some(("value", "REMOVE takes no value")),
        _ => None,
    }
}
