//! Which of a pod's connections go through its proxy, as `istio-iptables` decides it.
//!
//! Source: Istio's `tools/istio-iptables` (rule order) and the `traffic.sidecar.istio.io` annotations. Two differences:
//! the proxy is recognised by its socket mark besides uid and gid 1337, because a user namespace may hold one uid only;
//! and `interceptionMode: TPROXY` redirects, too (the mode differs in the source address the application sees).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::addresses::{PROXY_ID, PROXY_MARK};
use crate::netlink::nft;
use crate::netlink::{NetlinkError, Socket};
use crate::rules::{Action, Chain, Family, Hook, Is, Match, Rule, Table};

pub(crate) mod fallback;
#[cfg(test)]
mod tests;

pub use fallback::RedirectError;

/// Where outbound connections arrive.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where inbound connections arrive.
pub const INBOUND_PORT: u16 = 15006;
/// Where DNS queries arrive.
pub const DNS_PORT: u16 = 15053;
/// HBONE; never redirected.
const TUNNEL_PORT: u16 = 15008;
/// Ports of the proxy itself: merged metrics and probes, health, its own metrics.
const PROXY_PORTS: [u16; 3] = [15020, 15021, 15090];
/// The source address of the proxy's connections to the application.
const PASSTHROUGH_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
pub(crate) const PASSTHROUGH_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

const TABLE: &str = "lateen";
const INBOUND: &str = "ISTIO_INBOUND";
const IN_REDIRECT: &str = "ISTIO_IN_REDIRECT";
const OUTPUT: &str = "ISTIO_OUTPUT";
const REDIRECT: &str = "ISTIO_REDIRECT";

/// All of something, or some.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Included<T> {
    /// `*`.
    All,
    /// These; none is possible.
    Only(Vec<T>),
}

/// What is redirected in a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirection {
    /// Destinations outbound TCP is redirected for.
    pub outbound_ranges: Included<IpNet>,
    /// Destinations that are passed by.
    pub excluded_outbound_ranges: Vec<IpNet>,
    /// Ports redirected whatever the destination (but for excluded ranges).
    pub outbound_ports: Vec<u16>,
    /// Ports that are passed by.
    pub excluded_outbound_ports: Vec<u16>,
    /// Ports inbound TCP is redirected for.
    pub inbound_ports: Included<u16>,
    /// Ports that are passed by, besides the proxy's own.
    pub excluded_inbound_ports: Vec<u16>,
    /// Whether DNS goes to the proxy.
    pub dns: bool,
    /// Where outbound connections arrive: `meshConfig.proxyListenPort`.
    pub outbound: u16,
    /// Where inbound connections arrive: `meshConfig.proxyInboundListenPort`.
    pub inbound: u16,
}

impl Default for Redirection {
    fn default() -> Self {
        Self {
            outbound_ranges: Included::All,
            excluded_outbound_ranges: Vec::new(),
            outbound_ports: Vec::new(),
            excluded_outbound_ports: Vec::new(),
            inbound_ports: Included::All,
            excluded_inbound_ports: Vec::new(),
            dns: true,
            outbound: OUTBOUND_PORT,
            inbound: INBOUND_PORT,
        }
    }
}

impl Redirection {
    /// What a pod's annotations ask for; `None` with `sidecar.istio.io/interceptionMode: NONE`.
    ///
    /// The second value says which parts of them could not be read; those parts are left out, so that more goes through
    /// the proxy, not less.
    pub fn from_annotations(annotations: &BTreeMap<String, String>) -> (Option<Self>, Vec<String>) {
        let mode = annotations.get("sidecar.istio.io/interceptionMode");
        if mode.is_some_and(|m| m.eq_ignore_ascii_case("NONE")) {
            return (None, Vec::new());
        }
        let mut read = Reader {
            annotations,
            problems: Vec::new(),
        };
        let redirection = Self {
            outbound_ranges: read.included("includeOutboundIPRanges", range),
            excluded_outbound_ranges: read.list("excludeOutboundIPRanges", range),
            outbound_ports: read.list("includeOutboundPorts", port),
            excluded_outbound_ports: read.list("excludeOutboundPorts", port),
            inbound_ports: read.included("includeInboundPorts", port),
            excluded_inbound_ports: read.list("excludeInboundPorts", port),
            ..Self::default()
        };
        (Some(redirection), read.problems)
    }

    /// Sets the rules in the current network namespace, in place of those of an earlier call.
    ///
    /// # Errors
    /// When neither nf_tables nor the `iptables` tools can be used.
    pub fn apply(&self) -> Result<(), RedirectError> {
        let table = self.table();
        match transaction(&table) {
            Ok(()) => Ok(()),
            Err(netlink) => fallback::apply(&table, netlink),
        }
    }

    /// The rules as text, in the language of `nft`.
    pub fn describe(&self) -> String {
        self.table().to_string()
    }

    pub(crate) fn table(&self) -> Table {
        let hook = |name: &str, hook, rules| Chain {
            name: name.to_owned(),
            hook: Some(hook),
            rules,
        };
        let chain = |name: &str, rules| Chain {
            name: name.to_owned(),
            hook: None,
            rules,
        };
        let to_inbound = Rule::new([Match::Tcp], Action::Jump(INBOUND.to_owned()));
        let to_output = Rule::new([], Action::Jump(OUTPUT.to_owned()));
        Table {
            name: TABLE,
            // A chain comes before those that jump to it.
            chains: vec![
                chain(
                    REDIRECT,
                    vec![Rule::new([Match::Tcp], Action::Redirect(self.outbound))],
                ),
                chain(
                    IN_REDIRECT,
                    vec![Rule::new([Match::Tcp], Action::Redirect(self.inbound))],
                ),
                chain(INBOUND, self.inbound_rules()),
                chain(OUTPUT, self.output_rules()),
                hook("prerouting", Hook::NatPrerouting, vec![to_inbound]),
                hook("output", Hook::NatOutput, vec![to_output]),
            ],
        }
    }

    fn inbound_rules(&self) -> Vec<Rule> {
        let tcp_port = |port| [Match::Tcp, Match::Port(port, Is::Eq)];
        let redirect = Action::Jump(IN_REDIRECT.to_owned());
        let mut rules = vec![Rule::new(tcp_port(TUNNEL_PORT), Action::Return)];
        match &self.inbound_ports {
            Included::All => {
                let excluded = PROXY_PORTS.iter().chain(&self.excluded_inbound_ports);
                rules.extend(excluded.map(|port| Rule::new(tcp_port(*port), Action::Return)));
                rules.push(Rule::new([Match::Tcp], redirect));
            }
            Included::Only(ports) => {
                rules.extend(
                    ports
                        .iter()
                        .map(|p| Rule::new(tcp_port(*p), redirect.clone())),
                );
            }
        }
        rules
    }

    fn output_rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        for port in &self.excluded_outbound_ports {
            rules.push(Rule::new(
                [Match::Tcp, Match::Port(*port, Is::Eq)],
                Action::Return,
            ));
            rules.push(Rule::new(
                [Match::Udp, Match::Port(*port, Is::Eq)],
                Action::Return,
            ));
        }
        for source in [IpAddr::V4(PASSTHROUGH_V4), IpAddr::V6(PASSTHROUGH_V6)] {
            let matches = [
                Match::ToLoopback,
                Match::Source(IpNet::from(source), Is::Eq),
            ];
            rules.push(Rule::new(matches, Action::Return));
        }
        rules.extend(self.proxy_rules());
        if self.dns {
            for protocol in [Match::Tcp, Match::Udp] {
                let matches = [protocol, Match::Port(53, Is::Eq)];
                rules.push(Rule::new(matches, Action::Redirect(DNS_PORT)));
            }
        }
        let excluded = loopback()
            .into_iter()
            .chain(self.excluded_outbound_ranges.iter().copied());
        rules.extend(excluded.map(|net| to_destination(net, Action::Return)));
        rules.extend(self.inclusions());
        rules
    }

    /// What follows from who opened the connection: the proxy or the application.
    fn proxy_rules(&self) -> Vec<Rule> {
        let proxy = |is| {
            [
                Match::Mark(PROXY_MARK, is),
                Match::Uid(PROXY_ID, is),
                Match::Gid(PROXY_ID, is),
            ]
        };
        let mut rules = Vec::new();
        // The proxy calls its own application by another address than loopback: through its inbound side.
        for net in loopback() {
            for is_proxy in proxy(Is::Eq) {
                let mut matches = vec![
                    Match::ToLoopback,
                    Match::Destination(net, Is::Ne),
                    Match::Tcp,
                    Match::Port(TUNNEL_PORT, Is::Ne),
                ];
                matches.extend(self.dns.then_some(Match::Port(53, Is::Ne)));
                matches.push(is_proxy);
                rules.push(Rule::new(matches, Action::Jump(IN_REDIRECT.to_owned())));
            }
        }
        // The application calls itself: directly. With DNS capture a name server on loopback is captured still.
        if !self.includes_loopback() {
            let mut matches = vec![Match::ToLoopback];
            if self.dns {
                matches.extend([Match::Tcp, Match::Port(53, Is::Ne)]);
            }
            matches.extend(proxy(Is::Ne));
            rules.push(Rule::new(matches, Action::Return));
        }
        rules.extend(proxy(Is::Eq).map(|is_proxy| Rule::new([is_proxy], Action::Return)));
        rules
    }

    fn includes_loopback(&self) -> bool {
        match &self.outbound_ranges {
            Included::All => false,
            Included::Only(ranges) => ranges.iter().any(|r| r.addr().is_loopback()),
        }
    }

    fn inclusions(&self) -> Vec<Rule> {
        let redirect = || Action::Jump(REDIRECT.to_owned());
        let ports = self.outbound_ports.iter();
        let mut rules: Vec<Rule> = ports
            .map(|p| Rule::new([Match::Tcp, Match::Port(*p, Is::Eq)], redirect()))
            .collect();
        match &self.outbound_ranges {
            Included::All => rules.push(Rule::new([], redirect())),
            Included::Only(ranges) => {
                rules.extend(ranges.iter().map(|net| to_destination(*net, redirect())));
            }
        }
        rules
    }
}

fn transaction(table: &Table) -> Result<(), NetlinkError> {
    Socket::netfilter()?.transaction(nft::replace_table(table))
}

/// Istio's `HOST_IPV4_LOOPBACK_CIDR` default and its IPv6 counterpart.
fn loopback() -> [IpNet; 2] {
    [
        IpNet::from(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ]
}

fn to_destination(net: IpNet, action: Action) -> Rule {
    match net.prefix_len() {
        0 => Rule::new([Match::Family(Family::of(net.addr()))], action),
        _ => Rule::new([Match::Destination(net, Is::Eq)], action),
    }
}

struct Reader<'a> {
    annotations: &'a BTreeMap<String, String>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let key = format!("traffic.sidecar.istio.io/{name}");
        self.annotations.get(&key).map(|value| value.trim())
    }

    fn included<T>(&mut self, name: &str, parse: fn(&str) -> Option<T>) -> Included<T> {
        match self.get(name) {
            None | Some("*") => Included::All,
            Some(_) => {
                let before = self.problems.len();
                let listed = self.list(name, parse);
                let readable = self.problems.len() == before;
                if readable {
                    Included::Only(listed)
                } else {
                    Included::All
                }
            }
        }
    }

    fn list<T>(&mut self, name: &str, parse: fn(&str) -> Option<T>) -> Vec<T> {
        let text = self.get(name).unwrap_or_default().to_owned();
        let mut found = Vec::new();
        for item in text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
        {
            match parse(item) {
                Some(value) => found.push(value),
                None => self.problems.push(format!(
                    "annotation traffic.sidecar.istio.io/{name}: `{item}` is not usable"
                )),
            }
        }
        found
    }
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok()
}

fn range(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse().ok().or_else(address)
}
