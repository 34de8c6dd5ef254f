//! Gateways and virtual services that were written as other kinds, in one order with those that were not.

use lateen_api::Diagnostic;
use lateen_api::networking::Gateway;

use crate::names::ObjectRef;
use crate::shared::Shared;

use super::{Named, SnapshotInputs, VirtualServiceConfig, http_route, ingress};

/// Something with the time by which it takes precedence; empty where a manifest has none.
#[derive(Clone, Debug)]
pub(super) struct Aged<T> {
    pub(super) since: String,
    pub(super) item: T,
}

/// What was made of other kinds.
#[derive(Debug, Default)]
pub(super) struct Derived {
    pub(super) gateways: Vec<Aged<Named<Gateway>>>,
    pub(super) virtual_services: Vec<Aged<VirtualServiceConfig>>,
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// Reads Ingresses, and the Gateway API's routes for services.
pub(super) fn derive(inputs: &SnapshotInputs) -> Derived {
    let mut out = ingress::derive(inputs);
    let routes = http_route::derive(inputs);
    out.gateways.extend(routes.gateways);
    out.virtual_services.extend(routes.virtual_services);
    out.diagnostics.extend(routes.diagnostics);
    out
}

/// Istio's order of precedence: oldest first, then by name and namespace.
pub(super) fn in_order<T: std::hash::Hash>(
    mut list: Vec<Aged<T>>,
    object: impl Fn(&T) -> &ObjectRef,
) -> Vec<Shared<T>> {
    list.sort_by(|a, b| {
        let key = |aged: &Aged<T>| {
            let object = object(&aged.item);
            (
                aged.since.clone(),
                object.name.clone(),
                object.namespace.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    list.into_iter()
        .map(|aged| Shared::new(aged.item))
        .collect()
}
