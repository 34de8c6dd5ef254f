//! Links, addresses and routes of the current network namespace.

use std::net::IpAddr;

use ipnet::IpNet;
use rustix::io::Errno;

use super::{Message, NLM_F_CREATE, NLM_F_EXCL, NetlinkError, Socket};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWRULE: u16 = 32;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const IFF_UP: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_PID: u16 = 19;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// No duplicate address detection: the address is usable at once, and there is nobody else on the wire.
const IFA_F_NODAD: u32 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_HOST: u8 = 254;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;

const FR_ACT_TO_TBL: u8 = 1;
const FRA_FWMARK: u16 = 10;

/// A connection to the kernel's tables of the network namespace it was opened in.
#[derive(Debug)]
pub struct Links {
    socket: Socket,
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub to: IpNet,
    /// Through which link.
    pub link: u32,
    /// By which next hop; `None`: the link leads there.
    pub via: Option<IpAddr>,
    /// The source address of own traffic.
    pub source: Option<IpAddr>,
}

impl Links {
    /// Opens a connection.
    ///
    /// # Errors
    /// When netlink is not available at all.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: Socket::route()?,
        })
    }

    /// Makes a pair of connected interfaces: `here` in this namespace, `there` in that of process `pid`.
    ///
    /// The pair disappears with either namespace.
    ///
    /// # Errors
    /// When a name is taken, the process is gone, or this process may not administer the namespace.
    pub fn add_veth(&mut self, here: &str, there: &str, pid: u32) -> Result<(), NetlinkError> {
        self.socket.request(veth_message(here, there, pid))
    }

    /// Removes an interface; it is no error if there is none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete(&mut self, name: &str) -> Result<(), NetlinkError> {
        let what = format!("remove interface {name}");
        let mut message = Message::new(RTM_DELLINK, 0, &link_header(0, 0), what);
        message.attr_str(IFLA_IFNAME, name);
        match self.socket.request(message) {
            Err(e) if e.errno() == Some(Errno::NODEV) => Ok(()),
            other => other,
        }
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        let what = format!("set interface {index} up");
        self.socket.request(Message::new(
            RTM_NEWLINK,
            0,
            &link_header(index, IFF_UP),
            what,
        ))
    }

    /// Gives an interface an address; it is no error if it has it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_address(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        ignore_existing(self.socket.request(address_message(index, address)))
    }

    /// Adds a route; it is no error if it exists.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        ignore_existing(self.socket.request(route_message(route)))
    }

    /// Delivers what carries a mark to this machine, whatever its destination: by a rule, and a routing table of its own.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn deliver_marked(
        &mut self,
        mark: u32,
        table: u8,
        any: IpNet,
        loopback: u32,
    ) -> Result<(), NetlinkError> {
        ignore_existing(self.socket.request(local_route(any, table, loopback)))?;
        ignore_existing(self.socket.request(mark_rule(mark, table, any)))
    }
}

/// The index of an interface of this namespace.
///
/// # Errors
/// When there is none of that name.
pub fn index_of(name: &str) -> Result<u32, NetlinkError> {
    let failed = |source| NetlinkError::Refused {
        request: format!("find {name}"),
        source,
    };
    let (family, kind) = (
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
    );
    let fd = rustix::net::socket(family, kind, None).map_err(failed)?;
    rustix::net::netdevice::name_to_index(fd, name).map_err(failed)
}

fn ignore_existing(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(e) if e.errno() == Some(Errno::EXIST) => Ok(()),
        other => other,
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

fn veth_message(here: &str, there: &str, pid: u32) -> Message {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let what = format!("make interface {here} with its peer in the namespace of process {pid}");
    let mut message = Message::new(RTM_NEWLINK, flags, &link_header(0, 0), what);
    message.attr_str(IFLA_IFNAME, here);
    message.nest(IFLA_LINKINFO, |info| {
        info.attr_str(IFLA_INFO_KIND, "veth");
        info.nest(IFLA_INFO_DATA, |data| {
            data.nest(VETH_INFO_PEER, |peer| {
                peer.raw(&link_header(0, 0));
                peer.attr_str(IFLA_IFNAME, there);
                peer.attr(IFLA_NET_NS_PID, &pid.to_ne_bytes());
            });
        });
    });
    message
}

fn address_message(index: u32, address: IpNet) -> Message {
    let mut header = [0; 8];
    header[0] = family(address.addr());
    header[1] = address.prefix_len();
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let what = format!("give interface {index} the address {address}");
    let mut message = Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &header, what);
    message.attr(IFA_LOCAL, &octets(address.addr()));
    message.attr(IFA_ADDRESS, &octets(address.addr()));
    if address.addr().is_ipv6() {
        message.attr(IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes());
    }
    message
}

fn route_message(route: &Route) -> Message {
    let scope = if route.via.is_some() {
        RT_SCOPE_UNIVERSE
    } else {
        RT_SCOPE_LINK
    };
    let mut header = [0; 12];
    header[0] = family(route.to.addr());
    header[1] = route.to.prefix_len();
    header[4..8].copy_from_slice(&[RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST]);
    let what = format!("add a route to {}", route.to);
    let mut message = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &header, what);
    if route.to.prefix_len() > 0 {
        message.attr(RTA_DST, &octets(route.to.network()));
    }
    message.attr(RTA_OIF, &route.link.to_ne_bytes());
    if let Some(via) = route.via {
        message.attr(RTA_GATEWAY, &octets(via));
    }
    if let Some(source) = route.source {
        message.attr(RTA_PREFSRC, &octets(source));
    }
    message
}

/// A route of type `local`: everything it covers is an address of this machine.
fn local_route(any: IpNet, table: u8, loopback: u32) -> Message {
    let mut header = [0; 12];
    header[0] = family(any.addr());
    header[4..8].copy_from_slice(&[table, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL]);
    let what = format!("add a local route to {any} in table {table}");
    let mut message = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &header, what);
    message.attr(RTA_OIF, &loopback.to_ne_bytes());
    message
}

/// `struct fib_rule_hdr`, then the mark.
fn mark_rule(mark: u32, table: u8, any: IpNet) -> Message {
    let mut header = [0; 12];
    header[0] = family(any.addr());
    header[4] = table;
    header[7] = FR_ACT_TO_TBL;
    let what = format!("add a rule for mark {mark} to table {table}");
    let mut message = Message::new(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, &header, what);
    message.attr(FRA_FWMARK, &mark.to_ne_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_veth_request_names_both_ends_and_the_peers_namespace() {
        let bytes = veth_message("lt1", "eth0", 77).finish(1);
        // ifinfomsg, IFLA_IFNAME "lt1", then IFLA_LINKINFO{kind, data{peer{ifinfomsg, name, namespace}}}.
        let expected_tail = [
            &[12, 0, 3, 0][..],
            b"eth0\0",
            &[0; 3],
            &[8, 0, 19, 0],
            &77u32.to_ne_bytes(),
        ];
        let tail: Vec<u8> = expected_tail.concat();
        let mut fixed = tail.clone();
        fixed[0] = 9; // the name's length leaves padding out
        assert!(bytes.ends_with(&fixed), "{bytes:?}");
        assert_eq!(&bytes[32..40], [8, 0, 3, 0, b'l', b't', b'1', 0]);
    }

    #[test]
    fn a_default_route_has_no_destination_attribute() {
        let default: IpNet = "0.0.0.0/0".parse().unwrap();
        let via = Some("10.244.0.1".parse().unwrap());
        let bytes = route_message(&Route {
            to: default,
            link: 2,
            via,
            source: None,
        })
        .finish(1);
        assert_eq!(&bytes[28..36], [8, 0, 4, 0, 2, 0, 0, 0]);
        assert_eq!(&bytes[36..44], [8, 0, 5, 0, 10, 244, 0, 1]);
    }
}
