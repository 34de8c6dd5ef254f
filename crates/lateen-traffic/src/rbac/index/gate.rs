//! What a policy cannot match without.
//!
//! A gate is a list of keys of which one must be found. It is read off the conditions alone: all parts of a conjunction are necessary, so
//! each gives gates of its own to choose from; of a disjunction each part needs one.

use ipnet::IpNet;
use regex_syntax::hir::{Hir, HirKind};

use super::super::{Condition, Policy};
use crate::matcher::{
    HeaderKey, HeaderMatch, HeaderMatcher, MetadataMatcher, StringMatcher, StringPattern,
    ValueMatcher,
};

/// Ranges with fewer bits than this tell nobody apart.
const SHORTEST_RANGE: u8 = 4;
/// Keys a gate may have; a policy that needs more is always looked at.
const MOST_KEYS: usize = 1024;
/// Gates one condition may have to choose from.
const MOST_GATES: usize = 32;

/// What is necessary for a policy to match: one of the keys. Without any it never matches.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    /// How little it tells by its nature; less is better.
    pub(super) rank: u8,
    /// The keys.
    pub(super) keys: Vec<Key>,
}

/// Something that is found in a connection or request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Where.
    pub(super) attribute: Attribute,
    /// What.
    pub(super) pattern: Pattern,
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Attribute {
    /// The names in the peer's certificate.
    Identity,
    /// Each part after `/ns/` in those names.
    Namespace,
    /// The path without its query.
    Path,
    /// A header, each of its values.
    Header(HeaderKey),
    /// A text, or texts in a list, in dynamic metadata.
    Metadata(Box<str>, Box<[Box<str>]>),
    /// A text in the filter state.
    FilterState(Box<str>),
    /// The server name of the ClientHello.
    ServerName,
    /// The destination port.
    Port,
    /// The destination address.
    DestinationIp,
    /// The connection's peer.
    SourceIp,
    /// The peer of the socket.
    DirectRemoteIp,
    /// The client.
    RemoteIp,
}

/// What it has to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pattern {
    /// This text.
    Whole(Box<[u8]>),
    /// A text that begins so.
    Start(Box<[u8]>),
    /// A text that ends so.
    End(Box<[u8]>),
    /// An address in a range.
    Net(IpNet),
    /// A number.
    Number(u16),
}

impl Gate {
    fn of(attribute: &Attribute, pattern: Pattern) -> Self {
        let rank = rank(attribute, &pattern);
        let key = Key {
            attribute: attribute.clone(),
            pattern,
        };
        Self {
            rank,
            keys: vec![key],
        }
    }

    const fn never() -> Self {
        Self {
            rank: 0,
            keys: Vec::new(),
        }
    }

    /// The attribute all keys look at.
    fn attribute(&self) -> Option<&Attribute> {
        let first = &self.keys.first()?.attribute;
        let alike = self.keys.iter().all(|key| key.attribute == *first);
        alike.then_some(first)
    }
}

/// Whole names tell callers and paths apart best; methods and ports are few.
fn rank(attribute: &Attribute, pattern: &Pattern) -> u8 {
    let whole = matches!(pattern, Pattern::Whole(_));
    match attribute {
        Attribute::Identity | Attribute::Path if whole => 0,
        Attribute::Header(HeaderKey::Method | HeaderKey::Scheme) => 6,
        Attribute::Port => 5,
        Attribute::Header(HeaderKey::Authority) | Attribute::ServerName => 4,
        _ if whole => 1,
        _ => 2,
    }
}

/// The gates of a policy.
pub(super) fn of_policy(policy: &Policy) -> Vec<Gate> {
    let mut gates = any_of(&policy.permissions);
    gates.extend(any_of(&policy.principals));
    gates
}

/// The gates of a condition; empty if nothing is known to be necessary.
fn of(condition: &Condition) -> Vec<Gate> {
    match condition {
        Condition::And(all) => {
            let mut gates: Vec<Gate> = all.iter().flat_map(of).collect();
            gates.truncate(MOST_GATES);
            gates
        }
        Condition::Or(any) => any_of(any),
        Condition::Not(inner) if matches!(**inner, Condition::Any) => vec![Gate::never()],
        Condition::Header(matcher) => of_header(matcher),
        Condition::UrlPath(matcher) => of_text(&Attribute::Path, matcher),
        Condition::UriTemplate(template) => {
            let start = starts_with(&Attribute::Path, template.literal_prefix().as_bytes());
            start.into_iter().collect()
        }
        Condition::Metadata(matcher) => of_metadata(matcher),
        Condition::DestinationIp(range) => of_range(&Attribute::DestinationIp, range),
        Condition::SourceIp(range) => of_range(&Attribute::SourceIp, range),
        Condition::DirectRemoteIp(range) => of_range(&Attribute::DirectRemoteIp, range),
        Condition::RemoteIp(range) => of_range(&Attribute::RemoteIp, range),
        Condition::DestinationPort(port) => {
            vec![Gate::of(&Attribute::Port, Pattern::Number(*port))]
        }
        Condition::RequestedServerName(matcher) => of_text(&Attribute::ServerName, matcher),
        Condition::Authenticated(Some(matcher)) => of_text(&Attribute::Identity, matcher),
        Condition::MtlsAuthenticated(Some(san)) => of_text(&Attribute::Identity, &san.matcher),
        Condition::FilterState { key, matcher } => {
            of_text(&Attribute::FilterState((&**key).into()), matcher)
        }
        Condition::Not(_)
        | Condition::Any
        | Condition::DestinationPortRange(..)
        | Condition::Authenticated(None)
        | Condition::MtlsAuthenticated(None) => Vec::new(),
    }
}

/// What one of several conditions needs: what they all look at, each with its own keys; else the best of each.
fn any_of(conditions: &[Condition]) -> Vec<Gate> {
    let is_possible = |gates: &Vec<Gate>| gates.iter().all(|gate| !gate.keys.is_empty());
    let mut each: Vec<Vec<Gate>> = conditions.iter().map(of).collect();
    each.retain(is_possible);
    let Some((first, others)) = each.split_first() else {
        return vec![Gate::never()];
    };
    if others.is_empty() {
        return each.remove(0);
    }
    let mut gates: Vec<Gate> = first
        .iter()
        .filter_map(|gate| {
            let attribute = Some(gate.attribute()?);
            let others = others
                .iter()
                .map(|gates| gates.iter().find(|gate| gate.attribute() == attribute));
            let all: Option<Vec<&Gate>> = std::iter::once(Some(gate)).chain(others).collect();
            united(all?)
        })
        .collect();
    if gates.is_empty() {
        let best = each
            .iter()
            .map(|gates| gates.iter().min_by_key(|gate| gate.rank));
        let best: Option<Vec<&Gate>> = best.collect();
        gates.extend(best.and_then(united));
    }
    gates
}

fn united(gates: Vec<&Gate>) -> Option<Gate> {
    let mut all = Gate::never();
    for gate in gates {
        all.rank = all.rank.max(gate.rank);
        all.keys.extend_from_slice(&gate.keys);
    }
    (all.keys.len() <= MOST_KEYS).then_some(all)
}

fn of_header(matcher: &HeaderMatcher) -> Vec<Gate> {
    let HeaderMatch::String(text) = &matcher.condition else {
        return Vec::new();
    };
    let by_absence = matcher.missing_as_empty && text.matches(b"");
    if matcher.invert || by_absence {
        return Vec::new();
    }
    of_text(&Attribute::Header(matcher.key.clone()), text)
}

fn of_metadata(matcher: &MetadataMatcher) -> Vec<Gate> {
    if matcher.invert {
        return Vec::new();
    }
    let path = matcher.path.iter().map(|key| (&**key).into()).collect();
    let attribute = Attribute::Metadata((&*matcher.namespace).into(), path);
    let mut texts = Vec::new();
    if !texts_of(&matcher.value, true, &mut texts) || texts.is_empty() {
        return Vec::new();
    }
    let best = texts.into_iter().map(|text| {
        let gates = of_text(&attribute, text);
        gates.into_iter().min_by_key(|gate| gate.rank)
    });
    let best: Option<Vec<Gate>> = best.collect();
    let all = best.and_then(|best| united(best.iter().collect()));
    all.into_iter().collect()
}

/// The conditions on texts of which one must hold; false if it may be something else that holds. Lists in lists are something else.
fn texts_of<'a>(matcher: &'a ValueMatcher, lists: bool, out: &mut Vec<&'a StringMatcher>) -> bool {
    match matcher {
        ValueMatcher::String(text) => {
            out.push(text);
            true
        }
        ValueMatcher::Or(any) => any.iter().all(|one| texts_of(one, lists, out)),
        ValueMatcher::AnyOf(item) if lists => texts_of(item, false, out),
        _ => false,
    }
}

fn of_range(attribute: &Attribute, range: &IpNet) -> Vec<Gate> {
    if range.prefix_len() < SHORTEST_RANGE {
        return Vec::new();
    }
    vec![Gate::of(attribute, Pattern::Net(range.trunc()))]
}

/// The gates of a condition on a text.
fn of_text(attribute: &Attribute, matcher: &StringMatcher) -> Vec<Gate> {
    match matcher.pattern() {
        StringPattern::Exact(text) => {
            vec![Gate::of(attribute, Pattern::Whole(folded(text.as_bytes())))]
        }
        StringPattern::Prefix(text) => starts_with(attribute, text.as_bytes())
            .into_iter()
            .collect(),
        StringPattern::Suffix(text) => ends_with(attribute, text.as_bytes()).into_iter().collect(),
        StringPattern::Contains(_) => Vec::new(),
        StringPattern::Regex(regex) => of_regex(attribute, regex.as_str()),
    }
}

fn starts_with(attribute: &Attribute, text: &[u8]) -> Option<Gate> {
    // All paths begin with a slash.
    (text.len() > 1).then(|| Gate::of(attribute, Pattern::Start(folded(text))))
}

fn ends_with(attribute: &Attribute, text: &[u8]) -> Option<Gate> {
    (!text.is_empty()).then(|| Gate::of(attribute, Pattern::End(folded(text))))
}

/// The literals of an expression that matches the whole text: each part of a concatenation is there whatever the others are.
fn of_regex(attribute: &Attribute, expression: &str) -> Vec<Gate> {
    let Ok(parsed) = regex_syntax::parse(expression) else {
        return Vec::new();
    };
    let literal = |part: &'_ Hir| match part.kind() {
        // Bytes that are no text are matched as this character.
        HirKind::Literal(literal) => Some(literal.0.clone())
            .filter(|text| std::str::from_utf8(text).is_ok_and(|text| !text.contains('\u{fffd}'))),
        _ => None,
    };
    let HirKind::Concat(parts) = parsed.kind() else {
        let whole = literal(&parsed).map(|text| Gate::of(attribute, Pattern::Whole(folded(&text))));
        return whole.into_iter().collect();
    };
    let mut gates = Vec::new();
    if *attribute == Attribute::Identity {
        let namespaces = parts.iter().filter_map(literal).filter_map(|text| {
            let namespace = namespace_in(&text)?;
            let pattern = Pattern::Whole(folded(namespace));
            Some(Gate::of(&Attribute::Namespace, pattern))
        });
        gates.extend(namespaces);
    }
    let (first, last) = (parts.first(), parts.last());
    let first = first.and_then(literal);
    let last = last.and_then(literal);
    gates.extend(last.and_then(|text| ends_with(attribute, &text)));
    gates.extend(first.and_then(|text| starts_with(attribute, &text)));
    gates
}

/// The first whole part after `/ns/` in a piece of a text.
fn namespace_in(text: &[u8]) -> Option<&[u8]> {
    namespaces(text).next()
}

/// Every part of a text that stands between `/ns/` and a slash.
pub(super) fn namespaces(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    const BEFORE: &[u8] = b"/ns/";
    let starts = text
        .windows(BEFORE.len())
        .enumerate()
        .filter(|(_, window)| *window == BEFORE);
    starts.filter_map(move |(at, _)| {
        let rest = &text[at + BEFORE.len()..];
        let end = rest.iter().position(|byte| *byte == b'/')?;
        Some(&rest[..end])
    })
}

fn folded(text: &[u8]) -> Box<[u8]> {
    text.to_ascii_lowercase().into()
}
