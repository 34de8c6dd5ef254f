//! The fields of `networking.v1alpha3` (service entry), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use super::workload_entry::needs_address;
use super::{WorkloadEntry, WorkloadSelector};
use crate::schema::check::is_set;
use crate::schema::{enumeration, object};
use crate::tree::Node;
use crate::value::Value;

object! {
    /// `networking.v1alpha3.ServiceEntry` of Istio's API.
    pub struct ServiceEntry [Custom(one_source), Custom(cidr_resolution), Custom(endpoints_of_none), Custom(one_round_robin)] {
        hosts: Vec<String> [REQUIRED, Check::Items(1, 256), Check::Each(&Check::Text(not_bare_wildcard))],
        addresses: Vec<String> [max_items(256), Check::Each(&Check::MaxLen(64))],
        ports: Vec<ServicePort> [max_items(256), Check::UniqueBy("name"), Check::UniqueBy("number")],
        location: Location,
        resolution: Resolution,
        endpoints: Vec<WorkloadEntry> [max_items(4096), Check::Each(&Check::Object(needs_address))],
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
        number: u32 [REQUIRED, PORT],
        protocol: String [max_len(256)],
        name: String [REQUIRED, max_len(256)],
        target_port: u32 [PORT],
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

fn resolution(node: &Node) -> &str {
    node.get("resolution")
        .and_then(Node::text)
        .unwrap_or("NONE")
}

fn one_source(node: &Node) -> Option<(&'static str, &'static str)> {
    (is_set(node, "workloadSelector") && is_set(node, "endpoints")).then_some((
        "endpoints",
        "only one of workloadSelector and endpoints may be set",
    ))
}

fn cidr_resolution(node: &Node) -> Option<(&'static str, &'static str)> {
    let addresses = node.get("addresses").map(Node::items).unwrap_or_default();
    let has_cidr = addresses
        .iter()
        .filter_map(Node::text)
        .any(|address| address.contains('/'));
    (has_cidr && !matches!(resolution(node), "NONE" | "STATIC")).then_some((
        "addresses",
        "CIDR addresses need the resolution NONE or STATIC",
    ))
}

fn endpoints_of_none(node: &Node) -> Option<(&'static str, &'static str)> {
    (resolution(node) == "NONE" && is_set(node, "endpoints")).then_some((
        "endpoints",
        "endpoints need a resolution; it is NONE unless it is set",
    ))
}

fn one_round_robin(node: &Node) -> Option<(&'static str, &'static str)> {
    let endpoints = node.get("endpoints").map(Node::items).unwrap_or_default();
    (resolution(node) == "DNS_ROUND_ROBIN" && endpoints.len() > 1).then_some((
        "endpoints",
        "DNS_ROUND_ROBIN cannot have more than one endpoint",
    ))
}
