//! The services `OutboundPolicies` and `InboundServerPolicies`: how connections are treated that leave a pod, and that reach it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use linkerd2_proxy_api::http_route::{HttpRouteMatch, PathMatch, path_match};
use linkerd2_proxy_api::inbound::authn::permit_mesh_tls::{Clients, PermitClientIdentities};
use linkerd2_proxy_api::inbound::authn::{Permit, PermitMeshTls};
use linkerd2_proxy_api::inbound::inbound_server_policies_server::InboundServerPolicies;
use linkerd2_proxy_api::inbound::{self, Authn, Authz, IdentitySuffix, Network, PortSpec, Server};
use linkerd2_proxy_api::outbound::backend::balance_p2c::{Load, PeakEwma};
use linkerd2_proxy_api::outbound::backend::endpoint_discovery::{self, DestinationGet};
use linkerd2_proxy_api::outbound::backend::{self, BalanceP2c, EndpointDiscovery};
use linkerd2_proxy_api::outbound::outbound_policies_server::OutboundPolicies;
use linkerd2_proxy_api::outbound::{
    self, Backend, OutboundPolicy, Queue, TrafficSpec, http_route, opaque_route, traffic_spec,
};
use tonic::{Request, Response, Status};

use super::{Answers, HOST, OPAQUE, PORTS, by_default, lasting, of_service};
use crate::mesh::SERVICE;

/// How long a client may take to say something that its protocol is told by.
const DETECT: Duration = Duration::from_secs(10);
/// The policy of ports that no `Server` selects.
const POLICY: &str = "all-authenticated";

/// Every request, as a route of the Gateway API matches it by default.
fn every_request() -> HttpRouteMatch {
    let kind = Some(path_match::Kind::Prefix("/".to_owned()));
    HttpRouteMatch {
        path: Some(PathMatch { kind }),
        ..HttpRouteMatch::default()
    }
}

/// The service `OutboundPolicies`.
pub(super) struct Outbound;

#[tonic::async_trait]
impl OutboundPolicies for Outbound {
    async fn get(&self, request: Request<TrafficSpec>) -> Result<Response<OutboundPolicy>, Status> {
        client_policy(request.into_inner()).map(Response::new)
    }

    type WatchStream = Answers<OutboundPolicy>;

    async fn watch(
        &self,
        request: Request<TrafficSpec>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        client_policy(request.into_inner()).map(lasting)
    }
}

fn client_policy(traffic: TrafficSpec) -> Result<OutboundPolicy, Status> {
    let address = match traffic.target {
        Some(traffic_spec::Target::Addr(address)) => SocketAddr::try_from(address).ok(),
        _ => None,
    };
    let service = address.filter(|a| a.ip().to_string() == SERVICE && PORTS.contains(&a.port()));
    let port = service
        .ok_or_else(|| Status::not_found("not the service"))?
        .port();
    let opaque = outbound::proxy_protocol::Opaque {
        routes: vec![opaque_to(balancer(port))],
    };
    let kind = if port == OPAQUE {
        outbound::proxy_protocol::Kind::Opaque(opaque)
    } else {
        let routes = vec![http_to(balancer(port))];
        outbound::proxy_protocol::Kind::Detect(outbound::proxy_protocol::Detect {
            timeout: DETECT.try_into().ok(),
            opaque: Some(opaque),
            http1: Some(outbound::proxy_protocol::Http1 {
                routes: routes.clone(),
                failure_accrual: None,
            }),
            http2: Some(outbound::proxy_protocol::Http2 {
                routes,
                failure_accrual: None,
            }),
        })
    };
    Ok(OutboundPolicy {
        protocol: Some(outbound::ProxyProtocol { kind: Some(kind) }),
        metadata: of_service(port),
    })
}

/// The service's endpoints, the load spread over them.
fn balancer(port: u16) -> Backend {
    let path = format!("{HOST}:{port}");
    let discovery = EndpointDiscovery {
        kind: Some(endpoint_discovery::Kind::Dst(DestinationGet { path })),
    };
    let load = PeakEwma {
        default_rtt: Duration::from_millis(30).try_into().ok(),
        decay: Duration::from_secs(10).try_into().ok(),
    };
    let queue = Queue {
        capacity: 100,
        failfast_timeout: Duration::from_secs(3).try_into().ok(),
    };
    Backend {
        metadata: of_service(port),
        queue: Some(queue),
        kind: Some(backend::Kind::Balancer(BalanceP2c {
            discovery: Some(discovery),
            load: Some(Load::PeakEwma(load)),
        })),
    }
}

fn opaque_to(backend: Backend) -> outbound::OpaqueRoute {
    use opaque_route::{Distribution, RouteBackend, Rule, distribution};
    let backend = RouteBackend {
        backend: Some(backend),
        filters: Vec::new(),
    };
    let first = distribution::FirstAvailable {
        backends: vec![backend],
    };
    let rule = Rule {
        backends: Some(Distribution {
            kind: Some(distribution::Kind::FirstAvailable(first)),
        }),
        filters: Vec::new(),
    };
    outbound::OpaqueRoute {
        metadata: by_default("opaq"),
        rules: vec![rule],
    }
}

fn http_to(backend: Backend) -> outbound::HttpRoute {
    use http_route::{Distribution, RouteBackend, Rule, distribution};
    let backend = RouteBackend {
        backend: Some(backend),
        ..RouteBackend::default()
    };
    let first = distribution::FirstAvailable {
        backends: vec![backend],
    };
    let rule = Rule {
        matches: vec![every_request()],
        backends: Some(Distribution {
            kind: Some(distribution::Kind::FirstAvailable(first)),
        }),
        ..Rule::default()
    };
    outbound::HttpRoute {
        metadata: by_default("http"),
        hosts: Vec::new(),
        rules: vec![rule],
    }
}

/// The service `InboundServerPolicies`.
pub(super) struct Inbound;

#[tonic::async_trait]
impl InboundServerPolicies for Inbound {
    async fn get_port(&self, request: Request<PortSpec>) -> Result<Response<Server>, Status> {
        Ok(Response::new(server_policy(request.into_inner().port)))
    }

    type WatchPortStream = Answers<Server>;

    async fn watch_port(
        &self,
        request: Request<PortSpec>,
    ) -> Result<Response<Self::WatchPortStream>, Status> {
        Ok(lasting(server_policy(request.into_inner().port)))
    }
}

fn server_policy(port: u32) -> Server {
    use inbound::proxy_protocol::{Detect, Kind, Opaque};
    let kind = if port == u32::from(OPAQUE) {
        Kind::Opaque(Opaque {})
    } else {
        Kind::Detect(Detect {
            timeout: DETECT.try_into().ok(),
            http_routes: vec![every_route()],
            http_local_rate_limit: None,
        })
    };
    let labels = [("group", ""), ("kind", "default"), ("name", POLICY)];
    Server {
        protocol: Some(inbound::ProxyProtocol { kind: Some(kind) }),
        server_ips: Vec::new(),
        authorizations: vec![authenticated()],
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
    }
}

fn every_route() -> inbound::HttpRoute {
    let rule = inbound::http_route::Rule {
        matches: vec![every_request()],
        filters: Vec::new(),
    };
    inbound::HttpRoute {
        metadata: by_default("default"),
        rules: vec![rule],
        ..inbound::HttpRoute::default()
    }
}

/// Whoever has an identity of the mesh, wherever it is.
fn authenticated() -> Authz {
    let everywhere: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let network = |ip: IpAddr| Network {
        net: Some((ip, 0).into()),
        except: Vec::new(),
    };
    // The suffix without parts is that of every name.
    let anyone = PermitClientIdentities {
        identities: Vec::new(),
        suffixes: vec![IdentitySuffix { parts: Vec::new() }],
    };
    let permit = Permit::MeshTls(PermitMeshTls {
        clients: Some(Clients::Identities(anyone)),
    });
    Authz {
        networks: everywhere.map(network).into(),
        authentication: Some(Authn {
            permit: Some(permit),
        }),
        metadata: by_default(POLICY),
        ..Authz::default()
    }
}
