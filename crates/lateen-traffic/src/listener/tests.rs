//! Tests of filter chain matching: the order of Envoy's documentation, and what is refused.

use proptest::prelude::*;

use super::*;
use crate::request::TransportProtocol;

fn chain(name: &str, matcher: ChainMatch) -> Arc<FilterChain> {
    Arc::new(FilterChain {
        name: name.into(),
        matcher,
        tls: None,
        transport_connect_timeout: None,
        filters: vec![],
        metadata: Metadata::default(),
        provenance: Provenance::default(),
    })
}

fn listener(
    chains: Vec<(&str, ChainMatch)>,
    default: Option<&str>,
) -> Result<Listener, DuplicateMatch> {
    let chains: Vec<_> = chains
        .into_iter()
        .map(|(name, matcher)| chain(name, matcher))
        .collect();
    Ok(Listener {
        name: "virtualInbound".into(),
        stat_prefix: None,
        address: ListenAddress::Socket("0.0.0.0:15006".parse().unwrap()),
        additional_addresses: vec![],
        bind_to_port: true,
        use_original_dst: false,
        transparent: false,
        freebind: false,
        reuse_port: true,
        direction: TrafficDirection::Inbound,
        listener_filters: vec![],
        listener_filters_timeout: None,
        continue_on_listener_filters_timeout: false,
        index: ChainIndex::new(&chains)?,
        chains,
        default_chain: default.map(|name| chain(name, ChainMatch::default())),
        backlog: None,
        buffer_limit: 1 << 20,
        socket_options: vec![],
        keepalive: None,
        access_logs: vec![],
        max_accepts_per_event: None,
        metadata: Metadata::default(),
        provenance: Provenance::default(),
    })
}

fn connection(port: u16) -> ConnectionInfo<'static> {
    ConnectionInfo::plain(
        "10.0.0.9:5000".parse().unwrap(),
        SocketAddr::from(([10, 0, 0, 2], port)),
    )
}

fn taken(listener: &Listener, connection: &ConnectionInfo<'_>) -> String {
    let (decision, trace) = listener.explain_filter_chain(connection);
    let fast = listener
        .match_filter_chain(connection)
        .chain()
        .map(|chain| chain.name.clone());
    assert_eq!(decision.chain().map(|chain| chain.name.clone()), fast);
    assert_eq!(trace.chosen, fast);
    fast.map_or("none".to_owned(), |name| name.to_string())
}

fn any() -> ChainMatch {
    ChainMatch::default()
}

fn nets(texts: &[&str]) -> Vec<ipnet::IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn names(texts: &[&str]) -> Vec<ServerName> {
    texts
        .iter()
        .map(|text| ServerName::parse(text).unwrap())
        .collect()
}

#[test]
fn the_destination_port_comes_first_and_is_not_left_again() {
    let listener = listener(
        vec![
            ("any", any()),
            (
                "9080 over tls",
                ChainMatch {
                    destination_port: Some(9080),
                    transport_protocol: Some(TransportProtocol::Tls),
                    ..any()
                },
            ),
        ],
        Some("default"),
    )
    .unwrap();
    assert_eq!(taken(&listener, &connection(80)), "any");
    let tls = ConnectionInfo {
        transport_protocol: TransportProtocol::Tls,
        ..connection(9080)
    };
    assert_eq!(taken(&listener, &tls), "9080 over tls");
    // Port 9080 has an entry, so the chain without a port is out of the question.
    assert_eq!(taken(&listener, &connection(9080)), "default");
}

#[test]
fn the_longest_prefix_of_the_destination_wins() {
    let to = |ranges: &[&str]| ChainMatch {
        prefix_ranges: nets(ranges),
        ..any()
    };
    let listener = listener(
        vec![
            ("/8", to(&["10.0.0.0/8"])),
            ("/32", to(&["10.0.0.2/32"])),
            ("any", any()),
            ("v6", to(&["fd00::/8"])),
        ],
        None,
    )
    .unwrap();
    let local = |ip: &str| ConnectionInfo {
        local: SocketAddr::new(ip.parse().unwrap(), 80),
        ..connection(80)
    };
    for (ip, name) in [
        ("10.0.0.2", "/32"),
        ("10.9.0.2", "/8"),
        ("192.168.0.1", "any"),
        ("fd00::1", "v6"),
        ("2001:db8::1", "any"),
        ("::ffff:10.0.0.2", "/32"),
    ] {
        assert_eq!(taken(&listener, &local(ip)), name, "{ip}");
    }
}

#[test]
fn server_names_match_exactly_then_by_their_longest_wildcard() {
    let sni = |texts: &[&str]| ChainMatch {
        server_names: names(texts),
        ..any()
    };
    let listener = listener(
        vec![
            ("exact", sni(&["www.example.com"])),
            ("*.example.com", sni(&["*.example.com"])),
            ("*.com", sni(&["*.com"])),
            ("any", any()),
        ],
        None,
    )
    .unwrap();
    for (name, expected) in [
        (Some("www.example.com"), "exact"),
        (Some("WWW.Example.COM"), "exact"),
        (Some("a.example.com"), "*.example.com"),
        (Some("a.b.example.com"), "*.example.com"),
        (Some("example.com"), "*.com"),
        (Some("example.org"), "any"),
        (Some(".com"), "any"),
        (None, "any"),
    ] {
        let connection = ConnectionInfo {
            server_name: name,
            ..connection(443)
        };
        assert_eq!(taken(&listener, &connection), expected, "{name:?}");
    }
}

#[test]
fn transport_and_application_protocols_are_istios_permissive_sniffing() {
    let tls_alpn = |protocols: &[&str]| ChainMatch {
        transport_protocol: Some(TransportProtocol::Tls),
        application_protocols: protocols.iter().map(|text| (*text).into()).collect(),
        ..any()
    };
    let raw = ChainMatch {
        transport_protocol: Some(TransportProtocol::RawBuffer),
        ..any()
    };
    let raw_http = ChainMatch {
        application_protocols: vec!["http/1.1".into(), "h2c".into()],
        ..raw.clone()
    };
    let listener = listener(
        vec![
            ("mtls http", tls_alpn(&["istio-http/1.1", "istio-h2"])),
            ("mtls tcp", tls_alpn(&["istio-peer-exchange", "istio"])),
            ("tls", tls_alpn(&[])),
            ("http", raw_http),
            ("tcp", raw),
        ],
        None,
    )
    .unwrap();
    let over = |transport_protocol, application_protocols| {
        let connection = ConnectionInfo {
            transport_protocol,
            application_protocols,
            ..connection(9080)
        };
        taken(&listener, &connection)
    };
    use TransportProtocol::{RawBuffer, Tls};
    assert_eq!(
        over(Tls, &["istio-peer-exchange", "istio-h2"]),
        "mtls tcp",
        "the first protocol offered counts"
    );
    assert_eq!(over(Tls, &["istio-h2", "istio"]), "mtls http");
    assert_eq!(over(Tls, &["h2"]), "tls");
    assert_eq!(over(Tls, &[]), "tls");
    assert_eq!(over(RawBuffer, &["http/1.1"]), "http");
    assert_eq!(over(RawBuffer, &[]), "tcp");
}

#[test]
fn sources_come_last() {
    let source = |ranges: &[&str], ports: &[u16]| ChainMatch {
        source_prefix_ranges: nets(ranges),
        source_ports: ports.to_vec(),
        ..any()
    };
    let listener = listener(
        vec![
            ("net", source(&["10.0.0.0/24"], &[])),
            ("host", source(&["10.0.0.9/32"], &[5000])),
            (
                "local",
                ChainMatch {
                    source_type: SourceType::SameIpOrLoopback,
                    ..any()
                },
            ),
            ("any", any()),
            (
                "direct",
                ChainMatch {
                    direct_source_prefix_ranges: nets(&["172.16.0.0/12"]),
                    ..any()
                },
            ),
        ],
        Some("default"),
    )
    .unwrap();
    let from = |text: &str| ConnectionInfo {
        remote: text.parse().unwrap(),
        ..connection(80)
    };
    assert_eq!(taken(&listener, &from("10.0.0.9:5000")), "host");
    assert_eq!(
        taken(&listener, &from("10.0.0.9:5001")),
        "default",
        "the longest prefix is not left again"
    );
    assert_eq!(taken(&listener, &from("10.0.0.8:5000")), "net");
    assert_eq!(taken(&listener, &from("10.1.0.8:5000")), "any");
    assert_eq!(
        taken(
            &listener,
            &ConnectionInfo {
                is_local: true,
                ..from("10.0.0.8:1")
            }
        ),
        "local"
    );
    assert_eq!(
        taken(
            &listener,
            &ConnectionInfo {
                direct_remote: "172.16.0.1:1".parse().unwrap(),
                ..from("10.0.0.8:1")
            }
        ),
        "direct"
    );
}

#[test]
fn chains_with_the_same_conditions_are_refused() {
    let to = |port| ChainMatch {
        destination_port: Some(port),
        ..any()
    };
    let duplicate = listener(vec![("a", to(1)), ("b", to(2)), ("c", to(1))], None).unwrap_err();
    assert_eq!(
        duplicate,
        DuplicateMatch {
            first: 0,
            second: 2
        }
    );
    let alpn = |list: &[&str]| ChainMatch {
        application_protocols: list.iter().map(|text| (*text).into()).collect(),
        ..any()
    };
    assert!(
        listener(
            vec![("a", alpn(&["h2", "http/1.1"])), ("b", alpn(&["h2"]))],
            None
        )
        .is_err()
    );
    assert!(listener(vec![("a", alpn(&["h2", "h2"]))], None).is_ok());
}

#[test]
fn reasons_name_the_first_condition_that_does_not_hold() {
    let listener = listener(
        vec![
            (
                "port",
                ChainMatch {
                    destination_port: Some(81),
                    ..any()
                },
            ),
            (
                "tls",
                ChainMatch {
                    transport_protocol: Some(TransportProtocol::Tls),
                    ..any()
                },
            ),
            ("any", any()),
            (
                "less specific",
                ChainMatch {
                    source_ports: vec![5000],
                    transport_protocol: Some(TransportProtocol::Tls),
                    ..any()
                },
            ),
        ],
        None,
    );
    // The last two share every level but the transport protocol, so nothing is refused.
    let listener = listener.unwrap();
    let (_, trace) = listener.explain_filter_chain(&connection(80));
    let reasons: Vec<_> = trace
        .rejected
        .iter()
        .map(|chain| (&*chain.name, chain.failed, chain.reason.as_str()))
        .collect();
    assert_eq!(
        reasons,
        [
            (
                "port",
                Some(Criterion::DestinationPort),
                "wants destination port 81, the connection has 80"
            ),
            (
                "tls",
                Some(Criterion::TransportProtocol),
                "wants transport protocol tls, the connection has raw_buffer"
            ),
            (
                "less specific",
                Some(Criterion::TransportProtocol),
                "wants transport protocol tls, the connection has raw_buffer"
            ),
        ]
    );
}

#[test]
fn predicates_hold_for_ports() {
    let ports = |start, end| ListenerFilterPredicate::DestinationPorts(start, end);
    let not = |rule| ListenerFilterPredicate::Not(Box::new(rule));
    let rule = ListenerFilterPredicate::Or(vec![
        ports(80, 81),
        ListenerFilterPredicate::And(vec![ports(90, 100), not(ports(95, 96))]),
    ]);
    for (port, expected) in [
        (80, true),
        (81, false),
        (90, true),
        (95, false),
        (99, true),
        (100, false),
    ] {
        assert_eq!(rule.holds(port), expected, "{port}");
    }
}

proptest! {
    #[test]
    fn a_chain_that_is_taken_has_conditions_that_hold(
        chains in prop::collection::vec(
            (prop::option::of(80_u16..82), prop::option::of(0_u8..3), prop::option::of(0_u8..3), any_alpn()), 0..12),
        port in 80_u16..83, host in 0_u8..3, sni in prop::option::of(0_u8..3), alpn in any_alpn(),
    ) {
        let name = |number: u8| ["a.example.com", "*.example.com", "b.com"][usize::from(number)];
        let chains: Vec<_> = chains.into_iter().enumerate().map(|(index, (port, net, sni, alpn))| {
            chain(&index.to_string(), ChainMatch {
                destination_port: port,
                prefix_ranges: net.map(|net| nets(&[["10.0.0.0/8", "10.0.0.1/32", "0.0.0.0/0"][usize::from(net)]])).unwrap_or_default(),
                server_names: sni.map(|sni| names(&[name(sni)])).unwrap_or_default(),
                application_protocols: alpn.iter().map(|text| (*text).into()).collect(),
                ..any()
            })
        }).collect();
        let Ok(index) = ChainIndex::new(&chains) else { return Ok(()) };
        let connection = ConnectionInfo {
            local: SocketAddr::from(([10, 0, 0, host], port)),
            server_name: sni.map(|sni| ["a.example.com", "x.example.com", "b.com"][usize::from(sni)]),
            application_protocols: &alpn,
            ..connection(port)
        };
        if let Some(found) = index.find(&connection) {
            prop_assert_eq!(chains[found].matcher.first_failure(&connection), None);
        }
    }
}

fn any_alpn() -> impl Strategy<Value = Vec<&'static str>> {
    prop::sample::subsequence(vec!["h2", "http/1.1"], 0..=2)
}
