//! The names of clusters, listeners and routes: Istio's, to the letter, because tools and users read them.

use std::fmt;

/// `outbound|9080|v1|reviews.default.svc.cluster.local`.
pub(crate) fn outbound_cluster(subset: &str, host: &str, port: u32) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

/// `outbound_.9080_.v1_.reviews.default.svc.cluster.local`: the same in the characters SNI allows.
pub(crate) fn sni_cluster(subset: &str, host: &str, port: u32) -> String {
    format!("outbound_.{port}_.{subset}_.{host}")
}

/// `inbound|8080||`.
pub(crate) fn inbound_cluster(port: u32) -> String {
    format!("inbound|{port}||")
}

/// `0.0.0.0_80`.
pub(crate) fn listener(bind: &str, port: u32) -> String {
    format!("{bind}_{port}")
}

/// The virtual listener that receives all redirected outbound connections.
pub(crate) const VIRTUAL_OUTBOUND: &str = "virtualOutbound";
/// The virtual listener that receives all redirected inbound connections.
pub(crate) const VIRTUAL_INBOUND: &str = "virtualInbound";
/// The filter chain that takes HTTP to ports no service declares.
pub(crate) const VIRTUAL_INBOUND_CATCH_ALL_HTTP: &str = "virtualInbound-catchall-http";
/// The filter chain that stops a connection to the inbound listener's own port.
pub(crate) const VIRTUAL_INBOUND_BLACKHOLE: &str = "virtualInbound-blackhole";
/// The filter chain that takes connections no service matches.
pub(crate) const VIRTUAL_OUTBOUND_CATCH_ALL_TCP: &str = "virtualOutbound-catchall-tcp";
/// The filter chain that stops a connection to the outbound listener's own port.
pub(crate) const VIRTUAL_OUTBOUND_BLACKHOLE: &str = "virtualOutbound-blackhole";
/// The default filter chain of an outbound listener.
pub(crate) const PASSTHROUGH_FILTER_CHAIN: &str = "PassthroughFilterChain";
/// Sends a connection where it was going.
pub(crate) const PASSTHROUGH_CLUSTER: &str = "PassthroughCluster";
/// Sends an inbound connection to the port it came for.
pub(crate) const INBOUND_PASSTHROUGH_CLUSTER: &str = "InboundPassthroughCluster";
/// Sends HTTP to whatever host it names.
pub(crate) const ALLOW_ANY_DYNAMIC_DNS_CLUSTER: &str = "AllowAnyDynamicDNSCluster";
/// Has no endpoint.
pub(crate) const BLACK_HOLE_CLUSTER: &str = "BlackHoleCluster";
/// The route and virtual host for unknown destinations that are let through.
pub(crate) const ALLOW_ANY: &str = "allow_any";
/// The route and virtual host for unknown destinations that are resolved by the proxy.
pub(crate) const ALLOW_ANY_DYNAMIC_DNS: &str = "allow_any_dynamic_dns";
/// The route and virtual host for unknown destinations that are not.
pub(crate) const BLOCK_ALL: &str = "block_all";
/// The route configuration of the HTTP proxy port.
pub(crate) const HTTP_PROXY_ROUTE: &str = "http_proxy";
/// The gateway name that stands for "every sidecar".
pub(crate) const MESH_GATEWAY: &str = "mesh";

/// The parts of an outbound cluster name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutboundCluster<'a> {
    pub(crate) port: u32,
    pub(crate) subset: &'a str,
    pub(crate) host: &'a str,
}

/// Parses `outbound|port|subset|host`.
pub(crate) fn parse_outbound(name: &str) -> Option<OutboundCluster<'_>> {
    let mut parts = name.splitn(4, '|');
    if parts.next()? != "outbound" {
        return None;
    }
    let port = parts.next()?.parse().ok()?;
    Some(OutboundCluster {
        port,
        subset: parts.next()?,
        host: parts.next()?,
    })
}

/// A reference to the object a piece of configuration came from: `networking.istio.io/v1/VirtualService/ns/name`.
///
/// Kept as text because nothing takes it apart; it goes into metadata and diagnostics.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// `VirtualService`.
    pub kind: String,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// A reference to an object.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outbound_names_parse_back() {
        let name = outbound_cluster("v1", "reviews.default.svc.cluster.local", 9080);
        assert_eq!(name, "outbound|9080|v1|reviews.default.svc.cluster.local");
        let parsed = parse_outbound(&name).unwrap();
        assert_eq!((parsed.port, parsed.subset), (9080, "v1"));
        assert_eq!(parse_outbound("inbound|80||"), None);
        assert_eq!(parse_outbound("PassthroughCluster"), None);
    }
}
