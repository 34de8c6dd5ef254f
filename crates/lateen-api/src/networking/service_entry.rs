//! The fields of `networking.v1alpha3` (service entry), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use super::{WorkloadEntry, WorkloadSelector};
use crate::schema::{enumeration, object};
use crate::value::Value;

object! {
    /// `networking.v1alpha3.ServiceEntry` of Istio's API.
    pub struct ServiceEntry {
        hosts: Vec<String>,
        addresses: Vec<String>,
        ports: Vec<ServicePort>,
        location: Location,
        resolution: Resolution,
        endpoints: Vec<WorkloadEntry>,
        workload_selector: Option<WorkloadSelector>,
        export_to: Vec<String>,
        subject_alt_names: Vec<String>,
    }
}

enumeration! {
    /// `networking.v1alpha3.ServiceEntry.Location` of Istio's API.
    pub enum Location {
        MeshExternal = "MESH_EXTERNAL",
        MeshInternal = "MESH_INTERNAL",
    }
}

enumeration! {
    /// `networking.v1alpha3.ServiceEntry.Resolution` of Istio's API.
    pub enum Resolution {
        None = "NONE",
        Static = "STATIC",
        Dns = "DNS",
        DnsRoundRobin = "DNS_ROUND_ROBIN",
        DynamicDns = "DYNAMIC_DNS",
    }
}

object! {
    /// `networking.v1alpha3.ServicePort` of Istio's API.
    pub struct ServicePort {
        number: u32,
        protocol: String,
        name: String,
        target_port: u32,
    }
}

object! {
    /// `networking.v1alpha3.ServiceEntryStatus` of Istio's API.
    pub struct ServiceEntryStatus {
        conditions: Vec<Value>,
        validation_messages: Vec<Value>,
        observed_generation: i64,
        addresses: Vec<ServiceEntryAddress>,
    }
}

object! {
    /// `networking.v1alpha3.ServiceEntryAddress` of Istio's API.
    pub struct ServiceEntryAddress {
        value: String,
        host: String,
    }
}
