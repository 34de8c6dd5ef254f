//! Enters the node's own namespaces: the little machine whose network the pods hang on.
//!
//! It happens once, at process start, before any thread exists. Host ports are opened before, because afterwards
//! the machine's network is out of reach; their connections are carried over by [`crate::publish`].

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use ipnet::IpNet;
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;

use crate::addresses::{DNS_V4, DNS_V6, ISTIOD_V4, ISTIOD_V6, NODE_V4, NODE_V6};
use crate::netlink::NetlinkError;
use crate::netlink::link::{self, Links, Route};
use crate::sys::{self, Unshare};

/// What to open before leaving the machine's network.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// Host addresses to listen on, such as `127.0.0.1:18080`.
    pub listen: Vec<SocketAddr>,
}

/// The entered node.
#[derive(Debug)]
pub struct Node {
    /// Listeners of the machine, in the order of [`NodeOptions::listen`]; not yet non-blocking.
    pub listeners: Vec<TcpListener>,
    /// Whether a user namespace was needed: then there is one uid only.
    pub rootless: bool,
    /// Whether the kernel has IPv6.
    pub ipv6: bool,
}

/// The node's namespaces could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A host port is taken or not allowed.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Called too late.
    #[error(
        "the node's namespaces have to be entered before any thread is started (there are {0})"
    )]
    Threads(usize),
    /// Neither root nor user namespaces.
    #[error("{}", user_namespace_advice(*source))]
    UserNamespace {
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// Root, but not with all rights.
    #[error(
        "cannot make network and mount namespaces; in a container, give it the capabilities SYS_ADMIN and NET_ADMIN \
         (docker run --cap-add SYS_ADMIN --cap-add NET_ADMIN --security-opt apparmor=unconfined)"
    )]
    Namespaces {
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A file of `/proc` could not be written.
    #[error("cannot write {path}")]
    Proc {
        /// Which.
        path: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Mounts could not be separated from the machine's.
    #[error("cannot make mounts private")]
    Mounts(#[source] Errno),
    /// The network could not be set up.
    #[error("cannot set up the node's network")]
    Network(#[source] NetlinkError),
}

/// Opens host ports, then moves this process into namespaces of its own and sets up the node's network there.
///
/// # Errors
/// See [`NodeError`]; nothing is left behind, since all of it belongs to this process.
pub fn enter(options: &NodeOptions) -> Result<Node, NodeError> {
    let threads = sys::thread_count().unwrap_or(1);
    if threads != 1 {
        return Err(NodeError::Threads(threads));
    }
    let mut listeners = Vec::with_capacity(options.listen.len());
    for address in &options.listen {
        let opened = TcpListener::bind(address);
        listeners.push(opened.map_err(|source| NodeError::Listen {
            address: *address,
            source,
        })?);
    }
    let rootless = enter_namespaces()?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(NodeError::Mounts)?;
    let ipv6 = set_up_network().map_err(NodeError::Network)?;
    enable_forwarding(ipv6)?;
    Ok(Node {
        listeners,
        rootless,
        ipv6,
    })
}

/// As root directly, else (or as a root without rights) by way of a user namespace. Gives whether it took one.
fn enter_namespaces() -> Result<bool, NodeError> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() {
        match sys::unshare(Unshare::Node) {
            Ok(()) => return Ok(false),
            Err(Errno::PERM) => {}
            Err(source) => return Err(NodeError::Namespaces { source }),
        }
    }
    sys::unshare(Unshare::User).map_err(|source| NodeError::UserNamespace { source })?;
    // A process without rights outside may map itself only, and only after giving up setgroups(2).
    write_proc("/proc/self/setgroups", "deny")?;
    write_proc("/proc/self/uid_map", &format!("0 {} 1", uid.as_raw()))?;
    write_proc("/proc/self/gid_map", &format!("0 {} 1", gid.as_raw()))?;
    // With AppArmor's restriction the namespace can be made, but gives no rights in it.
    sys::unshare(Unshare::Node).map_err(|source| match source {
        Errno::PERM | Errno::ACCESS => NodeError::UserNamespace { source },
        source => NodeError::Namespaces { source },
    })?;
    Ok(true)
}

/// Addresses go on `lo`: it always exists, and the kernel answers for them on every interface.
fn set_up_network() -> Result<bool, NetlinkError> {
    let mut links = Links::open()?;
    let lo = link::index_of("lo")?;
    links.set_up(lo)?;
    for address in [NODE_V4, ISTIOD_V4, DNS_V4] {
        links.add_address(lo, IpNet::from(IpAddr::V4(address)))?;
    }
    // An address without a link is looked up before it is translated to an endpoint, and needs a route until then.
    // (IPv6 has no such routes; there the node itself reaches pods by their addresses only.)
    links.add_route(&Route {
        to: everything(),
        link: lo,
        via: None,
        source: Some(NODE_V4.into()),
    })?;
    for address in [NODE_V6, ISTIOD_V6, DNS_V6] {
        match links.add_address(lo, IpNet::from(IpAddr::V6(address))) {
            Ok(()) => {}
            Err(error) => {
                tracing::debug!(%error, "no IPv6 on this machine");
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn everything() -> IpNet {
    IpNet::new(Ipv4Addr::UNSPECIFIED.into(), 0).expect("0 is a valid prefix length")
}

fn enable_forwarding(ipv6: bool) -> Result<(), NodeError> {
    write_proc("/proc/sys/net/ipv4/ip_forward", "1")?;
    if ipv6 {
        write_proc("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

fn write_proc(path: &'static str, value: &str) -> Result<(), NodeError> {
    fs::write(path, value).map_err(|source| NodeError::Proc { path, source })
}

/// Says what to enable, looking at the settings that exist on this machine.
fn user_namespace_advice(errno: Errno) -> String {
    let mut advice =
        format!("an ordinary user needs user namespaces, and this machine refuses them ({errno})");
    let settings = [
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "kernel.unprivileged_userns_clone=1",
        ),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (
            "/proc/sys/user/max_user_namespaces",
            "0",
            "user.max_user_namespaces=15000",
        ),
        (
            "/proc/sys/user/max_net_namespaces",
            "0",
            "user.max_net_namespaces=15000",
        ),
    ];
    let blocking: Vec<&str> = settings
        .iter()
        .filter(|(path, bad, _)| fs::read_to_string(path).is_ok_and(|v| v.trim() == *bad))
        .map(|(_, _, fix)| *fix)
        .collect();
    if blocking.is_empty() {
        advice.push_str(
            "; if this is a container, start it with --security-opt seccomp=unconfined \
             --security-opt apparmor=unconfined, or run lateen as root",
        );
    } else {
        advice.push_str("; enable them with `sudo sysctl -w ");
        advice.push_str(&blocking.join(" "));
        advice.push_str("`, or run lateen as root");
    }
    advice
}
