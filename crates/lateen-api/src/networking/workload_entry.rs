//! The fields of `networking.v1alpha3` (workload entry), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use std::collections::BTreeMap;

use crate::schema::check::is_set;
use crate::schema::object;
use crate::tree::Node;

object! {
    /// `networking.v1alpha3.WorkloadEntry` of Istio's API.
    pub struct WorkloadEntry [Custom(uds_ports)] {
        address: String [max_len(256), Check::Text(uds_address)],
        ports: BTreeMap<String, u32> [Check::Properties(0, 128), Check::Keys(port_name), EACH_PORT],
        labels: BTreeMap<String, String> [Check::Properties(0, 256)],
        network: String [max_len(2048)],
        locality: String [max_len(2048)],
        weight: u32,
        service_account: String [max_len(253)],
    }
}

/// Asked of a WorkloadEntry and of a ServiceEntry's endpoints, but not of a WorkloadGroup's template.
pub(crate) fn needs_address(node: &Node) -> Option<(&'static str, &'static str)> {
    (!is_set(node, "address") && !is_set(node, "network")).then_some((
        "address",
        "`address` is required, unless there is a `network`",
    ))
}

fn uds_ports(node: &Node) -> Option<(&'static str, &'static str)> {
    let address = node.get("address").and_then(Node::text).unwrap_or_default();
    (address.starts_with("unix://") && is_set(node, "ports"))
        .then_some(("ports", "a Unix domain socket has no ports"))
}
