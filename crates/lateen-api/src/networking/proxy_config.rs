//! The fields of `networking.v1beta1` (proxy config), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use std::collections::BTreeMap;

use crate::schema::object;
use crate::selector::WorkloadSelector;

object! {
    /// `networking.v1beta1.ProxyConfig` of Istio's API.
    pub struct ProxyConfig {
        selector: Option<WorkloadSelector>,
        concurrency: Option<i32> [NOT_NEGATIVE],
        environment_variables: BTreeMap<String, String> [Check::Each(&Check::MaxLen(2048))],
        image: Option<ProxyImage>,
    }
}

object! {
    /// `networking.v1beta1.ProxyImage` of Istio's API.
    pub struct ProxyImage {
        image_type: String,
    }
}
