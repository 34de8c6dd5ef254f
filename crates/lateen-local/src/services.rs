//! The node's service proxy: virtual addresses to ready endpoints, as nftables rules in the node's namespace.
//!
//! It serves traffic that no sidecar has routed: of plain pods, of the node, and what a sidecar passes through. As in
//! kube-proxy, an endpoint is chosen at random for each connection, a service without endpoints refuses, and a pod that
//! reaches itself through a service is masqueraded. Established flows keep their endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::netlink::{Message, NetlinkError, Socket, nft};
use crate::redirect::{PacketFilter, RedirectError};
use crate::rules::{Action, Chain, Family, Hook, Is, Match, Reject, Rule, Table};

#[cfg(test)]
mod tests;

const TABLE: &str = "lateen-services";
const REFUSE: &str = "refuse";
/// A transaction is sent as one datagram, which a socket's buffer (208 KiB by default) has to hold.
const MAX_TRANSACTION: usize = 400;

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// One port of a service with the endpoints that are ready now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceVip {
    /// Its virtual addresses.
    pub ips: Vec<IpAddr>,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where connections go, each with the same probability; none: they are refused.
    pub endpoints: Vec<SocketAddr>,
}

type Key = (SocketAddr, Protocol);

/// The rules as they are set. Each service changes in one transaction, and only if it has changed.
#[derive(Debug, Default)]
pub struct ServiceProxy {
    netfilter: Option<Socket>,
    applied: BTreeMap<Key, Vec<SocketAddr>>,
    /// Endpoint addresses in the masquerading sets.
    own: BTreeSet<IpAddr>,
    /// By what rules are set.
    by: PacketFilter,
    /// Netlink is not to be used, or cannot be: everything is rewritten with the tools.
    tools: bool,
}

impl ServiceProxy {
    /// A proxy that has set nothing yet, for the network namespace of the first [`Self::apply`].
    pub fn new(by: PacketFilter) -> Self {
        Self {
            by,
            tools: !by.over_netlink(),
            ..Self::default()
        }
    }

    /// Makes the rules those of `services`.
    ///
    /// # Errors
    /// When rules cannot be set at all, or one transaction is refused even where nothing was set; what was applied until then stays.
    pub fn apply(&mut self, services: &[ServiceVip]) -> Result<(), RedirectError> {
        let wanted = wanted(services);
        if self.tools {
            return self.apply_with_tools(wanted, None);
        }
        match self.apply_over_netlink(&wanted) {
            Ok(()) => Ok(()),
            Err(error) if self.applied.is_empty() && self.by.by_tools() => {
                self.apply_with_tools(wanted, Some(error))
            }
            Err(source) if self.applied.is_empty() => Err(RedirectError::Services(source)),
            Err(error) => {
                tracing::warn!(%error, "somebody changed the rules of services; all are set anew");
                self.forget();
                let again = self.apply_over_netlink(&wanted);
                again.map_err(RedirectError::Services)
            }
        }
    }

    /// Whatever is set, the next rules replace it.
    fn forget(&mut self) {
        self.netfilter = None;
        self.applied.clear();
        self.own.clear();
    }

    fn apply_over_netlink(
        &mut self,
        wanted: &BTreeMap<Key, Vec<SocketAddr>>,
    ) -> Result<(), NetlinkError> {
        if self.netfilter.is_none() {
            let mut socket = Socket::netfilter()?;
            socket.transaction(base_messages())?;
            self.netfilter = Some(socket);
        }
        let Some(netfilter) = &mut self.netfilter else {
            return Ok(());
        };
        let own: BTreeSet<IpAddr> = wanted.values().flatten().map(SocketAddr::ip).collect();
        netfilter.transaction(pair_messages(&self.own, &own))?;
        self.own = own;
        let keys: BTreeSet<Key> = self.applied.keys().chain(wanted.keys()).copied().collect();
        let mut pending = Pending::default();
        for key in keys {
            let (old, new) = (self.applied.get(&key), wanted.get(&key));
            if old != new {
                pending.add(key, change(key, old, new), new.cloned());
            }
            if pending.messages.len() >= MAX_TRANSACTION {
                pending.commit(netfilter, &mut self.applied)?;
            }
        }
        pending.commit(netfilter, &mut self.applied)
    }

    fn apply_with_tools(
        &mut self,
        wanted: BTreeMap<Key, Vec<SocketAddr>>,
        netlink: Option<NetlinkError>,
    ) -> Result<(), RedirectError> {
        let set_before = self.tools && !self.applied.is_empty();
        if set_before && self.applied == wanted {
            return Ok(());
        }
        self.by.restore(&plain_table(&wanted), netlink)?;
        self.tools = true;
        self.applied = wanted;
        Ok(())
    }
}

/// Changes that go into one transaction.
#[derive(Default)]
struct Pending {
    messages: Vec<Message>,
    changes: Vec<(Key, Option<Vec<SocketAddr>>)>,
}

impl Pending {
    fn add(&mut self, key: Key, messages: Vec<Message>, now: Option<Vec<SocketAddr>>) {
        self.messages.extend(messages);
        self.changes.push((key, now));
    }

    fn commit(
        &mut self,
        netfilter: &mut Socket,
        applied: &mut BTreeMap<Key, Vec<SocketAddr>>,
    ) -> Result<(), NetlinkError> {
        netfilter.transaction(std::mem::take(&mut self.messages))?;
        for (key, now) in self.changes.drain(..) {
            match now {
                Some(endpoints) => applied.insert(key, endpoints),
                None => applied.remove(&key),
            };
        }
        Ok(())
    }
}

/// Endpoints by address and port; an endpoint serves addresses of its own family.
fn wanted(services: &[ServiceVip]) -> BTreeMap<Key, Vec<SocketAddr>> {
    let mut wanted = BTreeMap::new();
    for service in services {
        for ip in &service.ips {
            let same_family = |to: &&SocketAddr| to.is_ipv4() == ip.is_ipv4();
            let mut endpoints: Vec<SocketAddr> = service
                .endpoints
                .iter()
                .filter(same_family)
                .copied()
                .collect();
            endpoints.sort_unstable();
            endpoints.dedup();
            wanted.insert(
                (SocketAddr::new(*ip, service.port), service.protocol),
                endpoints,
            );
        }
    }
    wanted
}

/// The maps and sets of a family: services, services without endpoints, pairs to masquerade.
fn names(family: Family) -> (&'static str, &'static str, &'static str) {
    match family {
        Family::V4 => ("services4", "refused4", "own4"),
        Family::V6 => ("services6", "refused6", "own6"),
    }
}

fn base_messages() -> Vec<Message> {
    let mut messages = vec![
        nft::add_table(TABLE),
        nft::delete_table(TABLE),
        nft::add_table(TABLE),
    ];
    for family in [Family::V4, Family::V6] {
        let (services, refused, own) = names(family);
        messages.push(nft::add_dispatch_map(TABLE, services, family));
        messages.push(nft::add_dispatch_map(TABLE, refused, family));
        messages.push(nft::add_pair_set(TABLE, own, family));
    }
    for chain in base_chains() {
        messages.push(nft::add_chain(TABLE, &chain));
        messages.extend(
            chain
                .rules
                .iter()
                .map(|rule| nft::add_rule(TABLE, &chain.name, rule)),
        );
    }
    messages
}

fn base_chains() -> Vec<Chain> {
    let both = |rule: fn(Family) -> Action| {
        [Family::V4, Family::V6]
            .map(|family| Rule::new([], rule(family)))
            .to_vec()
    };
    let dispatch = || both(|family| Action::Dispatch(names(family).0, family));
    let refuse = || both(|family| Action::Dispatch(names(family).1, family));
    let mut forward = refuse();
    forward.push(unknown());
    let own = both(|family| Action::MasqueradePairs(names(family).2, family));
    let hook = |name: &str, hook, rules| Chain {
        name: name.to_owned(),
        hook: Some(hook),
        rules,
    };
    vec![
        Chain {
            name: REFUSE.to_owned(),
            hook: None,
            rules: refuse_rules(),
        },
        hook("prerouting", Hook::NatPrerouting, dispatch()),
        hook("output", Hook::NatOutput, dispatch()),
        hook("postrouting", Hook::NatPostrouting, own),
        hook("forward", Hook::FilterForward, forward),
        hook("local", Hook::FilterOutput, refuse()),
    ]
}

/// What would leave through `lo` has no place to go to: the node's default route only serves services.
fn unknown() -> Rule {
    Rule::new([Match::ToLoopback], Action::Reject(Reject::NoRoute))
}

fn refuse_rules() -> Vec<Rule> {
    vec![
        Rule::new([Match::Tcp], Action::Reject(Reject::Reset)),
        Rule::new([Match::Udp], Action::Reject(Reject::Port)),
    ]
}

fn pair_messages(old: &BTreeSet<IpAddr>, new: &BTreeSet<IpAddr>) -> Vec<Message> {
    let set = |ip: &IpAddr| names(Family::of(*ip)).2;
    let removed = old.difference(new);
    let mut messages: Vec<Message> = removed
        .map(|ip| nft::delete_element(TABLE, set(ip), &nft::pair_key(*ip)))
        .collect();
    let added = new.difference(old);
    messages.extend(added.map(|ip| nft::add_element(TABLE, set(ip), &nft::pair_key(*ip), None)));
    messages
}

/// From one state of a service to the next.
fn change(key: Key, old: Option<&Vec<SocketAddr>>, new: Option<&Vec<SocketAddr>>) -> Vec<Message> {
    let (services, refused, _) = names(Family::of(key.0.ip()));
    let protocol = match key.1 {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    let element = nft::dispatch_key(key.0, protocol);
    let chain = Chain {
        name: chain_name(&key),
        hook: None,
        rules: Vec::new(),
    };
    let had_chain = old.is_some_and(|endpoints| !endpoints.is_empty());
    let mut messages = Vec::new();
    if had_chain {
        messages.push(nft::flush_chain(TABLE, &chain.name));
    } else if old.is_some() {
        messages.push(nft::delete_element(TABLE, refused, &element));
    }
    let endpoints = new.filter(|endpoints| !endpoints.is_empty());
    if let Some(endpoints) = endpoints {
        if !had_chain {
            messages.push(nft::add_chain(TABLE, &chain));
        }
        let rules = balance(key.1, endpoints);
        messages.extend(
            rules
                .iter()
                .map(|rule| nft::add_rule(TABLE, &chain.name, rule)),
        );
        if !had_chain {
            messages.push(nft::add_element(
                TABLE,
                services,
                &element,
                Some(&chain.name),
            ));
        }
        return messages;
    }
    if had_chain {
        messages.push(nft::delete_element(TABLE, services, &element));
        messages.push(nft::delete_chain(TABLE, &chain.name));
    }
    if new.is_some() {
        messages.push(nft::add_element(TABLE, refused, &element, Some(REFUSE)));
    }
    messages
}

/// Each endpoint with the same probability: the first of n once in n times, the next once in n - 1 of the rest, ….
fn balance(protocol: Protocol, endpoints: &[SocketAddr]) -> Vec<Rule> {
    let transport = match protocol {
        Protocol::Tcp => Match::Tcp,
        Protocol::Udp => Match::Udp,
    };
    let rule = |(at, to): (usize, &SocketAddr)| {
        let left = u32::try_from(endpoints.len() - at).unwrap_or(u32::MAX);
        let mut matches = vec![transport];
        matches.extend((left > 1).then_some(Match::OneIn(left)));
        Rule::new(matches, Action::Dnat(*to))
    };
    endpoints.iter().enumerate().map(rule).collect()
}

fn chain_name(key: &Key) -> String {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    format!("svc-{:016x}", hasher.finish())
}

/// The same without maps, for the tools.
fn plain_table(wanted: &BTreeMap<Key, Vec<SocketAddr>>) -> Table {
    let (mut nat, mut refused, mut masquerade) = (Vec::new(), Vec::new(), Vec::new());
    let mut chains = vec![Chain {
        name: REFUSE.to_owned(),
        hook: None,
        rules: refuse_rules(),
    }];
    for (key, endpoints) in wanted {
        let transport = if key.1 == Protocol::Tcp {
            Match::Tcp
        } else {
            Match::Udp
        };
        let to = Match::Destination(IpNet::from(key.0.ip()), Is::Eq);
        let matches = [to, transport, Match::Port(key.0.port(), Is::Eq)];
        if endpoints.is_empty() {
            refused.push(Rule::new(matches, Action::Goto(REFUSE.to_owned())));
        } else {
            let name = chain_name(key);
            nat.push(Rule::new(matches, Action::Goto(name.clone())));
            chains.push(Chain {
                name,
                hook: None,
                rules: balance(key.1, endpoints),
            });
        }
    }
    let own: BTreeSet<IpAddr> = wanted.values().flatten().map(SocketAddr::ip).collect();
    for ip in own {
        let net = IpNet::from(ip);
        let both = [Match::Source(net, Is::Eq), Match::Destination(net, Is::Eq)];
        masquerade.push(Rule::new(both, Action::Masquerade));
    }
    let mut forward = refused.clone();
    forward.push(unknown());
    let hook = |name: &str, hook, rules| Chain {
        name: name.to_owned(),
        hook: Some(hook),
        rules,
    };
    chains.extend([
        hook("prerouting", Hook::NatPrerouting, nat.clone()),
        hook("output", Hook::NatOutput, nat),
        hook("postrouting", Hook::NatPostrouting, masquerade),
        hook("forward", Hook::FilterForward, forward),
        hook("local", Hook::FilterOutput, refused),
    ]);
    Table {
        name: TABLE,
        chains,
    }
}
