//! The fields of `type.v1beta1` (selector), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use std::collections::BTreeMap;

use crate::schema::{enumeration, object};

object! {
    /// `type.v1beta1.WorkloadSelector` of Istio's API.
    pub struct WorkloadSelector {
        match_labels: BTreeMap<String, String>,
    }
}

object! {
    /// `type.v1beta1.PortSelector` of Istio's API.
    pub struct PortSelector {
        number: u32,
    }
}

object! {
    /// `type.v1beta1.PolicyTargetReference` of Istio's API.
    pub struct PolicyTargetReference {
        group: String,
        kind: String,
        name: String,
        namespace: String,
    }
}

enumeration! {
    /// `type.v1beta1.WorkloadMode` of Istio's API.
    pub enum WorkloadMode {
        Undefined = "UNDEFINED",
        Client = "CLIENT",
        Server = "SERVER",
        ClientAndServer = "CLIENT_AND_SERVER",
    }
}
