//! AuthorizationPolicy to Envoy's RBAC filters.

use std::collections::BTreeMap;

use crate::proto::{hcm, listener};
use crate::snapshot::Snapshot;

/// The policies of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Policies {}

impl Policies {
    pub(crate) fn of_workload(_: &Snapshot, _: &str, _: &BTreeMap<String, String>) -> Self {
        Self {}
    }

    pub(crate) fn http_filters(&self) -> Vec<hcm::HttpFilter> {
        Vec::new()
    }

    pub(crate) fn network_filters(&self) -> Vec<listener::Filter> {
        Vec::new()
    }
}
