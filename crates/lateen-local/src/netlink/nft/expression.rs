//! A rule as nf_tables' expressions: loads into registers, comparisons, then the action.
//!
//! Register 1 is 16 bytes wide and is the same as the 32-bit registers 8 to 11; keys of several parts use the latter.

use super::{NFT_GOTO, mask, octets, set_id, verdict};
use crate::netlink::Message;
use crate::rules::{Action, Family, Is, Match, Reject, Rule};

const VERDICT: u32 = 0;
const R1: u32 = 1;
/// The 32-bit register with which register 1 begins.
const R32: u32 = 8;
const R2: u32 = 2;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_SKUID: u32 = 10;
const META_SKGID: u32 = 11;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// The connection's mark, among the keys of `ct`.
const CT_MARK: u32 = 3;
/// The connection's state, among the keys of `ct`: a bit set.
const CT_STATE: u32 = 0;
/// `NF_CT_STATE_BIT` of `IP_CT_ESTABLISHED` and `IP_CT_RELATED`.
const CT_ESTABLISHED_OR_RELATED: u32 = 0x6;

const NF_ACCEPT: i32 = 1;
const NFT_RETURN: i32 = -5;
const NFT_JUMP: i32 = -3;
/// `NF_NAT_RANGE_MAP_IPS | NF_NAT_RANGE_PROTO_SPECIFIED`.
const ADDRESS_AND_PORT: u32 = 3;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`.
const PORT_ONLY: u32 = 2;

/// Appends the expressions of a rule.
pub(super) fn rule(list: &mut Message, rule: &Rule) {
    for m in &rule.matches {
        condition(list, m);
    }
    action(list, &rule.action);
}

fn expression(list: &mut Message, name: &str, data: impl FnOnce(&mut Message)) {
    list.nest(1, |e| {
        e.attr_str(1, name);
        e.nest(2, data);
    });
}

fn condition(list: &mut Message, m: &Match) {
    match *m {
        Match::Family(family) => is_family(list, family),
        Match::ToLoopback => is_loopback(list, META_OIFNAME),
        Match::FromLoopback => is_loopback(list, META_IIFNAME),
        Match::Tcp => is_protocol(list, TCP),
        Match::Udp => is_protocol(list, UDP),
        Match::Source(net, is) => address(list, &net, Side::Source, is),
        Match::Destination(net, is) => address(list, &net, Side::Destination, is),
        Match::Port(port, is) => {
            payload(list, TRANSPORT_HEADER, 2, 2, R1);
            compare(list, R1, is, &port.to_be_bytes());
        }
        Match::Mark(mark, is) => meta_is(list, META_MARK, mark, is),
        Match::ConnectionMark(mark) => {
            expression(list, "ct", |e| {
                e.attr_be32(1, R1).attr_be32(2, CT_MARK);
            });
            compare(list, R1, Is::Eq, &mark.to_ne_bytes());
        }
        Match::Established => {
            expression(list, "ct", |e| {
                e.attr_be32(1, R1).attr_be32(2, CT_STATE);
            });
            bits(list, &CT_ESTABLISHED_OR_RELATED.to_ne_bytes());
            compare(list, R1, Is::Ne, &0u32.to_ne_bytes());
        }
        Match::Uid(id, is) => meta_is(list, META_SKUID, id, is),
        Match::Gid(id, is) => meta_is(list, META_SKGID, id, is),
        Match::OneIn(n) => {
            expression(list, "numgen", |e| {
                e.attr_be32(1, R1)
                    .attr_be32(2, n)
                    .attr_be32(3, 1)
                    .attr_be32(4, 0);
            });
            compare(list, R1, Is::Eq, &0u32.to_ne_bytes());
        }
    }
}

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

/// Where an address is in its header, and how long it is.
fn place(family: Family, side: Side) -> (u32, u32) {
    match (family, side) {
        (Family::V4, Side::Source) => (12, 4),
        (Family::V4, Side::Destination) => (16, 4),
        (Family::V6, Side::Source) => (8, 16),
        (Family::V6, Side::Destination) => (24, 16),
    }
}

fn address(list: &mut Message, net: &ipnet::IpNet, side: Side, is: Is) {
    let family = Family::of(net.addr());
    is_family(list, family);
    let (offset, length) = place(family, side);
    payload(list, NETWORK_HEADER, offset, length, R1);
    if u32::from(net.prefix_len()) < length * 8 {
        bits(list, &mask(net));
    }
    compare(list, R1, is, &octets(net.network()));
}

/// Keeps those bits of register 1 that are set in `mask`.
fn bits(list: &mut Message, mask: &[u8]) {
    let length = u32::try_from(mask.len()).expect("a register has 16 bytes");
    expression(list, "bitwise", |e| {
        e.attr_be32(1, R1).attr_be32(2, R1).attr_be32(3, length);
        e.nest(4, |d| {
            d.attr(1, mask);
        });
        e.nest(5, |d| {
            d.attr(1, &vec![0; mask.len()]);
        });
    });
}

fn is_family(list: &mut Message, family: Family) {
    let number = match family {
        Family::V4 => NFPROTO_IPV4,
        Family::V6 => NFPROTO_IPV6,
    };
    meta(list, META_NFPROTO, R1);
    compare(list, R1, Is::Eq, &[number]);
}

fn is_loopback(list: &mut Message, key: u32) {
    let mut name = [0; 16];
    name[..2].copy_from_slice(b"lo");
    meta(list, key, R1);
    compare(list, R1, Is::Eq, &name);
}

fn is_protocol(list: &mut Message, protocol: u8) {
    meta(list, META_L4PROTO, R1);
    compare(list, R1, Is::Eq, &[protocol]);
}

fn meta_is(list: &mut Message, key: u32, value: u32, is: Is) {
    meta(list, key, R1);
    compare(list, R1, is, &value.to_ne_bytes());
}

fn meta(list: &mut Message, key: u32, register: u32) {
    expression(list, "meta", |e| {
        e.attr_be32(1, register).attr_be32(2, key);
    });
}

fn payload(list: &mut Message, base: u32, offset: u32, length: u32, register: u32) {
    expression(list, "payload", |e| {
        e.attr_be32(1, register)
            .attr_be32(2, base)
            .attr_be32(3, offset)
            .attr_be32(4, length);
    });
}

fn compare(list: &mut Message, register: u32, is: Is, value: &[u8]) {
    let operator = match is {
        Is::Eq => 0,
        Is::Ne => 1,
    };
    expression(list, "cmp", |e| {
        e.attr_be32(1, register).attr_be32(2, operator);
        e.nest(3, |d| {
            d.attr(1, value);
        });
    });
}

fn immediate(list: &mut Message, register: u32, value: &[u8]) {
    expression(list, "immediate", |e| {
        e.attr_be32(1, register);
        e.nest(2, |d| {
            d.attr(1, value);
        });
    });
}

fn end_with(list: &mut Message, code: i32, chain: Option<&str>) {
    expression(list, "immediate", |e| {
        e.attr_be32(1, VERDICT);
        e.nest(2, |d| verdict(d, code, chain));
    });
}

fn action(list: &mut Message, action: &Action) {
    match action {
        Action::Return => end_with(list, NFT_RETURN, None),
        Action::Jump(chain) => end_with(list, NFT_JUMP, Some(chain)),
        Action::Goto(chain) => end_with(list, NFT_GOTO, Some(chain)),
        Action::Accept => end_with(list, NF_ACCEPT, None),
        Action::Tproxy(port) => {
            immediate(list, R1, &port.to_be_bytes());
            // Without a family and an address: the socket of the packet's own.
            expression(list, "tproxy", |e| {
                e.attr_be32(1, 0).attr_be32(3, R1);
            });
        }
        Action::SetMark(mark) => {
            immediate(list, R1, &mark.to_ne_bytes());
            set_packet_mark(list);
        }
        Action::SaveMark => {
            meta(list, META_MARK, R1);
            expression(list, "ct", |e| {
                e.attr_be32(2, CT_MARK).attr_be32(4, R1);
            });
        }
        Action::RestoreMark => {
            expression(list, "ct", |e| {
                e.attr_be32(1, R1).attr_be32(2, CT_MARK);
            });
            set_packet_mark(list);
        }
        Action::Redirect(port) => {
            immediate(list, R1, &port.to_be_bytes());
            expression(list, "redir", |e| {
                e.attr_be32(1, R1).attr_be32(2, R1).attr_be32(3, PORT_ONLY);
            });
        }
        Action::Dnat(to) => dnat(list, *to),
        Action::Masquerade => expression(list, "masq", |_| {}),
        Action::Reject(how) => reject(list, *how),
        Action::Dispatch(map, family) => dispatch(list, map, *family),
        Action::MasqueradePairs(set, family) => {
            is_family(list, *family);
            let (source, length) = place(*family, Side::Source);
            payload(list, NETWORK_HEADER, source, 2 * length, R1);
            lookup(list, set, None);
            expression(list, "masq", |_| {});
        }
    }
}

/// From register 1.
fn set_packet_mark(list: &mut Message) {
    expression(list, "meta", |e| {
        e.attr_be32(2, META_MARK).attr_be32(3, R1);
    });
}

fn dnat(list: &mut Message, to: std::net::SocketAddr) {
    let family = if to.is_ipv4() {
        NFPROTO_IPV4
    } else {
        NFPROTO_IPV6
    };
    immediate(list, R1, &octets(to.ip()));
    immediate(list, R2, &to.port().to_be_bytes());
    expression(list, "nat", |e| {
        e.attr_be32(1, 1).attr_be32(2, u32::from(family));
        e.attr_be32(3, R1)
            .attr_be32(4, R1)
            .attr_be32(5, R2)
            .attr_be32(6, R2);
        e.attr_be32(7, ADDRESS_AND_PORT);
    });
}

fn reject(list: &mut Message, how: Reject) {
    const TCP_RST: u32 = 1;
    const ICMPX_UNREACH: u32 = 2;
    let (kind, code) = match how {
        Reject::Reset => (TCP_RST, 0),
        Reject::NoRoute => (ICMPX_UNREACH, 0),
        Reject::Port => (ICMPX_UNREACH, 1),
    };
    expression(list, "reject", |e| {
        e.attr_be32(1, kind).attr(2, &[code]);
    });
}

fn dispatch(list: &mut Message, map: &str, family: Family) {
    let (offset, length) = place(family, Side::Destination);
    let after = R32 + length / 4;
    is_family(list, family);
    payload(list, NETWORK_HEADER, offset, length, R1);
    meta(list, META_L4PROTO, after);
    payload(list, TRANSPORT_HEADER, 2, 2, after + 1);
    lookup(list, map, Some(VERDICT));
}

fn lookup(list: &mut Message, set: &str, into: Option<u32>) {
    expression(list, "lookup", |e| {
        e.attr_str(1, set).attr_be32(2, R1);
        if let Some(into) = into {
            e.attr_be32(3, into);
        }
        e.attr_be32(4, set_id(set));
    });
}
