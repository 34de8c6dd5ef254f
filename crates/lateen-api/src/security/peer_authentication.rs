//! The fields of `security.v1beta1` (peer authentication), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use std::collections::BTreeMap;

use crate::schema::check::is_set;
use crate::schema::{enumeration, object};
use crate::selector::WorkloadSelector;
use crate::tree::Node;

object! {
    /// `security.v1beta1.PeerAuthentication` of Istio's API.
    pub struct PeerAuthentication [Custom(ports_need_selector)] {
        selector: Option<WorkloadSelector>,
        mtls: Option<MutualTls>,
        port_level_mtls: BTreeMap<u32, MutualTls> [Check::Properties(1, usize::MAX), Check::Keys(port_key)],
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

fn port_key(key: &str) -> Option<&'static str> {
    // What is no number at all is reported by the decoder.
    let port: u32 = key.parse().ok()?;
    (!(1..=65535).contains(&port)).then_some("a port has to be between 1 and 65535")
}

fn ports_need_selector(node: &Node) -> Option<(&'static str, &'static str)> {
    let labels = node
        .get("selector")
        .and_then(|selector| selector.get("matchLabels"));
    let selects = labels.is_some_and(|labels| !labels.entries().is_empty());
    (is_set(node, "portLevelMtls") && !selects).then_some((
        "portLevelMtls",
        "portLevelMtls needs a selector with matchLabels",
    ))
}
