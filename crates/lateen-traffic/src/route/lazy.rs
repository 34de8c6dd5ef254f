//! Virtual hosts as they came, compiled when a request first finds one.
//!
//! A sidecar of a large mesh is told the routes of every service, ten thousand virtual hosts to a port, of which it uses a handful. All are
//! compiled once when they come, or checked to be like one that compiled, which tells whether they are to be refused; kept are a few bytes
//! of each, out of the message that was received.

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
    /// None yet of so many, of a configuration whose direct responses are bounded.
    pub(crate) fn with_capacity(max_body: u32, hosts: usize) -> Self {
        Self {
            hosts: Vec::with_capacity(hosts),
            max_body,
        }
    }

    /// Whether one of them is to be kept compiled.
    pub(crate) fn keeps(index: usize) -> bool {
        index < FEW
    }

    /// Adds the next one: its message, and what that was compiled to if that is to be kept.
    pub(crate) fn push(&mut self, encoded: Bytes, compiled: Option<Box<VirtualHost>>) {
        self.hosts.push(LazyHost {
            encoded,
            compiled: compiled.map_or_else(OnceLock::new, OnceLock::from),
        });
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
