//! The node's end of a pod's link: a veth and host routes.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use ipnet::IpNet;
use lateen_sources::plan::PodPlan;

use super::reconcile::PodKey;
use crate::addresses::{NODE_V4, NODE_V6};
use crate::netlink::NetlinkError;
use crate::netlink::link::{self, Links, Route};
use crate::pod::{GATEWAY_V6, POD_INTERFACE};

/// The name of the node's end for one run of a pod; names of interfaces have at most 15 characters.
pub(crate) fn name(key: &PodKey, run: u64) -> String {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    format!(
        "lt{:08x}{:04x}",
        hasher.finish() & 0xffff_ffff,
        run & 0xffff
    )
}

/// Connects the network namespace of process `pid`.
pub(crate) fn connect(
    links: &mut Links,
    name: &str,
    plan: &PodPlan,
    pid: u32,
) -> Result<(), NetlinkError> {
    links.add_veth(name, POD_INTERFACE, pid)?;
    let index = link::index_of(name)?;
    links.set_up(index)?;
    let to = |ip: IpAddr, source: IpAddr| Route {
        to: IpNet::from(ip),
        link: index,
        via: None,
        source: Some(source),
    };
    links.add_route(&to(plan.ipv4.into(), NODE_V4.into()))?;
    if let Some(ipv6) = plan.ipv6 {
        links.add_address(index, link_local())?;
        links.add_route(&to(ipv6.into(), NODE_V6.into()))?;
    }
    Ok(())
}

fn link_local() -> IpNet {
    IpNet::new(GATEWAY_V6.into(), 64).expect("64 is a valid IPv6 prefix length")
}
