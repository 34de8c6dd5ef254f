//! Which listener a redirected connection belongs to.
//!
//! Source: Envoy's `ConnectionHandlerImpl::getBalancedHandlerByAddress`: the listener of the very address, else the one of the port
//! on every address of the same family, else the one that accepted.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::Listener;
use crate::listener::ListenAddress;

/// The listeners by address.
#[derive(Clone, Debug, Default)]
pub(super) struct DispatchIndex {
    by_address: HashMap<ListenAddress, Arc<Listener>, FixedState>,
}

/// The listener a connection was handed to, and why.
#[derive(Clone, Copy, Debug)]
pub struct Dispatched<'a> {
    /// The listener.
    pub listener: &'a Arc<Listener>,
    /// Why this one.
    pub reason: DispatchReason,
}

/// Why a listener was chosen for a redirected connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DispatchReason {
    /// The accepting listener keeps its connections (`use_original_dst` is off).
    NotRedirected,
    /// A listener has the original destination's address and port.
    ExactAddress,
    /// A listener has its port on every address.
    WildcardPort,
    /// No other listener has it: the accepting one keeps it.
    Accepting,
}

impl DispatchIndex {
    /// Another listener that has one of the listener's addresses. Envoy refuses a second listener on an address, and so do
    /// we: which of the two gets a connection must not depend on names.
    pub(super) fn conflict<'a>(
        &'a self,
        listener: &'a Listener,
    ) -> Option<(&'a ListenAddress, &'a Arc<str>)> {
        listener.addresses().find_map(|address| {
            let owner = self.by_address.get(address)?;
            (owner.name != listener.name).then_some((address, &owner.name))
        })
    }

    pub(super) fn insert(&mut self, listener: &Arc<Listener>) {
        for address in listener
            .addresses()
            .filter(|address| **address != ListenAddress::Internal)
        {
            self.by_address.insert(address.clone(), listener.clone());
        }
    }

    pub(super) fn remove(&mut self, listener: &Listener) {
        for address in listener.addresses() {
            self.by_address.remove(address);
        }
    }

    pub(super) fn owner(&self, address: SocketAddr) -> Option<&Arc<Listener>> {
        self.by_address.get(&ListenAddress::Socket(address))
    }

    pub(super) fn dispatch<'a>(
        &'a self,
        accepting: &'a Arc<Listener>,
        destination: SocketAddr,
    ) -> Dispatched<'a> {
        let found = |listener, reason| Dispatched { listener, reason };
        if !accepting.use_original_dst {
            return found(accepting, DispatchReason::NotRedirected);
        }
        let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
        if let Some(listener) = self.owner(destination) {
            return found(listener, DispatchReason::ExactAddress);
        }
        match self.owner(wildcard(destination)) {
            Some(listener) => found(listener, DispatchReason::WildcardPort),
            None => found(accepting, DispatchReason::Accepting),
        }
    }
}

fn wildcard(address: SocketAddr) -> SocketAddr {
    let any = match address.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(any, address.port())
}
