//! Host names with Istio's wildcards: which name matches which, and which is more specific.
//!
//! A wildcard is a name that starts with `*`; `*` alone matches everything. Source: Istio, `pkg/config/host`.

/// Whether `host` is a wildcard.
pub(crate) fn is_wildcard(host: &str) -> bool {
    host.starts_with('*')
}

/// Whether the sets of names described by `a` and `b` overlap, as Istio decides it: a wildcard matches a longer name with
/// its suffix, two wildcards match if one ends with the other.
pub(crate) fn matches(a: &str, b: &str) -> bool {
    let (wild_a, wild_b) = (is_wildcard(a), is_wildcard(b));
    match (wild_a, wild_b) {
        (true, true) => {
            let (x, y) = (&a[1..], &b[1..]);
            if x.len() < y.len() {
                y.ends_with(x)
            } else {
                x.ends_with(y)
            }
        }
        (true, false) => b.ends_with(&a[1..]),
        (false, true) => a.ends_with(&b[1..]),
        (false, false) => a == b,
    }
}

/// Whether every name described by `inner` is described by `outer` too.
pub(crate) fn is_subset(inner: &str, outer: &str) -> bool {
    match (is_wildcard(inner), is_wildcard(outer)) {
        (true, true) => inner.len() >= outer.len() && inner[1..].ends_with(&outer[1..]),
        (true, false) => false,
        (false, true) => inner.ends_with(&outer[1..]),
        (false, false) => inner == outer,
    }
}

/// The names both lists describe, the narrower of each overlapping pair. `selected` is what a gateway accepts, `wanted` what a
/// virtual service asks for.
pub(crate) fn intersection(selected: &[String], wanted: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for s in selected {
        for w in wanted {
            let narrower = if is_subset(w, s) {
                w
            } else if is_subset(s, w) {
                s
            } else {
                continue;
            };
            if !out.contains(narrower) {
                out.push(narrower.clone());
            }
        }
    }
    out
}

/// Orders names from the most to the least specific: exact names first, longer wildcards before shorter, then by text.
pub(crate) fn specificity(a: &str, b: &str) -> std::cmp::Ordering {
    is_wildcard(a)
        .cmp(&is_wildcard(b))
        .then_with(|| b.len().cmp(&a.len()))
        .then_with(|| a.cmp(b))
}

/// Expands a short name as Istio does: a name without a dot belongs to the namespace of the object it stands in.
pub(crate) fn resolve_short_name(host: &str, namespace: &str, domain_suffix: &str) -> String {
    if host.is_empty() || host.contains('.') || is_wildcard(host) || namespace.is_empty() {
        return host.to_owned();
    }
    format!("{host}.{namespace}.svc.{domain_suffix}")
}

/// `[address]` for an IPv6 address, else the host itself.
pub(crate) fn ipv6_compliant(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// `host:port`, with brackets where the host is an IPv6 address.
pub(crate) fn with_port(host: &str, port: u32) -> String {
    format!("{}:{port}", ipv6_compliant(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_by_suffix() {
        assert!(matches("*.example.com", "a.example.com"));
        assert!(matches("a.example.com", "*.example.com"));
        assert!(matches("*", "anything"));
        assert!(matches("*.a.example.com", "*.example.com"));
        assert!(!matches("*.example.com", "example.com"));
        assert!(!matches("a.com", "b.com"));
    }

    #[test]
    fn a_subset_is_narrower_or_equal() {
        assert!(is_subset("a.example.com", "*.example.com"));
        assert!(is_subset("*.a.example.com", "*.example.com"));
        assert!(!is_subset("*.example.com", "*.a.example.com"));
        assert!(!is_subset("*.example.com", "a.example.com"));
        assert!(is_subset("*", "*"));
    }

    #[test]
    fn an_intersection_keeps_the_narrower_name() {
        let gateway = ["*.example.com".to_owned(), "b.org".to_owned()];
        let service = ["a.example.com".to_owned(), "*".to_owned()];
        assert_eq!(
            intersection(&gateway, &service),
            ["a.example.com", "*.example.com", "b.org"].map(str::to_owned)
        );
    }

    #[test]
    fn short_names_belong_to_the_namespace() {
        assert_eq!(
            resolve_short_name("reviews", "bookinfo", "cluster.local"),
            "reviews.bookinfo.svc.cluster.local"
        );
        assert_eq!(resolve_short_name("a.b", "x", "cluster.local"), "a.b");
        assert_eq!(resolve_short_name("*", "x", "cluster.local"), "*");
    }

    #[test]
    fn specific_names_come_first() {
        let mut hosts = ["*", "*.b.com", "a.b.com", "*.a.b.com"];
        hosts.sort_by(|a, b| specificity(a, b));
        assert_eq!(hosts, ["a.b.com", "*.a.b.com", "*.b.com", "*"]);
    }
}
