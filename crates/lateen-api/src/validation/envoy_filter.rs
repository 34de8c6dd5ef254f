//! EnvoyFilter: that what is patched, what is matched and the patch fit each other.
//!
//! Whether a patch's value is a message of Envoy's is checked where Envoy's messages are known, by the compiler.

use super::{Report, common, forms};
use crate::networking::{
    ApplyTo, EnvoyConfigObjectMatch, EnvoyConfigObjectPatch, EnvoyFilter, FilterMatch,
    PatchContext, PatchOperation,
};

/// Names of the HTTP connection manager: today's and the old one.
const CONNECTION_MANAGER: [&str; 2] = [
    "envoy.filters.network.http_connection_manager",
    "envoy.http_connection_manager",
];

pub(crate) fn check(spec: &EnvoyFilter, report: &mut Report<'_>) {
    common::networking_selector(spec.workload_selector.as_ref(), report);
    common::targets(None, &spec.target_refs, report);
    report.each("configPatches", &spec.config_patches, patch);
}

fn patch(report: &mut Report<'_>, entry: &EnvoyConfigObjectPatch) {
    let context = entry.r#match.as_ref().map(|matched| matched.context);
    if context == Some(PatchContext::Waypoint) {
        return;
    }
    if entry.apply_to == ApplyTo::Invalid {
        report.error("`applyTo` is required");
        return;
    }
    let Some(patch) = &entry.patch else {
        report.error("`patch` is required");
        return;
    };
    if patch.operation == PatchOperation::Invalid {
        report.key("patch", |report| report.error("`operation` is required"));
    } else if patch.operation != PatchOperation::Remove && patch.value.is_none() {
        let message = format!("the operation {} needs a `value`", patch.operation);
        report.key("patch", |report| report.error(message));
    }
    report.some("match", entry.r#match.as_ref(), |report, matched| {
        proxy_version(matched, report);
        object_match(entry.apply_to, matched, report);
    });
}

fn proxy_version(matched: &EnvoyConfigObjectMatch, report: &mut Report<'_>) {
    let Some(proxy) = &matched.proxy else { return };
    if !proxy.proxy_version.is_empty()
        && let Some(why) = forms::regex(&proxy.proxy_version)
    {
        report.key("proxy", |report| report.error_at("proxyVersion", why));
    }
}

/// The match is on the kind of object that is patched.
fn object_match(apply_to: ApplyTo, matched: &EnvoyConfigObjectMatch, report: &mut Report<'_>) {
    let wanted = match apply_to {
        ApplyTo::Listener | ApplyTo::FilterChain | ApplyTo::NetworkFilter | ApplyTo::HttpFilter => {
            "listener"
        }
        ApplyTo::RouteConfiguration | ApplyTo::VirtualHost | ApplyTo::HttpRoute => {
            "routeConfiguration"
        }
        ApplyTo::Cluster => "cluster",
        ApplyTo::Invalid
        | ApplyTo::ExtensionConfig
        | ApplyTo::Bootstrap
        | ApplyTo::ListenerFilter => return,
    };
    let set = [
        ("listener", matched.listener.is_some()),
        ("routeConfiguration", matched.route_configuration.is_some()),
        ("cluster", matched.cluster.is_some()),
    ];
    for (key, _) in set.iter().filter(|(key, is_set)| *is_set && *key != wanted) {
        let message = format!("a patch of {apply_to} is matched by `{wanted}`, not by `{key}`");
        report.error_at(key, message);
    }
    let filter = matched
        .listener
        .as_ref()
        .and_then(|listener| listener.filter_chain.as_ref())
        .and_then(|chain| chain.filter.as_ref());
    if let Some(filter) = filter {
        report.key("listener", |report| {
            report.key("filterChain", |report| {
                report.key("filter", |report| filter_match(apply_to, filter, report));
            });
        });
    }
}

fn filter_match(apply_to: ApplyTo, filter: &FilterMatch, report: &mut Report<'_>) {
    if matches!(apply_to, ApplyTo::Listener | ApplyTo::FilterChain) {
        let message = format!("a match on a filter has no effect on a patch of {apply_to}");
        report.warning(message, "the filter is not looked at");
    }
    if filter.name.is_empty() {
        report.error("`name` is required");
        return;
    }
    let Some(sub_filter) = &filter.sub_filter else {
        return;
    };
    report.key("subFilter", |report| {
        if apply_to != ApplyTo::HttpFilter {
            report.error("a subFilter is matched only by a patch of HTTP_FILTER");
        } else if !CONNECTION_MANAGER.contains(&filter.name.as_str()) {
            report.error(format!(
                "a subFilter needs the filter {}",
                CONNECTION_MANAGER[0]
            ));
        } else if sub_filter.name.is_empty() {
            report.error("`name` is required");
        }
    });
}
