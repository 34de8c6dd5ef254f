//! What routes share: destinations, weights, matches on text, subnets and gateways.

use super::Report;
use super::forms;
use crate::networking::{Destination, Percent, RouteDestination};
use crate::value::StringMatch;

/// Where traffic goes.
pub(crate) fn destination(report: &mut Report<'_>, destination: &Destination) {
    if destination.host == "*" {
        report.error_at("host", "a destination cannot be every host");
    } else if let Some(why) = forms::wildcard_name(&destination.host) {
        // An empty host is already reported as missing.
        if !destination.host.is_empty() || report.resource.origin.path.is_empty() {
            report.error_at("host", why);
        }
    }
    if !destination.subset.is_empty() {
        subset_name("subset", &destination.subset, report);
    }
    report.some("port", destination.port.as_ref(), |report, port| {
        if !forms::is_port(port.number) {
            report.error_at("number", forms::PORT);
        }
    });
}

/// A subset's name becomes part of cluster names.
pub(crate) fn subset_name(key: &str, name: &str, report: &mut Report<'_>) {
    if !forms::is_dns_label(name) {
        report.error_at(
            key,
            format!("`{name}` is not a subset's name: it has to be a DNS label"),
        );
    }
}

/// Weights of several destinations: none negative, not all zero.
pub(crate) fn weights(weights: &[i32], report: &mut Report<'_>) {
    report.key("route", |report| {
        for (index, weight) in weights.iter().enumerate() {
            if *weight < 0 {
                report.index(index, |report| {
                    report.error_at("weight", "a weight cannot be negative")
                });
            }
        }
        if weights.len() > 1 && weights.iter().all(|weight| *weight == 0) {
            report.error_with(
                "the weights of these destinations are all 0",
                "give each a `weight`; they are shares of their sum",
            );
        }
    });
}

/// Destinations of TCP and TLS routes.
pub(crate) fn route_destinations(routes: &[RouteDestination], report: &mut Report<'_>) {
    report.each("route", routes, |report, route| {
        report.some("destination", route.destination.as_ref(), destination);
    });
    let weights: Vec<i32> = routes.iter().map(|route| route.weight).collect();
    self::weights(&weights, report);
}

/// A match on text that must not be an empty prefix.
pub(crate) fn string_match(report: &mut Report<'_>, matched: &StringMatch) {
    match matched {
        StringMatch::Prefix(prefix) if prefix.is_empty() => {
            report.error_at("prefix", "a prefix must not be empty");
        }
        matched => regex_match(report, matched),
    }
}

/// A match on text whose expression has to compile.
pub(crate) fn regex_match(report: &mut Report<'_>, matched: &StringMatch) {
    if let StringMatch::Regex(text) = matched
        && let Some(why) = forms::regex(text)
    {
        report.error_at("regex", why);
    }
}

/// `gateways` of a VirtualService or a match.
pub(crate) fn gateways(names: &[String], report: &mut Report<'_>) {
    report.each("gateways", names, |report, name| {
        let Some((namespace, gateway)) = name.split_once('/') else {
            gateway_without_namespace(name, report);
            return;
        };
        if !forms::is_dns_label(namespace) || !forms::is_dns_label(gateway) {
            report.error_with(
                format!("`{name}` does not name a gateway"),
                "write namespace/name, or a name of the same namespace",
            );
        }
    });
}

fn gateway_without_namespace(name: &str, report: &mut Report<'_>) {
    if let Some(why) = forms::dns_name(name) {
        report.error(why);
    } else if let Some((gateway, rest)) = name.split_once('.') {
        let namespace = rest.split('.').next().unwrap_or_default();
        report.warning(
            format!("`{name}` is the old way to name a gateway; write `{namespace}/{gateway}`"),
            "it is read as before",
        );
    }
}

/// Addresses and ranges of a match.
pub(crate) fn subnets(key: &str, subnets: &[String], report: &mut Report<'_>) {
    report.each(key, subnets, |report, subnet| {
        if !forms::is_ip_or_cidr(subnet) {
            report.error(format!(
                "`{subnet}` is neither an IP address nor a CIDR range"
            ));
        }
    });
}

/// A port of a match; 0 is any.
pub(crate) fn match_port(port: u32, report: &mut Report<'_>) {
    if port > 65535 {
        report.error_at("port", forms::PORT);
    }
}

/// A percentage with Envoy's precision of a millionth.
pub(crate) fn percent(report: &mut Report<'_>, percent: &Percent) {
    let value = percent.value.get();
    if !(0.0..=100.0).contains(&value) || (value > 0.0 && value < 0.0001) {
        report.error_at("value", "a percentage is 0, or between 0.0001 and 100");
    }
}
