//! Sidecar.

use std::collections::{BTreeMap, BTreeSet};

use super::forms::Protocol;
use super::{Report, common, destination_rule, forms, gateway, routes};
use crate::networking::{
    CaptureMode, IstioEgressListener, IstioIngressListener, OutboundTrafficPolicy,
    OutboundTrafficPolicyMode, ServerTlsMode, ServerTlsSettings, Sidecar, SidecarPort,
};

pub(crate) fn check(spec: &Sidecar, report: &mut Report<'_>) {
    common::networking_selector(spec.workload_selector.as_ref(), report);
    let says_nothing = spec.egress.is_empty()
        && spec.ingress.is_empty()
        && spec.outbound_traffic_policy.is_none()
        && spec.inbound_connection_pool.is_none();
    if says_nothing {
        report.error("the Sidecar is empty: it needs egress, ingress or outboundTrafficPolicy");
        return;
    }
    let numbers: Vec<u32> = spec
        .ingress
        .iter()
        .filter_map(|l| l.port.as_ref())
        .map(|port| port.number)
        .collect();
    unique_ports("ingress", &numbers, report);
    report.each("ingress", &spec.ingress, ingress);
    report.some(
        "inboundConnectionPool",
        spec.inbound_connection_pool.as_ref(),
        destination_rule::connection_pool,
    );
    catch_all(spec, report);
    report.each("egress", &spec.egress, egress);
    report.some(
        "outboundTrafficPolicy",
        spec.outbound_traffic_policy.as_ref(),
        outbound,
    );
}

fn unique_ports(key: &str, numbers: &[u32], report: &mut Report<'_>) {
    report.key(key, |report| {
        for (index, number) in numbers.iter().enumerate() {
            if *number != 0 && numbers[..index].contains(number) {
                let message = format!("the port {number} has two listeners");
                report.index(index, |report| report.error_at("port", message));
            }
        }
    });
}

/// One listener to a socket.
fn unique_sockets(spec: &Sidecar, report: &mut Report<'_>) {
    let socket = |listener: &'_ IstioEgressListener| {
        let has_none = listener.port.as_ref().is_some_and(|port| port.number == 0);
        has_none.then(|| listener.bind.clone())
    };
    let mut seen = BTreeSet::new();
    report.each("egress", &spec.egress, |report, listener| {
        let Some(bind) = socket(listener) else { return };
        if !seen.insert(bind) {
            report.error_at("bind", "the Unix domain socket has two listeners");
        }
    });
}

fn check_port(port: &SidecarPort, bind: &str, report: &mut Report<'_>) {
    report.key("port", |report| {
        if !port.name.is_empty() {
            common::port_name(&port.name, report);
        }
        common::protocol(&port.protocol, report);
        if port.target_port > 0 {
            report.error_at("targetPort", "a Sidecar's port has no targetPort");
        }
        let is_unix = port.number == 0 && bind.starts_with("unix://");
        if !forms::is_port(port.number) && !is_unix {
            report.error_at("number", forms::PORT);
        }
    });
}

fn ingress(report: &mut Report<'_>, listener: &IstioIngressListener) {
    let Some(port) = &listener.port else { return };
    check_port(port, "", report);
    common::bind_address(&listener.bind, report);
    default_endpoint(&listener.default_endpoint, report);
    let protocol = Protocol::parse(&port.protocol);
    report.some("tls", listener.tls.as_ref(), |report, tls| {
        ingress_tls(tls, protocol, report)
    });
    report.some(
        "connectionPool",
        listener.connection_pool.as_ref(),
        |report, pool| {
            destination_rule::connection_pool(report, pool);
            if pool.http.is_some() && !protocol.is_some_and(Protocol::is_http) {
                report.key("http", |report| {
                    let message = "HTTP settings on a port whose protocol is not HTTP";
                    report.warning(message, "only the TCP settings apply");
                });
            }
        },
    );
}

/// `127.0.0.1:port`, `[::1]:port`, the unspecified addresses, `:port`, or a Unix domain socket.
fn default_endpoint(endpoint: &str, report: &mut Report<'_>) {
    const HOSTS: [&str; 5] = ["", "127.0.0.1", "0.0.0.0", "[::1]", "[::]"];
    if endpoint.is_empty() {
        return;
    }
    let holds = match endpoint.strip_prefix("unix://") {
        Some(path) => common::unix_path(path).is_none(),
        None => endpoint.rsplit_once(':').is_some_and(|(host, port)| {
            HOSTS.contains(&host) && port.parse().is_ok_and(forms::is_port)
        }),
    };
    if !holds {
        let message = format!("`{endpoint}` is not an endpoint of the workload itself");
        report.key("defaultEndpoint", |report| {
            report.error_with(
                message,
                "write 127.0.0.1:PORT, [::1]:PORT, 0.0.0.0:PORT or unix:///path",
            );
        });
    }
}

fn ingress_tls(tls: &ServerTlsSettings, protocol: Option<Protocol>, report: &mut Report<'_>) {
    let unsupported = [
        ("subjectAltNames", !tls.subject_alt_names.is_empty()),
        ("httpsRedirect", tls.https_redirect),
        ("credentialName", !tls.credential_name.is_empty()),
        ("credentialNames", !tls.credential_names.is_empty()),
        ("tlsCertificates", !tls.tls_certificates.is_empty()),
    ];
    for (key, _) in unsupported.iter().filter(|(_, is_set)| *is_set) {
        report.error_at(key, format!("`{key}` is not supported in a Sidecar"));
    }
    if matches!(
        tls.mode,
        ServerTlsMode::IstioMutual | ServerTlsMode::AutoPassthrough
    ) {
        report.error_at(
            "mode",
            format!("the mode {} is not for a Sidecar", tls.mode),
        );
    }
    if !protocol.is_some_and(Protocol::is_tls) {
        report.error("TLS settings need a port whose protocol is HTTPS or TLS");
    }
    gateway::server_tls(tls, report);
}

/// A listener without port takes what others leave, so there is one, and it is the last.
fn catch_all(spec: &Sidecar, report: &mut Report<'_>) {
    let numbers: Vec<u32> = spec
        .egress
        .iter()
        .map(|l| l.port.as_ref().map_or(0, |port| port.number))
        .collect();
    unique_ports("egress", &numbers, report);
    unique_sockets(spec, report);
    let last = spec.egress.len().saturating_sub(1);
    report.key("egress", |report| {
        for (index, _) in spec
            .egress
            .iter()
            .enumerate()
            .filter(|(index, l)| l.port.is_none() && *index != last)
        {
            let message = "only the last egress listener can be without a port";
            report.index(index, |report| report.error(message));
        }
    });
}

fn egress(report: &mut Report<'_>, listener: &IstioEgressListener) {
    if let Some(port) = &listener.port {
        check_port(port, &listener.bind, report);
        match listener.bind.strip_prefix("unix://") {
            Some(path) if port.number == 0 => {
                if let Some(why) = common::unix_path(path) {
                    report.error_at("bind", why);
                }
                if listener.capture_mode == CaptureMode::Iptables {
                    let message = "a Unix domain socket cannot be captured: write NONE";
                    report.error_at("captureMode", message);
                }
            }
            _ => common::bind_address(&listener.bind, report),
        }
    }
    if listener.hosts.is_empty() {
        report.error_at("hosts", "an egress listener needs at least one host");
    }
    report.each("hosts", &listener.hosts, |report, host| {
        egress_host(host, report)
    });
    doubles(listener, report);
    everything(listener, report);
}

/// `*/*` leaves nothing for others to add.
fn everything(listener: &IstioEgressListener, report: &mut Report<'_>) {
    let everywhere = listener.hosts.iter().any(|host| host == "*/*");
    let others = |host: &String| !host.starts_with(['*', '~']);
    if everywhere && listener.hosts.iter().any(others) {
        report.key("hosts", |report| {
            let message = "`*/*` stands for every host; there is nothing to add";
            report.warning(message, "the other hosts change nothing");
        });
    }
}

/// `namespace/host`; the namespace may be `*`, `.` and `~`, or start with `~` to leave it out.
fn egress_host(host: &str, report: &mut Report<'_>) {
    let Some((namespace, name)) = host.split_once('/') else {
        report.error_with(
            format!("`{host}` has no namespace"),
            format!("write `*/{host}`, `./{host}` or `namespace/{host}`"),
        );
        return;
    };
    let namespace = namespace.strip_prefix('~').unwrap_or(namespace);
    if !matches!(namespace, "" | "*" | ".") && !forms::is_dns_label(namespace) {
        report.error(format!(
            "`{namespace}` is none of `*`, `.`, `~` and a namespace"
        ));
    }
    if let Some(why) = forms::full_name(name) {
        report.error(why);
    }
}

fn doubles(listener: &IstioEgressListener, report: &mut Report<'_>) {
    let own = report.resource.meta.namespace.clone();
    let mut seen: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    report.each("hosts", &listener.hosts, |report, host| {
        let Some((namespace, name)) = host.split_once('/') else {
            return;
        };
        if namespace.starts_with('~') {
            return;
        }
        let namespace = if namespace == "." {
            own.clone()
        } else {
            namespace.to_owned()
        };
        let known = seen.entry(namespace).or_default();
        if known.contains(&name) || known.contains(&"*") || (name == "*" && !known.is_empty()) {
            report.warning(format!("`{host}` is covered twice"), "it counts once");
        }
        known.push(name);
    });
}

fn outbound(report: &mut Report<'_>, policy: &OutboundTrafficPolicy) {
    let Some(proxy) = &policy.egress_proxy else {
        return;
    };
    if policy.mode != OutboundTrafficPolicyMode::AllowAny {
        report.error_at("egressProxy", "an egress proxy needs the mode ALLOW_ANY");
        return;
    }
    report.key("egressProxy", |report| {
        if let Some(why) = forms::dns_name(&proxy.host) {
            report.error_at("host", why);
        }
        if proxy.port.is_none() {
            report.error("`port` is required");
        }
        routes::destination(report, proxy);
    });
}
