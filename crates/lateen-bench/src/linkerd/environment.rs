//! What linkerd2-proxy is told by its environment: what Linkerd's charts set by default, but for the log and the listeners' backlog.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};

use super::identity::{Root, token, write_request};
use super::{ADMIN, INBOUND, OPAQUE, OUTBOUND, PORTS, Side};

/// The networks that Linkerd takes for a cluster's.
const NETWORKS: &str = "10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fd00::/8";

/// What is the same on both sides. Every name has `LINKERD2_PROXY_` before it.
const COMMON: &[(&str, &str)] = &[
    ("CORES", "1"),
    ("CORES_MIN", "1"),
    ("LOG", "warn"),
    // By default it is 128, and of a thousand connections at once some are reset.
    ("INBOUND_TCP_LISTEN_BACKLOG", "4096"),
    ("OUTBOUND_TCP_LISTEN_BACKLOG", "4096"),
    ("DESTINATION_PROFILE_NETWORKS", NETWORKS),
    ("DESTINATION_PROFILE_SUFFIXES", "svc.cluster.local."),
    ("POLICY_CLUSTER_NETWORKS", NETWORKS),
    ("INBOUND_DEFAULT_POLICY", "all-authenticated"),
    ("INBOUND_CONNECT_TIMEOUT", "100ms"),
    ("OUTBOUND_CONNECT_TIMEOUT", "1000ms"),
    ("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", "5s"),
    ("INBOUND_DISCOVERY_IDLE_TIMEOUT", "90s"),
    ("INBOUND_ACCEPT_KEEPALIVE", "10000ms"),
    ("OUTBOUND_CONNECT_KEEPALIVE", "10000ms"),
    ("INBOUND_ACCEPT_USER_TIMEOUT", "30s"),
    ("OUTBOUND_CONNECT_USER_TIMEOUT", "30s"),
    ("INBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "10s"),
    ("INBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", "3s"),
    ("OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "10s"),
    ("OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_TIMEOUT", "3s"),
];

/// The environment of the proxy in the pod with this address, whose control plane is at `control`, on the pod's loopback.
///
/// The files that it names are put into `dir`, which is to be this proxy's own.
///
/// # Errors
/// They cannot be written, or the root cannot be read.
pub(crate) fn environment(
    side: Side,
    pod: Ipv4Addr,
    control: SocketAddr,
    root: &Root,
    dir: &Path,
) -> Result<Vec<(String, String)>> {
    write_request(side, dir)?;
    let anchors = fs::read_to_string(&root.cert).context("reading the root")?;
    let name = side.name();
    // Without a name of theirs, as they are on the loopback: the proxy speaks to them in plaintext.
    let control = control.to_string();
    let own = [
        ("OUTBOUND_LISTEN_ADDRS", format!("127.0.0.1:{OUTBOUND}")),
        ("INBOUND_LISTEN_ADDR", format!("0.0.0.0:{INBOUND}")),
        ("ADMIN_LISTEN_ADDR", format!("0.0.0.0:{ADMIN}")),
        ("INBOUND_IPS", pod.to_string()),
        ("INBOUND_PORTS", inbound_ports(side)),
        (
            "INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION",
            OPAQUE.to_string(),
        ),
        ("IDENTITY_SVC_ADDR", control.clone()),
        ("DESTINATION_SVC_ADDR", control.clone()),
        ("POLICY_SVC_ADDR", control),
        ("DESTINATION_CONTEXT", context(name)),
        ("POLICY_WORKLOAD", context(name)),
        ("IDENTITY_LOCAL_NAME", side.identity()),
        ("IDENTITY_DIR", dir.display().to_string()),
        ("IDENTITY_TOKEN_FILE", token(dir).display().to_string()),
        ("IDENTITY_TRUST_ANCHORS", anchors),
    ];
    let common = COMMON.iter().map(|(k, v)| (*k, (*v).to_owned()));
    let named = |(name, value)| (format!("LINKERD2_PROXY_{name}"), value);
    Ok(common.chain(own).map(named).collect())
}

/// The ports whose policies are asked for before anyone connects.
fn inbound_ports(side: Side) -> String {
    match side {
        Side::Client => String::new(),
        Side::Server => PORTS.map(|port| port.to_string()).join(","),
    }
}

/// Which pod asks, as control planes are told.
fn context(pod: &str) -> String {
    format!(r#"{{"ns":"default", "pod":"{pod}"}}"#)
}
