//! Why a policy did not match: the alternative that came closest, and each of its conditions that does not hold.
//!
//! Whether a condition holds is asked of the very functions the filter runs; this file only puts words to the answers.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Condition, Policy, Subject};
use crate::jwt::METADATA_NAMESPACE;
use crate::matcher::{HeaderMatcher, MetadataMatcher};

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
    /// A claim of a verified token, by its path.
    Claim(String),
    /// What other filters wrote, by its path.
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
            Self::Claim(path) => write!(f, "claim {path}"),
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

fn closest(list: &[Condition], side: Side, subject: &Subject<'_>) -> Vec<Unmet> {
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

/// What a condition looks at, what it wants, and what there is.
type Words = (Topic, String, String);

/// Calls `note` for every part that does not hold. Alternatives that all fail are one part.
fn collect(condition: &Condition, subject: &Subject<'_>, note: &mut dyn FnMut(Words)) {
    if condition.matches(subject) {
        return;
    }
    match condition {
        Condition::And(parts) => parts.iter().for_each(|part| collect(part, subject, note)),
        other => note(phrase(other, subject)),
    }
}

fn phrase(condition: &Condition, subject: &Subject<'_>) -> Words {
    let (parts, joint) = match condition {
        Condition::Not(negated) => {
            let (topic, wanted, found) = phrase(negated, subject);
            return (topic, format!("not {wanted}"), found);
        }
        Condition::Or(parts) => (parts, " or "),
        Condition::And(parts) => (parts, " and "),
        leaf => return words(leaf, subject),
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

fn words(condition: &Condition, subject: &Subject<'_>) -> Words {
    let connection = subject.connection;
    let address = |topic, range: &ipnet::IpNet, found: IpAddr| {
        (topic, format!("in {range}"), found.to_string())
    };
    let port = |wanted: String| (Topic::Port, wanted, connection.local.port().to_string());
    let path = |wanted: String| (Topic::Path, wanted, path(subject));
    let peer = |wanted: Option<String>| {
        let wanted = wanted.unwrap_or_else(|| "by mutual TLS".to_owned());
        (Topic::Identity, wanted, identity(subject))
    };
    match condition {
        Condition::Header(matcher) => header(matcher, subject),
        Condition::UrlPath(matcher) => path(matcher.to_string()),
        Condition::UriTemplate(template) => path(format!("like {:?}", template.as_str())),
        Condition::Metadata(matcher) => metadata(matcher, subject),
        Condition::DestinationIp(range) => {
            address(Topic::DestinationIp, range, connection.local.ip())
        }
        Condition::DestinationPort(number) => port(number.to_string()),
        Condition::DestinationPortRange(start, end) => port(format!("in {start}..{end}")),
        Condition::RequestedServerName(matcher) => (
            Topic::ServerName,
            matcher.to_string(),
            quoted(connection.server_name),
        ),
        Condition::Authenticated(name) => peer(name.as_ref().map(ToString::to_string)),
        Condition::MtlsAuthenticated(san) => peer(san.as_ref().map(|san| san.matcher.to_string())),
        Condition::SourceIp(range) => address(Topic::SourceIp, range, connection.remote.ip()),
        Condition::DirectRemoteIp(range) => {
            address(Topic::SourceIp, range, connection.direct_remote.ip())
        }
        Condition::RemoteIp(range) => address(Topic::RemoteIp, range, subject.client()),
        // Istio compares identities by this key, too.
        Condition::FilterState { key, matcher } if &**key == "io.istio.peer_principal" => {
            peer(Some(matcher.to_string()))
        }
        Condition::FilterState { key, matcher } => (
            Topic::FilterState(key.to_string()),
            matcher.to_string(),
            quoted(subject.filter_state.get(key).map(|value| &**value)),
        ),
        Condition::Any | Condition::And(_) | Condition::Or(_) | Condition::Not(_) => {
            (Topic::Never, String::new(), String::new())
        }
    }
}

fn header(matcher: &HeaderMatcher, subject: &Subject<'_>) -> Words {
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

fn metadata(matcher: &MetadataMatcher, subject: &Subject<'_>) -> Words {
    let (namespace, path) = (&matcher.namespace, &matcher.path);
    let dotted = |keys: &[Arc<str>]| keys.join(".");
    // Istio keeps a token's claims below this key; users know them by their own names.
    let topic = match &path[..] {
        [payload, claim @ ..] if **namespace == *METADATA_NAMESPACE && &**payload == "payload" => {
            Topic::Claim(dotted(claim))
        }
        keys => Topic::Metadata(format!("{namespace}.{}", dotted(keys))),
    };
    let found = subject.dynamic_metadata.get(namespace, path);
    let found = found.map_or_else(|| "absent".to_owned(), ToString::to_string);
    let not = if matcher.invert { "not " } else { "" };
    (topic, format!("{not}{}", matcher.value), found)
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

    fn method(name: &str) -> Condition {
        Condition::Header(HeaderMatcher {
            key: HeaderKey::Method,
            condition: HeaderMatch::String(exact(name)),
            invert: false,
            missing_as_empty: false,
        })
    }

    fn policy(permissions: Vec<Condition>, principals: Vec<Condition>) -> Policy {
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
        let reads = Condition::Or(vec![method("GET"), method("HEAD")]);
        let of = policy(vec![Condition::And(vec![reads])], vec![Condition::Any]);
        assert_eq!(
            check(&of, &Request::new("POST", "a", "/")),
            [r#"wants method = "GET" or = "HEAD", it is "POST""#]
        );
        assert!(check(&of, &Request::get()).is_empty());
    }

    #[test]
    fn the_alternative_that_came_closest_is_told() {
        let far = Condition::And(vec![method("PUT"), Condition::UrlPath(exact("/admin"))]);
        let near = Condition::And(vec![method("PUT"), Condition::UrlPath(exact("/"))]);
        let of = policy(vec![far, near], vec![Condition::Any]);
        let unmet = Request::get().with(|request| of.unmet(&Subject::of_request(request)));
        assert_eq!(unmet.len(), 1);
        assert_eq!((unmet[0].alternative, &unmet[0].topic), (1, &Topic::Method));
    }

    #[test]
    fn a_peer_without_a_certificate_is_told_apart_from_another_one() {
        let wanted = "spiffe://cluster.local/ns/default/sa/web";
        let of = policy(
            vec![Condition::Any],
            vec![Condition::And(vec![Condition::Or(vec![
                Condition::Authenticated(Some(exact(wanted))),
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
            vec![Condition::Not(Box::new(Condition::Or(vec![method("GET")])))],
            vec![Condition::Any],
        );
        assert_eq!(
            check(&not, &Request::get()),
            [r#"wants method not = "GET", it is "GET""#]
        );
        let never = policy(
            vec![Condition::Not(Box::new(Condition::Any))],
            vec![Condition::Not(Box::new(Condition::Any))],
        );
        assert_eq!(
            check(&never, &Request::get())[0],
            "the rule matches nothing"
        );
    }

    #[test]
    fn the_reasons_agree_with_the_decision() {
        let policies = vec![policy(vec![method("GET")], vec![Condition::Any])];
        let rules = Rules::new(RbacAction::Allow, policies);
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
