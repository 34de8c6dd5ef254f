//! Why a policy did not match: the alternative that came closest, and each of its conditions that does not hold.
//!
//! Whether a condition holds is asked of the very functions the filter runs; this file only puts words to the answers.

use std::fmt;

use super::{Permission, Policy, Principal, Subject};
use crate::matcher::HeaderMatcher;

/// A condition of a policy that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// Whose condition it is.
    pub side: Side,
    /// The alternative among the policy's permissions or principals, by index.
    pub alternative: usize,
    /// What is looked at.
    pub topic: Topic,
    /// What the policy wants, as in `= "GET" or = "HEAD"`.
    pub wanted: String,
    /// What there is.
    pub found: String,
}

/// Which half of a policy a condition belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What is asked for.
    Permission,
    /// Who asks.
    Principal,
}

/// What a condition looks at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// The peer's certified identity.
    Identity,
    /// The method.
    Method,
    /// The host.
    Host,
    /// The path.
    Path,
    /// A header.
    Header(String),
    /// The destination port.
    Port,
    /// The destination address.
    DestinationIp,
    /// The peer of the socket.
    SourceIp,
    /// The client, after `x-forwarded-for`.
    RemoteIp,
    /// The server name of the ClientHello.
    ServerName,
    /// What filters wrote (JWT claims among it), by its path.
    Metadata(String),
    /// A string that filters left.
    FilterState(String),
    /// The policy is made never to match.
    Never,
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => f.write_str("peer identity"),
            Self::Method => f.write_str("method"),
            Self::Host => f.write_str("host"),
            Self::Path => f.write_str("path"),
            Self::Header(name) => write!(f, "header {name}"),
            Self::Port => f.write_str("destination port"),
            Self::DestinationIp => f.write_str("destination address"),
            Self::SourceIp => f.write_str("source address"),
            Self::RemoteIp => f.write_str("client address"),
            Self::ServerName => f.write_str("server name"),
            Self::Metadata(path) => write!(f, "metadata {path}"),
            Self::FilterState(key) => write!(f, "filter state {key}"),
            Self::Never => f.write_str("nothing"),
        }
    }
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.topic == Topic::Never {
            return f.write_str("the rule matches nothing");
        }
        write!(
            f,
            "wants {} {}, it is {}",
            self.topic, self.wanted, self.found
        )
    }
}

impl Policy {
    /// The conditions that keep the policy from matching: those of the alternative with the fewest, on each side. Empty if it
    /// matches.
    pub fn unmet(&self, subject: &Subject<'_>) -> Vec<Unmet> {
        let mut out = closest(&self.permissions, Side::Permission, subject);
        out.extend(closest(&self.principals, Side::Principal, subject));
        out
    }
}

/// What permissions and principals have in common.
trait Condition: Sized {
    fn holds(&self, subject: &Subject<'_>) -> bool;
    /// Its parts, all of which must hold.
    fn parts(&self) -> Option<&[Self]>;
    /// Its alternatives, one of which must hold.
    fn alternatives(&self) -> Option<&[Self]>;
    /// What must not hold.
    fn negated(&self) -> Option<&Self>;
    /// What it looks at, what it wants, and what there is.
    fn words(&self, subject: &Subject<'_>) -> (Topic, String, String);
}

fn closest<C: Condition>(list: &[C], side: Side, subject: &Subject<'_>) -> Vec<Unmet> {
    let each = list.iter().enumerate().map(|(alternative, condition)| {
        let mut unmet = Vec::new();
        collect(condition, subject, &mut |(topic, wanted, found)| {
            unmet.push(Unmet {
                side,
                alternative,
                topic,
                wanted,
                found,
            });
        });
        unmet
    });
    each.min_by_key(Vec::len).unwrap_or_default()
}

/// Calls `note` for every part that does not hold. Alternatives that all fail are one part.
fn collect<C: Condition>(
    condition: &C,
    subject: &Subject<'_>,
    note: &mut dyn FnMut((Topic, String, String)),
) {
    if condition.holds(subject) {
        return;
    }
    match condition.parts() {
        Some(parts) => parts.iter().for_each(|part| collect(part, subject, note)),
        None => note(phrase(condition, subject)),
    }
}

fn phrase<C: Condition>(condition: &C, subject: &Subject<'_>) -> (Topic, String, String) {
    if let Some(negated) = condition.negated() {
        let (topic, wanted, found) = phrase(negated, subject);
        return (topic, format!("not {wanted}"), found);
    }
    let Some(parts) = condition.alternatives().or_else(|| condition.parts()) else {
        return condition.words(subject);
    };
    let joint = if condition.alternatives().is_some() {
        " or "
    } else {
        " and "
    };
    let mut first = None;
    let mut wanted: Vec<String> = Vec::new();
    for part in parts {
        let (topic, wants, found) = phrase(part, subject);
        // Parts may look at different things; only those that are not the first's name theirs.
        match &first {
            None => first = Some((topic, found)),
            Some((known, _)) if *known != topic => {
                wanted.push(format!("{topic} {wants}"));
                continue;
            }
            Some(_) => {}
        }
        if !wanted.contains(&wants) {
            wanted.push(wants);
        }
    }
    let (topic, found) = first.unwrap_or((Topic::Never, String::new()));
    (topic, wanted.join(joint), found)
}

impl Condition for Permission {
    fn holds(&self, subject: &Subject<'_>) -> bool {
        self.matches(subject)
    }

    fn parts(&self) -> Option<&[Self]> {
        match self {
            Self::And(all) => Some(all),
            _ => None,
        }
    }

    fn alternatives(&self) -> Option<&[Self]> {
        match self {
            Self::Or(any) => Some(any),
            _ => None,
        }
    }

    fn negated(&self) -> Option<&Self> {
        match self {
            Self::Not(rule) => Some(rule),
            _ => None,
        }
    }

    fn words(&self, subject: &Subject<'_>) -> (Topic, String, String) {
        let connection = subject.connection;
        match self {
            Self::Header(matcher) => header(matcher, subject),
            Self::UrlPath(matcher) => (Topic::Path, matcher.to_string(), path(subject)),
            Self::UriTemplate(template) => (
                Topic::Path,
                format!("like {:?}", template.as_str()),
                path(subject),
            ),
            Self::DestinationIp(range) => (
                Topic::DestinationIp,
                format!("in {range}"),
                connection.local.ip().to_string(),
            ),
            Self::DestinationPort(port) => (
                Topic::Port,
                port.to_string(),
                connection.local.port().to_string(),
            ),
            Self::DestinationPortRange(start, end) => (
                Topic::Port,
                format!("in {start}..{end}"),
                connection.local.port().to_string(),
            ),
            Self::Metadata(matcher) => (
                Topic::Metadata(metadata_path(&matcher.namespace, &matcher.path)),
                "to match".to_owned(),
                metadata(subject, &matcher.namespace, &matcher.path),
            ),
            Self::RequestedServerName(matcher) => (
                Topic::ServerName,
                matcher.to_string(),
                quoted(connection.server_name),
            ),
            Self::Any | Self::And(_) | Self::Or(_) | Self::Not(_) => never(),
        }
    }
}

impl Condition for Principal {
    fn holds(&self, subject: &Subject<'_>) -> bool {
        self.matches(subject)
    }

    fn parts(&self) -> Option<&[Self]> {
        match self {
            Self::And(all) => Some(all),
            _ => None,
        }
    }

    fn alternatives(&self) -> Option<&[Self]> {
        match self {
            Self::Or(any) => Some(any),
            _ => None,
        }
    }

    fn negated(&self) -> Option<&Self> {
        match self {
            Self::Not(rule) => Some(rule),
            _ => None,
        }
    }

    fn words(&self, subject: &Subject<'_>) -> (Topic, String, String) {
        let ip = |topic, range: &ipnet::IpNet, found: std::net::IpAddr| {
            (topic, format!("in {range}"), found.to_string())
        };
        let connection = subject.connection;
        match self {
            Self::Authenticated(matcher) => (
                Topic::Identity,
                matcher
                    .as_ref()
                    .map_or_else(|| "by mutual TLS".to_owned(), ToString::to_string),
                identity(subject),
            ),
            Self::MtlsAuthenticated(san) => (
                Topic::Identity,
                san.as_ref()
                    .map_or_else(|| "by mutual TLS".to_owned(), |san| san.matcher.to_string()),
                identity(subject),
            ),
            Self::SourceIp(range) => ip(Topic::SourceIp, range, connection.remote.ip()),
            Self::DirectRemoteIp(range) => {
                ip(Topic::SourceIp, range, connection.direct_remote.ip())
            }
            Self::RemoteIp(range) => ip(Topic::RemoteIp, range, subject.client()),
            Self::Header(matcher) => header(matcher, subject),
            Self::UrlPath(matcher) => (Topic::Path, matcher.to_string(), path(subject)),
            Self::Metadata(matcher) => (
                Topic::Metadata(metadata_path(&matcher.namespace, &matcher.path)),
                "to match".to_owned(),
                metadata(subject, &matcher.namespace, &matcher.path),
            ),
            Self::FilterState { key, matcher } => {
                // Istio compares identities by this key, too.
                let topic = if &**key == "io.istio.peer_principal" {
                    Topic::Identity
                } else {
                    Topic::FilterState(key.to_string())
                };
                let found = match topic {
                    Topic::Identity => identity(subject),
                    _ => quoted(subject.filter_state.get(key).map(|value| &**value)),
                };
                (topic, matcher.to_string(), found)
            }
            Self::Any | Self::And(_) | Self::Or(_) | Self::Not(_) => never(),
        }
    }
}

fn never() -> (Topic, String, String) {
    (Topic::Never, String::new(), String::new())
}

fn header(matcher: &HeaderMatcher, subject: &Subject<'_>) -> (Topic, String, String) {
    use crate::matcher::HeaderKey;
    let topic = match &matcher.key {
        HeaderKey::Method => Topic::Method,
        HeaderKey::Authority => Topic::Host,
        HeaderKey::Path => Topic::Path,
        other => Topic::Header(other.to_string()),
    };
    let Some(request) = subject.request else {
        return (
            topic,
            matcher.wanted(),
            "unknown, as this is no HTTP".to_owned(),
        );
    };
    let value = matcher.key.value(request);
    let found = value.map_or_else(
        || "absent".to_owned(),
        |value| format!("{:?}", String::from_utf8_lossy(&value)),
    );
    (topic, matcher.wanted(), found)
}

fn path(subject: &Subject<'_>) -> String {
    match subject.path() {
        Some(path) => format!("{path:?}"),
        None => "unknown, as this is no HTTP".to_owned(),
    }
}

fn identity(subject: &Subject<'_>) -> String {
    match subject.peer.uri_sans {
        _ if !subject.peer.is_tls => "unknown, as the connection is plain text".to_owned(),
        [] if subject.peer.presented => format!("{:?}", subject.peer.subject),
        [] => "unknown, as the peer presented no certificate".to_owned(),
        sans => sans.join(", "),
    }
}

fn metadata_path(filter: &str, path: &[impl AsRef<str>]) -> String {
    let keys = path.iter().map(|key| format!(".{}", key.as_ref()));
    format!("{filter}{}", keys.collect::<String>())
}

fn metadata(subject: &Subject<'_>, filter: &str, path: &[impl AsRef<str>]) -> String {
    match subject.dynamic_metadata.get(filter, path) {
        None => "absent".to_owned(),
        Some(value) => format!("{value:?}"),
    }
}

fn quoted(text: Option<&str>) -> String {
    text.map_or_else(|| "absent".to_owned(), |text| format!("{text:?}"))
}

#[cfg(test)]
mod tests {
    use super::super::{RbacAction, Rules};
    use super::*;
    use crate::matcher::{HeaderKey, HeaderMatch, StringMatcher};
    use crate::request::PeerTls;
    use crate::testing::Request;

    fn exact(text: &str) -> StringMatcher {
        StringMatcher::exact(text)
    }

    fn method(name: &str) -> Permission {
        Permission::Header(HeaderMatcher {
            key: HeaderKey::Method,
            condition: HeaderMatch::String(exact(name)),
            invert: false,
            missing_as_empty: false,
        })
    }

    fn policy(permissions: Vec<Permission>, principals: Vec<Principal>) -> Policy {
        Policy {
            name: "p".into(),
            permissions,
            principals,
        }
    }

    fn check(policy: &Policy, request: &Request) -> Vec<String> {
        request.with(|request| {
            let subject = Subject::of_request(request);
            policy
                .unmet(&subject)
                .iter()
                .map(Unmet::to_string)
                .collect()
        })
    }

    #[test]
    fn alternatives_that_all_fail_are_one_condition() {
        let reads = Permission::Or(vec![method("GET"), method("HEAD")]);
        let of = policy(vec![Permission::And(vec![reads])], vec![Principal::Any]);
        assert_eq!(
            check(&of, &Request::new("POST", "a", "/")),
            [r#"wants method = "GET" or = "HEAD", it is "POST""#]
        );
        assert!(check(&of, &Request::get()).is_empty());
    }

    #[test]
    fn the_alternative_that_came_closest_is_told() {
        let far = Permission::And(vec![method("PUT"), Permission::UrlPath(exact("/admin"))]);
        let near = Permission::And(vec![method("PUT"), Permission::UrlPath(exact("/"))]);
        let of = policy(vec![far, near], vec![Principal::Any]);
        let unmet = Request::get().with(|request| of.unmet(&Subject::of_request(request)));
        assert_eq!(unmet.len(), 1);
        assert_eq!((unmet[0].alternative, &unmet[0].topic), (1, &Topic::Method));
    }

    #[test]
    fn a_peer_without_a_certificate_is_told_apart_from_another_one() {
        let wanted = "spiffe://cluster.local/ns/default/sa/web";
        let of = policy(
            vec![Permission::Any],
            vec![Principal::And(vec![Principal::Or(vec![
                Principal::Authenticated(Some(exact(wanted))),
            ])])],
        );
        let plain = check(&of, &Request::get());
        assert!(plain[0].ends_with("it is unknown, as the connection is plain text"));
        let sans: &'static [String] =
            Box::leak(Box::new(["spiffe://cluster.local/ns/x/sa/y".to_owned()]));
        let mut other = Request::get();
        other.peer = PeerTls {
            is_tls: true,
            presented: true,
            validated: true,
            uri_sans: sans,
            ..PeerTls::default()
        };
        assert!(check(&of, &other)[0].ends_with("it is spiffe://cluster.local/ns/x/sa/y"));
    }

    #[test]
    fn a_negation_and_a_rule_that_never_matches_are_said_plainly() {
        let not = policy(
            vec![Permission::Not(Box::new(Permission::Or(vec![method(
                "GET",
            )])))],
            vec![Principal::Any],
        );
        assert_eq!(
            check(&not, &Request::get()),
            [r#"wants method not = "GET", it is "GET""#]
        );
        let never = policy(
            vec![Permission::Not(Box::new(Permission::Any))],
            vec![Principal::Not(Box::new(Principal::Any))],
        );
        assert_eq!(
            check(&never, &Request::get())[0],
            "the rule matches nothing"
        );
    }

    #[test]
    fn the_reasons_agree_with_the_decision() {
        let rules = Rules {
            action: RbacAction::Allow,
            policies: vec![policy(vec![method("GET")], vec![Principal::Any])],
        };
        for name in ["GET", "POST"] {
            let request = Request::new(name, "a", "/");
            request.with(|request| {
                let subject = Subject::of_request(request);
                let unmet = rules.policies[0].unmet(&subject);
                assert_eq!(rules.decide(&subject).allowed, unmet.is_empty());
            });
        }
    }
}
