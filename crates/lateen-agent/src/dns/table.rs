//! Names and their addresses, compiled from a name table for one pod's point of view.
//!
//! A Kubernetes service is known by its full name and by the short forms that pods use; names that a resolver's search list has
//! lengthened are answered with a `CNAME` to what was meant, which spares the client the rest of its list.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use lateen_envoy::istio::nds::NameTable;
use lateen_envoy::istio::nds::name_table::NameInfo;

/// Whose names they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The pod's namespace: services in it are known by their bare name.
    pub namespace: String,
    /// The domain of services, `svc.cluster.local`; short forms are made only of names within it.
    pub domain: String,
    /// The search list of the pod's resolver, from `resolv.conf`.
    pub search: Vec<String>,
    /// Domains that only this server knows: what is not found in them does not exist. Empty beside a proxy, where another server
    /// is asked; the cluster's domain for a cluster's own server.
    pub authority: Vec<String>,
}

impl Scope {
    /// The scope of a pod with DNS domain `domain` (`NAMESPACE.svc.cluster.local`).
    pub fn of_pod(namespace: &str, domain: &str, search: Vec<String>) -> Self {
        let own = format!("{namespace}.");
        let domain = domain.strip_prefix(&own).unwrap_or(domain);
        Self {
            namespace: namespace.to_owned(),
            domain: normal(domain),
            search: search.iter().map(|domain| normal(domain)).collect(),
            authority: Vec::new(),
        }
    }
}

/// Addresses of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Addresses {
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

/// What a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// The name that was meant, if a search list had lengthened it.
    pub canonical: Option<&'a str>,
    /// Its IPv4 addresses.
    pub v4: &'a [Ipv4Addr],
    /// Its IPv6 addresses.
    pub v6: &'a [Ipv6Addr],
}

/// The compiled table. Names are lower case without the final dot.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The forms of a name share its addresses.
    names: HashMap<Box<str>, Arc<Addresses>>,
    scope: Scope,
}

impl Table {
    /// Compiles a name table. Entries without a readable address are left out.
    pub fn new(table: &NameTable, scope: Scope) -> Self {
        let mut names: HashMap<Box<str>, Arc<Addresses>> = HashMap::new();
        for (host, info) in &table.table {
            let addresses = addresses(info);
            if addresses == Addresses::default() {
                continue;
            }
            let addresses = Arc::new(addresses);
            for name in forms(&normal(host), info, &scope) {
                names.insert(name.into(), Arc::clone(&addresses));
            }
        }
        names.shrink_to_fit();
        Self { names, scope }
    }

    /// Looks a name up; `name` is lower case without the final dot. `None` means another server has to be asked.
    pub fn find<'a>(&'a self, name: &'a str) -> Option<Found<'a>> {
        if let Some(addresses) = self.exact_or_wildcard(name) {
            return Some(Found {
                canonical: None,
                v4: &addresses.v4,
                v6: &addresses.v6,
            });
        }
        // Clients try their search domains in order, so the first is the one that is met.
        let first = self.scope.search.first()?;
        let meant = name.strip_suffix(first.as_str())?.strip_suffix('.')?;
        if in_domain(meant, first) {
            return None;
        }
        let addresses = self.exact_or_wildcard(meant)?;
        Some(Found {
            canonical: Some(meant),
            v4: &addresses.v4,
            v6: &addresses.v6,
        })
    }

    /// Whether nobody but this server knows names such as `name`.
    pub fn is_authority(&self, name: &str) -> bool {
        self.scope
            .authority
            .iter()
            .any(|domain| in_domain(name, domain))
    }

    /// How many names are known.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether no name is known.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The name itself, else the longest wildcard that covers it.
    fn exact_or_wildcard(&self, name: &str) -> Option<&Addresses> {
        if let Some(found) = self.names.get(name) {
            return Some(found.as_ref());
        }
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(found) = self.names.get(format!("*.{parent}").as_str()) {
                return Some(found.as_ref());
            }
            rest = parent;
        }
        None
    }
}

/// A name as it is compared: lower case, without the final dot.
pub(super) fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn in_domain(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn addresses(info: &NameInfo) -> Addresses {
    let mut addresses = Addresses::default();
    for ip in &info.ips {
        match ip.parse() {
            Ok(IpAddr::V4(ip)) => addresses.v4.push(ip),
            Ok(IpAddr::V6(ip)) => addresses.v6.push(ip),
            Err(_) => {}
        }
    }
    addresses
}

/// The names a host is known by: for a Kubernetes service of our own domain `name`, `name.namespace` and `name.namespace.svc` as
/// well. A service of another cluster's domain has only its full name, since its short ones are ours.
fn forms(host: &str, info: &NameInfo, scope: &Scope) -> Vec<String> {
    let mut forms = vec![host.to_owned()];
    let ours = !scope.domain.is_empty() && in_domain(host, &scope.domain);
    if info.registry != "Kubernetes" || !ours || info.shortname.is_empty() {
        return forms;
    }
    let short = normal(&format!("{}.{}", info.shortname, info.namespace));
    if let Some(first) = scope.domain.split('.').next() {
        forms.push(format!("{short}.{first}"));
    }
    forms.push(short);
    if info.namespace == scope.namespace {
        forms.push(normal(&info.shortname));
    }
    #[expect(deprecated, reason = "old control planes still send them")]
    forms.extend(info.alt_hosts.iter().map(|host| normal(host)));
    forms
}
