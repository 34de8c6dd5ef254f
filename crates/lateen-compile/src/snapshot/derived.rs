//! Gateways and virtual services that were written as other kinds, in one order with those that were not.

use lateen_api::Diagnostic;
use lateen_api::networking::Gateway;

use crate::names::ObjectRef;
use crate::shared::Shared;

use super::{Inputs, Named, VirtualServiceConfig, http_route, ingress};

/// Something with the time by which it takes precedence; empty where a manifest has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Aged<T> {
    pub(super) since: String,
    pub(super) item: T,
}

/// What was made of other kinds.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Derived {
    pub(super) gateways: Vec<Aged<Named<Gateway>>>,
    pub(super) virtual_services: Vec<Aged<VirtualServiceConfig>>,
    pub(super) diagnostics: Vec<Diagnostic>,
}

impl Derived {
    /// Whether there is nothing that anything could be made of.
    pub(super) fn is_empty(&self) -> bool {
        self.gateways.is_empty() && self.virtual_services.is_empty() && self.diagnostics.is_empty()
    }
}

/// Reads Ingresses, and the Gateway API's routes for services.
pub(super) fn derive(inputs: &Inputs) -> Derived {
    let mut out = ingress::derive(inputs);
    let routes = http_route::derive(inputs);
    out.gateways.extend(routes.gateways);
    out.virtual_services.extend(routes.virtual_services);
    out.diagnostics.extend(routes.diagnostics);
    out
}

/// Istio's order of precedence: oldest first, then by name and namespace. Each comes with the time by which it takes precedence.
pub(super) fn in_order<T>(
    mut list: Vec<(String, Shared<T>)>,
    object: impl Fn(&T) -> &ObjectRef,
) -> Vec<Shared<T>> {
    list.sort_by(|(a_since, a), (b_since, b)| {
        let (a, b) = (object(a), object(b));
        (a_since, &a.name, &a.namespace).cmp(&(b_since, &b.name, &b.namespace))
    });
    list.into_iter().map(|(_, item)| item).collect()
}
