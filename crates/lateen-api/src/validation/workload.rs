//! WorkloadEntry, WorkloadGroup, and the endpoints of a ServiceEntry.

use super::{Report, common, forms};
use crate::networking::{ServicePort, WorkloadEntry, WorkloadGroup};

pub(crate) fn entry(spec: &WorkloadEntry, report: &mut Report<'_>) {
    endpoint(spec, None, Address::NameToo, report);
}

/// What an endpoint's address may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Address {
    /// An IP address, or a Unix domain socket.
    Ip,
    /// Also a name, to be looked up.
    NameToo,
    /// An IP address or a name, to be looked up.
    Name,
}

/// An endpoint; its ports are among `ports`, if these are known.
pub(crate) fn endpoint(
    spec: &WorkloadEntry,
    ports: Option<&[ServicePort]>,
    allowed: Address,
    report: &mut Report<'_>,
) {
    let address = spec.address.as_str();
    if address.is_empty() {
        // Reported by the schema, unless there is a network.
        if !spec.network.is_empty() {
            let effect = "it is reached through its network's gateway";
            report.warning("the endpoint has a network, but no address", effect);
        }
    } else if let Some(path) = address
        .strip_prefix("unix://")
        .filter(|_| allowed != Address::Name)
    {
        if let Some(why) = common::unix_path(path) {
            report.error_at("address", why);
        }
        if ports.is_some_and(|ports| ports.len() != 1) {
            let message = "a Unix domain socket needs a service with exactly one port";
            report.error_at("address", message);
        }
    } else if !forms::is_ip(address) {
        let is_name = allowed != Address::Ip && forms::dns_name(address).is_none();
        if !is_name {
            let message = match allowed {
                Address::Ip => format!("`{address}` is not an IP address"),
                Address::NameToo | Address::Name => {
                    format!("`{address}` is neither an IP address nor a host name")
                }
            };
            report.error_at("address", message);
        }
    }
    report.key("ports", |report| {
        for name in spec.ports.keys() {
            let is_known = ports.is_none_or(|ports| ports.iter().any(|port| port.name == *name));
            if !is_known {
                report.error_at(name, format!("the service has no port `{name}`"));
            }
        }
    });
    common::labels("labels", &spec.labels, report);
}

pub(crate) fn group(spec: &WorkloadGroup, report: &mut Report<'_>) {
    report.some("metadata", spec.metadata.as_ref(), |report, metadata| {
        common::labels("labels", &metadata.labels, report);
    });
    report.some("probe", spec.probe.as_ref(), |report, probe| {
        let has_method = probe.http_get.is_some()
            || probe.tcp_socket.is_some()
            || probe.exec.is_some()
            || probe.grpc.is_some();
        if !has_method {
            report.error("a probe needs one of httpGet, tcpSocket, exec and grpc");
        }
        report.some("exec", probe.exec.as_ref(), |report, exec| {
            if exec.command.is_empty() {
                report.error_at("command", "the command is empty");
            }
        });
    });
}
