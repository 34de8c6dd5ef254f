//! How to connect to a host: address, socket options, and TLS with its names.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use lateen_traffic::Cluster;
use lateen_traffic::endpoint::EndpointAddress;
use lateen_traffic::health_check::HealthCheck;
use lateen_traffic::tls::UpstreamTls;
use lateen_traffic::value::Metadata;

use super::connect::{ConnectError, Target};
use crate::cluster::host::TransportKey;
use crate::cluster::{ClusterState, Host, connect_options};
use crate::health::Subject;
use crate::inspect::proxy_protocol;
use crate::metadata_exchange;
use crate::net::HostAddress;
use crate::net::socket::OriginalSource;
use crate::shared::{Live, Shared};
use crate::tls::NameRule;
use crate::worker::{Now, Worker};

/// What a request or connection asks of the transport.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    /// ALPN protocols in place of the transport socket's.
    pub(crate) alpn: Option<&'a [Arc<str>]>,
    /// The request's host, for `auto_sni` and `auto_san_validation`.
    pub(crate) authority: Option<&'a str>,
    /// The client and its destination, for the PROXY protocol; none for what the proxy asks itself.
    pub(crate) client: Option<(SocketAddr, SocketAddr)>,
    /// In whose name to connect, if not the proxy's own.
    pub(crate) original_source: Option<OriginalSource>,
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
        introduction: None,
        timeout: cluster.connect_timeout,
    };
    target.options.original_source = wish.original_source;
    let mut key = TransportKey {
        proxied: proxied.and(wish.client),
        original_source: wish.original_source,
        ..TransportKey::default()
    };
    let Some(tls) = host.transport.tls() else {
        return Ok((target, key));
    };
    let names = Names::of(cluster, tls, &host.endpoint.hostname, wish.authority);
    let exchange = metadata_exchange::takes_part(&cluster.filters);
    target.introduction = exchange.then(|| Rc::clone(&worker.introduction));
    let client = state
        .client_tls(
            &worker.shared.tls,
            tls,
            wish.alpn,
            &names.rule,
            exchange,
            now,
        )
        .map_err(|error| ConnectError::Transport(error.to_string().into()))?;
    key.tls = client.id;
    key.server_name.clone_from(&names.asked);
    target.tls = Some((client, names.asked));
    Ok((target, key))
}

/// How to connect to a host to find out how it is. Needs no worker: checks run beside them.
///
/// # Errors
/// The host has no address, or the transport socket cannot be made now.
pub(crate) fn of_health_check(
    shared: &Shared,
    live: &Live,
    subject: &Subject,
    check: &HealthCheck,
) -> Result<Target, ConnectError> {
    let endpoint = &*subject.endpoint;
    let address = endpoint.health_check.address_of(&endpoint.address);
    let metadata = check.transport_match.as_ref();
    beside_workers(shared, live, subject, &address, metadata, &check.alpn)
}

/// How to connect to a server of the proxy's own, over HTTP/2. Needs no worker.
///
/// # Errors
/// As for [`of_health_check`].
pub(crate) fn of_server(
    shared: &Shared,
    live: &Live,
    subject: &Subject,
) -> Result<Target, ConnectError> {
    // A sidecar beside the server takes the first, other servers the second.
    let alpn = ["istio-h2".into(), "h2".into()];
    beside_workers(
        shared,
        live,
        subject,
        &subject.endpoint.address,
        None,
        &alpn,
    )
}

fn beside_workers(
    shared: &Shared,
    live: &Live,
    subject: &Subject,
    address: &EndpointAddress,
    metadata: Option<&Metadata>,
    alpn: &[Arc<str>],
) -> Result<Target, ConnectError> {
    let (cluster, endpoint) = (&*subject.cluster, &*subject.endpoint);
    let address = HostAddress::of(address)
        .ok_or_else(|| ConnectError::Transport("the host has no address".into()))?;
    let none = Metadata::default();
    let (of_host, of_locality) = match metadata {
        Some(wanted) => (wanted, &none),
        None => (&endpoint.metadata, &subject.locality),
    };
    let transport = cluster.transport_for(of_host, of_locality).0;
    let mut target = Target {
        options: connect_options(cluster, &address, shared.config.socket_mark),
        address,
        header: transport
            .proxy_version()
            .map(|version| proxy_protocol::write(version, None)),
        tls: None,
        introduction: None,
        timeout: cluster.connect_timeout,
    };
    if let Some(tls) = transport.tls() {
        let names = Names::of(cluster, tls, &endpoint.hostname, None);
        let alpn = Some(alpn).filter(|list| !list.is_empty());
        let client = shared
            .tls
            .client(tls, alpn, &names.rule, false, &live.secrets);
        let client = client.map_err(|error| ConnectError::Transport(error.to_string().into()))?;
        target.tls = Some((client, names.asked));
    }
    Ok(target)
}

/// The name a connection is made under, and the one the server's certificate has to carry.
#[derive(Debug, PartialEq, Eq)]
struct Names {
    asked: Option<Arc<str>>,
    rule: NameRule,
}

impl Names {
    /// Source: Envoy's router (`auto_sni`, `auto_san_validation` by the request's host) and its client TLS context (the host's own name
    /// before the configured one).
    fn of(
        cluster: &Cluster,
        tls: &UpstreamTls,
        hostname: &Arc<str>,
        authority: Option<&str>,
    ) -> Self {
        let wants_host = cluster.http.auto_sni || cluster.http.auto_san_validation;
        let host: Option<Arc<str>> = authority.filter(|_| wants_host).map(|a| host_of(a).into());
        let configured = Some(hostname)
            .filter(|name| tls.auto_host_sni && !name.is_empty())
            .or(tls.sni.as_ref());
        let is_address = |name: &str| name.parse::<IpAddr>().is_ok();
        let sent = host
            .as_ref()
            .filter(|host| cluster.http.auto_sni && !is_address(host))
            .or(configured);
        let wanted = match &host {
            Some(host) if cluster.http.auto_san_validation => Some(host),
            _ => sent.filter(|_| tls.auto_sni_san_validation),
        };
        match (sent, wanted) {
            (sent, Some(wanted)) if sent.is_none_or(|sent| sent == wanted) => Self {
                asked: Some(Arc::clone(wanted)),
                rule: NameRule::Asked,
            },
            (sent, Some(wanted)) => Self {
                asked: sent.cloned(),
                rule: NameRule::Fixed(Arc::clone(wanted)),
            },
            // Verification against a name was asked for, and there is none: the connection will be refused.
            (None, None) if tls.auto_sni_san_validation => Self {
                asked: None,
                rule: NameRule::Asked,
            },
            (sent, None) => Self {
                asked: sent.cloned(),
                rule: NameRule::None,
            },
        }
    }
}

/// The host of an authority, without its port.
fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host)
}
