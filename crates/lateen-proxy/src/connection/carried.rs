//! TCP connections of another of our own sidecars that come on one they share ([`crate::mux`]).
//!
//! Each is a connection like any other: it meets the filter chain and the network filters as they are when it comes, is counted, logged and
//! revoked by itself. What it has of the shared one is the client's address, the TLS session with who the client is, and how the client
//! introduced itself.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use lateen_traffic::filter::NetworkFilterKind;
use lateen_traffic::listener::FilterChain;
use tokio::sync::Notify;

use super::network::Pass;
use super::{
    Connection, Counted, Facts, filters, hold_back, is_same_tls, matching_chain, note_refusal,
};
use crate::doze::until;
use crate::http::headers::Told;
use crate::metadata_exchange;
use crate::mux::link::{Begun, Link, Side};
use crate::mux::{Carries, Tunnel};
use crate::net::Stream;
use crate::panic::isolated;
use crate::rate_limit::RateLimits;
use crate::streams::serving::{self, Ends, Serving as _, spawn};
use crate::tcp;

/// What can be carried on a shared connection to a chain: requests, or TCP connections of workloads that introduce themselves.
pub(super) fn shared_by(chain: &FilterChain) -> Option<Carries> {
    let exchange = metadata_exchange::takes_part(&chain.filters);
    chain.filters.iter().find_map(|filter| match filter.kind {
        NetworkFilterKind::Http(_) => Some(Carries::Http),
        NetworkFilterKind::Tcp(_) => exchange.then_some(Carries::Tcp),
        _ => None,
    })
}

/// Serves a shared connection to its end.
pub(super) async fn serve(shared: Rc<Connection>, stream: Stream) {
    let link = Link::new(Side::Server, Carries::Tcp);
    let first = Notify::new();
    let begun = |begun: Begun| {
        first.notify_one();
        let (shared, link) = (Rc::clone(&shared), Rc::clone(&link));
        // Not ended with its stream: how a connection ended is told by who proxies it.
        spawn(|| async move {
            let (kill, remote) = (shared.handle.kill.clone(), shared.facts.remote);
            // Boxed, since a future that is passed on is kept twice.
            let served = isolated(remote, Box::pin(one(shared, link, begun)));
            until(kill.cancelled(), pin!(served)).await;
        });
    };
    let ends = Ends {
        // A stream costs no more than the connection that it stands for.
        abused: std::future::pending(),
        ending: async {
            shared.handle.drain.cancelled().await;
            // One that was made in the drain, by a client that found nobody else, carries something before it ends.
            first.notified().await;
        },
        lost: std::future::pending(),
    };
    let ended = serving::serve((&link, stream), begun, ends).await;
    tracing::debug!(connection = shared.facts.id, %ended, "shared connection ended");
}

async fn one(shared: Rc<Connection>, link: Rc<Link>, begun: Begun) {
    let Begun {
        incoming, outgoing, ..
    } = begun;
    let Some(connection) = shared.carried() else {
        // The listener is another one by now. The client makes a connection to that.
        link.go_away();
        outgoing.refuse();
        return;
    };
    drop((shared, link));
    let Some(_admitted) = connection.worker.admit() else {
        connection.handle.stats.downstream_cx_overflow.inc();
        return; // dropping the stream gives it up
    };
    let _counted = Counted::begin(&connection.handle);
    let connection = Rc::new(connection);
    let terminal = match Box::pin(filters::pass(&connection, Pass::Enter)).await {
        Ok(terminal) => terminal.cloned(),
        Err(refused) => {
            note_refusal(&connection.handle, connection.facts.remote, &refused);
            return hold_back(&refused).await;
        }
    };
    if let Some(NetworkFilterKind::Tcp(proxy)) = terminal {
        outgoing.accept();
        let ready = tcp::Ready::new(connection, proxy);
        tcp::run(ready, Tunnel::new(incoming, outgoing)).await;
    }
}

impl Connection {
    /// A connection that this one carries, under the configuration as it is now; `None` if that would not take this one any more.
    fn carried(&self) -> Option<Self> {
        let now = self.worker.now();
        let listener = now.program.listener(&self.facts.listener)?;
        let chain = matching_chain(listener, &self.facts)?;
        if shared_by(&chain) != Some(Carries::Tcp) || !is_same_tls(&chain, &self.chain) {
            return None;
        }
        let facts = Facts {
            id: self.worker.shared.connection_id(),
            chain: Arc::clone(&chain.name),
            ..self.facts.clone()
        };
        Some(Self {
            worker: Rc::clone(&self.worker),
            handle: Rc::clone(&self.handle),
            direction: listener.direction,
            peer: self.peer.clone(),
            alpn: self.alpn.clone(),
            draining: Cell::new(false),
            filter_state: RefCell::default(),
            told: Told::default(),
            rate_limits: RateLimits::default(),
            places: RefCell::default(),
            introduced: RefCell::default(),
            introduction: self.introduction.clone(),
            facts,
            chain,
            now: Rc::clone(&now),
            ..*self
        })
    }
}
