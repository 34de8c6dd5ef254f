//! The fields of `type.v1beta1` (selector), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use std::collections::BTreeMap;

use crate::schema::{enumeration, object};

object! {
    /// `type.v1beta1.WorkloadSelector` of Istio's API.
    pub struct WorkloadSelector {
        match_labels: BTreeMap<String, String> [Check::Properties(0, 4096), LABEL_KEYS, LABEL_VALUES, LABEL_LENGTHS],
    }
}

object! {
    /// `type.v1beta1.PortSelector` of Istio's API.
    pub struct PortSelector {
        number: u32 [REQUIRED, PORT],
    }
}

object! {
    /// `type.v1beta1.PolicyTargetReference` of Istio's API.
    pub struct PolicyTargetReference {
        group: String [Check::Text(group), max_len(253)],
        kind: String [REQUIRED, NOT_EMPTY, Check::Text(kind), max_len(63)],
        name: String [REQUIRED, NOT_EMPTY, max_len(253)],
        namespace: String [Check::Text(no_namespace)],
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
