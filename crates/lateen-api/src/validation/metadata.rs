//! Names and annotations, of whatever kind.

use super::{Report, forms};
use crate::kind::{Kind, Spec};
use crate::security::Action;

/// The annotation that only logs what an AuthorizationPolicy would have decided.
const DRY_RUN: &str = "istio.io/dry-run";

/// Annotations that Istio sets itself and that would give rights if users could.
const INTERNAL: [&str; 2] = [
    "internal.istio.io/parents",
    "internal.istio.io/parent-namespace",
];

pub(crate) fn check(report: &mut Report<'_>) {
    report.key("metadata", |report| {
        name(report);
        super::common::labels("labels", &report.resource.meta.labels.clone(), report);
        report.key("annotations", annotations);
    });
}

fn name(report: &mut Report<'_>) {
    let meta = &report.resource.meta;
    if meta.name.is_empty() {
        // An IstioOperator is read by the installer, which does not ask for a name.
        let needs_one = report.resource.kind != Kind::IstioOperator;
        if needs_one && meta.generate_name.is_empty() {
            report.error_at("name", "`name` is required");
        }
        return;
    }
    let why = match report.resource.kind {
        // DNS labels: their names become host names.
        Kind::Namespace | Kind::Service => is_lower_label(&meta.name).err(),
        // Istio names gateways as namespace/name, and listeners after them.
        Kind::Gateway => is_lower_label(&meta.name).err(),
        _ => is_subdomain(&meta.name).err(),
    };
    if let Some(why) = why {
        let message = format!("`{}` is not a name: {why}", meta.name);
        let lower = meta.name.to_ascii_lowercase().replace('_', "-");
        report.key("name", |report| match is_subdomain(&lower) {
            Ok(()) if lower != report.resource.meta.name => {
                report.error_with(message, format!("write `{lower}`"));
            }
            _ => report.error(message),
        });
    }
    let namespace = &report.resource.meta.namespace;
    if let (false, Err(why)) = (namespace.is_empty(), is_lower_label(namespace)) {
        report.error_at(
            "namespace",
            format!("`{namespace}` is not a namespace: {why}"),
        );
    }
}

fn is_lower_label(text: &str) -> Result<(), &'static str> {
    if forms::is_dns_label(text) && !text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Ok(());
    }
    Err("at most 63 lower-case letters, digits and `-`, with a letter or digit at both ends")
}

fn is_subdomain(text: &str) -> Result<(), &'static str> {
    let label = |label: &str| {
        label.starts_with(|c: char| c.is_ascii_alphanumeric())
            && label.ends_with(|c: char| c.is_ascii_alphanumeric())
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if text.len() <= 253 && text.split('.').all(label) {
        return Ok(());
    }
    Err("lower-case letters, digits, `-` and `.`, with a letter or digit at both ends")
}

fn annotations(report: &mut Report<'_>) {
    let resource = report.resource;
    for name in INTERNAL {
        if resource.kind.is_istio() && resource.meta.annotations.contains_key(name) {
            report.error_at(name, "this annotation is not for users to set");
        }
    }
    let Some(dry_run) = resource.meta.annotations.get(DRY_RUN) else {
        return;
    };
    match &*resource.spec {
        Spec::AuthorizationPolicy(policy) => {
            if !matches!(policy.action, Action::Allow | Action::Deny) {
                report.error_at(DRY_RUN, "only ALLOW and DENY can be tried without effect");
            } else if !is_go_bool(dry_run) {
                report.error_at(
                    DRY_RUN,
                    format!("`{dry_run}` is neither \"true\" nor \"false\""),
                );
            }
        }
        _ if resource.kind.is_istio() => {
            report.error_at(
                DRY_RUN,
                "only an AuthorizationPolicy can be tried without effect",
            );
        }
        _ => {}
    }
}

/// What Go's `strconv.ParseBool` reads.
fn is_go_bool(text: &str) -> bool {
    const KNOWN: [&str; 12] = [
        "1", "t", "T", "true", "TRUE", "True", "0", "f", "F", "false", "FALSE", "False",
    ];
    KNOWN.contains(&text)
}
