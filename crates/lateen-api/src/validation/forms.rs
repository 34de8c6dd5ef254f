//! Forms of names: each function says whether a text has one.
//!
//! Istio allows upper case in DNS labels, and underscores nowhere; these follow Istio, not the RFCs.

use std::net::IpAddr;

use ipnet::IpNet;

/// Longest DNS label.
const MAX_LABEL: usize = 63;
/// Longest DNS name.
const MAX_NAME: usize = 255;

/// A DNS label.
pub(crate) fn is_dns_label(text: &str) -> bool {
    text.len() <= MAX_LABEL
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// A DNS label that may start with a wildcard: `*`, `*suffix`, `*-suffix`.
fn is_wildcard_label(text: &str) -> bool {
    match text.strip_prefix('*') {
        Some("") => true,
        Some(rest) => {
            is_dns_label(rest.strip_prefix('-').unwrap_or(rest)) && text.len() <= MAX_LABEL
        }
        None => is_dns_label(text),
    }
}

/// What is wrong with `name` as a fully or partly qualified name.
pub(crate) fn dns_name(name: &str) -> Option<String> {
    preconditions(name).or_else(|| labels(name, name))
}

/// What is wrong with `name` as a name whose first label may be a wildcard.
pub(crate) fn wildcard_name(name: &str) -> Option<String> {
    if let Some(why) = preconditions(name) {
        return Some(why);
    }
    let (first, rest) = match name.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (name, None),
    };
    if !is_wildcard_label(first) {
        return Some(format!(
            "`{name}` is not a domain name: `{first}` is not a label"
        ));
    }
    rest.and_then(|rest| labels(rest, name))
}

/// What is wrong with `name` as a host of a Gateway or Sidecar: it is a full name, or its first label is `*` and nothing else.
pub(crate) fn full_name(name: &str) -> Option<String> {
    if name == "*" {
        return None;
    }
    if let Some(why) = wildcard_name(name) {
        return Some(why);
    }
    if !name.contains('.') {
        return Some(format!(
            "`{name}` is a short name; full names are needed here"
        ));
    }
    (name.starts_with('*') && !name.starts_with("*."))
        .then(|| format!("the wildcard of `{name}` has to be a whole label"))
}

fn preconditions(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("an empty name is not a domain name".to_owned());
    }
    (name.len() > MAX_NAME).then(|| format!("a domain name has at most {MAX_NAME} characters"))
}

/// What is wrong with one of the labels of `rest`, which is part of `name`. A trailing dot is fine; a last label of
/// digits alone is not a name.
fn labels(rest: &str, name: &str) -> Option<String> {
    let rest = rest.strip_suffix('.').unwrap_or(rest);
    if let Some(bad) = rest.split('.').find(|label| !is_dns_label(label)) {
        return Some(format!(
            "`{name}` is not a domain name: `{bad}` is not a label"
        ));
    }
    let top = rest.rsplit('.').next().unwrap_or_default();
    top.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| format!("`{name}` is not a domain name: its last label is a number"))
}

/// An IP address.
pub(crate) fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// An IP address, or a range in CIDR notation.
pub(crate) fn is_ip_or_cidr(text: &str) -> bool {
    if text.contains('/') {
        text.parse::<IpNet>().is_ok()
    } else {
        is_ip(text)
    }
}

/// A port's number.
pub(crate) fn is_port(number: u32) -> bool {
    (1..=65535).contains(&number)
}

/// What a port number has to be.
pub(crate) const PORT: &str = "a port has to be between 1 and 65535";

/// What is wrong with a label's key: an optional DNS prefix and `/`, then a name.
pub(crate) fn label_key(key: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let prefix_holds = prefix.is_none_or(|p| p.len() <= 253 && p.split('.').all(is_dns_label));
    let holds = prefix_holds && !name.is_empty() && is_qualified(name);
    (!holds).then(|| format!("`{key}` is not a label's key"))
}

/// What is wrong with a label's value: empty, or a name of at most 63 characters.
pub(crate) fn label_value(value: &str) -> Option<String> {
    (!value.is_empty() && !is_qualified(value)).then(|| {
        format!(
            "`{value}` is not a label's value: at most 63 letters, digits, `-`, `_` and `.`, \
             with a letter or digit at both ends"
        )
    })
}

fn is_qualified(text: &str) -> bool {
    text.len() <= MAX_LABEL
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Longest regular expression, in bytes: Istio's limit.
const MAX_REGEX: usize = 1024;

/// What is wrong with a regular expression.
pub(crate) fn regex(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("a regular expression must not be empty".to_owned());
    }
    if text.len() > MAX_REGEX {
        return Some(format!(
            "a regular expression has at most {MAX_REGEX} characters"
        ));
    }
    let built = regex::RegexBuilder::new(text)
        .size_limit(1 << 20)
        .nest_limit(100)
        .build();
    let why = match built.err()? {
        regex::Error::CompiledTooBig(_) => "it would need too much memory".to_owned(),
        // The last line says what is wrong; those before draw it.
        error => error
            .to_string()
            .lines()
            .last()
            .unwrap_or_default()
            .trim()
            .to_owned(),
    };
    let why = why.trim_start_matches("error: ");
    Some(format!(
        "`{text}` is not a regular expression in RE2's syntax: {why}"
    ))
}

/// An application protocol as Istio names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Grpc,
    GrpcWeb,
    Http,
    HttpProxy,
    Http2,
    Https,
    Tls,
    Mongo,
    Redis,
    MySql,
}

impl Protocol {
    /// Reads a name, in any case.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "grpc" => Protocol::Grpc,
            "grpc-web" => Protocol::GrpcWeb,
            "http" => Protocol::Http,
            "http_proxy" => Protocol::HttpProxy,
            "http2" => Protocol::Http2,
            "https" => Protocol::Https,
            "tls" => Protocol::Tls,
            "mongo" => Protocol::Mongo,
            "redis" => Protocol::Redis,
            "mysql" => Protocol::MySql,
            _ => return None,
        })
    }

    /// Carries HTTP in the clear.
    pub(crate) fn is_http(self) -> bool {
        use Protocol::{Grpc, GrpcWeb, Http, Http2, HttpProxy};
        matches!(self, Http | Http2 | HttpProxy | Grpc | GrpcWeb)
    }

    /// Starts with a TLS handshake.
    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Protocol::Https | Protocol::Tls)
    }
}

/// Protocols as messages list them.
pub(crate) const PROTOCOLS: &str =
    "HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, TCP, TLS, UDP, MONGO, MYSQL and REDIS";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_only_the_first_label() {
        assert_eq!(wildcard_name("*"), None);
        assert_eq!(wildcard_name("*.example.com"), None);
        assert_eq!(wildcard_name("*-foo.example.com"), None);
        assert_eq!(wildcard_name("*foo.example.com"), None);
        assert!(wildcard_name("a.*.com").is_some());
        assert!(wildcard_name("*--foo.com").is_some());
    }

    #[test]
    fn gateways_and_sidecars_name_hosts_in_full() {
        assert_eq!(full_name("*"), None);
        assert_eq!(full_name("*.example.com"), None);
        assert_eq!(full_name("a.example.com"), None);
        assert!(full_name("a").is_some_and(|why| why.contains("short name")));
        assert!(full_name("*-a.example.com").is_some_and(|why| why.contains("whole label")));
    }

    #[test]
    fn an_address_is_no_domain_name() {
        assert!(dns_name("1.2.3.4").is_some());
        assert_eq!(dns_name("a.b.svc.cluster.local."), None);
        assert!(dns_name("under_score.com").is_some());
    }

    #[test]
    fn label_keys_may_have_a_domain() {
        assert_eq!(label_key("app.kubernetes.io/name"), None);
        assert!(label_key("/name").is_some());
        assert!(label_key("a/").is_some());
        assert!(label_value("-a").is_some());
        assert_eq!(label_value(""), None);
    }

    #[test]
    fn texts_of_users_have_an_end() {
        let regexes = [
            ("a".repeat(MAX_REGEX + 1), "at most"),
            ("(a{1000}){1000}".to_owned(), "too much memory"),
            ("(".repeat(200) + &")".repeat(200), "nest"),
        ];
        for (text, why) in regexes {
            let found = regex(&text).unwrap_or_default();
            assert!(found.contains(why), "{found}");
        }
        assert_eq!(regex(&"a".repeat(MAX_REGEX)), None);
        let label = "a".repeat(MAX_LABEL);
        assert!(is_dns_label(&label) && !is_dns_label(&format!("{label}a")));
        assert!(label_value(&format!("{label}a")).is_some());
        assert!(dns_name(&format!("{label}a.example")).is_some());
        let long = vec![label; 5].join(".");
        assert!(dns_name(&long).is_some_and(|why| why.contains("at most")));
    }

    #[test]
    fn a_regular_expression_is_compiled() {
        assert_eq!(regex("a+[bc]"), None);
        assert!(regex("a(").is_some_and(|why| why.contains("unclosed")));
        assert!(regex("(((((x{1000}){1000}){1000}){1000}){1000})").is_some());
    }
}
