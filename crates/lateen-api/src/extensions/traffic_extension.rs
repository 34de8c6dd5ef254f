//! The fields of `extensions.v1alpha1` (traffic extension), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use super::{FailStrategy, PluginType, PullPolicy, VmConfig};
use crate::schema::{enumeration, object};
use crate::selector::{PolicyTargetReference, PortSelector, WorkloadMode, WorkloadSelector};
use crate::value::Value;

object! {
    /// `extensions.v1alpha1.TrafficExtension` of Istio's API.
    pub struct TrafficExtension [AtMostOne(&["selector", "targetRefs"]), ExactlyOne(&["wasm", "lua"])] {
        selector: Option<WorkloadSelector>,
        target_refs: Vec<PolicyTargetReference> [max_items(16)],
        phase: ExecutionPhase,
        priority: Option<i32>,
        r#match: Vec<TrafficSelector>,
        wasm: Option<WasmConfig>,
        lua: Option<LuaConfig>,
    }
}

enumeration! {
    /// `extensions.v1alpha1.TrafficExtension.ExecutionPhase` of Istio's API.
    pub enum ExecutionPhase {
        Unspecified = "UNSPECIFIED",
        Authn = "AUTHN",
        Authz = "AUTHZ",
        Stats = "STATS",
    }
}

object! {
    /// `extensions.v1alpha1.WasmConfig` of Istio's API.
    pub struct WasmConfig {
        url: String [REQUIRED, NOT_EMPTY, Check::Text(wasm_url)],
        sha256: String [Check::Text(sha256)],
        image_pull_policy: PullPolicy,
        image_pull_secret: String [NOT_EMPTY, max_len(253)],
        verification_key: String,
        plugin_config: Option<Value>,
        plugin_name: String [NOT_EMPTY, max_len(256)],
        fail_strategy: FailStrategy,
        vm_config: Option<VmConfig>,
        r#type: PluginType,
    }
}

object! {
    /// `extensions.v1alpha1.LuaConfig` of Istio's API.
    pub struct LuaConfig {
        inline_code: String [REQUIRED, NOT_EMPTY, max_len(65536)],
    }
}

object! {
    /// `extensions.v1alpha1.TrafficSelector` of Istio's API.
    pub struct TrafficSelector {
        mode: WorkloadMode,
        ports: Vec<PortSelector> [Check::UniqueBy("number")],
    }
}
