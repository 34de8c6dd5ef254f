//! What is accepted and not acted on yet, one row each. **Whoever implements something takes its row away here and in
//! `docs/compatibility.md`**; whoever adds a field without acting on it adds one.

use lateen_api::Kind::{self, *};

use super::Planes::{self, Both, Lateen};

/// What a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// Objects of a kind, from their root.
    Object(Kind),
    /// The pod of whatever makes pods: `metadata` and `spec` of its template.
    Pod,
    /// MeshConfig, wherever it was written.
    MeshConfig,
    /// `meshConfig.defaultConfig` and the annotation `proxy.istio.io/config`.
    ProxyConfig,
}

/// What, where, and what follows from its being ignored.
pub(super) type Row = (Of, Planes, &'static str, &'static str);

const fn of(kind: Kind, planes: Planes, at: &'static str, effect: &'static str) -> Row {
    (Of::Object(kind), planes, at, effect)
}

const fn pod(at: &'static str, effect: &'static str) -> Row {
    (Of::Pod, Both, at, effect)
}

const fn mesh(planes: Planes, at: &'static str, effect: &'static str) -> Row {
    (Of::MeshConfig, planes, at, effect)
}

const fn proxy(planes: Planes, at: &'static str, effect: &'static str) -> Row {
    (Of::ProxyConfig, planes, at, effect)
}

/// Paths are those of [`lateen_api::query`]; an empty one means every object of the kind.
#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    // Whole kinds.
    of(EnvoyFilter, Both, "", "its patches are not applied"),
    of(WasmPlugin, Both, "", "the plugin does not run"),
    of(TrafficExtension, Both, "", "the extension does not run"),

    // Security.
    of(Gateway, Lateen, "spec.servers[].tls.cipherSuites", "the proxy offers its own suites"),
    of(Gateway, Lateen, "spec.servers[].tls.ecdhCurves", "the proxy offers its own curves"),

    // Traffic.
    of(VirtualService, Both, "spec.tcp[].match[].sourceSubnet", "the match ignores it"),
    of(DestinationRule, Both, "spec.**.consecutiveErrors", "write `consecutive5xxErrors`; this one counts nothing"),

    // The mesh.
    mesh(Both, "enableEnvoyAccessLogService", "no access log is sent"),
    mesh(Both, "extensionProviders[].stackdriver", "no spans are made"),
    mesh(Both, "extensionProviders[].lightstep", "no spans are made"),
    mesh(Both, "extensionProviders[].opencensus", "no spans are made"),
    mesh(Both, "extensionProviders[].opentelemetry.dynatraceSampler", "the share that Telemetry says is sampled"),
    mesh(Lateen, "extensionProviders[].opentelemetry.resourceDetectors.dynatrace", "spans say nothing of the host"),
    mesh(Both, "meshMTLS.ecdhCurves", "the proxy offers its own curves"),
    mesh(Lateen, "meshMTLS.cipherSuites", "the proxy offers its own suites"),
    mesh(Both, "caCertificates[].certSigners", "there are no signers of Kubernetes; every proxy trusts the root"),
    mesh(Both, "ca", "the mesh's own authority signs; name another one with CA_ADDR"),
    mesh(Both, "certificates", "no such certificates are made"),
    mesh(Both, "verifyCertificateAtClient", "the system's roots are not used"),
    mesh(Both, "serviceSettings", "every service is treated alike"),
    mesh(Both, "serviceScopeConfigs", "every service is treated alike"),
    mesh(Both, "serviceEntryVisibility", "`exportTo` alone decides"),
    mesh(Both, "discoverySelectors", "every namespace is read"),
    mesh(Both, "configSources", "only the files given are read"),
    mesh(Both, "inboundClusterStatName", "clusters keep their names in statistics"),
    mesh(Both, "outboundClusterStatName", "clusters keep their names in statistics"),
    mesh(Both, "hboneIdleTimeout", "there is no HBONE"),

    // Proxies.
    proxy(Lateen, "configPath", "the proxy keeps no files"),
    proxy(Lateen, "runtimeValues", "the proxy has no runtime flags"),
    proxy(Both, "tracing.lightstep", "no spans are made"),
    proxy(Both, "tracing.datadog", "no spans are made"),
    proxy(Both, "tracing.stackdriver", "no spans are made"),
    proxy(Both, "tracing.openCensusAgent", "no spans are made"),
    proxy(Both, "tracing.tlsSettings", "spans go to the collector in plain text, or as its DestinationRule says"),
    proxy(Both, "proxyHeaders", "headers stay as they are by default"),
    proxy(Both, "privateKeyProvider", "keys are used by the proxy itself"),
    proxy(Both, "image", "there is one proxy: this program"),
    proxy(Both, "connectionSettings", "the default limits hold"),
    proxy(Both, "statsCompression", "statistics are sent as they are"),
    proxy(Both, "fileFlushInterval", "access logs are flushed by the default interval"),
    proxy(Both, "fileFlushMinSizeKb", "access logs are flushed by the default size"),
    proxy(Both, "caCertificatesPem", "these roots are not trusted; write them into `caCertificates` of MeshConfig"),
    proxy(Both, "gatewayTopology.forwardClientCertDetails", "client certificates are forwarded as by default"),
    proxy(Both, "gatewayTopology.proxyProtocol", "PROXY protocol is not read"),
    proxy(Both, "envoyAccessLogService", "no access log is sent"),
    proxy(Both, "envoyMetricsService", "metrics are scraped only"),
    proxy(Both, "zipkinAddress", "no spans are made"),
    proxy(Both, "statsdUdpAddress", "metrics are scraped only"),
    proxy(Both, "customConfigFile", "the bootstrap is the default one"),
    proxy(Both, "proxyBootstrapTemplatePath", "the bootstrap is the default one"),

    // Pods.
    pod(r#"metadata.annotations["traffic.sidecar.istio.io/kubevirtInterfaces"]"#, "interfaces are not told apart"),
    pod(r#"metadata.annotations["istio.io/reroute-virtual-interfaces"]"#, "interfaces are not told apart"),
    pod(r#"metadata.annotations["traffic.sidecar.istio.io/excludeInterfaces"]"#, "interfaces are not told apart"),
    pod(r#"metadata.annotations["sidecar.istio.io/proxyImage"]"#, "there is one proxy: this program"),
    pod(r#"metadata.annotations["sidecar.istio.io/proxyCPU"]"#, "resources are not limited"),
    pod(r#"metadata.annotations["sidecar.istio.io/proxyCPULimit"]"#, "resources are not limited"),
    pod(r#"metadata.annotations["sidecar.istio.io/proxyMemory"]"#, "resources are not limited"),
    pod(r#"metadata.annotations["sidecar.istio.io/proxyMemoryLimit"]"#, "resources are not limited"),
    pod(r#"metadata.annotations["sidecar.istio.io/bootstrapOverride"]"#, "the bootstrap is the default one"),
    pod(r#"metadata.labels["topology.istio.io/network"]"#, "the pod is on the mesh's one network"),
    pod(r#"metadata.labels["istio.io/dataplane-mode"]"#, "there is no ambient mode: the pod has a sidecar or none"),
    pod(r#"metadata.labels["istio.io/use-waypoint"]"#, "there are no waypoints"),
    of(Namespace, Both, r#"metadata.labels["istio.io/dataplane-mode"]"#, "there is no ambient mode: label it `istio-injection: enabled` for sidecars"),
    of(Namespace, Both, r#"metadata.labels["istio.io/use-waypoint"]"#, "there are no waypoints"),
    of(Namespace, Both, r#"metadata.labels["topology.istio.io/network"]"#, "pods are on the mesh's one network"),
    of(Service, Both, r#"metadata.labels["istio.io/use-waypoint"]"#, "there are no waypoints"),
];
