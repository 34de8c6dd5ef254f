//! The fields of `networking.v1alpha3` (workload entry), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use std::collections::BTreeMap;

use crate::schema::object;

object! {
    /// `networking.v1alpha3.WorkloadEntry` of Istio's API.
    pub struct WorkloadEntry {
        address: String,
        ports: BTreeMap<String, u32>,
        labels: BTreeMap<String, String>,
        network: String,
        locality: String,
        weight: u32,
        service_account: String,
    }
}
