//! nf_tables over netlink: tables, chains, rules with their expressions, sets and maps.
//!
//! Every function makes messages; nothing is sent here. Numbers are those of `linux/netfilter/nf_tables.h`.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{Message, NLM_F_APPEND, NLM_F_CREATE};
use crate::rules::{Chain, Family, Rule, Table};

mod expression;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
/// Family of tables that see IPv4 and IPv6.
const NFPROTO_INET: u8 = 1;

const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;

const NF_ACCEPT: u32 = 1;
const NFT_GOTO: i32 = -4;
const NFT_DATA_VERDICT: u32 = 0xffff_ff00;
const NFT_SET_MAP: u32 = 0x8;

// What `nft list` calls the parts of a key; the kernel only keeps them.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const TYPE_BITS: u32 = 6;

/// Opens a transaction.
pub(super) fn batch_begin() -> Message {
    batch_end_or_begin(NFNL_MSG_BATCH_BEGIN)
}

/// Commits it.
pub(super) fn batch_end() -> Message {
    batch_end_or_begin(NFNL_MSG_BATCH_END)
}

fn batch_end_or_begin(kind: u16) -> Message {
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    Message::new(kind, 0, &[0, 0, high, low], "begin or end a transaction")
}

fn message(kind: u16, flags: u16, what: String) -> Message {
    Message::new(
        (NFNL_SUBSYS_NFTABLES << 8) | kind,
        flags,
        &[NFPROTO_INET, 0, 0, 0],
        what,
    )
}

/// Makes a table unless it exists.
pub(crate) fn add_table(name: &str) -> Message {
    let mut m = message(NEWTABLE, NLM_F_CREATE, format!("add table inet {name}"));
    m.attr_str(1, name).attr_be32(2, 0);
    m
}

/// Removes a table and all in it.
pub(crate) fn delete_table(name: &str) -> Message {
    let mut m = message(DELTABLE, 0, format!("delete table inet {name}"));
    m.attr_str(1, name);
    m
}

/// Replaces a table as a whole: in one transaction with this, there is no moment without rules.
pub(crate) fn replace_table(table: &Table) -> Vec<Message> {
    let mut messages = vec![
        add_table(table.name),
        delete_table(table.name),
        add_table(table.name),
    ];
    messages.extend(
        table
            .chains
            .iter()
            .map(|chain| add_chain(table.name, chain)),
    );
    for chain in &table.chains {
        messages.extend(
            chain
                .rules
                .iter()
                .map(|rule| add_rule(table.name, &chain.name, rule)),
        );
    }
    messages
}

/// Makes a chain unless it exists.
pub(crate) fn add_chain(table: &str, chain: &Chain) -> Message {
    let mut m = message(NEWCHAIN, NLM_F_CREATE, format!("add chain {}", chain.name));
    m.attr_str(1, table).attr_str(3, &chain.name);
    if let Some(hook) = chain.hook {
        let (kind, number, _, priority) = hook.parts();
        m.nest(4, |h| {
            h.attr_be32(1, number)
                .attr_be32(2, priority.cast_unsigned());
        });
        m.attr_be32(5, NF_ACCEPT).attr_str(7, kind);
    }
    m
}

/// Removes an empty chain nothing refers to.
pub(crate) fn delete_chain(table: &str, chain: &str) -> Message {
    let mut m = message(DELCHAIN, 0, format!("delete chain {chain}"));
    m.attr_str(1, table).attr_str(3, chain);
    m
}

/// Removes all rules of a chain.
pub(crate) fn flush_chain(table: &str, chain: &str) -> Message {
    let mut m = message(DELRULE, 0, format!("flush chain {chain}"));
    m.attr_str(1, table).attr_str(2, chain);
    m
}

/// Appends a rule to a chain.
pub(crate) fn add_rule(table: &str, chain: &str, rule: &Rule) -> Message {
    let what = format!("add rule to {chain}: {rule}");
    let mut m = message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, what);
    m.attr_str(1, table).attr_str(2, chain);
    m.nest(4, |list| expression::rule(list, rule));
    m
}

/// Makes a map from destination address, protocol and port to a chain.
pub(crate) fn add_dispatch_map(table: &str, name: &str, family: Family) -> Message {
    let (address, length) = address_type(family);
    let key_type = (address << (2 * TYPE_BITS)) | (TYPE_PROTOCOL << TYPE_BITS) | TYPE_PORT;
    let mut m = message(NEWSET, NLM_F_CREATE, format!("add map {name}"));
    m.attr_str(1, table)
        .attr_str(2, name)
        .attr_be32(3, NFT_SET_MAP);
    m.attr_be32(4, key_type).attr_be32(5, length + 8);
    m.attr_be32(6, NFT_DATA_VERDICT).attr_be32(7, 0);
    m.attr_be32(10, set_id(name));
    m
}

/// Makes a set of pairs of addresses.
pub(crate) fn add_pair_set(table: &str, name: &str, family: Family) -> Message {
    let (address, length) = address_type(family);
    let mut m = message(NEWSET, NLM_F_CREATE, format!("add set {name}"));
    m.attr_str(1, table).attr_str(2, name).attr_be32(3, 0);
    m.attr_be32(4, (address << TYPE_BITS) | address)
        .attr_be32(5, 2 * length);
    m.attr_be32(10, set_id(name));
    m
}

/// A key of a dispatch map.
pub(crate) fn dispatch_key(to: SocketAddr, protocol: u8) -> Vec<u8> {
    let mut key = octets(to.ip());
    key.extend([protocol, 0, 0, 0]);
    key.extend(to.port().to_be_bytes());
    key.extend([0, 0]);
    key
}

/// A key of a pair set: an address with itself.
pub(crate) fn pair_key(address: IpAddr) -> Vec<u8> {
    octets(address).repeat(2)
}

/// Adds an element to a set, or to a map with the chain it leads to.
pub(crate) fn add_element(table: &str, set: &str, key: &[u8], chain: Option<&str>) -> Message {
    let mut m = message(NEWSETELEM, NLM_F_CREATE, format!("add an element to {set}"));
    element(&mut m, table, set, key, chain);
    m
}

/// Removes an element.
pub(crate) fn delete_element(table: &str, set: &str, key: &[u8]) -> Message {
    let mut m = message(DELSETELEM, 0, format!("remove an element from {set}"));
    element(&mut m, table, set, key, None);
    m
}

fn element(m: &mut Message, table: &str, set: &str, key: &[u8], chain: Option<&str>) {
    m.attr_str(1, table).attr_str(2, set);
    m.nest(3, |list| {
        list.nest(1, |element| {
            element.nest(1, |data| {
                data.attr(1, key);
            });
            if let Some(chain) = chain {
                element.nest(2, |data| verdict(data, NFT_GOTO, Some(chain)));
            }
        });
    });
}

fn verdict(data: &mut Message, code: i32, chain: Option<&str>) {
    data.nest(2, |v| {
        v.attr_be32(1, code.cast_unsigned());
        if let Some(chain) = chain {
            v.attr_str(2, chain);
        }
    });
}

fn address_type(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (TYPE_IPV4, 4),
        Family::V6 => (TYPE_IPV6, 16),
    }
}

/// Sets made in one transaction are told apart by a number; ours have fixed names.
fn set_id(name: &str) -> u32 {
    name.bytes().fold(17, |id: u32, b| {
        id.wrapping_mul(31).wrapping_add(u32::from(b))
    })
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn mask(net: &IpNet) -> Vec<u8> {
    octets(net.netmask())
}
