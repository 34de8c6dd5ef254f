//! Rules that several kinds share: selectors, targets, `exportTo`, labels, ports, durations.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Report;
use super::forms;
use crate::selector::{PolicyTargetReference, WorkloadSelector};

/// Kinds a policy can be attached to: group and kind.
const TARGETS: [(&str, &str); 4] = [
    ("", "Service"),
    ("networking.istio.io", "ServiceEntry"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
];

/// A selector without labels selects everything, which is rarely meant.
pub(crate) fn selector(selector: Option<&WorkloadSelector>, report: &mut Report<'_>) {
    if selector.is_some_and(|selector| selector.match_labels.is_empty()) {
        report.key("selector", |report| {
            report.warning(
                "the selector has no labels",
                "the object applies to every workload of its namespace",
            );
        });
    }
}

/// Likewise for the networking kinds' own selector.
pub(crate) fn networking_selector(
    selector: Option<&crate::networking::WorkloadSelector>,
    report: &mut Report<'_>,
) {
    let Some(selector) = selector else { return };
    report.key("workloadSelector", |report| {
        if selector.labels.is_empty() {
            report.warning(
                "the selector has no labels",
                "the object applies to every workload of its namespace",
            );
        }
        if selector
            .labels
            .keys()
            .any(|key| key.is_empty() || key.contains('*'))
        {
            report.error_at("labels", "a label's key is empty or has a wildcard");
        }
    });
}

/// Istio refuses durations that Envoy would round.
pub(crate) fn whole_milliseconds(key: &str, duration: Option<Duration>, report: &mut Report<'_>) {
    if duration.is_some_and(|duration| duration.subsec_nanos() % 1_000_000 != 0) {
        report.error_at(key, "durations are whole milliseconds");
    }
}

/// What a policy is attached to.
pub(crate) fn targets(
    one: Option<&PolicyTargetReference>,
    many: &[PolicyTargetReference],
    report: &mut Report<'_>,
) {
    report.some("targetRef", one, target);
    report.each("targetRefs", many, target);
}

fn target(report: &mut Report<'_>, target: &PolicyTargetReference) {
    let group = if target.group == "core" {
        ""
    } else {
        &target.group
    };
    if !TARGETS.contains(&(group, &*target.kind)) {
        let known = "Service, ServiceEntry (group networking.istio.io), Gateway and GatewayClass \
                     (group gateway.networking.k8s.io)";
        report.error_with(
            format!(
                "a policy cannot be attached to `{}` of the group `{group}`",
                target.kind
            ),
            format!("possible are {known}"),
        );
    }
}

/// Who may leave what visible to whom.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Export {
    /// Of a ServiceEntry, which may also be visible to nobody (`~`).
    ServiceEntry,
    /// Of a DestinationRule with a workload selector, which stays in its namespace.
    Selecting,
    /// Of anything else.
    Other,
}

/// `exportTo`.
pub(crate) fn export_to(entries: &[String], export: Export, report: &mut Report<'_>) {
    let namespace = report.resource.meta.namespace.clone();
    let meant = |entry: &str| {
        if entry == "." {
            namespace.clone()
        } else {
            entry.to_owned()
        }
    };
    let mut seen: Vec<String> = Vec::new();
    report.each("exportTo", entries, |report, entry| {
        let allowed = match entry.as_str() {
            "." | "*" => true,
            "~" => export == Export::ServiceEntry,
            name => forms::is_dns_label(name),
        };
        if !allowed {
            report.error(format!("`{entry}` is none of `.`, `*` and a namespace"));
        }
        if seen.contains(&meant(entry)) {
            report.error(format!("`{entry}` is listed twice"));
        }
        seen.push(meant(entry));
    });
    if entries.len() > 1 && entries.iter().any(|entry| entry == "*" || entry == "~") {
        report.error_at("exportTo", "`*` and `~` have to stand alone");
    }
    if export == Export::Selecting && entries.iter().any(|e| e != "." && *e != namespace) {
        let message = "a DestinationRule with a workload selector is only for its own namespace";
        report.error_at("exportTo", message);
    }
}

/// Labels, of whatever.
pub(crate) fn labels(key: &str, labels: &BTreeMap<String, String>, report: &mut Report<'_>) {
    report.key(key, |report| {
        for (name, value) in labels {
            report.key(name, |report| {
                if let Some(why) = forms::label_key(name).or_else(|| forms::label_value(value)) {
                    report.error(why);
                }
            });
        }
    });
}

/// A port's name, if it has one.
pub(crate) fn port_name(name: &str, report: &mut Report<'_>) {
    if !forms::is_dns_label(name) {
        report.error_at(
            "name",
            format!("`{name}` is not a port name: it has to be a DNS label"),
        );
    }
}

/// A port's protocol; empty is to be found out from the traffic.
pub(crate) fn protocol(name: &str, report: &mut Report<'_>) {
    if !name.is_empty() && forms::Protocol::parse(name).is_none() {
        report.key("protocol", |report| {
            report.error_with(
                format!("`{name}` is not a protocol"),
                format!("known are {}", forms::PROTOCOLS),
            );
        });
    }
}

/// The path of a Unix domain socket, without `unix://`.
pub(crate) fn unix_path(path: &str) -> Option<&'static str> {
    if path.starts_with('@') {
        return None;
    }
    (!path.starts_with('/') || path.ends_with('/'))
        .then_some("a Unix domain socket needs an absolute path to a file")
}

/// What a listener binds to, when it is not a Unix domain socket.
pub(crate) fn bind_address(bind: &str, report: &mut Report<'_>) {
    if !bind.is_empty() && !forms::is_ip(bind) {
        report.error_at("bind", format!("`{bind}` is not an IP address"));
    }
}
