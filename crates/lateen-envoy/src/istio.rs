//! Istio's own messages, and `TypedStruct`: what an Istio control plane and its proxies say beyond Envoy's API.
//!
//! Field numbers and package names are Istio 1.30's; the definitions are in `proto/`. Maps are sorted here, unlike in
//! [`crate::pb`].

macro_rules! generated {
    ($(#[$doc:meta])* $name:ident = $package:literal) => {
        $(#[$doc])*
        #[allow(missing_docs, unreachable_pub, clippy::all, clippy::allow_attributes_without_reason, reason = "generated code")]
        pub mod $name {
            tonic::include_proto!($package);
        }
    };
}

generated!(
    /// NDS: the name table of the agent's DNS proxy.
    nds = "istio.networking.nds.v1"
);
generated!(
    /// PCDS: what an agent is told of its proxy's configuration.
    mesh = "istio.mesh.v1alpha1"
);
generated!(
    /// The certificate signing service, client and server.
    ca = "istio.v1.auth"
);
generated!(
    /// The HTTP peer metadata filter.
    peer_metadata = "io.istio.http.peer_metadata"
);
generated!(
    /// The standard metrics filter.
    stats = "stats"
);
generated!(
    /// The filter that overrides the upstream ALPN.
    alpn = "istio.envoy.config.filter.http.alpn.v2alpha1"
);
generated!(
    /// The TCP metadata exchange filter.
    metadata_exchange = "envoy.tcp.metadataexchange.config"
);
generated!(
    /// `udpa.type.v1.TypedStruct`, which Istio and older EnvoyFilters use.
    udpa = "udpa.r#type.v1"
);
generated!(
    /// `xds.type.v3.TypedStruct`, its successor.
    xds = "xds.r#type.v3"
);
