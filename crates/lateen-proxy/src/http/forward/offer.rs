//! What is offered to a host in the TLS handshake, and so which protocol is spoken to it.

use std::sync::Arc;

use http::{Method, Version};
use lateen_traffic::Cluster;
use lateen_traffic::cluster::{TransportSocket, UpstreamProtocol};
use lateen_traffic::filter::AlpnFilter;

use crate::cluster::Host;
use crate::http::head::Head;
use crate::http::manager::Manager;
use crate::upstream::Protocol;

/// How a host is spoken to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer<'m> {
    /// ALPN protocols in place of the transport socket's.
    pub(super) alpn: Option<&'m [Arc<str>]>,
    /// The protocol, as far as it does not depend on what the host picks.
    pub(super) protocol: Protocol,
}

/// How a host of a cluster is spoken to for a request.
pub(super) fn to<'m>(
    manager: &'m Manager,
    head: &Head,
    cluster: &Cluster,
    high_priority: bool,
    host: &Host,
) -> Offer<'m> {
    let wanted = cluster.http.protocol;
    let protocol = Protocol::of(wanted, head.version == Version::HTTP_2);
    let alpn = manager
        .alpn
        .as_deref()
        .map(|filter| override_of(filter, head.version, wanted))
        .filter(|list| !list.is_empty() && offers_istio(&host.transport));
    if alpn.is_some()
        && protocol == Protocol::Http1
        && head.version != Version::HTTP_10
        && may_share(head, cluster, high_priority, host)
        && let Some(shared) = manager.shared_alpn.as_deref()
    {
        return Offer {
            alpn: Some(shared),
            protocol: Protocol::Shared,
        };
    }
    Offer { alpn, protocol }
}

/// Whether a request may share a connection: nothing is configured that counts connections or is told to the host by them, and no
/// tunnel will take the connection over.
fn may_share(head: &Head, cluster: &Cluster, high_priority: bool, host: &Host) -> bool {
    let limits = &cluster.circuit_breakers[usize::from(high_priority)];
    head.protocol.is_none()
        && head.method != Method::CONNECT
        && limits.max_connections == u32::MAX
        && cluster.http.max_requests_per_connection.is_none()
        && !cluster.http.http1.preserve_header_case
        && host.transport.proxy_version().is_none()
}

/// What Istio's filter offers is told by the protocol that is spoken to the host, not by the client's: an HTTP/1 request to a port
/// that is declared as HTTP/2 goes out as HTTP/2, and a host that agreed on another would break it off.
fn override_of(filter: &AlpnFilter, version: Version, wanted: UpstreamProtocol) -> &[Arc<str>] {
    let downstream = wanted == UpstreamProtocol::Downstream;
    match Protocol::of(wanted, version == Version::HTTP_2) {
        Protocol::Http2 => &filter.http2,
        Protocol::Http1 if downstream && version == Version::HTTP_10 => &filter.http10,
        Protocol::Http1 | Protocol::Shared | Protocol::Negotiated => &filter.http11,
    }
}

/// Whether a transport socket is for the mesh: those offer `istio`.
fn offers_istio(transport: &TransportSocket) -> bool {
    let protocols = transport.tls().map(|tls| tls.common.alpn.iter());
    protocols
        .into_iter()
        .flatten()
        .any(|protocol| protocol.starts_with("istio"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_follows_the_protocol_spoken_to_the_host() {
        let list = |text: &str| vec![Arc::from(text)];
        let filter = AlpnFilter {
            http10: list("istio-http/1.0"),
            http11: list("istio-http/1.1"),
            http2: list("istio-h2"),
        };
        let offered = |version, wanted| override_of(&filter, version, wanted)[0].to_string();
        let cases = [
            (Version::HTTP_11, UpstreamProtocol::Http2, "istio-h2"),
            (Version::HTTP_2, UpstreamProtocol::Http1, "istio-http/1.1"),
            (Version::HTTP_10, UpstreamProtocol::Http1, "istio-http/1.1"),
            (
                Version::HTTP_10,
                UpstreamProtocol::Downstream,
                "istio-http/1.0",
            ),
            (Version::HTTP_2, UpstreamProtocol::Downstream, "istio-h2"),
        ];
        for (version, wanted, expected) in cases {
            assert_eq!(offered(version, wanted), expected, "{version:?} {wanted:?}");
        }
    }
}
