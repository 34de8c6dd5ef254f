//! Packet-filter rules as plain data, and their text for `nft -f` and `iptables-restore`.
//!
//! One description serves all: netlink messages are made from it in `netlink::nft`, the texts below are the fallback and
//! what people read in `lateen` and in tests.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

pub(crate) mod iptables;

/// Whether a value must or must not be the given one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Is {
    Eq,
    Ne,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

/// One condition of a rule; all of a rule's must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    Family(Family),
    /// Leaves through `lo`.
    ToLoopback,
    /// Came through `lo`.
    FromLoopback,
    Tcp,
    Udp,
    Source(IpNet, Is),
    Destination(IpNet, Is),
    /// Needs [`Match::Tcp`] or [`Match::Udp`] before it.
    Port(u16, Is),
    Mark(u32, Is),
    /// The mark of the connection, as against that of the packet.
    ConnectionMark(u32),
    /// Of a connection that has had an answer, or about one.
    Established,
    Uid(u32, Is),
    Gid(u32, Is),
    /// Holds once in so many times, at random.
    OneIn(u32),
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Return,
    Jump(String),
    Goto(String),
    Accept,
    /// To a port of the machine itself.
    Redirect(u16),
    /// To the socket that listens on this port, whatever the packet's destination, which stays as it is.
    Tproxy(u16),
    /// Gives the packet a mark; the next rule follows.
    SetMark(u32),
    /// Gives the connection the packet's mark; the next rule follows.
    SaveMark,
    /// Gives the packet the connection's mark; the next rule follows.
    RestoreMark,
    Dnat(SocketAddr),
    Masquerade,
    Reject(Reject),
    /// Goes to the chain a map gives for destination address, protocol and port.
    Dispatch(&'static str, Family),
    /// As [`Action::Masquerade`], if source and destination are a pair of this set.
    MasqueradePairs(&'static str, Family),
}

/// How a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reject {
    /// A TCP reset: "connection refused".
    Reset,
    /// ICMP's "port unreachable", for UDP the same.
    Port,
    /// ICMP's "network unreachable".
    NoRoute,
}

/// Conditions and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) matches: Vec<Match>,
    pub(crate) action: Action,
}

/// Where a chain is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    ManglePrerouting,
    /// Packets whose mark is changed here are routed again.
    MangleOutput,
    NatPrerouting,
    NatOutput,
    NatPostrouting,
    FilterForward,
    FilterOutput,
}

impl Hook {
    /// nf_tables' chain type, the hook's number and name, its priority.
    pub(crate) fn parts(self) -> (&'static str, u32, &'static str, i32) {
        match self {
            Self::ManglePrerouting => ("filter", 0, "prerouting", -150),
            Self::MangleOutput => ("route", 3, "output", -150),
            Self::NatPrerouting => ("nat", 0, "prerouting", -100),
            Self::NatOutput => ("nat", 3, "output", -100),
            Self::NatPostrouting => ("nat", 4, "postrouting", 100),
            Self::FilterForward => ("filter", 2, "forward", 0),
            Self::FilterOutput => ("filter", 3, "output", 0),
        }
    }
}

/// A named list of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: String,
    pub(crate) hook: Option<Hook>,
    pub(crate) rules: Vec<Rule>,
}

/// A table of chains for both families.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) chains: Vec<Chain>,
}

impl Rule {
    pub(crate) fn new(matches: impl Into<Vec<Match>>, action: Action) -> Self {
        Self {
            matches: matches.into(),
            action,
        }
    }

    /// The families it is for; from its addresses, else both.
    pub(crate) fn fits(&self, family: Family) -> bool {
        if let Action::Dnat(to) = &self.action
            && Family::of(to.ip()) != family
        {
            return false;
        }
        self.matches.iter().all(|m| match m {
            Match::Family(wanted) => *wanted == family,
            Match::Source(net, _) | Match::Destination(net, _) => Family::of(net.addr()) == family,
            _ => true,
        })
    }
}

impl Table {
    /// The same for a user namespace that does not know some users or groups: nothing there runs as one of those, and the kernel
    /// takes no `owner` match for them.
    pub(crate) fn without_unknown(
        &self,
        user: impl Fn(u32) -> bool,
        group: impl Fn(u32) -> bool,
    ) -> Self {
        let unknown = |m: &Match, wanted: Is| match m {
            Match::Uid(id, is) => *is == wanted && !user(*id),
            Match::Gid(id, is) => *is == wanted && !group(*id),
            _ => false,
        };
        let mut table = self.clone();
        for chain in &mut table.chains {
            let never = |rule: &Rule| rule.matches.iter().any(|m| unknown(m, Is::Eq));
            chain.rules.retain(|rule| !never(rule));
            for rule in &mut chain.rules {
                rule.matches.retain(|m| !unknown(m, Is::Ne));
            }
        }
        table
    }
}

impl fmt::Display for Table {
    /// The table as `nft -f` reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {} {{", self.name)?;
        for chain in &self.chains {
            writeln!(f, "\tchain {} {{", chain.name)?;
            if let Some(hook) = chain.hook {
                let (kind, _, hook, priority) = hook.parts();
                writeln!(
                    f,
                    "\t\ttype {kind} hook {hook} priority {priority}; policy accept;"
                )?;
            }
            for rule in &chain.rules {
                writeln!(f, "\t\t{rule}")?;
            }
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut transport = "th";
        for m in &self.matches {
            match m {
                Match::Tcp => transport = "tcp",
                Match::Udp => transport = "udp",
                _ => {}
            }
            write_match(f, m, transport)?;
            f.write_char(' ')?;
        }
        write_action(f, &self.action)
    }
}

fn write_match(f: &mut fmt::Formatter<'_>, m: &Match, transport: &str) -> fmt::Result {
    let not = |is: &Is| if *is == Is::Ne { "!= " } else { "" };
    let ip = |net: &IpNet| if net.addr().is_ipv4() { "ip" } else { "ip6" };
    match m {
        Match::Family(Family::V4) => f.write_str("meta nfproto ipv4"),
        Match::Family(Family::V6) => f.write_str("meta nfproto ipv6"),
        Match::ToLoopback => f.write_str("oifname \"lo\""),
        Match::FromLoopback => f.write_str("iifname \"lo\""),
        Match::Tcp => f.write_str("meta l4proto tcp"),
        Match::Udp => f.write_str("meta l4proto udp"),
        Match::Source(net, is) => write!(f, "{} saddr {}{net}", ip(net), not(is)),
        Match::Destination(net, is) => write!(f, "{} daddr {}{net}", ip(net), not(is)),
        Match::Port(port, is) => write!(f, "{transport} dport {}{port}", not(is)),
        Match::Mark(mark, is) => write!(f, "meta mark {}{mark:#010x}", not(is)),
        Match::ConnectionMark(mark) => write!(f, "ct mark {mark:#010x}"),
        Match::Established => f.write_str("ct state established,related"),
        Match::Uid(id, is) => write!(f, "meta skuid {}{id}", not(is)),
        Match::Gid(id, is) => write!(f, "meta skgid {}{id}", not(is)),
        Match::OneIn(n) => write!(f, "numgen random mod {n} 0"),
    }
}

fn write_action(f: &mut fmt::Formatter<'_>, action: &Action) -> fmt::Result {
    match action {
        Action::Return => f.write_str("return"),
        Action::Jump(chain) => write!(f, "jump {chain}"),
        Action::Goto(chain) => write!(f, "goto {chain}"),
        Action::Accept => f.write_str("accept"),
        Action::Redirect(port) => write!(f, "redirect to :{port}"),
        Action::Tproxy(port) => write!(f, "tproxy to :{port}"),
        Action::SetMark(mark) => write!(f, "meta mark set {mark:#010x}"),
        Action::SaveMark => f.write_str("ct mark set meta mark"),
        Action::RestoreMark => f.write_str("meta mark set ct mark"),
        Action::Dnat(to) if to.is_ipv4() => write!(f, "dnat ip to {to}"),
        Action::Dnat(to) => write!(f, "dnat ip6 to {to}"),
        Action::Masquerade => f.write_str("masquerade"),
        Action::Reject(Reject::Reset) => f.write_str("reject with tcp reset"),
        Action::Reject(Reject::Port) => f.write_str("reject"),
        Action::Reject(Reject::NoRoute) => f.write_str("reject with icmpx no-route"),
        Action::Dispatch(map, family) => {
            write!(
                f,
                "{} daddr . meta l4proto . th dport vmap @{map}",
                word(*family)
            )
        }
        Action::MasqueradePairs(set, family) => {
            let ip = word(*family);
            write!(f, "{ip} saddr . {ip} daddr @{set} masquerade")
        }
    }
}

fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}
