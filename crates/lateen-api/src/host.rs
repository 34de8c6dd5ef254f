//! Host names as Istio's configuration writes them: wildcards, short names, and which of two is more specific.
//!
//! Source: Istio `pkg/config/host` and `pilot/pkg/model/config.go` (`ResolveShortnameToFQDN`), 1.30.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// A host name that may start with a wildcard label, such as `*.example.com` or `*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hostname(Arc<str>);

impl Hostname {
    /// Takes `name` as it is; validity is a matter of validation.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it starts with `*`.
    pub fn is_wildcard(&self) -> bool {
        is_wildcard(&self.0)
    }

    /// Whether some host is matched by both: `*.com` and `*.example.com` do, `*.com` and `*.org` do not.
    pub fn matches(&self, other: &Hostname) -> bool {
        matches(&self.0, &other.0)
    }

    /// Whether every host matched by `self` is matched by `other`.
    pub fn is_subset_of(&self, other: &Hostname) -> bool {
        is_subset_of(&self.0, &other.0)
    }

    /// The order of specificity; see [`most_specific_first`].
    pub fn cmp_specificity(&self, other: &Hostname) -> Ordering {
        most_specific_first(&self.0, &other.0)
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Hostname {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

/// Whether `name` starts with `*`.
pub fn is_wildcard(name: &str) -> bool {
    name.starts_with('*')
}

/// Whether some host is matched by both `a` and `b`.
pub fn matches(a: &str, b: &str) -> bool {
    match (a.strip_prefix('*'), b.strip_prefix('*')) {
        (Some(a), Some(b)) => a.ends_with(b) || b.ends_with(a),
        (Some(suffix), None) => b.ends_with(suffix),
        (None, Some(suffix)) => a.ends_with(suffix),
        (None, None) => a == b,
    }
}

/// Whether every host that `a` matches is matched by `b`.
pub fn is_subset_of(a: &str, b: &str) -> bool {
    match (a.strip_prefix('*'), b.strip_prefix('*')) {
        (Some(a), Some(b)) => a.ends_with(b),
        (Some(_), None) => false,
        (None, Some(suffix)) => a.ends_with(suffix),
        (None, None) => a == b,
    }
}

/// Orders exact names before wildcards, then longer before shorter, then by text; `*` comes last.
pub fn most_specific_first(a: &str, b: &str) -> Ordering {
    is_wildcard(a)
        .cmp(&is_wildcard(b))
        .then_with(|| b.len().cmp(&a.len()))
        .then_with(|| a.cmp(b))
}

/// The most specific of `candidates` that covers all of `needle`, as Istio picks a DestinationRule for a host.
pub fn most_specific_match<'a>(
    needle: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .filter(|candidate| is_subset_of(needle, candidate))
        .min_by(|a, b| most_specific_first(a, b))
}

/// What `host` means in a configuration of `namespace`: a name without dots is the service of that name in the same
/// namespace, `name.ns` and `name.ns.svc` stay as they are (Istio does not complete them either), wildcards too.
pub fn resolve_host(host: &str, namespace: &str, domain: &str) -> String {
    if host.contains('.') || host.contains('*') || host.is_empty() {
        return host.to_owned();
    }
    format!("{host}.{namespace}.svc.{domain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_when_their_suffixes_nest() {
        assert!(matches("*.com", "*.example.com"));
        assert!(matches("*", "a.b"));
        assert!(matches("a.example.com", "*.example.com"));
        assert!(!matches("example.com", "*.example.com"));
        assert!(!matches("*.com", "*.org"));
    }

    #[test]
    fn a_wildcard_is_never_a_subset_of_an_exact_name() {
        assert!(!is_subset_of("*.example.com", "a.example.com"));
        assert!(is_subset_of("*.example.com", "*.com"));
        assert!(!is_subset_of("*.com", "*.example.com"));
    }

    #[test]
    fn exact_then_longest_wins() {
        let all = ["*", "*.com", "*.example.com", "a.example.com"];
        assert_eq!(
            most_specific_match("a.example.com", all),
            Some("a.example.com")
        );
        assert_eq!(
            most_specific_match("b.example.com", all),
            Some("*.example.com")
        );
        assert_eq!(most_specific_match("b.org", all), Some("*"));
    }

    #[test]
    fn only_names_without_dots_are_completed() {
        assert_eq!(
            resolve_host("a", "ns", "cluster.local"),
            "a.ns.svc.cluster.local"
        );
        assert_eq!(resolve_host("a.b", "ns", "cluster.local"), "a.b");
        assert_eq!(resolve_host("*", "ns", "cluster.local"), "*");
    }
}
