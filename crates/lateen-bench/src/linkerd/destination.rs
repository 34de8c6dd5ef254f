//! The service `Destination`: what the service is, and where its one endpoint is.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use linkerd2_proxy_api::destination::destination_server::Destination;
use linkerd2_proxy_api::destination::http2_client_params::KeepAlive;
use linkerd2_proxy_api::destination::protocol_hint::{H2, Opaque, OpaqueTransport, Protocol};
use linkerd2_proxy_api::destination::tls_identity::{DnsLikeIdentity, Strategy};
use linkerd2_proxy_api::destination::{
    DestinationProfile, GetDestination, Http2ClientParams, ProtocolHint, RetryBudget, TlsIdentity,
    Update, WeightedAddr, WeightedAddrSet, update,
};
use tonic::{Request, Response, Status};

use super::{Answers, HOST, INBOUND, OPAQUE, PORTS, Side, lasting, of_service};
use crate::mesh::SERVICE;

/// The service's endpoints: one pod.
pub(super) struct Endpoints {
    server: Ipv4Addr,
}

impl Endpoints {
    /// Of this pod.
    pub(super) const fn new(server: Ipv4Addr) -> Self {
        Self { server }
    }

    /// The pod, meshed.
    fn endpoint(&self, port: u16) -> WeightedAddr {
        WeightedAddr {
            addr: Some(SocketAddr::from((self.server, port)).into()),
            weight: 10_000,
            metric_labels: labels(&[
                ("control_plane_ns", "linkerd"),
                ("deployment", Side::Server.name()),
                ("pod", Side::Server.name()),
                ("serviceaccount", Side::Server.name()),
                ("zone", ""),
                ("zone_locality", "unknown"),
            ]),
            tls_identity: Some(identity()),
            protocol_hint: Some(hint(port)),
            http2: Some(http2()),
            ..WeightedAddr::default()
        }
    }
}

fn labels(labels: &[(&str, &str)]) -> HashMap<String, String> {
    let owned = labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    owned.collect()
}

fn identity() -> TlsIdentity {
    let name = DnsLikeIdentity {
        name: Side::Server.identity(),
    };
    TlsIdentity {
        strategy: Some(Strategy::DnsLikeIdentity(name.clone())),
        server_name: Some(name),
    }
}

/// That HTTP/1 is to be upgraded, and that every connection goes to the proxy's own port and says in a header which one is meant.
fn hint(port: u16) -> ProtocolHint {
    let protocol = match port {
        OPAQUE => Protocol::Opaque(Opaque {}),
        _ => Protocol::H2(H2 {}),
    };
    ProtocolHint {
        protocol: Some(protocol),
        opaque_transport: Some(OpaqueTransport {
            inbound_port: INBOUND.into(),
        }),
    }
}

fn http2() -> Http2ClientParams {
    let keep_alive = KeepAlive {
        interval: Duration::from_secs(10).try_into().ok(),
        timeout: Duration::from_secs(3).try_into().ok(),
        while_idle: true,
    };
    Http2ClientParams {
        keep_alive: Some(keep_alive),
        ..Http2ClientParams::default()
    }
}

/// The service's port that an authority is of, by address or name.
fn service_port(authority: &str) -> Result<u16, Status> {
    let parts = authority.rsplit_once(':');
    let of_service = parts.filter(|(host, _)| *host == SERVICE || *host == HOST);
    let port = of_service.and_then(|(_, port)| port.parse().ok());
    // What is rejected so is not asked for again, and gets no profile.
    port.filter(|port| PORTS.contains(port))
        .ok_or_else(|| Status::invalid_argument(format!("{authority} is not the service")))
}

#[tonic::async_trait]
impl Destination for Endpoints {
    type GetStream = Answers<Update>;

    async fn get(
        &self,
        request: Request<GetDestination>,
    ) -> Result<Response<Self::GetStream>, Status> {
        let port = service_port(&request.into_inner().path)?;
        let set = WeightedAddrSet {
            addrs: vec![self.endpoint(port)],
            metric_labels: labels(&[("namespace", "default"), ("service", Side::Server.name())]),
        };
        let update = Some(update::Update::Add(set));
        Ok(lasting(Update { update }))
    }

    type GetProfileStream = Answers<DestinationProfile>;

    async fn get_profile(
        &self,
        request: Request<GetDestination>,
    ) -> Result<Response<Self::GetProfileStream>, Status> {
        let port = service_port(&request.into_inner().path)?;
        let budget = RetryBudget {
            retry_ratio: 0.2,
            min_retries_per_second: 10,
            ttl: Duration::from_secs(10).try_into().ok(),
        };
        Ok(lasting(DestinationProfile {
            fully_qualified_name: HOST.to_owned(),
            opaque_protocol: port == OPAQUE,
            retry_budget: Some(budget),
            parent_ref: of_service(port),
            ..DestinationProfile::default()
        }))
    }
}
