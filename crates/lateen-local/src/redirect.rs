//! Which of a pod's connections go through its proxy, as `istio-iptables` decides it.
//!
//! Source: Istio's `tools/istio-iptables` (rule order) and the `traffic.sidecar.istio.io` annotations. Two differences: the proxy
//! is recognised by its socket mark besides uid and gid 1337, because a user namespace may hold one uid only; and with
//! `interceptionMode: TPROXY` what the proxy sends to its own pod is redirected as without, where Istio marks it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::addresses::{PROXY_ID, PROXY_MARK, TPROXY_MARK};
use crate::rules::{Action, Chain, Family, Hook, Is, Match, Rule, Table};

#[cfg(test)]
mod tests;
pub(crate) mod tools;

pub use tools::{PacketFilter, RedirectError};

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
const DIVERT: &str = "ISTIO_DIVERT";
const TPROXY: &str = "ISTIO_TPROXY";
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

/// How inbound connections get to the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// By translating their destination: the application sees the proxy's address.
    #[default]
    Redirect,
    /// As they are: the proxy can connect to the application from its client's address.
    Tproxy,
}

/// What is redirected in a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirection {
    /// How inbound connections get to the proxy.
    #[serde(default)]
    pub mode: Mode,
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
            mode: Mode::default(),
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
    /// What a pod's annotations ask for; `None` with the interception mode `NONE`.
    ///
    /// The second value says which parts of them could not be read; those parts are left out, so that more goes through
    /// the proxy, not less.
    pub fn from_annotations(
        mode: &str,
        annotations: &BTreeMap<String, String>,
    ) -> (Option<Self>, Vec<String>) {
        let mode = match mode {
            "NONE" => return (None, Vec::new()),
            "TPROXY" => Mode::Tproxy,
            _ => Mode::Redirect,
        };
        let mut read = Reader {
            annotations,
            problems: Vec::new(),
        };
        let redirection = Self {
            mode,
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
    /// When the kernel or the tools refuse, or neither can be used.
    pub fn apply(&self, by: PacketFilter) -> Result<(), RedirectError> {
        by.replace(&self.table())
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
        let to_inbound = vec![Rule::new([Match::Tcp], Action::Jump(INBOUND.to_owned()))];
        let to_output = Rule::new([], Action::Jump(OUTPUT.to_owned()));
        let to_proxy = |port| vec![Rule::new([Match::Tcp], Action::Redirect(port))];
        // A chain comes before those that jump to it.
        let mut chains = vec![
            chain(REDIRECT, to_proxy(self.outbound)),
            chain(IN_REDIRECT, to_proxy(self.inbound)),
        ];
        if self.mode == Mode::Tproxy {
            chains.push(chain(DIVERT, marked(Action::Accept)));
            chains.push(chain(TPROXY, marked(Action::Tproxy(self.inbound))));
        }
        chains.push(chain(INBOUND, self.inbound_rules()));
        chains.push(chain(OUTPUT, self.output_rules()));
        match self.mode {
            Mode::Redirect => chains.push(hook("prerouting", Hook::NatPrerouting, to_inbound)),
            Mode::Tproxy => {
                chains.push(hook("prerouting", Hook::ManglePrerouting, to_inbound));
                chains.push(hook("reroute", Hook::MangleOutput, vec![restored()]));
            }
        }
        chains.push(hook("output", Hook::NatOutput, vec![to_output]));
        Table {
            name: TABLE,
            chains,
        }
    }

    fn inbound_rules(&self) -> Vec<Rule> {
        let tcp_port = |port| [Match::Tcp, Match::Port(port, Is::Eq)];
        let mut rules = match self.mode {
            Mode::Redirect => Vec::new(),
            Mode::Tproxy => passed_within_the_pod(),
        };
        rules.push(Rule::new(tcp_port(TUNNEL_PORT), Action::Return));
        match &self.inbound_ports {
            Included::All => {
                let excluded = PROXY_PORTS.iter().chain(&self.excluded_inbound_ports);
                rules.extend(excluded.map(|port| Rule::new(tcp_port(*port), Action::Return)));
                rules.extend(self.captured(&[Match::Tcp]));
            }
            Included::Only(ports) => {
                rules.extend(ports.iter().flat_map(|p| self.captured(&tcp_port(*p))));
            }
        }
        rules
    }

    /// What becomes of an inbound packet that the proxy is to have.
    fn captured(&self, matches: &[Match]) -> Vec<Rule> {
        let jump = |chain: &str| Action::Jump(chain.to_owned());
        match self.mode {
            Mode::Redirect => vec![Rule::new(matches, jump(IN_REDIRECT))],
            Mode::Tproxy => {
                // Answers to the pod's own connections, too: they are none to intercept.
                let accepted = [matches, &[Match::Established]].concat();
                vec![
                    Rule::new(accepted, jump(DIVERT)),
                    Rule::new(matches, jump(TPROXY)),
                ]
            }
        }
    }

    fn output_rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        if self.mode == Mode::Tproxy {
            // The proxy to its application, in its client's name.
            let own = [Match::Mark(TPROXY_MARK, Is::Eq)];
            rules.push(Rule::new(own, Action::Return));
        }
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

/// Marks what is delivered to the proxy's transparent sockets: a routing rule keeps it on this machine.
fn marked(then: Action) -> Vec<Rule> {
    vec![
        Rule::new([], Action::SetMark(TPROXY_MARK)),
        Rule::new([Match::Tcp], then),
    ]
}

/// The proxy's connection to its application comes by `lo` with the mark. What the application answers goes to an address elsewhere,
/// and finds its way back by the connection's mark. Everything else on `lo` is the pod's own business.
fn passed_within_the_pod() -> Vec<Rule> {
    let own = [Match::Mark(TPROXY_MARK, Is::Eq)];
    vec![
        Rule::new(own, Action::SaveMark),
        Rule::new(own, Action::Return),
        Rule::new([Match::FromLoopback], Action::Return),
    ]
}

fn restored() -> Rule {
    let own = [Match::Tcp, Match::ConnectionMark(TPROXY_MARK)];
    Rule::new(own, Action::RestoreMark)
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
