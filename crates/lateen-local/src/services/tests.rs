//! Rules of services, as text and in the kernel.

use super::*;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn endpoints_have_equal_chances() {
    let endpoints = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"].map(address);
    let rules: Vec<String> = balance(Protocol::Tcp, &endpoints)
        .iter()
        .map(Rule::to_string)
        .collect();
    assert_eq!(
        rules,
        [
            "meta l4proto tcp numgen random mod 3 0 dnat ip to 10.0.0.1:80",
            "meta l4proto tcp numgen random mod 2 0 dnat ip to 10.0.0.2:80",
            "meta l4proto tcp dnat ip to 10.0.0.3:80",
        ]
    );
}

#[test]
fn an_endpoint_serves_addresses_of_its_family_only() {
    let vip = ServiceVip {
        ips: vec![
            "10.96.0.20".parse().unwrap(),
            "fd00:10:96::20".parse().unwrap(),
        ],
        port: 80,
        endpoints: vec![address("10.244.0.5:8080")],
        ..ServiceVip::default()
    };
    let wanted = wanted(&[vip]);
    assert_eq!(wanted[&(address("10.96.0.20:80"), Protocol::Tcp)].len(), 1);
    assert_eq!(
        wanted[&(address("[fd00:10:96::20]:80"), Protocol::Tcp)].len(),
        0
    );
}

#[test]
fn without_maps_each_service_is_a_rule() {
    let wanted = BTreeMap::from([
        (
            (address("10.96.0.20:80"), Protocol::Tcp),
            vec![address("10.244.0.5:8080")],
        ),
        ((address("10.96.0.21:53"), Protocol::Udp), vec![]),
    ]);
    let text = crate::rules::iptables::restore_text(&plain_table(&wanted), Family::V4);
    assert!(
        text.contains("-A PREROUTING -d 10.96.0.20/32 -p tcp -m multiport --dports 80 -g svc-")
    );
    assert!(text.contains("-p tcp -j DNAT --to-destination 10.244.0.5:8080"));
    assert!(text.contains("-A FORWARD -d 10.96.0.21/32 -p udp -m multiport --dports 53 -g refuse"));
    assert!(text.contains("-A POSTROUTING -s 10.244.0.5/32 -d 10.244.0.5/32 -j MASQUERADE"));
}
