//! The fields of `security.v1beta1` (peer authentication), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use std::collections::BTreeMap;

use crate::schema::{enumeration, object};
use crate::selector::WorkloadSelector;

object! {
    /// `security.v1beta1.PeerAuthentication` of Istio's API.
    pub struct PeerAuthentication {
        selector: Option<WorkloadSelector>,
        mtls: Option<MutualTls>,
        port_level_mtls: BTreeMap<u32, MutualTls>,
    }
}

object! {
    /// `security.v1beta1.PeerAuthentication.MutualTLS` of Istio's API.
    pub struct MutualTls {
        mode: MutualTlsMode,
    }
}

enumeration! {
    /// `security.v1beta1.PeerAuthentication.MutualTLS.Mode` of Istio's API.
    pub enum MutualTlsMode {
        Unset = "UNSET",
        Disable = "DISABLE",
        Permissive = "PERMISSIVE",
        Strict = "STRICT",
    }
}
