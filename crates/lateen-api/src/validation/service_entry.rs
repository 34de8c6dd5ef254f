//! ServiceEntry.

use super::common::{self, Export};
use super::forms::Protocol;
use super::workload::{self, Address};
use super::{Report, forms};
use crate::host;
use crate::networking::{Resolution, ServiceEntry, ServicePort};

/// The label that binds an object to a waypoint.
const USE_WAYPOINT: &str = "istio.io/use-waypoint";

pub(crate) fn check(spec: &ServiceEntry, report: &mut Report<'_>) {
    common::networking_selector(spec.workload_selector.as_ref(), report);
    hosts(spec, report);
    report.each("addresses", &spec.addresses, |report, address| {
        if !forms::is_ip_or_cidr(address) {
            report.error(format!(
                "`{address}` is neither an IP address nor a CIDR range"
            ));
        }
    });
    report.each("ports", &spec.ports, |report, port| {
        check_port(spec, port, report)
    });
    match spec.resolution {
        Resolution::None => none(spec, report),
        Resolution::Static => report.each("endpoints", &spec.endpoints, |report, endpoint| {
            workload::endpoint(endpoint, Some(&spec.ports), Address::Ip, report);
        }),
        Resolution::Dns | Resolution::DnsRoundRobin => dns(spec, report),
        Resolution::DynamicDns => dynamic_dns(spec, report),
    }
    if spec.resolution != Resolution::None && spec.hosts.len() > 1 {
        several_hosts(spec, report);
    }
    common::export_to(&spec.export_to, Export::ServiceEntry, report);
}

fn hosts(spec: &ServiceEntry, report: &mut Report<'_>) {
    report.each("hosts", &spec.hosts, |report, name| {
        if name == "*" {
            return;
        }
        if let Some(why) = forms::wildcard_name(name) {
            report.error(why);
        }
        let partial = name.contains('*') && !name.starts_with("*.");
        if partial && spec.resolution != Resolution::DynamicDns {
            let message = format!("the wildcard of `{name}` is not a whole label");
            report.warning(message, "proxies may not match it");
        }
    });
}

fn check_port(spec: &ServiceEntry, port: &ServicePort, report: &mut Report<'_>) {
    common::port_name(&port.name, report);
    common::protocol(&port.protocol, report);
    let is_tcp = port.protocol.is_empty() || port.protocol == "TCP";
    let gets_address = matches!(spec.resolution, Resolution::Static | Resolution::Dns)
        && !spec.hosts.iter().any(|host| host::is_wildcard(host));
    if spec.addresses.is_empty() && is_tcp && !gets_address {
        report.warning(
            "a TCP port of a service without addresses",
            "its listener takes the port's traffic to any address",
        );
    }
}

fn none(spec: &ServiceEntry, report: &mut Report<'_>) {
    if spec.workload_selector.is_some() {
        report.key("workloadSelector", |report| {
            let message = "a workloadSelector has no effect with the resolution NONE";
            report.warning(message, "traffic goes where the client sent it");
        });
    }
}

fn dns(spec: &ServiceEntry, report: &mut Report<'_>) {
    if spec.endpoints.is_empty() {
        report.each("hosts", &spec.hosts, |report, name| {
            if host::is_wildcard(name) {
                report.error_with(
                    format!("`{name}` cannot be looked up: with the resolution {} hosts are full names unless there are endpoints", spec.resolution),
                    "write endpoints, the resolution NONE, or DYNAMIC_DNS",
                );
            }
        });
    }
    report.each("endpoints", &spec.endpoints, |report, endpoint| {
        workload::endpoint(endpoint, Some(&spec.ports), Address::Name, report);
    });
    let is_tcp = |port: &ServicePort| {
        Protocol::parse(&port.protocol).is_some_and(|p| !p.is_http() && p != Protocol::Udp)
    };
    if !spec.addresses.is_empty() && spec.hosts.len() > 1 && spec.ports.iter().any(is_tcp) {
        let message = "several hosts share these addresses and a TCP port";
        report.warning(message, "connections cannot be told apart by host");
    }
}

fn dynamic_dns(spec: &ServiceEntry, report: &mut Report<'_>) {
    report.each("hosts", &spec.hosts, |report, name| {
        if !host::is_wildcard(name) {
            report.error("the resolution DYNAMIC_DNS is for hosts with a wildcard");
        }
    });
    for (key, is_set) in [
        ("addresses", !spec.addresses.is_empty()),
        ("endpoints", !spec.endpoints.is_empty()),
    ] {
        if is_set {
            report.error_at(
                key,
                format!("`{key}` does not go with the resolution DYNAMIC_DNS"),
            );
        }
    }
    report.each("ports", &spec.ports, |report, port| {
        use Protocol::{Grpc, Http, Http2, Tls};
        if !matches!(
            Protocol::parse(&port.protocol),
            Some(Http | Tls | Grpc | Http2)
        ) {
            let message = "the resolution DYNAMIC_DNS knows only HTTP, HTTP2, GRPC and TLS";
            report.error_at("protocol", message);
        }
    });
    let waypoint = report.resource.meta.labels.get(USE_WAYPOINT);
    let uses_waypoint = waypoint.is_some_and(|name| !name.is_empty() && name != "none");
    if uses_waypoint && spec.location == crate::networking::Location::MeshInternal {
        let message = "MESH_INTERNAL with DYNAMIC_DNS does not go with a waypoint";
        report.error_at("location", message);
    }
}

/// Plain TCP says nothing of the host it is for.
fn several_hosts(spec: &ServiceEntry, report: &mut Report<'_>) {
    let plain = spec.ports.iter().position(|port| {
        !Protocol::parse(&port.protocol).is_some_and(|p| p.is_http() || p.is_tls())
    });
    if let Some(index) = plain {
        report.key("ports", |report| {
            report.index(index, |report| {
                report.error_with(
                    "several hosts need ports whose protocol names the host: HTTP or TLS",
                    "write one ServiceEntry for each host",
                );
            });
        });
    }
}
