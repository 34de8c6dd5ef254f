//! The same rules for `iptables-restore`, where the kernel has no nf_tables.
//!
//! Source: iptables-extensions(8): `owner`, `mark`, `connmark`, `conntrack`, `statistic`, `REDIRECT`, `DNAT`, `TPROXY`.

use std::fmt::Write as _;

use super::{Action, Chain, Family, Hook, Is, Match, Reject, Rule, Table};

/// The text for one family. Built-in chains are cleared: in a namespace of ours every rule is ours.
///
/// Rules that need nf_tables' maps have no form here and are left out; callers use plain rules instead.
pub(crate) fn restore_text(table: &Table, family: Family) -> String {
    let mut text = String::new();
    for (name, hooks) in [
        ("mangle", &[Hook::ManglePrerouting, Hook::MangleOutput][..]),
        (
            "nat",
            &[Hook::NatPrerouting, Hook::NatOutput, Hook::NatPostrouting][..],
        ),
        ("filter", &[Hook::FilterForward, Hook::FilterOutput][..]),
    ] {
        let chains = reachable(table, hooks);
        if !chains.is_empty() {
            write_table(&mut text, name, &chains, family);
        }
    }
    text
}

/// The chains of a table that packets get to from some hooks.
fn reachable<'a>(table: &'a Table, hooks: &[Hook]) -> Vec<&'a Chain> {
    let mut found: Vec<&Chain> = table
        .chains
        .iter()
        .filter(|c| c.hook.is_some_and(|h| hooks.contains(&h)))
        .collect();
    let mut next = 0;
    while let Some(chain) = found.get(next).copied() {
        next += 1;
        for rule in &chain.rules {
            let (Action::Jump(name) | Action::Goto(name)) = &rule.action else {
                continue;
            };
            if found.iter().all(|c| &c.name != name) {
                found.extend(table.chains.iter().find(|c| &c.name == name));
            }
        }
    }
    found
}

fn write_table(text: &mut String, name: &str, chains: &[&Chain], family: Family) {
    let _ = writeln!(text, "*{name}");
    for chain in chains {
        let policy = if chain.hook.is_some() { "ACCEPT" } else { "-" };
        let _ = writeln!(text, ":{} {policy} [0:0]", chain_name(chain));
    }
    for chain in chains {
        for rule in chain.rules.iter().filter(|r| r.fits(family)) {
            if let Some(rule) = rule_text(rule, family) {
                let _ = writeln!(text, "-A {}{rule}", chain_name(chain));
            }
        }
    }
    text.push_str("COMMIT\n");
}

fn chain_name(chain: &Chain) -> &str {
    match chain.hook {
        None => &chain.name,
        Some(Hook::ManglePrerouting | Hook::NatPrerouting) => "PREROUTING",
        Some(Hook::MangleOutput | Hook::NatOutput | Hook::FilterOutput) => "OUTPUT",
        Some(Hook::NatPostrouting) => "POSTROUTING",
        Some(Hook::FilterForward) => "FORWARD",
    }
}

fn rule_text(rule: &Rule, family: Family) -> Option<String> {
    let mut text = String::new();
    for m in &rule.matches {
        write_match(&mut text, m);
    }
    let action = match &rule.action {
        Action::Return => "-j RETURN".to_owned(),
        Action::Jump(chain) => format!("-j {chain}"),
        Action::Goto(chain) => format!("-g {chain}"),
        Action::Accept => "-j ACCEPT".to_owned(),
        Action::Tproxy(port) => format!("-j TPROXY --on-port {port}"),
        Action::SetMark(mark) => format!("-j MARK --set-mark {mark:#x}"),
        Action::SaveMark => "-j CONNMARK --save-mark".to_owned(),
        Action::RestoreMark => "-j CONNMARK --restore-mark".to_owned(),
        Action::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
        Action::Dnat(to) => format!("-j DNAT --to-destination {to}"),
        Action::Masquerade => "-j MASQUERADE".to_owned(),
        Action::Reject(Reject::Reset) => "-j REJECT --reject-with tcp-reset".to_owned(),
        Action::Reject(Reject::Port) => "-j REJECT".to_owned(),
        Action::Reject(Reject::NoRoute) => match family {
            Family::V4 => "-j REJECT --reject-with icmp-net-unreachable".to_owned(),
            Family::V6 => "-j REJECT --reject-with icmp6-no-route".to_owned(),
        },
        Action::Dispatch(..) | Action::MasqueradePairs(..) => return None,
    };
    let _ = write!(text, " {action}");
    Some(text)
}

fn write_match(text: &mut String, m: &Match) {
    let not = |is: &Is| if *is == Is::Ne { " !" } else { "" };
    let _ = match m {
        Match::Family(_) => Ok(()),
        Match::ToLoopback => write!(text, " -o lo"),
        Match::FromLoopback => write!(text, " -i lo"),
        Match::Tcp => write!(text, " -p tcp"),
        Match::Udp => write!(text, " -p udp"),
        Match::Source(net, is) => write!(text, "{} -s {net}", not(is)),
        Match::Destination(net, is) => write!(text, "{} -d {net}", not(is)),
        // A second port condition on one rule needs the match loaded again; `multiport` may be.
        Match::Port(port, is) => write!(text, " -m multiport{} --dports {port}", not(is)),
        Match::Mark(mark, is) => write!(text, " -m mark{} --mark {mark:#x}", not(is)),
        Match::ConnectionMark(mark) => write!(text, " -m connmark --mark {mark:#x}"),
        Match::Established => write!(text, " -m conntrack --ctstate ESTABLISHED,RELATED"),
        Match::Uid(id, is) => write!(text, " -m owner{} --uid-owner {id}", not(is)),
        Match::Gid(id, is) => write!(text, " -m owner{} --gid-owner {id}", not(is)),
        Match::OneIn(n) => {
            let probability = 1.0 / f64::from(*n);
            write!(
                text,
                " -m statistic --mode random --probability {probability:.10}"
            )
        }
    };
}
