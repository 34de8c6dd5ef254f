//! TCP inside HTTP: the connection's bytes go through a CONNECT (or POST) request to the upstream.
//!
//! The request goes through the cluster's pools like any other: over HTTP/2 many tunnels share a connection. Source: Envoy's
//! `TcpProxy.TunnelingConfig`; RFC 9110 section 9.3.6, RFC 9113 section 8.5.

use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use lateen_traffic::format::RequestValues;
use lateen_traffic::tcp::Tunneling;
use lateen_traffic::value::Metadata;
use lateen_traffic::{Cluster, RequestView};

use crate::cluster::breaker::{Permit, Resource};
use crate::cluster::{ClusterState, Host};
use crate::connection::Connection;
use crate::http::body::{RequestBody, pipe};
use crate::http::head::{Head, Verbatim};
use crate::http::present::Present;
use crate::upstream::connect::ConnectError;
use crate::upstream::h1::ConnectionFacts;
use crate::upstream::pipe::{Bodies, Pipe};
use crate::upstream::target::{self, Wish};
use crate::upstream::{
    AcquireError, Lease, Protocol, Route, Upgraded, UpstreamBody, UpstreamError, acquire,
};

/// A tunnel, with what it holds for as long as it is open.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) pipe: Pipe,
    pub(super) facts: Rc<ConnectionFacts>,
    pub(super) held: Held,
}

/// A tunnel's place on its HTTP connection and among the cluster's requests.
#[derive(Debug)]
pub(super) struct Held {
    _lease: Lease,
    _permit: Permit,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub(super) enum TunnelError {
    /// The circuit breaker has no place left.
    #[error("circuit breaker is open")]
    Overflow,
    /// The host cannot be reached.
    #[error("cannot connect")]
    Connect(#[source] ConnectError),
    /// The host name, or a header, that the configuration makes is none.
    #[error("`{0}` is not a host")]
    Hostname(String),
    /// The host broke the request off.
    #[error("broken off by the host")]
    Broken(#[source] UpstreamError),
    /// The host does not make the tunnel.
    #[error("tunnel refused with status {0}")]
    Refused(StatusCode),
}

/// Opens a tunnel through a host.
///
/// # Errors
/// The host cannot be reached, or does not want to.
pub(super) async fn open(
    connection: &Connection,
    tunneling: &Tunneling,
    state: &Rc<ClusterState>,
    cluster: &Arc<Cluster>,
    host: &Host,
) -> Result<Tunnel, TunnelError> {
    let permit = state
        .permit(cluster, false, Resource::Requests)
        .ok_or(TunnelError::Overflow)?;
    let head = head(connection, tunneling, &cluster.name);
    let wish = Wish {
        alpn: None,
        authority: Some(&head.authority),
        client: Some(connection.facts.ends()),
        original_source: connection.facts.original_source,
    };
    let worker = &connection.worker;
    let (target, key) = target::of(worker, &connection.now, state, cluster, host, wish)
        .map_err(TunnelError::Connect)?;
    let route = Route {
        state,
        cluster,
        host: &host.state,
        target: &target,
        key,
        protocol: Protocol::of(cluster.http.protocol, false),
        high_priority: false,
    };
    let mut lease = acquire(&route).await.map_err(|error| match error {
        AcquireError::Overflow => TunnelError::Overflow,
        AcquireError::Connect(error) => TunnelError::Connect(error),
    })?;
    state.stats.upstream_rq_total.inc();
    let facts = lease.info();
    let pipe = match tunneling.use_post {
        true => post(&head, &mut lease).await?,
        false => connect(&head, &mut lease).await?,
    };
    Ok(Tunnel {
        facts: facts.unwrap_or_else(ConnectionFacts::unknown),
        pipe,
        held: Held {
            _lease: lease,
            _permit: permit,
        },
    })
}

async fn connect(head: &Head, lease: &mut Lease) -> Result<Pipe, TunnelError> {
    let mut response = send(head, RequestBody::Empty, lease).await?;
    let refused = TunnelError::Refused(response.status());
    match lease.upgraded(&mut response) {
        Some(Upgraded::Stream(stream)) => Ok(Pipe::Connection(*stream)),
        Some(Upgraded::H2(tunnel)) => Ok(Pipe::Tunnel(tunnel)),
        None => Err(refused),
    }
}

async fn post(head: &Head, lease: &mut Lease) -> Result<Pipe, TunnelError> {
    let (writer, reader) = pipe();
    let response = send(head, RequestBody::Piped(reader), lease).await?;
    let bodies = Bodies::new(writer, response.into_body());
    Ok(Pipe::Bodies(Box::new(bodies)))
}

/// Sends the request; an answer other than a success refuses the tunnel.
async fn send(
    head: &Head,
    body: RequestBody,
    lease: &mut Lease,
) -> Result<Response<UpstreamBody>, TunnelError> {
    let bad = || TunnelError::Hostname(head.authority.clone());
    let request = request(head, body, lease.is_h2()).ok_or_else(bad)?;
    let sent = lease.send(request).await;
    let response = sent.map_err(|failed| TunnelError::Broken(failed.error))?;
    if response.status().is_success() {
        return Ok(response);
    }
    Err(TunnelError::Refused(response.status()))
}

fn request(head: &Head, body: RequestBody, h2: bool) -> Option<Request<RequestBody>> {
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri(h2)?;
    let mut headers = head.headers.clone();
    if h2 {
        *request.version_mut() = Version::HTTP_2;
    } else {
        let host = HeaderValue::from_str(&head.authority).ok()?;
        headers.insert(header::HOST, host);
    }
    *request.headers_mut() = headers;
    Some(request)
}

/// The head, with what the configuration takes from the client's connection.
fn head(connection: &Connection, tunneling: &Tunneling, cluster: &str) -> Head {
    let facts = &connection.facts;
    let (info, peer) = (facts.info(), connection.peer_tls());
    let (none, metadata) = (HeaderMap::new(), Metadata::default());
    let state = connection.filter_state.borrow();
    let method = match tunneling.use_post {
        true => Method::POST,
        false => Method::CONNECT,
    };
    let view = RequestView {
        method: method.as_str(),
        scheme: "http",
        authority: "",
        path: "",
        protocol: None,
        headers: &none,
        client: facts.remote,
        connection: &info,
        peer: &peer,
        dynamic_metadata: &metadata,
        filter_state: &state,
    };
    let values = RequestValues {
        request: &view,
        protocol: "",
        route_name: "",
        cluster,
    };
    let mut headers = HeaderMap::new();
    tunneling.headers.apply(&mut headers, &values);
    Head {
        authority: tunneling.hostname.render(&values).into_owned(),
        path: match tunneling.use_post {
            true => tunneling.post_path.to_string(),
            false => String::new(),
        },
        scheme: if connection.secure { "https" } else { "http" },
        method,
        protocol: None,
        version: Version::HTTP_11,
        headers,
        present: Present::default(),
        verbatim: Verbatim::default(),
        extensions: http::Extensions::default(),
    }
}
