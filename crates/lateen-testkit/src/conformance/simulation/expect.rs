//! What a call came to against what was expected of it.

use super::super::Finding;
use super::call::{Outcome, ServerSide};
use super::case::{Expect, ServerTls};

/// The refusals before routing, which a data plane without filter chains cannot tell apart.
const BEFORE_ROUTING: [&str; 4] = [
    "no_filter_chain",
    "tls_error",
    "mtls_error",
    "protocol_error",
];

/// Everything that counts and differs.
///
/// Istio sends what is ambiguous and Envoy refuses the listener; a compiler that says so and keeps the server declared first has
/// told the same mistake, with less harm.
pub(super) fn compare(
    call: &str,
    expect: &Expect,
    got: &Outcome,
    told_ambiguous: bool,
) -> Vec<Finding> {
    if told_ambiguous && expect.error.as_deref() == Some("multiple_filter_chain") {
        return Vec::new();
    }
    let mut out = Vec::new();
    let mut differs = |what: &str, expected: &str, found: String| {
        out.push(Finding::new(call, format!("{what} {expected}"), found));
    };
    let error = expect.error.as_deref();
    if error != got.error {
        differs("error", error.unwrap_or("none"), describe(got));
        return out;
    }
    match &expect.cluster {
        Some(cluster)
            if !got
                .cluster
                .as_ref()
                .is_some_and(|found| same_cluster(cluster, found)) =>
        {
            differs("cluster", cluster, describe(got));
        }
        None if expect.strict && got.cluster.is_some() => {
            differs("cluster", "none", describe(got));
        }
        _ => {}
    }
    match expect.virtual_host.as_deref() {
        // The answer 502 without an upstream.
        Some("block_all") if got.direct_response != Some(502) || got.cluster.is_some() => {
            differs("a refusal", "(block_all)", describe(got));
        }
        // On to whatever host the client named.
        Some("allow_any") if !goes_anywhere(got) => {
            differs("passthrough", "(allow_any)", describe(got));
        }
        _ => {}
    }
    if let Some(wanted) = &expect.server_tls {
        out.extend(compare_tls(call, wanted, got.tls.as_ref()));
    }
    out
}

/// Whether a cluster is the one that was expected. The cases' Istio resources have no domain, so that their short names end with
/// the namespace (`a.default`), where an installation's end with the domain (`a.default.svc.cluster.local`).
pub(super) fn same_cluster(expected: &str, found: &str) -> bool {
    expected == found
        || (expected.starts_with("outbound|")
            && expected
                .rsplit('|')
                .next()
                .is_some_and(|host| host.matches('.').count() == 1)
            && found.strip_prefix(expected) == Some(".svc.cluster.local"))
}

fn goes_anywhere(got: &Outcome) -> bool {
    matches!(
        got.cluster.as_deref(),
        Some("PassthroughCluster" | "AllowAnyDynamicDNSCluster")
    )
}

fn compare_tls(call: &str, wanted: &ServerTls, got: Option<&ServerSide>) -> Vec<Finding> {
    let mut out = Vec::new();
    let mut check = |what: &str, wanted: Option<String>, found: Option<String>| {
        if wanted.is_some() && wanted != found {
            let text = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
            let expected = format!("{what} {}", text(wanted));
            out.push(Finding::new(call, expected, text(found)));
        }
    };
    let certificate = got.and_then(|tls| tls.certificate.clone());
    check(
        "certificate",
        wanted.certificate_source.clone(),
        certificate.clone(),
    );
    check("secret", wanted.sds_secret_name.clone(), certificate);
    check(
        "secret server",
        wanted.sds_server_cluster.clone(),
        got.and_then(|tls| tls.sds_cluster.clone()),
    );
    check(
        "client certificate required",
        wanted.require_client_certificate.map(|b| b.to_string()),
        got.map(|tls| tls.requires_client_certificate.to_string()),
    );
    out
}

/// Whether both are refusals before routing.
pub(super) fn same_class(expect: &Expect, got: &Outcome) -> bool {
    let refused = |error: Option<&str>| error.is_some_and(|error| BEFORE_ROUTING.contains(&error));
    refused(expect.error.as_deref()) && refused(got.error)
}

/// Differences in names, which do not count.
pub(super) fn remarks(call: &str, expect: &Expect, got: &Outcome) -> Vec<String> {
    let chain = got.filter_chain.as_ref().map(|(_, name)| name);
    [
        ("listener", &expect.listener, got.listener.as_ref()),
        ("filter chain", &expect.filter_chain, chain),
        ("routes", &expect.route_config, got.route_config.as_ref()),
        (
            "virtual host",
            &expect.virtual_host,
            got.virtual_host.as_ref(),
        ),
        ("route", &expect.route, got.route.as_ref()),
    ]
    .into_iter()
    .filter_map(|(what, wanted, found)| {
        let wanted = wanted.as_ref()?;
        (found != Some(wanted)).then(|| {
            let found = found.map_or("none", String::as_str);
            format!("{call}: {what} is called {found}, Istio's {wanted}")
        })
    })
    .collect()
}

/// How far a call came, in a line.
fn describe(got: &Outcome) -> String {
    let mut parts = vec![match (got.error, &got.cluster, got.direct_response) {
        (Some(error), ..) => format!("error {error}"),
        (None, Some(cluster), _) => format!("cluster {cluster}"),
        (None, None, Some(status)) => format!("answer {status}"),
        (None, None, None) => "no cluster".to_owned(),
    }];
    let chain = got.filter_chain.as_ref().map(|(_, name)| name);
    for (what, value) in [
        ("listener", got.listener.as_ref()),
        ("chain", chain),
        ("routes", got.route_config.as_ref()),
        ("virtual host", got.virtual_host.as_ref()),
    ] {
        if let Some(value) = value {
            parts.push(format!("{what} {value}"));
        }
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_without_domain_means_the_whole_name() {
        let whole = "outbound|80||a.default.svc.cluster.local";
        assert!(same_cluster(whole, whole));
        assert!(same_cluster("outbound|80||a.default", whole));
        assert!(!same_cluster("outbound|80||b.default", whole));
        assert!(!same_cluster("outbound|80||a.default.svc", whole));
        assert!(!same_cluster("outbound|81||a.default", whole));
    }
}
