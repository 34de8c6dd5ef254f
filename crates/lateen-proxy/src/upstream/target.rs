//! How to connect to a host: address, socket options, and TLS with its names.

use std::net::SocketAddr;
use std::sync::Arc;

use lateen_traffic::Cluster;

use super::connect::{ConnectError, Target};
use crate::cluster::host::TransportKey;
use crate::cluster::{ClusterState, Host, connect_options};
use crate::inspect::proxy_protocol;
use crate::worker::{Now, Worker};

/// What a request or connection asks of the transport.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    /// ALPN protocols in place of the transport socket's.
    pub(crate) alpn: Option<&'a [Arc<str>]>,
    /// The request's host, for `auto_sni`.
    pub(crate) authority: Option<&'a str>,
    /// The client and its destination, for the PROXY protocol; none for what the proxy asks itself.
    pub(crate) client: Option<(SocketAddr, SocketAddr)>,
}

/// How to connect to a host, and what tells such connections apart from others to it.
///
/// # Errors
/// The transport socket cannot be made now.
pub(crate) fn of(
    worker: &Worker,
    now: &Now,
    state: &ClusterState,
    cluster: &Cluster,
    host: &Host,
    wish: Wish<'_>,
) -> Result<(Target, TransportKey), ConnectError> {
    let address = host.state.address.clone();
    let proxied = host.transport.proxy_version();
    let mut target = Target {
        options: connect_options(cluster, &address, worker.shared.config.socket_mark),
        address,
        header: proxied.map(|version| proxy_protocol::write(version, wish.client)),
        tls: None,
        timeout: cluster.connect_timeout,
    };
    let mut key = TransportKey {
        proxied: proxied.and(wish.client),
        ..TransportKey::default()
    };
    let Some(tls) = host.transport.tls() else {
        return Ok((target, key));
    };
    let by_request = tls.auto_host_sni || cluster.http.auto_sni;
    let named = by_request
        .then(|| wish.authority.map(|a| Arc::from(host_of(a))))
        .flatten();
    let server_name = named.or_else(|| tls.sni.clone());
    let client = state
        .client_tls(
            &worker.shared.tls,
            tls,
            wish.alpn,
            server_name.as_ref(),
            now,
        )
        .map_err(|error| ConnectError::Transport(error.to_string().into()))?;
    key.tls = client.id;
    key.server_name.clone_from(&server_name);
    target.tls = Some((client, server_name));
    Ok((target, key))
}

/// The host of an authority, without its port.
fn host_of(authority: &str) -> &str {
    if authority.starts_with('[') {
        return authority.split_inclusive(']').next().unwrap_or(authority);
    }
    authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host)
}
