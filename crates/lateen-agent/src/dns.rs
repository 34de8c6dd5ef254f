//! A DNS server that answers the mesh's names from a name table and passes everything else on.
//!
//! Beside a proxy it stands on 15053, where redirection sends the workload's queries; on its own it is a cluster's DNS server for
//! workloads without a sidecar. The name table comes from the control plane over xDS ([`crate::subscription`]). It is no recursive resolver and
//! keeps no cache.
//!
//! Source of the behaviour: `pkg/dns/client/dns.go`, Istio 1.30.

mod query;
pub mod resolv;
mod server;
mod table;
mod upstream;

pub use query::{Answered, Protocol, answer};
pub use server::{DnsCounters, DnsError, DnsServer};
pub use table::{Found, Scope, Table};
pub use upstream::{Upstream, UpstreamOptions, response_code};

#[cfg(test)]
mod tests;
