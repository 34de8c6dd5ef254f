//! One call put to the engine: listener, filter chain, TLS, virtual host, route, cluster.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use lateen_traffic::filter::NetworkFilterKind;
use lateen_traffic::hcm::HttpConnectionManager;
use lateen_traffic::listener::{FilterChain, ListenerFilterKind};
use lateen_traffic::request::TransportProtocol;
use lateen_traffic::route::{RouteAction, RouteDecision, RouteOutcome};
use lateen_traffic::secret;
use lateen_traffic::tls::{CertificateSource, DownstreamTls};
use lateen_traffic::value::Metadata;
use lateen_traffic::{ConnectionInfo, Listener, PeerTls, RequestView};

use super::case::{Call, CallProtocol, CallTls, Mode};
use super::world::World;

/// The listeners that redirected connections are accepted by.
const VIRTUAL_OUTBOUND: &str = "virtualOutbound";
const VIRTUAL_INBOUND: &str = "virtualInbound";
/// The secret with the workload's own certificate.
const WORKLOAD_SECRET: &str = "default";
/// Who calls.
const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 200, 0, 1)), 40_000);

/// What happened to a call.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) error: Option<&'static str>,
    pub(super) listener: Option<String>,
    /// The chain's index in its listener, with its name.
    pub(super) filter_chain: Option<(usize, String)>,
    pub(super) route_config: Option<String>,
    pub(super) virtual_host: Option<String>,
    pub(super) route: Option<String>,
    pub(super) cluster: Option<String>,
    /// The status of an answer of the proxy's own.
    pub(super) direct_response: Option<u16>,
    pub(super) tls: Option<ServerSide>,
}

/// The TLS side of the chain.
#[derive(Debug)]
pub(super) struct ServerSide {
    pub(super) certificate: Option<String>,
    pub(super) requires_client_certificate: bool,
    /// The cluster of the server that delivers the certificate; none if it is the usual one.
    pub(super) sds_cluster: Option<String>,
}

/// Puts a call to the engine.
pub(super) fn run(world: &World, call: &Call) -> Outcome {
    let mut out = Outcome::default();
    out.error = steps(world, call, &mut out).err();
    out
}

fn steps(world: &World, call: &Call, out: &mut Outcome) -> Result<(), &'static str> {
    let listener = match listener(world, call) {
        Some(listener) => listener,
        None if world.has_ambiguous_listener() => return Err("multiple_filter_chain"),
        None => return Err("no_listener"),
    };
    out.listener = Some(listener.name.to_string());
    let alpn = seen_protocol(listener, call);
    let alpn: Vec<&str> = alpn.iter().map(String::as_str).collect();
    let connection = connection(listener, call, &alpn);
    let chain = listener
        .match_filter_chain(&connection)
        .chain()
        .ok_or("no_filter_chain")?;
    let index = listener
        .all_chains()
        .position(|known| Arc::ptr_eq(known, chain))
        .unwrap_or_default();
    out.filter_chain = Some((index, chain.name.to_string()));
    out.tls = chain
        .tls
        .as_deref()
        .map(|tls| server_side(world, listener, index, tls));
    check_tls(chain, call)?;
    forward(world, chain, call, &connection, out)
}

/// The listener that a connection comes to.
fn listener<'w>(world: &'w World, call: &Call) -> Option<&'w Arc<Listener>> {
    let program = &world.program;
    let destination = SocketAddr::new(call.address, call.port);
    match call.mode {
        Mode::Inbound => program.listener(VIRTUAL_INBOUND),
        Mode::Outbound => {
            let accepting = program.listener(VIRTUAL_OUTBOUND)?;
            Some(program.dispatch(accepting, destination).listener)
        }
        Mode::Gateway => {
            let any: IpAddr = match call.address {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            program
                .listener_at(destination)
                .or_else(|| program.listener_at(SocketAddr::new(any, call.port)))
        }
    }
}

fn has_filter(listener: &Listener, port: u16, kind: &ListenerFilterKind) -> bool {
    listener.listener_filters.iter().any(|filter| {
        filter.kind == *kind
            && !filter
                .disabled
                .as_ref()
                .is_some_and(|disabled| disabled.holds(port))
    })
}

/// The application protocol that the listener's inspectors see.
fn seen_protocol(listener: &Listener, call: &Call) -> Option<String> {
    let inspects = |kind| has_filter(listener, call.port, &kind);
    if call.tls != CallTls::Plaintext {
        let alpn = call.alpn.clone().filter(|alpn| !alpn.is_empty());
        return alpn.filter(|_| inspects(ListenerFilterKind::TlsInspector));
    }
    let found = match call.protocol {
        CallProtocol::Http => "http/1.1",
        CallProtocol::Http2 => "h2c",
        CallProtocol::Tcp => return None,
    };
    inspects(ListenerFilterKind::HttpInspector).then(|| found.to_owned())
}

fn connection<'a>(listener: &Listener, call: &'a Call, alpn: &'a [&'a str]) -> ConnectionInfo<'a> {
    let inspected = has_filter(listener, call.port, &ListenerFilterKind::TlsInspector);
    let is_tls = inspected && call.tls != CallTls::Plaintext;
    ConnectionInfo {
        local: SocketAddr::new(call.address, call.port),
        remote: CLIENT,
        direct_remote: CLIENT,
        // What the call says is sent, even where it says that it is sent in the clear: Istio's own simulation looks at nothing else.
        server_name: call
            .sni
            .as_deref()
            .filter(|name| inspected && !name.is_empty()),
        transport_protocol: if is_tls {
            TransportProtocol::Tls
        } else {
            TransportProtocol::RawBuffer
        },
        application_protocols: alpn,
        is_local: false,
    }
}

/// Whether the chain and the client agree on how the connection is secured.
fn check_tls(chain: &FilterChain, call: &Call) -> Result<(), &'static str> {
    let Some(tls) = chain.tls.as_deref() else {
        return Ok(());
    };
    if call.tls == CallTls::Plaintext {
        return Err("tls_error");
    }
    let identity = call.mtls_identity.as_deref().unwrap_or(WORKLOAD_SECRET);
    let mutual = tls.require_client_certificate && certificate(tls).as_deref() == Some(identity);
    if mutual == (call.tls == CallTls::Mtls) {
        Ok(())
    } else {
        Err("mtls_error")
    }
}

fn certificate(tls: &DownstreamTls) -> Option<String> {
    tls.common
        .certificates
        .iter()
        .find_map(|source| match source {
            CertificateSource::Sds(key) => {
                let name = secret::external(key).map_or(&**key, |(_, name)| name);
                Some(name.to_owned())
            }
            CertificateSource::Inline(_) => None,
        })
}

fn server_side(
    world: &World,
    listener: &Listener,
    chain: usize,
    tls: &DownstreamTls,
) -> ServerSide {
    ServerSide {
        certificate: certificate(tls),
        requires_client_certificate: tls.require_client_certificate,
        sds_cluster: sds_cluster(world, &listener.name, chain),
    }
}

/// Which server delivers the certificate: the engine keeps names only, so the compiled resource is looked at.
fn sds_cluster(world: &World, listener: &str, chain: usize) -> Option<String> {
    let listeners = world
        .compiled
        .resources
        .get(lateen_envoy::TypeUrl::Listener);
    let json = lateen_envoy::json::any_to_value(&listeners.get(listener)?.body);
    let path = format!(
        "/filter_chains/{chain}/transport_socket/typed_config/common_tls_context/\
         tls_certificate_sds_secret_configs/0/sds_config/api_config_source/grpc_services/0/\
         envoy_grpc/cluster_name"
    );
    json.pointer(&path)?.as_str().map(str::to_owned)
}

/// What the chain's last filter does with the connection.
fn forward(
    world: &World,
    chain: &FilterChain,
    call: &Call,
    connection: &ConnectionInfo<'_>,
    out: &mut Outcome,
) -> Result<(), &'static str> {
    let mut by_server_name = false;
    for filter in &chain.filters {
        match &filter.kind {
            NetworkFilterKind::SniCluster => by_server_name = true,
            NetworkFilterKind::Tcp(proxy) => {
                let name = connection.server_name.filter(|_| by_server_name);
                let cluster = name.unwrap_or_else(|| proxy.pick_cluster(0));
                out.cluster = Some(cluster.to_owned());
            }
            NetworkFilterKind::Http(manager) => {
                // The manager would read TLS records, or whatever else it is, as a request.
                let in_clear = call.tls == CallTls::Plaintext || chain.tls.is_some();
                if !in_clear || call.protocol == CallProtocol::Tcp {
                    return Err("protocol_error");
                }
                return request(world, manager, call, connection, out);
            }
            _ => {}
        }
    }
    Ok(())
}

fn request(
    world: &World,
    manager: &HttpConnectionManager,
    call: &Call,
    connection: &ConnectionInfo<'_>,
    out: &mut Outcome,
) -> Result<(), &'static str> {
    let Some(routes) = world.program.routes_of(&manager.routes) else {
        return Err("no_virtual_host");
    };
    out.route_config = Some(routes.name.to_string());
    let headers = headers(call);
    let secured = call.tls != CallTls::Plaintext;
    let peer = PeerTls {
        is_tls: secured,
        presented: call.tls == CallTls::Mtls,
        validated: call.tls == CallTls::Mtls,
        ..PeerTls::default()
    };
    let (metadata, state) = (Metadata::default(), BTreeMap::new());
    let view = RequestView {
        method: "GET",
        scheme: if secured { "https" } else { "http" },
        authority: call.host.as_deref().unwrap_or_default(),
        path: &call.path,
        protocol: None,
        headers: &headers,
        client: connection.remote,
        connection,
        peer: &peer,
        dynamic_metadata: &metadata,
        filter_state: &state,
    };
    match routes.route(&view, 0) {
        RouteOutcome::NoVirtualHost => Err("no_virtual_host"),
        RouteOutcome::RequireTls(host) => {
            out.virtual_host = Some(host.name.to_string());
            Err("tls_redirect")
        }
        RouteOutcome::NoRoute(host) => {
            out.virtual_host = Some(host.name.to_string());
            Err("no_route")
        }
        RouteOutcome::Route(decision) => {
            record(&decision, out);
            Ok(())
        }
    }
}

fn record(decision: &RouteDecision<'_>, out: &mut Outcome) {
    out.virtual_host = Some(decision.vhost.name.to_string());
    out.route = Some(decision.route.name.to_string());
    out.cluster = decision.cluster.as_deref().map(str::to_owned);
    if let RouteAction::DirectResponse(response) = &decision.route.action {
        out.direct_response = Some(response.status);
    }
}

fn headers(call: &Call) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, values) in &call.headers {
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            continue;
        };
        for value in values.as_slice() {
            if let Ok(value) = HeaderValue::from_str(value) {
                out.append(name.clone(), value);
            }
        }
    }
    out
}
