//! The fields of `extensions.v1alpha1` (wasm), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use super::TrafficSelector;
use crate::schema::check::is_set;
use crate::schema::{enumeration, object};
use crate::selector::{PolicyTargetReference, WorkloadSelector};
use crate::tree::Node;
use crate::value::Value;

object! {
    /// `extensions.v1alpha1.WasmPlugin` of Istio's API.
    pub struct WasmPlugin [AtMostOne(&["selector", "targetRef", "targetRefs"])] {
        selector: Option<WorkloadSelector>,
        target_ref: Option<PolicyTargetReference>,
        target_refs: Vec<PolicyTargetReference> [max_items(16)],
        url: String [REQUIRED, NOT_EMPTY, Check::Text(wasm_url)],
        sha256: String [Check::Text(sha256)],
        image_pull_policy: PullPolicy,
        image_pull_secret: String [NOT_EMPTY, max_len(253)],
        verification_key: String,
        plugin_config: Option<Value>,
        plugin_name: String [NOT_EMPTY, max_len(256)],
        phase: PluginPhase,
        priority: Option<i32>,
        fail_strategy: FailStrategy,
        vm_config: Option<VmConfig>,
        r#match: Vec<TrafficSelector>,
        r#type: PluginType,
    }
}

object! {
    /// `extensions.v1alpha1.VmConfig` of Istio's API.
    pub struct VmConfig {
        env: Vec<EnvVar> [max_items(256), Check::UniqueBy("name")],
    }
}

object! {
    /// `extensions.v1alpha1.EnvVar` of Istio's API.
    pub struct EnvVar [Custom(host_value)] {
        name: String [REQUIRED, NOT_EMPTY, max_len(256)],
        value_from: EnvValueSource,
        value: String [max_len(2048)],
    }
}

enumeration! {
    /// `extensions.v1alpha1.PluginType` of Istio's API.
    pub enum PluginType {
        UnspecifiedPluginType = "UNSPECIFIED_PLUGIN_TYPE",
        Http = "HTTP",
        Network = "NETWORK",
    }
}

enumeration! {
    /// `extensions.v1alpha1.PluginPhase` of Istio's API.
    pub enum PluginPhase {
        UnspecifiedPhase = "UNSPECIFIED_PHASE",
        Authn = "AUTHN",
        Authz = "AUTHZ",
        Stats = "STATS",
    }
}

enumeration! {
    /// `extensions.v1alpha1.PullPolicy` of Istio's API.
    pub enum PullPolicy {
        UnspecifiedPolicy = "UNSPECIFIED_POLICY",
        IfNotPresent = "IfNotPresent",
        Always = "Always",
    }
}

enumeration! {
    /// `extensions.v1alpha1.EnvValueSource` of Istio's API.
    pub enum EnvValueSource {
        Inline = "INLINE",
        Host = "HOST",
    }
}

enumeration! {
    /// `extensions.v1alpha1.FailStrategy` of Istio's API.
    pub enum FailStrategy {
        FailClose = "FAIL_CLOSE",
        FailOpen = "FAIL_OPEN",
        FailReload = "FAIL_RELOAD",
    }
}

fn host_value(node: &Node) -> Option<(&'static str, &'static str)> {
    let from_host = node.get("valueFrom").and_then(Node::text) == Some("HOST");
    (from_host && is_set(node, "value"))
        .then_some(("value", "a value may only be set when valueFrom is INLINE"))
}
