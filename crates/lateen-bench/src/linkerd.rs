//! linkerd2-proxy in place of a sidecar: the role `linkerd-control`, a control plane for it, and the environment it is started with.
//!
//! `lateen-bench linkerd-control --listen ADDR --server IP --root-cert FILE --root-key FILE`, one beside each proxy. It knows one service
//! with one meshed endpoint and says of it what Linkerd's own control plane says by default of two injected pods of a cluster: HTTP
//! detected, HTTP/1 upgraded to HTTP/2 between the proxies, and the transport header on every connection of theirs. It differs in
//! that mTLS is required, as by `defaultInboundPolicy: all-authenticated`, that the TCP port is marked opaque, and that the root itself
//! signs the proxies' certificates.

mod destination;
mod environment;
mod identity;
mod policy;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;

use anyhow::{Context, Result};
use linkerd2_proxy_api::destination::destination_server::DestinationServer;
use linkerd2_proxy_api::identity::identity_server::IdentityServer;
use linkerd2_proxy_api::inbound::inbound_server_policies_server::InboundServerPoliciesServer;
use linkerd2_proxy_api::meta::{Metadata, Resource, metadata};
use linkerd2_proxy_api::outbound::outbound_policies_server::OutboundPoliciesServer;
use tokio_stream::{Stream, StreamExt};
use tonic::{Response, Status};

use self::destination::Endpoints;
use self::identity::Issuer;
use self::policy::{Inbound, Outbound};
use crate::options::text;
use crate::process;

pub(crate) use self::environment::environment;
pub(crate) use self::identity::{Root, write_root};

/// Where an outbound proxy listens, on its pod's loopback.
pub(crate) const OUTBOUND: u16 = 4140;
/// Where an inbound proxy listens.
pub(crate) const INBOUND: u16 = 4143;
/// Where a proxy tells its metrics, and on `/ready` whether it has a certificate.
pub(crate) const ADMIN: u16 = 4191;

/// The service's ports; HTTP is told from the rest by what a client sends first.
const PORTS: [u16; 3] = [8081, 8082, OPAQUE];
/// The port marked opaque. linkerd2-proxy takes what could be the beginning of an HTTP/1 request for one and waits for the rest, so
/// users have to mark such ports too.
const OPAQUE: u16 = 8083;
/// The service's name; its pod, deployment and service account have the first part of it.
const HOST: &str = "server.default.svc.cluster.local";

/// Which end of the path a proxy is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Beside the load generator.
    Client,
    /// Beside the origin.
    Server,
}

impl Side {
    /// The name of its pod and service account.
    const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    /// What its certificate says.
    pub(crate) fn identity(self) -> String {
        let account = self.name();
        format!("{account}.default.serviceaccount.identity.linkerd.cluster.local")
    }
}

/// The role `linkerd-control`: serves until it is killed.
///
/// # Errors
/// An argument is missing, the root cannot be read, or the port is taken.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    process::join_load()?;
    let argument =
        |name: &str| text(arguments, name).with_context(|| format!("--{name} is missing"));
    let read = |name: &str| -> Result<String> {
        let path = argument(name)?;
        fs::read_to_string(path).with_context(|| format!("reading {path}"))
    };
    let listen: SocketAddr = argument("listen")?.parse().context("--listen")?;
    let server: Ipv4Addr = argument("server")?.parse().context("--server")?;
    let issuer = Issuer::new(&read("root-cert")?, &read("root-key")?)?;
    let serving = tonic::transport::Server::builder()
        .add_service(IdentityServer::new(issuer))
        .add_service(DestinationServer::new(Endpoints::new(server)))
        .add_service(InboundServerPoliciesServer::new(Inbound))
        .add_service(OutboundPoliciesServer::new(Outbound))
        .serve(listen);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime
        .block_on(serving)
        .with_context(|| format!("serving on {listen}"))
}

/// Answers that come as something changes.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// An answer that holds for as long as the proxy listens.
fn lasting<T: Send + 'static>(answer: T) -> Response<Answers<T>> {
    let answers = tokio_stream::once(Ok(answer)).chain(tokio_stream::pending());
    Response::new(Box::pin(answers))
}

/// What the proxy labels metrics with that come of a default.
fn by_default(name: &str) -> Option<Metadata> {
    let kind = Some(metadata::Kind::Default(name.to_owned()));
    Some(Metadata { kind })
}

/// What it labels those of the service with.
fn of_service(port: u16) -> Option<Metadata> {
    let resource = Resource {
        group: "core".to_owned(),
        kind: "Service".to_owned(),
        name: Side::Server.name().to_owned(),
        namespace: "default".to_owned(),
        section: String::new(),
        port: port.into(),
    };
    let kind = Some(metadata::Kind::Resource(resource));
    Some(Metadata { kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_gets_a_certificate_of_its_own_identity_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let root = write_root(dir.path()).unwrap();
        let pod = Ipv4Addr::new(10, 244, 0, 2);
        let control = SocketAddr::from(([127, 0, 0, 1], 8086));
        let variables = environment(Side::Client, pod, control, &root, dir.path()).unwrap();
        let value = |name: &str| {
            let found = variables.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.as_str()).unwrap_or_default()
        };
        let name = value("LINKERD2_PROXY_IDENTITY_LOCAL_NAME");
        let path = value("LINKERD2_PROXY_IDENTITY_DIR");
        let request = fs::read(std::path::Path::new(path).join("csr.der")).unwrap();
        let read = |path| fs::read_to_string(path).unwrap();
        let issuer = Issuer::new(&read(&root.cert), &read(&root.key)).unwrap();
        assert!(issuer.sign(name, request.clone()).is_ok());
        assert!(issuer.sign(&Side::Server.identity(), request).is_err());
    }
}
