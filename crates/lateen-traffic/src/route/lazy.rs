//! Virtual hosts as they came, compiled when a request first finds one.
//!
//! A sidecar of a large mesh is told the routes of every service, ten thousand virtual hosts to a port, of which it uses a handful. All are
//! compiled once when they come, which tells whether they are to be refused; kept are a few bytes of each, out of the message that was
//! received.

use std::sync::OnceLock;

use bytes::Bytes;

use super::VirtualHost;
use crate::from_xds;

/// Virtual hosts of a configuration up to which all are kept compiled.
const FEW: usize = 8;

/// A virtual host that is known to compile.
#[derive(Clone, Debug)]
pub struct LazyHost {
    encoded: Bytes,
    compiled: OnceLock<Box<VirtualHost>>,
}

/// The virtual hosts of a route configuration, as sent.
#[derive(Clone, Debug, Default)]
pub struct VirtualHosts {
    hosts: Vec<LazyHost>,
    /// Bytes of a direct response, at most.
    max_body: u32,
}

impl VirtualHosts {
    /// None yet, of a configuration whose direct responses are bounded.
    pub(crate) fn new(max_body: u32) -> Self {
        Self {
            hosts: Vec::new(),
            max_body,
        }
    }

    /// Adds the next one: its message, and what that was compiled to.
    pub(crate) fn push(&mut self, encoded: Bytes, compiled: VirtualHost) {
        let host = LazyHost {
            encoded,
            compiled: OnceLock::new(),
        };
        if self.hosts.len() < FEW {
            host.compiled.get_or_init(|| Box::new(compiled));
        }
        self.hosts.push(host);
    }

    /// One of them.
    ///
    /// # Panics
    /// There are not as many.
    pub fn at(&self, index: usize) -> &VirtualHost {
        let host = &self.hosts[index];
        host.compiled
            .get_or_init(|| Box::new(from_xds::virtual_host(&host.encoded, self.max_body)))
    }

    /// All of them, as sent. They stay compiled: this is for explanations, not for proxies.
    pub fn iter(&self) -> impl Iterator<Item = &VirtualHost> {
        (0..self.hosts.len()).map(|index| self.at(index))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// How many are compiled.
    pub fn compiled(&self) -> usize {
        let is_compiled = |host: &&LazyHost| host.compiled.get().is_some();
        self.hosts.iter().filter(is_compiled).count()
    }
}
