//! TCP connections to another of our own sidecars share connections to it ([`crate::mux`]).

use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use lateen_traffic::Cluster;

use super::{Held, OpenError, Opened};
use crate::cluster::{ClusterState, Host};
use crate::connection::Connection;
use crate::metadata_exchange;
use crate::mux::Carries;
use crate::upstream::h1::ConnectionFacts;
use crate::upstream::pipe::Pipe;
use crate::upstream::target::{self, Wish};
use crate::upstream::{AcquireError, Protocol, Route, Way, way};

/// What Istio's clusters offer to a workload for TCP. Source: Istio 1.30, `ALPNInMeshWithMxc`.
const ISTIO: [&str; 2] = [metadata_exchange::PROTOCOL, "istio"];
/// What is offered instead.
static OFFER: LazyLock<[Arc<str>; 3]> = LazyLock::new(|| {
    let [exchange, istio] = ISTIO.map(Arc::from);
    [Arc::from(Carries::Tcp.alpn()), exchange, istio]
});

/// Shared connections that may be gone, one after the other, as they are asked for a place.
const MOST_GONE: usize = 3;

/// Whether a connection may share one: the host is a workload of the mesh, nothing is configured that counts connections, and nothing is told
/// to the host by a connection of its own.
pub(super) fn may(connection: &Connection, cluster: &Cluster, host: &Host) -> bool {
    let tls = host.transport.tls();
    connection.worker.shared.config.share_connections
        && tls.is_some_and(|tls| tls.common.alpn.iter().map(|p| &**p).eq(ISTIO))
        && metadata_exchange::takes_part(&cluster.filters)
        && cluster.circuit_breakers[0].max_connections == u32::MAX
        && host.transport.proxy_version().is_none()
        && connection.facts.original_source.is_none()
}

/// Opens a connection to a host that may share one; a connection of its own where the host does not.
pub(super) async fn open(
    connection: &Connection,
    state: &Rc<ClusterState>,
    cluster: &Arc<Cluster>,
    host: &Host,
) -> Result<Opened, OpenError> {
    let wish = Wish {
        alpn: Some(&*OFFER),
        authority: None,
        client: None,
        original_source: None,
    };
    let worker = &connection.worker;
    let (target, key) = target::of(worker, &connection.now, state, cluster, host, wish)
        .map_err(|error| OpenError::of(&error))?;
    let route = Route {
        state,
        cluster,
        host: &host.state,
        target: &target,
        key,
        protocol: Protocol::Shared,
        high_priority: false,
    };
    for _ in 0..MOST_GONE {
        let place = match way(&route).await {
            Ok(Way::Shared(place)) => place,
            Ok(Way::Own(stream, open)) => {
                state.stats.upstream_rq_total.inc(); // a connection is what is asked for
                let facts = ConnectionFacts::of(&stream, Some(open));
                return Ok((Pipe::Connection(stream), facts, Held::Nothing));
            }
            Err(AcquireError::Overflow) => return Err(OpenError::Overflow),
            Err(AcquireError::Connect(error)) => return Err(OpenError::of(&error)),
        };
        match place.tunnel(cluster.connect_timeout).await {
            Ok(shared) => {
                state.stats.upstream_rq_total.inc();
                let facts = Rc::clone(place.info());
                return Ok((Pipe::Shared(Box::new(shared)), facts, Held::Nothing));
            }
            // No byte was sent for this connection, so it can go elsewhere.
            Err(error) => {
                tracing::debug!(cluster = %state.name, %error, "shared connection is gone");
            }
        }
    }
    Err(OpenError::Failed {
        timed_out: false,
        reason: Some("shared connections were closed one after the other".to_owned()),
    })
}
