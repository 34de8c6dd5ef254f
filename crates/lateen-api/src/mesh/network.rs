//! The fields of `mesh.v1alpha1` (network), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use std::collections::BTreeMap;

use crate::schema::object;

object! {
    /// `mesh.v1alpha1.Network` of Istio's API.
    pub struct Network {
        endpoints: Vec<NetworkEndpoints>,
        gateways: Vec<IstioNetworkGateway>,
    }
}

object! {
    /// `mesh.v1alpha1.Network.NetworkEndpoints` of Istio's API.
    pub struct NetworkEndpoints {
        from_cidr: Option<String>,
        from_registry: Option<String>,
    }
}

object! {
    /// `mesh.v1alpha1.Network.IstioNetworkGateway` of Istio's API.
    pub struct IstioNetworkGateway {
        registry_service_name: Option<String>,
        address: Option<String>,
        port: u32,
        locality: String,
    }
}

object! {
    /// `mesh.v1alpha1.MeshNetworks` of Istio's API.
    pub struct MeshNetworks {
        networks: BTreeMap<String, Network>,
    }
}
