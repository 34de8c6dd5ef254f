//! The rules of a sidecar pod, as text and in the kernel.

use std::io::{self, Write as _};
use std::process::Command;

use super::*;

fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let key = |name: &str| match name.contains('/') {
        true => name.to_owned(),
        false => format!("traffic.sidecar.istio.io/{name}"),
    };
    pairs
        .iter()
        .map(|(name, value)| (key(name), (*value).to_owned()))
        .collect()
}

fn rules(pairs: &[(&str, &str)]) -> String {
    Redirection::from_annotations("REDIRECT", &annotations(pairs))
        .0
        .unwrap()
        .describe()
}

#[test]
fn by_default_everything_goes_through_the_proxy() {
    let expected = "\
table inet lateen {
	chain ISTIO_REDIRECT {
		meta l4proto tcp redirect to :15001
	}
	chain ISTIO_IN_REDIRECT {
		meta l4proto tcp redirect to :15006
	}
	chain ISTIO_INBOUND {
		meta l4proto tcp tcp dport 15008 return
		meta l4proto tcp tcp dport 15020 return
		meta l4proto tcp tcp dport 15021 return
		meta l4proto tcp tcp dport 15090 return
		meta l4proto tcp jump ISTIO_IN_REDIRECT
	}
	chain ISTIO_OUTPUT {
		oifname \"lo\" ip saddr 127.0.0.6/32 return
		oifname \"lo\" ip6 saddr ::6/128 return
		oifname \"lo\" ip daddr != 127.0.0.1/32 meta l4proto tcp tcp dport != 15008 tcp dport != 53 meta mark 0x0000053b jump ISTIO_IN_REDIRECT
		oifname \"lo\" ip daddr != 127.0.0.1/32 meta l4proto tcp tcp dport != 15008 tcp dport != 53 meta skuid 1337 jump ISTIO_IN_REDIRECT
		oifname \"lo\" ip daddr != 127.0.0.1/32 meta l4proto tcp tcp dport != 15008 tcp dport != 53 meta skgid 1337 jump ISTIO_IN_REDIRECT
		oifname \"lo\" ip6 daddr != ::1/128 meta l4proto tcp tcp dport != 15008 tcp dport != 53 meta mark 0x0000053b jump ISTIO_IN_REDIRECT
		oifname \"lo\" ip6 daddr != ::1/128 meta l4proto tcp tcp dport != 15008 tcp dport != 53 meta skuid 1337 jump ISTIO_IN_REDIRECT
		oifname \"lo\" ip6 daddr != ::1/128 meta l4proto tcp tcp dport != 15008 tcp dport != 53 meta skgid 1337 jump ISTIO_IN_REDIRECT
		oifname \"lo\" meta l4proto tcp tcp dport != 53 meta mark != 0x0000053b meta skuid != 1337 meta skgid != 1337 return
		meta mark 0x0000053b return
		meta skuid 1337 return
		meta skgid 1337 return
		meta l4proto tcp tcp dport 53 redirect to :15053
		meta l4proto udp udp dport 53 redirect to :15053
		ip daddr 127.0.0.1/32 return
		ip6 daddr ::1/128 return
		jump ISTIO_REDIRECT
	}
	chain prerouting {
		type nat hook prerouting priority -100; policy accept;
		meta l4proto tcp jump ISTIO_INBOUND
	}
	chain output {
		type nat hook output priority -100; policy accept;
		jump ISTIO_OUTPUT
	}
}
";
    assert_eq!(rules(&[]), expected);
}

#[test]
fn listed_ports_and_ranges_replace_the_wildcard() {
    let text = rules(&[
        ("includeInboundPorts", "8080, 9090"),
        ("includeOutboundIPRanges", "10.0.0.0/8,fd00::/8"),
        ("excludeOutboundIPRanges", "10.1.2.3"),
        ("includeOutboundPorts", "3306"),
        ("excludeOutboundPorts", "25"),
    ]);
    let inbound = "\
		meta l4proto tcp tcp dport 15008 return
		meta l4proto tcp tcp dport 8080 jump ISTIO_IN_REDIRECT
		meta l4proto tcp tcp dport 9090 jump ISTIO_IN_REDIRECT
	}";
    assert!(text.contains(inbound), "{text}");
    let end = "\
		ip daddr 10.1.2.3/32 return
		meta l4proto tcp tcp dport 3306 jump ISTIO_REDIRECT
		ip daddr 10.0.0.0/8 jump ISTIO_REDIRECT
		ip6 daddr fd00::/8 jump ISTIO_REDIRECT
	}";
    assert!(text.contains(end), "{text}");
    assert!(
        text.contains("chain ISTIO_OUTPUT {\n\t\tmeta l4proto tcp tcp dport 25 return\n"),
        "{text}"
    );
}

#[test]
fn empty_lists_redirect_nothing_and_none_sets_no_rules() {
    let text = rules(&[("includeInboundPorts", ""), ("includeOutboundIPRanges", "")]);
    assert!(
        !text.contains("jump ISTIO_IN_REDIRECT\n\t}\n\tchain ISTIO_OUTPUT"),
        "{text}"
    );
    assert!(!text.contains("jump ISTIO_REDIRECT"), "{text}");
    let none = Redirection::from_annotations("NONE", &BTreeMap::new());
    assert_eq!(none, (None, Vec::new()));
}

#[test]
fn what_cannot_be_read_never_takes_traffic_from_the_proxy() {
    let broken = annotations(&[
        ("includeOutboundIPRanges", "10.0.0.0/99"),
        ("excludeInboundPorts", "80,http"),
    ]);
    let (redirection, problems) = Redirection::from_annotations("REDIRECT", &broken);
    let redirection = redirection.unwrap();
    assert_eq!(redirection.outbound_ranges, Included::All);
    assert_eq!(redirection.excluded_inbound_ports, [80]);
    assert_eq!(problems.len(), 2, "{problems:?}");
}

/// Runs this test binary again in namespaces of its own.
fn in_a_namespace(test: &str) -> Option<String> {
    const INSIDE: &str = "LATEEN_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return None;
    }
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["-Urn", "--"])
        .arg(own)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1");
    let Ok(output) = command.output() else {
        return Some("SKIPPED: no unshare".to_owned());
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(text)
}

/// What `nft` lists, in the form in which it is written there; `None` without `nft`.
fn listed() -> Option<String> {
    let output = Command::new("nft")
        .args(["-n", "list", "table", "inet", TABLE])
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_kernel_has_the_rules_that_are_described_and_setting_them_twice_changes_nothing() {
    let test = "redirect::tests::the_kernel_has_the_rules_that_are_described_and_setting_them_twice_changes_nothing";
    for mode in ["REDIRECT", "TPROXY"] {
        the_kernel_agrees(test, mode);
    }
}

fn the_kernel_agrees(test: &str, mode: &str) {
    if let Some(outcome) = in_a_namespace(test) {
        println!("{outcome}");
        return;
    }
    let pairs = [
        ("excludeOutboundIPRanges", "10.1.0.0/16,fd01::/16"),
        ("excludeInboundPorts", "22"),
    ];
    let redirection = Redirection::from_annotations(mode, &annotations(&pairs))
        .0
        .unwrap();
    redirection.apply(PacketFilter::Nftables).unwrap();
    let Some(first) = listed() else {
        let _ = writeln!(io::stderr(), "SKIPPED: no nft to compare with");
        return;
    };
    redirection.apply(PacketFilter::Nftables).unwrap();
    assert_eq!(listed().as_ref(), Some(&first));
    // The same through nft's own encoder.
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]).stdin(std::process::Stdio::piped());
    let mut child = nft.spawn().unwrap();
    let text = format!("delete table inet {TABLE}\n{}", redirection.describe());
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(listed(), Some(first));
}

#[test]
fn iptables_says_the_same_where_nf_tables_is_missing() {
    let text = crate::rules::iptables::restore_text(&Redirection::default().table(), Family::V4);
    assert!(
        text.contains("-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT"),
        "{text}"
    );
    assert!(
        text.contains("-A ISTIO_OUTPUT -o lo -s 127.0.0.6/32 -j RETURN"),
        "{text}"
    );
    assert!(!text.contains("::"), "{text}");
    let transparent = Redirection {
        mode: Mode::Tproxy,
        inbound_ports: Included::Only(vec![8080]),
        ..Redirection::default()
    };
    for (tool, family) in [
        ("iptables-nft-restore", Family::V4),
        ("iptables-legacy-restore", Family::V4),
        ("ip6tables-nft-restore", Family::V6),
        ("ip6tables-legacy-restore", Family::V6),
    ] {
        for redirection in [&Redirection::default(), &transparent] {
            // `unshare -U` knows root alone.
            let table = redirection
                .table()
                .without_unknown(|id| id == 0, |id| id == 0);
            let text = crate::rules::iptables::restore_text(&table, family);
            accepted(tool, &text);
        }
    }
}

fn accepted(tool: &str, text: &str) {
    let script = format!("XTABLES_LOCKFILE=/dev/null {tool} -w 20 <<'E'\n{text}E");
    let restored = Command::new("unshare")
        .args(["-Urn", "sh", "-c", &script])
        .output();
    match restored {
        Ok(output) if output.status.code() != Some(127) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{tool}: {said}\n{text}");
        }
        _ => drop(writeln!(io::stderr(), "SKIPPED: no {tool}")),
    }
}

#[test]
fn transparent_interception_moves_inbound_connections_without_translating_them() {
    let (redirection, _) = Redirection::from_annotations("TPROXY", &BTreeMap::new());
    let text = redirection.unwrap().describe();
    let inbound = "\
	chain ISTIO_DIVERT {
		meta mark set 0x00000539
		meta l4proto tcp accept
	}
	chain ISTIO_TPROXY {
		meta mark set 0x00000539
		meta l4proto tcp tproxy to :15006
	}
	chain ISTIO_INBOUND {
		meta mark 0x00000539 ct mark set meta mark
		meta mark 0x00000539 return
		iifname \"lo\" return
		meta l4proto tcp tcp dport 15008 return
		meta l4proto tcp tcp dport 15020 return
		meta l4proto tcp tcp dport 15021 return
		meta l4proto tcp tcp dport 15090 return
		meta l4proto tcp ct state established,related jump ISTIO_DIVERT
		meta l4proto tcp jump ISTIO_TPROXY
	}
	chain ISTIO_OUTPUT {
		meta mark 0x00000539 return
";
    assert!(text.contains(inbound), "{text}");
    let hooks = "\
	chain prerouting {
		type filter hook prerouting priority -150; policy accept;
		meta l4proto tcp jump ISTIO_INBOUND
	}
	chain reroute {
		type route hook output priority -150; policy accept;
		meta l4proto tcp ct mark 0x00000539 meta mark set ct mark
	}
";
    assert!(text.contains(hooks), "{text}");
}
